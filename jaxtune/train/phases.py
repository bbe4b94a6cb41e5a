"""Phases: which groups train, for how long, at which rates.

A recipe's few numbers in, a tuple of phases out. The one rule of the file: a phase is
plain data; whoever trains it, the learner or a loop of one's own, gets the same run.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxtune.arguments import (
    Integer,
    Number,
    check_function,
    check_instance,
    check_integer,
    check_number,
    described,
)
from jaxtune.train.schedules import (
    Schedule,
    check_momentums,
    check_schedule,
    one_cycle,
    resolve_rates,
    slanted_triangular,
)

MOMENTUMS = (0.95, 0.85, 0.95)


@dataclasses.dataclass(frozen=True)
class Phase:
    """One stretch of training: one freeze boundary, one schedule.

    Attributes:
        name: What the start line calls it; None for its number.
        boundary: How many of the first layer groups are frozen; None leaves frozen
            what is, and the optimizer's moments with it.
        epochs: Passes over the training data.
        rates: Peak learning rate of each layer group, frozen ones included.
        schedule: How rate and momentum move over the batches of all its epochs; with
            gradient accumulation over their updates, see `over_updates`, which the
            learner uses by itself.
        weight_decay: Of everything but norms and biases.
    """

    name: str | None
    boundary: int | None
    epochs: int
    rates: tuple[float, ...]
    schedule: Any
    weight_decay: float

    def as_dict(self) -> dict:
        """Returns the phase as plain JSON, so that two can be compared and kept."""
        schedule: Schedule = self.schedule
        return {
            "boundary": self.boundary,
            "epochs": self.epochs,
            "rates": [float(rate) for rate in self.rates],
            "weight_decay": float(self.weight_decay),
            "total_steps": int(schedule.total_steps),
            "learning_rate": _curve_as_dict(schedule.learning_rate),
            "momentum": _curve_as_dict(schedule.momentum),
        }


def fine_tune_phases(
    num_groups: Integer,
    steps_per_epoch: Integer,
    epochs: Integer,
    base_lr: Number = 2e-3,
    *,
    freeze_epochs: Integer = 1,
    lr_mult: Number = 100.0,
    pct_start: Number = 0.3,
    div: Number = 5.0,
    div_final: Number = 1e5,
    weight_decay: Number = 0.01,
    momentums: Sequence[Number] = MOMENTUMS,
    unfreeze_to: Integer = 0,
) -> tuple[Phase, ...]:
    """Returns fastai's `fine_tune`: the head alone, then everything.

    Phase 1 has every group frozen but the last, peak rate `base_lr` (a tenth of it for
    what still trains in earlier groups), rising for 99 % of the way. Phase 2 has none
    frozen, with peak rates from base_lr / 2 / lr_mult in the first group to base_lr / 2
    in the last.

    Args:
        num_groups: Number of layer groups.
        steps_per_epoch: Batches in an epoch.
        epochs: Epochs after unfreezing.
        base_lr: Peak rate of the head in phase 1.
        freeze_epochs: Epochs before unfreezing; 0 leaves phase 1 out.
        lr_mult: How much slower the first group is than the last.
        pct_start: Fraction of phase 2 spent rising.
        div: Phase 2 starts at its peak rates / div.
        div_final: Both phases end at their peak rates / div_final.
        weight_decay: Of everything but norms and biases.
        momentums: At a cycle's start, at its peak and at its end.
        unfreeze_to: How many of the first groups stay frozen in phase 2.

    Raises:
        TypeError: If an argument is no number, or a number of epochs not whole.
        ValueError: If one is out of range, or there is one group only and a frozen
            phase is asked for.

    Example:
        >>> head, whole = fine_tune_phases(3, steps_per_epoch=10, epochs=2)
        >>> head.boundary, head.rates
        (2, (0.0002, 0.0002, 0.002))
        >>> whole.boundary, whole.rates
        (0, (1e-05, 0.0001, 0.001))

    References:
        fastai 2.8.12, callback/schedule.py `fine_tune`.
    """
    num_groups = check_integer(num_groups, "num_groups", least=1)
    steps_per_epoch = check_integer(steps_per_epoch, "steps_per_epoch", least=1)
    epochs = check_epochs(epochs, "epochs")
    freeze_epochs = check_epochs(freeze_epochs, "freeze_epochs", least=0)
    base_lr = check_base_lr(base_lr)
    lr_mult = check_number(lr_mult, "lr_mult", above=0)
    weight_decay = check_number(weight_decay, "weight_decay", least=0)
    momentums = check_momentums(momentums, "momentums")
    unfreeze_to = check_integer(
        unfreeze_to, "unfreeze_to", least=0, most=num_groups - 1
    )
    if freeze_epochs and num_groups < 2:
        raise ValueError(
            "a frozen phase needs at least two layer groups; there is one. Give "
            "groups= or split_on=, or freeze_epochs=0."
        )
    phases = []
    if freeze_epochs:
        phases.append(
            Phase(
                name="phase 1/2",
                boundary=num_groups - 1,
                epochs=freeze_epochs,
                rates=resolve_rates(slice(base_lr), num_groups),
                schedule=one_cycle(
                    freeze_epochs * steps_per_epoch,
                    pct_start=0.99,
                    div_final=div_final,
                    momentums=momentums,
                ),
                weight_decay=weight_decay,
            )
        )
    half = base_lr / 2
    phases.append(
        Phase(
            name="phase 2/2" if freeze_epochs else None,
            boundary=unfreeze_to,
            epochs=epochs,
            rates=resolve_rates(slice(half / lr_mult, half), num_groups),
            schedule=one_cycle(
                epochs * steps_per_epoch,
                pct_start=pct_start,
                div=div,
                div_final=div_final,
                momentums=momentums,
            ),
            weight_decay=weight_decay,
        )
    )
    return tuple(phases)


def gradual_phases(
    num_groups: Integer,
    steps_per_epoch: Integer,
    epochs: Integer,
    base_lr: Number = 2e-3,
    *,
    epochs_each: Integer = 1,
    decay: Number = 2.6,
    weight_decay: Number = 0.01,
    schedule: Callable[[int], Schedule] = slanted_triangular,
) -> tuple[Phase, ...]:
    """Returns gradual unfreezing: the last group alone, then one more in each phase.

    Args:
        num_groups: Number of layer groups.
        steps_per_epoch: Batches in an epoch.
        epochs: Epochs of the last phase, in which everything trains.
        base_lr: Peak rate of the last group.
        epochs_each: Epochs of each phase before.
        decay: Each group's rate is that of the next one divided by this.
        weight_decay: Of everything but norms and biases.
        schedule: Makes a phase's schedule from its number of batches.

    Raises:
        TypeError: If an argument is no number, or a number of epochs not whole.
        ValueError: If one is out of range, or there is one group only.

    Example:
        >>> phases = gradual_phases(3, 10, 4)
        >>> [(phase.boundary, phase.epochs) for phase in phases]
        [(2, 1), (1, 1), (0, 4)]

    References:
        Howard and Ruder, "ULMFiT", https://arxiv.org/abs/1801.06146, sections 3.2
        (discriminative rates, slanted triangular schedule) and 3.3.
    """
    num_groups = check_integer(num_groups, "num_groups", least=1)
    steps_per_epoch = check_integer(steps_per_epoch, "steps_per_epoch", least=1)
    epochs = check_epochs(epochs, "epochs")
    epochs_each = check_epochs(epochs_each, "epochs_each")
    base_lr = check_base_lr(base_lr, recipe="gradual_unfreeze")
    decay = check_number(decay, "decay", above=0)
    weight_decay = check_number(weight_decay, "weight_decay", least=0)
    check_function(schedule, "schedule", "a function from a number of batches")
    if num_groups < 2:
        raise ValueError(
            "gradual unfreezing needs at least two layer groups; there is one. Give "
            "groups= or split_on=, or train with fit_one_cycle."
        )
    rates = tuple(base_lr / decay**distance for distance in reversed(range(num_groups)))
    phases = []
    for boundary in reversed(range(num_groups)):
        count = epochs_each if boundary else epochs
        phases.append(
            Phase(
                name=f"phase {num_groups - boundary}/{num_groups}",
                boundary=boundary,
                epochs=count,
                rates=resolve_rates(rates, num_groups),
                schedule=schedule(count * steps_per_epoch),
                weight_decay=weight_decay,
            )
        )
    return tuple(phases)


def check_epochs(epochs: Any, name: str, least: int = 1) -> int:
    """Returns a number of epochs as an int.

    Raises:
        TypeError: If it is no whole number.
        ValueError: If it is less than `least`.
    """
    return check_integer(epochs, name, least=least)


def check_base_lr(base_lr: Any, *, recipe: str = "fine_tune") -> float:
    """Returns a recipe's one learning rate, which it spreads over the groups itself.

    Args:
        base_lr: The rate.
        recipe: Name of the learner's method.

    Raises:
        TypeError: If it is no number. Of a slice the message says what gives its rates.
        ValueError: If it is negative, infinite or NaN.
    """
    wanted = (
        "base_lr must be one number, the head's peak learning rate, which is spread "
        "over the layer groups; received "
    )
    if isinstance(base_lr, slice):
        instead = "fit_one_cycle takes a slice, and trains in one phase."
        if recipe == "fine_tune":
            instead = f"{_fine_tune_at(base_lr)}; {instead}"
        raise TypeError(f"{wanted}{base_lr}. {instead}")
    try:
        return check_number(base_lr, "base_lr", least=0)
    except TypeError:
        raise TypeError(f"{wanted}{described(base_lr)}.") from None


def _fine_tune_at(rates: slice) -> str:
    """What to write for `fine_tune` to come to the rates of a slice."""
    try:
        last = check_number(rates.stop, "stop", above=0)
        if rates.start is None:
            return f"Write base_lr={last:g}"
        first = check_number(rates.start, "start", above=0)
    except (TypeError, ValueError):
        return "Write base_lr=2e-3"
    return (
        f"For rates from {first:g} in the first group to {last:g} in the last, once "
        f"all train, write base_lr={2 * last:g}, lr_mult={last / first:g}"
    )


def checked_phases(phases: Any, num_groups: int) -> tuple[Phase, ...]:
    """Returns phases of one's own with plain numbers in them.

    Args:
        phases: A list of `Phase`.
        num_groups: Number of layer groups.

    Raises:
        TypeError: If one is no `Phase`, or a field of one is of another type.
        ValueError: If there is none, or a field is out of range.
    """
    wanted = "a list of Phase, such as fine_tune_phases makes"
    if not isinstance(phases, list | tuple):
        raise TypeError(f"phases must be {wanted}; received {described(phases)}.")
    if not phases:
        raise ValueError(f"phases must be {wanted}; received an empty one.")
    return tuple(_checked(phase, num_groups) for phase in phases)


def _checked(phase: Any, num_groups: int) -> Phase:
    check_instance(phase, "phases", Phase, "a list of Phase")
    if phase.name is not None:
        check_instance(phase.name, "name", str, "a str or None")
    return dataclasses.replace(
        phase,
        epochs=check_epochs(phase.epochs, "epochs"),
        rates=resolve_rates(phase.rates, num_groups),
        schedule=check_schedule(phase.schedule),
        weight_decay=check_number(phase.weight_decay, "weight_decay", least=0),
    )


def _curve_as_dict(curve) -> dict[str, Sequence[float]]:
    return {
        field.name: np.asarray(jax.device_get(getattr(curve, field.name))).tolist()
        for field in dataclasses.fields(curve)
    }
