"""What of a `Learner` explains it: Grad-CAM on a photo, and the first kernels.

The one rule of the file: looking changes nothing.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from jaxtune.checkpoint import find_checkpoint, load_checkpoint
from jaxtune.learner.answers import Answers
from jaxtune.learner.gradcam import GradCam
from jaxtune.learner.kernels import first_weight, outputs_first, plot_kernels
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
        self, photo: Any, class_name: str | None = None, *, layer: str = "body"
    ) -> GradCam | list[GradCam]:
        """Says where in a photo the network sees a class; `.plot()` shows it.

        Args:
            photo: A path, bytes, a PIL image or an array; or a list of them.
            class_name: Which class; for each photo the most probable if None. For
                numbers the output's number, "0" for the first.
            layer: Dotted name of the module whose output is looked at: "body", or
                "body.layer3" for finer and less certain maps.

        Raises:
            ValueError: If there is no such class or layer.
            jaxtune.data.ImageError: If a photo can't be read; it is named.

        References:
            Selvaraju et al., "Grad-CAM", https://arxiv.org/abs/1610.02391.
        """
        many = isinstance(photo, list | tuple)
        photos = photo if many else [photo]
        if not photos:
            return []
        images = np.stack([self.data.prepare_image(one) for one in photos])
        said = self._answers().one_by_one(images)
        chosen = said.argmax(axis=-1)
        names = self.data.classes or tuple(map(str, range(said.shape[1])))
        if class_name is not None:
            if class_name not in names:
                raise ValueError(
                    f"there is no class {class_name!r}; there are {', '.join(names)}."
                )
            chosen = np.full_like(chosen, names.index(class_name))
        heat = self.heat_maps(images, chosen, layer=layer)
        found = [
            GradCam(image, one, names[i], float(row[i]))
            for image, one, i, row in zip(images, heat, chosen, said, strict=True)
        ]
        return found if many else found[0]

    def heat_maps(
        self,
        images: np.ndarray,
        class_index: Sequence[int] | np.ndarray,
        *,
        layer: str = "body",
    ) -> np.ndarray:
        """Returns Grad-CAM's maps for prepared photos, the highest place of each 1.

        Args:
            images: uint8 (b, h, w, c), as `data.prepare_image` gives them.
            class_index: Which output is explained, (b,).
            layer: See `grad_cam`.

        Returns:
            float32 (b, h', w') of the layer's output.
        """
        return self._answers().heat(images, np.asarray(class_index), layer)

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
