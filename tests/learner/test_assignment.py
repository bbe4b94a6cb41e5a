import functools
import inspect

import jax
import numpy as np
import pytest
import runs
from photos import make_photos
from runs import loaders

from jaxtune import (
    ImageDataLoaders,
    LambdaCallback,
    Learner,
    MixUp,
    accuracy,
    adam,
    cross_entropy,
    error_rate,
    mse,
    sgd,
)
from jaxtune.loop import compiled_steps as programs


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), train=8, valid=4)


@pytest.fixture
def model(root):
    return runs.make_learner(root, verbose=False)


#: Values to assign, and wrong ones with their errors.
VALUES = {
    "lr": ([1e-3, slice(1e-5, 1e-3), [1e-4, 1e-3]], [(-1, ValueError)]),
    "wd": ([0.1, np.float32(0)], [(-1, ValueError), ("x", TypeError)]),
    "moms": ([(0.9, 0.8, 0.9)], [((0.9,), ValueError), (0.9, TypeError)]),
    "seed": ([3, np.int64(3)], [(-1, ValueError), (1.5, TypeError)]),
    "verbose": ([False, 1], [("no", TypeError), (2, TypeError)]),
    "norms": (["train", "stats", "frozen"], [("half", ValueError)]),
    "precision": (["bfloat16", "float32"], [("float16", ValueError)]),
    # Its network has no blocks.
    "rematerialize": ([False], [("yes", TypeError), (True, ValueError)]),
    "ema_decay": ([0.9, None], [(2, ValueError)]),
    "optimizer": (["sgd", sgd, adam], [("sdg", ValueError), (0.1, TypeError)]),
    "clip_norm": ([1.0, None], [(-1, ValueError), ("x", TypeError)]),
    "gradient_accumulation_steps": ([2, 1], [(0, ValueError)]),
    "mixing": ([MixUp(), None], [("mixup", TypeError)]),
    "loss": (
        [functools.partial(cross_entropy, label_smoothing=0.1), "focal", None],
        [("cros_entropy", ValueError), (0.1, TypeError), (mse, ValueError)],
    ),
    "metrics": (
        [accuracy, "accuracy", [accuracy, error_rate], None],
        [("acuracy", ValueError), (0.1, TypeError), ([1], TypeError)],
    ),
    "validate_also": ([{}, None], [("old", TypeError), (3, TypeError)]),
    "data": ([], [(3, TypeError), (None, TypeError)]),
}


def test_every_public_attribute_can_be_assigned_or_says_what_to_do(model):
    for name, found in inspect.getmembers(Learner):
        if name[0] == "_" or name in VALUES:
            continue
        settable = isinstance(found, property) and found.fset is not None
        assert not settable or name == "thresholds", f"{name} lacks a test"
        if not settable:
            with pytest.raises(AttributeError, match="can't be assigned. "):
                setattr(model, name, 1)
    # And there is none beside.
    assert all(name[0] == "_" for name in vars(model))
    for name, (right, wrong) in VALUES.items():
        for value in right:
            setattr(model, name, value)
        before = getattr(model, name)
        for value, kind in wrong:
            with pytest.raises(kind):
                setattr(model, name, value)
        assert getattr(model, name) == before
        with pytest.raises(AttributeError, match="can't be deleted"):
            delattr(model, name)
    with pytest.raises(TypeError):
        model.groups["more"] = "x"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("leraning_rate", "Did you mean lr?"),
        ("optimiser", "Did you mean optimizer?"),
        ("dls", "called data here"),
        ("loss_func", "called loss here"),
        ("batch_size", "learner.data = data"),
        ("callbacks", "fit(1, callbacks=...)"),
        ("something", "There are clip_norm, data, "),
    ],
)
def test_a_name_that_there_is_not_is_refused(model, name, message):
    with pytest.raises(AttributeError) as caught:
        setattr(model, name, 1)
    assert message in str(caught.value)


def test_a_subclass_may_have_what_it_likes(root, model):
    class Mine(Learner):
        note = None

    mine = Mine(model.data, model.model, verbose=False)
    mine.note, mine.more = "a", "b"
    with pytest.raises(AttributeError, match="freeze_to"):
        mine.frozen_groups = ()


def test_larger_photos_are_what_trains_and_validates(
    root, model, monkeypatch, fresh_programs
):
    """fastai's progressive resizing: the size, and what is compiled for it."""
    model.fit(1, 1e-3)
    moments = jax.tree.leaves(model._trainer.opt_state)
    seen = []

    def watched(batch, key, **options):
        seen.append((batch["image"].shape[0], options["size"]))
        return training_images(batch, key, **options)

    training_images = programs.training_images
    monkeypatch.setattr(programs, "training_images", watched)
    for size, rows in ((32, 8), (24, 4)):
        model.data = loaders(root, size=size, batch_size=rows)
        assert jax.tree.leaves(model._trainer.opt_state) == moments
        model.fit(1, 1e-3)
        moments = jax.tree.leaves(model._trainer.opt_state)
        assert seen.pop() == (rows, (size, size)) and not seen
    again = runs.make_learner(root, verbose=False)
    again.fit(1, 1e-3)
    again.data = loaders(root, size=32)
    again.fit(1, 1e-3)
    assert runs.figures(again.history) == runs.figures(model.history)[:2]
    # The same size needs no program of its own.
    count = again.num_programs
    again.data = loaders(root, size=32)
    again.fit(1, 1e-3)
    assert again.num_programs == count


def test_other_data_is_refused_and_changes_nothing(root, model):
    images = np.zeros((4, 16, 16, 3), np.uint8)
    before = model.data

    def arrays(labels, images=images, **options):
        pairs = [(images.copy(), np.asarray(labels)) for _ in range(2)]
        return ImageDataLoaders.from_arrays(*pairs, batch_size=4, **options)

    for data, message in (
        (arrays([0, 1, 0, 1]), "learner.extend"),
        (arrays([0.5, 1.5, 2.5, 3.5], kind="regression"), "regression"),
        (loaders(root, in_channels=1), "channels"),
    ):
        with pytest.raises(ValueError, match=message):
            model.data = data
    model.validate_also = {"old": before}
    with pytest.raises(ValueError, match=r"validate_also = \{\} first"):
        model.data = loaders(root, size=32)
    assert model.data is before and list(model.validate_also) == ["old"]
    change = LambdaCallback(on_epoch_begin=lambda epoch: setattr(model, "data", before))
    with pytest.raises(RuntimeError, match="while a phase trains"):
        model.fit(1, callbacks=change)


def test_an_assignment_is_as_if_it_had_been_there_from_the_beginning(root):
    """Each option assigned, against a learner that was made with it."""
    options = {
        "optimizer": sgd, "clip_norm": 1e-3, "gradient_accumulation_steps": 2,
        "mixing": MixUp(), "ema_decay": 0.5, "precision": "bfloat16", "norms": "train",
        "loss": functools.partial(cross_entropy, label_smoothing=0.3), "lr": 3e-3,
        "moms": (0.5, 0.4, 0.5), "wd": 0.5, "seed": 7,
    }  # fmt: skip
    made = runs.make_learner(root, verbose=False, **{**options, "seed": 0})
    made.seed = options["seed"]
    assigned = runs.make_learner(root, verbose=False)
    # What was compiled before is not what runs afterwards.
    start = assigned.validate()
    for name, value in options.items():
        setattr(assigned, name, value)
    assert assigned.validate()["loss"] != start["loss"]
    figures = [runs.figures(each.fit_one_cycle(1)) for each in (made, assigned)]
    assert figures[0] == figures[1] and runs.bits(made) == runs.bits(assigned)
    # And each of them has a part in it.
    described = made._trainer.describe()
    assert described == assigned._trainer.describe()
    plain = runs.make_learner(root, verbose=False)._trainer.describe()
    assert {name for name in plain if plain[name] != described.get(name)} == {
        "optimizer", "clip_norm", "mixing", "norms", "loss"
    }  # fmt: skip


def test_metrics_that_are_assigned_stand_in_the_next_rows(model):
    model.fit(1, 1e-3)
    compiled = model.num_programs
    model.metrics = [accuracy]
    row = model.fit(1, 1e-3)[0]
    assert list(row.metrics) == ["accuracy"] and model.num_programs == compiled
    assert list(model.validate()) == ["loss", "accuracy"]
    assert Learner.metrics.fget(model) == (accuracy,)
