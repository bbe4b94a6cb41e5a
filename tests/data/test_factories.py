"""From whatever users have to batches: the kinds of labels, tables, arrays, weights."""

import csv

import numpy as np
import pytest
from PIL import Image

from jaxtune.data import Augmentation, ImageDataLoaders, ImageError

SMALL = {"size": 8, "batch_size": 4, "workers": 0}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """20 photos whose grey is ten times their number."""
    root = tmp_path_factory.mktemp("photos")
    (root / "images").mkdir()
    for n in range(20):
        grey = np.full((9, 12, 3), 10 * n, np.uint8)
        Image.fromarray(grey).save(root / "images" / f"{n:02}.png")
    return root


def number(path):
    return int(path.stem)


def rows_of(data):
    """All rows of the validation loader, by name."""
    batches = list(data.valid)
    mask = np.concatenate([batch["mask"] for batch in batches])
    return {
        name: np.concatenate([batch[name] for batch in batches])[mask]
        for name in batches[0]
    }


def test_a_folder_may_be_relative_to_the_working_directory(root, monkeypatch):
    monkeypatch.chdir(root.parent)
    data = ImageDataLoaders.from_path_func(
        root.name, lambda p: str(number(p) % 2), **SMALL
    )
    assert len(data.train_items) + len(data.valid_items) == 20


def test_several_labels(root):
    data = ImageDataLoaders.from_path_func(
        root,
        lambda path: [str(d) for d in (2, 3, 5) if number(path) % d == 0],
        **SMALL,
    )
    assert data.kind == "multi" and data.classes == ("2", "3", "5")
    assert data.num_outputs == data.num_classes == 3
    assert len(data.valid_items) == 4
    batch = next(iter(data.train))
    assert batch["label"].shape == (4, 3) and batch["label"].dtype == np.float32
    rows = rows_of(data)
    numbers = rows["image"][:, 0, 0, 0] // 10
    for column, divisor in enumerate((2, 3, 5)):
        assert ((rows["label"][:, column] == 1) == (numbers % divisor == 0)).all()
    assert "3 classes, several a photo" in repr(data)


def test_numbers_to_predict(root):
    one = ImageDataLoaders.from_path_func(root, lambda p: number(p) / 2, **SMALL)
    assert one.kind == "regression" and one.classes == () and one.num_outputs == 1
    rows = rows_of(one)
    assert rows["label"].shape == (4,) and rows["label"].dtype == np.float32
    np.testing.assert_array_equal(rows["label"] * 20, rows["image"][:, 0, 0, 0])
    assert "1 number to predict" in repr(one) and " to 9.5)" in repr(one)
    two = ImageDataLoaders.from_name_func(
        root, lambda name: (float(name[:2]), 1), **SMALL | {"batch_size": 3}
    )
    assert two.num_outputs == two.num_classes == 2
    last = list(two.valid)[-1]
    assert last["label"].shape == (3, 2) and last["mask"].tolist() == [
        True,
        False,
    ] * 1 + [False]
    assert not last["label"][1:].any()
    classed = ImageDataLoaders.from_path_func(
        root, lambda p: float(number(p) % 2), kind="single", **SMALL
    )
    assert classed.classes == ("0", "1")


def test_a_pattern_on_the_whole_path(root):
    data = ImageDataLoaders.from_path_re(root, r"/images/(\d)", **SMALL)
    assert data.classes == ("0", "1")


def test_splits_without_strata(root):
    labels = ["few"] * 2 + ["many"] * 18
    paths = [f"images/{n:02}.png" for n in range(20)]
    sides = set()
    for seed in range(8):
        options = {**SMALL, "seed": seed, "root": root}
        strict = ImageDataLoaders.from_lists(paths, labels, **options)
        assert strict.valid_items.counts() == {"few": 1, "many": 4}
        loose = ImageDataLoaders.from_lists(paths, labels, stratify=False, **options)
        assert len(loose.valid_items) == 4
        sides.add(loose.valid_items.counts()["few"])
    assert 0 in sides and len(sides) > 1


def table(**more):
    columns = {
        "fn": [f"{n:02}" for n in range(20)],
        "parity": ["even", "odd"] * 10,
        "valid": [n >= 15 for n in range(20)],
        "half": [n / 2 for n in range(20)],
        "tags": [" ".join(["a"] * (n % 2) + ["b"] * (n % 3 == 0)) for n in range(20)],
        "x": [n % 2 for n in range(20)],
        "y": [1] * 20,
    }
    return columns | more


def write_csv(root, columns, name="labels.csv", delimiter=",", header=True):
    with open(root / name, "w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        if header:
            writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


@pytest.mark.parametrize("made_by", ["from_df", "from_csv"])
@pytest.mark.parametrize(
    ("label_col", "label_delim", "kind", "classes", "label"),
    [
        (1, None, "single", ("even", "odd"), lambda n: n % 2),
        ("half", None, "regression", (), lambda n: n / 2),
        ("tags", " ", "multi", ("a", "b"), lambda n: [n % 2, n % 3 == 0]),
        (["x", "y"], None, "multi", ("x", "y"), lambda n: [n % 2, 1]),
        (["half", "y"], None, "regression", (), lambda n: [n / 2, 1]),
    ],
)
def test_tables(root, made_by, label_col, label_delim, kind, classes, label):
    write_csv(root, table())
    source = (table(), root) if made_by == "from_df" else (root,)
    data = getattr(ImageDataLoaders, made_by)(
        *source,
        label_col=label_col,
        label_delim=label_delim,
        valid_col="valid",
        suff=".png",
        folder="images",
        **SMALL,
    )
    assert data.kind == kind and data.classes == classes
    assert [number(path) for path in data.valid_items.paths] == [15, 16, 17, 18, 19]
    rows = rows_of(data)
    numbers = rows["image"][:, 0, 0, 0] // 10
    assert numbers.tolist() == [15, 16, 17, 18, 19]
    wanted = np.array([label(n) for n in numbers], rows["label"].dtype)
    np.testing.assert_array_equal(rows["label"], wanted)


def test_tables_are_split_by_share_as_lists_are(root):
    by_table = ImageDataLoaders.from_df(
        table(), root, suff=".png", folder="images", seed=4, **SMALL
    )
    by_list = ImageDataLoaders.from_lists(
        [f"images/{n:02}.png" for n in range(20)],
        ["even", "odd"] * 10,
        root=root,
        seed=4,
        **SMALL,
    )
    assert by_table.valid_items.paths == by_list.valid_items.paths
    assert by_table.valid_items.counts() == {"even": 2, "odd": 2}


def test_csv_as_it_comes(root):
    two = {name: table()[name] for name in ("fn", "parity")}
    write_csv(root, two, "bare.txt", delimiter="\t", header=False)
    data = ImageDataLoaders.from_csv(
        root,
        root / "bare.txt",
        header=None,
        delimiter="\t",
        folder="images",
        suff=".png",
        **SMALL,
    )
    assert data.classes == ("even", "odd") and len(data.train_items) == 16


def test_what_is_wrong_with_a_table(root, tmp_path):
    with pytest.raises(ValueError, match="no columns 'file', 'tag'; .*'fn', 'parity'"):
        ImageDataLoaders.from_df(table(), root, fn_col="file", label_col="tag")
    with pytest.raises(ValueError, match="Add suff='.png'"):
        ImageDataLoaders.from_df(table(), root, folder="images")
    with pytest.raises(ImageError, match="20 of 20 photos cannot be read"):
        ImageDataLoaders.from_df(table(), root, suff=".gif", **SMALL)
    alone = table(parity=["even"] * 15 + ["odd"] * 5)
    with pytest.raises(
        ValueError, match="1 classes have photos for validation and non"
    ):
        ImageDataLoaders.from_df(
            alone, root, valid_col="valid", suff=".png", folder="images"
        )
    with pytest.raises(FileNotFoundError, match="no file .*labels.csv"):
        ImageDataLoaders.from_csv(tmp_path)
    with pytest.raises(FileNotFoundError, match="no folder"):
        ImageDataLoaders.from_csv(tmp_path / "nowhere")
    with pytest.raises(TypeError, match="no option bs; the options are size"):
        ImageDataLoaders.from_csv(tmp_path, bs=64)


def arrays(channels, n=20, side=16, dtype=np.uint8):
    images = np.random.default_rng(1).integers(0, 256, (n, side, side, channels))
    return images.astype(dtype), [f"class {k % 2}" for k in range(n)]


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 13])
def test_arrays_keep_their_channels(channels):
    images, labels = arrays(channels)
    data = ImageDataLoaders.from_arrays((images, labels), resize="squish", **SMALL)
    assert data.in_channels == channels and data.classes == ("class 0", "class 1")
    assert (len(data.train_items), len(data.valid_items)) == (16, 4)
    assert next(iter(data.train))["image"].shape == (4, 16, 16, channels)
    whole = ImageDataLoaders.from_arrays(
        (images, labels), augmentation=None, resize="crop", **SMALL | {"size": 16}
    )
    for row in next(iter(whole.valid))["index"]:
        number = int(whole.valid_items.paths[row].name)
        prepared = next(iter(whole.valid))["image"][row]
        np.testing.assert_array_equal(prepared, images[number])
        np.testing.assert_array_equal(whole.prepare_image(images[number]), prepared)


def test_each_channel_is_resized_alone():
    images, labels = arrays(4)
    data = ImageDataLoaders.from_arrays((images, labels), augmentation=None, **SMALL)
    batch = next(iter(data.valid))
    for row in range(4):
        original = images[int(data.valid_items.paths[batch["index"][row]].name)]
        for channel in range(4):
            grey = Image.fromarray(original[..., channel]).resize((16, 16))
            wanted = np.asarray(grey.resize((16, 16)))[4:12, 4:12]
            np.testing.assert_array_equal(batch["image"][row, ..., channel], wanted)


def test_arrays_of_their_own_split():
    train, valid = arrays(1), arrays(1, n=6)
    data = ImageDataLoaders.from_arrays(train, valid, **SMALL)
    assert (len(data.train_items), len(data.valid_items)) == (20, 6)
    assert data.valid_items.paths[3].as_posix() == "valid/0000003"
    with pytest.raises(ValueError, match="not among the classes: {'other': 6}"):
        ImageDataLoaders.from_arrays(train, (valid[0], ["other"] * 6), **SMALL)
    with pytest.raises(ValueError, match="train has 1, valid has 2"):
        ImageDataLoaders.from_arrays(train, arrays(2, n=6), **SMALL)
    numbers = train[0], np.linspace(0, 1, 20)
    data = ImageDataLoaders.from_arrays(numbers, (valid[0], range(6)), **SMALL)
    assert data.valid_items.labels.tolist() == list(range(6))


def test_grey_arrays_for_a_network_of_three_channels():
    images, labels = arrays(1)
    data = ImageDataLoaders.from_arrays((images, labels), in_channels=3, **SMALL)
    batch = next(iter(data.valid))
    assert data.in_channels == 3 and batch["image"].shape == (4, 8, 8, 3)
    assert (batch["image"][..., :1] == batch["image"]).all()
    with pytest.raises(ImageError, match=r"must have shape \(h, w, 5\)"):
        ImageDataLoaders.from_arrays((images, labels), in_channels=5, **SMALL)


def test_photos_of_other_channels(root):
    for channels in (1, 4):
        data = ImageDataLoaders.from_path_func(
            root, lambda path: "ab"[number(path) % 2], in_channels=channels, **SMALL
        )
        rows = rows_of(data)
        assert rows["image"].shape == (4, 8, 8, channels)
        greys = [10 * number(path) for path in data.valid_items.paths]
        assert rows["image"][:, 0, 0, 0].tolist() == greys
    assert (rows["image"][..., 3] == 255).all()


def test_records_are_read_when_they_are_needed():
    images, labels = arrays(2)
    records = [{"image": i, "label": k} for i, k in zip(images, labels, strict=True)]
    by_record = ImageDataLoaders.from_arrays(records, **SMALL)
    by_array = ImageDataLoaders.from_arrays((images, labels), **SMALL)
    for ours, theirs in zip(by_record.train, by_array.train, strict=True):
        for name in theirs:
            np.testing.assert_array_equal(ours[name], theirs[name])


def test_a_record_of_another_shape_is_named():
    records = [
        {"image": np.zeros((5, 5, 2), np.uint8), "label": n % 2} for n in range(8)
    ]
    records[6]["image"] = np.zeros((5, 5, 7), np.uint8)
    data = ImageDataLoaders.from_arrays(records, valid_pct=0.5, **SMALL)
    with pytest.raises(ImageError, match=r"In image/0000006.*\(h, w, 2\)"):
        list(data.train), list(data.valid)


def test_classes_drawn_as_often(root):
    labels = ["rare"] * 4 + ["common"] * 16
    paths = [f"images/{n:02}.png" for n in range(20)]
    options = {**SMALL, "root": root, "augmentation": Augmentation()}
    data = ImageDataLoaders.from_lists(paths, labels, weights="balanced", **options)
    drawn = np.concatenate([data.train.order(epoch) for epoch in range(200)])
    share = (data.train_items.labels[drawn] == data.classes.index("rare")).mean()
    assert abs(share - 0.5) < 4.5 * 0.5 / np.sqrt(len(drawn))
    assert "drawn by weight (common 13, rare 3)" in repr(data)
    assert data.valid.order(1).tolist() == list(range(4))
    only = ImageDataLoaders.from_lists(
        paths, labels, weights=[n == 5 for n in range(20)], **options | {"seed": 1}
    )
    assert {only.train_items.paths[n].name for n in only.train.order(0)} == {"05.png"}
    with pytest.raises(ValueError, match="unknown classes: ape. .*common"):
        ImageDataLoaders.from_lists(paths, labels, weights={"ape": 2}, **options)


def test_a_million_images_take_no_object_each():
    images = np.broadcast_to(np.zeros((1, 2, 2, 1), np.uint8), (10**6, 2, 2, 1))
    labels = np.arange(10**6) % 3
    data = ImageDataLoaders.from_arrays(
        (images, labels), (images[:5].copy(), labels[:5]), augmentation=None, **SMALL
    )
    assert data.train_items.counts() == {"0": 333334, "1": 333333, "2": 333333}
    assert not isinstance(data.train_items.paths, tuple)


def test_how_to_split_what_is_split_already_is_refused(root):
    images = np.zeros((4, 8, 8, 3), np.uint8), list("abab")
    with pytest.raises(TypeError, match="valid says .* so valid_pct would not be used"):
        ImageDataLoaders.from_arrays(images, images, valid_pct=0.5)
    table = {"fn": ["a.png"], "y": ["a"], "v": [True]}
    with pytest.raises(TypeError, match="valid_col says .* stratify would not be used"):
        ImageDataLoaders.from_df(table, root, valid_col="v", stratify=False)
    with pytest.raises(TypeError, match="give valid_pct too"):
        ImageDataLoaders.from_folder(root, stratify=False)
    with pytest.raises(TypeError, match="names train='a' and valid='valid' would not"):
        ImageDataLoaders.from_folder(root, "a", valid_pct=0.2)
