"""Recipes of `fine_tune`, and a body that keeps its running statistics."""

import dataclasses

import numpy as np
import pytest
import runs
from flax import nnx
from photos import make_photos
from runs import smallest_network
from small import small_network, small_pretrained, two_convolutions

from jaxtune import MixUp, vision_learner
from jaxtune.models import Sequential
from jaxtune.train import RECIPES, fine_tune_phases, has_statistics, training_view
from jaxtune.train.freezing import norms_of_group, running_groups


def with_statistics():
    """A network whose batch norm has seen data."""
    return small_pretrained(pretrained=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = make_photos(tmp_path_factory.mktemp("photos"), train=8, valid=3)
    return runs.loaders(root)


def learner(data, network=with_statistics, **options):
    return vision_learner(data, network, cut=4, hidden=(8,), verbose=False, **options)


def statistics(module) -> list[bytes]:
    leaves = nnx.to_flat_state(nnx.state(module, nnx.BatchStat))
    return [np.asarray(value[...]).tobytes() for _, value in leaves]


def test_a_pretrained_body_keeps_its_statistics_while_it_trains(data):
    model = learner(data)
    assert model.norms == "running"
    norm = model.model[0].bn1
    before, weight = statistics(model.model[0]), np.asarray(norm.weight[...])
    head = statistics(model.model[1])
    model.fine_tune(1, 1e-2)
    norm = model.model[0].bn1
    assert statistics(model.model[0]) == before
    assert (np.asarray(norm.weight[...]) != weight).all()
    assert all(a != b for a, b in zip(statistics(model.model[1]), head, strict=True))
    frozen = learner(data, norms="frozen")
    frozen.fine_tune(1, 1e-2)
    assert statistics(frozen.model[0]) != before


def test_where_there_are_none_batch_statistics_it_is():
    assert has_statistics(with_statistics())
    assert not has_statistics(smallest_network())


def test_what_was_asked_for_is_what_is_done(data):
    assert learner(data, norms="train").norms == "train"
    assert learner(data, two_convolutions).norms == "frozen"
    assert learner(data, pretrained=False).norms == "frozen"


def test_the_view_of_norms_that_keep_running_statistics():
    net = Sequential({"body": with_statistics()[:2], "head": small_network()[:2]})
    labels = nnx.State({"body": {"bn1": "body"}, "head": {"bn1": "head"}})
    view = training_view(net, labels, (), norms="running", running=("body",))
    assert view.body.bn1.use_running_average
    assert not view.head.bn1.use_running_average
    plain = training_view(net, labels, (), norms="running")
    assert not plain.body.bn1.use_running_average
    assert not net.body.bn1.use_running_average


def test_the_norms_of_a_group_in_a_word():
    groups = ("early", "late", "head")
    assert running_groups(groups, "running") == ("early", "late")
    assert running_groups(groups, "train") == ()
    words = [norms_of_group(g, groups, ("early",), "running") for g in groups]
    assert words == ["frozen", "running", "train"]
    words = [norms_of_group(g, groups, ("early",), "stats") for g in groups]
    assert words == ["stats", "train", "train"]


def test_fastais_recipe_is_its_schedule_with_its_norms(data):
    model = learner(data)
    table = runs.figures(model.fine_tune(1, 1e-2, recipe="fastai"))
    other = learner(data, norms="train")
    assert table == runs.figures(other.fine_tune(1, 1e-2))
    assert runs.bits(model) == runs.bits(other)
    # For this call only, and also where it fails.
    assert model.norms == "running"
    with pytest.raises(ValueError, match="epochs"):
        model.fine_tune(0, recipe="fastai")
    assert model.norms == "running"


def test_a_recipe_is_in_the_plan_in_the_start_line_and_in_the_phases(data, capsys):
    model = learner(data)
    assert 'recipe "default": fastai\'s schedule; with fewer' in str(model.plan(3))
    text = " ".join(str(model.plan(3, recipe="fast")).split())
    assert 'recipe "fast"' in text and "three or more layer groups stays" in text
    assert "train " in str(model.plan(3, recipe="fastai"))
    norms = [row.norms for row in model.plan(3).of_phase(2)]
    assert norms == ["running", "", "train"]
    assert {r.norms for r in model.plan(3, recipe="fastai").rows} == {"train", ""}
    model.verbose = True
    model.fine_tune(1, recipe="fast")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("phase 1/2 of recipe fast · head only · ")
    assert any(line.startswith("phase 2/2 of recipe fast · ") for line in lines)
    assert model.frozen_groups == ("early",)


def test_what_is_given_goes_before_the_recipe():
    phases = RECIPES["fast"].phases(3, 10, 2, lr_mult=4.0, unfreeze_to=0, base_lr=None)
    assert phases[1].boundary == 0 and phases[1].rates[-1] == 1e-3 / 4
    assert phases[1].rates[0] == pytest.approx(1e-3 / 16)
    assert RECIPES["fast"].phases(3, 10, 2)[1].boundary == 1
    assert RECIPES["fast"].phases(2, 10, 2)[1].boundary == 0


@pytest.mark.parametrize(
    ("steps", "epochs", "frozen_epochs", "later"),
    [(7, 3, 15, 1), (39, 3, 3, 1), (300, 10, 2, 4), (1, 1, 100, 1)],
)
def test_the_fast_recipe_trains_the_head_on_stored_features_first(
    steps, epochs, frozen_epochs, later
):
    head, rest = RECIPES["fast"].phases(3, steps, epochs)
    assert (head.epochs, head.cache_features, head.boundary) == (frozen_epochs, 2, 2)
    assert (rest.epochs, rest.boundary, rest.rates[-1]) == (later, 1, 1e-3 / 4)
    asked = RECIPES["fast"].phases(3, steps, epochs, freeze_epochs=4)
    assert (asked[0].epochs, asked[1].epochs) == (4, later)


def test_the_fast_recipe_where_features_cant_be_stored():
    """On photos, if one epoch is enough for the head; else as without its rule."""
    head, rest = RECIPES["fast"].phases(3, 100, 6, stores_features=False)
    assert (head.epochs, head.cache_features, rest.epochs) == (1, 0, 2)
    head, rest = RECIPES["fast"].phases(3, 99, 6, stores_features=False)
    plain = fine_tune_phases(3, 99, 6, unfreeze_to=1)
    assert [head.as_dict(), rest.as_dict()] == [p.as_dict() for p in plain]
    (only,) = RECIPES["fast"].phases(1, 10, 3, freeze_epochs=0)
    assert only.epochs == 3


@pytest.mark.parametrize(
    ("name", "steps"),
    [("default", 50), ("default", 100), ("fastai", 3), ("fastai", 20), ("fastai", 100)],
)
def test_every_recipe_has_the_steps_of_fastai(name, steps):
    """Golden values of fine_tune(2) hold for `fine_tune_phases`: these are its own."""
    phases = RECIPES[name].phases(2, steps, 2)
    plain = fine_tune_phases(2, steps, 2)
    assert [p.as_dict() for p in phases] == [p.as_dict() for p in plain]


@pytest.mark.parametrize(
    ("steps", "frozen_epochs", "part"),
    [(1, 100, 4), (3, 34, 4), (19, 6, 4), (20, 5, 2), (49, 3, 2)],
)
def test_with_few_batches_the_head_trains_first(steps, frozen_epochs, part):
    head, whole = RECIPES["default"].phases(3, steps, 2)
    assert (head.epochs, head.cache_features) == (frozen_epochs, 2)
    assert head.epochs * steps >= 100
    assert whole.epochs == 2 and whole.rates[-1] == 1e-3 / part
    plain = fine_tune_phases(3, steps, 2)[1]
    rates = tuple(rate / part for rate in plain.rates)
    assert dataclasses.replace(plain, rates=rates).as_dict() == whole.as_dict()


@pytest.mark.parametrize(
    "given",
    [
        {"freeze_epochs": 1},
        {"cache_features": 0},
        {"stores_features": False},
        {"freeze_epochs": 1, "cache_features": 1},
    ],
    ids=str,
)
def test_but_not_where_the_frozen_phase_was_asked_for(given):
    asked = {k: v for k, v in given.items() if k != "stores_features"}
    phases = RECIPES["default"].phases(3, 3, 2, **given)
    plain = fine_tune_phases(3, 3, 2, **asked)
    assert [p.as_dict() for p in phases] == [p.as_dict() for p in plain]
    fastai = RECIPES["fastai"].phases(3, 3, 2)
    assert [p.as_dict() for p in fastai] == [
        p.as_dict() for p in fine_tune_phases(3, 3, 2)
    ]


def test_a_learner_with_few_batches_has_the_rule_in_its_plan(data, capsys):
    few = data.with_batch_size(16)
    assert len(few.train_loader) < 20
    model = learner(few)
    assert "fewer than 50 batches" in " ".join(str(model.plan(1)).split())
    assert model.plan(1).phases[0].cache_features == 2
    # Where norms see batches, or photos are mixed, features can't be stored.
    assert model.plan(1, recipe="fastai").phases[0].cache_features == 0
    assert learner(few, norms="train").plan(1).phases[0].epochs == 1
    assert learner(few, mixing=MixUp()).plan(1).phases[0].epochs == 1
    model.verbose = True
    history = model.fine_tune(1)
    assert "features cached, 2 of each photo" in capsys.readouterr().out
    frozen = [row for row in history if row.phase == 1]
    assert len(frozen) * len(few.train_loader) >= 100 and history[-1].phase == 2


def test_features_that_would_take_too_much_memory_are_not_stored(data, monkeypatch):
    monkeypatch.setattr("jaxtune.loop.phase_checks._FEW_FEATURES", 0)
    model = learner(data)
    photos, one = 2 * data.train_loader.num_items, 2 * 8 * 4  # Maximum and mean.
    for most, draws in ((photos * one, 2), (photos * one - 1, 0)):
        monkeypatch.setattr("jaxtune.loop.phase_checks._MOST_FEATURE_BYTES", most)
        assert model.plan(1, recipe="fast").phases[0].cache_features == draws


def test_a_recipe_that_there_is_not_is_refused(data):
    with pytest.raises(ValueError, match="'default', 'fast' or 'fastai'; received 'f'"):
        learner(data).fine_tune(1, recipe="f")
