"""Residual networks whose parameter paths are torchvision's and timm's names.

They map images (b, h, w, c) to logits (b, num_classes). Each is a `Sequential` of its
children in order of application, so it can be cut and sliced.
"""

from collections.abc import Sequence

from flax import nnx
from jaxtyping import Array, Float

from jaxtune.models.layers import (
    AvgPool,
    BatchNorm,
    Conv,
    GlobalAvgPool,
    Identity,
    Linear,
    MaxPool,
    ReLU,
    conv_norm,
)
from jaxtune.models.sequential import Sequential, numbered


class BasicBlock(nnx.Module):
    """Two 3x3 convolutions and a shortcut (ResNet-18 and -34).

    References:
        He et al., "Deep Residual Learning", https://arxiv.org/abs/1512.03385.
        torchvision/models/resnet.py `BasicBlock`.
    """

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int,
        groups: int,
        width_per_group: int,
        stride_in_1x1: bool,
        downsample: Sequential | None,
        rngs: nnx.Rngs,
    ):
        """Maps `in_channels` channels to `width`.

        Raises:
            ValueError: If given groups, another base width or a strided 1x1, which only
                `Bottleneck` has.
        """
        if groups != 1 or width_per_group != 64 or stride_in_1x1:
            raise ValueError(
                "BasicBlock has one group of base width 64 and no 1x1 convolution; "
                f"received groups={groups}, width_per_group={width_per_group}, "
                f"stride_in_1x1={stride_in_1x1}. Use Bottleneck."
            )
        self.conv1 = Conv(in_channels, width, 3, stride=stride, padding=1, rngs=rngs)
        self.bn1 = BatchNorm(width)
        self.conv2 = Conv(width, width, 3, padding=1, rngs=rngs)
        self.bn2 = BatchNorm(width)
        if downsample is not None:
            self.downsample = downsample
        self.has_downsample = downsample is not None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Returns relu(convolutions(x) + shortcut(x))."""
        y = conv_norm(self.conv1, self.bn1, x, relu=True)

        def shortcut():
            return self.downsample(x) if self.has_downsample else x

        return conv_norm(self.conv2, self.bn2, y, residual=shortcut, relu=True)


class Bottleneck(nnx.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut (ResNet-50 and deeper, ResNeXt).

    The stride is in the 3x3 convolution, as in torchvision and timm ("v1.5");
    `stride_in_1x1` puts it in the first 1x1, as in the paper ("v1").

    References:
        He et al., "Deep Residual Learning", https://arxiv.org/abs/1512.03385.
        Xie et al., "Aggregated Residual Transformations",
        https://arxiv.org/abs/1611.05431. torchvision/models/resnet.py `Bottleneck`.
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int,
        groups: int,
        width_per_group: int,
        stride_in_1x1: bool,
        downsample: Sequential | None,
        rngs: nnx.Rngs,
    ):
        """Maps `in_channels` channels to 4 * `width`."""
        inner = width * width_per_group // 64 * groups
        first, second = (stride, 1) if stride_in_1x1 else (1, stride)
        self.conv1 = Conv(in_channels, inner, 1, stride=first, rngs=rngs)
        self.bn1 = BatchNorm(inner)
        self.conv2 = Conv(
            inner, inner, 3, stride=second, padding=1, groups=groups, rngs=rngs
        )
        self.bn2 = BatchNorm(inner)
        self.conv3 = Conv(inner, width * self.expansion, 1, rngs=rngs)
        self.bn3 = BatchNorm(width * self.expansion)
        if downsample is not None:
            self.downsample = downsample
        self.has_downsample = downsample is not None

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 d"]:
        """Returns relu(convolutions(x) + shortcut(x))."""
        y = conv_norm(self.conv1, self.bn1, x, relu=True)
        y = conv_norm(self.conv2, self.bn2, y, relu=True)

        def shortcut():
            return self.downsample(x) if self.has_downsample else x

        return conv_norm(self.conv3, self.bn3, y, residual=shortcut, relu=True)


class ResNet(Sequential):
    """A residual network: conv1, bn1, relu, maxpool, layer1 … layer4, avgpool, fc.

    `net[:-2]` is its body, `net[6]` is `net.layer3`, and a parameter's path, joined by
    dots, is its published name: `layer1.0.conv1.weight`.

    Example:
        >>> from flax import nnx
        >>> from jaxtune.models import BasicBlock, ResNet
        >>> net = ResNet(BasicBlock, (1, 1, 1, 1), num_classes=10, rngs=nnx.Rngs(0))
        >>> net.names[:5], net.num_features
        (('conv1', 'bn1', 'relu', 'maxpool', 'layer1'), 512)

    References:
        He et al., https://arxiv.org/abs/1512.03385. Names and arithmetic:
        torchvision/models/resnet.py; "d": He et al., "Bag of Tricks",
        https://arxiv.org/abs/1812.01187, timm/models/resnet.py.
    """

    #: Where `create_body` cuts by default: before avgpool and fc.
    default_cut = -2
    #: fastai's layer groups of the body, by name and path pattern; the head is a third.
    default_groups = (
        ("early", r"(conv1|bn1|layer1|layer2)\."),
        ("late", r"(layer3|layer4)\."),
    )

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        blocks: Sequence[int],
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        groups: int = 1,
        width_per_group: int = 64,
        deep_stem: bool = False,
        average_shortcut: bool = False,
        stride_in_1x1: bool = False,
        rngs: nnx.Rngs,
    ):
        """Builds the network with random weights.

        Args:
            block: `BasicBlock` or `Bottleneck`.
            blocks: Number of blocks in each of the four stages.
            num_classes: Number of logits.
            in_channels: Channels of the images.
            groups: Groups of the 3x3 convolution (ResNeXt).
            width_per_group: Base width of the 3x3 convolution (wide, ResNeXt).
            deep_stem: Three 3x3 convolutions instead of one 7x7 (timm's "d").
            average_shortcut: Average pooling before the shortcut's 1x1 ("d").
            stride_in_1x1: The paper's bottleneck ("v1"), see `Bottleneck`.
            rngs: Its stream `params` draws the weights.
        """

        def stage(in_channels: int, width: int, count: int, stride: int) -> Sequential:
            out_channels = width * block.expansion
            modules = []
            for i in range(count):
                shortcut = None
                if i == 0 and (stride != 1 or in_channels != out_channels):
                    shortcut = _shortcut(
                        in_channels,
                        out_channels,
                        stride=stride,
                        average=average_shortcut,
                        rngs=rngs,
                    )
                modules.append(
                    block(
                        in_channels,
                        width,
                        stride=stride if i == 0 else 1,
                        groups=groups,
                        width_per_group=width_per_group,
                        stride_in_1x1=stride_in_1x1,
                        downsample=shortcut,
                        rngs=rngs,
                    )
                )
                in_channels = out_channels
            return numbered(*modules)

        expansion = block.expansion
        num_features = 512 * expansion
        super().__init__(
            {
                "conv1": _stem(in_channels, deep=deep_stem, rngs=rngs),
                "bn1": BatchNorm(64),
                "relu": ReLU(),
                "maxpool": MaxPool(3, stride=2, padding=1),
                "layer1": stage(64, 64, blocks[0], 1),
                "layer2": stage(64 * expansion, 128, blocks[1], 2),
                "layer3": stage(128 * expansion, 256, blocks[2], 2),
                "layer4": stage(256 * expansion, 512, blocks[3], 2),
                "avgpool": GlobalAvgPool(),
                "fc": Linear(num_features, num_classes, rngs=rngs),
            }
        )
        self.num_features = num_features


def _stem(in_channels: int, *, deep: bool, rngs: nnx.Rngs) -> Conv | Sequential:
    if not deep:
        return Conv(in_channels, 64, 7, stride=2, padding=3, rngs=rngs)
    return numbered(
        Conv(in_channels, 32, 3, stride=2, padding=1, rngs=rngs),
        BatchNorm(32),
        ReLU(),
        Conv(32, 32, 3, padding=1, rngs=rngs),
        BatchNorm(32),
        ReLU(),
        Conv(32, 64, 3, padding=1, rngs=rngs),
    )


def _shortcut(
    in_channels: int, out_channels: int, *, stride: int, average: bool, rngs: nnx.Rngs
) -> Sequential:
    norm = BatchNorm(out_channels)
    if not average:
        conv = Conv(in_channels, out_channels, 1, stride=stride, rngs=rngs)
        return numbered(conv, norm)
    pool = AvgPool(stride) if stride > 1 else Identity()
    return numbered(pool, Conv(in_channels, out_channels, 1, rngs=rngs), norm)
