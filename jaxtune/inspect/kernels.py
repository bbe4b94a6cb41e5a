"""The first convolution's kernels as pictures, and how training changed them.

A weight of 0 is always middle grey, and pictures that are compared share one scale.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx
from jaxtyping import Float

from jaxtune.arguments import check_module, described
from jaxtune.checkpoint import find_checkpoint, load_checkpoint
from jaxtune.inspect.diff import Snapshot
from jaxtune.plots import new_figure
from jaxtune.train import split_module
from jaxtune.transfer.running import children_of

#: Width and height in inches of one picture of all kernels.
_SIDE = 4.2


def first_layer_kernels(module: nnx.Module) -> Float[np.ndarray, "n kh kw 3"]:
    """Returns the kernels of a network's first convolution as RGB pictures.

    Each kernel is scaled on its own: a weight of 0 becomes 0.5, and its weight of
    largest magnitude becomes 1 if positive, 0 if negative.

    Args:
        module: A network or a body. Its first convolution is the first submodule, depth
            first, with a weight (kh, kw, in, out) called `weight` or `kernel`.

    Returns:
        One picture for each output channel, float32 in 0..1. One input channel gives
        grey; with two, blue is 0.5 throughout; beyond three, only the first three are
        shown.

    Raises:
        ValueError: If there is no convolution.

    Example:
        >>> from jaxtune import Conv
        >>> first_layer_kernels(Conv(3, 64, 7, rngs=nnx.Rngs(0))).shape
        (64, 7, 7, 3)
    """
    check_module(module, "module")
    kernels = first_weight(module)[1]
    return 0.5 + 0.5 * _as_rgb(kernels / _largest(kernels))


def first_weight(module: nnx.Module) -> tuple[tuple[str, ...], np.ndarray]:
    """Returns the path of the first convolution's weight, and it as (n, kh, kw, in).

    Raises:
        ValueError: If there is no convolution.
    """
    convolution = _first_convolution(module, ())
    if convolution is None:
        raise ValueError(
            f"{type(module).__name__} has no convolution: no module in it has a weight "
            "(kh, kw, in, out) called weight or kernel."
        )
    path, weight = convolution
    return path, outputs_first(weight[...])


def outputs_first(weight: Any) -> np.ndarray:
    """Returns a convolution's weight (kh, kw, in, out) as float32 (out, kh, kw, in)."""
    return np.moveaxis(np.asarray(weight).astype(np.float32), -1, 0)


def plot_kernels(
    now: Float[np.ndarray, "n kh kw c"],
    before: Float[np.ndarray, "_ _ _ _"] | None = None,
    *,
    titles: tuple[str, str] = ("before", "now"),
) -> "matplotlib.figure.Figure":
    """Returns a figure of kernels: the current ones; or before, now, and the change.

    Before and now, a kernel has the same scale. The change is magnified by one factor
    for all kernels, so that the largest change fills its kernel's scale; the title
    gives the factor.

    Args:
        now: Weights, output channels first; see `first_weight`.
        before: Weights of the same shape to compare with, or None.
        titles: Titles of the pictures before and now.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If the shapes differ.
    """
    if before is None:
        return _pictures({"": 0.5 + 0.5 * _as_rgb(now / _largest(now))})
    if before.shape != now.shape:
        raise ValueError(
            "kernels before and now must have one shape (n, kh, kw, c); received "
            f"{before.shape} and {now.shape}."
        )
    scale = np.maximum(_largest(before), _largest(now))
    change = now - before
    most = float(np.abs(change / scale).max())
    name = f"change x {_round(1 / most)}" if most else "no change"
    return _pictures(
        {
            titles[0]: 0.5 + 0.5 * _as_rgb(before / scale),
            titles[1]: 0.5 + 0.5 * _as_rgb(now / scale),
            name: 0.5 + 0.5 * _as_rgb(change / scale / (most or 1.0)),
        }
    )


def _round(number: float) -> str:
    """A number to two significant digits: 1,800 or 3.4."""
    return f"{float(f'{number:.2g}'):,g}"


def _first_convolution(node: nnx.Module, path: tuple[str, ...]):
    for name in ("weight", "kernel"):
        weight = getattr(node, name, None)
        if isinstance(weight, nnx.Param) and weight[...].ndim == 4:
            return (*path, name), weight
    for name, child in children_of(node):
        convolution = _first_convolution(child, (*path, *name.split(".")))
        if convolution is not None:
            return convolution
    return None


def _largest(kernels: np.ndarray) -> np.ndarray:
    largest = np.abs(kernels).max(axis=(1, 2, 3), keepdims=True)
    return np.where(largest > 0, largest, 1)


def _as_rgb(kernels: np.ndarray) -> np.ndarray:
    channels = kernels.shape[-1]
    if channels == 1:
        kernels = np.repeat(kernels, 3, axis=-1)
    if channels == 2:
        kernels = np.pad(kernels, [(0, 0)] * 3 + [(0, 1)])
    return kernels[..., :3].astype(np.float32)


def _pictures(pictures: Mapping[str, np.ndarray]) -> "matplotlib.figure.Figure":
    figure = new_figure(_SIDE * len(pictures), _SIDE + 0.1)
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.06)
    cells = figure.subplots(1, len(pictures), squeeze=False)[0]
    for axes, (title, kernels) in zip(cells, pictures.items(), strict=True):
        axes.imshow(_mosaic(kernels), interpolation="nearest")
        axes.set_title(title, fontsize=10, parse_math=False)
        axes.set_axis_off()
    return figure


def _mosaic(kernels: np.ndarray) -> np.ndarray:
    """All kernels in one picture (h, w, 3), white lines between them."""
    count, height, width, _ = kernels.shape
    columns = int(np.ceil(np.sqrt(count)))
    rows = -(-count // columns)
    picture = np.ones((rows * (height + 1) - 1, columns * (width + 1) - 1, 3))
    for i, kernel in enumerate(kernels):
        top, left = (i // columns) * (height + 1), (i % columns) * (width + 1)
        picture[top : top + height, left : left + width] = kernel
    return picture


def compare_kernels(
    module: nnx.Module, before: Any, snapshots: Sequence[Snapshot]
) -> "matplotlib.figure.Figure":
    """Returns a figure of the first convolution's kernels; see `Learner.plot_kernels`.

    Args:
        module: The network.
        before: Number of a phase, a network, the path of a checkpoint, weights
            (n, kh, kw, c), or None for no comparison.
        snapshots: Parameters and statistics at the beginning of each phase.

    Raises:
        TypeError: If `before` is of another type.
        ValueError: If there is no convolution or no such phase, or the shapes differ.
    """
    path, now = first_weight(module)
    if before is None:
        return plot_kernels(now)
    array = hasattr(before, "__array__") and np.ndim(before) == 4
    if isinstance(before, bool | np.bool_) or not (
        array or isinstance(before, int | np.integer | nnx.Module | str | Path)
    ):
        raise TypeError(
            "before must be the number of a phase, a network, the path of a "
            "checkpoint or weights (n, kh, kw, c); received "
            f"{described(before)}."
        )
    if isinstance(before, int | np.integer):
        return plot_kernels(
            now,
            outputs_first(_leaf(_snapshot_of(snapshots, before).params, path)),
            titles=(f"before phase {before}", "now"),
        )
    if isinstance(before, nnx.Module):
        before = first_weight(before)[1]
    if isinstance(before, str | Path):
        _, params, model_state = split_module(module)
        params, _ = load_checkpoint(
            find_checkpoint(before), params=params, model_state=model_state
        )
        before = outputs_first(_leaf(params, path))
    return plot_kernels(now, np.asarray(before, np.float32))


def _snapshot_of(snapshots: Sequence[Snapshot], phase: int) -> Snapshot:
    by_phase = {snapshot.phase: snapshot for snapshot in snapshots}
    if phase not in by_phase:
        known = ", ".join(map(str, by_phase)) or "none yet"
        raise ValueError(
            f"there was no phase {phase} before this; phases so far: {known}."
        )
    return by_phase[phase]


def _leaf(tree: Any, path: Sequence[str]) -> Any:
    """The array at a path in a state; items of a list have integers as names."""
    for name in path:
        tree = tree[name] if name in tree else tree[int(name)]
    return tree
