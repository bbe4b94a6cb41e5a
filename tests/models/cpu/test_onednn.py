"""oneDNN alone, on numpy arrays: values, threads, refusals, and what does not fit.

It is loaded wherever it is installed, whatever this chip is.
"""

import ctypes.util
import functools
import importlib.metadata
import threading

import jax
import ml_dtypes
import numpy as np
import pytest
from convolutions import convolutions, plain
from hypothesis import given as for_all
from hypothesis import settings
from hypothesis import strategies as st

from jaxtune.models.cpu import library, onednn

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


def made(result, given, **window):
    shapes = {name: a.shape for name, a in given.items()}
    dtype = given["images"].dtype.name
    options = {**shapes, **window, "dtype": dtype}
    return LIBRARY.do(onednn.Convolution, LIBRARY, result, **options)


def computed(result, given, **window):
    convolution = made(result, given, **window)
    filled = given | {result: np.full_like(given[result], 7)}
    for _ in range(2):
        LIBRARY.do(convolution, **{name: a.ctypes.data for name, a in filled.items()})
    return filled[result]


def offers_bfloat16() -> bool:
    given = arrays((1, 4, 4, 16), (3, 3, 16, 16), (1, 2, 2, 16), ml_dtypes.bfloat16)
    try:
        made("outputs", given, stride=1, padding=0, groups=1)
    except RuntimeError:
        return False
    return True


def skip_without(dtype) -> None:
    if np.dtype(dtype).name == "bfloat16" and not offers_bfloat16():
        pytest.skip("oneDNN has no bfloat16 on this chip")


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
            ((2, 5, 5, 16), (1, 1, 16, 32), (2, 5, 5, 32)),
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
    skip_without("bfloat16")
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
    skip_without(dtype)
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
    convolution = made("outputs", given, after=after, **window)
    filled = given | {"outputs": np.full_like(given["outputs"], 7)}
    used = [further[name].ctypes.data for name in after if name != "relu"]
    LIBRARY.do(convolution, *(a.ctypes.data for a in filled.values()), *used)
    ours = filled["outputs"].astype(np.float32)
    tolerance = 1e-5 if dtype == np.float32 else 2**-8
    assert np.abs(ours - theirs).max() <= tolerance * np.abs(theirs).max()


@installed
def test_what_does_not_fit_is_refused():
    given = arrays((2, 9, 7, 16), (3, 3, 16, 8), (2, 9, 9, 8))
    with pytest.raises(RuntimeError, match="convolution_forward.* failed with status"):
        computed("outputs", given, stride=2, padding=1, groups=1)


@installed
@settings(max_examples=20, deadline=None, derandomize=True)
@for_all(
    convolutions(
        groups=[1, 1, 2, 8], channels=[1, 3, 4, 16, 64], batches=[1, 2, 5], beyond=12
    ),
    st.sampled_from([np.float32, ml_dtypes.bfloat16]),
)
def test_every_array_of_any_convolution_is_jaxs_or_refused_when_it_is_made(case, dtype):
    shapes, window = case
    arrays_given = arrays(*shapes, dtype)
    for result in onednn.RESULTS:
        try:
            made(result, arrays_given, **window)
        except RuntimeError as error:
            # Status 3: there is no such kernel on this chip.
            assert "1x1" in str(error) or "failed with status 3" in str(error)
            assert shapes[1][0] == 1 or dtype != np.float32
            continue
        ours = computed(result, arrays_given, **window).astype(np.float32)
        theirs = np.asarray(expected(result, arrays_given, **window))
        tolerance = 1e-5 if dtype == np.float32 else 2**-7
        scale = max(1.0, np.abs(theirs).max())
        assert np.abs(ours - theirs).max() <= tolerance * scale


@installed
@pytest.mark.parametrize("channels", [1, 3, 8, 40])
def test_one_pixel_kernels_of_channels_that_fill_no_vector_are_refused(channels):
    """Their weights' gradient is wrong with a stride of 2: seen with AVX2."""
    given = arrays((2, 4, 12, channels), (1, 1, channels, 16), (2, 2, 6, 16))
    with pytest.raises(RuntimeError, match="1x1"):
        made("weight", given, stride=2, padding=0, groups=1)


@installed
def test_what_one_thread_made_any_other_may_run():
    """By default oneDNN's scratch memory belongs to the thread that made a primitive.

    On chips without AVX-512 the weights' gradient of a small map uses some: run from
    another thread it wrote to memory that wasn't there, and the process ended.
    """
    window = {"stride": 1, "padding": 1, "groups": 1}
    given = arrays((32, 2, 2, 512), (3, 3, 512, 512), (32, 2, 2, 512))
    theirs = expected("weight", given, **window)
    convolution = made("weight", given, **window)
    found = {}

    def run(number):
        filled = given | {"weight": np.zeros_like(given["weight"])}
        for _ in range(3):
            LIBRARY.do(convolution, *(a.ctypes.data for a in filled.values()))
        found[number] = filled["weight"]

    threads = [threading.Thread(target=run, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for ours in found.values():
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-3)
    assert len(found) == 4


@pytest.fixture
def afresh():
    onednn.library.cache_clear()
    yield
    onednn.library.cache_clear()


def test_without_the_distribution_there_is_none(monkeypatch, afresh):
    monkeypatch.setattr(onednn, "DISTRIBUTION", "no-such-distribution")
    assert onednn.library() is None


def left_alone(monkeypatch, path, reason):
    """Asserts that a library is not used, and that one warning says why."""

    class File:
        name = "libdnnl.so.3"

        def locate(self):
            return path

    monkeypatch.setattr(importlib.metadata, "files", lambda name: [File()])
    with pytest.warns(RuntimeWarning, match=reason) as said:
        assert onednn.library() is None and onednn.library() is None
    assert len(said) == 1
    assert "XLA's own convolutions" in str(said[0].message)


def test_a_library_that_does_not_load_is_left_alone(monkeypatch, tmp_path, afresh):
    broken = tmp_path / "libdnnl.so.3"
    broken.write_bytes(b"not a library")
    left_alone(monkeypatch, broken, "can't be used: .*libdnnl")


def test_another_library_of_that_name_is_left_alone(monkeypatch, afresh):
    left_alone(monkeypatch, ctypes.util.find_library("m"), "no dnnl_version")


@installed
def test_another_version_is_left_alone(monkeypatch, afresh):
    monkeypatch.setattr(library, "_MAJOR", 4)
    files = importlib.metadata.files(onednn.DISTRIBUTION)
    path = next(f.locate() for f in files if f.name == "libdnnl.so.3")
    left_alone(monkeypatch, path, r"version 3\.\d+ is not 4\.x")


@installed
def test_a_library_that_convolves_wrongly_is_left_alone(monkeypatch, afresh):
    files = importlib.metadata.files(onednn.DISTRIBUTION)
    path = next(f.locate() for f in files if f.name == "libdnnl.so.3")
    run = onednn.Library.run
    # 129: the images' gradient, which then is not computed.
    monkeypatch.setattr(
        onednn.Library,
        "run",
        lambda self, *given: None if given[1][0].number == 129 else run(self, *given),
    )
    left_alone(monkeypatch, path, "its images of a small convolution are wrong")
