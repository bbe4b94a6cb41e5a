"""Convolution as a JAX primitive, lowered to the fastest form on each backend.

A convolution is linear in its images and in its weights; together with its outputs'
gradient there are three arrays, any two of which give the third. So the primitive's
transposes are the primitive itself, and `grad`, `jvp` and `vmap` compose to any order.
How it is computed is decided only when a program is lowered for a backend; the values
are those of `jax.lax.conv_general_dilated` up to rounding.
"""

import functools

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxtune.models.cpu.calls import onednn_computes, onednn_convolution
from jaxtune.models.cpu.forms import cpu_convolution
from jaxtune.models.folded import folded_affine
from jaxtune.models.plain import (
    GIVEN,
    WINDOW,
    affine,
    plain_convolution,
    plain_convolve,
)
from jaxtune.models.space_to_depth import (
    as_squares,
    becomes_squares,
    space_to_depth_convolve,
)


def convolve(
    x: Float[Array, "b h w c"],
    weight: Float[Array, "k k i d"],
    *,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Float[Array, "b h2 w2 d"]:
    """Returns the convolved images, as `torch.nn.functional.conv2d`.

    On a TPU this is `jax.lax.conv_general_dilated`, and on a GPU, except for a photo's
    few channels (see `space_to_depth_convolve`); on a CPU it is oneDNN where that is
    faster (see `onednn_computes`), else XLA's fastest form.

    Args:
        x: Images or feature maps.
        weight: Kernels of the same dtype, or float32 for images of half precision:
            they are rounded to it, and their gradient is float32; i = c / groups.
        stride: In both directions, in pixels.
        padding: Zeros on all four sides, in pixels.
        groups: Number of channel groups, each convolved separately.

    Raises:
        TypeError: If shapes or dtypes don't match, as `jax.lax.conv_general_dilated`.
        ValueError: Likewise.
    """
    window = {"stride": stride, "padding": padding, "groups": groups}
    return _convolution_p.bind(
        x,
        weight,
        result="outputs",
        shape=_outputs_shape(x, weight, window),
        dtype=x.dtype,
        precision=jax.config.jax_default_matmul_precision,
        **window,
    )


def convolve_affine(
    x: Float[Array, "b h w c"],
    weight: Float[Array, "k k i d"],
    scale: Float[Array, " d"],
    shift: Float[Array, " d"],
    residual: Float[Array, "b h2 w2 d"] | None = None,
    *,
    relu: bool = False,
    stride: int = 1,
    padding: int = 0,
    groups: int = 1,
) -> Float[Array, "b h2 w2 d"]:
    """Returns `convolve(x) * scale + shift + residual`, then max(x, 0) with `relu`.

    A convolution followed by a batch norm with running statistics. oneDNN and cuDNN
    compute it all in one pass over the outputs (for cuDNN the scale is folded into the
    weights, see `folded_affine`); elsewhere XLA fuses the elementwise part as usual.
    The derivative is that of the separate operations.

    Args:
        x: Images or feature maps.
        weight: See `convolve`.
        scale: Factor of each output channel.
        shift: Added to each output channel, after the scale.
        residual: Added before the ReLU, or None.
        relu: Whether to apply the ReLU.
        stride: See `convolve`.
        padding: See `convolve`.
        groups: See `convolve`.
    """
    window = (stride, padding, groups)
    return _affine(x, weight, scale, shift, residual, relu, window)


@functools.partial(jax.custom_jvp, nondiff_argnums=(5, 6))
def _affine(x, weight, scale, shift, residual, relu, window):
    window = _named(window)
    shape = _outputs_shape(x, weight, window)
    # oneDNN does not check sizes: it would read past the end of a shorter array.
    operands = [jnp.broadcast_to(s, shape[-1:]) for s in (scale, shift)]
    operands = [x, weight, *(s.astype("float32") for s in operands)]
    after = ["scale", "shift"]
    if residual is not None:
        operands.append(jnp.broadcast_to(residual, shape).astype(x.dtype))
        after.append("residual")
    return _affine_p.bind(
        *operands,
        after=(*after, *["relu"] * relu),
        shape=shape,
        dtype=x.dtype,
        precision=jax.config.jax_default_matmul_precision,
        **window,
    )


@_affine.defjvp
def _affine_jvp(relu, window, primals, tangents):
    def separately(x, weight, *after):
        return affine(convolve(x, weight, **_named(window)), *after, relu=relu)

    return jax.jvp(separately, primals, tangents)


def _named(window):
    return dict(zip(WINDOW, window, strict=True))


def _outputs_shape(x, weight, window):
    if weight.dtype == jnp.float32 and jnp.finfo(x.dtype).bits < 32:
        weight = jax.ShapeDtypeStruct(weight.shape, x.dtype)
    return jax.eval_shape(functools.partial(plain_convolve, **window), x, weight).shape


def _plain_affine(x, weight, *following, after, convolution, shape, **window):
    y = convolution(x, weight, result="outputs", shape=shape, **window)
    scale, shift, *residual = following
    return affine(y, scale, shift, *residual or (None,), relu="relu" in after)


def _folded_affine(x, weight, *following, after, shape, **window):
    scale, shift, *residual = following
    return folded_affine(
        x, weight, scale, shift, *residual or (None,), relu="relu" in after, **window
    )


# The primitives.

#: Compiled primitives for calls outside of `jax.jit`; tests clear their caches.
_compiled = []


def _primitive(name, static, plain, on_cpu, *, on_cuda=None):
    """Makes a primitive from its plain form and its forms for one backend each."""
    primitive = Primitive(name)
    static = (*static, "shape", "dtype", *WINDOW, "precision")
    plain, on_cpu = _in_one_dtype(plain), _in_one_dtype(on_cpu)
    compiled = jax.jit(primitive.bind, static_argnames=static)
    _compiled.append(compiled)

    def computed(*operands, **settings):
        with jax.disable_jit(False):
            return compiled(*operands, **settings)

    def batched(operands, axes, **settings):
        return jax.vmap(functools.partial(plain, **settings), axes)(*operands), 0

    primitive.def_impl(computed)
    primitive.def_abstract_eval(
        lambda *_, shape, dtype, **__: jax.core.ShapedArray(shape, dtype)
    )
    batching.primitive_batchers[primitive] = batched
    lower_plain, lower_on_cpu, lower_onednn, lower_squares = (
        mlir.lower_fun(form, multiple_results=False)
        for form in (plain, on_cpu, onednn_convolution, _onednn_of_squares)
    )

    def lower_for_cpu(context, *operands, precision, **settings):
        if _can_call_onednn(context):
            if _onednn_takes_squares(*context.avals_in, **settings):
                return lower_squares(context, *operands, **settings)
            if onednn_computes(context.avals_in, **settings):
                return lower_onednn(context, *operands, **settings)
        return lower_on_cpu(context, *operands, precision=precision, **settings)

    mlir.register_lowering(primitive, lower_plain)
    mlir.register_lowering(primitive, lower_for_cpu, platform="cpu")
    if on_cuda is not None:
        on_cuda = _in_one_dtype(on_cuda)
        lower_for_cuda = mlir.lower_fun(on_cuda, multiple_results=False)
        mlir.register_lowering(primitive, lower_for_cuda, platform="cuda")
    return primitive


def _in_one_dtype(form):
    """A form that rounds the weights to the images' dtype, for one that needs it so."""

    def computed(left, right, *following, dtype, **settings):
        made = form(left, right.astype(left.dtype), *following, **settings)
        return made.astype(dtype)

    return computed


def _padded_squares(images, weight, padding):
    images, weight, around = as_squares(images, weight, padding=padding)
    return jnp.pad(images, [(0, 0), *around, (0, 0)]), weight


def _onednn_of_squares(images, weight, *following, padding, **settings):
    operands = (*_padded_squares(images, weight, padding), *following)
    return onednn_convolution(*operands, **settings | {"stride": 1, "padding": 0})


def _onednn_takes_squares(images, weight, *following, result="outputs", **settings):
    window = {name: settings[name] for name in WINDOW}
    if result != "outputs" or not becomes_squares(images, weight, **window):
        return False
    squares = functools.partial(_padded_squares, padding=settings["padding"])
    operands = (*jax.eval_shape(squares, images, weight), *following)
    return onednn_computes(operands, **settings | {"stride": 1, "padding": 0})


def _can_call_onednn(context) -> bool:
    """Whether the program being lowered may contain a foreign call.

    Exported programs may not, since the call's target exists in this process only, nor
    programs sharded over several devices, since XLA can't partition foreign calls.
    """
    module = context.module_context
    axes = module.axis_context
    one_device = isinstance(axes, mlir.ShardingContext) and axes.num_devices == 1
    return one_device and not module.lowering_parameters.for_export


def _gradient(missing, wanted, arrays, settings):
    """The third of a convolution's arrays, from the other two."""
    settings |= {"result": missing, "shape": wanted.shape, "dtype": wanted.dtype}
    return _convolution_p.bind(*(arrays[name] for name in GIVEN[missing]), **settings)


def _by_left(cotangent, left, right, *, result, **settings):
    missing, other = GIVEN[result]
    return _gradient(missing, left.aval, {result: cotangent, other: right}, settings)


def _by_right(cotangent, left, right, *, result, **settings):
    other, missing = GIVEN[result]
    return _gradient(missing, right.aval, {result: cotangent, other: left}, settings)


_convolution_p = _primitive(
    "convolution",
    ("result",),
    plain_convolution,
    cpu_convolution,
    on_cuda=functools.partial(plain_convolution, forward=space_to_depth_convolve),
)
ad.defbilinear(_convolution_p, _by_left, _by_right)
_affine_p = _primitive(
    "convolution_affine",
    ("after",),
    functools.partial(_plain_affine, convolution=plain_convolution),
    functools.partial(_plain_affine, convolution=cpu_convolution),
    on_cuda=_folded_affine,
)
