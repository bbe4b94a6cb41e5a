"""The learner's search for a learning rate.

The one rule of the file: it trains a copy of the state, on batches that are a pure
function of their number; nothing of the learner is another afterwards.
"""

import itertools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from jaxtune.learner.history import History
from jaxtune.learner.progress import describe_phase
from jaxtune.learner.trainer import Trainer
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
        start_lr: float = 1e-7,
        end_lr: float = 10.0,
        num_it: int = 100,
        *,
        stop_div: bool = True,
    ) -> LRFind:
        """Trains a copy at rising rates, and says which rates look good.

        Works in any phase, for what trains in it, and changes nothing: neither values
        nor the optimizer, neither the order of photos nor what is random. Writes no
        file.

        Args:
            start_lr: Rate of the first step, the same for every layer group.
            end_lr: Rate after the last step.
            num_it: Number of steps, at least 8.
            stop_div: Whether to stop when the loss is four times the best so far.

        Returns:
            Rates, smoothed losses, and suggestions: valley, slide, minimum and steep.

        Raises:
            ValueError: If a number is out of its range.

        References:
            Smith, https://arxiv.org/abs/1506.01186; fastai 2.8.12,
            callback/schedule.py `lr_find`.
        """
        if num_it < 8:
            raise ValueError(f"num_it must be at least 8; received {num_it}.")
        trainer = self._trainer
        schedule = exponential(num_it, start_lr, end_lr)
        count = len(trainer.groups)
        step, state = trainer.begin(
            Phase(None, None, 1, (1.0,) * count, schedule, self.wd)
        )
        batches = itertools.islice(self._batches(), num_it)
        losses = lr_sweep(
            step, state, batches, jax.random.key(self.seed), stop_div=stop_div
        )
        rates = start_lr * (end_lr / start_lr) ** (np.arange(len(losses)) / num_it)
        found = LRFind(
            rates=rates,
            losses=losses,
            suggestions=suggest_rates(rates, losses, num_it),
            what=describe_phase(
                f"phase {trainer.phase + 1}",
                trainer.labels(),
                trainer.module,
                trainer.frozen_groups,
            ),
        )
        if self.verbose:
            print(found, flush=True)
        return found

    def _batches(self) -> Iterator[dict]:
        for epoch in itertools.count(len(self.history)):
            for batch in self.data.train_loader.batches(epoch):
                yield self._trainer.place(batch)
