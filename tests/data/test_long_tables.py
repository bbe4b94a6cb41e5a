"""Long CSV files give what short ones do, without an object for each row."""

import numpy as np
import pytest
from photos import make_photos

from jaxtune import ImageDataLoaders
from jaxtune.data import Loader, PackedPaths, splits, validation_preparation
from jaxtune.loop.run_description import describe_items


@pytest.fixture
def table(tmp_path):
    """A CSV file of photos that are there."""
    make_photos(tmp_path)
    photos = sorted(path for path in tmp_path.rglob("*.png"))
    rows = ["name,other,label,held back"]
    for number, path in enumerate(photos):
        name = path.relative_to(tmp_path).as_posix()
        rows.append(f'"{name}", x, {path.parent.name} ,{number % 3 == 0}')
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n,,,\n")
    return tmp_path


def loaded(folder, monkeypatch, long: bool, **options):
    size = 1 if long else 2**40
    monkeypatch.setattr("jaxtune.data.loaders.LONG_FILE", size)
    options = {"label_col": "label", "size": 16, "batch_size": 4} | options
    return ImageDataLoaders.from_csv(folder, **options)


def assert_same(one, other):
    for split in ("train_items", "valid_items"):
        a, b = getattr(one, split), getattr(other, split)
        assert list(a.paths) == list(b.paths)
        assert (a.classes, a.kind) == (b.classes, b.kind)
        np.testing.assert_array_equal(a.labels, b.labels)


@pytest.mark.parametrize(
    "options",
    [
        {"valid_col": "held back"},
        {"valid_pct": 0.3, "seed": 3},
        {"label_col": 2, "classes": ["red", "blue", "green"]},
    ],
    ids=["valid_col", "valid_pct", "classes"],
)
def test_a_long_table_gives_what_a_short_one_does(table, monkeypatch, options):
    short = loaded(table, monkeypatch, False, **options)
    long = loaded(table, monkeypatch, True, **options)
    assert isinstance(long.train_items.paths, PackedPaths)
    assert_same(short, long)
    for one, other in zip(short.train_loader, long.train_loader, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])


def test_numbers_are_targets_and_whole_numbers_are_classes(tmp_path, monkeypatch):
    photos = sorted(make_photos(tmp_path).rglob("*.png"))
    names = [path.relative_to(tmp_path).as_posix() for path in photos]
    for values, kind in (("0.5", "1.25"), "regression"), (("7", "10"), "single"):
        rows = [f"{name};{values[n % 2]}" for n, name in enumerate(names)]
        (tmp_path / "labels.csv").write_text("\n".join(rows))
        options = {"delimiter": ";", "header": None, "label_col": 1, "valid_pct": 0.5}
        short = loaded(tmp_path, monkeypatch, False, **options)
        long = loaded(tmp_path, monkeypatch, True, **options)
        assert long.kind == kind
        assert_same(short, long)


def test_rows_that_cant_be_used_are_named(table, monkeypatch):
    text = (table / "labels.csv").read_text().splitlines()
    text[2] = "a.png,x,,True"
    text[4] = "a.png,x"
    (table / "labels.csv").write_text("\n".join(text))
    with pytest.raises(ValueError, match="line 3: no label, line 5: 2 cells.* 4"):
        loaded(table, monkeypatch, True)
    with pytest.raises(ValueError, match="label_col: there is no column 'class'"):
        loaded(table, monkeypatch, True, label_col="class")
    (table / "labels.csv").write_text("name,label\n")
    with pytest.raises(ValueError, match="no rows"):
        loaded(table, monkeypatch, True)
    (table / "labels.csv").write_bytes(b"name,label\n\xff.png,a\n")
    with pytest.raises(ValueError, match="encoding='cp1252'"):
        loaded(table, monkeypatch, True)


def test_an_epoch_of_many_photos_is_a_permutation_that_nobody_holds(table, monkeypatch):
    monkeypatch.setattr("jaxtune.data.loader.MOST_SHUFFLED", 8)
    data = loaded(table, monkeypatch, True)
    number = len(data.train_items)
    orders = [data.train_loader.order(epoch).tolist() for epoch in (0, 1, 0)]
    assert sorted(orders[0]) == list(range(number))
    assert orders[0] == orders[2] != orders[1]
    batches = list(data.train_loader.batches(1))
    seen = np.concatenate([batch["index"] for batch in batches])
    assert seen.tolist() == orders[1][: len(seen)]
    resumed = list(data.train_loader.batches(1, start=2))
    np.testing.assert_array_equal(resumed[0]["image"], batches[2]["image"])
    other = Loader(
        data.train_items, validation_preparation(16), shuffle=True, seed=1, batch_size=4
    )
    assert other.order(0).tolist() != orders[0]


def test_many_photos_are_split_by_position(table, monkeypatch):
    monkeypatch.setattr(splits, "MOST_NAMED", 3)
    once, again, other = (
        loaded(table, monkeypatch, True, valid_pct=0.25, seed=seed)
        for seed in (0, 0, 1)
    )
    assert_same(once, again)
    assert list(other.valid_items.paths) != list(once.valid_items.paths)
    counts = once.valid_items.counts(), once.train_items.counts()
    for name in once.classes:
        whole = counts[0][name] + counts[1][name]
        assert counts[0][name] == min(max(round(whole * 0.25), 1), whole - 1)


def test_other_photos_are_another_run(table, monkeypatch):
    data = loaded(table, monkeypatch, True)
    described = describe_items(data.train_items)
    assert describe_items(loaded(table, monkeypatch, True).train_items) == described
    fewer = data.train_items.take(np.arange(len(data.train_items) - 1))
    assert describe_items(fewer) != described
