"""Predictions: images in, labels and probabilities out; no data needed.

The one rule of the file: an image is prepared exactly as validation prepares it.
"""

import os
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxtune.checkpoint import find_checkpoint, load_checkpoint, load_meta
from jaxtune.data import prepare_image
from jaxtune.learner.programs import Programs
from jaxtune.pretrained import ARCHITECTURES
from jaxtune.train import cross_entropy, split_module
from jaxtune.transfer import create_cnn_model, evaluating


class Prediction(NamedTuple):
    """What a network says of one image.

    Attributes:
        label: Name of the most probable class.
        index: Its position in `classes`.
        probabilities: Of every class, float32 (num_classes,).
    """

    label: str
    index: int
    probabilities: np.ndarray


def predict_images(
    predict_step: Callable,
    items: Sequence,
    *,
    classes: Sequence[str],
    size: tuple[int, int],
    batch_size: int,
) -> list[Prediction]:
    """Returns one prediction for each image.

    One image goes alone; several go in batches of one fixed size, so that there are two
    compiled programs at the most.

    Args:
        predict_step: uint8 images (b, h, w, 3) -> probabilities (b, c).
        items: Paths, bytes, PIL images or arrays.
        classes: Name of each class.
        size: Height and width of the network's images, in pixels.
        batch_size: Images in a batch.

    Raises:
        jaxtune.data.ImageError: If an image can't be read; it is named.
    """
    size_of_batch = 1 if len(items) == 1 else batch_size
    answers: list[np.ndarray] = []
    for start in range(0, len(items), size_of_batch):
        images = [prepare_image(i, size) for i in items[start : start + size_of_batch]]
        padding = [np.zeros_like(images[0])] * (size_of_batch - len(images))
        probabilities = np.asarray(predict_step(np.stack(images + padding)))
        answers += list(probabilities[: len(images)])
    return [Prediction(classes[int(p.argmax())], int(p.argmax()), p) for p in answers]


class Predictor:
    """A network with its classes and preparation, restored for predictions.

    Attributes:
        module: The network, in eval mode.
        classes: Name of each class.
        meta: The checkpoint's description.
    """

    def __init__(self, module: nnx.Module, meta: dict, *, batch_size: int = 32):
        """Takes a network and the description that was saved with it."""
        self.module = evaluating(module)
        self.meta = meta
        self.classes = tuple(meta["classes"])
        height, width = meta["size"]
        self._size = (int(height), int(width))
        self._batch_size = batch_size
        programs = Programs(
            size=self._size,
            augmentation=None,
            loss=cross_entropy,
            metrics={},
            mean=meta["mean"],
            std=meta["std"],
        )
        graphdef, params, model_state = split_module(self.module)
        step = programs.predict_step(graphdef)
        self._step = lambda images: step(params, model_state, images)

    def predict(self, item) -> Prediction | list[Prediction]:
        """Says what is on an image, or on each of a list; see `Learner.predict`."""
        many = isinstance(item, list | tuple)
        found = predict_images(
            self._step,
            item if many else [item],
            classes=self.classes,
            size=self._size,
            batch_size=self._batch_size,
        )
        return found if many else found[0]


def load_predictor(
    path: str | os.PathLike,
    *,
    module: nnx.Module | None = None,
    which: Literal["latest", "best"] = "latest",
) -> Predictor:
    """Returns what `Learner.save` or a run left, ready to predict.

    Args:
        path: The folder of a checkpoint or of a run.
        module: The network (body and head); built from the description if None, which
            works for jaxtune's own architectures and heads.
        which: Of a run's checkpoints, the latest or the one with the lowest validation
            loss.

    Raises:
        FileNotFoundError: If there is no checkpoint at the path.
        ValueError: If the network can't be built from the description, or the arrays
            are not its.
    """
    path = find_checkpoint(path, which)
    meta = load_meta(path)
    if module is None:
        module = _build(meta)
    graphdef, params, model_state = split_module(module)
    return Predictor(
        nnx.merge(
            graphdef,
            *load_checkpoint(path, params=params, model_state=model_state),
        ),
        meta,
    )


def _build(meta: dict) -> nnx.Module:
    recipe = meta.get("network")
    if not recipe or recipe["arch"] not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(
            "this checkpoint doesn't say how to build its network (a body or head of "
            "one's own); build it and hand it over as module=. Built without help are "
            f"{known}."
        )
    return nnx.eval_shape(
        lambda: create_cnn_model(
            ARCHITECTURES[recipe["arch"]],
            len(meta["classes"]),
            pretrained=False,
            cut=recipe["cut"],
            in_channels=recipe["in_channels"],
            **recipe["head"],
        )
    )


def describe(
    *,
    network: dict | None,
    classes: Sequence[str],
    size: tuple[int, int],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
) -> dict:
    """Returns the description that a checkpoint holds, all of it plain JSON."""
    return {
        "format": "jaxtune/1",
        "jax": jax.__version__,
        "network": network,
        "classes": list(classes),
        "size": list(size),
        "mean": None if mean is None else [float(x) for x in mean],
        "std": None if std is None else [float(x) for x in std],
    }
