"""The compiled programs of a learner: each is made once and kept.

The one rule of the file: a program is known by what is code (the network's graph, what
trains); rates, schedules, epochs and values never make another.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import optax
from flax import nnx

from jaxtune.data import (
    Augmentation,
    Mixing,
    training_images,
    validation_images,
)
from jaxtune.learner.recipe import name_of
from jaxtune.train import (
    Metric,
    compile_step,
    make_eval_step,
    make_predict_step,
    make_train_step,
)


class Programs:
    """Compiled train, eval and predict steps, photos' preparation included."""

    def __init__(
        self,
        *,
        size: tuple[int, int],
        augmentation: Augmentation | None,
        loss: Callable,
        metrics: Mapping[str, Metric],
        mean: Sequence[float] | None,
        std: Sequence[float] | None,
        activation: Callable = jax.nn.softmax,
        mixing: Mixing | None = None,
    ):
        """Takes what every program has in common; nothing is compiled yet.

        Args:
            size: Height and width of the network's images, in pixels.
            augmentation: What is drawn for each training image; nothing if None.
            loss: (logits, label) -> a value for each row.
            metrics: By name, functions of the same form.
            mean: Of each channel, for images in 0..1; no normalisation if None.
            std: Of each channel.
            activation: logits (b, c) -> predictions (b, c).
            mixing: `MixUp` or `CutMix` of training batches, or None.
        """
        self.metrics = dict(metrics)
        self._activation = activation
        self._mixing = mixing
        self._size = size
        self._augmentation = augmentation
        self._loss = loss
        self.mean, self.std = mean, std
        self._steps: dict = {}

    @property
    def count(self) -> int:
        """Number of programs compiled so far."""
        return sum(step._cache_size() for step in self._steps.values())

    def describe(self) -> dict[str, Any]:
        """Returns what of the programs, augmentation aside, decides a run's numbers."""
        return {
            "loss": name_of(self._loss),
            "mixing": None if self._mixing is None else repr(self._mixing),
            "metrics": [name_of(metric) for metric in self.metrics.values()],
            "mean": None if self.mean is None else [float(x) for x in self.mean],
            "std": None if self.std is None else [float(x) for x in self.std],
        }

    def train_step(
        self,
        graphdef: nnx.GraphDef,
        tx: optax.GradientTransformation,
        labels: nnx.State,
    ) -> Callable:
        """Returns the compiled step for a network whose labelled parameters train.

        Of `tx` only what doesn't depend on rates or schedule may be used: the first one
        that comes with a graph and labels serves all later ones.
        """
        return self._made(
            ("train", graphdef, tuple(jax.tree.leaves(labels))),
            lambda: make_train_step(
                graphdef,
                tx,
                loss=self._loss,
                labels=labels,
                prepare=self._augmented,
                mixing=self._mixing,
            ),
            donate=True,
        )

    def eval_step(self, graphdef: nnx.GraphDef) -> Callable:
        """Returns the compiled eval step of a network in eval mode."""
        return self._made(
            ("eval", graphdef),
            lambda: make_eval_step(
                graphdef,
                loss=self._loss,
                metrics=self.metrics,
                prepare=lambda batch: self._plain(batch["image"]),
            ),
        )

    def predict_step(self, graphdef: nnx.GraphDef) -> Callable:
        """Returns the compiled predict step of a network in eval mode."""
        return self._made(
            ("predict", graphdef),
            lambda: make_predict_step(
                graphdef, activation=self._activation, prepare=self._plain
            ),
        )

    def _made(self, key: tuple, make: Callable, *, donate: bool = False) -> Callable:
        if key not in self._steps:
            self._steps[key] = compile_step(make(), donate=donate)
        return self._steps[key]

    def _augmented(self, batch: Mapping, key: jax.Array) -> jax.Array:
        return training_images(
            batch,
            key,
            size=self._size,
            augmentation=self._augmentation,
            mean=self.mean,
            std=self.std,
        )

    def _plain(self, images: jax.Array) -> jax.Array:
        return validation_images(images, mean=self.mean, std=self.std)
