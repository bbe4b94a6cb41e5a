"""Augmentation on the device: one resampling and new light, drawn for each image.

What happens to an image depends on its own key and aspect and on nothing else in the
batch, transforms of whole batches aside.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, UInt8

from jaxtune.arguments import check_instance, described
from jaxtune.data.arrays import check_array, check_key, check_mean_std
from jaxtune.data.resize import as_size
from jaxtune.data.transforms import Augmentation, apply_functions
from jaxtune.data.warp import compose, draw_matrix, frame, resample

# torchvision and fastai both give up after ten crops that do not fit.
_ATTEMPTS = 10
# Folded into an image's key; far from the counters of the numbers drawn for its crop,
# and below those of the functions of one's own.
_WARP, _LIGHT = 2**16, 2**17
# fastai's bound, which keeps the logits of black and white finite.
_LEAST = 1e-7


def per_image_keys(
    key: Key[Array, ""], index: Int[Array | np.ndarray, " b"]
) -> Key[Array, " b"]:
    """Returns one key per image, from the key of the epoch and the image's index.

    An image's key is the same in whatever batch, on whatever device it is drawn.

    Raises:
        TypeError: If they are no key, or no whole numbers.
        ValueError: If they are of another shape.
    """
    check_key(key, "key")
    if isinstance(index, list | tuple):
        index = np.asarray(index)
    check_array(index, "index", "whole numbers of shape (b,)", 1, "i")
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.asarray(index))


def augment(
    images: UInt8[Array | np.ndarray, "b h w c"],
    aspect: Float[Array | np.ndarray, " b"],
    keys: Key[Array, " b"],
    *,
    size: tuple[int, int],
    augmentation: Augmentation,
) -> Float[Array, "b height width c"]:
    """Returns a batch's images as they were drawn: crops, warped, in other light.

    The crop is drawn in the geometry that the photo had before it was squashed, as
    torchvision and fastai draw it: up to ten times an area and a ratio, the first that
    fits at a uniform place; if none fits, the centre, as wide as the ratios allow.
    Resampling is bilinear with antialiasing; flip, rotation, zoom and perspective are
    part of it. Pure: it can be jitted and vmapped, `size` and `augmentation` being
    static.

    Args:
        images: Photos squashed to one size, 0..255, of any number of channels.
        aspect: Width / height of each photo before that.
        keys: A typed key per image; see `per_image_keys`.
        size: Height and width of the result in pixels.
        augmentation: What is drawn.

    Returns:
        Floats in 0..1.

    References:
        torchvision 0.2x, transforms/transforms.py `RandomResizedCrop.get_params`;
        Pillow, `Image.resize(size, BILINEAR, box)`, with which the pixels agree to
        within its rounding to whole grey levels.
    """
    check_array(images, "images", "uint8 of shape (b, h, w, c)", 4, "u")
    check_array(aspect, "aspect", "floats of shape (b,), width / height", 1, "f")
    check_key(keys, "keys", 1)
    for name, array in (("aspect", aspect), ("keys", keys)):
        if array.shape[0] != images.shape[0]:
            raise ValueError(
                f"{name} must be one for each of {images.shape[0]} images; received"
                f" {array.shape[0]}."
            )
    size = as_size(size)
    check_instance(augmentation, "augmentation", Augmentation, "an Augmentation(...)")
    images = jnp.asarray(images)
    height, width = images.shape[1:3]

    def one(image, aspect, key):
        crop, flip = draw(key, aspect, augmentation, shape=size[1] / size[0])
        if augmentation.warps:
            image = _warped(image, key, crop, flip)
        else:
            top, left, tall, wide = crop
            # Rows and columns apart: twice as fast, and all that a crop needs.
            rows = _taps(top * height, tall * height, height, size[0], False)
            columns = _taps(left * width, wide * width, width, size[1], flip)
            # A TPU gathers a pixel at a time, and multiplies for nothing beside that.
            image = jax.lax.platform_dependent(
                image, rows, columns, tpu=_resample_by_products, default=_resample
            )
        if augmentation.max_lighting:
            image = relight(image, *_light(key))
        return image

    def _warped(image, key, crop, flip):
        moved = draw_matrix(jax.random.fold_in(key, _WARP), flip, size, augmentation)
        return resample(
            image,
            compose(frame(crop), moved),
            size=size,
            pad_mode=augmentation.pad_mode,
            shrink=1 / min(augmentation.min_zoom, 1),
        )

    def _light(key):
        return draw_lighting(
            jax.random.fold_in(key, _LIGHT),
            max_lighting=augmentation.max_lighting,
            p_lighting=augmentation.p_lighting,
        )

    images = jax.vmap(one)(images, jnp.asarray(aspect, jnp.float32), keys)
    return apply_functions(images, keys, augmentation.functions)


def draw(
    key: Key[Array, ""],
    aspect: Float[Array, ""],
    augmentation: Augmentation,
    *,
    shape: float | int = 1.0,
) -> tuple[Float[Array, " 4"], Bool[Array, ""]]:
    """Returns one crop, and whether it is flipped.

    A crop is top, left, height and width, as fractions of the photo's sides.

    Args:
        key: Typed key; what else is drawn for the image folds numbers into it.
        aspect: Width / height of the photo.
        augmentation: Bounds of area and ratio.
        shape: Width / height of the result, for crops of that shape (`ratio` None).
    """
    # All the numbers at once: every further key costs XLA a third of a second.
    numbers = jax.random.uniform(key, (2 * _ATTEMPTS + 3,), jnp.float32)
    area, ratio, place = jnp.split(numbers[:-1], [_ATTEMPTS, 2 * _ATTEMPTS])
    flip = augmentation.flip & (numbers[-1] < 0.5)
    smallest, largest = augmentation.min_scale, augmentation.max_scale
    area = smallest + area * (largest - smallest)
    if augmentation.ratio is None:
        whole = jnp.stack([jnp.minimum(1.0, aspect / shape),
                           jnp.minimum(1.0, shape / aspect)])  # fmt: skip
        extent = whole * jnp.sqrt(area[0])
        return jnp.concatenate([place * (1 - extent), extent]), flip
    low, high = augmentation.ratio
    ratio = low * (high / low) ** ratio
    wide = jnp.sqrt(area * ratio / aspect)
    tall = jnp.sqrt(area / ratio * aspect)
    fits = (wide <= 1) & (tall <= 1)
    first = jnp.argmax(fits)
    # No attempt fits: the whole photo, cut at the sides to the nearest allowed ratio.
    wide = jnp.where(fits.any(), wide[first], jnp.minimum(1.0, high / aspect))
    tall = jnp.where(fits.any(), tall[first], jnp.minimum(1.0, aspect / low))
    place = jnp.where(fits.any(), place, 0.5)
    extent = jnp.stack([tall, wide])
    return jnp.concatenate([place * (1 - extent), extent]), flip


def _taps(
    start: Float[Array, ""],
    extent: Float[Array, ""],
    size_in: int,
    size_out: int,
    flip: Bool[Array, ""] | bool,
) -> tuple[Int[Array, "taps out"], Float[Array, "taps out"]]:
    """Returns which pixels of a line make each new one, and their weights.

    The triangle filter of Pillow's BILINEAR: as wide as two new pixels where the line
    shrinks, two old ones where it grows, cut off at the photo's edge, summing to 1.
    """
    # An open interval of this length holds at most so many pixel centres. Taking only
    # these, not a matrix over the whole line, is ten times faster on a CPU.
    taps = math.ceil(2 * max(size_in / size_out, 1))
    position = jnp.arange(size_out, dtype=jnp.float32)
    position = jnp.where(flip, size_out - 1 - position, position)
    scale = extent / size_out
    reach = jnp.maximum(scale, 1.0)
    centre = start + (position + 0.5) * scale
    first = jnp.floor(centre - reach + 0.5).astype(jnp.int32)
    pixel = first + jnp.arange(taps, dtype=jnp.int32)[:, None]
    weight = jnp.maximum(
        1 - jnp.abs(pixel.astype(jnp.float32) + 0.5 - centre) / reach, 0
    )
    weight = weight * ((pixel >= 0) & (pixel < size_in))
    return jnp.clip(pixel, 0, size_in - 1), weight / weight.sum(axis=0)


def _resample(
    image: UInt8[Array, "h w c"],
    rows: tuple[Int[Array, "taps height"], Float[Array, "taps height"]],
    columns: tuple[Int[Array, "more_taps width"], Float[Array, "more_taps width"]],
) -> Float[Array, "height width c"]:
    lines = sum(
        image[pixel].astype(jnp.float32) * weight[:, None, None]
        for pixel, weight in zip(*rows, strict=True)
    )
    pixels = sum(
        lines[:, pixel] * weight[None, :, None]
        for pixel, weight in zip(*columns, strict=True)
    )
    return jnp.clip(pixels / 255, 0, 1)


def _resample_by_products(
    image: UInt8[Array, "h w c"],
    rows: tuple[Int[Array, "taps height"], Float[Array, "taps height"]],
    columns: tuple[Int[Array, "more_taps width"], Float[Array, "more_taps width"]],
) -> Float[Array, "height width c"]:
    """`_resample` as two matrix products, in three passes of bfloat16 on a TPU."""

    def matrix(taps, length):
        pixel, weight = taps
        is_tapped = pixel[..., None] == jnp.arange(length, dtype=jnp.int32)
        return (is_tapped * weight[..., None]).sum(axis=0)

    multiply = functools.partial(jnp.einsum, precision="high")
    by_row, by_column = map(matrix, (rows, columns), image.shape[:2])
    lines = multiply("yh,hwc->ywc", by_row, image.astype(jnp.float32))
    pixels = multiply("xw,ywc->yxc", by_column, lines)
    return jnp.clip(pixels / 255, 0, 1)


def draw_lighting(
    key: Key[Array, ""], *, max_lighting: float | int, p_lighting: float | int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Returns a brightness and a contrast as `relight` takes them.

    Brightness is uniform in 0.5 (1 -+ max_lighting); contrast is uniform in its
    logarithm, between 1 - max_lighting and its inverse. Each is left alone (0.5, and 1)
    with probability 1 - p_lighting.

    Args:
        key: Typed key, used up here.
        max_lighting: Largest change, in [0, 1).
        p_lighting: Probability of each of the two.

    References:
        fastai 2.8.12, vision/augment.py `Brightness`, `Contrast`.
    """
    bright, contrast, *chances = 2 * jax.random.uniform(key, (4,), jnp.float32) - 1
    some = [(chance + 1) / 2 < p_lighting for chance in chances]
    bright = jnp.where(some[0], 0.5 * (1 + max_lighting * bright), 0.5)
    contrast = jnp.exp(contrast * -jnp.log1p(-jnp.float32(max_lighting)))
    return bright, jnp.where(some[1], contrast, 1.0)


def relight(
    images: Float[Array, "*batch h w c"],
    brightness: Float[Array, "*batch"],
    contrast: Float[Array, "*batch"],
) -> Float[Array, "*batch h w c"]:
    """Returns images in other light: sigmoid(contrast (logit(x) + logit(brightness))).

    Args:
        images: Floats in 0..1, of any number of channels.
        brightness: Of each image; what middle grey becomes at contrast 1, 0.5 for no
            change.
        contrast: Of each image, a factor of the logits; 1 for no change.

    References:
        fastai 2.8.12, vision/augment.py `LightingTfm`.
    """

    def logit(x):
        x = jnp.clip(x, _LEAST, 1 - _LEAST)
        return jnp.log(x / (1 - x))

    def spread(x):
        return x[..., None, None, None]

    shifted = logit(images) + spread(logit(brightness))
    return jax.nn.sigmoid(spread(contrast) * shifted)


def training_images(
    batch: Mapping[str, Array | np.ndarray],
    key: Key[Array, ""],
    *,
    size: tuple[int, int],
    augmentation: Augmentation | None,
    mean: Sequence[float | int] | None = None,
    std: Sequence[float | int] | None = None,
) -> Float[Array, "b height width c"]:
    """Returns a training batch's images as the network takes them.

    Each is cropped, warped and lit by its own draw, then normalised. Pure, to be given
    to `make_train_step` as `prepare`, everything after the star bound.

    Args:
        batch: Has `image`, uint8 (b, h, w, c), and, to augment, `aspect`, float32 (b,),
            and `index`, int32 (b,): what a loader gives.
        key: Of the epoch; an image's draw depends on it and on its `index`.
        size: Height and width of the result in pixels.
        augmentation: What is drawn; if None, images keep the size they have, and this
            is `validation_images`.
        mean: Of each channel, for images in 0..1; no normalisation if None.
        std: Of each channel.
    """
    names = ("image",) if augmentation is None else ("image", "aspect", "index")
    missing = [
        name for name in names if not isinstance(batch, Mapping) or name not in batch
    ]
    if missing:
        held = list(batch) if isinstance(batch, Mapping) else described(batch)
        kind = ValueError if isinstance(batch, Mapping) else TypeError
        raise kind(
            f"batch must be a dict with {' and '.join(names)}, as a loader gives;"
            f" received {held}."
        )
    if augmentation is not None:
        wanted = "an Augmentation(...) or None"
        check_instance(augmentation, "augmentation", Augmentation, wanted)
    size = as_size(size)
    check_key(key, "key")
    if augmentation is None:
        return validation_images(batch["image"], mean=mean, std=std)
    images = augment(
        batch["image"],
        batch["aspect"],
        per_image_keys(key, batch["index"]),
        size=size,
        augmentation=augmentation,
    )
    return _normalized(images, mean, std)


def validation_images(
    images: UInt8[Array | np.ndarray, "*batch c"],
    *,
    mean: Sequence[float | int] | None = None,
    std: Sequence[float | int] | None = None,
) -> Float[Array, "*batch c"]:
    """Returns images as the network takes them, nothing drawn.

    Args:
        images: Pixels of 0..255.
        mean: Of each channel, for images in 0..1; no normalisation if None.
        std: Of each channel.
    """
    return _normalized(to_float(images), mean, std)


def _normalized(images, mean, std):
    if mean is None and std is None:
        return images
    if mean is None or std is None:
        given, other = ("mean", "std") if std is None else ("std", "mean")
        raise ValueError(
            f"mean and std go together; received {given} alone. Give {other}= too, or"
            " neither."
        )
    return normalize(images, mean, std)


def to_float(
    images: UInt8[Array | np.ndarray, "*batch c"],
) -> Float[Array, "*batch c"]:
    """Returns pixels of 0..255 as floats in 0..1, for validation and prediction."""
    check_array(images, "images", "uint8, pixels of 0..255", None, "u")
    return jnp.asarray(images).astype(jnp.float32) / 255


def normalize(
    images: Float[Array, "*batch c"],
    mean: Sequence[float | int] | Float[Array | np.ndarray, " c"],
    std: Sequence[float | int] | Float[Array | np.ndarray, " c"],
) -> Float[Array, "*batch c"]:
    """Returns `(images - mean) / std`, channel by channel.

    Args:
        images: Floats in 0..1, channels last.
        mean: Of each channel, in the same 0..1.
        std: Of each channel.
    """
    wanted = "floats in 0..1 with channels last, such as to_float gives"
    images = jnp.asarray(check_array(images, "images", wanted, None, "f"))
    mean, std = check_mean_std(mean, std, images.shape[-1])
    shape = (1,) * (images.ndim - 1) + (-1,)
    mean = jnp.asarray(mean, images.dtype).reshape(shape)
    std = jnp.asarray(std, images.dtype).reshape(shape)
    return (images - mean) / std
