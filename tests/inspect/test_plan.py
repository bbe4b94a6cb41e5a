import jax
import pytest
from flax import nnx
from photos import tiny_resnet

from jaxtune.inspect.plan import plan_phases
from jaxtune.train import Phase, constant, fine_tune_phases, sgd, split_module
from jaxtune.transfer import create_cnn_model, default_groups


@pytest.fixture(scope="module")
def net():
    return nnx.eval_shape(lambda: create_cnn_model(tiny_resnet, 3, hidden=(16,)))


def plan(net, phases=None, **options):
    phases = phases or fine_tune_phases(3, 12, 2, 2e-3)
    groups = default_groups(net)
    return plan_phases(net, groups, phases, size=(32, 32), **options)


def sizes(net) -> dict[str, int]:
    params = split_module(net)[1]
    late = ("layer3", "layer4")
    found = {"early": 0, "late": 0, "head": 0}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        place = [key.key for key in path]
        group = "late" if place[1] in late else "early"
        found["head" if place[0] == "head" else group] += leaf.size
    return found


def test_a_plan_says_what_fine_tune_does(net):
    head, whole = plan(net).of_phase(1), plan(net).of_phase(2)
    count = sizes(net)
    for rows in (head, whole):
        assert {row.group: row.parameters for row in rows} == count
        assert sum(row.share for row in rows) == pytest.approx(1)
    assert [row.frozen for row in head] == [True, True, False]
    assert [row.trained for row in head] == [0, 0, count["head"]]
    assert [row.learning_rate for row in head] == [None, None, 2e-3]
    assert [row.weight_decay for row in head] == [None, None, 0.01]
    assert [row.norms for row in head] == ["frozen", "frozen", "train"]
    assert [row.trained for row in whole] == list(count.values())
    assert [row.learning_rate for row in whole] == pytest.approx([1e-5, 1e-4, 1e-3])
    assert [row.norms for row in whole] == ["train"] * 3


def test_adam_keeps_two_numbers_a_parameter_and_sgd_one(net):
    count = sizes(net)
    rows = plan(net).rows
    # And its count of steps, int32.
    assert [row.optimizer_bytes for row in rows] == [
        0,
        0,
        8 * count["head"] + 4,
        *(8 * number + 4 for number in count.values()),
    ]
    rows = plan(net, optimizer=sgd).of_phase(2)
    assert [row.optimizer_bytes for row in rows] == [4 * n for n in count.values()]


def test_an_average_is_one_number_more_of_what_moves(net):
    count = sizes(net)
    without, rows = plan(net).rows, plan(net, averages=True).rows
    more = [
        row.optimizer_bytes - alone.optimizer_bytes
        for row, alone in zip(rows, without, strict=True)
    ]
    statistics = jax.tree_util.tree_leaves_with_path(split_module(net)[2])
    in_head = sum(leaf.size for path, leaf in statistics if path[0].key == "head")
    whole = sum(count.values()) + sum(leaf.size for _, leaf in statistics)
    assert more[:3] == [0, 0, 4 * (count["head"] + in_head)]
    assert sum(more[3:]) == 4 * whole and more[5] == more[2]


def test_a_frozen_step_costs_the_forward_pass(net):
    head, whole = plan(net).of_phase(1), plan(net).of_phase(2)
    late = [rows[1].operations for rows in (head, whole)]
    # Forward alone, or with gradients of weights and of inputs.
    assert late[1] == 3 * late[0]
    # The head's first norm trains: the gradient goes as far as that in both phases.
    assert head[2].operations == whole[2].operations


def test_a_frozen_body_whose_features_are_cached_runs_once_for_each_draw(net):
    def with_draws(draws):
        return plan(
            net, fine_tune_phases(3, 12, 2, freeze_epochs=8, cache_features=draws)
        )

    each, cached = with_draws(0).of_phase(1), with_draws(2)
    rows = cached.of_phase(1)
    for row, whole in zip(rows[:2], each[:2], strict=True):
        assert row.operations == whole.operations / 4
    assert rows[2].operations == each[2].operations
    assert sum(row.share for row in rows) == pytest.approx(1)
    text = " ".join(str(cached).split())
    assert "early, late frozen; features cached, 2 of each photo; a step" in text
    # As many draws as epochs are the photos themselves.
    assert with_draws(20).of_phase(1) == each


def test_norms_that_train_are_told_apart(net):
    early = plan(net, norms="train").of_phase(1)[0]
    assert early.frozen and 0 < early.trained < early.parameters
    assert early.learning_rate == pytest.approx(2e-4)
    # Norms and biases have no decay.
    assert early.weight_decay is None
    assert early.norms == "train"
    assert early.operations > plan(net).of_phase(1)[0].operations
    stats = plan(net, norms="stats").of_phase(1)[0]
    assert (stats.trained, stats.norms) == (0, "stats")


def test_a_phase_without_a_boundary_leaves_frozen_what_is(net):
    phase = Phase(None, None, 1, (0.1, 0.1, 0.1), constant(12), 0.0)
    rows = plan(net, [phase], boundary=1, first_phase=4).of_phase(4)
    assert [row.frozen for row in rows] == [True, False, False]
    assert [row.learning_rate for row in rows] == [None, 0.1, 0.1]


def test_it_prints_as_a_table_that_fits(net):
    text = plan(net).table().text(80)
    assert max(map(len, text.splitlines())) <= 80
    lines = [line.split() for line in text.splitlines()]
    count = sizes(net)
    assert ["1", "early", f"{count['early']:,}", "no", "frozen"] == lines[2][:5]
    assert lines[4][3:7] == [f"{count['head']:,}", "0.002", "0.01", "train"]
    assert "phase 1: 1 epoch, 12 steps; early, late frozen; a step costs" in text
    assert "phase 2: 2 epochs, 24 steps; nothing frozen" in text


def test_gathered_gradients_are_one_number_more_of_what_trains(net):
    count = sizes(net)
    without, with_them = plan(net), plan(net, gradient_accumulation_steps=5)
    more = [
        row.optimizer_bytes - alone.optimizer_bytes
        for row, alone in zip(with_them.rows, without.rows, strict=True)
    ]
    assert more == [0, 0, 4 * count["head"], *(4 * n for n in count.values())]
    text = str(with_them)
    assert "12 steps, an update every 5 (2 in all); early, late frozen" in text
    assert "24 steps, an update every 5 (4 in all); nothing frozen" in text
