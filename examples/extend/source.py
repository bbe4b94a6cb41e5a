"""A source of images that are no files: anything with len() and items by position."""

import numpy as np

from jaxtune import ImageDataLoaders, vision_learner


class Discs:
    def __init__(self, count, seed=0):
        self.radii = np.random.default_rng(seed).integers(4, 14, count)

    def __len__(self):
        return len(self.radii)

    def __getitem__(self, position):  # read when it is needed, by several threads
        y, x = np.mgrid[-16:16, -16:16]
        radius = self.radii[position]
        image = np.uint8(255 * (x**2 + y**2 < radius**2))
        return {"image": image, "label": "large" if radius > 8 else "small"}


def main(network):
    train, valid = Discs(64), Discs(16, seed=1)
    data = ImageDataLoaders.from_arrays(train, valid, size=32, in_channels=3)
    model = vision_learner(data, network, hidden=())
    model.fit_one_cycle(1)
    return model
