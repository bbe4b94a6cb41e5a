"""Layers with PyTorch's arithmetic and PyTorch's parameter names, in JAX's layouts.

Images are (b, h, w, c). Arrays have PyTorch's names (`weight`, `bias`, `running_mean`,
`running_var`), so that a parameter's path is its published name, and JAX's layouts:
convolutions (h, w, in, out), linear layers (in, out).
"""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Shaped

from jaxtune.models.convolution import convolve, convolve_affine
from jaxtune.models.cpu.barrier import cpu_barrier
from jaxtune.models.pooling import max_pool


def kaiming_normal(
    key: Array, shape: tuple[int, ...], *, fan: str = "fan_in"
) -> Float[Array, "..."]:
    """Returns normal draws with standard deviation sqrt(2 / fan), float32.

    Args:
        key: A `jax.random` key.
        shape: Of the weights: (h, w, in, out) or (in, out).
        fan: `"fan_in"` preserves variance in the forward pass, `"fan_out"` in the
            backward pass.

    References:
        He et al., "Delving Deep into Rectifiers", https://arxiv.org/abs/1502.01852.
        `torch.nn.init.kaiming_normal_` with nonlinearity="relu".
    """
    if _without_values.get():
        return jnp.zeros(shape, jnp.float32)
    return _draw(key, tuple(shape), fan)


_without_values = contextvars.ContextVar("without_values", default=False)


@contextlib.contextmanager
def without_values() -> Iterator[None]:
    """Layers made inside draw nothing, for `nnx.eval_shape`, which only traces."""
    token = _without_values.set(True)
    try:
        yield
    finally:
        _without_values.reset(token)


@functools.partial(jax.jit, static_argnames=("shape", "fan"))
def _draw(key, shape, fan):
    """One program for each shape, where the initializer by itself compiles four."""
    draw = jax.nn.initializers.variance_scaling(2.0, fan, "normal")
    return draw(key, shape, jnp.float32)


def as_dtype(x: Shaped[Array, "*b"], dtype: Any) -> Shaped[Array, "*b"]:
    """Returns a layer's output in the dtype that the layer was told, if any.

    Args:
        x: The output; integers and booleans stay as they are.
        dtype: The layer's `dtype`; None returns the output as it is.
    """
    if dtype is None or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    x = x.astype(dtype)
    # jaxlib 0.12 on a CPU fuses bfloat16 layers and a reduction into one YNNPACK kernel
    # that reads uninitialized memory: the result is NaN or an arbitrary number.
    return cpu_barrier(x) if x.dtype == jnp.bfloat16 else x


class Conv(nnx.Module):
    """Two-dimensional convolution with explicit padding, as `torch.nn.Conv2d`.

    Maps (b, h, w, in) to (b, h', w', out), where h' is
    (h + 2 * padding - kernel) // stride + 1.

    Attributes:
        dtype: To compute in; None for that of the input. Set by `with_precision`.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        use_bias: bool = False,
        rngs: nnx.Rngs,
    ):
        """Draws the weights as torchvision's ResNets do (kaiming normal, fan out)."""
        shape = (kernel_size, kernel_size, in_channels // groups, out_channels)
        self.weight = nnx.Param(kaiming_normal(rngs.params(), shape, fan="fan_out"))
        if use_bias:
            self.bias = nnx.Param(jnp.zeros((out_channels,), jnp.float32))
        self.use_bias = use_bias
        self.kernel_size = kernel_size
        self.stride = stride
        self.padding = padding
        self.groups = groups
        self.dtype = None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Returns the convolved images."""
        x = x if self.dtype is None else x.astype(self.dtype)
        y = convolve(
            x,
            self._weight_for(x),
            stride=self.stride,
            padding=self.padding,
            groups=self.groups,
        )
        y = y + self.bias[...].astype(x.dtype) if self.use_bias else y
        return as_dtype(y, self.dtype)

    def _weight_for(self, x):
        """The weight in the dtype of x, or as it is where the convolution rounds it."""
        weight = self.weight[...]
        rounds = weight.dtype == jnp.float32 and x.dtype == jnp.bfloat16
        return weight if rounds else weight.astype(x.dtype)


class Linear(nnx.Module):
    """Affine map of the last axis, as `torch.nn.Linear` with its weight transposed.

    Attributes:
        dtype: To compute in; None for that of the input. Set by `with_precision`.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        use_bias: bool = True,
        rngs: nnx.Rngs,
    ):
        """Draws the weight kaiming normal (fan in); the bias starts at 0."""
        key = rngs.params()
        self.weight = nnx.Param(kaiming_normal(key, (in_features, out_features)))
        if use_bias:
            self.bias = nnx.Param(jnp.zeros((out_features,), jnp.float32))
        self.use_bias = use_bias
        self.dtype = None

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b d"]:
        """Returns x @ weight + bias."""
        x = x if self.dtype is None else x.astype(self.dtype)
        y = x @ self.weight[...].astype(x.dtype)
        y = y + self.bias[...].astype(x.dtype) if self.use_bias else y
        return as_dtype(y, self.dtype)


class BatchNorm(nnx.Module):
    """Batch normalization over all axes but the last, with PyTorch's statistics.

    Unlike in `flax.nnx.BatchNorm`, the running variance is updated with the unbiased
    batch variance (n / (n - 1)), and `momentum` is the weight of the new batch (0.1
    keeps 90 % of the old value). Statistics are float32 whatever the input's dtype.

    Attributes:
        dtype: Of the output, which is computed in float32 then; None computes in the
            dtype of the input. Set by `with_precision`.
        batch_parts: Equal parts of the batch, one after the other, each of which is
            normalised by its own statistics ("ghost batch normalization"). With as many
            as there are devices, these exchange nothing for it but the means of the
            parts' statistics, which update the running ones. Set by `training_view`.

    References:
        Hoffer et al., "Train longer, generalize better",
        https://arxiv.org/abs/1705.08741, for statistics of parts of a batch.
        Ioffe and Szegedy, "Batch Normalization", https://arxiv.org/abs/1502.03167.
        `torch.nn.BatchNorm2d`, PyTorch 2.13.
    """

    def __init__(
        self,
        num_features: int,
        *,
        momentum: float = 0.1,
        epsilon: float = 1e-5,
        bias: float = 0.0,
    ):
        """Initializes weight to 1 and bias as given; uses batch statistics."""
        self.weight = nnx.Param(jnp.ones((num_features,), jnp.float32))
        self.bias = nnx.Param(jnp.full((num_features,), bias, jnp.float32))
        self.running_mean = nnx.BatchStat(jnp.zeros((num_features,), jnp.float32))
        self.running_var = nnx.BatchStat(jnp.ones((num_features,), jnp.float32))
        self.momentum = momentum
        self.epsilon = epsilon
        self.use_running_average = False
        self.dtype = None
        self.batch_parts = 1

    def set_view(
        self, use_running_average: bool | None = None, batch_parts: int | None = None
    ):
        """Chooses the statistics to normalise with; called by `nnx.view`."""
        if use_running_average is not None:
            self.use_running_average = use_running_average
        if batch_parts is not None:
            self.batch_parts = batch_parts

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
        """Returns the normalized input; in train mode also updates the statistics."""
        if self.use_running_average:
            scale, shift = self.affine()
        elif self.batch_parts > 1:
            return self._in_parts(x)
        else:
            scale, shift = self._affine(*self._batch_statistics(x))
        x = x if self.dtype is None else x.astype(jnp.float32)
        return as_dtype(_scaled(x, scale, shift), self.dtype)

    def affine(self) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """Returns scale and shift by channel, given the running statistics."""
        return self._affine(self.running_mean[...], self.running_var[...])

    def _affine(self, mean, var):
        scale = self.weight[...] * jax.lax.rsqrt(var + self.epsilon)
        return scale, self.bias[...] - mean * scale

    def _batch_statistics(self, x):
        mean, var = _mean_and_var(x)
        self._update(mean, var, x.size // x.shape[-1])
        return mean, var

    def _in_parts(self, x):
        parts = x.reshape(self.batch_parts, -1, *x.shape[1:])
        mean, var = jax.vmap(_mean_and_var)(parts)
        self._update(mean.mean(0), var.mean(0), x.size // x.shape[-1] // len(parts))
        affine = jax.vmap(self._affine)(mean, var)
        parts = parts if self.dtype is None else parts.astype(jnp.float32)
        y = jax.vmap(_scaled)(parts, *affine)
        return as_dtype(y.reshape(x.shape), self.dtype)

    def _update(self, mean, var, count):
        unbiased = var * (count / max(count - 1, 1))
        keep = 1.0 - self.momentum
        self.running_mean[...] = keep * self.running_mean[...] + self.momentum * mean
        self.running_var[...] = keep * self.running_var[...] + self.momentum * unbiased


def _scaled(x, scale, shift):
    return x * scale.astype(x.dtype) + shift.astype(x.dtype)


def _mean_and_var(x):
    axes = tuple(range(x.ndim - 1))
    x = x.astype(jnp.float32)
    mean = x.mean(axes)
    return mean, jnp.maximum((x * x).mean(axes) - mean * mean, 0.0)


class ReLU(nnx.Module):
    """max(x, 0), with gradient 0 at 0 as in PyTorch."""

    def __call__(self, x: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Returns max(x, 0)."""
        return jax.nn.relu(x)


class Identity(nnx.Module):
    """Returns its input; a placeholder that keeps the published numbering."""

    def __call__(self, x: Float[Array, "*b"]) -> Float[Array, "*b"]:
        """Returns x."""
        return x


class MaxPool(nnx.Module):
    """Maximum over windows with explicit padding, as `torch.nn.MaxPool2d`."""

    def __init__(self, window: int, *, stride: int, padding: int = 0):
        """Sets window, stride and padding, in pixels."""
        self.window, self.stride, self.padding = window, stride, padding

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        """Returns the maxima; padding is -inf, so it is never one."""
        return max_pool(x, self.window, self.stride, self.padding)


class AvgPool(nnx.Module):
    """Mean over windows, including partial windows at the far edges.

    As `torch.nn.AvgPool2d(window, window, ceil_mode=True, count_include_pad=False)`,
    which timm's "d" networks use in their shortcuts.
    """

    def __init__(self, window: int):
        """Sets the window, which is also the stride, in pixels."""
        self.window = window

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 c"]:
        """Returns the means."""
        size = (self.window, self.window)
        padding = [(0, -length % self.window) for length in x.shape[1:3]]
        return nnx.avg_pool(x, size, size, padding, count_include_pad=False)


class GlobalAvgPool(nnx.Module):
    """Mean over height and width: `AdaptiveAvgPool2d(1)` and flatten."""

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b c"]:
        """Returns the mean over height and width."""
        return x.mean((1, 2))


def conv_norm(
    conv: nnx.Module,
    norm: nnx.Module,
    x: Float[Array, "b h w c"],
    *,
    residual: Callable[[], Float[Array, "b h2 w2 d"]] | None = None,
    relu: bool = False,
) -> Float[Array, "b h2 w2 d"]:
    """Returns relu(norm(conv(x)) + residual()), fused into one operation if possible.

    It is possible if the modules are exactly `Conv` (without bias) and `BatchNorm`
    using running statistics. Other modules, and views whose classes were changed to
    record their calls, are called one by one. In bfloat16 the fused operation rounds
    once, where the modules one by one round three times.

    Args:
        conv: A convolution.
        norm: The norm layer after it.
        x: Images or feature maps.
        residual: Returns what is added to the normalized outputs. A function, so that
            modules are called in PyTorch's order: the shortcut's last.
        relu: Whether to apply the ReLU to the sum.
    """
    if _is_affine(conv, norm):
        x = x if conv.dtype is None else x.astype(conv.dtype)
        y = convolve_affine(
            x,
            conv._weight_for(x),
            *norm.affine(),
            residual() if residual else None,
            relu=relu,
            stride=conv.stride,
            padding=conv.padding,
            groups=conv.groups,
        )
        return as_dtype(y, norm.dtype)
    y = norm(conv(x))
    y = y + residual() if residual else y
    return nnx.relu(y) if relu else y


def in_one_operation(children: Sequence[Callable]) -> int:
    """Returns how many of the first children `conv_norm` can fuse.

    Args:
        children: Modules and functions in the order of application.

    Returns:
        3 for convolution, norm and ReLU, 2 for convolution and norm, else 0.
    """
    if len(children) < 2 or not _is_affine(*children[:2]):
        return 0
    return 3 if len(children) > 2 and type(children[2]) is ReLU else 2


def _is_affine(conv, norm) -> bool:
    exact = type(conv) is Conv and type(norm) is BatchNorm
    return exact and norm.use_running_average and not conv.use_bias
