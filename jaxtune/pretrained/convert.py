"""Renames, transposes and loads published arrays into a module.

Names and shapes are all compared before anything is set, so that a module is filled
entirely or not at all.
"""

import fnmatch
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

SHOWN = 20

#: Which network to use where a file holds two that fit: MoCo's query encoder, DINO's
#: teacher, BYOL's online network.
_PREFERRED = ("encoder_q", "teacher", "online_network", "online_encoder", "model")


class WeightsMismatchError(ValueError):
    """A file's arrays and a network differ in names or shapes.

    Attributes:
        missing: Names that only the network has.
        unexpected: Names that only the file has.
        differing: Name -> (shape in the file, shape in the network).
        difference: The message without its last line, the advice.
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
        super().__init__(message)
        self.difference = difference
        self.missing, self.unexpected = missing, unexpected
        self.differing = dict(differing or {})


def from_torch_layout(name: str, array: np.ndarray) -> np.ndarray:
    """Returns an array of PyTorch's in jaxtune's layout, as a view.

    A `weight` of four dimensions is a convolution's: (out, in, height, width) becomes
    (height, width, in, out). One of two is a linear layer's: (out, in) becomes
    (in, out). Everything else stays as it is.

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
    """Returns the arrays that the network has, if names and shapes agree.

    `num_batches_tracked`, which only PyTorch counts, is ignored on both sides.

    Args:
        arrays: Arrays by name.
        expected: Shapes by name, in the same layout as the arrays.
        allow_missing: Patterns (`fc.*`) of names that the file may lack.
        allow_unexpected: Patterns of names that the network may lack.
        source: What errors call the file.

    Raises:
        WeightsMismatchError: A name is on one side only, or a shape differs. Lists
            the names only the network has (-), those only the file has (+), and the
            shapes that differ, of each the first 20 in sorted order.
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
        sides = missing, unexpected, differing
        difference = _difference(*sides, len(shared), source)
        raise WeightsMismatchError(
            f"{difference}\n{_advice(*sides, len(shared))}",
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
        return "No name fits: the file is of another network, or names were changed."
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
    where it has one, its sharding.

    Args:
        module: Changed in place; it may be abstract (`nnx.eval_shape`).
        arrays: Arrays by name, in PyTorch's layout.
        allow_missing: Patterns of names that keep their value if the file lacks them.
        allow_unexpected: Patterns of names in the file to ignore.
        source: What errors call the file.

    Raises:
        WeightsMismatchError: Names or shapes (shown in PyTorch's layout) differ; the
            module is unchanged.
        TypeError: An array is of integers and should be of floats, or the other way
            round; the module is unchanged.
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
        dtypes = array.dtype, variables[name].get_value().dtype
        if len({jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes}) == 2:
            raise TypeError(
                f"{name} is {dtypes[0]} in {source}, {dtypes[1]} in the network; "
                "quantised weights cannot be loaded"
            )
    values = {name: _value(name, matched[name], variables[name]) for name in matched}
    for name, value in values.items():
        variables[name].set_value(value)


def torch_shapes(module: nnx.Module) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of a module's parameters and statistics, in PyTorch's layout.

    Args:
        module: It may be abstract (`nnx.eval_shape`).

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
    # Without a copy an array on a CPU may share memory with the file's read-only bytes,
    # into which a training step that donates its state would write. NumPy copies, since
    # JAX would compile a program for each shape.
    value = np.array(from_torch_layout(name, array), dtype=old.dtype, order="C")
    return jax.device_put(value, old.sharding if isinstance(old, jax.Array) else None)


def named_as(
    arrays: Mapping[str, Any],
    names: Collection[str],
    *,
    order: Sequence[str] = (),
    optional: str = "",
) -> dict[str, Any]:
    """Returns a file's arrays under a network's names; other arrays keep theirs.

    Any prefix will do, such as `module.encoder_q.` or `backbone.`: the one with which
    most of the network's names are in the file is removed. A network saved as a plain
    list of its children ("0.weight", "4.0.conv1.weight") gets the children's names.

    Args:
        arrays: By their names in the file.
        names: The network's parameters and statistics.
        order: Names of the network's children, in their order.
        optional: Child to ignore when looking for the prefix: the classifier, which the
            file may have for another network only.

    Example:
        >>> named_as({"net.fc.bias": 1, "queue": 2}, ["fc.bias"])
        {'fc.bias': 1, 'queue': 2}
        >>> named_as({"0.weight": 1, "1.bias": 2}, ["conv.weight", "bn.bias"],
        ...          order=["conv", "bn"])
        {'conv.weight': 1, 'bn.bias': 2}
    """
    numbered = {_numbered(name, order): name for name in names} if order else {}
    counted = {n for n in names if not optional or n.split(".")[0] != optional}
    hits: Counter = Counter()
    for name in arrays:
        parts = name.split(".")
        for cut in range(len(parts)):
            rest, prefix = ".".join(parts[cut:]), "".join(f"{p}." for p in parts[:cut])
            if rest in counted:
                hits[prefix, False] += 1
            if numbered.get(rest) in counted:
                hits[prefix, True] += 1
    if not hits:
        return dict(arrays)
    prefix, by_number = min(hits, key=lambda place: _rank(place, hits[place]))
    renamed, others = {}, {}
    for name, array in arrays.items():
        rest = name.removeprefix(prefix)
        if name.startswith(prefix):
            renamed[numbered.get(rest, rest) if by_number else rest] = array
        else:
            others[name] = array
    # Where two have the same name, the network's own array is meant.
    return renamed | {name: others[name] for name in others if name not in renamed}


def _rank(place: tuple[str, bool], count: int) -> tuple:
    prefix, by_number = place
    parts = prefix.split(".")
    preferred = [i for i, part in enumerate(_PREFERRED) if part in parts]
    return (
        -count,
        prefix != "",
        min(preferred, default=len(_PREFERRED)),
        by_number,
        len(prefix),
        prefix,
    )


def _numbered(name: str, order: Sequence[str]) -> str:
    child, _, rest = name.partition(".")
    return f"{order.index(child)}.{rest}" if child in order else name
