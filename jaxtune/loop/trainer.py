"""The trainer: runs phases, from wherever a run stands to its end.

The one rule of the file: the running state goes back to the module whatever ends the
run.
"""

import copy
import math
import signal
from collections.abc import Iterator, Mapping, Sequence
from threading import Thread
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtune.inspect.diff import Snapshot
from jaxtune.loop.callbacks import CallbackList, StopPhase, StopTraining
from jaxtune.loop.columns import table_columns
from jaxtune.loop.epoch_table import Reporter, describe_phase
from jaxtune.loop.extra_validation import describe_further
from jaxtune.loop.history import Row
from jaxtune.loop.loop import NonFiniteLossError, Running, run_epochs
from jaxtune.loop.network import PhasedNetwork
from jaxtune.loop.recovery import (
    SPOILED,
    GoodValues,
    copy_of_values,
    has_diverged,
    is_readable,
)
from jaxtune.loop.resume import Session, StopRequested
from jaxtune.loop.run_state import Position
from jaxtune.train import Phase, TrainState, averaged, split_module


class Trainer(PhasedNetwork):
    """A network in a phase, which trains: see `PhasedNetwork` for its attributes.

    Attributes:
        further: Loaders by name which each epoch validates on too.
        step_losses: Loss of each step of the epoch whose row was yielded last; none if
            it was trained by another process.
    """

    further: Mapping[str, Any] = MappingProxyType({})
    step_losses: Sequence[float] = ()

    @property
    def columns(self) -> list[str]:
        """Names of the table's columns."""
        return table_columns(self.programs.metrics, self.further)

    def describe(self) -> dict[str, Any]:
        """Returns what of the training, values aside, decides a run's numbers."""
        also = describe_further(self.further)
        return super().describe() | ({"validate_also": also} if also else {})

    def run(
        self,
        data,
        phases: Sequence[Phase],
        *,
        first_epoch: int,
        key: jax.Array,
        session: Session | None = None,
        callbacks: CallbackList | None = None,
        verbose: bool = True,
    ) -> Iterator[Row]:
        """Trains some phases, one after the other; yields a row for each epoch.

        Args:
            data: Has `train_loader` and `valid_loader`.
            phases: What trains, for how long, at which rates.
            first_epoch: Epochs that the data has seen before.
            key: Of the whole run.
            session: Where the run is kept and taken up; it is not kept if None. Epochs
                that are finished already are shown and yielded, not trained again.
            verbose: Whether to show anything.

        Raises:
            ValueError: If a phase has too few batches for one update, or a batch has
                too few rows for a batch norm.
            NonFiniteLossError: If a step, or validation, came to no finite number. The
                module holds the newest values that are good, see the message.
            OutOfMemoryError: If a step does not fit into the device's memory; the
                module holds the values of the newest whole epoch then.
            RunStopped: If the process was asked to end; the run is saved then.
            KeyboardInterrupt: Likewise, with Ctrl-C.
        """
        self.check_rows(data, phases)
        for phase in phases:
            self._check_updates(phase.epochs * len(data.train_loader))
        events = callbacks or CallbackList(None, None)
        position = Position() if session is None else copy.deepcopy(session.position)
        taken_up = position.phase
        if session is not None and verbose:
            for line in session.opening_lines():
                print(line, flush=True)
        events.tell("on_train_begin")
        for number, phase in enumerate(phases, start=1):
            if position.finished and number > taken_up:
                break
            self.phase += 1
            if phase.boundary is not None:
                self.freeze_to(phase.boundary)
            if number < taken_up:
                with self._reporter(phase, verbose) as reporter:
                    yield from _finished(position, self.phase, reporter)
                continue
            if number > taken_up:
                position.begin_phase(number)
            yield from self._run_phase(
                data,
                phase,
                position,
                first_epoch=first_epoch,
                key=key,
                session=session,
                restore=number == taken_up and session is not None,
                events=events,
                to_come=phases[number:],
                verbose=verbose,
            )
        events.tell("on_train_end")

    def _run_phase(
        self,
        data,
        phase: Phase,
        position: Position,
        *,
        first_epoch: int,
        key: jax.Array,
        session: Session | None,
        restore: bool,
        events: CallbackList,
        to_come: Sequence[Phase],
        verbose: bool,
    ) -> Iterator[Row]:
        values = split_module(self._module)[1:]
        good = GoodValues(values, self._step)
        with self.programs.device_errors():
            train_step, state = self.begin(phase)
        if restore and session is not None and session.checkpoint is not None:
            state = jax.device_put(session.restore(state), self._everywhere)
            when = "that the run was taken up with"
            good = copy_of_values(state, self._everywhere, when) or good
            if position.phase > 1:
                # What the phase began with, in another process, is not known.
                values = jax.tree.map(jnp.copy, averaged(state))
        self._take_snapshot(phase, *values)
        running = self._running = Running(state, position)
        if session is not None:
            session.place = self.place_in_training()

        def begin_epoch() -> None:
            rows = [row for row in position.rows if row.phase == self.phase]
            events.set_phase(self.phase, self.frozen_groups, rows)
            if not rows and not position.step:
                events.tell("on_phase_begin", self.phase)
            if not position.step:
                events.tell("on_epoch_begin", position.epoch)

        def after_step(logs: Mapping[str, jax.Array] | None = None) -> None:
            if logs is not None and events:
                events.tell("on_train_batch_end", position.step - 1, logs)
            if session is not None:
                session.after_step(running)

        spoiled = False
        compiling: list[Thread] = []

        def step_and_foresee(state, batch, key):
            answer = train_step(state, batch, key)
            if to_come and not compiling:
                compiling.append(self.foresee(to_come[0], batch, key))
            return answer

        try:
            with (
                self.programs.device_errors(),
                self._reporter(phase, verbose) as reporter,
            ):
                yield from _finished(position, self.phase, reporter)
                for row in run_epochs(
                    running,
                    epochs=position.epoch if position.finished else phase.epochs,
                    first_epoch=first_epoch,
                    phase=self.phase,
                    data=data,
                    key=key,
                    train_step=step_and_foresee,
                    eval_step=self.programs.eval_step(self.eval_graphdef()),
                    place=self.place,
                    metrics=self.programs.metrics,
                    reporter=reporter,
                    further=self.further,
                    before_epoch=begin_epoch,
                    after_step=after_step,
                ):
                    self._check_row(row, running.state, data.valid_loader)
                    when = f"after epoch {row.epoch} of this phase"
                    good = copy_of_values(running.state, self._everywhere, when) or good
                    if session is not None:
                        session.save(running)
                    self.step_losses = position.take_losses()
                    yield row
                    self.step_losses = ()
                    events.tell("on_epoch_end", row.epoch - 1, row.as_dict())
        except NonFiniteLossError as error:
            spoiled, said = self._judge(running.state, good, data.valid_loader)
            raise NonFiniteLossError(f"{error} {said}") from None
        except StopRequested as request:
            stopped = session.stopped(running, request)
            if request.signal == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise stopped from None
        except (StopPhase, StopTraining) as request:
            position.finished = not to_come or isinstance(request, StopTraining)
            what = "training" if position.finished else f"phase {self.phase}"
            if verbose:
                print(f"{what} ends early: {request}", flush=True)
            if session is not None and position.finished:
                # Another number: the checkpoint before doesn't say that it is the end.
                position.progress += 1
                session.save(running)
        finally:
            for thread in compiling:
                thread.join()
            self._running = None
            self._settle(running.state, good, spoiled=spoiled)
        events.tell("on_phase_end", self.phase)

    def _check_row(self, row: Row, state: TrainState, loader) -> None:
        """Raises if a validation loss is no number because the outputs are none."""
        if math.isfinite(row.valid_loss):
            return
        if not self.outputs_are_finite(averaged(state), loader):
            raise NonFiniteLossError(
                f"after epoch {row.epoch} of phase {row.phase} the network's outputs "
                f"for the validation photos are no finite numbers (valid_loss "
                f"{row.valid_loss})."
            )

    def _judge(self, state: TrainState, good: GoodValues, loader) -> tuple[bool, str]:
        """Whether to go back after a step that came to no number, and why, in words."""
        back = (
            "The steps before had spoiled the network already, so the learner went "
            f"back to the values {good.when}. Try a lower learning rate or "
            "clip_norm=1.0."
        )
        if not is_readable(state):
            return True, back
        try:
            # On every device, as validation has them.
            now, before = jax.device_put(
                (averaged(state), good.values), self._everywhere
            )
            loss = self.evaluate(loader, before)["loss"]
            if has_diverged(self.evaluate(loader, now)["loss"], loss):
                return True, back
            if not math.isfinite(loss) and not self.outputs_are_finite(before, loader):
                return False, (
                    f"The network gave no finite numbers {good.when} either: {SPOILED}."
                )
        except (RuntimeError, ValueError):
            # What can't be measured, for want of memory or photos, is left as it is.
            pass
        return False, (
            "The learner holds the last good values, those before that step. Look at "
            "that batch's photos and labels and at the loss; try a lower learning rate "
            "or clip_norm=1.0."
        )

    def _settle(
        self, state: TrainState, good: GoodValues, *, spoiled: bool = False
    ) -> None:
        """Puts what a run came to into the module."""
        if not spoiled and is_readable(state):
            self._sync(state)
            self._opt_state, self._step = state.opt_state, int(state.step)
        else:
            nnx.update(self._module, *good.values)
            self._opt_state, self._step = None, good.step

    def _check_updates(self, batches: int) -> None:
        if batches < self.gradient_accumulation_steps:
            raise ValueError(
                f"gradient_accumulation_steps={self.gradient_accumulation_steps} makes "
                f"no update of a phase's {batches} batches: nothing would train. Give "
                "a smaller number, smaller batches or more epochs."
            )

    def _take_snapshot(self, phase: Phase, params, model_state) -> None:
        name = phase.name or f"phase {self.phase}"
        self.snapshots.append(
            Snapshot(self.phase, name, self.frozen_groups, params, model_state)
        )

    def _reporter(self, phase: Phase, verbose: bool) -> Reporter:
        start_line = describe_phase(
            phase.name or f"phase {self.phase}",
            self.labels(),
            self._module,
            self.frozen_groups,
        )
        return Reporter(start_line, self.columns, verbose=verbose)


def _finished(position: Position, phase: int, reporter: Reporter) -> Iterator[Row]:
    for row in position.rows:
        if row.phase == phase:
            reporter.add(row)
            yield row
