"""Adapts RGB weights and statistics to images of another number of channels."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jaxtune.arguments import Integer, check_choice, check_integer


def adapt_channels(
    weight: Float[np.ndarray, "out channels h w"],
    in_channels: Integer,
    *,
    channel_init: str = "zero",
) -> Float[np.ndarray, "out in_channels h w"]:
    """Returns a first convolution's weights for another number of channels.

    One channel gets the sum of the old ones, so that a grey image gives the same
    outputs as its RGB copy. Two get the first two, times 3 / 2. More get the old ones,
    and

    - "zero": zeros for the rest, so that the outputs are the same at first;
    - "repeat": the old ones again and again, all times old / new.

    Args:
        weight: In PyTorch's layout.
        in_channels: Number of channels of the images.
        channel_init: "zero", as fastai does, or "repeat", as timm does.

    Raises:
        TypeError: `channel_init` is not a string, or `in_channels` not a whole number.
        ValueError: `channel_init` is unknown, or `in_channels` is less than 1.

    References:
        fastai 2.8.12, vision/learner.py `_update_first_layer`; timm 1.0,
        models/_manipulate.py `adapt_input_conv`.
    """
    check_channel_init(channel_init)
    in_channels = check_integer(in_channels, "in_channels", least=1)
    old = weight.shape[1]
    if in_channels == old:
        return weight
    if in_channels == 1:
        return weight.sum(axis=1, keepdims=True)
    if in_channels < old:
        return weight[:, :in_channels] * np.float32(old / in_channels)
    if channel_init == "repeat":
        chosen = np.arange(in_channels) % old
        return weight[:, chosen] * np.float32(old / in_channels)
    wider = np.zeros((weight.shape[0], in_channels, *weight.shape[2:]), weight.dtype)
    wider[:, :old] = weight
    return wider


def adapt_statistics(
    statistics: Sequence[float], in_channels: int, *, channel_init: str = "zero"
) -> tuple[float, ...]:
    """Returns per-channel means or deviations for another number of channels.

    A channel has the statistics of the one its weights were copied from; a channel
    whose weights are new, or a sum, has the average.

    Args:
        statistics: Of each channel that the weights were trained with.
        in_channels: Number of channels of the images.
        channel_init: See `adapt_channels`.

    Raises:
        ValueError: `channel_init` is unknown.
    """
    check_channel_init(channel_init)
    old = len(statistics)
    average = sum(statistics) / old
    if in_channels == 1:
        return (average,)
    if channel_init == "repeat":
        return tuple(statistics[i % old] for i in range(in_channels))
    return tuple(statistics[i] if i < old else average for i in range(in_channels))


def check_channel_init(channel_init: str) -> None:
    """Raises an error unless it is "zero" or "repeat"."""
    check_choice(channel_init, "channel_init", ("zero", "repeat"))
