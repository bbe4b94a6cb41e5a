"""A learner trains with an augmentation of one's own, and a run knows it again."""

import jax
import numpy as np
import pytest
from runs import smallest_network

from jaxtune import Augmentation, ImageDataLoaders, vision_learner
from jaxtune.checkpoint import RunMismatchError


def dimmed(image, key):
    return image * jax.random.uniform(key)


def blank(image, key):
    return image * 0 + 0.5


def make(root, function):
    data = ImageDataLoaders.from_folder(
        root, size=16, batch_size=32, augmentation=Augmentation(functions=function)
    )
    return vision_learner(data, smallest_network, cut=2, hidden=(), verbose=False)


def test_what_trains_is_what_the_function_leaves(root, tmp_path):
    model = make(root, blank)
    pixels = model.data.show_batch(max_n=1).axes[0].images[0].get_array()
    assert len(np.unique(pixels)) == 1
    (row,) = model.fit(1, run=tmp_path / "run")
    # Of images that are all alike nothing can be learned.
    assert row.train_loss > 1
    with pytest.raises(RunMismatchError, match=r"functions.1.name: .*blank.*dimmed"):
        make(root, dimmed).fit(1, run=tmp_path / "run")
    (again,) = make(root, blank).fit(1, run=tmp_path / "run")
    assert again.train_loss == row.train_loss
