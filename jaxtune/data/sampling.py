"""Sampling: classes with few photos are drawn more often, or count for more.

The order of an epoch is a pure function of (weights, seed, epoch).
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32, Int64

from jaxtune.arguments import check_instance
from jaxtune.data.by_class import as_mapping, class_values
from jaxtune.data.items import Items

Weights = Literal["balanced"] | Mapping[Hashable, float | int] | Sequence | np.ndarray


def class_weights(items: Any) -> Float32[np.ndarray, " classes"]:
    """Returns a weight for each class, the inverse of how often it occurs, for a loss.

    `labels / (classes that occur * labels of the class)`: the mean over the photos is
    1, so a loss keeps its size. A class without photos has weight 1. For multi-label
    each label of a photo counts.

    Args:
        items: Of the training split; of `ImageDataLoaders` those that train.

    Raises:
        TypeError: If it is neither.
        ValueError: If the labels are no classes.

    References:
        scikit-learn, `compute_class_weight("balanced")`.

    Example:
        >>> from pathlib import Path
        >>> from jaxtune.data import label_items
        >>> paths = [Path(f"{n}.jpg") for n in range(4)]
        >>> items = label_items(paths, ["a", "a", "a", "b"])
        >>> [f"{weight:.3f}" for weight in class_weights(items)]
        ['0.667', '2.000']
    """
    items = _items_of(items)
    _refuse_numbers(items, "class weights")
    counts = np.array(list(items.counts().values()), np.float64)
    occurs = counts > 0
    weights = np.ones(len(counts))
    weights[occurs] = counts.sum() / (occurs.sum() * counts[occurs])
    return weights.astype(np.float32)


def item_weights(items: Any, weights: Weights) -> Float[np.ndarray, " n"]:
    """Returns a weight for each photo, float64, relative to which training draws it.

    Args:
        items: Of the training split.
        weights: "balanced" draws each class as often as the others; a dict has a weight
            for each class by name or number, 1 where it has none (a pandas Series whose
            index names classes, too); else a number for each photo. A photo with
            several labels has the largest weight of these; without any, 1.

    Raises:
        ValueError: If the weights name classes that there are not, are not as many as
            the photos, are negative or not finite, or leave nothing to draw.
    """
    items = _items_of(items)
    if isinstance(weights, str) and weights != "balanced":
        raise ValueError(
            "weights is 'balanced', a dict from class to weight, or a number for each"
            f" photo; got {weights!r}."
        )
    if isinstance(weights, str):
        numbers = _of_classes(items, class_weights(items).astype(np.float64))
    elif _is_by_class(weights, items):
        _refuse_numbers(items, "weights by class")
        by_class = class_values(weights, items.classes, "weights", default=1.0)
        numbers = _of_classes(items, np.array(by_class, np.float64))
    else:
        numbers = np.asarray(weights, np.float64)
        if numbers.shape != (len(items),):
            hint = ""
            if numbers.shape == (len(items.classes),):
                hint = " For one number a class, give a dict from class to number."
            raise ValueError(
                f"weights needs one number for each of {len(items)} photos; got shape"
                f" {numbers.shape}.{hint}"
            )
    _check(numbers)
    return numbers


def weighted_order(
    weights: Float[np.ndarray, " n"], *, seed: int, epoch: int
) -> Int64[np.ndarray, " n"]:
    """Returns n positions, drawn with replacement in proportion to their weights.

    Args:
        weights: Of each photo, 0 or more.
        seed: Of all epochs.
        epoch: Each has its own order.

    References:
        fastai 2.8.12, callback/data.py `WeightedDL.get_idxs`.
    """
    bounds = np.cumsum(weights, dtype=np.float64)
    # NumPy promises that RandomState's numbers never change.
    numbers = np.random.RandomState([seed, epoch]).random_sample(len(weights))
    places = np.searchsorted(bounds, numbers * bounds[-1], side="right")
    # Rounding may reach the last bound, behind which photos of weight 0 may stand.
    return np.minimum(places, np.flatnonzero(weights)[-1]).astype(np.int64)


def earlier_copies(order: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """Returns how often each position stood in the order before.

    Example:
        >>> earlier_copies(np.array([5, 2, 5, 5, 2])).tolist()
        [0, 0, 1, 2, 1]
    """
    by_position = np.argsort(order, kind="stable")
    ordered = order[by_position]
    first = np.searchsorted(ordered, ordered, side="left")
    copies = np.empty(len(order), np.int64)
    copies[by_position] = np.arange(len(order)) - first
    return copies


def _is_by_class(weights: object, items: Items) -> bool:
    """Whether weights are of classes: a dict, or a Series that is not of the photos."""
    if isinstance(weights, Mapping):
        return True
    keys = as_mapping(weights)
    names = keys is not None and {str(key) for key in keys} <= set(items.classes)
    return names and len(keys) != len(items)


def _of_classes(items: Items, by_class: np.ndarray) -> np.ndarray:
    _check(by_class)
    if items.kind == "single":
        return by_class[items.labels]
    largest = np.ones(len(items))
    has = items.labels.any(axis=1)
    largest[has] = np.where(items.labels[has] > 0, by_class, -np.inf).max(axis=1)
    return largest


def _check(numbers: np.ndarray) -> None:
    if not np.isfinite(numbers).all() or (numbers < 0).any() or not numbers.any():
        raise ValueError(
            "weights must be finite, 0 or more, and not all 0; got"
            f" {numbers.min() if numbers.size else 'none'} to"
            f" {numbers.max() if numbers.size else 'none'}."
        )


def _items_of(items: Any) -> Items:
    items = getattr(items, "train_items", items)
    return check_instance(
        items, "items", Items, "Items such as data.train_items, or ImageDataLoaders"
    )


def _refuse_numbers(items: Items, what: str) -> None:
    if items.kind == "regression":
        raise ValueError(
            f"{what} need classes, and these labels are numbers to be predicted. Give"
            " weights= a number for each photo."
        )
