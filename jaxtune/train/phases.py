"""Phases of training: which layer groups train, for how long, at which learning rates.

A phase is plain data, so the learner and a training loop of your own give the same run.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jaxtune.arguments import (
    Integer,
    Number,
    check_choice,
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

#: fastai's default momentum at the start, the peak and the end of a cycle.
MOMENTUMS = (0.95, 0.85, 0.95)


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of training: a freeze boundary and a schedule.

    Attributes:
        name: Printed at the phase's start; None for its number.
        boundary: Number of frozen layer groups, counted from the first; None keeps what
            is frozen now, and the optimizer's moments.
        epochs: Passes over the training data.
        rates: Peak learning rate of each layer group, including frozen ones.
        schedule: A `Schedule` of learning rate and momentum over the batches of all
            epochs. For gradient accumulation it must be over updates, see
            `over_updates`; the learner converts it.
        weight_decay: Of all parameters but norms and biases.
        cache_features: Draws of the augmentation for which the frozen body's features
            are computed once and kept; 0 computes them in every step.
    """

    name: str | None
    boundary: int | None
    epochs: int
    rates: tuple[float, ...]
    schedule: Any
    weight_decay: float
    cache_features: int = 0

    @property
    def cached_draws(self) -> int:
        """Draws whose features are kept: not more than there are epochs to use them."""
        return min(self.cache_features, self.epochs)

    def as_dict(self) -> dict:
        """Returns the phase as JSON-compatible values, to be compared or saved."""
        schedule: Schedule = self.schedule
        kept = {"cache_features": self.cache_features} if self.cache_features else {}
        return {
            **kept,
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
    lr_scale: Number = 1.0,
    freeze_epochs: Integer = 1,
    lr_mult: Number = 100.0,
    pct_start: Number = 0.3,
    div: Number = 5.0,
    div_final: Number = 1e5,
    weight_decay: Number = 0.01,
    momentums: Sequence[Number] = MOMENTUMS,
    unfreeze_to: Integer = 0,
    cache_features: Integer = 0,
) -> tuple[Phase, ...]:
    """Returns fastai's `fine_tune`: the head alone, then the whole network.

    In phase 1 all groups but the last are frozen. The peak learning rate is `base_lr`
    (a tenth of it for what still trains in the frozen groups), reached after 99 % of
    the phase. In phase 2 no group is frozen, and the peak learning rates rise
    geometrically from base_lr / 2 / lr_mult in the first group to base_lr / 2 in the
    last.

    Args:
        num_groups: Number of layer groups.
        steps_per_epoch: Batches in an epoch.
        epochs: Epochs after unfreezing.
        base_lr: Peak learning rate of the head in phase 1.
        lr_scale: Multiplies all learning rates, see `scale_for_batch`.
        freeze_epochs: Epochs before unfreezing; 0 omits phase 1.
        lr_mult: Ratio of the last group's learning rate to the first's in phase 2.
        pct_start: Fraction of phase 2 before the peak.
        div: Phase 2 starts at the peak learning rates / div.
        div_final: Both phases end at the peak learning rates / div_final.
        weight_decay: Of all parameters but norms and biases.
        momentums: Momentum at the start, the peak and the end of a cycle.
        unfreeze_to: Number of groups that stay frozen in phase 2, from the first.
        cache_features: Of phase 1, see `Phase`.

    Raises:
        TypeError: If an argument is not a number, or a count not an integer.
        ValueError: If one is out of range, or there is only one layer group and
            `freeze_epochs` is not 0.

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
    base_lr = check_base_lr(base_lr) * check_number(lr_scale, "lr_scale", above=0)
    lr_mult = check_number(lr_mult, "lr_mult", above=0)
    weight_decay = check_number(weight_decay, "weight_decay", least=0)
    momentums = check_momentums(momentums, "momentums")
    unfreeze_to = check_integer(
        unfreeze_to, "unfreeze_to", least=0, most=num_groups - 1
    )
    cache_features = check_integer(cache_features, "cache_features", least=0)
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
                cache_features=cache_features,
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
    base_lr: Number = 5e-4,
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
        epochs: Epochs of the last phase, in which all groups train.
        base_lr: Peak learning rate of the last group.
        epochs_each: Epochs of each earlier phase.
        decay: Ratio of each group's learning rate to that of the group before it.
        weight_decay: Of all parameters but norms and biases.
        schedule: A function from a phase's number of batches to its schedule.

    Raises:
        TypeError: If an argument is not a number, or a count not an integer.
        ValueError: If one is out of range, or there is only one layer group.

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
        TypeError: If it is not an integer.
        ValueError: If it is less than `least`.
    """
    return check_integer(epochs, name, least=least)


def check_base_lr(base_lr: Any, *, recipe: str = "fine_tune") -> float:
    """Returns the one learning rate from which a recipe derives that of each group.

    Args:
        base_lr: The learning rate.
        recipe: Name of the learner's method, for the error messages.

    Raises:
        TypeError: If it is not a number. For a slice, the message says which arguments
            give its rates.
        ValueError: If it is negative, infinite or NaN.
    """
    wanted = (
        "base_lr must be one number, the head's peak learning rate, from which those "
        "of the other layer groups follow; received "
    )
    if isinstance(base_lr, slice):
        instead = "fit_one_cycle accepts a slice; it trains in one phase."
        if recipe == "fine_tune":
            instead = f"{_fine_tune_at(base_lr)}; {instead}"
        raise TypeError(f"{wanted}{base_lr}. {instead}")
    try:
        return check_number(base_lr, "base_lr", least=0)
    except TypeError:
        raise TypeError(f"{wanted}{described(base_lr)}.") from None


def _fine_tune_at(rates: slice) -> str:
    """Which arguments make `fine_tune` use the learning rates of a slice."""
    try:
        last = check_number(rates.stop, "stop", above=0)
        if rates.start is None:
            return f"Write base_lr={last:g}"
        first = check_number(rates.start, "start", above=0)
    except (TypeError, ValueError):
        return "Write base_lr=2e-3"
    return (
        f"For learning rates from {first:g} in the first group to {last:g} in the "
        f"last after unfreezing, write base_lr={2 * last:g}, lr_mult={last / first:g}"
    )


#: Photos in an update for which the recipes' learning rates were chosen: fastai's.
USUAL_BATCH = 64


def scale_for_batch(lr_scale: Any, photos: Integer) -> float:
    """Returns by how much learning rates are multiplied for a large batch.

    Args:
        lr_scale: A number above 0; "linear" for photos / 64, the rule for SGD; or
            "sqrt" for its square root, the rule for Adam. Nothing is scaled unless it
            is asked for, since the rules hold for long trainings with a warm-up, and
            a large batch still makes fewer updates.
        photos: In an update: those of a batch on all devices, times the batches that
            are accumulated.

    Raises:
        TypeError: If it is neither a number nor a string.
        ValueError: If it is another string, or not above 0.

    Example:
        >>> scale_for_batch("linear", 256), scale_for_batch("sqrt", 256)
        (4.0, 2.0)

    References:
        Goyal et al., "Accurate, Large Minibatch SGD", https://arxiv.org/abs/1706.02677;
        Malladi et al., "On the SDEs and Scaling Rules for Adaptive Gradient
        Algorithms", https://arxiv.org/abs/2205.10287.
    """
    photos = check_integer(photos, "photos", least=1)
    if not isinstance(lr_scale, str):
        return check_number(lr_scale, "lr_scale", above=0)
    rule = check_choice(lr_scale, "lr_scale", ("linear", "sqrt"))
    return (photos / USUAL_BATCH) ** (1.0 if rule == "linear" else 0.5)


def checked_phases(phases: Any, num_groups: int) -> tuple[Phase, ...]:
    """Returns a user's phases with their fields checked and numbers plain.

    Args:
        phases: A list of `Phase`.
        num_groups: Number of layer groups.

    Raises:
        TypeError: If it is not a list of `Phase`, or a field has a wrong type.
        ValueError: If it is empty, or a field is out of range.
    """
    wanted = "a list of Phase, such as fine_tune_phases makes"
    if not isinstance(phases, list | tuple):
        raise TypeError(f"phases must be {wanted}; received {described(phases)}.")
    if not phases:
        raise ValueError(f"phases must be {wanted}; received an empty list.")
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
        cache_features=check_integer(phase.cache_features, "cache_features", least=0),
    )


def _curve_as_dict(curve) -> dict[str, Sequence[float]]:
    return {
        field.name: np.asarray(jax.device_get(getattr(curve, field.name))).tolist()
        for field in dataclasses.fields(curve)
    }
