import math

import jax
import jax.numpy as jnp
import pytest

from jaxtune.inspect.diff import Diff, Interval, Snapshot, stretches

LABELS = {
    "bn": {"weight": "body"},
    "conv": {"weight": "body"},
    "fc": {"bias": "head", "weight": "head"},
}
ORDER = ["conv", "bn", "fc"]


def values(conv=1.0, bn=1.0, fc=1.0, mean=2.0):
    params = {
        "bn": {"weight": jnp.full(4, bn)},
        "conv": {"weight": jnp.full(9, conv)},
        "fc": {"bias": jnp.zeros(1), "weight": jnp.full(4, fc)},
    }
    return params, {"bn": {"mean": jnp.full(4, mean)}}


def snapshots():
    return [
        Snapshot(1, "phase 1/2", ("body",), *values()),
        Snapshot(2, "phase 2/2", (), *values(fc=1.5)),
    ]


def diff():
    now = values(conv=1.02, fc=1.5, mean=3.0)
    return Diff(stretches(snapshots(), now), LABELS, ORDER)


def test_each_phase_reaches_to_the_next_and_the_last_to_now():
    now = values(fc=2.0)
    first, second = stretches(snapshots(), now)
    assert (first.phase, first.name, first.frozen) == (1, "phase 1/2", ("body",))
    assert first.after[0] is second.before[0]
    assert second.after is now
    assert stretches([], now) == []


def test_of_a_phase_that_was_resumed_the_first_beginning_counts():
    first, second = snapshots()
    again = Snapshot(2, "phase 2/2", (), *values(fc=1.7))
    parts = stretches([first, second, again], values())
    assert [part.phase for part in parts] == [1, 2]
    assert parts[1].before[0] is second.params


def test_groups_and_layers_moved_relative_to_where_they_were():
    found = diff()
    rows = {(row.phase, row.layer or row.group): row for row in found.rows}
    assert rows[1, "fc"].parameters.relative == pytest.approx(0.5)
    assert rows[1, "conv"].parameters.relative == 0 and rows[1, "conv"].frozen
    assert rows[2, "conv"].parameters.relative == pytest.approx(0.02)
    assert rows[2, "conv"].statistics is None
    assert rows[2, "bn"].statistics.relative == pytest.approx(0.5)
    assert rows[2, "fc"].parameters.changed == 0
    body = rows[2, "body"].parameters
    assert body.distance == pytest.approx(0.02 * 3)
    assert body.norm == pytest.approx(math.sqrt(9 + 4))
    assert [row.layer for row in found.layers()] == ORDER * 2
    assert [row.group for row in found.groups()] == ["body", "head"] * 2


def test_it_prints_two_columns_for_each_phase():
    lines = [line.split() for line in diff().table().text(80).splitlines()]
    assert lines[0] == "group / layer params 1 stats 1 params 2 stats 2".split()
    assert lines[2] == ["body", "0", "0", "1.7%", "50%"]
    assert lines[3] == ["conv", "0", "2.0%"]
    assert lines[4] == ["bn", "0", "0", "0", "50%"]
    assert ["fc", "50%", "0"] in lines
    assert "1: phase 1/2; body frozen".split() in lines


def test_what_moved_away_from_nothing_says_so():
    was, now = values(fc=0.0), values(fc=1.0)
    found = Diff([Interval(0, "all", (), was, now)], LABELS, ORDER)
    assert "from 0" in found.table().text(80)
    assert found.groups()[1].parameters.relative == math.inf


def test_the_plot_has_a_bar_for_each_layer_and_points_for_statistics():
    pytest.importorskip("matplotlib")
    figure = diff().plot()
    first, second = figure.axes
    assert [text.get_text() for text in first.get_yticklabels()] == ORDER
    assert first.get_title() == "phase 1/2\n(body frozen)"
    ends = [bar.get_x() + bar.get_width() for bar in second.patches[:1]]
    assert ends == pytest.approx([2.0])
    assert first.patches[0].get_width() == 0
    assert list(second.lines[0].get_xdata())[1] == pytest.approx(50.0)
    figure._repr_png_()


def test_trees_may_lie_on_any_device():
    moved = jax.device_put(values(fc=2.0), jax.devices()[-1])
    found = Diff([Interval(0, "all", (), values(), moved)], LABELS, ORDER)
    assert found.groups()[1].parameters.relative == pytest.approx(1.0)
