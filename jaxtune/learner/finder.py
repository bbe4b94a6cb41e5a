"""The learner's search for a learning rate.

The one rule of the file: it trains a copy of the state, on batches that are a pure
function of their number; nothing of the learner is another afterwards.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from jaxtune.arguments import (
    Integer,
    Number,
    check_flag,
    check_integer,
    check_number,
)
from jaxtune.loop.epoch_table import describe_phase
from jaxtune.loop.history import History
from jaxtune.loop.loop import NonFiniteLossError
from jaxtune.loop.sharding import check_one_process
from jaxtune.loop.trainer import Trainer
from jaxtune.train import LRFind, Phase, exponential, lr_sweep, suggest_rates


class Finder:
    """What of a `Learner` searches for a learning rate."""

    data: Any
    history: History
    seed: int
    wd: float
    verbose: bool
    _trainer: Trainer

    def lr_find(
        self,
        start_lr: Number = 1e-7,
        end_lr: Number = 10.0,
        num_it: Integer = 100,
        *,
        stop_div: bool = True,
    ) -> LRFind:
        """Trains a copy at rising rates, and says which rates look good.

        Works in any phase, for what trains in it, and changes nothing: neither values
        nor the optimizer, neither the order of photos nor what is random. Writes no
        file.

        Args:
            start_lr: Rate of the first step, the same for every layer group.
            end_lr: Rate after the last step, larger.
            num_it: Number of updates, at least 8. With gradient accumulation each takes
                so many batches, and its loss is their mean: the rates are those for the
                large batch that training makes.
            stop_div: Whether to stop when the loss is four times the best so far.

        Returns:
            Rates, smoothed losses, and suggestions: valley, slide, minimum and steep.
            Its `plot()` is a figure.

        Raises:
            TypeError: If an argument is no number.
            ValueError: If a number is out of its range, or the rates don't rise.
            NonFiniteLossError: If the very first loss is no finite number.
            OutOfMemoryError: If a step does not fit into the device's memory.
            NotImplementedError: In one of several processes of `jax.distributed`.

        References:
            Smith, https://arxiv.org/abs/1506.01186; fastai 2.8.12,
            callback/schedule.py `lr_find`.
        """
        start_lr = check_number(start_lr, "start_lr", above=0)
        end_lr = check_number(end_lr, "end_lr", above=0)
        if start_lr >= end_lr:
            raise ValueError(
                "the rates of a search rise from start_lr to end_lr; received "
                f"start_lr={start_lr:g} and end_lr={end_lr:g}."
            )
        num_it = check_integer(num_it, "num_it", least=8)
        stop_div = check_flag(stop_div, "stop_div")
        check_one_process()
        trainer = self._trainer
        batches_each = trainer.gradient_accumulation_steps
        # A phase's schedule counts batches.
        schedule = exponential(num_it * batches_each, start_lr, end_lr)
        count = len(trainer.groups)
        phase = Phase(None, None, 1, (1.0,) * count, schedule, self.wd)
        trainer.check_rows(self.data, [phase])
        batches, key = self._batches(), jax.random.key(self.seed)
        several = (list(itertools.islice(batches, batches_each)) for _ in range(num_it))
        with trainer.programs.device_errors():
            step, state = trainer.begin(phase)
            losses = lr_sweep(_of_several(step), state, several, key, stop_div=stop_div)
        if not np.isfinite(losses[0]):
            raise NonFiniteLossError(
                f"the first loss is {losses[0]}, before any rate was tried: the network"
                " or the loss gives no finite numbers for the first training batch. "
                "validate() says which of the two."
            )
        labels = trainer.labels()
        names = set(jax.tree.leaves(labels))
        rates = start_lr * (end_lr / start_lr) ** (np.arange(len(losses)) / num_it)
        found = LRFind(
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
        if self.verbose:
            print(found, flush=True)
        return found

    def _batches(self) -> Iterator[dict]:
        for epoch in itertools.count(len(self.history)):
            for batch in self.data.train_loader.batches(epoch):
                yield self._trainer.place(batch)


def _of_several(step: Callable) -> Callable:
    """A step of several batches, which are one update; its loss is their rows' mean."""

    def steps(state, batches, key):
        told = []
        for batch in batches:
            state, metrics = step(state, batch, key)
            told.append(metrics)
        losses, counts = (
            np.asarray([metrics[name] for metrics in told], np.float64)
            for name in ("loss", "count")
        )
        return state, {"loss": np.average(losses, weights=counts)}

    return steps
