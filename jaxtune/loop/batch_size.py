"""The largest batch with which everything can train, from the compiler's memory plan.

Steps are compiled for some batch sizes; none is run.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from jaxtune.loop.memory import MemoryNeed, OutOfMemoryError, memory_limit, size_text
from jaxtune.loop.trainer import Trainer

#: Of a device's memory, what a step may take; a CPU's holds photos and programs, too.
SHARE, SHARE_OF_CPU = 0.9, 0.5

#: Steps that an epoch keeps, and the batch beyond which a GPU's steps gain no speed.
STEPS_PER_EPOCH, MOST = 20, 512

#: The first size that is compiled.
_FIRST = 32


class BatchSize(NamedTuple):
    """The largest batch that fits, and why it is no larger.

    Attributes:
        size: Rows of a batch.
        need: Memory that training every layer group with it takes; None if unknown.
        limit: Bytes of the device's memory; None if it doesn't tell.
        most: The largest size that was asked for.
    """

    size: int
    need: MemoryNeed | None
    limit: int | None
    most: int

    def __str__(self) -> str:
        """Returns both in one line."""
        if self.need is None or self.need.total is None or self.limit is None:
            return f"batch_size={self.size}: the device doesn't tell its memory"
        line = (
            f"batch_size={self.size}: training every layer group takes "
            f"{size_text(self.need.total)} of {size_text(self.limit)}"
        )
        if 2 * self.size > self.most:
            line += f"; no more than {self.most} were asked for"
        return line


def find_batch_size(trainer: Trainer, data: Any, most: int | None) -> BatchSize:
    """Returns the largest batch with which every layer group can train.

    Args:
        trainer: The network and how it trains; it is not changed.
        data: Has `train_loader`.
        most: The largest batch wanted; None for what leaves an epoch `STEPS_PER_EPOCH`
            steps, at most `MOST`.

    Raises:
        OutOfMemoryError: If not even one row for each device fits.
    """
    loader, devices = data.train_loader, len(trainer.sharding.device_set)
    if most is None:
        most = min(MOST, max(8, loader.num_items // STEPS_PER_EPOCH))
    most = max(devices, min(most, loader.num_items))
    device = min(trainer.sharding.device_set, key=lambda one: one.id)
    limit = memory_limit(device)
    if limit is None or trainer.batch_form(loader) is None:
        return BatchSize(loader.batch_size, None, None, most)
    share = SHARE_OF_CPU if device.platform == "cpu" else SHARE
    size, need = largest_that_fits(
        lambda rows: trainer.memory_need(loader, rows),
        most=most,
        room=int(share * limit),
        devices=devices,
    )
    if need.total is None:
        size = loader.batch_size
    return BatchSize(size, need, limit, most)


def largest_that_fits(
    need_of: Callable[[int], MemoryNeed], *, most: int, room: int, devices: int = 1
) -> tuple[int, MemoryNeed]:
    """Returns the largest power of two for each device that fits, and its need.

    The first size that is tried if the compiler doesn't tell what a step needs.

    Args:
        need_of: rows -> what a step with so many takes; it may raise an
            `OutOfMemoryError`.
        most: Rows that are not exceeded, at least `devices`.
        room: Bytes of one device that it may take.
        devices: Over which the rows are split.

    Raises:
        OutOfMemoryError: If one row for each device doesn't fit.
    """

    def power(rows: float) -> int:
        """The largest size of at most so many rows, at least the smallest one."""
        each = max(1, int(min(rows, most)) // devices)
        return devices << (each.bit_length() - 1)

    size, rising = power(_FIRST), True
    while True:
        try:
            need = need_of(size)
            if need.total is None:
                return size, need
            fits = need.total <= room
        except OutOfMemoryError:
            if size == devices:
                raise
            fits = False
        if not fits and size > devices:
            size, rising = size // 2, False
            continue
        if not rising:
            return size, need
        # The compiler plans other sizes a little differently: this one is looked at.
        by_row = max(need.growing / need.rows, 1)
        larger, rising = power((room - need.fixed) / by_row), False
        if larger <= size:
            return size, need
        size = larger
