"""Schedules of learning rate and momentum, as data.

A step number in, a multiple of the peak rate and a momentum out. The one rule of the
file: a schedule is a pytree of small arrays, so another schedule, rate or number of
epochs reaches a compiled step as other numbers, and can be vmapped or differentiated.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

#: Pieces of a curve; shorter curves are padded, so every schedule has one shape.
MAX_PIECES = 4
COSINE, LINEAR, EXPONENTIAL = 0, 1, 2

#: An array; or what stands in its place while JAX maps over trees (axes, shapes, None).
Leaf = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Curve:
    """A piecewise curve over positions in [0, 1].

    Attributes:
        ends: Position at which each piece ends, float32 (4,), rising to 1.
        starts: Value at each piece's start, float32 (4,).
        stops: Value at each piece's end, float32 (4,).
        kinds: COSINE, LINEAR or EXPONENTIAL, int32 (4,).
    """

    ends: Leaf
    starts: Leaf
    stops: Leaf
    kinds: Leaf

    def __call__(self, position: Float[Array, ""]) -> Float[Array, ""]:
        """Returns the value at a position; before 0 and after 1, that at the end."""
        position = jnp.clip(position, 0.0, 1.0)
        piece = jnp.minimum((position >= self.ends).sum(), self.ends.size - 1)
        begins = jnp.concatenate([jnp.zeros_like(self.ends[:1]), self.ends[:-1]])
        begin, end = begins[piece], self.ends[piece]
        length = end - begin
        q = jnp.clip((position - begin) / jnp.where(length > 0, length, 1.0), 0.0, 1.0)
        q = jnp.where(length > 0, q, 1.0)
        start, stop = self.starts[piece], self.stops[piece]
        cosine = start + (1 - jnp.cos(jnp.pi * q)) * (stop - start) / 2
        linear = start + q * (stop - start)
        # The ratio is guarded so that no branch makes a NaN for the others' gradient.
        both = (start > 0) & (stop > 0)
        ratio = jnp.where(both, stop, 1.0) / jnp.where(both, start, 1.0)
        exponential = start * ratio**q
        return jnp.stack([cosine, linear, exponential])[self.kinds[piece]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Schedule:
    """How learning rate and momentum move over a run of `total_steps` updates.

    Attributes:
        learning_rate: Curve of the multiple of the peak learning rate.
        momentum: Curve of the momentum (Adam's b1).
        total_steps: Updates in the whole run, float32 ().
    """

    learning_rate: Any
    momentum: Any
    total_steps: Leaf

    def __call__(
        self, step: Int[Array, ""] | int
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns the multiple of the peak rate and the momentum for one update.

        Args:
            step: Updates done before this one; the position is step / total_steps, so
                the first update is at the very start and the last just before the end.
        """
        position = jnp.asarray(step, jnp.float32) / self.total_steps
        return self.learning_rate(position), self.momentum(position)


def curve(
    ends: Sequence[float],
    starts: Sequence[float],
    stops: Sequence[float],
    *,
    kind: int | Sequence[int] = COSINE,
) -> Curve:
    """Returns a curve from its pieces.

    Args:
        ends: Position in (0, 1] at which each piece ends; the last is 1.
        starts: Value at each piece's start.
        stops: Value at each piece's end.
        kind: COSINE, LINEAR or EXPONENTIAL, for all pieces or each.

    Raises:
        ValueError: If the lists differ in length, have none or more than 4 pieces, or
            the ends don't rise to 1.
    """
    kinds = [kind] * len(ends) if isinstance(kind, int) else list(kind)
    lengths = {len(ends), len(starts), len(stops), len(kinds)}
    rising = all(a <= b for a, b in zip(ends, ends[1:], strict=False))
    if lengths != {len(ends)} or not 0 < len(ends) <= MAX_PIECES:
        raise ValueError(
            f"a curve has 1 to {MAX_PIECES} pieces, each with an end, a start and a "
            f"stop; received ends={list(ends)}, starts={list(starts)}, "
            f"stops={list(stops)}."
        )
    if not rising or ends[0] < 0 or ends[-1] != 1:
        raise ValueError(
            f"a curve's ends rise from at least 0 to 1; received {list(ends)}."
        )
    padding = MAX_PIECES - len(ends)

    def array(values, last, dtype=jnp.float32):
        return jnp.asarray([*values, *([last] * padding)], dtype)

    return Curve(
        ends=array(ends, 1.0),
        starts=array(starts, stops[-1]),
        stops=array(stops, stops[-1]),
        kinds=array(kinds, LINEAR, jnp.int32),
    )


def one_cycle(
    total_steps: int,
    *,
    pct_start: float = 0.25,
    div: float = 25.0,
    div_final: float = 1e5,
    momentums: tuple[float, float, float] = (0.95, 0.85, 0.95),
) -> Schedule:
    """Returns the one-cycle schedule: cosine up to the peak, cosine down to nothing.

    Momentum falls while the rate rises, and rises while it falls. Both are continuous
    in the step, so runs of one, two or three steps get what the formula says.

    Args:
        total_steps: Updates in the whole cycle.
        pct_start: Fraction of the cycle spent rising, in (0, 1).
        div: The cycle starts at peak / div.
        div_final: The cycle ends at peak / div_final.
        momentums: At the start, at the peak of the rate, and at the end.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> schedule = one_cycle(100)
        >>> [round(float(schedule(step)[0]), 6) for step in (0, 25, 100)]
        [0.04, 1.0, 1e-05]

    References:
        Smith and Topin, "Super-Convergence", https://arxiv.org/abs/1708.07120.
        fastai 2.8.12, callback/schedule.py `fit_one_cycle`, `combined_cos`.
        (`optax.cosine_onecycle_schedule` truncates the rise to whole steps, and on
        short runs starts at its peak.)
    """
    _check(total_steps, pct_start)
    if div <= 0 or div_final <= 0:
        raise ValueError(
            f"div and div_final must be above 0; received {div} and {div_final}."
        )
    start, top, end = momentums
    ends = (pct_start, 1.0)
    return Schedule(
        learning_rate=curve(ends, (1 / div, 1.0), (1.0, 1 / div_final)),
        momentum=curve(ends, (start, top), (top, end)),
        total_steps=jnp.float32(total_steps),
    )


def flat_cosine(
    total_steps: int,
    *,
    pct_start: float = 0.75,
    div_final: float = 1e5,
    momentum: float = 0.95,
) -> Schedule:
    """Returns a schedule that is flat at the peak, then falls along a cosine.

    Args:
        total_steps: Updates in the whole run.
        pct_start: Fraction of the run before the fall, in (0, 1).
        div_final: The run ends at peak / div_final.
        momentum: The constant momentum.

    References:
        fastai 2.8.12, callback/schedule.py `fit_flat_cos`.
    """
    _check(total_steps, pct_start)
    rates = curve((pct_start, 1.0), (1.0, 1.0), (1.0, 1 / div_final))
    return _at_one_momentum(total_steps, rates, momentum)


def constant(total_steps: int = 1, *, momentum: float = 0.9) -> Schedule:
    """Returns a schedule that stays at the peak; fastai's plain `fit`."""
    _check(total_steps, 0.5)
    return _at_one_momentum(total_steps, curve((1.0,), (1.0,), (1.0,)), momentum)


def exponential(
    total_steps: int, start: float, stop: float, *, momentum: float = 0.9
) -> Schedule:
    """Returns a schedule that goes from start to stop by a constant factor a step.

    With a peak rate of 1 they are learning rates, as in a search for one (`lr_find`).

    Args:
        total_steps: Updates in the whole run.
        start: Multiple of the peak rate at the start, above 0.
        stop: Multiple at the end, above 0.
        momentum: The constant momentum.

    Raises:
        ValueError: If a number is out of its range.

    References:
        fastai 2.8.12, callback/schedule.py `SchedExp`.
    """
    _check(total_steps, 0.5)
    if start <= 0 or stop <= 0:
        raise ValueError(f"start and stop must be above 0; received {start}, {stop}.")
    rates = curve((1.0,), (start,), (stop,), kind=EXPONENTIAL)
    return _at_one_momentum(total_steps, rates, momentum)


def slanted_triangular(
    total_steps: int,
    *,
    cut_fraction: float = 0.1,
    ratio: float = 32.0,
    momentum: float = 0.9,
) -> Schedule:
    """Returns ULMFiT's schedule: a short straight rise, a long straight fall.

    Args:
        total_steps: Updates in the whole run.
        cut_fraction: Fraction of the run spent rising, in (0, 1).
        ratio: The run starts and ends at peak / ratio.
        momentum: The constant momentum.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> schedule = slanted_triangular(100)
        >>> [round(float(schedule(step)[0]), 5) for step in (0, 10, 55, 100)]
        [0.03125, 1.0, 0.51562, 0.03125]

    References:
        Howard and Ruder, "ULMFiT", https://arxiv.org/abs/1801.06146, section 3.2.
    """
    _check(total_steps, cut_fraction)
    if ratio < 1:
        raise ValueError(f"ratio must be at least 1; received {ratio}.")
    ends, low = (cut_fraction, 1.0), 1 / ratio
    rates = curve(ends, (low, 1.0), (1.0, low), kind=LINEAR)
    return _at_one_momentum(total_steps, rates, momentum)


def over_updates(schedule: Schedule, gradient_accumulation_steps: int) -> Schedule:
    """Returns a schedule over so many batches as one over the updates made of them.

    With gradient accumulation `group_optimizer` makes one update of k batches, and its
    schedule counts updates: total_steps // k of them. Batches left over at the end make
    no update.

    Args:
        schedule: Its `total_steps` are batches.
        gradient_accumulation_steps: Batches for one update, k.

    Example:
        >>> schedule = over_updates(one_cycle(100), 8)
        >>> float(schedule.total_steps), round(float(schedule(3)[0]), 6)
        (12.0, 1.0)
    """
    if gradient_accumulation_steps == 1:
        return schedule
    updates = jnp.floor(schedule.total_steps / gradient_accumulation_steps)
    return dataclasses.replace(schedule, total_steps=jnp.maximum(updates, 1.0))


def resolve_rates(
    rates: float | slice | Sequence[float], count: int
) -> tuple[float, ...]:
    """Returns one peak learning rate for each layer group, first group first.

    Args:
        rates: A number: the same for all. A list: one for each group. `slice(a, b)`: a
            for the first group to b for the last, each a constant multiple of the one
            before. `slice(b)`: b for the last group, b / 10 for the others.
        count: Number of groups.

    Raises:
        ValueError: If a list has another length, or a rate is not a number from 0 on.

    Example:
        >>> resolve_rates(slice(1e-5, 1e-3), 3)
        (1e-05, 0.0001, 0.001)
        >>> resolve_rates(slice(1e-3), 3)
        (0.0001, 0.0001, 0.001)

    References:
        fastai 2.8.12, optimizer.py `Optimizer.set_hyper` and learner.py; fastcore's
        `even_mults`.
    """
    if isinstance(rates, slice):
        first, last = rates.start, rates.stop
        if last is None or rates.step is not None:
            raise ValueError(
                "learning rates are slice(last) or slice(first, last); received "
                f"{rates}."
            )
        if not first:
            resolved = [last / 10] * (count - 1) + [last]
        elif count == 1:
            resolved = [last]
        else:
            ratio = (last / first) ** (1 / (count - 1))
            resolved = [first * ratio**i for i in range(count - 1)] + [last]
    elif isinstance(rates, Sequence):
        resolved = list(rates)
    else:
        resolved = [rates] * count
    if len(resolved) != count:
        raise ValueError(
            f"{len(resolved)} learning rates for {count} layer groups; give one "
            f"number, one for each group, slice(last) or slice(first, last). "
            f"Received {rates}."
        )
    resolved = [float(rate) for rate in resolved]
    if not all(0 <= rate < float("inf") for rate in resolved):
        raise ValueError(f"learning rates are finite and at least 0; received {rates}.")
    return tuple(resolved)


def _at_one_momentum(total_steps: int, rates: Curve, momentum: float) -> Schedule:
    return Schedule(
        learning_rate=rates,
        momentum=curve((1.0,), (momentum,), (momentum,)),
        total_steps=jnp.float32(total_steps),
    )


def _check(total_steps: int, pct_start: float) -> None:
    if total_steps < 1:
        raise ValueError(f"total_steps must be at least 1; received {total_steps}.")
    if not 0 < pct_start < 1:
        raise ValueError(f"pct_start must be in (0, 1); received {pct_start}.")
