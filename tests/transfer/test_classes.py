import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from classes import arrays, rows_are_kept
from flax import nnx

from jaxtune import create_head, resnet18
from jaxtune.models import Conv, Sequential
from jaxtune.transfer import (
    class_rows,
    create_cnn_model,
    extend_outputs,
    output_axes,
    take_rows,
)

OLD, NEW = ["ant", "bee", "cat"], ["ant", "asp", "bee", "cat", "eel"]


def network(head) -> Sequential:
    """Returns a body of one convolution, 8 features, and a head."""
    return Sequential({"body": Conv(3, 8, 3, rngs=nnx.Rngs(0)), "head": head})


def standard(count: int, **options) -> Sequential:
    options = {"hidden": (6,), "rngs": nnx.Rngs(count)} | options
    return network(create_head(8, count, **options))


@pytest.mark.parametrize(
    ("new", "options", "message"),
    [
        (
            ["ant", "bee"],
            {},
            r"network knows .* doesn't: cat\..* classes=\['ant', 'bee",
        ),
        (NEW, {"extend": False}, r"doesn't know: asp, eel\. Write extend=True"),
        (
            ["cat", "ant", "bee", "eel"],
            {},
            r"network: ant, bee, cat\n  data:    cat, ant, bee\nWrite reorder=True.*"
            r"classes=\['ant', 'bee', 'cat', 'eel'\]",
        ),
        (["ant", "bee", "cat", "ant"], {}, "must differ"),
    ],
)
def test_what_is_not_asked_for_is_refused(new, options, message):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        class_rows(OLD, new, **options)


def test_rows_are_told_by_name():
    assert class_rows(OLD, OLD, extend=False) == (0, 1, 2)
    assert class_rows(OLD, NEW) == (0, None, 1, 2, None)
    assert class_rows(OLD, ["eel", "cat", "ant", "bee"], reorder=True) == (
        None, 2, 0, 1,
    )  # fmt: skip


def test_rows_are_taken_along_any_axis():
    table = np.arange(6, dtype=np.float32).reshape(2, 3)
    taken = take_rows(table, (2, None, 0, 1), np.full((2, 4), 9.0))
    assert taken.tolist() == [[2, 9, 0, 1], [5, 9, 3, 4]]
    taken = take_rows(table, (None, 1), np.full((2, 3), 9.0), axis=0)
    assert taken.tolist() == [[9, 9, 9], [3, 4, 5]]


@pytest.mark.parametrize(
    "options",
    [{"bn_final": True}, {"hidden": (3,), "first_bn": False}],
)
def test_known_classes_are_known_as_before_bit_for_bit(options):
    net = standard(3, **options)
    # Values that no fresh network has.
    for leaf in jax.tree.leaves(
        nnx.state(net, nnx.BatchStat), is_leaf=lambda x: isinstance(x, nnx.Variable)
    ):
        leaf.set_value(np.asarray(leaf[...]) + np.float32(0.25))
    before = arrays(net)
    new = extend_outputs(net, OLD, NEW, rngs=nnx.Rngs(1), size=16)
    assert all(
        (a == b).all()
        for a, b in zip(before.values(), arrays(net).values(), strict=True)
    )
    rows_are_kept(new, net, [0, 2, 3])
    # The graph is that of a network made for so many classes.
    assert nnx.graphdef(new) == nnx.graphdef(standard(5, **options))
    fresh, after = arrays(standard(5, **options)), arrays(new)
    axes = output_axes(net, 3, size=16)
    assert {name: a.shape for name, a in after.items()} == {
        name: a.shape for name, a in fresh.items()
    }
    for name, axis in axes.items():
        array = after[name]
        if array.ndim == 1:
            # Biases and norms of new classes begin as in a fresh head.
            drawn = np.take(array, [1, 4], axis)
            assert (drawn == np.take(fresh[name], [1, 4], axis)).all()


def test_new_rows_are_drawn_as_a_heads_weights():
    net = standard(3, hidden=(400,))
    new = extend_outputs(net, OLD, [*OLD, *"abcdefgh"], rngs=nnx.Rngs(1), size=16)
    drawn = arrays(new)["head.linear2.weight"][:, 3:]
    assert drawn.std() == pytest.approx((2 / 400) ** 0.5, rel=0.05)
    zeros = extend_outputs(
        net, OLD, NEW, init=lambda key, shape: jnp.zeros(shape), size=16
    )
    assert (arrays(zeros)["head.linear2.weight"][:, [1, 4]] == 0).all()


def test_another_order_moves_the_rows():
    net = standard(3)
    new = extend_outputs(net, OLD, ["cat", "ant", "bee"], reorder=True, size=16)
    # Where the old ones, ant, bee, cat, stand now.
    rows_are_kept(new, net, [1, 2, 0])
    with pytest.raises(ValueError, match="another order"):
        extend_outputs(net, OLD, ["cat", "ant", "bee"], size=16)


class Scale(nnx.Module):
    """A factor for each class."""

    def __init__(self, count):
        self.factor = nnx.Param(jnp.full(count, 2.0))

    def __call__(self, x):
        return x * self.factor[...]


class Own(nnx.Module):
    """A hidden layer as wide as there are classes, whose arrays look like an output."""

    def __init__(self, count, rngs):
        self.hidden = nnx.Linear(8, count, rngs=rngs)
        self.norm = nnx.BatchNorm(count, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(count, count, rngs=rngs)])
        self.scale = Scale(count)
        self.num_classes = count

    def __call__(self, x):
        x = self.norm(self.hidden(x.mean((1, 2))))
        return self.scale(self.layers[0](x)).reshape(-1, self.num_classes)


class Prototypes(nnx.Module):
    """The classes are the first axis."""

    def __init__(self, count, rngs):
        self.table = nnx.Param(jax.random.normal(rngs.params(), (count, 8)))

    def __call__(self, x):
        return x.mean((1, 2)) @ self.table[...].T


def test_own_heads_are_found_out():
    net = network(Own(3, nnx.Rngs(0)))
    assert output_axes(net, 3, size=16) == {
        "head.layers.0.kernel": 1,
        "head.layers.0.bias": 0,
        "head.scale.factor": 0,
    }
    new = extend_outputs(net, OLD, NEW, size=16)
    rows_are_kept(new, net, [0, 2, 3])
    assert (new[1].layers[0].in_features, new[1].layers[0].out_features) == (3, 5)
    assert (new[1].num_classes, new[1].hidden.out_features) == (5, 3)
    assert arrays(new)["head.scale.factor"].tolist() == [2.0] * 5
    table = network(Prototypes(8, nnx.Rngs(0)))
    assert output_axes(table, 8, size=16) == {"head.table": 0}
    assert output_axes(network(Prototypes(1, nnx.Rngs(0))), 1, size=16)


def test_what_is_not_clear_is_asked():
    head = Sequential({"pool": lambda x: x.mean((1, 2))})
    with pytest.raises(ValueError, match="none has an axis of that length"):
        output_axes(network(head), 8, size=16)
    # One number may be a row for each class, or one for all.
    one = standard(1, bn_final=True)
    both = ["head.linear2", "head.bn_final"]
    with pytest.raises(ValueError, match="can't tell which layers") as caught:
        output_axes(one, 1, size=16)
    listed = re.findall(r'at="([^"]+)"', str(caught.value))
    # The tests' type checker refuses one alone, so which is first depends on it.
    assert sorted(listed) == sorted(both)
    assert set(output_axes(one, 1, size=16, at=both)) == {
        "head.linear2.weight", "head.bn_final.weight", "head.bn_final.bias",
        "head.bn_final.running_mean", "head.bn_final.running_var",
    }  # fmt: skip
    with pytest.raises(ValueError, match="None of its layers is called 'head.fc'"):
        output_axes(one, 1, size=16, at="head.fc")


def test_a_published_network_of_another_size():
    net = nnx.eval_shape(lambda: create_cnn_model(resnet18, 7, pretrained=False))
    assert output_axes(net, 7) == {"head.linear2.weight": 1}
