"""Every photo is decoded beforehand, and the bad ones are listed with reasons."""

import numpy as np
import pytest
from PIL import Image

from jaxtune.data import BadPhoto, ImageDataLoaders, PhotoCheck

SMALL = {"size": 8, "batch_size": 2, "workers": 0}


def write(root, **numbers):
    rng = np.random.default_rng(0)
    for name, number in numbers.items():
        (root / name).mkdir(parents=True)
        for n in range(number):
            pixels = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{n}.jpg")
    return root


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "train", ant=4, bee=4)
    write(tmp_path / "valid", ant=2, bee=2)
    for path in (tmp_path / "valid").rglob("*.jpg"):  # unlike those that train
        Image.open(path).transpose(Image.Transpose.ROTATE_90).save(path)
    return tmp_path


def cut_short(path):
    path.write_bytes(path.read_bytes()[:-600])


@pytest.mark.parametrize("workers", [None, 0, 3])
def test_what_only_decoding_finds_is_listed(root, workers):
    data = ImageDataLoaders.from_folder(root, **SMALL)
    found = data.check(workers=workers)
    assert found.ok and len(found) == 0 and not found and found.photos == 12
    assert str(found) == "12 photos were decoded; 0 can't be read."
    wrong = [root / "train" / "bee" / "1.jpg", root / "valid" / "ant" / "0.jpg"]
    for path in wrong:
        cut_short(path)
    gone = root / "valid" / "bee" / "1.jpg"
    gone.unlink()
    found = data.check(workers=workers)
    assert not found.ok and found.paths == [*wrong, gone] and len(found) == 3
    first, second, third = found
    assert first == found[0] == BadPhoto(wrong[0], "train", 5, "bee", first.reason)
    assert "truncated" in first.reason and str(wrong[0]) in first.reason
    assert (second.split, second.label, third.position) == ("valid", "ant", 3)
    assert "12 photos were decoded; 3 can't be read" in str(found)
    assert f"valid, bee: {third.reason}" in repr(found)
    assert data.train_loader._cache.filled.sum() == 0  # nothing is kept


def test_copies_where_they_matter_are_listed(root):
    ant, bee = root / "train" / "ant", root / "train" / "bee"
    (root / "valid" / "ant" / "leak.jpg").write_bytes((ant / "2.jpg").read_bytes())
    (bee / "both.jpg").write_bytes((ant / "3.jpg").read_bytes())
    (ant / "again.jpg").write_bytes((ant / "1.jpg").read_bytes())  # drawn more often
    found = ImageDataLoaders.from_folder(root, **SMALL).check()
    assert not found.bad and not found.ok and len(found.copies) == 2
    leak, both = found.copies
    assert leak.splits == ("train", "valid") and leak.paths[1].name == "leak.jpg"
    assert both.labels == ("ant", "bee") and both.splits == ("train", "train")
    assert "leak.jpg (valid, ant)" in str(found)


def test_images_in_memory_are_named():
    images = np.arange(12, dtype=np.uint8)[:, None, None, None] + np.zeros((6, 6, 3))
    records = [
        {"image": image.astype(np.uint8), "label": n % 2}
        for n, image in enumerate(images)
    ]
    records[7]["image"] = None
    data = ImageDataLoaders.from_arrays(records, **SMALL)
    (bad,) = data.check()
    assert bad.path.as_posix() == "image/0000007" and "image/0000007" in bad.reason
    array = ImageDataLoaders.from_arrays((images / 255, [0, 1] * 6), **SMALL)
    assert array.check() == PhotoCheck(12, ())


def test_arguments(root):
    data = ImageDataLoaders.from_folder(root, **SMALL)
    for wrong, error in ((-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="workers"):
            data.check(workers=wrong)
