"""The networks by name: `resnet18(pretrained=True)`, `vision_learner(data, resnet18)`.

Each is a value, so it can be handed over, printed and compared.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from jaxtune.arguments import check_flag
from jaxtune.models import BasicBlock, Bottleneck, Linear, ResNet
from jaxtune.models.layers import without_values
from jaxtune.pretrained.convert import (
    WeightsMismatchError,
    match_weights,
    torch_shapes,
)
from jaxtune.pretrained.registry import ARCHITECTURES, RegisteredModel
from jaxtune.pretrained.weights import Weights

Block = type[BasicBlock] | type[Bottleneck]


class Architecture(RegisteredModel):
    """A residual network's plan: call it to build the network.

    Attributes:
        name: The published name.
        block: Class of the residual block.
        blocks: Number of blocks in each of the four stages.
        options: Further arguments of `ResNet`, as pairs.
    """

    def __init__(
        self,
        name: str,
        block: Block,
        blocks: tuple[int, int, int, int],
        options: tuple[tuple[str, int | bool], ...] = (),
    ) -> None:
        """Takes what decides the network; `ResNet` knows its cut and its groups."""
        super().__init__(
            name,
            _ResNets(name, block, blocks, options),
            first_conv="conv1.0" if dict(options).get("deep_stem") else "conv1",
            classifier="fc",
        )

    def __getattr__(self, name: str) -> Any:
        """Returns the block, their numbers and the options."""
        if name in ("block", "blocks", "options"):
            return getattr(self.build, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def _filled(
        self,
        given: Mapping[str, Any],
        rngs: nnx.Rngs | None,
        source: Weights,
        read_classifier: bool,
    ) -> nnx.Module:
        given = {"num_classes": source.num_classes, **given}
        # Arrays that the file is about to fill are never drawn, nor is drawing traced.
        with without_values():
            network = nnx.eval_shape(lambda: self._build(given | {"rngs": nnx.Rngs(0)}))
        self._load(network, given, source, read_classifier)
        return network

    def _draw_classifier(self, network: nnx.Module, rngs: nnx.Rngs | None) -> None:
        value = network.fc.weight.get_value()
        if isinstance(value, jax.ShapeDtypeStruct):
            rngs = nnx.Rngs(0) if rngs is None else rngs
            network.fc = Linear(*value.shape, rngs=rngs)

    def _fits(self, tensors: Mapping[str, Any]) -> bool:
        stages = (f"layer{stage}." for stage in (1, 2, 3, 4))
        blocks = tuple(
            len({n.split(".")[1] for n in tensors if n.startswith(stage)})
            for stage in stages
        )
        if blocks != self.blocks:
            return False
        expected = torch_shapes(
            nnx.eval_shape(lambda: self.build(num_classes=1, rngs=nnx.Rngs(0)))
        )
        children = {name.split(".")[0] for name in expected} - {self.classifier}
        held = {k: v for k, v in tensors.items() if k.split(".")[0] in children}
        try:
            match_weights(
                {k: v for k, v in held.items() if k not in _FIRST},
                {k: v for k, v in expected.items() if k not in _FIRST},
                allow_missing=("fc.*",),
            )
        except WeightsMismatchError:
            return False
        return True


@dataclasses.dataclass(frozen=True)
class _ResNets:
    """Builds the residual networks of one architecture."""

    name: str
    block: Block
    blocks: tuple[int, int, int, int]
    options: tuple[tuple[str, int | bool], ...]

    def __call__(
        self,
        *,
        num_classes: int = 1000,
        in_channels: int = 3,
        stride_in_1x1: bool = False,
        rngs: nnx.Rngs,
    ) -> ResNet:
        options: dict[str, Any] = dict(self.options) | {"in_channels": in_channels}
        if check_flag(stride_in_1x1, "stride_in_1x1"):
            if self.block is not Bottleneck:
                raise ValueError(
                    f"stride_in_1x1 is for networks of bottlenecks, and {self.name} has"
                    " none. Leave it out, or take resnet50 or a deeper one."
                )
            options["stride_in_1x1"] = True
        return ResNet(
            self.block, self.blocks, num_classes=num_classes, rngs=rngs, **options
        )


#: First convolution, whose channels are the images'.
_FIRST = ("conv1.weight", "conv1.0.weight")


def _architecture(name, block, blocks, **options) -> Architecture:
    ARCHITECTURES[name] = Architecture(name, block, blocks, tuple(options.items()))
    return ARCHITECTURES[name]


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
