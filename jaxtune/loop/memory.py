"""Out of memory: what a program needs, what a device has, and a batch that fits.

What a program needs is counted by the compiler. A batch size that should fit is an
estimate, and messages call it one.
"""

import contextlib
import dataclasses
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jaxtune.train import SHARED_CARD

#: Backends' error texts: memory is full; a library lacked the memory to start.
_FULL = ("RESOURCE_EXHAUSTED", "Out of memory", "CUDA_ERROR_OUT_OF_MEMORY")
_NO_START = (
    "CUDNN_STATUS_INTERNAL_ERROR",
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "DNN library initialization failed",
    "Failed to allocate",
)

#: Files with a container's memory limit in bytes, if it has one.
_CONTAINER_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


class OutOfMemoryError(MemoryError):
    """A device has too little memory for a batch.

    The message says what was needed, what is available, and which batch size should
    fit. The learner holds its last good weights and can train on with smaller batches.
    """


@dataclasses.dataclass(frozen=True)
class MemoryNeed:
    """How much memory of one device a compiled program needs.

    Attributes:
        task: What it does, in words, such as "a train step".
        rows: Rows of the whole batch.
        device: The JAX device, or the first of several that each need as much.
        devices: Number of devices.
        accumulation: Batches per update, if it trains; else None.
        fixed: Bytes for any batch size: weights, optimizer state, gradients. None if
            the program was not compiled.
        growing: Bytes that are proportional to the rows: images, feature maps.
    """

    task: str
    rows: int
    device: Any
    devices: int = 1
    accumulation: int | None = None
    fixed: int | None = None
    growing: int | None = None

    @property
    def total(self) -> int | None:
        """Bytes of one device's memory, or None if not known."""
        return None if self.fixed is None else self.fixed + self.growing

    def measured(self, analysis: Any, batch_bytes: int) -> "MemoryNeed":
        """Returns a copy with the bytes that the compiler counted.

        Temporary memory is taken to grow with the batch, except for the gradients,
        which are as large as the weights.

        Args:
            analysis: `compiled.memory_analysis()`, of one device; None if the backend
                has none.
            batch_bytes: Bytes of the batch on one device.
        """
        if analysis is None:
            return self
        kept = analysis.argument_size_in_bytes - batch_bytes
        new = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
        temporary = analysis.temp_size_in_bytes
        gradients = min(kept, temporary // 2) if analysis.alias_size_in_bytes else 0
        return dataclasses.replace(
            self,
            fixed=max(kept + new, 0) + gradients,
            growing=batch_bytes + temporary - gradients,
        )

    def rows_that_fit(self, limit: int) -> int | None:
        """Estimates how many rows fit into one device's memory.

        Args:
            limit: Bytes of one device's memory.

        Returns:
            At most `rows`, a multiple of the number of devices; 0 if not even one row
            per device fits; None if the need is not known.
        """
        if self.fixed is None:
            return None
        share = (limit - self.fixed) / max(self.growing, 1)
        rows = math.floor(max(0.0, min(share, 1.0)) * self.rows)
        return rows // self.devices * self.devices


def memory_limit(device: Any) -> int | None:
    """Returns the bytes that programs may use on a device; None if it doesn't tell.

    Args:
        device: A JAX device. For a GPU, the limit is what JAX may take, by default
            three quarters of its memory; for a CPU, the machine's memory or the
            container's limit.
    """
    if device.platform == "cpu":
        return _host_memory()
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except (RuntimeError, NotImplementedError):
        return None


def check_fits(need: MemoryNeed, limit: int | None) -> None:
    """Raises if a program can't fit, before it runs.

    Args:
        need: What the compiled program needs.
        limit: Bytes that its device has; nothing is checked if None.

    Raises:
        OutOfMemoryError: If the program needs more.
    """
    if limit is not None and need.total is not None and need.total > limit:
        raise OutOfMemoryError(out_of_memory(need, limit))


@contextlib.contextmanager
def device_errors(newest: Callable[[], MemoryNeed | None]) -> Iterator[None]:
    """Turns a device's out-of-memory errors into `OutOfMemoryError`; others pass.

    JAX runs asynchronously, so an error may be raised later than the call that caused
    it: code that waits for results belongs inside the context, too.

    Args:
        newest: Returns what the last called program needs.

    Raises:
        OutOfMemoryError: From JAX's own error.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        text = str(error)
        full = any(words in text for words in _FULL)
        no_start = any(words in text for words in _NO_START)
        if not full and not no_start:
            raise
        need = newest()
        if need is None:
            first = text.strip().splitlines()[0]
            message = f"a device's memory is full: {first}. {SHARED_CARD}"
        elif no_start and not full:
            message = _did_not_start(need, text)
        else:
            message = out_of_memory(need, memory_limit(need.device), backend=text)
        raise OutOfMemoryError(message) from error


def out_of_memory(need: MemoryNeed, limit: int | None, *, backend: str = "") -> str:
    """Returns the message for a program that does not fit.

    Args:
        need: What the program needs.
        limit: Bytes that its device has, or None.
        backend: The backend's error message.
    """
    total = need.total
    if total is None and (counts := _of_compiler(backend)):
        # The compiler gives the total only, so all of it counts as growing.
        total, limit = counts
        need = dataclasses.replace(need, fixed=0, growing=total)
    what = f"{need.task} with a batch of {need.rows}"
    if need.devices > 1:
        what += f" on {need.devices} devices"
    message = f"{_name(need.device)} is out of memory: {what}"
    if total is None:
        message += " does not fit"
    elif limit is None:
        message += f" needs {size_text(total)}"
    else:
        each = " of each" if need.devices > 1 else ""
        message += f" needs {size_text(total)}{each}, and there is {size_text(limit)}"
    if total is not None and limit is not None and total <= limit:
        return f"{message}, of which too much is in use. {_taken(need.device)}"
    rows = None if limit is None else need.rows_that_fit(limit)
    return f"{message}. {_way_out(need, rows)}"


def _way_out(need: MemoryNeed, rows: int | None) -> str:
    if rows == 0:
        return (
            "By estimate, not even the smallest batch fits. Take a smaller size= of "
            'photos or a smaller network, or on a GPU or TPU precision="bfloat16" or '
            "rematerialize=True."
        )
    # Where the need is not known, half the batch is a guess: the message says "try".
    parts = 2 if rows is None else math.ceil(need.rows / rows)
    # Preferably, the smaller batches add up exactly to the one that was tried.
    even = (n for n in range(parts, 2 * parts) if need.rows % (n * need.devices) == 0)
    parts = next(even, parts)
    size = max(need.rows // parts // need.devices, 1) * need.devices
    fits = f"By estimate, batch_size={size} fits"
    if rows is None:
        fits = f"Try batch_size={size}"
    if need.accumulation is not None:
        times = parts * need.accumulation
        fits += f"; with gradient_accumulation_steps={times} it trains as this one does"
    return (
        f"{fits}. A smaller size= of photos needs less, too, and on a GPU or TPU so "
        'do precision="bfloat16" and rematerialize=True.'
    )


def _did_not_start(need: MemoryNeed, backend: str) -> str:
    words = next(words for words in _NO_START if words in backend)
    return (
        f"{_name(need.device)}'s libraries did not start ({words}), usually because "
        f"memory is short. {SHARED_CARD}"
    )


def _taken(device: Any) -> str:
    if device.platform == "cpu":
        return "End other programs, or take smaller batches."
    return f"{SHARED_CARD} Or take smaller batches."


def _of_compiler(backend: str) -> tuple[int, int] | None:
    """Bytes needed and bytes available, if a TPU compiler's message has them."""
    match = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm", backend)
    if match is None:
        return None
    used, unit, available, of_unit = match.groups()
    scale = {letter: 1024**i for i, letter in enumerate("KMGT", start=1)}
    return int(float(used) * scale[unit]), int(float(available) * scale[of_unit])


def _host_memory() -> int | None:
    limits = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in _CONTAINER_LIMITS:
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(Path(path).read_text()))
    return min(limits, default=None)


def _name(device: Any) -> str:
    if device.platform == "cpu":
        return "this machine"
    return f"{device.platform}:{device.id} ({device.device_kind})"


def size_text(count: int) -> str:
    """Returns a number of bytes with its unit."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
