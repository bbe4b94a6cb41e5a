import numpy as np
import pytest
from colours import colours, named

from jaxtune.loop.extra_validation import (
    describe_extra,
    extra_columns,
    extra_figures,
    matching_loader,
    matching_loaders,
)


@pytest.fixture(scope="module")
def data(root):
    return colours(root, named("blue", "green", "red"))


@pytest.fixture(scope="module")
def old(root):
    return colours(root, named("red", "blue"), classes=["red", "blue"], batch_size=4)


def test_labels_are_matched_by_name(data, old):
    loader = matching_loader(old, data)
    assert loader.items.classes == data.classes
    assert old.valid_items.labels.tolist() == [1] * 7 + [0] * 7
    assert loader.items.labels.tolist() == [0] * 7 + [2] * 7
    assert len(loader) == 2  # batches of the data's size: no other program
    first, mine = next(iter(loader.batches())), next(iter(old.valid_loader.batches()))
    assert (first["image"][:4] == mine["image"]).all()
    assert matching_loader(data, data) is data.valid_loader
    assert matching_loader(data.train_loader, data) is data.train_loader


def test_several_labels_are_matched_by_name(root):
    data = colours(root, {"blue": ["cold"], "green": ["alive", "cold"], "red": []})
    old = colours(root, {"red": [], "blue": ["cold"]}, classes=["cold"])
    loader = matching_loader(old, data)
    assert data.classes == ("alive", "cold")
    assert loader.items.labels.tolist() == [[0, 1]] * 7 + [[0, 0]] * 7
    with pytest.raises(ValueError, match="the loader has single labels.*multi"):
        matching_loader(colours(root, named("blue", "red")), data)


def test_what_does_not_fit_is_refused(root, data, old):
    with pytest.raises(
        ValueError, match=r"validate on validate_also\['all'\].*\{'green': 7\}"
    ):
        matching_loaders({"all": data}, old, ())
    small = colours(root, named("blue", "red"), size=8)
    with pytest.raises(
        ValueError, match=r"\['old'\] gives images of shape \(8, 8, 3\)"
    ):
        matching_loaders({"old": small}, data, ())
    with pytest.raises(ValueError, match="would add the columns old_valid_loss"):
        matching_loaders({"old": old}, data, ["old_valid_loss"])
    with pytest.raises(TypeError, match="needs a name for each"):
        matching_loaders({"": old}, data, ())
    with pytest.raises(TypeError, match="received a list"):
        matching_loaders({"old": [old]}, data, ())


def test_loaders_go_through_their_photos_once_in_order(root, data):
    other = colours(root, named("blue", "green", "red"), augmentation=None)
    loaders = matching_loaders({"train": other.train_loader, "own": data}, data, ["f1"])
    assert loaders["own"] is data.valid_loader
    assert not loaders["train"].shuffle
    rows = np.concatenate([batch["index"] for batch in loaders["train"].batches()])
    assert rows.tolist() == list(range(96))


def test_the_table_says_whose_figures_they_are(data, old):
    assert extra_columns("old", ["f1"]) == ["old_valid_loss", "old_f1"]
    figures = extra_figures("old", {"loss": 0.5, "f1": 0.25})
    assert figures == {"old_valid_loss": 0.5, "old_f1": 0.25}
    described = describe_extra(matching_loaders({"old": old}, data, ()))
    assert described["old"]["photos"] == 14
    assert described == describe_extra(matching_loaders({"old": old}, data, ()))
    assert described != describe_extra(matching_loaders({"old": data}, data, ()))
