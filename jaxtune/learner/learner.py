"""The learner: a network with its data, its layer groups and the phase it is in.

`Learner` holds state and calls public functions; whatever it does can be done without
it.
"""

import copy
import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxtune.arguments import (
    Integer,
    Number,
    check_choice,
    check_flag,
    check_instance,
    check_integer,
    check_module,
    check_number,
    check_path,
)
from jaxtune.checkpoint import (
    RunFolder,
    checkpoint_numbers,
    environment,
    find_checkpoint,
    load_checkpoint,
    save_checkpoint,
    write_thresholds,
)
from jaxtune.data import Mixing
from jaxtune.inspect.diff import (
    Diff,
    check_frozen,
    check_group_names,
    interval_since,
    stretches,
)
from jaxtune.inspect.gradcam import GradCam
from jaxtune.inspect.kernels import compare_kernels
from jaxtune.inspect.plan import Plan, plan_phases
from jaxtune.inspect.summary import Summary, network_layers, summarize
from jaxtune.learner.assignment import check_assignable, is_ours
from jaxtune.learner.loss_and_metrics import fit_measures, scaled_objective
from jaxtune.learner.more_classes import extended
from jaxtune.learner.restore import load_into
from jaxtune.learner.settings import (
    FINE_TUNING,
    batch_sizes,
    check_alone,
    check_data,
    check_known,
    check_options,
    check_replacement,
    check_statistics,
    replaced_loaders,
)
from jaxtune.loop.callbacks import CallbackList
from jaxtune.loop.compiled_steps import CompiledSteps
from jaxtune.loop.events import FitEvents
from jaxtune.loop.extra_validation import matching_loaders
from jaxtune.loop.fit import fit
from jaxtune.loop.float32 import in_float32
from jaxtune.loop.history import History
from jaxtune.loop.rate_search import search_rates
from jaxtune.loop.resume import Resume
from jaxtune.loop.run_description import describe_run, upgraded_recipe, without_metrics
from jaxtune.loop.sharding import check_one_process
from jaxtune.loop.trainer import Trainer
from jaxtune.models import kaiming_normal
from jaxtune.results.explanation import Explainer
from jaxtune.results.inference import Inference
from jaxtune.results.interpretation import (
    ClassificationInterpretation,
    Interpretation,
    RegressionInterpretation,
)
from jaxtune.results.photo_grid import plot_results
from jaxtune.results.predictions import (
    Predictions,
    loader_like,
    plain_loader,
    require_items,
)
from jaxtune.results.predictor import (
    Prediction,
    Predictor,
    Reading,
    describe,
    predict_images,
)
from jaxtune.results.thresholds import (
    DEFAULT_THRESHOLD,
    as_thresholds,
    check_several,
)
from jaxtune.train import (
    ComputePrecision,
    LRFind,
    Metric,
    Norms,
    Optimizer,
    Phase,
    Rates,
    Schedule,
    adam,
    boundary_index,
    check_epochs,
    check_momentums,
    checked_phases,
    constant,
    default_activation,
    fine_tune_phases,
    flat_cosine,
    gradual_phases,
    one_cycle,
    resolve_rates,
    split_module,
)
from jaxtune.transfer import (
    Groups,
    default_groups,
    group_labels,
    split_groups,
)

#: Folded into the seed's key for test-time augmentation: epochs never count so far.
_TTA = 2**31 - 1

#: A `Callback`, several or None; anything else is refused, see `CallbackList`.
Callbacks = Any


class _LastRun(NamedTuple):
    """The run that a learner was in last, which can be resumed in the same process."""

    path: Path
    before: dict
    version: tuple


class Learner:
    """A network with its data, its layer groups and the phase it is in.

    Between two fits the modules hold the weights: `learner.model` can be looked at,
    changed (`learner.model[0][0] = conv`), or used in plain Flax code. A fit takes the
    weights from it and puts them back, also when it is interrupted.

    Between two fits these can be assigned, with full effect: data, lr, wd, moms, seed,
    verbose, norms, precision, ema_decay, optimizer, clip_norm,
    gradient_accumulation_steps, mixing, loss, metrics, validate_also, thresholds.
    `learner.data = larger` continues with photos of another size (progressive
    resizing); `learner.lr = 1e-3` is the learning rate of the next fits. Assigning
    anything else raises an `AttributeError` that says what to do instead.

    It holds the data, the history, how the network was built, the thresholds of several
    labels, and a `Trainer`: network, layer groups, optimizer state, compiled steps.

    References:
        fastai 2.8.12, learner.py `Learner`; the names and defaults are its.
    """

    def __init__(
        self,
        data,
        model: nnx.Module,
        *,
        metrics: Metric | str | Iterable[Metric | str] | None = None,
        loss: Callable | str | None = None,
        groups: Groups | None = None,
        split_on: Callable | None = None,
        norms: Norms = "frozen",
        optimizer: Optimizer | str = adam,
        lr: Rates = 1e-3,
        wd: Number = 0.01,
        moms: Sequence[Number] = (0.95, 0.85, 0.95),
        clip_norm: Number | None = None,
        gradient_accumulation_steps: Integer = 1,
        precision: ComputePrecision = "float32",
        ema_decay: Number | None = None,
        mixing: Mixing | None = None,
        validate_also: Mapping[str, Any] | None = None,
        mean: Number | Sequence[Number] | None = None,
        std: Number | Sequence[Number] | None = None,
        seed: Integer | None = None,
        verbose: bool | int = True,
        network: dict | None = None,
    ):
        """Takes the network and how it is to be trained; nothing is computed yet.

        Args:
            data: `ImageDataLoaders`.
            model: Two children, body and head, see `create_cnn_model`.
            metrics: One or several functions (logits, label) -> a value for each row,
                or figures of the whole epoch, see `EpochMetric`.
            loss: A function (logits, label) -> a value for each row, which training
                minimises; if None, `cross_entropy` for classes, `binary_cross_entropy`
                for several labels each, `mse` for numbers.
            groups: Layer groups by pattern; found from the body if None.
            split_on: Layer groups by a fastai splitter instead.
            norms: What the norm layers of frozen groups do: "frozen" (nothing moves; it
                measures best), "stats" (batch statistics) or "train" (their parameters
                train too, as in fastai).
            optimizer: Makes each group's optimizer: `adam`, `sgd`, or your own, see
                `Optimizer`.
            lr: Peak learning rate where a fit is given none; as `fit` takes it.
            wd: Weight decay, not applied to norms and biases.
            moms: Momentum at a cycle's start, at its peak and at its end.
            clip_norm: Largest global norm of the gradients of what trains.
            gradient_accumulation_steps: Batches (not samples) for one update: the
                effect of a batch so many times as large, in a small one's memory. Rates
                and schedule then count updates by themselves. Gradients left over at an
                epoch's end go on into the next epoch, at a phase's end they are
                dropped. See `group_optimizer`.
            precision: "bfloat16" makes the network compute in it, in training,
                validation and prediction, for GPUs and TPUs (on most CPUs it is
                slower); parameters, statistics, optimizer, loss and metrics stay
                float32. See `with_precision`.
            ema_decay: Decay of a moving average of what trains, such as 0.999; no
                average if None. Training goes on with the raw values; the averaged ones
                are validated after each epoch, saved, and in the network at a phase's
                end. See `init_average`.
            mixing: `MixUp()`, `CutMix()` or your own `BatchTransform`, of training
                batches.
            validate_also: Further photos to validate on after each epoch, by name:
                `{"old": old_data}` (`ImageDataLoaders`, whose validation photos are
                taken, or a loader) adds the columns old_valid_loss, old_error_rate and
                so on. Their labels are matched to the data's classes by name.
            mean: Of each channel, for images in 0..1; no normalisation if None.
            std: Of each channel.
            seed: Decides dropout and augmentation; the data's seed if None.
            verbose: Whether to show start lines, tables and progress.
            network: How the network was built, so that a checkpoint of it can be opened
                without help: arch, cut, in_channels and options of the head.

        Raises:
            TypeError: If the loss or a metric is no function, or returns no array.
            ValueError: If a parameter is in no group or several, or an option is
                unknown; or if the loss or a metric is for labels of another kind, or
                returns anything but one value for each row.
        """
        check_data(data)
        check_module(model, "model")
        options = check_options(
            {
                "loss": loss,
                "metrics": metrics,
                "groups": groups,
                "split_on": split_on,
                "norms": norms,
                "optimizer": optimizer,
                "wd": wd,
                "moms": moms,
                "clip_norm": clip_norm,
                "gradient_accumulation_steps": gradient_accumulation_steps,
                "precision": precision,
                "ema_decay": ema_decay,
                "mixing": mixing,
                "validate_also": validate_also,
                "seed": seed,
                "verbose": verbose,
            }
        )
        mean, std = check_statistics(mean, std, data.in_channels)
        if split_on is not None:
            groups = split_groups(model, split_on)
        loss, named = fit_measures(options["loss"], options["metrics"], data, model)
        groups = groups or default_groups(model)
        resolve_rates(lr, len(groups), name="lr")
        steps = options["gradient_accumulation_steps"]
        self._trainer = Trainer(
            model,
            groups,
            norms=norms,
            optimizer=options["optimizer"],
            clip_norm=options["clip_norm"],
            gradient_accumulation_steps=steps,
            precision=precision,
            ema_decay=options["ema_decay"],
            programs=CompiledSteps(
                size=data.size,
                augmentation=data.augmentation,
                loss=loss,
                objective=scaled_objective(loss, model),
                activation=default_activation(data.kind),
                mixing=mixing,
                gradient_accumulation_steps=steps,
                metrics=named,
                mean=mean,
                std=std,
            ),
            batch_sizes=batch_sizes(data),
        )
        self._data, self._history, self._network = data, History(), network
        self._thresholds = None
        self._last_run = None
        self.validate_also = options["validate_also"]
        self.lr, self.wd, self.moms = lr, wd, moms
        self.seed = options["seed"]
        self.verbose = options["verbose"]

    # What it holds. What has a setter can be assigned between two fits, see `Learner`.

    @property
    def model(self) -> nnx.Module:
        """The network with its newest values: `model[0]` the body, `[1]` the head."""
        return self._trainer.module

    @property
    def data(self) -> Any:
        """Where batches come from: `ImageDataLoaders`.

        Other photos, another size, batch size or augmentation can be assigned, of the
        same classes. The network, the optimizer's moments and the history go on.
        """
        return self._data

    @data.setter
    def data(self, data: Any) -> None:
        trainer = self._between_fits("data")
        check_replacement(data, self._data, trainer.network)
        trainer.extra_loaders = replaced_loaders(
            self._validate_also, data, trainer.programs.metrics
        )
        programs = trainer.programs
        trainer.take_data(
            programs=programs if programs.fit_data(data) else programs.for_data(data),
            batch_sizes=batch_sizes(data),
        )
        self._data, self._last_run = data, None

    @property
    def groups(self) -> Mapping:
        """Layer groups, first to last: name to pattern or paths."""
        return MappingProxyType(self._trainer.groups)

    @property
    def frozen_groups(self) -> tuple[str, ...]:
        """Names of the layer groups that do not train now."""
        return self._trainer.frozen_groups

    @property
    def history(self) -> History:
        """Every epoch so far, over all phases."""
        return self._history

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that the table of the next fit will have."""
        return tuple(self._trainer.columns)

    @property
    def network(self) -> dict | None:
        """How the network was built, or None."""
        return self._network

    @property
    def num_programs(self) -> int:
        """Number of programs compiled so far for training, validation, prediction."""
        return self._trainer.programs.count

    @property
    def lr(self) -> Any:
        """Peak learning rate where a fit is given none: as `fit` takes it."""
        return self._lr

    @lr.setter
    def lr(self, lr: Any) -> None:
        resolve_rates(lr, len(self._trainer.groups), name="lr")
        self._lr = lr

    @property
    def wd(self) -> float:
        """Weight decay where a fit is given none."""
        return self._wd

    @wd.setter
    def wd(self, wd: Any) -> None:
        self._wd = wd

    @property
    def moms(self) -> tuple[float, float, float]:
        """Momentum at a cycle's start, at its peak and at its end."""
        return self._moms

    @moms.setter
    def moms(self, moms: Any) -> None:
        self._moms = moms

    @property
    def seed(self) -> int:
        """Decides dropout, augmentation and what else is drawn."""
        return self._seed

    @seed.setter
    def seed(self, seed: Any) -> None:
        self._seed = self._data.seed if seed is None else seed

    @property
    def verbose(self) -> bool:
        """Whether start lines, tables and progress are shown."""
        return self._verbose

    @verbose.setter
    def verbose(self, verbose: Any) -> None:
        self._verbose = verbose

    @property
    def norms(self) -> Norms:
        """What the norm layers of frozen groups do."""
        return self._trainer.norms

    @norms.setter
    def norms(self, norms: Any) -> None:
        self._between_fits("norms").norms = norms

    @property
    def precision(self) -> ComputePrecision:
        """What the network computes in."""
        return self._trainer.precision

    @precision.setter
    def precision(self, precision: Any) -> None:
        self._between_fits("precision").precision = precision

    @property
    def ema_decay(self) -> float | None:
        """Decay of the moving average of what trains; None for no average."""
        return self._trainer.ema_decay

    @ema_decay.setter
    def ema_decay(self, ema_decay: Any) -> None:
        self._between_fits("ema_decay").ema_decay = ema_decay

    @property
    def optimizer(self) -> Optimizer:
        """Makes each group's optimizer; another one begins without moments."""
        return self._trainer.optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Any) -> None:
        self._between_fits("optimizer").take_optimizer(optimizer=optimizer)

    @property
    def clip_norm(self) -> float | None:
        """Largest global norm of the gradients of what trains, or None."""
        return self._trainer.clip_norm

    @clip_norm.setter
    def clip_norm(self, clip_norm: Any) -> None:
        self._between_fits("clip_norm").take_optimizer(clip_norm=clip_norm)

    @property
    def gradient_accumulation_steps(self) -> int:
        """Batches for one update."""
        return self._trainer.gradient_accumulation_steps

    @gradient_accumulation_steps.setter
    def gradient_accumulation_steps(self, steps: Any) -> None:
        trainer = self._between_fits("gradient_accumulation_steps")
        trainer.take_optimizer(gradient_accumulation_steps=steps)

    @property
    def mixing(self) -> Mixing | None:
        """`MixUp()` or `CutMix()` of training batches, or None."""
        return self._trainer.programs.mixing

    @mixing.setter
    def mixing(self, mixing: Any) -> None:
        trainer = self._between_fits("mixing")
        trainer.programs = trainer.programs.changed("train", mixing=mixing)

    @property
    def loss(self) -> Callable:
        """(logits, label) -> a value for each row, which training minimises."""
        return self._trainer.programs.loss

    @loss.setter
    def loss(self, loss: Any) -> None:
        trainer = self._between_fits("loss")
        loss, _ = self._measures(loss, trainer.programs.metrics)
        objective = scaled_objective(loss, trainer.module)
        trainer.programs = trainer.programs.changed(
            "train", "eval", "loss", loss=loss, objective=objective
        )

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What stands in the table beside the losses."""
        return tuple(self._trainer.programs.metrics.values())

    @metrics.setter
    def metrics(self, metrics: Any) -> None:
        trainer = self._between_fits("metrics")
        _, named = self._measures(self.loss, metrics)
        matching_loaders(self._validate_also, self._data, named)
        trainer.programs = trainer.programs.changed("eval", metrics=named)

    @property
    def validate_also(self) -> Mapping[str, Any]:
        """Further photos to validate on after each epoch, by name."""
        return dict(self._validate_also)

    @validate_also.setter
    def validate_also(self, sources: Any) -> None:
        trainer = self._between_fits("validate_also")
        trainer.extra_loaders = matching_loaders(
            sources, self._data, trainer.programs.metrics
        )
        self._validate_also = dict(sources or {})

    @property
    def thresholds(self) -> np.ndarray | None:
        """Of several labels, each class's own, float32 (c,); None for other labels.

        A class is said of a photo if its probability is above. One half for all, until
        others are assigned: one number, one for each class, such as
        `interpret().best_thresholds()` gives, or a dict of some by name or number, with
        one half for the rest; None is one half for all again. They decide `predict`,
        `get_preds`, `tta`, `interpret` and `show_results`. `save`, and runs that begin
        afterwards, keep them for `load_predictor`; `save_thresholds` keeps them in a
        run that is there already. Metrics have thresholds of their own.
        """
        if self.data.kind != "multi":
            return None
        chosen = self._thresholds or {}
        classes = self.data.classes
        return np.array([chosen.get(c, DEFAULT_THRESHOLD) for c in classes], np.float32)

    @thresholds.setter
    def thresholds(self, value: Any) -> None:
        if value is None:
            self._thresholds = None
            return
        check_several(self.data.kind)
        chosen = as_thresholds(value, self.data.classes)
        self._thresholds = dict(zip(self.data.classes, chosen.tolist(), strict=True))

    def __setattr__(self, name: str, value: Any) -> None:
        """Assigns what can be assigned.

        Raises:
            AttributeError: If it can't be; the message says what to do instead.
            TypeError: If the value is of another type.
            ValueError: If it is out of range.
        """
        check_assignable(type(self), name)
        setter = getattr(type(self), name, None)
        if isinstance(setter, property) and is_ours(type(self), name):
            value = check_options({name: value})[name]
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        """Deletes nothing that is public.

        Raises:
            AttributeError: Whenever the name is public.
        """
        if not name.startswith("_"):
            raise AttributeError(f"{name} can't be deleted; assign another value.")
        object.__delattr__(self, name)

    # Freezing.

    def freeze(self) -> None:
        """Freezes every layer group but the last, the head."""
        if len(self.groups) < 2:
            raise ValueError(
                "freeze() needs at least two layer groups; there is only "
                f"{', '.join(self.groups)}. Give groups= or split_on=."
            )
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Makes every layer group train. Changes no value."""
        self.freeze_to(0)

    def freeze_to(self, boundary: Integer | str) -> None:
        """Freezes the layer groups before one, and makes that and all later ones train.

        Changes no parameter and no statistic; the optimizer starts anew in the next
        fit, as fastai's does.

        Args:
            boundary: Number or name of the first group that trains; negative numbers
                count from the end.

        Raises:
            ValueError: If there is no such group.
        """
        self._trainer.freeze_to(boundary)

    # Training.

    def fine_tune(
        self,
        epochs: Integer,
        base_lr: Number = 2e-3,
        *,
        freeze_epochs: Integer = 1,
        lr_mult: Number = 100.0,
        pct_start: Number = 0.3,
        div: Number = 5.0,
        div_final: Number = 1e5,
        unfreeze_to: Integer | str = 0,
        wd: Number | None = None,
        moms: Sequence[Number] | None = None,
        callbacks: Callbacks = None,
        run: str | os.PathLike | None = None,
        save_every: Number | None = None,
    ) -> History:
        """Trains the head with the body frozen, then everything; returns the history.

        Phase 1: `freeze_epochs` epochs, frozen, peak rate `base_lr` (a tenth of it for
        what still trains in earlier groups). Phase 2: `epochs` epochs, unfrozen, peak
        rates from base_lr / 2 / lr_mult in the first group to base_lr / 2 in the last.

        With `run`, the run is kept in a folder. Checkpoints are written in the
        background; repeating the call in a new process resumes the run where it was
        stopped or killed, with the result of a run that was not stopped, bit for bit on
        the same machine. SIGTERM and Ctrl-C save first.

        Args:
            epochs: Epochs after unfreezing.
            base_lr: Peak rate of the head in phase 1.
            freeze_epochs: Epochs before unfreezing; 0 leaves phase 1 out.
            lr_mult: How much slower the first group is than the last.
            pct_start: Fraction of phase 2 spent rising; 0.99 in phase 1.
            div: Phase 2 starts at its peak rates / div.
            div_final: Both phases end at their peak rates / div_final.
            unfreeze_to: Number or name of the first group that trains in phase 2, see
                `freeze_to`; the groups before it stay frozen.
            wd: Weight decay, the learner's if None.
            moms: Momentum at start, peak and end, the learner's if None.
            callbacks: One or several, see `Callback`.
            run: Folder to keep the run in; made if it isn't there. Nothing is kept if
                None.
            save_every: Seconds between two checkpoints in it, 60 if None; 0 writes one
                after the other. Each epoch's end has one too. The latest and the best
                stay.

        Raises:
            ValueError: If an argument is out of range, or (`RunMismatchError`) the
                folder holds a run of another recipe; the difference is listed.
            FileExistsError: If the folder holds something else.
            BlockingIOError: If another process trains in it.
            RunStopped: If the process was sent SIGTERM; a `SystemExit` of status 0,
                after everything is saved.

        References:
            fastai 2.8.12, callback/schedule.py `fine_tune`.
        """
        phases = self._fine_tuning(
            epochs,
            base_lr,
            freeze_epochs=freeze_epochs,
            lr_mult=lr_mult,
            pct_start=pct_start,
            div=div,
            div_final=div_final,
            unfreeze_to=unfreeze_to,
            wd=wd,
            moms=moms,
        )
        return self._fit(phases, run, save_every, callbacks)

    def fit_one_cycle(
        self,
        epochs: Integer,
        lr_max: Rates | None = None,
        *,
        div: Number = 25.0,
        div_final: Number = 1e5,
        pct_start: Number = 0.25,
        wd: Number | None = None,
        moms: Sequence[Number] | None = None,
        name: str | None = None,
        callbacks: Callbacks = None,
        run: str | os.PathLike | None = None,
        save_every: Number | None = None,
    ) -> History:
        """Trains with the one-cycle schedule; returns these epochs' history.

        Args:
            epochs: Passes over the training data; the cycle spans them all.
            lr_max: Peak learning rate: a number, one for each group, or a slice.
            div: The cycle starts at lr_max / div.
            div_final: The cycle ends at lr_max / div_final.
            pct_start: Fraction of the cycle spent rising.
            wd: Weight decay, the learner's if None.
            moms: Momentum at start, peak and end, the learner's if None.
            name: What the start line calls the phase; its number if None.
            callbacks: One or several, see `Callback`.
            run: Folder to keep the run in, see `fine_tune`.
            save_every: Seconds between two checkpoints in it.

        References:
            Smith and Topin, https://arxiv.org/abs/1708.07120.
            fastai 2.8.12, callback/schedule.py `fit_one_cycle`.
        """
        if name is not None:
            check_instance(name, "name", str, "a str or None")
        schedule = one_cycle(
            self._total_steps(epochs),
            pct_start=pct_start,
            div=div,
            div_final=div_final,
            momentums=self._momentums_of(moms),
        )
        phase = self._phase(epochs, lr_max, schedule, wd=wd, name=name, what="lr_max")
        return self.fit_phases(
            [phase], callbacks=callbacks, run=run, save_every=save_every
        )

    def fit_flat_cos(
        self,
        epochs: Integer,
        lr: Rates | None = None,
        *,
        div_final: Number = 1e5,
        pct_start: Number = 0.75,
        wd: Number | None = None,
        callbacks: Callbacks = None,
        run: str | os.PathLike | None = None,
        save_every: Number | None = None,
    ) -> History:
        """Trains flat at the peak rate, then down along a cosine.

        Args:
            epochs: Passes over the training data.
            lr: Peak learning rate: a number, one for each group, or a slice.
            div_final: The run ends at lr / div_final.
            pct_start: Fraction of the run before the fall.
            wd: Weight decay, the learner's if None.
            callbacks: One or several, see `Callback`.
            run: Folder to keep the run in, see `fine_tune`.
            save_every: Seconds between two checkpoints in it.

        References:
            fastai 2.8.12, callback/schedule.py `fit_flat_cos`.
        """
        schedule = flat_cosine(
            self._total_steps(epochs), pct_start=pct_start, div_final=div_final
        )
        phase = self._phase(epochs, lr, schedule, wd=wd)
        return self.fit_phases(
            [phase], callbacks=callbacks, run=run, save_every=save_every
        )

    def fit(
        self,
        epochs: Integer,
        lr: Rates | None = None,
        *,
        wd: Number | None = None,
        callbacks: Callbacks = None,
        run: str | os.PathLike | None = None,
        save_every: Number | None = None,
    ) -> History:
        """Trains at constant rates and momentum 0.9; returns these epochs' history.

        Args:
            epochs: Passes over the training data.
            lr: Learning rate: a number, one for each group, or a slice; see
                `resolve_rates`.
            wd: Weight decay, the learner's if None.
            callbacks: One or several, see `Callback`.
            run: Folder to keep the run in, see `fine_tune`.
            save_every: Seconds between two checkpoints in it.
        """
        schedule = constant(self._total_steps(epochs))
        phase = self._phase(epochs, lr, schedule, wd=wd)
        return self.fit_phases(
            [phase], callbacks=callbacks, run=run, save_every=save_every
        )

    def gradual_unfreeze(
        self,
        epochs: Integer,
        base_lr: Number = 2e-3,
        *,
        epochs_each: Integer = 1,
        decay: Number = 2.6,
        wd: Number | None = None,
        callbacks: Callbacks = None,
        run: str | os.PathLike | None = None,
        save_every: Number | None = None,
    ) -> History:
        """Trains the last group, then one group more in each phase; see ULMFiT.

        Args:
            epochs: Epochs of the last phase, in which everything trains.
            base_lr: Peak rate of the last group.
            epochs_each: Epochs of each phase before.
            decay: Each group's rate is that of the next one divided by this.
            wd: Weight decay, the learner's if None.
            callbacks: One or several, see `Callback`.
            run: Folder to keep the run in, see `fine_tune`.
            save_every: Seconds between two checkpoints in it.

        References:
            Howard and Ruder, https://arxiv.org/abs/1801.06146, section 3.3.
        """
        phases = gradual_phases(
            len(self.groups),
            len(self.data.train_loader),
            epochs,
            base_lr,
            epochs_each=epochs_each,
            decay=decay,
            weight_decay=self._decay_of(wd),
        )
        return self.fit_phases(
            phases, callbacks=callbacks, run=run, save_every=save_every
        )

    def fit_phases(
        self,
        phases: Sequence[Phase],
        *,
        callbacks: Callbacks = None,
        run: str | os.PathLike | None = None,
        save_every: Number | None = None,
    ) -> History:
        """Trains the given phases one after the other; returns the history.

        Args:
            phases: See `Phase`, `fine_tune_phases` and `gradual_phases`.
            callbacks: One or several, see `Callback`.
            run: Folder to keep the run in, see `fine_tune`.
            save_every: Seconds between checkpoints in it, 60 if None.

        Raises:
            TypeError: If there is something else than phases, or a field of one is of
                another type.
            ValueError: If a phase has not one rate for each layer group, or a boundary
                that isn't there.
        """
        phases = checked_phases(phases, len(self.groups))
        for phase in phases:
            boundary_index(phase.boundary or 0, self.groups)
        return self._fit(phases, run, save_every, callbacks)

    def set_rates(self, rates: Mapping[str, float]) -> None:
        """Changes the peak learning rates of the phase under way; nothing is compiled.

        For callbacks, at the beginning of an epoch. The phase's schedule goes on with
        these rates, until they are set again or the phase ends.

        Args:
            rates: Of each layer group, by name.

        Raises:
            RuntimeError: If nothing trains.
            ValueError: If a group that trains has no rate.
        """
        self._trainer.set_rates(rates)

    def lr_find(
        self,
        start_lr: Number = 1e-7,
        end_lr: Number = 10.0,
        num_it: Integer = 100,
        *,
        stop_div: bool = True,
    ) -> LRFind:
        """Trains a copy at rising rates, and says which rates look good.

        Works in any phase, for what trains in it, and changes nothing: neither values
        nor the optimizer, neither the order of photos nor what is random. Writes no
        file.

        Args:
            start_lr: Rate of the first step, the same for every layer group.
            end_lr: Rate after the last step, larger.
            num_it: Number of updates, at least 8. With gradient accumulation each takes
                so many batches, and its loss is their mean: the rates are those for the
                large batch that training makes.
            stop_div: Whether to stop when the loss is four times the best so far.

        Returns:
            Rates, smoothed losses, and suggestions: valley, slide, minimum and steep.
            Its `plot()` is a figure.

        Raises:
            TypeError: If an argument is no number.
            ValueError: If a number is out of its range, or the rates don't rise.
            NonFiniteLossError: If the very first loss is no finite number.
            OutOfMemoryError: If a step does not fit into the device's memory.
            NotImplementedError: In one of several processes of `jax.distributed`.

        References:
            Smith, https://arxiv.org/abs/1506.01186; fastai 2.8.12,
            callback/schedule.py `lr_find`.
        """
        start_lr = check_number(start_lr, "start_lr", above=0)
        end_lr = check_number(end_lr, "end_lr", above=0)
        if start_lr >= end_lr:
            raise ValueError(
                "the rates of a search rise from start_lr to end_lr; received "
                f"start_lr={start_lr:g} and end_lr={end_lr:g}."
            )
        result = search_rates(
            self._trainer,
            self.data,
            start_lr=start_lr,
            end_lr=end_lr,
            num_it=check_integer(num_it, "num_it", least=8),
            stop_div=check_flag(stop_div, "stop_div"),
            weight_decay=self.wd,
            seed=self.seed,
            first_epoch=len(self.history),
        )
        self._say(result)
        return result

    @in_float32
    def extend(
        self,
        data: Any,
        *,
        reorder: bool = False,
        at: str | Sequence[str] | None = None,
        init: Callable = kaiming_normal,
        loss: Callable | None = None,
        validate_also: Mapping[str, Any] | None = None,
    ) -> str:
        """Goes on with other data, which may have more classes; says what it did.

        Each known class keeps its row of the last layer, bit for bit, by its name; new
        ones get fresh rows, see `extend_outputs`. What is frozen stays so, though new
        rows know nothing yet: `freeze()` or `fine_tune` trains the head alone first.
        The optimizer begins anew and `diff` looks from here on; the history goes on.
        Nothing is changed if anything is refused.

        Args:
            data: `ImageDataLoaders` with all of the classes there are, and more; a
                class may have no photo to train on (`classes=` where the data is made).
            reorder: Whether the known classes may be in another order.
            at: Path of the layer with the outputs, where it can't be found.
            init: Draws the new rows' weights, see `extend_outputs`.
            loss: Instead of the one there is.
            validate_also: Further photos to validate on, by name; those there were if
                None.

        Returns:
            What it did, in a line, which is shown too.

        Raises:
            ValueError: If the data lacks a class, has them in another order, has labels
                of another kind or images of other channels, or the loss has a weight
                for each class; the message says what to write.
        """
        trainer, before = self._trainer, self.data
        change = extended(
            trainer,
            before,
            data,
            reorder=reorder,
            at=at,
            init=init,
            loss=loss,
            sources=self._validate_also if validate_also is None else validate_also,
            seed=self.seed,
        )
        self._validate_also = change.sources
        self._data, self._last_run = data, None
        self._say(change.line)
        return change.line

    # Looking inside.

    def summary(self) -> Summary:
        """Returns each layer: output, parameters, group, whether it trains, norm mode.

        It prints as a table. What trains is what would train in a fit now.
        """
        trainer = self._trainer
        return summarize(
            trainer.module,
            groups=trainer.groups,
            frozen=trainer.frozen_groups,
            norms=trainer.norms,
            size=self.data.size,
            in_channels=self.data.in_channels,
        )

    def plan(
        self,
        epochs: Integer | None = None,
        base_lr: Number | None = None,
        *,
        phases: Sequence[Phase] | None = None,
        **options,
    ) -> Plan:
        """Says what `fine_tune` with the same arguments would do; does nothing.

        For each phase and layer group: parameters, how many train, peak learning rate,
        weight decay, norm mode, bytes of the optimizer, and the share of the step's
        floating-point operations. It prints as a table; nothing is compiled.

        Args:
            epochs: As in `fine_tune`; 1 if None.
            base_lr: As in `fine_tune`; 2e-3 if None.
            phases: Phases as for `fit_phases`, instead of fine-tuning.
            **options: freeze_epochs, lr_mult, pct_start, div, div_final, unfreeze_to,
                wd and moms, as in `fine_tune`.

        Raises:
            TypeError: If an argument is of another type, or unknown.
            ValueError: If one is out of its range, or of fine-tuning beside `phases`.
        """
        trainer = self._trainer
        check_known(options, FINE_TUNING, "plan")
        if phases is None:
            epochs = 1 if epochs is None else epochs
            base_lr = 2e-3 if base_lr is None else base_lr
            phases = self._fine_tuning(epochs, base_lr, **options)
        else:
            check_alone(phases, epochs=epochs, base_lr=base_lr, **options)
            phases = checked_phases(phases, len(trainer.groups))
        return plan_phases(
            trainer.module,
            trainer.groups,
            phases,
            boundary=trainer.boundary,
            norms=trainer.norms,
            optimizer=trainer.optimizer,
            averages=trainer.ema_decay is not None,
            gradient_accumulation_steps=trainer.gradient_accumulation_steps,
            size=self.data.size,
            in_channels=self.data.in_channels,
            first_phase=trainer.phase + 1,
        )

    def diff(self, *, since: Integer | str | os.PathLike | None = None) -> Diff:
        """Says how far each layer group and layer has moved.

        Measured is the norm of the difference / the norm before, of parameters and of
        running statistics. It prints as a table, and its `plot()` is a figure.

        Args:
            since: None for each phase on its own; a phase's number for all since its
                beginning; "start" for all since the first one's; else the folder of a
                checkpoint or of a saved learner.

        Raises:
            ValueError: If nothing has trained yet, there is no such phase, or the
                network has changed its form since.
            FileNotFoundError: If there is no checkpoint at the path.
        """
        labels, now = self._labels_and_weights()
        snapshots = self._trainer.snapshots
        if since is None:
            intervals = stretches(snapshots, now)
        else:
            intervals = [interval_since(since, snapshots, now)]
        if not intervals:
            raise ValueError(
                "nothing has trained yet, so nothing has moved. Train first, or "
                "compare with a checkpoint: diff(since=path)."
            )
        layers = network_layers(
            self.model, size=self.data.size, in_channels=self.data.in_channels
        )
        return Diff(intervals, labels, [layer.path for layer in layers])

    def assert_frozen(self, groups: str | Collection[str] | None = None) -> None:
        """Returns quietly if nothing frozen has moved by a bit.

        Args:
            groups: Names of groups that must be what they were before the first phase;
                if None, all that was frozen in a phase must be what it was at that
                phase's beginning.

        Raises:
            FrozenMovedError: If something moved, an `AssertionError`; it is named.
            ValueError: If there is no such group.
        """
        names = check_group_names(groups, self.groups)
        labels, now = self._labels_and_weights()
        check_frozen(
            self._trainer.snapshots, now, labels, groups=names, norms=self.norms
        )

    def plot_kernels(self, before: Any = None) -> "matplotlib.figure.Figure":
        """Returns a figure of the first convolution's kernels, now and before.

        Args:
            before: What to compare with: the number of a phase (1 is where training
                began), a network (`resnet18(pretrained=True)`), a path of a checkpoint,
                or weights (n, kh, kw, c). None shows the kernels as they are.

        Raises:
            ImportError: If matplotlib is not there.
            ValueError: If there was no such phase, or the kernels have other shapes.
            TypeError: If `before` is nothing of that kind.
        """
        return compare_kernels(self.model, before, self._trainer.snapshots)

    # Predictions and results.

    def predict(
        self, item: Any, *, on_error: str = "raise"
    ) -> Prediction | None | list[Prediction | None]:
        """Says what is on a photo, or on each of many.

        Args:
            item: A path, bytes, a binary file object, a PIL image or an array
                (h, w, c). Many at once: a folder or a glob ("photos/*.jpg"), whose
                photos are sorted by path; a list, a column of a table, an array of
                paths or of images (n, h, w, c), or an iterator, of which no more than a
                batch of photos is held.
            on_error: What a photo that can't be read does: "raise" an error which names
                it, before anything is computed where there is a list of them; or
                "skip": None stands in its place, and a warning names it.

        Returns:
            See `Prediction`; of many a list of them, in their order. Several labels are
            judged by `thresholds`.

        Raises:
            jaxtune.data.ImageError: If a photo can't be read.
            FileNotFoundError: If there is no such file, or no picture in a folder.
            TypeError: If it is, or holds, something else than photos.
            ValueError: If `on_error` is neither.
        """
        with self._trainer.programs.device_errors():
            return predict_images(
                self._trainer.predict_step(),
                item,
                reading=Reading.of(self.data, thresholds=self.thresholds),
                batch_size=self.data.batch_size,
                on_error=on_error,
            )

    def validate(self, loader=None) -> dict[str, float]:
        """Returns the mean loss and metrics over every photo of the validation data.

        Args:
            loader: Another loader than the data's validation loader, other
                `ImageDataLoaders`, or photos in folders named like the classes, see
                `interpret`; labels are matched to the data's classes by name.

        Raises:
            ValueError: If photos have a label that is not among the classes, or none.
            TypeError: If it is nothing of that kind.
        """
        plain = plain_loader(self.data, loader, needs_labels=True)
        return self._trainer.validate(plain)

    evaluate = validate

    def get_preds(
        self,
        loader: Any = None,
        *,
        with_loss: bool = False,
        with_decoded: bool = False,
        thresh: Any = None,
    ) -> Predictions:
        """Returns what the network says of every photo, in the loader's order.

        `probabilities, targets = learner.get_preds()` takes the answer apart, as in
        fastai.

        Args:
            loader: Validation if None; "train" for the training photos, in order and
                without augmentation; a loader, one that shuffles being put in order;
                other `ImageDataLoaders`, whose validation photos are taken; or photos:
                paths, a folder, a glob, a column of a table and what else
                `ImageDataLoaders.test_loader` takes, which have no targets. Labels of
                other data are matched to the classes by name.
            with_loss: Whether to return each row's loss, by the learner's own.
            with_decoded: Whether to return what the probabilities mean: the class; for
                several labels, which classes are above the threshold.
            thresh: Of several labels, one for all classes, one for each, or a dict by
                name or number; the learner's `thresholds` if None.

        Raises:
            ValueError: If there is no such loader, or no readable photo, its labels
                don't fit, or it has none and losses are asked for.
            TypeError: If an argument is of another type.
            FileNotFoundError: If there is no such file or folder.
            jaxtune.data.ImageError: If a photo can't be read; each is named.

        References:
            fastai 2.8.12, learner.py `Learner.get_preds`.
        """
        check_flag(with_loss, "with_loss")
        check_flag(with_decoded, "with_decoded")
        thresh = self._chosen_thresholds(thresh)
        loader = plain_loader(self.data, loader, needs_labels=with_loss)
        rows = Inference(self._trainer).rows(loader, with_loss=with_loss)
        return Predictions.of_rows(
            rows,
            loader,
            kind=self.data.kind,
            thresholds=thresh,
            with_decoded=with_decoded,
        )

    def tta(
        self,
        loader: Any = None,
        *,
        n: Integer = 4,
        beta: Number = 0.25,
        use_max: bool = False,
        with_decoded: bool = False,
        thresh: Any = None,
    ) -> Predictions:
        """Returns predictions averaged over augmented photos and the plain one.

        (1 - beta) * mean of n augmented + beta * plain, of probabilities. Photos are
        prepared and augmented as those that train; what is drawn depends on the
        learner's seed, the number of the draw and the photo alone.

        Args:
            loader: As in `get_preds`; of loaders jaxtune's own.
            n: How many augmented predictions of each photo.
            beta: Weight of the plain prediction.
            use_max: Whether to take the largest of all instead, for each class.
            with_decoded: As in `get_preds`.
            thresh: As in `get_preds`.

        Raises:
            ValueError: If the data has no augmentation, or n or beta is out of range.
            TypeError: If an argument is of another type, or the loader's photos can't
                be found again.

        References:
            fastai 2.8.12, learner.py `Learner.tta`.
        """
        n = check_integer(n, "n", least=1)
        beta = check_number(beta, "beta", least=0, most=1)
        check_flag(use_max, "use_max")
        check_flag(with_decoded, "with_decoded")
        thresh = self._chosen_thresholds(thresh)
        if self.data.augmentation is None:
            raise ValueError(
                "test-time augmentation needs an augmentation, and the data's is None; "
                "give it one (augmentation=Augmentation(...)), or use get_preds()."
            )
        loader = require_items(plain_loader(self.data, loader), "tta")
        train = self.data.train_loader.preparation
        inference = Inference(self._trainer)
        rows = inference.averaged_rows(
            loader_like(loader, loader.items, train),
            loader,
            jax.random.fold_in(jax.random.key(self.seed), _TTA),
            n=n,
            beta=beta,
            use_max=use_max,
        )
        return Predictions.of_rows(
            rows,
            loader,
            kind=self.data.kind,
            thresholds=thresh,
            with_decoded=with_decoded,
        )

    def show_results(
        self,
        loader: Any = None,
        *,
        max_n: Integer = 9,
        seed: Integer | None = None,
        columns: Integer | None = None,
        thresh: Any = None,
    ) -> "matplotlib.figure.Figure":
        """Returns a figure of some photos with actual and predicted labels.

        Green where they are the same, red where not; black for numbers.

        Args:
            loader: As in `get_preds`; of loaders jaxtune's own. Of photos without
                labels what is predicted is shown alone.
            max_n: How many photos at most, drawn at random.
            seed: Of that draw; the learner's if None.
            columns: Photos in a row.
            thresh: As in `get_preds`.

        Raises:
            ImportError: If matplotlib is not there.
            TypeError: If an argument is of another type, or the loader's photos can't
                be found again.
            ValueError: If an argument is out of range.
        """
        max_n = check_integer(max_n, "max_n", least=1)
        if seed is not None:
            seed = check_integer(seed, "seed", least=0, most=2**32 - 1)
        if columns is not None:
            columns = check_integer(columns, "columns", least=1)
        thresh = self._chosen_thresholds(thresh)
        loader = require_items(plain_loader(self.data, loader), "show_results")
        return plot_results(
            Inference(self._trainer),
            loader,
            max_n=max_n,
            seed=self.seed if seed is None else seed,
            columns=columns,
            thresholds=thresh,
        )

    def interpret(self, loader: Any = None, *, thresh: Any = None) -> Interpretation:
        """Returns top losses, confusion, reports: what fits the kind of labels.

        Args:
            loader: As in `get_preds`; of loaders jaxtune's own. Labels are needed:
                those of photos are taken from the folders that they lie in, where these
                are named like the classes, or are given with
                `data.test_loader(photos, labels=[...])`.
            thresh: As in `get_preds`.

        Returns:
            A `ClassificationInterpretation`, or for numbers a
            `RegressionInterpretation`.

        Raises:
            ValueError: If there are no labels, or they don't fit.
            TypeError: If an argument is of another type.
        """
        regression = self.data.kind == "regression"
        chosen = (
            RegressionInterpretation if regression else ClassificationInterpretation
        )
        return chosen.from_learner(self, loader, thresh=thresh)

    def grad_cam(
        self,
        photo: Any,
        class_name: str | None = None,
        *,
        layer: str = "body",
        size: int | tuple[int, int] | None = None,
    ) -> GradCam | list[GradCam]:
        """Says where in a photo the network sees a class; `.plot()` shows it.

        A map has one place for many pixels (of a ResNet's body 32 x 32, so 2 x 2 places
        of a photo of 64 px). Therefore the network looks at a larger photo than it was
        trained on, as long as that changes nothing of what it says; which class it is,
        and how probable, is said of the photo as `predict` sees it.

        Args:
            photo: One photo or many, as for `Learner.predict`.
            class_name: Which class; for each photo the most probable if None. For
                numbers the output's number, "0" for the first.
            layer: Dotted name of the module whose output is looked at: "body", or
                "body.layer3" for finer and less certain maps.
            size: Height and width at which the network looks, in pixels. If None, 224
                for the shorter side, else twice the data's, where the photo is so
                large, the network takes it, and says the same of it; else the data's.

        Raises:
            ValueError: If there is no such class or layer.
            TypeError: If an argument is of another type.
            FileNotFoundError: If there is no such file, or no picture in a folder.
            jaxtune.data.ImageError: If a photo can't be read; it is named.

        References:
            Selvaraju et al., "Grad-CAM", https://arxiv.org/abs/1610.02391.
        """
        explainer = Explainer(self._trainer, self.data, self.thresholds)
        return explainer.grad_cam(photo, class_name, layer=layer, size=size)

    def explain(
        self,
        photos: Any,
        class_index: Sequence[int] | np.ndarray | None = None,
        *,
        layer: str = "body",
        size: int | tuple[int, int] | None = None,
    ) -> list[GradCam]:
        """Returns what `grad_cam` says of several photos, an output for each by number.

        Args:
            photos: As for `grad_cam`; many.
            class_index: Which output is explained of each, (b,); each photo's largest
                if None.
            layer: As for `grad_cam`.
            size: As for `grad_cam`.

        Raises:
            ValueError: If there is no such layer or output, or not one for each photo.
            TypeError: If an argument is of another type.
            jaxtune.data.ImageError: If a photo can't be read; it is named.
        """
        explainer = Explainer(self._trainer, self.data, self.thresholds)
        return explainer.explain(photos, class_index, layer=layer, size=size)

    # Saving and loading.

    def save(
        self,
        path: str | os.PathLike,
        *,
        with_opt: bool = True,
        overwrite: bool = False,
    ) -> Path:
        """Writes the network, its phase and its optimizer, wholly or not at all.

        `load` takes it up, `load_predictor(path)` gives it back for predictions; plain
        Orbax opens it too: `ocp.load(path)` returns parameters and statistics.

        Args:
            path: Folder to make.
            with_opt: Whether the optimizer's state is kept, if there is one.
            overwrite: Whether to replace a checkpoint that is at the path already; at
                every moment the whole old one or the whole new one is there.

        Raises:
            FileExistsError: If there is something at the path already; with
                `overwrite`, if that is not a checkpoint.
        """
        return self._save(path, with_opt=with_opt, overwrite=overwrite)

    def load(
        self,
        path: str | os.PathLike,
        *,
        phase: str = "saved",
        with_opt: bool = True,
        partial: str | tuple[str, ...] | None = None,
        which: Literal["latest", "best"] = "latest",
    ) -> str:
        """Takes values, phase and optimizer from a checkpoint; says what it did.

        Loading freezes and unfreezes what was frozen or not when it was saved, unless
        `phase="keep"`. Checkpoints of plain Flax code give values only.

        Args:
            path: The folder of a checkpoint or of a run, ours or others'.
            phase: "saved": what was frozen then is frozen now. "keep": what is frozen
                now stays so.
            with_opt: Whether the optimizer goes on with its state, where the checkpoint
                has one and the same layer groups train.
            partial: Take only what lies below it ("body"); see `load_checkpoint`.
            which: Of a run's checkpoints, the latest or the best.

        Returns:
            What it did, in a line, which is shown too.

        Raises:
            FileNotFoundError: If there is no checkpoint.
            jaxtune.CheckpointMismatchError: If it is of another network, or of other
                classes, or of these in another order.
            TypeError: If an argument is of another type.
            ValueError: If `phase` or `which` is unknown, or `which` chooses among the
                checkpoints of what is no run.
        """
        check_path(path, "path")
        check_choice(phase, "phase", ("saved", "keep"))
        with_opt = check_flag(with_opt, "with_opt")
        line, thresholds = load_into(
            self._trainer,
            self.data,
            path,
            phase=phase,
            with_opt=with_opt,
            partial=partial,
            which=which,
        )
        if partial is None and self.data.kind == "multi" and thresholds is not None:
            self.thresholds = thresholds
        self._say(line)
        return line

    def restore_values(self, path: str | os.PathLike) -> None:
        """Takes parameters and statistics from a checkpoint; nothing else changes.

        Args:
            path: The folder of a checkpoint, or of a run, whose latest is taken.

        Raises:
            jaxtune.CheckpointMismatchError: If it is of another network; both sides are
                listed.
        """
        _, params, model_state = split_module(self._trainer.module)
        values = load_checkpoint(
            find_checkpoint(path), params=params, model_state=model_state
        )
        nnx.update(self._trainer.module, *values)

    def save_thresholds(self, run: str | os.PathLike) -> None:
        """Keeps the thresholds in a run that is there already, for its predictions.

        A run keeps those that the learner had when it began; these were chosen later,
        with what was trained. They hold for all of its checkpoints.

        Args:
            run: The run's folder.

        Raises:
            FileNotFoundError: If there is no run.
            ValueError: If photos don't have several labels each.
        """
        check_path(run, "run")
        check_several(self.data.kind)
        chosen = zip(self.data.classes, self.thresholds.tolist(), strict=True)
        write_thresholds(run, dict(chosen))

    def to_predictor(self) -> Predictor:
        """Returns a predictor with the values as they are now.

        It needs no data, and can be pickled to another process; the learner's further
        training doesn't change it.
        """
        trainer = self._trainer
        graphdef, *values = split_module(trainer.module)
        module = nnx.merge(graphdef, *jax.tree.map(jnp.copy, values))
        # As a checkpoint gives it back: lists for tuples.
        meta = json.loads(json.dumps(self._meta()))
        return Predictor(module, meta, batch_size=self.data.batch_size)

    def __reduce_ex__(self, protocol):
        """Refuses to be pickled."""
        raise TypeError(
            "a Learner can't be pickled: it holds data, threads and compiled programs. "
            "To predict in another process, pickle learner.to_predictor(). To keep it, "
            "or go on with it elsewhere, learner.save(path), and there "
            "load_predictor(path), continue_from(path, data), or load(path) of a "
            "learner made in the same way."
        )

    def __copy__(self):
        """Returns a learner that shares everything with this one."""
        return self._copied(dict(vars(self)))

    def __deepcopy__(self, memo):
        """Returns a learner that shares no value with this one."""
        twin = self._copied({})
        memo[id(self)] = twin
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin

    # What the methods above share.

    def _fine_tuning(
        self,
        epochs: Integer,
        base_lr: float,
        *,
        unfreeze_to: Integer | str = 0,
        wd: Number | None = None,
        moms: Sequence[Number] | None = None,
        **options,
    ) -> tuple[Phase, ...]:
        return fine_tune_phases(
            len(self.groups),
            len(self.data.train_loader),
            epochs,
            base_lr,
            weight_decay=self._decay_of(wd),
            momentums=self._momentums_of(moms),
            unfreeze_to=boundary_index(unfreeze_to, self.groups, name="unfreeze_to"),
            **options,
        )

    def _phase(
        self,
        epochs: Any,
        rates: Any,
        schedule: Schedule,
        *,
        wd: Any,
        name: str | None = None,
        what: str = "lr",
    ) -> Phase:
        rates = self.lr if rates is None else rates
        return Phase(
            name=name,
            boundary=None,
            epochs=check_epochs(epochs, "epochs"),
            rates=resolve_rates(rates, len(self.groups), name=what),
            schedule=schedule,
            weight_decay=self._decay_of(wd),
        )

    def _total_steps(self, epochs: Any) -> int:
        return check_epochs(epochs, "epochs") * len(self.data.train_loader)

    def _decay_of(self, wd: Any) -> float:
        return check_number(self.wd if wd is None else wd, "wd", least=0)

    def _momentums_of(self, moms: Any) -> tuple:
        return check_momentums(self.moms if moms is None else moms, "moms")

    def _fit(
        self,
        phases: Sequence[Phase],
        run: str | os.PathLike | None,
        save_every: Any,
        callbacks: Callbacks,
    ) -> History:
        check_path(run, "run", or_none=True)
        seconds = 60.0 if save_every is None else save_every
        seconds = check_number(seconds, "save_every", least=0)
        check_one_process()
        listeners = CallbackList(callbacks, self)
        listeners.check()
        if run is None:
            return self._fit_phases(phases, None, listeners)
        path = Path(run).expanduser().resolve()
        before = self._start_of_run(path)
        folder = RunFolder(
            path,
            {
                **describe_run(phases, self.data, network=self.network, seed=self.seed),
                "callbacks": listeners.recipe(),
                **without_metrics(self._trainer.describe()),
                **before,
            },
            made_with=environment(),
            save_every=seconds,
            upgrade=upgraded_recipe,
        )
        resume = Resume(
            folder,
            phases,
            self._meta(),
            steps_per_epoch=len(self.data.train_loader),
            name=os.fspath(run),
        )
        try:
            with resume:
                return self._fit_phases(phases, resume, listeners)
        finally:
            self._last_run = _LastRun(path, before, self._trainer.version)

    def _fit_phases(
        self,
        phases: Sequence[Phase],
        resume: Resume | None,
        listeners: CallbackList,
    ) -> History:
        done = len(self.history)
        trainer = self._trainer
        for number, phase in enumerate(phases, start=trainer.phase + 1):
            self.history.add_phase(
                number,
                phase,
                groups=tuple(trainer.groups),
                frozen=trainer.untouched_groups(phases[: number - trainer.phase]),
                steps_per_epoch=len(self.data.train_loader),
            )
        events = FitEvents(callbacks=listeners, resume=resume, verbose=self.verbose)
        for row in fit(
            trainer,
            self.data,
            phases,
            first_epoch=done,
            key=jax.random.key(self.seed),
            events=events,
        ):
            self.history.append(row, events.step_losses)
        return self.history[done:]

    def _start_of_run(self, path: Path) -> dict:
        """What the run begins with; the same if it was stopped in this process."""
        trainer, last = self._trainer, self._last_run
        again = last is not None and (last.path, last.version) == (
            path,
            trainer.version,
        )
        if again and checkpoint_numbers(path):
            self.history.truncate(last.before["epochs_before"])
            trainer.phase = last.before["phases_before"]
            return last.before
        return {
            "epochs_before": len(self.history),
            "phases_before": trainer.phase,
            "frozen": list(trainer.frozen_groups),
            "start": trainer.fingerprint(),
        }

    def _save(
        self,
        path: str | os.PathLike,
        *,
        with_opt: bool = True,
        overwrite: bool = False,
        note: Mapping[str, Any] = MappingProxyType({}),
    ) -> Path:
        """As `save`; what is in the note stands in the description, too."""
        check_path(path, "path")
        with_opt = check_flag(with_opt, "with_opt")
        trainer = self._trainer
        _, params, model_state = split_module(trainer.module)
        return save_checkpoint(
            path,
            params=params,
            model_state=model_state,
            opt_state=trainer.opt_state if with_opt else None,
            meta={**self._meta(), "learner": trainer.state_dict(), **note},
            overwrite=overwrite,
        )

    def _meta(self) -> dict:
        return describe(
            network=self.network,
            data=self.data,
            mean=self._trainer.programs.mean,
            std=self._trainer.programs.std,
            training=self._trainer.describe(),
            thresholds=None if self._thresholds is None else self.thresholds,
        )

    def _chosen_thresholds(self, thresh: Any) -> np.ndarray | None:
        """Thresholds that a call is given; the learner's if none."""
        if thresh is None:
            return self.thresholds
        check_several(self.data.kind, "thresh")
        return as_thresholds(thresh, self.data.classes, name="thresh")

    def _between_fits(self, name: str) -> Trainer:
        if self._trainer.is_training:
            raise RuntimeError(
                f"{name} can't be changed while a phase trains. Assign it between two "
                "fits."
            )
        return self._trainer

    def _measures(self, loss: Callable | None, metrics: Any) -> tuple[Callable, dict]:
        return fit_measures(loss, metrics, self._data, self._trainer.module)

    def _labels_and_weights(self) -> tuple[Any, tuple[Any, Any]]:
        _, params, model_state = split_module(self.model)
        return group_labels(params, self.groups), (params, model_state)

    def _say(self, result: Any) -> None:
        if self.verbose:
            print(result, flush=True)

    def _copied(self, attributes: dict) -> "Learner":
        twin = object.__new__(type(self))
        vars(twin).update(attributes)
        return twin
