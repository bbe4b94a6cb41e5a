import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest
import runs
from flax import nnx
from photos import make_photos

from jaxtune.loop.events import FitEvents
from jaxtune.loop.fit import fit
from jaxtune.loop.run_state import RunState, StepTimer
from jaxtune.loop.sharding import data_sharding
from jaxtune.loop.trainer import NonFiniteLossError, Trainer
from jaxtune.train import Phase, constant

EMPTY = nnx.State({})


def sums(count, loss):
    return {"count": jnp.float32(count), "loss": jnp.float32(loss)}


def evaluated(parts, batches):
    """What a trainer says of batches whose eval steps give these parts."""
    parts = iter(parts)
    trainer = object.__new__(Trainer)
    trainer.programs = SimpleNamespace(
        eval_step=lambda graphdef, features: lambda *arguments: next(parts), metrics={}
    )
    trainer.eval_graphdef, trainer.place = lambda: None, lambda batch: batch
    trainer._rows, trainer.sharding = data_sharding()
    loader = SimpleNamespace(batches=lambda: iter(batches))
    return trainer.evaluate(loader, (EMPTY, EMPTY))


def test_evaluation_weighs_batches_by_their_unpadded_rows():
    found = evaluated([sums(8, 16.0), sums(2, 1.0)], [{}, {}])
    assert found == {"loss": pytest.approx(1.7)}


def test_nothing_to_validate_on_is_an_error():
    with pytest.raises(ValueError, match="no readable photo"):
        evaluated([], [])


def test_an_epochs_loss_is_the_mean_over_images():
    run = RunState()
    timer = StepTimer(run)
    for batch in timer.batches([1.0, 3.0]):
        run.add_step(jnp.float32(batch), jnp.float32(batch))
    loss, speed = timer.stop()
    assert loss == pytest.approx((1 * 1 + 3 * 3) / 4) and speed > 0


def test_an_epoch_that_is_resumed_counts_what_was_done_before():
    run = RunState(step=1, losses=[1.0], counts=[1.0], progress=1)
    timer = StepTimer(run)
    for batch in timer.batches([3.0]):
        time.sleep(0.05)
        run.add_step(jnp.float32(batch), jnp.float32(batch))
    loss, speed = timer.stop()
    assert loss == pytest.approx((1 * 1 + 3 * 3) / 4)
    assert (run.step, run.progress) == (2, 2)
    # The one step took its time, and is not measured from its own end.
    assert 0 < speed <= 3 / 0.05


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    root = make_photos(tmp_path_factory.mktemp("photos"), train=32)
    return runs.make_learner(root, verbose=False)


def test_a_step_whose_loss_is_nan_is_named(learner):
    trainer, steps = learner._trainer, []
    begin = trainer.begin

    def spoiled(phase):
        step, state = begin(phase)

        def train_step(*arguments):
            state, metrics = step(*arguments)
            steps.append(1)
            if len(steps) == 2:
                metrics |= {"finite": jnp.asarray(False), "loss": jnp.float32("nan")}
            return state, metrics

        return train_step, state

    trainer.begin = spoiled
    try:
        phase = Phase("whole", 0, 1, (1e-3, 1e-2), constant(12), 0.0)
        rows = fit(trainer, learner.data, [phase], first_epoch=0, key=jax.random.key(0))
        with pytest.raises(
            NonFiniteLossError, match=r"step 2 of epoch 1 in phase 1.*loss nan"
        ):
            list(rows)
    finally:
        del trainer.begin


def test_without_events_nothing_is_shown(learner, capsys):
    phase = Phase("head", 1, 1, (0.0, 1e-2), constant(12), 0.0)
    events = FitEvents(verbose=False)
    (row,) = fit(
        learner._trainer, learner.data, [phase], first_epoch=0,
        key=jax.random.key(0), events=events,
    )  # fmt: skip
    assert row.epoch == 1 and events.run.rows == [row]
    assert capsys.readouterr().out == ""
