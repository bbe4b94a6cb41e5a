"""`vision_learner`: a learner ready to fine-tune from data and an architecture."""

import functools
import inspect
import os
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from flax import nnx

from jaxtune.arguments import Integer, Number, check_choice, check_flag
from jaxtune.data import target_stats
from jaxtune.learner.learner import Learner
from jaxtune.learner.settings import (
    check_data,
    check_known,
    check_options,
    check_statistics,
)
from jaxtune.loop.float32 import in_float32
from jaxtune.pretrained import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RegisteredModel,
    adapt_statistics,
)
from jaxtune.train import (
    Metric,
    enable_compilation_cache,
    has_statistics,
    local_devices,
)
from jaxtune.transfer import (
    Groups,
    check_arch,
    check_cut,
    create_cnn_model,
    create_head,
)

#: Arguments of `vision_learner` itself, suggested for mistyped ones.
_OWN = ("metrics", "pretrained", "weights", "cut", "groups", "split_on", "body", "head",
        "normalize", "mean", "std", "channel_init")  # fmt: skip

#: Arguments that `vision_learner` passes to `Learner`.
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
    "rematerialize",
    "mesh",
    "sharding",
    "sync_batch_norm",
    "ema_decay",
    "mixing",
    "validate_also",
    "seed",
    "verbose",
)


@in_float32
def vision_learner(
    data,
    arch: str | Callable | nnx.Module | None = None,
    *,
    metrics: Metric | str | Iterable[Metric | str] | None = None,
    pretrained: bool = True,
    weights: str | os.PathLike | None = None,
    cut: Integer | str | Callable | None = None,
    groups: Groups | None = None,
    split_on: Callable | None = None,
    body: nnx.Module | None = None,
    head: nnx.Module | None = None,
    normalize: bool = True,
    mean: Number | Sequence[Number] | None = None,
    std: Number | Sequence[Number] | None = None,
    channel_init: str = "zero",
    **options,
) -> Learner:
    """Returns a learner with a pretrained, frozen body and a newly initialised head.

    Args:
        data: `ImageDataLoaders`.
        arch: An architecture (`resnet34`) or its name, a function that returns an NNX
            module, or a module. It includes a classifier, which `cut` removes.
        metrics: One or several functions (logits, label) -> one value per row, or
            metrics of the whole epoch, see `EpochMetric`; names are accepted, too.
        pretrained: Whether the body starts from published weights, or is a module with
            trained weights; if True, the body is frozen.
        weights: Which published weights, see `Architecture`. They need no classifier,
            which is dropped anyway.
        cut: Where the old classifier begins, see `create_body`.
        groups: Layer groups, name to pattern; if None, fastai's three groups for a
            ResNet, else body and head.
        split_on: A fastai splitter that gives the layer groups instead.
        body: Instead of `arch`, an NNX module from images to feature maps, with its
            weights. Nothing is cut.
        head: An NNX module from feature maps to logits; made by `create_head` if None.
        normalize: Whether to normalise images with the mean and standard deviation that
            the weights were trained with. If these are unknown, ImageNet's are used,
            with a warning if the body has trained weights.
        mean: Mean of each channel, for images in 0..1, instead of these; one number
            stands for all channels.
        std: Standard deviation of each channel, likewise.
        channel_init: How weights for three channels are adapted to the data's number of
            channels: "zero" (weights of further channels start at zero, as in fastai)
            or "repeat" (as in timm).
        **options: Of `Learner` (loss, norms, by default "running" for a pretrained
            body whose norms have statistics, optimizer, lr, wd, moms, clip_norm,
            gradient_accumulation_steps, precision, rematerialize, mesh, sharding,
            sync_batch_norm, ema_decay, mixing, validate_also, seed, verbose) and of
            `create_head` (hidden, dropout, concat_pool, first_bn, bn_final, lin_first,
            y_range, target_stats, init).
            For regression without `y_range`, `target_stats` is by default the targets'
            mean and standard deviation, by which the outputs are scaled; None switches
            that off.

    Raises:
        ValueError: If the cut, the groups or the weights don't fit the network, the
            head's outputs don't fit the classes, or an argument is out of range.
        TypeError: If an argument has the wrong type, an option is unknown, `arch` and
            `body` are both given, or an argument would have no effect beside another.
        DeviceError: If JAX has no device, or none of those that `JAX_PLATFORMS` names.

    References:
        fastai 2.8.12, vision/learner.py `vision_learner`.
    """
    local_devices()
    check_data(data)
    head_options = tuple(inspect.signature(create_head).parameters)[2:-1]
    check_known(options, (*_OWN, *_LEARNER_OPTIONS, *head_options), "vision_learner")
    options = check_options(options)
    own = {"metrics": metrics, "groups": groups, "split_on": split_on}
    metrics = check_options(own)["metrics"]
    arch = None if arch is None else check_arch(arch)
    cut = check_cut(cut)
    check_choice(channel_init, "channel_init", ("zero", "repeat"))
    if not check_flag(normalize, "normalize") and not (mean is None and std is None):
        raise ValueError(
            "normalize=False comes with mean and std: leave out the one or the others."
        )
    mean, std = check_statistics(mean, std, data.in_channels)
    if options.get("y_range") is not None and data.kind != "regression":
        raise ValueError(
            "y_range is the range of regression targets, and the data has classes: "
            "leave it out."
        )
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
        rngs=_rngs(data.seed if seed is None else seed),
        **options,
    )
    if normalize and mean is None:
        mean, std = _statistics(
            arch, pretrained, weights, data.in_channels, channel_init
        )
    if pretrained and "norms" not in learner_options and has_statistics(model[0]):
        learner_options["norms"] = "running"
    learner = Learner(
        data,
        model,
        metrics=metrics,
        groups=groups,
        split_on=split_on,
        mean=mean,
        std=std,
        network=_recipe(arch, cut, head, data.in_channels, options),
        **learner_options,
    )
    if pretrained:
        learner.freeze()
    return learner


@functools.partial(nnx.jit, static_argnums=0)
def _rngs(seed: int) -> nnx.Rngs:
    """One program, where the streams by themselves compile three."""
    return nnx.Rngs(seed)


def _statistics(
    arch: Any, pretrained: bool, weights: Any, in_channels: int, channel_init: str
) -> tuple[tuple[float, ...], ...]:
    """Mean and standard deviation of the body's training images, or ImageNet's."""
    mean, std, guessed = IMAGENET_MEAN, IMAGENET_STD, False
    if isinstance(arch, RegisteredModel):
        mean, std, known = arch.statistics(pretrained=pretrained, weights=weights)
        guessed = not known
    elif arch is None or isinstance(arch, nnx.Module):
        guessed = pretrained
    else:
        # A function without these arguments returns random weights: any mean will do.
        taken = inspect.signature(arch).parameters
        guessed = pretrained and bool({"pretrained", "weights"} & set(taken))
    if guessed:
        warnings.warn(
            "nothing says which mean and standard deviation the body's weights were "
            "trained with, so images are normalised with ImageNet's. Give mean= and "
            "std= to vision_learner (mean=IMAGENET_MEAN, std=IMAGENET_STD if these are "
            "right), or normalize=False if it was trained on images in 0..1.",
            stacklevel=4,
        )
    if len(mean) != in_channels:
        mean, std = (
            adapt_statistics(values, in_channels, channel_init=channel_init)
            for values in (mean, std)
        )
    return mean, std


def _recipe(arch, cut, head, in_channels: int, options: dict) -> dict | None:
    """How to build the network again, as JSON; None if JSON can't express it."""
    plain = not callable(cut) and "init" not in options
    if not isinstance(arch, RegisteredModel) or head is not None or not plain:
        return None
    return {
        "arch": arch.name,
        "cut": cut,
        "in_channels": in_channels,
        "head": {name: _plain(value) for name, value in options.items()},
    }


def _plain(value: Any) -> Any:
    """A value for JSON: scalars and arrays as numbers and lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value
