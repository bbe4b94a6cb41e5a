"""Phases of one's own, and the recipe by which a run is known."""

import pytest
from small import two_convolutions

from jaxtune import error_rate, vision_learner
from jaxtune.checkpoint import read_run
from jaxtune.loop.callbacks import LambdaCallback
from jaxtune.train import Phase, constant


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


def test_the_recipe_of_a_run_says_everything_that_decides_it(data, tmp_path):
    model = learner(data, clip_norm=1.0)
    model.fit(1, [1e-4, 1e-3, 1e-2], wd=0.1, run=tmp_path / "run")
    recipe = read_run(tmp_path / "run")["recipe"]
    assert recipe["phases"][0]["rates"] == [1e-4, 1e-3, 1e-2]
    assert recipe["phases"][0]["weight_decay"] == 0.1
    assert recipe["frozen"] == ["early", "late"] and recipe["clip_norm"] == 1.0
    assert recipe["optimizer"] == "jaxtune.train.optimizer.adam"
    assert "metrics" not in recipe  # They look, and change nothing.
    assert recipe["data"]["train"]["photos"] == 96
    assert len(recipe["start"]) == 64 and recipe["seed"] == 0


def test_something_trained_in_between_is_another_start(data, tmp_path):
    model = learner(data)
    model.fit(1, run=tmp_path / "run")
    model.fit(1)
    with pytest.raises(ValueError, match="epochs_before: 0 in the folder, 2 now"):
        model.fit(1, run=tmp_path / "run")
    assert len(model.history) == 2


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
