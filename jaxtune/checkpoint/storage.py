"""Named arrays and a description in a folder: everything that calls Orbax.

Arrays are stored as host arrays, so no device of the machine that wrote them is needed
to read them.
"""

import contextlib
import dataclasses
import gc
import json
import logging
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxtune.checkpoint.atomic import (
    fresh_place,
    is_checkpoint,
    place_beside,
    replace_folder,
)
from jaxtune.checkpoint.leaves import (
    Leaf,
    Name,
    checksum,
    describe_leaf,
    name_of,
    named_leaves,
    nested,
)
from jaxtune.checkpoint.places import CHECKPOINT_METADATA, TREE_METADATA, Place
from jaxtune.train import wait_for_all

#: Written into checkpoints of this layout.
FORMAT = "jaxtune/2"
#: All of jaxtune's own. In the first, `params` and `model_state` were separate items.
FORMATS = ("jaxtune/1", FORMAT)

# Orbax's own name for what `ocp.load(path)` returns, which is to be the whole network.
_NETWORK = "state"
_OF_NETWORK = ("params", "model_state")

# Orbax numbers its operations process-wide, so two saves must not overlap.
_ONE_AT_A_TIME = threading.Lock()
_ORBAX_ERRORS = (ValueError, OSError, LookupError, TypeError, RuntimeError)


class CheckpointDamagedError(ValueError):
    """A checkpoint's files can't be read, or are not what was written."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """A checkpoint, described without its values.

    Attributes:
        path: The folder.
        tree: The arrays' metadata from Orbax, as a tree; by item, unless `single`.
        single: Whether the folder is one tree without a name, as Orbax v0 writes.
        leaves: Shape and dtype by name; the first word is the item's, unless `single`.
            In jaxtune's own, `params` and `model_state` are items.
        checksums: CRC-32 of arrays by dotted name, for each item; only in jaxtune's.
        format: One of `FORMATS` for jaxtune's own, None for others.
    """

    path: Place
    tree: Any
    single: bool
    leaves: dict[Name, Leaf]
    checksums: dict[str, dict[str, int]]
    format: str | None

    def on_disk(self, name: Name) -> Name:
        """Returns an array's name as it is stored."""
        inside = self.format == FORMAT and name[0] in _OF_NETWORK
        return (_NETWORK, *name) if inside else name


def write(
    target: Place,
    items: Mapping[str, Mapping[Name, np.ndarray]],
    meta: dict,
    *,
    overwrite: bool = False,
) -> None:
    """Writes named arrays and a description; the folder is complete or absent.

    Of several processes all must call it, with the same arrays, and nothing else that
    they do together meanwhile.

    Args:
        target: Folder to make.
        items: Arrays by name, for each item.
        meta: Plain JSON.
        overwrite: Whether to replace what is at the target already.
    """
    from orbax.checkpoint import v1 as ocp

    checksums = {
        item: {".".join(name): checksum(array) for name, array in named.items()}
        for item, named in items.items()
    }
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name="meta")
    context = ocp.Context()
    context.checkpointables.registry = registry
    # Orbax at times creates a folder twice in the background, and saving fails.
    context.asynchronous.create_directories_asynchronously = False
    # Weights hardly compress: 8 % fewer bytes for half of the time and a core.
    context.array.saving.use_compression = False
    trees = {item: nested(named) for item, named in items.items()}
    network = {item: trees.pop(item) for item in _OF_NETWORK if item in trees}
    target.parent.mkdir(parents=True, exist_ok=True)
    with _ONE_AT_A_TIME, context:
        place = target
        if overwrite:
            # Of several processes, which all come here, the first tidies up.
            first = jax.process_index() == 0
            place = fresh_place(target) if first else place_beside(target)
            wait_for_all(f"jaxtune: beside {target.name}")
        ocp.save_checkpointables(
            place,
            {**({_NETWORK: network} if network else {}), **trees, "meta": meta},
            custom_metadata={"format": FORMAT, "crc32": checksums},
        )
        if overwrite:
            if first:
                replace_folder(place, target)
            wait_for_all(f"jaxtune: {target.name} is written")


def open_stored(path: Place) -> Stored:
    """Returns what is in a checkpoint's folder; reads no array.

    Raises:
        FileNotFoundError: If there is no checkpoint in the folder; where one is near,
            the error says where.
        CheckpointDamagedError: If its metadata can't be read.
    """
    from orbax.checkpoint import v1 as ocp

    own = _own_metadata(path)
    single = False
    try:
        with _quiet(), _by_this_process():
            try:
                metadata = ocp.checkpointables_metadata(path)
            except ocp.errors.InvalidLayoutError:
                if not (path / TREE_METADATA).exists():
                    raise
                single = True
                metadata = ocp.metadata(path, checkpointable_name=None)
    except ocp.errors.InvalidLayoutError as error:
        raise _no_checkpoint(path) from error
    except _ORBAX_ERRORS as error:
        raise _damaged(path, error) from error
    if not single:
        _check_items(path, metadata.metadata, own.get("item_handlers"))
    leaves = named_leaves(metadata.metadata)
    if not own and not leaves:
        # Orbax takes any folder for a checkpoint without items.
        raise _no_checkpoint(path)
    custom = metadata.custom_metadata
    custom = custom if isinstance(custom, dict) else {}
    layout = custom.get("format")
    if layout == FORMAT:
        leaves = {
            name[1:] if name[0] == _NETWORK else name: leaf
            for name, leaf in leaves.items()
        }
    return Stored(
        path=path,
        tree=metadata.metadata,
        single=single,
        leaves={name: describe_leaf(leaf) for name, leaf in leaves.items()},
        checksums=custom.get("crc32", {}),
        format=layout,
    )


def read_arrays(stored: Stored, names: Collection[Name]) -> dict[Name, np.ndarray]:
    """Returns arrays of a checkpoint by name, in the dtype in which they are stored.

    Raises:
        CheckpointDamagedError: If one can't be read, or is not what was written.
    """
    from orbax.checkpoint import v1 as ocp

    wanted = {stored.on_disk(name): name for name in names}
    if not wanted:
        return {}
    abstract = jax.tree_util.tree_map_with_path(
        lambda path, leaf: _blank(leaf) if name_of(path) in wanted else ocp.PLACEHOLDER,
        stored.tree,
    )
    try:
        with _quiet(), _by_this_process():
            if stored.single:
                tree = ocp.load(stored.path, abstract, checkpointable_name=None)
            else:
                items = {name[0] for name in wanted}
                tree = ocp.load_checkpointables(
                    stored.path, {item: abstract[item] for item in items}
                )
    except _ORBAX_ERRORS as error:
        raise _damaged(stored.path, error) from error
    arrays = {
        wanted[name]: np.asarray(leaf)
        for name, leaf in named_leaves(tree).items()
        if name in wanted
    }
    _check_arrays(stored, arrays)
    return arrays


def read_meta(path: Place) -> Any:
    """Returns a checkpoint's description, the item `meta`.

    Raises:
        FileNotFoundError: If there is no checkpoint, or it has no description.
        CheckpointDamagedError: If it can't be read.
    """
    from orbax.checkpoint import v1 as ocp

    _own_metadata(path)
    if not (path / "meta").is_dir():
        if (path / CHECKPOINT_METADATA).exists():
            raise FileNotFoundError(
                f"the checkpoint {path} has no description (no item `meta`); it was "
                "not written by jaxtune. Its arrays open with load_checkpoint."
            )
        raise _no_checkpoint(path)
    try:
        with _quiet(), _by_this_process():
            return ocp.load_checkpointables(path, {"meta": None})["meta"]
    except ocp.errors.InvalidLayoutError as error:
        raise _no_checkpoint(path) from error
    except _ORBAX_ERRORS as error:
        raise _damaged(path, error) from error


def _by_this_process() -> Any:
    """A context of Orbax in which this process reads for itself, without the others."""
    from orbax.checkpoint import v1 as ocp

    context, number = ocp.Context(), jax.process_index()
    if jax.process_count() > 1:
        context.multiprocessing.primary_host = number
        context.multiprocessing.active_processes = {number}
    return context


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppresses what Orbax logs beside the error that it raises.

    It logs an item that it can't read, and gives up at the first array that fails: the
    other reads then report, each with a traceback, to an event loop that is closed.
    Most of them are waited for, as they are reported even where the interpreter exits.
    Which is the last is unknown, so after an error such reports, and no others, are
    suppressed for the rest of the process.
    """
    logs = [logging.getLogger(name) for name in ("absl", "asyncio")]
    for log in logs:
        log.addFilter(_is_news)
    hooks = {name: getattr(sys, name) for name in ("excepthook", "unraisablehook")}
    for name, before in hooks.items():
        if not isinstance(before, _Hook):
            setattr(sys, name, _Hook(before))
    try:
        yield
    except BaseException:
        _Hook.wait()
        raise
    for log in logs:
        log.removeFilter(_is_news)
    for name, before in hooks.items():
        setattr(sys, name, before)


class _Hook:
    """An exception hook that ignores closed event loops; the others go to `before`."""

    last = 0.0

    def __init__(self, before: Callable):
        """Takes the hook to call for all other exceptions."""
        self._before = before

    def __call__(self, *report) -> None:
        # An unraisable exception comes as one argument, any other as three.
        kind, error = report[:2] if len(report) > 1 else report[0][:2]
        if kind is RuntimeError and str(error) == "Event loop is closed":
            _Hook.last = time.monotonic()
        else:
            self._before(*report)

    @classmethod
    def wait(cls) -> None:
        """Waits until no report has come for 0.2 s, at most 2 s."""
        cls.last = began = time.monotonic()
        while time.monotonic() < min(cls.last + 0.2, began + 2.0):
            time.sleep(0.02)
        # A read whose error was never retrieved reports it when it is collected.
        gc.collect()


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(
        (
            "Failed to get metadata for",
            "Task exception was never retrieved",
            "Future exception was never retrieved",
        )
    )


def _blank(leaf: Any) -> np.ndarray:
    # A host array's shape and dtype without its memory.
    shape, dtype = describe_leaf(leaf)
    return np.broadcast_to(np.zeros((), dtype), shape)


def _own_metadata(path: Place) -> dict:
    file = path / CHECKPOINT_METADATA
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text())
    except ValueError as error:
        raise _damaged(path, error) from error


def _check_items(path: Place, items: Mapping, handlers: Any) -> None:
    # Orbax silently leaves out an item whose metadata it can't read.
    for item, handler in (handlers if isinstance(handlers, dict) else {}).items():
        holds_arrays = "pytree" in str(handler) or "standard" in str(handler)
        if holds_arrays and items.get(item) is None:
            raise CheckpointDamagedError(
                f"the checkpoint {path} is damaged: its item `{item}` is missing or "
                "can't be read. Use another checkpoint."
            )


def _check_arrays(stored: Stored, arrays: Mapping[Name, np.ndarray]) -> None:
    changed = []
    for (item, *rest), array in arrays.items():
        written = stored.checksums.get(item, {}).get(".".join(rest))
        if written is not None and written != checksum(array):
            changed.append(f"{item}/{'.'.join(rest)}")
    if changed:
        raise CheckpointDamagedError(
            f"the checkpoint {stored.path} is damaged: {len(changed)} array(s) are "
            f"not what was written, {', '.join(changed[:5])}. Use another checkpoint."
        )


def _damaged(path: Place, error: BaseException) -> CheckpointDamagedError:
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return CheckpointDamagedError(
        f"the checkpoint {path} can't be read; a file is missing or damaged: "
        f"{lines[0][:300]}. Use another checkpoint."
    )


def _no_checkpoint(path: Place) -> FileNotFoundError:
    text = f"there is no checkpoint in {path}. "
    if not path.is_dir():
        return FileNotFoundError(text + "Give the folder that a run was saved to.")
    if ".orbax-checkpoint-tmp" in path.name:
        return FileNotFoundError(text + "Writing it was interrupted half way.")
    if (path.parent / CHECKPOINT_METADATA).exists():
        return FileNotFoundError(
            text + f"It is part of one: give the folder above, {path.parent}."
        )
    steps = sorted(
        (entry for entry in path.iterdir() if is_checkpoint(entry)),
        key=lambda entry: (_number(entry.name), entry.name),
    )
    if steps:
        names = ", ".join(step.name for step in steps)
        return FileNotFoundError(
            text + f"It holds the checkpoints {names}: give one of them, such as "
            f"{steps[-1]}."
        )
    return FileNotFoundError(text + "Give the folder that a run was saved to.")


def _number(name: str) -> int:
    digits = "".join(letter for letter in name if letter.isdigit())
    return int(digits) if digits else -1
