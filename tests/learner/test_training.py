"""What a call trains: its phases, rates and epochs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from photos import tiny_resnet

from jaxtune import error_rate, vision_learner
from jaxtune.checkpoint import read_run
from jaxtune.learner.callbacks import LambdaCallback
from jaxtune.learner.loop import NonFiniteLossError
from jaxtune.learner.trainer import Trainer
from jaxtune.train import FROZEN, Phase, constant, cross_entropy, split_module


def learner(data, **options):
    return vision_learner(
        data, tiny_resnet, metrics=error_rate, hidden=(16,), verbose=False, **options
    )


def test_fine_tune_without_a_frozen_phase(data):
    model = learner(data)
    history = model.fine_tune(1, freeze_epochs=0)
    assert history.history["phase"] == [1] and model.num_programs == 2


def test_phase_rates_are_fastais(data, monkeypatch):
    seen = []
    original = Trainer._optimizer_for

    def spy(self, labels, phase):
        names = set(jax.tree.leaves(labels)) - {FROZEN}
        ends = phase.schedule.learning_rate
        shape = float(ends.ends[0]), float(1 / ends.starts[0])
        seen.append((phase.rates, names, *shape))
        return original(self, labels, phase)

    monkeypatch.setattr(Trainer, "_optimizer_for", spy)
    learner(data, norms="train").fine_tune(1)
    frozen, unfrozen = seen
    assert frozen[0] == pytest.approx((2e-4, 2e-4, 2e-3))
    assert frozen[2:] == pytest.approx((0.99, 25.0))
    assert unfrozen[0] == pytest.approx((1e-5, 1e-4, 1e-3))
    assert unfrozen[2:] == pytest.approx((0.3, 5.0))
    assert frozen[1] == unfrozen[1] == {"early", "late", "head"}


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m: m.fine_tune(0), "epochs must be a whole number from 1"),
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


def test_the_recipe_of_a_run_says_everything_that_decides_it(data, tmp_path):
    model = learner(data, clip_norm=1.0)
    model.fit(1, [1e-4, 1e-3, 1e-2], wd=0.1, run=tmp_path / "run")
    recipe = read_run(tmp_path / "run")["recipe"]
    assert recipe["phases"][0]["rates"] == [1e-4, 1e-3, 1e-2]
    assert recipe["phases"][0]["weight_decay"] == 0.1
    assert recipe["frozen"] == ["early", "late"] and recipe["clip_norm"] == 1.0
    assert recipe["optimizer"] == "jaxtune.train.optimizer.adam"
    assert recipe["metrics"] == ["jaxtune.train.metrics.error_rate"]
    assert recipe["data"]["train"]["photos"] == 96
    assert len(recipe["start"]) == 64 and recipe["seed"] == 0


def test_something_trained_in_between_is_another_start(data, tmp_path):
    model = learner(data)
    model.fit(1, run=tmp_path / "run")
    model.fit(1)
    with pytest.raises(ValueError, match="epochs_before: 0 in the folder, 2 now"):
        model.fit(1, run=tmp_path / "run")
    assert len(model.history) == 2


def test_a_run_of_several_processes_is_refused(data, tmp_path, monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(NotImplementedError, match="one process"):
        learner(data).fit(1, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_early_layers_can_stay_frozen(data):
    model = learner(data)
    conv = model.model[0].conv1.weight[...]
    late = model.model[0].layer4[0].conv1.weight[...]
    model.fine_tune(1, 1e-2, freeze_epochs=0, unfreeze_to="late")
    assert model.frozen_groups == ("early",)
    assert (model.model[0].conv1.weight[...] == conv).all()
    assert not (model.model[0].layer4[0].conv1.weight[...] == late).all()


def test_phases_of_ones_own_and_gradual_unfreezing(data):
    model = learner(data)
    seen = []
    note = LambdaCallback(on_phase_begin=lambda phase: seen.append(model.frozen_groups))
    model.gradual_unfreeze(1, 1e-3, callbacks=note)
    assert seen == [("early", "late"), ("early",), ()]
    assert model.history.history["phase"] == [1, 2, 3]
    steps = len(data.train_loader)
    own = Phase("head again", 2, 1, (0.0, 0.0, 1e-3), constant(steps), 0.0)
    model.fit_phases([own])
    assert model.frozen_groups == ("early", "late")
    with pytest.raises(ValueError, match="2 learning rates for 3 layer groups"):
        model.fit_phases([own, Phase(None, 0, 1, (1e-3, 1e-3), constant(steps), 0.0)])
    with pytest.raises(ValueError, match="at least the last group must train"):
        model.fit_phases([Phase(None, 3, 1, (1e-3,) * 3, constant(steps), 0.0)])
    assert len(model.history) == 4


def test_flat_then_cosine(data, monkeypatch):
    seen = []
    monkeypatch.setattr(
        Trainer,
        "run",
        lambda self, data, phases, **rest: iter(seen.append(phases) or ()),
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
