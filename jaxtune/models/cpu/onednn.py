"""Convolutions by oneDNN, the library with which PyTorch convolves on a CPU.

Shapes and addresses of arrays in, an array filled. The one rule of the file: it alone
knows oneDNN's C interface, and it knows nothing of JAX.
"""

import ctypes
import functools
import importlib.metadata
import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from ctypes import POINTER, byref, c_float, c_int, c_int64, c_size_t, c_void_p
from typing import Any

import numpy as np

#: The distribution that brings the library, built for GCC's OpenMP.
DISTRIBUTION = "onednn-cpu-gomp"

#: What may come out of a convolution's three arrays, given the two others.
RESULTS = ("outputs", "images", "weight")

#: What outputs may go through before they are written, in this order: times a float32
#: number for each channel, plus one for each, plus an array like them, max(x, 0)
#: (of -inf, NaN).
AFTER = ("scale", "shift", "residual", "relu")

#: What it computes in, and oneDNN's number for it.
DTYPES = {"float32": 3, "bfloat16": 2}

# From oneDNN's dnnl_types.h.
_CPU, _IN_ORDER, _DIRECT, _FORWARD, _ANY_LAYOUT, _MAX_DIMENSIONS = 1, 1, 1, 64, 1, 12
_FROM, _TO, _SCRATCHPAD = 1, 17, 80
_ADD, _MULTIPLY = 0x1FFF0, 0x1FFF1
#: Argument number of the first post-operation's second operand; the next is as far on.
_POST_OPERATION, _SECOND, _SLOPE = 32768, 2, 33
#: For each result: argument numbers of (images, weight, outputs), and the query that
#: answers how the weights are to be laid out.
_ARGUMENTS = {
    "outputs": (1, 33, 17, 131),
    "images": (129, 33, 145, 131),
    "weight": (1, 161, 145, 132),
}
_QUERY_SCRATCHPAD, _SCRATCHPAD_OF_THE_USER = 136, 1
#: Bits of `dnnl_cpu_isa_t` that a chip with AVX-512 (F, BW, VL and DQ) has.
_AVX512_CORE = 0x27
_ALIGNMENT = 64

#: Channels that a vector of any chip divides.
_VECTOR = 16

#: The major version whose interface this file knows; within it, it is kept.
_MAJOR = 3

# The order of dimensions in memory, by their numbers in oneDNN's: (b, c, h, w) and
# (group, out, in, h, w).
_CHANNELS_LAST, _OUTPUTS_LAST = "0231", "34201"


class _Argument(ctypes.Structure):
    _fields_ = [("number", c_int), ("memory", c_void_p)]


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
        sizes, number = _dimensions(shape), DTYPES[dtype]
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
            _dimensions(strides),
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


@functools.cache
def library() -> Library | None:
    """Returns the installed library, or None where there is none that fits.

    A library that is there and doesn't load, has another interface, or convolves a few
    numbers wrongly is left alone, with one warning.
    """
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = sorted(str(f.locate()) for f in files if f.name == "libdnnl.so.3")
    if not paths:
        return None
    try:
        found = Library(paths[0])
        found.do(_check, found)
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"oneDNN ({DISTRIBUTION}) is installed and can't be used: {error}. XLA's "
            "own convolutions are used instead. Reinstall it, or uninstall it to "
            "silence this.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return found


def _check(library: Library) -> None:
    """Raises RuntimeError unless a small convolution and its gradients come out."""
    rng = np.random.default_rng(0)
    images, weight, outputs = (
        rng.integers(-4, 5, shape).astype(np.float32)
        for shape in ((2, 3, 4, 16), (1, 1, 16, 32), (2, 3, 4, 32))
    )
    given = {"images": images, "weight": weight, "outputs": outputs}
    expected = {
        "outputs": images @ weight[0, 0],
        "images": outputs @ weight[0, 0].T,
        "weight": np.einsum("bhwi,bhwo->io", images, outputs)[None, None],
    }
    window = {"stride": 1, "padding": 0, "groups": 1}
    for result in RESULTS:
        filled = given | {result: np.zeros_like(given[result])}
        shapes = {name: array.shape for name, array in given.items()}
        convolution = Convolution(library, result, **shapes, **window, dtype="float32")
        convolution(*(array.ctypes.data for array in filled.values()))
        # Small whole numbers have exact products and sums.
        if not np.array_equal(filled[result], expected[result]):
            raise RuntimeError(f"its {result} of a small convolution are wrong")


class Convolution:
    """One of a convolution's three arrays, computed from the two others.

    Images are (b, h, w, c), weights (h, w, in / groups, out), outputs (b, h, w, out),
    as JAX lays them out. With the outputs' gradient as `outputs`, the other two are
    gradients.
    """

    def __init__(
        self,
        library: Library,
        result: str,
        *,
        images: tuple[int, int, int, int],
        weight: tuple[int, int, int, int],
        outputs: tuple[int, int, int, int],
        stride: int,
        padding: int,
        groups: int,
        dtype: str,
        after: tuple[str, ...] = (),
    ):
        """Compiles the convolution.

        Args:
            library: See `library`.
            result: Which array is filled, of `RESULTS`.
            images: Shape.
            weight: Shape.
            outputs: Shape.
            stride: In pixels, in both directions.
            padding: In pixels, on all four sides.
            groups: Of channels, convolved apart.
            dtype: Of all three, "float32" or "bfloat16".
            after: What becomes of the outputs before they are written, in the order of
                `AFTER`, for the result "outputs" alone.

        Raises:
            RuntimeError: oneDNN knows no such convolution, or computes it wrongly.
        """
        number_of = _ARGUMENTS[result]
        (b, h, w, c), (kh, kw, i, o), (_, h2, w2, _) = images, weight, outputs
        if kh * kw == 1 and (i % _VECTOR or o // groups % _VECTOR):
            # oneDNN 3.2 takes a stride by copying, and leaves what fills the vectors up
            # as it was: the weights' gradient is wrong, with what lay there before.
            raise RuntimeError("oneDNN fails at 1x1 kernels of so few channels")
        x = library.described((b, c, h, w), dtype, _CHANNELS_LAST)
        y = library.described((b, o, h2, w2), dtype, _CHANNELS_LAST)
        kernels = (groups, o // groups, i, kh, kw)
        given = library.described(kernels, dtype, _OUTPUTS_LAST)
        free = library.described(kernels, dtype, None)
        window = (
            _dimensions((stride, stride)),
            _dimensions((0, 0)),
            _dimensions((padding, padding)),
            _dimensions((padding, padding)),
        )
        by_channel = library.described((1, o, 1, 1), "float32", _CHANNELS_LAST)
        known = {"scale": (_MULTIPLY, by_channel), "shift": (_ADD, by_channel)}
        known["residual"] = (_ADD, y)
        operands = [known[name] for name in after if name in known]
        relu = "relu" in after
        attributes = library.attributes(operands, relu=relu)
        descriptor = forward = library.descriptor(
            "convolution_forward",
            library.engine,
            _FORWARD,
            _DIRECT,
            *(x, free, None, y, *window, attributes),
        )
        if result == "images":
            descriptor = library.descriptor(
                "convolution_backward_data",
                library.engine,
                _DIRECT,
                *(x, free, y, *window, forward, library.attributes()),
            )
        elif result == "weight":
            descriptor = library.descriptor(
                "convolution_backward_weights",
                library.engine,
                _DIRECT,
                *(x, free, None, y, *window, forward, library.attributes()),
            )
        packed = library.asked(descriptor, number_of[3])
        self._library, self._fills_weight = library, result == "weight"
        self._images, self._outputs = library.memory(x), library.memory(y)
        self._weight, self._packed = library.memory(given), library.memory(packed)
        self._operands = [library.memory(description) for _, description in operands]
        ends = [(given, self._weight), (packed, self._packed)]
        if self._fills_weight:
            ends.reverse()
        (before, taken), (after, left) = ends
        lay_out = library.descriptor(
            "reorder",
            *(before, library.engine, after, library.engine, library.attributes()),
        )
        # The layout of the weights and the scratch memory are there for a call's time.
        self._spaces = [(self._packed, library.size(packed))]
        self._lay_out = library.primitive(lay_out)
        self._laid_out = _arguments(
            (_FROM, taken), (_TO, left), *self._scratchpad(lay_out)
        )
        self._convolve = library.primitive(descriptor)
        self._arguments = _arguments(
            (number_of[0], self._images),
            (number_of[1], self._packed),
            (number_of[2], self._outputs),
            *self._scratchpad(descriptor),
            *(
                (_POST_OPERATION * place | _SECOND, memory)
                for place, memory in enumerate(self._operands, start=1)
            ),
            *[(_POST_OPERATION * (1 + len(operands)) | _SLOPE, library.slope)] * relu,
        )

    def _scratchpad(self, descriptor) -> list[tuple[int, c_void_p]]:
        description = self._library.asked(descriptor, _QUERY_SCRATCHPAD)
        size = self._library.size(description) if description else 0
        if not size:
            return []
        memory = self._library.memory(description)
        self._spaces.append((memory, size))
        return [(_SCRATCHPAD, memory)]

    def __call__(self, images: int, weight: int, outputs: int, *operands: int) -> None:
        """Fills the result; to be called in the library's thread, see `Library.do`.

        Args:
            images: Address of the array.
            weight: Address of the array.
            outputs: Address of the array.
            *operands: Addresses of the arrays that `after` named.

        Raises:
            RuntimeError: oneDNN refused.
        """
        library = self._library
        library.place(self._images, images)
        library.place(self._weight, weight)
        library.place(self._outputs, outputs)
        for memory, address in zip(self._operands, operands, strict=True):
            library.place(memory, address)
        memories, sizes = zip(*self._spaces, strict=True)
        for memory, address in zip(memories, library.space(*sizes), strict=True):
            library.place(memory, address)
        if not self._fills_weight:
            library.run(self._lay_out, self._laid_out)
        library.run(self._convolve, self._arguments)
        if self._fills_weight:
            library.run(self._lay_out, self._laid_out)


def _dimensions(sizes) -> ctypes.Array:
    return (c_int64 * _MAX_DIMENSIONS)(*sizes)


def _arguments(*pairs) -> ctypes.Array:
    return (_Argument * len(pairs))(*(_Argument(n, memory) for n, memory in pairs))
