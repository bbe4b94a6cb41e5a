import functools

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
from jaxtune.models.layers import conv_norm, in_one_operation


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

    graphdef = nnx.graphdef(conv)

    def layer(x, weight):
        return nnx.merge(graphdef, nnx.State({"weight": weight}))(x)

    @functools.partial(jax.jit, static_argnums=0)
    def found(convolution, x, weight):
        squares = jax.grad(lambda *a: (convolution(*a) ** 2).sum(), argnums=(0, 1))
        return convolution(x, weight), *squares(x, weight)

    text = jax.jit(layer).trace(x, conv.weight[...]).lower(lowering_platforms=("cpu",))
    assert "stablehlo.convolution" not in text.as_text()
    ours, theirs = (found(f, x, conv.weight[...]) for f in (layer, library))
    for value in (conv(x), ours[0]):
        np.testing.assert_allclose(value, theirs[0], rtol=1e-5, atol=1e-5)
    for one, other in zip(ours[1:], theirs[1:], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)


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


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_parts_of_a_batch_are_normalised_by_themselves(dtype):
    norm, x = BatchNorm(3), normal(6, 5, 4, 3) * 2 + jnp.arange(6)[:, None, None, None]
    norm.dtype, x = (None if dtype == jnp.float32 else dtype), x.astype(dtype)
    parts = [nnx.clone(norm) for _ in range(3)]
    each = [part(x[2 * i : 2 * i + 2]) for i, part in enumerate(parts)]
    found = nnx.view(norm, batch_parts=3)(x)
    assert found.dtype == dtype
    np.testing.assert_allclose(
        np.asarray(found, np.float32),
        np.asarray(jnp.concatenate(each), np.float32),
        atol=2e-2 if dtype == jnp.bfloat16 else 1e-5,
    )
    for name in ("running_mean", "running_var"):
        means = np.mean([getattr(part, name)[...] for part in parts], 0)
        np.testing.assert_allclose(getattr(norm, name)[...], means, rtol=1e-5)


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


class Louder(Conv):
    """A convolution of the user's own."""

    def __call__(self, x):
        return 2 * super().__call__(x)


def trained_norm(channels=6):
    norm = BatchNorm(channels)
    norm.weight[...] = normal(channels, seed=1)
    norm.bias[...] = normal(channels, seed=2)
    norm.running_mean[...] = normal(channels, seed=3)
    norm.running_var[...] = normal(channels, seed=4) ** 2 + 0.1
    return norm


@pytest.mark.parametrize("kind", [Conv, Louder])
@pytest.mark.parametrize("use_running_average", [True, False])
@pytest.mark.parametrize("use_bias", [True, False])
@pytest.mark.parametrize(("shortcut", "relu"), [(False, True), (True, True), (0, 0)])
def test_convolution_and_norm_at_once_are_the_two_in_turn(
    kind, use_running_average, use_bias, shortcut, relu
):
    conv = kind(4, 6, 3, stride=2, padding=1, use_bias=use_bias, rngs=nnx.Rngs(0))
    if use_bias:
        conv.bias[...] = normal(6, seed=6)
    x, residual = normal(2, 7, 7, 4), normal(2, 4, 4, 6, seed=5)
    norms = [nnx.view(trained_norm(), use_running_average=use_running_average)]
    norms.append(nnx.clone(norms[0]))
    expected = norms[0](conv(x)) + (residual if shortcut else 0)
    expected = jnp.maximum(expected, 0) if relu else expected
    given = (lambda: residual) if shortcut else None
    found = conv_norm(conv, norms[1], x, residual=given, relu=bool(relu))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert (norms[0].running_mean[...] == norms[1].running_mean[...]).all()


def test_what_is_computed_in_one_operation():
    conv, other = (kind(3, 3, 1, rngs=nnx.Rngs(0)) for kind in (Conv, Louder))
    training = BatchNorm(3)
    norm = nnx.view(training, use_running_average=True)
    count = in_one_operation
    assert count([conv, norm, ReLU(), conv]) == 3
    assert count([conv, norm]) == count([conv, norm, nnx.relu, ReLU()]) == 2
    assert count([]) == count([conv]) == count([norm, conv, ReLU()]) == 0
    assert count([conv, training, ReLU()]) == count([other, norm, ReLU()]) == 0
