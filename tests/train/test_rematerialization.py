"""Blocks that are computed again: the same training, and less is kept for gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from photos import tiny_resnet

from jaxtune.models import BatchNorm, Conv, ReLU, Sequential
from jaxtune.train import (
    TrainState,
    apply_module,
    constant,
    cross_entropy,
    group_optimizer,
    make_train_step,
    split_module,
    training_view,
    with_precision,
    with_rematerialization,
)

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def net():
    return tiny_resnet()


def views(net, precision="float32"):
    labels = jax.tree.map(lambda x: "all", split_module(net)[1])
    plain = with_precision(training_view(net, labels, ()), precision)
    return labels, plain, with_rematerialization(plain)


def batch():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.normal(size=(4, 32, 32, 3)), jnp.float32)
    return {"image": images, "label": jnp.arange(4)}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_step_is_the_same_to_rounding(net, precision):
    labels, *both = views(net, precision)
    results = []
    for view in both:
        graphdef, params, model_state = split_module(view)
        tx = group_optimizer(labels, {"all": 1e-2}, constant())
        step = make_train_step(graphdef, tx, loss=cross_entropy, labels=labels)
        state = TrainState.create(params, model_state, tx)
        state, metrics = jax.jit(step)(state, batch(), KEY)
        assert not jax.tree.all(
            jax.tree.map(lambda a, b: (a == b).all(), state.model_state, model_state)
        )
        results.append((metrics["loss"], metrics["grad_norm"], state.model_state))
    rtol = 1e-4 if precision == "float32" else 0.03
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-5), *results
    )


def test_of_a_block_only_its_input_is_kept_for_the_gradients():
    class Block(nnx.Module):
        def __init__(self):
            self.conv, self.norm = Conv(3, 3, 1, rngs=nnx.Rngs(0)), BatchNorm(3)

        def __call__(self, x):
            return x + jnp.tanh(self.norm(self.conv(x)))

    net = Sequential({"body": Sequential({"one": Block(), "two": Block()})})
    images = jnp.ones((4, 8, 8, 3))

    def kept(view):
        """How many arrays as large as the images."""
        graphdef, params, model_state = split_module(view)

        def loss(params):
            outputs, _ = apply_module(graphdef, params, model_state, images)
            return (outputs**2).sum()

        kept = jax.tree.leaves(jax.eval_shape(lambda p: jax.vjp(loss, p)[1], params))
        return sum(leaf.shape == images.shape for leaf in kept)

    _, plain, again = views(net)
    # Each block's input, and the outputs, for the loss.
    assert kept(again) == 3 < kept(plain)


def test_a_view_is_of_the_same_variables_and_two_of_them_are_one_program(net):
    _, plain, again = views(net)
    assert again.layer1[0].conv1.weight is net.layer1[0].conv1.weight
    assert type(net.layer1[0]) is type(plain.layer1[0])
    graphs = [nnx.graphdef(view) for view in (again, with_rematerialization(plain))]
    assert graphs[0] == graphs[1] != nnx.graphdef(plain)


def test_nested_blocks_are_one_and_containers_are_none():
    class Block(nnx.Module):
        def __init__(self, child):
            self.child = child

        def __call__(self, x):
            return self.child(x)

    conv = Conv(3, 3, 1, rngs=nnx.Rngs(0))
    body = Sequential({"stage": Sequential({"block": Block(Block(conv))})})
    view = with_rematerialization(Sequential({"body": body, "head": ReLU()}))
    stage = view.body.stage
    assert type(stage) is Sequential and type(stage.block.child) is Block
    assert type(stage.block) is not Block and type(stage.block).__name__ == "Block"


def test_a_network_without_blocks_is_refused():
    layers = Sequential({"conv": Conv(3, 3, 1, rngs=nnx.Rngs(0)), "relu": ReLU()})
    with pytest.raises(ValueError, match="no blocks.*rematerialize=True.*Leave it out"):
        with_rematerialization(Sequential({"body": layers, "head": ReLU()}))
