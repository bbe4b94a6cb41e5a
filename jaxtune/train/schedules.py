"""Schedules of learning rate and momentum, as data.

A schedule maps a step number to a multiple of the peak learning rate and a momentum. It
is a pytree of small arrays, an argument of the compiled step: another schedule needs no
recompilation, and schedules can be vmapped and differentiated.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxtune.arguments import (
    Integer,
    Number,
    check_integer,
    check_number,
    check_numbers,
    described,
)

#: Pieces of a curve; shorter ones are padded, so that all schedules have one shape.
MAX_PIECES = 4
COSINE, LINEAR, EXPONENTIAL = 0, 1, 2

#: Learning rates of layer groups, see `resolve_rates`.
Rates = Number | slice | Sequence[Number]

_MOMENTUMS = "numbers, the momentum at a cycle's start, peak and end"

#: An array, or JAX's placeholder for one in tree transformations (axes, shapes, None).
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
        """Returns the value at a position, which is clipped to [0, 1]."""
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
        # All three are computed: a division by 0 would make the others' gradient NaN.
        both = (start > 0) & (stop > 0)
        ratio = jnp.where(both, stop, 1.0) / jnp.where(both, start, 1.0)
        exponential = start * ratio**q
        return jnp.stack([cosine, linear, exponential])[self.kinds[piece]]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Schedule:
    """Learning rate and momentum over a run of `total_steps` updates.

    Attributes:
        learning_rate: Curve of the multiple of the peak learning rate.
        momentum: Curve of the momentum (Adam's b1).
        total_steps: Number of updates in the run, float32 ().
    """

    learning_rate: Any
    momentum: Any
    total_steps: Leaf

    def __call__(
        self, step: Int[Array, ""] | int
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns the multiple of the peak rate and the momentum for one update.

        Args:
            step: Number of updates before this one. The position is step / total_steps,
                so the first update is at 0 and the last just before 1.
        """
        position = jnp.asarray(step, jnp.float32) / self.total_steps
        return self.learning_rate(position), self.momentum(position)


def curve(
    ends: Sequence[Number],
    starts: Sequence[Number],
    stops: Sequence[Number],
    *,
    kind: Integer | Sequence[Integer] = COSINE,
) -> Curve:
    """Returns a curve from its pieces.

    Args:
        ends: Position in (0, 1] at which each piece ends; the last is 1.
        starts: Value at each piece's start.
        stops: Value at each piece's end.
        kind: COSINE, LINEAR or EXPONENTIAL, one for all pieces or a list.

    Raises:
        ValueError: If the lists differ in length, are empty or longer than 4, or the
            ends don't rise to 1.
    """
    ends, starts, stops = (
        check_numbers(values, name)
        for name, values in (("ends", ends), ("starts", starts), ("stops", stops))
    )
    kinds = kind if isinstance(kind, list | tuple) else [kind] * len(ends)
    kinds = [check_integer(each, "kind", least=0, most=EXPONENTIAL) for each in kinds]
    lengths = {len(ends), len(starts), len(stops), len(kinds)}
    rising = all(a <= b for a, b in zip(ends, ends[1:], strict=False))
    if lengths != {len(ends)} or not 0 < len(ends) <= MAX_PIECES:
        raise ValueError(
            f"a curve must have 1 to {MAX_PIECES} pieces, each with an end, a start "
            f"and a stop; received ends={list(ends)}, starts={list(starts)}, "
            f"stops={list(stops)}."
        )
    if not rising or ends[0] < 0 or ends[-1] != 1:
        raise ValueError(
            f"a curve's ends must rise from at least 0 to 1; received {list(ends)}."
        )
    padding = MAX_PIECES - len(ends)

    def array(values, last, dtype=jnp.float32):
        return _array([*values, *([last] * padding)], dtype)

    return Curve(
        ends=array(ends, 1.0),
        starts=array(starts, stops[-1]),
        stops=array(stops, stops[-1]),
        kinds=array(kinds, LINEAR, jnp.int32),
    )


def one_cycle(
    total_steps: Integer,
    *,
    pct_start: Number = 0.25,
    div: Number = 25.0,
    div_final: Number = 1e5,
    momentums: Sequence[Number] = (0.95, 0.85, 0.95),
) -> Schedule:
    """Returns the one-cycle schedule: cosine up to the peak, cosine down to about 0.

    Momentum falls while the learning rate rises, and rises while it falls. Both are
    continuous in the step, so even runs of a few steps follow the formula.

    Args:
        total_steps: Number of updates in the cycle.
        pct_start: Fraction of the cycle before the peak, in (0, 1).
        div: The cycle starts at peak / div.
        div_final: The cycle ends at peak / div_final.
        momentums: Momentum at the start, at the learning rate's peak and at the end.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> schedule = one_cycle(100)
        >>> [round(float(schedule(step)[0]), 6) for step in (0, 25, 100)]
        [0.04, 1.0, 1e-05]

    References:
        Smith and Topin, "Super-Convergence", https://arxiv.org/abs/1708.07120.
        fastai 2.8.12, callback/schedule.py `fit_one_cycle`, `combined_cos`.
        (`optax.cosine_onecycle_schedule` rounds the rise down to whole steps, so short
        runs start at the peak.)
    """
    total_steps, pct_start = _check(total_steps, pct_start)
    div = check_number(div, "div", above=0)
    div_final = check_number(div_final, "div_final", above=0)
    start, top, end = check_momentums(momentums, "momentums")
    ends = (pct_start, 1.0)
    return Schedule(
        learning_rate=curve(ends, (1 / div, 1.0), (1.0, 1 / div_final)),
        momentum=curve(ends, (start, top), (top, end)),
        total_steps=_array(total_steps),
    )


def flat_cosine(
    total_steps: Integer,
    *,
    pct_start: Number = 0.75,
    div_final: Number = 1e5,
    momentum: Number = 0.95,
) -> Schedule:
    """Returns a schedule that is flat at the peak, then falls along a cosine.

    Args:
        total_steps: Number of updates in the run.
        pct_start: Fraction of the run before the fall, in (0, 1).
        div_final: The run ends at peak / div_final.
        momentum: Constant momentum.

    Raises:
        ValueError: If a number is out of its range.

    References:
        fastai 2.8.12, callback/schedule.py `fit_flat_cos`.
    """
    total_steps, pct_start = _check(total_steps, pct_start)
    div_final = check_number(div_final, "div_final", above=0)
    rates = curve((pct_start, 1.0), (1.0, 1.0), (1.0, 1 / div_final))
    return _at_one_momentum(total_steps, rates, momentum)


def constant(total_steps: Integer = 1, *, momentum: Number = 0.9) -> Schedule:
    """Returns a schedule that stays at the peak; fastai's plain `fit`."""
    total_steps, _ = _check(total_steps, 0.5)
    return _at_one_momentum(total_steps, curve((1.0,), (1.0,), (1.0,)), momentum)


def exponential(
    total_steps: Integer, start: Number, stop: Number, *, momentum: Number = 0.9
) -> Schedule:
    """Returns a schedule that goes from start to stop by a constant factor a step.

    With a peak learning rate of 1, start and stop are learning rates, as in `lr_find`.

    Args:
        total_steps: Number of updates in the run.
        start: Multiple of the peak learning rate at the start, above 0.
        stop: Multiple of the peak learning rate at the end, above 0.
        momentum: Constant momentum.

    Raises:
        ValueError: If a number is out of its range.

    References:
        fastai 2.8.12, callback/schedule.py `SchedExp`.
    """
    total_steps, _ = _check(total_steps, 0.5)
    start = check_number(start, "start", above=0)
    stop = check_number(stop, "stop", above=0)
    rates = curve((1.0,), (start,), (stop,), kind=EXPONENTIAL)
    return _at_one_momentum(total_steps, rates, momentum)


def slanted_triangular(
    total_steps: Integer,
    *,
    cut_fraction: Number = 0.1,
    ratio: Number = 32.0,
    momentum: Number = 0.9,
) -> Schedule:
    """Returns ULMFiT's schedule: a short linear rise, then a long linear fall.

    Args:
        total_steps: Number of updates in the run.
        cut_fraction: Fraction of the run before the peak, in (0, 1).
        ratio: The run starts and ends at peak / ratio.
        momentum: Constant momentum.

    Raises:
        ValueError: If a number is out of its range.

    Example:
        >>> schedule = slanted_triangular(100)
        >>> [round(float(schedule(step)[0]), 5) for step in (0, 10, 55, 100)]
        [0.03125, 1.0, 0.51562, 0.03125]

    References:
        Howard and Ruder, "ULMFiT", https://arxiv.org/abs/1801.06146, section 3.2.
    """
    total_steps, cut_fraction = _check(total_steps, cut_fraction, "cut_fraction")
    ratio = check_number(ratio, "ratio", least=1)
    ends, low = (cut_fraction, 1.0), 1 / ratio
    rates = curve(ends, (low, 1.0), (1.0, low), kind=LINEAR)
    return _at_one_momentum(total_steps, rates, momentum)


def over_updates(schedule: Schedule, gradient_accumulation_steps: Integer) -> Schedule:
    """Converts a schedule over batches to one over updates, for gradient accumulation.

    `group_optimizer` then makes one update of k batches, and its schedule counts
    updates: total_steps // k of them. Batches left over at the end make no update.

    Args:
        schedule: A schedule whose `total_steps` counts batches.
        gradient_accumulation_steps: Number of batches in an update, k.

    Example:
        >>> schedule = over_updates(one_cycle(100), 8)
        >>> float(schedule.total_steps), round(float(schedule(3)[0]), 6)
        (12.0, 1.0)
    """
    check_schedule(schedule)
    steps = check_integer(
        gradient_accumulation_steps, "gradient_accumulation_steps", least=1
    )
    if steps == 1:
        return schedule
    updates = jnp.floor(schedule.total_steps / steps)
    return dataclasses.replace(schedule, total_steps=jnp.maximum(updates, 1.0))


def resolve_rates(rates: Rates, count: Integer, *, name: str = "rates") -> tuple:
    """Returns one peak learning rate for each layer group, first group first.

    Args:
        rates: A number: the same for all. A list, a tuple or a 1-d array: one for each
            group. `slice(a, b)`: from a for the first group to b for the last, in
            geometric progression. `slice(b)`: b for the last group, b / 10 for the
            others.
        count: Number of groups.
        name: Name of the argument, for the error messages.

    Raises:
        TypeError: If it is none of these.
        ValueError: If a list has a wrong length, or a rate is negative, infinite or
            NaN.

    Example:
        >>> resolve_rates(slice(1e-5, 1e-3), 3)
        (1e-05, 0.0001, 0.001)
        >>> resolve_rates(slice(1e-3), 3)
        (0.0001, 0.0001, 0.001)

    References:
        fastai 2.8.12, optimizer.py `Optimizer.set_hyper` and learner.py; fastcore's
        `even_mults`.
    """
    count = check_integer(count, "count", least=1)
    if isinstance(rates, slice):
        if rates.stop is None or rates.step is not None:
            raise ValueError(
                f"{name} as a slice must be slice(last) or slice(first, last); "
                f"received {rates}."
            )
        last = check_number(rates.stop, f"{name}.stop", least=0)
        first = rates.start
        if first is not None:
            first = check_number(first, f"{name}.start", least=0)
        if not first:
            return (*[last / 10] * (count - 1), last)
        if count == 1:
            return (last,)
        ratio = (last / first) ** (1 / (count - 1))
        return (*(first * ratio**i for i in range(count - 1)), last)
    if isinstance(rates, list | tuple) or getattr(rates, "ndim", 0) == 1:
        if len(rates) != count:
            raise ValueError(
                f"{name}: {len(rates)} learning rates for {count} layer groups; give "
                "one number, one for each group, slice(last) or slice(first, last). "
                f"Received {described(rates)}."
            )
        return check_numbers(rates, name, least=0)
    try:
        rate = check_number(rates, name, least=0)
    except TypeError:
        raise TypeError(
            f"{name} must be a learning rate, a list of one for each layer group, "
            f"slice(last) or slice(first, last); received {described(rates)}."
        ) from None
    return (rate,) * count


def check_momentums(momentums: Any, name: str) -> tuple:
    """Returns the momentum at a cycle's start, peak and end.

    Raises:
        TypeError: If it is not a list of numbers.
        ValueError: If there are not three, each at least 0 and below 1.
    """
    return check_numbers(momentums, name, count=3, least=0, below=1, what=_MOMENTUMS)


def check_schedule(schedule: Any) -> Schedule:
    """Returns a schedule as it is.

    Raises:
        TypeError: If it is something else. For a function, such as Optax's schedules,
            the message says why.
    """
    if isinstance(schedule, Schedule):
        return schedule
    why = " (Optax's schedules are functions and have no momentum)"
    raise TypeError(
        "schedule must be one of jaxtune's, such as one_cycle(total_steps)"
        f"{why if callable(schedule) else ''}; received {described(schedule)}."
    )


def _at_one_momentum(total_steps: int, rates: Curve, momentum: Any) -> Schedule:
    momentum = check_number(momentum, "momentum", least=0, below=1)
    return Schedule(
        learning_rate=rates,
        momentum=curve((1.0,), (momentum,), (momentum,)),
        total_steps=_array(total_steps),
    )


def _array(values: Any, dtype: Any = jnp.float32) -> jax.Array:
    """An array of numbers; what NumPy can make compiles nothing."""
    if not any(isinstance(value, jax.Array) for value in jax.tree.leaves(values)):
        values = np.asarray(values, dtype)
    return jnp.asarray(values, dtype)


def _check(total_steps: Any, fraction: Any, name: str = "pct_start") -> tuple[int, Any]:
    return (
        check_integer(total_steps, "total_steps", least=1),
        check_number(fraction, name, above=0, below=1),
    )
