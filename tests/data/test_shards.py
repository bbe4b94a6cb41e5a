"""Photos in tar files: read where they lie, with the labels beside them."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxtune import ImageDataLoaders
from jaxtune.data import ImageError, Loader, shard_items, validation_preparation

SHADES = {"a": 40, "b": 120, "c": 200}


def photo(shade: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (20, 20), (shade, shade, shade)).save(file, "PNG")
    return file.getvalue()


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def shard(path: Path, samples, *, ending: str = "cls", mode: str = "w") -> Path:
    """Writes samples, each a key, a shade of grey and the content of its label."""
    path.parent.mkdir(exist_ok=True, parents=True)
    with tarfile.open(path, mode) as tar:
        for key, shade, label in samples:
            add(tar, f"{key}.png", photo(shade))
            add(tar, f"{key}.{ending}", str(label).encode())
            add(tar, f"{key}.note.txt", b"something else")
    return path


@pytest.fixture
def shards(tmp_path):
    names = list(SHADES)
    for number in range(3):
        rows = [
            (f"{number}/{i:04}", SHADES[names[i % 3]] + number, i % 3)
            for i in range(7 + number)
        ]
        shard(tmp_path / f"train-{number}.tar", rows)
    return tmp_path


def test_photos_are_read_by_position_from_all_files(shards):
    items = shard_items(shards, classes=["a", "b", "c"])
    assert len(items) == 7 + 8 + 9 and items.classes == ("a", "b", "c")
    assert items.paths[8].as_posix() == "train-1.tar/1/0001.png"
    order = np.random.RandomState(0).permutation(len(items))
    for taken in (items, items.take(order), items.take(order).take(order)):
        for position in range(len(taken)):
            number = int(taken.paths[position].as_posix()[6])
            shade = np.asarray(Image.open(io.BytesIO(taken.photo(position))))[0, 0, 0]
            name = taken.classes[taken.labels[position]]
            assert shade == SHADES[name] + number


def test_a_learner_trains_on_them_whatever_decodes(shards):
    data = ImageDataLoaders.from_shards(
        f"{shards}/train-[01].tar",
        [shards / "train-2.tar"],
        classes=["a", "b", "c"],
        size=16,
        batch_size=5,
    )
    batch = next(iter(data.valid_loader))
    shades = np.array(list(SHADES.values())) + 2
    np.testing.assert_array_equal(batch["image"][:, 8, 8, 0], shades[batch["label"]])
    assert len(data.train_items) == 15 and data.classes == ("a", "b", "c")


def test_processes_decode_them_and_errors_name_them(shards, monkeypatch):
    monkeypatch.setattr("jaxtune.data.decoding._FEWEST_PHOTOS", 1)
    with tarfile.open(shards / "train-3.tar", "w") as tar:
        add(tar, "9/bad.png", photo(90)[:60])
        add(tar, "9/bad.cls", b"1")
    items = shard_items(shards)
    preparation = validation_preparation(16)
    plain, processes = (
        Loader(items.take(range(24)), preparation, batch_size=8, workers=workers)
        for workers in (0, 4)
    )
    for one, other in zip(plain, processes, strict=True):
        np.testing.assert_array_equal(one["image"], other["image"])
    for workers in (0, 4):
        with pytest.raises(ImageError, match="train-3.tar/9/bad.png"):
            list(Loader(items, preparation, batch_size=8, workers=workers))


def test_the_index_is_made_once_and_anew_when_a_file_changes(shards, monkeypatch):
    first = shard_items(shards)
    place = shards / "train-0.tar.index.npz"
    assert place.is_file() and not list(shards.glob(".*"))
    opened = []
    original = tarfile.open
    monkeypatch.setattr(
        tarfile, "open", lambda *given: opened.append(given[0]) or original(*given)
    )
    again = shard_items(shards)
    assert not opened and again.paths.digest() == first.paths.digest()
    shard(shards / "train-0.tar", [("0/new", 7, 2)])
    assert len(shard_items(shards)) == 1 + 8 + 9
    assert opened == [shards / "train-0.tar", shards / "train-0.tar"]
    place.write_bytes(b"half")
    assert len(shard_items(shards)) == 1 + 8 + 9


def test_an_index_that_cant_be_kept_is_a_warning(shards, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError("read-only file system")

    monkeypatch.setattr(np, "savez", refuse)
    with pytest.warns(UserWarning, match="can't be kept.*read-only"):
        items = shard_items([shards / "train-0.tar"])
    assert len(items) == 7 and not list(shards.glob("*.npz"))


def test_labels_of_other_parts(tmp_path):
    shard(tmp_path / "text.tar", [("1", 5, "a bee"), ("2", 6, "ant")], ending="txt")
    assert shard_items(tmp_path, label="txt").classes == ("a bee", "ant")
    rows = [(str(n), 9, json.dumps({"label": n / 2})) for n in range(3)]
    shard(tmp_path / "json" / "numbers.tar", rows, ending="json")
    items = shard_items(tmp_path / "json", label="json")
    assert items.kind == "regression"
    np.testing.assert_allclose(items.labels, [0, 0.5, 1.0])


def test_what_is_wrong_is_said(shards, tmp_path):
    with pytest.raises(ValueError, match=r"7 of 7 photos.*no label.*\.json"):
        shard_items(shards / "train-0.tar", label="json")
    with pytest.raises(FileNotFoundError, match="no tar file at"):
        shard_items(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="no tar file .*x.tar"):
        shard_items([tmp_path / "x.tar"])
    packed = shard(tmp_path / "more" / "packed.tar", [("1", 5, 0)], mode="w:gz")
    with pytest.raises(ValueError, match="Compressed ones can't"):
        shard_items(packed)
    os.remove(shards / "train-0.tar")
    with pytest.raises(ValueError, match="Name every class"):
        shard_items(shards, classes=["x"], kind="single")
