"""A body and a fresh head, joined: the network that transfer learning trains."""

import inspect
import os
from collections.abc import Callable
from typing import Any

from flax import nnx

from jaxtune.arguments import (
    Integer,
    check_choice,
    check_flag,
    check_instance,
    check_integer,
    check_module,
    described,
    like,
    other_library,
)
from jaxtune.models import Sequential
from jaxtune.pretrained import (
    ARCHITECTURES,
    RegisteredModel,
    WeightsMismatchError,
    call_build,
    layer_at,
    parameters_of,
)
from jaxtune.transfer.cuts import check_cut, create_body, num_features
from jaxtune.transfer.head import create_head
from jaxtune.transfer.running import output_shape


def create_cnn_model(
    arch: str | Callable | nnx.Module | None,
    num_classes: Integer,
    *,
    pretrained: bool = True,
    weights: str | os.PathLike | None = None,
    cut: Integer | str | Callable | None = None,
    body: nnx.Module | None = None,
    head: nnx.Module | None = None,
    in_channels: Integer = 3,
    channel_init: str = "zero",
    rngs: nnx.Rngs | None = None,
    **head_options,
) -> Sequential:
    """Returns a network for new classes: `net[0]` is the body, `net[1]` the head.

    Args:
        arch: An architecture (`resnet34`) or its name, another function that returns an
            NNX module, or a module: the whole network, classifier included; None with
            `body`.
        num_classes: Number of logits of the new head.
        pretrained: Whether the body starts from published weights; goes to `arch` where
            it takes such an argument.
        weights: Which ones, see `Architecture`. They need not have a classifier, which
            is dropped anyway.
        cut: Where the old classifier begins, see `create_body`.
        body: Instead of `arch`, a module that is a body already, with its values: from
            images to feature maps (b, h, w, c). Nothing is cut.
        head: The head; `create_head` makes one if None.
        in_channels: Channels of the images.
        channel_init: How published weights of three channels become those of another
            number: "zero" or "repeat", see `adapt_channels`.
        rngs: Stream `params` draws the head (and an untrained body); `nnx.Rngs(0)` if
            None.
        **head_options: Arguments of `create_head`: hidden, dropout, concat_pool,
            first_bn, bn_final, lin_first, y_range, target_stats, init.

    Raises:
        ValueError: If the cut isn't found, the weights don't fit, the head's outputs
            are not `num_classes`, or no architecture has the name.
        TypeError: If an argument is of another type, `arch` gives no NNX module, or
            an argument comes with another that leaves it without effect: the options
            of a head with a head, weights with a module.

    Example:
        >>> from jaxtune import create_cnn_model, resnet18
        >>> net = create_cnn_model(resnet18, 37, pretrained=False)
        >>> net.names, net[0][6] is net.body.layer3
        (('body', 'head'), True)

    References:
        fastai 2.8.12, vision/learner.py `create_vision_model`.
    """
    if head is not None and head_options:
        raise TypeError(
            f"head={type(head).__name__} comes with options of the head that jaxtune "
            f"would make: {', '.join(sorted(head_options))}. Give one or the other."
        )
    unknown = set(head_options) - set(inspect.signature(create_head).parameters)
    if unknown:
        known = list(inspect.signature(create_head).parameters)[2:-1]
        raise TypeError(
            f"unknown option {', '.join(sorted(unknown))}. Options of the head are "
            f"{', '.join(known)}."
        )
    num_classes = check_integer(num_classes, "num_classes", least=1)
    pretrained = check_flag(pretrained, "pretrained")
    cut = check_cut(cut)
    in_channels = check_integer(in_channels, "in_channels", least=1)
    check_choice(channel_init, "channel_init", ("zero", "repeat"))
    if head is not None:
        check_module(head, "head")
    if rngs is not None:
        check_instance(rngs, "rngs", nnx.Rngs, "flax.nnx.Rngs, such as nnx.Rngs(0)")
    arch = None if arch is None else check_arch(arch)
    _check_body(
        arch, body, cut=cut, weights=weights,
        channel_init=None if channel_init == "zero" else channel_init,
    )  # fmt: skip
    if weights is not None and not pretrained:
        raise TypeError(
            f"weights={os.fspath(weights)!r} comes with pretrained=False: leave out "
            "the weights for random values, or pretrained=False for these."
        )
    rngs = nnx.Rngs(0) if rngs is None else rngs
    options = {
        "pretrained": pretrained,
        "weights": weights,
        "in_channels": in_channels,
        "channel_init": channel_init,
        "rngs": rngs,
    }
    if body is None:
        body = _body(arch, options, cut)
    if head is None:
        features = num_features(body, in_channels=in_channels)
        head = create_head(features, num_classes, rngs=rngs, **head_options)
        return Sequential({"body": body, "head": head})
    network = Sequential({"body": body, "head": head})
    shape = output_shape(network, in_channels=in_channels)
    if len(shape) != 2 or shape[-1] != num_classes:
        raise ValueError(
            f"the head must return (b, {num_classes}), one output for each class or "
            f"number to predict; it returns shape {('b', *shape[1:])}."
        )
    return network


def check_arch(arch: Any) -> Callable | nnx.Module:
    """Returns what makes a network, or a network, as it is; of a name its architecture.

    Args:
        arch: An architecture or its name, a function that returns an NNX module, a
            class of modules, or a module.

    Raises:
        TypeError: If it is something else, such as another library's module.
        ValueError: If no architecture has the name; those like it are named.

    Example:
        >>> check_arch("resnet18")
        resnet18
    """
    if isinstance(arch, str):
        if arch not in ARCHITECTURES:
            raise ValueError(
                f"no architecture is called {arch!r}. {like(arch, ARCHITECTURES)}"
            )
        return ARCHITECTURES[arch]
    if isinstance(arch, nnx.Module):
        return arch
    strange = inspect.isclass(arch) and not issubclass(arch, nnx.Module)
    if not callable(arch) or strange or other_library(arch):
        check_module(
            arch,
            "arch",
            "the name of an architecture, a flax.nnx module, or a function that makes "
            "one",
        )
    return arch


def _body(arch: Callable | nnx.Module, options: dict, cut: Any) -> nnx.Module:
    in_channels = options["in_channels"]
    if not isinstance(arch, RegisteredModel):
        network = arch if isinstance(arch, nnx.Module) else _build(arch, options)
        return create_body(network, cut, in_channels=in_channels)
    cut = arch.cut if cut is None else cut
    body = _registered_body(arch, options, cut)
    if arch.groups:
        body.default_groups = arch.groups
    return body


def _registered_body(arch: RegisteredModel, options: dict, cut: Any) -> nnx.Module:
    in_channels = options["in_channels"]
    if options["pretrained"]:
        # Only what the cut leaves is read. The head's values don't depend on it, since
        # nothing is drawn from its stream.
        reads_all = arch.classifier is None
        options = {**options, "rngs": None, "read_classifier": reads_all}
    network = arch(**options, draw_classifier=False)
    body = create_body(network, cut, in_channels=in_channels)
    if options.get("read_classifier", True):
        return body
    if not _shares_variables(body, layer_at(network, arch.classifier)):
        return body
    try:
        network = arch(**options | {"read_classifier": True})
    except WeightsMismatchError as error:
        raise ValueError(
            f"cut={cut!r} keeps the old classifier, which the weights don't have, or "
            "not for this network: cut before it, or leave cut out."
        ) from error
    return create_body(network, cut, in_channels=in_channels)


def _shares_variables(one: nnx.Module, other: nnx.Module) -> bool:
    def variables(module):
        return {id(v) for _, v in nnx.iter_graph(module) if isinstance(v, nnx.Variable)}

    return bool(variables(one) & variables(other))


def _check_body(arch, body, **of_arch) -> None:
    given = [name for name, value in of_arch.items() if value is not None]
    if isinstance(arch, nnx.Module):
        given = [name for name in given if name != "cut"]
        if body is None and given:
            raise TypeError(
                f"arch is a {type(arch).__name__}, which has its values already, so "
                f"{' and '.join(given)} would not be used: leave {' and '.join(given)} "
                "out, or hand over the architecture instead of a network."
            )
    if body is None and arch is not None:
        return
    if body is None or arch is not None:
        raise TypeError(
            "give arch, a whole network that is cut, or body=, a network that is a "
            f"body already; received {'both' if body is not None else 'neither'}."
        )
    check_module(body, "body")
    if given:
        raise TypeError(
            f"body={type(body).__name__} comes with {' and '.join(given)}, but a body "
            "is neither cut nor filled: give the whole network as arch, or leave "
            f"{' and '.join(given)} out."
        )


def _build(arch: Callable, options: dict) -> nnx.Module:
    what = getattr(arch, "__name__", described(arch))
    parameters = parameters_of(arch)
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = {p.name for p in parameters if p.kind is not p.POSITIONAL_ONLY}
    if options["weights"] is not None and "weights" not in names and not takes_all:
        raise TypeError(
            f"{what} takes no argument `weights`; load them "
            "into the module yourself and hand over the module."
        )
    if options["channel_init"] != "zero" and not takes_all:
        if "channel_init" not in names:
            raise TypeError(
                f"{what} takes no argument `channel_init`, so it would not be used: "
                "leave it out."
            )
    return call_build(arch, options)
