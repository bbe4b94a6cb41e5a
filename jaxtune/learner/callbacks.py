"""Callbacks: what else happens while a learner trains.

Events go in, named as Keras names them; files, and requests to stop, come out. The one
rule of the file: what a callback decides follows from the table so far, so a run that
was killed and taken up decides the same.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtune.checkpoint import write_text
from jaxtune.learner.history import Row


class StopPhase(Exception):  # noqa: N818 - no error: a callback asked
    """Raised by a callback: this phase ends here, in good order; the next begins."""


class StopTraining(Exception):  # noqa: N818 - no error: a callback asked
    """Raised by a callback: the whole run ends here, in good order."""


class Callback:
    """Hears what a learner does; a subclass has the methods that it needs.

    Epochs and batches are numbered from 0 within their phase, phases from 1, as in the
    table. A method may raise `StopPhase` or `StopTraining`.

    Attributes:
        learner: Whose training it is; its `history` is the table so far.
        phase: Number of the phase under way, from 1, as in the history.
        frozen: Names of the groups that are frozen in it.
        rows: The phase's finished epochs.

    References:
        Keras 3, callbacks/callback.py `Callback`.
    """

    learner: Any = None
    phase: int = 0
    frozen: tuple[str, ...] = ()
    rows: Sequence[Row] = ()

    def __repr__(self) -> str:
        """Returns what decides a run's numbers; here the class alone."""
        return type(self).__name__

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

    def __init__(self, callbacks: Callback | Iterable | None, learner: Any):
        """Takes one callback, several or none, and whose training they hear of.

        Raises:
            TypeError: If one of them is no `Callback`.
        """
        if callbacks is None:
            callbacks = ()
        elif isinstance(callbacks, Callback):
            callbacks = (callbacks,)
        self.callbacks = tuple(callbacks)
        for callback in self.callbacks:
            if not isinstance(callback, Callback):
                raise TypeError(
                    "callbacks are instances of jaxtune.Callback; received "
                    f"{callback!r}."
                )
            callback.learner = learner

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


class Monitor(Callback):
    """A callback that watches one figure of the table.

    Attributes:
        monitor: Name of the column.
        mode: Whether less or more is better; "auto": more for what is called accuracy,
            precision, recall, f1 or auc, else less.
    """

    def __init__(self, monitor: str = "valid_loss", mode: str = "auto"):
        """Takes the name of a column of the table.

        Raises:
            ValueError: If the mode is unknown.
        """
        if mode not in ("auto", "min", "max"):
            raise ValueError(f'mode is "auto", "min" or "max"; received {mode!r}.')
        self.monitor = monitor
        self.mode = mode

    def value(self, row: Row) -> float:
        """Returns the figure of a row; NaN is as bad as can be.

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
        more = ("acc", "precision", "recall", "f1", "auc")
        return 1.0 if any(word in self.monitor.lower() for word in more) else -1.0

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

    def __init__(
        self,
        monitor: str = "valid_loss",
        *,
        patience: int = 1,
        min_delta: float = 0.0,
        mode: str = "auto",
    ):
        """Takes what to watch and how long to wait.

        Args:
            monitor: Name of a column of the table.
            patience: Epochs without improvement after which the phase ends, 1 or more.
            min_delta: How much better is better.
            mode: See `Monitor`.

        Raises:
            ValueError: If the patience is below 1.
        """
        super().__init__(monitor, mode)
        if patience < 1:
            raise ValueError(f"patience is 1 or more; received {patience}.")
        self.patience = patience
        self.min_delta = min_delta

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


class SaveBest(Monitor):
    """Keeps the best network of all phases in a checkpoint.

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
            path: Folder of the checkpoint; what is there is replaced.
            monitor: Name of a column of the table.
            mode: See `Monitor`.
            restore: Whether the learner has the best values at the end, not the last.
        """
        super().__init__(monitor, mode)
        self.path = os.fspath(path)
        self.restore = restore

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """Saves, if this epoch is the best of the learner's history."""
        *before, now = self.learner.history
        # Epochs from before `extend(validate_also=...)` don't have every column.
        before = [row for row in before if self.monitor in row.as_dict()]
        value = self.value(now)
        if all(value > self.value(row) for row in before):
            target = Path(self.path).expanduser().resolve()
            fresh = target.with_name(f".{target.name}.new")
            shutil.rmtree(fresh, ignore_errors=True)
            aside = target.with_name(f".{target.name}.old")
            shutil.rmtree(aside, ignore_errors=True)
            self.learner.save(fresh)
            if target.exists():
                target.rename(aside)
            fresh.rename(target)
            shutil.rmtree(aside, ignore_errors=True)

    def on_train_end(self) -> None:
        """Gives the learner the best values, if asked to."""
        if self.restore:
            self.learner.restore_values(self.path)


class CSVLogger(Callback):
    """Writes the table to a file of comma-separated values after every epoch.

    The file has every phase of the learner, and is whole at every moment.

    References:
        fastai 2.8.12, callback/progress.py `CSVLogger`, which forgets the phase before.
    """

    def __init__(self, path: str | os.PathLike = "history.csv"):
        """Takes the file's name."""
        self.path = os.fspath(path)

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

        Raises:
            TypeError: If there is no such event.
        """
        events = [name for name in vars(Callback) if name.startswith("on_")]
        for name, function in functions.items():
            if name not in events:
                raise TypeError(
                    f"there is no event {name!r}; there are {', '.join(events)}."
                )
            setattr(self, name, function)
