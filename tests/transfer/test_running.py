import jax.numpy as jnp
import pytest
from flax import nnx

from jaxtune.models import BatchNorm, Sequential
from jaxtune.transfer import evaluating, output_shape


def test_evaluating_draws_nothing_and_changes_no_statistic():
    net = Sequential({"norm": BatchNorm(3), "drop": nnx.Dropout(0.5)})
    view = evaluating(net)
    y = view(jnp.full((4, 3), 7.0))
    assert jnp.allclose(y, 7.0, atol=1e-3)
    assert (net.norm.running_mean[...] == 0).all()
    assert not net.norm.use_running_average and not net.drop.deterministic
    assert view.norm.weight is net.norm.weight


def test_a_network_without_modes_is_welcome():
    net = nnx.Linear(3, 2, rngs=nnx.Rngs(0))
    assert output_shape(net) == (1, 64, 64, 2)


def test_a_network_that_needs_large_images_is_tried_with_them():
    def large_only(x):
        if x.shape[1] < 200:
            raise ValueError("too small")
        return x.mean((1, 2))

    assert output_shape(Sequential({"all": large_only})) == (1, 3)


def test_a_network_that_runs_on_nothing_says_why():
    def never(x):
        raise ValueError("wants text")

    with pytest.raises(ValueError, match="runs on no image.*wants text"):
        output_shape(Sequential({"all": never}))
