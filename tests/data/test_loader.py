"""Batches are a pure function of seed, epoch and number, and count each photo once."""

import dataclasses
import itertools
import threading
import time
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from jaxtune.data import ImageError, Loader, Preparation, label_items, source_items
from jaxtune.data.loader import check_loader_arguments

PREPARATION = Preparation((10, 10), (8, 8))


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """23 photos that all differ, of many shapes."""
    return write(tmp_path_factory.mktemp("photos"), 23)


def write(root, number):
    rng = np.random.default_rng(0)
    paths = []
    for n in range(number):
        shape = (12 + n % 5, 11 + n % 7, 3)
        paths.append(root / f"{n:02}.png")
        Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(paths[-1])
    return label_items(paths, [n % 3 for n in range(number)])


def loader(items, **options):
    options = {"batch_size": 4, "workers": 2, **options}
    return Loader(items, PREPARATION, **options)


def same(ours, theirs):
    ours, theirs = list(ours), list(theirs)
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_what_a_batch_is(items):
    batches = list(loader(items))
    assert len(batches) == len(loader(items)) == 6
    for batch in batches:
        described = {name: (a.shape, str(a.dtype)) for name, a in batch.items()}
        assert described == {
            "image": ((4, 8, 8, 3), "uint8"),
            "label": ((4,), "int32"),
            "mask": ((4,), "bool"),
            "index": ((4,), "int32"),
            "aspect": ((4,), "float32"),
        }


def test_a_row_is_its_photo(items):
    for options in ({}, {"shuffle": True}):
        for batch in loader(items, **options):
            for row in np.flatnonzero(batch["mask"]):
                index = batch["index"][row]
                image, aspect = PREPARATION(items.paths[index])
                np.testing.assert_array_equal(batch["image"][row], image)
                assert batch["aspect"][row] == np.float32(aspect)
                assert batch["label"][row] == items.labels[index]


@pytest.mark.parametrize("batch_size", [1, 2, 5, 22, 23, 24, 64])
def test_validation_counts_every_photo_once(items, batch_size):
    valid = loader(items, batch_size=batch_size)
    batches = list(valid)
    assert len(batches) == len(valid) == -(-23 // batch_size)
    assert all(len(batch["mask"]) == batch_size for batch in batches)
    mask = np.concatenate([batch["mask"] for batch in batches])
    index = np.concatenate([batch["index"] for batch in batches])
    assert index[mask].tolist() == list(range(23))
    padding = ~batches[-1]["mask"]
    for name, empty in (("image", 0), ("label", 0), ("index", -1), ("aspect", 1)):
        assert (batches[-1][name][padding] == empty).all()


@pytest.mark.parametrize("batch_size", [1, 4, 23])
def test_training_drops_the_incomplete_batch(items, batch_size):
    train = loader(items, batch_size=batch_size, shuffle=True)
    index = np.concatenate([batch["index"] for batch in train])
    assert len(index) == 23 // batch_size * batch_size == len(train) * batch_size
    assert len(set(index.tolist())) == len(index)
    assert all(batch["mask"].all() for batch in train)


def test_few_photos_lower_the_batch_size(items):
    with pytest.warns(UserWarning, match="batch_size=64 is lowered to 23"):
        train = loader(items, batch_size=64, shuffle=True)
    assert train.batch_size == 23 and len(train) == 1
    assert sorted(next(iter(train))["index"]) == list(range(23))


@pytest.mark.parametrize("cache_bytes", [0, 2**30])
def test_any_number_of_workers_gives_the_same_batches(items, cache_bytes):
    def run(workers):
        train = loader(
            items, shuffle=True, seed=5, workers=workers, cache_bytes=cache_bytes
        )
        return [*train.batches(0), *train.batches(1)]

    alone = run(0)
    for workers in (1, 2, 3, 7):
        same(run(workers), alone)


def test_the_cache_changes_nothing_but_is_used(items, tmp_path):
    copies = write(tmp_path, 9)
    kept = loader(copies, shuffle=True, batch_size=3)
    with pytest.warns(
        UserWarning, match="9 photos take 0.00 GB once decoded, more tha"
    ):
        streamed = loader(
            copies, shuffle=True, batch_size=3, cache_bytes=9 * 8 * 8 * 3 - 1
        )
    assert kept.cached_bytes == 9 * 8 * 8 * 3 and streamed.cached_bytes == 0
    for epoch in range(3):
        same(kept.batches(epoch), streamed.batches(epoch))
    for path in copies.paths:
        path.unlink()
    assert len(list(kept.batches(3))) == 3
    with pytest.raises(ImageError, match="no picture at"):
        list(streamed.batches(3))


def test_batches_are_the_callers_own(items):
    train = loader(items)
    first = next(iter(train))
    first["image"][:] = 0
    assert next(iter(train))["image"].any()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 5), st.integers(1, 23), st.booleans(), st.data())
def test_resuming_is_going_on(items, epoch, batch_size, shuffle, data):
    one = loader(items, batch_size=batch_size, shuffle=shuffle, seed=9)
    start = data.draw(st.integers(0, len(one)))
    whole = list(one.batches(epoch))
    other = loader(items, batch_size=batch_size, shuffle=shuffle, seed=9, workers=0)
    same(other.batches(epoch, start), whole[start:])


def test_epochs_and_seeds_have_their_own_order(items):
    train = loader(items, shuffle=True)
    orders = [tuple(train.order(epoch)) for epoch in range(20)]
    orders += [tuple(loader(items, shuffle=True, seed=s).order(0)) for s in (1, 2)]
    assert len(set(orders)) == 22
    assert all(sorted(order) == list(range(23)) for order in orders)
    valid = loader(items)
    assert (valid.order(0) == valid.order(7)).all()


def test_an_order_never_changes_with_versions(items):
    order = loader(items, shuffle=True, seed=3).order(2)
    assert order[:8].tolist() == [16, 13, 1, 15, 2, 0, 11, 17]


def test_every_order_of_a_few_photos_is_as_likely(items):
    few = items.take([0, 1, 2])
    train = loader(few, shuffle=True, batch_size=3)
    orders = [tuple(train.order(epoch)) for epoch in range(1200)]
    counts = [orders.count(order) for order in itertools.permutations(range(3))]
    assert min(counts) > 140 and max(counts) < 260  # 200 and 4.6 deviations


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size must be .*at least 1; received 0"),
        ({"workers": -1}, "workers is the number of threads"),
        ({"seed": -1}, "seed must be .* 0 to 4294967295"),
        ({"seed": 2**32}, "seed must be .* 0 to 4294967295"),
        ({"cache_bytes": -1}, "cache_bytes must be .*at least 0"),
    ],
)
def test_arguments_out_of_range(items, options, message):
    with pytest.raises(ValueError, match=message):
        loader(items, **options)


def test_only_raise_and_skip_are_known():
    with pytest.raises(
        ValueError, match="must be 'raise' or 'skip'; received 'ignore'"
    ):
        check_loader_arguments(
            batch_size=1, seed=0, workers=None, cache_bytes=0, on_error="ignore"
        )


def test_epoch_and_start_out_of_range(items):
    one = loader(items)
    for wrong in ({"epoch": -1}, {"start": -1}, {"start": 7}):
        with pytest.raises(ValueError, match="received"):
            one.batches(**wrong)  # at once, not at the first batch
    assert list(one.batches(start=6)) == []
    with pytest.raises(ValueError, match="at least one photo"):
        loader(items.take([]))


def damaged(tmp_path, *which):
    items = write(tmp_path, 10)
    for n in which:
        path = items.paths[n]
        path.write_bytes(path.read_bytes()[:-200])
    return items


@pytest.mark.parametrize("workers", [0, 3])
def test_a_damaged_photo_reaches_the_training_loop(tmp_path, workers):
    items = damaged(tmp_path, 6)
    batches = iter(loader(items, batch_size=2, workers=workers))
    assert [next(batches)["index"][0] for _ in range(3)] == [0, 2, 4]
    with pytest.raises(ImageError, match="06.png.*truncated.*on_error='skip'"):
        next(batches)


@pytest.mark.parametrize("workers", [0, 3])
def test_a_damaged_photo_is_skipped_and_named_once(tmp_path, workers):
    items = damaged(tmp_path, 3, 6)
    valid = loader(items, workers=workers, on_error="skip")
    with pytest.warns(UserWarning, match="truncated") as caught:
        first = list(valid)
    messages = sorted(str(warning.message) for warning in caught)
    assert len(messages) == 2
    assert "03.png" in messages[0] and "06.png" in messages[1]
    again = list(valid)  # a second warning would be an error here
    same(first, again)
    index = np.concatenate([batch["index"] for batch in first])
    mask = np.concatenate([batch["mask"] for batch in first])
    image = np.concatenate([batch["image"] for batch in first])
    assert index[mask].tolist() == [0, 1, 2, 4, 5, 7, 8, 9]
    assert index[~mask].tolist() == [3, 6, -1, -1]
    assert not image[~mask].any()


def alive():
    return [
        thread
        for thread in threading.enumerate()
        if thread.name.startswith(("jaxtune", "grain"))
    ]


def wait_until_gone():
    for _ in range(200):
        if not alive():
            return
        time.sleep(0.02)
    raise AssertionError(f"still running: {alive()}")


def test_an_abandoned_epoch_leaves_no_threads(items):
    batches = loader(items, batch_size=1).batches()
    next(batches)
    assert alive()
    del batches
    wait_until_gone()
    list(loader(items, batch_size=1))
    wait_until_gone()


def test_an_interrupt_leaves_no_threads(items):
    with pytest.raises(KeyboardInterrupt):
        for number, _ in enumerate(loader(items, batch_size=1)):
            if number == 2:
                raise KeyboardInterrupt
    wait_until_gone()


def test_two_epochs_at_once(items):
    one = loader(items, shuffle=True, batch_size=2)
    alone = [list(one.batches(epoch)) for epoch in range(2)]
    fresh = loader(items, shuffle=True, batch_size=2)
    pairs = list(zip(fresh.batches(0), fresh.batches(1), strict=True))
    same([pair[0] for pair in pairs], alone[0])
    same([pair[1] for pair in pairs], alone[1])


def test_making_a_loader_and_its_description_read_nothing(items):
    gone = label_items([p.with_name("gone.png") for p in items.paths], items.labels)
    text = repr(loader(gone, shuffle=True))
    assert text == ("Loader(23 photos, 5 batches of 4, shuffled, image (8, 8, 3))")


def test_importing_data_does_not_import_grain():
    import subprocess
    import sys

    code = (
        "import sys, jaxtune.data.loader, jaxtune.data.loaders;"
        "print('grain' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "False"


def test_no_warning_of_grain_reaches_the_user(items):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(list(loader(items))) == 6


def test_labels_of_every_kind(items):
    names = [["a"] * (n % 2) + ["b"] * (n % 3 > 0) for n in range(23)]
    for labels, shape in (
        (names, (4, 2)),
        ([n / 2 for n in range(23)], (4,)),
        ([(n / 2, n) for n in range(23)], (4, 2)),
    ):
        kind = label_items(items.paths, labels)
        last = list(loader(kind))[-1]
        assert last["label"].shape == shape and last["label"].dtype == np.float32
        np.testing.assert_array_equal(last["label"][:3], kind.labels[20:])
        assert not last["label"][3:].any()


def weighted(items):
    weights = np.arange(23, dtype=np.float64) ** 2
    return dataclasses.replace(items, weights=weights)


def test_weighted_photos_are_drawn_again_each_with_its_own_index(items):
    train = loader(weighted(items), shuffle=True, seed=7)
    index = np.concatenate([batch["index"] for batch in train.batches(3)])
    assert index.tolist() == train._indices(3)[:20].tolist()
    np.testing.assert_array_equal(index % 23, train.order(3)[:20])
    assert len(set(index.tolist())) == 20 > len(set((index % 23).tolist()))
    for batch in train.batches(3):
        for row, place in enumerate(batch["index"] % 23):
            image, _ = PREPARATION(items.paths[place])
            np.testing.assert_array_equal(batch["image"][row], image)
            assert batch["label"][row] == items.labels[place]
    plain = loader(weighted(items), seed=7)
    assert plain.order(3).tolist() == list(range(23))


def test_weighted_batches_do_not_depend_on_workers_or_where_one_starts(items):
    whole = list(loader(weighted(items), shuffle=True, workers=0).batches(2))
    same(loader(weighted(items), shuffle=True, cache_bytes=0).batches(2), whole)
    same(loader(weighted(items), shuffle=True).batches(2, 3), whole[3:])


@pytest.mark.parametrize("cache_bytes", [0, 2**20])
def test_images_of_any_number_of_channels(cache_bytes):
    images = np.random.default_rng(0).integers(0, 256, (9, 8, 8, 5), np.uint8)
    items = source_items((images, list("abcabcabc")))
    five = Loader(
        items,
        Preparation((8, 8), (8, 8), channels=5),
        batch_size=4,
        cache_bytes=cache_bytes,
    )
    for _ in range(2):
        found = np.concatenate([batch["image"] for batch in five])
        np.testing.assert_array_equal(found[:9], images)
    assert five.cached_bytes == (images.nbytes if cache_bytes else 0)
