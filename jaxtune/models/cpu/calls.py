"""Convolutions of compiled programs as foreign calls to oneDNN, where it is faster.

oneDNN has compiled each convolution before the program that calls it runs.
"""

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from jaxtune.models.cpu import foreign, onednn
from jaxtune.models.cpu.library import DTYPES
from jaxtune.models.plain import GIVEN, WINDOW

_TARGET = "jaxtune_convolution"

#: By settings, dtypes and shapes: a convolution and the positions of its arrays among
#: the operands, or None if oneDNN can't compute it.
_made: dict[tuple, tuple | None] = {}


def onednn_computes(
    operands: Sequence[jax.core.ShapedArray | jax.ShapeDtypeStruct], **convolution
) -> bool:
    """Returns whether oneDNN computes a convolution on this machine.

    It does where it was measured to be faster than XLA: on Linux on x86-64 chips with
    AVX-512, if the library is installed (`onednn-cpu-gomp`, a dependency of jaxtune
    there) and supports the convolution on this chip. The environment variable
    JAXTUNE_ONEDNN=0 turns it off; 1 uses it on chips without AVX-512 too.

    Args:
        operands: Shapes and dtypes of the operands of `onednn_convolution`.
        **convolution: The other arguments of `onednn_convolution`.
    """
    dtypes = tuple(
        np.dtype(dtype).name
        for dtype in (*(array.dtype for array in operands), convolution["dtype"])
    )
    shapes = [array.shape for array in operands] + [convolution["shape"]]
    if not DTYPES.keys() >= set(dtypes) or 0 in sum(shapes, ()) or not _is_used():
        return False
    settings = _settings(**convolution).tobytes()
    shapes = [np.array(shape, np.int64).tobytes() for shape in shapes]
    return _convolution(settings, dtypes, *shapes) is not None


def onednn_multiplies_bfloat16() -> bool:
    """Returns whether oneDNN convolves here, and faster in bfloat16 than in float32.

    It does on chips with matrix units (AMX): an inference of a ResNet takes 0.4 to 0.5
    of the time. AVX-512's own instructions for bfloat16 were slower than float32.
    """
    return _chip_has("amx_bf16") and _is_used() and onednn.library().has_amx


def onednn_convolution(
    *operands: Float[Array, "..."],
    shape: tuple[int, ...],
    dtype: Any,
    result: str = "outputs",
    after: tuple[str, ...] = (),
    stride: int,
    padding: int,
    groups: int,
) -> Float[Array, "..."]:
    """Returns one of a convolution's three arrays; see `plain_convolution`.

    Args:
        *operands: The two arrays that `GIVEN` names, then those that `after` needs.
        shape: Of the result.
        dtype: Of the result.
        result: Which array is computed.
        after: Operations applied to the outputs, some of `onednn.AFTER` in its order.
        stride: In pixels.
        padding: In pixels.
        groups: Number of channel groups.
    """
    call = jax.ffi.ffi_call(_TARGET, jax.ShapeDtypeStruct(shape, dtype))
    window = {"stride": stride, "padding": padding, "groups": groups}
    return call(*operands, settings=_settings(result=result, after=after, **window))


def _is_used() -> bool:
    wanted = os.environ.get("JAXTUNE_ONEDNN", "")
    if wanted == "0" or (wanted != "1" and not _chip_has("avx512bw")):
        return False
    library = onednn.library()
    if library is None or (wanted != "1" and not library.has_avx512):
        return False
    _register()
    return True


@functools.cache
def _register() -> None:
    foreign.register(_TARGET, _call)


@functools.cache
def _chip_has(flag: str) -> bool:
    """Whether the CPU has some instructions, checked before loading the library."""
    try:
        return f" {flag} " in Path("/proc/cpuinfo").read_text()
    except OSError:
        return False


def _call(operands, settings):
    """Fills the last operand; called by XLA."""
    dtypes = tuple(operand.dtype for operand in operands)
    made = _convolution(settings, dtypes, *(operand.shape for operand in operands))
    if made is None:
        raise RuntimeError("oneDNN offers no such convolution on this machine")
    convolution, places = made
    addresses = [operands[place].address for place in places]
    onednn.library().do(convolution, *addresses)


def _convolution(settings: bytes, dtypes: tuple, *shapes: bytes) -> tuple | None:
    key = (settings, dtypes, *shapes)
    if key not in _made:
        library = onednn.library()
        try:
            _made[key] = library.do(_make, library, settings, dtypes, *shapes)
        except RuntimeError:
            _made[key] = None
    return _made[key]


def _make(library, settings: bytes, dtypes: tuple, *shapes: bytes) -> tuple:
    number, chosen, *window = foreign.sizes(settings)
    result = onednn.RESULTS[number]
    after = [n for place, n in enumerate(onednn.AFTER) if chosen >> place & 1]
    further = [name for name in after if name != "relu"]
    names = (*GIVEN[result], *further, result)
    sizes = {n: foreign.sizes(s) for n, s in zip(names, shapes, strict=True)}
    arrays = ["images", "weight", "outputs"]
    convolution = onednn.Convolution(
        library,
        result,
        **{name: sizes[name] for name in arrays},
        **dict(zip(WINDOW, window, strict=True)),
        dtype=dtypes[0],
        weight_dtype=dtypes[names.index("weight")],
        after=tuple(after),
    )
    return convolution, [names.index(name) for name in arrays + further]


def _settings(
    *, result="outputs", after=(), shape=None, dtype=None, **window
) -> np.ndarray:
    chosen = sum(1 << onednn.AFTER.index(name) for name in after)
    numbers = (onednn.RESULTS.index(result), chosen, *(window[n] for n in WINDOW))
    return np.array(numbers, np.int64)
