"""The convolution that others are compared with, and who may compute ours."""

import jax
import pytest

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
