"""What a decoding process runs: photos come in by their paths and go out as pixels.

`jaxtune.data.decoding` starts it and talks to it: requests and replies go over standard
input and output, pixels through memory that both processes see. It imports no JAX, and
nothing of the user's program, so it starts soon, and it ends when its input ends,
whatever became of the process that started it.
"""

import math
import mmap
import os
import pickle
import signal
import struct
import sys
import types
from pathlib import Path
from typing import Any, BinaryIO

#: Bytes that follow: of a message.
LENGTH = struct.Struct("<I")


def send(stream: BinaryIO, value: object) -> None:
    """Writes a value so that `receive` reads it."""
    message = pickle.dumps(value)
    stream.write(LENGTH.pack(len(message)) + message)
    stream.flush()


def receive(stream: BinaryIO) -> object:
    """Returns the next value that `send` wrote.

    Raises:
        EOFError: If the other side has ended.
    """
    (length,) = LENGTH.unpack(read_exactly(stream, LENGTH.size))
    return pickle.loads(read_exactly(stream, length))


def read_exactly(stream: BinaryIO, count: int) -> bytes:
    """Returns so many bytes.

    Raises:
        EOFError: If the other side has ended.
    """
    received = b""
    while len(received) < count:
        more = stream.read(count - len(received))
        if not more:
            raise EOFError("the other process has ended.")
        received += more
    return received


class Pixels:
    """Memory for the pixels of some photos, which two processes see."""

    def __init__(self, file: int):
        """Takes the descriptor of a file that is in memory and has no name."""
        self._file, self._memory = file, None

    def array(self, shape: tuple[int, ...]) -> Any:
        """Returns the memory as an array uint8 (n, h, w, c); it grows where it must."""
        # Only the process that asks knows where packages are.
        import numpy as np

        size = math.prod(shape)
        if self._memory is None or len(self._memory) < size:
            if os.fstat(self._file).st_size < size:
                os.ftruncate(self._file, size)
            self._memory = mmap.mmap(self._file, size)
        return np.frombuffer(self._memory, np.uint8, size).reshape(shape)


def _without_jax(name: str, folder: Path) -> None:
    """Makes a package importable without running its `__init__`, which needs JAX."""
    package = types.ModuleType(name)
    package.__path__ = [str(folder)]
    sys.modules[name] = package


def main() -> None:
    """Answers requests until there are no more."""
    # Ctrl-C reaches every process of a terminal; the one that asks decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    # What a library prints must not get between the replies.
    os.dup2(2, 1)
    paths, limits, file = receive(requests)
    pixels = Pixels(file)
    sys.path[:] = paths
    here = Path(__file__).resolve().parent
    _without_jax("jaxtune", here.parent)
    _without_jax("jaxtune.data", here)
    from PIL import Image, ImageFile

    import jaxtune.data.resize  # noqa: F401  (what requests are made of)

    Image.MAX_IMAGE_PIXELS, ImageFile.LOAD_TRUNCATED_IMAGES = limits
    send(replies, "ready")
    present = ""
    while True:
        folder, preparation, sources = receive(requests)
        # The path of a photo may be relative.
        if folder and folder != present:
            os.chdir(folder)
            present = folder
        rows = pixels.array((len(sources), *preparation.shape))
        results: list[float | Exception] = []
        for source, row in zip(sources, rows, strict=True):
            try:
                row[...], aspect = preparation(source)
                results.append(aspect)
            except Exception as error:
                results.append(error)
        send(replies, results)


if __name__ == "__main__":
    try:
        main()
    except (EOFError, BrokenPipeError):
        # Nobody asks any more. Python would try once more to write what is left.
        os._exit(0)
