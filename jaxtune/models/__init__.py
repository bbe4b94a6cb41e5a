"""Networks as NNX modules, with the names that their published weights use."""

import warnings
from typing import Any

from jaxtune.models.layers import AvgPool as AvgPool
from jaxtune.models.layers import BatchNorm as BatchNorm
from jaxtune.models.layers import Conv as Conv
from jaxtune.models.layers import GlobalAvgPool as GlobalAvgPool
from jaxtune.models.layers import Identity as Identity
from jaxtune.models.layers import Linear as Linear
from jaxtune.models.layers import MaxPool as MaxPool
from jaxtune.models.layers import ReLU as ReLU
from jaxtune.models.layers import kaiming_normal as kaiming_normal
from jaxtune.models.pooling import global_max as global_max
from jaxtune.models.resnet import BasicBlock as BasicBlock
from jaxtune.models.resnet import Bottleneck as Bottleneck
from jaxtune.models.resnet import ResNet as ResNet
from jaxtune.models.sequential import Sequential as Sequential
from jaxtune.models.sequential import call_module as call_module
from jaxtune.models.sequential import numbered as numbered


def __getattr__(name: str) -> Any:
    """Returns `Sequential` by its former name, with a warning."""
    if name == "Sequence":
        warnings.warn(
            "jaxtune.models.Sequence is now called jaxtune.models.Sequential.",
            DeprecationWarning,
            stacklevel=2,
        )
        return Sequential
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
