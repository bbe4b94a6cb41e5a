"""The learner's training: fits, one cycle, fine-tuning, each of which can be a run.

The one rule of the file: a fit is a list of phases, which are plain data; the trainer
is handed them, and nothing is decided on the way.
"""

import os
from collections.abc import Sequence
from typing import Any

from jaxtune.arguments import Integer, Number, check_instance, check_number
from jaxtune.learner.phases import Callbacks, PhaseTraining
from jaxtune.loop.history import History
from jaxtune.train import (
    Phase,
    Rates,
    Schedule,
    boundary_index,
    check_epochs,
    check_momentums,
    constant,
    fine_tune_phases,
    flat_cosine,
    gradual_phases,
    one_cycle,
    resolve_rates,
)


class Training(PhaseTraining):
    """What of a `Learner` trains by a recipe.

    Attributes:
        lr: Peak learning rate where a fit is given none.
        wd: Weight decay.
        moms: Momentum at a cycle's start, at its peak and at its end.
    """

    lr: float
    wd: float
    moms: tuple[float, float, float]

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

        With `run`, the run is kept in a folder: checkpoints are written behind the
        training's back, and the same line in a new process goes on where the last one
        was stopped, killed or finished, with the result of a run that was not stopped,
        bit for bit on the same machine. SIGTERM and Ctrl-C save first.

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
        return self._train(phases, run, save_every, callbacks)

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

    def _total_steps(self, epochs: Any) -> int:
        return check_epochs(epochs, "epochs") * len(self.data.train_loader)

    def _decay_of(self, wd: Any) -> float:
        return check_number(self.wd if wd is None else wd, "wd", least=0)

    def _momentums_of(self, moms: Any) -> tuple:
        return check_momentums(self.moms if moms is None else moms, "moms")

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
