"""oneDNN's C interface: what it makes, where it lies, and how it runs.

Shapes and addresses in, oneDNN's objects out. The one rule of the file: it alone calls
the library; everything that oneDNN makes and runs it does in one thread.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, byref, c_float, c_int, c_int64, c_size_t, c_void_p
from typing import Any

#: What it computes in, and oneDNN's number for it.
DTYPES = {"float32": 3, "bfloat16": 2}

# From oneDNN's dnnl_types.h.
_CPU, _IN_ORDER, _ANY_LAYOUT, _MAX_DIMENSIONS = 1, 1, 1, 12
_SCRATCHPAD_OF_THE_USER = 1
#: Bits of `dnnl_cpu_isa_t` that a chip with AVX-512 (F, BW, VL and DQ) has.
_AVX512_CORE = 0x27
_ALIGNMENT = 64

#: The major version whose interface this file knows; within it, it is kept.
_MAJOR = 3


class _Version(ctypes.Structure):
    _fields_ = [(name, c_int) for name in ("major", "minor", "patch")]


class Library:
    """The loaded library, with an engine, a stream and a thread of its own.

    Everything is made and run in that thread, one thing at a time: each takes every
    core, OpenMP keeps as many threads for each thread that calls it, and XLA calls from
    any. Scratch memory is this object's own too; by default oneDNN ties it to the
    thread that made a primitive, and another one would write to memory that isn't
    there.
    """

    def __init__(self, path: str):
        """Loads the library.

        Args:
            path: Of the shared object.

        Raises:
            OSError: It can't be loaded.
            RuntimeError: Its interface is not the one that is known here.
        """
        # Idle OpenMP threads would spin for the cores that XLA's threads need.
        policy = os.environ.get("OMP_WAIT_POLICY")
        os.environ["OMP_WAIT_POLICY"] = policy or "PASSIVE"
        try:
            self._calls = ctypes.CDLL(path)
        finally:
            if policy is None:
                del os.environ["OMP_WAIT_POLICY"]
        try:
            self._calls.dnnl_version.restype = POINTER(_Version)
            version = self._calls.dnnl_version().contents
        except AttributeError:
            raise RuntimeError("it has no dnnl_version") from None
        if version.major != _MAJOR:
            raise RuntimeError(
                f"version {version.major}.{version.minor} is not {_MAJOR}.x"
            )
        # What returns at once needn't give up Python's lock and wait for it again.
        quick = ctypes.PyDLL(path)
        self._point = quick.dnnl_memory_set_data_handle
        self._point.argtypes = [c_void_p, c_void_p]
        self._execute = self._calls.dnnl_primitive_execute
        self._execute.argtypes = [c_void_p, c_void_p, c_int, c_void_p]
        self._calls.dnnl_primitive_desc_query_md.restype = c_void_p
        self._calls.dnnl_memory_desc_get_size.restype = c_size_t
        self._calls.dnnl_memory_desc_get_size.argtypes = [c_void_p]
        self.engine = self._made("engine_create", _CPU, c_size_t(0))
        self.stream = self._made("stream_create", self.engine, _IN_ORDER)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="onednn")
        self._space = ctypes.create_string_buffer(0)
        # What is below 0 times this is 0, and NaN stays NaN, as in JAX's ReLU;
        # oneDNN's own makes 0 of NaN.
        self._slope = c_float(-0.0)
        self.slope = self.memory(self.described((1, 1, 1, 1), "float32", "0123"))
        self.place(self.slope, ctypes.addressof(self._slope))

    def do(self, call: Callable, *arguments, **options) -> Any:
        """Returns what a call makes in the library's thread; raises what it raises."""
        return self._thread.submit(call, *arguments, **options).result()

    @property
    def has_avx512(self) -> bool:
        """Whether it computes with AVX-512 here: the chip has it, and it is allowed."""
        return self._calls.dnnl_get_effective_cpu_isa() & _AVX512_CORE == _AVX512_CORE

    def _made(self, name: str, *arguments) -> c_void_p:
        made = c_void_p()
        self._checked(name, byref(made), *arguments)
        return made

    def _checked(self, name: str, *arguments) -> None:
        status = getattr(self._calls, f"dnnl_{name}")(*arguments)
        if status:
            raise RuntimeError(f"oneDNN's {name} failed with status {status}.")

    def described(self, shape, dtype: str, order: str | None) -> c_void_p:
        """Returns a description of a dense array in oneDNN's order of dimensions.

        Args:
            shape: As oneDNN orders it: (b, c, h, w), weights
                (group, out, in, h, w).
            dtype: "float32" or "bfloat16".
            order: The dimensions from the slowest to the fastest, as indices in a
                string; None leaves the layout to oneDNN.
        """
        sizes, number = dimensions(shape), DTYPES[dtype]
        if order is None:
            return self._made(
                "memory_desc_create_with_tag", len(shape), sizes, number, _ANY_LAYOUT
            )
        strides, stride = [0] * len(shape), 1
        for index in reversed([int(digit) for digit in order]):
            strides[index], stride = stride, stride * shape[index]
        return self._made(
            "memory_desc_create_with_strides",
            len(shape),
            sizes,
            number,
            dimensions(strides),
        )

    def attributes(self, operands=(), *, relu: bool = False) -> c_void_p:
        """Returns how a primitive runs: where its scratch memory is, what comes last.

        Args:
            operands: (number of a binary operation, description of the second operand),
                applied in this order.
            relu: Whether max(x, 0) comes last.
        """
        operations = self._made("post_ops_create")
        for number, description in operands:
            self._checked("post_ops_append_binary", operations, number, description)
        if relu:
            self._checked("post_ops_append_prelu", operations, 0)
        attributes = self._made("primitive_attr_create")
        self._checked("primitive_attr_set_post_ops", attributes, operations)
        self._checked(
            "primitive_attr_set_scratchpad_mode", attributes, _SCRATCHPAD_OF_THE_USER
        )
        return attributes

    def descriptor(self, kind: str, *arguments) -> c_void_p:
        """Returns a primitive's descriptor."""
        return self._made(f"{kind}_primitive_desc_create", *arguments)

    def primitive(self, descriptor: c_void_p) -> c_void_p:
        """Returns what `run` runs."""
        return self._made("primitive_create", descriptor)

    def asked(self, descriptor: c_void_p, query: int) -> c_void_p:
        """Returns the description that a primitive has of one of its arrays."""
        return c_void_p(self._calls.dnnl_primitive_desc_query_md(descriptor, query, 0))

    def memory(self, description: c_void_p) -> c_void_p:
        """Returns an array without a place, see `place`."""
        return self._made("memory_create", description, self.engine, c_void_p(0))

    def size(self, description: c_void_p) -> int:
        """Returns an array's size in bytes."""
        return self._calls.dnnl_memory_desc_get_size(description)

    def place(self, memory: c_void_p, address: int) -> None:
        """Tells where an array lies."""
        self._point(memory, address)

    def space(self, *sizes: int) -> list[int]:
        """Returns addresses of so many bytes each, good until the call's end."""
        lengths = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
        if len(self._space) < sum(lengths) + _ALIGNMENT:
            self._space = ctypes.create_string_buffer(sum(lengths) + _ALIGNMENT)
        first = -(-ctypes.addressof(self._space) // _ALIGNMENT) * _ALIGNMENT
        return [first + sum(lengths[:number]) for number in range(len(lengths))]

    def run(self, primitive: c_void_p, arguments: ctypes.Array) -> None:
        """Runs a primitive to its end.

        Raises:
            RuntimeError: oneDNN refused.
        """
        status = self._execute(primitive, self.stream, len(arguments), arguments)
        if status:
            raise RuntimeError(f"oneDNN failed with status {status}.")


def dimensions(sizes) -> ctypes.Array:
    """Returns sizes as oneDNN takes them."""
    return (c_int64 * _MAX_DIMENSIONS)(*sizes)
