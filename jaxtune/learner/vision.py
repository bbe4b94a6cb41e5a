"""`vision_learner`: data and an architecture in, a learner ready to fine-tune out."""

import os
from collections.abc import Callable, Iterable

from flax import nnx

from jaxtune.data import target_stats
from jaxtune.learner.float32 import in_float32
from jaxtune.learner.learner import Learner
from jaxtune.pretrained import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Architecture,
    adapt_statistics,
)
from jaxtune.train import Metric, enable_compilation_cache, local_devices
from jaxtune.transfer import Groups, create_cnn_model, output_shape

#: Arguments of `Learner` that `vision_learner` hands on.
_LEARNER_OPTIONS = (
    "loss",
    "norms",
    "optimizer",
    "lr",
    "wd",
    "moms",
    "clip_norm",
    "gradient_accumulation_steps",
    "precision",
    "ema_decay",
    "mixing",
    "validate_also",
    "seed",
    "verbose",
)


@in_float32
def vision_learner(
    data,
    arch: Callable | nnx.Module | None = None,
    *,
    metrics: Metric | Iterable[Metric] | None = None,
    pretrained: bool = True,
    weights: str | os.PathLike | None = None,
    cut: int | str | Callable | None = None,
    groups: Groups | None = None,
    split_on: Callable | None = None,
    body: nnx.Module | None = None,
    head: nnx.Module | None = None,
    normalize: bool = True,
    channel_init: str = "zero",
    **options,
) -> Learner:
    """Returns a learner: a pretrained body, a fresh head, the body frozen.

    Args:
        data: `ImageDataLoaders`.
        arch: An architecture (`resnet34`), a function that returns an NNX module, or a
            module; classifier included, `cut` says where it begins.
        metrics: One or several functions (logits, label) -> a value for each row, or
            figures of the whole epoch, see `EpochMetric`.
        pretrained: Whether the body starts from published weights, or has values of its
            own that are worth keeping; if so it is frozen.
        weights: Which ones, see `Architecture`.
        cut: Where the old classifier begins, see `create_body`.
        groups: Layer groups, name to pattern; fastai's three for a ResNet, else body
            and head.
        split_on: Layer groups by a fastai splitter instead.
        body: Instead of `arch`, an NNX module that is a body already, with its values:
            from images to feature maps. Nothing is cut.
        head: The head, an NNX module from feature maps to logits; `create_head` makes
            one if None.
        normalize: Whether images are normalised with the mean and deviation that the
            weights were trained with (ImageNet's where nothing is known).
        channel_init: How published weights of three channels become those of the data's
            number: "zero" (what is beyond the third begins at nothing, as in fastai) or
            "repeat" (as in timm).
        **options: Of `Learner` (loss, norms, optimizer, lr, wd, moms, clip_norm,
            gradient_accumulation_steps, precision, ema_decay, mixing, validate_also,
            seed, verbose) and of `create_head` (hidden, dropout, concat_pool, first_bn,
            bn_final, lin_first, y_range, target_stats, init). Of numbers to be
            predicted, without `y_range`, `target_stats` is their mean and standard
            deviation, so that wherever they lie is as easy to learn; None leaves that
            out.

    Raises:
        ValueError: If the cut, the groups or the weights don't fit the network, or the
            head's outputs the classes.
        TypeError: If an option is unknown, or `arch` and `body` are both given.
        DeviceError: If JAX has no device, or none of those that `JAX_PLATFORMS` names.

    References:
        fastai 2.8.12, vision/learner.py `vision_learner`.
    """
    local_devices()
    enable_compilation_cache()
    learner_options = {k: options.pop(k) for k in _LEARNER_OPTIONS if k in options}
    seed = learner_options.get("seed")
    if data.kind == "regression" and head is None and options.get("y_range") is None:
        options.setdefault("target_stats", target_stats(data.train_items))
    model = create_cnn_model(
        arch,
        data.num_classes,
        pretrained=pretrained,
        weights=weights,
        cut=cut,
        body=body,
        head=head,
        in_channels=data.in_channels,
        channel_init=channel_init,
        rngs=nnx.Rngs(data.seed if seed is None else seed),
        **options,
    )
    if head is not None:
        shape = output_shape(model, in_channels=data.in_channels)
        if shape[-1:] != (data.num_classes,) or len(shape) != 2:
            raise ValueError(
                f"the head must return logits (b, {data.num_classes}), one for each of "
                f"the classes {', '.join(data.classes)}; it returns shape {shape}."
            )
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if isinstance(arch, Architecture) and (pretrained or weights is not None):
        found = arch.resolve(weights)
        mean, std = found.mean, found.std
    if len(mean) != data.in_channels:
        mean, std = (
            adapt_statistics(values, data.in_channels, channel_init=channel_init)
            for values in (mean, std)
        )
    learner = Learner(
        data,
        model,
        metrics=metrics,
        groups=groups,
        split_on=split_on,
        mean=mean if normalize else None,
        std=std if normalize else None,
        network=_recipe(arch, cut, head, data.in_channels, options),
        **learner_options,
    )
    if pretrained:
        learner.freeze()
    return learner


def _recipe(arch, cut, head, in_channels: int, options: dict) -> dict | None:
    """How to build the network again, where JSON can say it."""
    plain = not callable(cut) and "init" not in options
    if not isinstance(arch, Architecture) or head is not None or not plain:
        return None
    return {
        "arch": arch.name,
        "cut": cut,
        "in_channels": in_channels,
        "head": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in options.items()
        },
    }
