"""Draws weights, images and labels from names, the same in PyTorch and in JAX.

In: the published name of a parameter and its shape in torch's layout. Out: a float32
array. Both sides of a comparison call this file, so that no array has to be stored.

The one rule: numpy only, and only arithmetic that gives the same bits everywhere. A bit
generator's raw stream is fixed for good, while `Generator.standard_normal` may change
with numpy, and `log` and `cos` with the processor. So weights are uniform, not normal.
"""

import hashlib
import math
from collections.abc import Mapping

import numpy as np

VALUES_KEPT = 256
"""How many values of a feature map the golden files keep, see `positions`."""


def uniform(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns float32 numbers in [0, 1), on a grid of 2**-24, seeded by the name."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    count = math.prod(shape)
    raw = np.random.PCG64(seed).random_raw((count + 1) // 2)
    words = raw.astype("<u8").view("<u4")[:count]
    # 24 bits fit a float32 without rounding.
    numbers = (words >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)
    return numbers.reshape(shape)


def spread(name: str, shape: tuple[int, ...], *, low: float, high: float) -> np.ndarray:
    """Returns float32 numbers uniform in [low, high), seeded by the name."""
    numbers = uniform(name, shape)
    return numbers * np.float32(high - low) + np.float32(low)


def draw(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Returns the parameter or running statistic of that name, in torch's layout.

    Scaled so that activations stay of order one through 152 layers, with batch
    statistics as with running ones.

    Args:
        name: Published name, such as "layer1.0.conv1.weight".
        shape: Torch's shape: (out, in / groups, height, width) of a convolution,
            (out, in) of a linear layer, (channels,) of anything else.
    """
    kind = name.rsplit(".", 1)[-1]
    if kind == "running_mean":
        return spread(name, shape, low=-0.2, high=0.2)
    if kind == "running_var":
        return spread(name, shape, low=0.5, high=1.5)
    if kind == "bias":
        # Above zero, or ten training steps of a deep network are chaotic: most of a
        # ReLU's inputs should stay on one side of it.
        return spread(name, shape, low=0.0, high=0.5)
    if kind != "weight":
        raise ValueError(f"draw: no rule for {name!r}: it ends in {kind!r}.")
    if len(shape) == 1:
        low, high = _norm_range(name)
        return spread(name, shape, low=low, high=high)
    fan_in = math.prod(shape[1:])
    gain = 2.0 if len(shape) == 4 else 1.0
    bound = math.sqrt(3.0 * gain / fan_in)  # A uniform's deviation is bound / sqrt(3).
    return spread(name, shape, low=-bound, high=bound)


def _norm_range(name: str) -> tuple[float, float]:
    # The last norm of a residual branch is bn2 in a basic block and bn3 in a
    # bottleneck; small there, or the sum, and every rounding error with it, grows from
    # block to block.
    if name.startswith("layer") and ".bn3." in name:
        return 0.1, 0.3
    if name.startswith("layer") and ".bn2." in name:
        return 0.2, 0.6
    return 0.5, 1.5


def draw_state(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Returns {name: drawn array} for {name: torch shape}."""
    return {name: draw(name, tuple(shape)) for name, shape in shapes.items()}


def draw_images(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Returns float32 images in [-2, 2), as normalised photos are, shape NHWC."""
    return spread(f"images {seed}", shape, low=-2.0, high=2.0)


def draw_labels(seed: int, count: int, *, num_classes: int) -> np.ndarray:
    """Returns `count` int32 labels in 0 .. num_classes - 1."""
    return (uniform(f"labels {seed}", (count,)) * num_classes).astype(np.int32)


def positions(size: int, *, count: int = VALUES_KEPT) -> np.ndarray:
    """Returns the flat indices at which the golden files keep values of an array.

    They are even steps over the array flattened in NHWC order, first and last element
    included; `count` of them, also where the array is shorter (then some repeat).
    """
    return np.arange(count, dtype=np.int64) * (size - 1) // (count - 1)
