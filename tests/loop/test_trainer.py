import threading

import jax
import numpy as np
import pytest
import runs
from photos import make_photos

from jaxtune import LambdaCallback, OutOfMemoryError, SaveBest
from jaxtune.loop import compiled_steps as compiled
from jaxtune.loop import events
from jaxtune.loop.compiled_steps import CompiledStep, CompiledSteps
from jaxtune.loop.fit import fit
from jaxtune.loop.trainer import Trainer
from jaxtune.train import Phase, constant, split_module


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), train=32)


@pytest.fixture(scope="module")
def phases_run(root):
    """A learner after two phases, and what its trainer was at after each epoch."""
    learner = runs.make_learner(root, verbose=False)
    trainer = learner._trainer
    assert isinstance(trainer, Trainer)
    phases = [
        Phase("head", 1, 1, (0.0, 1e-2), constant(12), 0.0),
        Phase("whole", 0, 2, (1e-3, 1e-2), constant(24), 0.0),
    ]
    rows = fit(trainer, learner.data, phases, first_epoch=0, key=jax.random.key(0))
    places = [(row.phase, row.epoch, trainer.frozen_groups) for row in rows]
    return learner, places


def test_phases_are_run_one_after_the_other(phases_run):
    learner, places = phases_run
    assert places == [(1, 1, ("body",)), (2, 1, ()), (2, 2, ())]
    trainer = learner._trainer
    assert trainer.frozen_groups == () and trainer.phase == 2


@pytest.mark.parametrize("many_cores", [1, 10**6], ids=["many cores", "few cores"])
def test_the_next_phase_is_compiled_while_this_one_trains(
    root, fresh_programs, monkeypatch, many_cores
):
    monkeypatch.setattr(events, "_MANY_CORES", many_cores)
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
    threads = {"jit(train_step)": [], "jit(eval_step)": []}
    for name, thread in compiled:
        threads.setdefault(name, []).append(thread)
    # The first phase's, too: photos are decoded meanwhile.
    assert threads["jit(train_step)"] == ["jaxtune-compile"] * 2
    assert threads["jit(eval_step)"] == ["jaxtune-compile"]
    assert model.num_programs == 3
    assert not any(t.name == "jaxtune-compile" for t in threading.enumerate())


def test_a_phase_that_can_not_be_compiled_ahead_says_so_itself(root, monkeypatch):
    model = runs.make_learner(root, verbose=False)
    made = CompiledSteps.train_step

    def fails_unfrozen(self, graphdef, tx, labels, **options):
        if "frozen" in jax.tree.leaves(labels):
            return made(self, graphdef, tx, labels, **options)
        return jax.jit(lambda state, batch, key: state["no such thing"])

    monkeypatch.setattr(CompiledSteps, "train_step", fails_unfrozen)
    with pytest.raises(TypeError):
        model.fine_tune(1, freeze_epochs=1)
    assert [row.phase for row in model.history] == [1]


def test_a_snapshot_is_taken_before_each_phase(phases_run):
    learner, _ = phases_run
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
        state = model._trainer.running.state
        seen.append((jax.tree.map(np.asarray, state.params), runs.bits(model), logs))

    def load_and_validate():
        network = runs.make_learner(root, verbose=False)
        network.restore_values(tmp_path / "best")
        return network.validate()["loss"]

    found = model.lr_find(num_it=8)
    callbacks = [LambdaCallback(on_epoch_end=look), SaveBest(tmp_path / "best")]
    history = model.fine_tune(1, 1e-2, freeze_epochs=1, callbacks=callbacks)
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


class FullDevice:
    """A train step whose device has no memory left from some call on.

    What has been seen of real devices: the state that was given is used up either way;
    some say so at once, some only when results are read.
    """

    def __init__(self, jitted, calls: int, *, late: bool):
        self._jitted, self._left, self._late = jitted, calls, late
        self.lower, self._cache_size = jitted.lower, jitted._cache_size

    def __call__(self, state, batch, key):
        self._left -= 1
        if self._left >= 0:
            return self._jitted(state, batch, key)
        for leaf in jax.tree.leaves(state):
            leaf.delete()
        if self._late:
            return state, {"loss": unreadable(), "count": jax.numpy.float32(8)}
        raise full()


def unreadable() -> jax.Array:
    """A result of a step that failed on the device, which says so when it is read."""

    def fails(x):
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    shape = jax.ShapeDtypeStruct((), "float32")
    return jax.jit(lambda x: jax.pure_callback(fails, shape, x))(0.0)


def full() -> jax.errors.JaxRuntimeError:
    return jax.errors.JaxRuntimeError(
        "RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1024 bytes."
    )


def fill_device(monkeypatch, calls: int, *, late: bool = False) -> None:
    """From so many train steps of each program on, the device is full."""
    made = CompiledStep.__init__

    def init(self, jitted, task, *arguments, **options):
        if task == "a train step":
            jitted = FullDevice(jitted, calls, late=late)
        made(self, jitted, task, *arguments, **options)

    monkeypatch.setattr(CompiledStep, "__init__", init)


@pytest.mark.parametrize("late", [False, True])
def test_out_of_memory_in_the_first_step_loses_nothing(root, monkeypatch, late):
    model = runs.make_learner(root, verbose=False)
    before = runs.bits(model)
    with monkeypatch.context() as patch:
        fill_device(patch, 0, late=late)
        with pytest.raises(OutOfMemoryError, match="a train step with a batch of 8"):
            model.fit(1)
        with pytest.raises(OutOfMemoryError):
            model.lr_find(num_it=8)
    assert runs.bits(model) == before and len(model.history) == 0
    model.validate()
    model.predict(model.data.valid_items.paths[0])
    model._trainer.programs._steps.clear()
    assert len(model.fit(1)) == 1


def test_out_of_memory_later_leaves_the_values_of_the_last_whole_epoch(
    root, monkeypatch
):
    model = runs.make_learner(root, verbose=False)
    seen = []

    def look(epoch, logs):
        seen.append(runs.bits(model))

    fill_device(monkeypatch, 2 * 12 + 5)
    with pytest.raises(OutOfMemoryError) as caught:
        model.fit(3, callbacks=LambdaCallback(on_epoch_end=look))
    assert "RESOURCE_EXHAUSTED" in str(caught.value.__cause__)
    # The module was looked at in between, so its arrays were given to steps, too.
    assert len(model.history) == len(seen) == 2
    assert runs.bits(model) == seen[-1]
    assert model.validate()["loss"] == model.history[-1].valid_loss
    assert model._trainer.version[1] == 24


def test_a_batch_that_does_not_fit_is_refused_before_the_first_step(root, monkeypatch):
    model = runs.make_learner(root, verbose=False, gradient_accumulation_steps=2)
    before = runs.bits(model)
    with monkeypatch.context() as patch:
        patch.setattr(compiled, "memory_limit", lambda device: 50_000)
        with pytest.raises(OutOfMemoryError) as caught:
            model.fine_tune(1, freeze_epochs=1)
    said = str(caught.value)
    assert (
        "a train step with a batch of 8 needs" in said and "there is 48.8 KiB" in said
    )
    assert "with gradient_accumulation_steps=" in said
    assert runs.bits(model) == before
    model.fine_tune(1, freeze_epochs=1)
    assert model.num_programs == 3


def test_validation_and_prediction_say_what_does_not_fit(root, monkeypatch):
    model = runs.make_learner(root, verbose=False)
    monkeypatch.setattr(compiled, "memory_limit", lambda device: 1000)
    photos = [model.data.valid_items.paths[0]] * 2
    for act, what in (
        (model.validate, "validation with a batch of 8"),
        (lambda: model.predict(photos), "prediction with a batch of 8"),
        (lambda: model.get_preds(), "prediction with a batch of 8"),
        (lambda: model.tta(n=1), "prediction with a batch of 8"),
        (lambda: model.grad_cam(photos[0]), "prediction with a batch of 1"),
    ):
        with pytest.raises(OutOfMemoryError, match=what):
            act()
