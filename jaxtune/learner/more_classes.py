"""More photos and more classes for a network that is already trained.

Classes are matched by name, never by position.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from flax import nnx

from jaxtune.arguments import check_flag, check_function
from jaxtune.learner.loss_and_metrics import fit_measures, scaled_objective
from jaxtune.learner.settings import (
    check_data,
    check_options,
    check_same_labels,
)
from jaxtune.loop.extra_validation import matching_loaders
from jaxtune.loop.trainer import Trainer
from jaxtune.train import with_class_names
from jaxtune.transfer import class_rows, extend_outputs

#: Keywords of losses that have a value for each class.
_PER_CLASS = ("class_weights", "pos_weight")


class Extension(NamedTuple):
    """What `extended` did.

    Attributes:
        line: Says what was done.
        sources: Extra data to validate on, by name.
    """

    line: str
    sources: dict[str, Any]


def extended(
    trainer: Trainer,
    before: Any,
    data: Any,
    *,
    reorder: bool,
    at: str | Sequence[str] | None,
    init: Callable,
    loss: Callable | None,
    sources: Mapping[str, Any],
    seed: int,
) -> Extension:
    """Extends a trainer's network with rows for the new classes of some data.

    See `Learner.extend`. If an error is raised, nothing has changed.

    Args:
        trainer: Its network is replaced by one with a row for each class.
        before: `ImageDataLoaders` that it was trained on.
        data: `ImageDataLoaders` with all of these classes, and more.
        reorder: Whether the known classes may be in another order.
        at: Path of the layer with the outputs, if it can't be found automatically.
        init: Draws the new rows' weights.
        loss: The new loss; the present one if None.
        sources: Extra data to validate on, by name.
        seed: Of the new rows' weights.

    Raises:
        ValueError: If the data lacks a class, or doesn't fit in another way.
    """
    check_data(data)
    reorder = check_flag(reorder, "reorder")
    check_function(init, "init", "a function (key, shape) -> array")
    if loss is not None:
        loss = check_options({"loss": loss})["loss"]
    check_same_labels(data, kind=before.kind, outputs=before.num_outputs,
               in_channels=before.in_channels)  # fmt: skip
    rows = class_rows(before.classes, data.classes, reorder=reorder)
    same = rows == tuple(range(len(before.classes)))
    if loss is None and not same:
        check_loss(trainer.programs.loss)
    extra_loaders = matching_loaders(sources, data, trainer.programs.metrics)
    network = trainer.module
    if not same:
        network = extend_outputs(
            network,
            before.classes,
            data.classes,
            reorder=reorder,
            size=data.size,
            in_channels=data.in_channels,
            at=at,
            init=init,
            rngs=nnx.Rngs(seed),
        )
    programs = trainer.programs
    loss, metrics = fit_measures(
        programs.loss if loss is None else loss,
        {
            name: with_class_names(metric, before.classes)
            for name, metric in programs.metrics.items()
        },
        data,
        network,
    )
    programs = programs.for_data(
        data,
        loss=loss,
        objective=scaled_objective(loss, network),
        metrics=metrics,
    )
    trainer.take_network(
        network,
        programs=programs,
    )
    trainer.extra_loaders = extra_loaders
    line = f"{classes_in_words(before.classes, data.classes)} · " + (
        f"{freezing_in_words(trainer.frozen_groups)}, as before · the optimizer "
        "starts from scratch"
    )
    return Extension(line, dict(sources))


def check_loss(loss: Callable) -> None:
    """Raises if a loss has weights for each class, as the classes have changed.

    Raises:
        ValueError: If it has; the message says what to write.
    """
    while isinstance(loss, functools.partial):
        for name in _PER_CLASS:
            if loss.keywords.get(name) is not None:
                raise ValueError(
                    f"the loss has {name}, one for each class before the change. Give "
                    "a new one: "
                    "loss=weighted_cross_entropy(class_weights(data.train_items)), "
                    "or loss=cross_entropy."
                )
        loss = loss.func


def classes_in_words(old: Sequence[str], new: Sequence[str]) -> str:
    """Returns how many classes are known, and which are new.

    Example:
        >>> classes_in_words(["ant", "bee"], ["ant", "bat", "bee"])
        '2 classes known, 1 new: bat'
    """
    fresh = [name for name in new if name not in old]
    if not old:
        return "the same numbers to predict"
    known = f"{len(old)} classes known"
    return f"{known}, {len(fresh)} new: {', '.join(fresh)}" if fresh else known


def freezing_in_words(frozen: Sequence[str]) -> str:
    """Returns which layer groups are frozen, in words.

    Example:
        >>> freezing_in_words(["early", "late"])
        'early, late frozen'
    """
    return f"{', '.join(frozen)} frozen" if frozen else "all layer groups train"
