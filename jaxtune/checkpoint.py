"""Checkpoints: a network's arrays and what is needed to use them, in Orbax's format.

Trees and a description in, a folder out, and back. The one rule of the file: what is
restored is compared with what is asked for first, both ways; nothing is half restored.

The folder holds `params`, `model_state` and `meta`, which plain Orbax opens:
`ocp.load_checkpointables(path)` with `from orbax.checkpoint import v1 as ocp`.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import jax
from flax import nnx

from jaxtune.transfer import dotted


class CheckpointMismatchError(ValueError):
    """A checkpoint's arrays are not those of the network; both sides are listed."""


def save_checkpoint(
    path: str | os.PathLike,
    *,
    params: nnx.State,
    model_state: nnx.State,
    meta: Mapping,
) -> Path:
    """Writes a checkpoint; the folder is complete or absent.

    Args:
        path: Folder to make.
        params: Parameters, arrays by path.
        model_state: Batch-norm statistics, arrays by path.
        meta: A description: dicts, lists, strings, numbers and None.

    Raises:
        FileExistsError: If there is something at the path already.
    """
    from orbax.checkpoint import v1 as ocp

    target = Path(path).resolve()
    if target.exists():
        raise FileExistsError(
            f"{target} is there already; choose another folder or remove it first."
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    trees = {
        "params": nnx.to_pure_dict(params),
        "model_state": nnx.to_pure_dict(model_state),
    }
    # Orbax has no empty trees: a network without statistics has no such folder.
    kept = {name: tree for name, tree in trees.items() if jax.tree.leaves(tree)}
    ocp.save_checkpointables(target, {**kept, "meta": dict(meta)})
    return target


def load_meta(path: str | os.PathLike) -> dict:
    """Returns a checkpoint's description.

    Raises:
        FileNotFoundError: If there is no checkpoint at the path.
    """
    from orbax.checkpoint import v1 as ocp

    target = _existing(path)
    return ocp.load_checkpointables(target, {"meta": None})["meta"]


def load_checkpoint(
    path: str | os.PathLike, *, params: nnx.State, model_state: nnx.State
) -> tuple[nnx.State, nnx.State]:
    """Returns a checkpoint's parameters and statistics.

    Args:
        path: The checkpoint's folder.
        params: Parameters of the network they are for; shapes and dtypes count, and an
            array may be a `jax.ShapeDtypeStruct`.
        model_state: Its statistics, likewise.

    Raises:
        FileNotFoundError: If there is no checkpoint at the path.
        CheckpointMismatchError: If a name or a shape differs; both sides are listed.
    """
    from orbax.checkpoint import v1 as ocp

    target = _existing(path)
    wanted = {
        "params": nnx.to_pure_dict(params),
        "model_state": nnx.to_pure_dict(model_state),
    }
    wanted = {name: tree for name, tree in wanted.items() if jax.tree.leaves(tree)}
    found = ocp.checkpointables_metadata(target).metadata
    _compare(
        target,
        {name: _shapes(found.get(name, {})) for name in ("params", "model_state")},
        {name: _shapes(wanted.get(name, {})) for name in ("params", "model_state")},
    )
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), wanted
    )
    loaded = ocp.load_checkpointables(target, abstract)
    return nnx.State(loaded["params"]), nnx.State(loaded.get("model_state", {}))


def _existing(path: str | os.PathLike) -> Path:
    target = Path(path).resolve()
    if not (target / "_CHECKPOINT_METADATA").exists():
        raise FileNotFoundError(
            f"there is no checkpoint in {target}. Give the folder that a run was saved "
            "to."
        )
    return target


def _shapes(tree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree_util.tree_leaves_with_path(
        tree, is_leaf=lambda node: hasattr(node, "shape")
    )
    return {dotted(path): tuple(leaf.shape) for path, leaf in leaves}


def _compare(target: Path, found: dict, wanted: dict) -> None:
    lines = []
    for tree in wanted:
        for name in sorted(set(found[tree]) | set(wanted[tree])):
            here, there = found[tree].get(name), wanted[tree].get(name)
            if here is None:
                lines.append(f"  - {tree}/{name} {there}: only in the network")
            elif there is None:
                lines.append(f"  + {tree}/{name} {here}: only in the checkpoint")
            elif here != there:
                lines.append(
                    f"  ! {tree}/{name}: {here} in the checkpoint, {there} in the "
                    "network"
                )
    if lines:
        more = f"\n  … and {len(lines) - 20} more" if len(lines) > 20 else ""
        listed = "\n".join(lines[:20])
        raise CheckpointMismatchError(
            f"the checkpoint {target} is not of this network:\n{listed}{more}\nBuild "
            "the network it was saved from: the same architecture, head and classes."
        )
