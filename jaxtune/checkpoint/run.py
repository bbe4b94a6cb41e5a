"""A run's folder: its recipe, its checkpoints, and which of them are kept.

Whenever the process dies, the folder has complete checkpoints only, and an older one is
removed only once a newer one is complete. It may be in Google Cloud Storage, where
nothing locks it.

    runs/pets/
      run.json           the recipe, and the versions and devices it was begun with
      checkpoints/128/   Orbax, see FORMAT.md; numbered by progress
      thresholds.json    of each class, if they were chosen after the run

Orbax's `training.Checkpointer` could keep the latest and the best, too. It isn't used,
as it blocks training for longer (ResNet-18, two CPU cores, medians of 7 saves: 205 ms
instead of 15 with the body frozen, 389 ms instead of 47 with all layers training), must
be given the checksums before it returns, and adds an item `metrics` to each checkpoint.
"""

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from flax import nnx

from jaxtune.arguments import check_choice
from jaxtune.checkpoint.atomic import write_json
from jaxtune.checkpoint.loading import load_meta
from jaxtune.checkpoint.places import (
    Place,
    in_storage,
    is_complete,
    make_incomplete,
    place_of,
)
from jaxtune.checkpoint.saving import Saving, save_checkpoint_async
from jaxtune.checkpoint.storage import CheckpointDamagedError
from jaxtune.train import all_devices

_RECIPE = "run.json"
_CHECKPOINTS = "checkpoints"
_THRESHOLDS = "thresholds.json"
_REMOVED = ".removed-"
#: Orbax writes into such a folder, and renames it when it is complete.
_UNFINISHED = ".orbax-checkpoint-tmp"
#: Differences between two recipes that an error lists; the others are counted.
_MOST_LINES = 20


class RunMismatchError(ValueError):
    """A run's folder holds a run of another recipe; the differences are listed."""


def environment() -> dict[str, Any]:
    """Returns versions and devices, on which the last bits of a run depend."""
    devices = all_devices()
    return {
        "jax": jax.__version__,
        "device": devices[0].device_kind,
        "devices": len(devices),
    }


class RunFolder:
    """The folder of one training run; only one process at a time leads it.

    Attributes:
        path: The folder.
        begun_with: The versions and devices the run was begun with, as JSON.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        recipe: Mapping[str, Any],
        *,
        made_with: Mapping[str, Any],
        save_every: float = 60.0,
        upgrade: Callable[[dict], dict] = lambda recipe: recipe,
        leads: bool = True,
    ):
        """Opens or creates the folder; a run of another recipe is refused.

        Args:
            path: The folder; absent, empty, or of an earlier start of the same run.
            recipe: Everything that decides the run's numbers, as plain JSON. Its
                `start`, a fingerprint of the run's initial values, is compared only
                where versions and devices are those it was begun with.
            made_with: Versions and devices; recorded when the run begins.
            save_every: Seconds between the starts of two checkpoints, for `is_due`.
            upgrade: Converts a recipe that an older version wrote to the form of
                `recipe`.
            leads: Whether this process makes the folder, locks it and removes old
                checkpoints. Of several that train one network one does; the others
                open the folder after it, and save with it.

        Raises:
            RunMismatchError: If it holds a run of another recipe.
            FileExistsError: If it holds something other than a run.
            BlockingIOError: If another process trains in it.
            ValueError: If `save_every` is negative.
        """
        if not save_every >= 0:
            raise ValueError(f"save_every is seconds, 0 or more; got {save_every!r}.")
        self.path = place_of(path, "run")
        self._save_every = save_every
        self._pending: tuple[Place, Saving] | None = None
        self._last = time.monotonic()
        # As JSON gives them back: lists for tuples, and text for keys.
        recipe, made_with = json.loads(json.dumps([recipe, made_with]))
        check_run_folder(self.path)
        self._upgrade = upgrade
        self._folder = self.path / _CHECKPOINTS
        self._leads = leads
        self._lock = _lock(self.path) if leads else None
        try:
            self.begun_with: dict = self._begin(recipe, made_with)
            if leads:
                _remove_leftovers(self._folder)
            # Progress and validation loss of each complete checkpoint.
            self._kept = {number: self._loss_of(number) for number in self}
        except BaseException:
            self._unlock()
            raise

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()

    def _begin(self, recipe: dict, made_with: dict) -> dict:
        held = _read(self.path)
        if held is None:
            held = {"recipe": recipe, "made_with": made_with}
            if self._leads:
                write_json(self.path / _RECIPE, held)
        same_form = {**held, "recipe": self._upgrade(held["recipe"])}
        check_recipe(self.path, same_form, recipe, made_with)
        if self._leads:
            self._folder.mkdir(exist_ok=True)
        return held["made_with"]

    def _loss_of(self, number: int) -> float | None:
        checkpoint = self._folder / str(number)
        with resuming_from(checkpoint):
            return _loss(checkpoint)

    def __iter__(self):
        """Iterates over the numbers of the complete checkpoints, in order."""
        return iter(checkpoint_numbers(self.path))

    def __enter__(self) -> "RunFolder":
        """Returns itself."""
        return self

    def __exit__(self, *exception) -> None:
        """Closes the folder."""
        self.close()

    @property
    def latest(self) -> Place | None:
        """The newest complete checkpoint, or None."""
        numbers = list(self)
        return self._folder / str(numbers[-1]) if numbers else None

    @property
    def is_due(self) -> bool:
        """Whether a checkpoint is due and none is being written."""
        if self._pending is not None and not self._pending[1].done():
            return False
        return time.monotonic() - self._last >= self._save_every

    def save(
        self,
        number: int,
        *,
        params: nnx.State,
        model_state: nnx.State,
        opt_state: Any,
        meta: Mapping,
        raw: Any = None,
        valid_loss: float | None = None,
        wait: bool = False,
    ) -> None:
        """Starts writing a checkpoint; the arrays may be donated afterwards.

        Waits for the previous checkpoint, if that is still being written. Older ones
        are removed once this one is complete; the latest and the best are kept.

        Args:
            number: Progress, higher than that of every checkpoint in the folder.
            params: Parameters, arrays by path.
            model_state: Batch-norm statistics, arrays by path.
            opt_state: The optimizer's state.
            meta: The description; `valid_loss` is added to it.
            raw: Values that training resumes from, see `save_checkpoint`.
            valid_loss: Of this checkpoint, if it was validated; the lowest is best.
            wait: Whether to return only when it is complete.

        Raises:
            OSError: If this or the previous checkpoint could not be written.
        """
        self.wait()
        self._last = time.monotonic()
        target = self._folder / str(number)
        saving = save_checkpoint_async(
            target,
            params=params,
            model_state=model_state,
            opt_state=opt_state,
            raw=raw,
            meta={**meta, "valid_loss": valid_loss},
        )
        self._kept[number] = valid_loss
        self._pending = (target, saving)
        if wait:
            self.wait()

    def close(self) -> None:
        """Waits for the checkpoint being written, and unlocks the folder."""
        try:
            self.wait()
        finally:
            self._unlock()

    def wait(self) -> None:
        """Waits for the checkpoint being written, then removes older ones.

        Raises:
            OSError: If it could not be written.
        """
        if self._pending is None:
            return
        (target, saving), self._pending = self._pending, None
        try:
            saving.result()
        except BaseException:
            self._kept.pop(int(target.name), None)
            raise
        for number in set(self._kept) - {max(self._kept), _best(self._kept)}:
            if self._leads:
                _remove(self._folder / str(number))
            del self._kept[number]


@contextlib.contextmanager
def resuming_from(checkpoint: Place) -> Iterator[None]:
    """Adds to an error about a damaged checkpoint how its run can resume without it.

    Args:
        checkpoint: A checkpoint of a run.

    Raises:
        CheckpointDamagedError: If one was raised inside.
    """
    try:
        yield
    except CheckpointDamagedError as error:
        raise CheckpointDamagedError(
            f"{error} Remove {checkpoint}: the run then resumes from the previous "
            "checkpoint, or from its beginning."
        ) from error


def read_run(path: str | os.PathLike) -> dict:
    """Returns the `recipe` of a run and what it was `made_with`.

    Raises:
        FileNotFoundError: If there is no run at the path.
    """
    held = _read(place_of(path))
    if held is None:
        raise FileNotFoundError(f"there is no run in {path}.")
    return held


def is_run(path: str | os.PathLike) -> bool:
    """Returns whether a folder is a run's."""
    return (place_of(path) / _RECIPE).is_file()


def write_thresholds(path: str | os.PathLike, thresholds: Mapping[str, float]) -> None:
    """Stores thresholds by class in a run's folder, for all of its checkpoints.

    Raises:
        FileNotFoundError: If there is no run at the path.
    """
    read_run(path)
    write_json(place_of(path) / _THRESHOLDS, dict(thresholds))


def with_kept_thresholds(meta: dict, path: str | os.PathLike) -> dict:
    """Returns a checkpoint's description with the thresholds stored in its run.

    Args:
        meta: The description.
        path: The folder of the run. If it is a checkpoint's, the description is
            returned unchanged.

    Raises:
        ValueError: If the run's file of thresholds is damaged.
    """
    file = place_of(path) / _THRESHOLDS
    if not is_run(path) or not file.is_file():
        return meta
    try:
        kept = {name: float(x) for name, x in json.loads(file.read_text()).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); remove it.") from error
    return {**meta, "thresholds": [kept.get(c, 0.5) for c in meta["classes"]]}


def find_checkpoint(path: str | os.PathLike, which: str = "latest") -> Place:
    """Returns the latest or the best checkpoint of a run.

    Args:
        path: A run's folder, or a checkpoint's, which is returned itself.
        which: "latest", or "best": the one with the lowest validation loss.

    Raises:
        FileNotFoundError: If the run has no such checkpoint yet.
        TypeError: If `path` is not a path, or `which` not a string.
        ValueError: If `which` is something else, or "best" and `path` is no run.
    """
    root = place_of(path)
    check_choice(which, "which", ("latest", "best"))
    if not is_run(root):
        if which == "best" and root.is_dir():
            raise ValueError(
                f"which='best' chooses among a run's checkpoints, and {root} is no "
                "run: leave which out."
            )
        return root
    losses = {n: _loss(root / _CHECKPOINTS / str(n)) for n in checkpoint_numbers(root)}
    number = _best(losses) if which == "best" else max(losses, default=None)
    if number is None:
        raise FileNotFoundError(
            f"the run {root} has no {which} checkpoint yet: "
            + ("no epoch is finished." if losses else "nothing was saved.")
        )
    return root / _CHECKPOINTS / str(number)


def check_run_folder(path: str | os.PathLike) -> None:
    """Raises unless a folder can be a run's: absent, empty, or already one.

    Raises:
        FileExistsError: If it holds something else.
    """
    folder = place_of(path, "run")
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file; choose a folder for the run.")
    if not folder.exists() or _read(folder) is not None:
        return
    others = sorted(e.name for e in folder.iterdir() if not e.name.startswith("."))
    if others:
        raise FileExistsError(
            f"{folder} holds something else than a run ({', '.join(others[:3])}); "
            "choose another folder."
        )


def checkpoint_numbers(path: str | os.PathLike) -> list[int]:
    """Returns the numbers of a run's complete checkpoints, in order."""
    folder = place_of(path) / _CHECKPOINTS
    if not folder.is_dir():
        return []
    return sorted(
        int(entry.name)
        for entry in folder.iterdir()
        if entry.name.isdigit() and is_complete(entry)
    )


def _read(path: Place) -> dict | None:
    file = path / _RECIPE
    if not file.is_file():
        return None
    try:
        held = json.loads(file.read_text())
        return {"recipe": held["recipe"], "made_with": held["made_with"]}
    except (ValueError, KeyError, TypeError) as error:
        raise FileExistsError(
            f"{file} is not a jaxtune run's ({error!r}); choose another folder."
        ) from error


def _lock(path: Place):
    from filelock import FileLock, Timeout

    path.mkdir(parents=True, exist_ok=True)
    if in_storage(path):
        return None
    lock = FileLock(path / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(
            f"another process trains in {path}; wait until it ends, or choose another "
            "folder."
        ) from error
    return lock


def _remove(folder: Place) -> None:
    if in_storage(folder):
        make_incomplete(folder)
        with contextlib.suppress(FileNotFoundError):
            folder.rmtree()
        return
    # Renamed first: a half removed folder must not look like a checkpoint.
    aside = folder.with_name(_REMOVED + folder.name)
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _remove_leftovers(folder: Place) -> None:
    if in_storage(folder):
        # There a checkpoint that is being written has its final name.
        for entry in folder.iterdir() if folder.is_dir() else ():
            if not is_complete(entry):
                entry.rmtree()
        return
    for entry in folder.iterdir():
        if entry.name.startswith(_REMOVED) or _UNFINISHED in entry.name:
            shutil.rmtree(entry, ignore_errors=True)


def _loss(checkpoint: Place) -> float | None:
    return load_meta(checkpoint).get("valid_loss")


def _best(losses: Mapping[int, float | None]) -> int | None:
    known = {
        number: loss
        for number, loss in losses.items()
        if loss is not None and not math.isnan(loss)
    }
    return min(known, key=lambda number: (known[number], number), default=None)


def check_recipe(
    path: Place, held: Mapping[str, Any], recipe: dict, made_with: Mapping[str, Any]
) -> None:
    """Raises unless a run's recipe equals the given one.

    Args:
        path: The run's folder, for the message.
        held: What the folder records: `recipe` and `made_with`.
        recipe: The recipe to compare, as JSON gives it back.
        made_with: Versions and devices now. Where they differ, `start`, the fingerprint
            of the initial values, isn't compared: a head's initial values can differ in
            their last bits from chip to chip. Nor is a `program`: JAX versions write
            the same function differently.

    Raises:
        RunMismatchError: If they differ; the differences are listed.
    """
    before = held["recipe"]
    if held["made_with"] != made_with:
        before, recipe = (
            {**_without_programs(r), "start": None} for r in (before, recipe)
        )
    if differences := _differences(before, recipe):
        more = len(differences) - _MOST_LINES
        lines = differences[:_MOST_LINES] + ([f"… and {more} more"] if more > 0 else [])
        listed = "\n".join(f"  {line}" for line in lines)
        raise RunMismatchError(
            f"{path} holds a run of another recipe. What differs:\n{listed}\nRepeat "
            "the call that began that run to resume it, or choose another folder."
        )


def _without_programs(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_programs(v) for k, v in value.items() if k != "program"}
    if isinstance(value, list):
        return [_without_programs(each) for each in value]
    return value


def _differences(held: dict, now: dict) -> list[str]:
    before, after = _flat(held), _flat(now)
    missing = "nothing"
    return [
        f"{name}: {before.get(name, missing)} in the folder, "
        f"{after.get(name, missing)} now"
        for name in dict.fromkeys([*before, *after])
        if before.get(name, missing) != after.get(name, missing)
    ]


def _flat(value: Any, name: str = "") -> dict[str, str]:
    if isinstance(value, dict) and value:
        children = value.items()
    elif isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        children = enumerate(value, 1)
    else:
        return {name: json.dumps(value)}
    flat = {}
    for key, child in children:
        flat |= _flat(child, f"{name}.{key}" if name else str(key))
    return flat
