"""Calls from compiled programs into Python, without copying arrays.

Reads XLA's call frame by the C interface that `jax.ffi` documents for foreign functions
(jaxlib's `xla/ffi/api/c_api.h`, 64-bit). New fields may be appended to its structs, but
existing ones keep their offsets.
"""

import ctypes
import signal
import struct
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable
from ctypes import POINTER, c_char_p, c_int, c_size_t, c_uint32, c_void_p
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


# Read at each call, so unpacked from bytes, which is faster than ctypes' fields.
# XLA_FFI_CallFrame: size, extension, interface, context, stage; then size, extension,
# length, kinds and items, of arguments and of results; then the same of attributes,
# with names before items.
_FRAME = struct.Struct("4Q i4x 5Q 5Q 6Q")
#: XLA_FFI_Buffer: size, extension, dtype, address, rank, sizes.
_BUFFER = struct.Struct("2Q i4x 3Q")
#: XLA_FFI_Array: dtype, length, address.
_NUMBERS = struct.Struct("i4x 2Q")
_POINTER = struct.Struct("Q")

#: Seconds between two looks whether an interrupted call has ended.
_PAUSE = 0.01

_Handler = ctypes.CFUNCTYPE(c_void_p, c_void_p)

#: References to the handlers: XLA may call them as long as the process lives.
_handlers = []


class Operand(NamedTuple):
    """An array of a call: dtype by name, shape as bytes of int64, address."""

    dtype: str
    shape: bytes
    address: int


def register(name: str, function: Callable) -> None:
    """Makes a function callable from programs on the CPU, as `jax.ffi.ffi_call(name)`.

    The calls have one attribute, an array of int64. XLA calls the function from its own
    threads, several possibly at once, each holding the GIL. Its exceptions are raised
    by the program. After a Ctrl-C during a call it is called again with the same
    arrays; the KeyboardInterrupt is raised after the call.

    Args:
        name: Name of the call's target.
        function: Of (operands, settings): a list of `Operand`, results last, and the
            attribute's bytes. Fills the results.
    """

    def answer(frame):
        fields = _FRAME.unpack(ctypes.string_at(frame, _FRAME.size))
        extension, interface = fields[1:3]
        try:
            if extension:
                kind = _Extension.from_address(extension).kind
                if kind == _METADATA:
                    return _introduce(extension)
            operands = [
                _operand(items + 8 * index)
                for length, items in ((fields[7], fields[9]), (fields[12], fields[14]))
                for index in range(length)
            ]
            (settings,) = _POINTER.unpack(ctypes.string_at(fields[20], 8))
            settings = ctypes.string_at(settings, _NUMBERS.size)
            _, length, address = _NUMBERS.unpack(settings)
            function(operands, ctypes.string_at(address, 8 * length))
        except Exception as error:
            text = "".join(traceback.format_exception_only(error)).strip()
            arguments = _ErrorArguments(
                ctypes.sizeof(_ErrorArguments), None, text.encode(), _INTERNAL_ERROR
            )
            return _Interface.from_address(interface).make_error(arguments)

    def handle(frame):
        interrupted = False
        while True:
            try:
                answered = answer(frame)
                break
            except KeyboardInterrupt:
                # ctypes would drop it, and XLA would use results that aren't filled.
                interrupted = True
        if interrupted:
            threading.Thread(target=_interrupt_after, args=[handle.__code__]).start()
        return answered

    handler = _Handler(handle)
    _handlers.append(handler)
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")


def _interrupt_after(call: types.CodeType) -> None:
    """Interrupts the main thread when it is in no such call any more.

    What is raised in a call, ctypes drops.
    """
    main = threading.main_thread().ident
    while True:
        time.sleep(_PAUSE)
        frame = sys._current_frames().get(main)
        while frame is not None and frame.f_code is not call:
            frame = frame.f_back
        if frame is None:
            break
    signal.pthread_kill(main, signal.SIGINT)


def _operand(pointer: int) -> Operand:
    (buffer,) = _POINTER.unpack(ctypes.string_at(pointer, 8))
    buffer = ctypes.string_at(buffer, _BUFFER.size)
    _, _, dtype, address, rank, sizes = _BUFFER.unpack(buffer)
    shape = ctypes.string_at(sizes, 8 * rank)
    return Operand(_DTYPES.get(dtype, "another type"), shape, address)


def _introduce(extension: int) -> None:
    """Reports the version of the interface that this file is written for."""
    metadata = _MetadataExtension.from_address(extension).metadata.contents
    metadata.version.major, metadata.version.minor = 0, 1


def sizes(shape: bytes) -> tuple[int, ...]:
    """Returns the numbers in an `Operand`'s shape or a call's settings."""
    return struct.unpack(f"{len(shape) // 8}q", shape)
