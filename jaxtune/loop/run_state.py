"""The position: how far a run of several phases is, to the batch.

The one rule of the file: with the train state, this is all that is needed to go on, and
it is plain JSON.
"""

import dataclasses
from typing import Any

import jax

from jaxtune.loop.history import Row


@dataclasses.dataclass
class Position:
    """Where a run stands; it moves with every step.

    Attributes:
        phase: Number of the phase under way, in the run, from 1.
        epoch: Epochs of the phase that are finished, validation included.
        step: Batches of the next epoch that are done.
        losses: Mean loss of each of these batches.
        counts: Real rows of each of these batches.
        seconds: Time spent on this epoch before the process that trains now began.
        progress: Steps and validations done, over all phases.
        finished: Whether a callback has ended the run before its last epoch.
        rows: Figures of every finished epoch of the run.
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
    _finished_losses: list[Any] = dataclasses.field(default_factory=list, repr=False)

    def add_step(self, loss: jax.Array, count: jax.Array) -> None:
        """Moves on by one batch."""
        self.losses.append(loss)
        self.counts.append(count)
        self.step += 1
        self.progress += 1

    def add_epoch(self, row: Row) -> None:
        """Moves on to the next epoch."""
        self.rows.append(row)
        self.epoch += 1
        self.progress += 1
        self._finished_losses = self.losses
        self.step, self.losses, self.counts, self.seconds = 0, [], [], 0.0

    def take_losses(self) -> list[float]:
        """Returns the losses of the steps of the epoch that was finished last."""
        losses, self._finished_losses = self._finished_losses, []
        return [float(loss) for loss in jax.device_get(losses)]

    def begin_phase(self, phase: int) -> None:
        """Moves on to the beginning of a phase."""
        self.phase, self.epoch = phase, 0

    def as_json(self, *, seconds: float | None = None) -> dict[str, Any]:
        """Returns the position as plain JSON; waits for losses still being computed.

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
    def from_json(cls, value: dict[str, Any]) -> "Position":
        """Returns the position that `as_json` described."""
        fields = {f.name for f in dataclasses.fields(cls) if f.name[0] != "_"}
        known = {name: x for name, x in value.items() if name in fields}
        return cls(**{**known, "rows": [Row(**row) for row in value["rows"]]})
