"""Mixed precision: computing in bfloat16 with parameters and statistics in float32.

The bfloat16 view of a module shares its variables, which keep their dtype; only
activations are bfloat16.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxtune.arguments import check_choice, check_module
from jaxtune.models import BatchNorm, Conv, Linear
from jaxtune.models.cpu.calls import onednn_multiplies_bfloat16
from jaxtune.models.layers import as_dtype
from jaxtune.train.freezing import FLAX_NORMS

#: Dtypes to compute in. float16 is not supported: its range requires loss scaling.
ComputePrecision = Literal["float32", "bfloat16"]

#: AMD's chips that multiply bfloat16.
_AMD = ("gfx90a", "gfx940", "gfx941", "gfx942", "gfx950")


def check_precision(precision: Any) -> ComputePrecision:
    """Returns "float32" or "bfloat16" as it is.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is another string.
    """
    return check_choice(precision, "precision", get_args(ComputePrecision))


def choose_precision(precision: Any, devices: Sequence[Any]) -> ComputePrecision:
    """Returns the dtype to compute in on some devices.

    Args:
        precision: "float32", "bfloat16", or "auto": bfloat16 where all devices multiply
            it faster than float32, as TPUs, NVIDIA's GPUs from Ampere (compute
            capability 8.0) on, AMD's from MI200 on, and a CPU with matrix units (AMX)
            where oneDNN convolves (see `onednn_multiplies_bfloat16`); float32 on other
            CPUs, on several devices of a CPU, on older GPUs and on devices that don't
            say what they are.
        devices: JAX's devices, see `local_devices`.

    Raises:
        TypeError: If `precision` is not a string.
        ValueError: If it is another string.

    Example:
        >>> choose_precision("auto", jax.devices("cpu") * 2)
        'float32'
    """
    choices = ("auto", *get_args(ComputePrecision))
    chosen = check_choice(precision, "precision", choices)
    if chosen != "auto":
        return chosen
    multiplied = all(map(_multiplies_bfloat16, devices))
    # XLA's own convolutions, which several devices of a CPU have, are slower in it.
    one_or_not_a_cpu = len(devices) == 1 or devices[0].platform != "cpu"
    return "bfloat16" if multiplied and one_or_not_a_cpu else "float32"


def _multiplies_bfloat16(device: Any) -> bool:
    if device.platform == "tpu":
        return True
    if device.platform == "cpu":
        return onednn_multiplies_bfloat16()
    kind = str(getattr(device, "compute_capability", ""))
    if kind.startswith("gfx"):
        return kind.split(":")[0] in _AMD
    try:
        return float(kind) >= 8.0
    except ValueError:
        return False


def with_precision(module: nnx.Module, precision: str) -> nnx.Module:
    """Returns a view of a module that computes in bfloat16, with float32 parameters.

    It sets Flax's `dtype` (of computation), not `param_dtype` (of storage), on an
    existing network. It is for GPUs, TPUs and CPUs with matrix units, where it is
    faster and halves the memory of activations; on other CPUs it is slower than
    float32. bfloat16 has the range of float32, so no loss scaling is needed.

    - Layers with a `dtype` (`nnx.Conv`, `nnx.Linear`, `nnx.Einsum`, attention, …), and
      jaxtune's `Conv` and `Linear`, compute in bfloat16, whatever their inputs' dtype.
      Parameters are cast where they are used, so their gradients are float32.
    - Norm layers compute in float32, including statistics, weight and bias; only their
      output is cast.
    - Other modules that hold variables themselves and have no `dtype` compute in
      float32, as they would without this view: their inputs are cast. All others
      (pooling, activations, dropout) compute in the dtype of their input.
    - The network's outputs are float32, and so are loss, metrics, gradients and the
      optimizer. Only between devices are the gradients of bfloat16 layers exchanged in
      bfloat16, to which each device rounds them anyway: half the bytes.

    Args:
        module: The network, or a view of it; `training_view` and `evaluating` can be
            applied before or after.
        precision: "bfloat16"; "float32" returns the module as it is.

    Raises:
        ValueError: If `precision` is something else.

    Example:
        >>> from jaxtune.models import Linear
        >>> layer = Linear(3, 2, rngs=nnx.Rngs(0))
        >>> narrow = with_precision(layer, "bfloat16")
        >>> narrow(jnp.ones((1, 3))).dtype.name, narrow.weight is layer.weight
        ('float32', True)

    References:
        Kalamkar et al., "A Study of BFLOAT16 for Deep Learning Training",
        https://arxiv.org/abs/1905.12322. Flax 0.12, `nnx.Linear` (dtype, param_dtype);
        Keras 3, mixed precision policy "mixed_bfloat16".
    """
    check_module(module, "module")
    check_precision(precision)
    if precision == "float32":
        return module
    # No mode is changed: the view is only a new module with the same variables.
    view = nnx.view(module, raise_if_not_found=False)
    nodes = [node for _, node in nnx.iter_graph(view) if isinstance(node, nnx.Module)]
    for node in nodes:
        _narrow(node)
    _cast(view, None, jnp.float32)
    return view


def _narrow(node: nnx.Module) -> None:
    own = any(isinstance(value, nnx.Variable) for value in vars(node).values())
    if type(node) in (BatchNorm, Conv, Linear):
        node.dtype = jnp.bfloat16
    elif isinstance(node, BatchNorm):
        _cast(node, jnp.float32, jnp.bfloat16)
    elif isinstance(node, Conv | Linear):
        _cast(node, jnp.bfloat16, jnp.bfloat16)
    elif _computes_in(node):
        node.dtype = jnp.bfloat16
        if isinstance(node, FLAX_NORMS):
            node.promote_dtype = _unchanged
        _cast(node, None, jnp.bfloat16)
    elif own:
        _cast(node, jnp.float32, None)


def _computes_in(node: nnx.Module) -> bool:
    """Whether a layer has an attribute `dtype` for its computation."""
    if "dtype" not in vars(node):
        return False
    dtype = node.dtype
    return dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.floating)


def _unchanged(arrays: tuple, *, dtype: Any = None, inexact: bool = True) -> tuple:
    """A norm's `promote_dtype`: JAX then promotes bfloat16 inputs to float32."""
    return arrays


def _cast(module: nnx.Module, inputs: Any, outputs: Any) -> None:
    # The module's class is replaced: a wrapper would add its own name to the path of
    # every parameter.
    if callable(module):
        kind = _casting_class(type(module), inputs, outputs)
        object.__setattr__(module, "__class__", kind)


@functools.cache
def _casting_class(kind: type, inputs: Any, outputs: Any) -> type:
    # Cached, so that two views of a network have equal graph definitions.
    call: Callable = kind.__call__

    @functools.wraps(call)
    def __call__(self, *args, **kwargs):
        if inputs is not None:
            args, kwargs = _to(inputs, (args, kwargs))
        result = call(self, *args, **kwargs)
        if outputs is None:
            return result
        return _map_arrays(functools.partial(as_dtype, dtype=outputs), result)

    names = {"__call__": __call__, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), names)


def _to(dtype: Any, tree: Any) -> Any:
    """Casts float32 and bfloat16 arrays to one of the two."""
    other = jnp.bfloat16 if dtype == jnp.float32 else jnp.float32

    def cast(leaf):
        return leaf.astype(dtype) if leaf.dtype == other else leaf

    return _map_arrays(cast, tree)


def _map_arrays(function: Callable, tree: Any) -> Any:
    """Applies a function to the arrays in tuples, lists and dicts, not in modules."""

    def apply(leaf):
        is_array = isinstance(leaf, jax.Array | np.ndarray)
        return function(leaf) if is_array else leaf

    # Streams of random keys are trees too; a copy would draw the same numbers again.
    return jax.tree.map(
        apply, tree, is_leaf=lambda leaf: not isinstance(leaf, tuple | list | dict)
    )
