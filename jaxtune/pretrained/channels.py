"""Other numbers of channels: a first convolution of RGB weights for grey, 4, 13 bands.

Published weights and statistics of three channels in, of any number out. The one rule
of the file: whatever the policy, an image that is grey in all its channels excites the
filters as it did before, or the new channels do nothing at first.
"""

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

    One channel gets the sum over the old ones: a grey photo is seen as before. Two get
    the first two, times 3 / 2. More get the old ones, and

    - "zero": nothing beyond them, so that the network begins as it was;
    - "repeat": the old ones again and again, all times old / new.

    Args:
        weight: Published weights, in PyTorch's layout.
        in_channels: How many channels the images have.
        channel_init: "zero", fastai's way, or "repeat", timm's.

    Raises:
        TypeError: If the policy is no string, or the number not whole.
        ValueError: If the policy is unknown, or there is no channel.

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
    """Returns means or deviations of channels for another number of them.

    What a channel's weights were made from says how it is normalised; one whose weights
    are new or a sum gets the average.

    Args:
        statistics: Of each channel that the weights were trained with.
        in_channels: How many channels the images have.
        channel_init: See `adapt_channels`.

    Raises:
        ValueError: If the policy is unknown.
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
