"""The trainer: a network with its layer groups, optimizer state and compiled steps.

Between two fits the network holds the weights; during a fit the train state does.
"""

import contextlib
import dataclasses
import functools
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from threading import Thread
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from jaxtune.arguments import Integer
from jaxtune.checkpoint import fingerprint, load_opt_state
from jaxtune.data import FeatureLoader, Loader
from jaxtune.inspect.diff import Snapshot
from jaxtune.loop.columns import table_columns
from jaxtune.loop.compiled_steps import CompiledStep, CompiledSteps
from jaxtune.loop.extra_validation import describe_extra
from jaxtune.loop.float32 import in_float32, to_float32
from jaxtune.loop.history import Row
from jaxtune.loop.memory import MemoryNeed
from jaxtune.loop.photos_on_device import PhotosOnDevice
from jaxtune.loop.processes import ending_together
from jaxtune.loop.recovery import SPOILED, GoodValues, has_diverged, is_readable
from jaxtune.loop.run_description import describe_groups, name_of
from jaxtune.loop.run_state import RunState
from jaxtune.loop.sharding import (
    data_sharding,
    filled_up,
    of_all_processes,
    of_this_process,
    on_every_device,
    place_batch,
    readable,
    sharding_of_labels,
    with_own_rows,
)
from jaxtune.loop.state_sharding import StateSharding
from jaxtune.train import (
    ComputePrecision,
    Norms,
    Optimizer,
    Phase,
    TrainState,
    averaged,
    boundary_index,
    check_accumulation,
    check_decay,
    check_norms,
    check_precision,
    constant,
    enable_compilation_cache,
    epoch_figures,
    group_optimizer,
    init_average,
    no_decay_paths,
    norm_paths,
    optimizer_labels,
    over_updates,
    restart_schedule,
    running_groups,
    split_module,
    still_statistics,
    training_view,
    with_precision,
    with_rates,
    with_rematerialization,
)
from jaxtune.transfer import Groups, evaluating, group_labels


class NonFiniteLossError(FloatingPointError):
    """The loss, its gradient or the network's outputs are NaN or infinite.

    The learner holds its last good weights; the message says from when they are.
    """


@dataclasses.dataclass(frozen=True)
class _OptimizerSettings:
    """What an optimizer is made of, besides the numbers of a phase."""

    groups: tuple[str, ...]
    optimizer: Optimizer
    no_decay: frozenset[str]
    clip_norm: float | None
    gradient_accumulation_steps: int

    def optimizer_of(
        self, labels: nnx.State, rates: Sequence[Any], schedule: Any, weight_decay: Any
    ) -> optax.GradientTransformation:
        """Returns the optimizer of a phase with these numbers, see `_numbers`."""
        return group_optimizer(
            labels,
            dict(zip(self.groups, rates, strict=True)),
            over_updates(schedule, self.gradient_accumulation_steps),
            optimizer=self.optimizer,
            weight_decay=weight_decay,
            no_decay=self.no_decay,
            clip_norm=self.clip_norm,
            gradient_accumulation_steps=self.gradient_accumulation_steps,
        )


def _numbers(phase: Phase) -> tuple:
    """What of a phase lies in the optimizer's state, not in a program."""
    return phase.rates, phase.schedule, phase.weight_decay


class Trainer:
    """A network with its layer groups, of which the first ones may be frozen.

    Attributes:
        groups: Layer groups, first to last: name to pattern or paths.
        norms: What the norm layers of frozen groups do.
        optimizer: Makes each group's optimizer.
        clip_norm: Largest global norm of the trained parameters' gradients, or None.
        ema_decay: Decay of the weights' moving average; None for no average.
        gradient_accumulation_steps: Batches per update.
        precision: Dtype that the network computes in.
        rematerialize: Whether blocks are computed again for their gradients.
        mesh: Devices that were asked for; None for all of them.
        fsdp: Whether what trains is split over the devices.
        sync_batch_norm: Whether batch statistics are of all devices' rows.
        programs: The compiled steps.
        boundary: Number of groups that are frozen, counted from the first.
        phase: Number of phases so far.
        step: Number of steps so far.
        snapshots: The weights at the beginning of each phase.
        extra_loaders: Loaders by name that are validated on after each epoch, too.
        network: The module; during a fit its weights are those before the phase.
        running: The current run's position and train state; None between two fits.
        sharding: Of arrays that are replicated on every device.
    """

    def __init__(
        self,
        module: nnx.Module,
        groups: Groups,
        *,
        norms: Norms,
        optimizer: Optimizer,
        clip_norm: float | None,
        programs: CompiledSteps,
        ema_decay: float | None = None,
        gradient_accumulation_steps: int = 1,
        precision: ComputePrecision = "float32",
        rematerialize: bool = False,
        mesh: jax.sharding.Mesh | None = None,
        fsdp: bool = False,
        sync_batch_norm: bool = True,
    ):
        """Takes the network and checks its groups; nothing is computed yet.

        Args:
            module: The network.
            groups: Layer groups, first to last.
            norms: What the norm layers of frozen groups do.
            optimizer: Makes each group's optimizer.
            clip_norm: Largest global norm of the trained parameters' gradients, or
                None.
            programs: Makes and caches the compiled steps.
            ema_decay: Decay of the weights' moving average, which is validated and
                saved; None for no average.
            gradient_accumulation_steps: Batches per update.
            precision: Dtype that the network computes in, see `with_precision`.
            rematerialize: Whether blocks are computed again for their gradients, see
                `with_rematerialization`.
            mesh: Devices, over which batches are split; all of them if None.
            fsdp: Whether what trains is split over them too, see `fsdp_shardings`.
            sync_batch_norm: Whether batch statistics are of all devices' rows.

        Raises:
            ValueError: If a parameter is in no group or several, `norms` or `precision`
                is unknown, `ema_decay` is not between 0 and 1, or
                `gradient_accumulation_steps` is not 1 or more.
        """
        check_norms(norms)
        check_accumulation(gradient_accumulation_steps)
        check_precision(precision)
        check_decay(ema_decay)
        to_float32(module)
        group_labels(split_module(module)[1], groups)
        self.groups = dict(groups)
        self.norms: Norms = norms
        self.programs = programs
        self.boundary = 0
        self.phase = 0
        self.network = module
        self.optimizer = optimizer
        self.clip_norm = clip_norm
        self.ema_decay = ema_decay
        self.gradient_accumulation_steps = gradient_accumulation_steps
        self.precision: ComputePrecision = precision
        self.take_rematerialize(rematerialize)
        self.mesh = mesh
        self.fsdp, self.sync_batch_norm = fsdp, sync_batch_norm
        self.running: RunState | None = None
        self._opt_state = None
        self.step = 0
        self.snapshots: list[Snapshot] = []
        self.extra_loaders: Mapping[str, Any] = {}
        self._rows, self.sharding = data_sharding(self.mesh)
        self._photo_batch: dict[str, jax.Array] | None = None
        enable_compilation_cache()

    @property
    def module(self) -> nnx.Module:
        """The network with its newest weights; the averaged ones, with `ema_decay`."""
        if self.running is not None:
            self._sync(self.running.state)
        return self.network

    @property
    def frozen_groups(self) -> tuple[str, ...]:
        """Names of the layer groups that do not train now."""
        return tuple(self.groups)[: self.boundary]

    @property
    def columns(self) -> list[str]:
        """Names of the table's columns."""
        return table_columns(self.programs.metrics, self.extra_loaders)

    def take_network(
        self,
        module: nnx.Module,
        *,
        programs: CompiledSteps,
    ) -> None:
        """Replaces the network by one with the same groups; resets the optimizer.

        Args:
            module: The network.
            programs: Makes and caches its compiled steps.

        Raises:
            ValueError: If one of its parameters is in no group or several.
        """
        to_float32(module)
        group_labels(split_module(module)[1], self.groups)
        self.network, self.programs = module, programs
        self._opt_state, self.snapshots = None, []

    def take_data(self, *, programs: CompiledSteps) -> None:
        """Replaces the compiled steps; keeps the optimizer's state.

        Args:
            programs: Makes and caches the compiled steps for the new data.
        """
        self.programs = programs

    def take_optimizer(self, **options: Any) -> None:
        """Replaces the optimizer; its state starts from scratch.

        Args:
            **options: New values of `optimizer`, `clip_norm` or
                `gradient_accumulation_steps`.

        Raises:
            TypeError: If `optimizer` doesn't make an optax optimizer.
            ValueError: If a number is out of range.
        """
        before = {name: getattr(self, name) for name in options}
        vars(self).update(options)
        try:
            any_phase = _numbers(self.any_phase())
            self._optimizer_settings().optimizer_of(self.labels(()), *any_phase)
        except Exception:
            vars(self).update(before)
            raise
        self._opt_state = None
        steps = self.gradient_accumulation_steps
        self.programs = self.programs.changed("train", accumulation=steps)

    def take_rematerialize(self, rematerialize: bool) -> None:
        """Says whether blocks are computed again for their gradients.

        Raises:
            ValueError: If they shall be and the network has none.
        """
        if rematerialize:
            with_rematerialization(self.network)
        self.rematerialize = rematerialize

    @property
    def is_training(self) -> bool:
        """Whether a phase is training."""
        return self.running is not None

    def freeze_to(self, boundary: Integer | str) -> None:
        """Freezes the groups before one; see `Learner.freeze_to`."""
        self.boundary = boundary_index(boundary, self.groups)
        self._opt_state = None

    def labels(self, frozen: tuple[str, ...] | None = None) -> nnx.State:
        """Returns each parameter's layer group, `FROZEN` for those that don't train.

        Args:
            frozen: Names of the frozen groups; the ones frozen now if None.
        """
        return optimizer_labels(
            group_labels(split_module(self.network)[1], self.groups),
            self.frozen_groups if frozen is None else frozen,
            norms=self.norms,
            norm_params=norm_paths(self.network),
        )

    def untouched_groups(self, phases: Sequence[Phase]) -> list[str]:
        """Returns the groups in which nothing trains in the last of some phases.

        Args:
            phases: The phases to come; their boundaries say what will be frozen.
        """
        frozen = self.frozen_groups
        for phase in phases:
            if phase.boundary is not None:
                frozen = tuple(self.groups)[: phase.boundary]
        # The norms of frozen groups may train.
        trained = set(jax.tree.leaves(self.labels(frozen)))
        return [group for group in frozen if group not in trained]

    @in_float32
    def set_rates(self, rates: Mapping[str, float]) -> None:
        """Changes the current phase's peak rates; see `Learner.set_rates`."""
        if self.running is None:
            raise RuntimeError(
                "set_rates is for callbacks, while a phase trains. Between two fits, "
                "give the rates to the next one: fit(1, lr=...)."
            )
        state = self.running.state
        changed = state.replace(opt_state=with_rates(state.opt_state, rates))
        self.running.state = self.place_state(changed)

    @property
    def version(self) -> tuple:
        """A value that changes whenever the network trains or groups are frozen."""
        return self.phase, self.step, self.frozen_groups

    @property
    def opt_state(self) -> Any:
        """The optimizer's state with which the next phase starts, or None."""
        return self._opt_state

    def state_dict(self) -> dict[str, Any]:
        """Returns the phase, the frozen groups and the number of steps, as JSON."""
        return {
            "phase": self.phase,
            "frozen": list(self.frozen_groups),
            "step": self.step,
        }

    def load_state_dict(self, place: Mapping[str, Any]) -> None:
        """Restores what `state_dict` returned.

        Raises:
            ValueError: If the frozen groups are not this network's first groups.
        """
        frozen = tuple(place["frozen"])
        if frozen != tuple(self.groups)[: len(frozen)] or len(frozen) >= len(
            self.groups
        ):
            raise ValueError(
                f"the layer groups {', '.join(frozen)} were frozen when it was saved; "
                f"this network's are {', '.join(self.groups)}. Give the same groups, "
                'or load with phase="keep".'
            )
        self.freeze_to(len(frozen))
        self.phase, self.step = place["phase"], place["step"]

    def restore_optimizer(self, checkpoint: str | os.PathLike) -> None:
        """Loads the optimizer's state from a checkpoint.

        Raises:
            jaxtune.CheckpointMismatchError: If other parameters were trained, or with
                another optimizer.
        """
        state = self.begin(self.any_phase())[1]
        self._opt_state = load_opt_state(checkpoint, state.opt_state)

    def fingerprint(self) -> str:
        """Returns a sha256 of all weights and of the optimizer's state."""
        values = split_module(self.network)[1:]
        return fingerprint((values, self._opt_state, self.step))

    def describe(self) -> dict[str, Any]:
        """Returns the settings that change a run's results; weights are left out."""
        steps = self.gradient_accumulation_steps
        also = describe_extra(self.extra_loaders)
        return {
            "groups": describe_groups(self.groups),
            "norms": self.norms,
            "optimizer": name_of(self.optimizer),
            "clip_norm": self.clip_norm,
            **({} if self.ema_decay is None else {"ema_decay": self.ema_decay}),
            **({} if steps == 1 else {"gradient_accumulation_steps": steps}),
            **({} if self.precision == "float32" else {"precision": self.precision}),
            **({"rematerialize": True} if self.rematerialize else {}),
            **({} if self.sync_batch_norm else {"sync_batch_norm": False}),
            **self.programs.describe(),
            **({"validate_also": also} if also else {}),
        }

    def validate(self, loader) -> dict[str, float]:
        """Returns the mean loss and the metrics over every photo of a loader.

        Warns if the loss is NaN or infinite, and tells whether the network's outputs
        are the cause.
        """
        with ending_together(), self.programs.device_errors():
            values = self.values()
            figures = self.evaluate(loader, values)
            if not math.isfinite(figures["loss"]):
                if self.outputs_are_finite(values, loader):
                    why = "the network's outputs are finite; look at loss and labels"
                else:
                    why = f"the network's outputs are NaN or infinite; {SPOILED}"
                warnings.warn(
                    f"the validation loss is {figures['loss']}: {why}.", stacklevel=3
                )
        return figures

    def inputs(
        self, data: Any, phase: Phase, first_epoch: int, key: jax.Array
    ) -> tuple[Any, dict[str, Any], Callable[..., dict[str, float]]]:
        """Returns what a phase trains and validates on.

        Args:
            data: Has `train_loader` and `valid_loader`.
            phase: With `cache_features` the body's features are computed now.
            first_epoch: Number of the phase's first epoch.
            key: The run's key.

        Returns:
            The loader to train on, those to validate on by name ("" for the data's
            own), and what evaluates them, see `evaluator`.
        """
        loaders = {"": data.valid_loader, **self.extra_loaders}
        if not phase.cached_draws:
            photos = self.photos_on_device()
            self.programs.before_call = photos.make_room
            loaders = {
                name: photos.loader(self.own_rows(loader))
                for name, loader in loaders.items()
            }
            train_loader = photos.loader(self.own_rows(data.train_loader))
            return train_loader, loaders, self.evaluator()
        cached = self._cached_features(
            data.train_loader, loaders, phase, first_epoch, key
        )
        return *cached, self.evaluator(features=True)

    def photos_on_device(self) -> PhotosOnDevice:
        """Returns what keeps photos on the devices; there are none yet."""
        return PhotosOnDevice(
            rows=self._rows,
            everywhere=self.sharding,
            used=lambda: self.programs.most,
        )

    def _cached_features(
        self,
        train_loader: Any,
        loaders: Mapping[str, Any],
        phase: Phase,
        first_epoch: int,
        key: jax.Array,
    ) -> tuple[FeatureLoader, dict[str, FeatureLoader]]:
        """Computes the frozen body's features of all photos, once.

        The draws of the augmentation are those of the phase's first epochs.
        """
        graphdef, values = self.eval_graphdef(), self.values()

        def features_of(loader, key, *, augmented) -> tuple[np.ndarray, np.ndarray]:
            step = self.programs.features_step(graphdef, augmented=augmented)
            found, masks = [], []
            for batch in self.own_rows(loader.in_order()).batches():
                placed = self.place(batch)
                found.append(self.readable(step(*values, placed, key)))
                masks.append(placed["mask"])
                self._photo_batch = placed if augmented else self._photo_batch
            (found, masks), count = jax.device_get((found, masks)), loader.num_items
            return np.concatenate(found)[:count], np.concatenate(masks)[:count]

        draws = [
            features_of(
                train_loader,
                jax.random.fold_in(key, first_epoch + draw),
                augmented=True,
            )
            for draw in range(phase.cached_draws)
        ]
        train = FeatureLoader(
            train_loader,
            *map(np.stack, zip(*draws, strict=True)),
            first_epoch=first_epoch,
        )
        return train, {
            name: FeatureLoader(
                loader, *(x[None] for x in features_of(loader, key, augmented=False))
            )
            for name, loader in loaders.items()
        }

    def evaluator(self, *, features: bool = False) -> Callable[..., dict[str, float]]:
        """Returns a function that evaluates weights; made once for many calls.

        Args:
            features: Whether the loaders are of stored features, see `inputs`.

        Returns:
            (loader, values, after_batch=None) -> the mean loss and metrics over every
            unpadded row of the loader. `values` are parameters and model state on every
            device; `after_batch` is called after each batch, and what it raises ends
            the evaluation. Raises a ValueError if there is no row at all.
        """
        eval_step = self.programs.eval_step(self.eval_graphdef(), features=features)

        def evaluate(loader, values, after_batch=None) -> dict[str, float]:
            sums = []
            for batch in self.own_rows(loader).batches():
                sums.append(self.readable(eval_step(*values, self.place(batch))))
                if after_batch is not None:
                    after_batch()
            return epoch_figures(sums, self.programs.metrics)

        return evaluate

    def evaluate(self, loader, values: tuple[nnx.State, nnx.State]) -> dict[str, float]:
        """Returns loss and metrics of some weights, see `evaluator`."""
        return self.evaluator()(loader, values)

    def outputs_are_finite(self, values: tuple[Any, Any], loader) -> bool:
        """Returns whether the network gives finite numbers for every photo."""
        step = self.programs.answer_step(self.eval_graphdef())
        for batch in self.own_rows(loader).batches():
            placed, rows = self.place(batch), len(batch["label"])
            outputs = self.readable(step(*values, placed["image"])[0])
            real = np.asarray(placed.get("mask", np.ones(rows, bool)))
            if not np.isfinite(np.asarray(outputs)[:rows][real]).all():
                return False
        return True

    def predict_step(self) -> Callable:
        """Returns uint8 images (b, h, w, 3) -> probabilities (b, c).

        Of several processes each calls it for itself.
        """
        step = self.programs.predict_step(self.eval_graphdef())
        values = of_this_process(self.values())
        return lambda images: step(*values, images)

    def any_phase(self) -> Phase:
        """A phase, for the form of an optimizer's state: it hasn't any numbers yet."""
        return Phase(None, None, 1, (0.0,) * len(self.groups), constant(), 0.0)

    def _optimizer_settings(self) -> "_OptimizerSettings":
        return _OptimizerSettings(
            tuple(self.groups),
            self.optimizer,
            no_decay_paths(self.network),
            self.clip_norm,
            self.gradient_accumulation_steps,
        )

    @in_float32
    def begin(self, phase: Phase) -> tuple[Callable, TrainState]:
        """Returns a phase's compiled step and first train state.

        Args:
            phase: Its boundary is ignored: the frozen groups stay frozen. Its schedule
                counts batches; the schedule in the state counts updates.

        Returns:
            The step donates its state; the state is a copy, so the module keeps its
            arrays.
        """
        step, first_state = self._step_and_state(phase, self.frozen_groups)
        values = split_module(self.network)[1:]
        state = first_state(*self._state_sharding().place_values(values))
        same = jax.tree.structure(self._opt_state) == jax.tree.structure(
            state.opt_state
        )
        if same:
            kept = restart_schedule(self._opt_state, state.opt_state)
            state = state.replace(opt_state=kept)
        return step, self.place_state(state.replace(step=np.int32(self.step)))

    @in_float32
    def compile_ahead(self, phase: Phase, batch: Mapping, key: jax.Array) -> Thread:
        """Compiles the step of a later phase in the background.

        Args:
            phase: Its boundary says what will be frozen; None for what is frozen now.
            batch: A batch on the devices with the phase's shapes and dtypes, or its
                form, see `batch_form`.
            key: A random key.

        Returns:
            The thread that compiles. Errors in it are ignored: the phase itself raises
            them again.
        """
        frozen = self.frozen_groups
        if phase.boundary is not None:
            frozen = tuple(self.groups)[: phase.boundary]
        step, state = self._step_and_form(phase, frozen)
        if self._photo_batch is not None:
            # This phase has batches of features, the later one of photos.
            batch = self._photo_batch
        placed = {name: _form(x, x.sharding) for name, x in batch.items()}
        return _compile_in_background(step, state, placed, _form(key))

    def _step_and_form(
        self, phase: Phase, frozen: tuple[str, ...]
    ) -> tuple[Callable, TrainState]:
        """The compiled step with these groups frozen, and the form of its state."""
        step, first_state = self._step_and_state(phase, frozen)
        state = jax.eval_shape(first_state, *split_module(self.network)[1:])
        shardings = self._state_sharding(frozen).of(state)
        return step, jax.tree.map(_form, state, shardings)

    @in_float32
    def memory_need(self, loader: Loader, rows: int) -> MemoryNeed:
        """Compiles the step that trains every group; returns the memory it needs.

        Args:
            loader: Of training photos.
            rows: Of a batch.

        Raises:
            OutOfMemoryError: If the device has less.
        """
        step, state = self._step_and_form(self.any_phase(), ())
        batch = self.batch_form(loader.with_batch_size(rows))
        key = jax.eval_shape(lambda: jax.random.key(0))
        with self.programs.device_errors():
            return step.memory_need(state, batch, _form(key))

    @in_float32
    def compile_now(
        self, step: Any, state: TrainState, batch: Mapping, key: jax.Array
    ) -> list[Thread]:
        """Compiles a phase's own step in the background, while photos are decoded.

        Args:
            step: The phase's compiled step, see `begin`.
            state: Its first state.
            batch: The form of its batches, see `batch_form`.
            key: A random key.

        Returns:
            The thread that compiles, as `compile_ahead` does; none if the step has run
            before.
        """
        if not isinstance(step, CompiledStep) or step.count:
            return []
        placed = jax.tree.map(lambda x: _form(x, x.sharding), state)
        return [_compile_in_background(step, placed, batch, _form(key))]

    @in_float32
    def compile_validation_ahead(self, loader: Any) -> list[Thread]:
        """Compiles the eval step in the background, as the first step is compiled.

        Args:
            loader: Of the photos that are validated on.

        Returns:
            The thread that compiles, as `compile_ahead` does; none if the step has run
            before, or the loader doesn't tell the form of its batches.
        """
        step, batch = self.programs.eval_step(self.eval_graphdef()), None
        if not step.count:
            batch = self.batch_form(loader)
        if batch is None:
            return []
        values = jax.tree.map(
            lambda x: _form(x, self.sharding), split_module(self.network)[1:]
        )
        return [_compile_in_background(step, *values, batch)]

    def batch_form(self, loader: Any) -> dict[str, jax.ShapeDtypeStruct] | None:
        """Returns shapes, dtypes and shardings of a loader's batches on the devices.

        None if the loader doesn't tell, or nothing is compiled.
        """
        if not isinstance(loader, Loader) or jax.config.jax_disable_jit:
            return None
        batch = loader.rows(np.zeros(0, np.int32))
        rows = filled_up(loader.batch_size, self._rows.num_devices)
        others = sharding_of_labels(loader.batch_size, self._rows, self.sharding)
        form = {name: _form(x, others) for name, x in batch.items()}
        photos = jax.ShapeDtypeStruct((rows, *loader.image_shape), np.uint8)
        return form | {"image": _form(photos, self._rows)}

    def training_views(
        self, phases: Sequence[Phase]
    ) -> Iterator[tuple[Phase, tuple[str, ...], nnx.Module]]:
        """Yields each phase, the groups frozen in it, and its view of the network."""
        groups = group_labels(split_module(self.network)[1], self.groups)
        frozen = self.frozen_groups
        for phase in phases:
            if phase.boundary is not None:
                frozen = tuple(self.groups)[: phase.boundary]
            yield (
                phase,
                frozen,
                self._training_view(groups, frozen),
            )

    def _training_view(self, labels: nnx.State, frozen: tuple[str, ...]) -> nnx.Module:
        return training_view(
            self.network,
            labels,
            frozen,
            norms=self.norms,
            running=running_groups(self.groups, self.norms),
            batch_parts=self.batch_parts,
        )

    @property
    def batch_parts(self) -> int:
        """Parts of a batch, each of which has statistics of its own."""
        return 1 if self.sync_batch_norm else self.sharding.num_devices

    def _step_and_state(
        self, phase: Phase, frozen: tuple[str, ...]
    ) -> tuple[Callable, Callable[..., TrainState]]:
        """The compiled step with these groups frozen, and what makes its state.

        The latter takes parameters and model state.
        """
        groups = group_labels(split_module(self.network)[1], self.groups)
        view = self._training_view(groups, frozen)
        view = with_precision(view, self.precision)
        view = with_rematerialization(view) if self.rematerialize else view
        graphdef = split_module(view)[0]
        labels = self.labels(frozen)
        settings, numbers = self._optimizer_settings(), _numbers(phase)
        # The program outlives the trainer, so it must not hold it.
        ema_decay, still = self.ema_decay, still_statistics(view)

        def first_state(params, model_state, numbers) -> TrainState:
            ema = None
            if ema_decay is not None:
                ema = init_average(
                    params, model_state, labels, decay=ema_decay, still=still
                )
            tx = settings.optimizer_of(labels, *numbers)
            return TrainState.create(params, model_state, tx, ema=ema)

        make = self.programs.first_state(
            graphdef,
            labels,
            first_state,
            optimizer=(settings, ema_decay),
            split_over=self._state_sharding().split_over,
        )
        step = self.programs.train_step(
            graphdef,
            settings.optimizer_of(labels, *numbers),
            labels,
            optimizer=settings,
            features=phase.cache_features > 0,
            split_over=self._state_sharding().split_over,
        )
        return step, lambda params, model_state: make(params, model_state, numbers)

    def _state_sharding(self, frozen: tuple[str, ...] | None = None) -> StateSharding:
        labels = functools.partial(self.labels, frozen)
        return StateSharding(self.sharding, self.fsdp, labels)

    @in_float32
    def place_state(self, state: TrainState) -> TrainState:
        """Puts a copy of the present phase's state onto the devices.

        Args:
            state: Whole arrays, or those of a step.
        """
        return self._state_sharding().place(state)

    def whole(self, values: tuple[Any, Any]) -> tuple[Any, Any]:
        """Returns parameters and model state as validation has them: whole.

        Several processes must all call it, where the state is split.
        """
        return self._state_sharding().whole(values)

    def eval_graphdef(self) -> nnx.GraphDef:
        """Returns the network's graph in eval mode, as validation runs it."""
        return nnx.graphdef(with_precision(evaluating(self.network), self.precision))

    @in_float32
    def values(self) -> tuple[nnx.State, nnx.State]:
        """Returns the present parameters and model state, on every device."""
        _, params, model_state = split_module(self.module)
        return on_every_device((params, model_state), self.sharding, copied=False)

    @in_float32
    def place(self, batch) -> dict[str, jax.Array]:
        """Puts a batch onto the devices, see `place_batch`."""
        return place_batch(batch, self._rows, self.sharding)

    def own_rows(self, loader: Any) -> Any:
        """Returns a loader that reads this process's photos, see `with_own_rows`."""
        return with_own_rows(loader, self._rows)

    def readable(self, tree: Any) -> Any:
        """Returns what a step gave in a form that can be read, see `readable`."""
        return readable(tree, self.sharding)

    def _sync(self, state: TrainState) -> None:
        nnx.update(self.network, *of_this_process(self.whole(averaged(state))))

    def check_row(self, row: Row, state: TrainState, loader) -> None:
        """Raises if the validation loss is not finite because the outputs are not."""
        if math.isfinite(row.valid_loss):
            return
        if not self.outputs_are_finite(self.whole(averaged(state)), loader):
            raise NonFiniteLossError(
                f"after epoch {row.epoch} of phase {row.phase} the network's outputs "
                "for the validation photos are NaN or infinite (valid_loss "
                f"{row.valid_loss})."
            )

    def judge(self, state: TrainState, good: GoodValues, loader) -> tuple[bool, str]:
        """Returns whether to go back after a NaN, and advice for the error message.

        Args:
            state: After the last step.
            good: Weights to go back to.
            loader: Validation data on which both are compared.
        """
        back = (
            "The weights had diverged before that step, so the learner restored the "
            f"weights it had {good.when}. Try a lower learning rate or clip_norm=1.0."
        )
        if not is_readable(state):
            return True, back
        try:
            # On every device, as validation has them.
            both = self.whole((averaged(state), good.values))
            now, before = on_every_device(both, self.sharding, copied=False)
            loss = self.evaluate(loader, before)["loss"]
            if has_diverged(self.evaluate(loader, now)["loss"], loss):
                return True, back
            if not math.isfinite(loss) and not self.outputs_are_finite(before, loader):
                return False, (
                    f"The network's outputs were NaN or infinite {good.when} already: "
                    f"{SPOILED}."
                )
        except (RuntimeError, ValueError):
            # Too little memory, or no photos, to compare: keep the last weights.
            pass
        return False, (
            "The learner holds the last good weights, those before that step. Look at "
            "that batch's photos and labels and at the loss; try a lower learning rate "
            "or clip_norm=1.0."
        )

    def end_phase(
        self, state: TrainState, good: GoodValues, *, spoiled: bool = False
    ) -> None:
        """Puts the trained weights into the network, or the last good ones.

        Args:
            state: After the last step.
            good: Weights to go back to if these are spoiled or were lost.
            spoiled: Whether to go back.
        """
        self.running = self._photo_batch = self.programs.before_call = None
        if not spoiled and is_readable(state):
            self._sync(state)
            self._opt_state = of_all_processes(state.opt_state)
            self.step = int(state.step)
        else:
            nnx.update(self.network, *of_this_process(self.whole(good.values)))
            self._opt_state, self.step = None, good.step


def _form(x: Any, sharding: Any = None) -> jax.ShapeDtypeStruct:
    weak = getattr(x, "weak_type", False)
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding, weak_type=weak)


def _compile_in_background(step: Any, *forms: Any) -> Thread:
    def compile_it() -> None:
        # What runs the step raises the error again.
        with contextlib.suppress(Exception):
            step.compile(*forms)

    thread = Thread(target=compile_it, name="jaxtune-compile")
    thread.start()
    return thread
