"""fastai's schedules, rates and Adam written out in plain float64, without fastai.

In: hyper-parameters and a step number. Out: what fastai 2.8.12 would use at that step.
The formulae were checked against the real fastai 2.8.12 by `make_fastai_golden.py`,
which ran its `fine_tune`, `fit_one_cycle` and `fit_flat_cos` and read the optimizer's
hyper-parameters at every batch, and its `Adam`. fastai keeps the breaks of a schedule
in float32, so its rates differ from these by up to 2e-7 of the peak; this file holds
the formula, `fastai_schedules.json` what fastai did.

The one rule: no jax and nothing from the package, or a mistake could agree with itself.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np

MOMENTUMS = (0.95, 0.85, 0.95)


def cosine(start: float, end: float, position: float) -> float:
    """Returns fastai's `SchedCos(start, end)` at a position in [0, 1]."""
    return start + (1 + math.cos(math.pi * (1 - position))) * (end - start) / 2


def combined_cosine(
    position: float, *, pct: float, start: float, middle: float, end: float
) -> float:
    """Returns fastai's `combined_cos(pct, start, middle, end)` at a position."""
    if position < pct:
        return cosine(start, middle, position / pct)
    return cosine(middle, end, (position - pct) / (1 - pct))


def one_cycle(
    step: int,
    total_steps: int,
    *,
    peak: float,
    pct_start: float = 0.25,
    div: float = 25.0,
    div_final: float = 1e5,
    momentums: Sequence[float] = MOMENTUMS,
) -> tuple[float, float]:
    """Returns (learning rate, momentum) used for batch `step` of `total_steps`.

    Batches count from 0 and the position is step / total_steps, so that the first batch
    has peak / div exactly and the last one has not quite reached peak / div_final.
    """
    position = step / total_steps
    start, middle, end = momentums
    rate = combined_cosine(
        position, pct=pct_start, start=peak / div, middle=peak, end=peak / div_final
    )
    momentum = combined_cosine(
        position, pct=pct_start, start=start, middle=middle, end=end
    )
    return rate, momentum


def flat_cos(
    step: int,
    total_steps: int,
    *,
    peak: float,
    pct_start: float = 0.75,
    div_final: float = 1e5,
) -> float:
    """Returns `fit_flat_cos`'s learning rate for batch `step`; momentum stays as is."""
    position = step / total_steps
    if position < pct_start:
        return peak
    return cosine(peak, peak / div_final, (position - pct_start) / (1 - pct_start))


def even_mults(start: float, stop: float, count: int) -> list[float]:
    """Returns `count` rates from start to stop in equal ratios; [stop] for one."""
    if count == 1:
        return [stop]
    ratio = (stop / start) ** (1 / (count - 1))
    return [start * ratio**i for i in range(count)]


def group_rates(rates: float | Sequence[float] | slice, count: int) -> list[float]:
    """Returns one rate for each of `count` groups, by fastai's rules.

    A number goes to every group; a sequence must have `count` members (or one, for
    all); slice(a, b) is even_mults(a, b); slice(b), and slice(0, b), give b / 10 to all
    groups but the last, which has b.
    """
    if isinstance(rates, slice):
        if rates.start:
            return even_mults(rates.start, rates.stop, count)
        return [rates.stop / 10] * (count - 1) + [rates.stop]
    rates = list(rates) if isinstance(rates, Sequence) else [rates]
    if len(rates) == 1:
        rates = rates * count
    if len(rates) != count:
        raise ValueError(f"{len(rates)} rates for {count} groups.")
    return rates


def fine_tune_phases(
    base_lr: float = 2e-3,
    *,
    groups: int = 3,
    lr_mult: float = 100.0,
    pct_start: float = 0.3,
    div: float = 5.0,
) -> tuple[dict, dict]:
    """Returns the settings of `fine_tune`'s frozen and unfrozen phase.

    Each is {"peaks": rate for each group, "pct_start": …, "div": …}; both end at peak /
    1e5 and have the momentums of `one_cycle`.
    """
    frozen = {
        "peaks": group_rates(slice(base_lr), groups),
        "pct_start": 0.99,
        "div": 25.0,
    }
    half = base_lr / 2
    unfrozen = {
        "peaks": group_rates(slice(half / lr_mult, half), groups),
        "pct_start": pct_start,
        "div": div,
    }
    return frozen, unfrozen


def phase_steps(phase: dict, total_steps: int) -> list[tuple[list[float], float]]:
    """Returns ([rate for each group], momentum) for every batch of a phase."""
    shape = {"pct_start": phase["pct_start"], "div": phase["div"]}
    steps = []
    for step in range(total_steps):
        pairs = [one_cycle(step, total_steps, peak=p, **shape) for p in phase["peaks"]]
        steps.append(([rate for rate, _ in pairs], pairs[0][1]))
    return steps


def adam(
    value: np.ndarray,
    gradient: Callable[[int, np.ndarray], np.ndarray],
    steps: Sequence[tuple[float, float]],
    *,
    sqr_mom: float = 0.99,
    eps: float = 1e-5,
    weight_decay: float = 0.01,
) -> list[np.ndarray]:
    """Returns the parameter after every step of fastai's Adam, in float64.

    Args:
        value: The parameter before the first step.
        gradient: (step from 0, parameter before the step) to gradient.
        steps: (learning rate, momentum) of every step; the momentum is that of the
            moving average and of its bias correction, so it changes under one-cycle.
        sqr_mom: Decay of the average of squared gradients.
        eps: Added to the square root.
        weight_decay: Decoupled; 0 for batch norms and biases.
    """
    value = np.asarray(value, np.float64)
    average, square = np.zeros_like(value), np.zeros_like(value)
    history = []
    for step, (rate, momentum) in enumerate(steps):
        slope = gradient(step, value)
        average = momentum * average + (1 - momentum) * slope
        square = sqr_mom * square + (1 - sqr_mom) * slope**2
        value = value * (1 - rate * weight_decay)
        count = step + 1
        unbiased = np.sqrt(square / (1 - sqr_mom**count))
        value = value - rate / (1 - momentum**count) * average / (unbiased + eps)
        history.append(value)
    return history
