"""Small data and networks for each kind of labels, from the made-up coloured photos."""

from pathlib import Path

import numpy as np
from runs import smallest_network

from jaxtune import ImageDataLoaders, vision_learner
from jaxtune.data import find_images, label_items

NAMES = ("blue", "green", "red")

#: What each colour's photos are labelled with, by kind.
LABELS = {
    "single": {name: name for name in NAMES},
    "multi": {"blue": ["cold"], "green": ["cold", "alive"], "red": []},
    "regression": {"blue": 1.0, "green": 2.0, "red": 4.0},
}


def make_data(root: Path, kind: str, **options) -> ImageDataLoaders:
    """Returns data of a kind; 21 photos validate, in batches of 8."""
    items = []
    for split in ("train", "valid"):
        paths = find_images(root / split)
        labels = [LABELS[kind][path.parent.name] for path in paths]
        items.append(label_items(paths, labels, kind=kind))
    options = {"size": 16, "batch_size": 8, "seed": 0, "workers": 0} | options
    return ImageDataLoaders(*items, **options)


def make_model(data: ImageDataLoaders):
    """Returns a learner with a body of one convolution."""
    return vision_learner(data, smallest_network, cut=2, hidden=(8,), verbose=False)


def plain_outputs(model, images: np.ndarray) -> np.ndarray:
    """Returns logits by calling the module itself, nothing compiled or padded."""
    from jaxtune import evaluating, validation_images

    programs = model._trainer.programs
    prepared = validation_images(images, mean=programs.mean, std=programs.std)
    return np.asarray(evaluating(model.model)(prepared))
