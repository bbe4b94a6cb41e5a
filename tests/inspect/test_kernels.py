import numpy as np
import pytest
from flax import nnx
from runs import smallest_network

from jaxtune import create_cnn_model
from jaxtune.inspect.kernels import (
    first_layer_kernels,
    first_weight,
    outputs_first,
    plot_kernels,
)
from jaxtune.models import Conv, GlobalAvgPool, Sequential


def test_kernels_are_the_first_convolutions_scaled_about_grey():
    net = create_cnn_model(smallest_network, 3, cut=2, hidden=(8,))
    found = first_layer_kernels(net)
    weight = np.asarray(net.body.conv1.weight[...])
    assert found.shape == (8, 3, 3, 3) and found.dtype == np.float32
    for i in (0, 7):
        kernel = weight[..., i]
        np.testing.assert_allclose(
            found[i], 0.5 + 0.5 * kernel / np.abs(kernel).max(), rtol=1e-5
        )
    np.testing.assert_allclose(np.abs(found - 0.5).max(axis=(1, 2, 3)), 0.5)
    assert first_weight(net)[0] == ("body", "conv1", "weight")
    np.testing.assert_array_equal(first_weight(net)[1], outputs_first(weight))


class Own(nnx.Module):
    def __init__(self):
        self.scale = nnx.Param(np.ones(3, np.float32))
        self.blocks = nnx.List([nnx.Conv(3, 5, (3, 3), rngs=nnx.Rngs(0))])


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_number_of_channels(channels):
    conv = Conv(channels, 6, 3, rngs=nnx.Rngs(1))
    found = first_layer_kernels(Sequential({"conv": conv}))
    assert found.shape == (6, 3, 3, 3)
    weight = outputs_first(conv.weight[...])
    if channels == 1:
        np.testing.assert_array_equal(found[..., 0], found[..., 2])
    if channels == 2:
        np.testing.assert_array_equal(found[..., 2], 0.5)
    scale = np.abs(weight).max(axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(
        found[..., 0], (0.5 + 0.5 * weight / scale)[..., 0], rtol=1e-5
    )


def test_networks_of_ones_own_and_none_at_all():
    assert first_weight(Own())[0] == ("blocks", "0", "kernel")
    assert first_layer_kernels(Own()).shape == (5, 3, 3, 3)
    with pytest.raises(ValueError, match="Sequential has no convolution"):
        first_layer_kernels(Sequential({"pool": GlobalAvgPool()}))
    dead = Conv(3, 2, 3, rngs=nnx.Rngs(1))
    dead.weight.set_value(dead.weight[...] * 0)
    np.testing.assert_array_equal(first_layer_kernels(dead), 0.5)


def test_before_and_now_share_a_scale_and_the_change_is_enlarged():
    pytest.importorskip("matplotlib")
    now = np.random.default_rng(0).normal(size=(5, 3, 3, 3)).astype(np.float32)
    assert len(plot_kernels(now).axes) == 1
    before = now.copy()
    before[0] *= 0.5
    figure = plot_kernels(now, before, titles=("then", "now"))
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["then", "now", "change x 2"]
    then, present, change = (
        np.asarray(axes.images[0].get_array())[:3, :3] for axes in figure.axes
    )
    np.testing.assert_allclose((then - 0.5) * 2, present - 0.5, atol=1e-6)
    np.testing.assert_allclose(change, present, atol=1e-6)
    same = plot_kernels(now, now)
    assert same.axes[2].get_title() == "no change"
    with pytest.raises(ValueError, match="must have one shape"):
        plot_kernels(now, now[:2])
