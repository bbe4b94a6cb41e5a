import os
import signal

import jax
import numpy as np
import pytest
import runs
from flax import nnx
from photos import make_photos, tiny_resnet

from jaxtune.checkpoint import CheckpointMismatchError, RunMismatchError
from jaxtune.loop.callbacks import Callback
from jaxtune.loop.compiled_steps import CompiledSteps
from jaxtune.loop.epoch_table import describe_phase
from jaxtune.loop.trainer import Trainer
from jaxtune.train import (
    FROZEN,
    Phase,
    accumulated_gradients,
    adam,
    constant,
    cross_entropy,
    group_states,
)
from jaxtune.transfer import create_cnn_model, default_groups


@pytest.fixture(scope="module")
def net():
    return create_cnn_model(tiny_resnet, 3, hidden=(8,), rngs=nnx.Rngs(0))


def make(net, **options):
    programs = CompiledSteps(
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


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), train=32)


class Rates(Callback):
    """Writes down the head's rate and updates after each batch; may ask for a stop."""

    stop_at = None

    def on_train_begin(self):
        self.seen = []

    def on_train_batch_end(self, batch, logs):
        state = self.learner._trainer.running.state.opt_state
        head = group_states(state)["head"]
        after = jax.device_get([head.step, head.schedule(head.step)[0]])
        self.seen.append((int(after[0]), float(after[1])))
        if len(self.seen) == self.stop_at:
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def accumulated(root):
    """24 batches by fives: four updates, the third over the end of the first epoch."""
    model = runs.make_learner(root, gradient_accumulation_steps=5, verbose=False)
    callback = Rates()
    history = model.fit_one_cycle(2, 1e-2, callbacks=callback)
    return model, callback.seen, [runs.bits(model), runs.figures(history)]


def test_a_cycle_counts_updates_and_ends_with_them(accumulated):
    model, seen, _ = accumulated
    assert [count for count, _ in seen] == [(i + 1) // 5 for i in range(24)]
    # After the last update the cycle is at its end: peak / div_final.
    assert seen[-1][1] == pytest.approx(1e-5) and seen[4][1] == pytest.approx(1.0)
    programs = model.num_programs
    assert model.frozen_groups and programs == 2


def test_a_run_stopped_between_two_updates_goes_on(root, accumulated, tmp_path):

    def fit(stop_at=None, **options):
        model, callback = runs.make_learner(root, verbose=False, **options), Rates()
        callback.stop_at = stop_at
        history = model.fit_one_cycle(
            2, 1e-2, callbacks=callback, run=tmp_path / "run", save_every=1e9
        )
        return len(callback.seen), [runs.bits(model), runs.figures(history)]

    with pytest.raises(KeyboardInterrupt):
        fit(13, gradient_accumulation_steps=5)
    assert fit(gradient_accumulation_steps=5) == (24 - 13, accumulated[2])
    with pytest.raises(RunMismatchError, match="gradient_accumulation_steps: 5 in the"):
        fit()


def test_moments_go_on_and_waiting_gradients_do_not(root, accumulated, tmp_path):
    """Also through a file, which another number of batches does not fit."""
    model = accumulated[0]
    saved = tmp_path / "saved"
    model.save(saved)
    again = runs.make_learner(root, gradient_accumulation_steps=5, verbose=False)
    assert again.load(saved).endswith("the optimizer continues")
    waiting = accumulated_gradients(again._trainer.opt_state)
    assert any(np.any(leaf) for leaf in jax.tree.leaves(waiting))
    phase = Phase(None, None, 1, (0.1, 0.1), constant(12), 0.0)
    _, state = again._trainer.begin(phase)
    begun = accumulated_gradients(state.opt_state)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(begun))
    old, new = (
        group_states(tree)["head"]
        for tree in (model._trainer.opt_state, state.opt_state)
    )
    jax.tree.map(np.testing.assert_array_equal, old.inner, new.inner)
    assert (int(new.step), float(new.schedule.total_steps)) == (0, 2.0)
    # Another rate and schedule: the same programs.
    model.fit(1, 1e-3)
    assert model.num_programs == 2
    other = runs.make_learner(root, verbose=False)
    with pytest.raises(CheckpointMismatchError, match="opt_state"):
        other.load(saved)
    assert "starts from scratch" in other.load(saved, with_opt=False)


def test_too_few_batches_for_an_update_are_refused(root):
    model = runs.make_learner(root, gradient_accumulation_steps=25, verbose=False)
    before = runs.bits(model)
    with pytest.raises(ValueError, match="more than the 24 batches of a phase"):
        model.fit(2)
    assert runs.bits(model) == before and model.num_programs == 0
    with pytest.raises(ValueError, match="whole number of at least 1; received 0"):
        runs.make_learner(root, gradient_accumulation_steps=0)


def test_a_chip_that_multiplies_bfloat16_computes_in_it(root, monkeypatch, capsys):
    assert (
        runs.make_learner(root, verbose=False, precision="auto").precision == "float32"
    )
    name = "jaxtune.train.precision._multiplies_bfloat16"
    monkeypatch.setattr(name, lambda device: True)
    model = runs.make_learner(root, precision="auto")
    assert model.precision == "bfloat16"
    assert runs.make_learner(root, precision="float32").precision == "float32"
    model.fit(1, 1e-3)
    assert capsys.readouterr().out.splitlines()[0].endswith(" train · in bfloat16")
    model.precision = "float32"
    model.precision = "auto"
    assert model.precision == "bfloat16"


def test_a_learner_in_bfloat16(root):
    figures, kept = {}, {}
    for precision in ("float32", "bfloat16"):
        model = runs.make_learner(root, precision=precision, verbose=False)
        model.unfreeze()
        history = model.fit(1, 3e-3)
        figures[precision] = runs.figures(history)
        kept[precision] = np.asarray(model.get_preds()[0])
        leaves = jax.tree.leaves(nnx.state(model.model, (nnx.Param, nnx.BatchStat)))
        assert {leaf.dtype.name for leaf in leaves} == {"float32"}
        # What is validated and what is predicted is one network.
        assert model.validate()["loss"] == history[-1].valid_loss
    described = model._trainer.describe()
    assert described["precision"] == "bfloat16"
    assert "gradient_accumulation_steps" not in described
    wide, narrow = figures.values()
    for one, two in zip(wide, narrow, strict=True):
        assert one != two
        assert two["train_loss"] == pytest.approx(one["train_loss"], rel=0.02)
        assert two["valid_loss"] == pytest.approx(one["valid_loss"], rel=0.02)
    np.testing.assert_allclose(kept["bfloat16"], kept["float32"], atol=0.03)
