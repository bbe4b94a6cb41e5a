"""Inference with the weights that a trainer has when `Inference` is made.

Later training does not change them; the compiled steps are shared with the trainer.
"""

import functools
import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxtune.inspect.gradcam import scale_heat
from jaxtune.loop.processes import ending_together
from jaxtune.loop.sharding import of_this_process
from jaxtune.loop.trainer import Trainer
from jaxtune.results.predictions import gather


class Inference:
    """Runs a trainer's network on batches, with weights captured at construction.

    Attributes:
        place: Puts a batch onto the devices, see `Trainer.place`.
    """

    def __init__(self, trainer: Trainer):
        """Captures the weights; nothing is compiled yet.

        Args:
            trainer: Holds network, weights and compiled steps.
        """
        self._programs = trainer.programs
        self.place, self._readable = trainer.place, trainer.readable
        self._own_rows = trainer.own_rows
        self._graphdef = trainer.eval_graphdef()
        self._values = trainer.values()
        self._values_here = of_this_process(self._values)

    def of(self, images: Any) -> tuple[jax.Array, jax.Array]:
        """Returns outputs and probabilities (b, k) of images uint8 (b, h, w, c)."""
        return self._programs.answer_step(self._graphdef)(*self._values, images)

    def augmented(self, batch: Any, key: jax.Array) -> jax.Array:
        """Returns probabilities (b, k) of a batch, augmented as in training."""
        step = self._programs.augmented_step(self._graphdef)
        return step(*self._values, batch, key)

    def losses(self, outputs: Any, label: Any) -> jax.Array:
        """Returns each row's loss (b,), by the learner's loss function."""
        return self._programs.loss_step()(outputs, label)

    def one_by_one(self, images: np.ndarray) -> np.ndarray:
        """Returns probabilities (b, k), image by image: only one program compiles.

        Of several processes each calls it for itself.
        """
        step = self._programs.answer_step(self._graphdef)
        each = [
            step(*self._values_here, images[i : i + 1])[1] for i in range(len(images))
        ]
        return np.concatenate([np.asarray(row) for row in each])

    def heat(self, images: np.ndarray, index: Any, layer: str) -> np.ndarray:
        """Returns a Grad-CAM map (b, h, w) of one output each, with a maximum of 1.

        Of several processes each calls it for itself.
        """
        step = self._programs.heat_step(self._graphdef, layer)
        index = np.asarray(index, np.int32)
        each = [
            np.asarray(step(*self._values_here, images[i : i + 1], index[i : i + 1]))
            for i in range(len(images))
        ]
        return scale_heat(np.concatenate(each))

    def rows(self, loader: Any, *, with_loss: bool = False) -> dict[str, np.ndarray]:
        """Returns probabilities (n, k), labels, positions and, if asked for, losses.

        Args:
            loader: A loader without shuffling or augmentation.
            with_loss: Whether to return each row's loss, (n,).

        Raises:
            ValueError: If no photo can be read.
        """

        def predict(batch: Mapping[str, Any]) -> dict[str, jax.Array]:
            placed = self.place(batch)
            outputs, probabilities = self.of(placed["image"])
            found = {"probabilities": probabilities}
            if with_loss:
                found["losses"] = self.losses(outputs, placed["label"])
            return self._answered(found, placed)

        with ending_together(), self._programs.device_errors():
            return gather(predict, self._own_rows(loader).batches())

    def _answered(self, found: dict, placed: Mapping[str, Any]) -> dict:
        """Results that this process can read, with what others know of the photos."""
        known = {"mask": placed["mask"]} if "mask" in placed else {}
        return known | self._readable(found)

    def averaged_rows(
        self,
        augmented: Any,
        plain: Any,
        key: jax.Array,
        *,
        n: int,
        beta: float,
        use_max: bool,
    ) -> dict[str, np.ndarray]:
        """Returns predictions of test-time augmentation; see `Learner.tta`.

        Args:
            augmented: A loader that prepares photos as for training, in order.
            plain: A loader of the same photos, prepared as for validation.
            key: Random key of the augmentation.
            n: Augmented predictions of each photo.
            beta: Weight of the plain prediction against the mean of the augmented.
            use_max: Whether to take the maximum over all predictions instead.
        """
        combine = jnp.maximum if use_max else operator.add

        def predict(batch: Mapping[str, Any]) -> dict[str, jax.Array]:
            placed = self.place(batch)
            keys = (jax.random.fold_in(key, i) for i in range(n))
            each = (self.augmented(placed, key) for key in keys)
            found = {"probabilities": functools.reduce(combine, each)}
            return self._answered(found, placed)

        with ending_together(), self._programs.device_errors():
            rows = gather(predict, self._own_rows(augmented).batches())
        once = self.rows(plain)["probabilities"]
        if use_max:
            rows["probabilities"] = np.maximum(rows["probabilities"], once)
        else:
            mean = rows["probabilities"] / n
            rows["probabilities"] = mean + np.float32(beta) * (once - mean)
        return rows
