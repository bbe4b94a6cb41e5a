import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxtune.loop.recovery import copy_of_values, is_readable
from jaxtune.train import TrainState


def state(value=1.0) -> TrainState:
    params = nnx.State({"w": jnp.full(3, value)})
    statistics = nnx.State({"m": jnp.zeros(2)})
    return TrainState(jnp.asarray(5, jnp.int32), params, statistics, ())


def test_a_copy_outlives_the_state_that_it_is_of():
    given = state()
    good = copy_of_values(given)
    step = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
    assert is_readable(given)
    newer = step(given)
    assert not is_readable(given) and is_readable(newer)
    np.testing.assert_array_equal(good.values[0]["w"], 1.0)
    assert good.step == 5


def test_no_copy_of_what_can_not_be_read():
    given = state()
    given.params["w"].delete()
    assert copy_of_values(given) is None


def test_what_a_failed_step_returned_is_not_readable():
    """Its arrays are there, and reading them raises: the device computes behind."""

    def fails(x):
        raise FloatingPointError("on the device")

    def step(s):
        shape = jax.ShapeDtypeStruct((3,), "float32")
        return s.replace(
            params=nnx.State({"w": jax.pure_callback(fails, shape, s.params["w"])})
        )

    returned = None
    try:
        returned = jax.jit(step)(state())
    except RuntimeError:
        pass  # Some versions wait for the callback.
    if returned is not None:
        assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(returned))
        assert not is_readable(returned)
