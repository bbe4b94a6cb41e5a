"""Answers: the compiled programs that say what a network makes of photos.

A trainer in; functions of batches out. The one rule of the file: a program is compiled
once for a network and kept by the trainer, whatever the values are.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxtune.learner.devices import place_batch
from jaxtune.learner.gradcam import grad_cam, scale_heat
from jaxtune.learner.trainer import Trainer
from jaxtune.train import apply_module, identity, make_predict_step
from jaxtune.transfer import evaluating


class Answers:
    """What a trainer's network says of photos, with the values that it has now."""

    def __init__(self, trainer: Trainer):
        """Takes the values as they are; nothing is compiled yet.

        Args:
            trainer: Holds network, values and programs.
        """
        self._trainer = trainer
        self._programs = trainer.programs
        self._graphdef = nnx.graphdef(evaluating(trainer.module))
        self._values = trainer._values()

    def place(self, batch: Mapping[str, Any]) -> dict[str, jax.Array]:
        """Puts a batch onto the devices: rows split among them where they divide it."""
        rows, everywhere = self._trainer._rows, self._trainer._everywhere
        divides = len(batch["label"]) % rows.num_devices == 0
        return place_batch(batch, rows if divides else everywhere)

    def outputs(self, images: Any) -> jax.Array:
        """Returns logits (b, k) of photos uint8 (b, h, w, c), as validation does."""
        step = self._programs._made(
            ("outputs", self._graphdef),
            lambda: make_predict_step(
                self._graphdef, activation=identity, prepare=self._programs._plain
            ),
        )
        return step(*self._values, images)

    def augmented(self, batch: Any, key: jax.Array) -> jax.Array:
        """Returns logits (b, c) of a batch's photos, augmented as those that train."""
        graphdef, prepare = self._graphdef, self._programs._augmented

        def outputs(params, model_state, batch, key):
            images = prepare(batch, key)
            return apply_module(graphdef, params, model_state, images)[0]

        step = self._programs._made(("augmented", graphdef), lambda: outputs)
        return step(*self._values, batch, key)

    def probabilities(self, outputs: Any) -> jax.Array:
        """Returns what logits (b, c) are worth: float32 (b, c)."""
        activation = self._programs._activation

        def activate(outputs):
            return activation(outputs.astype(jnp.float32))

        return self._programs._made(("activation",), lambda: activate)(outputs)

    def losses(self, outputs: Any, label: Any) -> jax.Array:
        """Returns each row's loss (b,), by the learner's own."""
        loss = self._programs._loss
        return self._programs._made(("losses",), lambda: loss)(outputs, label)

    def one_by_one(self, images: np.ndarray) -> np.ndarray:
        """Returns probabilities (b, c) of photos; however many, one program."""
        each = [self.outputs(images[i : i + 1]) for i in range(len(images))]
        return np.concatenate([np.asarray(self.probabilities(x)) for x in each])

    def heat(self, images: np.ndarray, index: np.ndarray, layer: str) -> np.ndarray:
        """Returns Grad-CAM's maps (b, h, w), one output of each; the highest is 1."""
        graphdef, prepare = self._graphdef, self._programs._plain

        def maps(params, model_state, images, index):
            return grad_cam(
                graphdef,
                params,
                model_state,
                prepare(images),
                layer=layer,
                class_index=index,
            )

        step = self._programs._made(("grad_cam", graphdef, layer), lambda: maps)
        index = np.asarray(index, np.int32)
        each = [
            np.asarray(step(*self._values, images[i : i + 1], index[i : i + 1]))
            for i in range(len(images))
        ]
        return scale_heat(np.concatenate(each))
