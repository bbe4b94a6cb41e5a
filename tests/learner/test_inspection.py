import jax
import numpy as np
import pytest
from flax import nnx
from photos import make_photos
from runs import make_learner

from jaxtune.inspect.diff import FrozenMovedError
from jaxtune.train import fine_tune_phases, split_module


def inspected(root, **options):
    return make_learner(root, verbose=False, **options)


def bits(model) -> list[bytes]:
    return [np.asarray(x).tobytes() for x in jax.tree.leaves(split_module(model.model))]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), train=8, valid=3)


@pytest.fixture(scope="module")
def tuned(photos, tmp_path_factory):
    """A learner after fine-tuning, and what it saved before."""
    model = inspected(photos)
    saved = model.save(tmp_path_factory.mktemp("saved") / "before")
    model.fine_tune(1, 1e-2, freeze_epochs=1)
    return model, saved


def test_a_summary_shows_the_phase_that_the_learner_is_in(photos):
    model = inspected(photos)
    frozen = model.summary()
    assert frozen.frozen == ("body",)
    assert {row.group for row in frozen.rows if row.trained} == {"head"}
    assert frozen.rows[0].shape == (1, 7, 7, 8)
    model.unfreeze()
    assert model.summary().trained == model.summary().parameters


def test_a_plan_is_what_then_happens(photos, tuned):
    plan = inspected(photos).plan(1, 1e-2, freeze_epochs=1)
    model, _ = tuned
    moved = {
        (row.phase, row.group): row.parameters.changed for row in model.diff().groups()
    }
    for row in plan.rows:
        assert (moved[row.phase, row.group] > 0) == (row.trained > 0)
    assert [phase.epochs for phase in plan.phases] == [1, 1]
    rates = [row.learning_rate for row in plan.of_phase(2)]
    assert rates == pytest.approx([5e-5, 5e-3])


def test_a_plan_takes_fine_tunes_arguments_or_phases(photos):
    model = inspected(photos)
    later = model.plan(3, freeze_epochs=0, unfreeze_to="head", wd=0.5)
    assert [(row.phase, row.frozen, row.weight_decay) for row in later.rows] == [
        (1, True, None),
        (1, False, 0.5),
    ]
    phases = fine_tune_phases(2, 3, 2)
    assert model.plan(phases=phases).phases == phases


def test_looking_changes_no_bit_and_compiles_no_program(photos):
    model = inspected(photos)
    before, programs = bits(model), model.num_programs
    model.summary()
    model.plan()
    model.assert_frozen()
    assert bits(model) == before and model.num_programs == programs


def test_the_history_of_a_training_has_its_rates_and_losses(tuned):
    history = tuned[0].history
    assert set(history.phases[1].learning_rates()) == {"head"}
    assert set(history.phases[2].learning_rates()) == {"body", "head"}
    steps = [len(losses) for losses in history.step_losses.values()]
    assert steps == [len(tuned[0].data.train_loader)] * 2
    for row in history:
        losses = history.step_losses[row.phase, row.epoch]
        assert np.mean(losses) == pytest.approx(row.train_loss, rel=1e-4)


def test_frozen_groups_whose_norms_train_have_rates_too(photos):
    model = inspected(photos, norms="train")
    model.fit_phases(fine_tune_phases(2, len(model.data.train_loader), 1))
    rates = model.history.phases[1].learning_rates()
    assert set(rates) == {"body", "head"} and rates["body"].max() > 0


def test_a_diff_tells_the_phases_apart(tuned):
    model, _ = tuned
    diff = model.diff()
    assert diff.names == ["phase 1/2", "phase 2/2"]
    first = {row.group: row for row in diff.groups() if row.phase == 1}
    assert first["body"].frozen and first["body"].statistics.changed == 0
    assert first["head"].parameters.changed > 0
    second = [row.layer for row in diff.layers() if row.phase == 2]
    assert second[:2] == ["body.conv1", "body.bn1"] and second[-1].startswith("head.")


def test_a_diff_reaches_back_to_any_state(tuned):
    model, saved = tuned
    whole, checkpoint = model.diff(since="start"), model.diff(since=saved)
    distances = [
        [row.parameters.distance for row in diff.layers()]
        for diff in (whole, checkpoint, model.diff(since=1))
    ]
    assert distances[0] == distances[1] == distances[2]
    assert min(distances[0]) > 0
    last = model.diff(since=2).groups()
    assert last[0].parameters == model.diff().groups()[2].parameters
    with pytest.raises(ValueError, match=r"no phase 7 has begun; there are \[1, 2\]"):
        model.diff(since=7)
    with pytest.raises(FileNotFoundError):
        model.diff(since="nowhere")


def test_before_anything_has_trained_there_is_no_diff(photos):
    model = inspected(photos)
    with pytest.raises(ValueError, match="nothing has trained yet"):
        model.diff()
    with pytest.raises(ValueError, match="no phase 'start' has begun"):
        model.diff(since="start")
    model.assert_frozen("body")


def test_what_was_frozen_has_kept_every_bit(tuned):
    model, _ = tuned
    model.assert_frozen()
    with pytest.raises(FrozenMovedError, match=r"body, in all training: .*conv1"):
        model.assert_frozen("body")
    with pytest.raises(ValueError, match="no layer group 'neck'"):
        model.assert_frozen(["neck"])


def test_a_hand_that_moves_something_frozen_is_seen(photos):
    model = inspected(photos)
    model.fit(1)
    model.assert_frozen()
    mean = model.model[0].bn1.running_mean
    mean[...] = mean[...] + 1e-6
    with pytest.raises(FrozenMovedError, match=r"body\.bn1\.running_mean$"):
        model.assert_frozen()


def test_moving_statistics_are_told_with_their_reason(photos):
    model = inspected(photos, norms="stats")
    model.fit(1)
    with pytest.raises(FrozenMovedError, match='norms="stats" moves'):
        model.assert_frozen()


def test_a_network_that_changed_its_form_is_refused(tuned, photos):
    model = inspected(photos)
    model.fit(1)
    linear = model.model[1].linear2
    linear.weight = nnx.Param(linear.weight[...][:, :2])
    with pytest.raises(ValueError, match=r"head\.linear2\.weight: .* before, .* after"):
        model.diff()
