"""Networks as NNX modules, with the names that their published weights use."""

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
from jaxtune.models.sequence import Sequence as Sequence
from jaxtune.models.sequence import call_module as call_module
from jaxtune.models.sequence import numbered as numbered
