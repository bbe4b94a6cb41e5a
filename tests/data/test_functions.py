"""One's own functions are augmentations: checked, traced, drawn image by image."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.data import (
    Augmentation,
    ImageDataLoaders,
    as_augmentation,
    aug_transforms,
    batchwise,
    function_program,
    training_images,
)
from jaxtune.data.transforms import apply_functions, check_functions

SHAPE = (6, 8, 3)
PLAIN = {"min_scale": 1.0, "ratio": None, "flip": False}


def dimmed(image, key):
    return image * jax.random.uniform(key, minval=0.5)


def inverted(image, key):
    return 1 - image


def images(number=4):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (number, *SHAPE)).astype(np.uint8)


def test_each_image_is_drawn_for_by_its_own_key_whatever_the_batch():
    batch = {"image": images(), "aspect": np.full(4, 8 / 6, np.float32)}
    batch["index"] = np.arange(4, dtype=np.int32)
    augmentation = Augmentation(**PLAIN, functions=[dimmed, inverted])
    view = jax.jit(
        functools.partial(training_images, size=SHAPE[:2], augmentation=augmentation)
    )
    whole = np.asarray(view(batch, jax.random.key(1)))
    plain = batch["image"] / np.float32(255)
    each = (1 - whole).mean(axis=(1, 2, 3)) / plain.mean(axis=(1, 2, 3))
    assert len(set(each.round(3))) == 4 and (each > 0.5).all() and (each < 1).all()
    np.testing.assert_allclose(
        whole, 1 - plain * each[:, None, None, None], rtol=0, atol=1e-4
    )
    some = {name: array[2:] for name, array in batch.items()}
    np.testing.assert_array_equal(view(some, jax.random.key(1)), whole[2:])


def test_two_that_are_the_same_draw_differently():
    image, keys = jnp.ones((1, *SHAPE)), jax.random.split(jax.random.key(3), 1)
    once = float(apply_functions(image, keys, [dimmed]).mean())
    twice = float(apply_functions(image, keys, [dimmed, dimmed]).mean())
    assert 0.5 < once < 1 and abs(twice - once**2) > 0.01


@batchwise
def dimmed_together(images, key):
    return images * jax.random.uniform(key, minval=0.5)


def test_a_function_of_whole_batches_draws_once_for_each():
    images = jnp.ones((3, *SHAPE))
    draws = set()
    for epoch in range(2):
        keys = jax.random.split(jax.random.key(epoch), 6)
        for rows in (keys[:3], keys[3:]):
            result = apply_functions(images, rows, [dimmed_together, inverted])
            (value,) = set(np.asarray(result).ravel().tolist())
            draws.add(value)
    assert len(draws) == 4
    mixed = apply_functions(images, keys[:3], [dimmed_together, dimmed])
    assert len(set(np.asarray(mixed)[:, 0, 0, 0].tolist())) == 3


@pytest.mark.parametrize("function", [dimmed, dimmed_together])
def test_a_list_may_begin_with_an_augmentation(function):
    plain = Augmentation(**PLAIN)
    whole = Augmentation(**PLAIN, functions=[function, inverted])
    assert as_augmentation([plain, function, inverted]) == whole
    assert as_augmentation((whole, dimmed)).functions == (*whole.functions, dimmed)
    assert as_augmentation(function) == as_augmentation([function])
    assert as_augmentation([function]) == Augmentation(functions=function)
    assert as_augmentation(None) is None and as_augmentation(plain) is plain
    rows = np.random.default_rng(0).integers(0, 255, (8, 6, 8, 3)).astype(np.uint8)
    data = ImageDataLoaders.from_arrays(
        (rows, [0, 1] * 4), size=SHAPE[:2], batch_size=2,
        augmentation=[plain, function, inverted],
    )  # fmt: skip
    assert data.augmentation == whole


@pytest.mark.parametrize("wrong", [[], [dimmed, Augmentation()], [dimmed, 3], 3])
def test_what_is_no_list_of_augmentations(wrong):
    with pytest.raises(TypeError, match=r"^augmentation(\[1\])? must be"):
        as_augmentation(wrong)


def test_fastais_name():
    assert aug_transforms(xtra_tfms=dimmed).functions == (dimmed,)
    assert aug_transforms().functions == Augmentation().functions == ()


@dataclasses.dataclass
class Unhashable:
    def __call__(self, image, key):
        return image


class Transform:
    def __call__(self, image, key):
        return image


@pytest.mark.parametrize(
    "wrong",
    [None, "flip", 3, Transform, [dimmed, 3], lambda image: image, Unhashable(),
     lambda image, key, p: image],
)  # fmt: skip
def test_what_is_no_function_of_image_and_key(wrong):
    with pytest.raises(TypeError, match=r"^functions(\[1\])? must be"):
        Augmentation(functions=wrong)
    Augmentation(functions=[Transform(), functools.partial(dimmed)])


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda i, k: i[:4], TypeError, r"of shape \(6, 8, 3\); .*float32 \(4, 8, 3\)"),
        (lambda i, k: (i * 255).astype(np.uint8), TypeError, "returned uint8"),
        (lambda i, k: (i, k), TypeError, "returned a tuple"),
        (lambda i, k: None, TypeError, "returned None"),
        (batchwise(lambda i, k: i[0]), TypeError, r"of shape \(2, 6, 8, 3\); .*\(6, 8"),
        (lambda i, k: np.asarray(i), TypeError, "can't be traced.*jax.numpy"),
        (lambda i, k: i if i.mean() > 0 else -i, TypeError, "can't be traced.*`if`"),
        (
            lambda i, k: i * np.random.rand(),
            ValueError,
            "same for every.*key",
        ),
    ],
)
def test_what_is_wrong_is_said_before_training(function, error, message):
    augmentation = Augmentation(functions=function)
    rows = np.random.default_rng(0).integers(0, 255, (8, 6, 8, 3)).astype(np.uint8)
    with pytest.raises(error, match=message):
        ImageDataLoaders.from_arrays(
            (rows, [0, 1] * 4), size=SHAPE[:2], batch_size=2, augmentation=augmentation
        )


def test_programs_tell_functions_apart():
    def scaled(values):
        return lambda image, key: image * values

    ones, twos = (np.full(SHAPE, n, np.float32) for n in (1, 2))
    programs = [
        function_program(function, SHAPE)
        for function in (dimmed, inverted, scaled(ones), scaled(twos), scaled(3.0))
    ]
    assert len(set(programs)) == 5
    assert function_program(scaled(ones.copy()), SHAPE) == programs[2]
    check_functions([dimmed, jax.jit(dimmed), scaled(jnp.ones(SHAPE))], SHAPE)
