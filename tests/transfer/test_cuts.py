import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtune.models import BasicBlock, GlobalAvgPool, Linear, ResNet, Sequential
from jaxtune.transfer import create_body, evaluating, inspect_cuts, num_features

RNGS = nnx.Rngs(0)


class Own(nnx.Module):
    """A network nobody told us about: a list, functions between children, a branch."""

    def __init__(self, rngs):
        self.last = nnx.Linear(8, 10, rngs=rngs)
        self.conv = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.blocks = nnx.List([nnx.Conv(8, 8, (3, 3), rngs=rngs) for _ in range(2)])
        self.drop = nnx.Dropout(0.5)

    def __call__(self, x, rngs=None):
        x = nnx.relu(self.norm(self.conv(x)))
        for block in self.blocks:
            x = x + nnx.relu(block(x))
        return self.last(self.drop(x.mean((1, 2)), rngs=rngs))


@pytest.fixture(scope="module")
def own():
    return Own(RNGS)


@pytest.fixture(scope="module")
def resnet():
    return ResNet(BasicBlock, (1, 1, 1, 1), num_classes=10, rngs=RNGS)


def paths(module) -> set[str]:
    flat = nnx.to_flat_state(nnx.state(module))
    return {".".join(map(str, path)) for path, _ in flat}


def test_cuts_of_a_sequence_are_numbered_as_fastai_counts(resnet):
    cuts = inspect_cuts(resnet)
    assert [cut.name for cut in cuts] == list(resnet.names)
    assert cuts[7].index == 8 and cuts[7].shape == (1, 2, 2, 512)
    assert cuts[-1].num_parameters == 512 * 10 + 10


def test_cuts_of_an_unknown_network_are_in_the_order_of_its_calls(own):
    cuts = inspect_cuts(own)
    assert [cut.name for cut in cuts] == [
        *("conv", "norm", "blocks.0", "blocks.1", "drop", "last")
    ]
    assert cuts[3].shape == (1, 32, 32, 8) and cuts[-1].shape == (1, 10)
    assert "after 'blocks.1'" in str(cuts[3]) and "(b, 32, 32, 8)" in str(cuts[3])


def test_inspecting_changes_nothing(own):
    before = jax.tree.map(np.asarray, nnx.as_pure(nnx.state(own)))
    inspect_cuts(own)
    num_features(create_body(own))
    after = nnx.as_pure(nnx.state(own))
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize("cut", [None, -2, 8, "layer4", lambda net: net[:-2]])
def test_every_form_of_cut_gives_the_resnets_body(resnet, cut):
    body = create_body(resnet, cut)
    assert body.names == resnet.names[:-2] and body[7] is resnet.layer4
    assert num_features(body) == 512


def test_an_unknown_network_is_cut_where_its_last_feature_map_is(own):
    body = create_body(own)
    assert paths(body) == paths(own) - {"last.kernel", "last.bias"}
    assert body.conv.kernel is own.conv.kernel
    x = jax.random.normal(jax.random.key(0), (2, 16, 16, 3))
    seen = evaluating(own)
    h = nnx.relu(seen.norm(seen.conv(x)))
    h = h + nnx.relu(seen.blocks[0](h))
    np.testing.assert_allclose(evaluating(body)(x), seen.blocks[1](h), rtol=1e-5)


def test_two_cuts_of_one_network_are_one_graph_and_run_under_jit(own):
    one, two = evaluating(create_body(own)), evaluating(create_body(own))
    assert nnx.graphdef(one) == nnx.graphdef(two)
    graphdef, state = nnx.split(one)
    x = jnp.ones((1, 8, 8, 3))
    y = jax.jit(lambda state, x: nnx.merge(graphdef, state)(x))(state, x)
    np.testing.assert_allclose(y, one(x), rtol=1e-5, atol=1e-6)


def test_cutting_by_name_drops_everything_after(own):
    body = create_body(own, cut="blocks.0")
    assert not any(path.startswith(("blocks.1", "last")) for path in paths(body))
    assert evaluating(body)(jnp.ones((1, 8, 8, 3))).shape == (1, 4, 4, 8)


def test_nnx_sequential_can_be_cut():
    net = nnx.Sequential(
        nnx.Conv(3, 4, (3, 3), rngs=RNGS), jax.nn.relu, GlobalAvgPool(),
        nnx.Linear(4, 2, rngs=RNGS),
    )  # fmt: skip
    body = create_body(net)
    assert len(body.layers) == 2 and num_features(body) == 4


def test_activations_after_the_last_map_belong_to_the_body():
    net = Sequential(
        {
            "conv": nnx.Conv(3, 4, (3, 3), rngs=RNGS),
            "relu": jax.nn.relu,
            "pool": GlobalAvgPool(),
            "fc": Linear(4, 2, rngs=RNGS),
        }
    )
    assert create_body(net).names == ("conv", "relu")


def test_an_ambiguous_cut_is_an_error_which_shows_the_choices():
    """VGG's case: a pooling that leaves a map, then a classifier."""
    net = Sequential(
        {
            "conv": nnx.Conv(3, 4, (3, 3), rngs=RNGS),
            "pool": lambda x: nnx.max_pool(x, (8, 8), (8, 8)),
            "flat": lambda x: x.reshape(x.shape[0], -1),
            "fc": nnx.Linear(8 * 8 * 4, 2, rngs=RNGS),
        }
    )
    with pytest.raises(ValueError, match="more than one cut fits") as caught:
        create_body(net)
    assert "cut=1" in str(caught.value) and "cut=2" in str(caught.value)
    assert create_body(net, cut="pool").names == ("conv", "pool")


def test_a_convolutional_classifier_is_not_taken_for_the_body():
    """SqueezeNet's case: the last feature map is the logits'."""
    net = Sequential(
        {
            "features": nnx.Conv(3, 16, (3, 3), rngs=RNGS),
            "classifier": nnx.Conv(16, 10, (1, 1), rngs=RNGS),
            "pool": GlobalAvgPool(),
        }
    )
    with pytest.raises(ValueError, match="may be the classifier itself"):
        create_body(net)


def test_a_network_without_feature_maps_is_an_error():
    net = Sequential(
        {
            "flat": lambda x: x.reshape(x.shape[0], -1),
            "fc": nnx.Linear(64 * 64 * 3, 2, rngs=RNGS),
        }
    )
    with pytest.raises(ValueError, match="no child gives out a feature map"):
        create_body(net)
    with pytest.raises(ValueError, match="must return feature maps"):
        num_features(net)


@pytest.mark.parametrize(
    ("cut", "error", "match"),
    [
        ("fc2", ValueError, "cut='fc2' is not a child of ResNet"),
        (11, ValueError, "cut=11 leaves 11 of 10"),
        (-10, ValueError, "cut=-10 leaves 0 of 10"),
        (True, TypeError, "cut must be an int"),
        (
            lambda net: 3,
            TypeError,
            "returns must be a flax.nnx module",
        ),
    ],
)
def test_a_wrong_cut_says_what_there_is(resnet, cut, error, match):
    with pytest.raises(error, match=match):
        create_body(resnet, cut)
