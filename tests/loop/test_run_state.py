import json

import jax.numpy as jnp
import numpy as np

from jaxtune.learner import Row
from jaxtune.loop.run_state import RunState


def row(epoch):
    return Row(
        phase=1, epoch=epoch, train_loss=0.1, valid_loss=1 / 3, metrics={"a": 0.2},
        images_per_second=3.0, seconds=4.0,
    )  # fmt: skip


def test_it_comes_back_from_json_bit_for_bit():
    position = RunState()
    position.add_step(jnp.float32(0.1), jnp.float32(8))
    position.add_epoch(row(1))
    losses = [jnp.float32(x) for x in (0.1, 1 / 3, float("nan"))]
    for loss in losses:
        position.add_step(loss, jnp.float32(8))
    text = json.dumps(position.as_json(seconds=1.25))
    back = RunState.from_json({**json.loads(text), "train_step": 4})
    assert (back.phase, back.epoch, back.step, back.progress) == (1, 1, 3, 5)
    assert back.seconds == 1.25 and back.rows == [row(1)]
    assert back.counts == [8.0, 8.0, 8.0]
    np.testing.assert_array_equal(np.float32(back.losses), np.float32(losses))


def test_progress_rises_with_every_step_and_every_epoch():
    position, seen = RunState(), []
    for _ in range(2):
        for _ in range(2):
            position.add_step(jnp.float32(1), jnp.float32(1))
            seen.append(position.progress)
        position.add_epoch(row(1))
        seen.append(position.progress)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert position.step == 0 and position.losses == [] and position.epoch == 2
    position.begin_phase(2)
    assert (position.phase, position.epoch, position.progress) == (2, 0, 6)
