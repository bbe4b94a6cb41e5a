"""Which parameters train, and which norm layers use their running statistics.

Freezing is expressed by labels for the optimizer and by views of the module; it never
changes a parameter or the module itself.
"""

from collections.abc import Collection, Iterable
from typing import Any, Literal, get_args

import jax
import numpy as np
from flax import nnx

from jaxtune.arguments import (
    Integer,
    check_choice,
    check_integer,
    check_module,
    described,
)
from jaxtune.models import BatchNorm
from jaxtune.train.optimizer import FROZEN
from jaxtune.transfer import dotted

#: What the norm layers of frozen groups do. "frozen": use running statistics, nothing
#: changes. "stats": use batch statistics and update the running ones, but not the
#: parameters. "train": as "stats", and train the parameters (fastai's behaviour).
#: "running": as "frozen"; and all norms but the last group's use running statistics,
#: which never change, also while their parameters train.
Norms = Literal["frozen", "stats", "train", "running"]

FLAX_NORMS = (
    nnx.BatchNorm,
    nnx.LayerNorm,
    nnx.GroupNorm,
    nnx.InstanceNorm,
    nnx.RMSNorm,
)
_NORMS = (BatchNorm, *FLAX_NORMS)


def check_norms(norms: Any) -> Norms:
    """Returns "frozen", "stats", "train" or "running" as it is.

    Raises:
        TypeError: If it is not a string.
        ValueError: If it is another string.
    """
    return check_choice(norms, "norms", get_args(Norms))


def norm_paths(module: nnx.Module) -> frozenset[str]:
    """Returns the dotted paths of all parameters of normalization layers."""
    check_module(module, "module")
    return frozenset(
        dotted((*path, *leaf))
        for path, node in nnx.iter_graph(module)
        if isinstance(node, _NORMS)
        for leaf, _ in nnx.to_flat_state(nnx.state(node, nnx.Param))
    )


def has_statistics(module: nnx.Module) -> bool:
    """Returns whether the running statistics of a module's norms are of any data.

    Where all are still what they began with (means 0, variances 1), normalising with
    them would do nothing.
    """
    check_module(module, "module")
    statistics = jax.tree.leaves(nnx.state(module, nnx.BatchStat))
    return any(not np.isin(np.asarray(x), (0.0, 1.0)).all() for x in statistics)


def no_decay_paths(module: nnx.Module) -> frozenset[str]:
    """Returns the dotted paths of parameters without weight decay: norms and biases.

    References:
        fastai 2.8.12, learner.py `Learner.create_opt` with wd_bn_bias=False.
    """
    check_module(module, "module")
    biases = {
        dotted(path)
        for path, _ in nnx.to_flat_state(nnx.state(module, nnx.Param))
        if path[-1] == "bias"
    }
    return norm_paths(module) | biases


def boundary_index(
    boundary: Integer | str, groups: Iterable[str], *, name: str = "boundary"
) -> int:
    """Returns the index of the first group that trains; those before it are frozen.

    Args:
        boundary: That group's index (a negative one counts from the end: -1 trains the
            last group only) or its name.
        groups: Names of the groups, first to last.
        name: Name of the argument, for the error messages.

    Raises:
        TypeError: If it is neither a whole number nor a name.
        ValueError: If there is no such group.

    References:
        fastai 2.8.12, optimizer.py `freeze_to`.
    """
    names = list(groups)
    if isinstance(boundary, str):
        if boundary not in names:
            raise ValueError(
                f"no layer group {boundary!r} ({name}=); the groups are "
                f"{', '.join(names)}."
            )
        return names.index(boundary)
    try:
        boundary = check_integer(boundary, name)
    except TypeError:
        raise TypeError(
            f"{name} must be the index or the name of a layer group "
            f"({', '.join(names)}); received {described(boundary)}."
        ) from None
    index = boundary + len(names) if boundary < 0 else boundary
    if not 0 <= index < len(names):
        raise ValueError(
            f"{name}={boundary}: can't freeze up to that group of {len(names)} "
            f"({', '.join(names)}); at least the last group must train."
        )
    return index


def optimizer_labels(
    labels: nnx.State,
    frozen: Collection[str],
    *,
    norms: Norms = "frozen",
    norm_params: Collection[str] = (),
) -> nnx.State:
    """Returns the label tree with `FROZEN` for each parameter that does not train.

    Args:
        labels: Group name of each parameter.
        frozen: Names of the frozen groups.
        norms: Whether the norm parameters of frozen groups train ("train", fastai's
            behaviour) or not (all others).
        norm_params: Dotted paths of the parameters of norm layers.
    """
    check_norms(norms)
    _check_frozen(frozen)
    training = frozenset(norm_params) if norms == "train" else frozenset()
    return jax.tree_util.tree_map_with_path(
        lambda path, name: (
            FROZEN if name in frozen and dotted(path) not in training else name
        ),
        labels,
    )


def running_groups(groups: Iterable[str], norms: Norms) -> tuple[str, ...]:
    """Returns the groups whose norms use running statistics even while they train.

    Args:
        groups: Names of all groups, first to last. The last one, the head, is none of
            them: its statistics begin anew.
        norms: See `Norms`.

    Example:
        >>> running_groups(["early", "late", "head"], "running")
        ('early', 'late')
        >>> running_groups(["early", "late", "head"], "frozen")
        ()
    """
    return tuple(groups)[:-1] if check_norms(norms) == "running" else ()


def norms_of_group(
    group: str, groups: Iterable[str], frozen: Collection[str], norms: Norms
) -> Norms:
    """Returns what the norms of one group do, in a word.

    Args:
        group: Its name.
        groups: Names of all groups, first to last.
        frozen: Names of the frozen ones.
        norms: See `Norms`.

    Returns:
        For a frozen group "frozen", "stats" or "train"; for one that trains "train", or
        "running" if weight and bias train and the statistics stay.
    """
    if group in frozen:
        return "frozen" if norms == "running" else norms
    return "running" if group in running_groups(groups, norms) else "train"


def _check_frozen(frozen: Any) -> None:
    # With a string, `name in frozen` would match substrings.
    if (
        isinstance(frozen, str)
        or not isinstance(frozen, Collection)
        or not all(isinstance(name, str) for name in frozen)
    ):
        raise TypeError(
            "frozen must be a collection of names of layer groups; received "
            f"{described(frozen)}."
        )


def _in_parts(view: nnx.Module, parts: int) -> nnx.Module:
    for path, node in nnx.iter_graph(view):
        if isinstance(node, nnx.BatchNorm):
            raise ValueError(
                f"{dotted(path)} is Flax's BatchNorm, whose statistics are always of "
                "the whole batch. Leave sync_batch_norm=False out, or build the "
                "network with jaxtune.models.BatchNorm."
            )
    return nnx.view(view, batch_parts=parts, raise_if_not_found=False)


def training_view(
    module: nnx.Module,
    labels: nnx.State,
    frozen: Collection[str],
    *,
    norms: Norms = "frozen",
    running: Collection[str] = (),
    batch_parts: Integer = 1,
) -> nnx.Module:
    """Returns a view of a module in train mode, except for some norms.

    Dropout is active and batch norms use batch statistics; with norms="frozen" or
    "running", those of frozen groups use their running statistics, which are then not
    updated. A norm without parameters counts as frozen if all parameters of the
    innermost surrounding module that has any are. The view shares its variables with
    the module, whose own mode does not change.

    Args:
        module: The network.
        labels: Group name of each parameter.
        frozen: Names of the frozen groups.
        norms: What the norms of frozen groups do.
        running: Names of groups that train, and whose norms use running statistics all
            the same; see `running_groups`.
        batch_parts: Parts of a batch, one after the other, each of which batch norms
            normalise by itself; see `BatchNorm`.

    Raises:
        ValueError: If there are several parts, and a batch norm that can't do that.

    References:
        flax 0.12, `nnx.view`. Keras, "Transfer learning and fine-tuning", on batch norm
        in inference mode: new statistics undo what a pretrained layer has learned.
    """
    check_module(module, "module")
    check_norms(norms)
    _check_frozen(frozen)
    view = nnx.view(
        module, deterministic=False, use_running_average=False, raise_if_not_found=False
    )
    if batch_parts > 1:
        view = _in_parts(view, check_integer(batch_parts, "batch_parts"))
    still = set(running) | (set(frozen) if norms in ("frozen", "running") else set())
    if not still:
        return view
    groups = {
        tuple(dotted(path).split(".")): name
        for path, name in jax.tree_util.tree_leaves_with_path(labels)
    }

    def is_still(path, node) -> bool:
        if not isinstance(node, _NORMS):
            return False
        prefix = tuple(str(key) for key in path)
        while True:
            below = {name for p, name in groups.items() if p[: len(prefix)] == prefix}
            if below or not prefix:
                return bool(below) and below <= still
            prefix = prefix[:-1]

    return nnx.view(
        view, only=is_still, use_running_average=True, raise_if_not_found=False
    )
