"""What of a `Learner` explains it: Grad-CAM on a photo, and the first kernels.

The one rule of the file: looking changes nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from jaxtune.arguments import check_instance, check_integer, described
from jaxtune.checkpoint import find_checkpoint, load_checkpoint
from jaxtune.data import as_size, list_photos, load_image, prepare_image
from jaxtune.data.photos import bad_photos, find_bad
from jaxtune.inspect.gradcam import GradCam, larger_sizes
from jaxtune.inspect.kernels import first_weight, outputs_first, plot_kernels
from jaxtune.loop.trainer import Trainer
from jaxtune.results.inference import Answers
from jaxtune.results.predictor import Reading
from jaxtune.results.thresholds import Thresholded, decode
from jaxtune.train import split_module


class Explanation(Thresholded):
    """What of a `Learner` explains it.

    Attributes:
        data: Where batches come from.
    """

    data: Any
    _trainer: Trainer

    def grad_cam(
        self,
        photo: Any,
        class_name: str | None = None,
        *,
        layer: str = "body",
        size: int | tuple[int, int] | None = None,
    ) -> GradCam | list[GradCam]:
        """Says where in a photo the network sees a class; `.plot()` shows it.

        A map has one place for many pixels (of a ResNet's body 32 x 32, so 2 x 2 places
        of a photo of 64 px). Therefore the network looks at a larger photo than it was
        trained on, as long as that changes nothing of what it says; which class it is,
        and how probable, is said of the photo as `predict` sees it.

        Args:
            photo: One photo or many, as for `Learner.predict`.
            class_name: Which class; for each photo the most probable if None. For
                numbers the output's number, "0" for the first.
            layer: Dotted name of the module whose output is looked at: "body", or
                "body.layer3" for finer and less certain maps.
            size: Height and width at which the network looks, in pixels. If None, 224
                for the shorter side, else twice the data's, where the photo is so
                large, the network takes it, and says the same of it; else the data's.

        Raises:
            ValueError: If there is no such class or layer.
            TypeError: If an argument is of another type.
            FileNotFoundError: If there is no such file, or no picture in a folder.
            jaxtune.data.ImageError: If a photo can't be read; it is named.

        References:
            Selvaraju et al., "Grad-CAM", https://arxiv.org/abs/1610.02391.
        """
        listed = list_photos(photo, "photo", channels=self.data.in_channels)
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
        """Returns what `grad_cam` says of several photos, an output for each by number.

        Args:
            photos: As for `grad_cam`; many.
            class_index: Which output is explained of each, (b,); each photo's largest
                if None.
            layer: As for `grad_cam`.
            size: As for `grad_cam`.

        Raises:
            ValueError: If there is no such layer or output, or not one for each photo.
            TypeError: If an argument is of another type.
            jaxtune.data.ImageError: If a photo can't be read; it is named.
        """
        listed = list_photos(photos, "photos", channels=self.data.in_channels)
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
        answers, names = self._answers(), self._output_names()
        images = np.stack([self.data.prepare_image(photo) for photo in photos])
        said = answers.one_by_one(images)
        if class_index is None:
            class_index = said.argmax(axis=-1)
        index = [int(number) for number in class_index]
        looked = [
            self._looked_at(answers, *each, layer, size)
            for each in zip(photos, images, said, index, strict=True)
        ]
        return [
            GradCam(image, heat, names[i], float(row[i]))
            for (image, heat), i, row in zip(looked, index, said, strict=True)
        ]

    def _looked_at(
        self,
        answers: Answers,
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
            return image, answers.heat(image[None], [index], layer)[0]
        shape = load_image(photo, channels=self.data.in_channels).shape
        for wanted in larger_sizes(Reading.of(self.data).size, shape[:2]):
            larger = self._prepared(photo, wanted)
            try:
                if self._agrees(answers, larger[None], said, index):
                    return larger, answers.heat(larger[None], [index], layer)[0]
            except (TypeError, ValueError, ZeroDivisionError):
                break  # Some networks take one size only.
        return image, answers.heat(image[None], [index], layer)[0]

    def _prepared(self, photo: Any, size: tuple[int, int]) -> np.ndarray:
        data = self.data
        return prepare_image(
            photo,
            size,
            resize=data.resize,
            pad_mode=data.pad_mode,
            channels=data.in_channels,
        )

    def _agrees(
        self, answers: Answers, larger: np.ndarray, said: np.ndarray, index: int
    ) -> bool:
        """Whether a larger photo gets the same label: else that would be explained."""
        there, kind = answers.one_by_one(larger), self.data.kind
        here, there = (
            decode(outputs, kind, self.thresholds)[0] for outputs in (said[None], there)
        )
        if kind == "multi":
            return here[index] == there[index]
        return kind == "regression" or here == there

    def plot_kernels(self, before: Any = None) -> "matplotlib.figure.Figure":
        """Returns a figure of the first convolution's kernels, now and before.

        Args:
            before: What to compare with: the number of a phase (1 is where training
                began), a network (`resnet18(pretrained=True)`), a path of a checkpoint,
                or weights (n, kh, kw, c). None shows the kernels as they are.

        Raises:
            ImportError: If matplotlib is not there.
            ValueError: If there was no such phase, or the kernels have other shapes.
            TypeError: If `before` is nothing of that kind.
        """
        path, now = first_weight(self.model)
        if before is None:
            return plot_kernels(now)
        array = hasattr(before, "__array__") and np.ndim(before) == 4
        if isinstance(before, bool | np.bool_) or not (
            array or isinstance(before, int | np.integer | nnx.Module | str | Path)
        ):
            raise TypeError(
                "before must be the number of a phase, a network, the path of a "
                "checkpoint or weights (n, kh, kw, c); received "
                f"{described(before)}."
            )
        if isinstance(before, int | np.integer):
            return plot_kernels(
                now,
                outputs_first(_leaf(self._snapshot(before).params, path)),
                titles=(f"before phase {before}", "now"),
            )
        if isinstance(before, nnx.Module):
            before = first_weight(before)[1]
        if isinstance(before, str | Path):
            _, params, model_state = split_module(self.model)
            params, _ = load_checkpoint(
                find_checkpoint(before), params=params, model_state=model_state
            )
            before = outputs_first(_leaf(params, path))
        return plot_kernels(now, np.asarray(before, np.float32))

    def _output_names(self) -> tuple[str, ...]:
        return self.data.classes or tuple(map(str, range(self.data.num_outputs)))

    def _answers(self) -> Answers:
        return Answers(self._trainer)

    def _snapshot(self, phase: int) -> Any:
        snapshots = {s.phase: s for s in self._trainer.snapshots}
        if phase not in snapshots:
            known = ", ".join(map(str, snapshots)) or "none yet"
            raise ValueError(
                f"there was no phase {phase} before this; phases so far: {known}."
            )
        return snapshots[phase]


def _leaf(tree: Any, path: Sequence[str]) -> Any:
    """An array of a state, by its path; a list's items have whole numbers as names."""
    for name in path:
        tree = tree[name] if name in tree else tree[int(name)]
    return tree
