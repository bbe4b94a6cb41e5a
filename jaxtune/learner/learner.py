"""The learner: a network with its data, its layer groups and its training history.

`Learner` only holds state and calls public functions; everything it does can be done
without it.
"""

import contextlib
import copy
import json
import os
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
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
    Place,
    RunFolder,
    checkpoint_numbers,
    environment,
    find_checkpoint,
    load_checkpoint,
    place_of,
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
    check_alone,
    check_data,
    check_known,
    check_options,
    check_replacement,
    check_statistics,
    replaced_loaders,
)
from jaxtune.loop.batch_size import find_batch_size
from jaxtune.loop.callbacks import CallbackList
from jaxtune.loop.compiled_steps import CompiledSteps
from jaxtune.loop.events import FitEvents
from jaxtune.loop.extra_validation import matching_loaders
from jaxtune.loop.fit import fit
from jaxtune.loop.float32 import in_float32
from jaxtune.loop.history import History
from jaxtune.loop.phase_checks import stores_features
from jaxtune.loop.processes import (
    check_same_everywhere,
    ending_together,
    is_first_process,
)
from jaxtune.loop.rate_search import search_rates
from jaxtune.loop.resume import Resume
from jaxtune.loop.run_description import describe_run, upgraded_recipe, without_metrics
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
    check_recipe,
    checked_phases,
    constant,
    default_activation,
    flat_cosine,
    gradual_phases,
    one_cycle,
    resolve_rates,
    scale_for_batch,
    split_module,
    wait_for_all,
)
from jaxtune.transfer import (
    Groups,
    default_groups,
    group_labels,
    split_groups,
)

#: Folded into the seed's key for test-time augmentation; no epoch has this number.
_TTA = 2**31 - 1

#: A `Callback`, several or None; checked by `CallbackList`.
Callbacks = Any


class _LastRun(NamedTuple):
    """The learner's last run, which can be resumed in the same process."""

    path: Place
    before: dict
    version: tuple


class Learner:
    """A network with its data, its layer groups and its training history.

    Between two fits `learner.model` holds the weights: inspect it, change it
    (`learner.model[0][0] = conv`) or use it in plain Flax code. A fit takes the weights
    from it and puts them back, even when it is interrupted.

    These attributes can be assigned between two fits: data, lr, wd, moms, seed,
    verbose, norms, precision, rematerialize, ema_decay, optimizer, clip_norm,
    gradient_accumulation_steps, mixing, loss, metrics, validate_also, thresholds. For
    example, `learner.data = larger` continues with photos of another size (progressive
    resizing), and `learner.lr = 1e-3` sets the learning rate of the next fits.
    Assigning anything else raises an `AttributeError` that says what to do instead.

    A learner holds the data, the history, how the network was built, the thresholds of
    multi-label data, and a `Trainer` with the network, layer groups, optimizer state
    and compiled steps.

    References:
        fastai 2.8.12, learner.py `Learner`, for the names and defaults.
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
        precision: ComputePrecision | Literal["auto"] = "auto",
        rematerialize: bool = False,
        mesh: jax.sharding.Mesh | None = None,
        sharding: Literal["replicated", "fsdp"] = "replicated",
        sync_batch_norm: bool = True,
        ema_decay: Number | None = None,
        mixing: Mixing | None = None,
        validate_also: Mapping[str, Any] | None = None,
        mean: Number | Sequence[Number] | None = None,
        std: Number | Sequence[Number] | None = None,
        seed: Integer | None = None,
        verbose: bool | int = True,
        network: dict | None = None,
    ):
        """Takes the network and the training options; nothing is computed yet.

        Args:
            data: `ImageDataLoaders`.
            model: A module with two children, body and head, see `create_cnn_model`.
            metrics: One or several functions (logits, label) -> one value per row, or
                metrics of the whole epoch, see `EpochMetric`; names are accepted, too.
            loss: The function (logits, label) -> one value per row that training
                minimises, or its name. If None: `cross_entropy` for classes,
                `binary_cross_entropy` for multi-label data, `mse` for regression.
            groups: Layer groups, name to pattern; derived from the body if None.
            split_on: A fastai splitter that gives the layer groups instead.
            norms: What the norm layers of frozen groups do: "frozen" (nothing changes),
                "stats" (they use batch statistics and update the running ones), "train"
                (as "stats", and their parameters train, as in fastai) or "running" (as
                "frozen", and the body keeps its running statistics while it trains, the
                most accurate in our measurements; what `vision_learner` takes for a
                pretrained body).
            optimizer: Makes each group's optimizer: `adam`, `sgd` or your own, see
                `Optimizer`.
            lr: Default peak learning rate of fits, in any form that `fit` takes.
            wd: Default weight decay; not applied to norms and biases.
            moms: Momentum at a cycle's start, peak and end.
            clip_norm: Largest global norm of the trained parameters' gradients; None
                for no clipping.
            gradient_accumulation_steps: Batches per update. The effect is that of a
                batch so many times larger, in the memory of a small one. The schedule
                is adapted. Gradients left over at an epoch's end are carried into the
                next epoch; at a phase's end they are dropped. See `group_optimizer`.
            precision: What the network computes in, in training, validation and
                prediction: "float32", "bfloat16", or "auto": bfloat16 on TPUs, GPUs and
                CPUs that multiply it faster, float32 elsewhere, see
                `choose_precision`. The start line says if it is bfloat16. Parameters,
                statistics, optimizer, loss and metrics stay float32. See
                `with_precision`.
            rematerialize: Whether blocks that train keep only their inputs for the
                backward pass, and compute the rest again: less memory, more time (on
                an H100's compiler, a ResNet-50 takes 0.38 of the memory and 1.21 of the
                bytes; on a CPU nothing is saved). Also called gradient checkpointing;
                see `with_rematerialization`.
            mesh: Devices, over all of which each batch is split. All devices of all
                processes if None.
            sharding: Of the training state: "replicated" (whole on each device) or
                "fsdp" (parameters that train, their optimizer state and their average
                are split over the devices, for networks whose training state is too
                large for one; see `fsdp_shardings`). Validation has the parameters
                whole on each device.
            sync_batch_norm: Whether batch norms that train use statistics of the whole
                batch, which the devices exchange in each of them, or, if False, each
                device's own rows: another result, but the devices exchange gradients
                and running statistics only. `batch_size` must then be a multiple of
                their number.
            ema_decay: Decay of a moving average of the trained weights, such as 0.999;
                no average if None. Training continues with the raw weights; the
                averaged ones are validated after each epoch, saved, and put into the
                network at a phase's end. See `init_average`.
            mixing: `MixUp()`, `CutMix()` or your own `BatchTransform`, applied to
                training batches.
            validate_also: Extra data to validate on after each epoch, by name:
                `{"old": old_data}` adds the columns old_valid_loss, old_error_rate and
                so on. Each is a loader or `ImageDataLoaders`, of which the validation
                photos are used. Labels are matched to the data's classes by name.
            mean: Mean of each channel, for images in 0..1; no normalisation if None.
            std: Standard deviation of each channel, likewise.
            seed: Of dropout and augmentation; the data's seed if None.
            verbose: Whether to show start lines, tables and progress.
            network: How the network was built (arch, cut, in_channels and the head's
                options), so that its checkpoints can be opened without the module.

        Raises:
            TypeError: If an argument has the wrong type, or the loss or a metric is not
                a function that returns an array.
            ValueError: If a parameter is in no layer group or in several, an option is
                unknown or out of range, or the loss or a metric is for another kind of
                labels or doesn't return one value per row.
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
                "rematerialize": rematerialize,
                "mesh": mesh,
                "sharding": sharding,
                "sync_batch_norm": sync_batch_norm,
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
            precision=options["precision"],
            rematerialize=options["rematerialize"],
            mesh=options["mesh"],
            fsdp=options["sharding"] == "fsdp",
            sync_batch_norm=options["sync_batch_norm"],
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
        )
        self._data, self._history, self._network = data, History(), network
        self._thresholds = None
        self._last_run = None
        self.validate_also = options["validate_also"]
        self.lr, self.wd, self.moms = lr, wd, moms
        self.seed = options["seed"]
        self.verbose = options["verbose"]
        if getattr(data, "auto_batch_size", False):
            self.data = data.with_batch_size(self.find_batch_size())

    # State. Properties with a setter can be assigned between two fits, see `Learner`.

    @property
    def model(self) -> nnx.Module:
        """The network with its newest weights: `model[0]` the body, `[1]` the head."""
        return self._trainer.module

    @property
    def data(self) -> Any:
        """The `ImageDataLoaders` that the learner trains and validates on.

        Data of the same classes with other photos, another size, batch size or
        augmentation can be assigned. The network, the optimizer's state and the history
        are kept.
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
        )
        self._data, self._last_run = data, None

    @property
    def groups(self) -> Mapping:
        """The layer groups, first to last: name to pattern or paths."""
        return MappingProxyType(self._trainer.groups)

    @property
    def frozen_groups(self) -> tuple[str, ...]:
        """Names of the layer groups that are frozen now."""
        return self._trainer.frozen_groups

    @property
    def history(self) -> History:
        """All epochs so far, over all phases."""
        return self._history

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns of the next fit's table."""
        return tuple(self._trainer.columns)

    @property
    def network(self) -> dict | None:
        """How the network was built, or None."""
        return self._network

    @property
    def num_programs(self) -> int:
        """Number of programs that trained, validated and predicted so far."""
        return self._trainer.programs.count

    @property
    def lr(self) -> Any:
        """Default peak learning rate of fits, in any form that `fit` takes."""
        return self._lr

    @lr.setter
    def lr(self, lr: Any) -> None:
        resolve_rates(lr, len(self._trainer.groups), name="lr")
        self._lr = lr

    @property
    def wd(self) -> float:
        """Default weight decay of fits."""
        return self._wd

    @wd.setter
    def wd(self, wd: Any) -> None:
        self._wd = wd

    @property
    def moms(self) -> tuple[float, float, float]:
        """Momentum at a cycle's start, peak and end."""
        return self._moms

    @moms.setter
    def moms(self, moms: Any) -> None:
        self._moms = moms

    @property
    def seed(self) -> int:
        """Seed of dropout, augmentation and everything else that is random."""
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
        """Dtype that the network computes in: "float32" or "bfloat16"."""
        return self._trainer.precision

    @precision.setter
    def precision(self, precision: Any) -> None:
        self._between_fits("precision").precision = precision

    @property
    def rematerialize(self) -> bool:
        """Whether blocks are computed again for their gradients, to save memory."""
        return self._trainer.rematerialize

    @rematerialize.setter
    def rematerialize(self, rematerialize: Any) -> None:
        self._between_fits("rematerialize").take_rematerialize(rematerialize)

    @property
    def ema_decay(self) -> float | None:
        """Decay of the trained weights' moving average; None for no average."""
        return self._trainer.ema_decay

    @ema_decay.setter
    def ema_decay(self, ema_decay: Any) -> None:
        self._between_fits("ema_decay").ema_decay = ema_decay

    @property
    def optimizer(self) -> Optimizer:
        """Makes each group's optimizer; assigning another resets its state."""
        return self._trainer.optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Any) -> None:
        self._between_fits("optimizer").take_optimizer(optimizer=optimizer)

    @property
    def clip_norm(self) -> float | None:
        """Largest global norm of the trained parameters' gradients, or None."""
        return self._trainer.clip_norm

    @clip_norm.setter
    def clip_norm(self, clip_norm: Any) -> None:
        self._between_fits("clip_norm").take_optimizer(clip_norm=clip_norm)

    @property
    def gradient_accumulation_steps(self) -> int:
        """Batches per update."""
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
        """The function (logits, label) -> one value per row that is minimised."""
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
        """The metrics, which the table shows beside the losses."""
        return tuple(self._trainer.programs.metrics.values())

    @metrics.setter
    def metrics(self, metrics: Any) -> None:
        trainer = self._between_fits("metrics")
        _, named = self._measures(self.loss, metrics)
        matching_loaders(self._validate_also, self._data, named)
        trainer.programs = trainer.programs.changed("eval", metrics=named)

    @property
    def validate_also(self) -> Mapping[str, Any]:
        """Extra data to validate on after each epoch, by name."""
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
        """Each class's threshold for multi-label data, float32 (c,); None otherwise.

        A class is predicted if its probability is above its threshold, which is 0.5 by
        default. Assign one number for all classes; one for each, such as
        `interpret().best_thresholds()`; a dict by class name or number, with 0.5 for
        the rest; or None for 0.5 everywhere. The thresholds are used by `predict`,
        `get_preds`, `tta`, `interpret` and `show_results`. `save` and later runs store
        them for `load_predictor`; `save_thresholds` stores them in an existing run.
        Metrics have thresholds of their own.
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
        """Assigns a setting; see `Learner` for those that can be assigned.

        Raises:
            AttributeError: If it can't be assigned; the message says what to do
                instead.
            TypeError: If the value has the wrong type.
            ValueError: If the value is out of range.
        """
        check_assignable(type(self), name)
        setter = getattr(type(self), name, None)
        if isinstance(setter, property) and is_ours(type(self), name):
            value = check_options({name: value})[name]
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        """Deletes a private attribute; public ones can't be deleted.

        Raises:
            AttributeError: If the name is public.
        """
        if not name.startswith("_"):
            raise AttributeError(f"{name} can't be deleted; assign another value.")
        object.__delattr__(self, name)

    # Freezing.

    def freeze(self) -> None:
        """Freezes all layer groups except the last, the head."""
        if len(self.groups) < 2:
            raise ValueError(
                "freeze() needs at least two layer groups; there is only "
                f"{', '.join(self.groups)}. Give groups= or split_on=."
            )
        self.freeze_to(-1)

    def unfreeze(self) -> None:
        """Makes all layer groups train; changes no weights."""
        self.freeze_to(0)

    def freeze_to(self, boundary: Integer | str) -> None:
        """Freezes the layer groups before a boundary; the others train.

        Changes no weights. The optimizer's state starts from scratch in the next fit,
        as in fastai.

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
        base_lr: Number | None = None,
        *,
        recipe: str = "default",
        lr_scale: Number | Literal["linear", "sqrt"] | None = None,
        freeze_epochs: Integer | None = None,
        lr_mult: Number | None = None,
        pct_start: Number | None = None,
        div: Number | None = None,
        div_final: Number | None = None,
        unfreeze_to: Integer | str | None = None,
        wd: Number | None = None,
        moms: Sequence[Number] | None = None,
        cache_features: Integer | None = None,
        callbacks: Callbacks = None,
        run: str | os.PathLike | None = None,
        save_every: Number | None = None,
    ) -> History:
        """Trains the head with the body frozen, then all groups; returns the history.

        Phase 1 trains `freeze_epochs` epochs with all groups but the last frozen, at
        peak learning rate `base_lr` (a tenth of it for what still trains in earlier
        groups). Phase 2 trains `epochs` epochs unfrozen, at peak learning rates from
        base_lr / 2 / lr_mult in the first group to base_lr / 2 in the last. Both follow
        the one-cycle schedule. The recipe says what is not given, see `RECIPES` in
        jaxtune.train: with fewer than fifty batches an epoch, the head makes 100
        updates in phase 1, on stored features, and phase 2 has half of its rates, a
        quarter below twenty batches, unless `freeze_epochs` or `cache_features` is
        given. `plan` shows what comes out.

        With `run`, the run is saved in a folder, in the background. Repeating the call
        in a new process resumes the run where it was stopped or killed; on the same
        machine the result equals that of an uninterrupted run, bit for bit. SIGTERM and
        Ctrl-C save first.

        Args:
            epochs: Epochs after unfreezing.
            base_lr: Peak learning rate of the head in phase 1; 2e-3 in all recipes.
            recipe: "default"; "fast": the head alone makes 100 updates on stored
                features, and a third of the epochs follow, with the first of three
                layer groups frozen; or "fastai": its steps, with norm layers as
                `norms="train"` in this call.
            lr_scale: Multiplies all learning rates, for large batches: a number, or
                "linear" or "sqrt" for the photos of an update / 64, or the root of it,
                see `scale_for_batch`. Nothing is scaled if None.
            freeze_epochs: Epochs before unfreezing; if None, 1, and more with few
                batches (see above). 0 leaves phase 1 out.
            lr_mult: In phase 2, the last group's learning rate / the first group's; 100
                in all recipes.
            pct_start: Fraction of phase 2 in which the rates rise, 0.3 in all recipes;
                phase 1 has 0.99.
            div: Phase 2 starts at its peak rates / div; 5 in all recipes.
            div_final: Both phases end at their peak rates / div_final; 1e5 in all
                recipes.
            unfreeze_to: Number or name of the first group that trains in phase 2, see
                `freeze_to`; the groups before it stay frozen.
            wd: Weight decay; the learner's if None.
            moms: Momentum at start, peak and end; the learner's if None.
            cache_features: In phase 1, for how many draws of the augmentation the
                frozen body's features of every photo are computed once and kept in
                memory; its epochs take the draws in turn, and the body runs no more.
                With as many draws as `freeze_epochs` the values are those without;
                fewer see fewer variants of each photo. 0 keeps none, as does None but
                with few batches.
            callbacks: One or several, see `Callback`.
            run: Folder to save the run in; created if missing. Or a place in Google
                Cloud Storage, "gs://bucket/name". Not saved if None.
            save_every: Seconds between two checkpoints, 60 if None; 0 starts the next
                as soon as one is written. Each epoch's end is saved, too. The latest
                and the best checkpoint are kept.

        Returns:
            The epochs of this call.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If an argument is out of range, or (`RunMismatchError`) the
                folder has a run with another recipe; the differences are listed.
            FileExistsError: If the folder has other content.
            BlockingIOError: If another process is training in the folder.
            NonFiniteLossError: If the loss, a gradient or the outputs are NaN or
                infinite; the learner then holds its last good weights.
            OutOfMemoryError: If a step does not fit into the device's memory.
            RunStopped: If SIGTERM arrived; a `SystemExit` with status 0, raised after
                everything is saved.

        References:
            fastai 2.8.12, callback/schedule.py `fine_tune`.
        """
        chosen = check_recipe(recipe)
        phases = self._fine_tuning(
            epochs,
            base_lr,
            recipe=recipe,
            lr_scale=lr_scale,
            freeze_epochs=freeze_epochs,
            lr_mult=lr_mult,
            pct_start=pct_start,
            div=div,
            div_final=div_final,
            unfreeze_to=unfreeze_to,
            wd=wd,
            moms=moms,
            cache_features=cache_features,
        )
        with self._norms_as(chosen.norms):
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
            pct_start: Fraction of the cycle in which the rates rise.
            wd: Weight decay; the learner's if None.
            moms: Momentum at start, peak and end; the learner's if None.
            name: Name of the phase in its start line; its number if None.
            callbacks: One or several, see `Callback`.
            run: Folder to save the run in, see `fine_tune`.
            save_every: Seconds between two checkpoints, see `fine_tune`.

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
        """Trains at the peak rate, then along a falling cosine; returns the history.

        Args:
            epochs: Passes over the training data.
            lr: Peak learning rate: a number, one for each group, or a slice.
            div_final: The schedule ends at lr / div_final.
            pct_start: Fraction of the steps before the rates fall.
            wd: Weight decay; the learner's if None.
            callbacks: One or several, see `Callback`.
            run: Folder to save the run in, see `fine_tune`.
            save_every: Seconds between two checkpoints, see `fine_tune`.

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
            wd: Weight decay; the learner's if None.
            callbacks: One or several, see `Callback`.
            run: Folder to save the run in, see `fine_tune`.
            save_every: Seconds between two checkpoints, see `fine_tune`.
        """
        schedule = constant(self._total_steps(epochs))
        phase = self._phase(epochs, lr, schedule, wd=wd)
        return self.fit_phases(
            [phase], callbacks=callbacks, run=run, save_every=save_every
        )

    def gradual_unfreeze(
        self,
        epochs: Integer,
        base_lr: Number = 5e-4,
        *,
        epochs_each: Integer = 1,
        decay: Number = 2.6,
        wd: Number | None = None,
        callbacks: Callbacks = None,
        run: str | os.PathLike | None = None,
        save_every: Number | None = None,
    ) -> History:
        """Trains the last layer group, then unfreezes one more group in each phase.

        Args:
            epochs: Epochs of the last phase, in which all groups train.
            base_lr: Peak learning rate of the last group.
            epochs_each: Epochs of each earlier phase.
            decay: Each group's learning rate is the next group's divided by this.
            wd: Weight decay; the learner's if None.
            callbacks: One or several, see `Callback`.
            run: Folder to save the run in, see `fine_tune`.
            save_every: Seconds between two checkpoints, see `fine_tune`.

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
            run: Folder to save the run in, see `fine_tune`.
            save_every: Seconds between two checkpoints, see `fine_tune`.

        Raises:
            TypeError: If an element is not a `Phase`, or a field has the wrong type.
            ValueError: If a phase doesn't have one rate for each layer group, or its
                boundary doesn't exist.
        """
        phases = checked_phases(phases, len(self.groups))
        for phase in phases:
            boundary_index(phase.boundary or 0, self.groups)
        return self._fit(phases, run, save_every, callbacks)

    def set_rates(self, rates: Mapping[str, float]) -> None:
        """Changes the current phase's peak learning rates, without recompiling.

        For callbacks, at the beginning of an epoch. The phase's schedule continues with
        these rates until they are set again or the phase ends.

        Args:
            rates: Peak learning rate of each layer group, by name.

        Raises:
            RuntimeError: If no phase is training.
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
        """Trains a copy at rising learning rates and suggests rates.

        Trains the layer groups that are not frozen now. The learner's weights,
        optimizer, order of photos and random numbers are not changed, and no file is
        written.

        Args:
            start_lr: Learning rate of the first update, for every layer group.
            end_lr: Learning rate after the last update; larger than `start_lr`.
            num_it: Number of updates, at least 8. With gradient accumulation, each
                update takes several batches and its loss is their mean.
            stop_div: Whether to stop when the loss is four times the best so far.

        Returns:
            Rates, smoothed losses, and the suggestions valley, slide, minimum and
            steep; `plot()` returns a figure.

        Raises:
            TypeError: If an argument is not a number.
            ValueError: If a number is out of range, or end_lr is not above start_lr.
            NonFiniteLossError: If the first loss is NaN or infinite.
            OutOfMemoryError: If a step does not fit into the device's memory.

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

    def find_batch_size(self, most: Integer | None = None) -> int:
        """Returns the largest batch with which every layer group can train.

        A power of two for each device, of which the compiled step takes at most 0.9 of
        a device's memory (on a CPU half of the machine's). Nothing is run, and nothing
        is changed: `learner.data = learner.data.with_batch_size(n)` takes it, and
        `batch_size="auto"` in the data does both for its first learner. A larger batch
        is not a better one: with the same photos there are fewer updates.

        Args:
            most: The largest batch wanted; by default the largest that leaves an epoch
                20 steps, and at most 512, beyond which steps gain no speed.

        Returns:
            Photos per batch; those of the present data if the device doesn't tell how
            much memory it has.

        Raises:
            TypeError: If `most` is no whole number.
            ValueError: If it is less than 1.
            OutOfMemoryError: If not even one photo for each device fits.
        """
        if most is not None:
            most = check_integer(most, "most", least=1)
        found = find_batch_size(self._trainer, self.data, most)
        self._say(found)
        return found.size

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
        """Continues with other data, which may have more classes.

        Each known class keeps its row of the last layer, bit for bit, by name; new
        classes get freshly initialised rows, see `extend_outputs`. Frozen groups stay
        frozen. To train the new rows first, call `freeze()` or `fine_tune`. The
        optimizer starts from scratch, `diff` compares from here on, and the history is
        kept. If an error is raised, nothing has changed.

        Args:
            data: `ImageDataLoaders` with all present classes, and maybe more. A class
                may have no training photos: give `classes=` when making the data.
            reorder: Whether the known classes may be in another order.
            at: Path of the layer with the outputs, if it can't be found automatically.
            init: Draws the new rows' weights, see `extend_outputs`.
            loss: The new loss; the present one if None.
            validate_also: Extra data to validate on, by name; the present one if None.

        Returns:
            A line that says what was done; it is also printed.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the data lacks a class, has the classes in another order, has
                another kind of labels or number of channels, or the loss has a weight
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

    # Inspection.

    def summary(self) -> Summary:
        """Returns a table of the layers.

        It shows each layer's output shape, parameters, layer group, norm mode, and
        whether it would train in a fit now.
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
        """Returns what `fine_tune` with the same arguments would do; trains nothing.

        Shows for each phase and layer group: parameters, how many of them train, peak
        learning rate, weight decay, norm mode, bytes of optimizer state, and the share
        of the step's floating-point operations. It prints as a table; nothing is
        compiled.

        Args:
            epochs: As in `fine_tune`; 1 if None.
            base_lr: As in `fine_tune`.
            phases: Phases as for `fit_phases`, instead of those of `fine_tune`.
            **options: recipe, lr_scale, freeze_epochs, lr_mult, pct_start, div,
                div_final, unfreeze_to, wd, moms and cache_features, as in `fine_tune`.

        Raises:
            TypeError: If an argument has the wrong type or is unknown.
            ValueError: If one is out of range, or is given together with `phases`.
        """
        trainer = self._trainer
        check_known(options, FINE_TUNING, "plan")
        if phases is None:
            epochs = 1 if epochs is None else epochs
            recipe = check_recipe(options.get("recipe", "default"))
            phases = self._fine_tuning(epochs, base_lr, **options)
        else:
            check_alone(phases, epochs=epochs, base_lr=base_lr, **options)
            phases, recipe = checked_phases(phases, len(trainer.groups)), None
        norms = None if recipe is None else recipe.norms
        return plan_phases(
            trainer.module,
            trainer.groups,
            phases,
            recipe=recipe,
            boundary=trainer.boundary,
            norms=norms or trainer.norms,
            optimizer=trainer.optimizer,
            averages=trainer.ema_decay is not None,
            gradient_accumulation_steps=trainer.gradient_accumulation_steps,
            size=self.data.size,
            in_channels=self.data.in_channels,
            first_phase=trainer.phase + 1,
        )

    def diff(self, *, since: Integer | str | os.PathLike | None = None) -> Diff:
        """Returns how much the weights of each layer group and layer have changed.

        The change is norm(now - before) / norm(before), of parameters and of running
        statistics. It prints as a table; `plot()` returns a figure.

        Args:
            since: None compares each phase's end with its beginning; a phase's number
                compares with the beginning of that phase; "start" with that of the
                first phase; a path with a checkpoint or a saved learner.

        Raises:
            ValueError: If nothing has trained yet, there is no such phase, or the
                network's layers have changed since.
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
        """Checks that no frozen weight has changed, not even by one bit.

        Args:
            groups: Names of groups that must equal what they were before the first
                phase. If None, whatever was frozen in a phase must equal what it was at
                that phase's beginning.

        Raises:
            FrozenMovedError: If a frozen weight has changed, an `AssertionError` that
                names it.
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
            before: What to compare with: the beginning of a phase, by number; a network
                (`resnet18(pretrained=True)`); the path of a checkpoint; or weights
                (n, kh, kw, c). None shows the present kernels only.

        Raises:
            ImportError: If matplotlib is not installed.
            ValueError: If there was no such phase, or the kernels have other shapes.
            TypeError: If `before` is none of these.
        """
        return compare_kernels(self.model, before, self._trainer.snapshots)

    # Predictions and results.

    def predict(
        self, item: Any, *, on_error: str = "raise"
    ) -> Prediction | None | list[Prediction | None]:
        """Predicts the label of one photo, or of each of many.

        Args:
            item: One photo: a path, bytes, a binary file object, a PIL image or an
                array (h, w, c). Or many: a folder or a glob ("photos/*.jpg"), sorted by
                path; a list, a table's column, an array of paths or of images
                (n, h, w, c); or an iterator, which is read batch by batch.
            on_error: What happens if a photo can't be read: "raise" an error that names
                it (for a list, before anything is computed), or "skip" it, with None in
                its place and a warning that names it.

        Returns:
            A `Prediction`; for many photos a list of them, in order. Multi-label
            predictions use `thresholds`.

        Raises:
            jaxtune.data.ImageError: If a photo can't be read.
            FileNotFoundError: If there is no such file, or a folder has no photos.
            TypeError: If `item` is, or contains, something other than photos.
            ValueError: If `on_error` is neither "raise" nor "skip".
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
        """Returns the mean loss and the metrics over all validation photos.

        Args:
            loader: The validation data if None; else a loader, other
                `ImageDataLoaders`, or photos in folders named like the classes, see
                `interpret`. Labels are matched to the data's classes by name.

        Returns:
            The loss and the metrics by name.

        Raises:
            ValueError: If a photo has no label, or one that is not among the classes.
            TypeError: If `loader` is none of these.
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
        """Returns the predictions for every photo, in the loader's order.

        `probabilities, targets = learner.get_preds()` unpacks them, as in fastai.

        Args:
            loader: The validation data if None; "train" for the training photos, in
                order and without augmentation; a loader, which is read without
                shuffling; other `ImageDataLoaders`, of which the validation photos are
                used; or photos without targets: paths, a folder, a glob, a table's
                column or anything else that `ImageDataLoaders.test_loader` takes.
                Labels of other data are matched to the classes by name.
            with_loss: Whether to return each row's loss, too.
            with_decoded: Whether to return the decoded predictions, too: the class, or
                for multi-label data which classes are above their threshold.
            thresh: For multi-label data: one threshold for all classes, one for each,
                or a dict by class name or number; the learner's `thresholds` if None.

        Raises:
            ValueError: If there is no such loader or no readable photo, its labels
                don't fit, or `with_loss=True` and it has no labels.
            TypeError: If an argument has the wrong type.
            FileNotFoundError: If there is no such file or folder.
            jaxtune.data.ImageError: If photos can't be read; the message names them.

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
        """Returns predictions averaged over augmentations (test-time augmentation).

        The probabilities are (1 - beta) * mean of n augmented + beta * plain. Photos
        are prepared and augmented as in training. The random augmentation depends only
        on the learner's seed, its number from 0 to n - 1, and the photo.

        Args:
            loader: As in `get_preds`; a loader must be one of jaxtune's.
            n: Number of augmented predictions of each photo.
            beta: Weight of the prediction without augmentation, from 0 to 1.
            use_max: Whether to take the maximum for each class instead of the mean.
            with_decoded: As in `get_preds`.
            thresh: As in `get_preds`.

        Raises:
            ValueError: If the data has no augmentation, or n or beta is out of range.
            TypeError: If an argument has the wrong type, or the loader is not one of
                jaxtune's.

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

        Labels are green if the prediction is right and red if not; black for
        regression.

        Args:
            loader: As in `get_preds`; a loader must be one of jaxtune's. Photos without
                labels are shown with the prediction alone.
            max_n: Largest number of photos, which are chosen at random.
            seed: Of that choice; the learner's if None.
            columns: Photos in a row of the figure.
            thresh: As in `get_preds`.

        Raises:
            ImportError: If matplotlib is not installed.
            TypeError: If an argument has the wrong type, or the loader is not one of
                jaxtune's.
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
        """Returns top losses, confusion matrix and reports for the kind of labels.

        Args:
            loader: As in `get_preds`, but with labels; a loader must be one of
                jaxtune's. Photos get their labels from their folders if these are named
                like the classes, or from `data.test_loader(photos, labels=[...])`.
            thresh: As in `get_preds`.

        Returns:
            A `ClassificationInterpretation`, or a `RegressionInterpretation` for
            regression.

        Raises:
            ValueError: If there are no labels, or they don't fit.
            TypeError: If an argument has the wrong type.
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
        """Returns a Grad-CAM map of where the network sees a class; `plot()` shows it.

        One value of the map covers many pixels: 32 x 32 for a ResNet's body, so 2 x 2
        values for a photo of 64 px. By default the photo is therefore enlarged beyond
        the training size, if that doesn't change the prediction. The class and its
        probability are those of `predict`.

        Args:
            photo: One photo or many, as for `Learner.predict`.
            class_name: The class to explain; each photo's most probable one if None.
                For regression, the output's number: "0" for the first.
            layer: Dotted name of the module whose output is used: "body", or
                "body.layer3" for finer but less certain maps.
            size: Height and width of the network's input, in pixels. If None: 224 for
                the shorter side, else twice the data's size, if the photo is that large
                and the network predicts the same; else the data's size.

        Raises:
            ValueError: If there is no such class or layer.
            TypeError: If an argument has the wrong type.
            FileNotFoundError: If there is no such file, or a folder has no photos.
            jaxtune.data.ImageError: If a photo can't be read; the message names it.

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
        """Returns Grad-CAM maps of several photos, with one output number for each.

        Args:
            photos: Many photos, as for `grad_cam`.
            class_index: Number of the output to explain for each photo, ints (b,); each
                photo's largest output if None.
            layer: As for `grad_cam`.
            size: As for `grad_cam`.

        Raises:
            ValueError: If there is no such layer or output, or not one per photo.
            TypeError: If an argument has the wrong type.
            jaxtune.data.ImageError: If a photo can't be read; the message names it.
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
    ) -> Place:
        """Saves the weights, the phase and the optimizer's state, atomically.

        `load` restores them, and `load_predictor(path)` opens the network for
        predictions. Plain Orbax reads the folder, too: `ocp.load(path)` returns
        parameters and statistics.

        Args:
            path: Folder to create.
            with_opt: Whether to save the optimizer's state, if there is one.
            overwrite: Whether to replace an existing checkpoint; at any moment either
                the complete old or the complete new one is there.

        Returns:
            The folder.

        Raises:
            FileExistsError: If the path exists; with `overwrite`, if it is not a
                checkpoint.
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
        """Loads weights, phase and optimizer state from a checkpoint.

        The layer groups that were frozen when it was saved are frozen, and the others
        unfrozen, unless `phase="keep"`. Checkpoints of plain Flax code have weights
        only.

        Args:
            path: Folder of a checkpoint or of a run, or of a plain Flax checkpoint.
            phase: "saved" freezes the groups that were frozen then; "keep" keeps those
                that are frozen now.
            with_opt: Whether to load the optimizer's state, if the checkpoint has one
                and the same layer groups train.
            partial: Load only the weights below this name ("body"), see
                `load_checkpoint`.
            which: Which of a run's checkpoints, "latest" or "best".

        Returns:
            A line that says what was loaded; it is also printed.

        Raises:
            FileNotFoundError: If there is no checkpoint.
            jaxtune.CheckpointMismatchError: If it is of another network or has other
                classes, or the same ones in another order.
            TypeError: If an argument has the wrong type.
            ValueError: If `phase` or `which` is unknown, or `which="best"` is given for
                a path that is not a run.
        """
        check_path(path, "path")
        check_choice(phase, "phase", ("saved", "keep"))
        with_opt = check_flag(with_opt, "with_opt")
        line, meta = load_into(
            self._trainer,
            self.data,
            path,
            phase=phase,
            with_opt=with_opt,
            partial=partial,
            which=which,
        )
        if partial is None and self.data.kind == "multi" and "thresholds" in meta:
            self.thresholds = meta["thresholds"]
        self._say(line)
        return line

    def restore_values(self, path: str | os.PathLike) -> None:
        """Loads parameters and statistics from a checkpoint; changes nothing else.

        Args:
            path: Folder of a checkpoint, or of a run, of which the latest is loaded.

        Raises:
            jaxtune.CheckpointMismatchError: If it is of another network; the message
                lists the differences.
        """
        _, params, model_state = split_module(self._trainer.module)
        values = load_checkpoint(
            find_checkpoint(path), params=params, model_state=model_state
        )
        nnx.update(self._trainer.module, *values)

    def save_thresholds(self, run: str | os.PathLike) -> None:
        """Stores the learner's `thresholds` in an existing run, for its predictions.

        A run has the thresholds that the learner had when the run began; this replaces
        them for all of its checkpoints, by thresholds chosen after training.

        Args:
            run: The run's folder.

        Raises:
            FileNotFoundError: If there is no run.
            ValueError: If the data is not multi-label.
        """
        check_path(run, "run")
        check_several(self.data.kind)
        chosen = zip(self.data.classes, self.thresholds.tolist(), strict=True)
        write_thresholds(run, dict(chosen))

    def to_predictor(self) -> Predictor:
        """Returns a predictor with a copy of the present weights.

        It needs no data and can be pickled for another process. Training the learner
        further doesn't change it.
        """
        trainer = self._trainer
        graphdef, *values = split_module(trainer.module)
        module = nnx.merge(graphdef, *jax.tree.map(jnp.copy, values))
        # As a checkpoint returns it: lists instead of tuples.
        meta = json.loads(json.dumps(self._meta()))
        return Predictor(module, meta, batch_size=self.data.batch_size)

    def __reduce_ex__(self, protocol):
        """Raises a TypeError: a learner can't be pickled."""
        raise TypeError(
            "a Learner can't be pickled: it holds data, threads and compiled programs. "
            "To predict in another process, pickle learner.to_predictor(). To keep it, "
            "or continue elsewhere, call learner.save(path), and there "
            "load_predictor(path), continue_from(path, data), or load(path) of a "
            "learner made in the same way."
        )

    def __copy__(self):
        """Returns a learner that shares everything with this one."""
        return self._copied(dict(vars(self)))

    def __deepcopy__(self, memo):
        """Returns a learner that shares no weights with this one."""
        twin = self._copied({})
        memo[id(self)] = twin
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin

    # What the methods above share.

    def _fine_tuning(
        self,
        epochs: Integer,
        base_lr: Number | None,
        *,
        recipe: str = "default",
        lr_scale: Number | str | None = None,
        unfreeze_to: Integer | str | None = None,
        wd: Number | None = None,
        moms: Sequence[Number] | None = None,
        **options,
    ) -> tuple[Phase, ...]:
        if lr_scale is not None:
            batches = self._trainer.gradient_accumulation_steps
            lr_scale = scale_for_batch(lr_scale, self.data.batch_size * batches)
        if unfreeze_to is not None:
            unfreeze_to = boundary_index(unfreeze_to, self.groups, name="unfreeze_to")
        loader, chosen = self.data.train_loader, check_recipe(recipe)
        return chosen.phases(
            len(self.groups),
            len(loader),
            epochs,
            stores_features=stores_features(self._trainer, loader, chosen.draws),
            base_lr=base_lr,
            lr_scale=lr_scale,
            unfreeze_to=unfreeze_to,
            weight_decay=self._decay_of(wd),
            momentums=self._momentums_of(moms),
            **options,
        )

    @contextlib.contextmanager
    def _norms_as(self, norms: Norms | None) -> Iterator[None]:
        """The norm layers as a recipe wants them, until it has ended."""
        before = self._trainer.norms
        self._trainer.norms = norms or before
        try:
            yield
        finally:
            self._trainer.norms = before

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
        listeners = CallbackList(callbacks, self)
        listeners.check()
        with ending_together():
            check_same_everywhere(
                {
                    "the weights": self._trainer.fingerprint,
                    "the photos or the call": lambda: repr(self._description(phases)),
                }
            )
            if run is None:
                return self._fit_phases(phases, None, listeners)
            return self._fit_run(phases, run, seconds, listeners)

    def _description(self, phases: Sequence[Phase]) -> dict:
        return describe_run(phases, self.data, network=self.network, seed=self.seed)

    def _fit_run(
        self,
        phases: Sequence[Phase],
        run: str | os.PathLike,
        seconds: float,
        listeners: CallbackList,
    ) -> History:
        path = place_of(run, "run")
        before = self._start_of_run(path)
        if not is_first_process():
            wait_for_all("jaxtune: the run's folder is made")
        folder = RunFolder(
            path,
            {
                **self._description(phases),
                "callbacks": listeners.recipe(),
                **without_metrics(self._trainer.describe()),
                **before,
            },
            made_with=environment(),
            save_every=seconds,
            upgrade=upgraded_recipe,
            leads=is_first_process(),
        )
        if is_first_process():
            wait_for_all("jaxtune: the run's folder is made")
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

    def _start_of_run(self, path: Place) -> dict:
        """What the run starts from; unchanged if it was stopped in this process."""
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
    ) -> Place:
        """Saves as `save` does, with the note's entries in the description."""
        check_path(path, "path")
        with_opt = check_flag(with_opt, "with_opt")
        trainer = self._trainer
        _, params, model_state = split_module(trainer.module)
        with ending_together():
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
        """The thresholds given to a call; the learner's if None."""
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
        if self.verbose and is_first_process():
            print(result, flush=True)

    def _copied(self, attributes: dict) -> "Learner":
        twin = object.__new__(type(self))
        vars(twin).update(attributes)
        return twin
