"""A folder of made-up photos that a network can tell apart, and a network to do so."""

from pathlib import Path

import numpy as np
from flax import nnx
from PIL import Image

from jaxtune.models import (
    BasicBlock,
    BatchNorm,
    Conv,
    GlobalAvgPool,
    Linear,
    MaxPool,
    ReLU,
    ResNet,
    Sequential,
)
from jaxtune.models.sequential import numbered

COLOURS = {"blue": (40, 60, 220), "green": (40, 200, 60), "red": (220, 50, 40)}


def make_photos(root: Path, *, train: int = 16, valid: int = 7) -> Path:
    """Writes train/ and valid/ with so many photos of each colour."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("valid", valid)):
        for name, colour in COLOURS.items():
            folder = root / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                noise = rng.normal(size=(24, 32, 3)) * 30
                pixels = np.clip(noise + colour, 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i:03d}.png")
    return root


class NarrowResNet(ResNet):
    """A ResNet of four basic blocks with few channels; all else is a ResNet's.

    Its parameters are 15,000 instead of 4.9 million: what takes time in a test of the
    learner is then the learner.
    """

    def __init__(self, *, in_channels: int = 3, num_classes: int = 10, rngs: nnx.Rngs):
        def stage(in_channels: int, width: int) -> Sequential:
            stride, shortcut = 1, None
            if in_channels != width:
                stride = 2
                shortcut = numbered(
                    Conv(in_channels, width, 1, stride=2, rngs=rngs), BatchNorm(width)
                )
            block = BasicBlock(
                in_channels,
                width,
                stride=stride,
                groups=1,
                width_per_group=64,
                stride_in_1x1=False,
                downsample=shortcut,
                rngs=rngs,
            )
            return numbered(block)

        self.num_features = 32
        Sequential.__init__(
            self,
            {
                "conv1": Conv(in_channels, 8, 7, stride=2, padding=3, rngs=rngs),
                "bn1": BatchNorm(8),
                "relu": ReLU(),
                "maxpool": MaxPool(3, stride=2, padding=1),
                "layer1": stage(8, 8),
                "layer2": stage(8, 12),
                "layer3": stage(12, 16),
                "layer4": stage(16, self.num_features),
                "avgpool": GlobalAvgPool(),
                "fc": Linear(self.num_features, num_classes, rngs=rngs),
            },
        )


def tiny_resnet(rngs: nnx.Rngs | None = None) -> ResNet:
    """Returns a whole network of four blocks, random but always the same."""
    return NarrowResNet(rngs=nnx.Rngs(7))
