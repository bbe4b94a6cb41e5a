"""Numbers far from 0 are learned as well as numbers near it, in their own units."""

import json

import numpy as np
import pytest
import runs
from flax import nnx

from jaxtune import (
    ImageDataLoaders,
    create_cnn_model,
    create_head,
    l1,
    load_predictor,
    mae,
    mse,
    resnet18,
    vision_learner,
)
from jaxtune.checkpoint import CheckpointMismatchError
from jaxtune.data import target_stats
from jaxtune.learner.vision import _recipe


def photos(scale, shift=0.0, *, seed=0):
    """Photos whose brightness is to be predicted, in some unit."""
    sources = []
    for draw in range(2):
        bright = np.random.RandomState(draw).rand(32)
        images = (bright[:, None, None, None] * 255 + np.zeros((32, 16, 16, 3))).round()
        labels = np.multiply.outer(bright, np.asarray(scale)) + shift
        sources.append((images.astype(np.uint8), labels.astype(np.float32)))
    return ImageDataLoaders.from_arrays(
        *sources, size=16, batch_size=8, seed=seed, workers=0, augmentation=None
    )


def learner(data, **options):
    return vision_learner(
        data, runs.smallest_network, cut=2, hidden=(8,), dropout=0.0, metrics=mae,
        verbose=False, **options,
    )  # fmt: skip


def test_wherever_the_targets_lie_learning_is_the_same():
    near, far = (learner(photos(*unit)) for unit in ((1.0, 0.0), (19_000.0, 5e3)))
    first, second = (model.fit(6, 1e-2) for model in (near, far))
    for one, other in zip(first, second, strict=True):
        # Figures are in the targets' own units.
        assert other.metrics["mae"] == pytest.approx(19_000 * one.metrics["mae"], 0.02)
        assert other.valid_loss == pytest.approx(19_000**2 * one.valid_loss, 0.02)
        assert other.train_loss == pytest.approx(19_000**2 * one.train_loss, 0.02)
    # Better than the mean of the targets would be.
    assert min(row.metrics["mae"] for row in second) < 19_000 / 4
    probabilities, targets = far.get_preds()
    assert np.abs(probabilities[:, 0] - targets).mean() == pytest.approx(
        second[-1].metrics["mae"], rel=1e-5
    )
    said = far.predict(np.full((16, 16, 3), 128, np.uint8))
    assert 5000 < said.label < 24_000 and said.label == said.probabilities[0]


def test_every_target_counts_whatever_its_unit():
    model = learner(photos([1e4, 1e-3]), loss=l1)
    before = model.get_preds()
    model.fit(6, 1e-2)
    after = model.get_preds()
    for i in range(2):
        errors = [np.abs(x[0][:, i] - x[1][:, i]).mean() for x in (before, after)]
        assert errors[1] < 0.5 * errors[0]


def test_the_scale_is_saved_loaded_and_not_trained(tmp_path):
    data = photos(19_000.0)
    model = learner(data)
    model.fit(1)
    model.save(tmp_path / "kept")
    other = learner(photos(3.0))
    assert other.validate() != model.validate()
    other.load(tmp_path / "kept")
    np.testing.assert_array_equal(other.get_preds(data.valid)[0], model.get_preds()[0])
    np.testing.assert_allclose(
        other.model[1].denormalize.std[...], data.train_items.labels.std()
    )
    network = create_cnn_model(
        runs.smallest_network, 1, cut=2, hidden=(8,), dropout=0.0,
        target_stats=([0.0], [1.0]),
    )  # fmt: skip
    predictor = load_predictor(tmp_path / "kept", module=network)
    photo = np.full((16, 16, 3), 99, np.uint8)
    assert predictor.predict(photo).label == model.predict(photo).label


def test_a_checkpoint_from_before_there_was_a_scale_opens(tmp_path):
    data = photos(19_000.0)
    old = learner(data, target_stats=None)
    assert "denormalize" not in old.model[1].names
    old.save(tmp_path / "old")
    model = learner(data)
    model.load(tmp_path / "old")
    np.testing.assert_allclose(model.get_preds()[0], old.get_preds()[0], rtol=1e-6)
    model.save(tmp_path / "new")
    with pytest.raises(CheckpointMismatchError, match="denormalize"):
        old.load(tmp_path / "new")


def test_a_recipe_builds_the_same_head_again():
    stats = target_stats(photos(19_000.0).train_items)
    recipe = json.loads(
        json.dumps(_recipe(resnet18, None, None, 3, {"target_stats": stats}))
    )
    head = create_head(8, 1, rngs=nnx.Rngs(0), **recipe["head"])
    assert (*head[-1].mean[...].tolist(), *head[-1].std[...].tolist()) == (
        *stats[0],
        *stats[1],
    )


def test_where_a_range_is_given_nothing_is_scaled():
    model = learner(photos(1.0), y_range=(0, 2))
    assert model.model[1].names[-1] == "range"
    with pytest.raises(ValueError, match="y_range or target_stats, not both"):
        learner(photos(1.0), y_range=(0, 2), target_stats=([0.0], [1.0]))
    with pytest.raises(ValueError, match="1 numbers, one for each output"):
        learner(photos(1.0), target_stats=([0.0, 1.0], [1.0, 1.0]))


def test_bfloat16_computes_errors_in_float32():
    model = learner(photos(1.0, 1e4), precision="bfloat16", loss=mse)
    said = model.get_preds()[0]
    assert said.dtype == np.float32 and len(np.unique(said)) > 16
    assert model.validate()["mae"] < 50
