import csv

import numpy as np
import pytest

from jaxtune.learner import History, Row
from jaxtune.train import fine_tune_phases


def rows():
    return [
        Row(1, 1, 1.25, 1.0, {"error_rate": 0.5}, 30.04, 61.5),
        Row(2, 1, 0.75, 0.5, {"error_rate": 0.25}, 10.0, 3.0),
    ]


def with_phases():
    """A history of one frozen epoch and two whole ones, of ten steps each."""
    history = History()
    metrics = {"error_rate": 0.5, "accuracy": 0.5}
    for number, phase in enumerate(fine_tune_phases(3, 10, 2), start=1):
        history.add_phase(
            number,
            phase,
            groups=("early", "late", "head"),
            frozen=("early", "late")[: phase.boundary],
            steps_per_epoch=10,
        )
        for epoch in range(1, phase.epochs + 1):
            losses = np.linspace(2, 1, 10) / number
            history.append(Row(number, epoch, 1.0, 0.9, metrics, 9.0, 1.0), losses)
    return history


def test_a_history_is_a_dict_of_lists_with_a_phase_column():
    assert History(rows()).history == {
        "phase": [1, 2],
        "epoch": [1, 1],
        "train_loss": [1.25, 0.75],
        "valid_loss": [1.0, 0.5],
        "error_rate": [0.5, 0.25],
        "images/s": [30.04, 10.0],
        "time": [61.5, 3.0],
    }


def test_it_prints_as_a_table():
    lines = str(History(rows())).splitlines()
    assert lines[0].split()[:3] == ["phase", "epoch", "train_loss"]
    assert lines[1].split() == [
        "1",
        "1",
        "1.250000",
        "1.000000",
        "0.500000",
        "30.0",
        "01:01",
    ]
    assert len({len(line) for line in lines}) == 1
    assert str(History()) == "no epoch yet"


def test_it_is_a_table_in_a_notebook_too():
    html = History(rows())._repr_html_()
    assert html.count("<tr>") == 3 and "0.250000" in html


def test_rows_can_be_added_and_reached():
    history = History()
    for row in rows():
        history.append(row)
    assert len(history) == 2 and history[-1].phase == 2
    assert [row.epoch for row in history] == [1, 1]


def test_a_slice_is_a_history_of_some_epochs():
    history = with_phases()
    part = history[1:]
    assert isinstance(part, History)
    assert part.history["phase"] == [2, 2]
    assert set(part.phases) == {2} and set(part.step_losses) == {(2, 1), (2, 2)}
    assert len(history) == 3


def test_what_is_taken_back_is_forgotten():
    history = with_phases()
    kept = history.rows
    history.truncate(1)
    assert history.rows is kept and len(history) == 1
    assert set(history.phases) == {1} and set(history.step_losses) == {(1, 1)}


def test_rates_are_those_of_the_schedule_group_by_group():
    history = with_phases()
    frozen = history.phases[1].learning_rates()
    assert set(frozen) == {"head"} and frozen["head"].shape == (10,)
    whole = history.phases[2].learning_rates()
    assert {name: rate.shape for name, rate in whole.items()} == {
        "early": (20,),
        "late": (20,),
        "head": (20,),
    }
    phase = history.phases[2].phase
    for step in (0, 6, 19):
        multiple = float(phase.schedule(step)[0])
        for rate, peak in zip(whole.values(), phase.rates, strict=True):
            assert rate[step] == pytest.approx(multiple * peak, rel=1e-6)
    assert whole["head"].max() == pytest.approx(1e-3, rel=1e-2)
    assert history.phases[2].learning_rates(1)["head"].shape == (10,)


def test_it_is_written_as_csv_in_full(tmp_path):
    history = History(rows())
    history.append(Row(3, 1, 1 / 3, 0.2, {"accuracy": 0.75}, 1.0, 1.0))
    path = history.to_csv(tmp_path / "history.csv")
    with open(path, newline="") as file:
        lines = list(csv.DictReader(file))
    assert [line["phase"] for line in lines] == ["1", "2", "3"]
    assert float(lines[2]["train_loss"]) == 1 / 3
    assert (lines[2]["error_rate"], lines[2]["accuracy"]) == ("", "0.75")
    assert lines[0]["accuracy"] in ("", "nan")


def test_a_csv_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = History(rows()).to_csv(tmp_path / "history.csv")
    before = path.read_text()

    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        History(rows()[:1]).to_csv(path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]
    monkeypatch.undo()
    assert len(History(rows()[:1]).to_csv(path).read_text().splitlines()) == 2
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        History(rows()).to_csv(tmp_path / "nowhere" / "history.csv")


def test_the_plot_has_losses_metrics_and_rates_with_phases_marked():
    pytest.importorskip("matplotlib")
    figure = with_phases().plot()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["loss", "error_rate", "accuracy", "learning rate"]
    loss, *_, rates = figure.axes
    np.testing.assert_allclose(loss.lines[0].get_xdata()[[0, -1]], [0.1, 3.0])
    assert list(loss.lines[1].get_xdata()) == [1, 2, 3]
    for axes in figure.axes:
        assert [t.get_text() for t in axes.texts] == ["phase 1", "phase 2"]
    early, late, head = rates.lines
    # The frozen groups have no rate in the first phase.
    assert early.get_xdata()[0] == late.get_xdata()[0] == 1.0
    assert head.get_xdata()[0] == 0.0
    assert np.nanmax(head.get_ydata()) == pytest.approx(2e-3, rel=2e-2)
    assert figure.axes[-1].get_ylim()[0] == pytest.approx(1e-5 / 30, rel=5e-2)
    figure._repr_png_()


def test_further_photos_stand_beside_the_validation_photos():
    old = {"old_valid_loss": 2.0, "old_error_rate": 0.75, "gold_error_rate": 0.5}
    later = Row(2, 2, 0.5, 0.4, {"error_rate": 0.125, **old}, 10.0, 3.0)
    history = History([*rows(), later])
    assert [*history.history][3:] == [
        "valid_loss", "error_rate", *old, "images/s", "time"
    ]  # fmt: skip
    pytest.importorskip("matplotlib")
    loss, error_rate, own = history.plot().axes
    assert [axes.get_title() for axes in (loss, error_rate, own)] == [
        "loss", "error_rate", "gold_error_rate"
    ]  # fmt: skip
    for axes, names in (
        (loss, ["train", "valid", "old"]),
        (error_rate, ["old", "valid"]),
    ):
        assert [t.get_text() for t in axes.get_legend().get_texts()] == names
    np.testing.assert_array_equal(
        error_rate.lines[0].get_ydata(), [np.nan] * 2 + [0.75]
    )
    assert own.get_legend() is None


def test_a_phases_small_rates_are_not_below_the_plot():
    """A group whose norms trained first, at a rate far above its own later one."""
    pytest.importorskip("matplotlib")
    history = with_phases()
    record = history.phases[1]
    history.add_phase(1, record.phase, groups=record.groups, steps_per_epoch=10)
    axes = history.plot().axes[-1]
    early = axes.lines[0].get_ydata()
    assert len(axes.lines) == 3 and np.isfinite(early[:10]).all()
    assert axes.get_ylim()[0] < np.nanmax(early[11:]) / 20
    assert np.nanmax(early[:10]) > 10 * np.nanmax(early[11:])


def test_the_plot_does_without_what_is_not_known():
    pytest.importorskip("matplotlib")
    figure = History(rows()).plot()
    assert [axes.get_title() for axes in figure.axes] == ["loss", "error_rate"]
    figure._repr_png_()
    with pytest.raises(ValueError, match="no epoch to plot"):
        History().plot()
