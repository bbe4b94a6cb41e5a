import functools

import jax
import numpy as np
import pytest
import runs
from colours import colours, named
from flax import nnx

from jaxtune import (
    F1Score,
    binary_cross_entropy,
    cross_entropy,
    error_rate,
    extend_outputs,
    vision_learner,
    weighted_cross_entropy,
)
from jaxtune.learner.more_classes import check_loss, classes_in_words
from jaxtune.train import split_module


def learner(data, **options):
    return vision_learner(
        data, runs.smallest_network, cut=2, metrics=error_rate, hidden=(8,),
        verbose=False, **options,
    )  # fmt: skip


@pytest.fixture(scope="module")
def two(root):
    return colours(root, named("blue", "red"))


@pytest.fixture(scope="module")
def three(root):
    return colours(root, named("blue", "green", "red"))


def test_a_learner_goes_on_with_more_classes(two, three, capsys):
    model = learner(two)
    model.fit(1, 1e-2)
    expected = extend_outputs(
        model.model, two.classes, three.classes, size=16, rngs=nnx.Rngs(model.seed)
    )
    model.verbose = True
    said = model.extend(three, validate_also={"old": two})
    assert said == capsys.readouterr().out.strip()
    assert said.startswith("2 classes known, 1 new: green · body frozen, as before · ")
    for ours, theirs in zip(
        jax.tree.leaves(split_module(model.model)[1:]),
        jax.tree.leaves(split_module(expected)[1:]),
        strict=True,
    ):
        assert (np.asarray(ours) == np.asarray(theirs)).all()
    model.verbose = False
    model.fit(1, 1e-2)
    assert model.history.history["phase"] == [1, 2]
    assert np.isnan(model.history.history["old_error_rate"][0])
    assert model.history[1].metrics["old_error_rate"] <= 1
    assert list(dict.fromkeys(row.phase for row in model.diff().rows)) == [2]


def test_a_refusal_changes_nothing(root, two, three):
    model = learner(two, loss=weighted_cross_entropy([1.0, 2.0]))
    before = runs.bits(model)
    turned = colours(root, named("blue", "red"), classes=["red", "blue"])
    for data, message in (
        (turned, "another order"),
        (three, "class_weights, one for each class"),
        (colours(root, named("red", "green")), "doesn't: blue"),
    ):
        with pytest.raises(ValueError, match=message):
            model.extend(data)
        assert (runs.bits(model), model.data) == (before, two)
    model.extend(turned, reorder=True, loss=cross_entropy)
    weight = model.model[1].linear2.weight[...]
    assert (weight == learner(two).model[1].linear2.weight[...][:, ::-1]).all()


def test_photos_to_validate_on_are_matched_again(two, three):
    model = learner(two, validate_also={"same": two})
    model.extend(three)
    assert model._trainer.extra_loaders["same"].items.classes == three.classes
    model.extend(three, validate_also={})
    assert model._trainer.extra_loaders == {}


def test_metrics_by_name_follow_their_classes(two, three):
    def of(*metrics):
        return vision_learner(
            two, runs.smallest_network, cut=2, hidden=(8,), metrics=metrics,
            verbose=False,
        )  # fmt: skip

    model = of(F1Score(labels=["red"], average="macro"))
    assert model._trainer.programs.metrics["f1_score"].labels == (1,)
    model.extend(three)
    assert model._trainer.programs.metrics["f1_score"].labels == (2,)
    model = of(F1Score())
    with pytest.raises(ValueError, match="average='binary' is for two classes"):
        model.extend(three)
    assert model.data is two


def test_losses_with_a_weight_for_each_class():
    check_loss(functools.partial(cross_entropy, label_smoothing=0.1))
    check_loss(functools.partial(cross_entropy, class_weights=None))
    inner = functools.partial(binary_cross_entropy, pos_weight=[1.0, 2.0])
    with pytest.raises(ValueError, match="pos_weight, one for each class"):
        check_loss(functools.partial(inner))


def test_what_is_said():
    assert classes_in_words(["a"], ["a"]) == "1 classes known"
    assert classes_in_words((), ()) == "the same numbers to predict"
