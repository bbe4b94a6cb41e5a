"""The learning rate finder: a short mock training, and what its curve suggests.

A step, a state and batches in; a curve and suggestions out. The one rule of the file:
states are values, so the search changes nothing, and needs no file to undo it.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxtune.arguments import Integer, check_flag, check_function, check_integer
from jaxtune.plots import Line, Panel, line_plot
from jaxtune.train.state import TrainState

_SMOOTHING = 0.98
_DIVERGED = 4.0
#: Points at the end of the curve that no suggestion looks at.
_SKIP_END = 5


@dataclasses.dataclass(frozen=True)
class LRFind:
    """What a search for a learning rate found.

    Attributes:
        rates: Learning rate of each step, float64 (n,).
        losses: Smoothed loss after each step, float64 (n,).
        suggestions: Suggested rates by name; a suggestion that the curve does not allow
            is left out.
        what: What trained during the search; in another phase the result is another.
        phase: Number of the phase that would come next, from 1; 0 if not known.
        groups: Names of the layer groups in which something trained.
    """

    rates: np.ndarray
    losses: np.ndarray
    suggestions: dict[str, float]
    what: str
    phase: int = 0
    groups: tuple[str, ...] = ()

    def __getattr__(self, name: str) -> float:
        """Returns a suggestion by its name: `found.valley`."""
        suggestions = self.__dict__.get("suggestions", {})
        if name in suggestions:
            return suggestions[name]
        raise AttributeError(
            f"no suggestion {name!r}; there are {', '.join(suggestions) or 'none'}."
        )

    def __str__(self) -> str:
        """Returns the suggestions, and for what they are."""
        listed = ", ".join(f"{n} {rate:.3g}" for n, rate in self.suggestions.items())
        return f"{listed or 'no suggestion'} ({self.what})"

    def plot(self, *, skip_end: Integer = 5) -> "matplotlib.figure.Figure":
        """Returns a figure of the smoothed loss over the rate, suggestions as points.

        What trained stands over it: the suggestions are for that alone.

        Args:
            skip_end: How many of the last steps, where the loss explodes, to leave out.

        Raises:
            ImportError: If matplotlib is not there.

        References:
            fastai 2.8.12, callback/schedule.py `plot_lr_find`.
        """
        skip_end = check_integer(skip_end, "skip_end", least=0)
        shown = slice(max(1, len(self.rates) - skip_end))
        lines = [Line(self.rates[shown], self.losses[shown])]
        finite = np.isfinite(self.losses)
        known = np.log(self.rates[finite]), self.losses[finite]
        for color, (name, rate) in enumerate(self.suggestions.items(), start=1):
            place = [rate], [np.interp(np.log(rate), *known)]
            lines.append(Line(*place, f"{name} {rate:.2g}", color, "points"))
        return line_plot(
            Panel(
                lines,
                "\n".join(self.what.rsplit(" · ", 1)),
                x_label="learning rate",
                y_label="loss",
                log_x=True,
            )
        )


def lr_sweep(
    train_step: Callable,
    state: TrainState,
    batches: Iterable[Mapping[str, Any]],
    key: jax.Array,
    *,
    stop_div: bool = True,
) -> np.ndarray:
    """Returns the smoothed loss after each of some steps.

    Args:
        train_step: (state, batch, key) -> (state, metrics).
        state: Its optimizer's schedule decides the rates; see `exponential`.
        batches: One for each step.
        key: Of all of them.
        stop_div: Whether to stop when the loss is four times the best so far, or no
            finite number.

    Returns:
        Losses, float64 (n,), debiased means with a memory of 0.98.

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
    """Returns what the four methods suggest, by their names.

    The first tenth of the steps and the last five are left out, and everything from the
    first loss that is no number.

    Args:
        rates: Learning rate of each step.
        losses: Smoothed loss after each step.
        num_it: Steps that were planned.

    Raises:
        ValueError: If there are not as many losses as rates, or no step was planned.

    References:
        fastai 2.8.12, callback/schedule.py `lr_find`.
    """
    num_it = check_integer(num_it, "num_it", least=1)
    if len(rates) != len(losses):
        raise ValueError(
            f"there must be a loss for each rate; received {len(rates)} rates and "
            f"{len(losses)} losses."
        )
    chosen = slice(num_it // 10, -_SKIP_END)
    rates = np.asarray(rates, np.float64)[chosen]
    losses = np.asarray(losses, np.float64)[chosen]
    bad = np.flatnonzero(~np.isfinite(losses))
    if bad.size:
        rates, losses = rates[: bad[0]], losses[: bad[0]]
    suggestions = {}
    for method in (valley, slide, minimum, steep):
        if len(losses) >= 2:
            suggestions[method.__name__] = method(rates, losses)
    return suggestions


def valley(rates: np.ndarray, losses: np.ndarray) -> float:
    """Returns the rate half way down the longest falling subsequence of losses.

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
    """Returns the rate where an interval slid down from the right first lies level.

    Args:
        rates: Rising learning rates, (n,).
        losses: Smoothed losses, (n,).
        difference: Width of the interval, in steps.
        threshold: Slopes that differ by less are level.

    References:
        fastai 2.8.12, callback/schedule.py `slide`.
    """
    slopes = np.gradient(losses)
    difference = min(difference, len(losses) - 1)
    right, left = -1, -1 - difference
    found = rates[left]
    while left >= -len(losses) and abs(slopes[right] - slopes[left]) > threshold:
        found = rates[left]
        right, left = right - 1, left - 1
    return float(found)


def minimum(rates: np.ndarray, losses: np.ndarray) -> float:
    """Returns a tenth of the rate where the loss is lowest.

    References:
        fastai 2.8.12, callback/schedule.py `minimum`.
    """
    return float(rates[losses.argmin()] / 10)


def steep(rates: np.ndarray, losses: np.ndarray) -> float:
    """Returns the rate where the loss falls fastest, over the rate's logarithm.

    References:
        fastai 2.8.12, callback/schedule.py `steep`.
    """
    return float(rates[(np.diff(losses) / np.diff(np.log(rates))).argmin()])
