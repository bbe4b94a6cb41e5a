import jax
import pytest
import runs
from photos import make_photos

from jaxtune.learner.trainer import Trainer
from jaxtune.train import Phase, constant


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    root = make_photos(tmp_path_factory.mktemp("photos"), train=32)
    return runs.make_learner(root, verbose=False)


def test_phases_are_run_one_after_the_other(learner):
    trainer = learner._trainer
    assert isinstance(trainer, Trainer)
    phases = [
        Phase("head", 1, 1, (0.0, 1e-2), constant(12), 0.0),
        Phase("whole", 0, 2, (1e-3, 1e-2), constant(24), 0.0),
    ]
    rows = trainer.run(
        learner.data, phases, first_epoch=0, key=jax.random.key(0), verbose=False
    )
    assert next(rows).phase == 1 and trainer.frozen_groups == ("body",)
    assert [(row.phase, row.epoch) for row in rows] == [(2, 1), (2, 2)]
    assert trainer.frozen_groups == () and trainer.phase == 2


def test_a_snapshot_is_taken_before_each_phase(learner):
    first, second = learner._trainer.snapshots
    assert (first.phase, first.name, first.frozen) == (1, "head", ("body",))
    assert (second.phase, second.name, second.frozen) == (2, "whole", ())
    conv = first.params["body"]["conv1"]["weight"]
    # Frozen in the first phase, moved in the second; what was noted stays.
    assert (conv == second.params["body"]["conv1"]["weight"]).all()
    assert not (conv == learner.model[0].conv1.weight[...]).all()
