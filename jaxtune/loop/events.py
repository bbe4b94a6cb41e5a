"""What happens around the training loop: callbacks, table, checkpoints, recovery.

`fit` calls these methods as it proceeds. Nothing here changes what `fit` computes,
except that a callback may set learning rates or end a phase.
"""

import contextlib
import copy
import dataclasses
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Thread
from typing import Any

import jax
import jax.numpy as jnp

from jaxtune.data import default_workers
from jaxtune.inspect.diff import Snapshot
from jaxtune.loop.callbacks import CallbackList, StopPhase, StopTraining
from jaxtune.loop.epoch_table import Reporter, describe_phase
from jaxtune.loop.history import Row
from jaxtune.loop.processes import (
    STEPS_BETWEEN_LOOKS,
    is_first_process,
    several_processes,
)
from jaxtune.loop.recovery import GoodValues, copy_of_values
from jaxtune.loop.resume import Resume, StopRequested
from jaxtune.loop.run_state import RunState, StepTimer
from jaxtune.loop.trainer import NonFiniteLossError, Trainer
from jaxtune.train import Phase, averaged, split_module

#: Seconds between two looks at the running loss; each look waits for the device.
_LOOK_EVERY = 0.5

#: With so many, the next phase is compiled beside the first one; with fewer, after it.
_MANY_CORES = 4


class FitEvents:
    """Callbacks, the table, checkpoints and recovery of one call of `fit`.

    Attributes:
        run: Where the run stands.
        step_losses: Loss of each step of the epoch whose row was yielded last; none if
            it was trained by another process.
    """

    step_losses: Sequence[float] = ()

    def __init__(
        self,
        *,
        callbacks: CallbackList | None = None,
        resume: Resume | None = None,
        verbose: bool = True,
    ):
        """Takes the callbacks and where the run is saved.

        Args:
            callbacks: The user's callbacks, or None.
            resume: Saves the run and resumes it; the run is not saved if None.
            verbose: Whether to show anything.
        """
        self._callbacks = callbacks or CallbackList(None, None)
        self._resume = resume
        self._verbose = verbose and is_first_process()
        self.run = RunState() if resume is None else copy.deepcopy(resume.run)
        self._resumed_in = self.run.phase
        self._finite: list[tuple[int, Any]] = []
        self._looked = 0.0

    def begin_training(
        self, trainer: Trainer, data: Any, phases: Sequence[Phase], key: jax.Array
    ) -> None:
        """Shows from where the run is resumed, and tells the callbacks."""
        self._trainer, self._data, self._phases = trainer, data, phases
        self._key = key
        if self._resume is not None and self._verbose:
            for line in self._resume.opening_lines():
                print(line, flush=True)
        self._callbacks.tell("on_train_begin")

    def ended_before(self, number: int) -> bool:
        """Returns whether a callback ended the run before a phase."""
        return self.run.finished and number > self._resumed_in

    @contextlib.contextmanager
    def phase(self, number: int) -> Iterator[tuple[Phase, Callable]]:
        """Surrounds a phase: begins it, and puts the weights back at its end.

        Yields the phase and its compiled train step. Of a phase that an earlier process
        finished only the rows are shown.
        """
        trainer, run, phase = self._trainer, self.run, self._phases[number - 1]
        trainer.phase += 1
        if phase.boundary is not None:
            trainer.freeze_to(phase.boundary)
        if number < self._resumed_in:
            with self._table(phase):
                yield dataclasses.replace(phase, epochs=0), _never
            return
        if number > self._resumed_in:
            run.begin_phase(number)
        train_step = self._begin_phase(phase, restore=number == self._resumed_in)
        to_come = self._phases[number:]
        # Batches of features have no form before their phase begins.
        ahead = [next_one for next_one in to_come[:1] if not next_one.cache_features]
        compiling: list[Thread] = []
        if not phase.cache_features:
            form = trainer.batch_form(self._data.train_loader)
            if form is not None:
                compiling += trainer.compile_now(train_step, run.state, form, self._key)
            compiling += trainer.compile_validation_ahead(self._data.valid_loader)
            if form is not None and ahead and default_workers() >= _MANY_CORES:
                compiling.append(trainer.compile_ahead(ahead.pop(), form, self._key))

        def step_and_compile_ahead(state, batch, key):
            result = train_step(state, batch, key)
            if ahead:
                compiling.append(trainer.compile_ahead(ahead.pop(), batch, key))
            return result

        spoiled = False
        try:
            with trainer.programs.device_errors(), self._table(phase):
                yield phase, step_and_compile_ahead
        except NonFiniteLossError as error:
            spoiled, advice = trainer.judge(
                run.state, self._good, self._data.valid_loader
            )
            raise NonFiniteLossError(f"{error} {advice}") from None
        except StopRequested as request:
            stopped = self._resume.stopped(run, request)
            if request.signal == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise stopped from None
        except (StopPhase, StopTraining) as request:
            self._end_early(request, last=not to_come)
        finally:
            for thread in compiling:
                thread.join()
            trainer.end_phase(run.state, self._good, spoiled=spoiled)
            run.state = None
        self._callbacks.tell("on_phase_end", trainer.phase)

    def begin_epoch(self, phase: Phase, steps: int) -> None:
        """Tells the callbacks, and starts the progress bar of so many steps."""
        run, trainer = self.run, self._trainer
        rows = run.rows_of(trainer.phase)
        self._callbacks.set_phase(trainer.phase, trainer.frozen_groups, rows)
        if not rows and not run.step:
            self._callbacks.tell("on_phase_begin", trainer.phase)
        if not run.step:
            self._callbacks.tell("on_epoch_begin", run.epoch)
        run.began = self._looked = time.perf_counter()
        self._reporter.begin(f"epoch {run.epoch + 1}/{phase.epochs}", steps, run.step)
        self._finite = []

    def after_train_step(self, metrics: Mapping[str, jax.Array]) -> None:
        """Checks for NaN twice a second, tells the callbacks, saves when it is due.

        Args:
            metrics: Of the step, arrays on the device.

        Raises:
            NonFiniteLossError: If a loss or a gradient was NaN or infinite.
        """
        run = self.run
        self._finite.append((run.step, metrics.get("finite", True)))
        if several_processes():
            looks = run.step % STEPS_BETWEEN_LOOKS == 0
        else:
            looks = time.perf_counter() - self._looked > _LOOK_EVERY
        if looks:
            # The last step but one is done or nearly so: reading it hardly waits.
            self._reporter.advance(float(run.losses[-2 if run.step > 1 else -1]))
            self._check_finite(self._finite[:-1])
            self._finite = self._finite[-1:]
            self._looked = time.perf_counter()
        else:
            self._reporter.advance()
        if self._callbacks:
            self._callbacks.tell("on_train_batch_end", run.step - 1, metrics)
        if self._resume is not None:
            self._resume.after_step(run)

    def end_of_batches(self, timer: StepTimer) -> tuple[float, float]:
        """Returns the epoch's mean loss and images per second.

        Raises:
            NonFiniteLossError: If a loss or a gradient was NaN or infinite.
        """
        self._check_finite(self._finite)
        return timer.stop()

    def after_eval_step(self) -> None:
        """Moves the progress bar, and saves when it is due."""
        self._reporter.advance()
        if self._resume is not None:
            self._resume.after_step(self.run)

    def end_epoch(self, row: Row) -> None:
        """Shows the row, checks it, and saves.

        Raises:
            NonFiniteLossError: If the network's outputs are NaN or infinite.
        """
        run = self.run
        self._reporter.add(row)
        self._trainer.check_row(row, run.state, self._data.valid_loader)
        when = f"after epoch {row.epoch} of this phase"
        self._good = copy_of_values(run.state, when) or self._good
        if self._resume is not None:
            self._resume.save(run)
        self.step_losses = run.take_losses()

    def after_epoch(self, row: Row) -> None:
        """Tells the callbacks, once the row is in the history."""
        self.step_losses = ()
        self._callbacks.tell("on_epoch_end", row.epoch - 1, row.as_dict())

    def end_training(self) -> None:
        """Tells the callbacks."""
        self._callbacks.tell("on_train_end")

    def _begin_phase(self, phase: Phase, *, restore: bool) -> Callable:
        trainer, run, resume = self._trainer, self.run, self._resume
        weights = split_module(trainer.module)[1:]
        self._good = GoodValues(weights, trainer.step)
        with trainer.programs.device_errors():
            train_step, state = trainer.begin(phase)
        if restore and resume is not None and resume.checkpoint is not None:
            state = trainer.place_state(resume.restore(state))
            when = "when the run was resumed"
            self._good = copy_of_values(state, when) or self._good
            if run.phase > 1:
                # An earlier process knew the phase's first weights; this one doesn't.
                weights = jax.tree.map(jnp.copy, averaged(state))
        name = phase.name or f"phase {trainer.phase}"
        trainer.snapshots.append(
            Snapshot(trainer.phase, name, trainer.frozen_groups, *weights)
        )
        run.state = state
        trainer.running = run
        if resume is not None:
            resume.learner = trainer.state_dict()
        return train_step

    @contextlib.contextmanager
    def _table(self, phase: Phase) -> Iterator[None]:
        trainer = self._trainer
        start_line = describe_phase(
            phase.name or f"phase {trainer.phase}",
            trainer.labels(),
            trainer.network,
            trainer.frozen_groups,
        )
        if trainer.precision != "float32":
            start_line += f" · in {trainer.precision}"
        if phase.cache_features:
            start_line += f" · features cached, {phase.cached_draws} of each photo"
        data, extra = self._data, trainer.extra_loaders.values()
        loaders = [data.train_loader, data.valid_loader, *extra]
        if not phase.cache_features:
            start_line += trainer.photos_on_device().says_where(loaders)
        table = Reporter(start_line, trainer.columns, verbose=self._verbose)
        with table as self._reporter:
            for row in self.run.rows_of(trainer.phase):
                table.add(row)
            yield

    def _end_early(self, request: StopPhase | StopTraining, *, last: bool) -> None:
        run = self.run
        run.finished = last or isinstance(request, StopTraining)
        if self._verbose:
            what = "training" if run.finished else f"phase {self._trainer.phase}"
            print(f"{what} ends early: {request}", flush=True)
        if self._resume is not None and run.finished:
            # A new number: the checkpoint before doesn't have finished=True.
            run.progress += 1
            self._resume.save(run)

    def _check_finite(self, flags: list) -> None:
        run = self.run
        for step, flag in jax.device_get(flags):
            if not flag:
                loss = float(run.losses[step - 1])
                raise NonFiniteLossError(
                    f"step {step} of epoch {run.epoch + 1} in phase {run.phase}: the "
                    f"loss or its gradient is NaN or infinite (loss {loss}). The "
                    "update was skipped."
                )


def _never(*arguments: Any) -> None:
    raise AssertionError("a phase that is finished does not train.")
