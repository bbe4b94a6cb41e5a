"""The position of a training run, down to the batch, and its train state.

The position is plain JSON; together with the train state it is all that is needed to
resume.
"""

import dataclasses
import time
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np

from jaxtune.loop.history import Row


@dataclasses.dataclass
class RunState:
    """The position of a run; it is updated with every step.

    Attributes:
        phase: Number of the current phase within the run, from 1.
        epoch: Number of the phase's finished epochs, validation included.
        step: Number of batches trained in the current epoch.
        losses: Mean loss of each of these batches.
        counts: Unpadded rows of each of these batches.
        seconds: Time that earlier processes spent on this epoch.
        progress: Number of steps and validations so far, over all phases.
        finished: Whether a callback has ended the run before its last epoch.
        rows: The table's rows of all finished epochs of the run.
        state: The `TrainState` after the last step; None between two phases.
        began: When this process started the epoch, by `time.perf_counter`.
    """

    phase: int = 1
    epoch: int = 0
    step: int = 0
    losses: list[Any] = dataclasses.field(default_factory=list)
    counts: list[Any] = dataclasses.field(default_factory=list)
    seconds: float = 0.0
    progress: int = 0
    finished: bool = False
    rows: list[Row] = dataclasses.field(default_factory=list)
    state: Any = dataclasses.field(default=None, repr=False)
    began: float = dataclasses.field(default_factory=time.perf_counter, repr=False)
    _finished_losses: list[Any] = dataclasses.field(default_factory=list, repr=False)

    @property
    def elapsed(self) -> float:
        """Seconds spent on this epoch so far, over all processes."""
        return self.seconds + time.perf_counter() - self.began

    @property
    def epochs_before(self) -> int:
        """Number of the run's epochs before the current phase."""
        return len(self.rows) - self.epoch

    def add_step(self, loss: jax.Array, count: jax.Array) -> None:
        """Counts a trained batch."""
        self.losses.append(loss)
        self.counts.append(count)
        self.step += 1
        self.progress += 1

    def add_epoch(self, row: Row) -> None:
        """Adds a finished epoch and moves to the next one."""
        self.rows.append(row)
        self.epoch += 1
        self.progress += 1
        self._finished_losses = self.losses
        self.step, self.losses, self.counts, self.seconds = 0, [], [], 0.0

    def take_losses(self) -> list[float]:
        """Returns the loss of each step of the last finished epoch, once."""
        losses, self._finished_losses = self._finished_losses, []
        return [float(loss) for loss in jax.device_get(losses)]

    def begin_phase(self, phase: int) -> None:
        """Moves to the beginning of a phase."""
        self.phase, self.epoch = phase, 0

    def rows_of(self, phase: int) -> list[Row]:
        """Returns the rows of a phase, by its number in the history."""
        return [row for row in self.rows if row.phase == phase]

    def as_json(self, *, seconds: float | None = None) -> dict[str, Any]:
        """Returns the position without the train state; waits for the losses.

        Args:
            seconds: Time spent on this epoch so far, over all processes.
        """
        losses, counts = jax.device_get((self.losses, self.counts))
        return {
            "phase": self.phase,
            "epoch": self.epoch,
            "step": self.step,
            "losses": [float(loss) for loss in losses],
            "counts": [float(count) for count in counts],
            "seconds": self.seconds if seconds is None else seconds,
            "progress": self.progress,
            "finished": self.finished,
            "rows": [row.as_json() for row in self.rows],
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "RunState":
        """Returns the run that `as_json` described, without a train state."""
        names = cls().as_json().keys()
        known = {name: value[name] for name in names if name in value}
        return cls(**{**known, "rows": [Row(**row) for row in value["rows"]]})


class StepTimer:
    """Measures an epoch's images per second, without the first step, which compiles."""

    def __init__(self, run: RunState):
        """Starts the clock."""
        self._run, self._done, self._untimed = run, run.step, 0
        self._started = time.perf_counter()

    def batches(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yields the batches; restarts the clock after the first one is trained."""
        for number, batch in enumerate(batches):
            if number == 1:
                jax.block_until_ready(self._run.losses[-1])
                self._started, self._untimed = time.perf_counter(), 1
            yield batch

    def stop(self) -> tuple[float, float]:
        """Returns the epoch's mean loss, and images per second.

        The loss covers all batches of the epoch, including those that earlier processes
        trained. The speed leaves out the first step, unless it is the only one.
        """
        run = self._run
        counts = np.asarray(jax.device_get(run.counts), np.float64)
        losses = np.asarray(jax.device_get(run.losses), np.float64)
        elapsed = time.perf_counter() - self._started
        mean = float((losses * counts).sum() / max(counts.sum(), 1.0))
        timed = counts[self._done + self._untimed :].sum()
        return mean, float(timed / max(elapsed, 1e-9))
