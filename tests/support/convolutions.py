"""The convolution that others are compared with, and who may compute ours."""

import functools
from collections.abc import Sequence

import jax
import numpy as np
import pytest
from hypothesis import strategies as st

from jaxtune.models import convolution
from jaxtune.models.cpu import onednn

#: oneDNN computes on a CPU, where it loads; it must on any.
WHO = ("XLA", "oneDNN")

needs_cpu = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="of programs on a CPU"
)


def plain(images, weight, *, stride=1, padding=0, groups=1):
    """Returns the convolved images, as JAX has the operation."""
    return jax.lax.conv_general_dilated(
        images,
        weight,
        (stride, stride),
        [(padding, padding)] * 2,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def has_onednn() -> bool:
    """Returns whether oneDNN can compute in this process's programs."""
    return jax.default_backend() == "cpu" and onednn.library() is not None


def choose(who: str, monkeypatch) -> None:
    """Makes programs that are lowered from now on convolve by one of `WHO`."""
    if who == "oneDNN" and not has_onednn():
        pytest.skip(f"{onednn.DISTRIBUTION} can't be used here")
    monkeypatch.setenv("JAXTUNE_ONEDNN", "1" if who == "oneDNN" else "0")
    # Programs of single operations are kept, whoever computes them.
    for program in convolution._compiled:
        program.clear_cache()


def close(ours, theirs, *, rtol=1e-5, atol=1e-5, least=10.0) -> None:
    """Asserts that two trees are the same up to rounding.

    Args:
        ours: Arrays.
        theirs: Those that are expected.
        rtol: Of each value.
        atol: Of an array's largest value, or of `least` if that is more.
        least: See `atol`.
    """
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(
            np.asarray(a, np.float32),
            np.asarray(b, np.float32),
            rtol=rtol,
            atol=atol * max(least, float(abs(b).max())),
        ),
        ours,
        theirs,
    )


@st.composite
def convolutions(
    draw,
    *,
    groups: Sequence[int],
    channels: Sequence[int],
    batches: Sequence[int],
    beyond: int,
):
    """Any convolution that has outputs: (images, weight, outputs), and the window.

    Args:
        draw: Hypothesis's own.
        groups: To choose from.
        channels: Of a group, to choose from.
        batches: To choose from.
        beyond: How much larger than the smallest the images may be.
    """
    size = draw(st.sampled_from([1, 2, 3, 5, 7]))
    window = {
        "stride": draw(st.integers(1, 3)),
        "padding": draw(st.integers(0, 3)),
        "groups": draw(st.sampled_from(groups)),
    }
    smallest = max(1, size - 2 * window["padding"])
    height, width = (draw(st.integers(smallest, smallest + beyond)) for _ in range(2))
    inputs, outputs = (
        window["groups"] * draw(st.sampled_from(channels)) for _ in range(2)
    )
    images = (draw(st.sampled_from(batches)), height, width, inputs)
    weight = (size, size, inputs // window["groups"], outputs)
    made = jax.eval_shape(
        functools.partial(plain, **window),
        *(jax.ShapeDtypeStruct(shape, "float32") for shape in (images, weight)),
    )
    return (images, weight, made.shape), window


def counts_by_platform(traced, words: str) -> dict[str, int]:
    """Returns how often a traced program's text has some words, for each platform."""
    return {
        platform: traced.lower(lowering_platforms=(platform,)).as_text().count(words)
        for platform in ("cpu", "cuda", "tpu")
    }
