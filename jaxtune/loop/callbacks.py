"""Callbacks: what else happens while a learner trains.

Events go in, named as Keras names them; files, and requests to stop, come out. The one
rule of the file: what a callback decides follows from the table so far, so a run that
was killed and taken up decides the same.
"""

import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
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
    check_replaceable,
    load_meta,
    write_text,
)
from jaxtune.loop.columns import check_monitor, more_is_better
from jaxtune.loop.history import Row
from jaxtune.train import named_metrics


class StopPhase(Exception):  # noqa: N818 - no error: a callback asked
    """Raised by a callback: this phase ends here, in good order; the next begins."""


class StopTraining(Exception):  # noqa: N818 - no error: a callback asked
    """Raised by a callback: the whole run ends here, in good order."""


class Callback:
    """Hears what a learner does; a subclass has the methods that it needs.

    Epochs and batches are numbered from 0 within their phase, phases from 1, as in the
    table. A method may raise `StopPhase` or `StopTraining`. The same callback can be
    given to several fits.

    Attributes:
        learner: Whose training it is; its `history` is the table so far.
        phase: Number of the phase under way, from 1, as in the history.
        frozen: Names of the groups that are frozen in it.
        rows: The phase's finished epochs.
        affects_training: Whether it changes what the training comes to, by ending it
            early for instance. If so, a run that is kept must be taken up with the same
            callback; others, such as loggers, may come and go. Set it in a subclass
            that does.

    References:
        Keras 3, callbacks/callback.py `Callback`.
    """

    learner: Any = None
    phase: int = 0
    frozen: tuple[str, ...] = ()
    rows: Sequence[Row] = ()
    affects_training: bool = False

    def __repr__(self) -> str:
        """Returns what decides a run's numbers; here the class alone."""
        return type(self).__name__

    def check(self) -> None:
        """Raises what can't work, before anything is computed or written."""

    def on_train_begin(self) -> None:
        """Before the first phase of a call of `fit`, `fine_tune` and the like."""

    def on_phase_begin(self, phase: int) -> None:
        """Before a phase, whose layer groups are frozen or not by now."""

    def on_epoch_begin(self, epoch: int) -> None:
        """Before an epoch."""

    def on_train_batch_end(self, batch: int, logs: Mapping[str, Any]) -> None:
        """After a step.

        Args:
            batch: Number of the batch in its epoch.
            logs: `loss`, `count`, `grad_norm` and `finite`, arrays on the device: to
                look at one is to wait for it.
        """

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """After an epoch and its validation.

        Args:
            epoch: Its number.
            logs: The table's row, see `Row.as_dict`.
        """

    def on_phase_end(self, phase: int) -> None:
        """After a phase, however it ended."""

    def on_train_end(self) -> None:
        """At the end of the call; not if it was interrupted."""


class CallbackList:
    """Tells several callbacks the same, in their order."""

    def __init__(self, callbacks: Any, learner: Any):
        """Takes one callback, several or none, and whose training they hear of.

        Raises:
            TypeError: If one of them is no `Callback`.
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
        """Lets each of them refuse what can't work, see `Callback.check`."""
        for callback in self.callbacks:
            callback.check()

    def __bool__(self) -> bool:
        """Returns whether there are any."""
        return bool(self.callbacks)

    def set_phase(
        self, phase: int, frozen: tuple[str, ...], rows: Sequence[Row]
    ) -> None:
        """Says which phase it is, and what of it is finished."""
        for callback in self.callbacks:
            callback.phase, callback.frozen, callback.rows = phase, frozen, rows

    def tell(self, event: str, *arguments: Any) -> None:
        """Calls a method of each."""
        for callback in self.callbacks:
            getattr(callback, event)(*arguments)

    def describe(self) -> list[str]:
        """Returns what they are, as JSON."""
        return [repr(callback) for callback in self.callbacks]

    def recipe(self) -> list[str]:
        """Returns those of them that decide a run's numbers, as JSON."""
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
    """A callback that watches one figure of the table.

    Attributes:
        monitor: Name of the column.
        mode: Whether less or more is better, "min" or "max". "auto": as the metric says
            by its attribute `higher_is_better`, or as its name does where that is a
            common one (losses and errors: less; accuracy, precision, recall, f1, auc
            and the like: more). If neither does, training doesn't begin.
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
        """Looks whether the column will be there, and which way of it is up.

        Raises:
            ValueError: If it won't, or the mode must be given.
        """
        check_monitor(self.monitor, self.learner.columns, type(self).__name__)
        _ = self._sign

    def value(self, row: Row) -> float:
        """Returns the figure of a row, more being better; NaN is as bad as can be.

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
                f"{type(self).__name__} monitors {self.monitor!r}, of which it isn't "
                f'known whether more or less is better. Write mode="max" or '
                'mode="min"; or give the metric an attribute higher_is_better, True or '
                "False."
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
    """Ends a phase when a figure has not become better for some epochs.

    Each phase is judged by itself: an epoch of the frozen phase is no measure for the
    ones that come after unfreezing.

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
            min_delta: How much better is better, 0 or more.
            mode: See `Monitor`.

        Raises:
            TypeError: If an argument is of another type.
            ValueError: If a number is out of its range.
        """
        super().__init__(monitor, mode)
        self.patience = check_integer(patience, "patience", least=1)
        self.min_delta = check_number(min_delta, "min_delta", least=0)

    def on_epoch_begin(self, epoch: int) -> None:
        """Ends the phase instead, if it is time."""
        best, since = -math.inf, 0
        for row in self.rows:
            value = self.value(row)
            if value > best + self.min_delta or best == -math.inf < value:
                best, since = value, 0
            else:
                since += 1
        if since >= self.patience:
            raise StopPhase(
                f"{self.monitor} has not become better for {since} epoch(s)"
            )


class ReduceLROnPlateau(Monitor):
    """Lowers the learning rates when a figure has not become better for some epochs.

    All layer groups' rates are multiplied by `factor`, and the phase's schedule goes on
    with the lowered ones: at constant rates they are steps down, in a cycle the rest of
    the cycle is lower. Each phase begins with its own rates and is judged by itself.
    The rates are numbers of the optimizer's state, so nothing is compiled again, and a
    run that is taken up has them as they were.

    References:
        Keras 3, callbacks/reduce_lr_on_plateau.py, whose names and counting these are;
        fastai 2.8.12, callback/tracker.py `ReduceLROnPlateau`, whose patience is the
        default, and whose factor=10 is 0.1 here.
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
            min_delta: How much better is better, 0 or more.
            cooldown: Epochs after it that are not counted.
            min_lr: No group's peak rate becomes lower than this; one that is lower from
                the beginning stays as it is.
            mode: See `Monitor`.

        Raises:
            TypeError: If an argument is of another type.
            ValueError: If a number is out of its range.
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
        """Remembers which epochs were before this call."""
        self._done = len(self.learner.history)

    def on_epoch_begin(self, epoch: int) -> None:
        """Sets the rates that the epochs before ask for."""
        if not self.rows:
            return
        self._note(self.phase, self.rows)
        before, now = (self._rates(rows) for rows in (self.rows[:-1], self.rows))
        self.learner.set_rates(now)
        if now != before and self.learner.verbose:
            listed = ", ".join(f"{name} {rate:.3g}" for name, rate in now.items())
            print(
                f"{self.monitor} has not become better: peak rates are {listed} from "
                f"epoch {epoch + 1} on",
                flush=True,
            )

    def on_train_end(self) -> None:
        """Tells the history, of a run that was taken up at its end too."""
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
    """Keeps the best network of all phases in a checkpoint.

    What is at the path afterwards is the best of the learner's epochs that a `SaveBest`
    with this path saw, over all fits. What another training left there is replaced. An
    epoch whose figure is NaN is not kept.

    References:
        fastai 2.8.12, callback/tracker.py `SaveModelCallback`, which forgets the best
        of the phase before; this one doesn't.
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
            path: Folder of the checkpoint. A checkpoint that is there is replaced, see
                `Learner.save(overwrite=True)`; anything else is refused.
            monitor: Name of a column of the table.
            mode: See `Monitor`.
            restore: Whether the learner has the best values at the end, not the last.
                If there are none to restore, it keeps the last, and a warning says so.

        Raises:
            TypeError: If an argument is of another type.
            ValueError: If the mode is unknown.
        """
        super().__init__(monitor, mode)
        self.path = os.fspath(check_path(path, "path"))
        self.restore = check_flag(restore, "restore")
        self._offered: Row | None = None

    @property
    def affects_training(self) -> bool:
        """Whether it gives the learner other values at the end."""
        return self.restore

    def __repr__(self) -> str:
        """Returns the class and its settings, without the path: it decides nothing."""
        return (
            f"SaveBest(monitor={self.monitor!r}, mode={self.mode!r}, "
            f"restore={self.restore!r})"
        )

    def check(self) -> None:
        """Looks at the column, and whether the path may be written to.

        Raises:
            ValueError: See `Monitor.check`.
            FileExistsError: If something else than a checkpoint is at the path.
        """
        super().check()
        check_replaceable(self._target)

    def on_epoch_begin(self, epoch: int) -> None:
        """Saves the epoch before, if the process that trained it ended too early to."""
        if self.rows:
            self._offer(self.rows[-1])

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Saves, if this epoch is the best of the learner's history."""
        self._offer(self.learner.history[-1])

    def on_train_end(self) -> None:
        """Gives the learner the best values, if asked to."""
        if not self.restore:
            return
        if self._kept() is not None:
            self.learner.restore_values(self._target)
        else:
            warnings.warn(
                f"SaveBest has nothing to restore from {self.path}: {self.monitor} was "
                "a number in no epoch that it saw. The learner keeps its last values.",
                stacklevel=2,
            )

    @property
    def _target(self) -> Path:
        return Path(self.path).expanduser().resolve()

    def _offer(self, row: Row) -> None:
        if row is self._offered:
            return
        self._offered, value, kept = row, self.value(row), self._kept()
        if value > (-math.inf if kept is None else kept):
            best = {"monitor": self.monitor, **_identity(row, self.monitor)}
            self.learner._save(self._target, overwrite=True, note={"best": best})

    def _kept(self) -> float | None:
        """The figure of what is at the path; None if that isn't of this training."""
        try:
            meta = load_meta(self._target)
        except (FileNotFoundError, CheckpointDamagedError):
            return None
        best = meta.get("best") if isinstance(meta, dict) else None
        if not isinstance(best, dict) or best.pop("monitor", None) != self.monitor:
            return None
        # Epochs from before `extend(validate_also=...)` don't have every column.
        seen = [r for r in self.learner.history if self.monitor in r.as_dict()]
        same = (row for row in seen if _identity(row, self.monitor) == best)
        return next(map(self.value, same), None)


def _identity(row: Row, monitor: str) -> dict[str, Any]:
    """What tells a row from those of other trainings."""
    figures = row.as_dict()
    names = dict.fromkeys(("phase", "epoch", "train_loss", "valid_loss", monitor))
    return {name: figures[name] for name in names}


class CSVLogger(Callback):
    """Writes the table to a file of comma-separated values after every epoch.

    The file has every phase of the learner, and is whole at every moment.

    References:
        fastai 2.8.12, callback/progress.py `CSVLogger`, which forgets the phase before.
    """

    def __init__(self, path: str | os.PathLike = "history.csv"):
        """Takes the file's name.

        Raises:
            TypeError: If it is no path.
        """
        self.path = os.fspath(check_path(path, "path"))

    def check(self) -> None:
        """Looks whether the file can be written.

        Raises:
            IsADirectoryError: If a folder is there.
        """
        if self._target().is_dir():
            raise IsADirectoryError(
                f"{type(self).__name__} writes a file, and {self.path} is a folder."
            )

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Writes the file."""
        self.learner.history.to_csv(self._target())

    def _target(self) -> Path:
        target = Path(self.path).expanduser().resolve()
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
        write_text(self._target(), "\n".join(rows) + "\n")


class LambdaCallback(Callback):
    """Calls functions of one's own at events.

    References:
        Keras 3, callbacks/lambda_callback.py.
    """

    def __init__(self, **functions: Callable):
        """Takes functions by the names of events: `on_epoch_end=print`.

        They may raise `StopPhase` or `StopTraining`. In a run that is kept, write a
        subclass of `Callback` with `affects_training = True` for that.

        Raises:
            TypeError: If there is no such event, or what is given is no function.
        """
        events = [name for name in vars(Callback) if name.startswith("on_")]
        for name, function in functions.items():
            if name not in events:
                raise TypeError(
                    f"there is no event {name!r}; there are {', '.join(events)}."
                )
            setattr(self, name, check_function(function, name, "a function"))
