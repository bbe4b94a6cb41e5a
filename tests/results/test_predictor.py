import copy
import json
import multiprocessing
import pickle
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import pytest
from flax import nnx
from kinds import make_data, make_model
from PIL import Image
from runs import smallest_network

from jaxtune import (
    ImageDataLoaders,
    ImageError,
    create_cnn_model,
    load_predictor,
    resnet18,
    split_module,
    vision_learner,
)
from jaxtune.checkpoint import CheckpointMismatchError, load_meta


@pytest.fixture(scope="module")
def saved(data, tmp_path_factory):
    """A learner of a registered architecture, and where it is saved."""
    model = vision_learner(data, resnet18, pretrained=False, hidden=(8,), verbose=False)
    return model, model.save(tmp_path_factory.mktemp("saved") / "run")


def test_a_saved_network_predicts_the_same_after_reloading(data, saved):
    model, path = saved
    again = load_predictor(path)
    photos = list(data.valid_items.paths[:3])
    for old, new in zip(model.predict(photos), again.predict(photos), strict=True):
        assert (old.label, old.index) == (new.label, new.index)
        np.testing.assert_allclose(old.probabilities, new.probabilities, rtol=1e-5)
    assert again.predict(photos[0]).label in again.classes == data.classes
    assert json.loads(json.dumps(load_meta(path)))["size"] == [32, 32]


def test_photos_are_as_large_as_in_validation(data, tmp_path):
    larger = ImageDataLoaders(
        data.train_items, data.valid_items, size=16, valid_size=32, batch_size=8
    )
    model = vision_learner(larger, smallest_network, cut=2, hidden=(8,), verbose=False)
    model.fit(1, 1e-3)
    module = create_cnn_model(smallest_network, 3, cut=2, hidden=(8,))
    again = load_predictor(model.save(tmp_path / "run"), module=module)
    assert load_meta(tmp_path / "run")["size"] == [32, 32]
    photos = list(data.valid_items.paths)
    rows = [
        np.stack([p.probabilities for p in source.predict(photos)])
        for source in (model, again)
    ]
    np.testing.assert_allclose(rows[0], model.get_preds()[0], atol=1e-5)
    np.testing.assert_allclose(rows[1], rows[0], atol=1e-5)
    same = ImageDataLoaders(data.train_items, data.valid_items, size=32, batch_size=8)
    assert model.validate(same) == model.validate()


def test_a_network_of_ones_own_is_handed_over(data, tmp_path):
    model = vision_learner(data, smallest_network, cut=2, hidden=(8,), verbose=False)
    path = model.save(tmp_path / "run")
    with pytest.raises(ValueError, match="hand it over as module="):
        load_predictor(path)
    module = create_cnn_model(smallest_network, 3, cut=2, hidden=(8,), rngs=nnx.Rngs(5))
    photo = data.valid_items.paths[0]
    np.testing.assert_allclose(
        load_predictor(path, module=module).predict(photo).probabilities,
        model.predict(photo).probabilities,
        rtol=1e-5,
    )
    other = create_cnn_model(smallest_network, 4, cut=2, hidden=(8,))
    with pytest.raises(
        CheckpointMismatchError, match=r"head\.linear2\.weight: \(8, 3\)"
    ):
        load_predictor(path, module=other)


def test_a_run_gives_its_latest_or_its_best(data, tmp_path):
    model = vision_learner(data, smallest_network, cut=2, hidden=(8,), verbose=False)
    # The rate is far too high in the second epoch, which ends worse than the first.
    model.fit(1, 1e-3, run=tmp_path / "first")
    model.fit(2, [1e-3, 3.0], run=tmp_path / "run")
    losses = model.history.history["valid_loss"][1:]
    photo = data.valid_items.paths[0]
    latest = model.predict(photo).probabilities
    found = {}
    for which in ("latest", "best"):
        module = create_cnn_model(smallest_network, 3, cut=2, hidden=(8,))
        predictor = load_predictor(tmp_path / "run", module=module, which=which)
        found[which] = predictor.predict(photo).probabilities
        assert predictor.meta["valid_loss"] == (
            min(losses) if which == "best" else losses[-1]
        )
    np.testing.assert_allclose(found["latest"], latest, rtol=1e-5)


@pytest.fixture(scope="module")
def model(root):
    return make_model(make_data(root, "multi"))


class FunctionalResNet(nnx.Module):
    """Only its own code says what comes after what."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.layer1 = nnx.List([nnx.Conv(8, 8, (3, 3), rngs=rngs) for _ in range(2)])
        self.fc = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.conv1(x))
        for conv in self.layer1:
            x = x + nnx.relu(conv(x))
        return self.fc(x.mean(axis=(1, 2)))


def numbers(predictions):
    return np.stack([one.probabilities for one in predictions])


def test_many_photos_are_said_in_order_whatever_holds_them(model, root):
    photos = list(model.data.valid_items.paths)
    expected = model.get_preds().probabilities
    images = [np.asarray(Image.open(photo)) for photo in photos]
    mixed = [photos[0], images[1], photos[2].read_bytes(), *map(Image.open, photos[3:])]
    for many in (root / "valid", f"{root}/valid/**/*.png", np.stack(images), mixed):
        found = model.predict(many)
        np.testing.assert_allclose(numbers(found), expected, atol=1e-6)
    assert model.predict([]) == [] == model.predict(iter([]))


def test_of_an_iterator_no_more_than_a_batch_is_held(model):
    read, predictor = [], model.to_predictor()
    photos = list(model.data.valid_items.paths)
    most = []

    def endless():
        for photo in photos:
            read.append(photo)
            yield photo

    inner = predictor._step

    def step(images):
        most.append((len(images), len(read)))
        return inner(images)

    predictor._step = step
    found = predictor.predict(endless())
    assert most == [(8, 8), (8, 16), (8, 21)]
    np.testing.assert_array_equal(numbers(found), numbers(predictor.predict(photos)))
    most.clear()
    predictor.predict(iter(photos[:1]))
    assert most[0][0] == 1


def test_a_bad_photo_is_named_and_costs_no_other_its_answer(model, tmp_path):
    good = model.data.valid_items.paths[0]
    bad, cut = tmp_path / "bad.png", tmp_path / "cut.png"
    bad.write_bytes(b"nothing")
    cut.write_bytes(good.read_bytes()[:500])
    photos = [good, bad, "gone.png", None, cut, good]
    calls = []
    predictor = model.to_predictor()
    inner = predictor._step
    predictor._step = lambda images: calls.append(1) or inner(images)
    for many, error in ((photos, TypeError), (photos[:3], ImageError),
                        ([good, "gone.png"], FileNotFoundError)):  # fmt: skip
        with pytest.raises(error, match=r"(?s)item\[\d\]: .*Nothing was computed"):
            predictor.predict(many)
    assert not calls
    with pytest.raises(ImageError, match=r"item\[1\]: Cannot read .*cut.png"):
        predictor.predict([good, cut])
    with pytest.raises(ImageError, match=r"item\[1\]: Cannot read .*bad.png"):
        predictor.predict(iter([good, bad]))
    with pytest.warns(UserWarning, match=r"(?s)4 of 6.*item\[1\]:.*item\[4\]:"):
        found = predictor.predict(photos, on_error="skip")
    assert [one is None for one in found] == [False, True, True, True, True, False]
    assert found[0].label == model.predict(good).label
    with pytest.warns(UserWarning, match="gone.png"):
        assert predictor.predict("gone.png", on_error="skip") is None
    with pytest.raises(ValueError, match="on_error must be 'raise' or 'skip'"):
        predictor.predict(good, on_error="ignore")


def test_a_predictor_goes_to_other_processes_and_threads(model):
    model.thresholds = {"cold": 0.25}
    predictor = model.to_predictor()
    model.thresholds = None
    photos = [str(path) for path in model.data.valid_items.paths]
    expected = numbers(predictor.predict(photos))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        there = pool.apply(predictor.predict, (photos,))
    np.testing.assert_allclose(numbers(there), expected, rtol=1e-6)
    twins = pickle.loads(pickle.dumps(predictor)), copy.deepcopy(predictor)
    for twin in twins:
        assert twin.thresholds.tolist() == [0.5, 0.25]
        assert twin.classes == predictor.classes and twin.meta["size"] == [16, 16]
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(twins[0].predict, [photos] * 4):
            np.testing.assert_array_equal(numbers(found), expected)


def test_own_networks_cut_in_their_own_code_are_pickled_too(model):
    data = model.data
    body = vision_learner(
        data,
        FunctionalResNet(nnx.Rngs(0)),
        cut="layer1.0",
        pretrained=False,
        hidden=(8,),
        verbose=False,
    )
    photo, predictor = data.valid_items.paths[0], body.to_predictor()
    again = pickle.loads(pickle.dumps(predictor))
    np.testing.assert_array_equal(
        again.predict(photo).probabilities, predictor.predict(photo).probabilities
    )


def test_what_is_built_from_its_description_is_pickled_as_arrays(saved):
    opened = load_predictor(saved[1])
    _, (meta, _, graph, params, _) = opened.__reduce__()
    assert graph is None and json.loads(json.dumps(meta)) == meta
    again = pickle.loads(pickle.dumps(opened))
    assert again.__reduce__()[1][2] is None
    for one, other in zip(*map(leaves, (opened, again)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert isinstance(params["body"]["conv1"]["weight"], np.ndarray)


def leaves(predictor):
    return jax.tree.leaves(split_module(predictor.module)[1:])


def test_a_learner_is_copied_and_says_why_it_is_not_pickled(model):
    with pytest.raises(TypeError, match=r"can't be pickled.*to_predictor\(\).*save\("):
        pickle.dumps(model)
    photo = model.data.valid_items.paths[0]
    before = model.predict(photo).probabilities
    twin = copy.deepcopy(model)
    np.testing.assert_array_equal(twin.predict(photo).probabilities, before)
    predictor = twin.to_predictor()
    twin.fit(1, 1e-2)
    assert (twin.predict(photo).probabilities != before).any()
    np.testing.assert_array_equal(model.predict(photo).probabilities, before)
    np.testing.assert_array_equal(predictor.predict(photo).probabilities, before)
