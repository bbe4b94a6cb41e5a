"""Predictions: images in, labels and probabilities out; no data needed.

The one rule of the file: an image is prepared exactly as validation prepares it.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from flax import nnx

from jaxtune.checkpoint import find_checkpoint, load_checkpoint, load_meta
from jaxtune.data import prepare_image
from jaxtune.learner.float32 import in_float32, to_float32
from jaxtune.learner.programs import Programs
from jaxtune.pretrained import ARCHITECTURES
from jaxtune.train import (
    cross_entropy,
    default_activation,
    local_devices,
    split_module,
)
from jaxtune.transfer import create_cnn_model, evaluating


class Prediction(NamedTuple):
    """What a network says of one image.

    Attributes:
        label: Name of the most probable class; of several labels each, a tuple of the
            names above one half; of numbers, the number or an array of them.
        index: Position of the class in `classes`; of several labels, bool (classes,);
            of numbers, None.
        probabilities: Of every class, float32 (num_classes,); of numbers, themselves.
    """

    label: Any
    index: Any
    probabilities: np.ndarray


@dataclasses.dataclass(frozen=True)
class Reading:
    """How images are prepared for a network, and its answers read.

    Attributes:
        classes: Name of each class; none for numbers.
        kind: Of the labels: "single", "multi" or "regression".
        size: Height and width of the network's images, in pixels.
        resize: See `jaxtune.data.prepare_image`, like those that follow.
        pad_mode: What "pad" fills up with.
        in_channels: Channels of an image.
    """

    classes: tuple[str, ...]
    size: tuple[int, int]
    kind: str = "single"
    resize: str | None = None
    pad_mode: str = "reflection"
    in_channels: int = 3

    @classmethod
    def of(cls, source: Any) -> "Reading":
        """Returns it from data, or from what a checkpoint says (a dict)."""
        if not isinstance(source, Mapping):
            source = {
                **{f.name: getattr(source, f.name) for f in dataclasses.fields(cls)},
                "size": getattr(source, "valid_size", source.size),
            }
        known = {
            f.name: source[f.name] for f in dataclasses.fields(cls) if f.name in source
        }
        height, width = known["size"]
        return cls(
            **{
                **known,
                "classes": tuple(known["classes"]),
                "size": (int(height), int(width)),
            }
        )

    def prepare(self, item: Any) -> np.ndarray:
        """Returns an image exactly as validation sees it, uint8 (h, w, c)."""
        return prepare_image(
            item,
            self.size,
            resize=self.resize,
            pad_mode=self.pad_mode,
            channels=self.in_channels,
        )

    def answer(self, outputs: np.ndarray) -> Prediction:
        """Returns the prediction that a row of outputs, activated, stands for."""
        if self.kind == "regression":
            label = float(outputs[0]) if len(outputs) == 1 else outputs
            return Prediction(label, None, outputs)
        if self.kind == "multi":
            above = outputs > 0.5
            names = (n for n, yes in zip(self.classes, above, strict=True) if yes)
            return Prediction(tuple(names), above, outputs)
        index = int(outputs.argmax())
        return Prediction(self.classes[index], index, outputs)


def predict_images(
    predict_step: Callable,
    items: Sequence,
    *,
    reading: Reading,
    batch_size: int,
) -> list[Prediction]:
    """Returns one prediction for each image.

    One image goes alone; several go in batches of one fixed size, so that there are two
    compiled programs at the most.

    Args:
        predict_step: uint8 images (b, h, w, c) -> activated outputs (b, k).
        items: Paths, bytes, PIL images or arrays.
        reading: How images are prepared and answers read.
        batch_size: Images in a batch.

    Raises:
        jaxtune.data.ImageError: If an image can't be read; it is named.
    """
    size_of_batch = 1 if len(items) == 1 else batch_size
    answers: list[np.ndarray] = []
    for start in range(0, len(items), size_of_batch):
        images = [reading.prepare(i) for i in items[start : start + size_of_batch]]
        padding = [np.zeros_like(images[0])] * (size_of_batch - len(images))
        outputs = np.asarray(predict_step(np.stack(images + padding)))
        answers += list(outputs[: len(images)])
    return [reading.answer(outputs) for outputs in answers]


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
        self._reading = Reading.of(meta)
        self.classes = self._reading.classes
        self._batch_size = batch_size
        programs = Programs(
            size=self._reading.size,
            augmentation=None,
            activation=default_activation(self._reading.kind),
            loss=cross_entropy,
            metrics={},
            mean=meta["mean"],
            std=meta["std"],
        )
        graphdef, params, model_state = split_module(self.module)
        step = programs.predict_step(graphdef)
        self._step = lambda images: step(params, model_state, images)
        self._programs = programs

    def predict(self, item) -> Prediction | list[Prediction]:
        """Says what is on an image, or on each of a list; see `Learner.predict`."""
        many = isinstance(item, list | tuple)
        with self._programs.device_errors():
            found = predict_images(
                self._step,
                item if many else [item],
                reading=self._reading,
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
        DeviceError: If JAX has no device, or none of those that `JAX_PLATFORMS` names.
    """
    local_devices()
    path = find_checkpoint(path, which)
    meta = load_meta(path)
    return Predictor(load_network(path, meta, module), meta)


@in_float32
def load_network(
    path: str | os.PathLike, meta: Mapping[str, Any], module: nnx.Module | None = None
) -> nnx.Module:
    """Returns a checkpoint's network with its values.

    Args:
        path: The folder of a checkpoint.
        meta: Its description.
        module: The network, body and head, whose own values don't count; built from the
            description if None.

    Raises:
        ValueError: If the network can't be built from the description, or the arrays
            are not its.
    """
    if module is not None:
        to_float32(module)
    graphdef, params, model_state = split_module(
        _build(meta) if module is None else module
    )
    values = load_checkpoint(path, params=params, model_state=model_state)
    return nnx.merge(graphdef, *values)


def _build(meta: Mapping[str, Any]) -> nnx.Module:
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
            meta.get("num_outputs", len(meta["classes"])),
            pretrained=False,
            cut=recipe["cut"],
            in_channels=recipe["in_channels"],
            **recipe["head"],
        )
    )


def describe(
    *,
    network: dict | None,
    data: Any,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    training: Mapping[str, Any] | None = None,
) -> dict:
    """Returns the description that a checkpoint holds, all of it plain JSON.

    Args:
        network: How the network was built, or None.
        data: `ImageDataLoaders`: classes, kind of labels, preparation.
        mean: Of each channel, for images in 0..1, or None.
        std: Of each channel, or None.
        training: Groups, loss, metrics and what else decides a training, for one that
            goes on with more photos or classes.
    """
    return {
        "format": "jaxtune/1",
        "jax": jax.__version__,
        "network": network,
        **dataclasses.asdict(Reading.of(data)),
        "num_outputs": data.num_outputs,
        "mean": None if mean is None else [float(x) for x in mean],
        "std": None if std is None else [float(x) for x in std],
        "training": None if training is None else dict(training),
    }
