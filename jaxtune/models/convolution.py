"""Convolution as a JAX primitive that oneDNN computes on a CPU.

A convolution is linear in its images and in its weights; with the gradient of its
outputs there are three arrays, and any two give the third: outputs from images and
weights, and the gradient of each of those from the other and the outputs'. So the
primitive's transposes are the primitive itself, and `grad`, `jvp` and `vmap` go through
it as often as one likes. The one rule of the file: whatever computes it, the values are
those of `jax.lax.conv_general_dilated` up to rounding.
"""

import functools
import os

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxtune.models import foreign, onednn

_TARGET = "jaxtune_convolution"
_LAYOUTS = ("NHWC", "HWIO", "NHWC")
_WINDOW = ("stride", "padding", "groups")

#: The two arrays that give the third, in the order of the primitive's operands.
_GIVEN = {
    "outputs": ("images", "weight"),
    "images": ("outputs", "weight"),
    "weight": ("images", "outputs"),
}


def xla_convolve(
    images: Float[Array, "b h w c"],
    weight: Float[Array, "k k i d"],
    *,
    stride: int,
    padding: int,
    groups: int = 1,
) -> Float[Array, "b h2 w2 d"]:
    """Returns the convolved images, in JAX's own operation; see `onednn_convolve`."""
    return jax.lax.conv_general_dilated(
        images,
        weight,
        window_strides=(stride, stride),
        padding=[(padding, padding)] * 2,
        feature_group_count=groups,
        dimension_numbers=_LAYOUTS,
    )


def onednn_computes(dtype) -> bool:
    """Returns whether oneDNN convolves here.

    It does float32 and bfloat16 where programs run on one CPU, on Linux and x86-64, the
    library is installed (`onednn-cpu-gomp`, which comes with jaxtune there) and the
    environment's JAXTUNE_ONEDNN is not 0. Elsewhere XLA convolves: the values are the
    same up to rounding, the time is not.

    Args:
        dtype: Of images and weights.
    """
    return (
        np.dtype(dtype).name in onednn.DTYPES
        and os.environ.get("JAXTUNE_ONEDNN", "1") != "0"
        and jax.default_backend() == "cpu"
        # XLA does not divide a call that it knows nothing about among devices.
        and jax.device_count() == 1
        and _registered()
    )


def onednn_convolve(
    images: Float[Array, "b h w c"],
    weight: Float[Array, "k k i d"],
    *,
    stride: int,
    padding: int,
    groups: int,
) -> Float[Array, "b h2 w2 d"]:
    """Returns the convolved images, computed by oneDNN where `onednn_computes`.

    Args:
        images: Images or feature maps, float32 or bfloat16.
        weight: Kernels, of the same dtype; i = c / groups.
        stride: In both directions, in pixels.
        padding: On all four sides, in pixels of zeros.
        groups: Of channels, convolved apart.
    """
    window = {"stride": stride, "padding": padding, "groups": groups}
    shape = _outputs_shape(images, weight, window)
    return _convolution_p.bind(images, weight, result="outputs", shape=shape, **window)


def onednn_convolve_affine(
    images: Float[Array, "b h w c"],
    weight: Float[Array, "k k i d"],
    scale: Float[Array, " d"],
    shift: Float[Array, " d"],
    residual: Float[Array, "b h2 w2 d"] | None,
    *,
    relu: bool,
    stride: int,
    padding: int,
    groups: int,
) -> Float[Array, "b h2 w2 d"]:
    """Returns convolve(images) * scale + shift + residual, then max(x, 0), in one pass.

    Derivatives are those of the operations one after the other, and computed so.

    Args:
        images: Images or feature maps, float32 or bfloat16.
        weight: Kernels, of the same dtype; i = c / groups.
        scale: Of each channel.
        shift: Of each channel.
        residual: Added before the maximum, of the images' dtype, or None.
        relu: Whether the maximum is taken.
        stride: In both directions, in pixels.
        padding: On all four sides, in pixels of zeros.
        groups: Of channels, convolved apart.
    """
    window = (stride, padding, groups)
    return _affine(images, weight, scale, shift, residual, relu, window)


@functools.partial(jax.custom_jvp, nondiff_argnums=(5, 6))
def _affine(images, weight, scale, shift, residual, relu, window):
    window = dict(zip(_WINDOW, window, strict=True))
    shape = _outputs_shape(images, weight, window)
    # oneDNN reads as many numbers as it needs, whatever there is.
    operands = [jnp.broadcast_to(x, shape[-1:]) for x in (scale, shift)]
    operands = [images, weight, *(x.astype("float32") for x in operands)]
    after = ["scale", "shift"]
    if residual is not None:
        operands.append(jnp.broadcast_to(residual, shape).astype(images.dtype))
        after.append("residual")
    after = (*after, *["relu"] * relu)
    return _affine_p.bind(*operands, after=after, shape=shape, **window)


@_affine.defjvp
def _affine_jvp(relu, window, primals, tangents):
    window = dict(zip(_WINDOW, window, strict=True))

    def apart(images, weight, *after):
        return finish(onednn_convolve(images, weight, **window), *after, relu=relu)

    return jax.jvp(apart, primals, tangents)


def finish(
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


def _outputs_shape(images, weight, window):
    plain = functools.partial(xla_convolve, **window)
    return jax.eval_shape(plain, images, weight).shape


@functools.cache
def _registered() -> bool:
    library, made = onednn.library(), {}
    if library is None:
        return False

    def call(operands, settings):
        known = (settings, operands[0].dtype, *(o.shape for o in operands))
        if known not in made:
            made[known] = _operation(library, operands, settings)
        convolution, places = made[known]
        convolution(*[operands[place].address for place in places])

    foreign.register(_TARGET, call)
    return True


def _operation(library, operands, settings):
    """A convolution, and the places of its arrays among the operands."""
    number, chosen, *window = foreign.sizes(settings)
    result = onednn.RESULTS[number]
    after = [n for place, n in enumerate(onednn.AFTER) if chosen >> place & 1]
    further = [name for name in after if name != "relu"]
    names = (*_GIVEN[result], *further, result)
    shapes = {n: foreign.sizes(o.shape) for n, o in zip(names, operands, strict=True)}
    arrays = ["images", "weight", "outputs"]
    convolution = onednn.Convolution(
        library,
        result,
        **{name: shapes[name] for name in arrays},
        **dict(zip(_WINDOW, window, strict=True)),
        dtype=operands[0].dtype,
        after=tuple(after),
    )
    return convolution, [names.index(name) for name in arrays + further]


def _by_xla(left, right, *, result, shape, **window):
    """What the primitive computes, in JAX's own operations."""
    convolution = functools.partial(xla_convolve, **window)
    if result == "outputs":
        return convolution(left, right)
    wanted = jax.ShapeDtypeStruct(shape, left.dtype)
    if result == "images":
        gradient = jax.linear_transpose(lambda x: convolution(x, right), wanted)
        return gradient(left)[0]
    gradient = jax.linear_transpose(lambda w: convolution(left, w), wanted)
    return gradient(right)[0]


def _by_onednn(*operands, shape, result="outputs", after=(), **window):
    call = jax.ffi.ffi_call(_TARGET, jax.ShapeDtypeStruct(shape, operands[0].dtype))
    chosen = sum(1 << onednn.AFTER.index(name) for name in after)
    numbers = (onednn.RESULTS.index(result), chosen, *(window[n] for n in _WINDOW))
    return call(*operands, settings=np.array(numbers, np.int64))


def _affine_by_xla(images, weight, scale, shift, *residual, shape, after, **window):
    y = xla_convolve(images, weight, **window)
    (residual,) = residual or (None,)
    return finish(y, scale, shift, residual, relu="relu" in after)


def _gradient(missing, shape, arrays, window):
    """The primitive's third array, from the two others."""
    left, right = (arrays[name] for name in _GIVEN[missing])
    return _convolution_p.bind(left, right, result=missing, shape=shape, **window)


def _by_left(cotangent, left, right, *, result, shape, **window):
    missing, other = _GIVEN[result]
    arrays = {result: cotangent, other: right}
    return _gradient(missing, left.aval.shape, arrays, window)


def _by_right(cotangent, left, right, *, result, shape, **window):
    other, missing = _GIVEN[result]
    arrays = {result: cotangent, other: left}
    return _gradient(missing, right.aval.shape, arrays, window)


def _primitive(name, static, by_xla):
    """A primitive of arrays which oneDNN computes on a CPU and XLA elsewhere."""
    made = Primitive(name)
    # Outside of a program it is one of its own, compiled once.
    compiled = jax.jit(made.bind, static_argnames=(*static, "shape", *_WINDOW))

    def batched(operands, axes, **settings):
        return jax.vmap(functools.partial(by_xla, **settings), axes)(*operands), 0

    made.def_impl(compiled)
    made.def_abstract_eval(
        lambda images, *_, shape, **__: jax.core.ShapedArray(shape, images.dtype)
    )
    batching.primitive_batchers[made] = batched
    mlir.register_lowering(made, mlir.lower_fun(by_xla, multiple_results=False))
    mlir.register_lowering(
        made, mlir.lower_fun(_by_onednn, multiple_results=False), platform="cpu"
    )
    return made, compiled


_convolution_p, _compiled = _primitive("onednn_convolution", ("result",), _by_xla)
ad.defbilinear(_convolution_p, _by_left, _by_right)
_affine_p, _ = _primitive("onednn_convolution_affine", ("after",), _affine_by_xla)
