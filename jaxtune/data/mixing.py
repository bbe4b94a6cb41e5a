"""MixUp and CutMix: each image of a batch gets a part of another one.

A batch as the network takes it and a key go in; mixed images come out, with the other
image's label and how much each image weighs. The one rule: real rows mix with real rows
only, and what is drawn depends on the key alone.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Key, Num

from jaxtune.arguments import Number, check_instance, check_number
from jaxtune.data.arrays import check_array, check_key


@dataclasses.dataclass(frozen=True)
class MixUp:
    """Each image is blended with another of the batch, by a weight of its own.

    Attributes:
        alpha: Of the Beta(alpha, alpha) a weight is drawn from; the smaller, the nearer
            weights are to 1. The larger of weight and 1 - weight is the image's own.

    References:
        Zhang et al., "mixup: Beyond Empirical Risk Minimization",
        https://arxiv.org/abs/1710.09412; fastai 2.8.12, callback/mixup.py `MixUp`.
    """

    alpha: Number = 0.4

    def __post_init__(self) -> None:
        """Refuses what is no parameter of a Beta distribution."""
        _check_alpha(self)


@dataclasses.dataclass(frozen=True)
class CutMix:
    """A box, the same for the whole batch, is cut out and filled from other images.

    Attributes:
        alpha: Of the Beta(alpha, alpha) that the share of the area outside the box is
            drawn from, before the box is cut off at the image's edges.

    References:
        Yun et al., "CutMix", https://arxiv.org/abs/1905.04899; fastai 2.8.12,
        callback/mixup.py `CutMix`.
    """

    alpha: Number = 1.0

    def __post_init__(self) -> None:
        """Refuses what is no parameter of a Beta distribution."""
        _check_alpha(self)


Mixing = MixUp | CutMix


def mix(
    images: Float[Array, "b h w c"],
    labels: Num[Array, "b ..."],
    key: Key[Array, ""],
    mixing: Mixing,
    *,
    mask: Bool[Array, " b"] | None = None,
) -> tuple[Float[Array, "b h w c"], Num[Array, "b ..."], Float[Array, " b"]]:
    """Returns mixed images, the labels of what was mixed in, and each image's weight.

    The loss of a row is then `weight * loss(logits, label) + (1 - weight) *
    loss(logits, mixed_label)`, for labels of any kind. Partners are a permutation of
    the real rows, so an image may be its own. Pure: it can be jitted and vmapped,
    `mixing` being static.

    Args:
        images: As the network takes them.
        labels: Of each image: class numbers, 0s and 1s, or values.
        key: Typed key, used up here.
        mixing: `MixUp(...)` or `CutMix(...)`.
        mask: True for real rows; padding mixes with padding. All real if None.

    Raises:
        TypeError: If `mixing` is neither.

    Example:
        >>> images, labels = jnp.ones((2, 4, 4, 3)), jnp.asarray([3, 1])
        >>> mixed = mix(images, labels, jax.random.key(0), MixUp())
        >>> [part.shape for part in mixed]
        [(2, 4, 4, 3), (2,), (2,)]
    """
    check_instance(mixing, "mixing", (MixUp, CutMix), "MixUp(...) or CutMix(...)")
    images = check_array(images, "images", "floats of shape (b, h, w, c)", 4, "f")
    labels = check_array(labels, "labels", "an array with a row for each image", None)
    check_key(key, "key")
    if mask is not None:
        mask = check_array(mask, "mask", "bools, one for each image", 1, "b")
    for name, array in (("labels", labels), ("mask", mask)):
        if array is not None and array.shape[:1] != images.shape[:1]:
            raise ValueError(
                f"{name} must have a row for each of {images.shape[0]} images; received"
                f" shape {array.shape}."
            )
    rows = images.shape[0]
    order_key, *keys = jax.random.split(key, 4)
    partner = _partners(order_key, jnp.ones(rows, bool) if mask is None else mask)
    others = images[partner]
    if isinstance(mixing, MixUp):
        alpha = jnp.float32(mixing.alpha)
        share = jax.random.beta(keys[0], alpha, alpha, (rows,), jnp.float32)
        weight = jnp.maximum(share, 1 - share)
        spread = weight[:, None, None, None].astype(images.dtype)
        images = others + spread * (images - others)
    else:
        inside, outside = _box(keys, mixing.alpha, images.shape[1:3])
        images = jnp.where(inside[..., None], others, images)
        weight = jnp.broadcast_to(outside, (rows,))
    return images, labels[partner], weight


def check_mixing(mixing: object) -> None:
    """Refuses what is no mixing.

    Raises:
        TypeError: If it is neither a MixUp, nor a CutMix, nor None.
    """
    if mixing is not None:
        wanted = "MixUp(...), CutMix(...) or None"
        check_instance(mixing, "mixing", (MixUp, CutMix), wanted)


_ALPHA = "the parameter of a Beta distribution"


def _check_alpha(mixing) -> None:
    alpha = check_number(mixing.alpha, "alpha", above=0, meaning=_ALPHA)
    if type(mixing.alpha) not in (int, float):
        object.__setattr__(mixing, "alpha", alpha)


def _partners(key, real):
    """A permutation of the rows which keeps real ones and padding apart."""
    padding = (~real).astype(jnp.int32)
    order = jax.random.permutation(key, real.shape[0])
    shuffled = order[jnp.argsort(padding[order], stable=True)]
    rows = jnp.argsort(padding, stable=True)
    return jnp.zeros_like(rows).at[rows].set(shuffled)


def _box(keys, alpha, size):
    """Whether each pixel is in the box, and the share of pixels that are not."""
    alpha = jnp.float32(alpha)
    share = jax.random.beta(keys[0], alpha, alpha, (), jnp.float32)
    inside = []
    for side, key in zip(size, keys[1:], strict=True):
        half = jnp.round(side * jnp.sqrt(1 - share)).astype(jnp.int32) // 2
        middle = jax.random.randint(key, (), 0, side, jnp.int32)
        place = jnp.arange(side, dtype=jnp.int32)
        # Cut off at the edges, for there are no pixels beyond them.
        inside.append((place >= middle - half) & (place < middle + half))
    inside = inside[0][:, None] & inside[1]
    return inside, 1 - inside.mean(dtype=jnp.float32)
