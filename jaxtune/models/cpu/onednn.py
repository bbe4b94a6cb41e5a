"""Convolutions by oneDNN, the library that PyTorch uses on CPUs.

They read and fill arrays given by address; nothing here depends on JAX.
"""

import ctypes
import functools
import importlib.metadata
import warnings
from ctypes import c_int, c_void_p

import numpy as np

from jaxtune.models.cpu.library import Library, dimensions

#: The Python package that contains the library, built with GCC's OpenMP.
DISTRIBUTION = "onednn-cpu-gomp"

#: A convolution's three arrays; each can be computed from the other two.
RESULTS = ("outputs", "images", "weight")

#: Operations that can be applied to the outputs, in this order: multiply by a float32
#: factor for each channel, add a float32 number for each channel, add an array of the
#: outputs' shape, ReLU (NaN for -inf).
AFTER = ("scale", "shift", "residual", "relu")

# From oneDNN's dnnl_types.h.
_DIRECT, _FORWARD = 1, 64
_FROM, _TO, _SCRATCHPAD = 1, 17, 80
_QUERY_SCRATCHPAD = 136
_ADD, _MULTIPLY = 0x1FFF0, 0x1FFF1
#: Argument number of the n-th post-operation: n times this (from 1), with `_SECOND`
#: (the second operand of a binary operation) or `_SLOPE` (of PReLU) in its low bits.
_POST_OPERATION, _SECOND, _SLOPE = 32768, 2, 33
#: For each result: argument numbers of (images, weight, outputs), and the query for the
#: layout of the weights.
_ARGUMENTS = {
    "outputs": (1, 33, 17, 131),
    "images": (129, 33, 145, 131),
    "weight": (1, 161, 145, 132),
}

#: A multiple of the number of float32 in a vector register of any x86-64 chip.
_VECTOR = 16

# Layouts in memory, as indices into oneDNN's order of dimensions: (b, c, h, w) and
# (group, out, in, h, w).
_CHANNELS_LAST, _OUTPUTS_LAST = "0231", "34201"


class _Argument(ctypes.Structure):
    _fields_ = [("number", c_int), ("memory", c_void_p)]


@functools.cache
def library() -> Library | None:
    """Returns the installed library, or None if there is none that works.

    If it is installed but doesn't load, has an unsupported version, or computes a small
    convolution wrongly, it is not used, and a warning is issued once.
    """
    try:
        files = importlib.metadata.files(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = sorted(str(f.locate()) for f in files if f.name == "libdnnl.so.3")
    if not paths:
        return None
    try:
        loaded = Library(paths[0])
        loaded.do(_check, loaded)
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"oneDNN ({DISTRIBUTION}) is installed and can't be used: {error}. XLA's "
            "own convolutions are used instead. Reinstall it, or uninstall it to "
            "silence this.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return loaded


def _check(library: Library) -> None:
    """Raises RuntimeError unless a small convolution and its gradients are correct."""
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
        # Products and sums of small integers are exact.
        if not np.array_equal(filled[result], expected[result]):
            raise RuntimeError(f"its {result} of a small convolution are wrong")


class Convolution:
    """A convolution that computes one of its three arrays from the other two.

    Images are (b, h, w, c), weights (h, w, in / groups, out), outputs (b, h, w, out),
    as in JAX. With the outputs' gradient as `outputs`, the results "images" and
    "weight" are gradients.
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
        weight_dtype: str | None = None,
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
            groups: Number of channel groups, each convolved separately.
            dtype: Of images and outputs, "float32" or "bfloat16", which products are
                computed in.
            weight_dtype: Of the weights, to or from which they are rounded while they
                are laid out; None for the same.
            after: Operations applied to the outputs, in the order of `AFTER`; for the
                result "outputs" only.

        Raises:
            RuntimeError: If oneDNN does not support the convolution, or is known to
                compute it wrongly.
        """
        number_of = _ARGUMENTS[result]
        (b, h, w, c), (kh, kw, i, o), (_, h2, w2, _) = images, weight, outputs
        if kh * kw == 1 and (i % _VECTOR or o // groups % _VECTOR):
            # oneDNN 3.2 copies the images for a stride and doesn't clear the padding of
            # its vectors: the weights' gradient then contains uninitialized memory.
            raise RuntimeError("oneDNN fails at 1x1 kernels of so few channels")
        x = library.described((b, c, h, w), dtype, _CHANNELS_LAST)
        y = library.described((b, o, h2, w2), dtype, _CHANNELS_LAST)
        kernels = (groups, o // groups, i, kh, kw)
        given = library.described(kernels, weight_dtype or dtype, _OUTPUTS_LAST)
        free = library.described(kernels, dtype, None)
        window = (
            dimensions((stride, stride)),
            dimensions((0, 0)),
            dimensions((padding, padding)),
            dimensions((padding, padding)),
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
            gradient = library.described(kernels, weight_dtype or dtype, None)
            descriptor = library.descriptor(
                "convolution_backward_weights",
                library.engine,
                _DIRECT,
                *(x, gradient, None, y, *window, forward, library.attributes()),
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
        # The reordered weights and the scratch memory exist only during a call.
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
        """Fills the result; call it in the library's thread only, see `Library.do`.

        Args:
            images: Address of the array.
            weight: Address of the array.
            outputs: Address of the array.
            *operands: Addresses of the arrays for `after`.

        Raises:
            RuntimeError: If oneDNN reports an error.
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


def _arguments(*pairs) -> ctypes.Array:
    return (_Argument * len(pairs))(*(_Argument(n, memory) for n, memory in pairs))
