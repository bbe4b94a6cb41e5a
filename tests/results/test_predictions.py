import numpy as np
import pytest
from kinds import make_data

from jaxtune.results.predictions import (
    Predictions,
    gather,
    loader_like,
    plain_loader,
    require_items,
)


def test_predictions_come_apart_as_fastais_do():
    said, targets = np.eye(2, dtype=np.float32), np.zeros(2, np.int32)
    index = np.arange(2, dtype=np.int32)
    plain = Predictions(said, targets, index)
    assert [x is y for x, y in zip(plain, (said, targets), strict=True)] == [True] * 2
    losses, decoded = np.ones(2, np.float32), np.array([0, 1], np.int32)
    whole = Predictions(said, targets, index, decoded, losses)
    a, b, c, d = whole
    assert a is said and b is targets and c is decoded and d is losses
    assert whole[1] is targets and len(whole) == 4
    only = Predictions(said, targets, index, losses=losses)
    assert len(only) == 3 and only[2] is losses
    assert repr(plain) == (
        "Predictions(probabilities float32[2, 2], targets int32[2], index int32[2])"
    )


def test_padding_and_unreadable_rows_are_left_out_and_order_is_kept():
    batches = [
        {"label": np.array([3, 4]), "index": np.array([7, 5]), "mask": [True, False]},
        {"label": np.array([1, 0]), "index": np.array([2, -1]), "mask": [True, False]},
    ]
    found = gather(lambda batch: {"twice": batch["label"] * 2}, batches)
    assert {name: rows.tolist() for name, rows in found.items()} == {
        "label": [3, 1],
        "index": [7, 2],
        "twice": [6, 2],
    }
    bare = [{"label": np.array([1, 0])}, {"label": np.array([5, 6])}]
    assert gather(lambda batch: {}, bare)["index"].tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="no readable photo"):
        gather(lambda batch: {}, [{"label": np.zeros(2), "mask": np.zeros(2, bool)}])


def test_a_training_loader_is_put_in_order_and_prepared_as_validation(root):
    data = make_data(root, "single")
    for asked in (None, "valid", 1, data.valid_loader):
        assert plain_loader(data, asked) is data.valid_loader
    for asked in ("train", 0, data.train_loader):
        plain = plain_loader(data, asked)
        assert plain.items is data.train_items and not plain.shuffle
        assert plain.image_shape == data.valid_loader.image_shape
        assert plain.image_shape != data.train_loader.image_shape
    own = loader_like(
        data.valid_loader, data.valid_items, data.valid_loader.preparation
    )
    assert plain_loader(data, own) is own
    with pytest.raises(ValueError, match="loader must be 'train', 'valid', a loader"):
        plain_loader(data, "test")


def test_a_loader_without_items_is_refused_where_photos_are_shown():
    with pytest.raises(TypeError, match="tta needs a jaxtune.data.Loader"):
        require_items([1, 2], "tta")
