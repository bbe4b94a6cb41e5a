import os

import jax
import numpy as np
import pytest
import runs
from photos import make_photos

from jaxtune.train import group_states, split_module


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), train=32)


def everything(model) -> list[bytes]:
    """Bits of values and optimizer state, and where learner and loader stand."""
    trainer = model._trainer
    trees = (split_module(model.model)[1:], trainer._opt_state)
    bits = [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(trees)]
    place = (trainer.version, len(model.history), len(trainer.snapshots))
    return [*bits, repr(place).encode()]


def test_a_search_changes_nothing_in_any_phase(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    results = []
    for search in (False, True):
        model = runs.make_learner(root, verbose=False)
        for stage in range(3):
            if stage == 1:
                model.fit(1, 1e-2)
            if stage == 2:
                model.unfreeze()
            if search:
                before = everything(model)
                model.lr_find(num_it=20)
                assert everything(model) == before
        model.fit(1, 1e-2)
        results.append([runs.bits(model), runs.figures(model.history)])
    assert results[0] == results[1]
    assert os.listdir(tmp_path) == []


def test_it_takes_as_many_steps_as_asked_over_several_epochs(root, capsys):
    model = runs.make_learner(root)
    found = model.lr_find(1e-6, 1e-2, num_it=30)
    assert len(found.rates) == len(found.losses) == 30
    np.testing.assert_allclose(found.rates[[0, 15]], [1e-6, 1e-4], rtol=1e-6)
    assert set(found.suggestions) == {"valley", "slide", "minimum", "steep"}
    assert all(1e-6 <= rate <= 1e-2 for rate in found.suggestions.values())
    assert found.what.startswith("phase 1 · head only")
    assert (found.phase, found.groups) == (1, ("head",))
    assert capsys.readouterr().out.strip() == str(found)


def test_a_search_compiles_nothing_that_training_does_not(root):
    model = runs.make_learner(root, verbose=False)
    model.lr_find(num_it=8)
    assert model.num_programs == 1
    model.fit(1)
    assert model.num_programs == 2


def test_it_stops_where_the_loss_explodes(root):
    model = runs.make_learner(root, verbose=False)
    model.unfreeze()
    found = model.lr_find(1.0, 1e6, num_it=60)
    assert len(found.losses) < 60
    assert found.losses[-1] > 4 * found.losses.min()
    with pytest.raises(ValueError, match="num_it must be a whole number of at least 8"):
        model.lr_find(num_it=3)


def test_each_step_of_the_search_is_an_update(root, monkeypatch):
    """With gradient accumulation too: so many batches at one rate, then the next."""
    model = runs.make_learner(root, gradient_accumulation_steps=3, verbose=False)
    rates, begin = [], model._trainer.begin

    def watched(phase):
        step, state = begin(phase)

        def counted(state, batch, key):
            head = group_states(state.opt_state)["head"]
            rates.append(float(head.schedule(head.step)[0]))
            return step(state, batch, key)

        return counted, state

    monkeypatch.setattr(model._trainer, "begin", watched)
    found = model.lr_find(1e-6, 1e-2, num_it=10)
    assert len(found.rates) == len(found.losses) == 10
    np.testing.assert_allclose(rates, np.repeat(found.rates, 3), rtol=1e-4)
