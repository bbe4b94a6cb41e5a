"""A folder of made-up photos that a network can tell apart, and a network to do so."""

from pathlib import Path

import numpy as np
from flax import nnx
from PIL import Image

from jaxtune.models import BasicBlock, ResNet

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


def tiny_resnet(rngs: nnx.Rngs | None = None) -> ResNet:
    """Returns a whole network of four blocks, random but always the same."""
    return ResNet(BasicBlock, (1, 1, 1, 1), num_classes=10, rngs=nnx.Rngs(7))
