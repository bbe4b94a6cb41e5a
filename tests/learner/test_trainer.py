import jax
import pytest
from flax import nnx
from photos import tiny_resnet

from jaxtune.learner.programs import Programs
from jaxtune.learner.trainer import Trainer, describe_phase
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
    return Trainer(
        net,
        settings.pop("groups"),
        optimizer=adam,
        clip_norm=None,
        programs=programs,
        batch_sizes=(8,),
        **settings,
    )


def test_labels_follow_the_boundary(net):
    trainer = make(net)
    assert FROZEN not in jax.tree.leaves(trainer.labels())
    trainer.freeze_to("head")
    assert set(jax.tree.leaves(trainer.labels())) == {FROZEN, "head"}
    assert trainer.frozen_groups == ("early", "late")


def test_the_description_of_a_phase(net):
    trainer = make(net)
    say = lambda: describe_phase(  # noqa: E731
        "phase 1", trainer.labels(), net, trainer.frozen_groups
    )
    assert "all layer groups" in say()
    trainer.freeze_to(1)
    assert "late, head only" in say()
    trainer.norms = "train"
    assert "late, head, and the norms of frozen groups" in say()


def test_groups_are_checked_at_once(net):
    with pytest.raises(ValueError, match="in no group"):
        make(net, groups={"head": "head"})
