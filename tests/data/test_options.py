"""Options are looked at first, and each goes where it belongs."""

from pathlib import Path

import numpy as np
import pytest

from jaxtune.data import Augmentation, label_items
from jaxtune.data.options import (
    LoaderOptions,
    SplitOptions,
    check_options,
    label_options,
    refuse_split,
    split_by_options,
    weighted,
)


def items():
    return label_items([Path(f"{n}.jpg") for n in range(20)], ["a", "b"] * 10)


def test_what_is_fine():
    check_options({})
    check_options(
        {
            "size": (8, 16),
            "augmentation": Augmentation(),
            "resize": "pad",
            "presize": 32,
            "kind": "multi",
            "in_channels": 13,
        }
    )


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"bs": 64, "sz": 2},
            TypeError,
            "no option bs, sz; the options are size, valid_size, bat",
        ),
        ({"resize": "stretch"}, ValueError, "resize is 'crop'"),
        ({"pad_mode": "wrap"}, ValueError, "pad_mode is"),
        ({"presize": 0}, ValueError, "at least 1 pixel"),
        ({"kind": "many"}, ValueError, "kind must be 'single'"),
        (
            {"in_channels": -1},
            ValueError,
            "in_channels must be .* at least 1; received -1",
        ),
        ({"valid_pct": 20}, ValueError, "Write 0.2 for 20%"),
        ({"augmentation": "flip"}, TypeError, r"an Augmentation\(...\) or None"),
        ({"classes": "cat"}, TypeError, "sequence of names .*received 'cat'"),
    ],
)
def test_what_is_not(options, error, message):
    with pytest.raises(error, match=message):
        check_options(options)


def test_options_go_where_they_belong():
    options = {"classes": ("a", "b"), "seed": 3, "valid_pct": 0.3, "stratify": False}
    assert label_options(options) == {"classes": ("a", "b"), "kind": None}
    with pytest.raises(TypeError, match="valid_pct and stratify would not be used"):
        refuse_split(options, "valid_col")
    train, valid = split_by_options(items(), options, None)
    assert (len(train), len(valid)) == (14, 6) and options == {"seed": 3}
    assert set(options) <= set(LoaderOptions.__annotations__)
    assert set(LoaderOptions.__annotations__) < set(SplitOptions.__annotations__)


def test_the_seed_is_that_of_the_split():
    def split(**options):
        return split_by_options(items(), options, None)[1].paths

    assert split() == split(seed=0) != split(seed=1)


def test_a_weight_for_each_photo_goes_with_it():
    options = {"weights": np.arange(20), "valid_pct": 0.4}
    train, valid = split_by_options(items(), options, None)
    assert options == {}
    for side in (train, valid):
        assert [f"{n:.0f}.jpg" for n in side.weights] == [p.name for p in side.paths]
    options = {"weights": "balanced"}
    assert weighted(items(), options).weights is None and options["weights"]
