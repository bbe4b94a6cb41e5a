import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxtune.train import (
    constant,
    curve,
    flat_cosine,
    one_cycle,
    over_updates,
    resolve_rates,
)
from jaxtune.train.schedules import EXPONENTIAL, LINEAR


def cosine(start, end, q):
    return start + (1 + math.cos(math.pi * (1 - q))) * (end - start) / 2


def formula(step, total, pct, values):
    """fastai's combined cosine at position step / total, in float64."""
    position = step / total
    if position < pct:
        return cosine(values[0], values[1], position / pct)
    return cosine(values[1], values[2], (position - pct) / (1 - pct))


def both(schedule, steps):
    # As many for each schedule: JAX compiles anew for each number.
    assert steps <= 128
    return np.asarray(jax.vmap(schedule)(jnp.arange(128))).T[:steps]


@pytest.mark.parametrize("total", [1, 2, 3, 7, 47, 100])
@pytest.mark.parametrize(("pct", "div"), [(0.25, 25.0), (0.99, 25.0), (0.3, 5.0)])
def test_one_cycle_is_the_formula(total, pct, div):
    got = both(one_cycle(total, pct_start=pct, div=div), total)
    rates = [formula(i, total, pct, (1 / div, 1.0, 1e-5)) for i in range(total)]
    momentums = [formula(i, total, pct, (0.95, 0.85, 0.95)) for i in range(total)]
    np.testing.assert_allclose(got[:, 0], rates, rtol=2e-5, atol=1e-7)
    np.testing.assert_allclose(got[:, 1], momentums, rtol=1e-6)


FASTAI = json.loads(
    (Path(__file__).parents[1] / "golden" / "fastai_schedules.json").read_text()
)


@pytest.mark.parametrize("total", FASTAI["fine_tune"])
def test_both_phases_of_fine_tune_are_what_fastai_ran(total):
    steps = int(total)
    for phase, rates, options in (
        ("frozen", slice(2e-3), {"pct_start": 0.99}),
        ("unfrozen", slice(1e-5, 1e-3), {"pct_start": 0.3, "div": 5.0}),
    ):
        golden = np.asarray(FASTAI["fine_tune"][total][phase])
        got = both(one_cycle(steps, **options), steps)
        peaks = np.asarray(resolve_rates(rates, 3))
        np.testing.assert_allclose(
            got[:, :1] * peaks, golden[:, :3], rtol=1e-5, atol=1e-6 * peaks.max()
        )
        np.testing.assert_allclose(got[:, 1], golden[:, 3], atol=2e-6)


@pytest.mark.parametrize("total", FASTAI["fit_one_cycle"])
def test_one_cycle_is_what_fastai_ran(total):
    golden = np.asarray(FASTAI["fit_one_cycle"][total])
    got = both(one_cycle(int(total)), int(total))
    np.testing.assert_allclose(got[:, 0] * 1e-2, golden[:, 0], atol=1e-8)
    np.testing.assert_allclose(got[:, 1], golden[:, 1], atol=2e-6)


@pytest.mark.parametrize("total", FASTAI["fit_flat_cos"])
def test_flat_cosine_is_what_fastai_ran(total):
    got = both(flat_cosine(int(total)), int(total))
    np.testing.assert_allclose(
        got[:, 0] * 1e-2, FASTAI["fit_flat_cos"][total], atol=1e-8
    )


def test_a_run_of_one_step_starts_low():
    """Where a truncating schedule would start at the peak."""
    assert one_cycle(1, pct_start=0.99)(0)[0] == pytest.approx(1 / 25)
    assert one_cycle(3)(0)[0] == pytest.approx(1 / 25)


def test_one_cycle_after_its_end_stays_there():
    assert one_cycle(10)(15)[0] == pytest.approx(1e-5, rel=1e-3)


@pytest.mark.parametrize("total", [1, 3, 40])
def test_flat_cosine_is_the_formula(total):
    got = both(flat_cosine(total), total)
    expected = [
        1.0 if i / total < 0.75 else cosine(1.0, 1e-5, (i / total - 0.75) / 0.25)
        for i in range(total)
    ]
    np.testing.assert_allclose(got[:, 0], expected, rtol=2e-5)
    assert (got[:, 1] == np.float32(0.95)).all()


def test_constant_is_fastais_plain_fit():
    got = both(constant(5), 5)
    np.testing.assert_allclose(got, [[1.0, 0.9]] * 5)


def test_linear_and_exponential_pieces():
    slanted = curve((0.1, 1.0), (0.0, 1.0), (1.0, 0.0), kind=LINEAR)
    np.testing.assert_allclose(
        jax.vmap(slanted)(jnp.asarray([0.0, 0.05, 0.1, 0.55, 1.0])),
        [0.0, 0.5, 1.0, 0.5, 0.0],
        atol=1e-6,
    )
    sweep = curve((1.0,), (1e-7,), (10.0,), kind=EXPONENTIAL)
    np.testing.assert_allclose(
        jax.vmap(sweep)(jnp.asarray([0.0, 0.5, 1.0])), [1e-7, 1e-3, 10], rtol=1e-4
    )


@settings(deadline=None, max_examples=30)
@given(
    pct=st.floats(0.01, 0.99), div=st.floats(1, 100), position=st.floats(0, 1, width=32)
)
def test_a_cycle_stays_between_its_ends(pct, div, position):
    value = float(
        one_cycle(1, pct_start=pct, div=div).learning_rate(jnp.float32(position))
    )
    assert 0 < value <= 1 + 1e-6


def test_another_schedule_is_another_value_not_another_program():
    traces = []

    @jax.jit
    def at(schedule, step):
        traces.append(1)
        return schedule(step)[0]

    values = [
        float(at(s, 3))
        for s in (one_cycle(10), one_cycle(70), flat_cosine(9), constant())
    ]
    assert len(traces) == 1 and len(set(values)) == 3


def test_a_rate_has_a_finite_gradient_with_respect_to_the_curve():
    schedule = one_cycle(10)

    def rate(starts):
        cycle = dataclasses.replace(schedule.learning_rate, starts=starts)
        return cycle(jnp.float32(0.2))

    slope = jax.grad(rate)(schedule.learning_rate.starts)
    assert 0 < float(slope[0]) < 1 and bool(jnp.isfinite(slope).all())


@pytest.mark.parametrize(
    ("rates", "expected"),
    [
        (1e-3, (1e-3, 1e-3, 1e-3)),
        ([1.0, 2.0, 3.0], (1.0, 2.0, 3.0)),
        ((1, 2, 3), (1.0, 2.0, 3.0)),
        (np.array([1e-4, 1e-3, 1e-2]), (1e-4, 1e-3, 1e-2)),
        (jnp.array([1.0, 2.0, 3.0]), (1.0, 2.0, 3.0)),
        (np.float32(0.5), (0.5, 0.5, 0.5)),
        (jnp.float32(0.5), (0.5, 0.5, 0.5)),
        (np.array(2), (2.0, 2.0, 2.0)),
        (slice(np.float64(1e-5), np.array(1e-3)), (1e-5, 1e-4, 1e-3)),
        (slice(1e-5, 1e-3), (1e-5, 1e-4, 1e-3)),
        (slice(1e-3), (1e-4, 1e-4, 1e-3)),
        (slice(0, 1e-3), (1e-4, 1e-4, 1e-3)),
    ],
)
def test_rates_of_three_groups(rates, expected):
    assert resolve_rates(rates, 3) == pytest.approx(expected)


def test_rates_of_one_group():
    assert resolve_rates(slice(1e-5, 1e-3), 1) == (1e-3,)
    assert resolve_rates(slice(1e-3), 1) == (1e-3,)


@pytest.mark.parametrize(
    ("rates", "match"),
    [
        ([1.0, 2.0], "2 learning rates for 3 layer groups"),
        (-1.0, "at least 0"),
        (float("nan"), "rates must be a number of at least 0; received nan"),
        (float("inf"), "rates must be a number of at least 0; received inf"),
        (np.array([1e-3, 1e-2]), "2 learning rates for 3 layer groups"),
        ([1.0, -2.0, 3.0], r"rates\[1\] must be a number of at least 0"),
        (slice(-1, 1), "rates.start must be"),
        (slice(1, float("nan")), "rates.stop must be"),
        (slice(None), "slice"),
    ],
)
def test_wrong_rates_are_refused(rates, match):
    with pytest.raises(ValueError, match=match):
        resolve_rates(rates, 3)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: one_cycle(0), "total_steps must be a whole number of at least 1"),
        (
            lambda: one_cycle(5, pct_start=1.0),
            "pct_start must be a number above 0",
        ),
        (lambda: one_cycle(5, div=0.0), "div must be a number above 0"),
        (lambda: curve((0.5,), (1.0,), (1.0,)), "rise from at least 0 to 1"),
        (lambda: curve((1.0,) * 5, (1.0,) * 5, (1.0,) * 5), "1 to 4 pieces"),
    ],
)
def test_wrong_schedules_are_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_a_cycle_over_updates_ends_with_the_last_of_them():
    batches = one_cycle(23)
    assert over_updates(batches, 1) is batches
    updates = over_updates(batches, 5)
    expected = one_cycle(4)
    for step in range(5):
        assert [float(x) for x in updates(step)] == [float(x) for x in expected(step)]
    # Too few for one: still a schedule, and never a NaN.
    assert float(over_updates(constant(), 5)(0)[0]) == 1.0
