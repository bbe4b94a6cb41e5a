import json

import numpy as np
import pytest

from jaxtune.train import (
    Phase,
    check_base_lr,
    constant,
    fine_tune_phases,
    gradual_phases,
    one_cycle,
    scale_for_batch,
)


def test_fastais_two_phases():
    head, whole = fine_tune_phases(3, 7, 2, 4e-3, freeze_epochs=3, lr_mult=10.0)
    assert (head.boundary, head.epochs) == (2, 3)
    assert (whole.boundary, whole.epochs) == (0, 2)
    assert head.rates == pytest.approx((4e-4, 4e-4, 4e-3))
    assert whole.rates == pytest.approx((2e-4, 2e-4 * 10**0.5, 2e-3))
    assert int(head.schedule.total_steps) == 21
    assert int(whole.schedule.total_steps) == 14
    expected = one_cycle(21, pct_start=0.99)
    for step in (0, 5, 20):
        assert float(head.schedule(step)[0]) == float(expected(step)[0])
    assert float(whole.schedule(0)[0]) == pytest.approx(1 / 5)


def test_no_frozen_phase():
    (whole,) = fine_tune_phases(3, 7, 2, freeze_epochs=0)
    assert whole.boundary == 0 and whole.name is None


def test_a_phase_as_json():
    phase = Phase("a", None, 2, (1e-3, 1e-2), constant(10), 0.1)
    text = json.dumps(phase.as_dict())
    assert json.loads(text) == phase.as_dict()
    assert phase.as_dict()["rates"] == [1e-3, 1e-2]
    others = [
        Phase("a", 0, 2, (1e-3, 1e-2), constant(10), 0.1),
        Phase("a", None, 3, (1e-3, 1e-2), constant(10), 0.1),
        Phase("a", None, 2, (1e-3, 1e-3), constant(10), 0.1),
        Phase("a", None, 2, (1e-3, 1e-2), one_cycle(10), 0.1),
        Phase("a", None, 2, (1e-3, 1e-2), constant(10), 0.2),
    ]
    assert len({text, *(json.dumps(other.as_dict()) for other in others)}) == 6
    # Its name decides nothing.
    assert Phase("b", None, 2, (1e-3, 1e-2), constant(10), 0.1).as_dict() == (
        phase.as_dict()
    )


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1"),
        ({"epochs": 1, "freeze_epochs": -1}, "freeze_epochs must be"),
        ({"epochs": 1, "num_groups": 1}, "at least two layer groups"),
        ({"epochs": 1, "base_lr": -1.0}, "at least 0"),
    ],
)
def test_what_cannot_be_a_recipe(arguments, match):
    with pytest.raises(ValueError, match=match):
        fine_tune_phases(**{"num_groups": 3, "steps_per_epoch": 7, **arguments})


def test_gradual_unfreezing_is_ulmfits():
    phases = gradual_phases(3, 10, 4, 1e-2, epochs_each=2)
    assert [phase.boundary for phase in phases] == [2, 1, 0]
    assert [phase.epochs for phase in phases] == [2, 2, 4]
    assert [int(phase.schedule.total_steps) for phase in phases] == [20, 20, 40]
    for phase in phases:
        assert phase.rates == pytest.approx((1e-2 / 2.6**2, 1e-2 / 2.6, 1e-2))
        # Straight up for a tenth of the way, straight down after.
        total = int(phase.schedule.total_steps)
        rates = [float(phase.schedule(step)[0]) for step in range(total + 1)]
        assert rates[0] == pytest.approx(1 / 32) == pytest.approx(rates[-1])
        assert max(rates) == pytest.approx(1.0) == pytest.approx(rates[total // 10])


def test_part_of_the_network_can_stay_frozen():
    head, most = fine_tune_phases(3, 7, 2, unfreeze_to=1)
    assert (head.boundary, most.boundary) == (2, 1)


@pytest.mark.parametrize(
    ("rate", "match"),
    [
        (slice(1e-5, 1e-3), "base_lr=0.002, lr_mult=100; fit_one_cycle accepts a"),
        (slice(1e-3), "Write base_lr=0.001; fit_one_cycle accepts a slice"),
        ([1e-4, 1e-3], "base_lr must be one number"),
        (None, "base_lr must be one number"),
    ],
)
def test_a_recipe_has_one_rate(rate, match):
    with pytest.raises(TypeError, match=match):
        check_base_lr(rate)
    whole = fine_tune_phases(3, 7, 2, 0.002, lr_mult=100)[1]
    assert whole.rates == pytest.approx((1e-5, 1e-4, 1e-3))


def test_rates_for_large_batches_are_scaled_where_that_is_asked_for():
    plain, scaled = (fine_tune_phases(3, 7, 2, lr_scale=scale) for scale in (1.0, 3.0))
    for one, other in zip(plain, scaled, strict=True):
        np.testing.assert_allclose(other.rates, 3 * np.asarray(one.rates))
    assert scale_for_batch("linear", 1024) == 16.0
    assert scale_for_batch("sqrt", 1024) == 4.0
    assert scale_for_batch(0.5, 1024) == 0.5
    with pytest.raises(ValueError, match="linear.*sqrt"):
        scale_for_batch("cubic", 64)
