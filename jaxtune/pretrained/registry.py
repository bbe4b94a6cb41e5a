"""Networks by name, with what a transfer needs to know of them; `register_model`.

A `RegisteredModel` builds a network, and says where it is cut, which layers train
together, how its images are normalised and which convolution sees the channels.
"""

import dataclasses
import inspect
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxtune.arguments import (
    Integer,
    check_flag,
    check_function,
    check_instance,
    check_integer,
    check_numbers,
    check_path,
    described,
    either,
    is_traced,
)
from jaxtune.pretrained.channels import adapt_channels, check_channel_init
from jaxtune.pretrained.convert import (
    WeightsMismatchError,
    load_into,
    named_as,
    torch_shapes,
)
from jaxtune.pretrained.manifest import IMAGENET_MEAN, IMAGENET_STD
from jaxtune.pretrained.weights import Weights, resolve_weights
from jaxtune.pretrained.weights_file import read_weights

Statistics = tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class RegisteredModel:
    """A network's plan, found by its name: call it to build the network.

    Attributes:
        name: Under which it is registered.
        build: Makes the network, see `register_model`, which explains the others too.
        cut: Where `create_body` cuts.
        groups: Layer groups of the body, first to last: pairs of name and pattern.
        mean: Of each channel in 0..1, that the network's images are normalised with.
        std: Likewise.
        first_conv: Path of the convolution that sees the images' channels.
        classifier: Path of the last layer.
        weights: The default weights.
    """

    name: str
    build: Callable[..., nnx.Module]
    cut: int | str | Callable | None = None
    groups: tuple[tuple[str, str], ...] = ()
    mean: Statistics | None = None
    std: Statistics | None = None
    first_conv: str | None = None
    classifier: str | None = None
    weights: str | os.PathLike | None = None

    @property
    def __name__(self) -> str:
        """The name, as a function would have it."""
        return self.name

    def __repr__(self) -> str:
        """Returns the name."""
        return self.name

    def __call__(
        self,
        *,
        pretrained: bool = False,
        weights: str | os.PathLike | None = None,
        num_classes: Integer | None = None,
        in_channels: Integer = 3,
        channel_init: str = "zero",
        read_classifier: bool = True,
        draw_classifier: bool = True,
        rngs: nnx.Rngs | None = None,
        **options: Any,
    ) -> nnx.Module:
        """Builds the whole network, with random or pretrained weights.

        Args:
            pretrained: Whether to load weights, the default ones if `weights` doesn't
                say which.
            weights: A name of the manifest ("imagenet1k_v1"), of the hub
                ("timm/resnet50.a1_in1k") or the path of a .safetensors, .pth, .pt or
                .npz file; implies `pretrained`. The network may be part of a larger
                one in the file: a prefix such as `module.encoder_q.` is found by
                comparing names.
            num_classes: Number of logits; if None that of published weights, or what
                the network has by default (1000 for the ResNets).
            in_channels: Channels of the images; pretrained weights are adapted.
            channel_init: How, see `adapt_channels`: "zero" or "repeat".
            read_classifier: Whether the classifier is read from the weights too. If
                not, it is drawn, and the file may have none, or another one.
            draw_classifier: Whether a ResNet's classifier that isn't read is drawn. If
                not, its arrays are abstract, `jax.ShapeDtypeStruct`, for a transfer
                that drops it.
            rngs: Stream `params` draws random weights; `nnx.Rngs(0)` if None.
            **options: Of the network itself: `stride_in_1x1=True` of those ResNets
                that have bottlenecks is the paper's ("v1") instead of "v1.5".

        Raises:
            TypeError: If an argument is of another type, or the network has no such
                option.
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
        check_channel_init(channel_init)
        read_classifier = check_flag(read_classifier, "read_classifier")
        draw_classifier = check_flag(draw_classifier, "draw_classifier")
        if rngs is not None:
            check_instance(rngs, "rngs", nnx.Rngs, "flax.nnx.Rngs, such as nnx.Rngs(0)")
        unknown = [name for name in options if name not in _taken(self.build, options)]
        if unknown:
            raise TypeError(f"{self.name} has no option {', '.join(unknown)}.")
        given = {
            "in_channels": check_integer(in_channels, "in_channels", least=1),
            "channel_init": channel_init,
            **options,
        }
        if num_classes is not None:
            given["num_classes"] = num_classes
        if not loads:
            self._check_unused(channel_init, read_classifier)
        if not loads or self._fills_itself(weights):
            rngs = nnx.Rngs(0) if rngs is None else rngs
            return self._build(given | {"pretrained": loads, "rngs": rngs})
        network = self._filled(given, rngs, self.resolve(weights), read_classifier)
        if draw_classifier:
            self._draw_classifier(network, rngs)
        return network

    def resolve(self, weights: str | os.PathLike | None = None) -> Weights:
        """Finds weights of this network, fetching them if need be; None for default."""
        return resolve_weights(self.name, self.weights if weights is None else weights)

    def statistics(
        self, *, pretrained: bool, weights: str | os.PathLike | None = None
    ) -> tuple[Statistics, Statistics, bool]:
        """Returns mean and deviation of each channel, and whether they are known.

        ImageNet's where nothing says which; that is a guess only of weights that
        were trained, since fresh ones can be trained with any.
        """
        if self.mean is not None and self.std is not None:
            return self.mean, self.std, True
        if not pretrained or self._fills_itself(weights):
            return IMAGENET_MEAN, IMAGENET_STD, not pretrained
        source = self.resolve(weights)
        return source.mean, source.std, source.is_known

    def _fills_itself(self, weights: Any) -> bool:
        return (
            weights is None
            and self.weights is None
            and "pretrained" in _taken(self.build, {"pretrained"})
        )

    def _build(self, given: Mapping[str, Any]) -> nnx.Module:
        network = call_build(self.build, given, what=self.name)
        if "in_channels" not in _taken(self.build, {"in_channels"}):
            # Of random channels none should begin at nothing.
            init = given["channel_init"] if given.get("pretrained") else "repeat"
            self._adapt_network(network, given["in_channels"], init)
        return network

    def _filled(
        self,
        given: Mapping[str, Any],
        rngs: nnx.Rngs | None,
        source: Weights,
        read_classifier: bool,
    ) -> nnx.Module:
        """Builds the network and loads the weights into it."""
        rngs = nnx.Rngs(0) if rngs is None else rngs
        network = self._build({**given, "rngs": rngs})
        self._load(network, given, source, read_classifier)
        return network

    def _draw_classifier(self, network: nnx.Module, rngs: nnx.Rngs | None) -> None:
        """Draws what `_filled` left without values."""

    def _load(self, network, given, source: Weights, read_classifier: bool) -> None:
        expected = torch_shapes(network)
        tensors = named_as(
            read_weights(source.path),
            expected,
            order=getattr(network, "names", ()),
            optional=(self.classifier or "").split(".")[0],
        )
        name, axes = f"{self.first_conv}.weight", (0, 1, 2, 3)
        if name not in tensors:  # Flax's kernels are (h, w, in, out) in files too
            name, axes = f"{self.first_conv}.kernel", (3, 2, 0, 1)
        if name in tensors and tensors[name].ndim == 4:
            kernel = adapt_channels(
                tensors[name].transpose(axes),
                given["in_channels"],
                channel_init=given["channel_init"],
            )
            tensors[name] = kernel.transpose(np.argsort(axes))
        optional: dict = {}
        if not read_classifier:
            tensors = {k: v for k, v in tensors.items() if not self._is_classifiers(k)}
            # What stands beside the network's children: projection heads, queues.
            beside = _beside(tensors, expected)
            missing = [name for name in expected if self._is_classifiers(name)]
            optional = {"allow_missing": missing, "allow_unexpected": beside}
        try:
            load_into(network, tensors, source=source.name, **optional)
        except WeightsMismatchError as error:
            raise WeightsMismatchError(
                f"{error.difference}\n{self._advice(error, tensors, expected)}",
                missing=error.missing,
                unexpected=error.unexpected,
                differing=error.differing,
                difference=error.difference,
            ) from None

    def _advice(
        self,
        error: WeightsMismatchError,
        tensors: Mapping[str, Any],
        expected: Collection[str],
    ) -> str:
        names = {*error.missing, *error.differing}
        heads = {n for n in error.unexpected if self._is_classifiers(n)}
        heads |= set(_beside(error.unexpected, expected))
        only_heads = heads >= {*error.unexpected}
        if names and all(map(self._is_classifiers, names)) and only_heads:
            what = "is not in the file"
            if error.differing:
                what = "has another number of classes in the file"
            number = "leave num_classes out, or " if error.differing else ""
            return (
                f"Only the classifier {what}. For a fresh one {number}write "
                f"{self.name}(..., read_classifier=False); vision_learner and "
                "create_cnn_model, which drop it, need none."
            )
        if not names and only_heads:
            return (
                f"The file holds all of {self.name}, and more. If that is another head,"
                f" write {self.name}(..., read_classifier=False), or hand {self.name} "
                "to vision_learner, which drops the classifier."
            )
        fitting = [name for name, each in ARCHITECTURES.items() if each._fits(tensors)]
        if fitting:
            return f"The file holds the weights of {either(fitting)}."
        if len(_beside(tensors, expected)) == len(tensors):
            return (
                "No name fits: this is another network's file. It begins with "
                f"{', '.join(sorted(tensors)[:3])}."
            )
        return f"The file holds none of the networks {', '.join(ARCHITECTURES)}."

    def _fits(self, tensors: Mapping[str, Any]) -> bool:
        """Whether a file surely holds this network, classifier and channels aside."""
        return False

    def _is_classifiers(self, name: str) -> bool:
        return self.classifier is not None and name.startswith(f"{self.classifier}.")

    def _adapt_network(self, network, in_channels: int, channel_init: str) -> None:
        """Gives the first convolution another number of channels, in place."""
        if self.first_conv is None:
            native = 3 if self.mean is None else len(self.mean)
            if in_channels != native:
                raise ValueError(
                    f"images of {in_channels} channels, and {self.name} is built for "
                    f"{native}. Register it with first_conv=, the path of the "
                    "convolution that sees them, or let build take in_channels."
                )
            return
        conv = layer_at(network, self.first_conv)
        kernel: Any = getattr(conv, "weight", getattr(conv, "kernel", None))
        shape = getattr(kernel, "shape", ())
        if len(shape) != 4:
            raise ValueError(
                f"first_conv of {self.name} must be the path of a convolution with a "
                f"weight or kernel (h, w, in, out); {self.first_conv!r} is "
                f"{described(conv)}."
            )
        if shape[2] == in_channels:
            return
        value, shape = kernel.get_value(), (*shape[:2], in_channels, shape[3])
        if is_traced(value):
            adapted = jnp.zeros(shape, value.dtype)
        else:
            weight = np.asarray(value).transpose(3, 2, 0, 1)
            weight = adapt_channels(weight, in_channels, channel_init=channel_init)
            adapted = jnp.asarray(weight.transpose(2, 3, 1, 0))
        kernel.set_value(adapted)
        # What Flax's convolution knows of its kernel.
        for name, known in (("in_features", in_channels), ("kernel_shape", shape)):
            if hasattr(conv, name):
                setattr(conv, name, known)

    def _check_unused(self, channel_init: str, read_classifier: bool) -> None:
        given = {"channel_init": channel_init != "zero",
                 "read_classifier": not read_classifier}  # fmt: skip
        unused = [name for name, is_given in given.items() if is_given]
        if unused:
            raise ValueError(
                f"{' and '.join(unused)} says how published weights are read, and none "
                f"are: leave {' and '.join(unused)} out, or write pretrained=True."
            )


#: Every network by its name.
ARCHITECTURES: dict[str, RegisteredModel] = {}


def register_model(
    name: str,
    build: Callable[..., nnx.Module],
    *,
    cut: int | str | Callable | None = None,
    groups: Mapping[str, str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    first_conv: str | None = None,
    classifier: str | None = None,
    weights: str | os.PathLike | None = None,
) -> RegisteredModel:
    """Registers a network of your own, to be used as `resnet18` is.

    `vision_learner(data, name)` then cuts, groups and normalises it as said here, and
    a checkpoint of it opens by itself wherever it was registered before.

    Args:
        name: Of the network; ResNets keep theirs.
        build: Returns the whole network, an NNX module: a function or the module's
            class. Of these arguments it gets those that it takes: `num_classes`,
            `in_channels`, `rngs`; `pretrained` and `channel_init`, if it fills the
            network with pretrained values itself; options of its own.
        cut: Where the classifier begins, see `create_body`.
        groups: Layer groups of the body, first to last: name to a pattern that matches
            at the start of a path within it, such as `{"early": "stem|stage1"}`; the
            head is one more. None for one group.
        mean: Of each channel, for images in 0..1, that the pretrained values were
            trained with. None for ImageNet's, with a warning where that is a guess.
        std: Likewise.
        first_conv: Path of the convolution that sees the images ("stem.conv"), which
            gets the images' number of channels, see `adapt_channels`.
        classifier: Path of the last layer, which a file of weights need not have for
            `read_classifier=False` and for transfer.
        weights: Default weights for `pretrained=True`: the path of a file, whose names
            are the network's paths, see `load_into`.

    Returns:
        What `ARCHITECTURES[name]` is from now on.

    Raises:
        TypeError: If an argument is of another type.
        ValueError: If the name is jaxtune's own, or of `mean` and `std` one is missing.
    """
    check_instance(name, "name", str, "a name, such as 'my_network'")
    known = ARCHITECTURES.get(name)
    if known is not None and type(known) is not RegisteredModel:
        raise ValueError(f"{name!r} is one of jaxtune's own networks: choose another.")
    check_function(build, "build", "a function that returns an NNX module, or a class")
    if groups is not None:
        check_instance(groups, "groups", Mapping, "a dict from names to patterns")
    for what, path in (("first_conv", first_conv), ("classifier", classifier)):
        if path is not None:
            check_instance(path, what, str, "the path of a layer, such as 'stem.conv'")
    check_path(weights, "weights", or_none=True)
    if (mean is None) != (std is None):
        raise ValueError("mean and std go together: give both, or neither.")
    ARCHITECTURES[name] = RegisteredModel(
        name, build, cut=cut, groups=tuple((groups or {}).items()),
        mean=_numbers(mean, "mean"), std=_numbers(std, "std"), first_conv=first_conv,
        classifier=classifier, weights=weights,
    )  # fmt: skip
    return ARCHITECTURES[name]


def layer_at(network: nnx.Module, path: str) -> Any:
    """Returns the layer at a path, such as "stem.0"; None if there is none."""
    layer: Any = network
    for name in path.split("."):
        own = getattr(layer, name, None)
        is_item = own is None and name.isdigit() and hasattr(layer, "__getitem__")
        layer = layer[int(name)] if is_item and int(name) < len(layer) else own
    return layer


def call_build(
    build: Callable, given: Mapping[str, Any], *, what: str | None = None
) -> nnx.Module:
    """Returns what a function makes of those of some arguments that it takes.

    Raises:
        TypeError: If it needs others, or makes no NNX module.
    """
    what = what or getattr(build, "__name__", described(build))
    taken = _taken(build, given)
    needed = [
        p.name
        for p in parameters_of(build)
        if p.default is p.empty
        and p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
        and p.name not in taken
    ]
    if needed:
        raise TypeError(
            f"arch={what} needs {', '.join(needed)}, which nothing here gives. Write "
            f"functools.partial({what}, {needed[0]}=...), or hand over the module."
        )
    network = build(**{name: given[name] for name in taken})
    if not isinstance(network, nnx.Module):
        raise TypeError(
            "the architecture must be a flax.nnx module or a function that gives one; "
            f"{what} gave {described(network)}."
        )
    return network


def parameters_of(build: Callable) -> list[inspect.Parameter]:
    """Returns the parameters of what builds a network, a function or a class."""
    if inspect.isclass(build):
        # Flax's metaclass says that its call takes anything.
        return list(inspect.signature(build.__init__).parameters.values())[1:]
    return list(inspect.signature(build).parameters.values())


def _taken(function: Callable, names: Collection[str]) -> list[str]:
    """Those of some keywords that a function takes."""
    parameters = parameters_of(function)
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return list(names)
    known = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    return [name for name in names if name in known]


def _beside(names: Collection[str], expected: Collection[str]) -> list[str]:
    """Those of some names that belong to none of the network's children."""
    children = {name.split(".")[0] for name in expected}
    return [name for name in names if name.split(".")[0] not in children]


def _numbers(values: Sequence[float] | None, name: str) -> Statistics | None:
    if values is None:
        return None
    what = "numbers, one for each channel"
    return check_numbers(values, name, what=what)
