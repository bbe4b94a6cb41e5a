"""A convolution, its gradients, and the affine map after it, in plain JAX operations.

Nothing here is specific to a backend; on a GPU or a TPU these are exactly the
operations that `jax.lax` and `jax.grad` give.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

#: Dimension order of images, weights and outputs.
LAYOUTS = ("NHWC", "HWIO", "NHWC")

#: Names of a convolution's settings, in this order.
WINDOW = ("stride", "padding", "groups")

#: A convolution has three arrays, any two of which give the third. By the name of the
#: third: the two operands in order. If "outputs" is the gradient of the outputs, the
#: results "images" and "weight" are gradients too.
GIVEN = {
    "outputs": ("images", "weight"),
    "images": ("outputs", "weight"),
    "weight": ("images", "outputs"),
}


def plain_convolve(
    images: Float[Array, "b h w c"],
    weight: Float[Array, "k k i d"],
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
    precision: str | None = None,
) -> Float[Array, "b h2 w2 d"]:
    """Returns the convolved images, by `jax.lax.conv_general_dilated`.

    Args:
        images: Images or feature maps.
        weight: Kernels; i = c / groups.
        stride: In both directions, in pixels.
        padding: Zeros on all four sides, in pixels.
        groups: Number of channel groups, each convolved separately.
        precision: Of the products, see `jax.lax.Precision`.
    """
    return jax.lax.conv_general_dilated(
        images,
        weight,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        feature_group_count=groups,
        dimension_numbers=LAYOUTS,
        precision=precision,
    )


def plain_convolution(
    left: Float[Array, "..."],
    right: Float[Array, "..."],
    *,
    result: str,
    shape: tuple[int, ...],
    forward: Callable = plain_convolve,
    **window,
) -> Float[Array, "..."]:
    """Returns one of a convolution's three arrays, given the other two.

    Args:
        left: The first array that `GIVEN` names for the result.
        right: The second.
        result: "outputs", or the gradient of "images" or "weight".
        shape: Of the result.
        forward: The convolution, with the signature of `plain_convolve`.
        **window: stride, padding, groups and precision, see `plain_convolve`.
    """
    convolve = functools.partial(forward, **window)
    if result == "outputs":
        return convolve(left, right)
    wanted = jax.ShapeDtypeStruct(shape, left.dtype)
    if result == "images":
        (images,) = jax.linear_transpose(lambda x: convolve(x, right), wanted)(left)
        return images
    (weight,) = jax.linear_transpose(lambda w: convolve(left, w), wanted)(right)
    return weight


def affine(
    y: Float[Array, "b h w d"],
    scale: Float[Array, " d"],
    shift: Float[Array, " d"],
    residual: Float[Array, "b h w d"] | None,
    *,
    relu: bool,
) -> Float[Array, "b h w d"]:
    """Returns y * scale + shift + residual, then max(x, 0), in the dtype of y.

    In bfloat16 it is computed in float32, and rounded once at the end.
    """
    dtype = jnp.promote_types(y.dtype, jnp.float32)
    z = y.astype(dtype) * scale.astype(dtype) + shift.astype(dtype)
    z = z if residual is None else z + residual.astype(dtype)
    return (jax.nn.relu(z) if relu else z).astype(y.dtype)
