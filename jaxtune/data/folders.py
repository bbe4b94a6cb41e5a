"""Folders: finding the photos below one.

A photo is known by its extension, or else by its first bytes. The result is sorted, so
that nothing depends on the order in which a file system lists its files.
"""

from __future__ import annotations

import collections
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

from PIL import Image, features

from jaxtune.arguments import check_instance, check_path
from jaxtune.data.decode import begins_as_picture
from jaxtune.data.items import listing

# Formats that Pillow recognizes, but decodes with other programs or not at all.
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})

# Formats that Pillow decodes only if it was built with a library.
_NEEDS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}

# Extensions of other files often found beside photos, which need no warning.
_COMPANIONS = frozenset(
    ".aae .cfg .conf .csv .db .doc .docx .htm .html .ini .ipynb .json .jsonl .lock"
    " .log .lst .mat .md .md5 .npy .npz .parquet .pkl .py .rst .sh .sha256"
    " .sqlite .srt .toml .tsv .txt .url .xls .xlsx .xml .xmp .yaml .yml".split()
)

# Extensions of partial downloads, backups and thumbnails, whatever their content.
_LEFTOVERS = frozenset(
    ".bak .crdownload .download .old .orig .part .partial .swp .thm .tmp".split()
)

# Folders that other programs create, with copies of the photos.
_NOT_ENTERED = frozenset({"__MACOSX", "@eaDir"})


def image_extensions() -> frozenset[str]:
    """Returns the extensions of pictures that can be read, in lower case.

    These are the formats that the installed Pillow decodes, including those of its
    registered plugins such as pillow-heif.

    Example:
        >>> ".jfif" in image_extensions(), ".svg" in image_extensions()
        (True, False)
    """
    return frozenset(
        extension.lower()
        for extension, name in Image.registered_extensions().items()
        if _is_decoded(name)
    )


def _is_decoded(name: str | None) -> bool:
    if name not in Image.OPEN or name in _NOT_DECODED:
        return False
    return name not in _NEEDS or bool(features.check(_NEEDS[name]))


def is_image(path: str | os.PathLike[str]) -> bool:
    """Returns whether a file's name has the extension of a picture that can be read.

    In upper or lower case. Hidden files do not count: macOS creates copies that begin
    with a dot and end in .jpg.

    Example:
        >>> is_image("cat.JPG"), is_image("._cat.jpg"), is_image("notes.txt")
        (True, False, False)
    """
    wanted = "a path, a str or a pathlib.Path"
    check_instance(path, "path", (str, os.PathLike), wanted)
    name = os.path.basename(os.fspath(path))
    return not name.startswith(".") and _extension(name) in image_extensions()


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def find_images(root: str | os.PathLike[str]) -> tuple[Path, ...]:
    """Returns every picture below a folder, at any depth, sorted by path.

    A picture is known by its extension, or else by its first bytes. Hidden files and
    folders are skipped, and so are tables and texts; a warning counts other files that
    were skipped. Links to folders are followed, each folder once.

    Raises:
        FileNotFoundError: If there is no such folder.
        NotADirectoryError: If it is a file.
    """
    paths, skipped = scan_images(root)
    warn_skipped(skipped, root)
    return paths


def scan_images(
    root: str | os.PathLike[str],
) -> tuple[tuple[Path, ...], collections.Counter[str]]:
    """Returns the paths of `find_images`, and the number of skipped files by extension.

    Texts, tables and hidden files are not counted.
    """
    root = existing_folder(root)
    paths: list[Path] = []
    skipped: collections.Counter[str] = collections.Counter()
    seen = {os.path.realpath(root)}
    extensions = image_extensions()
    for folder, folders, files in os.walk(root, followlinks=True):
        folders[:] = sorted(
            name
            for name in folders
            if _is_entered(name) and not _seen_before(os.path.join(folder, name), seen)
        )
        for name in files:
            extension = _extension(name)
            path = os.path.join(folder, name)
            if name.startswith("."):
                continue
            if extension in extensions:
                paths.append(Path(path))
            elif _is_companion(name) or not os.path.isfile(path):
                continue
            elif holds_picture(path):
                paths.append(Path(path))
            elif extension or not holds_text(path):
                skipped[extension] += 1
    paths.sort(key=lambda path: path.relative_to(root).as_posix())
    return tuple(paths), skipped


def _is_entered(name: str) -> bool:
    return not name.startswith(".") and name not in _NOT_ENTERED


def _is_companion(name: str) -> bool:
    return _extension(name) in _COMPANIONS or name.lower() == "icon\r"


def _seen_before(folder: str, seen: set[str]) -> bool:
    real = os.path.realpath(folder)
    if real in seen:
        return True
    seen.add(real)
    return False


def holds_picture(path: str) -> bool:
    """Returns whether a file begins like a picture, whatever its extension.

    Files named like partial downloads, backups or thumbnails ("cat.jpg.part") do not
    count.
    """
    if _extension(path) in _LEFTOVERS or path.endswith("~"):
        return False
    try:
        if not os.path.isfile(path):  # opening a pipe would wait
            return False
        with open(path, "rb") as file:
            if begins_as_picture(file.read(16)):
                return True
            file.seek(0)
            with Image.open(file) as image:
                return _is_decoded(image.format)
    except Exception:  # whatever Pillow's plugins raise
        return False


def holds_text(path: str) -> bool:
    """Returns whether a file begins like text: README, LICENSE, a checksum."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(1024)
    except OSError:
        return False
    control = sum(byte < 32 and byte not in b"\t\n\f\r\x1b" for byte in start)
    return bool(start) and not control


def warn_skipped(
    skipped: Mapping[str, int], root: str | os.PathLike[str], *, stacklevel: int = 3
) -> None:
    """Warns of skipped files, if there are any, with their extensions.

    Args:
        skipped: Number of files by extension.
        root: The folder.
        stacklevel: As in `warnings.warn`, counted from here.
    """
    if skipped:
        warnings.warn(
            f"Skipped {skipped_text(skipped)} below {str(root)!r}, which cannot be"
            " read as pictures. Convert them to JPEG or PNG, or register a Pillow"
            " plugin that reads them (pillow-heif for .heic).",
            stacklevel=stacklevel + 1,
        )


def skipped_text(skipped: Mapping[str, int]) -> str:
    """Returns the number of skipped files as text, by extension.

    Example:
        >>> skipped_text({".svg": 1, ".heic": 6, "": 1})
        '8 files (.heic 6, without extension 1, .svg 1)'
    """
    number = sum(skipped.values())
    by_number = sorted(skipped.items(), key=lambda item: (-item[1], item[0]))
    each = [f"{name or 'without extension'} {count}" for name, count in by_number]
    return f"{number} file{'s' * (number > 1)} ({listing(each, most=20)})"


def no_photos(skipped: Mapping[str, int], root: str | os.PathLike[str]) -> str:
    """Returns the sentence that a folder has no photos, with what it has instead."""
    holds = f"; it holds {skipped_text(skipped)}" if skipped else ""
    return f"There are no photos in {str(root)!r} that can be read{holds}"


def existing_folder(path: str | os.PathLike[str], name: str = "root") -> Path:
    """Returns the path of a folder that exists, with `~` expanded.

    Args:
        path: Of the folder.
        name: Of the argument, for errors.

    Raises:
        FileNotFoundError: If there is no such folder.
        NotADirectoryError: If it is a file.
    """
    folder = Path(check_path(path, name)).expanduser()
    if not folder.exists():
        raise FileNotFoundError(
            f"There is no folder {str(folder)!r}. Check the path (the working"
            f" directory is {os.getcwd()})."
        )
    if not folder.is_dir():
        raise NotADirectoryError(
            f"{str(folder)!r} is a file; name the folder that holds the photos."
        )
    return folder


def class_folders(folder: str | os.PathLike[str]) -> tuple[str, ...]:
    """Returns the sorted names of the direct subfolders, without hidden ones."""
    with os.scandir(folder) as entries:
        return tuple(
            sorted(e.name for e in entries if e.is_dir() and _is_entered(e.name))
        )
