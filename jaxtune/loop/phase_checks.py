"""What is asked of phases before they train: enough rows, updates and memory."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxtune.data import Loader
from jaxtune.loop.batch_norm_rows import check_enough_rows
from jaxtune.loop.sharding import filled_up
from jaxtune.loop.trainer import Trainer
from jaxtune.train import Phase, apply_body, check_fixed_body, split_module

#: Most bytes of stored features that a recipe asks for, and features that are too few
#: to come near it.
_MOST_FEATURE_BYTES, _FEW_FEATURES = 4 * 2**30, 10_000


def check_phases(trainer: Trainer, data: Any, phases: Sequence[Phase]) -> None:
    """Raises if a phase would make no update, or can't train in the way it says.

    Args:
        trainer: What trains.
        data: Has `train_loader`, `size` and `in_channels`.
        phases: Their boundaries say what will be frozen.

    Raises:
        ValueError: If a phase has fewer batches than one update takes, asks for stored
            features that would change from batch to batch, or as `check_rows`.
    """
    check_rows(trainer, data, phases)
    _check_features(trainer, phases)
    steps = trainer.gradient_accumulation_steps
    for phase in phases:
        batches = phase.epochs * len(data.train_loader)
        if batches < steps:
            raise ValueError(
                f"gradient_accumulation_steps={steps} is more than the {batches} "
                "batches of a phase, so there would be no update. Give a smaller "
                "number, smaller batches or more epochs."
            )


def check_rows(trainer: Trainer, data: Any, phases: Sequence[Phase]) -> None:
    """Raises if batch norms that train get too few rows, or uneven parts of them.

    Args:
        trainer: What trains.
        data: Has `train_loader`, `size` and `in_channels`.
        phases: Their boundaries say what will be frozen.

    Raises:
        ValueError: If a layer would see one value for each channel, or the devices
            don't divide the batch and each is to have its own statistics.
    """
    rows, parts = data.train_loader.batch_size, trainer.batch_parts
    if rows % parts:
        raise ValueError(
            "sync_batch_norm=False takes statistics of each device's rows, and "
            f"{parts} devices don't divide a batch of {rows}. Make the data with "
            f"batch_size={filled_up(rows, parts)}, or leave the option out."
        )
    if rows // parts > 1:
        return
    for _, _, view in trainer.training_views(phases):
        check_enough_rows(view, rows, size=data.size, in_channels=data.in_channels)


def stores_features(trainer: Trainer, loader: Any, draws: int) -> bool:
    """Returns whether the features of a body that is frozen can be stored.

    Args:
        trainer: What trains; all its groups but the last are the body.
        loader: Of training photos.
        draws: Of each photo's augmentation, for which there are features.
    """
    groups = len(trainer.groups)
    if groups < 2 or not isinstance(loader, Loader):
        return False
    head_only = dataclasses.replace(
        trainer.any_phase(), boundary=groups - 1, cache_features=1
    )
    try:
        _check_features(trainer, [head_only])
    except ValueError:
        return False
    photos = loader.num_items * draws
    if photos < _FEW_FEATURES:
        return True
    return photos * _bytes_of_features(trainer, loader) <= _MOST_FEATURE_BYTES


def _check_features(trainer: Trainer, phases: Sequence[Phase]) -> None:
    mixing = trainer.programs.mixing
    for phase, frozen, view in trainer.training_views(phases):
        if not phase.cache_features:
            continue
        check_fixed_body(trainer.network, view, trainer.labels(frozen))
        if mixing is not None:
            raise ValueError(
                "cache_features keeps what the body makes of single photos, and "
                f"{type(mixing).__name__} mixes them before it. Leave one of them out."
            )


def _bytes_of_features(trainer: Trainer, loader: Loader) -> int:
    """Most bytes that one photo's features take in the host's memory."""
    graphdef, values = trainer.eval_graphdef(), split_module(trainer.network)[1:]
    image = jax.ShapeDtypeStruct((1, *loader.image_shape), np.float32)
    body = functools.partial(apply_body, graphdef)
    features = jax.eval_shape(body, *values, image)[0]
    return features.size * features.dtype.itemsize
