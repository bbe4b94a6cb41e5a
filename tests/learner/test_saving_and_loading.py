import jax
import numpy as np
import pytest
import runs
from flax import nnx
from photos import make_photos

from jaxtune import ImageDataLoaders, vision_learner
from jaxtune.checkpoint import CheckpointMismatchError
from jaxtune.train import split_module


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), train=32)


def make(root):
    return runs.make_learner(root, verbose=False)


def test_a_learner_goes_on_where_it_was_saved(root, tmp_path):
    first = make(root)
    first.fit(1, 1e-2)
    first.save(tmp_path / "a")
    first.fit(1, 1e-2)

    second = make(root)
    second.unfreeze()
    said = second.load(tmp_path / "a")
    assert said.endswith("phase 1, body frozen, as saved · the optimizer continues")
    assert second.frozen_groups == ("body",)
    # The order of photos and the draws follow from the number of epochs seen.
    second.history.append(first.history[0])
    second.fit(1, 1e-2)
    assert runs.bits(first) == runs.bits(second)


def test_loading_says_whether_it_froze_anything(root, tmp_path):
    model = make(root)
    model.fine_tune(1, 1e-2)
    model.save(tmp_path / "a")
    other = make(root)
    line = other.load(tmp_path / "a", phase="keep")
    assert "body frozen, as before · the optimizer starts from scratch" in line
    assert other.frozen_groups == ("body",)
    assert runs.bits(other) == runs.bits(model)
    line = other.load(tmp_path / "a", with_opt=False)
    assert "phase 2, all layer groups train, as saved · the optimizer starts" in line
    assert other.frozen_groups == ()
    with pytest.raises(ValueError, match="phase must be 'saved' or 'keep'"):
        other.load(tmp_path / "a", phase="frozen")


def test_a_run_is_loaded_too(root, tmp_path, capsys):
    model = make(root)
    model.fine_tune(1, 1e-2, run=tmp_path / "run")
    other = runs.make_learner(root)
    line = other.load(tmp_path / "run")
    assert line == capsys.readouterr().out.strip()
    assert "phase 2, all layer groups train, as saved · the optimizer continues" in line
    assert runs.bits(other) == runs.bits(model)
    best = make(root)
    best.load(tmp_path / "run", which="best")


def test_other_classes_are_refused_and_the_body_alone_is_taken(root, tmp_path):
    model = make(root)
    model.fit(1, 1e-2)
    model.save(tmp_path / "a")
    data = ImageDataLoaders.from_folder(
        root, size=16, batch_size=8, classes=["red", "green", "blue"]
    )
    other = vision_learner(
        data, runs.smallest_network, cut=2, hidden=(8,), verbose=False
    )
    head = jax.tree.map(np.asarray, split_module(other.model[1])[1])
    with pytest.raises(CheckpointMismatchError, match="same classes in another order"):
        other.load(tmp_path / "a")
    line = other.load(tmp_path / "a", partial="body")
    assert "(body only)" in line
    conv = other.model[0].conv1.weight[...]
    assert (conv == model.model[0].conv1.weight[...]).all()
    after = split_module(other.model[1])[1]
    same = jax.tree.map(lambda a, b: bool((a == b).all()), head, after)
    assert all(jax.tree.leaves(same))


def test_plain_flax_values_are_taken_as_they_are(root, tmp_path):
    from orbax.checkpoint import v1 as ocp

    model = make(root)
    model.fit(1, 1e-2)
    tree = nnx.to_pure_dict(nnx.as_pure(nnx.state(model.model)))
    ocp.save(tmp_path / "theirs", {"model": tree})
    other = make(root)
    line = other.load(tmp_path / "theirs")
    assert "phase 0, body frozen, as before · the optimizer starts from scratch" in line
    assert runs.bits(other) == runs.bits(model)


def test_other_groups_are_refused(root, tmp_path):
    model = make(root)
    model.fit(1, 1e-2)
    model.save(tmp_path / "a")
    groups = {"stem": "body", "top": "head"}
    other = runs.make_learner(root, groups=groups, verbose=False)
    with pytest.raises(ValueError, match="body were frozen when it was saved"):
        other.load(tmp_path / "a")
    other.load(tmp_path / "a", phase="keep")
