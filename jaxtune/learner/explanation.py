"""What of a `Learner` explains it: Grad-CAM on a photo, and the first kernels.

The one rule of the file: looking changes nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from jaxtune.checkpoint import find_checkpoint, load_checkpoint
from jaxtune.data import as_size, load_image, prepare_image
from jaxtune.learner.answers import Answers
from jaxtune.learner.gathering import decode
from jaxtune.learner.gradcam import GradCam, larger_sizes
from jaxtune.learner.kernels import first_weight, outputs_first, plot_kernels
from jaxtune.learner.predictor import Reading
from jaxtune.learner.trainer import Trainer
from jaxtune.train import split_module


class Explanation:
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
            photo: A path, bytes, a PIL image or an array; or a list of them.
            class_name: Which class; for each photo the most probable if None. For
                numbers the output's number, "0" for the first.
            layer: Dotted name of the module whose output is looked at: "body", or
                "body.layer3" for finer and less certain maps.
            size: Height and width at which the network looks, in pixels. If None, 224
                for the shorter side, else twice the data's, where the photo is so
                large, the network takes it, and says the same of it; else the data's.

        Raises:
            ValueError: If there is no such class or layer.
            jaxtune.data.ImageError: If a photo can't be read; it is named.

        References:
            Selvaraju et al., "Grad-CAM", https://arxiv.org/abs/1610.02391.
        """
        many = isinstance(photo, list | tuple)
        photos = photo if many else [photo]
        index = None
        if class_name is not None:
            names = self._output_names()
            if class_name not in names:
                raise ValueError(
                    f"there is no class {class_name!r}; there are {', '.join(names)}."
                )
            index = [names.index(class_name)] * len(photos)
        found = self.explain(photos, index, layer=layer, size=size)
        return found if many else found[0]

    def explain(
        self,
        photos: Sequence[Any],
        class_index: Sequence[int] | np.ndarray | None = None,
        *,
        layer: str = "body",
        size: int | tuple[int, int] | None = None,
    ) -> list[GradCam]:
        """Returns what `grad_cam` says of several photos, an output for each by number.

        Args:
            photos: As for `grad_cam`.
            class_index: Which output is explained of each, (b,); each photo's largest
                if None.
            layer: As for `grad_cam`.
            size: As for `grad_cam`.
        """
        if not len(photos):
            return []
        with self._trainer.programs.device_errors():
            return self._explained(photos, class_index, layer, size)

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
        size: int | tuple[int, int] | None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A photo as large as the network looks at it, and where it sees an output."""
        if size is not None:
            image = self._prepared(photo, as_size(size))
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
        here, there = decode(said[None], kind)[0], decode(there, kind)[0]
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
        """
        path, now = first_weight(self.model)
        if before is None:
            return plot_kernels(now)
        if isinstance(before, int):
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
            raise ValueError(f"there was no phase {phase}; phases so far: {known}.")
        return snapshots[phase]


def _leaf(tree: Any, path: Sequence[str]) -> Any:
    """An array of a state, by its path; a list's items have whole numbers as names."""
    for name in path:
        tree = tree[name] if name in tree else tree[int(name)]
    return tree
