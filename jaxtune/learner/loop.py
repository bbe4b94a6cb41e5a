"""The epoch loop: batches in, a trained state and one row per epoch out.

The one rule of the file: the loop calls steps and counts; it computes nothing of the
network itself.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import jax
import numpy as np
from flax import nnx

from jaxtune.learner.history import Row
from jaxtune.learner.progress import Reporter
from jaxtune.train import TrainState

#: Seconds between two looks at the running loss; each look waits for the device.
_LOOK_EVERY = 0.5


@dataclasses.dataclass
class Running:
    """The state of a run under way; always the newest, whatever interrupts the run."""

    state: TrainState


def train_epoch(
    running: Running,
    batches: Iterable[Mapping],
    key: jax.Array,
    *,
    train_step: Callable,
    place: Callable,
    reporter: Reporter,
) -> tuple[float, float]:
    """Trains on every batch once.

    Args:
        running: Its state is given up to the next one, step by step.
        batches: Batches of numpy arrays.
        key: This epoch's key.
        train_step: The compiled step.
        place: Puts a batch onto the devices.
        reporter: Told of every step.

    Returns:
        The mean loss over the images, and images per second (the first step, which may
        compile, left out where there are others).
    """
    losses, counts = [], []
    started = looked = time.perf_counter()
    for number, batch in enumerate(batches):
        running.state, metrics = train_step(running.state, place(batch), key)
        losses.append(metrics["loss"])
        counts.append(metrics["count"])
        if number == 0:
            jax.block_until_ready(metrics["loss"])
            started = time.perf_counter()
        if time.perf_counter() - looked > _LOOK_EVERY:
            # The step before the last is done or nearly so: no queue is drained.
            reporter.advance(float(losses[-2 if len(losses) > 1 else -1]))
            looked = time.perf_counter()
        else:
            reporter.advance()
    counts = np.asarray(jax.device_get(counts), np.float64)
    losses = np.asarray(jax.device_get(losses), np.float64)
    elapsed = time.perf_counter() - started
    timed = counts[1:] if len(counts) > 1 else counts
    mean = float((losses * counts).sum() / max(counts.sum(), 1.0))
    return mean, float(timed.sum() / max(elapsed, 1e-9))


def evaluate(
    params: nnx.State,
    model_state: nnx.State,
    batches: Iterable[Mapping],
    *,
    eval_step: Callable,
    place: Callable,
    metrics: Iterable[str] = (),
    reporter: Reporter | None = None,
) -> dict[str, float]:
    """Returns the mean loss and metrics over every real row of the batches.

    The loss comes first, then the metrics in the order of their names in `metrics`: a
    compiled step gives its dict back sorted.

    Raises:
        ValueError: If there is no row at all.
    """
    parts = []
    for batch in batches:
        parts.append(eval_step(params, model_state, place(batch)))
        if reporter is not None:
            reporter.advance()
    sums: dict[str, float] = {}
    for part in jax.device_get(parts):
        for name, value in part.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    count = sums.pop("count", 0.0)
    if not count:
        raise ValueError("there is no readable photo to validate on.")
    return {name: sums[name] / count for name in ("loss", *metrics)}


def run_epochs(
    running: Running,
    *,
    epochs: int,
    first_epoch: int,
    phase: int,
    data,
    key: jax.Array,
    train_step: Callable,
    eval_step: Callable,
    place: Callable,
    metrics: Iterable[str],
    reporter: Reporter,
) -> Iterator[Row]:
    """Trains and validates for some epochs; yields each one's row.

    Args:
        running: Its state is given up to the next one, step by step.
        epochs: How many.
        first_epoch: Epochs that the data has seen before; decides order and draws.
        phase: Number of the phase, for the rows.
        data: Has `train_loader` and `valid_loader`.
        key: Of the whole run; each epoch folds its number in.
        train_step: The compiled step.
        eval_step: The compiled step.
        place: Puts a batch onto the devices.
        metrics: Names of the eval step's metrics, in the order of the table.
        reporter: Told of everything.
    """
    train, valid = data.train_loader, data.valid_loader
    for number in range(epochs):
        epoch = first_epoch + number
        began = time.perf_counter()
        reporter.begin(f"epoch {number + 1}/{epochs}", len(train) + len(valid))
        train_loss, speed = train_epoch(
            running,
            train.batches(epoch),
            jax.random.fold_in(key, epoch),
            train_step=train_step,
            place=place,
            reporter=reporter,
        )
        measured = evaluate(
            running.state.params,
            running.state.model_state,
            valid.batches(),
            eval_step=eval_step,
            place=place,
            metrics=metrics,
            reporter=reporter,
        )
        row = Row(
            phase=phase,
            epoch=number + 1,
            train_loss=train_loss,
            valid_loss=measured.pop("loss"),
            metrics=measured,
            images_per_second=speed,
            seconds=time.perf_counter() - began,
        )
        reporter.add(row)
        yield row
