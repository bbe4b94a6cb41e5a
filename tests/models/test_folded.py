"""A convolution that carries the affine map after it, as it is lowered for CUDA."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtune.models import BatchNorm, Conv
from jaxtune.models.convolution import convolve_affine
from jaxtune.models.folded import folded_affine
from jaxtune.models.layers import conv_norm
from jaxtune.models.plain import affine, plain_convolve
from jaxtune.train import with_precision
from jaxtune.transfer import evaluating


def operands(dtype, *, stride=1, groups=1):
    rng = np.random.default_rng(0)
    side = 8 // stride
    arrays = [
        rng.normal(size=(2, 8, 8, 6)),
        rng.normal(size=(3, 3, 6 // groups, 4)) / 5,
        rng.normal(size=4),
        rng.normal(size=4),
        rng.normal(size=(2, side, side, 4)),
    ]
    kinds = [dtype, dtype, "float32", "float32", dtype]
    return [jnp.asarray(a, kind) for a, kind in zip(arrays, kinds, strict=True)]


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("with_residual", [False, True])
@pytest.mark.parametrize(("stride", "groups"), [(1, 1), (2, 1), (1, 2)])
def test_the_values_are_those_of_the_separate_operations(
    stride, groups, with_residual, relu
):
    *parts, residual = operands("float32", stride=stride, groups=groups)
    residual = residual if with_residual else None
    window = {"stride": stride, "padding": 1, "groups": groups}
    expected = affine(
        plain_convolve(*parts[:2], **window), *parts[2:], residual, relu=relu
    )
    folded = folded_affine(*parts, residual, relu=relu, **window)
    np.testing.assert_allclose(folded, expected, rtol=1e-5, atol=1e-5)


def test_in_bfloat16_they_are_float32s_to_the_rounding_of_weights_and_outputs():
    wide = operands("float32")
    narrow = operands("bfloat16")
    folded = folded_affine(*narrow, relu=True, padding=1)
    assert folded.dtype == "bfloat16"
    expected = folded_affine(*wide, relu=True, padding=1)
    np.testing.assert_allclose(folded.astype("float32"), expected, rtol=0.02, atol=0.03)


def lowered_for(platform, dtype="float32"):
    run = jax.jit(lambda *arrays: convolve_affine(*arrays, relu=True, padding=1))
    return run.trace(*operands(dtype)).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_on_cuda_the_weights_are_scaled_and_elsewhere_the_outputs(dtype):
    scaled = r"stablehlo\.multiply .*tensor<3x3x6x4xf32>"
    assert re.search(scaled, lowered_for("cuda", dtype))
    for platform in ("cpu", "tpu", "rocm"):
        assert not re.search(scaled, lowered_for(platform, dtype))


def test_on_cuda_nothing_but_bias_sum_and_relu_follows_the_convolution():
    """The pattern that XLA turns into one call of cuDNN, in the outputs' own dtype."""
    text = lowered_for("cuda", "bfloat16")
    after = text[text.index("stablehlo.convolution") :]
    following = re.findall(r"stablehlo\.(\w+) .*tensor<2x8x8x4x(\w+)>", after)
    operations = [name for name, _ in following if name != "broadcast_in_dim"]
    assert operations == ["add", "add", "maximum"]
    assert {dtype for _, dtype in following} == {"bf16"}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_networks_convolution_and_norm_are_one_operation(precision):
    class Block(nnx.Module):
        def __init__(self):
            self.conv, self.norm = Conv(6, 4, 3, rngs=nnx.Rngs(0)), BatchNorm(4)

        def __call__(self, x):
            return conv_norm(self.conv, self.norm, x, relu=True)

    view = with_precision(evaluating(Block()), precision)
    names = str(jax.make_jaxpr(view)(jnp.ones((2, 8, 8, 6))))
    assert names.count("convolution_affine[") == 1 and "convolution[" not in names
