import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtune.models import (
    AvgPool,
    BatchNorm,
    Conv,
    GlobalAvgPool,
    Linear,
    MaxPool,
    ReLU,
    kaiming_normal,
)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


@pytest.mark.parametrize("stride", [1, 2])
def test_a_1x1_convolution_written_as_a_product_is_the_convolution(stride):
    conv = Conv(5, 7, 1, stride=stride, rngs=nnx.Rngs(0))
    x = normal(2, 9, 8, 5)
    expected = jax.lax.conv_general_dilated(
        x,
        conv.weight[...],
        (stride, stride),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    np.testing.assert_allclose(conv(x), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sides", [(1, 1), (1, 2), (2, 2), (4, 1)])
@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (7, 2, 3), (2, 1, 1)]
)
def test_a_convolution_of_few_places_is_the_convolution(
    sides, size, stride, padding, monkeypatch
):
    monkeypatch.setenv("JAXTUNE_ONEDNN", "0")
    conv = Conv(5, 7, size, stride=stride, padding=padding, rngs=nnx.Rngs(0))
    x = normal(2, *sides, 5)

    def library(x, weight):
        return jax.lax.conv_general_dilated(
            x,
            weight,
            (stride, stride),
            [(padding, padding)] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    expected, back = jax.vjp(library, x, conv.weight[...])
    assert "conv_general_dilated" not in str(jax.make_jaxpr(conv)(x))
    np.testing.assert_allclose(conv(x), expected, rtol=1e-5, atol=1e-5)
    ours = jax.grad(
        lambda x, w: (nnx.merge(graphdef, nnx.State({"weight": w}))(x) ** 2).sum(),
        argnums=(0, 1),
    )
    graphdef = nnx.graphdef(conv)
    for found, wanted in zip(
        ours(x, conv.weight[...]), back(2 * expected), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


def test_convolution_by_hand():
    """One 3x3 window, padding 1, stride 2, two groups."""
    conv = Conv(4, 2, 3, stride=2, padding=1, groups=2, use_bias=True, rngs=nnx.Rngs(0))
    conv.bias.set_value(jnp.asarray([1.0, -1.0]))
    x, weight = normal(1, 5, 5, 4), np.asarray(conv.weight[...])
    assert weight.shape == (3, 3, 2, 2)
    y = np.asarray(conv(x))
    assert y.shape == (1, 3, 3, 2)
    x = np.asarray(x)
    window = x[0, 1:4, 1:4]
    by_hand = [
        (window[..., :2] * weight[..., 0]).sum() + 1,
        (window[..., 2:] * weight[..., 1]).sum() - 1,
    ]
    np.testing.assert_allclose(y[0, 1, 1], by_hand, rtol=1e-4)
    corner = (x[0, :2, :2, :2] * weight[1:, 1:, :, 0]).sum() + 1
    np.testing.assert_allclose(y[0, 0, 0, 0], corner, rtol=1e-4)


def test_batch_norm_has_pytorchs_statistics():
    """Momentum 0.1 for the new batch, and the unbiased variance."""
    norm, x = BatchNorm(3), normal(4, 5, 6, 3) * 2 + 1
    y, x = np.asarray(norm(x)), np.asarray(x)
    mean, var = x.mean((0, 1, 2)), x.var((0, 1, 2))
    np.testing.assert_allclose(
        y, (x - mean) / np.sqrt(var + 1e-5), rtol=1e-3, atol=1e-5
    )
    unbiased = x.reshape(-1, 3).var(0, ddof=1)
    np.testing.assert_allclose(norm.running_mean[...], 0.1 * mean, rtol=1e-4)
    np.testing.assert_allclose(norm.running_var[...], 0.9 + 0.1 * unbiased, rtol=1e-4)


def test_batch_norm_in_eval_mode_uses_and_keeps_its_statistics():
    norm = BatchNorm(3)
    norm.running_mean.set_value(jnp.asarray([1.0, 2.0, 3.0]))
    norm.running_var.set_value(jnp.asarray([4.0, 9.0, 16.0]))
    norm.weight.set_value(jnp.asarray([1.0, 2.0, 3.0]))
    view = nnx.view(norm, use_running_average=True)
    y = view(jnp.asarray([[3.0, 5.0, 7.0]]))
    np.testing.assert_allclose(y, [[1.0, 2.0, 3.0]], rtol=1e-5)
    assert norm.running_mean[0] == 1.0 and not norm.use_running_average


def test_batch_norm_of_one_row_has_no_nan():
    assert jnp.isfinite(BatchNorm(3)(jnp.ones((1, 3)))).all()


def test_batch_norm_computes_statistics_of_bfloat16_in_float32():
    norm = BatchNorm(2)
    y = norm(jnp.full((64, 2), 100.5, jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert norm.running_mean[...].dtype == jnp.float32


def test_max_pool_pads_with_nothing():
    x = jnp.full((1, 5, 5, 1), -3.0)
    y = MaxPool(3, stride=2, padding=1)(x)
    assert y.shape == (1, 3, 3, 1) and (y == -3).all()


def test_average_pool_keeps_short_windows_at_the_edge():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    y = AvgPool(2)(x)
    np.testing.assert_allclose(y[0, :, :, 0], [[2.0, 3.5], [6.5, 8.0]])


def test_linear_and_global_pool():
    linear = Linear(3, 2, rngs=nnx.Rngs(0))
    linear.bias.set_value(jnp.asarray([1.0, 2.0]))
    x = normal(4, 3)
    expected = np.asarray(x) @ np.asarray(linear.weight[...]) + np.asarray([1.0, 2.0])
    np.testing.assert_allclose(linear(x), expected, rtol=1e-5, atol=1e-6)
    maps = normal(2, 4, 5, 3)
    np.testing.assert_allclose(GlobalAvgPool()(maps), maps.mean((1, 2)), atol=1e-6)
    assert (ReLU()(jnp.asarray([-1.0, 2.0])) == jnp.asarray([0.0, 2.0])).all()


@pytest.mark.parametrize(("fan", "size"), [("fan_in", 512), ("fan_out", 128)])
def test_kaiming_normal_has_the_papers_deviation(fan, size):
    drawn = kaiming_normal(jax.random.key(0), (512, 128), fan=fan)
    assert float(drawn.std()) == pytest.approx((2 / size) ** 0.5, rel=0.02)
    assert abs(float(drawn.mean())) < 1e-3
