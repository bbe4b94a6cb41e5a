"""oneDNN alone, on numpy arrays: values, what it refuses, and where there is none."""

import functools
import importlib.metadata

import jax
import ml_dtypes
import numpy as np
import pytest
from convolutions import plain

from jaxtune.models import onednn

LIBRARY = onednn.library()
installed = pytest.mark.skipif(
    LIBRARY is None, reason=f"{onednn.DISTRIBUTION} is not installed"
)


def arrays(images, weight, outputs, dtype=np.float32):
    rng = np.random.default_rng(0)
    return {
        "images": rng.normal(size=images).astype(dtype),
        "weight": rng.normal(size=weight).astype(dtype),
        "outputs": rng.normal(size=outputs).astype(dtype),
    }


def computed(result, given, **window):
    convolution = onednn.Convolution(
        LIBRARY,
        result,
        **{name: a.shape for name, a in given.items()},
        dtype=given["images"].dtype.name,
        **window,
    )
    filled = given | {result: np.full_like(given[result], 7)}
    for _ in range(2):
        convolution(**{name: a.ctypes.data for name, a in filled.items()})
    return filled[result]


def expected(result, given, *, stride, padding, groups):
    given = {name: a.astype(np.float32) for name, a in given.items()}

    convolution = functools.partial(
        plain, stride=stride, padding=padding, groups=groups
    )
    outputs, gradient = jax.vjp(convolution, given["images"], given["weight"])
    images, weight = gradient(given["outputs"])
    return {"outputs": outputs, "images": images, "weight": weight}[result]


@installed
@pytest.mark.parametrize("result", onednn.RESULTS)
@pytest.mark.parametrize(
    ("shapes", "window"),
    [
        (
            ((2, 9, 7, 16), (3, 3, 16, 8), (2, 5, 4, 8)),
            {"stride": 2, "padding": 1, "groups": 1},
        ),
        (
            ((3, 6, 6, 8), (3, 3, 2, 12), (3, 6, 6, 12)),
            {"stride": 1, "padding": 1, "groups": 4},
        ),
        (
            ((2, 5, 5, 3), (1, 1, 3, 10), (2, 5, 5, 10)),
            {"stride": 1, "padding": 0, "groups": 1},
        ),
    ],
)
def test_each_array_is_what_jax_makes_of_the_two_others(result, shapes, window):
    given = arrays(*shapes)
    ours, theirs = computed(result, given, **window), expected(result, given, **window)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-4)


@installed
@pytest.mark.parametrize("result", onednn.RESULTS)
def test_bfloat16_is_rounded_once(result):
    window = {"stride": 1, "padding": 1, "groups": 1}
    given = arrays((2, 6, 6, 16), (3, 3, 16, 16), (2, 6, 6, 16), ml_dtypes.bfloat16)
    ours = computed(result, given, **window).astype(np.float32)
    theirs = np.asarray(expected(result, given, **window))
    assert np.abs(ours - theirs).max() <= 2**-8 * np.abs(theirs).max()


@installed
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize(
    "after",
    [
        ("relu",),
        ("scale", "shift"),
        ("scale", "shift", "relu"),
        ("scale", "shift", "residual"),
        ("scale", "shift", "residual", "relu"),
    ],
)
def test_outputs_go_through_what_comes_after_and_are_rounded_once(after, dtype):
    window = {"stride": 2, "padding": 1, "groups": 1}
    given = arrays((2, 9, 7, 16), (3, 3, 16, 8), (2, 5, 4, 8), dtype)
    rng = np.random.default_rng(1)
    further = {name: rng.normal(size=8).astype("float32") for name in after[:2]}
    further["residual"] = rng.normal(size=(2, 5, 4, 8)).astype(dtype)
    theirs = np.asarray(expected("outputs", given, **window))
    if "scale" in after:
        theirs = theirs * further["scale"] + further["shift"]
    if "residual" in after:
        theirs = theirs + further["residual"].astype("float32")
    if "relu" in after:
        theirs = np.maximum(theirs, 0)
    convolution = onednn.Convolution(
        LIBRARY,
        "outputs",
        **{name: a.shape for name, a in given.items()},
        dtype=np.dtype(dtype).name,
        after=after,
        **window,
    )
    filled = given | {"outputs": np.full_like(given["outputs"], 7)}
    used = [further[name].ctypes.data for name in after if name != "relu"]
    convolution(*(a.ctypes.data for a in filled.values()), *used)
    ours = filled["outputs"].astype(np.float32)
    tolerance = 1e-5 if dtype == np.float32 else 2**-8
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@installed
def test_what_does_not_fit_is_refused():
    given = arrays((2, 9, 7, 16), (3, 3, 16, 8), (2, 9, 9, 8))
    with pytest.raises(RuntimeError, match="convolution_forward.* failed with status"):
        computed("outputs", given, stride=2, padding=1, groups=1)


@pytest.fixture
def afresh():
    onednn.library.cache_clear()
    yield
    onednn.library.cache_clear()


def test_without_the_distribution_there_is_none(monkeypatch, afresh):
    monkeypatch.setattr(onednn, "DISTRIBUTION", "no-such-distribution")
    assert onednn.library() is None


def test_a_library_that_does_not_load_is_none(monkeypatch, tmp_path, afresh):
    broken = tmp_path / "libdnnl.so.3"
    broken.write_bytes(b"not a library")

    class File:
        name = broken.name

        def locate(self):
            return broken

    monkeypatch.setattr(importlib.metadata, "files", lambda name: [File()])
    assert onednn.library() is None
