"""Sizes on the way to the network, and what prediction sees."""

import numpy as np
import pytest
from PIL import Image

from jaxtune.data import (
    Preparation,
    as_size,
    prepare_image,
    presize,
    train_preparation,
    validation_preparation,
    validation_presize,
)


def test_sizes():
    assert as_size(224) == (224, 224)
    assert as_size((10, 20)) == (10, 20)


@pytest.mark.parametrize("size", [0, -1, (0, 5)])
def test_sizes_below_one(size):
    with pytest.raises(ValueError, match="at least 1 pixel"):
        as_size(size)


def test_sizes_of_the_wrong_kind():
    for size in ((1, 2, 3), (1.5, 2), (True, 5)):
        with pytest.raises(Exception, match="size"):
            as_size(size)


@pytest.mark.parametrize(
    ("size", "min_scale", "wanted"),
    [
        (224, 0.35, (384, 384)),
        (224, 1, (224, 224)),
        (100, 0.25, (200, 200)),
        ((128, 96), 0.08, (456, 344)),
    ],
)
def test_presize(size, min_scale, wanted):
    assert presize(size, min_scale) == wanted
    prepared = train_preparation(size, min_scale)
    assert prepared.squash == prepared.crop == wanted


def detail(image) -> float:
    """How much a picture's neighbouring pixels differ: what blurring takes away."""
    grey = np.asarray(image, np.float64).mean(-1)
    return float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey)).mean())


def photo_like(height: int, width: int) -> np.ndarray:
    """Noise whose amplitude falls with the frequency, as in photos."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(
        np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    )
    spectrum = np.fft.rfft2(rng.normal(size=(height, width)))
    waves = np.fft.irfft2(spectrum / np.maximum(frequency, 1e-2), (height, width))
    grey = np.clip(128 + 50 * waves / waves.std(), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def test_training_photos_are_as_sharp_as_cut_straight_from_the_original():
    """Two bilinear filters in a row would make them blurrier than validation's."""
    original = Image.fromarray(photo_like(500, 480))
    side = presize(128, 0.35)[0]
    prepared, _ = train_preparation(128, 0.35)(original)
    for share in (0.6, 0.8, 1.0):
        box = (10, 20, 10 + share * 440, 20 + share * 440)
        straight = original.resize((128, 128), Image.Resampling.BILINEAR, box)
        scaled = [v * side / (480, 500)[i % 2] for i, v in enumerate(box)]
        twice = Image.fromarray(prepared).resize(
            (128, 128), Image.Resampling.BILINEAR, scaled
        )
        assert detail(twice) == pytest.approx(detail(straight), rel=0.1)


@pytest.mark.parametrize(
    ("size", "wanted"),
    [(224, (256, 256)), (128, (152, 152)), (32, (40, 40)), ((96, 224), (128, 256))],
)
def test_validation_sizes_are_those_of_fastai(size, wanted):
    # ceil(max(size) * 0.14 / 8) * 8 more on both sides.
    assert validation_presize(size) == wanted


def test_a_crop_must_fit():
    with pytest.raises(ValueError, match="does not fit"):
        Preparation((10, 10), (8, 12))


def test_validation_squashes_and_takes_the_centre():
    photo = np.random.default_rng(0).integers(0, 256, (90, 150, 3), np.uint8)
    squashed = Image.fromarray(photo).resize((40, 40), Image.Resampling.BILINEAR)
    wanted = np.asarray(squashed)[4:36, 4:36]
    image, aspect = validation_preparation(32)(photo)
    np.testing.assert_array_equal(image, wanted)
    assert aspect == pytest.approx(150 / 90)
    prepared = prepare_image(photo, 32)
    np.testing.assert_array_equal(prepared, wanted)
    assert prepared.flags.c_contiguous and prepared.dtype == np.uint8


def test_sizes_that_are_not_square():
    photo = np.zeros((90, 150, 3), np.uint8)
    assert prepare_image(photo, (48, 64)).shape == (48, 64, 3)
    assert train_preparation((48, 64), 0.25)(photo)[0].shape == (96, 128, 3)


def test_resize_methods():
    photo = np.random.default_rng(0).integers(0, 256, (90, 150, 3), np.uint8)
    padded = np.pad(photo, ((30, 30), (0, 0), (0, 0)))
    wanted = {
        "crop": Image.fromarray(photo[:, 30:120]),
        "squish": Image.fromarray(photo),
        "pad": Image.fromarray(padded),
    }
    for resize, picture in wanted.items():
        bilinear = picture.resize((32, 32), Image.Resampling.BILINEAR, reducing_gap=2)
        ours = prepare_image(photo, 32, resize=resize, pad_mode="zeros")
        np.testing.assert_array_equal(ours, np.asarray(bilinear))


def test_channels_of_a_preparation():
    photo = np.random.default_rng(0).integers(0, 256, (40, 40, 13), np.uint8)
    for resize in (None, "crop", "squish", "pad"):
        prepared = prepare_image(photo, (16, 24), resize=resize, channels=13)
        assert prepared.shape == (16, 24, 13)
    first = prepare_image(photo[..., 0], 16, channels=1)
    np.testing.assert_array_equal(first, prepare_image(photo, 16, channels=13)[..., :1])
    with pytest.raises(ValueError, match="channels must be .*at least 1"):
        prepare_image(photo, 16, channels=0)


def test_presizing():
    assert train_preparation(16, 0.35, squash=(40, 24)).squash == (40, 24)
    with pytest.raises(ValueError, match="presize=.16, 16. is smaller.*.56, 56. has"):
        train_preparation(32, 0.35, squash=16)
