import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtune import split_module
from jaxtune.inspect.gradcam import (
    GradCam,
    grad_cam,
    larger_sizes,
    plot_grad_cams,
    scale_heat,
)
from jaxtune.models import Conv, Sequential


class Square(nnx.Module):
    def __call__(self, x):
        return x**2


class WeightedMean(nnx.Module):
    """Logits: the channels' means times a matrix."""

    def __init__(self, matrix):
        self.matrix = nnx.Param(jnp.asarray(matrix))

    def __call__(self, x):
        return x.mean((1, 2)) @ self.matrix[...]


class Listed(nnx.Module):
    """A network of one's own, whose blocks are in a list."""

    def __init__(self):
        self.blocks = nnx.List([Square(), Square()])
        self.end = WeightedMean([[1.0, -1.0], [2.0, 0.5]])

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.end(x)


@pytest.fixture(scope="module")
def tiny():
    """Body: squares; head: means times a matrix. All can be written down by hand."""
    head = WeightedMean([[1.0, -1.0, 0.0], [2.0, 0.5, -3.0]])
    return Sequential({"body": Square(), "head": head})


IMAGES = np.random.default_rng(0).normal(size=(4, 3, 5, 2)).astype(np.float32)


def test_a_tiny_networks_maps_are_those_derived_by_hand(tiny):
    parts = split_module(tiny)
    matrix = np.asarray(tiny.head.matrix[...])
    features = IMAGES**2
    logits = features.mean((1, 2)) @ matrix
    for asked, classes in (
        (1, [1] * 4),
        (np.array([0, 1, 2, 1]), [0, 1, 2, 1]),
        (None, logits.argmax(1)),
    ):
        # d logit / d feature is matrix[channel, class] / places, at every place.
        weights = matrix.T[classes] / 15
        expected = np.maximum((features * weights[:, None, None]).sum(-1), 0)
        found = grad_cam(*parts, IMAGES, class_index=asked)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    jitted = jax.jit(lambda p, s, x: grad_cam(parts[0], p, s, x, class_index=1))
    np.testing.assert_allclose(
        jitted(*parts[1:], IMAGES), grad_cam(*parts, IMAGES, class_index=1), rtol=1e-5
    )


class Smooth(nnx.Module):
    """A convolution whose output is bent."""

    def __init__(self, ins, outs, rngs):
        self.conv = Conv(ins, outs, 3, stride=2, padding=1, rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(self.conv(x))


@pytest.mark.parametrize("layer", ["body", "body.first", "body.second.conv"])
def test_a_deep_networks_weights_are_finite_differences(layer):
    rngs = nnx.Rngs(4)
    body = Sequential({"first": Smooth(2, 4, rngs), "second": Smooth(4, 5, rngs)})
    head = WeightedMean(np.random.default_rng(2).normal(size=(5, 3)))
    net = Sequential({"body": body, "head": head})
    images = jax.random.normal(jax.random.key(1), (1, 9, 12, 2))
    found = np.asarray(grad_cam(*split_module(net), images, layer=layer, class_index=2))

    @jax.jit
    def run(change):
        network = nnx.merge(*split_module(net))
        node, *names = network, *layer.split(".")
        for name in names[:-1]:
            node = getattr(node, name)
        inner, seen = getattr(node, names[-1]), []

        class Moved(nnx.Module):
            def __call__(self, x):
                seen.append(inner(x))
                return seen[0] + change

        setattr(node, names[-1], Moved())
        return network(images)[0, 2], seen[0]

    features = np.asarray(run(jnp.zeros(1))[1])
    assert found.shape == features.shape[:3]
    # The mean derivative by a channel: all its places moved together, divided by them.
    step, places = 1e-2, features.shape[1] * features.shape[2]
    moves = step * np.eye(features.shape[-1], dtype=np.float32)
    slopes = [(run(move)[0] - run(-move)[0]) / (2 * step) for move in moves]
    weights = np.asarray(slopes) / places
    expected = np.maximum((features * weights).sum(-1), 0)
    np.testing.assert_allclose(found, expected, atol=1e-3 * expected.max())
    assert expected.max() > 0


def test_a_list_of_blocks_is_named_by_number():
    parts = split_module(Listed())
    found = grad_cam(*parts, IMAGES, layer="blocks.0", class_index=0)
    first = IMAGES**2
    slopes = (2 * first / 15 * np.array([1.0, 2.0])).mean((1, 2), keepdims=True)
    np.testing.assert_allclose(
        found, np.maximum((first * slopes).sum(-1), 0), rtol=1e-5
    )


def test_what_is_no_map_is_refused_with_the_names_there_are(tiny):
    parts = split_module(tiny)
    with pytest.raises(
        ValueError, match="no layer 'tail': in the network.* body, head"
    ):
        grad_cam(*parts, IMAGES, layer="tail")
    with pytest.raises(ValueError, match="in body there is no module"):
        grad_cam(*parts, IMAGES, layer="body.conv")
    with pytest.raises(ValueError, match=r"'head' is \(4, 3\)"):
        grad_cam(*parts, IMAGES, layer="head")
    shared = Square()
    twice = Sequential(
        {"body": Sequential({"a": shared, "b": shared}), "head": tiny.head}
    )
    with pytest.raises(ValueError, match="'body.a' is called 2 times"):
        grad_cam(*split_module(twice), IMAGES, layer="body.a")


def test_heat_is_scaled_to_its_highest_place():
    maps = np.stack([np.zeros((2, 2)), np.array([[1.0, 2.0], [4.0, 0.0]])])
    np.testing.assert_array_equal(scale_heat(maps)[0], 0)
    np.testing.assert_array_equal(scale_heat(maps)[1], [[0.25, 0.5], [1, 0]])


def test_heat_lies_over_the_photo():
    pytest.importorskip("matplotlib")
    heat = np.array([[1.0, 0.0], [0.0, 0.0]], np.float32)
    cam = GradCam(np.zeros((8, 8, 3), np.uint8), heat, "ant", 0.75)
    figure = cam.plot()
    plain, over = figure.axes
    assert len(plain.images) == 1 and len(over.images) == 2
    assert over.get_title() == "ant 0.75"
    np.testing.assert_array_equal(over.images[1].get_array(), heat)
    assert len(plot_grad_cams([cam, cam, cam]).axes) == 6


def test_photos_are_looked_at_larger_but_never_enlarged():
    assert larger_sizes((128, 128), (500, 375)) == [(224, 224)]
    assert larger_sizes((64, 64), (500, 375)) == [(224, 224), (128, 128)]
    assert larger_sizes((64, 128), (500, 500)) == [(224, 448), (128, 256)]
    assert larger_sizes((64, 64), (150, 400)) == [(128, 128)]
    for size in ((224, 224), (256, 320)):
        assert larger_sizes(size, (1000, 1000)) == []
    assert larger_sizes((64, 64), (64, 200)) == larger_sizes((64, 64), (20, 20)) == []
