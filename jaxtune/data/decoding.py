"""Processes that decode photos for the threads that assemble batches.

Threads of one process share Python's lock, which each photo holds for a while: beyond a
few threads, more of them make nothing faster. So each thread hands its photo to a
process of its own. They talk through pipes: nothing is left behind when either side is
killed, and the user's main module is not imported, so notebooks, `python -` and scripts
without `if __name__ == "__main__"` work.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import queue
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageFile

from jaxtune.data.decode import ImageError
from jaxtune.data.decoding_process import Pixels, receive, send
from jaxtune.data.resize import Preparation

_PROGRAM = Path(__file__).with_name("decoding_process.py")

#: With fewer workers, threads alone are as fast.
_FEWEST = 4
#: With fewer photos, threads have decoded them by the time that processes have started.
_FEWEST_PHOTOS = 1000
#: Processes that nobody needs end after so many seconds.
_IDLE_SECONDS = 30.0


def worth_processes(workers: int, photos: int) -> bool:
    """Returns whether processes decode so many photos sooner than threads do."""
    lock = getattr(sys, "_is_gil_enabled", lambda: True)()
    # An application may be its own interpreter, which would start a second one; and not
    # everywhere can a process be given memory without a name.
    interpreter = bool(sys.executable) and not getattr(sys, "frozen", False)
    can = os.name == "posix" and interpreter and lock
    return can and workers >= _FEWEST and photos >= _FEWEST_PHOTOS


def _memory() -> int:
    """Descriptor of a file in memory, without a name: it ends with its processes."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("jaxtune-pixels")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class _Process:
    """One process, which decodes for one thread at a time."""

    def __init__(self) -> None:
        self._file: int | None = _memory()
        self._pixels = Pixels(self._file)
        try:
            # Where this fails, threads decode.
            self._popen = subprocess.Popen(
                # -P: the names of this folder's files are not those of modules.
                [sys.executable, "-P", str(_PROGRAM)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(self._file,),
                bufsize=0,
            )
        except OSError:
            os.close(self._file)
            raise
        self.pid = self._popen.pid

    def wait_until_ready(self) -> None:
        """Returns when it can take photos.

        Raises:
            EOFError: If it has ended instead.
        """
        limits = (Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES)
        self._send((sys.path, limits, self._file))
        receive(self._popen.stdout)

    def read(
        self, preparation: Preparation, sources: Sequence[Any], rows: Sequence[Any]
    ) -> list[float | Exception]:
        """Does what `DecodingProcesses.read` does.

        Raises:
            EOFError: If the process has ended.
        """
        folder = ""
        with contextlib.suppress(FileNotFoundError):  # It may be deleted by now.
            folder = os.getcwd()
        self._send((folder, preparation, list(sources)))
        results = receive(self._popen.stdout)
        decoded = self._pixels.array((len(rows), *preparation.shape))
        for row, pixels in zip(rows, decoded, strict=True):
            row[...] = pixels
        return results

    def _send(self, request: Any) -> None:
        try:
            send(self._popen.stdin, request)
        except OSError as error:
            raise EOFError("the process has ended.") from error

    def ask_to_end(self) -> None:
        """Lets it end as soon as it has decoded what it is decoding."""
        with contextlib.suppress(OSError):
            self._popen.stdin.close()

    def end(self) -> int:
        """Ends it; returns its exit status."""
        self.ask_to_end()
        try:
            status = self._popen.wait(1.0)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            status = self._popen.wait()
        # Not before: another thread may be reading, and gets its end from the process.
        self._popen.stdout.close()
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
        return status


def read_here(
    preparation: Callable, sources: Sequence[Any], rows: Sequence[Any]
) -> list[float | Exception]:
    """Does what `DecodingProcesses.read` does, in this thread, with any function."""
    results: list[float | Exception] = []
    for source, row in zip(sources, rows, strict=True):
        try:
            row[...], aspect = preparation(source)
            results.append(aspect)
        except (ImageError, OSError, TypeError) as error:
            results.append(error)
    return results


class DecodingProcesses:
    """Processes for threads to borrow; while they start, threads decode themselves."""

    def __init__(self, count: int) -> None:
        """Starts the processes, and returns before they are ready."""
        self._idle: queue.SimpleQueue[_Process] = queue.SimpleQueue()
        self._all: set[_Process] = set()
        self._lock = threading.Lock()
        self._closed = False
        self.count = 0
        self.start(count)

    def start(self, count: int) -> None:
        """Starts more processes, up to a number."""
        for _ in range(self.count, count):
            threading.Thread(
                target=self._start_one, name="jaxtune-start-decoding", daemon=True
            ).start()
        self.count = max(self.count, count)

    @property
    def pids(self) -> list[int]:
        """Numbers of the processes that have started."""
        with self._lock:
            return sorted(process.pid for process in self._all)

    def read(
        self, preparation: Preparation, sources: Sequence[Any], rows: Sequence[Any]
    ) -> list[float | Exception]:
        """Fills rows with the pixels of photos, by a process if one is free.

        Args:
            preparation: Of the photos.
            sources: Their paths.
            rows: A writable uint8 (h, w, c) for each, of the preparation's shape.

        Returns:
            For each photo its original width / height, or the error that it raised.
        """
        try:
            process = self._idle.get_nowait()
        except queue.Empty:
            return read_here(preparation, sources, rows)
        try:
            results = process.read(preparation, sources, rows)
        except EOFError:
            self._replace(process, sources)
            return read_here(preparation, sources, rows)
        except BaseException:
            # Part of its answer is still to come.
            self._forget(process)
            raise
        self._idle.put(process)
        return results

    def close(self) -> None:
        """Ends all processes."""
        with self._lock:
            self._closed, processes = True, list(self._all)
            self._all.clear()
        for process in processes:
            process.ask_to_end()
        for process in processes:
            process.end()

    def _start_one(self) -> None:
        try:
            process = _Process()
        except OSError:
            return
        with self._lock:
            self._all.add(process)
        try:
            process.wait_until_ready()
        except EOFError:
            self._forget(process)
            return
        self._idle.put(process)
        if self._closed:
            self._forget(process)

    def _forget(self, process: _Process) -> int:
        with self._lock:
            self._all.discard(process)
        return process.end()

    def _replace(self, process: _Process, sources: Sequence[Any]) -> None:
        status = self._forget(process)
        if self._closed:
            return
        how = f"by signal {-status}" if status < 0 else f"(status {status})"
        warnings.warn(
            f"the process {process.pid}, which was decoding {sources[0]}"
            f"{f' and {len(sources) - 1} more' if sources[1:] else ''}, was ended "
            f"{how}. That is decoded again, and another process takes its place. If "
            "the system ended it for lack of memory, give fewer workers.",
            stacklevel=2,
        )
        self._start_one()


class _Shared:
    """The processes that all loaders of this process use, and how many use them."""

    def __init__(self) -> None:
        # Again by the same thread: an iterator may be collected, and end, at any time.
        self.lock = threading.RLock()
        self.processes: DecodingProcesses | None = None
        self.users = 0
        self.timer: threading.Timer | None = None

    def close_if_idle(self) -> None:
        with self.lock:
            if self.users:
                return
            processes, self.processes = self.processes, None
        if processes is not None:
            processes.close()


_shared = _Shared()


def _begin_anew() -> None:
    """Leaves the parent's processes to the parent, after a fork."""
    global _shared
    _shared = _Shared()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


@contextlib.contextmanager
def decoding_processes(count: int) -> Iterator[DecodingProcesses]:
    """Yields at least so many processes; those of others that have not ended yet too.

    They end half a minute after the last use, and with this process.
    """
    shared = _shared
    with shared.lock:
        if shared.timer is not None:
            shared.timer.cancel()
            shared.timer = None
        if shared.processes is None:
            shared.processes = DecodingProcesses(count)
        shared.processes.start(count)
        shared.users += 1
        processes = shared.processes
    try:
        yield processes
    finally:
        with shared.lock:
            shared.users -= 1
            if not shared.users:
                shared.timer = threading.Timer(_IDLE_SECONDS, shared.close_if_idle)
                shared.timer.daemon = True
                shared.timer.start()


@atexit.register
def _end_with_this_process() -> None:
    with _shared.lock:
        _shared.users = 0
    _shared.close_if_idle()
