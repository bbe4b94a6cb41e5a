import jax
import pytest
from flax import nnx
from photos import tiny_resnet

from jaxtune.learner.network import PhasedNetwork
from jaxtune.learner.programs import Programs
from jaxtune.learner.progress import describe_phase
from jaxtune.train import FROZEN, adam, cross_entropy
from jaxtune.transfer import create_cnn_model, default_groups


@pytest.fixture(scope="module")
def net():
    return create_cnn_model(tiny_resnet, 3, hidden=(8,), rngs=nnx.Rngs(0))


def make(net, **options):
    programs = Programs(
        size=(32, 32), augmentation=None, loss=cross_entropy, metrics={}, mean=None,
        std=None,
    )  # fmt: skip
    settings = {"groups": default_groups(net), "norms": "frozen"} | options
    return PhasedNetwork(
        net,
        settings.pop("groups"),
        optimizer=adam,
        clip_norm=None,
        programs=programs,
        batch_sizes=(8,),
        **settings,
    )


def test_labels_follow_the_boundary(net):
    network = make(net)
    assert FROZEN not in jax.tree.leaves(network.labels())
    network.freeze_to("head")
    assert set(jax.tree.leaves(network.labels())) == {FROZEN, "head"}
    assert network.frozen_groups == ("early", "late")


def test_the_description_of_a_phase(net):
    network = make(net)
    say = lambda: describe_phase(  # noqa: E731
        "phase 1", network.labels(), net, network.frozen_groups
    )
    assert "all layer groups" in say()
    network.freeze_to(1)
    assert "late, head only" in say()
    network.norms = "train"
    assert "late, head, and the norms of frozen groups" in say()


def test_groups_are_checked_at_once(net):
    with pytest.raises(ValueError, match="in no group"):
        make(net, groups={"head": "head"})
