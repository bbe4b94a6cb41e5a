import time

import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from jaxtune.loop.epoch_table import Reporter
from jaxtune.loop.loop import (
    NonFiniteLossError,
    Running,
    evaluate,
    train_epoch,
)
from jaxtune.loop.run_state import Position
from jaxtune.train import TrainState

QUIET = Reporter("", [], verbose=False)
EMPTY = nnx.State({})


def sums(count, loss):
    return {"count": jnp.float32(count), "loss": jnp.float32(loss)}


def test_evaluation_weighs_batches_by_their_real_rows():
    parts = iter([sums(8, 16.0), sums(2, 1.0)])
    found = evaluate(
        EMPTY,
        EMPTY,
        [{}, {}],
        eval_step=lambda params, model_state, batch: next(parts),
        place=lambda batch: batch,
    )
    assert found == {"loss": pytest.approx(1.7)}


def test_nothing_to_validate_on_is_an_error():
    with pytest.raises(ValueError, match="no readable photo"):
        evaluate(EMPTY, EMPTY, [], eval_step=lambda *a: {}, place=lambda batch: batch)


def test_an_epochs_loss_is_the_mean_over_images_and_the_state_is_the_last():
    def step(state, batch, key):
        loss = jnp.float32(batch["rows"])
        return state.replace(step=state.step + 1), {"loss": loss, "count": loss}

    running = Running(TrainState(0, EMPTY, EMPTY, ()))
    loss, speed = train_epoch(
        running,
        [{"rows": 1.0}, {"rows": 3.0}],
        jax.random.key(0),
        train_step=step,
        place=lambda batch: batch,
        reporter=QUIET,
    )
    assert running.state.step == 2 and speed > 0
    assert loss == pytest.approx((1 * 1 + 3 * 3) / 4)


def test_an_epoch_that_is_taken_up_counts_what_was_done_before():
    def step(state, batch, key):
        time.sleep(0.05)
        loss = jnp.float32(batch["rows"])
        return state, {"loss": loss, "count": loss}

    position = Position(step=1, losses=[1.0], counts=[1.0], progress=1)
    running, calls = Running(TrainState(0, EMPTY, EMPTY, ()), position), []
    loss, speed = train_epoch(
        running,
        [{"rows": 3.0}],
        jax.random.key(0),
        train_step=step,
        place=lambda batch: batch,
        reporter=QUIET,
        after_step=lambda logs: calls.append(position.step),
    )
    assert loss == pytest.approx((1 * 1 + 3 * 3) / 4)
    assert calls == [2] and position.progress == 2
    # The one step took its time, and is not measured from its own end.
    assert 0 < speed <= 3 / 0.05


def test_a_step_that_came_to_no_number_is_named():
    def step(state, batch, key):
        loss = jnp.float32(batch["rows"])
        return state, {"loss": loss, "count": loss, "finite": jnp.isfinite(loss)}

    batches = [{"rows": 1.0}, {"rows": float("nan")}, {"rows": 3.0}]
    position = Position(phase=2, epoch=4)
    with pytest.raises(
        NonFiniteLossError, match=r"step 2 of epoch 5 in phase 2 .*loss nan"
    ):
        train_epoch(
            Running(TrainState(0, EMPTY, EMPTY, ()), position),
            batches,
            jax.random.key(0),
            train_step=step,
            place=lambda batch: batch,
            reporter=QUIET,
        )
