"""Reading checkpoints, jaxtune's own and those of plain Flax and Orbax.

Names, shapes and dtypes are compared first; nothing is half restored.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from jaxtune.arguments import check_instance
from jaxtune.checkpoint.leaves import (
    Name,
    describe_leaf,
    is_concrete,
    named_leaves,
    restored,
)
from jaxtune.checkpoint.matching import check_same_state, match_arrays
from jaxtune.checkpoint.places import place_of
from jaxtune.checkpoint.storage import open_stored, read_arrays, read_meta


def load_meta(path: str | os.PathLike) -> dict:
    """Returns a checkpoint's description, as it was given to `save_checkpoint`.

    Raises:
        FileNotFoundError: If there is no checkpoint at the path, or it has no
            description.
        CheckpointDamagedError: If it can't be read.
    """
    return read_meta(place_of(path))


def load_checkpoint(
    path: str | os.PathLike,
    *,
    params: Any,
    model_state: Any,
    partial: str | Sequence[str] | None = None,
    prefix: str | None = None,
) -> tuple[Any, Any]:
    """Returns a checkpoint's parameters and statistics for a network.

    Opens jaxtune's checkpoints, and those of plain Flax code in Orbax's formats v1
    (`ocp.save`, `ocp.save_checkpointables`, a step of `training.Checkpointer`) and v0
    (`StandardCheckpointer`, `PyTreeCheckpointer`, a step of `CheckpointManager`):

    - The network's names are searched below any prefix, one for the parameters and one
      for the statistics, in one tree or in two. Where several prefixes have them,
      `prefix` chooses. Nothing else may lie below it; what lies beside it (optimizer,
      step) is ignored, and so is Flax's `.value` at the end of a name. The state of
      Flax's random streams (`rngs`) is restored if present, and else keeps its values.
    - Shapes must be equal. Floats are cast to the network's dtype (bfloat16, float32,
      …); all other dtypes must be equal.
    - The number of devices it was written on doesn't matter. The arrays are returned on
      JAX's default device.
    - With another class count or head, `partial="body"` restores the body, if all of
      that agrees. A checkpoint of a body alone opens too, into a body, or into the
      whole network with `partial`.
    - Which layers were frozen doesn't matter to parameters and statistics.

    All names, shapes and dtypes are compared before any array is read.

    Args:
        path: The checkpoint's folder; of several steps, the folder of one.
        params: Parameters of the network, a tree of arrays or `jax.ShapeDtypeStruct`,
            which give names, shapes and dtypes.
        model_state: Its statistics, likewise.
        partial: A dotted prefix in the network ("body", "body.layer1"), or several:
            only what lies below is restored. The rest keeps the values it has in
            `params` and `model_state`, where it must be arrays.
        prefix: A dotted prefix in the checkpoint ("state.ema"), below which the
            parameters lie; None searches for it.

    Returns:
        Parameters and statistics, trees of the form of those given.

    Raises:
        FileNotFoundError: If there is no checkpoint at the path.
        CheckpointMismatchError: If a name, a shape or a dtype differs, with both sides
            and what `partial` would restore; or if several prefixes fit.
        CheckpointDamagedError: If a file is missing or damaged.
        ValueError: If the network has nothing below `partial`, or no values beside it,
            or the checkpoint has nothing below `prefix`.
        TypeError: If `prefix` is not a string.
    """
    if prefix is not None:
        check_instance(prefix, "prefix", str, "a dotted path, or None")
    trees = {"params": nnx.as_pure(params), "model_state": nnx.as_pure(model_state)}
    leaves = {item: named_leaves(tree) for item, tree in trees.items()}
    stored = open_stored(place_of(path))
    matched = match_arrays(
        stored,
        {
            item: {name: describe_leaf(leaf) for name, leaf in named.items()}
            for item, named in leaves.items()
        },
        partial=(partial,) if isinstance(partial, str) else tuple(partial or ()),
        prefix=prefix,
    )
    for item, named in leaves.items():
        _check_kept(item, named, matched[item])
    arrays = read_arrays(
        stored, [source for sources in matched.values() for source in sources.values()]
    )
    for item, named in leaves.items():
        for name, source in matched[item].items():
            named[name] = restored(arrays[source], named[name])
    new = {item: _rebuilt(tree, leaves[item]) for item, tree in trees.items()}
    return new["params"], new["model_state"]


def load_opt_state(path: str | os.PathLike, opt_state: Any) -> Any:
    """Returns a checkpoint's optimizer state, bit for bit.

    Args:
        path: The checkpoint's folder.
        opt_state: The state that `tx.init(params)` returns, for its structure; leaves
            may be `jax.ShapeDtypeStruct`. Names, shapes and dtypes must all be those of
            the checkpoint: a state can be resumed only where the same parameters train
            with the same optimizer.

    Returns:
        The state, a tree of the same form.

    Raises:
        FileNotFoundError: If there is no checkpoint at the path, or it has no optimizer
            state.
        CheckpointMismatchError: If a name, a shape or a dtype differs; both sides are
            listed.
        CheckpointDamagedError: If a file is missing or damaged.
    """
    return _load_exactly(
        path,
        "opt_state",
        opt_state,
        "no optimizer state. Start with a new one, tx.init(params); parameters open "
        "with load_checkpoint.",
    )


def load_raw(path: str | os.PathLike, raw: Any) -> Any:
    """Returns the values that training resumes from, where `params` are averages.

    Args:
        path: The checkpoint's folder.
        raw: What `raw_values` returns for a state of the phase, for its structure; must
            equal that of the checkpoint, name by name.

    Returns:
        The values, a tree of the same form, bit for bit.

    Raises:
        FileNotFoundError: If there is no checkpoint at the path, or no average in it.
        CheckpointMismatchError: If a name, a shape or a dtype differs; both sides are
            listed.
        CheckpointDamagedError: If a file is missing or damaged.
    """
    return _load_exactly(
        path,
        "raw",
        raw,
        "no values beside its parameters, which are not averages. They open with "
        "load_checkpoint.",
    )


def _load_exactly(path: str | os.PathLike, item: str, tree: Any, lacking: str) -> Any:
    stored = open_stored(place_of(path))
    leaves = named_leaves(tree)
    held = {name[1:]: leaf for name, leaf in stored.leaves.items() if name[0] == item}
    if leaves and not held:
        raise FileNotFoundError(f"the checkpoint {stored.path} holds {lacking}")
    wanted = {name: describe_leaf(leaf) for name, leaf in leaves.items()}
    check_same_state(stored.path, held, wanted, item=item)
    arrays = read_arrays(stored, [(item, *name) for name in leaves])
    for name, like in leaves.items():
        leaves[name] = restored(arrays[(item, *name)], like)
    return _rebuilt(tree, leaves)


def _check_kept(item: str, named: Mapping[Name, Any], matched: Mapping) -> None:
    for name, leaf in named.items():
        if name not in matched and not is_concrete(leaf):
            raise ValueError(
                f"{item}/{'.'.join(name)} is not restored and would keep its value, "
                f"but it is a {type(leaf).__name__}, which has none. Pass the arrays "
                "of an initialised network."
            )


def _rebuilt(tree: Any, leaves: Mapping[Name, Any]) -> Any:
    return jax.tree.unflatten(jax.tree.structure(tree), list(leaves.values()))
