"""Which parameters train, and which norm layers use their running statistics.

Freezing is expressed by labels for the optimizer and by views of the module; it never
changes a parameter or the module itself.
"""

from collections.abc import Collection, Iterable
from typing import Any, Literal, get_args

import jax
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
Norms = Literal["frozen", "stats", "train"]

FLAX_NORMS = (
    nnx.BatchNorm,
    nnx.LayerNorm,
    nnx.GroupNorm,
    nnx.InstanceNorm,
    nnx.RMSNorm,
)
_NORMS = (BatchNorm, *FLAX_NORMS)


def check_norms(norms: Any) -> Norms:
    """Returns "frozen", "stats" or "train" as it is.

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
            behaviour) or not ("frozen" or "stats").
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


def training_view(
    module: nnx.Module,
    labels: nnx.State,
    frozen: Collection[str],
    *,
    norms: Norms = "frozen",
) -> nnx.Module:
    """Returns a view of a module in train mode, except for the norms of frozen groups.

    Dropout is active and batch norms use batch statistics; with norms="frozen", those
    of frozen groups use their running statistics, which are then not updated. A norm
    without parameters counts as frozen if all parameters of the innermost surrounding
    module that has any are. The view shares its variables with the module, whose own
    mode does not change.

    References:
        flax 0.12, `nnx.view`.
    """
    check_module(module, "module")
    check_norms(norms)
    _check_frozen(frozen)
    view = nnx.view(
        module, deterministic=False, use_running_average=False, raise_if_not_found=False
    )
    if norms != "frozen" or not frozen:
        return view
    groups = {
        tuple(dotted(path).split(".")): name
        for path, name in jax.tree_util.tree_leaves_with_path(labels)
    }

    def is_frozen(path, node) -> bool:
        if not isinstance(node, _NORMS):
            return False
        prefix = tuple(str(key) for key in path)
        while True:
            below = {name for p, name in groups.items() if p[: len(prefix)] == prefix}
            if below or not prefix:
                return bool(below) and below <= set(frozen)
            prefix = prefix[:-1]

    return nnx.view(
        view, only=is_frozen, use_running_average=True, raise_if_not_found=False
    )
