import json

import numpy as np
import pytest
from flax import nnx
from photos import tiny_resnet

from jaxtune import (
    ImageDataLoaders,
    create_cnn_model,
    load_predictor,
    resnet18,
    vision_learner,
)
from jaxtune.checkpoint import CheckpointMismatchError, load_meta


def test_a_saved_network_predicts_the_same_after_reloading(data, tmp_path):
    model = vision_learner(data, resnet18, pretrained=False, hidden=(8,), verbose=False)
    path = model.save(tmp_path / "run")
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
    model = vision_learner(larger, tiny_resnet, hidden=(8,), verbose=False)
    model.fit(1, 1e-3)
    module = create_cnn_model(tiny_resnet, 3, hidden=(8,))
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
    model = vision_learner(data, tiny_resnet, hidden=(8,), verbose=False)
    path = model.save(tmp_path / "run")
    with pytest.raises(ValueError, match="hand it over as module="):
        load_predictor(path)
    module = create_cnn_model(tiny_resnet, 3, hidden=(8,), rngs=nnx.Rngs(5))
    photo = data.valid_items.paths[0]
    np.testing.assert_allclose(
        load_predictor(path, module=module).predict(photo).probabilities,
        model.predict(photo).probabilities,
        rtol=1e-5,
    )
    other = create_cnn_model(tiny_resnet, 4, hidden=(8,))
    with pytest.raises(
        CheckpointMismatchError, match=r"head\.linear2\.weight: \(8, 3\)"
    ):
        load_predictor(path, module=other)


def test_a_run_gives_its_latest_or_its_best(data, tmp_path):
    model = vision_learner(data, tiny_resnet, hidden=(8,), verbose=False)
    # The rate is far too high in the second epoch, which ends worse than the first.
    model.fit(1, 1e-3, run=tmp_path / "first")
    model.fit(2, [1e-3, 1e-3, 3.0], run=tmp_path / "run")
    losses = model.history.history["valid_loss"][1:]
    photo = data.valid_items.paths[0]
    latest = model.predict(photo).probabilities
    found = {}
    for which in ("latest", "best"):
        module = create_cnn_model(tiny_resnet, 3, hidden=(8,))
        predictor = load_predictor(tmp_path / "run", module=module, which=which)
        found[which] = predictor.predict(photo).probabilities
        assert predictor.meta["valid_loss"] == (
            min(losses) if which == "best" else losses[-1]
        )
    np.testing.assert_allclose(found["latest"], latest, rtol=1e-5)
