"""What of a learner can be assigned, and what an assignment does.

A name and a value in, a learner which from the next call on goes by it out. The one
rule of the file: an assignment has its whole effect or is refused; none is ignored.
"""

import difflib
from collections.abc import Callable, Mapping
from typing import Any

from jaxtune.arguments import either
from jaxtune.data import Mixing
from jaxtune.learner.extending import check_data as check_same_labels
from jaxtune.learner.loss_and_metrics import fit_measures, scaled_objective
from jaxtune.learner.options import check_data, check_options
from jaxtune.loop.extra_validation import matching_loaders
from jaxtune.loop.history import History
from jaxtune.loop.trainer import Trainer
from jaxtune.train import (
    ComputePrecision,
    Metric,
    Norms,
    Optimizer,
    resolve_rates,
)
from jaxtune.transfer import check_runs

#: Names that can't be assigned, and what to do instead.
_INSTEAD = {
    "model": "Change its layers in place (learner.model[0][0] = layer), or make a new "
    "learner: Learner(data, model).",
    "groups": "Make a new learner with groups= or split_on=.",
    "frozen_groups": "Call freeze(), unfreeze() or freeze_to(group).",
    "history": "Training writes it. A new learner begins with an empty one.",
    "network": "It says how the network was built. Make a new learner.",
    "num_programs": "It counts what was compiled.",
    "columns": "They follow from metrics and validate_also.",
}

#: What other libraries, or other places, call what is meant.
_ELSEWHERE = {
    "dls": "data", "dataloaders": "data", "loss_func": "loss", "criterion": "loss",
    "opt_func": "optimizer", "opt": "optimizer", "learning_rate": "lr",
    "weight_decay": "wd", "momentum": "moms", "moments": "moms", "metric": "metrics",
    "dtype": "precision",
}  # fmt: skip
_ELSEWHERE_INSTEAD = {
    "callbacks": "Give callbacks to each fit: fit(1, callbacks=...).",
    "cbs": "Give callbacks to each fit: fit(1, callbacks=...).",
    "epochs": "Give the number of epochs to the fit.",
    "batch_size": "Assign data made with another batch_size=: learner.data = data.",
    "size": "Assign data made with another size=: learner.data = data.",
    "augmentation": "Assign data made with another augmentation=: learner.data = data.",
    "classes": "Call learner.extend(data) with data that has more classes.",
    "mean": "Make a new learner with mean= and std=.",
    "std": "Make a new learner with mean= and std=.",
    "boundary": "Call freeze_to(group).",
    "frozen": "Call freeze(), unfreeze() or freeze_to(group).",
    "trainable": "Call freeze(), unfreeze() or freeze_to(group).",
}


class Assignable:
    """What of a `Learner` can be assigned: between two fits, and with full effect.

    `learner.data = larger` goes on with photos of another size (progressive resizing),
    `learner.lr = 1e-3` is the rate of the fits to come. What can't be assigned raises
    an `AttributeError` that says what to do instead, and so does a name that there is
    not: `learner.leraning_rate = 1`.
    """

    _trainer: Trainer
    _data: Any
    _history: History
    _network: dict | None
    _last_run: Any
    _validate_also: Mapping[str, Any]

    def __setattr__(self, name: str, value: Any) -> None:
        """Assigns what can be assigned.

        Raises:
            AttributeError: If it can't be; the message says what to do instead.
            TypeError: If the value is of another type.
            ValueError: If it is out of range.
        """
        found = getattr(type(self), name, None)
        can = isinstance(found, property) and found.fset is not None
        owners = [cls for cls in type(self).__mro__ if name in vars(cls)]
        # A subclass of the user's may have what it likes beside.
        theirs = not _is_ours(owners[0] if owners else type(self))
        if name.startswith("_") or can or theirs:
            if can and not theirs:
                value = check_options({name: value})[name]
            object.__setattr__(self, name, value)
        elif name in _INSTEAD:
            raise AttributeError(f"{name} can't be assigned. {_INSTEAD[name]}")
        elif found is not None:
            raise AttributeError(
                f"{name} can't be assigned. It is a method: call it, or override it in "
                "a subclass."
            )
        else:
            raise AttributeError(f"a learner has no {name!r}. {_meant(name)}")

    def __delattr__(self, name: str) -> None:
        """Deletes nothing that is public.

        Raises:
            AttributeError: Whenever the name is public.
        """
        if not name.startswith("_"):
            raise AttributeError(f"{name} can't be deleted; assign another value.")
        object.__delattr__(self, name)

    # What only the fits to come look at.

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

    # What the network's graph or the optimizer's state follows from, in every fit anew.

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

    # What is part of compiled programs, which are made anew.

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

    # What decides the batches.

    @property
    def validate_also(self) -> Mapping[str, Any]:
        """Further photos to validate on after each epoch, by name."""
        return dict(self._validate_also)

    @validate_also.setter
    def validate_also(self, sources: Any) -> None:
        trainer = self._between_fits("validate_also")
        trainer.further = matching_loaders(
            sources, self._data, trainer.programs.metrics
        )
        self._validate_also = dict(sources or {})

    @property
    def data(self) -> Any:
        """Where batches come from: `ImageDataLoaders`.

        Other photos, another size, batch size or augmentation can be assigned, of the
        same classes. The network, the optimizer's moments and the history go on.
        """
        return self._data

    @data.setter
    def data(self, data: Any) -> None:
        trainer, before = self._between_fits("data"), self._data
        check_data(data)
        check_same_labels(data, kind=before.kind, outputs=before.num_outputs,
                          in_channels=before.in_channels)  # fmt: skip
        if tuple(data.classes) != tuple(before.classes):
            raise ValueError(
                f"the network knows the classes {', '.join(before.classes)}, and the "
                f"data has {', '.join(data.classes)}. For more classes, or another "
                "order, call learner.extend(data); for others make a new learner, whose"
                ' body takes these values with load(path, partial="body").'
            )
        check_runs(trainer.module, size=data.size, in_channels=data.in_channels)
        try:
            further = matching_loaders(
                self._validate_also, data, trainer.programs.metrics
            )
        except ValueError as error:
            raise ValueError(
                f"{error} To change both, write learner.validate_also = {{}} first."
            ) from None
        programs = trainer.programs
        trainer.take_data(
            programs=programs if programs.fit_data(data) else programs.for_data(data),
            batch_sizes=(data.train_loader.batch_size, data.valid_loader.batch_size),
        )
        trainer.further = further
        self._data, self._last_run = data, None

    # What can be looked at only.

    @property
    def history(self) -> History:
        """Every epoch so far, over all phases."""
        return self._history

    @property
    def network(self) -> dict | None:
        """How the network was built, or None."""
        return self._network

    def _between_fits(self, name: str) -> Trainer:
        if self._trainer.is_training:
            raise RuntimeError(
                f"{name} can't be changed while a phase trains. Assign it between two "
                "fits."
            )
        return self._trainer

    def _measures(self, loss: Callable | None, metrics: Any) -> tuple[Callable, dict]:
        return fit_measures(loss, metrics, self._data, self._trainer.module)


def _is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "jaxtune"


def _meant(name: str) -> str:
    if name in _ELSEWHERE_INSTEAD:
        return _ELSEWHERE_INSTEAD[name]
    if name in _ELSEWHERE:
        return f"What you mean is called {_ELSEWHERE[name]} here."
    found = vars(Assignable).items()
    known = {n for n, each in found if isinstance(each, property) and each.fset}
    close = difflib.get_close_matches(name.lower(), [*known, *_ELSEWHERE], n=2)
    if close:
        return f"Did you mean {either([_ELSEWHERE.get(n, n) for n in close])}?"
    return f"There are {', '.join(sorted(known))}."
