"""Thresholds: given in any form, and used wherever labels are said."""

import numpy as np
import pytest
from kinds import make_data, make_model
from runs import smallest_network

from jaxtune import (
    continue_from,
    create_cnn_model,
    load_predictor,
    save_checkpoint,
    split_module,
)
from jaxtune.results.thresholds import as_thresholds, check_several, decode

CLASSES = ("ant", "bee", "fly")


def test_decoding_by_kind():
    said = np.array([[0.2, 0.7, 0.6], [0.5, 0.1, 0.4]], np.float32)
    assert decode(said, "single").tolist() == [1, 0]
    assert decode(said, "multi").tolist() == [[False, True, True], [False] * 3]
    each = decode(said, "multi", [0.1, 0.9, 0.5])
    assert each.tolist() == [[True, False, True], [True, False, False]]
    assert decode(said, "regression") is said


def test_thresholds_are_given_in_any_form():
    for given, expected in (
        (0.25, [0.25, 0.25, 0.25]),
        (np.float32(0.25), [0.25, 0.25, 0.25]),
        (0, [0, 0, 0]),
        ([0, 0.5, 1], [0, 0.5, 1]),
        (np.array([0.25, 0.5, 0.75]), [0.25, 0.5, 0.75]),
        ({"bee": 0.25}, [0.5, 0.25, 0.5]),
        ({0: 0.25, np.int64(2): 0.75}, [0.25, 0.5, 0.75]),
        ({}, [0.5, 0.5, 0.5]),
    ):
        found = as_thresholds(given, CLASSES)
        assert found.dtype == np.float32 and found.tolist() == expected


@pytest.mark.parametrize(
    "wrong",
    [
        None, "0.5", b"a", True, {0.5}, object(), float, float("nan"), -0.1, 1.5, [],
        [0.5], [0.5] * 4, [None] * 3, ["a"] * 3, np.zeros((3, 3)), {"wasp": 0.5},
        {3: 0.5}, {-1: 0.5}, {True: 0.5}, {"bee": "a"}, {"bee": 2.0},
    ],
)  # fmt: skip
def test_what_is_no_threshold_is_refused(wrong):
    with pytest.raises((TypeError, ValueError), match="thresh"):
        as_thresholds(wrong, CLASSES, name="thresh")


@pytest.mark.parametrize("kind", ["single", "regression"])
def test_one_label_has_no_threshold(kind):
    with pytest.raises(ValueError, match="is for photos with several labels"):
        check_several(kind)


def test_a_learners_thresholds_decide_whatever_says_labels(root, tmp_path):
    model = make_model(make_data(root, "multi"))
    data, photo = model.data, model.data.valid_items.paths[0]
    assert model.thresholds.tolist() == [0.5, 0.5]
    said = model.get_preds().probabilities
    # Half-way between the photos' probabilities, so that some are above.
    best = np.median(said, axis=0)
    model.thresholds = {"cold": best[1], 0: best[0]}
    np.testing.assert_array_equal(model.thresholds, best)
    above = said > best
    assert 0 < above.sum() < above.size and (above != (said > 0.5)).any()

    def names(row):
        return tuple(np.array(data.classes)[row])

    photos = list(data.valid_items.paths)
    assert [one.label for one in model.predict(photos)] == [*map(names, above)]
    np.testing.assert_array_equal(model.get_preds(with_decoded=True)[2], above)
    shown = model.interpret()
    np.testing.assert_array_equal(shown.predictions.decoded, above)
    # A call's own come first.
    np.testing.assert_array_equal(
        model.get_preds(with_decoded=True, thresh=0.5)[2], said > 0.5
    )
    model.thresholds = shown.best_thresholds()
    best = model.thresholds

    saved = model.save(tmp_path / "saved")
    model.fit(1, 1e-9, run=tmp_path / "run")

    def module():
        return create_cnn_model(smallest_network, 2, cut=2, hidden=(8,))

    for path in (saved, tmp_path / "run"):
        predictor = load_predictor(path, module=module())
        np.testing.assert_array_equal(predictor.thresholds, best)
        assert predictor.predict(photo).label == model.predict(photo).label
    # Chosen after a run, they are kept in it when that is asked for.
    model.thresholds = [0.125, 0.875]
    model.save_thresholds(tmp_path / "run")
    kept = load_predictor(tmp_path / "run", module=module()).thresholds
    assert kept.tolist() == [0.125, 0.875]
    with pytest.raises(FileNotFoundError, match="no run"):
        model.save_thresholds(saved)
    (tmp_path / "run" / "thresholds.json").write_text("[")
    with pytest.raises(ValueError, match="thresholds.json is damaged"):
        load_predictor(tmp_path / "run", module=module())
    model.thresholds = best
    other = make_model(data)
    other.load(saved)
    np.testing.assert_array_equal(other.thresholds, best)
    # Known classes keep theirs by name, whatever their number.
    more = make_data(root, "multi", batch_size=8)
    continued = continue_from(saved, more, module=module(), verbose=False)
    np.testing.assert_array_equal(continued.thresholds, best)
    predictor = model.to_predictor()
    predictor.thresholds = 1
    assert predictor.predict(photo).label == ()
    predictor.thresholds = None
    assert predictor.thresholds.tolist() == [0.5, 0.5]
    model.thresholds = None
    assert model.thresholds.tolist() == [0.5, 0.5]
    other.load(model.save(tmp_path / "default"))
    assert other.thresholds.tolist() == [0.5, 0.5]


def test_a_checkpoint_that_says_no_thresholds_leaves_them_alone(root, tmp_path):
    model = make_model(make_data(root, "multi"))
    meta = model._meta()
    del meta["thresholds"]
    _, params, model_state = split_module(model.model)
    save_checkpoint(tmp_path / "old", params=params, model_state=model_state, meta=meta)
    model.thresholds = 0.25
    model.load(tmp_path / "old")
    assert model.thresholds.tolist() == [0.25, 0.25]
    module = create_cnn_model(smallest_network, 2, cut=2, hidden=(8,))
    opened = load_predictor(tmp_path / "old", module=module)
    assert opened.thresholds.tolist() == [0.5, 0.5]
