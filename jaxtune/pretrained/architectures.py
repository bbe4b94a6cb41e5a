"""The networks by name: `resnet18(pretrained=True)`, `vision_learner(data, resnet18)`.

An architecture in, a whole 1000-class network out. The one rule of the file: an
architecture is a value, so it can be handed over, printed, and compared.
"""

import dataclasses
import os

from flax import nnx

from jaxtune.models import BasicBlock, Bottleneck, ResNet
from jaxtune.pretrained.channels import adapt_channels, check_channel_init
from jaxtune.pretrained.convert import load_into
from jaxtune.pretrained.files import read_weights
from jaxtune.pretrained.weights import Weights, resolve_weights


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A residual network's plan: call it to build the network.

    Attributes:
        name: The published name.
        block: Class of the residual block.
        blocks: Number of blocks in each of the four stages.
        options: Further arguments of `ResNet`, as pairs.
    """

    name: str
    block: type[BasicBlock] | type[Bottleneck]
    blocks: tuple[int, int, int, int]
    options: tuple[tuple[str, int | bool], ...] = ()

    @property
    def __name__(self) -> str:
        """The published name, as a function would have it."""
        return self.name

    def __repr__(self) -> str:
        """Returns the published name."""
        return self.name

    def __call__(
        self,
        *,
        pretrained: bool = False,
        weights: str | os.PathLike | None = None,
        num_classes: int | None = None,
        in_channels: int = 3,
        channel_init: str = "zero",
        stride_in_1x1: bool = False,
        rngs: nnx.Rngs | None = None,
    ) -> ResNet:
        """Builds the whole network, with random or published weights.

        Args:
            pretrained: Whether to load published weights, the architecture's default
                ones if `weights` doesn't say which.
            weights: A name of the manifest ("imagenet1k_v1"), of the hub
                ("timm/resnet50.a1_in1k") or the path of a .safetensors, .pth, .pt or
                .npz file; implies `pretrained`.
            num_classes: Number of logits; that of the weights, or 1000, if None.
            in_channels: Channels of the images; published weights are adapted.
            channel_init: How, see `adapt_channels`: "zero" or "repeat".
            stride_in_1x1: The paper's bottleneck ("v1") instead of "v1.5".
            rngs: Stream `params` draws random weights; `nnx.Rngs(0)` if None.

        Raises:
            ValueError: If the weights don't fit the network; both sides are listed.
            FileNotFoundError: If the weights are nowhere to be found.

        Example:
            >>> from jaxtune import resnet18
            >>> resnet18(num_classes=10).fc.weight.shape
            (512, 10)
        """
        check_channel_init(channel_init)
        options = dict(self.options) | {"in_channels": in_channels}
        if stride_in_1x1:
            options["stride_in_1x1"] = True
        if not pretrained and weights is None:
            return self._build(num_classes or 1000, options, rngs or nnx.Rngs(0))
        found = self.resolve(weights)
        # Arrays that the file is about to fill are never drawn.
        network = nnx.eval_shape(
            lambda: self._build(num_classes or found.num_classes, options, nnx.Rngs(0))
        )
        tensors = dict(read_weights(found.path))
        first = "conv1.0.weight" if options.get("deep_stem") else "conv1.weight"
        if first in tensors:
            tensors[first] = adapt_channels(
                tensors[first], in_channels, channel_init=channel_init
            )
        load_into(network, tensors, source=found.name)
        return network

    def resolve(self, weights: str | os.PathLike | None = None) -> Weights:
        """Finds published weights of this architecture, fetching them if need be."""
        return resolve_weights(self.name, weights)

    def _build(self, num_classes: int, options: dict, rngs: nnx.Rngs) -> ResNet:
        return ResNet(
            self.block, self.blocks, num_classes=num_classes, rngs=rngs, **options
        )


def _architecture(name, block, blocks, **options) -> Architecture:
    return Architecture(name, block, blocks, tuple(options.items()))


_D = {"deep_stem": True, "average_shortcut": True}

resnet18 = _architecture("resnet18", BasicBlock, (2, 2, 2, 2))
resnet34 = _architecture("resnet34", BasicBlock, (3, 4, 6, 3))
resnet50 = _architecture("resnet50", Bottleneck, (3, 4, 6, 3))
resnet101 = _architecture("resnet101", Bottleneck, (3, 4, 23, 3))
resnet152 = _architecture("resnet152", Bottleneck, (3, 8, 36, 3))
wide_resnet50_2 = _architecture(
    "wide_resnet50_2", Bottleneck, (3, 4, 6, 3), width_per_group=128
)
wide_resnet101_2 = _architecture(
    "wide_resnet101_2", Bottleneck, (3, 4, 23, 3), width_per_group=128
)
resnext50_32x4d = _architecture(
    "resnext50_32x4d", Bottleneck, (3, 4, 6, 3), groups=32, width_per_group=4
)
resnext101_32x8d = _architecture(
    "resnext101_32x8d", Bottleneck, (3, 4, 23, 3), groups=32, width_per_group=8
)
resnext101_64x4d = _architecture(
    "resnext101_64x4d", Bottleneck, (3, 4, 23, 3), groups=64, width_per_group=4
)
resnet18d = _architecture("resnet18d", BasicBlock, (2, 2, 2, 2), **_D)
resnet26d = _architecture("resnet26d", Bottleneck, (2, 2, 2, 2), **_D)
resnet34d = _architecture("resnet34d", BasicBlock, (3, 4, 6, 3), **_D)
resnet50d = _architecture("resnet50d", Bottleneck, (3, 4, 6, 3), **_D)

#: Every architecture by its published name.
ARCHITECTURES: dict[str, Architecture] = {
    value.name: value
    for value in list(globals().values())
    if isinstance(value, Architecture)
}
