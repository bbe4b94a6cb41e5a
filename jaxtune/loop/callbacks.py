"""Callbacks: logging, early stopping, checkpoints of the best epoch, and your own.

The events have Keras's names. Built-in callbacks decide from the table of epochs alone,
so a run that is killed and resumed makes the same decisions.
"""

import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from jaxtune.arguments import (
    Integer,
    Number,
    check_flag,
    check_function,
    check_integer,
    check_number,
    check_path,
    described,
)
from jaxtune.checkpoint import (
    CheckpointDamagedError,
    Place,
    check_replaceable,
    load_meta,
    place_of,
    write_text,
)
from jaxtune.loop.columns import check_monitor, more_is_better
from jaxtune.loop.history import Row
from jaxtune.loop.processes import is_first_process
from jaxtune.train import named_metrics


class StopPhase(Exception):  # noqa: N818 - a request, not an error
    """Raised by a callback to end the current phase; the next phase then begins."""


class StopTraining(Exception):  # noqa: N818 - a request, not an error
    """Raised by a callback to end the whole run; the learner keeps its weights."""


class Callback:
    """Base class of callbacks; a subclass overrides the methods that it needs.

    Batches are numbered from 0 within their epoch, epochs from 0 within their phase,
    phases from 1, as in the table. A method may raise `StopPhase` or `StopTraining`.
    The same callback can be given to several fits.

    Attributes:
        learner: The learner that trains; its `history` is the table so far.
        phase: Number of the current phase, from 1, as in the history.
        frozen: Names of the layer groups that are frozen in it.
        rows: The phase's finished epochs.
        affects_training: Whether it changes the trained weights, for instance by ending
            training early. If True, a saved run can only be resumed with the same
            callback; other callbacks, such as loggers, may be added or removed. Set it
            to True in a subclass that does.

    References:
        Keras 3, callbacks/callback.py `Callback`.
    """

    learner: Any = None
    phase: int = 0
    frozen: tuple[str, ...] = ()
    rows: Sequence[Row] = ()
    affects_training: bool = False

    def __repr__(self) -> str:
        """Returns the class and the settings that change results; here the class."""
        return type(self).__name__

    def check(self) -> None:
        """Raises if it can't work, before anything is computed or written."""

    def on_train_begin(self) -> None:
        """Called before the first phase of `fit`, `fine_tune` and the like."""

    def on_phase_begin(self, phase: int) -> None:
        """Called before a phase, once its layer groups are frozen or unfrozen."""

    def on_epoch_begin(self, epoch: int) -> None:
        """Called before an epoch."""

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any]) -> None:
        """Called after a training step.

        Args:
            batch: Number of the batch in its epoch, from 0.
            logs: `loss`, `count` (unpadded rows), `grad_norm` and `finite`, scalar
                arrays on the device: reading one waits for the step to finish.
        """

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Called after an epoch and its validation.

        Args:
            epoch: Number of the epoch in its phase, from 0.
            logs: The table's row, see `Row.as_dict`.
        """

    def on_phase_end(self, phase: int) -> None:
        """Called after a phase, unless an error or a signal ended it."""

    def on_train_end(self) -> None:
        """Called at the end of the call, unless it was interrupted."""


class CallbackList:
    """Passes each event to several callbacks, in their order."""

    def __init__(self, callbacks: Any, learner: Any):
        """Takes one callback, several or none, and the learner that trains.

        Raises:
            TypeError: If one of them is not a `Callback`.
        """
        if callbacks is None:
            callbacks = ()
        elif isinstance(callbacks, Callback):
            callbacks = (callbacks,)
        elif isinstance(callbacks, str | Mapping) or not isinstance(
            callbacks, Iterable
        ):
            raise _no_callback(callbacks)
        self.callbacks = tuple(callbacks)
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise _no_callback(callback)
        for callback in self.callbacks:
            callback.learner = learner

    def check(self) -> None:
        """Calls `Callback.check` of each."""
        for callback in self.callbacks:
            callback.check()

    def __bool__(self) -> bool:
        """Returns whether there are any."""
        return bool(self.callbacks)

    def set_phase(
        self, phase: int, frozen: tuple[str, ...], rows: Sequence[Row]
    ) -> None:
        """Sets each callback's phase, frozen groups and finished epochs."""
        for callback in self.callbacks:
            callback.phase, callback.frozen, callback.rows = phase, frozen, rows

    def tell(self, event: str, *arguments: Any) -> None:
        """Calls the method of this name of each callback."""
        for callback in self.callbacks:
            getattr(callback, event)(*arguments)

    def describe(self) -> list[str]:
        """Returns each callback's `repr`."""
        return [repr(callback) for callback in self.callbacks]

    def recipe(self) -> list[str]:
        """Returns the `repr` of those that affect training, for a run's recipe."""
        return [repr(each) for each in self.callbacks if each.affects_training]


def _no_callback(value: Any) -> TypeError:
    text = (
        "callbacks are instances of jaxtune.Callback, one or a list of them; received "
        f"{described(value)}."
    )
    if isinstance(value, type) and issubclass(value, Callback):
        text += f" Write {value.__name__}(...) with brackets, which makes one."
    elif isinstance(value, type) or not callable(value):
        text += " A class of your own has Callback as its base."
    else:
        text += " A function is called by LambdaCallback(on_epoch_end=function)."
    return TypeError(text)


class Monitor(Callback):
    """A callback that watches one column of the table.

    Attributes:
        monitor: Name of the column.
        mode: Whether less or more is better, "min" or "max". "auto" takes the metric's
            attribute `higher_is_better`, else its name where that is a common one
            (losses and errors: less; accuracy, precision, recall, f1, auc and the like:
            more). If neither tells, a ValueError is raised before training.
    """

    def __init__(self, monitor: str = "valid_loss", mode: str = "auto"):
        """Takes the name of a column of the table.

        Raises:
            ValueError: If the mode is unknown.
        """
        if not isinstance(monitor, str):
            raise TypeError(
                f"monitor is the name of a column; received {described(monitor)}."
            )
        if mode not in ("auto", "min", "max"):
            raise ValueError(f'mode is "auto", "min" or "max"; received {mode!r}.')
        self.monitor = monitor
        self.mode = mode

    def check(self) -> None:
        """Checks that the column will exist and that its mode is known.

        Raises:
            ValueError: If it won't exist, or the mode must be given.
        """
        check_monitor(self.monitor, self.learner.columns, type(self).__name__)
        _ = self._sign

    def value(self, row: Row) -> float:
        """Returns the row's value, with a sign so that more is better; NaN is -inf.

        Raises:
            ValueError: If there is no such column.
        """
        figures = row.as_dict()
        if self.monitor not in figures:
            raise ValueError(
                f"there is no column {self.monitor!r} to monitor; the table has "
                f"{', '.join(figures)}."
            )
        value = float(figures[self.monitor])
        return -math.inf if math.isnan(value) else self._sign * value

    @property
    def _sign(self) -> float:
        if self.mode != "auto":
            return 1.0 if self.mode == "max" else -1.0
        metrics = getattr(self.learner, "metrics", ())
        further = getattr(self.learner, "validate_also", ())
        more = more_is_better(self.monitor, named_metrics(metrics), further)
        if more is None:
            raise ValueError(
                f"{type(self).__name__} monitors {self.monitor!r}, and it isn't known "
                'whether more or less of it is better. Write mode="max" or mode="min"; '
                "or give the metric an attribute higher_is_better, True or False."
            )
        return 1.0 if more else -1.0

    def __repr__(self) -> str:
        """Returns the class and its settings: the same in every process."""
        given = ", ".join(
            f"{name}={value!r}"
            for name, value in vars(self).items()
            if name not in ("learner", "phase", "frozen", "rows")
            and not name.startswith("_")
        )
        return f"{type(self).__name__}({given})"


class EarlyStopping(Monitor):
    """Ends a phase when a column has not improved for some epochs.

    Each phase is judged by itself: epochs of the frozen phase are not compared with
    those after unfreezing.

    References:
        fastai 2.8.12, callback/tracker.py `EarlyStoppingCallback`; Keras 3,
        `EarlyStopping`.
    """

    affects_training = True

    def __init__(
        self,
        monitor: str = "valid_loss",
        *,
        patience: Integer = 1,
        min_delta: Number = 0.0,
        mode: str = "auto",
    ):
        """Takes what to watch and how long to wait.

        Args:
            monitor: Name of a column of the table.
            patience: Epochs without improvement after which the phase ends, 1 or more.
            min_delta: Smallest change that counts as an improvement, 0 or more.
            mode: See `Monitor`.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If a number is out of range.
        """
        super().__init__(monitor, mode)
        self.patience = check_integer(patience, "patience", least=1)
        self.min_delta = check_number(min_delta, "min_delta", least=0)

    def on_epoch_begin(self, epoch: int) -> None:
        """Ends the phase if the column has not improved for `patience` epochs."""
        best, since = -math.inf, 0
        for row in self.rows:
            value = self.value(row)
            if value > best + self.min_delta or best == -math.inf < value:
                best, since = value, 0
            else:
                since += 1
        if since >= self.patience:
            raise StopPhase(f"{self.monitor} has not improved for {since} epoch(s)")


class ReduceLROnPlateau(Monitor):
    """Lowers the learning rates when a column has not improved for some epochs.

    The rates of all layer groups are multiplied by `factor`, and the phase's schedule
    continues with the lowered rates: constant rates step down, and the rest of a
    one-cycle schedule is scaled down. Each phase begins with its own rates and is
    judged by itself. The rates are part of the optimizer's state, so nothing is
    recompiled, and a resumed run continues with the lowered rates.

    References:
        Keras 3, callbacks/reduce_lr_on_plateau.py, for the names and the counting;
        fastai 2.8.12, callback/tracker.py `ReduceLROnPlateau`, for the default
        patience; its factor=10 is factor=0.1 here.
    """

    affects_training = True

    def __init__(
        self,
        monitor: str = "valid_loss",
        *,
        factor: Number = 0.1,
        patience: Integer = 1,
        min_delta: Number = 0.0,
        cooldown: Integer = 0,
        min_lr: Number = 0.0,
        mode: str = "auto",
    ):
        """Takes what to watch, how long to wait and what to multiply by.

        Args:
            monitor: Name of a column of the table.
            factor: What the rates are multiplied by, between 0 and 1.
            patience: Epochs without improvement before that, 1 or more.
            min_delta: Smallest change that counts as an improvement, 0 or more.
            cooldown: Epochs after lowering the rates that are not counted.
            min_lr: No group's peak rate is lowered below this; a rate that starts lower
                stays as it is.
            mode: See `Monitor`.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If a number is out of range.
        """
        super().__init__(monitor, mode)
        self.factor = check_number(
            factor,
            "factor",
            above=0,
            below=1,
            meaning="what the rates are multiplied by (fastai divides by it)",
        )
        self.patience = check_integer(patience, "patience", least=1)
        self.min_delta = check_number(min_delta, "min_delta", least=0)
        self.cooldown = check_integer(cooldown, "cooldown", least=0)
        self.min_lr = check_number(min_lr, "min_lr", least=0)
        self._done = 0

    def on_train_begin(self) -> None:
        """Remembers how many epochs came before this call."""
        self._done = len(self.learner.history)

    def on_epoch_begin(self, epoch: int) -> None:
        """Sets the rates that follow from the phase's epochs so far."""
        if not self.rows:
            return
        self._note(self.phase, self.rows)
        before, now = (self._rates(rows) for rows in (self.rows[:-1], self.rows))
        self.learner.set_rates(now)
        if now != before and self.learner.verbose and is_first_process():
            listed = ", ".join(f"{name} {rate:.3g}" for name, rate in now.items())
            print(
                f"{self.monitor} has not improved: peak rates are {listed} from "
                f"epoch {epoch + 1} on",
                flush=True,
            )

    def on_train_end(self) -> None:
        """Records the lowered rates, also for a run that was finished already."""
        rows = list(self.learner.history)[self._done :]
        for phase in dict.fromkeys(row.phase for row in rows):
            self._note(phase, [row for row in rows if row.phase == phase])

    def _note(self, phase: int, rows: Sequence[Row]) -> None:
        record = self.learner.history.phases[phase]
        for epoch in range(1, len(rows) + 1):
            rates = self._rates(rows[:epoch], phase)
            if epoch < record.phase.epochs:
                record.changes[epoch] = tuple(rates.values())

    def _rates(self, rows: Sequence[Row], phase: int | None = None) -> dict[str, float]:
        """Peak rates by group after some epochs of a phase."""
        record = self.learner.history.phases[self.phase if phase is None else phase]
        lowered = self.factor ** self._reductions(rows)
        return {
            group: max(rate * lowered, min(rate, self.min_lr))
            for group, rate in zip(record.groups, record.phase.rates, strict=True)
        }

    def _reductions(self, rows: Sequence[Row]) -> int:
        """How often the rates were lowered, counted as Keras counts."""
        best, since, resting, count = -math.inf, 0, 0, 0
        for row in rows:
            value = self.value(row)
            if resting:
                resting, since = resting - 1, 0
            if value > best + self.min_delta or best == -math.inf < value:
                best, since = value, 0
            elif not resting:
                since += 1
                if since >= self.patience:
                    count, since, resting = count + 1, 0, self.cooldown
        return count


class SaveBest(Monitor):
    """Saves the network of the best epoch, over all phases, as a checkpoint.

    The checkpoint at the path is the best epoch of this learner that a `SaveBest` with
    this path saw, over all fits. A checkpoint that another training left there is
    replaced. An epoch whose value is NaN is not saved.

    References:
        fastai 2.8.12, callback/tracker.py `SaveModelCallback`, which compares within
        one phase only.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        monitor: str = "valid_loss",
        *,
        mode: str = "auto",
        restore: bool = False,
    ):
        """Takes the folder and what to watch.

        Args:
            path: Folder of the checkpoint. A checkpoint that exists is replaced, see
                `Learner.save(overwrite=True)`; anything else is a FileExistsError.
            monitor: Name of a column of the table.
            mode: See `Monitor`.
            restore: Whether the learner ends with the best epoch's weights instead of
                the last ones. If no epoch was saved, it keeps the last, with a warning.

        Raises:
            TypeError: If an argument has the wrong type.
            ValueError: If the mode is unknown.
        """
        super().__init__(monitor, mode)
        self.path = os.fspath(check_path(path, "path"))
        self.restore = check_flag(restore, "restore")
        self._offered: Row | None = None

    @property
    def affects_training(self) -> bool:
        """Whether it changes the learner's weights at the end."""
        return self.restore

    def __repr__(self) -> str:
        """Returns the class and its settings, without the path, which has no effect."""
        return (
            f"SaveBest(monitor={self.monitor!r}, mode={self.mode!r}, "
            f"restore={self.restore!r})"
        )

    def check(self) -> None:
        """Checks the column, and that nothing but a checkpoint would be replaced.

        Raises:
            ValueError: See `Monitor.check`.
            FileExistsError: If something other than a checkpoint is at the path.
        """
        super().check()
        check_replaceable(self._target)

    def on_epoch_begin(self, epoch: int) -> None:
        """Saves the previous epoch, if its process was killed before saving it."""
        if self.rows:
            self._offer(self.rows[-1])

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Saves the network if this epoch is the best so far."""
        self._offer(self.learner.history[-1])

    def on_train_end(self) -> None:
        """Restores the best epoch's weights, with `restore=True`."""
        if not self.restore:
            return
        if self._kept() is not None:
            self.learner.restore_values(self._target)
        else:
            warnings.warn(
                f"SaveBest has nothing to restore from {self.path}: {self.monitor} was "
                "NaN or infinite in every epoch. The learner keeps its last weights.",
                stacklevel=2,
            )

    @property
    def _target(self) -> Place:
        return place_of(self.path)

    def _offer(self, row: Row) -> None:
        if row is self._offered:
            return
        self._offered, value, kept = row, self.value(row), self._kept()
        if value > (-math.inf if kept is None else kept):
            best = {"monitor": self.monitor, **_identity(row, self.monitor)}
            self.learner._save(self._target, overwrite=True, note={"best": best})

    def _kept(self) -> float | None:
        """The value of the saved epoch; None if it isn't one of this training."""
        try:
            meta = load_meta(self._target)
        except (FileNotFoundError, CheckpointDamagedError):
            return None
        best = meta.get("best") if isinstance(meta, dict) else None
        if not isinstance(best, dict) or best.pop("monitor", None) != self.monitor:
            return None
        # Epochs before `extend(validate_also=...)` don't have every column.
        seen = [r for r in self.learner.history if self.monitor in r.as_dict()]
        same = (row for row in seen if _identity(row, self.monitor) == best)
        return next(map(self.value, same), None)


def _identity(row: Row, monitor: str) -> dict[str, Any]:
    """The figures by which a row is told from those of other trainings."""
    figures = row.as_dict()
    names = dict.fromkeys(("phase", "epoch", "train_loss", "valid_loss", monitor))
    return {name: figures[name] for name in names}


class CSVLogger(Callback):
    """Writes the table to a CSV file after every epoch.

    The file has every phase of the learner. It is replaced atomically, so a reader
    never sees half of it.

    References:
        fastai 2.8.12, callback/progress.py `CSVLogger`, which keeps one phase only.
    """

    def __init__(self, path: str | os.PathLike = "history.csv"):
        """Takes the file's name.

        Raises:
            TypeError: If it is not a path.
        """
        self.path = os.fspath(check_path(path, "path"))

    def check(self) -> None:
        """Checks that the path is not a folder.

        Raises:
            IsADirectoryError: If it is.
        """
        if self._target().is_dir():
            raise IsADirectoryError(
                f"{type(self).__name__} writes a file, and {self.path} is a folder."
            )

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Writes the file."""
        if is_first_process():
            self.learner.history.to_csv(self._target())

    def _target(self) -> Place:
        target = place_of(self.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        return target


class JSONLogger(CSVLogger):
    """Writes the table to a file with one line of JSON for each epoch."""

    def __init__(self, path: str | os.PathLike = "history.jsonl"):
        """Takes the file's name."""
        super().__init__(path)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Writes the file."""
        rows = [json.dumps(row.as_dict()) for row in self.learner.history]
        if is_first_process():
            write_text(self._target(), "\n".join(rows) + "\n")


class LambdaCallback(Callback):
    """Calls your own functions at events.

    References:
        Keras 3, callbacks/lambda_callback.py.
    """

    def __init__(self, **functions: Callable):
        """Takes functions by the names of events: `on_epoch_end=print`.

        They may raise `StopPhase` or `StopTraining`. For a saved run (`run=`), write a
        subclass of `Callback` with `affects_training = True` for that instead.

        Raises:
            TypeError: If there is no such event, or a value is not a function.
        """
        events = [name for name in vars(Callback) if name.startswith("on_")]
        for name, function in functions.items():
            if name not in events:
                raise TypeError(
                    f"there is no event {name!r}; there are {', '.join(events)}."
                )
            setattr(self, name, check_function(function, name, "a function"))
