import json

import numpy as np
import pytest
from flax import nnx
from photos import tiny_resnet

from jaxtune import create_cnn_model, load_predictor, resnet18, vision_learner
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
