"""Where checkpoints and runs lie: a folder, or a place in Google Cloud Storage.

Places of both kinds have pathlib's methods: those of storage are `etils.epath`'s, which
Orbax uses, too. Storage has no folders of its own, no locks, and no renaming of several
objects in one step; an object appears whole.
"""

import importlib.util
import os
import re
from pathlib import Path, PurePath
from typing import Any

from jaxtune.arguments import check_path

#: A `Path`, or one of storage with the same methods.
Place = PurePath

#: Orbax's files that describe a checkpoint of several items, and a tree of arrays.
CHECKPOINT_METADATA, TREE_METADATA = "_CHECKPOINT_METADATA", "_METADATA"

#: Orbax writes this object last; in a folder, it renames the whole instead.
_COMMITTED = "commit_success.txt"
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)")


def place_of(path: str | os.PathLike, name: str = "path") -> Any:
    """Returns an absolute path, or a place in storage such as "gs://bucket/runs/pets".

    Args:
        path: What a user gave.
        name: Of the argument, for the message.

    Raises:
        ImportError: If the library for storage is not installed.
        TypeError: If it is not a path.
        ValueError: If it is a URL of another kind.
    """
    text = os.fspath(check_path(path, name))
    # A `Path` of a URL has lost one of its slashes.
    url = _URL.fullmatch(text) if isinstance(text, str) else None
    if url is None:
        return Path(path).expanduser().resolve()
    scheme, rest = url.groups()
    if scheme != "gs":
        raise ValueError(
            f"{name} is {text!r}: a folder is needed, or a place in Google Cloud "
            'Storage, "gs://bucket/name". Other storage can be mounted as a folder.'
        )
    if importlib.util.find_spec("gcsfs") is None:
        raise ImportError(
            f"{text} is in Google Cloud Storage, which needs gcsfs: "
            'pip install "jaxtune[gcs]".'
        )
    import fsspec
    from etils import epath

    # Listings that gcsfs remembers don't have what another process, or TensorStore, has
    # written since: Orbax then finds no folder.
    fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)
    return epath.Path(f"gs://{rest}")


def in_storage(place: Place) -> bool:
    """Returns whether a place is in storage, not a folder of a file system."""
    return not isinstance(place, Path)


def is_complete(checkpoint: Any) -> bool:
    """Returns whether there is a checkpoint at a place, and it was written whole."""
    if in_storage(checkpoint) and not (checkpoint / _COMMITTED).is_file():
        return False
    return (checkpoint / CHECKPOINT_METADATA).is_file()


def make_incomplete(checkpoint: Any) -> None:
    """Marks a checkpoint in storage as one that is not whole, before it is removed."""
    (checkpoint / _COMMITTED).unlink(missing_ok=True)
