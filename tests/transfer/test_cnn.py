import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtune import create_cnn_model, resnet18, resnet34
from jaxtune.models import BasicBlock, GlobalAvgPool, Linear, ResNet, Sequential
from jaxtune.train import split_module
from jaxtune.transfer import evaluating


def tiny(rngs=None, num_classes=1000):
    return ResNet(
        BasicBlock, (1, 1, 1, 1), num_classes=num_classes, rngs=rngs or nnx.Rngs(1)
    )


def size(module) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(split_module(module)[1]))


def test_resnet34_with_37_classes_has_fastais_number_of_parameters():
    net = nnx.eval_shape(lambda: create_cnn_model(resnet34, 37, pretrained=False))
    assert size(net) == 21_830_976
    assert size(net[0]) == 21_284_672 and size(net[1]) == 546_304


def test_paths_are_body_or_head_and_the_published_name():
    net = nnx.eval_shape(lambda: create_cnn_model(resnet18, 3, pretrained=False))
    paths = {".".join(path) for path, _ in nnx.to_flat_state(nnx.state(net))}
    assert {"body.layer1.0.conv1.weight", "body.bn1.running_mean"} <= paths
    assert "head.linear2.weight" in paths and not any("fc" in path for path in paths)


def test_the_body_keeps_its_values_and_a_change_of_it_stays():
    network = tiny()
    net = create_cnn_model(network, 3)
    assert net[0].conv1 is network.conv1
    net[0][0] = nnx.Conv(4, 64, (7, 7), strides=2, rngs=nnx.Rngs(0))
    assert evaluating(net)(jnp.ones((2, 64, 64, 4))).shape == (2, 3)


def test_arguments_reach_a_function_that_takes_them():
    seen = {}

    def arch(pretrained, in_channels, rngs):
        seen.update(pretrained=pretrained, in_channels=in_channels)
        return ResNet(BasicBlock, (1, 1, 1, 1), in_channels=in_channels, rngs=rngs)

    net = create_cnn_model(arch, 3, pretrained=False, in_channels=4)
    assert seen == {"pretrained": False, "in_channels": 4}
    assert evaluating(net)(jnp.ones((1, 32, 32, 4))).shape == (1, 3)


def test_a_head_of_ones_own():
    head = Sequential({"pool": GlobalAvgPool(), "fc": Linear(512, 3, rngs=nnx.Rngs(0))})
    net = create_cnn_model(tiny, 3, head=head)
    assert net[1] is head
    with pytest.raises(TypeError, match="comes with options.*hidden"):
        create_cnn_model(tiny, 3, head=head, hidden=(8,))


def test_a_body_of_ones_own_is_not_cut():
    body = nnx.Sequential(nnx.Conv(3, 8, (3, 3), rngs=nnx.Rngs(0)), nnx.relu)
    net = create_cnn_model(None, 3, body=body, hidden=())
    assert net[0] is body
    assert evaluating(net)(jnp.ones((2, 32, 32, 3))).shape == (2, 3)
    for arch, options, said in (
        (tiny, {"body": body}, "received both"),
        (None, {}, "received neither"),
        (None, {"body": tiny}, "received the function tiny|parameter .body."),
        (None, {"body": body, "cut": 2, "weights": "a.pth"}, "cut and weights"),
    ):
        with pytest.raises(TypeError, match=said):
            create_cnn_model(arch, 3, **options)


def test_the_same_seed_draws_the_same_head():
    one, two = (create_cnn_model(tiny, 3, rngs=nnx.Rngs(7)) for _ in range(2))
    np.testing.assert_array_equal(one.head.linear1.weight, two.head.linear1.weight)


def test_what_does_not_fit_is_said():
    with pytest.raises(TypeError, match="unknown option droput.*hidden, dropout"):
        create_cnn_model(tiny, 3, droput=0.1)
    with pytest.raises(TypeError, match="gave 3"):
        create_cnn_model(lambda: 3, 3)
    with pytest.raises(TypeError, match="takes no argument `weights`"):
        create_cnn_model(tiny, 3, weights="imagenet1k_v1")
