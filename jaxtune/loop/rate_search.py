"""The learning rate finder: a copy of the weights is trained at rising rates.

The trainer is not changed.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxtune.loop.epoch_table import describe_phase
from jaxtune.loop.phase_checks import check_rows
from jaxtune.loop.processes import ending_together
from jaxtune.loop.trainer import NonFiniteLossError, Trainer
from jaxtune.train import LRFind, Phase, exponential, lr_sweep, suggest_rates


def search_rates(
    trainer: Trainer,
    data: Any,
    *,
    start_lr: float,
    end_lr: float,
    num_it: int,
    stop_div: bool,
    weight_decay: float,
    seed: int,
    first_epoch: int,
) -> LRFind:
    """Returns losses at rising rates, and suggested rates; see `Learner.lr_find`.

    Args:
        trainer: Its layer groups that are not frozen are trained, in a copy.
        data: Has `train_loader`.
        start_lr: Rate of the first update, for every layer group.
        end_lr: Rate after the last update.
        num_it: Number of updates.
        stop_div: Whether to stop when the loss is four times the best so far.
        weight_decay: Weight decay of the search.
        seed: Of dropout and augmentation.
        first_epoch: Number of the epoch whose batches are used first.

    Raises:
        NonFiniteLossError: If the first loss is NaN or infinite.
        OutOfMemoryError: If a step does not fit into the device's memory.
    """
    batches_each = trainer.gradient_accumulation_steps
    # A phase's schedule counts batches.
    schedule = exponential(num_it * batches_each, start_lr, end_lr)
    count = len(trainer.groups)
    phase = Phase(None, None, 1, (1.0,) * count, schedule, weight_decay)
    check_rows(trainer, data, [phase])
    batches, key = _batches(trainer, data, first_epoch), jax.random.key(seed)
    several = (list(itertools.islice(batches, batches_each)) for _ in range(num_it))
    with ending_together(), trainer.programs.device_errors():
        step, state = trainer.begin(phase)
        losses = lr_sweep(_of_several(step), state, several, key, stop_div=stop_div)
    if not np.isfinite(losses[0]):
        raise NonFiniteLossError(
            f"the first loss is {losses[0]}, before any rate was tried: the network"
            " or the loss gives NaN or infinity for the first training batch. "
            "validate() tells which of the two."
        )
    labels = trainer.labels()
    names = set(jax.tree.leaves(labels))
    rates = start_lr * (end_lr / start_lr) ** (np.arange(len(losses)) / num_it)
    return LRFind(
        rates=rates,
        losses=losses,
        suggestions=suggest_rates(rates, losses, num_it),
        what=describe_phase(
            f"phase {trainer.phase + 1}",
            labels,
            trainer.module,
            trainer.frozen_groups,
        ),
        phase=trainer.phase + 1,
        groups=tuple(group for group in trainer.groups if group in names),
    )


def _batches(trainer: Trainer, data: Any, first_epoch: int) -> Iterator[dict]:
    for epoch in itertools.count(first_epoch):
        for batch in trainer.own_rows(data.train_loader).batches(epoch):
            yield trainer.place(batch)


def _of_several(step: Callable) -> Callable:
    """A step of the batches of one update; its loss is the mean over their rows."""

    def steps(state, batches, key):
        results = []
        for batch in batches:
            state, metrics = step(state, batch, key)
            results.append(metrics)
        losses, counts = (
            np.asarray([metrics[name] for metrics in results], np.float64)
            for name in ("loss", "count")
        )
        return state, {"loss": np.average(losses, weights=counts)}

    return steps
