"""From a folder to batches: what users type, and what they are told."""

import jax
import numpy as np
import pytest
from PIL import Image

from jaxtune.data import (
    Augmentation,
    ImageDataLoaders,
    ImageError,
    augment,
    label_items,
    per_image_keys,
    prepare_image,
    source_items,
)


def write(root, **numbers):
    """Writes so many photos of each class, of a colour of its own."""
    for position, (name, number) in enumerate(sorted(numbers.items())):
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        for n in range(number):
            pixels = np.full((10 + n, 14, 3), 60 * position + n, np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}_{n}.png")
    return root


@pytest.fixture(scope="module")
def split_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("photos")
    write(root / "train", cat=7, dog=5)
    write(root / "valid", cat=2, dog=3)
    return root


SMALL = {"size": 16, "batch_size": 4, "workers": 2}


def test_from_folder(split_root):
    data = ImageDataLoaders.from_folder(split_root, **SMALL)
    assert data.classes == ("cat", "dog") and data.num_classes == 2
    assert data.size == (16, 16) and data.batch_size == 4 and data.seed == 0
    assert data.augmentation == Augmentation() and data.in_channels == 3
    assert data.train is data.train_loader and data.valid is data.valid_loader
    assert data.train_items.counts() == {"cat": 7, "dog": 5}
    assert data.valid_items.labels.tolist() == [0, 0, 1, 1, 1]
    train, valid = next(iter(data.train)), next(iter(data.valid))
    assert train["image"].shape == (4, 32, 32, 3)  # 16 / sqrt(0.35), in steps of 8
    assert valid["image"].shape == (4, 16, 16, 3)
    for batch, items in ((train, data.train_items), (valid, data.valid_items)):
        np.testing.assert_array_equal(batch["label"], items.labels[batch["index"]])
        colours = batch["image"][:, 0, 0, 0] // 60
        np.testing.assert_array_equal(colours, batch["label"])


def test_validation_can_be_larger_than_training(split_root):
    data = ImageDataLoaders.from_folder(split_root, valid_size=(24, 32), **SMALL)
    assert data.size == (16, 16) and data.valid_size == (24, 32)
    train, valid = next(iter(data.train)), next(iter(data.valid))
    assert train["image"].shape == (4, 32, 32, 3)
    assert valid["image"].shape == (4, 24, 32, 3)
    photo = data.valid_items.paths[0]
    np.testing.assert_array_equal(data.prepare_image(photo), valid["image"][0])
    assert "size (16, 16) (validation (24, 32)), batches" in repr(data)
    plain = ImageDataLoaders.from_folder(
        split_root, valid_size=24, augmentation=None, **SMALL
    )
    assert next(iter(plain.train))["image"].shape == (4, 16, 16, 3)
    plain = ImageDataLoaders.from_folder(split_root, augmentation=None, **SMALL)
    assert plain.valid_size == (16, 16)
    with pytest.raises(ValueError, match="0"):
        ImageDataLoaders.from_folder(split_root, valid_size=0, **SMALL)


def test_repr_counts(split_root):
    text = repr(ImageDataLoaders.from_folder(split_root, **SMALL))
    assert text == (
        "ImageDataLoaders: 2 classes, size (16, 16), batches of 4, seed 0\n"
        "  train: 12 photos (cat 7, dog 5)\n"
        "  valid: 5 photos (cat 2, dog 3)"
    )


def test_seeds(split_root):
    def run(seed):
        data = ImageDataLoaders.from_folder(
            split_root / "train", valid_pct=0.4, seed=seed, **SMALL
        )
        return data.valid_items.paths, list(data.train_loader.order(1))

    assert run(1) == run(1)
    assert run(1)[0] != run(2)[0] and run(1)[1] != run(2)[1]


def test_sizes_that_are_not_square(split_root):
    data = ImageDataLoaders.from_folder(split_root, size=(16, 24), batch_size=4)
    assert next(iter(data.train))["image"].shape == (4, 32, 48, 3)
    assert next(iter(data.valid))["image"].shape == (4, 16, 24, 3)
    assert data.prepare_image(data.valid_items.paths[0]).shape == (16, 24, 3)


def test_no_augmentation_prepares_training_as_validation(split_root):
    data = ImageDataLoaders.from_folder(split_root, augmentation=None, **SMALL)
    batch = next(iter(data.train))
    assert batch["image"].shape == (4, 16, 16, 3)
    path = data.train_items.paths[batch["index"][0]]
    np.testing.assert_array_equal(batch["image"][0], data.prepare_image(path))


def test_prediction_sees_what_validation_sees(split_root):
    data = ImageDataLoaders.from_folder(split_root, valid_size=24, **SMALL)
    batch = next(iter(data.valid))
    for row, path in enumerate(data.valid_items.paths[:4]):
        np.testing.assert_array_equal(data.prepare_image(path), batch["image"][row])
        np.testing.assert_array_equal(prepare_image(path, 24), batch["image"][row])


def test_both_splits_share_the_bound_of_the_cache(split_root):
    def cached(cache_bytes):
        data = ImageDataLoaders.from_folder(
            split_root, cache_bytes=cache_bytes, **SMALL
        )
        return data.train.cached_bytes, data.valid.cached_bytes

    train, valid = 12 * 32 * 32 * 3, 5 * 16 * 16 * 3
    assert cached(train + valid) == (train, valid)
    with pytest.warns(UserWarning, match="5 photos take 0.00 GB once decoded"):
        assert cached(train + valid - 1) == (train, 0)
    with pytest.warns(UserWarning, match="12 photos take 0.00 GB once decoded"):
        assert cached(train - 1) == (0, valid)
    assert cached(0) == (0, 0)


@pytest.fixture(scope="module")
def flat_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("pets")
    for name in ("Bengal_1", "Bengal_2", "Bengal_3", "pug_1", "pug_2", "pug_10"):
        (root / "deep").mkdir(exist_ok=True)
        Image.new("RGB", (9, 9)).save(root / "deep" / f"{name}.jpg")
    return root


def test_from_name_re(flat_root):
    data = ImageDataLoaders.from_name_re(flat_root, r"^(.+)_\d+.jpg$", **SMALL | TWO)
    assert data.classes == ("Bengal", "pug")
    assert data.train_items.counts() == data.valid_items.counts() | {
        "Bengal": 2,
        "pug": 2,
    }


TWO = {"batch_size": 2}


def test_from_name_func(flat_root):
    def is_cat(name):
        return name[0].isupper()

    data = ImageDataLoaders.from_name_func(flat_root, is_cat, valid_pct=0.4, **SMALL)
    assert data.classes == ("False", "True")
    assert data.valid_items.counts() == {"False": 1, "True": 1}


def test_from_path_func_and_from_lists(flat_root):
    by_path = ImageDataLoaders.from_path_func(
        flat_root, lambda path: path.name.split("_")[0], **SMALL
    )
    paths = [f"deep/{n}.jpg" for n in ("Bengal_1", "Bengal_2", "Bengal_3")]
    paths += [flat_root / "deep" / f"pug_{n}.jpg" for n in (1, 10, 2)]
    by_list = ImageDataLoaders.from_lists(
        paths, np.array(["Bengal"] * 3 + ["pug"] * 3), root=flat_root, **SMALL
    )
    for name in ("train_items", "valid_items"):
        ours, theirs = getattr(by_list, name), getattr(by_path, name)
        assert ours.paths == theirs.paths and ours.classes == theirs.classes


def test_names_without_a_label_are_named(flat_root):
    with pytest.raises(ValueError, match=r"5 of 6 photos get no label: .*Bengal_1.jpg"):
        ImageDataLoaders.from_name_re(flat_root, r"(.+)_10", **SMALL)
    with pytest.raises(ValueError, match="3 of 6 photos get no label"):
        ImageDataLoaders.from_name_func(
            flat_root, lambda name: None if name[0] == "p" else "cat"
        )
    with pytest.raises(ValueError, match="no group"):
        ImageDataLoaders.from_name_re(flat_root, r"\d+")


def test_folders_without_photos(tmp_path):
    with pytest.raises(ValueError, match="There are no photos in"):
        ImageDataLoaders.from_name_func(tmp_path, str.lower)
    with pytest.raises(FileNotFoundError, match="no folder"):
        ImageDataLoaders.from_folder(tmp_path / "nowhere")


def test_classes_of_one_photo_cannot_validate(tmp_path):
    write(tmp_path, cat=1, dog=1)
    with pytest.raises(ValueError, match="2 train, 0 validate.*needs two photos"):
        ImageDataLoaders.from_folder(tmp_path, valid_pct=0.5)


def test_given_classes(split_root):
    with pytest.warns(UserWarning, match="1 of 3 classes without a photo .*: fox"):
        data = ImageDataLoaders.from_folder(
            split_root, classes=("dog", "fox", "cat"), **SMALL
        )
    assert data.classes == ("dog", "fox", "cat")
    assert data.train_items.counts() == {"dog": 5, "fox": 0, "cat": 7}
    assert data.valid_items.labels.tolist() == [2, 2, 0, 0, 0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"size": 0}, "size must be at least 1"),
        ({"seed": -1}, "seed"),
        ({"workers": -2}, "workers"),
        ({"cache_bytes": -2}, "cache_bytes"),
    ],
)
def test_arguments_are_looked_at_before_any_folder(tmp_path, options, message):
    nowhere = tmp_path / "nowhere"
    for make in (
        lambda: ImageDataLoaders.from_folder(nowhere, **options),
        lambda: ImageDataLoaders.from_name_re(nowhere, "(.)", **options),
        lambda: ImageDataLoaders.from_name_func(nowhere, str, **options),
        lambda: ImageDataLoaders.from_lists([], [], **options),
    ):
        with pytest.raises(ValueError, match=message):
            make()
    with pytest.raises(ValueError, match="valid_pct"):
        ImageDataLoaders.from_name_re(nowhere, "(.)", valid_pct=20)
    with pytest.raises(TypeError, match="batchsize"):
        ImageDataLoaders.from_name_re(nowhere, "(.)", batchsize=20)


def test_splits_with_other_classes_do_not_go_together(split_root):
    paths = sorted((split_root / "train" / "cat").iterdir())
    one, other = label_items(paths, ["a"] * 7), label_items(paths, ["b"] * 7)
    with pytest.raises(ValueError, match="same classes in the same order"):
        ImageDataLoaders(one, other)


def test_unreadable_photos(tmp_path):
    write(tmp_path / "train", cat=4, dog=4)
    write(tmp_path / "valid", cat=2, dog=2)
    (tmp_path / "train" / "cat" / "cat_1.png").write_bytes(b"")
    (tmp_path / "valid" / "dog" / "dog_0.png").write_text("no picture")
    with pytest.raises(ImageError, match=r"(?s)2 of 12.*cat_1.png.*dog_0.png"):
        ImageDataLoaders.from_folder(tmp_path, **SMALL)
    with pytest.warns(UserWarning, match=r"(?s)Skipped 2 of 12.*cat_1.*dog_0"):
        data = ImageDataLoaders.from_folder(tmp_path, on_error="skip", **SMALL)
    assert len(data.train_items) == 7 and len(data.valid_items) == 3
    assert sum(batch["mask"].sum() for batch in data.valid) == 3


def test_real_photos(photos):
    data = ImageDataLoaders.from_folder(
        photos / "hymenoptera", valid="val", size=64, batch_size=32
    )
    assert (len(data.train), len(data.valid)) == (7, 5)
    counted = sum(int(batch["mask"].sum()) for batch in data.valid)
    assert counted == 153
    batch = next(data.train.batches(epoch=2, start=3))
    assert batch["image"].shape == (32, 112, 112, 3)
    assert batch["image"].std() > 40  # photos, not padding
    keys = per_image_keys(jax.random.key(0), batch["index"])
    views = jax.jit(augment, static_argnames=("size", "augmentation"))(
        batch["image"],
        batch["aspect"],
        keys,
        size=data.size,
        augmentation=data.augmentation,
    )
    assert views.shape == (32, 64, 64, 3)
    assert 0 <= views.min() and views.max() <= 1
    # A crop keeps the colours of its photo, more or less.
    ours, theirs = views.mean((1, 2, 3)), batch["image"].mean((1, 2, 3)) / 255
    assert np.corrcoef(ours, theirs)[0, 1] > 0.9


@pytest.mark.parametrize("resize", ["crop", "squish", "pad"])
def test_resize_is_for_validation_and_prediction(split_root, resize):
    options = {**SMALL, "size": (16, 24), "resize": resize, "pad_mode": "border"}
    options["valid_size"] = (16, 24)
    data = ImageDataLoaders.from_folder(split_root, presize=(40, 48), **options)
    assert next(iter(data.train))["image"].shape == (4, 40, 48, 3)
    plain = ImageDataLoaders.from_folder(split_root, augmentation=None, **options)
    for loader, items in (
        (data.valid, data.valid_items),
        (plain.train, plain.train_items),
    ):
        batch = next(iter(loader))
        for row, index in enumerate(batch["index"]):
            photo = items.paths[index]
            wanted = prepare_image(photo, (16, 24), resize=resize, pad_mode="border")
            np.testing.assert_array_equal(batch["image"][row], wanted)
            np.testing.assert_array_equal(data.prepare_image(photo), wanted)


def test_splits_that_do_not_belong_together(split_root):
    data = ImageDataLoaders.from_folder(split_root, **SMALL)
    paths = data.valid_items.paths
    numbers = label_items(paths, [0.5] * len(paths))
    pairs = label_items(paths, [(0.5, 1.0)] * len(paths))
    with pytest.raises(
        ValueError, match="same kind; train has 'single', valid has 're"
    ):
        ImageDataLoaders(data.train_items, numbers)
    with pytest.raises(
        ValueError, match="equally many targets.*train has 1, valid has 2"
    ):
        ImageDataLoaders(numbers, pairs)
    with pytest.raises(ValueError, match="presize=.* is smaller than size"):
        ImageDataLoaders(data.train_items, data.valid_items, size=32, presize=16)
    images = np.zeros((2, 9, 9, 3), np.uint8)
    memory = source_items((images, ["cat", "dog"]))
    with pytest.raises(ValueError, match="photos on disk, or both images in memory"):
        ImageDataLoaders(data.train_items, memory)
