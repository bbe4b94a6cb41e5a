"""A convolution in JAX's own operations, its gradients, and what may follow it.

Arrays in, arrays out. The one rule of the file: nothing here is written for one
backend; a GPU or a TPU gets exactly the operations that `jax.lax` and `jax.grad` make.
"""

import functools
from collections.abc import Callable

import jax
from jaxtyping import Array, Float

#: Where dimensions lie: images, weights, outputs.
LAYOUTS = ("NHWC", "HWIO", "NHWC")

#: What says where a convolution's windows lie, in this order.
WINDOW = ("stride", "padding", "groups")

#: A convolution has three arrays, any two of which give the third; these two, in the
#: order of the operands. With the outputs' gradient as outputs, the other two are
#: gradients.
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
    """Returns the convolved images, in JAX's own operation.

    Args:
        images: Images or feature maps.
        weight: Kernels; i = c / groups.
        stride: In both directions, in pixels.
        padding: On all four sides, in pixels of zeros.
        groups: Of channels, convolved apart.
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
    """Returns one of a convolution's three arrays, given the two others.

    Args:
        left: The first array that `GIVEN` names for the result.
        right: The second.
        result: "outputs", or the gradient of "images" or "weight".
        shape: Of the result.
        forward: The convolution, of the form of `plain_convolve`, whose outputs or
            gradients these are.
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
    """Returns y * scale + shift + residual, then max(x, 0), in the dtype of y."""
    y = y * scale.astype(y.dtype) + shift.astype(y.dtype)
    y = y if residual is None else y + residual
    return jax.nn.relu(y) if relu else y
