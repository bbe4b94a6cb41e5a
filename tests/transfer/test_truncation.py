"""Networks written as functions: what runs between two children is theirs to keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtune.models import Sequential, call_module
from jaxtune.transfer import create_body, evaluating, inspect_cuts, num_features
from jaxtune.transfer.truncation import last_calls, record_calls


def paths(module) -> set[str]:
    flat = nnx.to_flat_state(nnx.state(module))
    return {".".join(map(str, path)) for path, _ in flat}


class Block(nnx.Module):
    """A residual block, its sum and activations in its own code."""

    def __init__(self, features, rngs, *, stride=1):
        self.conv1 = nnx.Conv(features, features, (3, 3), strides=stride, rngs=rngs)
        self.norm = nnx.BatchNorm(features, rngs=rngs)
        self.conv2 = nnx.Conv(features, features, (3, 3), rngs=rngs)
        self.stride = stride

    def __call__(self, x):
        y = self.conv2(nnx.relu(self.norm(self.conv1(x))))
        return nnx.relu(x[:, :: self.stride, :: self.stride] + y)


class FunctionalResNet(nnx.Module):
    """torchvision's way, with DenseNet's end: norm, activation, mean, classifier."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.bn1 = nnx.BatchNorm(8, rngs=rngs)
        self.layer1 = nnx.List([Block(8, rngs) for _ in range(2)])
        self.layer2 = Block(8, rngs, stride=2)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.fc = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.bn1(self.conv1(x)))
        x = nnx.max_pool(x, (2, 2), (2, 2))
        for block in self.layer1:
            x = nnx.gelu(block(x))
        return self.fc(nnx.relu(self.norm(self.layer2(x))).mean((1, 2)))


@pytest.fixture(scope="module")
def functional():
    return FunctionalResNet(nnx.Rngs(0))


X = jax.random.normal(jax.random.key(1), (2, 32, 48, 3))


def stage(net, name):
    """What the network's own code makes of X up to a place, written down again."""
    net = evaluating(net)
    x = net.bn1(net.conv1(X))
    if name == "bn1":
        return x
    x = nnx.max_pool(nnx.relu(x), (2, 2), (2, 2))
    for i in range(2):
        x = nnx.gelu(net.layer1[i](x))
        if name == f"layer1.{i}":
            return x
    return net.layer2(x) if name == "layer2" else net.norm(net.layer2(x))


@pytest.mark.parametrize(
    ("cut", "whole"),
    [("bn1", False), ("layer1.0", True), ("layer1.1", True), ("layer2", True),
     ("norm", False)],
)  # fmt: skip
def test_a_body_keeps_what_is_done_up_to_the_next_child(functional, cut, whole):
    """Activations after a child stay; where a pooling follows, the child is the end."""
    places = {place.name: place for place in inspect_cuts(functional)}
    assert places[cut].whole == whole
    assert str(places[cut]).endswith("without the code that follows it") != whole
    body = create_body(functional, cut)
    np.testing.assert_allclose(
        evaluating(body)(X), stage(functional, cut), rtol=1e-5, atol=1e-6
    )
    assert evaluating(body)(jnp.ones((1, 64, 64, 3))).shape == places[cut].shape


def test_a_cut_found_in_a_functional_network_is_before_its_pooling(functional):
    body = create_body(functional)
    assert paths(functional) - paths(body) == {"fc.kernel", "fc.bias"}
    assert num_features(body) == 8


def test_a_child_that_is_looked_up_early_may_be_cut_off():
    """`self.last(f(self.first(x)))` looks up `last` before `first` is called."""

    class Net(nnx.Module):
        def __init__(self, rngs):
            self.first = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.last = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x):
            return self.last(jax.nn.relu(self.first(x)))

    net = Net(nnx.Rngs(0))
    body = create_body(net, "first")
    assert paths(body) == {"first.kernel", "first.bias"}
    np.testing.assert_allclose(body(X), jax.nn.relu(net.first(X)), rtol=1e-6)
    np.testing.assert_allclose(create_body(net, "last")(X), net(X), rtol=1e-6)


class Reused(nnx.Module):
    """One activation module for all, and one convolution called twice."""

    def __init__(self, rngs):
        self.conv1 = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.act = nnx.PReLU()
        self.conv2 = nnx.Conv(4, 4, (3, 3), rngs=rngs)
        self.twin = self.conv2
        self.fc = nnx.Linear(4, 2, rngs=rngs)

    def __call__(self, x):
        x = self.act(self.conv1(x))
        x = self.act(self.conv2(x))
        x = self.act(self.twin(x))
        return self.fc(x.mean((1, 2)))


def test_a_child_that_is_called_again_is_cut_after_its_last_call():
    net = Reused(nnx.Rngs(0))
    assert [cut.name for cut in inspect_cuts(net)] == ["conv1", "conv2", "act", "fc"]
    first = net.conv1(X)
    last = net.conv2(net.act(net.conv2(net.act(first))))
    for cut, expected in (("conv1", first), ("conv2", last), (3, net.act(last))):
        np.testing.assert_allclose(create_body(net, cut)(X), expected, rtol=1e-5)
    assert paths(create_body(net, "conv1")) == {"conv1.kernel", "conv1.bias"}
    assert "act.negative_slope" in paths(create_body(net, "conv2"))


def test_a_body_can_be_cut_again(functional):
    once = create_body(functional, "layer2")
    twice = create_body(once, "layer1.0")
    np.testing.assert_allclose(
        evaluating(twice)(X), stage(functional, "layer1.0"), rtol=1e-5, atol=1e-6
    )


def test_a_cut_network_trains(functional):
    """Statistics move and gradients flow in the body, and `rngs` go where they can."""

    class Drops(nnx.Module):
        def __init__(self, rngs):
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.drop = nnx.Dropout(0.5)
            self.fc = nnx.Linear(4, 2, rngs=rngs)

        def __call__(self, x, *, rngs=None):
            x = self.drop(self.norm(self.conv(x)), rngs=rngs)
            return self.fc(nnx.relu(x).mean((1, 2)))

    for net, cut, takes in ((Drops(nnx.Rngs(0)), "drop", True),
                            (functional, "layer1.0", False)):  # fmt: skip
        graphdef, params, others = nnx.split(create_body(net, cut), nnx.Param, ...)

        @jax.jit
        def loss(params, others, graphdef=graphdef):
            body = nnx.merge(graphdef, params, others, copy=True)
            y = call_module(body, X, rngs=nnx.Rngs(dropout=7))
            rest = nnx.as_pure(nnx.split(body, nnx.Param, ...)[2])
            return (y**2).mean(), ((y == 0).mean(), rest)

        grads, (zeros, after) = jax.grad(loss, has_aux=True)(params, others)
        assert all(jnp.abs(g).max() > 0 for g in jax.tree.leaves(grads))
        before = jax.tree.leaves(nnx.as_pure(others))
        moved = [
            (a != b).any() for a, b in zip(before, jax.tree.leaves(after), strict=True)
        ]
        assert moved and all(moved)
        assert (zeros > 0.4) == takes


def test_what_is_called_too_early_in_training_is_named():
    class Changed(nnx.Module):
        def __init__(self, rngs):
            self.deterministic = False
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.late = nnx.Conv(3, 3, (3, 3), rngs=rngs)
            self.fc = nnx.Linear(4, 2, rngs=rngs)

        def set_view(self, deterministic=None, **others):
            if deterministic is not None:
                self.deterministic = deterministic
            return others

        def __call__(self, x):
            x = x if self.deterministic else self.late(x)
            x = self.conv(x)
            y = self.late(x[..., :3])
            return self.fc(x.mean((1, 2))) + y.mean()

    body = create_body(Changed(nnx.Rngs(0)), "conv")
    assert evaluating(body)(X).shape == (2, 32, 48, 4)
    with pytest.raises(ValueError, match="called its child 'late', which is cut off"):
        body(X)


# Which calls there are.


def conv(features=4):
    return nnx.Conv(features, features, (3, 3), rngs=nnx.Rngs(0))


class Branches(nnx.Module):
    """Everything that can stand between two calls."""

    def __init__(self):
        self.stem = nnx.Conv(3, 4, (3, 3), rngs=nnx.Rngs(0))
        self.left, self.right = conv(), conv()
        self.sliced, self.joined = conv(2), conv(8)
        self.strided, self.pooled = conv(), nnx.Conv(4, 4, (8, 8), rngs=nnx.Rngs(0))
        self.fc = nnx.Linear(4, 2, rngs=nnx.Rngs(0))

    def __call__(self, x):
        x = nnx.relu(self.stem(x))
        left, right = self.left(x), self.right(x)
        x = left + right
        part = self.sliced(x[..., :2])
        x = self.joined(jnp.concatenate([x, part, part], -1))
        x = self.strided(nnx.relu(x[:, ::2, ::2, :4]))
        x = nnx.avg_pool(x, (8, 8), (8, 8))
        return self.fc(nnx.relu(self.pooled(inputs=x)).mean((1, 2)))


def test_calls_tell_whether_all_goes_through_the_next_one():
    calls = {call.name: call for call in record_calls(Branches(), 3, 16)}
    assert {name for name, call in calls.items() if call.whole} == {
        # right: what follows is handed a part; left: the next branch hasn't seen it.
        *("stem", "sliced", "fc")
    }
    assert calls["sliced"].output == (1, 16, 16, 2)
    assert calls["sliced"].handed == (1, 16, 16, 8)
    assert calls["joined"].handed == (1, 8, 8, 4)
    assert calls["pooled"].output == (1, 1, 1, 4)
    assert calls["fc"].handed == (1, 2)


def test_what_a_child_gives_beside_an_array_is_no_map():
    class Pair(nnx.Module):
        def __call__(self, x):
            return x, x.mean()

    class Net(nnx.Module):
        def __init__(self):
            self.pair, self.conv = Pair(), conv(3)

        def __call__(self, x):
            x, mean = self.pair(x)
            return self.conv(x) * mean

    pair, last = record_calls(Net(), 3, 8)
    assert pair.output is None and not pair.whole and pair.handed == (1, 8, 8, 3)
    assert last.whole


def test_the_calls_of_a_sequence_are_its_children_functions_too():
    net = Sequential({"conv": conv(3), "pool": lambda x: x.mean((1, 2))})
    calls = record_calls(net, 3, 8)
    assert [(c.name, c.output, c.handed, c.whole) for c in calls] == [
        ("conv", (1, 8, 8, 3), (1, 8, 8, 3), True),
        ("pool", (1, 3), (1, 3), True),
    ]
    broken = Sequential({"conv": conv(3), "fc": nnx.Linear(7, 2, rngs=nnx.Rngs(0))})
    with pytest.raises(ValueError, match="doesn't run on images .1, 8, 8, 3.*'fc'"):
        record_calls(broken, 3, 8)


def test_the_last_call_of_each_child_decides_its_place():
    class Net(nnx.Module):
        def __init__(self):
            self.conv, self.act = conv(3), nnx.PReLU()

        def __call__(self, x):
            return self.act(self.conv(self.act(self.conv(self.act(x)))))

    assert last_calls(record_calls(Net(), 3, 8)) == {"conv": 3, "act": 4}
