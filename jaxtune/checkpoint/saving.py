"""Writing checkpoints, at once or in the background.

What is written is a copy made before the call returns, so the arrays may be donated to
the next step at once.
"""

import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import jax
import numpy as np

from jaxtune.checkpoint.atomic import check_replaceable
from jaxtune.checkpoint.leaves import Name, host_copy, is_concrete, named_leaves
from jaxtune.checkpoint.places import Place, place_of
from jaxtune.checkpoint.storage import write


class Saving:
    """A checkpoint that is being written.

    Attributes:
        path: Its folder: complete or absent at every moment.
    """

    def __init__(self, path: Place, future: Future):
        """Takes the folder and the future of the thread that writes."""
        self.path = path
        self._future = future

    def done(self) -> bool:
        """Returns whether writing has ended, with or without an error; never waits."""
        return self._future.done()

    def result(self) -> Place:
        """Waits until the checkpoint is complete, and returns its folder.

        Call this before the program ends: without it the checkpoint may be missing.

        Raises:
            Exception: What went wrong while writing; there is no checkpoint then.
        """
        return self._future.result()


def save_checkpoint(
    path: str | os.PathLike,
    *,
    params: Any,
    model_state: Any,
    meta: Mapping,
    opt_state: Any = None,
    raw: Any = None,
    overwrite: bool = False,
) -> Place:
    """Writes a checkpoint; the folder is complete or absent.

    The layout is in `FORMAT.md` beside this file. Plain Orbax opens it.

    Args:
        path: Folder to create, with its parents.
        params: Parameters, arrays by path.
        model_state: Batch-norm statistics, arrays by path; may be empty.
        meta: A description, kept as JSON: dicts with text for keys, lists, text,
            numbers (NaN and infinity too), True, False and None. Tuples become lists.
        opt_state: State of an optax optimizer, or None; any pytree.
        raw: The values that training resumes from, where `params` and `model_state` are
            averages of them, see `raw_values`; any pytree.
        overwrite: Whether to replace an existing checkpoint. At every moment the whole
            old one or the whole new one is there.

    Returns:
        The folder, absolute.

    Raises:
        FileExistsError: If the path exists; with `overwrite`, if it is neither a
            checkpoint nor an empty folder.
        TypeError: If a leaf of a tree is not an array, or a value of `meta` not JSON.
        ValueError: If an array is empty, or two have the same name.
    """
    return save_checkpoint_async(
        path,
        params=params,
        model_state=model_state,
        meta=meta,
        opt_state=opt_state,
        raw=raw,
        overwrite=overwrite,
    ).result()


def save_checkpoint_async(
    path: str | os.PathLike,
    *,
    params: Any,
    model_state: Any,
    meta: Mapping,
    opt_state: Any = None,
    raw: Any = None,
    overwrite: bool = False,
) -> Saving:
    """Starts writing a checkpoint, and returns as soon as the arrays are copied.

    Takes and raises what `save_checkpoint` does. The arrays may be donated or
    overwritten right after the call. The folder appears, complete, when writing is
    done; `result()` waits for that. Several saves may be pending: they are written one
    after the other.
    """
    target = place_of(path)
    if overwrite:
        check_replaceable(target)
    elif target.exists():
        raise FileExistsError(
            f"{target} exists; choose another folder, or replace it with "
            "overwrite=True."
        )
    description = _plain_json(meta, "meta")
    trees = {
        "params": params,
        "model_state": model_state,
        "opt_state": opt_state,
        "raw": raw,
    }
    named = {item: named_leaves(tree) for item, tree in trees.items()}
    # Orbax has no empty trees: a network without statistics has no such folder.
    named = {item: leaves for item, leaves in named.items() if leaves}
    for item, leaves in named.items():
        _check_leaves(item, leaves)
    # Start all transfers from the device before waiting for the first.
    for leaf in jax.tree.leaves(trees):
        if isinstance(leaf, jax.Array) and (
            leaf.is_fully_addressable or leaf.is_fully_replicated
        ):
            leaf.copy_to_host_async()
    copies = {
        item: {name: host_copy(leaf) for name, leaf in leaves.items()}
        for item, leaves in named.items()
    }
    future: Future = Future()

    def work():
        try:
            write(target, copies, description, overwrite=overwrite)
        except BaseException as error:
            future.set_exception(error)
        else:
            future.set_result(target)

    threading.Thread(target=work, name=f"saving {target.name}").start()
    return Saving(target, future)


def _check_leaves(item: str, leaves: Mapping[Name, Any]) -> None:
    dotted: dict[str, Name] = {}
    for name, leaf in leaves.items():
        shown = ".".join(name)
        if not is_concrete(leaf):
            raise TypeError(
                f"{item}/{shown} is a {type(leaf).__name__}; a checkpoint holds arrays "
                "and numbers only."
            )
        if not np.size(leaf):
            raise ValueError(
                f"{item}/{shown} has shape {np.shape(leaf)}: no values. Orbax can't "
                "store an empty array; leave it out of the tree."
            )
        # Orbax joins a name's words by dots when it names the array's file.
        other = dotted.setdefault(shown, name)
        if other != name:
            raise ValueError(
                f"two arrays of {item} would both be called {shown}; rename a key that "
                "contains a dot."
            )


def _plain_json(value: Any, where: str) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list | tuple):
        return [_plain_json(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(
                    f"{where} has the key {key!r}; a description's keys are text. Give "
                    "str(key)."
                )
        return {
            key: _plain_json(item, f"{where}[{key!r}]") for key, item in value.items()
        }
    raise TypeError(
        f"{where} is a {type(value).__name__}; a description holds dicts, lists, text, "
        "numbers, True, False and None. Give float(x), int(x) or str(x)."
    )
