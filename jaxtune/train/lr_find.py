"""The learning rate finder: a short mock training, and suggestions from its curve.

Train states are immutable, so the search changes nothing and has nothing to restore.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxtune.arguments import Integer, check_flag, check_function, check_integer
from jaxtune.plots import rate_curve_plot
from jaxtune.train.state import TrainState

_SMOOTHING = 0.98
_DIVERGED = 4.0
#: Points at the end of the curve that all suggestions ignore.
_SKIP_END = 5


@dataclasses.dataclass(frozen=True)
class LRFind:
    """The result of a learning rate search.

    Attributes:
        rates: Learning rate of each step, float64 (n,).
        losses: Smoothed loss after each step, float64 (n,).
        suggestions: Suggested learning rates by name; empty if the curve is too short.
        what: Describes what was trained; the suggestions are valid for that only.
        phase: Number of the phase that would come next, from 1; 0 if not known.
        groups: Names of the layer groups that had trainable parameters.
    """

    rates: np.ndarray
    losses: np.ndarray
    suggestions: dict[str, float]
    what: str
    phase: int = 0
    groups: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> float:
        """Returns a suggestion by its name: `result.valley`."""
        suggestions = self.__dict__.get("suggestions", {})
        if name in suggestions:
            return suggestions[name]
        raise AttributeError(
            f"no suggestion {name!r}; there are {', '.join(suggestions) or 'none'}."
        )

    def __str__(self) -> str:
        """Returns the suggestions and what was trained."""
        listed = ", ".join(f"{n} {rate:.3g}" for n, rate in self.suggestions.items())
        return f"{listed or 'no suggestion'} ({self.what})"

    def plot(self, *, skip_end: Integer = 5) -> "matplotlib.figure.Figure":
        """Returns a figure of the loss by learning rate, see `plots.rate_curve_plot`.

        Args:
            skip_end: Number of steps to omit at the end, where the loss explodes.

        Raises:
            ImportError: If matplotlib is not installed.
        """
        return rate_curve_plot(
            self.rates,
            self.losses,
            self.suggestions,
            title="\n".join(self.what.rsplit(" · ", 1)),
            skip_end=check_integer(skip_end, "skip_end", least=0),
        )


def lr_sweep(
    train_step: Callable,
    state: TrainState,
    batches: Iterable[Mapping[str, Any]],
    key: jax.Array,
    *,
    stop_div: bool = True,
) -> np.ndarray:
    """Trains for a few steps and returns the smoothed loss after each.

    Args:
        train_step: (state, batch, key) -> (state, metrics).
        state: Its optimizer's schedule gives the learning rates; see `exponential`.
        batches: One for each step.
        key: A `jax.random` key, the same for all steps.
        stop_div: Whether to stop when the smoothed loss exceeds four times its minimum
            so far, or is NaN.

    Returns:
        Exponential moving averages of the loss with decay 0.98, corrected for their
        start at 0, float64 (n,).

    References:
        Smith, "Cyclical Learning Rates", https://arxiv.org/abs/1506.01186.
        fastai 2.8.12, callback/schedule.py `LRFinder`, learner.py `AvgSmoothLoss`.
    """
    check_function(train_step, "train_step", "a step that make_train_step makes")
    stop_div = check_flag(stop_div, "stop_div")
    mean, best, losses = 0.0, float("inf"), []
    for number, batch in enumerate(batches, start=1):
        state, metrics = train_step(state, batch, key)
        loss = float(metrics["loss"])
        mean = _SMOOTHING * mean + (1 - _SMOOTHING) * loss
        losses.append(mean / (1 - _SMOOTHING**number))
        best = min(best, losses[-1])
        if stop_div and not losses[-1] <= _DIVERGED * best:
            break
    return np.asarray(losses)


def suggest_rates(
    rates: Sequence[float] | np.ndarray,
    losses: Sequence[float] | np.ndarray,
    num_it: Integer,
) -> dict[str, float]:
    """Returns the suggestions of four methods: valley, slide, minimum and steep.

    They ignore the first tenth of the steps, the last five, and everything from the
    first NaN or infinite loss on.

    Args:
        rates: Learning rate of each step.
        losses: Smoothed loss after each step.
        num_it: Number of steps planned.

    Raises:
        ValueError: If there are not as many losses as rates, or `num_it` is below 1.

    References:
        fastai 2.8.12, callback/schedule.py `lr_find`.
    """
    num_it = check_integer(num_it, "num_it", least=1)
    if len(rates) != len(losses):
        raise ValueError(
            f"rates and losses must have the same length; received {len(rates)} rates "
            f"and {len(losses)} losses."
        )
    chosen = slice(num_it // 10, -_SKIP_END)
    rates = np.asarray(rates, np.float64)[chosen]
    losses = np.asarray(losses, np.float64)[chosen]
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        rates, losses = rates[: bad[0]], losses[: bad[0]]
    if len(losses) < 2:
        return {}
    methods = (valley, slide, minimum, steep)
    return {method.__name__: method(rates, losses) for method in methods}


def valley(rates: np.ndarray, losses: np.ndarray) -> float:
    """Returns the rate halfway along the longest decreasing subsequence of losses.

    Args:
        rates: Rising learning rates, (n,).
        losses: Smoothed losses, (n,).

    References:
        fastai 2.8.12, callback/schedule.py `valley`.
    """
    lengths = [1] * len(losses)
    start = end = 0
    for i in range(1, len(losses)):
        for j in range(i):
            if losses[i] < losses[j] and lengths[i] < lengths[j] + 1:
                lengths[i] = lengths[j] + 1
            if lengths[end] < lengths[i]:
                end = i
                start = end - lengths[end]
    third = (end - start) / 3
    return float(rates[start + int(third) + int(third / 2)])


def slide(
    rates: np.ndarray,
    losses: np.ndarray,
    *,
    difference: int = 15,
    threshold: float = 0.005,
) -> float:
    """Returns the rate where an interval, moved from right to left, first lies level.

    Args:
        rates: Rising learning rates, (n,).
        losses: Smoothed losses, (n,).
        difference: Width of the interval, in steps.
        threshold: The interval is level if its ends' slopes differ by no more.

    References:
        fastai 2.8.12, callback/schedule.py `slide`.
    """
    slopes = np.gradient(losses)
    difference = min(difference, len(losses) - 1)
    right, left = -1, -1 - difference
    rate = rates[left]
    while left >= -len(losses) and abs(slopes[right] - slopes[left]) > threshold:
        rate = rates[left]
        right, left = right - 1, left - 1
    return float(rate)


def minimum(rates: np.ndarray, losses: np.ndarray) -> float:
    """Returns a tenth of the rate with the lowest loss.

    References:
        fastai 2.8.12, callback/schedule.py `minimum`.
    """
    return float(rates[losses.argmin()] / 10)


def steep(rates: np.ndarray, losses: np.ndarray) -> float:
    """Returns the rate where the loss falls fastest per step in log(rate).

    References:
        fastai 2.8.12, callback/schedule.py `steep`.
    """
    return float(rates[(np.diff(losses) / np.diff(np.log(rates))).argmin()])
