"""Turns published arrays into the values of a module, and back.

In: `{name: array}` in PyTorch's layout, and an NNX module whose joined paths are those
names. Out: the module filled. The one rule: everything is compared before anything is
set, so a module is never filled half.
"""

import fnmatch
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

SHOWN = 20


class WeightsMismatchError(ValueError):
    """Tells that arrays and network differ in names or shapes.

    Attributes:
        missing: names that only the network has.
        unexpected: names that only the file has.
        differing: name -> (shape in the file, shape in the network).
        difference: the message without its last line, the advice.
    """

    def __init__(
        self,
        message: str,
        *,
        missing: tuple[str, ...] = (),
        unexpected: tuple[str, ...] = (),
        differing: Mapping[str, tuple] | None = None,
        difference: str = "",
    ) -> None:
        """Takes the message and the three lists it was made from."""
        super().__init__(message)
        self.difference = difference
        self.missing, self.unexpected = missing, unexpected
        self.differing = dict(differing or {})


def from_torch_layout(name: str, array: np.ndarray) -> np.ndarray:
    """Returns an array of PyTorch's in the layout that JAX's networks use.

    A `weight` with four dimensions is a convolution's: (out, in, height, width)
    becomes (height, width, in, out). One with two is a linear layer's: (out, in)
    becomes (in, out). All else stays as it is. The result is a view.

    Example:
        >>> from_torch_layout("conv1.weight", np.zeros((64, 3, 7, 7))).shape
        (7, 7, 3, 64)
    """
    if name.rpartition(".")[2] != "weight" or array.ndim not in (2, 4):
        return array
    return array.T if array.ndim == 2 else array.transpose(2, 3, 1, 0)


def to_torch_layout(name: str, array: np.ndarray) -> np.ndarray:
    """Returns an array in PyTorch's layout; the inverse of `from_torch_layout`.

    Example:
        >>> to_torch_layout("fc.weight", np.zeros((512, 1000))).shape
        (1000, 512)
    """
    if name.rpartition(".")[2] != "weight" or array.ndim not in (2, 4):
        return array
    return array.T if array.ndim == 2 else array.transpose(3, 2, 0, 1)


def match_weights(
    arrays: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[int, ...]],
    *,
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
    source: str = "the file",
) -> dict[str, np.ndarray]:
    """Returns those arrays that the network has, once names and shapes agree.

    `num_batches_tracked`, which only PyTorch counts, is left out on both sides.

    Args:
        arrays: arrays by name.
        expected: shapes by name, in the same layout as the arrays.
        allow_missing: patterns (`fc.*`) of names that the file may lack.
        allow_unexpected: patterns of names that the network may lack.
        source: what the error calls the arrays' origin.

    Raises:
        WeightsMismatchError: a name is on one side only, or a shape differs. Lists
            the names only the network has (-), those only the file has (+), and the
            shapes of both, each sorted and shortened to the first 20.
    """
    arrays = {k: v for k, v in arrays.items() if not _is_count(k)}
    expected = {k: tuple(v) for k, v in expected.items() if not _is_count(k)}
    missing = _outside(expected.keys() - arrays.keys(), allow_missing)
    unexpected = _outside(arrays.keys() - expected.keys(), allow_unexpected)
    shared = sorted(arrays.keys() & expected.keys())
    differing = {
        name: (arrays[name].shape, expected[name])
        for name in shared
        if arrays[name].shape != expected[name]
    }
    if missing or unexpected or differing:
        difference = _difference(missing, unexpected, differing, len(shared), source)
        advice = _advice(missing, unexpected, differing, len(shared))
        raise WeightsMismatchError(
            f"{difference}\n{advice}",
            missing=missing,
            unexpected=unexpected,
            differing=differing,
            difference=difference,
        )
    return {name: arrays[name] for name in shared}


def _is_count(name: str) -> bool:
    return name.rpartition(".")[2] == "num_batches_tracked"


def _outside(names: Iterable[str], patterns: Iterable[str]) -> tuple[str, ...]:
    patterns = tuple(patterns)
    return tuple(
        name
        for name in sorted(names)
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    )


def _difference(
    missing: tuple[str, ...],
    unexpected: tuple[str, ...],
    differing: Mapping[str, tuple],
    shared: int,
    source: str,
) -> str:
    lines = [
        f"the weights in {source} do not fit the network: {len(missing)} names only "
        f"in the network (-), {len(unexpected)} only in the file (+), "
        f"{len(differing)} shapes differ, {shared - len(differing)} fit."
    ]
    lines += _shortened([f"  - {name}" for name in missing])
    lines += _shortened([f"  + {name}" for name in unexpected])
    lines += _shortened(
        [
            f"    {name}: {file} in the file, {network} in the network"
            for name, (file, network) in differing.items()
        ]
    )
    return "\n".join(lines)


def _shortened(lines: list[str]) -> list[str]:
    more = len(lines) - SHOWN
    return lines if more <= 0 else [*lines[:SHOWN], f"    ... and {more} more"]


def _advice(
    missing: tuple[str, ...],
    unexpected: tuple[str, ...],
    differing: Mapping[str, tuple],
    shared: int,
) -> str:
    classifier = {name.rpartition(".")[0] for name in differing}
    if len(classifier) == 1 and not missing and not unexpected:
        return (
            f"Only {classifier.pop()} differs: build the network with the file's "
            "number of classes, then cut it and give it a new head."
        )
    if shared == 0:
        return "No name fits: this is another network's file, or names were changed."
    return (
        "Build the architecture the file was made with, or say which names may differ "
        "(allow_missing, allow_unexpected)."
    )


def load_into(
    module: nnx.Module,
    arrays: Mapping[str, np.ndarray],
    *,
    allow_missing: Iterable[str] = (),
    allow_unexpected: Iterable[str] = (),
    source: str = "the file",
) -> None:
    """Fills a module's parameters and batch statistics with published arrays.

    Every `nnx.Param` and `nnx.BatchStat` is named by its path joined with dots. Values
    keep the variable's dtype (a float16 or bfloat16 file fills a float32 network) and,
    where it has one, its sharding. The module may be abstract (`nnx.eval_shape`).

    Args:
        module: the network, changed in place.
        arrays: arrays by name, in PyTorch's layout.
        allow_missing: patterns of names that keep their value if the file lacks them.
        allow_unexpected: patterns of names in the file to leave aside.
        source: what the errors call the arrays' origin.

    Raises:
        WeightsMismatchError: names or shapes (shown in PyTorch's layout) differ; the
            module is then as it was.
        TypeError: integers stand where a float is expected; likewise.
    """
    variables, expected = _variables(module), torch_shapes(module)
    matched = match_weights(
        arrays,
        expected,
        allow_missing=allow_missing,
        allow_unexpected=allow_unexpected,
        source=source,
    )
    for name, array in matched.items():
        wanted = variables[name].get_value().dtype
        if jnp.issubdtype(wanted, jnp.floating) != jnp.issubdtype(
            array.dtype, jnp.floating
        ):
            raise TypeError(
                f"{name} in {source} is {array.dtype}, the network's is {wanted}; "
                "quantised weights cannot be loaded"
            )
    values = {
        name: _value(name, array, variables[name]) for name, array in matched.items()
    }
    for name, value in values.items():
        variables[name].set_value(value)


def torch_shapes(module: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a module's parameters and statistics, in PyTorch's layout.

    Args:
        module: The module; it may be abstract (`nnx.eval_shape`).

    Example:
        >>> from jaxtune.models import Linear
        >>> torch_shapes(Linear(2, 3, rngs=nnx.Rngs(0)))["weight"]
        (3, 2)
    """
    variables = _variables(module)
    return {name: _torch_shape(name, each) for name, each in variables.items()}


def _variables(module: nnx.Module) -> dict[str, nnx.Variable]:
    return {
        ".".join(str(part) for part in path): node
        for path, node in nnx.iter_graph(module)
        if isinstance(node, nnx.Param | nnx.BatchStat)
    }


def _torch_shape(name: str, variable: nnx.Variable) -> tuple[int, ...]:
    return to_torch_layout(name, np.broadcast_to(0.0, variable.get_value().shape)).shape


def _value(name: str, array: np.ndarray, variable: nnx.Variable) -> jax.Array:
    old = variable.get_value()
    # A copy: on a CPU JAX may otherwise share memory with the file's read-only bytes,
    # and a training step that donates its state would write into them.
    value = jnp.array(from_torch_layout(name, array), dtype=old.dtype, copy=True)
    if isinstance(old, jax.Array):
        value = jax.device_put(value, old.sharding)
    return value
