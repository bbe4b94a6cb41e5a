"""A pickle reader that knows tensors and plain containers, and nothing else.

In: the bytes of a pickle that PyTorch wrote, and a function that finds a storage.
Out: dicts, lists, numbers, strings, and `Tensor` records that become NumPy arrays.
The one rule: a name in the file selects one of the inert constructors below or the
file is refused; nothing that the file names is ever imported, and nothing it brings
along is called.
"""

import pickle
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

MAX_DIMENSIONS = 32


class WeightsFileError(ValueError):
    """Tells that a file of weights is broken, cut short, or of another kind."""


class UnsafeFileError(WeightsFileError):
    """Tells that a file holds more than tensors and plain containers.

    Nothing in the file was run. The message names what was found.
    """


_STORAGE_DTYPES: dict[str, Any] = {
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "LongStorage": np.int64,
    "IntStorage": np.int32,
    "ShortStorage": np.int16,
    "CharStorage": np.int8,
    "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
    "ComplexFloatStorage": np.complex64,
    "ComplexDoubleStorage": np.complex128,
}
_DTYPES: dict[str, Any] = {
    "float32": np.float32,
    "float64": np.float64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "bool": np.bool_,
    "complex64": np.complex64,
    "complex128": np.complex128,
}
# Opcodes that reserve memory before reading it (BYTEARRAY8, LONG4), that reach objects
# without a name (EXT*) or that need out-of-band buffers are left out.
_OPCODES = frozenset(
    "PROTO FRAME STOP MARK POP POP_MARK DUP MEMOIZE PUT BINPUT LONG_BINPUT GET BINGET "
    "LONG_BINGET NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT "
    "BINFLOAT STRING BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE "
    "BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8 EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 "
    "TUPLE3 EMPTY_LIST LIST APPEND APPENDS EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET "
    "ADDITEMS FROZENSET GLOBAL STACK_GLOBAL REDUCE BUILD INST OBJ NEWOBJ NEWOBJ_EX "
    "BINPERSID".split()
)


class Storage:
    """Holds the raw bytes that tensors look into.

    Attributes:
        dtype: element type, or None for an untyped storage (its length is in bytes).
        length: number of elements the file claims.
        data: the bytes; None until they were read.
    """

    __slots__ = ("data", "dtype", "length")

    def __init__(self, dtype: np.dtype | None, length: int) -> None:
        """Takes what the file claims; the bytes come later."""
        self.dtype = dtype
        self.length = length
        self.data: bytes | None = None

    @property
    def num_bytes(self) -> int:
        """Returns the number of bytes that the claimed length needs."""
        return self.length * (self.dtype.itemsize if self.dtype is not None else 1)

    def __setstate__(self, state: object) -> None:
        """Refuses: a storage has no other state."""
        raise UnsafeFileError("it sets attributes on a storage")


class Tensor:
    """Describes a strided view into a storage, checked when made into an array."""

    __slots__ = ("dtype", "offset", "size", "storage", "stride")

    def __init__(
        self, storage: Any, offset: Any, size: Any, stride: Any, dtype: Any = None
    ) -> None:
        """Takes a rebuild function's arguments, which may be anything."""
        if not isinstance(storage, Storage):
            raise WeightsFileError("a tensor in it has no storage")
        numbers = _whole_numbers(size), _whole_numbers(stride)
        if len(numbers[0]) != len(numbers[1]) or len(numbers[0]) > MAX_DIMENSIONS:
            raise WeightsFileError(
                f"a tensor in it has size {size!r} and stride {stride!r}"
            )
        self.storage = storage
        (self.offset,) = _whole_numbers((offset,))
        self.size, self.stride = numbers
        self.dtype = storage.dtype if dtype is None else dtype

    def __setstate__(self, state: object) -> None:
        """Refuses: a tensor has no other state."""
        raise UnsafeFileError("it sets attributes on a tensor")

    def to_array(self) -> np.ndarray:
        """Returns the tensor as a read-only array over the storage's bytes.

        Raises:
            WeightsFileError: offset, size and stride reach outside the storage, or
                name more elements than it holds, or the storage was never filled.
        """
        if self.storage.data is None or self.dtype is None:
            raise WeightsFileError("a tensor's storage is missing")
        dtype = np.dtype(self.dtype)
        held = len(self.storage.data) // dtype.itemsize
        count = 1
        for length in self.size:
            count *= length
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
        if dtype == np.bool_:  # any other byte than 0 and 1 is no NumPy truth value
            flat = np.frombuffer(self.storage.data, np.uint8, count=held) != 0
        return np.lib.stride_tricks.as_strided(
            flat[self.offset :],
            self.size,
            tuple(step * dtype.itemsize for step in self.stride),
            writeable=False,
        )


def _whole_numbers(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple | list) or not all(
        type(value) is int and value >= 0 for value in values
    ):
        raise WeightsFileError(f"{values!r} stands where a tensor's size should")
    return tuple(values)


class _Dict(OrderedDict):
    """An ordered dict whose attributes (such as `_metadata`) are dropped."""

    def __setstate__(self, state: object) -> None:
        return


class _Inert:
    """What a name in the file stands for here: our own constructor or a marker."""

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
    def tensor(storage, offset, size, stride, *rest):
        return Tensor(storage, offset, size, stride)

    named: dict[str, tuple[str, Callable | None]] = {
        "collections.OrderedDict": ("container", lambda *items: _Dict(*items)),
        "collections.Counter": ("container", lambda *items: _Dict(*items)),
        "builtins.set": ("container", lambda items=(): set(items)),
        "__builtin__.set": ("container", lambda items=(): set(items)),
        "_codecs.encode": ("container", _encoded),
        "torch.Size": ("container", lambda size=(): _whole_numbers(tuple(size))),
        "torch._utils._rebuild_tensor": ("rebuild", tensor),
        "torch._utils._rebuild_tensor_v2": ("rebuild", tensor),
        "torch._utils._rebuild_tensor_v3": ("rebuild", _tensor_with_dtype),
        "torch._utils._rebuild_parameter": ("rebuild", _parameter),
        "torch._utils._rebuild_parameter_with_state": ("rebuild", _parameter),
        "torch._tensor._rebuild_from_type_v2": ("rebuild", _tensor_of_type),
        "torch.Tensor": ("tensor class", None),
        "torch._tensor.Tensor": ("tensor class", None),
        "torch.nn.parameter.Parameter": ("tensor class", None),
    }
    known = {name: _Inert(name, *rest) for name, rest in named.items()}
    for name, dtype in _STORAGE_DTYPES.items():
        for module in ("torch", "torch.cuda"):
            full = f"{module}.{name}"
            known[full] = _Inert(full, "storage", dtype=np.dtype(dtype))
    for full in ("torch.storage.UntypedStorage", "torch.UntypedStorage"):
        known[full] = _Inert(full, "storage")
    for name, dtype in _DTYPES.items():
        known[f"torch.{name}"] = _Inert(f"torch.{name}", "dtype", dtype=np.dtype(dtype))
    return known


_CONSTRUCTORS = _constructors()


class _Unpickler(pickle.Unpickler):
    def __init__(
        self,
        stream: Any,
        find_storage: Callable[[tuple], Storage],
        load_bytes: Callable[[bytes], object] | None,
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


def new_storage(pid: tuple) -> Storage:
    """Returns the empty storage that a persistent id of PyTorch's describes.

    Raises:
        WeightsFileError: the id does not name a storage class and a length.
    """
    kind, length = pid[1], pid[4]
    if not isinstance(kind, _Inert) or kind.kind != "storage":
        raise WeightsFileError(f"{kind!r} stands where a storage class should")
    return Storage(kind.dtype, *_whole_numbers((length,)))


def load_pickle(
    stream: Any,
    *,
    find_storage: Callable[[tuple], Storage],
    load_bytes: Callable[[bytes], object] | None = None,
) -> object:
    """Returns the object of one pickle, made of inert parts only.

    Args:
        stream: binary file at the pickle's first byte; left at the byte after it.
        find_storage: gets a storage's persistent id, returns the storage.
        load_bytes: reads a nested PyTorch stream (a plain pickle of tensors carries
            one for each storage); None where those are not allowed.

    Raises:
        UnsafeFileError: the pickle names anything but tensors and plain containers.
        WeightsFileError: the pickle is broken.
    """
    start = stream.tell()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if opcode.name not in _OPCODES:
                raise UnsafeFileError(f"it uses the pickle operation {opcode.name}")
            # The reader's memo grows to the largest index, so a huge one is an attack.
            if opcode.name.endswith("PUT") and int(argument) > count:
                raise UnsafeFileError("its pickle asks for an absurd amount of memory")
        stream.seek(start)
        return _Unpickler(stream, find_storage, load_bytes).load()
    except WeightsFileError:
        raise
    except Exception as error:
        # A broken pickle can fail in any way; all of them mean the same to the reader.
        reason = f"{type(error).__name__}: {error}"
        raise WeightsFileError(f"its pickle is broken ({reason})") from error
