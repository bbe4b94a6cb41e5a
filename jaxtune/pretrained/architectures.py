"""The networks by name: `resnet18(pretrained=True)`, `vision_learner(data, resnet18)`.

An architecture in, a whole 1000-class network out. The one rule of the file: an
architecture is a value, so it can be handed over, printed, and compared.
"""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any

from flax import nnx

from jaxtune.arguments import (
    Integer,
    check_flag,
    check_instance,
    check_integer,
    either,
)
from jaxtune.models import BasicBlock, Bottleneck, Linear, ResNet
from jaxtune.pretrained.channels import adapt_channels, check_channel_init
from jaxtune.pretrained.convert import (
    WeightsMismatchError,
    load_into,
    match_weights,
    torch_shapes,
)
from jaxtune.pretrained.files import read_weights
from jaxtune.pretrained.naming import named_as
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
        num_classes: Integer | None = None,
        in_channels: Integer = 3,
        channel_init: str = "zero",
        stride_in_1x1: bool = False,
        read_classifier: bool = True,
        rngs: nnx.Rngs | None = None,
    ) -> ResNet:
        """Builds the whole network, with random or published weights.

        Args:
            pretrained: Whether to load published weights, the architecture's default
                ones if `weights` doesn't say which.
            weights: A name of the manifest ("imagenet1k_v1"), of the hub
                ("timm/resnet50.a1_in1k") or the path of a .safetensors, .pth, .pt or
                .npz file; implies `pretrained`. The network may be part of a larger
                one in the file: a prefix such as `module.encoder_q.` is found by
                comparing names.
            num_classes: Number of logits; that of the weights, or 1000, if None.
            in_channels: Channels of the images; published weights are adapted.
            channel_init: How, see `adapt_channels`: "zero" or "repeat".
            stride_in_1x1: The paper's bottleneck ("v1") instead of "v1.5".
            read_classifier: Whether the classifier is read from the weights too. If
                not, it is drawn, and the file may have none, or another one.
            rngs: Stream `params` draws random weights; `nnx.Rngs(0)` if None.

        Raises:
            TypeError: If an argument is of another type.
            ValueError: If a number is out of its range, an argument would not be used,
                or the weights don't fit the network; both sides are listed then.
            FileNotFoundError: If the weights are nowhere to be found.

        Example:
            >>> from jaxtune import resnet18
            >>> resnet18(num_classes=10).fc.weight.shape
            (512, 10)
        """
        loads = check_flag(pretrained, "pretrained") or weights is not None
        if num_classes is not None:
            num_classes = check_integer(num_classes, "num_classes", least=1)
        in_channels = check_integer(in_channels, "in_channels", least=1)
        check_channel_init(channel_init)
        read_classifier = check_flag(read_classifier, "read_classifier")
        if rngs is not None:
            check_instance(rngs, "rngs", nnx.Rngs, "flax.nnx.Rngs, such as nnx.Rngs(0)")
        rngs = rngs or nnx.Rngs(0)
        options = dict(self.options) | {"in_channels": in_channels}
        if check_flag(stride_in_1x1, "stride_in_1x1"):
            if self.block is not Bottleneck:
                raise ValueError(
                    f"stride_in_1x1 is for networks of bottlenecks, and {self.name} has"
                    " none. Leave it out, or take resnet50 or a deeper one."
                )
            options["stride_in_1x1"] = True
        if not loads:
            self._check_unused(channel_init, read_classifier)
            return self._build(num_classes or 1000, options, rngs)
        found = self.resolve(weights)
        # Arrays that the file is about to fill are never drawn.
        network = nnx.eval_shape(
            lambda: self._build(num_classes or found.num_classes, options, nnx.Rngs(0))
        )
        tensors = named_as(
            read_weights(found.path),
            torch_shapes(network),
            order=network.names,
            optional="fc",
        )
        first = "conv1.0.weight" if options.get("deep_stem") else "conv1.weight"
        if first in tensors:
            tensors[first] = adapt_channels(
                tensors[first], in_channels, channel_init=channel_init
            )
        self._load(network, tensors, found.name, read_classifier)
        if not read_classifier:
            shape = network.fc.weight.get_value().shape
            network.fc = Linear(*shape, rngs=rngs)
        return network

    def _load(self, network, tensors: dict, source: str, read_classifier: bool) -> None:
        """Fills the network; the classifier only if it is to be read."""
        optional: dict = {}
        if not read_classifier:
            tensors = {k: v for k, v in tensors.items() if not _is_classifiers(k)}
            # What stands beside the network's children: projection heads, queues.
            beside = {name for name in tensors if name.split(".")[0] not in _CHILDREN}
            optional = {"allow_missing": _CLASSIFIER, "allow_unexpected": beside}
        try:
            load_into(network, tensors, source=source, **optional)
        except WeightsMismatchError as error:
            raise WeightsMismatchError(
                f"{error.difference}\n{self._advice(error, tensors)}",
                missing=error.missing,
                unexpected=error.unexpected,
                differing=error.differing,
                difference=error.difference,
            ) from None

    def _advice(self, error: WeightsMismatchError, tensors: Mapping[str, Any]) -> str:
        names = {*error.missing, *error.differing}
        beside = [n for n in error.unexpected if n.split(".")[0] not in _CHILDREN]
        heads = {n for n in error.unexpected if _is_classifiers(n)}.union(beside)
        if names and all(map(_is_classifiers, names)) and heads >= {*error.unexpected}:
            what = "is not in the file"
            if error.differing:
                what = "has another number of classes in the file"
            number = "leave num_classes out, or " if error.differing else ""
            return (
                f"Only the classifier {what}. For a fresh one {number}write "
                f"{self.name}(..., read_classifier=False); vision_learner and "
                "create_cnn_model, which drop it, need none."
            )
        if not names and heads >= {*error.unexpected}:
            return (
                f"The file holds all of {self.name}, and more. If that is another head,"
                f" write {self.name}(..., read_classifier=False), or hand {self.name} "
                "to vision_learner, which drops the classifier."
            )
        fitting = [name for name, arch in ARCHITECTURES.items() if arch._fits(tensors)]
        if fitting:
            return f"The file holds the weights of {either(fitting)}."
        known = [name for name in tensors if name.split(".")[0] in _CHILDREN]
        if not known:
            return (
                "No name fits: this is another network's file. It begins with "
                f"{', '.join(sorted(tensors)[:3])}."
            )
        return f"The file holds none of the networks {', '.join(ARCHITECTURES)}."

    def _fits(self, tensors: Mapping[str, Any]) -> bool:
        """Whether a file holds this network, classifier and channels aside."""
        blocks = tuple(
            len({n.split(".")[1] for n in tensors if n.startswith(f"layer{stage}.")})
            for stage in (1, 2, 3, 4)
        )
        if blocks != self.blocks:
            return False
        network = nnx.eval_shape(
            lambda: self._build(1, dict(self.options), nnx.Rngs(0))
        )
        tensors = {k: v for k, v in tensors.items() if k.split(".")[0] in _BODY}
        try:
            match_weights(
                {k: v for k, v in tensors.items() if k not in _FIRST},
                {k: v for k, v in torch_shapes(network).items() if k not in _FIRST},
                allow_missing=_CLASSIFIER,
            )
        except WeightsMismatchError:
            return False
        return True

    def _check_unused(self, channel_init: str, read_classifier: bool) -> None:
        given = {"channel_init": channel_init != "zero",
                 "read_classifier": not read_classifier}  # fmt: skip
        unused = [name for name, is_given in given.items() if is_given]
        if unused:
            raise ValueError(
                f"{' and '.join(unused)} says how published weights are read, and none "
                f"are: leave {' and '.join(unused)} out, or write pretrained=True."
            )

    def resolve(self, weights: str | os.PathLike | None = None) -> Weights:
        """Finds published weights of this architecture, fetching them if need be."""
        return resolve_weights(self.name, weights)

    def _build(self, num_classes: int, options: dict, rngs: nnx.Rngs) -> ResNet:
        return ResNet(
            self.block, self.blocks, num_classes=num_classes, rngs=rngs, **options
        )


#: Children of a residual network, and the arrays of its classifier.
_CHILDREN = (
    *("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"),
    *("avgpool", "fc"),
)
_BODY = _CHILDREN[:-2]
_CLASSIFIER = ("fc.weight", "fc.bias")
#: First convolution, whose channels are the images'.
_FIRST = ("conv1.weight", "conv1.0.weight")


def _is_classifiers(name: str) -> bool:
    return name.startswith("fc.")


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
