"""A body and a fresh head, joined: the network that transfer learning trains.

An architecture or a module in, a two-child sequence out. The one rule of the file: the
body keeps its pretrained values, only the head is new.
"""

import inspect
import os
from collections.abc import Callable

from flax import nnx

from jaxtune.models import Sequence
from jaxtune.transfer.cuts import create_body, num_features
from jaxtune.transfer.head import create_head


def create_cnn_model(
    arch: Callable | nnx.Module | None,
    num_classes: int,
    *,
    pretrained: bool = True,
    weights: str | os.PathLike | None = None,
    cut: int | str | Callable | None = None,
    body: nnx.Module | None = None,
    head: nnx.Module | None = None,
    in_channels: int = 3,
    channel_init: str = "zero",
    rngs: nnx.Rngs | None = None,
    **head_options,
) -> Sequence:
    """Returns a network for new classes: `net[0]` is the body, `net[1]` the head.

    Args:
        arch: An architecture (`resnet34`), another function that returns an NNX module,
            or a module: the whole network, classifier included; None with `body`.
        num_classes: Number of logits of the new head.
        pretrained: Whether the body starts from published weights; goes to `arch` where
            it takes such an argument.
        weights: Which ones, see `Architecture`.
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
        ValueError: If the cut isn't found, or the weights don't fit.
        TypeError: If `arch` gives no NNX module, a head comes with options of one, or
            a body with a whole network, with `cut` or with `weights`.

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
    rngs = nnx.Rngs(0) if rngs is None else rngs
    options = {
        "pretrained": pretrained,
        "weights": weights,
        "in_channels": in_channels,
        "channel_init": channel_init,
        "rngs": rngs,
    }
    _check_body(arch, body, cut=cut, weights=weights)
    if body is None:
        network = arch if isinstance(arch, nnx.Module) else _build(arch, options)
        body = create_body(network, cut, in_channels=in_channels)
    if head is None:
        features = num_features(body, in_channels=in_channels)
        head = create_head(features, num_classes, rngs=rngs, **head_options)
    return Sequence({"body": body, "head": head})


def _check_body(arch, body, **of_arch) -> None:
    if body is None and arch is not None:
        return
    if body is None or arch is not None:
        raise TypeError(
            "give arch, a whole network that is cut, or body=, a network that is a "
            f"body already; received {'both' if body is not None else 'neither'}."
        )
    if not isinstance(body, nnx.Module):
        raise TypeError(
            f"body must be a flax.nnx module; received a {type(body).__name__}."
        )
    given = [name for name, value in of_arch.items() if value is not None]
    if given:
        raise TypeError(
            f"body={type(body).__name__} comes with {' and '.join(given)}, but a body "
            "is neither cut nor filled: give the whole network as arch, or leave "
            f"{' and '.join(given)} out."
        )


def _build(arch: Callable, options: dict) -> nnx.Module:
    parameters = inspect.signature(arch).parameters.values()
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = {p.name for p in parameters}
    if options["weights"] is not None and "weights" not in names and not takes_all:
        raise TypeError(
            f"{getattr(arch, '__name__', arch)} takes no argument `weights`; load them "
            "into the module yourself and hand over the module."
        )
    network = arch(**{k: v for k, v in options.items() if takes_all or k in names})
    if not isinstance(network, nnx.Module):
        raise TypeError(
            "the architecture must be a flax.nnx module or a function that gives one; "
            f"{getattr(arch, '__name__', arch)} gave a {type(network).__name__}."
        )
    return network
