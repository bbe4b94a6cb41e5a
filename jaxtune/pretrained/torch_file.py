"""Reads the weights of a .pth/.pt/.bin/.pkl file without PyTorch.

In: a path, or the bytes of such a file. Out: `{name: array}` in PyTorch's layout.
The one rule: reading runs nothing and reads nothing outside the file; what is not a
tensor or a plain container is refused.
"""

import io
import mmap
import os
import pickletools
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxtune.pretrained.torch_pickle import (
    Storage,
    Tensor,
    UnsafeFileError,
    WeightsFileError,
    load_pickle,
    new_storage,
)

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
# The averaged weights first, as timm takes them.
WRAPPERS = (
    *("state_dict_ema", "model_ema"),
    *("state_dict", "model_state_dict", "model", "module", "net", "network"),
    *("teacher", "student", "encoder", "backbone"),
)
PREFIXES = ("module.", "_orig_mod.")


def read_torch_file(
    source: str | os.PathLike | bytes, *, name: str | None = None
) -> dict[str, np.ndarray]:
    """Reads a file written by `torch.save`, or a plain pickle of tensors.

    Three forms are known: the zip archive (since PyTorch 1.6), the older stream that
    begins with a magic number, and a plain `pickle.dump` of a dict of tensors.

    Which tensors: if the outermost dict (or the one found so) has a dict under one of
    the keys of `WRAPPERS`, in that order, that one is taken, at most three times. In
    the dict then reached every value must be a tensor. A prefix of `PREFIXES`
    (`module.` of DataParallel, `_orig_mod.` of torch.compile) is removed where every
    name carries it.

    Args:
        source: path of the file, or its bytes.
        name: what the errors call it; the path by default.

    Returns:
        Arrays by name, read-only, in PyTorch's own layout and dtype (bfloat16 and
        float8 as `ml_dtypes` types). Tensors that share storage share memory.

    Raises:
        UnsafeFileError: it holds anything but tensors and plain containers, or is
            compressed, encrypted, or claims more than its own size.
        WeightsFileError: it is broken, cut short, or not a dict of tensors.
        FileNotFoundError: there is no such file.
    """
    if name is None:
        name = "the torch file" if isinstance(source, bytes) else os.fspath(source)
    try:
        if isinstance(source, bytes):
            return _named_arrays(_load(io.BytesIO(source), len(source)))
        with open(source, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                raise WeightsFileError("it is empty")
            # A map and not the file itself: reading past its end gives what is there,
            # and never reserves memory for a length that a hostile file claims.
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                return _named_arrays(_load(mapped, size))
    except WeightsFileError as error:
        raise type(error)(f"{name} cannot be read as weights: {error}") from error


def _load(stream: Any, size: int) -> object:
    first = stream.read(4)
    stream.seek(0)
    if first == b"PK\x03\x04":
        return _load_zip(stream, size)
    if first[:1] != b"\x80":
        raise WeightsFileError(
            "it is no file of torch.save: it begins with "
            f"{first!r}, neither a zip archive nor a pickle"
        )
    return _load_stream(stream)


class _Seekable:
    """Gives a memory map the one method that zipfile asks for and it lacks."""

    def __init__(self, mapped: Any) -> None:
        self._mapped = mapped

    def __getattr__(self, name: str) -> Any:
        return getattr(self._mapped, name)

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._mapped.seek(offset, whence)
        return self._mapped.tell()


def _load_zip(stream: Any, size: int) -> object:
    try:
        with zipfile.ZipFile(_Seekable(stream)) as archive:
            return _load_archive(archive, size)
    except WeightsFileError:
        raise
    except Exception as error:
        # zipfile lets a broken archive fail in many ways (UnicodeDecodeError, ...).
        raise WeightsFileError(
            f"its zip archive is broken or cut short ({error})"
        ) from error


def _load_archive(archive: zipfile.ZipFile, size: int) -> object:
    entries = {entry.filename: entry for entry in archive.infolist()}
    for entry in entries.values():
        if entry.flag_bits & 1:
            raise UnsafeFileError(f"its entry {entry.filename!r} is encrypted")
        if entry.compress_type != zipfile.ZIP_STORED:
            raise UnsafeFileError(
                f"its entry {entry.filename!r} is compressed, which torch.save never "
                "does"
            )
    if sum(entry.file_size for entry in archive.infolist()) > size:
        raise UnsafeFileError("its entries claim more bytes than the file has")
    found = [path for path in entries if path.count("/") == 1]
    roots = [path.split("/")[0] for path in found if path.endswith("/data.pkl")]
    if len(roots) != 1:
        raise WeightsFileError("it is a zip archive, but none of torch.save (data.pkl)")
    root = roots[0]
    if f"{root}/constants.pkl" in entries:
        raise UnsafeFileError(
            "it is a TorchScript archive, which holds a program; save the model's "
            "state_dict() instead"
        )
    order = entries.get(f"{root}/byteorder")
    if order is not None and archive.read(order).strip() != b"little":
        raise WeightsFileError("it was written on a big-endian machine")
    storages: dict[str, Storage] = {}

    def find_storage(pid: tuple) -> Storage:
        key = str(pid[2])
        if key not in storages:
            storage = new_storage(pid)
            entry = entries.get(f"{root}/data/{key}")
            if entry is None or entry.file_size != storage.num_bytes:
                raise WeightsFileError(
                    f"its storage {key} should have {storage.num_bytes} bytes and has "
                    + ("none" if entry is None else str(entry.file_size))
                )
            storage.data = archive.read(entry)
            storages[key] = storage
        return storages[key]

    data = io.BytesIO(archive.read(entries[f"{root}/data.pkl"]))
    return load_pickle(data, find_storage=find_storage)


def _no_storage(pid: tuple) -> Storage:
    raise WeightsFileError("a storage stands where none can be")


def _load_stream(stream: Any, *, nested: bool = False) -> object:
    if _first_number(stream) != MAGIC_NUMBER:
        if nested:
            raise WeightsFileError("a storage in it is not a stream of torch.save")
        return load_pickle(
            stream,
            find_storage=_no_storage,
            load_bytes=lambda data: _load_nested(data),
        )
    header = [load_pickle(stream, find_storage=_no_storage) for _ in range(3)]
    if header[1] != PROTOCOL_VERSION:
        raise WeightsFileError(
            f"its protocol version is {header[1]!r}, not {PROTOCOL_VERSION}"
        )
    if not isinstance(header[2], dict) or header[2].get("little_endian") is not True:
        raise WeightsFileError("it was written on a big-endian machine")
    return _load_legacy(stream)


def _load_nested(data: object) -> object:
    if not isinstance(data, bytes):
        raise WeightsFileError("a storage in it is no byte string")
    storage = _load_stream(io.BytesIO(data), nested=True)
    if not isinstance(storage, Storage):
        raise WeightsFileError("a storage in it holds something else")
    return storage


def _first_number(stream: Any) -> int | None:
    """Returns the number that the stream begins with, if any; rewinds the stream."""
    try:
        for opcode, argument, _ in pickletools.genops(stream):
            if opcode.name != "PROTO":
                return argument if opcode.name == "LONG1" else None
    except ValueError as error:
        raise WeightsFileError(f"its pickle is broken ({error})") from error
    finally:
        stream.seek(0)
    return None


def _load_legacy(stream: Any) -> object:
    storages: dict[str, Storage] = {}

    def find_storage(pid: tuple) -> Storage:
        key = str(pid[2])
        if len(pid) > 5 and pid[5] is not None:
            raise WeightsFileError(
                "it stores views of storages, a form of before PyTorch 0.4"
            )
        storage = storages.setdefault(key, new_storage(pid))
        if storage.num_bytes != new_storage(pid).num_bytes:
            raise WeightsFileError(f"its storage {key} has two lengths")
        return storage

    content = load_pickle(stream, find_storage=find_storage)
    keys = load_pickle(stream, find_storage=_no_storage)
    if not isinstance(keys, list) or sorted(map(str, keys)) != sorted(storages):
        raise WeightsFileError("its list of storages is not the one its tensors use")
    for key in map(str, keys):
        storage = storages[key]
        length = int.from_bytes(stream.read(8), "little")
        # PyTorch writes the number of elements here, for untyped storages of bytes.
        data = bytes(stream.read(storage.num_bytes))
        if length != storage.length or len(data) != storage.num_bytes:
            raise WeightsFileError(
                f"it is cut short or altered: storage {key} should have "
                f"{storage.num_bytes} bytes, {len(data)} are there"
            )
        storage.data = data
    return content


def _named_arrays(content: object) -> dict[str, np.ndarray]:
    for _ in range(3):
        inner = next(
            (
                content[key]
                for key in WRAPPERS
                if isinstance(content, Mapping)
                and isinstance(content.get(key), Mapping)
            ),
            None,
        )
        if inner is None:
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise WeightsFileError(
            f"its outermost object is {_kind(content)}, not a dict of tensors; save "
            "the model's state_dict()"
        )
    others = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if others:
        shown = ", ".join(f"{key!r} ({_kind(content[key])})" for key in others[:8])
        raise WeightsFileError(
            f"of its {len(content)} values {len(others)} are not tensors: {shown}; "
            f"looked for a dict of tensors, also under {', '.join(WRAPPERS)}"
        )
    if not all(isinstance(key, str) for key in content):
        raise WeightsFileError("its tensors' names are not all strings")
    return strip_prefixes({key: value.to_array() for key, value in content.items()})


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a dict of {len(value)}"
    return "an empty value" if value is None else f"a {type(value).__name__.lower()}"


def strip_prefixes(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays without a prefix of `PREFIXES` that every name carries.

    Example:
        >>> sorted(strip_prefixes({"module.fc.bias": np.zeros(3)}))
        ['fc.bias']
    """
    changed = True
    while changed and arrays:
        changed = False
        for prefix in PREFIXES:
            if all(name.startswith(prefix) for name in arrays):
                arrays = {name[len(prefix) :]: each for name, each in arrays.items()}
                changed = True
    return arrays
