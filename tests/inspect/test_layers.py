import math

import jax
import jax.numpy as jnp
import pytest
from flax import nnx
from photos import tiny_resnet

from jaxtune.inspect.summary import multiplications, network_layers
from jaxtune.models import BatchNorm, Conv, Linear, Sequential
from jaxtune.train import (
    cross_entropy,
    norm_paths,
    optimizer_labels,
    split_module,
    training_view,
)
from jaxtune.transfer import (
    create_body,
    create_cnn_model,
    default_groups,
    evaluating,
    group_labels,
)


class Odd(nnx.Module):
    """Children in a list, one called twice, one never, and an array of its own."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.unused = Linear(4, 4, rngs=rngs)
        self.blocks = nnx.List([Conv(3, 5, 3, rngs=rngs), nnx.BatchNorm(5, rngs=rngs)])
        self.twice = Linear(5, 5, rngs=rngs)
        self.scale = nnx.Param(jnp.ones((5, 2)))

    def __call__(self, x):
        for block in self.blocks:
            x = block(x)
        return self.twice(self.twice(x)).mean((1, 2)) @ self.scale[...]


def tuned_shapes():
    """A network with a new head, of shapes only."""
    return nnx.eval_shape(lambda: create_cnn_model(tiny_resnet, 3))


def test_layers_come_in_the_order_of_their_calls_with_shapes():
    layers = network_layers(Odd(), size=(8, 12), in_channels=3)
    assert [(layer.path, layer.kind, layer.shape) for layer in layers] == [
        ("blocks.0", "Conv", (1, 6, 10, 5)),
        ("blocks.1", "BatchNorm", (1, 6, 10, 5)),
        ("twice", "Linear", (1, 6, 10, 5)),
        ("", "Odd", (1, 2)),
        ("unused", "Linear", None),
    ]
    assert dict(layers[3].parameters) == {"scale": 10}
    assert set(layers[1].statistics) == {"blocks.1.mean", "blocks.1.var"}


def test_every_parameter_and_statistic_is_in_one_layer():
    net = tuned_shapes()
    layers = network_layers(net, size=(32, 32), in_channels=3)
    _, params, model_state = split_module(net)
    for kind, tree in (("parameters", params), ("statistics", model_state)):
        counted = sum(sum(getattr(layer, kind).values()) for layer in layers)
        assert counted == sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_shapes_are_those_of_a_real_forward_pass():
    net = small()
    layers = network_layers(net, size=(8, 14), in_channels=3)
    x = jnp.zeros((1, 8, 14, 3))
    for layer in layers:
        x = evaluating(net[layer.path])(x)
        assert layer.shape == x.shape


def test_a_network_cut_out_of_another_one_is_listed_too():
    class Net(nnx.Module):
        def __init__(self):
            self.first = Conv(3, 4, 3, rngs=nnx.Rngs(0))
            self.last = Linear(4, 2, rngs=nnx.Rngs(0))

        def __call__(self, x):
            x = nnx.relu(self.first(x))
            return self.last(x.mean((1, 2)))

    body = create_body(Net(), "first")
    [layer] = network_layers(body, size=(8, 8), in_channels=3)
    assert (layer.path, layer.shape) == ("first", (1, 6, 6, 4))


def test_looking_changes_nothing():
    net = Odd()
    kinds = [type(node) for _, node in nnx.iter_graph(net)]
    before = jax.tree.leaves(split_module(net)[1:])
    network_layers(net, size=(8, 8), in_channels=3)
    assert [type(node) for _, node in nnx.iter_graph(net)] == kinds
    after = jax.tree.leaves(split_module(net)[1:])
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


def test_a_network_that_does_not_run_is_named():
    with pytest.raises(ValueError, match=r"Odd doesn't run on images \(1, 8, 8, 4\)"):
        network_layers(Odd(), size=(8, 8), in_channels=4)


def counted(net, frozen=(), norms="frozen"):
    groups = group_labels(split_module(net)[1], {"a": "conv1|bn1", "b": "conv2|fc"})
    labels = optimizer_labels(groups, frozen, norms=norms, norm_params=norm_paths(net))
    view = training_view(net, groups, frozen, norms=norms)
    return multiplications(view, labels, size=(8, 8), in_channels=3)


class Mean(nnx.Module):
    def __call__(self, x):
        return x.mean((1, 2))


def small():
    rngs = nnx.Rngs(0)
    return Sequential(
        {
            "conv1": Conv(3, 4, 3, padding=1, rngs=rngs),
            "bn1": BatchNorm(4),
            "conv2": Conv(4, 6, 3, stride=2, padding=1, groups=2, rngs=rngs),
            "pool": Mean(),
            "fc": Linear(6, 5, rngs=rngs),
        }
    )


def test_operations_are_those_counted_by_hand():
    one = 2 * 8 * 8 * 4 * 3 * 9
    two = 2 * 4 * 4 * 6 * 2 * 9
    fc = 2 * 6 * 5
    # The first convolution's input needs no gradient, every other layer's does.
    assert counted(small()) == {"conv1": 2 * one, "conv2": 3 * two, "fc": 3 * fc}
    # Frozen before it: the second's input needs none either.
    assert counted(small(), ("a",)) == {"conv1": one, "conv2": 2 * two, "fc": 3 * fc}
    # A norm that trains in front of it brings that gradient back.
    assert counted(small(), ("a",), "train") == {
        "conv1": one,
        "conv2": 3 * two,
        "fc": 3 * fc,
    }


def test_a_loop_counts_as_often_as_it_runs():
    class Loop(nnx.Module):
        def __init__(self):
            self.fc = Linear(3, 3, rngs=nnx.Rngs(0))

        def __call__(self, x):
            x = x.mean((1, 2))
            weight = self.fc.weight[...]
            return jax.lax.scan(lambda x, _: (x @ weight, None), x, length=7)[0]

    net = Loop()
    labels = group_labels(split_module(net)[1], {"all": ""})
    found = multiplications(net, labels, size=(4, 4), in_channels=3)
    # Weight gradients: seven; input gradients: seven at most, the first is not needed.
    assert found[""] / (2 * 3 * 3 * 7) == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize(
    ("frozen", "norms"),
    [((), "frozen"), (("early", "late"), "frozen"), (("early", "late"), "train")],
)
def test_the_share_of_a_frozen_step_is_what_the_compiler_says(
    frozen, norms, monkeypatch
):
    net = tuned_shapes()
    groups = group_labels(split_module(net)[1], default_groups(net))
    of_norms = norm_paths(net)

    def both(frozen):
        labels = optimizer_labels(groups, frozen, norms=norms, norm_params=of_norms)
        view = training_view(net, groups, frozen, norms=norms)
        ours = multiplications(view, labels, size=(64, 64), in_channels=3)
        with monkeypatch.context() as patch:
            # XLA counts nothing in a call into another library.
            patch.setenv("JAXTUNE_ONEDNN", "0")
            theirs = lowered_flops(view, labels)
        return sum(ours.values()), theirs

    ours, theirs = both(frozen)
    all_ours, all_theirs = both(())
    assert ours / all_ours == pytest.approx(theirs / all_theirs, abs=0.02)
    # They leave padding out, and count norms, pooling and the loss.
    assert ours == pytest.approx(theirs, rel=0.3)


def lowered_flops(view, labels) -> float:
    graphdef, params, model_state = split_module(view)
    leaves, treedef = jax.tree.flatten(params)
    trains = [label != "frozen" for label in jax.tree.leaves(labels)]

    def loss(training, frozen, model_state, images, label):
        chosen, kept = iter(training), iter(frozen)
        tree = treedef.unflatten([next(chosen if t else kept) for t in trains])
        logits = nnx.merge(graphdef, tree, model_state)(images, rngs=nnx.Rngs(0))
        return cross_entropy(logits, label).mean()

    parts = [[], []]
    for leaf, train in zip(leaves, trains, strict=True):
        parts[not train].append(leaf)
    images = jax.ShapeDtypeStruct((4, 64, 64, 3), jnp.float32)
    label = jax.ShapeDtypeStruct((4,), jnp.int32)
    step = jax.jit(jax.value_and_grad(loss))
    lowered = step.lower(*parts, model_state, images, label)
    flops = lowered.cost_analysis()["flops"] / 4
    assert math.isfinite(flops)
    return flops
