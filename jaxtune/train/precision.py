"""Computing in bfloat16 while everything that is kept stays float32.

A module in, a view of it out. The one rule of the file: parameters and statistics are
shared with the module and keep their dtype; only what flows between layers is narrow.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxtune.arguments import check_choice, check_module
from jaxtune.models import BatchNorm, Conv, Linear
from jaxtune.models.cpu.barrier import cpu_barrier

#: What a network computes in. float16 is left out: its range asks for loss scaling.
ComputePrecision = Literal["float32", "bfloat16"]

_FLAX_NORMS = (
    nnx.BatchNorm,
    nnx.LayerNorm,
    nnx.GroupNorm,
    nnx.InstanceNorm,
    nnx.RMSNorm,
)


def check_precision(precision: Any) -> ComputePrecision:
    """Returns "float32" or "bfloat16" as it is.

    Raises:
        TypeError: If it is no string.
        ValueError: If it is another one.
    """
    return check_choice(precision, "precision", get_args(ComputePrecision))


def with_precision(module: nnx.Module, precision: str) -> nnx.Module:
    """Returns a view of a module which computes in bfloat16 and keeps float32.

    Flax's distinction of `dtype` (computation) and `param_dtype` (storage), for a
    network that is there already. For GPUs and TPUs, where it is faster and activations
    take half the memory; on most CPUs it is slower than float32. bfloat16 has float32's
    range, so no loss is scaled.

    - Layers with a `dtype` (`nnx.Conv`, `nnx.Linear`, `nnx.Einsum`, attention, …), and
      jaxtune's `Conv` and `Linear`, compute in bfloat16, whatever they are given:
      parameters are cast where they are used, so their gradients are float32.
    - Norm layers compute in float32, statistics, weight and bias included, and only
      their output is cast.
    - A module with parameters of its own and no `dtype` computes in float32, as it
      would without this view: what it is given is cast. All others (pooling,
      activations, dropout) compute in the dtype of their input.
    - The network's outputs are float32, and so are loss, metrics, gradients and the
      optimizer. Only on their way between devices are the gradients of such layers
      bfloat16, which each device rounds them to anyway: half the bytes.

    Args:
        module: The network, or a view of it: see `training_view` and `evaluating`,
            which may come before or after.
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
    # Nothing is asked of the view but to be another module with the same variables.
    view = nnx.view(module, raise_if_not_found=False)
    nodes = [node for _, node in nnx.iter_graph(view) if isinstance(node, nnx.Module)]
    for node in nodes:
        _narrow(node)
    _cast(view, None, jnp.float32)
    return view


def _narrow(node: nnx.Module) -> None:
    own = any(isinstance(value, nnx.Variable) for value in vars(node).values())
    if isinstance(node, BatchNorm):
        _cast(node, jnp.float32, jnp.bfloat16)
    elif isinstance(node, Conv | Linear):
        _cast(node, jnp.bfloat16, jnp.bfloat16)
    elif _computes_in(node):
        node.dtype = jnp.bfloat16
        if isinstance(node, _FLAX_NORMS):
            node.promote_dtype = _as_they_are
        _cast(node, None, jnp.bfloat16)
    elif own:
        _cast(node, jnp.float32, None)


def _computes_in(node: nnx.Module) -> bool:
    """Whether a layer's attribute `dtype` says what it computes in."""
    if "dtype" not in vars(node):
        return False
    dtype = node.dtype
    return dtype is None or jnp.issubdtype(jnp.dtype(dtype), jnp.floating)


def _as_they_are(arrays: tuple, *, dtype: Any = None, inexact: bool = True) -> tuple:
    """A norm's `promote_dtype`: its float32 values meet the narrow input in float32."""
    return arrays


def _cast(module: nnx.Module, inputs: Any, outputs: Any) -> None:
    # The class is changed rather than the module wrapped: a wrapper would put its own
    # name into every parameter's path.
    if callable(module):
        kind = _casting_class(type(module), inputs, outputs)
        object.__setattr__(module, "__class__", kind)


@functools.cache
def _casting_class(kind: type, inputs: Any, outputs: Any) -> type:
    # One subclass for each class, so that two views of one network are one graph.
    call: Callable = kind.__call__

    @functools.wraps(call)
    def __call__(self, *args, **kwargs):
        if inputs is not None:
            args, kwargs = _to(inputs, (args, kwargs))
        result = call(self, *args, **kwargs)
        if outputs is None:
            return result
        result = _to(outputs, result)
        return _apart(result) if outputs == jnp.bfloat16 else result

    names = {"__call__": __call__, "__module__": kind.__module__}
    return type(kind.__name__, (kind,), names)


def _apart(tree: Any) -> Any:
    """Keeps a layer apart from the next one where the compiler needs that."""
    # jaxlib 0.12 on a CPU makes one YNNPACK program of several narrow layers and a
    # reduction, which reads memory that nothing wrote: NaN, or worse, some number.
    return _map_arrays(cpu_barrier, tree)


def _to(dtype: Any, tree: Any) -> Any:
    """Casts arrays of the other of the two dtypes."""
    other = jnp.bfloat16 if dtype == jnp.float32 else jnp.float32

    def cast(leaf):
        return leaf.astype(dtype) if leaf.dtype == other else leaf

    return _map_arrays(cast, tree)


def _map_arrays(function: Callable, tree: Any) -> Any:
    """Applies a function to the arrays of a tree, in containers too; to no module's."""

    def apply(leaf):
        is_array = isinstance(leaf, jax.Array | np.ndarray)
        return function(leaf) if is_array else leaf

    # Random streams are trees too; a copy of them would draw the same again.
    return jax.tree.map(
        apply, tree, is_leaf=lambda leaf: not isinstance(leaf, tuple | list | dict)
    )
