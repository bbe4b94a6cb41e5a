"""Grad-CAM for a trained network: which part of a photo supports a prediction."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxtune.arguments import check_instance, check_integer, described
from jaxtune.data import as_size, list_photos, load_image, prepare_image
from jaxtune.data.photos import bad_photos, find_bad
from jaxtune.inspect.gradcam import GradCam, larger_sizes
from jaxtune.loop.trainer import Trainer
from jaxtune.results.inference import Inference
from jaxtune.results.predictor import Reading
from jaxtune.results.thresholds import decode


class Explainer:
    """Explains a network's predictions, with weights captured at construction."""

    def __init__(self, trainer: Trainer, data: Any, thresholds: Any):
        """Captures the weights; nothing is compiled yet.

        Args:
            trainer: Holds network, weights and compiled steps.
            data: `ImageDataLoaders`, for the classes and the image preparation.
            thresholds: Multi-label: threshold of each class; None for other labels.
        """
        self._trainer, self._data, self._thresholds = trainer, data, thresholds
        self._inference = Inference(trainer)

    def grad_cam(
        self,
        photo: Any,
        class_name: str | None = None,
        *,
        layer: str = "body",
        size: int | tuple[int, int] | None = None,
    ) -> GradCam | list[GradCam]:
        """Returns a map for one photo, or one for each; see `Learner.grad_cam`."""
        listed = list_photos(photo, "photo", channels=self._data.in_channels)
        photos = listed.each[0] if listed.alone else list(listed.each)
        count = 1 if listed.alone else len(photos)
        index = None
        if class_name is not None:
            names = self._output_names()
            check_instance(class_name, "class_name", str, "the name of a class")
            if class_name not in names:
                raise ValueError(
                    f"there is no class {class_name!r}; there are {', '.join(names)}."
                )
            index = [names.index(class_name)] * count
        cams = self.explain(photos, index, layer=layer, size=size)
        return cams[0] if listed.alone else cams

    def explain(
        self,
        photos: Any,
        class_index: Sequence[int] | np.ndarray | None = None,
        *,
        layer: str = "body",
        size: int | tuple[int, int] | None = None,
    ) -> list[GradCam]:
        """Returns a map for each photo, outputs by index; see `Learner.explain`."""
        listed = list_photos(photos, "photos", channels=self._data.in_channels)
        photos = list(listed.each)
        check_instance(layer, "layer", str, "the dotted name of a layer")
        size = None if size is None else as_size(size)
        class_index = self._checked_index(class_index, len(photos))
        if not photos:
            return []
        if bad := find_bad(photos):
            raise (
                bad[0]
                if listed.alone
                else bad_photos(bad, len(photos), "photos", "Leave {them} out.")
            )
        # Photos are read twice, and a stream can be read only once.
        photos = [p.read() if hasattr(p, "read") else p for p in photos]
        with self._trainer.programs.device_errors():
            return self._explained(photos, class_index, layer, size)

    def _checked_index(self, class_index: Any, count: int) -> list[int] | None:
        if class_index is None:
            return None
        wanted = f"class_index must be {count} numbers of outputs, one for each photo"
        if not isinstance(class_index, list | tuple) and np.ndim(class_index) != 1:
            raise TypeError(f"{wanted}; received {described(class_index)}.")
        if len(class_index) != count:
            raise ValueError(f"{wanted}; received {len(class_index)}.")
        most = len(self._output_names()) - 1
        return [
            check_integer(number, f"class_index[{i}]", least=0, most=most)
            for i, number in enumerate(class_index)
        ]

    def _explained(
        self, photos: Sequence[Any], class_index: Any, layer: str, size: Any
    ) -> list[GradCam]:
        names = self._output_names()
        images = np.stack([self._data.prepare_image(photo) for photo in photos])
        probabilities = self._inference.one_by_one(images)
        if class_index is None:
            class_index = probabilities.argmax(axis=-1)
        index = [int(number) for number in class_index]
        images_and_maps = [
            self._looked_at(*each, layer, size)
            for each in zip(photos, images, probabilities, index, strict=True)
        ]
        return [
            GradCam(image, heat, names[i], float(row[i]))
            for (image, heat), i, row in zip(
                images_and_maps, index, probabilities, strict=True
            )
        ]

    def _looked_at(
        self,
        photo: Any,
        image: np.ndarray,
        probabilities: np.ndarray,
        index: int,
        layer: str,
        size: tuple[int, int] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The photo at the largest usable size, and its map for an output."""
        if size is not None:
            image = self._prepared(photo, size)
            return image, self._inference.heat(image[None], [index], layer)[0]
        shape = load_image(photo, channels=self._data.in_channels).shape
        for wanted in larger_sizes(Reading.of(self._data).size, shape[:2]):
            larger = self._prepared(photo, wanted)
            try:
                if self._agrees(larger[None], probabilities, index):
                    return larger, self._inference.heat(larger[None], [index], layer)[0]
            except (TypeError, ValueError, ZeroDivisionError):
                break  # Some networks accept only one image size.
        return image, self._inference.heat(image[None], [index], layer)[0]

    def _prepared(self, photo: Any, size: tuple[int, int]) -> np.ndarray:
        data = self._data
        return prepare_image(
            photo,
            size,
            resize=data.resize,
            pad_mode=data.pad_mode,
            channels=data.in_channels,
        )

    def _agrees(
        self, larger: np.ndarray, probabilities: np.ndarray, index: int
    ) -> bool:
        """Whether a larger photo gets the same label, which the map is to explain."""
        at_larger, kind = self._inference.one_by_one(larger), self._data.kind
        label, larger_label = (
            decode(outputs, kind, self._thresholds)[0]
            for outputs in (probabilities[None], at_larger)
        )
        if kind == "multi":
            return label[index] == larger_label[index]
        return kind == "regression" or label == larger_label

    def _output_names(self) -> tuple[str, ...]:
        return self._data.classes or tuple(map(str, range(self._data.num_outputs)))
