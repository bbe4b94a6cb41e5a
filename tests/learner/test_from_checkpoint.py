import functools

import pytest
import runs
from classes import rows_are_kept
from colours import colours, named
from flax import nnx

from jaxtune import (
    CutMix,
    continue_from,
    create_cnn_model,
    cross_entropy,
    error_rate,
    rmse,
    sgd,
    vision_learner,
    weighted_cross_entropy,
)
from jaxtune.checkpoint import RunMismatchError


def network(count, seed=1):
    rngs = nnx.Rngs(seed)
    return create_cnn_model(runs.smallest_network, count, cut=2, hidden=(8,), rngs=rngs)


def learner(data, **options):
    options = {"verbose": False, "metrics": error_rate, "hidden": (8,)} | options
    return vision_learner(data, runs.smallest_network, cut=2, **options)


@pytest.fixture(scope="module")
def two(root):
    return colours(root, named("blue", "red"))


@pytest.fixture(scope="module")
def three(root):
    return colours(root, named("blue", "green", "red"))


@pytest.fixture(scope="module")
def old(two, tmp_path_factory):
    """A learner of two classes, its body frozen, and the run that it was trained in."""
    folder = tmp_path_factory.mktemp("runs") / "old"
    model = learner(two, norms="stats")
    model.fit(1, 1e-2, run=folder)
    return model, folder


def test_more_photos_go_on_with_the_network_as_it_was(old, two, capsys):
    before, folder = old
    model = continue_from(folder, two, module=network(2))
    assert capsys.readouterr().out == (
        f"continued from {folder} · 2 classes known · body frozen, as in phase 1 · the "
        "optimizer and the history start from scratch\n"
    )
    assert runs.bits(model) == runs.bits(before)
    assert (model.groups, model.norms) == (before.groups, "stats")
    assert model._trainer.describe() == before._trainer.describe()
    assert model.frozen_groups == ("body",)
    assert len(model.history) == 0
    last = before.history[-1]
    assert model.validate() == {"loss": last.valid_loss, **last.metrics}


def test_more_classes_and_what_becomes_of_the_old_ones(old, two, three, tmp_path):
    before, folder = old

    def again():
        return continue_from(
            folder, three, extend=True, module=network(2),
            validate_also={"old": two}, verbose=False,
        )  # fmt: skip

    model = again()
    rows_are_kept(model.model, before.model, [0, 2])
    model.freeze()
    assert model.frozen_groups == ("body",)
    history = model.fit(1, 1e-2, run=tmp_path / "new")
    names = ["error_rate", "old_valid_loss", "old_error_rate", "images/s", "time"]
    assert list(history.history)[4:] == names
    # Of another head's rows nothing depends on whether a run is kept, and stopped.
    resumed = again()
    assert runs.figures(resumed.fit(1, 1e-2, run=tmp_path / "new")) == (
        runs.figures(history)
    )
    assert runs.bits(resumed) == runs.bits(model)
    row = history[0].as_dict()
    assert model.validate(two) == {
        "loss": row["old_valid_loss"], "error_rate": row["old_error_rate"]
    }  # fmt: skip
    without = continue_from(
        folder, three, extend=True, module=network(2), verbose=False
    )
    with pytest.raises(RunMismatchError, match="validate_also"):
        without.fit(1, 1e-2, run=tmp_path / "new")


def test_other_classes_are_refused_unless_asked_for(root, old, two, three):
    _, folder = old
    go_on = functools.partial(continue_from, folder, module=network(2), verbose=False)
    with pytest.raises(ValueError, match=r"doesn't know: green\. Write extend=True"):
        go_on(three)
    turned = colours(root, named("blue", "red"), classes=["red", "blue"])
    with pytest.raises(ValueError, match=r"network: blue, red\n  data:    red, blue"):
        go_on(turned)
    model = go_on(turned, reorder=True)
    rows_are_kept(model.model, old[0].model, [1, 0])
    with pytest.raises(ValueError, match="the data doesn't: blue"):
        go_on(colours(root, named("green", "red")), extend=True)
    with pytest.warns(UserWarning, match="without a photo to train on: blue"):
        lacking = colours(root, named("green", "red"), classes=["blue", "green", "red"])
    assert go_on(lacking, extend=True).data.classes == ("blue", "green", "red")
    with pytest.raises(ValueError, match="hand it over as module="):
        continue_from(folder, two)
    with pytest.raises(ValueError, match="module= gives 3 outputs.*had 2"):
        continue_from(folder, three, extend=True, module=network(3))
    multi = colours(root, {"blue": ["blue"], "red": ["red"]})
    with pytest.raises(ValueError, match="trained on single labels.*multi"):
        go_on(multi)
    with pytest.raises(ValueError, match="Make the data with in_channels=3"):
        go_on(colours(root, named("blue", "red"), in_channels=1))


def test_options_are_as_they_were_or_said_to_be_missing(two, three, tmp_path):
    smooth = functools.partial(cross_entropy, label_smoothing=0.25)
    groups = {"all": "body|head"}
    was = learner(
        two, loss=smooth, optimizer=sgd, clip_norm=0.5, mixing=CutMix(0.5),
        groups=groups, pretrained=False, precision="bfloat16",
    )  # fmt: skip
    was.save(tmp_path / "a")
    model = continue_from(tmp_path / "a", two, module=network(2), verbose=False)
    assert model._trainer.describe() == was._trainer.describe()
    other = continue_from(
        tmp_path / "a", two, module=network(2), loss=cross_entropy, optimizer=sgd,
        metrics=[], clip_norm=None, mixing=None, precision="float32",
        groups={"first": "body", "last": "head"}, verbose=False,
    )  # fmt: skip
    assert other._trainer.describe() == learner(
        two, metrics=None, optimizer=sgd, groups={"first": "body", "last": "head"}
    )._trainer.describe()  # fmt: skip

    weighted = learner(two, loss=weighted_cross_entropy([1.0, 3.0]))
    weighted.save(tmp_path / "b")
    go_on = functools.partial(
        continue_from, tmp_path / "b", module=network(2), verbose=False
    )
    assert go_on(two)._trainer.describe() == weighted._trainer.describe()
    with pytest.raises(ValueError, match="class_weights, one for each class"):
        go_on(three, extend=True)
    go_on(three, extend=True, loss=cross_entropy)

    learner(two, loss=lambda logits, label: logits[:, 0]).save(tmp_path / "c")
    with pytest.raises(ValueError, match="not one of jaxtune's own.*loss="):
        continue_from(tmp_path / "c", two, module=network(2))


def test_several_labels_go_by_name_and_numbers_by_count(root, tmp_path):
    labels = {"blue": ["cold"], "green": ["cold"], "red": []}
    was = learner(colours(root, labels), metrics=None)
    was.save(tmp_path / "multi")
    more = colours(root, {**labels, "green": ["alive", "cold"]})
    model = continue_from(
        tmp_path / "multi", more, extend=True, module=network(1), verbose=False
    )
    rows_are_kept(model.model, was.model, [1])

    numbers = learner(
        colours(root, {"blue": 1.0, "red": 2.0}, kind="regression"), metrics=rmse
    )
    numbers.save(tmp_path / "number")
    same = colours(root, {"green": 3.0, "red": 4.0}, kind="regression", seed=4)
    model = continue_from(tmp_path / "number", same, module=network(1), verbose=False)
    assert runs.bits(model) == runs.bits(numbers)
    pairs = colours(root, {"red": [1.0, 2.0], "blue": [2.0, 1.0]}, kind="regression")
    with pytest.raises(ValueError, match="1 numbers a photo, and the data has 2"):
        continue_from(tmp_path / "number", pairs, extend=True, module=network(1))
