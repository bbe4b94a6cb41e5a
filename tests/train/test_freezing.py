import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtune.models import BatchNorm, Linear, Sequential
from jaxtune.train import (
    FROZEN,
    boundary_index,
    check_norms,
    no_decay_paths,
    norm_paths,
    optimizer_labels,
    split_module,
    training_view,
)
from jaxtune.transfer import group_labels

GROUPS = {"body": "body", "head": "head"}


class Plain(nnx.Module):
    """A norm without parameters beside a layer that has some."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(3, 3, rngs=rngs)
        self.norm = nnx.BatchNorm(3, use_bias=False, use_scale=False, rngs=rngs)

    def __call__(self, x):
        return self.norm(self.linear(x))


@pytest.fixture
def net():
    rngs = nnx.Rngs(0)
    body = Sequential(
        {"norm": BatchNorm(3), "linear": Linear(3, 3, rngs=rngs), "plain": Plain(rngs)}
    )
    head = Sequential({"norm": BatchNorm(3), "drop": nnx.Dropout(0.5)})
    return Sequential({"body": body, "head": head})


def labels_of(net):
    return group_labels(split_module(net)[1], GROUPS)


def test_norm_parameters_are_found_by_the_class_of_their_layer(net):
    assert norm_paths(net) == {
        *("body.norm.weight", "body.norm.bias", "head.norm.weight", "head.norm.bias")
    }
    assert no_decay_paths(net) == norm_paths(net) | {
        *("body.linear.bias", "body.plain.linear.bias")
    }


@pytest.mark.parametrize(
    ("norms", "expected"), [("frozen", FROZEN), ("stats", FROZEN), ("train", "body")]
)
def test_labels_of_a_frozen_body(net, norms, expected):
    labels = optimizer_labels(
        labels_of(net), ("body",), norms=norms, norm_params=norm_paths(net)
    )
    assert labels["body"]["norm"]["weight"] == expected
    assert labels["body"]["linear"]["weight"] == FROZEN
    assert labels["head"]["norm"]["weight"] == "head"


@pytest.mark.parametrize(
    ("norms", "moves"), [("frozen", False), ("stats", True), ("train", True)]
)
def test_statistics_of_a_frozen_body(net, norms, moves):
    before = jax.tree.map(np.asarray, split_module(net)[2])
    view = training_view(net, labels_of(net), ("body",), norms=norms)
    view(jnp.arange(12.0).reshape(4, 3) ** 2, rngs=nnx.Rngs(dropout=0))
    after = split_module(net)[2]
    # Means of what another norm gave are 0 to rounding, and exactly 0 on some chips.
    for where in (("norm", "running_var"), ("plain", "norm", "var")):
        one, two = before["body"], after["body"]
        for key in where:
            one, two = one[key], two[key]
        assert (not np.array_equal(one, two)) == moves
    head = before["head"]["norm"]["running_var"]
    assert not np.array_equal(head, after["head"]["norm"]["running_var"])


def test_the_modules_own_mode_is_left_alone(net):
    view = training_view(net, labels_of(net), ("body",), norms="frozen")
    assert (
        view.body.norm.use_running_average and view.body.plain.norm.use_running_average
    )
    assert not view.head.norm.use_running_average and not view.head.drop.deterministic
    assert not net.body.norm.use_running_average


@pytest.mark.parametrize(
    ("boundary", "index"),
    [(0, 0), (1, 1), (2, 2), (-1, 2), (-3, 0), ("b", 1), ("a", 0)],
)
def test_boundaries_count_as_fastais(boundary, index):
    assert boundary_index(boundary, ["a", "b", "c"]) == index


@pytest.mark.parametrize("boundary", [3, -4, "d"])
def test_a_boundary_that_is_not_there_names_the_groups(boundary):
    with pytest.raises(ValueError, match="a, b, c"):
        boundary_index(boundary, ["a", "b", "c"])


def test_an_unknown_norm_policy_is_refused():
    with pytest.raises(
        ValueError,
        match="norms must be 'frozen', 'stats', 'train' or 'running'; received 'eval'",
    ):
        check_norms("eval")
