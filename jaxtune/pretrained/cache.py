"""Keeps fetched files whole: a file in the cache is complete and unaltered, or absent.

In: a path in the cache and a function that makes the file. Out: the path, once the
file there is whole. The one rule: a file appears under its own name only by being
renamed, complete and written to disk, and is checked against its recorded sha256
whenever it is handed out.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from jaxtune.pretrained.progress import say

LOCK_TIMEOUT_S = 3600.0


def cache_dir() -> Path:
    """Returns the folder that fetched files are kept in (it may not exist yet).

    JAXTUNE_CACHE_DIR if set, else `jaxtune` in XDG_CACHE_HOME, else in the platform's
    place: ~/.cache, ~/Library/Caches on macOS, %LOCALAPPDATA% on Windows.
    """
    if own := os.environ.get("JAXTUNE_CACHE_DIR"):
        return Path(own).expanduser()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser() / "jaxtune"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "jaxtune"
    if sys.platform == "win32" and (local := os.environ.get("LOCALAPPDATA")):
        return Path(local) / "jaxtune"
    return Path.home() / ".cache" / "jaxtune"


def sha256_of(path: Path) -> str:
    """Returns a file's sha256 in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path: Path, *, timeout: float = LOCK_TIMEOUT_S) -> Iterator[None]:
    """Holds the lock of a path, so that one process at a time makes what is there.

    Args:
        path: what is guarded; the lock is a file beside it, named `.<name>.lock`. The
            folder is made where it does not exist.
        timeout: seconds to wait for another process.

    Raises:
        TimeoutError: another process held it all that time.
        OSError: the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path.parent / f".{path.name}.lock")
        try:
            lock.acquire(timeout=0.2)
        except Timeout:
            say(f"another process is making {path}; waiting for it")
            lock.acquire(timeout=timeout)
    except Timeout as error:
        raise TimeoutError(
            f"another process has held the lock of {path} for {timeout:.0f} s; end it, "
            "or set JAXTUNE_CACHE_DIR to another folder"
        ) from error
    except OSError as error:
        raise type(error)(
            f"the cache folder {path.parent} cannot be written ({error}); set "
            "JAXTUNE_CACHE_DIR to one that can"
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """Yields a temporary path whose file becomes `path` at the end, or never.

    The temporary path has the same file name, in a folder of its own beside `path`,
    which is removed in any case. If the block ends well, the file is flushed to disk
    and renamed; if it raises, or the process dies, `path` is what it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = path.parent / f".{path.name}.{uuid.uuid4().hex}.partial"
    folder.mkdir()
    try:
        yield folder / path.name
        # A writer may have made it readable for its owner only.
        (folder / "plain").touch()
        (folder / path.name).chmod((folder / "plain").stat().st_mode)
        with (folder / path.name).open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(folder / path.name, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def record_of(path: Path) -> dict | None:
    """Returns what was written down when a cached file was made, or None.

    Keys: `sha256`, `size` in bytes, `source`.
    """
    try:
        record = json.loads(_record_path(path).read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def is_whole(path: Path) -> bool:
    """Returns whether a cached file is there, complete and unaltered."""
    record = record_of(path)
    if record is None or not path.is_file():
        return False
    same_size = path.stat().st_size == record.get("size")
    return same_size and sha256_of(path) == record.get("sha256")


def cached(path: Path, make: Callable[[Path], str]) -> Path:
    """Returns a path in the cache, having its file made first if it is not whole.

    Processes that ask for the same path at once wait for one of them. What a process
    that was killed left behind is removed.

    Args:
        path: where the file is to be.
        make: writes the file to the path it is given (same name, other folder), checks
            it, and returns where it came from in words. What it raises passes through.

    Raises:
        TimeoutError: another process has been making the file for an hour.
        OSError: the cache folder cannot be written.
    """
    if is_whole(path):
        return path
    with locked(path):
        if is_whole(path):
            return path
        if path.is_file() and record_of(path) is not None:
            say(f"{path} was altered since it was fetched; fetching it again")
        for left in path.parent.glob(f".{path.name}.*.partial"):
            shutil.rmtree(left, ignore_errors=True)
        _record_path(path).unlink(missing_ok=True)
        with new_file(path) as temporary:
            source = make(temporary)
            record = {
                "sha256": sha256_of(temporary),
                "size": temporary.stat().st_size,
                "source": source,
            }
        with new_file(_record_path(path)) as temporary:
            temporary.write_text(json.dumps(record, indent=1) + "\n", "utf-8")
    return path


def _record_path(path: Path) -> Path:
    return path.parent / f"{path.name}.record"
