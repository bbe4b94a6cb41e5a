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
    plain = functools.partial(xla_convolve, **window)
    shape = jax.eval_shape(plain, images, weight).shape
    return _convolution_p.bind(images, weight, result="outputs", shape=shape, **window)


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
        convolution(*(operands[place].address for place in places))

    foreign.register(_TARGET, call)
    return True


def _operation(library, operands, settings):
    """A convolution, and the places of its three arrays among the operands."""
    number, *window = foreign.sizes(settings)
    result = onednn.RESULTS[number]
    names = (*_GIVEN[result], result)
    convolution = onednn.Convolution(
        library,
        result,
        **{n: foreign.sizes(o.shape) for n, o in zip(names, operands, strict=True)},
        **dict(zip(_WINDOW, window, strict=True)),
        dtype=operands[0].dtype,
    )
    return convolution, [names.index(n) for n in ("images", "weight", "outputs")]


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


def _by_onednn(left, right, *, result, shape, **window):
    call = jax.ffi.ffi_call(_TARGET, jax.ShapeDtypeStruct(shape, left.dtype))
    settings = [onednn.RESULTS.index(result), *(window[name] for name in _WINDOW)]
    return call(left, right, settings=np.array(settings, np.int64))


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


def _batched(operands, axes, **settings):
    return jax.vmap(functools.partial(_by_xla, **settings), axes)(*operands), 0


_convolution_p = Primitive("onednn_convolution")


@functools.partial(jax.jit, static_argnames=("result", "shape", *_WINDOW))
def _compiled(left, right, **settings):
    return _convolution_p.bind(left, right, **settings)


_convolution_p.def_impl(_compiled)
_convolution_p.def_abstract_eval(
    lambda left, right, *, shape, **_: jax.core.ShapedArray(shape, left.dtype)
)
ad.defbilinear(_convolution_p, _by_left, _by_right)
batching.primitive_batchers[_convolution_p] = _batched
mlir.register_lowering(_convolution_p, mlir.lower_fun(_by_xla, multiple_results=False))
mlir.register_lowering(
    _convolution_p, mlir.lower_fun(_by_onednn, multiple_results=False), platform="cpu"
)
