"""Saving a run, resuming it, and stopping it when a signal arrives.

A signal handler only sets a flag, which is checked between two steps, so what is saved
is always a whole step. The previous handlers are put back at the end.
"""

import signal
import threading
from collections.abc import Mapping, Sequence
from types import FrameType
from typing import Any

import jax
from jax.experimental.multihost_utils import reached_preemption_sync_point

from jaxtune.checkpoint import (
    Place,
    RunFolder,
    environment,
    load_checkpoint,
    load_meta,
    load_opt_state,
    load_raw,
    resuming_from,
)
from jaxtune.loop.processes import (
    STEPS_BETWEEN_LOOKS,
    RunStopped,
    as_the_first_says,
    is_first_process,
    several_processes,
)
from jaxtune.loop.run_state import RunState
from jaxtune.train import Phase, TrainState, averaged, raw_values, with_raw_values


class StopRequested(Exception):  # noqa: N818 - a request, not an error
    """Raised between two steps after a stop signal.

    Attributes:
        signal: The signal, SIGTERM or SIGINT.
    """

    def __init__(self, number: signal.Signals):
        """Takes the signal."""
        super().__init__(number.name)
        self.signal = number


class StopSignals:
    """Context manager that notes SIGTERM (preemption) and Ctrl-C.

    A second Ctrl-C raises KeyboardInterrupt at once. Python handles signals in the main
    thread only; in other threads nothing is changed. Of several processes JAX notes
    SIGTERM, and has all of them stop after the same step.

    Attributes:
        checks: Number of calls of `check` so far.
    """

    def __init__(self) -> None:
        """Installs nothing yet."""
        self._heard: signal.Signals | None = None
        self._before: dict = {}
        self.checks = 0

    def __enter__(self) -> "StopSignals":
        """Installs the signal handlers."""
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and not several_processes():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._take_note)
        return self

    def __exit__(self, *exception) -> None:
        """Puts the previous handlers back."""
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def check(self) -> None:
        """Raises `StopRequested` if a signal has arrived.

        Several processes call it equally often, and raise in the same call.
        """
        self.checks += 1
        if several_processes() and reached_preemption_sync_point(self.checks):
            self._heard = signal.SIGTERM
        if self._heard is not None:
            raise StopRequested(self._heard)

    def _take_note(self, number: int, frame: FrameType | None) -> None:
        again = self._heard is not None
        self._heard = signal.Signals(number)
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt


class Resume:
    """Resumes a run from its folder, saves it there, and handles stop signals.

    Used as a context manager: signals are noted inside it, and leaving it waits for the
    checkpoint that is being written.

    Attributes:
        run: The run's position when this process resumed it.
        checkpoint: The checkpoint to resume from; None for a new run.
        learner: The learner's phase and frozen groups, as JSON.
    """

    def __init__(
        self,
        folder: RunFolder,
        phases: Sequence[Phase],
        meta: Mapping[str, Any],
        *,
        steps_per_epoch: int,
        name: str,
    ):
        """Reads the run's position; reads no weights yet.

        Args:
            folder: The run's folder, open.
            phases: All phases of the run.
            meta: The network's description, written into every checkpoint.
            steps_per_epoch: Batches in an epoch.
            name: What to call the run in messages: the path as it was given.
        """
        self._folder = folder
        self._phases = tuple(phases)
        self._meta = dict(meta)
        self._steps = steps_per_epoch
        self._name = name
        self._signals = StopSignals()
        self.checkpoint: Place | None = folder.latest
        self.learner: dict[str, Any] = {}
        self._saved: int | None = None
        self.run = RunState()
        if self.checkpoint is not None:
            with resuming_from(self.checkpoint):
                meta = load_meta(self.checkpoint)
            self.run = RunState.from_json(meta["run"])
            self._saved = self.run.progress

    def __enter__(self) -> "Resume":
        """Installs the signal handlers."""
        self._signals.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        """Waits for the last checkpoint, then puts the signal handlers back."""
        try:
            self._folder.close()
        finally:
            self._signals.__exit__(*exception)

    @property
    def finished(self) -> bool:
        """Whether the run was already finished when this process resumed it."""
        return self._is_end(self.run)

    def restore(self, state: TrainState) -> TrainState:
        """Returns the train state saved in the checkpoint.

        Args:
            state: A train state of the current phase; only its shapes and dtypes are
                used.

        Raises:
            jaxtune.checkpoint.CheckpointMismatchError: If the network isn't the one
                that was saved.
            jaxtune.checkpoint.CheckpointDamagedError: If one of its files is damaged;
                the message tells how to resume from the checkpoint before.
        """
        with resuming_from(self.checkpoint):
            params, model_state = load_checkpoint(
                self.checkpoint, params=state.params, model_state=state.model_state
            )
            opt_state = load_opt_state(self.checkpoint, state.opt_state)
            raw = raw_values(state)
            raw = None if raw is None else load_raw(self.checkpoint, raw)
            step = load_meta(self.checkpoint)["run"]["train_step"]
        restored = state.replace(
            step=jax.numpy.asarray(step, state.step.dtype),
            params=params,
            model_state=model_state,
            opt_state=opt_state,
        )
        return restored if raw is None else with_raw_values(restored, raw)

    def after_step(self, run: RunState) -> None:
        """Saves if a checkpoint is due.

        Raises:
            StopRequested: If a stop signal has arrived.
        """
        self._signals.check()
        due = self._folder.is_due
        if several_processes():
            looks = self._signals.checks % STEPS_BETWEEN_LOOKS == 0
            due = looks and as_the_first_says(due)
        if due:
            self.save(run)

    def save(self, run: RunState, *, wait: bool = False) -> None:
        """Starts writing a checkpoint, unless this position is saved already.

        Args:
            run: The run's position and train state, which may be donated afterwards.
            wait: Whether to return only when the checkpoint is complete.
        """
        if run.progress != self._saved:
            fresh = run.step == 0 and run.rows
            # The validation loss was measured with the averaged weights.
            params, model_state = averaged(run.state)
            self._folder.save(
                run.progress,
                params=params,
                model_state=model_state,
                opt_state=run.state.opt_state,
                raw=raw_values(run.state),
                meta={
                    **self._meta,
                    "learner": {**self.learner, "step": int(run.state.step)},
                    "run": {
                        **run.as_json(seconds=run.elapsed),
                        "train_step": int(run.state.step),
                        "finished": self._is_end(run),
                    },
                },
                valid_loss=run.rows[-1].valid_loss if fresh else None,
                # What several processes do together is in the same order in each.
                wait=wait or several_processes(),
            )
            self._saved = run.progress
        elif wait:
            self._folder.wait()

    def stopped(self, run: RunState, request: StopRequested) -> RunStopped:
        """Saves, prints where, and returns the exception that ends the process."""
        self.save(run, wait=True)
        if not is_first_process():
            return RunStopped(0)
        print(
            f"stopped by {request.signal.name} · saved in {self._name} after "
            f"{self.describe(run)} · run the same line again to resume",
            flush=True,
        )
        return RunStopped(0)

    def opening_lines(self) -> list[str]:
        """Returns the lines shown before the run is resumed; none for a new run."""
        if self.checkpoint is None:
            return []
        if self.finished:
            row = self.run.rows[-1]
            figures = {"valid_loss": row.valid_loss, **row.metrics}
            listed = ", ".join(f"{name} {value:.6f}" for name, value in figures.items())
            return [
                f"{self._name} is finished ({listed}); nothing is trained, its weights "
                "are loaded."
            ]
        lines = [f"{self._name} resumes after {self.describe(self.run)}"]
        begun, now = self._folder.begun_with, environment()
        if begun != now:
            lines.append(
                f"  it was started with {_listed(begun)}, and resumes with "
                f"{_listed(now)}: the last bits may differ from a run that was not "
                "stopped"
            )
        return lines

    def describe(self, run: RunState) -> str:
        """Returns a position in words."""
        phase = self._phases[run.phase - 1]
        text = f"phase {run.phase}/{len(self._phases)}, "
        if run.epoch == phase.epochs:
            return text + f"epoch {run.epoch} of {phase.epochs}"
        return text + (
            f"{run.step} of {self._steps} batches of epoch {run.epoch + 1} "
            f"of {phase.epochs}"
        )

    def _is_end(self, run: RunState) -> bool:
        last = len(self._phases)
        return run.finished or (
            run.phase == last and run.epoch == self._phases[last - 1].epochs
        )


def _listed(made_with: Mapping[str, Any]) -> str:
    return f"jax {made_with['jax']} on {made_with['devices']} x {made_with['device']}"
