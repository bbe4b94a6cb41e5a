"""Which part of a photo a prediction comes from: Grad-CAM for a trained network."""

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
    """Explains what a network predicts of photos, with the weights that it has now."""

    def __init__(self, trainer: Trainer, data: Any, thresholds: Any):
        """Captures the weights; nothing is compiled yet.

        Args:
            trainer: Holds network, weights and compiled steps.
            data: `ImageDataLoaders`: says the classes, and how photos are prepared.
            thresholds: Of several labels, each class's own; None for other labels.
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
        found = self.explain(photos, index, layer=layer, size=size)
        return found[0] if listed.alone else found

    def explain(
        self,
        photos: Any,
        class_index: Sequence[int] | np.ndarray | None = None,
        *,
        layer: str = "body",
        size: int | tuple[int, int] | None = None,
    ) -> list[GradCam]:
        """Returns a map for each photo, outputs by number; see `Learner.explain`."""
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
        # What can be read once only would be at its end the second time.
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
        said = self._inference.one_by_one(images)
        if class_index is None:
            class_index = said.argmax(axis=-1)
        index = [int(number) for number in class_index]
        looked = [
            self._looked_at(*each, layer, size)
            for each in zip(photos, images, said, index, strict=True)
        ]
        return [
            GradCam(image, heat, names[i], float(row[i]))
            for (image, heat), i, row in zip(looked, index, said, strict=True)
        ]

    def _looked_at(
        self,
        photo: Any,
        image: np.ndarray,
        said: np.ndarray,
        index: int,
        layer: str,
        size: tuple[int, int] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A photo as large as the network looks at it, and where it sees an output."""
        if size is not None:
            image = self._prepared(photo, size)
            return image, self._inference.heat(image[None], [index], layer)[0]
        shape = load_image(photo, channels=self._data.in_channels).shape
        for wanted in larger_sizes(Reading.of(self._data).size, shape[:2]):
            larger = self._prepared(photo, wanted)
            try:
                if self._agrees(larger[None], said, index):
                    return larger, self._inference.heat(larger[None], [index], layer)[0]
            except (TypeError, ValueError, ZeroDivisionError):
                break  # Some networks take one size only.
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

    def _agrees(self, larger: np.ndarray, said: np.ndarray, index: int) -> bool:
        """Whether a larger photo gets the same label: else that would be explained."""
        there, kind = self._inference.one_by_one(larger), self._data.kind
        here, there = (
            decode(outputs, kind, self._thresholds)[0]
            for outputs in (said[None], there)
        )
        if kind == "multi":
            return here[index] == there[index]
        return kind == "regression" or here == there

    def _output_names(self) -> tuple[str, ...]:
        return self._data.classes or tuple(map(str, range(self._data.num_outputs)))
