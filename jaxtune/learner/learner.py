"""The learner: a network, data and a phase, held together.

The one rule of the file: `Learner` only holds state and calls public pure functions;
whatever it does can be done without it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from flax import nnx

from jaxtune.arguments import Integer, Number, check_module
from jaxtune.data import Mixing
from jaxtune.learner.assigning import Assignable
from jaxtune.learner.extending import Extending
from jaxtune.learner.finder import Finder
from jaxtune.learner.inspection import Inspection
from jaxtune.learner.loss_and_metrics import fit_measures, scaled_objective
from jaxtune.learner.options import check_data, check_options, check_statistics
from jaxtune.learner.results import Results
from jaxtune.learner.storage import Storage
from jaxtune.learner.training import Training
from jaxtune.loop.history import History
from jaxtune.loop.steps import Programs
from jaxtune.loop.trainer import Trainer
from jaxtune.results.predictions import plain_loader
from jaxtune.results.predictor import Prediction, Reading, predict_images
from jaxtune.train import (
    ComputePrecision,
    Metric,
    Norms,
    Optimizer,
    Rates,
    adam,
    default_activation,
    resolve_rates,
)
from jaxtune.transfer import Groups, default_groups, split_groups


class Learner(Assignable, Training, Finder, Storage, Inspection, Results, Extending):
    """A network with its data, its layer groups and the phase it is in.

    Between two fits the modules hold the values: `learner.model` can be looked at,
    changed (`learner.model[0][0] = conv`), or used in plain Flax code. A fit takes the
    values from it and puts them back, also when it is interrupted.

    Between two fits data, metrics, loss and most other options can be assigned, see
    `Assignable`.

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
            mixing: `MixUp()` or `CutMix()` of training batches.
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
        given = check_options(
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
        loss, seed, verbose = given["loss"], given["seed"], given["verbose"]
        gradient_accumulation_steps = given["gradient_accumulation_steps"]
        mean, std = check_statistics(mean, std, data.in_channels)
        if split_on is not None:
            groups = split_groups(model, split_on)
        loss, metrics = fit_measures(loss, given["metrics"], data, model)
        groups = groups or default_groups(model)
        resolve_rates(lr, len(groups), name="lr")
        self._data, self._history, self._network = data, History(), network
        programs = Programs(
            size=data.size,
            augmentation=data.augmentation,
            loss=loss,
            objective=scaled_objective(loss, model),
            activation=default_activation(data.kind),
            mixing=mixing,
            gradient_accumulation_steps=gradient_accumulation_steps,
            metrics=metrics,
            mean=mean,
            std=std,
        )
        self._last_run = None
        self._trainer = Trainer(
            model,
            groups,
            norms=norms,
            optimizer=given["optimizer"],
            clip_norm=given["clip_norm"],
            gradient_accumulation_steps=gradient_accumulation_steps,
            precision=precision,
            ema_decay=given["ema_decay"],
            programs=programs,
            batch_sizes=(data.train_loader.batch_size, data.valid_loader.batch_size),
        )
        self.validate_also = validate_also
        self.lr, self.wd, self.moms = lr, wd, moms
        self.seed = seed
        self.verbose = verbose

    # What is there.

    @property
    def model(self) -> nnx.Module:
        """The network with its newest values: `model[0]` the body, `[1]` the head."""
        return self._trainer.module

    @property
    def frozen_groups(self) -> tuple[str, ...]:
        """Names of the layer groups that do not train now."""
        return self._trainer.frozen_groups

    @property
    def num_programs(self) -> int:
        """Number of programs compiled so far for training, validation, prediction."""
        return self._trainer.programs.count

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

    # Results.

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
