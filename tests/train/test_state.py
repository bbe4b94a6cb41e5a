import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jaxtune.models import BatchNorm, Linear, Sequential
from jaxtune.train import TrainState, split_module


def net():
    return Sequential({"linear": Linear(2, 3, rngs=nnx.Rngs(0)), "norm": BatchNorm(3)})


def test_a_module_splits_into_plain_arrays_and_comes_back():
    module = net()
    graphdef, params, model_state = split_module(module)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves((params, model_state)))
    assert set(model_state["norm"]) == {"running_mean", "running_var"}
    again = nnx.merge(graphdef, params, model_state)
    x = jnp.ones((4, 2))
    np.testing.assert_array_equal(again(x), net()(x))
    assert (module.norm.running_mean[...] == 0).all()


def test_a_state_is_a_tree_and_a_value():
    _, params, model_state = split_module(net())
    state = TrainState.create(params, model_state, optax.sgd(0.1))
    assert int(state.step) == 0
    later = state.replace(step=state.step + 1)
    assert int(later.step) == 1 and int(state.step) == 0
    doubled = jax.tree.map(lambda x: 2 * x, state)
    weight = state.params["linear"]["weight"]
    np.testing.assert_array_equal(doubled.params["linear"]["weight"], 2 * weight)
    shapes = jax.eval_shape(lambda: state)
    assert shapes.params["linear"]["weight"].shape == (2, 3)


def test_a_parameter_made_from_a_number_compiles_no_second_step():
    """`jnp.asarray(3.0)` has a weak dtype, which arithmetic makes firm."""
    module = Sequential({"linear": Linear(2, 3, rngs=nnx.Rngs(0))})
    module.linear.power = nnx.Param(jnp.asarray(3.0))
    assert module.linear.power[...].weak_type
    _, params, model_state = split_module(module)
    assert not any(x.weak_type for x in jax.tree.leaves(params))
    state = TrainState.create(params, model_state, optax.adam(0.1))
    traces = []

    @jax.jit
    def step(state):
        traces.append(1)
        params = jax.tree.map(lambda x: x * 2, state.params)
        return state.replace(step=state.step + 1, params=params)

    step(step(state))
    assert len(traces) == 1
