"""What a call trains: its phases, rates and epochs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from photos import make_photos, tiny_resnet
from small import two_convolutions

from jaxtune import (
    ImageDataLoaders,
    NonFiniteLossError,
    error_rate,
    vision_learner,
)
from jaxtune.loop.trainer import Trainer
from jaxtune.train import FROZEN, cross_entropy, split_module


def learner(data, **options):
    return vision_learner(
        data,
        two_convolutions,
        cut=4,
        metrics=error_rate,
        hidden=(16,),
        verbose=False,
        **options,
    )


def test_fine_tune_without_a_frozen_phase(data):
    model = learner(data)
    history = model.fine_tune(1, freeze_epochs=0)
    assert history.history["phase"] == [1] and model.num_programs == 2


def test_phase_rates_are_fastais(data, monkeypatch):
    seen = []
    original = Trainer._step_and_state

    def spy(self, phase, frozen):
        names = set(jax.tree.leaves(self.labels(frozen))) - {FROZEN}
        ends = phase.schedule.learning_rate
        shape = float(ends.ends[0]), float(1 / ends.starts[0])
        seen.append((phase.rates, names, *shape))
        return original(self, phase, frozen)

    monkeypatch.setattr(Trainer, "_step_and_state", spy)
    learner(data, norms="train").fine_tune(1)
    frozen, foreseen, unfrozen = seen
    assert foreseen == unfrozen
    assert frozen[0] == pytest.approx((2e-4, 2e-4, 2e-3))
    assert frozen[2:] == pytest.approx((0.99, 25.0))
    assert unfrozen[0] == pytest.approx((1e-5, 1e-4, 1e-3))
    assert unfrozen[2:] == pytest.approx((0.3, 5.0))
    # Of the frozen groups the norms train, and late has none.
    assert frozen[1] == {"early", "head"}
    assert unfrozen[1] == {"early", "late", "head"}


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m: m.fine_tune(0), "epochs must be a whole number of at least 1"),
        (lambda m: m.fine_tune(1, freeze_epochs=-1), "freeze_epochs must be"),
        (lambda m: m.fit_one_cycle(1, [1e-3]), "1 learning rates for 3 layer groups"),
        (lambda m: m.freeze_to("layer9"), "no layer group 'layer9'"),
        (lambda m: m.freeze_to(3), "at least the last group must train"),
    ],
)
def test_what_is_wrong_is_said_before_any_work(data, call, match):
    model = learner(data)
    with pytest.raises(ValueError, match=match):
        call(model)
    assert len(model.history) == 0 and model.num_programs == 0


def test_the_early_layers_can_stay_frozen(data):
    model = learner(data)
    conv = model.model[0].conv1.weight[...]
    late = model.model[0].layer1.weight[...]
    model.fine_tune(1, 1e-2, freeze_epochs=0, unfreeze_to="late")
    assert model.frozen_groups == ("early",)
    assert (model.model[0].conv1.weight[...] == conv).all()
    assert not (model.model[0].layer1.weight[...] == late).all()


def test_flat_then_cosine(data, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "jaxtune.learner.learner.fit",
        lambda trainer, data, phases, **rest: iter(seen.append(phases) or ()),
    )
    model = learner(data)
    model.fit_flat_cos(2, 1e-3, pct_start=0.5)
    (phase,) = seen[0]
    half = len(data.train_loader)
    assert float(phase.schedule(half - 1)[0]) == 1.0
    assert 0 < float(phase.schedule(2 * half - 1)[0]) < 0.1


def test_a_run_that_explodes_stops_and_keeps_the_last_good_values(data):
    def nan(logits, label):
        return cross_entropy(logits, label) * jnp.nan

    model = learner(data, loss=nan)
    before = [np.asarray(x) for x in jax.tree.leaves(split_module(model.model)[1:])]
    with pytest.raises(NonFiniteLossError, match="step 1 of epoch 1 in phase 1"):
        model.fit(1, 1e-2)
    after = jax.tree.leaves(split_module(model.model)[1:])
    assert all((a == b).all() for a, b in zip(before, after, strict=True))
    assert len(model.history) == 0


def test_rematerialized_blocks_train_the_same(tmp_path):
    """And a run says that they were, since they round in another way."""
    data = ImageDataLoaders.from_folder(
        make_photos(tmp_path, train=8), size=32, batch_size=8, seed=0
    )
    losses = []
    for rematerialize in (False, True):
        model = vision_learner(
            data, tiny_resnet, rematerialize=rematerialize, verbose=False
        )
        described = model._trainer.describe()
        assert described.get("rematerialize", False) == rematerialize
        losses.append(model.fine_tune(1)[-1].train_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_the_rates_follow_the_photos_of_an_update(data):
    photos = data.batch_size * 2
    model = learner(data, gradient_accumulation_steps=2)
    usual = model.plan(1).phases[-1].rates
    linear = model.plan(1, lr_scale="linear").phases[-1].rates
    np.testing.assert_allclose(linear, np.asarray(usual) * photos / 64)
    number = model.plan(1, lr_scale=2).phases[-1].rates
    np.testing.assert_allclose(number, np.asarray(usual) * 2)
