import jax.numpy as jnp
import pytest
from flax import nnx

import jaxtune
from jaxtune.models import (
    BatchNorm,
    Conv,
    Identity,
    ReLU,
    Sequential,
    call_module,
    numbered,
)


class AddOne(nnx.Module):
    def __call__(self, x):
        return x + 1


class Double(nnx.Module):
    def __call__(self, x):
        return 2 * x


def test_children_run_in_order_and_slices_share_them():
    net = Sequential({"add": AddOne(), "double": Double(), "more": AddOne()})
    assert net(1.0) == 5.0
    assert net[:2](1.0) == 4.0 and net[1:](1.0) == 3.0
    assert net[-2:].names == ("double", "more")
    assert net[:2][1] is net[1] is net.double
    assert len(net) == 3 and list(net) == [net.add, net.double, net.more]


def test_what_is_computed_at_once_is_what_the_children_give_in_turn():
    rngs = nnx.Rngs(0)
    convs = [Conv(3, 3, 3, padding=1, rngs=rngs) for _ in range(3)]
    norms = [nnx.view(BatchNorm(3), use_running_average=True) for _ in range(2)]
    net = numbered(*convs[:2], norms[0], ReLU(), Double(), convs[2], norms[1], AddOne())
    x = expected = rngs.normal((2, 4, 4, 3))
    for child in net:
        expected = child(expected)
    assert jnp.allclose(net(x), expected, rtol=1e-5, atol=1e-5)


def test_putting_another_child_changes_the_network_for_good():
    net = Sequential({"add": AddOne(), "double": Double()})
    net[0] = Double()
    net["double"] = AddOne()
    assert net(3.0) == 7.0
    graphdef, state = nnx.split(net)
    assert nnx.merge(graphdef, state)(3.0) == 7.0
    assert net.names == ("add", "double")


def test_a_child_may_get_parameters_in_place_of_none():
    net = Sequential({"first": Identity(), "last": ReLU()})
    net[0] = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    paths = {path for path, _ in nnx.to_flat_state(nnx.state(net, nnx.Param))}
    assert paths == {("first", "kernel"), ("first", "bias")}


def test_random_streams_reach_the_children_that_take_them():
    net = Sequential({"add": AddOne(), "drop": nnx.Dropout(0.5), "relu": ReLU()})
    x = jnp.ones((4, 64))
    one = net(x, rngs=nnx.Rngs(dropout=1))
    same = net(x, rngs=nnx.Rngs(dropout=1))
    other = net(x, rngs=nnx.Rngs(dropout=2))
    assert (one == same).all() and not (one == other).all()
    assert set(jnp.unique(one).tolist()) == {0.0, 4.0}


def test_functions_are_welcome():
    assert Sequential({"square": jnp.square})(3.0) == 9.0
    assert call_module(jnp.square, 3.0, rngs=nnx.Rngs(0)) == 9.0


def test_what_is_not_there_is_named():
    net = numbered(AddOne(), Double())
    assert net.names == ("0", "1")
    with pytest.raises(IndexError, match="no child 2 in a sequence of 2: 0 0, 1 1"):
        net[2]
    with pytest.raises(KeyError, match="no child 'fc'"):
        net["fc"]
    with pytest.raises(ValueError, match="can't be called 'names'"):
        Sequential({"names": AddOne()})


@pytest.mark.parametrize("module", [jaxtune, jaxtune.models])
def test_the_former_name_of_sequential_works_with_a_warning(module):
    with pytest.warns(DeprecationWarning, match="Sequence is now called .*Sequential"):
        assert module.Sequence is Sequential
    with pytest.raises(AttributeError, match="no attribute 'Sequences'"):
        _ = module.Sequences
