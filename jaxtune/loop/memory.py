"""Out of memory: what a program needs, what a device has, and a batch that fits.

The one rule of the file: what is said of memory is the compiler's own count; a batch
size that should fit is an estimate, and called one.
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

#: A backend's words for no memory, and for libraries that had none to start with.
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

#: Files that say how much memory a container may have, in bytes, if it is limited.
_CONTAINER_LIMITS = (
    "/sys/fs/cgroup/memory.max",
    "/sys/fs/cgroup/memory/memory.limit_in_bytes",
)


class OutOfMemoryError(MemoryError):
    """A device has too little memory for a batch.

    The message says what was needed, what there is, and which batch should fit. A
    learner can go on, with smaller batches: it holds its last good values.
    """


@dataclasses.dataclass(frozen=True)
class MemoryNeed:
    """What a compiled program needs of one device's memory.

    Attributes:
        task: What it does, "a train step".
        rows: Rows of the whole batch.
        device: The JAX device, or the first of several that each need as much.
        devices: How many there are.
        accumulation: Batches for one update, where something trains; else None.
        fixed: Bytes whatever the batch: values, optimizer, gradients. None if the
            program was not compiled.
        growing: Bytes in proportion to the rows: images, feature maps.
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
        """Returns it with the compiler's count.

        What the program needs beside arguments and results is taken to grow with the
        batch, but for a copy as large as the values: gradients are as large.

        Args:
            analysis: `compiled.memory_analysis()`, of one device; None if the backend
                has none.
            batch_bytes: Of the batch, on one device.
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
        """Returns how many rows should fit into so many bytes, at most those asked for.

        An estimate, and a multiple of the number of devices.

        Args:
            limit: Bytes of one device's memory.

        Returns:
            0 if not even one row for each device fits; None if the need is not known.
        """
        if self.fixed is None:
            return None
        share = (limit - self.fixed) / max(self.growing, 1)
        rows = math.floor(max(0.0, min(share, 1.0)) * self.rows)
        return rows // self.devices * self.devices


def memory_limit(device: Any) -> int | None:
    """Returns the bytes that a device's programs may have, or None if it doesn't say.

    Args:
        device: A JAX device. Of a GPU it is what JAX may take, by default three
            quarters; of the processor, the machine's memory, or what a container may
            have of it.
    """
    if device.platform == "cpu":
        return _host_memory()
    try:
        return (device.memory_stats() or {}).get("bytes_limit")
    except (RuntimeError, NotImplementedError):
        return None


def check_fits(need: MemoryNeed, limit: int | None) -> None:
    """Refuses a program that can't fit, before it runs.

    Args:
        need: Of the compiled program.
        limit: Bytes that its device has; nothing is refused if None.

    Raises:
        OutOfMemoryError: If it needs more.
    """
    if limit is not None and need.total is not None and need.total > limit:
        raise OutOfMemoryError(out_of_memory(need, limit))


@contextlib.contextmanager
def device_errors(newest: Callable[[], MemoryNeed | None]) -> Iterator[None]:
    """Says in plain words what a device says of its memory; other errors pass.

    A device computes behind the program's back, so an error may come up later than the
    call that caused it: whatever waits for results belongs inside, too.

    Args:
        newest: Returns what the program that was called last needs.

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
            message = out_of_memory(need, memory_limit(need.device), said=text)
        raise OutOfMemoryError(message) from error


def out_of_memory(need: MemoryNeed, limit: int | None, *, said: str = "") -> str:
    """Returns what to say where a program does not fit.

    Args:
        need: Of the program.
        limit: Bytes that its device has, or None.
        said: The backend's own words.
    """
    total = need.total
    if total is None and (found := _of_compiler(said)):
        # The compiler refused it; how it is composed stays unknown.
        total, limit = found
        need = dataclasses.replace(need, fixed=0, growing=total)
    what = f"{need.task} with a batch of {need.rows}"
    if need.devices > 1:
        what += f" on {need.devices} devices"
    told = f"{_name(need.device)} is out of memory: {what}"
    if total is None:
        told += " does not fit"
    elif limit is None:
        told += f" needs {_size(total)}"
    else:
        each = " of each" if need.devices > 1 else ""
        told += f" needs {_size(total)}{each}, and there is {_size(limit)}"
    if total is not None and limit is not None and total <= limit:
        return f"{told}, of which too much is taken. {_taken(need.device)}"
    rows = None if limit is None else need.rows_that_fit(limit)
    return f"{told}. {_way_out(need, rows)}"


def _way_out(need: MemoryNeed, rows: int | None) -> str:
    if rows == 0:
        return (
            "By estimate, not even the smallest batch fits. Take a smaller size= of "
            'photos or a smaller network, or on a GPU or TPU precision="bfloat16".'
        )
    # Where the need is not known, half of it is a guess, and said to be one.
    parts = 2 if rows is None else math.ceil(need.rows / rows)
    # Batches that add up to the one that was tried, where there are such.
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
        'does precision="bfloat16".'
    )


def _did_not_start(need: MemoryNeed, said: str) -> str:
    words = next(words for words in _NO_START if words in said)
    return (
        f"{_name(need.device)}'s libraries did not start ({words}), mostly for want of "
        f"memory. {SHARED_CARD}"
    )


def _taken(device: Any) -> str:
    if device.platform == "cpu":
        return "End other programs, or take smaller batches."
    return f"{SHARED_CARD} Or take smaller batches."


def _of_compiler(said: str) -> tuple[int, int] | None:
    """Bytes that a program needs and that there are, where a TPU's compiler says so."""
    found = re.search(r"Used ([\d.]+)([KMGT]) of ([\d.]+)([KMGT]) hbm", said)
    if found is None:
        return None
    used, unit, there, of_unit = found.groups()
    scale = {letter: 1024**i for i, letter in enumerate("KMGT", start=1)}
    return int(float(used) * scale[unit]), int(float(there) * scale[of_unit])


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


def _size(count: int) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
