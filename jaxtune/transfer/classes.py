"""More classes: known ones keep their rows by name, new ones get fresh rows.

Which arrays have a row for each class is found by running the network on shapes, never
by a layer's name.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Num

from jaxtune.arguments import (
    check_flag,
    check_function,
    check_integer,
    check_module,
    described,
)
from jaxtune.data import as_size
from jaxtune.models import BatchNorm, Sequential, call_module, kaiming_normal
from jaxtune.transfer.groups import dotted
from jaxtune.transfer.running import evaluating

#: Attributes in which layers keep the number of their outputs.
_COUNTS = ("out_features", "num_features", "num_classes", "num_outputs", "out_channels")
#: Attributes in which the modules that contain these layers keep it.
_COUNTS_ABOVE = ("out_features", "num_classes", "num_outputs")
#: Attributes in which layers keep a shape that ends with it.
_SHAPES = ("out_features", "kernel_shape", "bias_shape")
#: Larger sets of layers are not tried.
_MOST_LAYERS = 3


class _Layer(NamedTuple):
    """For each array of a layer, the axis that may be that of the classes."""

    path: tuple
    axes: dict[tuple, int]

    def __str__(self) -> str:
        arrays = ", ".join(f"{dotted(path)} axis {a}" for path, a in self.axes.items())
        return f'at="{dotted(self.path)}" ({arrays})'


def class_rows(
    old_classes: Sequence[str],
    new_classes: Sequence[str],
    *,
    extend: bool = True,
    reorder: bool = False,
) -> tuple[int | None, ...]:
    """Returns each new class's position among the old ones; None if it isn't one.

    Args:
        old_classes: The network's classes, in the order of its outputs.
        new_classes: The classes wanted, in order.
        extend: Whether `new_classes` may have further ones.
        reorder: Whether the old ones may be in another order there.

    Raises:
        TypeError: If the classes are not lists of names.
        ValueError: If an old class is missing, there are new ones without `extend`, or
            old ones are in another order without `reorder`; the message says what to
            write.

    Example:
        >>> class_rows(["ant", "bee"], ["ant", "bat", "bee"])
        (0, None, 1)
    """
    extend, reorder = check_flag(extend, "extend"), check_flag(reorder, "reorder")
    for name, classes in (("old_classes", old_classes), ("new_classes", new_classes)):
        if isinstance(classes, str) or not hasattr(classes, "__iter__"):
            raise TypeError(
                f"{name} must be a list of names; received {described(classes)}."
            )
    old, new = list(map(str, old_classes)), list(map(str, new_classes))
    for names in (old, new):
        if len(set(names)) < len(names):
            raise ValueError(f"classes must differ from each other; got {names}.")
    missing = [name for name in old if name not in new]
    unknown = [name for name in new if name not in old]
    if missing:
        raise ValueError(
            "the network knows classes that the data doesn't: "
            f"{_listed(missing)}. Give them to the data, with photos or without: "
            f"classes={[*old, *unknown]!r} where it is made."
        )
    if unknown and not extend:
        raise ValueError(
            "the data has classes that the network doesn't know: "
            f"{_listed(unknown)}. Write extend=True to give it a new row for each; the "
            f"rows of {_listed(old)} stay as they are."
        )
    kept = [name for name in new if name in old]
    if kept != old and not reorder:
        raise ValueError(
            "the data has the network's classes in another order:\n"
            f"  network: {', '.join(old)}\n"
            f"  data:    {', '.join(kept)}\n"
            "Write reorder=True to move each class's row by its name, or "
            f"classes={[*old, *unknown]!r} where the data is made."
        )
    return tuple(old.index(name) if name in old else None for name in new)


def take_rows(
    array: Num[Array | np.ndarray, "..."],
    rows: Sequence[int | None],
    fresh: Num[Array | np.ndarray, "..."],
    *,
    axis: int = -1,
) -> Num[Array, "..."]:
    """Returns an array whose rows are taken from one array, bit for bit, or another.

    Args:
        array: The known rows.
        rows: For each row of the result its position in `array`; None for a fresh one.
        fresh: An array of the result's shape, from which the fresh rows are taken.
        axis: The axis of the rows.

    Example:
        >>> take_rows(jnp.asarray([1.0, 2.0]), (1, None, 0), jnp.zeros(3)).tolist()
        [2.0, 0.0, 1.0]
    """
    known = jnp.asarray([row is not None for row in rows])
    places = jnp.asarray([row or 0 for row in rows])
    shape = [1] * array.ndim
    shape[axis] = len(rows)
    taken = jnp.take(array, places, axis=axis)
    return jnp.where(known.reshape(shape), taken, fresh.astype(array.dtype))


def output_axes(
    network: nnx.Module,
    num_outputs: int,
    *,
    size: int | tuple[int, int] = 64,
    in_channels: int = 3,
    at: str | Sequence[str] | None = None,
) -> dict[str, int]:
    """Returns which arrays of a network have a row for each output, and on which axis.

    Layers whose arrays have an axis of length `num_outputs` are lengthened, on shapes:
    the smallest set of them with which the network runs and has as many more outputs is
    the one. Of a network of body and head, only layers of the head are tried.

    Args:
        network: Maps images (b, h, w, c) to outputs (b, num_outputs).
        num_outputs: Its number of outputs.
        size: Height and width of the images, in pixels.
        in_channels: Channels of the images.
        at: Dotted path of the layer with the outputs ("head.fc"), or of several, where
            the search finds none or several.

    Returns:
        The axis by dotted path, of parameters and statistics.

    Raises:
        ValueError: If no such set of layers exists, or several; they are listed.

    Example:
        >>> from jaxtune import create_cnn_model, resnet18
        >>> net = create_cnn_model(resnet18, 3, pretrained=False)
        >>> output_axes(net, 3)
        {'head.linear2.weight': 1}
    """
    layers = _find(network, num_outputs, _images(size, in_channels), at)
    return {dotted(p): axis for layer in layers for p, axis in layer.axes.items()}


def extend_outputs(
    network: nnx.Module,
    old_classes: Sequence[str],
    new_classes: Sequence[str],
    *,
    reorder: bool = False,
    size: int | tuple[int, int] = 64,
    in_channels: int = 3,
    at: str | Sequence[str] | None = None,
    init: Callable = kaiming_normal,
    rngs: nnx.Rngs | None = None,
) -> nnx.Module:
    """Returns a network with more classes that treats the old ones as before.

    Old classes keep their weights, biases and statistics bit for bit, at whichever
    position. New ones start as in a fresh head: weights drawn by `init`, biases 0,
    norms at 1 and 0 (a bias of 1e-3, as in `create_head`), any other row at the mean of
    the old ones.

    Args:
        network: Maps images (b, h, w, c) to outputs, one for each old class; it is not
            changed.
        old_classes: In the order of its outputs.
        new_classes: All classes wanted, the old ones included, in order.
        reorder: Whether the old ones may be in another order there.
        size: Height and width of the images, in pixels.
        in_channels: Channels of the images.
        at: Where the outputs are, see `output_axes`.
        init: Draws weights: `init(key, shape)` with the classes on the last axis.
        rngs: Stream `params` draws the new rows; `nnx.Rngs(0)` if None.

    Returns:
        A network of the same kind, with the same paths; arrays without a row for each
        class are shared with the one given.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If an old class is missing, or in another place without `reorder`,
            or it is ambiguous which arrays have a row for each class.
    """
    check_module(network, "network")
    in_channels = check_integer(in_channels, "in_channels", least=1)
    check_function(init, "init", "a function (key, shape) -> array")
    rows = class_rows(old_classes, new_classes, reorder=reorder)
    graphdef, state = nnx.split(network)
    # New variables that hold the same arrays.
    extended = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf, state))
    if rows == tuple(range(len(old_classes))):
        return extended
    images = _images(size, in_channels)
    layers = _find(network, len(old_classes), images, at)
    keys = nnx.Rngs(0) if rngs is None else rngs
    for layer in layers:
        node = _follow(extended, layer.path)
        _set_count(extended, layer.path, len(old_classes), len(rows))
        for path, axis in layer.axes.items():
            variable = _follow(extended, path)
            old = variable[...]
            fresh = _fresh(node, path[-1], old, axis, len(rows), init, keys)
            variable.set_value(take_rows(old, rows, fresh, axis=axis))
    return extended


# Where the outputs are.


def _find(network, count: int, images, at) -> list[_Layer]:
    part, inputs = network, images
    if isinstance(network, Sequential) and len(network) == 2:
        # Body and head: the body runs once; the head keeps its paths.
        part = Sequential({network.names[1]: network[1]})
        inputs = _run(network[0], images)
    layers = _candidates(part, count)
    if at is not None:
        return _named(layers, (at,) if isinstance(at, str) else tuple(at), count)
    # A length that no other axis has.
    longer = max([count, *(n for _, leaf in _arrays(part) for n in leaf.shape)]) + 1

    def fits(chosen: Sequence[_Layer]) -> bool:
        try:
            outputs = _run(part, inputs, lambda m: _lengthen(m, chosen, count, longer))
        except (TypeError, ValueError, ZeroDivisionError):
            return False
        return getattr(outputs, "shape", None) == (1, longer)

    fitting: list[tuple[_Layer, ...]] = []
    for number in range(1, min(_MOST_LAYERS, len(layers)) + 1):
        fitting = [
            chosen
            for chosen in itertools.combinations(layers, number)
            if len({layer.path for layer in chosen}) == number and fits(chosen)
        ]
        if fitting:
            break
    if len(fitting) == 1 and count == 1:
        # An array with one row fits any number of outputs: others may have rows, too.
        (only,) = fitting
        others = [(*only, layer) for layer in layers if layer not in only]
        fitting += filter(fits, others)
    if len(fitting) != 1:
        raise _unclear(count, layers if not fitting else itertools.chain(*fitting))
    return list(fitting[0])


def _candidates(part: nnx.Module, count: int) -> list[_Layer]:
    """Returns each layer with arrays that have an axis of that length.

    A layer whose tables have it as last axis and as another one is returned twice.
    """
    around: dict[tuple, dict[tuple, tuple[int, ...]]] = {}
    for path, leaf in _arrays(part):
        if count in leaf.shape:
            around.setdefault(path[:-1], {})[path] = leaf.shape
    layers = []
    for place, shapes in around.items():
        vectors = {path: 0 for path, shape in shapes.items() if len(shape) == 1}
        tables = {path: shape for path, shape in shapes.items() if len(shape) > 1}
        last = {p: len(s) - 1 for p, s in tables.items() if s[-1] == count}
        first = {p: s.index(count) for p, s in tables.items() if count in s[:-1]}
        if last or not first:
            layers.append(_Layer(place, last | vectors))
        if first:
            layers.append(_Layer(place, first | vectors))
    return layers


def _named(layers: list[_Layer], at: tuple[str, ...], count: int) -> list[_Layer]:
    chosen = []
    for name in at:
        # Where the classes are the last axis comes first.
        here = [layer for layer in layers if dotted(layer.path) == name]
        if not here:
            raise _unclear(count, layers, f" None of its layers is called {name!r}.")
        chosen.append(here[0])
    return chosen


def _unclear(count: int, layers: Iterable[_Layer], more: str = "") -> ValueError:
    listed = "".join(f"\n  {layer}" for layer in dict.fromkeys(map(str, layers)))
    return ValueError(
        f"can't tell which layers of the head have a row for each of {count} outputs."
        f"{more} Choose with at=, the path of a layer or a list of them"
        + (f":{listed}" if listed else "; none has an axis of that length.")
    )


def _arrays(part: nnx.Module) -> list[tuple[tuple, Any]]:
    state = nnx.state(part, nnx.Not(nnx.RngState))
    return [
        (path, leaf)
        for path, leaf in nnx.to_flat_state(state)
        if hasattr(leaf, "shape") and len(leaf.shape)
    ]


def _images(size: int | tuple[int, int], in_channels: int) -> jax.ShapeDtypeStruct:
    height, width = as_size(size)
    return jax.ShapeDtypeStruct((1, height, width, in_channels), jnp.float32)


def _run(module: nnx.Module, inputs, change: Callable = lambda module: module):
    graphdef, state = nnx.split(evaluating(module))
    return jax.eval_shape(
        lambda state, x: call_module(change(nnx.merge(graphdef, state)), x),
        state,
        inputs,
    )


def _lengthen(part, layers: Sequence[_Layer], old: int, new: int):
    for layer in layers:
        _set_count(part, layer.path, old, new)
        for path, axis in layer.axes.items():
            variable = _follow(part, path)
            shape = list(variable.shape)
            shape[axis] = new
            variable.set_value(jnp.zeros(shape, variable.dtype))
    return part


# The extended network.


def _follow(root, path: Sequence):
    for key in path:
        held = isinstance(root, Mapping | nnx.Dict | Sequence | nnx.List)
        root = root[key] if held else getattr(root, key)
    return root


def _set_count(root, path: Sequence, old: int, new: int) -> None:
    """Changes the number of outputs in the attributes of a layer and its parents."""
    for depth in range(len(path) + 1):
        node = _follow(root, path[:depth])
        for name in _COUNTS if depth == len(path) else _COUNTS_ABOVE:
            count = getattr(node, name, None)
            if isinstance(count, int) and count == old:
                setattr(node, name, new)
    for name in _SHAPES:
        shape = getattr(node, name, None)
        if isinstance(shape, tuple) and shape and shape[-1] == old:
            setattr(node, name, (*shape[:-1], new))


def _fresh(node, name: str, old, axis: int, count: int, init, rngs: nnx.Rngs):
    """Returns an array with `count` rows as in a fresh layer."""
    if old.ndim > 1:
        shape = [n for i, n in enumerate(old.shape) if i != axis]
        return jnp.moveaxis(init(rngs.params(), (*shape, count)), -1, axis)
    norm = isinstance(node, BatchNorm | nnx.BatchNorm)
    if name == "bias":
        return jnp.full(count, 1e-3 if isinstance(node, BatchNorm) else 0.0)
    if norm:
        return jnp.full(count, 0.0 if "mean" in name else 1.0)
    return jnp.full(count, old.mean())


def _listed(names: Sequence[str], most: int = 20) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
