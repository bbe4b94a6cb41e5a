"""A compiled step that looks at the device's memory before it runs.

The one rule of the file: a program that can't fit is refused before it is given
anything, so that no donated state is lost.
"""

import math
from collections.abc import Callable
from typing import Any

import jax

from jaxtune.learner.float32 import in_float32
from jaxtune.learner.memory import MemoryNeed, check_fits, memory_limit
from jaxtune.train import local_devices


class CompiledStep:
    """A step under `jax.jit`, called like it; it computes in float32 throughout."""

    def __init__(
        self,
        jitted: Callable,
        task: str,
        batch: int,
        *,
        note: Callable[[MemoryNeed], None],
        accumulation: int | None = None,
    ):
        """Takes the step; nothing is compiled yet.

        Args:
            jitted: What `jax.jit` returns.
            task: What it does, "a train step".
            batch: Which of its arguments is the batch: an array, or some by name.
            note: Told at each call what the program needs.
            accumulation: Batches for one update, where it trains.
        """
        self._jitted, self._task, self._batch = jitted, task, batch
        self._note, self._accumulation = note, accumulation
        self._needs: dict[tuple, MemoryNeed] = {}

    @property
    def __wrapped__(self) -> Callable:
        """The step itself, a pure function: for `jax.export`, or other options."""
        return self._jitted.__wrapped__

    @property
    def count(self) -> int:
        """Number of programs compiled so far, one for each form of arguments."""
        return self._jitted._cache_size()

    @in_float32
    def __call__(self, *arguments: Any) -> Any:
        """Returns what the step does.

        Raises:
            OutOfMemoryError: If the program can't fit; the arguments are whole then.
        """
        batch = jax.tree.leaves(arguments[self._batch])
        form = tuple((leaf.shape, leaf.dtype) for leaf in batch)
        if form not in self._needs and not jax.config.jax_disable_jit:
            self._needs[form] = self._look_ahead(arguments, batch)
        if form in self._needs:
            self._note(self._needs[form])
        return self._jitted(*arguments)

    @in_float32
    def compile(self, *forms: Any) -> None:
        """Compiles the step for arguments of these forms, and does nothing else."""
        self._jitted.lower(*forms).compile()

    def _look_ahead(self, arguments: tuple, batch: list) -> MemoryNeed:
        """What the program needs; JAX keeps it, so the call compiles nothing more."""
        placed = (x for x in jax.tree.leaves(arguments) if isinstance(x, jax.Array))
        sets = (x.sharding.device_set for x in placed)
        devices = sorted(next(sets, local_devices()[:1]), key=lambda one: one.id)
        need = MemoryNeed(
            self._task,
            rows=len(batch[0]),
            device=devices[0],
            devices=len(devices),
            accumulation=self._accumulation,
        )
        # Should the compiler itself run out of memory, this much is known.
        self._note(need)
        analysis = self._jitted.lower(*arguments).compile().memory_analysis()
        need = need.measured(analysis, sum(map(_bytes_of_one, batch)))
        check_fits(need, memory_limit(need.device))
        return need


def _bytes_of_one(leaf: Any) -> int:
    """Bytes of an array on one of its devices."""
    if not isinstance(leaf, jax.Array):
        return leaf.nbytes
    shape = leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize
