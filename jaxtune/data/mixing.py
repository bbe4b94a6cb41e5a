"""Batch transforms: MixUp, CutMix and your own, which give images a part of another.

Real rows mix with real rows only, and what is drawn depends on the key alone.
"""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Num

from jaxtune.arguments import Number, check_function, check_number, described
from jaxtune.data.arrays import check_array, check_key

Images = Float[Array, "b h w c"]
Labels = Num[Array, "b ..."]
Mixed = tuple[Images, Labels, Float[Array, " b"]]


@runtime_checkable
class BatchTransform(Protocol):
    """What `mixing=` takes: a pure function of a batch as the network takes it.

    A plain function is one; of a frozen dataclass a run's recipe holds the fields, too.
    """

    def __call__(
        self,
        images: Images,
        labels: Labels,
        key: Key[Array, ""],
        mask: Bool[Array, " b"],
    ) -> Mixed:
        """Returns images, a second label for each, and the weight of the first.

        The loss of a row is `weight * loss(outputs, label) + (1 - weight) *
        loss(outputs, second_label)`. What leaves the labels alone returns `labels` and
        ones. `partners(key, mask)` says which images may be mixed.

        Args:
            images: Normalised floats (b, h, w, c).
            labels: Of each image, (b, ...): class numbers, 0s and 1s, or values.
            key: Typed key of this step.
            mask: bool (b,), False for rows of padding.
        """


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

    def __call__(
        self,
        images: Images,
        labels: Labels,
        key: Key[Array, ""],
        mask: Bool[Array, " b"],
    ) -> Mixed:
        """Returns blended images, the others' labels and each image's weight."""
        order_key, share_key, *_ = jax.random.split(key, 4)
        partner = partners(order_key, mask)
        others, alpha = images[partner], jnp.float32(self.alpha)
        share = jax.random.beta(share_key, alpha, alpha, mask.shape, jnp.float32)
        weight = jnp.maximum(share, 1 - share)
        spread = weight[:, None, None, None].astype(images.dtype)
        return others + spread * (images - others), labels[partner], weight


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

    def __call__(
        self,
        images: Images,
        labels: Labels,
        key: Key[Array, ""],
        mask: Bool[Array, " b"],
    ) -> Mixed:
        """Returns images with a box of others, these' labels and the share outside."""
        order_key, *keys = jax.random.split(key, 4)
        partner = partners(order_key, mask)
        inside, outside = _box(keys, self.alpha, images.shape[1:3])
        images = jnp.where(inside[..., None], images[partner], images)
        return images, labels[partner], jnp.broadcast_to(outside, mask.shape)


Mixing = MixUp | CutMix | BatchTransform


def mix(
    images: Float[Array, "b h w c"],
    labels: Num[Array, "b ..."],
    key: Key[Array, ""],
    mixing: Mixing,
    *,
    mask: Bool[Array, " b"] | None = None,
) -> tuple[Float[Array, "b h w c"], Num[Array, "b ..."], Float[Array, " b"]]:
    """Returns mixed images, the labels of what was mixed in, and each image's weight.

    What they mean is said by `BatchTransform`. Pure: it can be jitted and vmapped,
    `mixing` being static.

    Args:
        images: As the network takes them.
        labels: Of each image: class numbers, 0s and 1s, or values.
        key: Typed key, used up here.
        mixing: `MixUp(...)`, `CutMix(...)` or your own `BatchTransform`.
        mask: True for real rows; padding mixes with padding. All real if None.

    Raises:
        TypeError: If `mixing` is none of these, or returns something else.

    Example:
        >>> images, labels = jnp.ones((2, 4, 4, 3)), jnp.asarray([3, 1])
        >>> mixed = mix(images, labels, jax.random.key(0), MixUp())
        >>> [part.shape for part in mixed]
        [(2, 4, 4, 3), (2,), (2,)]
    """
    if mixing is None:
        raise TypeError(f"mixing must be {_WANTED}; received None.")
    check_mixing(mixing)
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
    mask = jnp.ones(images.shape[:1], bool) if mask is None else jnp.asarray(mask)
    mixed = mixing(images, labels, key, mask)
    wanted = [images.shape, labels.shape, mask.shape]
    shapes = [getattr(part, "shape", None) for part in _parts(mixed)]
    if shapes != wanted:
        raise TypeError(
            f"mixing={described(mixing)} must return images, labels and weights of the "
            f"shapes {wanted}; it returned {shapes or described(mixed)}."
        )
    return mixed


def check_mixing(mixing: Any) -> None:
    """Refuses what is no mixing.

    Raises:
        TypeError: If it is no `BatchTransform`, `MixUp` and `CutMix` included, nor
            None.
    """
    if mixing is None:
        return
    check_function(mixing, "mixing", f"{_WANTED} or None", classes=False)
    try:
        inspect.signature(mixing).bind(*[None] * 4)
    except TypeError:
        raise TypeError(
            f"mixing must be {_WANTED}; {described(mixing)} does not take these four "
            "arguments. Bind others with functools.partial."
        ) from None
    except ValueError:  # some built-in functions have no signature
        pass


_WANTED = "MixUp(...), CutMix(...) or a function of images, labels, key and mask"


def _parts(mixed: Any) -> list:
    return list(mixed) if isinstance(mixed, tuple | list) else []


_ALPHA = "the parameter of a Beta distribution"


def _check_alpha(mixing) -> None:
    alpha = check_number(mixing.alpha, "alpha", above=0, meaning=_ALPHA)
    if type(mixing.alpha) not in (int, float):
        object.__setattr__(mixing, "alpha", alpha)


def partners(key: Key[Array, ""], mask: Bool[Array, " b"]) -> Int[Array, " b"]:
    """Returns a permutation of the rows which keeps real ones and padding apart.

    An image may be its own partner.

    Args:
        key: Typed key, used up here.
        mask: True for real rows.
    """
    padding = (~mask).astype(jnp.int32)
    order = jax.random.permutation(key, mask.shape[0])
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
