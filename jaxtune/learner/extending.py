"""More photos and more classes for a learner that exists.

Data in; the learner's network, with a row for each of its classes, goes on with it. The
one rule of the file: a class is known by its name, never by its place.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from flax import nnx

from jaxtune.arguments import check_flag, check_function
from jaxtune.learner.loss_and_metrics import fit_measures, scaled_objective
from jaxtune.learner.options import check_data as check_whole_data
from jaxtune.learner.options import check_options
from jaxtune.loop.extra_validation import matching_loaders
from jaxtune.loop.float32 import in_float32
from jaxtune.loop.trainer import Trainer
from jaxtune.models import kaiming_normal
from jaxtune.train import with_class_names
from jaxtune.transfer import class_rows, extend_outputs

#: Keywords of losses that have a value for each class.
_PER_CLASS = ("class_weights", "pos_weight")


class Extending:
    """What of a `Learner` takes more photos and more classes.

    Attributes:
        data: Where batches come from.
        seed: Decides the new classes' first values.
        verbose: Whether to say what was done.
    """

    data: Any
    seed: int
    verbose: bool
    _trainer: Trainer
    _last_run: Any
    _validate_also: Mapping[str, Any]

    @in_float32
    def extend(
        self,
        data: Any,
        *,
        reorder: bool = False,
        at: str | Sequence[str] | None = None,
        init: Callable = kaiming_normal,
        loss: Callable | None = None,
        validate_also: Mapping[str, Any] | None = None,
    ) -> str:
        """Goes on with other data, which may have more classes; says what it did.

        Each known class keeps its row of the last layer, bit for bit, by its name; new
        ones get fresh rows, see `extend_outputs`. What is frozen stays so, though new
        rows know nothing yet: `freeze()` or `fine_tune` trains the head alone first.
        The optimizer begins anew and `diff` looks from here on; the history goes on.
        Nothing is changed if anything is refused.

        Args:
            data: `ImageDataLoaders` with all of the classes there are, and more; a
                class may have no photo to train on (`classes=` where the data is made).
            reorder: Whether the known classes may be in another order.
            at: Path of the layer with the outputs, where it can't be found.
            init: Draws the new rows' weights, see `extend_outputs`.
            loss: Instead of the one there is.
            validate_also: Further photos to validate on, by name; those there were if
                None.

        Returns:
            What it did, in a line, which is shown too.

        Raises:
            ValueError: If the data lacks a class, has them in another order, has labels
                of another kind or images of other channels, or the loss has a weight
                for each class; the message says what to write.
        """
        check_whole_data(data)
        reorder = check_flag(reorder, "reorder")
        check_function(init, "init", "a function (key, shape) -> array")
        if loss is not None:
            loss = check_options({"loss": loss})["loss"]
        trainer, before = self._trainer, self.data
        check_data(data, kind=before.kind, outputs=before.num_outputs,
                   in_channels=before.in_channels)  # fmt: skip
        rows = class_rows(before.classes, data.classes, reorder=reorder)
        same = rows == tuple(range(len(before.classes)))
        if loss is None and not same:
            check_loss(trainer.programs.loss)
        sources = self._validate_also if validate_also is None else validate_also
        further = matching_loaders(sources, data, trainer.programs.metrics)
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
                rngs=nnx.Rngs(self.seed),
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
            batch_sizes=(data.train_loader.batch_size, data.valid_loader.batch_size),
        )
        trainer.further = further
        self._data, self._validate_also, self._last_run = data, dict(sources), None
        line = f"{said_of_classes(before.classes, data.classes)} · " + (
            f"{said_of_freezing(trainer.frozen_groups)}, as it was · the optimizer "
            "begins anew"
        )
        if self.verbose:
            print(line, flush=True)
        return line


def check_data(data: Any, *, kind: str, outputs: int, in_channels: int) -> None:
    """Refuses data that a network can't go on with, classes aside.

    Args:
        data: `ImageDataLoaders`.
        kind: Of the labels that the network was trained with.
        outputs: How many numbers it gives.
        in_channels: Channels of its images.

    Raises:
        ValueError: If the labels are of another kind, the numbers to be predicted
            others, or the images have other channels.
    """
    if data.kind != kind:
        raise ValueError(
            f"the network was trained on {kind} labels, and the data has {data.kind} "
            f"ones. Make the data with kind={kind!r}, or begin a new network."
        )
    if kind == "regression" and data.num_outputs != outputs:
        raise ValueError(
            f"the network predicts {outputs} numbers a photo, and the data has "
            f"{data.num_outputs}. Numbers have no names by which they could be told "
            "apart, so there is no extending: begin a new network, and take the body's "
            'values with load(..., partial="body").'
        )
    if data.in_channels != in_channels:
        raise ValueError(
            f"the network takes images of {in_channels} channels, and the data's have "
            f"{data.in_channels}. Make the data with in_channels={in_channels}."
        )


def check_loss(loss: Callable) -> None:
    """Refuses a loss that has a weight for each class, for classes that are others.

    Raises:
        ValueError: If it has; the message says what to write.
    """
    while isinstance(loss, functools.partial):
        for name in _PER_CLASS:
            if loss.keywords.get(name) is not None:
                raise ValueError(
                    f"the loss has {name}, one for each class as they were. Give a new "
                    "one: loss=weighted_cross_entropy(class_weights(data.train_items)),"
                    " or loss=cross_entropy."
                )
        loss = loss.func


def said_of_classes(old: Sequence[str], new: Sequence[str]) -> str:
    """Returns how many classes are known, and which are new.

    Example:
        >>> said_of_classes(["ant", "bee"], ["ant", "bat", "bee"])
        '2 classes known, 1 new: bat'
    """
    fresh = [name for name in new if name not in old]
    if not old:
        return "the same numbers to predict"
    known = f"{len(old)} classes known"
    return f"{known}, {len(fresh)} new: {', '.join(fresh)}" if fresh else known


def said_of_freezing(frozen: Sequence[str]) -> str:
    """Returns what trains, in words.

    Example:
        >>> said_of_freezing(["early", "late"])
        'early, late frozen'
    """
    return f"{', '.join(frozen)} frozen" if frozen else "all layer groups train"
