import jax.numpy as jnp
import pytest
import runs
from photos import make_photos

from jaxtune.inspect.diff import Snapshot


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), train=32)


def test_it_holds_the_arrays_themselves(root):
    model = runs.make_learner(root, verbose=False)
    conv = model.model[0].conv1.weight[...]
    model.unfreeze()
    model.fit(1, 1e-2)
    (snapshot,) = model._trainer.snapshots
    assert isinstance(snapshot, Snapshot) and snapshot.frozen == ()
    assert snapshot.params["body"]["conv1"]["weight"] is conv
    assert not jnp.array_equal(conv, model.model[0].conv1.weight[...])


def test_a_phase_resumed_in_another_process_begins_where_it_resumes(root, tmp_path):
    first = runs.make_learner(root, verbose=False)
    first.fine_tune(1, 1e-2, run=tmp_path / "run")
    second = runs.make_learner(root, verbose=False)
    second.fine_tune(1, 1e-2, run=tmp_path / "run")
    (snapshot,) = second._trainer.snapshots
    assert snapshot.phase == 2
    weight = snapshot.params["body"]["conv1"]["weight"]
    assert jnp.array_equal(weight, first.model[0].conv1.weight[...])
