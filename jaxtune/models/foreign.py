"""Calls from compiled programs into Python, without copying an array.

XLA's call frame in, shapes and addresses out: the C interface that `jax.ffi` documents
for foreign functions (jaxlib's `xla/ffi/api/c_api.h`), read with ctypes. It grows, but
its fields keep their places. The one rule of the file: nothing here knows what is
computed.
"""

import ctypes
import struct
import traceback
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_int64, c_size_t, c_uint32, c_void_p
from typing import NamedTuple

import jax

_METADATA, _INTERNAL_ERROR = 1, 13

#: By XLA_FFI_DataType.
_DTYPES = {11: "float32", 16: "bfloat16"}


class _Extension(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("kind", c_int), ("next", c_void_p)]


class _Version(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("extension", c_void_p),
        ("major", c_int),
        ("minor", c_int),
    ]


class _Metadata(ctypes.Structure):
    _fields_ = [("size", c_size_t), ("version", _Version), ("traits", c_uint32)]


class _MetadataExtension(ctypes.Structure):
    _fields_ = [("base", _Extension), ("metadata", POINTER(_Metadata))]


class _ErrorArguments(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("extension", c_void_p),
        ("message", c_char_p),
        ("code", c_int),
    ]


_MakeError = ctypes.CFUNCTYPE(c_void_p, POINTER(_ErrorArguments))


class _Interface(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("extension", c_void_p),
        ("version", _Version),
        ("internal", c_void_p),
        ("make_error", _MakeError),
    ]


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("extension", c_void_p),
        ("dtype", c_int),
        ("address", c_void_p),
        ("rank", c_int64),
        ("sizes", c_void_p),
    ]


class _Buffers(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("extension", c_void_p),
        ("length", c_int64),
        ("kinds", c_void_p),
        ("items", POINTER(POINTER(_Buffer))),
    ]


class _Numbers(ctypes.Structure):
    _fields_ = [("dtype", c_int), ("length", c_size_t), ("address", c_void_p)]


class _Attributes(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("extension", c_void_p),
        ("length", c_int64),
        ("kinds", c_void_p),
        ("names", c_void_p),
        ("items", POINTER(POINTER(_Numbers))),
    ]


class _Frame(ctypes.Structure):
    _fields_ = [
        ("size", c_size_t),
        ("extension", POINTER(_Extension)),
        ("interface", POINTER(_Interface)),
        ("context", c_void_p),
        ("stage", c_int),
        ("arguments", _Buffers),
        ("results", _Buffers),
        ("attributes", _Attributes),
    ]


_Handler = ctypes.CFUNCTYPE(c_void_p, POINTER(_Frame))

#: What XLA may still call must not be collected.
_handlers = []


class Operand(NamedTuple):
    """An array of a call: dtype by name, shape as int64 bytes, address."""

    dtype: str
    shape: bytes
    address: int


def register(name: str, function: Callable) -> None:
    """Makes a function callable from programs on the CPU, as `jax.ffi.ffi_call(name)`.

    The calls have one attribute, an array of int64. XLA's threads call it, one or
    several at a time, and Python's lock is taken for each call. What it raises, the
    program raises.

    Args:
        name: That programs know it by.
        function: Of (operands, settings): a tuple of `Operand`, results last, and the
            attribute's bytes. Fills the results.
    """

    @_Handler
    def handler(frame):
        frame = frame.contents
        try:
            if frame.extension and frame.extension.contents.kind == _METADATA:
                return _introduce(frame.extension)
            operands = []
            for group in (frame.arguments, frame.results):
                for index in range(group.length):
                    buffer = group.items[index].contents
                    shape = ctypes.string_at(buffer.sizes, 8 * buffer.rank)
                    dtype = _DTYPES.get(buffer.dtype, "another type")
                    operands.append(Operand(dtype, shape, buffer.address))
            settings = frame.attributes.items[0].contents
            function(
                tuple(operands), ctypes.string_at(settings.address, 8 * settings.length)
            )
        except Exception as error:
            said = "".join(traceback.format_exception_only(error)).strip()
            arguments = _ErrorArguments(
                ctypes.sizeof(_ErrorArguments), None, said.encode(), _INTERNAL_ERROR
            )
            return frame.interface.contents.make_error(arguments)

    _handlers.append(handler)
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")


def _introduce(extension) -> None:
    """Answers which version of the interface this is written for."""
    extension = ctypes.cast(extension, POINTER(_MetadataExtension)).contents
    version = extension.metadata.contents.version
    version.major, version.minor = 0, 1


def sizes(shape: bytes) -> tuple[int, ...]:
    """Returns the numbers in an `Operand`'s shape or a call's settings."""
    return struct.unpack(f"{len(shape) // 8}q", shape)
