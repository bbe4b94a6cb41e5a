import jax
import pytest
from flax import nnx

from jaxtune import L, create_cnn_model, params
from jaxtune.models import BasicBlock, Identity, ResNet, Sequential
from jaxtune.train import split_module
from jaxtune.transfer import default_groups, group_labels, split_groups


@pytest.fixture(scope="module")
def net():
    return nnx.eval_shape(
        lambda: create_cnn_model(
            lambda rngs: ResNet(BasicBlock, (1, 1, 1, 1), rngs=rngs), 5
        )
    )


@pytest.fixture(scope="module")
def tree(net):
    return split_module(net)[1]


def names(labels) -> list[str]:
    return jax.tree.leaves(labels)


def test_a_resnet_has_fastais_three_groups(net, tree):
    groups = default_groups(net)
    assert list(groups) == ["early", "late", "head"]
    labels = group_labels(tree, groups)
    assert labels["body"]["conv1"]["weight"] == "early"
    assert labels["body"]["layer2"]["0"]["bn1"]["bias"] == "early"
    assert labels["body"]["layer3"]["0"]["conv1"]["weight"] == "late"
    assert labels["head"]["linear2"]["weight"] == "head"
    assert jax.tree.structure(labels) == jax.tree.structure(tree)


def test_any_other_body_is_one_group():
    net = Sequential({"body": Identity(), "head": Identity()})
    assert list(default_groups(net)) == ["body", "head"]


# Splitters as fastai's users write them; `L` and `params` are fastai's names.
def _resnet_split(m):
    return L(m[0][:6], m[0][6:], m[1:]).map(params)


@pytest.mark.parametrize(
    "splitter",
    [
        _resnet_split,
        lambda m: (m[0][6], m[1]),
        lambda m: [params(m[0][:6]), params(m[0][6:]), params(m[1])],
        lambda m: [m[0][:6], m[0][6:], m[1]],
        lambda m: (m.body.layer3, m.head),
    ],
)
def test_fastais_splitters_run_as_they_are(net, tree, splitter):
    labels = group_labels(tree, split_groups(net, splitter))
    rename = {"early": "group0", "late": "group1", "head": "group2"}
    expected = group_labels(tree, default_groups(net))
    assert names(labels) == [rename[name] for name in names(expected)]


def test_two_groups_from_one_boundary(net, tree):
    groups = split_groups(net, lambda m: (m[1],))
    assert list(groups) == ["group0", "group1"]
    assert names(group_labels(tree, groups)).count("group1") == 6


def test_a_parameter_in_no_group_or_in_two_is_named(tree):
    with pytest.raises(ValueError, match=r"in no group: head\.bn1\.bias"):
        group_labels(tree, {"body": "body"})
    with pytest.raises(ValueError, match=r"in body and bn: body\.bn1\.bias"):
        group_labels(tree, {"body": "body", "bn": r"body\.bn1", "head": "head"})
    with pytest.raises(ValueError, match="group 'tail'.*has no parameter"):
        group_labels(tree, {"body": "body", "head": "head", "tail": "tail"})


def test_splitters_gone_wrong_say_so(net):
    with pytest.raises(TypeError, match="received a int"):
        split_groups(net, lambda m: [3])
    with pytest.raises(ValueError, match="left parameters out"):
        split_groups(net, lambda m: [params(m[0][:6])])
    with pytest.raises(ValueError, match="in the order of the network"):
        split_groups(net, lambda m: (m[1], m[0][6]))
    other = nnx.Linear(1, 1, rngs=nnx.Rngs(0))
    with pytest.raises(ValueError, match="not in the network"):
        split_groups(net, lambda m: [params(m), params(other)])
