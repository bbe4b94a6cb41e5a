"""Loads weights, phase and optimizer state from a checkpoint into a trainer."""

import os
from typing import Any

import jax.numpy as jnp
from flax import nnx

from jaxtune.checkpoint import (
    CheckpointMismatchError,
    Place,
    find_checkpoint,
    inspect_checkpoint,
    load_checkpoint,
    with_kept_thresholds,
)
from jaxtune.loop.trainer import Trainer
from jaxtune.train import split_module
from jaxtune.transfer import denormalizing


def load_into(
    trainer: Trainer,
    data: Any,
    path: str | os.PathLike,
    *,
    phase: str,
    with_opt: bool,
    partial: str | tuple[str, ...] | None,
    which: str,
) -> tuple[str, dict[str, Any]]:
    """Loads weights, phase and optimizer state; see `Learner.load`.

    Args:
        trainer: The trainer to load into.
        data: `ImageDataLoaders`, whose classes must be those of the checkpoint.
        path: Folder of a checkpoint or of a run.
        phase: "saved" or "keep".
        with_opt: Whether to load the optimizer's state, too.
        partial: Load only the weights below this name.
        which: "latest" or "best".

    Returns:
        What was done, in a line; and the checkpoint's description, thresholds included.

    Raises:
        FileNotFoundError: If there is no checkpoint.
        jaxtune.CheckpointMismatchError: If it is of another network or classes.
    """
    checkpoint = find_checkpoint(path, which)
    contents = inspect_checkpoint(checkpoint)
    meta = contents.meta if isinstance(contents.meta, dict) else {}
    if partial is None:
        _check_classes(data, checkpoint, meta.get("classes"))
    _, params, model_state = split_module(trainer.module)
    unscaled = denormalizing(trainer.module) if partial is None else None
    if any("denormalize" in name for name in contents.leaves):
        unscaled = None
    if unscaled is not None:
        # Old checkpoints have no statistics of the targets: outputs weren't scaled.
        model_state = _without(model_state, "denormalize")
    values = load_checkpoint(
        checkpoint, params=params, model_state=model_state, partial=partial
    )
    place = meta.get("learner") if partial is None else None
    optimizer = "the optimizer starts from scratch"
    if place and phase == "saved":
        trainer.load_state_dict(place)
    nnx.update(trainer.module, *values)
    if unscaled is not None:
        unscaled.mean.set_value(jnp.zeros_like(unscaled.mean[...]))
        unscaled.std.set_value(jnp.ones_like(unscaled.std[...]))
    kept = place and tuple(place["frozen"]) == trainer.frozen_groups
    if kept and with_opt and "opt_state" in contents.items:
        trainer.restore_optimizer(checkpoint)
        optimizer = "the optimizer continues"
    frozen = ", ".join(trainer.frozen_groups)
    what = f"{frozen} frozen" if frozen else "all layer groups train"
    whose = "as before" if place is None or phase == "keep" else "as saved"
    of = "" if partial is None else f" ({partial} only)"
    line = (
        f"loaded {os.fspath(path)}{of} · phase {trainer.phase}, {what}, {whose} · "
        f"{optimizer}"
    )
    return line, with_kept_thresholds(meta, path)


def _check_classes(data: Any, checkpoint: Place, classes: list[str] | None) -> None:
    if classes is None or list(classes) == list(data.classes):
        return
    same = sorted(classes) == sorted(data.classes)
    what = "the same classes in another order" if same else "other classes"
    raise CheckpointMismatchError(
        f"{checkpoint} was saved with {what}: {', '.join(classes)}; the data has "
        f"{', '.join(data.classes)}. Give the data classes= in that order, "
        "keep each class's row with continue_from(..., extend=True, reorder=True), "
        'or take the body alone with partial="body".'
    )


def _without(state: nnx.State, name: str) -> nnx.State:
    """The state without the entries below a name."""
    flat = nnx.to_flat_state(state)
    return nnx.from_flat_state((path, x) for path, x in flat if name not in path)
