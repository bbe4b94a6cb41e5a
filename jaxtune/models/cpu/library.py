"""oneDNN's C interface: creates its objects, and runs its primitives.

No other file calls the library, and everything in oneDNN is created and run in one
thread.
"""

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, byref, c_float, c_int, c_int64, c_size_t, c_void_p
from typing import Any

#: Dtypes supported, and oneDNN's numbers for them.
DTYPES = {"float32": 3, "bfloat16": 2}

# From oneDNN's dnnl_types.h.
_CPU, _IN_ORDER, _ANY_LAYOUT, _MAX_DIMENSIONS = 1, 1, 1, 12
_SCRATCHPAD_OF_THE_USER = 1
#: Bits of `dnnl_cpu_isa_t` for AVX-512 (F, BW, VL and DQ), and with AMX besides.
_AVX512_CORE, _AVX512_CORE_AMX = 0x27, 0xFEF
_ALIGNMENT = 64

#: The major version whose interface this file uses; it is stable within that.
_MAJOR = 3


class _Version(ctypes.Structure):
    _fields_ = [(name, c_int) for name in ("major", "minor", "patch")]


class Library:
    """The loaded library, with an engine, a stream and a thread of its own.

    Everything is created and run in that thread, one thing at a time: each primitive
    uses all cores, OpenMP keeps a pool of threads for each calling thread, and XLA
    calls from any of its own. This object also provides the scratch memory: by default
    oneDNN ties it to the thread that created a primitive, and running it from another
    thread would write to unallocated memory.
    """

    def __init__(self, path: str):
        """Loads the library.

        Args:
            path: Of the shared object.

        Raises:
            OSError: If it can't be loaded.
            RuntimeError: If its version isn't supported.
        """
        # Otherwise idle OpenMP threads spin on the cores that XLA's threads need.
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
        # PyDLL keeps the GIL: releasing it costs more than these short calls.
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
        # PReLU with this slope maps negative numbers to 0 and NaN to NaN, as JAX's ReLU
        # does; oneDNN's own ReLU maps NaN to 0.
        self._slope = c_float(-0.0)
        self.slope = self.memory(self.described((1, 1, 1, 1), "float32", "0123"))
        self.place(self.slope, ctypes.addressof(self._slope))

    def do(self, call: Callable, *arguments, **options) -> Any:
        """Runs a function in the library's thread, and returns or raises its result."""
        return self._thread.submit(call, *arguments, **options).result()

    @property
    def has_avx512(self) -> bool:
        """Whether oneDNN uses AVX-512: the chip has it, and no setting forbids it."""
        return self._uses(_AVX512_CORE)

    @property
    def has_amx(self) -> bool:
        """Whether oneDNN uses AMX: chip and kernel have it, no setting forbids it."""
        return self._uses(_AVX512_CORE_AMX)

    def _uses(self, instructions: int) -> bool:
        return self._calls.dnnl_get_effective_cpu_isa() & instructions == instructions

    def _made(self, name: str, *arguments) -> c_void_p:
        made = c_void_p()
        self._checked(name, byref(made), *arguments)
        return made

    def _checked(self, name: str, *arguments) -> None:
        status = getattr(self._calls, f"dnnl_{name}")(*arguments)
        if status:
            raise RuntimeError(f"oneDNN's {name} failed with status {status}.")

    def described(self, shape, dtype: str, order: str | None) -> c_void_p:
        """Returns a memory descriptor of a dense array.

        Args:
            shape: In oneDNN's order of dimensions: (b, c, h, w), for weights
                (group, out, in, h, w).
            dtype: "float32" or "bfloat16".
            order: The layout in memory: dimensions from the slowest to the fastest, as
                indices in a string; None leaves it to oneDNN.
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
        """Returns a primitive's attributes: post-operations and scratch memory.

        Args:
            operands: (number of a binary operation, descriptor of the second operand),
                applied in this order.
            relu: Whether a ReLU is applied last.
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
        """Returns a primitive, which `run` executes."""
        return self._made("primitive_create", descriptor)

    def asked(self, descriptor: c_void_p, query: int) -> c_void_p:
        """Returns a primitive's memory descriptor of one of its arrays."""
        return c_void_p(self._calls.dnnl_primitive_desc_query_md(descriptor, query, 0))

    def memory(self, description: c_void_p) -> c_void_p:
        """Returns a memory object without an address; `place` sets it."""
        return self._made("memory_create", description, self.engine, c_void_p(0))

    def size(self, description: c_void_p) -> int:
        """Returns an array's size in bytes."""
        return self._calls.dnnl_memory_desc_get_size(description)

    def place(self, memory: c_void_p, address: int) -> None:
        """Sets a memory object's address."""
        self._point(memory, address)

    def space(self, *sizes: int) -> list[int]:
        """Returns addresses of scratch memory of these sizes in bytes.

        They are valid until the next call of this method.
        """
        lengths = [-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes]
        if len(self._space) < sum(lengths) + _ALIGNMENT:
            self._space = ctypes.create_string_buffer(sum(lengths) + _ALIGNMENT)
        first = -(-ctypes.addressof(self._space) // _ALIGNMENT) * _ALIGNMENT
        return [first + sum(lengths[:number]) for number in range(len(lengths))]

    def run(self, primitive: c_void_p, arguments: ctypes.Array) -> None:
        """Executes a primitive and waits for it.

        Raises:
            RuntimeError: If oneDNN reports an error.
        """
        status = self._execute(primitive, self.stream, len(arguments), arguments)
        if status:
            raise RuntimeError(f"oneDNN failed with status {status}.")


def dimensions(sizes) -> ctypes.Array:
    """Returns sizes as a `dnnl_dims_t`."""
    return (c_int64 * _MAX_DIMENSIONS)(*sizes)
