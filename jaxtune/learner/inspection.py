"""What of a `Learner` looks inside: summary, plan, diff, and whether frozen is frozen.

The one rule of the file: looking changes nothing, and computes nothing of the network.
"""

import os
from collections.abc import Callable, Collection, Sequence
from typing import Any

from jaxtune.arguments import Integer, Number, check_integer, described
from jaxtune.checkpoint import load_checkpoint
from jaxtune.inspect.diff import Diff, Stretch, check_frozen, stretches
from jaxtune.inspect.plan import Plan, plan_phases
from jaxtune.inspect.summary import Summary, network_layers, summarize
from jaxtune.learner.options import check_known
from jaxtune.loop.history import History
from jaxtune.loop.trainer import Trainer
from jaxtune.train import Phase, boundary_index, checked_phases, split_module
from jaxtune.transfer import group_labels

#: What of `fine_tune` decides its phases, beside epochs and rate.
_FINE_TUNING = (
    *("freeze_epochs", "lr_mult", "pct_start", "div", "div_final", "unfreeze_to"),
    *("wd", "moms"),
)


class Inspection:
    """What of a `Learner` looks inside.

    Attributes:
        data: Where batches come from.
        history: Every epoch so far, over all phases.
    """

    data: Any
    history: History
    _fine_tuning: Callable[..., tuple[Phase, ...]]
    _trainer: Trainer

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
            phases: Phases of one's own, as for `fit_phases`, instead of fine-tuning.
            **options: freeze_epochs, lr_mult, pct_start, div, div_final, unfreeze_to,
                wd and moms, as in `fine_tune`.

        Raises:
            TypeError: If an argument is of another type, or unknown.
            ValueError: If one is out of its range, or of fine-tuning beside `phases`.
        """
        trainer = self._trainer
        check_known(options, _FINE_TUNING, "plan")
        if phases is None:
            epochs = 1 if epochs is None else epochs
            base_lr = 2e-3 if base_lr is None else base_lr
            phases = self._fine_tuning(epochs, base_lr, **options)
        else:
            own = {"epochs": epochs, "base_lr": base_lr, **options}
            given = [name for name, value in own.items() if value is not None]
            if given:
                raise ValueError(
                    f"phases comes with {' and '.join(given)}, which says how fine_tune"
                    f" makes phases: leave {' and '.join(given)} out, or phases."
                )
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
        if since is not None and not isinstance(since, str | os.PathLike):
            try:
                since = check_integer(since, "since", least=1)
            except TypeError:
                raise TypeError(
                    'since must be the number of a phase, "start", the folder of a '
                    f"checkpoint or None; received {described(since)}."
                ) from None
        labels, now = self._labels_and_values()
        parts = stretches(self._trainer.snapshots, now)
        if since is not None:
            parts = [self._stretch_since(since, parts, now)]
        if not parts:
            raise ValueError(
                "nothing has trained yet, so nothing has moved. Train first, or "
                "compare with a checkpoint: diff(since=path)."
            )
        return Diff(parts, labels, self._layer_order())

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
        names = (groups,) if isinstance(groups, str) else groups
        listed = names is None or (
            isinstance(names, Collection) and all(isinstance(n, str) for n in names)
        )
        if not listed:
            raise TypeError(
                "groups must be the name of a layer group, several, or None; received "
                f"{described(names)}."
            )
        for name in names or ():
            boundary_index(name, self._trainer.groups)
        labels, now = self._labels_and_values()
        check_frozen(
            self._trainer.snapshots,
            now,
            labels,
            groups=names,
            norms=self._trainer.norms,
        )

    def _labels_and_values(self) -> tuple[Any, tuple[Any, Any]]:
        _, params, model_state = split_module(self._trainer.module)
        return group_labels(params, self._trainer.groups), (params, model_state)

    def _stretch_since(
        self, since: int | str | os.PathLike, parts: list[Stretch], now: tuple[Any, Any]
    ) -> Stretch:
        numbers = [part.phase for part in parts]
        if since == "start" or isinstance(since, int):
            first = numbers[0] if since == "start" and numbers else since
            if first not in numbers:
                raise ValueError(
                    f"no phase {since!r} has begun; there are {numbers or 'none yet'}."
                )
            part = parts[numbers.index(first)]
            name = f"since the beginning of phase {first}"
            return Stretch(0, name, (), part.before, now)
        before = load_checkpoint(since, params=now[0], model_state=now[1])
        return Stretch(0, f"since {os.fspath(since)}", (), before, now)

    def _layer_order(self) -> list[str]:
        layers = network_layers(
            self._trainer.module,
            size=self.data.size,
            in_channels=self.data.in_channels,
        )
        return [layer.path for layer in layers]
