"""Reads the weights of a .pth/.pt/.bin/.pkl file without PyTorch.

Written by hand, because every library that reads these files safely needs torch.
Reading a file runs nothing and opens nothing else: each name in its pickle selects a
constructor from the table below, or the file is refused.
"""

import io
import os
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  gives NumPy the names bfloat16 and float8_*
import numpy as np

MAGIC_NUMBER = 0x1950A86A20F9469CFC6C
PROTOCOL_VERSION = 1001
MAX_DIMENSIONS = 32
# The averaged weights first, as timm takes them.
WRAPPERS = (
    *("state_dict_ema", "model_ema"),
    *("state_dict", "model_state_dict", "model", "module", "net", "network"),
    *("teacher", "student", "encoder", "backbone"),
)
PREFIXES = ("module.", "_orig_mod.")

_DTYPES = {
    name: np.dtype(name)
    for name in (
        "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 "
        "int8 uint64 uint32 uint16 uint8 bool complex64 complex128"
    ).split()
}
_STORAGE_DTYPES = {
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
}
# Left out are opcodes that reserve memory before reading it (BYTEARRAY8, LONG4), reach
# objects without naming them (EXT*), or need out-of-band buffers.
_OPCODES = frozenset(
    "PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET "
    "LONG_BINGET NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT "
    "BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE "
    "BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 "
    "TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET "
    "ADDITEMS FROZENSET GLOBAL STACK_GLOBAL REDUCE BUILD INST OBJ NEWOBJ NEWOBJ_EX "
    "BINPERSID".split()
)


class WeightsFileError(ValueError):
    """A file of weights is broken, cut short, or of an unknown kind."""


class UnsafeFileError(WeightsFileError):
    """A file holds more than tensors and plain containers; nothing in it was run."""


def read_torch_file(
    source: str | os.PathLike | bytes, *, name: str | None = None
) -> dict[str, np.ndarray]:
    """Reads a file written by `torch.save`, or a plain pickle of tensors.

    Three formats are read: the zip archive (since PyTorch 1.6), the older stream that
    begins with a magic number, and a plain `pickle.dump` of a dict of tensors.

    If the outermost dict has a dict under one of the keys in `WRAPPERS`, the first such
    dict is used instead of it, up to three levels deep. Every value of the dict so
    reached must be a tensor. Prefixes are removed as in `strip_prefixes`.

    Args:
        source: Path of the file, or its bytes.
        name: What errors call it; the path by default.

    Returns:
        Arrays by name, read-only, in PyTorch's layout and the file's dtype (bfloat16
        and float8 as `ml_dtypes` types). Tensors that share storage share memory.

    Raises:
        UnsafeFileError: It holds anything but tensors and plain containers, or is
            compressed, encrypted, or claims more than its own size.
        WeightsFileError: It is broken, cut short, or not a dict of tensors.
        FileNotFoundError: There is no such file.
    """
    if name is None:
        name = "the torch file" if isinstance(source, bytes) else os.fspath(source)
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        return _named_arrays(_load(data))
    except WeightsFileError as error:
        raise type(error)(f"{name} cannot be read as weights: {error}") from error


def strip_prefixes(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes prefixes that every name has: DataParallel's and torch.compile's.

    Example:
        >>> sorted(strip_prefixes({"module.fc.bias": np.zeros(3)}))
        ['fc.bias']
    """

    def shared(names):
        begins = (p for p in PREFIXES if all(name.startswith(p) for name in names))
        return next(begins, None)

    while arrays and (prefix := shared(arrays)):
        arrays = {name[len(prefix) :]: each for name, each in arrays.items()}
    return arrays


def _named_arrays(content: object) -> dict[str, np.ndarray]:
    for _ in range(3):
        if isinstance(content, Mapping):
            inner = (content.get(key) for key in WRAPPERS)
            content = next(
                (each for each in inner if isinstance(each, Mapping)), content
            )
    if not isinstance(content, Mapping) or not content:
        raise WeightsFileError(
            f"its outermost object is {_kind(content)}, not a dict of tensors; save "
            "the model's state_dict()"
        )
    others = [key for key, value in content.items() if not isinstance(value, Tensor)]
    if others:
        shown = ", ".join(f"{key!r} ({_kind(content[key])})" for key in others[:8])
        raise WeightsFileError(
            f"{len(others)} of its {len(content)} values are not tensors: {shown}; "
            f"looked for a dict of tensors, also under {', '.join(WRAPPERS)}"
        )
    if not all(isinstance(key, str) for key in content):
        raise WeightsFileError("the names of its tensors are not all strings")
    return strip_prefixes({key: value.to_array() for key, value in content.items()})


def _kind(value: object) -> str:
    if isinstance(value, Mapping):
        return f"a dict of {len(value)}"
    return "an empty value" if value is None else f"a {type(value).__name__.lower()}"


def _load(data: bytes) -> object:
    # Reading past the end of a BytesIO returns what is there, where a file would
    # reserve memory for any length that a hostile file claims.
    stream = io.BytesIO(data)
    if data[:4] == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(stream) as archive:
                return _load_archive(archive, len(data))
        except WeightsFileError:
            raise
        except Exception as error:
            # zipfile fails in many ways on a broken archive (UnicodeDecodeError, ...).
            raise WeightsFileError(
                f"its zip archive is broken or cut short ({error})"
            ) from error
    if data[:1] != b"\x80":
        raise WeightsFileError(
            "it was not written by torch.save: it begins with "
            f"{data[:4]!r}, neither a zip archive nor a pickle"
        )
    return _load_stream(stream)


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
    pickles = [path.split("/") for path in entries if path.endswith("/data.pkl")]
    roots = [parts[0] for parts in pickles if len(parts) == 2]
    if len(roots) != 1:
        raise WeightsFileError(
            "it is a zip archive, but not torch.save's (it needs one data.pkl)"
        )
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


def _no_storage(pid: tuple) -> "Storage":
    raise WeightsFileError("it refers to a storage where there can be none")


def _load_stream(stream: Any, *, nested: bool = False) -> object:
    if _first_number(stream) != MAGIC_NUMBER:
        if nested:
            raise WeightsFileError("a storage in it was not written by torch.save")
        return load_pickle(stream, find_storage=_no_storage, load_bytes=_load_nested)
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
        raise WeightsFileError("a storage in it is not a byte string")
    storage = _load_stream(io.BytesIO(data), nested=True)
    if not isinstance(storage, Storage):
        raise WeightsFileError(f"{_kind(storage)} is in the place of a storage")
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
                "it stores views of storages, a format older than PyTorch 0.4"
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
                f"{storage.num_bytes} bytes and has {len(data)}"
            )
        storage.data = data
    return content


class Storage:
    """The bytes that tensors are views of.

    Attributes:
        dtype: Element type, or None for an untyped storage (its length is in bytes).
        length: Number of elements the file claims.
        data: The bytes; None until they are read.
    """

    __slots__ = ("data", "dtype", "length")

    def __init__(self, dtype: np.dtype | None, length: int) -> None:
        self.dtype, self.length = dtype, length
        self.data: bytes | None = None

    @property
    def num_bytes(self) -> int:
        """Number of bytes that the claimed length needs."""
        return self.length * (self.dtype.itemsize if self.dtype is not None else 1)

    def __setstate__(self, state: object) -> None:
        raise UnsafeFileError("it sets attributes on a storage")


class Tensor:
    """A strided view of a storage; its bounds are checked in `to_array`."""

    __slots__ = ("dtype", "offset", "size", "storage", "stride")

    def __init__(
        self, storage: Any, offset: Any, size: Any, stride: Any, dtype: Any = None
    ) -> None:
        if not isinstance(storage, Storage):
            raise WeightsFileError("a tensor in it has no storage")
        self.size, self.stride = _whole_numbers(size), _whole_numbers(stride)
        if len(self.size) != len(self.stride) or len(self.size) > MAX_DIMENSIONS:
            raise WeightsFileError(
                f"a tensor in it has size {size!r} and stride {stride!r}"
            )
        self.storage = storage
        (self.offset,) = _whole_numbers((offset,))
        self.dtype = storage.dtype if dtype is None else dtype

    def __setstate__(self, state: object) -> None:
        raise UnsafeFileError("it sets attributes on a tensor")

    def to_array(self) -> np.ndarray:
        """Returns a read-only array that shares the storage's bytes.

        Raises:
            WeightsFileError: Offset, size and stride reach outside the storage, the
                tensor has more elements than it, or the storage was never read.
        """
        if self.storage.data is None or self.dtype is None:
            raise WeightsFileError("a tensor's storage is missing")
        dtype = np.dtype(self.dtype)
        held = len(self.storage.data) // dtype.itemsize
        count = 1
        for length in self.size:
            count *= length  # numpy.prod would overflow
        if count == 0:
            if any(length > 1 << 40 for length in self.size):
                raise WeightsFileError(f"a tensor in it claims the size {self.size}")
            return np.zeros(self.size, dtype)
        steps = zip(self.size, self.stride, strict=True)
        last = self.offset + sum((length - 1) * step for length, step in steps)
        if last >= held or count > held:
            raise WeightsFileError(
                f"a tensor of size {self.size}, stride {self.stride} and offset "
                f"{self.offset} reaches outside its storage of {held} elements"
            )
        flat = np.frombuffer(self.storage.data, dtype, count=held)
        if dtype == np.bool_:  # NumPy allows no other bytes than 0 and 1
            flat = np.frombuffer(self.storage.data, np.uint8, count=held) != 0
        return np.lib.stride_tricks.as_strided(
            flat[self.offset :],
            self.size,
            tuple(step * dtype.itemsize for step in self.stride),
            writeable=False,
        )


def new_storage(pid: tuple) -> Storage:
    """Returns the storage, still without bytes, that a persistent id describes.

    Raises:
        WeightsFileError: The id does not name a storage class and a length.
    """
    kind, length = pid[1], pid[4]
    if not isinstance(kind, _Inert) or kind.kind != "storage":
        raise WeightsFileError(f"{kind!r} is in the place of a storage class")
    return Storage(kind.dtype, *_whole_numbers((length,)))


def load_pickle(
    stream: Any,
    *,
    find_storage: Callable[[tuple], Storage],
    load_bytes: Callable[[Any], object] | None = None,
) -> object:
    """Returns the object in one pickle, with PyTorch's tensors as `Tensor`.

    Args:
        stream: Binary file at the pickle's first byte; left at the byte after it.
        find_storage: Returns the storage of a persistent id.
        load_bytes: Reads a nested PyTorch stream (a plain pickle of tensors has one
            for each storage); None where those are not allowed.

    Raises:
        UnsafeFileError: The pickle names anything but tensors and plain containers.
        WeightsFileError: The pickle is broken.
    """
    start = stream.tell()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if opcode.name not in _OPCODES:
                raise UnsafeFileError(f"it uses the pickle operation {opcode.name}")
            # The unpickler's memo grows to the largest index.
            if opcode.name.endswith("PUT") and int(argument) > count:
                raise UnsafeFileError("its pickle asks for an absurd amount of memory")
        stream.seek(start)
        return _Unpickler(stream, find_storage, load_bytes).load()
    except WeightsFileError:
        raise
    except Exception as error:
        # A broken pickle can fail in any way.
        reason = f"{type(error).__name__}: {error}"
        raise WeightsFileError(f"its pickle is broken ({reason})") from error


class _Unpickler(pickle.Unpickler):
    def __init__(
        self,
        stream: Any,
        find_storage: Callable[[tuple], Storage],
        load_bytes: Callable[[Any], object] | None,
    ) -> None:
        super().__init__(stream, encoding="latin1")
        self._find_storage = find_storage
        self._load_bytes = load_bytes

    def find_class(self, module: str, name: str) -> object:
        full = f"{module}.{name}"
        if full == "torch.storage._load_from_bytes" and self._load_bytes is not None:
            return _Inert(full, "rebuild", self._load_bytes)
        if full not in _CONSTRUCTORS:
            raise UnsafeFileError(
                f"it holds `{full}`, where only tensors and plain containers (dict, "
                "list, tuple, numbers, strings) are allowed; nothing in it was run. "
                "Load it where you trust it and save the plain weights: "
                "torch.save(model.state_dict(), path), or better a .safetensors file"
            )
        return _CONSTRUCTORS[full]

    def persistent_load(self, pid: object) -> Storage:
        if not isinstance(pid, tuple) or len(pid) < 5 or pid[0] != "storage":
            kind = pid[0] if isinstance(pid, tuple) and pid else pid
            raise UnsafeFileError(
                f"it refers to a {kind!r} where only tensor storages are allowed"
            )
        return self._find_storage(pid)


class _Inert:
    """What a name in the file becomes: a constructor of ours, or only a marker."""

    __slots__ = ("dtype", "kind", "make", "name")

    def __init__(
        self, name: str, kind: str, make: Callable | None = None, dtype: Any = None
    ) -> None:
        self.name, self.kind, self.make, self.dtype = name, kind, make, dtype

    def __call__(self, *arguments: object) -> object:
        if self.make is None:
            raise UnsafeFileError(f"it calls {self.name}, which is no constructor")
        try:
            return self.make(*arguments)
        except (TypeError, AttributeError) as error:
            raise WeightsFileError(
                f"it calls {self.name} with the wrong arguments"
            ) from error

    def __setstate__(self, state: object) -> None:
        raise UnsafeFileError(f"it sets attributes on {self.name}")


class _Dict(OrderedDict):
    """An ordered dict whose attributes (such as `_metadata`) are dropped."""

    def __setstate__(self, state: object) -> None:
        return


def _whole_numbers(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or not all(
        type(value) is int and value >= 0 for value in values
    ):
        raise WeightsFileError(f"{values!r} is in the place of a tensor's size")
    return tuple(values)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *rest: Any) -> Tensor:
    return Tensor(storage, offset, size, stride)


def _tensor_of_type(
    rebuild: Any, kind: Any, arguments: Any, state: Any = None
) -> object:
    known = isinstance(rebuild, _Inert) and rebuild.kind == "rebuild"
    if not known or not isinstance(kind, _Inert) or kind.kind != "tensor class":
        raise UnsafeFileError("it rebuilds a tensor subclass")
    return rebuild(*arguments)


def _tensor_with_dtype(
    storage: Any,
    offset: Any,
    size: Any,
    stride: Any,
    requires_grad: Any,
    hooks: Any,
    dtype: Any,
    metadata: Any = None,
) -> Tensor:
    if not isinstance(dtype, _Inert) or dtype.kind != "dtype":
        raise WeightsFileError("a tensor in it has no dtype")
    return Tensor(storage, offset, size, stride, dtype.dtype)


def _parameter(data: Any, *rest: object) -> Tensor:
    if not isinstance(data, Tensor):
        raise WeightsFileError("a parameter in it is not a tensor")
    return data


def _encoded(text: Any, encoding: Any = "latin1") -> bytes:
    if not isinstance(text, str) or encoding != "latin1":
        raise WeightsFileError("a byte string in it is malformed")
    return text.encode("latin1", errors="replace")


def _constructors() -> dict[str, _Inert]:
    named: dict[str, tuple[str, Callable | None]] = {
        "collections.OrderedDict": ("container", lambda *items: _Dict(*items)),
        "collections.Counter": ("container", lambda *items: _Dict(*items)),
        "builtins.set": ("container", lambda items=(): set(items)),
        "__builtin__.set": ("container", lambda items=(): set(items)),
        "_codecs.encode": ("container", _encoded),
        "torch.Size": ("container", lambda size=(): _whole_numbers(tuple(size))),
        "torch._utils._rebuild_tensor": ("rebuild", _tensor),
        "torch._utils._rebuild_tensor_v2": ("rebuild", _tensor),
        "torch._utils._rebuild_tensor_v3": ("rebuild", _tensor_with_dtype),
        "torch._utils._rebuild_parameter": ("rebuild", _parameter),
        "torch._utils._rebuild_parameter_with_state": ("rebuild", _parameter),
        "torch._tensor._rebuild_from_type_v2": ("rebuild", _tensor_of_type),
        "torch.Tensor": ("tensor class", None),
        "torch._tensor.Tensor": ("tensor class", None),
        "torch.nn.parameter.Parameter": ("tensor class", None),
        "torch.storage.UntypedStorage": ("storage", None),
        "torch.UntypedStorage": ("storage", None),
    }
    known = {name: _Inert(name, *rest) for name, rest in named.items()}
    for name, dtype in _STORAGE_DTYPES.items():
        for full in (f"torch.{name}", f"torch.cuda.{name}"):
            known[full] = _Inert(full, "storage", dtype=_DTYPES[dtype])
    for name, dtype in _DTYPES.items():
        known[f"torch.{name}"] = _Inert(f"torch.{name}", "dtype", dtype=dtype)
    return known


_CONSTRUCTORS = _constructors()
