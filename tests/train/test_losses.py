import jax.numpy as jnp
import numpy as np

from jaxtune.train import cross_entropy


def test_cross_entropy_by_hand_one_value_a_row():
    logits = jnp.asarray([[0.0, 0.0], [2.0, -1.0]])
    losses = cross_entropy(logits, jnp.asarray([0, 1]))
    np.testing.assert_allclose(losses, [np.log(2), np.log1p(np.exp(3.0))], rtol=1e-6)


def test_cross_entropy_of_bfloat16_is_float32():
    losses = cross_entropy(jnp.ones((1, 3), jnp.bfloat16), jnp.asarray([0]))
    assert losses.dtype == jnp.float32
