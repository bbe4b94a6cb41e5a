"""Phases trained one after the other, in memory or as a run that is kept.

The one rule of the file: phases are plain data; the trainer is handed them, and nothing
is decided on the way.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import jax

from jaxtune.arguments import Number, check_number, check_path
from jaxtune.checkpoint import RunFolder, checkpoint_numbers, environment
from jaxtune.loop.callbacks import CallbackList, decides
from jaxtune.loop.history import History
from jaxtune.loop.resume import Session
from jaxtune.loop.run_description import describe_data
from jaxtune.loop.sharding import check_one_process
from jaxtune.loop.trainer import Trainer
from jaxtune.results.predictor import describe
from jaxtune.results.thresholds import Thresholded
from jaxtune.train import (
    Phase,
    boundary_index,
    checked_phases,
)

#: A `Callback`, several or None; anything else is refused in words, see `CallbackList`.
Callbacks = Any


class _LastRun(NamedTuple):
    """The run that this learner was in last, to be taken up in the same process."""

    path: Path
    before: dict
    mark: tuple


def _upgraded(recipe: dict) -> dict:
    """A recipe in today's form, of a run that was begun when it had more in it."""
    if "format" in recipe:
        return recipe
    callbacks = [
        re.sub(r"path='[^']*', ?|, path='[^']*'", "", text)
        for text in recipe.get("callbacks", ())
        if decides(text)
    ]
    kept = {name: value for name, value in recipe.items() if name != "metrics"}
    return {"format": 2, **kept, "callbacks": callbacks}


class PhaseTraining(Thresholded):
    """What of a `Learner` trains phases.

    Attributes:
        data: Where batches come from.
        history: Every epoch so far, over all phases.
        network: How the network was built, or None.
        seed: Decides dropout and augmentation.
        verbose: Whether to show start lines, tables and progress.
    """

    data: object
    history: History
    network: dict | None
    seed: int
    verbose: bool
    _trainer: Trainer
    _last_run: _LastRun | None

    @property
    def groups(self) -> Mapping:
        """Layer groups, first to last: name to pattern or paths."""
        return MappingProxyType(self._trainer.groups)

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that the table of the next fit will have."""
        return tuple(self._trainer.columns)

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

    def fit_phases(
        self,
        phases: Sequence[Phase],
        *,
        callbacks: Callbacks = None,
        run: str | os.PathLike | None = None,
        save_every: Number | None = None,
    ) -> History:
        """Trains phases of one's own, one after the other; returns the history.

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
        return self._train(phases, run, save_every, callbacks)

    def _train(
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
        events = CallbackList(callbacks, self)
        events.check()
        if run is None:
            return self._collect(phases, None, events)
        path = Path(run).expanduser().resolve()
        before = self._before(path)
        recipe = {
            "format": 2,
            "phases": [phase.as_dict() for phase in phases],
            "data": describe_data(self.data),
            "network": self.network,
            "seed": self.seed,
            "callbacks": events.recipe(),
            **self._trainer.describe(),
            **before,
        }
        # Metrics look on, too: other ones are other columns, and no other network.
        recipe.pop("metrics", None)
        folder = RunFolder(
            path,
            recipe,
            made_with=environment(),
            save_every=seconds,
            upgrade=_upgraded,
        )
        session = Session(
            folder,
            phases,
            self._meta(),
            steps_per_epoch=len(self.data.train_loader),
            name=os.fspath(run),
        )
        try:
            with session:
                return self._collect(phases, session, events)
        finally:
            self._last_run = _LastRun(path, before, self._trainer.mark)

    def _collect(
        self, phases: Sequence[Phase], session: Session | None, events: CallbackList
    ) -> History:
        done = len(self.history)
        self._announce(phases)
        for row in self._trainer.run(
            self.data,
            phases,
            first_epoch=done,
            key=jax.random.key(self.seed),
            session=session,
            callbacks=events,
            verbose=self.verbose,
        ):
            self.history.append(row, self._trainer.step_losses)
        return self.history[done:]

    def _announce(self, phases: Sequence[Phase]) -> None:
        groups, frozen = tuple(self._trainer.groups), self._trainer.frozen_groups
        for number, phase in enumerate(phases, start=self._trainer.phase + 1):
            if phase.boundary is not None:
                frozen = groups[: phase.boundary]
            self.history.add_phase(
                number,
                phase,
                groups=groups,
                frozen=self._resting(frozen),
                steps_per_epoch=len(self.data.train_loader),
            )

    def _resting(self, frozen: tuple[str, ...]) -> list[str]:
        """Those of the frozen groups of which not even the norms train."""
        trained = set(jax.tree.leaves(self._trainer.labels(frozen)))
        return [group for group in frozen if group not in trained]

    def _before(self, path: Path) -> dict:
        """Returns what the run begins with; the same if it was stopped just now."""
        last = self._last_run
        again = last is not None and (last.path, last.mark) == (
            path,
            self._trainer.mark,
        )
        if again and checkpoint_numbers(path):
            self.history.truncate(last.before["epochs_before"])
            self._trainer.phase = last.before["phases_before"]
            return last.before
        return {
            "epochs_before": len(self.history),
            "phases_before": self._trainer.phase,
            "frozen": list(self._trainer.frozen_groups),
            "start": self._trainer.fingerprint(),
        }

    def _meta(self) -> dict:
        return describe(
            network=self.network,
            data=self.data,
            mean=self._trainer.programs.mean,
            std=self._trainer.programs.std,
            training=self._trainer.describe(),
            thresholds=None if self._thresholds is None else self.thresholds,
        )
