"""Continuing from a run or checkpoint with other data, such as more classes.

Every setting of the run is either taken over or reported as missing; none is silently
replaced.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from flax import nnx

from jaxtune.arguments import check_flag, check_function, check_module, check_path
from jaxtune.checkpoint import find_checkpoint, load_meta, with_kept_thresholds
from jaxtune.data import CutMix, Mixing, MixUp
from jaxtune.learner.learner import Learner
from jaxtune.learner.more_classes import (
    check_loss,
    classes_in_words,
    freezing_in_words,
)
from jaxtune.learner.settings import (
    check_data,
    check_known,
    check_options,
    check_same_labels,
)
from jaxtune.loop.float32 import in_float32
from jaxtune.loop.run_description import function_named
from jaxtune.models import kaiming_normal
from jaxtune.results.predictor import load_network
from jaxtune.train import Metric, with_class_names
from jaxtune.transfer import class_rows, extend_outputs, output_shape

#: Options of `Learner` that `continue_from` accepts.
_OPTIONS = (
    *("groups", "split_on", "norms", "optimizer", "lr", "wd", "moms", "clip_norm"),
    *("gradient_accumulation_steps", "precision", "rematerialize", "ema_decay"),
    *("mesh", "sharding", "sync_batch_norm", "mixing", "validate_also", "seed"),
    "verbose",
)
#: Arguments of `continue_from` itself, suggested for mistyped ones.
_OWN = ("which", "extend", "reorder", "module", "at", "init", "metrics", "loss")

#: Options of `Learner` whose values a checkpoint has in plain form.
_KEPT = (
    "groups",
    "norms",
    "clip_norm",
    "gradient_accumulation_steps",
    "precision",
    "rematerialize",
    "ema_decay",
)


@in_float32
def continue_from(
    path: str | os.PathLike,
    data: Any,
    *,
    which: Literal["latest", "best"] = "latest",
    extend: bool = False,
    reorder: bool = False,
    module: nnx.Module | None = None,
    at: str | Sequence[str] | None = None,
    init: Callable | None = None,
    metrics: Metric | str | Iterable[Metric | str] | None = None,
    loss: Callable | None = None,
    **options,
) -> Learner:
    """Returns a learner that continues from a run or a checkpoint, with other data.

    The network, its weights, classes, normalisation, layer groups and frozen groups are
    the run's. So are loss, metrics, norms, optimizer, clip_norm, mixing,
    gradient_accumulation_steps, precision, rematerialize and ema_decay, unless you give
    others. The history, the optimizer's state and the learning rates start from
    scratch. If the run averaged its weights (`ema_decay`), the averaged ones are used.

    With `extend=True` the data may have more classes. Each known class keeps its row of
    the last layer, bit for bit, by name; new classes get freshly initialised rows.
    Frozen groups stay frozen. To train the new rows first, call `fine_tune` or
    `freeze()`. `validate_also={"old": old_photos}` shows after each epoch how well the
    network still does on the old photos.

    Args:
        path: Folder of a run, or of what `Learner.save` wrote.
        data: `ImageDataLoaders` with all of the run's classes, in their order. If one
            of them has no photos, give `classes=` when making the data.
        which: Which of a run's checkpoints: "latest", or "best" for the lowest
            validation loss.
        extend: Whether the data may have new classes.
        reorder: Whether the known classes may be in another order; their rows are then
            moved by name.
        module: The run's network, body and head; built from the run's description if
            None, which works for jaxtune's own architectures and heads.
        at: Path of the layer with the outputs ("head.fc"), if it can't be found
            automatically; with `extend` or `reorder` only.
        init: Draws the new rows' weights, see `extend_outputs`; `kaiming_normal` if
            None. With `extend` only.
        metrics: New metrics; the run's if None.
        loss: New loss; the run's if None.
        **options: Of `Learner`: groups, split_on, norms, optimizer, lr, wd, moms,
            clip_norm, gradient_accumulation_steps, precision, rematerialize,
            ema_decay, mixing, validate_also, seed, verbose.

    Raises:
        FileNotFoundError: If there is no checkpoint at the path.
        jaxtune.CheckpointMismatchError: If `module` is not the run's network.
        TypeError: If an argument has the wrong type, or an option is unknown.
        ValueError: If an option is out of range or would have no effect; if the classes
            are not the run's, without `extend` or `reorder`; if the data has another
            kind of labels or number of channels; if the network can't be built from the
            description; or if the run's loss or optimizer is not jaxtune's own, or the
            loss has a weight for each class. The message says what to write.

    Example:
        ::

            model = continue_from(
                "runs/flowers", photos, extend=True, validate_also={"old": old_photos}
            )
            model.fine_tune(2, base_lr=5e-4)
    """
    check_path(path, "path")
    check_data(data)
    extend, reorder = check_flag(extend, "extend"), check_flag(reorder, "reorder")
    if module is not None:
        check_module(module, "module")
    _check_rows(at, init, extend=extend, reorder=reorder)
    check_known(options, (*_OWN, *_OPTIONS), "continue_from")
    options = check_options(options)
    if loss is not None:
        loss = check_options({"loss": loss})["loss"]
    checkpoint = find_checkpoint(path, which)
    meta = with_kept_thresholds(load_meta(checkpoint), path)
    classes = tuple(meta["classes"])
    check_same_labels(
        data,
        kind=meta.get("kind", "single"),
        outputs=meta.get("num_outputs", len(classes)),
        in_channels=meta.get("in_channels", 3),
    )
    rows = class_rows(classes, data.classes, extend=extend, reorder=reorder)
    same = rows == tuple(range(len(classes)))
    saved = meta.get("training") or {}
    if loss is None and saved:
        loss = _named(saved["loss"], "loss")
        if not same:
            check_loss(loss)
    if metrics is None:
        named = (_named(name, "metrics") for name in saved.get("metrics", ()))
        metrics = [with_class_names(metric, classes) for metric in named]
    own_groups = {"groups", "split_on"} & set(options)
    for name in _KEPT:
        if name in saved and not (name == "groups" and own_groups):
            options.setdefault(name, saved[name])
    for name, find in (("optimizer", _named), ("mixing", _mixing)):
        if saved.get(name) and name not in options:
            options[name] = find(saved[name], name)
    if module is not None:
        _check_outputs(module, meta)
    module = load_network(checkpoint, meta, module)
    if not same:
        seed = options.get("seed")
        module = extend_outputs(
            module,
            classes,
            data.classes,
            reorder=reorder,
            size=data.size,
            in_channels=data.in_channels,
            at=at,
            init=kaiming_normal if init is None else init,
            rngs=nnx.Rngs(data.seed if seed is None else seed),
        )
    learner = Learner(
        data,
        module,
        metrics=metrics,
        loss=loss,
        mean=meta["mean"],
        std=meta["std"],
        network=meta.get("network"),
        **options,
    )
    thresholds = meta.get("thresholds")
    if thresholds is not None:
        # New classes get 0.5; known ones keep their thresholds by name.
        learner.thresholds = dict(zip(classes, thresholds, strict=True))
    place = meta.get("learner") or {"phase": 0, "frozen": ()}
    if not own_groups:
        learner.freeze_to(len(place["frozen"]))
    if learner.verbose:
        print(_summary_line(path, classes, learner, place, own_groups), flush=True)
    return learner


def _check_rows(at: Any, init: Any, *, extend: bool, reorder: bool) -> None:
    """Raises if options of new rows are given where there are no new rows."""
    given = {"at": (at, extend or reorder), "init": (init, extend)}
    for name, (value, is_used) in given.items():
        if value is not None and not is_used:
            raise ValueError(
                f"{name} is for the rows of new classes, and there are none without "
                f"extend=True: write it, or leave {name} out."
            )
    check_function(init, "init", "a function (key, shape) -> array", or_none=True)


def _check_outputs(module: nnx.Module, meta: Mapping[str, Any]) -> None:
    shape = output_shape(module, in_channels=meta.get("in_channels", 3))
    outputs = meta.get("num_outputs", len(meta["classes"]))
    if shape[-1] != outputs:
        raise ValueError(
            f"module= gives {shape[-1]} outputs, and the run's network had {outputs}. "
            "Build it as it was; extend=True gives it the rows of new classes."
        )


def _named(name: str, what: str) -> Callable:
    function = function_named(name)
    if function is None:
        raise ValueError(
            f"the run's {what} is {name}, which is not one of jaxtune's own, so it "
            f"can't be found by its name. Give it: {what}=."
        )
    return function


def _mixing(text: str, what: str) -> Mixing:
    kind, _, alpha = text.removesuffix(")").partition("(alpha=")
    if kind not in ("MixUp", "CutMix"):
        raise ValueError(
            f"the run's {what} is {text}, which is not one of jaxtune's own, so it "
            f"can't be made again. Give it: {what}=."
        )
    return (MixUp if kind == "MixUp" else CutMix)(float(alpha))


def _summary_line(
    path, classes: tuple, learner: Learner, place: Mapping[str, Any], own_groups
) -> str:
    whose = "the groups are new" if own_groups else f"as in phase {place['phase']}"
    return (
        f"continued from {os.fspath(path)} · "
        f"{classes_in_words(classes, learner.data.classes)} · "
        f"{freezing_in_words(learner.frozen_groups)}, {whose} · the optimizer and the "
        "history start from scratch"
    )
