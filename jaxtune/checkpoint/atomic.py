"""Folders and files that appear whole, and replace what was there whole.

Under the final name there is all of the old content or all of the new, never a part.
"""

import ctypes
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from jaxtune.checkpoint.places import (
    CHECKPOINT_METADATA,
    TREE_METADATA,
    Place,
    in_storage,
)

#: From <fcntl.h>: relative paths are relative to the working directory.
_AT_FDCWD = -100 if sys.platform.startswith("linux") else -2
#: RENAME_EXCHANGE of Linux and RENAME_SWAP of macOS happen to be the same number.
_EXCHANGE = 2


def write_json(path: Place, value: Any) -> None:
    """Writes a JSON file, entirely or not at all."""
    write_text(path, json.dumps(value, indent=1))


def write_text(path: Place, text: str) -> None:
    """Writes a text file in UTF-8, entirely or not at all; its folder must exist.

    An existing file is replaced; if writing fails, it stays as it was.
    """
    if in_storage(path):
        path.write_text(text)
        return
    temporary = path.with_name(f".{path.name}.part")
    try:
        with temporary.open("w", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def fresh_place(target: Path) -> Path:
    """Returns where to write what will replace `target`: beside it, not existing yet.

    What a killed process left there is removed. If that process died between the two
    renames of `replace_folder`, the old folder is put back first.
    """
    fresh, aside = place_beside(target), _beside(target, "old")
    if aside.exists() and not target.exists():
        os.rename(aside, target)
    for leftover in (fresh, aside):
        _remove(leftover)
    return fresh


def place_beside(target: Path) -> Path:
    """Returns the place that `fresh_place` returns; changes nothing."""
    return _beside(target, "new")


def replace_folder(fresh: Path, target: Path) -> None:
    """Gives a finished folder its final name; what has that name is removed.

    On Linux and macOS the two are exchanged in one step, where the file system can.
    Elsewhere the old folder is renamed first, so for an instant there is none: it lies
    beside, under a name that begins with a dot, and `fresh_place` puts it back.

    Args:
        fresh: From `fresh_place(target)`.
        target: The final name.
    """
    if not target.exists():
        os.rename(fresh, target)
    elif _exchange(fresh, target):
        _remove(fresh)
    else:
        aside = _beside(target, "old")
        _remove(aside)
        os.rename(target, aside)
        try:
            os.rename(fresh, target)
        except OSError:
            os.rename(aside, target)
            raise
        _remove(aside)


def check_replaceable(target: Place) -> None:
    """Raises unless a checkpoint may be written to a path, replacing what is there.

    Raises:
        FileExistsError: If something other than a checkpoint or an empty folder is
            there. A folder of photos must not be lost because its name was given.
        NotADirectoryError: If one of the folders above is a file.
        ValueError: If it is in storage, where a checkpoint can't be replaced in one
            step.
    """
    if in_storage(target):
        raise ValueError(
            f"{target} is in storage, where a checkpoint of many objects can't be "
            "replaced in one step. Save each to a path of its own, or train with run=, "
            "which keeps the latest and the best."
        )
    for above in target.parents:
        if above.exists() and not above.is_dir():
            raise NotADirectoryError(
                f"{target} can't be written: {above} is a file. Choose another path."
            )
    if not target.exists() or is_checkpoint(target):
        return
    if target.is_dir() and not any(target.iterdir()):
        return
    if not target.is_dir():
        what = "a file"
    elif (target / "run.json").is_file():
        what = "the folder of a run"
    else:
        what = "a folder that is not a checkpoint"
    raise FileExistsError(
        f"{target} is {what}; only a checkpoint is overwritten. Choose another path, "
        "or remove it first."
    )


def is_checkpoint(path: Place) -> bool:
    """Returns whether a folder is an Orbax checkpoint, jaxtune's or another's."""
    files = (CHECKPOINT_METADATA, TREE_METADATA)
    return any((path / file).is_file() for file in files)


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(f".{target.name}.{suffix}")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _exchange(one: Path, other: Path) -> bool:
    """Exchanges two names in one step; False if that can't be done here."""
    name = {"linux": "renameat2", "darwin": "renameatx_np"}.get(sys.platform)
    try:
        function = getattr(ctypes.CDLL(None), name or "")
    except (AttributeError, OSError, TypeError):
        return False
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    return function(*names, ctypes.c_uint(_EXCHANGE)) == 0
