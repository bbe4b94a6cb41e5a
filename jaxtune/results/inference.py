"""Answers: what a learner's network makes of photos, with the values that it has now.

A trainer in; functions of batches out. The one rule of the file: the values are those
of its making; the programs are the trainer's, compiled once.
"""

from typing import Any

import jax
import numpy as np

from jaxtune.inspect.gradcam import scale_heat
from jaxtune.loop.trainer import Trainer


class Answers:
    """What a trainer's network says of photos, with the values that it has now.

    Attributes:
        place: Puts a batch onto the devices, see `PhasedNetwork.place`.
    """

    def __init__(self, trainer: Trainer):
        """Takes the values as they are; nothing is compiled yet.

        Args:
            trainer: Holds network, values and programs.
        """
        self._programs = trainer.programs
        self.place = trainer.place
        self._graphdef = trainer.eval_graphdef()
        self._values = trainer.values()

    def of(self, images: Any) -> tuple[jax.Array, jax.Array]:
        """Returns outputs and probabilities (b, k) of photos uint8 (b, h, w, c)."""
        return self._programs.answer_step(self._graphdef)(*self._values, images)

    def augmented(self, batch: Any, key: jax.Array) -> jax.Array:
        """Returns probabilities (b, k) of a batch, augmented as those that train."""
        step = self._programs.augmented_step(self._graphdef)
        return step(*self._values, batch, key)

    def losses(self, outputs: Any, label: Any) -> jax.Array:
        """Returns each row's loss (b,), by the learner's own."""
        return self._programs.loss_step()(outputs, label)

    def one_by_one(self, images: np.ndarray) -> np.ndarray:
        """Returns probabilities (b, k) of photos; however many, one program."""
        each = [self.of(images[i : i + 1])[1] for i in range(len(images))]
        return np.concatenate([np.asarray(said) for said in each])

    def heat(self, images: np.ndarray, index: Any, layer: str) -> np.ndarray:
        """Returns Grad-CAM's maps (b, h, w), one output of each; the highest is 1."""
        step = self._programs.heat_step(self._graphdef, layer)
        index = np.asarray(index, np.int32)
        each = [
            np.asarray(step(*self._values, images[i : i + 1], index[i : i + 1]))
            for i in range(len(images))
        ]
        return scale_heat(np.concatenate(each))
