"""The learner's saving and loading, phase and optimizer inside.

The one rule of the file: what loading did is said, and nothing is loaded by halves.
"""

import copy
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jaxtune.arguments import check_choice, check_flag, check_path
from jaxtune.checkpoint import (
    CheckpointMismatchError,
    find_checkpoint,
    inspect_checkpoint,
    load_checkpoint,
    save_checkpoint,
    with_kept_thresholds,
    write_thresholds,
)
from jaxtune.loop.trainer import Trainer
from jaxtune.results.predictor import Predictor
from jaxtune.results.thresholds import Thresholded, check_several
from jaxtune.train import split_module
from jaxtune.transfer import denormalizing


class Storage(Thresholded):
    """What of a `Learner` saves and loads."""

    data: Any
    verbose: bool
    _trainer: Trainer

    def save(
        self,
        path: str | os.PathLike,
        *,
        with_opt: bool = True,
        overwrite: bool = False,
    ) -> Path:
        """Writes the network, its phase and its optimizer, wholly or not at all.

        `load` takes it up, `load_predictor(path)` gives it back for predictions; plain
        Orbax opens it too: `ocp.load(path)` returns parameters and statistics.

        Args:
            path: Folder to make.
            with_opt: Whether the optimizer's state is kept, if there is one.
            overwrite: Whether to replace a checkpoint that is at the path already; at
                every moment the whole old one or the whole new one is there.

        Raises:
            FileExistsError: If there is something at the path already; with
                `overwrite`, if that is not a checkpoint.
        """
        return self._save(path, with_opt=with_opt, overwrite=overwrite)

    def _save(
        self,
        path: str | os.PathLike,
        *,
        with_opt: bool = True,
        overwrite: bool = False,
        note: Mapping[str, Any] = MappingProxyType({}),
    ) -> Path:
        """As `save`; what is in the note stands in the description, too."""
        check_path(path, "path")
        with_opt = check_flag(with_opt, "with_opt")
        trainer = self._trainer
        _, params, model_state = split_module(trainer.module)
        place = trainer.place_in_training()
        return save_checkpoint(
            path,
            params=params,
            model_state=model_state,
            opt_state=trainer.opt_state if with_opt else None,
            meta={**self._meta(), "learner": place, **note},
            overwrite=overwrite,
        )

    def load(
        self,
        path: str | os.PathLike,
        *,
        phase: str = "saved",
        with_opt: bool = True,
        partial: str | tuple[str, ...] | None = None,
        which: Literal["latest", "best"] = "latest",
    ) -> str:
        """Takes values, phase and optimizer from a checkpoint; says what it did.

        Loading freezes and unfreezes what was frozen or not when it was saved, unless
        `phase="keep"`. Checkpoints of plain Flax code give values only.

        Args:
            path: The folder of a checkpoint or of a run, ours or others'.
            phase: "saved": what was frozen then is frozen now. "keep": what is frozen
                now stays so.
            with_opt: Whether the optimizer goes on with its state, where the checkpoint
                has one and the same layer groups train.
            partial: Take only what lies below it ("body"); see `load_checkpoint`.
            which: Of a run's checkpoints, the latest or the best.

        Returns:
            What it did, in a line, which is shown too.

        Raises:
            FileNotFoundError: If there is no checkpoint.
            jaxtune.CheckpointMismatchError: If it is of another network, or of other
                classes, or of these in another order.
            TypeError: If an argument is of another type.
            ValueError: If `phase` or `which` is unknown, or `which` chooses among the
                checkpoints of what is no run.
        """
        check_path(path, "path")
        check_choice(phase, "phase", ("saved", "keep"))
        with_opt = check_flag(with_opt, "with_opt")
        checkpoint = find_checkpoint(path, which)
        contents = inspect_checkpoint(checkpoint)
        meta = contents.meta if isinstance(contents.meta, dict) else {}
        if partial is None:
            self._check_classes(checkpoint, meta.get("classes"))
        trainer = self._trainer
        _, params, model_state = split_module(trainer.module)
        unscaled = denormalizing(trainer.module) if partial is None else None
        if any("denormalize" in name for name in contents.leaves):
            unscaled = None
        if unscaled is not None:
            # From before outputs were scaled by the targets: it has none of that.
            model_state = _without(model_state, "denormalize")
        values = load_checkpoint(
            checkpoint, params=params, model_state=model_state, partial=partial
        )
        place = meta.get("learner") if partial is None else None
        optimizer = "the optimizer begins anew"
        if place and phase == "saved":
            trainer.take_place(place)
        nnx.update(trainer.module, *values)
        meta = with_kept_thresholds(meta, path)
        if partial is None and self.data.kind == "multi" and "thresholds" in meta:
            self.thresholds = meta["thresholds"]
        if unscaled is not None:
            unscaled.mean.set_value(jnp.zeros_like(unscaled.mean[...]))
            unscaled.std.set_value(jnp.ones_like(unscaled.std[...]))
        kept = place and tuple(place["frozen"]) == trainer.frozen_groups
        if kept and with_opt and "opt_state" in contents.items:
            trainer.restore_optimizer(checkpoint)
            optimizer = "the optimizer goes on"
        frozen = ", ".join(trainer.frozen_groups)
        what = f"{frozen} frozen" if frozen else "all layer groups train"
        whose = "as it was" if place is None or phase == "keep" else "as saved"
        of = "" if partial is None else f" ({partial} only)"
        line = (
            f"loaded {os.fspath(path)}{of} · phase {trainer.phase}, {what}, {whose} · "
            f"{optimizer}"
        )
        if self.verbose:
            print(line, flush=True)
        return line

    def save_thresholds(self, run: str | os.PathLike) -> None:
        """Keeps the thresholds in a run that is there already, for its predictions.

        A run keeps those that the learner had when it began; these were chosen later,
        with what was trained. They hold for all of its checkpoints.

        Args:
            run: The run's folder.

        Raises:
            FileNotFoundError: If there is no run.
            ValueError: If photos don't have several labels each.
        """
        check_path(run, "run")
        check_several(self.data.kind)
        chosen = zip(self.data.classes, self.thresholds.tolist(), strict=True)
        write_thresholds(run, dict(chosen))

    def to_predictor(self) -> Predictor:
        """Returns a predictor with the values as they are now.

        It needs no data, and can be pickled to another process; the learner's further
        training doesn't change it.
        """
        trainer = self._trainer
        graphdef, *values = split_module(trainer.module)
        module = nnx.merge(graphdef, *jax.tree.map(jnp.copy, values))
        # As a checkpoint gives it back: lists for tuples.
        meta = json.loads(json.dumps(self._meta()))
        return Predictor(module, meta, batch_size=self.data.batch_size)

    def __reduce_ex__(self, protocol):
        """Refuses to be pickled."""
        raise TypeError(
            "a Learner can't be pickled: it holds data, threads and compiled programs. "
            "To predict in another process, pickle learner.to_predictor(). To keep it, "
            "or go on with it elsewhere, learner.save(path), and there "
            "load_predictor(path), continue_from(path, data), or load(path) of a "
            "learner made in the same way."
        )

    def __copy__(self):
        """Returns a learner that shares everything with this one."""
        return self._copied(dict(vars(self)))

    def __deepcopy__(self, memo):
        """Returns a learner that shares no value with this one."""
        twin = self._copied({})
        memo[id(self)] = twin
        vars(twin).update(copy.deepcopy(vars(self), memo))
        return twin

    def _copied(self, attributes: dict):
        twin = object.__new__(type(self))
        vars(twin).update(attributes)
        return twin

    def restore_values(self, path: str | os.PathLike) -> None:
        """Takes parameters and statistics from a checkpoint; nothing else changes.

        Args:
            path: The folder of a checkpoint, or of a run, whose latest is taken.

        Raises:
            jaxtune.CheckpointMismatchError: If it is of another network; both sides are
                listed.
        """
        _, params, model_state = split_module(self._trainer.module)
        values = load_checkpoint(
            find_checkpoint(path), params=params, model_state=model_state
        )
        nnx.update(self._trainer.module, *values)

    def _check_classes(self, checkpoint: Path, classes: list[str] | None) -> None:
        if classes is None or list(classes) == list(self.data.classes):
            return
        same = sorted(classes) == sorted(self.data.classes)
        what = "the same classes in another order" if same else "other classes"
        raise CheckpointMismatchError(
            f"{checkpoint} was saved with {what}: {', '.join(classes)}; the data has "
            f"{', '.join(self.data.classes)}. Give the data classes= in that order, "
            "keep each class's row with continue_from(..., extend=True, reorder=True), "
            'or take the body alone with partial="body".'
        )


def _without(state: nnx.State, name: str) -> nnx.State:
    """A state without what lies below a name."""
    flat = nnx.to_flat_state(state)
    return nnx.from_flat_state((path, x) for path, x in flat if name not in path)
