"""The epoch loop: batches in, a trained state and one row per epoch out.

The one rule of the file: the loop calls steps and counts; it computes nothing of the
network itself.
"""

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from jaxtune.loop.epoch_table import Reporter
from jaxtune.loop.extra_validation import further_figures
from jaxtune.loop.history import Row
from jaxtune.loop.run_state import Position
from jaxtune.train import Metric, TrainState, averaged, epoch_figures

#: Seconds between two looks at the running loss; each look waits for the device.
_LOOK_EVERY = 0.5


class NonFiniteLossError(FloatingPointError):
    """The loss, its gradient or the network's outputs are no finite numbers.

    The learner holds good values then; the message says which.
    """


@dataclasses.dataclass
class Running:
    """A run under way; always the newest, whatever interrupts it.

    Attributes:
        state: The state after the last step.
        position: Where it stands.
        began: When this process began with the epoch, by `time.perf_counter`.
    """

    state: TrainState
    position: Position = dataclasses.field(default_factory=Position)
    began: float = dataclasses.field(default_factory=time.perf_counter)

    @property
    def seconds(self) -> float:
        """Time spent on this epoch so far, over all processes."""
        return self.position.seconds + time.perf_counter() - self.began


def _nothing(logs: Mapping | None = None) -> None:
    pass


def train_epoch(
    running: Running,
    batches: Iterable[Mapping],
    key: jax.Array,
    *,
    train_step: Callable,
    place: Callable,
    reporter: Reporter,
    after_step: Callable[..., None] = _nothing,
) -> tuple[float, float]:
    """Trains on every batch once.

    Args:
        running: Its state is given up to the next one, step by step.
        batches: Batches of numpy arrays; those that its position has not done yet.
        key: This epoch's key.
        train_step: The compiled step.
        place: Puts a batch onto the devices.
        reporter: Told of every step.
        after_step: Called between two steps with the step's metrics, arrays on the
            device; what it raises ends the epoch.

    Returns:
        The mean loss over the epoch's images, batches done before included, and images
        per second (the first step, which may compile, left out where there are others).

    Raises:
        NonFiniteLossError: If a step came to no finite number; looked for twice a
            second, and at the end.
    """
    position = running.position
    done = position.step
    started = looked = time.perf_counter()
    untimed, finite = 0, []
    for number, batch in enumerate(batches):
        if number == 1:
            # The first step may have compiled.
            jax.block_until_ready(position.losses[-1])
            started, untimed = time.perf_counter(), 1
        running.state, metrics = train_step(running.state, place(batch), key)
        position.add_step(metrics["loss"], metrics["count"])
        finite.append((position.step, metrics.get("finite", True)))
        if time.perf_counter() - looked > _LOOK_EVERY:
            # The step before the last is done or nearly so: no queue is drained.
            reporter.advance(float(position.losses[-2 if position.step > 1 else -1]))
            _check_finite(finite[:-1], position)
            finite = finite[-1:]
            looked = time.perf_counter()
        else:
            reporter.advance()
        after_step(metrics)
    _check_finite(finite, position)
    counts = np.asarray(jax.device_get(position.counts), np.float64)
    losses = np.asarray(jax.device_get(position.losses), np.float64)
    elapsed = time.perf_counter() - started
    mean = float((losses * counts).sum() / max(counts.sum(), 1.0))
    return mean, float(counts[done + untimed :].sum() / max(elapsed, 1e-9))


def _check_finite(flags: list, position: Position) -> None:
    for step, flag in jax.device_get(flags):
        if not flag:
            loss = float(position.losses[step - 1])
            raise NonFiniteLossError(
                f"step {step} of epoch {position.epoch + 1} in phase {position.phase} "
                f"came to no finite number (loss {loss}), and changed no parameter and "
                "no statistic."
            )


def evaluate(
    params: nnx.State,
    model_state: nnx.State,
    batches: Iterable[Mapping],
    *,
    eval_step: Callable,
    place: Callable,
    metrics: Mapping[str, Metric] | None = None,
    reporter: Reporter | None = None,
    after_step: Callable[..., None] = _nothing,
) -> dict[str, float]:
    """Returns the mean loss and metrics over every real row of the batches.

    The loss comes first, then the metrics in their order in `metrics`: a compiled step
    gives its dict back sorted. See `epoch_figures`.

    Raises:
        ValueError: If there is no row at all.
    """
    parts = []
    for batch in batches:
        parts.append(eval_step(params, model_state, place(batch)))
        if reporter is not None:
            reporter.advance()
        after_step()
    return epoch_figures(parts, metrics or {})


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
    metrics: Mapping[str, Metric],
    reporter: Reporter,
    further: Mapping[str, Any] | None = None,
    before_epoch: Callable[[], None] = _nothing,
    after_step: Callable[..., None] = _nothing,
) -> Iterator[Row]:
    """Trains and validates from a run's position to the phase's end; yields rows.

    Where the state has an average, that is what is validated.

    Args:
        running: Its state is given up to the next one, step by step.
        epochs: How many the phase has.
        first_epoch: Epochs that the data has seen before the run; with those of the run
            they decide order and draws.
        phase: Number of the phase, for the rows.
        data: Has `train_loader` and `valid_loader`.
        key: Of the whole run; each epoch folds its number in.
        train_step: The compiled step.
        eval_step: The compiled step.
        place: Puts a batch onto the devices.
        metrics: The eval step's metrics by name, in the order of the table.
        reporter: Told of everything.
        further: Loaders by name to validate on too; see `further_columns`.
        before_epoch: Called before each epoch; what it raises ends the run.
        after_step: Called between two steps, of training with its metrics; what it
            raises ends the run.
    """
    train, further = data.train_loader, further or {}
    loaders = (data.valid_loader, *further.values())
    position = running.position
    while position.epoch < epochs:
        before_epoch()
        epoch = first_epoch + len(position.rows)
        running.began = time.perf_counter()
        reporter.begin(
            f"epoch {position.epoch + 1}/{epochs}",
            len(train) + sum(map(len, loaders)),
            position.step,
        )
        train_loss, speed = train_epoch(
            running,
            train.batches(epoch, position.step),
            jax.random.fold_in(key, epoch),
            train_step=train_step,
            place=place,
            reporter=reporter,
            after_step=after_step,
        )
        measured, *others = (
            evaluate(
                *averaged(running.state),
                loader.batches(),
                eval_step=eval_step,
                place=place,
                metrics=metrics,
                reporter=reporter,
                after_step=after_step,
            )
            for loader in loaders
        )
        valid_loss = measured.pop("loss")
        for name, figures in zip(further, others, strict=True):
            measured |= further_figures(name, figures)
        row = Row(
            phase=phase,
            epoch=position.epoch + 1,
            train_loss=train_loss,
            valid_loss=valid_loss,
            metrics=measured,
            images_per_second=speed,
            seconds=running.seconds,
        )
        position.add_epoch(row)
        reporter.add(row)
        yield row
