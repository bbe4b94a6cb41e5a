"""Crops are those of torchvision and fastai, pixels those of Pillow.

Rotation, zoom and perspective: see the tests of `warp`; light: those of `lighting`.
"""

import importlib
import json
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from photos import make_photos
from PIL import Image
from processes import run_script

from jaxtune.data import (
    Augmentation,
    aug_transforms,
    normalize,
    per_image_keys,
    to_float,
    training_images,
    validation_images,
)
from jaxtune.data import augment as plain_augment
from jaxtune.data.augment import draw as draw_one
from jaxtune.data.augment import draw_lighting, relight
from jaxtune.data.warp import compose, draw_matrix, frame, resample

# Of the same name as the function.
module = importlib.import_module("jaxtune.data.augment")

STILL = Augmentation(min_scale=1, flip=False)

# Step by step XLA would compile every operation alone.
augment = jax.jit(plain_augment, static_argnames=("size", "augmentation"))
draw_many = jax.jit(jax.vmap(draw_one, in_axes=(0, None, None)), static_argnums=2)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def smooth(height, width, channels):
    """Pixels without an edge, of which any decent filter gives the same."""
    y, x = np.mgrid[:height, :width] + 0.5
    waves = [np.sin(x / 9 + k) * np.cos(y / 7 - k) for k in range(channels)]
    return (np.stack(waves, -1) * 90 + 128).round().astype(np.uint8)


def keys(number, seed=0):
    return jax.random.split(jax.random.key(seed), number)


def draw(augmentation, aspect, number=4000, seed=0):
    """Crops as numpy rows: top, left, height, width, in fractions."""
    crops, _ = draw_many(keys(number, seed), jnp.float32(aspect), augmentation)
    return np.asarray(crops).T


def crop_of(key, aspect, augmentation):
    """What `augment` draws for one image: its crop, and whether it is mirrored."""
    crops, flips = draw_many(key[None], jnp.float32(aspect), augmentation)
    return crops[0].tolist(), bool(flips[0])


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((56, 56), (32, 32)),  # smaller crops shrink
        ((32, 32), (32, 32)),  # and grow
        ((24, 40), (48, 32)),  # one side each
        ((96, 64), (12, 20)),  # far below
        ((9, 7), (5, 3)),
    ],
)
def test_pixels_are_those_of_pillow(shape, size):
    augmentation = Augmentation(min_scale=0.2)
    images = noise(8, *shape, 3)
    aspect = np.linspace(0.5, 2, 8, dtype=np.float32)
    result = augment(images, aspect, keys(8), size=size, augmentation=augmentation)
    assert result.shape == (8, *size, 3) and result.dtype == jnp.float32
    for image, one, key, a in zip(images, result, keys(8), aspect, strict=True):
        (top, left, tall, wide), flip = crop_of(key, a, augmentation)
        height, width = shape
        box = (left * width, top * height, (left + wide) * width, (top + tall) * height)
        # Rounding may put the far side a hair outside.
        box = tuple(np.minimum(box, (width, height, width, height)).tolist())
        wanted = Image.fromarray(image).resize(
            size[::-1], Image.Resampling.BILINEAR, box=box
        )
        wanted = np.asarray(wanted)[:, ::-1] if flip else np.asarray(wanted)
        # Pillow rounds to whole grey levels twice, once after each direction.
        assert np.abs(np.asarray(one) * 255 - wanted).max() <= 1.1


def test_some_are_mirrored_in_that_test():
    flips = [crop_of(key, 1.0, Augmentation())[1] for key in keys(8)]
    assert 0 < sum(flips) < 8


def test_inner_pixels_are_those_of_crop_then_resize():
    # fastai cuts the crop out first; only its outermost pixels can tell.
    image = Image.fromarray(noise(60, 60, 3))
    boxed = image.resize((20, 20), Image.Resampling.BILINEAR, box=(7, 9, 47, 49))
    cut = image.crop((7, 9, 47, 49)).resize((20, 20), Image.Resampling.BILINEAR)
    inner = np.s_[1:-1, 1:-1]
    np.testing.assert_array_equal(np.asarray(boxed)[inner], np.asarray(cut)[inner])


def test_nothing_happens_when_nothing_may():
    images = noise(4, 16, 16, 3)
    aspect = np.array([0.75, 1, 1.2, 1.3333], np.float32)
    result = augment(images, aspect, keys(4), size=(16, 16), augmentation=STILL)
    np.testing.assert_allclose(result, images / 255, atol=2e-6)


@pytest.mark.parametrize("aspect", [0.7, 1.0, 1.5])
def test_areas_ratios_and_places_are_as_drawn(aspect):
    augmentation = Augmentation(min_scale=0.1, max_scale=0.4)
    top, left, tall, wide = draw(augmentation, aspect)
    area, ratio = tall * wide, wide / tall * aspect
    # All of these fit at the first attempt, so the draws are uniform as asked.
    assert area.mean() == pytest.approx(0.25, abs=0.006)
    assert area.std() == pytest.approx(0.3 / 12**0.5, rel=0.05)
    assert np.log(ratio).mean() == pytest.approx(0, abs=0.012)
    assert np.log(ratio).std() == pytest.approx(np.log(16 / 9) / 12**0.5, rel=0.05)
    assert area.min() >= 0.0999 and area.max() <= 0.4001
    assert ratio.min() >= 0.7499 and ratio.max() <= 1.3334
    places = top / (1 - tall), left / (1 - wide)
    for place in places:
        assert 0 <= place.min() and place.max() <= 1
        assert place.mean() == pytest.approx(0.5, abs=0.02)
        assert place.std() == pytest.approx(12**-0.5, rel=0.05)
    assert abs(np.corrcoef(*places)[0, 1]) < 0.06


def reference_draw(rng, augmentation, aspect):
    """fastai's RandomResizedCrop, attempt after attempt, in fractions."""
    low, high = augmentation.ratio
    for _ in range(10):
        area = rng.uniform(augmentation.min_scale, augmentation.max_scale)
        ratio = np.exp(rng.uniform(np.log(low), np.log(high)))
        wide, tall = (area * ratio / aspect) ** 0.5, (area / ratio * aspect) ** 0.5
        if wide <= 1 and tall <= 1:
            return tall, wide
    if aspect < low:
        return aspect / low, 1.0
    if aspect > high:
        return 1.0, high / aspect
    return 1.0, 1.0


@pytest.mark.parametrize("aspect", [0.4, 1.0, 2.2])
def test_rejected_attempts_shift_the_draw_as_they_do_in_fastai(aspect):
    augmentation = Augmentation(min_scale=0.35)
    _, _, tall, wide = draw(augmentation, aspect)
    rng = np.random.default_rng(0)
    wanted = np.array([reference_draw(rng, augmentation, aspect) for _ in range(4000)])
    for ours, theirs in ((tall, wanted[:, 0]), (wide, wanted[:, 1])):
        assert ours.mean() == pytest.approx(theirs.mean(), abs=0.012)
        assert ours.std() == pytest.approx(theirs.std(), abs=0.012)
        assert (ours == 1).mean() == pytest.approx((theirs == 1).mean(), abs=0.03)


@pytest.mark.parametrize(
    ("aspect", "tall", "wide"),
    [(3.0, 1, 4 / 9), (0.25, 1 / 3, 1), (1.0, 1, 1), (4 / 3, 1, 1)],
)
def test_when_nothing_fits_it_is_the_centre(aspect, tall, wide):
    top, left, height, width = draw(STILL, aspect, number=20)
    np.testing.assert_allclose(height, tall, atol=1e-6)
    np.testing.assert_allclose(width, wide, atol=1e-6)
    np.testing.assert_allclose(top, (1 - tall) / 2, atol=1e-6)
    np.testing.assert_allclose(left, (1 - wide) / 2, atol=1e-6)


def test_half_are_mirrored():
    images = np.zeros((400, 2, 2, 3), np.uint8)
    images[:, :, 0] = 255
    augmentation = Augmentation(min_scale=1)
    result = augment(
        images,
        np.ones(400, np.float32),
        keys(400),
        size=(2, 2),
        augmentation=augmentation,
    )
    mirrored = np.asarray(result)[:, 0, 1, 0] == 1
    assert 160 <= mirrored.sum() <= 240  # 4 standard deviations
    assert (np.asarray(result)[mirrored][:, :, 0] == 0).all()


@pytest.mark.parametrize("augmentation", [Augmentation(), aug_transforms()])
def test_an_image_depends_on_its_own_key_alone(augmentation):
    images, aspect = noise(6, 20, 20, 3), np.linspace(0.6, 1.6, 6, dtype=np.float32)
    index = np.array([3, 1, 4, 15, 9, 2], np.int32)
    key = jax.random.key(7)

    def run(rows):
        return np.asarray(
            augment(
                images[rows],
                aspect[rows],
                per_image_keys(key, index[rows]),
                size=(12, 12),
                augmentation=augmentation,
            )
        )

    whole = run(np.arange(6))
    order = np.array([4, 2, 0, 5, 5, 1])
    np.testing.assert_array_equal(run(order), whole[order])
    # Another number of rows is another program, which may round differently.
    np.testing.assert_allclose(run(np.array([5])), whole[[5]], atol=1e-5)
    other = augment(
        images,
        aspect,
        per_image_keys(jax.random.key(8), index),
        size=(12, 12),
        augmentation=augmentation,
    )
    assert all((a != b).any() for a, b in zip(whole, np.asarray(other), strict=True))


def test_keys_are_folded_in():
    key = jax.random.key(3)
    got = per_image_keys(key, np.array([5, -1, 0], np.int32))
    assert (got[0] == jax.random.fold_in(key, 5)).all()
    assert len(np.unique(jax.random.key_data(got), axis=0)) == 3


def test_jitted_and_vmapped_it_is_the_same():
    # Small, for without jit every single operation is compiled.
    images, aspect = noise(6, 8, 8, 3), np.linspace(0.6, 1.6, 6, dtype=np.float32)

    def run(images, aspect, keys):
        return plain_augment(
            images, aspect, keys, size=(8, 8), augmentation=Augmentation()
        )

    plain = run(images, aspect, keys(6))
    jitted = jax.jit(run)(images, aspect, keys(6))
    # XLA may fuse a multiplication and an addition into one rounding.
    np.testing.assert_allclose(jitted, plain, atol=1e-5)
    split = [x.reshape(2, 3, *x.shape[1:]) for x in (images, aspect, keys(6))]
    vmapped = jax.jit(jax.vmap(run))(*split)
    np.testing.assert_allclose(vmapped.reshape(plain.shape), plain, atol=1e-5)


def as_an_image(images, aspect, keys):
    return plain_augment(images, aspect, keys, size=(20, 12), augmentation=CROPS)


CROPS = Augmentation(min_scale=0.1)


def test_the_products_that_a_tpu_computes_give_the_same_pixels(monkeypatch):
    given = noise(8, 40, 24, 3), np.linspace(0.6, 1.6, 8, dtype=np.float32), keys(8)
    gathered = jax.jit(as_an_image)(*given)
    products = module._resample_by_products
    monkeypatch.setattr(module, "_resample", products)
    multiplied = jax.jit(lambda *given: as_an_image(*given))(*given)
    np.testing.assert_allclose(multiplied, gathered, atol=2e-6)
    assert len(np.unique(np.asarray(gathered))) > 1000


def test_only_a_tpu_multiplies():
    given = noise(8, 40, 24, 3), np.ones(8, np.float32), keys(8)
    traced = jax.jit(as_an_image).trace(*given)
    for platform in ("cpu", "cuda", "tpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        gathers = "tensor<8x40x24x3xui8>" in "".join(
            line for line in text.splitlines() if "stablehlo.gather" in line
        )
        assert ("dot_general" in text) != gathers == (platform != "tpu"), platform


def test_a_crop_of_a_squashed_photo_keeps_the_photos_geometry():
    # A photo of 2:1 squashed to a square: a crop of ratio 1 is half as wide as high.
    augmentation = Augmentation(min_scale=0.1, max_scale=0.3, ratio=(1, 1), flip=False)
    _, _, tall, wide = draw(augmentation, 2.0, number=50)
    np.testing.assert_allclose(wide * 2, tall, rtol=1e-5)


EVERYTHING = aug_transforms(mult=1.5, min_scale=0.5, max_zoom=1.3)


@pytest.mark.parametrize(
    ("augmentation", "size", "channels"),
    [
        (EVERYTHING, (24, 24), 3),
        (aug_transforms(flip_vert=True, min_scale=0.4, ratio=(3 / 4, 4 / 3)),
         (16, 24), 1),
        (Augmentation(max_rotate=30, max_lighting=0.3, pad_mode="zeros"), (24, 16), 13),
    ],
)  # fmt: skip
def test_all_of_it_is_one_resampling_then_light(augmentation, size, channels):
    """Crop, matrix and light are drawn apart and put together by hand."""
    images = noise(3, 40, 32, channels)
    aspect = np.array([0.8, 1.0, 1.7], np.float32)
    got = augment(images, aspect, keys(3), size=size, augmentation=augmentation)
    assert got.shape == (3, *size, channels) and got.dtype == jnp.float32

    @jax.jit
    def by_hand(image, aspect, key):
        crop, flip = draw_one(key, aspect, augmentation, shape=size[1] / size[0])
        moved = draw_matrix(jax.random.fold_in(key, 2**16), flip, size, augmentation)
        seen = resample(
            image,
            compose(frame(crop), moved),
            size=size,
            pad_mode=augmentation.pad_mode,
        )
        light = draw_lighting(
            jax.random.fold_in(key, 2**17),
            max_lighting=augmentation.max_lighting,
            p_lighting=augmentation.p_lighting,
        )
        return relight(seen, *light)

    for i in range(3):
        wanted = by_hand(images[i], jnp.float32(aspect[i]), keys(3)[i])
        np.testing.assert_allclose(got[i], wanted, atol=1e-4)


def test_a_little_of_each_is_nearly_the_crop_alone():
    """The general way and the quick one agree where there is nothing to turn."""
    images = smooth(40, 40, 3)[None].repeat(6, 0)
    aspect = np.linspace(0.6, 1.6, 6, dtype=np.float32)
    plain, turned = (
        augment(images, aspect, keys(6), size=(24, 24), augmentation=augmentation)
        for augmentation in (
            Augmentation(),
            Augmentation(max_rotate=1e-4, max_warp=1e-6, max_zoom=1 + 1e-6),
        )
    )
    # Also the same crop and flip: what else is drawn moves neither. At the crop's
    # edge the quick way looks no further, the general one does.
    inner = np.s_[:, 2:-2, 2:-2]
    assert np.abs(np.asarray(plain) - np.asarray(turned))[inner].max() < 0.02
    assert len({np.asarray(image).tobytes() for image in turned}) == 6


def test_light_alone_leaves_every_pixel_in_its_place():
    images, aspect = noise(4, 20, 20, 4), np.ones(4, np.float32)
    plain, lit = (
        np.asarray(
            augment(images, aspect, keys(4), size=(12, 12), augmentation=augmentation)
        )
        for augmentation in (
            Augmentation(),
            Augmentation(max_lighting=0.2, p_lighting=1),
        )
    )
    for before, after in zip(plain, lit, strict=True):
        order = np.argsort(before.ravel())
        assert (np.diff(after.ravel()[order]) > -1e-6).all()
        assert np.abs(after - before).max() > 0.005


@pytest.mark.parametrize("aspect", [0.5, 1.0, 1.6])
@pytest.mark.parametrize("shape", [1.0, 1.5])
def test_without_a_ratio_crops_have_the_results_shape(aspect, shape):
    augmentation = Augmentation(min_scale=0.25, ratio=None)
    draw = jax.jit(
        jax.vmap(lambda k: draw_one(k, jnp.float32(aspect), augmentation, shape=shape))
    )
    top, left, tall, wide = np.asarray(draw(keys(4000))[0]).T
    np.testing.assert_allclose(wide / tall * aspect, shape, rtol=1e-5)
    # The largest has the photo's width or height; shares are of it.
    share = np.maximum(tall, wide) ** 2
    assert 0.2499 <= share.min() and share.max() <= 1
    assert share.mean() == pytest.approx(0.625, abs=0.015)
    for start, extent in ((top, tall), (left, wide)):
        place = start / (1 - extent)
        assert start.min() >= 0 and (start + extent).max() <= 1 + 1e-6
        assert place.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    "still",
    [
        Augmentation(min_scale=1, ratio=None, flip=False),
        aug_transforms(do_flip=False, p_affine=0, p_lighting=0),
    ],
)
def test_the_whole_photo_in_the_results_shape_is_the_plain_resize(still):
    images = noise(2, 30, 20, 3)
    aspect = np.full(2, 1.5, np.float32)
    got = augment(images, aspect, keys(2), size=(16, 24), augmentation=still)
    for image, one in zip(images, got, strict=True):
        wanted = Image.fromarray(image).resize((24, 16), Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(one) * 255 - np.asarray(wanted)).max() <= 1.1


def test_to_float_and_normalize():
    image = np.array([[[0, 51, 255]]], np.uint8)
    floats = to_float(image)
    assert floats.dtype == jnp.float32
    np.testing.assert_allclose(floats, [[[0, 0.2, 1]]], atol=1e-7)
    normal = normalize(floats, (0.5, 0.2, 0), np.array([0.5, 1, 2], np.float32))
    np.testing.assert_allclose(normal, [[[-1, 0, 0.5]]], atol=1e-6)
    # In the conversion to half precision the statistics follow the images.
    assert normalize(floats.astype(jnp.bfloat16), [0] * 3, [1] * 3).dtype == "bfloat16"


COLOURS = {"mean": (0.5, 0.4, 0.3), "std": (0.2, 0.3, 0.4)}


def loaded(rows=4, size=20):
    """A batch as a loader gives it."""
    return {
        "image": noise(rows, size, size, 3),
        "aspect": np.linspace(0.6, 1.6, rows, dtype=np.float32),
        "index": np.arange(rows, dtype=np.int32)[::-1],
        "label": np.zeros(rows, np.int32),
    }


def test_training_images_are_cropped_by_their_own_keys_then_normalised():
    batch, key, augmentation = loaded(), jax.random.key(5), Augmentation()
    crops = augment(
        batch["image"],
        batch["aspect"],
        per_image_keys(key, batch["index"]),
        size=(12, 12),
        augmentation=augmentation,
    )
    options = {"size": (12, 12), "augmentation": augmentation}
    got = jax.jit(lambda batch, key: training_images(batch, key, **options))(batch, key)
    np.testing.assert_array_equal(got, crops)
    got = jax.jit(lambda batch, key: training_images(batch, key, **options, **COLOURS))(
        batch, key
    )
    np.testing.assert_allclose(got, normalize(crops, **COLOURS), atol=1e-5)


def test_without_augmentation_training_images_are_validation_images():
    batch = loaded()
    for options in ({}, COLOURS):
        plain = validation_images(batch["image"], **options)
        got = training_images(
            batch, jax.random.key(0), size=(12, 12), augmentation=None, **options
        )
        np.testing.assert_array_equal(got, plain)
        wanted = normalize(to_float(batch["image"]), **options) if options else None
        wanted = to_float(batch["image"]) if wanted is None else wanted
        np.testing.assert_array_equal(plain, wanted)


DEVICES = """
import hashlib, json, sys
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtune.data import (
    ImageDataLoaders, aug_transforms, per_image_keys, training_images)
from jaxtune.data.augment import draw

def bits(*arrays):
    return hashlib.sha256(b"".join(np.asarray(a).tobytes() for a in arrays)).hexdigest()

root, workers = sys.argv[1], int(sys.argv[2])
data = ImageDataLoaders.from_folder(
    root, size=32, batch_size=8, seed=1, workers=workers
)
assert data.train_loader.workers == workers
mesh = Mesh(np.asarray(jax.devices()), ("data",))
rows = NamedSharding(mesh, PartitionSpec("data"))
crops = jax.jit(jax.vmap(draw, in_axes=(0, 0, None)), static_argnums=2)
def made(augmentation):
    return jax.jit(lambda batch, key: training_images(
        batch, key, size=data.size, augmentation=augmentation,
        mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4)))
images, warped = made(data.augmentation), made(aug_transforms())
found = {"batches": [], "draws": [], "pixels": [], "warped": [], "devices": set()}
for epoch in range(2):
    key = jax.random.fold_in(jax.random.key(0), epoch)
    for batch in data.train_loader.batches(epoch):
        found["batches"].append(bits(*(batch[name] for name in sorted(batch))))
        batch = jax.device_put(batch, rows)
        keys = per_image_keys(key, batch["index"])
        found["draws"].append(bits(*crops(keys, batch["aspect"], data.augmentation)))
        pixels = images(batch, key)
        found["devices"].add(len(pixels.sharding.device_set))
        found["pixels"].append(bits(pixels))
        found["warped"].append(bits(warped(batch, key)))
print(json.dumps(found, default=list))
"""


def run_on(devices, workers, root):
    return json.loads(run_script(DEVICES, root, workers, devices=devices))


@pytest.mark.end_to_end
def test_other_devices_and_workers_same_batches_draws_and_pixels(tmp_path):
    """Rows split over 1, 2 and 4 devices, photos decoded by 0, 1 and 3 threads."""
    root = make_photos(tmp_path / "photos", train=8, valid=1)
    with ThreadPoolExecutor() as pool:
        running = {
            devices: pool.submit(run_on, devices, workers, root)
            for devices, workers in ((1, 0), (2, 1), (4, 3))
        }
    found = {devices: process.result() for devices, process in running.items()}
    for devices in found:
        assert found[devices].pop("devices") == [devices]
    assert found[1] == found[2] == found[4]
    for name in ("batches", "draws", "pixels", "warped"):
        assert len(set(found[1][name])) == 6, name
