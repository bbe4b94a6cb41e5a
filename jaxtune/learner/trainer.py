"""The trainer: a network, the phase it is in, and the programs that train it.

The one rule of the file: between two runs the module holds the values; during one the
running state does, and it goes back to the module whatever ends the run.
"""

import copy
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from jaxtune.checkpoint import fingerprint
from jaxtune.learner.callbacks import CallbackList, StopPhase, StopTraining
from jaxtune.learner.devices import data_sharding, place_batch
from jaxtune.learner.history import Row
from jaxtune.learner.loop import Running, evaluate, run_epochs
from jaxtune.learner.position import Position
from jaxtune.learner.programs import Programs
from jaxtune.learner.progress import Reporter, describe_phase
from jaxtune.learner.recipe import describe_groups, name_of
from jaxtune.learner.session import Session
from jaxtune.learner.snapshot import Snapshot
from jaxtune.learner.stopping import StopRequested
from jaxtune.train import (
    Norms,
    Optimizer,
    Phase,
    TrainState,
    boundary_index,
    check_norms,
    enable_compilation_cache,
    group_optimizer,
    no_decay_paths,
    norm_paths,
    optimizer_labels,
    restart_schedule,
    split_module,
    training_view,
)
from jaxtune.transfer import Groups, evaluating, group_labels


class Trainer:
    """A network with its layer groups, of which the first few may be frozen.

    Attributes:
        groups: Layer groups, first to last: name to pattern or paths.
        norms: What the norm layers of frozen groups do.
        programs: The compiled steps.
        boundary: How many of the first groups are frozen.
        phase: Number of phases so far.
        snapshots: The values at the beginning of each.
    """

    def __init__(
        self,
        module: nnx.Module,
        groups: Groups,
        *,
        norms: Norms,
        optimizer: Optimizer,
        clip_norm: float | None,
        programs: Programs,
        batch_sizes: tuple[int, ...],
    ):
        """Takes the network and checks its groups; nothing is computed yet.

        Args:
            module: The network.
            groups: Layer groups, first to last.
            norms: What the norm layers of frozen groups do.
            optimizer: Makes each group's optimizer.
            clip_norm: Largest global norm of the gradients of what trains, or None.
            programs: Makes and keeps the compiled steps.
            batch_sizes: Rows of the batches that there will be, to split over devices.

        Raises:
            ValueError: If a parameter is in no group or several, or `norms` is unknown.
        """
        check_norms(norms)
        group_labels(split_module(module)[1], groups)
        self.groups = dict(groups)
        self.norms: Norms = norms
        self.programs = programs
        self.boundary = 0
        self.phase = 0
        self._module = module
        self._optimizer = optimizer
        self._clip_norm = clip_norm
        self._running: Running | None = None
        self._opt_state = None
        self._step = 0
        self.snapshots: list[Snapshot] = []
        self._rows, self._everywhere = data_sharding(*batch_sizes)
        enable_compilation_cache()

    @property
    def module(self) -> nnx.Module:
        """The network with its newest values."""
        if self._running is not None:
            self._sync(self._running.state)
        return self._module

    @property
    def frozen_groups(self) -> tuple[str, ...]:
        """Names of the layer groups that do not train now."""
        return tuple(self.groups)[: self.boundary]

    def freeze_to(self, boundary: int | str) -> None:
        """Freezes the groups before one; see `Learner.freeze_to`."""
        self.boundary = boundary_index(boundary, self.groups)
        self._opt_state = None

    def labels(self) -> nnx.State:
        """Returns each parameter's group, `FROZEN` for those that don't train now."""
        return optimizer_labels(
            group_labels(split_module(self._module)[1], self.groups),
            self.frozen_groups,
            norms=self.norms,
            norm_params=norm_paths(self._module),
        )

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
            RunStopped: If the process was asked to end; the run is saved then.
            KeyboardInterrupt: Likewise, with Ctrl-C.
        """
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
                is_last=number == len(phases),
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
        is_last: bool,
        verbose: bool,
    ) -> Iterator[Row]:
        self._take_snapshot(phase)
        train_step, state = self.begin(phase)
        if restore and session is not None and session.checkpoint is not None:
            state = jax.device_put(session.restore(state), self._everywhere)
        running = self._running = Running(state, position)

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

        try:
            with self._reporter(phase, verbose) as reporter:
                yield from _finished(position, self.phase, reporter)
                for row in run_epochs(
                    running,
                    epochs=position.epoch if position.finished else phase.epochs,
                    first_epoch=first_epoch,
                    phase=self.phase,
                    data=data,
                    key=key,
                    train_step=train_step,
                    eval_step=self.programs.eval_step(self._eval_graphdef()),
                    place=self.place,
                    metrics=tuple(self.programs.metrics),
                    reporter=reporter,
                    before_epoch=begin_epoch,
                    after_step=after_step,
                ):
                    if session is not None:
                        session.save(running)
                    yield row
                    events.tell("on_epoch_end", row.epoch - 1, row.as_dict())
        except StopRequested as request:
            stopped = session.stopped(running, request)
            if request.signal == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise stopped from None
        except (StopPhase, StopTraining) as request:
            position.finished = is_last or isinstance(request, StopTraining)
            what = "training" if position.finished else f"phase {self.phase}"
            if verbose:
                print(f"{what} ends early: {request}", flush=True)
            if session is not None and position.finished:
                # Another number: the checkpoint before doesn't say that it is the end.
                position.progress += 1
                session.save(running)
        finally:
            self._running = None
            self._sync(running.state)
            self._opt_state = running.state.opt_state
            self._step = int(running.state.step)
        events.tell("on_phase_end", self.phase)

    def _take_snapshot(self, phase: Phase) -> None:
        _, params, model_state = split_module(self._module)
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
        columns = ["phase", "epoch", "train_loss", "valid_loss"]
        columns += [*self.programs.metrics, "images/s", "time"]
        return Reporter(start_line, columns, verbose=verbose)

    @property
    def mark(self) -> tuple:
        """Changes whenever something trains or is frozen."""
        return self.phase, self._step, self.frozen_groups

    def fingerprint(self) -> str:
        """Returns a sha256 of every value that a run would begin with."""
        values = split_module(self._module)[1:]
        return fingerprint((values, self._opt_state, self._step))

    def describe(self) -> dict[str, Any]:
        """Returns what of the training, values aside, decides a run's numbers."""
        return {
            "groups": describe_groups(self.groups),
            "norms": self.norms,
            "optimizer": name_of(self._optimizer),
            "clip_norm": self._clip_norm,
            **self.programs.describe(),
        }

    def validate(self, loader) -> dict[str, float]:
        """Returns the mean loss and metrics over every photo of a loader."""
        return evaluate(
            *self._values(),
            loader.batches(),
            eval_step=self.programs.eval_step(self._eval_graphdef()),
            place=self.place,
            metrics=tuple(self.programs.metrics),
        )

    def predict_step(self) -> Callable:
        """Returns uint8 images (b, h, w, 3) -> probabilities (b, c)."""
        step = self.programs.predict_step(self._eval_graphdef())
        values = self._values()
        return lambda images: step(*values, images)

    def _optimizer_for(self, labels, phase: Phase) -> optax.GradientTransformation:
        return group_optimizer(
            labels,
            dict(zip(self.groups, phase.rates, strict=True)),
            phase.schedule,
            optimizer=self._optimizer,
            weight_decay=phase.weight_decay,
            no_decay=no_decay_paths(self._module),
            clip_norm=self._clip_norm,
        )

    def begin(self, phase: Phase) -> tuple[Callable, TrainState]:
        """Returns the compiled step and the state with which a phase begins.

        Args:
            phase: Its boundary is not looked at: what is frozen stays so.

        Returns:
            The step gives up its state; the one returned is a copy, so the module keeps
            its arrays.
        """
        groups = group_labels(split_module(self._module)[1], self.groups)
        view = training_view(self._module, groups, self.frozen_groups, norms=self.norms)
        graphdef, params, model_state = split_module(view)
        labels = self.labels()
        tx = self._optimizer_for(labels, phase)
        state = TrainState.create(params, model_state, tx)
        same = jax.tree.structure(self._opt_state) == jax.tree.structure(
            state.opt_state
        )
        if same:
            kept = restart_schedule(self._opt_state, state.opt_state)
            state = state.replace(opt_state=kept)
        state = state.replace(step=jnp.asarray(self._step, jnp.int32))
        state = jax.device_put(jax.tree.map(jnp.copy, state), self._everywhere)
        return self.programs.train_step(graphdef, tx, labels), state

    def _eval_graphdef(self) -> nnx.GraphDef:
        return nnx.graphdef(evaluating(self._module))

    def _values(self) -> tuple[nnx.State, nnx.State]:
        _, params, model_state = split_module(self.module)
        return jax.device_put((params, model_state), self._everywhere)

    def place(self, batch) -> dict[str, jax.Array]:
        """Puts a batch of numpy arrays onto the devices."""
        return place_batch(batch, self._rows)

    def _sync(self, state: TrainState) -> None:
        nnx.update(self._module, state.params, state.model_state)


def _finished(position: Position, phase: int, reporter: Reporter) -> Iterator[Row]:
    for row in position.rows:
        if row.phase == phase:
            reporter.add(row)
            yield row
