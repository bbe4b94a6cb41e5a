import threading

import jax
import numpy as np
import pytest
import runs
from photos import make_photos

from jaxtune import LambdaCallback, SaveBest
from jaxtune.learner.programs import Programs
from jaxtune.learner.trainer import Trainer
from jaxtune.train import Phase, constant, split_module


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), train=32)


@pytest.fixture(scope="module")
def learner(root):
    return runs.make_learner(root, verbose=False)


def test_phases_are_run_one_after_the_other(learner):
    trainer = learner._trainer
    assert isinstance(trainer, Trainer)
    phases = [
        Phase("head", 1, 1, (0.0, 1e-2), constant(12), 0.0),
        Phase("whole", 0, 2, (1e-3, 1e-2), constant(24), 0.0),
    ]
    rows = trainer.run(
        learner.data, phases, first_epoch=0, key=jax.random.key(0), verbose=False
    )
    assert next(rows).phase == 1 and trainer.frozen_groups == ("body",)
    assert [(row.phase, row.epoch) for row in rows] == [(2, 1), (2, 2)]
    assert trainer.frozen_groups == () and trainer.phase == 2


def test_the_next_phase_is_compiled_while_this_one_trains(root):
    compiled = []

    def listen(event, seconds, **about):
        if event.endswith("backend_compile_duration"):
            compiled.append((about["fun_name"], threading.current_thread().name))

    model = runs.make_learner(root, verbose=False)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        model.fine_tune(1, freeze_epochs=1)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    steps = [thread for name, thread in compiled if name == "jit(train_step)"]
    assert steps == ["MainThread", "jaxtune-compile"]
    assert model.num_programs == 3
    assert not any(t.name == "jaxtune-compile" for t in threading.enumerate())


def test_a_phase_that_can_not_be_compiled_ahead_says_so_itself(root, monkeypatch):
    model = runs.make_learner(root, verbose=False)
    made = Programs.train_step

    def fails_unfrozen(self, graphdef, tx, labels):
        if "frozen" in jax.tree.leaves(labels):
            return made(self, graphdef, tx, labels)
        return jax.jit(lambda state, batch, key: state["no such thing"])

    monkeypatch.setattr(Programs, "train_step", fails_unfrozen)
    with pytest.raises(TypeError):
        model.fine_tune(1, freeze_epochs=1)
    assert [row.phase for row in model.history] == [1]


def test_a_snapshot_is_taken_before_each_phase(learner):
    first, second = learner._trainer.snapshots
    assert (first.phase, first.name, first.frozen) == (1, "head", ("body",))
    assert (second.phase, second.name, second.frozen) == (2, "whole", ())
    conv = first.params["body"]["conv1"]["weight"]
    # Frozen in the first phase, moved in the second; what was noted stays.
    assert (conv == second.params["body"]["conv1"]["weight"]).all()
    assert not (conv == learner.model[0].conv1.weight[...]).all()


def test_an_average_is_validated_kept_and_what_the_next_phase_begins_with(
    root, tmp_path
):
    model = runs.make_learner(root, verbose=False, ema_decay=0.9)
    seen = []

    def look(epoch, logs):
        state = model._trainer._running.state
        seen.append((jax.tree.map(np.asarray, state.params), runs.bits(model), logs))

    def load_and_validate():
        network = runs.make_learner(root, verbose=False)
        network.restore_values(tmp_path / "best")
        return network.validate()["loss"]

    found = model.lr_find(num_it=8)
    callbacks = [LambdaCallback(on_epoch_end=look), SaveBest(tmp_path / "best")]
    history = model.fine_tune(1, 1e-2, callbacks=callbacks)
    (head, first, _), (raw, last, logs) = seen
    # Validation, the module during training and after it, and what is saved agree.
    assert runs.bits(model) == last != first
    assert model.validate()["loss"] == logs["valid_loss"]
    assert load_and_validate() == min(history.history["valid_loss"])
    values = split_module(model.model)[1]
    same = jax.tree.leaves(jax.tree.map(np.array_equal, values, raw))
    assert not any(same)
    # A phase begins where the average of the one before ended, not the raw values.
    begun = model._trainer.snapshots[1].params
    same = jax.tree.map(np.array_equal, begun, head)
    assert all(jax.tree.leaves(same["body"])) and not any(jax.tree.leaves(same["head"]))
    # Nothing else of the learner minds.
    assert len(found.losses) == 8
    moved = {(row.phase, row.group): row.parameters for row in model.diff().groups()}
    assert not moved[1, "body"].changed and moved[2, "body"].changed
    model.assert_frozen()
    assert model._trainer.programs.count == 3
