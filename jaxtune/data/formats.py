"""Formats: which files are pictures that can be read, by their names or first bytes.

A file's name, or a file, goes in; whether it is a picture comes out. The one rule: what
Pillow on this machine can decode is a picture, and so is what a plugin of its adds.
"""

from __future__ import annotations

import os

from PIL import Image, features

from jaxtune.data.decode import begins_as_picture

#: Formats that Pillow knows by name, and decodes with another program's help or never.
_NOT_DECODED = frozenset({"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "WMF"})

#: What Pillow must have been built with.
_NEEDS = {"AVIF": "avif", "JPEG2000": "jpg_2000", "WEBP": "webp"}

#: Files that lie beside photos and are no photos: nobody misses them.
_BESIDE = frozenset(
    ".aae .cfg .conf .csv .db .doc .docx .htm .html .ini .ipynb .json .jsonl .lock"
    " .log .lst .mat .md .md5 .npy .npz .parquet .pkl .py .rst .sh .sha256"
    " .sqlite .srt .toml .tsv .txt .url .xls .xlsx .xml .xmp .yaml .yml".split()
)

#: Whatever these hold, it isn't a photo of its own: half of one, a copy, a thumbnail.
_LEFTOVERS = frozenset(
    ".bak .crdownload .download .old .orig .part .partial .swp .thm .tmp".split()
)


def image_extensions() -> frozenset[str]:
    """Returns the extensions of pictures that can be read, in lower case.

    Those of every format that Pillow decodes, a plugin's such as pillow-heif's included
    once it is registered.

    Example:
        >>> ".jfif" in image_extensions(), ".svg" in image_extensions()
        (True, False)
    """
    return frozenset(
        extension.lower()
        for extension, name in Image.registered_extensions().items()
        if _is_decoded(name)
    )


def is_beside(name: str) -> bool:
    """Returns whether a file is one that lies beside photos: a table, a note.

    Example:
        >>> is_beside("Thumbs.db"), is_beside("labels.csv"), is_beside("cat.heic")
        (True, True, False)
    """
    return extension_of(name) in _BESIDE or name.lower() == "icon\r"


def extension_of(name: str) -> str:
    """Returns a file's extension in lower case, "" for none.

    Example:
        >>> extension_of("a.b.JPG"), extension_of("photo")
        ('.jpg', '')
    """
    return os.path.splitext(name)[1].lower()


def holds_picture(path: str) -> bool:
    """Returns whether a file whose name does not tell begins as a picture does.

    Files that were not wholly written, or are copies and thumbnails of others by their
    names ("cat.jpg.part"), are none.
    """
    if extension_of(path) in _LEFTOVERS or path.endswith("~"):
        return False
    try:
        if not os.path.isfile(path):  # a pipe would be waited for
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
    """Returns whether a file begins as text does: README, LICENSE, a checksum."""
    if not os.path.isfile(path):
        return False
    try:
        with open(path, "rb") as file:
            start = file.read(1024)
    except OSError:
        return False
    control = sum(byte < 32 and byte not in b"\t\n\f\r\x1b" for byte in start)
    return bool(start) and not control


def _is_decoded(name: str | None) -> bool:
    if name not in Image.OPEN or name in _NOT_DECODED:
        return False
    return name not in _NEEDS or bool(features.check(_NEEDS[name]))
