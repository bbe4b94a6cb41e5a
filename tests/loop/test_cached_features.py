"""Features of a frozen body that are computed once: the same training, fewer photos."""

import os
import signal

import jax
import numpy as np
import pytest
import runs
from flax import nnx
from photos import make_photos

from jaxtune import LambdaCallback, MixUp, vision_learner
from jaxtune.data import FeatureLoader, Loader
from jaxtune.models import Sequential
from jaxtune.train import apply_body, apply_head, apply_module, split_module
from jaxtune.transfer import evaluating


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), train=11, valid=5)


def learner(root, **options):
    return runs.make_learner(root, **({"verbose": False} | options))


@pytest.fixture
def read(monkeypatch):
    """Counts how often photos are decoded, by the number of photos of the split."""
    counts: dict[int, int] = {}
    prepared = Loader.prepared

    def counted(self, position):
        counts[self.num_items] = counts.get(self.num_items, 0) + 1
        return prepared(self, position)

    monkeypatch.setattr(Loader, "prepared", counted)
    return counts


def test_body_then_head_is_the_network(root):
    graphdef, params, model_state = split_module(evaluating(learner(root).model))
    images = jax.random.normal(jax.random.key(0), (3, 16, 16, 3))
    features, same = apply_body(graphdef, params, model_state, images)
    assert features.shape == (3, 2 * 8) and same is model_state
    outputs, _ = apply_head(graphdef, params, model_state, features)
    wanted, _ = apply_module(graphdef, params, model_state, images)
    np.testing.assert_allclose(outputs, wanted, rtol=1e-5, atol=1e-6)


def test_as_many_draws_as_epochs_train_as_without(root, read):
    histories, ends = [], []
    for draws in (0, 2):
        read.clear()
        model = learner(root)
        histories.append(
            model.fine_tune(1, 1e-2, freeze_epochs=2, cache_features=draws)
        )
        ends.append(jax.tree.leaves(split_module(model.model)[1]))
        # 33 photos in batches of 8 are 32 an epoch, and 33 a draw.
        epochs = {33: 3 * 32, 15: 3 * 15} if draws == 0 else {33: 2 * 33 + 32, 15: 30}
        assert read == epochs
    plain, cached = histories
    for name in ("train_loss", "valid_loss", "error_rate"):
        np.testing.assert_allclose(
            cached.history[name], plain.history[name], rtol=1e-3, atol=1e-4
        )
    for one, other in zip(*ends, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-2, atol=2e-3)


def test_the_body_stays_bit_for_bit_and_the_head_trains(root):
    model = learner(root)
    before = [np.asarray(x) for x in jax.tree.leaves(split_module(model.model[0])[1:])]
    head = np.asarray(model.model[1].linear1.weight[...])
    stop = LambdaCallback(on_phase_end=lambda phase: _check(model, before, head, phase))
    model.fine_tune(1, 1e-2, freeze_epochs=1, cache_features=1, callbacks=stop)
    assert [s.phase for s in model._trainer.snapshots] == [1, 2]


def _check(model, before, head, phase):
    if phase == 1:
        now = jax.tree.leaves(split_module(model.model[0])[1:])
        for one, other in zip(before, now, strict=True):
            np.testing.assert_array_equal(one, other)
        assert (np.asarray(model.model[1].linear1.weight[...]) != head).any()


def test_draws_are_taken_in_turn_and_photos_in_the_loaders_order(root):
    loader = learner(root).data.train_loader
    features = np.arange(2 * 33 * 3, dtype=np.float32).reshape(2, 33, 3)
    readable = np.ones((2, 33), bool)
    readable[0, 4] = False
    cached = FeatureLoader(loader, features, readable, first_epoch=5)
    assert len(cached) == len(loader) == 4
    for epoch, draw in ((5, 0), (6, 1), (7, 0)):
        batches = list(cached.batches(epoch))
        wanted = list(loader.batches(epoch))
        for one, other in zip(batches, wanted, strict=True):
            for name in ("index", "label"):
                np.testing.assert_array_equal(one[name], other[name])
            np.testing.assert_array_equal(one["image"], features[draw, other["index"]])
            skipped = (other["index"] == 4) & (draw == 0)
            np.testing.assert_array_equal(one["mask"], other["mask"] & ~skipped)
    later = list(cached.batches(5, 3))
    np.testing.assert_array_equal(
        later[0]["image"], list(cached.batches(5))[3]["image"]
    )


def test_a_last_batch_is_padded_as_the_loader_pads_it(root):
    loader = learner(root).data.valid_loader
    features = np.ones((1, 15, 3), np.float32)
    cached = FeatureLoader(loader, features, np.ones((1, 15), bool))
    (_, one), (_, other) = cached.batches(), loader.batches()
    for name in ("index", "label", "mask"):
        np.testing.assert_array_equal(one[name], other[name])
    assert one["image"].sum() == 3 * 7 and not one["image"][7:].any()


def test_a_run_that_is_stopped_in_it_ends_bit_for_bit_the_same(root, tmp_path):
    options = {"freeze_epochs": 3, "cache_features": 2}
    whole = learner(root)
    history = whole.fine_tune(1, 1e-2, **options)
    seen = []

    def interrupt(batch, logs):
        seen.append(batch)
        if len(seen) == 7:
            os.kill(os.getpid(), signal.SIGINT)

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        learner(root).fine_tune(
            1, 1e-2, **options, run=run,
            callbacks=LambdaCallback(on_train_batch_end=interrupt),
        )  # fmt: skip
    again = learner(root)
    resumed = again.fine_tune(1, 1e-2, **options, run=run)
    assert runs.bits(again) == runs.bits(whole)
    assert runs.figures(resumed) == runs.figures(history)
    with pytest.raises(ValueError, match="cache_features: 2 in the folder"):
        learner(root).fine_tune(1, 1e-2, freeze_epochs=3, run=run)


def test_the_start_line_and_the_plan_know_it(root, capsys):
    model = learner(root, verbose=True)
    plan = model.plan(1, freeze_epochs=3, cache_features=2)
    assert len(plan.rows) == 4
    model.fine_tune(1, freeze_epochs=3, cache_features=2)
    lines = [line for line in capsys.readouterr().out.splitlines() if "phase" in line]
    assert "features cached, 2 of each photo" in lines[0]
    assert not any("cached" in line for line in lines[1:])


class Noisy(nnx.Module):
    def __init__(self):
        self.dropout = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

    def __call__(self, x):
        return self.dropout(x)


def noisy_network(rngs=None):
    parts = runs.smallest_network()
    names = {name: parts[name] for name in parts.names}
    return Sequential({"conv1": names.pop("conv1"), "noise": Noisy(), **names})


def parameters(model) -> list[bytes]:
    leaves = jax.tree.leaves(split_module(model.model)[1])
    return [np.asarray(leaf).tobytes() for leaf in leaves]


def test_where_features_would_not_stay_the_same_it_is_refused(root):
    data = learner(root).data
    noisy = vision_learner(data, noisy_network, cut=3, hidden=(8,), verbose=False)
    for model, reason in (
        (learner(root, mixing=MixUp()), "MixUp mixes them before"),
        (learner(root, norms="train"), "in the body trains"),
        (learner(root, norms="stats"), "normalises by each batch's statistics"),
        (noisy, "in the body is random"),
    ):
        before = parameters(model)
        with pytest.raises(ValueError, match=reason):
            model.fine_tune(1, cache_features=1)
        assert parameters(model) == before and not model.history
    for wrong, error in ((-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error, match="cache_features"):
            learner(root).fine_tune(1, cache_features=wrong)
