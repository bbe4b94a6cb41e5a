"""Checks of a learner's options.

Each option is checked by itself, before a network is built or a file is read.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from flax import nnx

from jaxtune.arguments import (
    check_flag,
    check_function,
    check_instance,
    check_integer,
    check_number,
    check_numbers,
    described,
    like,
)
from jaxtune.data import check_mixing
from jaxtune.loop.extra_validation import matching_loaders
from jaxtune.loop.sharding import check_mesh, check_sharding
from jaxtune.train import (
    all_devices,
    check_accumulation,
    check_clip_norm,
    check_decay,
    check_loss,
    check_metrics,
    check_momentums,
    check_norms,
    check_optimizer,
    choose_precision,
    resolve_rates,
)
from jaxtune.transfer import check_groups, check_runs

#: Arguments of `fine_tune` that decide its phases, beside epochs and learning rate.
FINE_TUNING = (
    *("freeze_epochs", "lr_mult", "pct_start", "div", "div_final", "unfreeze_to"),
    *("wd", "moms", "cache_features", "recipe", "lr_scale"),
)

# What `jax.random.key` takes without float64 and its kin.
_LARGEST_SEED = 2**32 - 1


def check_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns checked options of `Learner`: Python numbers, functions for names.

    Args:
        options: Some of the options of `Learner`. `mean` and `std` are checked later,
            when the data is known, as is whether `lr` has one rate per layer group.

    Raises:
        TypeError: If an option has the wrong type.
        ValueError: If an option is out of range, or two that exclude each other are
            given.
    """
    if options.get("groups") is not None and options.get("split_on") is not None:
        raise ValueError("give groups or split_on, not both.")
    checked = dict(options)
    for name, check in _CHECKS.items():
        if name in checked:
            checked[name] = check(checked[name])
    return checked


def check_known(options: Mapping[str, Any], known: tuple[str, ...], call: str) -> None:
    """Raises a TypeError that names the unknown options of a call.

    Args:
        options: The options that were given.
        known: Names of the options that exist.
        call: Name of the function that was called.
    """
    unknown = sorted(set(options) - set(known))
    if unknown:
        near = like(unknown[0], known)
        raise TypeError(f"{call} has no option {', '.join(unknown)}. {near}")


def check_data(data: Any) -> Any:
    """Returns the data if it has the attributes of `ImageDataLoaders`.

    Raises:
        TypeError: If it hasn't.
    """
    needed = ("train_loader", "valid_loader", "kind", "size", "in_channels")
    if isinstance(data, type) or not all(hasattr(data, name) for name in needed):
        raise TypeError(
            "data must be ImageDataLoaders, such as ImageDataLoaders.from_folder"
            f'("photos") makes; received {described(data)}.'
        )
    return data


def check_same_labels(data: Any, *, kind: str, outputs: int, in_channels: int) -> None:
    """Raises if data has other labels or channels than a network was trained on.

    Args:
        data: `ImageDataLoaders`.
        kind: Kind of the labels that the network was trained on.
        outputs: Number of the network's outputs.
        in_channels: Channels of the network's images.

    Raises:
        ValueError: If the data has another kind of labels, another number of regression
            targets or another number of channels.
    """
    if data.kind != kind:
        raise ValueError(
            f"the network was trained on {kind} labels, and the data has {data.kind} "
            f"ones. Make the data with kind={kind!r}, or make a new network."
        )
    if kind == "regression" and data.num_outputs != outputs:
        raise ValueError(
            f"the network predicts {outputs} numbers a photo, and the data has "
            f"{data.num_outputs}. Numbers have no names by which they could be "
            "matched, so they can't be extended: make a new network, and load the "
            'body\'s weights with load(..., partial="body").'
        )
    if data.in_channels != in_channels:
        raise ValueError(
            f"the network takes images of {in_channels} channels, and the data's have "
            f"{data.in_channels}. Make the data with in_channels={in_channels}."
        )


def check_replacement(data: Any, before: Any, network: nnx.Module) -> None:
    """Raises if data can't replace a learner's.

    Args:
        data: The new data.
        before: The learner's `ImageDataLoaders`.
        network: The learner's network.

    Raises:
        TypeError: If it is not `ImageDataLoaders`.
        ValueError: If it has other labels, classes or channels, or photos of a size
            that the network can't take.
    """
    check_data(data)
    check_same_labels(
        data,
        kind=before.kind,
        outputs=before.num_outputs,
        in_channels=before.in_channels,
    )
    if tuple(data.classes) != tuple(before.classes):
        raise ValueError(
            f"the network knows the classes {', '.join(before.classes)}, and the "
            f"data has {', '.join(data.classes)}. For more classes, or another "
            "order, call learner.extend(data); for others make a new learner, and "
            'load the body\'s weights with load(path, partial="body").'
        )
    check_runs(network, size=data.size, in_channels=data.in_channels)


def replaced_loaders(sources: Any, data: Any, metrics: Any) -> dict[str, Any]:
    """Returns the loaders of `validate_also`, matched to the learner's new data.

    Raises:
        ValueError: If they don't fit it; the message says how to replace both.
    """
    try:
        return matching_loaders(sources, data, metrics)
    except ValueError as error:
        raise ValueError(
            f"{error} To change both, write learner.validate_also = {{}} first."
        ) from None


def check_alone(phases: Any, **options: Any) -> None:
    """Raises a ValueError if options of `fine_tune` are given together with phases."""
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ValueError(
            f"phases comes with {' and '.join(given)}, from which fine_tune makes its "
            f"phases: leave out either {' and '.join(given)} or phases."
        )


def check_statistics(
    mean: Any, std: Any, in_channels: int
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
    """Returns each channel's mean and standard deviation, or (None, None).

    Args:
        mean: Of images in 0..1: one number for all channels, or one for each.
        std: Standard deviation, likewise.
        in_channels: Channels of the images.

    Raises:
        TypeError: If they are not numbers.
        ValueError: If only one of them is given, there is not one for each channel, or
            one is out of range for images in 0..1.
    """
    if (mean is None) != (std is None):
        raise ValueError("give both mean and std, or neither.")
    if mean is None:
        return None, None
    return (
        _of_channels(mean, "mean", in_channels, least=-1),
        _of_channels(std, "std", in_channels, above=0),
    )


def _of_channels(values: Any, name: str, in_channels: int, **limits) -> tuple:
    several = "number" if in_channels == 1 else "numbers"
    what = f"{several}, one for each channel"
    if np.ndim(values) == 0 and not isinstance(values, str | Mapping | None):
        values = [check_number(values, name, **limits)] * in_channels
    numbers = check_numbers(values, name, count=in_channels, what=what, **limits)
    if max(numbers) > 1:
        raise ValueError(
            f"{name} is of images in 0..1; received {described(values)}. Divide it by "
            "255 if it is of images in 0..255."
        )
    return numbers


def _lr(rates: Any) -> Any:
    listed = isinstance(rates, list | tuple) or getattr(rates, "ndim", 0) == 1
    resolve_rates(rates, max(len(rates), 1) if listed else 1, name="lr")
    return rates


def _seed(seed: Any) -> int | None:
    return (
        None
        if seed is None
        else check_integer(seed, "seed", least=0, most=_LARGEST_SEED)
    )


def _verbose(verbose: Any) -> bool:
    # Keras uses 0 and 1.
    is_number = type(verbose) is int and verbose in (0, 1)
    return check_flag(bool(verbose) if is_number else verbose, "verbose")


def _validate_also(sources: Any) -> Any:
    wanted = 'a dict from names to data, such as {"old": old_data}, or None'
    kinds = (Mapping, type(None))
    return check_instance(sources, "validate_also", kinds, wanted)


def _mixing(mixing: Any) -> Any:
    check_mixing(mixing)
    return mixing


_CHECKS = {
    "metrics": check_metrics,
    "loss": lambda value: None if value is None else check_loss(value),
    "groups": lambda value: None if value is None else check_groups(value),
    "split_on": lambda value: check_function(
        value, "split_on", "a function of the network", or_none=True
    ),
    "lr": _lr,
    "norms": check_norms,
    "optimizer": check_optimizer,
    "wd": lambda value: check_number(value, "wd", least=0),
    "moms": lambda value: check_momentums(value, "moms"),
    "clip_norm": check_clip_norm,
    "gradient_accumulation_steps": check_accumulation,
    "precision": lambda value: choose_precision(value, all_devices()),
    "rematerialize": lambda value: check_flag(value, "rematerialize"),
    "mesh": check_mesh,
    "sharding": check_sharding,
    "sync_batch_norm": lambda value: check_flag(value, "sync_batch_norm"),
    "ema_decay": check_decay,
    "mixing": _mixing,
    "validate_also": _validate_also,
    "seed": _seed,
    "verbose": _verbose,
}
