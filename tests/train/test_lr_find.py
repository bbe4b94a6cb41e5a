import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxtune.train import LRFind, TrainState, exponential, lr_sweep, suggest_rates
from jaxtune.train.lr_find import minimum, slide, steep, valley


def curve(count=100):
    """Rates, and losses that fall, lie level, and rise."""
    rates = 1e-7 * 1e8 ** (np.arange(count) / count)
    x = np.log10(rates)
    return rates, 2 - 1 / (1 + np.exp(-3 * (x + 3.5))) + np.exp(4 * (x - 0.2))


def test_suggestions_are_fastais():
    """The numbers are fastai 2.8.12's own functions', given the same curve."""
    rates, losses = curve()
    found = suggest_rates(rates, losses, 100)
    assert list(found) == ["valley", "slide", "minimum", "steep"]
    expected = {
        "valley": 0.0001318256738556407,
        "slide": 9.120108393559096e-05,
        "minimum": 0.003981071705534969,
        "steep": 0.0002754228703338166,
    }
    for name, rate in expected.items():
        assert found[name] == pytest.approx(rate, rel=1e-5), name


def test_short_and_broken_curves():
    rates, losses = curve()
    assert suggest_rates(rates[:14], losses[:14], 100) == {}
    assert suggest_rates(rates[:3], losses[:3], 8) == {}
    broken = losses.copy()
    broken[60:] = np.nan
    cut = suggest_rates(rates, broken, 100)
    assert cut["minimum"] == pytest.approx(minimum(rates[10:60], losses[10:60]))
    assert all(np.isfinite(list(cut.values())))
    for length in range(16, 40):
        found = suggest_rates(rates[:length], losses[:length], 100)
        assert set(found) in ({"valley", "slide", "minimum", "steep"}, set())
    falling = np.arange(20.0)[::-1]
    for method in (valley, slide, minimum, steep):
        assert method(rates[:20], falling) > 0


START = TrainState(jnp.int32(0), (), (), ())


def step(state, batch, key):
    return state, {"loss": jnp.float32(batch["loss"])}


def sweep(losses, **options):
    batches = [{"loss": loss} for loss in losses]
    return lr_sweep(step, START, batches, jax.random.key(0), **options)


def test_the_smoothed_loss_and_where_it_stops():
    losses = sweep([1.0, 3.0, 5.0])
    mean, expected = 0.0, []
    for n, loss in enumerate([1.0, 3.0, 5.0], start=1):
        mean = 0.98 * mean + 0.02 * loss
        expected.append(mean / (1 - 0.98**n))
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    many = [1.0, *[100.0] * 9]
    assert len(sweep(many)) == 2
    assert len(sweep(many, stop_div=False)) == 10


def test_the_schedule_rises_by_a_constant_factor():
    schedule = exponential(100, 1e-7, 10.0)
    for number in (0, 1, 50, 99):
        expected = 1e-7 * 1e8 ** (number / 100)
        assert float(schedule(number)[0]) == pytest.approx(expected, rel=1e-4)
    assert float(schedule(3)[1]) == pytest.approx(0.9)
    with pytest.raises(ValueError, match="start must be a number above 0"):
        exponential(100, 0.0, 1.0)


def test_a_result_gives_its_suggestions_by_name():
    found = LRFind(np.ones(2), np.ones(2), {"valley": 1e-3}, "phase 1 · head only")
    assert found.valley == 1e-3
    assert str(found) == "valley 0.001 (phase 1 · head only)"
    with pytest.raises(AttributeError, match="no suggestion 'steep'; there are valley"):
        _ = found.steep


def test_the_plot_has_the_curve_and_each_suggestion_on_it():
    pytest.importorskip("matplotlib")
    rates, losses = curve()
    losses[-1] = np.nan
    suggestions = suggest_rates(rates, losses, 100)
    what = "phase 2 · all layer groups · 1 of 1 parameters train"
    found = LRFind(rates, losses, suggestions, what, 2, ("body", "head"))
    (axes,) = found.plot().axes
    lines = ["phase 2 · all layer groups", "1 of 1 parameters train"]
    assert axes.get_title().split("\n") == lines and axes.get_xscale() == "log"
    line, *points = axes.lines
    np.testing.assert_array_equal(line.get_xdata(), rates[:-5])
    np.testing.assert_array_equal(line.get_ydata(), losses[:-5])
    names = [text.get_text() for text in axes.get_legend().get_texts()]
    assert names == [f"{name} {rate:.2g}" for name, rate in suggestions.items()]
    for point, rate in zip(points, suggestions.values(), strict=True):
        (x,), (y,) = point.get_data()
        assert x == rate
        near = losses[np.abs(rates / rate - 1).argmin()]
        assert y == pytest.approx(near, rel=2e-2)
    assert len(found.plot(skip_end=0).axes[0].lines[0].get_xdata()) == 100
    bare = LRFind(rates[:2], losses[:2], {}, "phase 1").plot()
    assert bare.axes[0].get_legend() is None
