"""A run's folder: its recipe, its checkpoints, and which of them are kept.

A recipe and trees go in, one after the other; the latest and the best stay. The one
rule of the file: whenever the process dies, the folder holds whole checkpoints only,
and one that was there is gone only once a newer one is complete.

    runs/pets/
      run.json           the recipe, and what it was begun with
      checkpoints/128/   Orbax, see FORMAT.md; numbered by progress
      thresholds.json    of each class, where they were chosen after the run
"""

import contextlib
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from flax import nnx

from jaxtune.arguments import check_choice, check_path
from jaxtune.checkpoint.errors import CheckpointDamagedError
from jaxtune.checkpoint.loading import load_meta
from jaxtune.checkpoint.recipe import check_recipe, write_json
from jaxtune.checkpoint.saving import Saving, save_checkpoint_async

_RECIPE = "run.json"
_CHECKPOINTS = "checkpoints"
_THRESHOLDS = "thresholds.json"
_REMOVED = ".removed-"
#: Orbax writes into such a folder, and renames it when all is there.
_UNFINISHED = ".orbax-checkpoint-tmp"


class RunFolder:
    """The folder of one training run; one process at a time has it open.

    Attributes:
        path: The folder.
        begun_with: What the run was begun with (versions, devices), as JSON.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        recipe: Mapping[str, Any],
        *,
        made_with: Mapping[str, Any],
        save_every: float = 60.0,
        upgrade: Callable[[dict], dict] = lambda recipe: recipe,
    ):
        """Opens the folder, or makes it; a run of another recipe is refused.

        Args:
            path: The folder; absent, empty, or of an earlier start of the same run.
            recipe: Everything that decides the run's numbers, as plain JSON. Its
                `start`, a fingerprint of the values that the run begins with, counts
                only where versions and devices are those it was begun with.
            made_with: Versions and devices; noted when the run begins.
            save_every: Seconds between the starts of two checkpoints, by which
                `is_due` goes.
            upgrade: Puts a recipe that an older version wrote into the form of
                `recipe`.

        Raises:
            RunMismatchError: If it holds a run of another recipe.
            FileExistsError: If it holds something else than a run.
            BlockingIOError: If another process trains in it.
            ValueError: If `save_every` is negative.
        """
        if not save_every >= 0:
            raise ValueError(f"save_every is seconds, 0 or more; got {save_every!r}.")
        self.path = Path(path).expanduser().resolve()
        self._save_every = save_every
        self._pending: tuple[Path, Saving] | None = None
        self._last = time.monotonic()
        # What JSON makes of it: lists for tuples, and text for keys.
        recipe, made_with = json.loads(json.dumps([recipe, made_with]))
        check_run_folder(self.path)
        self._upgrade = upgrade
        self._lock = _lock(self.path)
        self._folder = self.path / _CHECKPOINTS
        try:
            self.begun_with: dict = self._begin(recipe, made_with)
            _remove_leftovers(self._folder)
            # Progress and validation loss of each whole checkpoint.
            self._kept = {number: self._loss_of(number) for number in self}
        except BaseException:
            self._lock.release()
            raise

    def _begin(self, recipe: dict, made_with: dict) -> dict:
        held = _held(self.path)
        if held is None:
            held = {"recipe": recipe, "made_with": made_with}
            write_json(self.path / _RECIPE, held)
        same_form = {**held, "recipe": self._upgrade(held["recipe"])}
        check_recipe(self.path, same_form, recipe, made_with)
        self._folder.mkdir(exist_ok=True)
        return held["made_with"]

    def _loss_of(self, number: int) -> float | None:
        checkpoint = self._folder / str(number)
        with taking_up(checkpoint):
            return _loss(checkpoint)

    def __iter__(self):
        """Goes through the numbers of the whole checkpoints, in order."""
        return iter(checkpoint_numbers(self.path))

    def __enter__(self) -> "RunFolder":
        """Returns itself."""
        return self

    def __exit__(self, *exception) -> None:
        """Closes the folder."""
        self.close()

    @property
    def latest(self) -> Path | None:
        """The newest whole checkpoint, or None."""
        numbers = list(self)
        return self._folder / str(numbers[-1]) if numbers else None

    @property
    def is_due(self) -> bool:
        """Whether it is time for a checkpoint, and the last one is written."""
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
        """Begins to write a checkpoint; the arrays may be given up afterwards.

        Waits for the checkpoint before, if that is still being written. Older ones are
        removed once this one is whole: the latest and the best stay.

        Args:
            number: Progress, higher than that of every checkpoint there is.
            params: Parameters, arrays by path.
            model_state: Batch-norm statistics, arrays by path.
            opt_state: The optimizer's state.
            meta: The description; `valid_loss` is added to it.
            raw: Values that training goes on with, see `save_checkpoint`.
            valid_loss: Of this checkpoint, if it was validated; the lowest is best.
            wait: Whether to return only when it is whole.

        Raises:
            OSError: If this or the checkpoint before could not be written.
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
        """Waits for what is being written, and lets other processes in."""
        try:
            self.wait()
        finally:
            self._lock.release()

    def wait(self) -> None:
        """Waits for the checkpoint that is being written, then removes older ones.

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
            _remove(self._folder / str(number))
            del self._kept[number]


@contextlib.contextmanager
def taking_up(checkpoint: Path) -> Iterator[None]:
    """Adds to an error about a damaged checkpoint how its run can go on without it.

    Args:
        checkpoint: One of a run's.

    Raises:
        CheckpointDamagedError: If one was raised inside.
    """
    try:
        yield
    except CheckpointDamagedError as error:
        raise CheckpointDamagedError(
            f"{error} Remove {checkpoint}: the run then goes on from the checkpoint "
            "before it, or from its beginning."
        ) from error


def read_run(path: str | os.PathLike) -> dict:
    """Returns what a run's folder says of itself: `recipe` and `made_with`.

    Raises:
        FileNotFoundError: If there is no run at the path.
    """
    held = _read(Path(path).expanduser().resolve())
    if held is None:
        raise FileNotFoundError(f"there is no run in {path}.")
    return held


def is_run(path: str | os.PathLike) -> bool:
    """Returns whether a folder is that of a run."""
    return (Path(path).expanduser() / _RECIPE).is_file()


def write_thresholds(path: str | os.PathLike, thresholds: Mapping[str, float]) -> None:
    """Keeps thresholds, by class, beside a run's checkpoints, for all of them.

    Raises:
        FileNotFoundError: If there is no run at the path.
    """
    read_run(path)
    write_json(Path(path).expanduser() / _THRESHOLDS, dict(thresholds))


def with_kept_thresholds(meta: dict, path: str | os.PathLike) -> dict:
    """Returns a checkpoint's description with the thresholds that its run keeps.

    Args:
        meta: The description.
        path: The folder of the run; of a checkpoint alone, which keeps none, the
            description is returned as it is.

    Raises:
        ValueError: If the run's file of thresholds is damaged.
    """
    file = Path(path).expanduser() / _THRESHOLDS
    if not is_run(path) or not file.is_file():
        return meta
    try:
        kept = {name: float(x) for name, x in json.loads(file.read_text()).items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({error}); remove it.") from error
    return {**meta, "thresholds": [kept.get(c, 0.5) for c in meta["classes"]]}


def find_checkpoint(path: str | os.PathLike, which: str = "latest") -> Path:
    """Returns the latest or the best checkpoint of a run; a checkpoint as it is.

    Args:
        path: A run's folder, or a checkpoint's.
        which: "latest", or "best": the one with the lowest validation loss.

    Raises:
        FileNotFoundError: If the run has no such checkpoint yet.
        TypeError: If the path is none, or `which` no string.
        ValueError: If `which` is neither, or "best" of what is no run.
    """
    check_path(path, "path")
    check_choice(which, "which", ("latest", "best"))
    root = Path(path).expanduser().resolve()
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
    """Looks whether a folder can be a run's: absent, empty, or a run already.

    Raises:
        FileExistsError: If it holds something else.
    """
    _held(Path(path).expanduser().resolve())


def checkpoint_numbers(path: str | os.PathLike) -> list[int]:
    """Returns the numbers of a run's whole checkpoints, in order."""
    folder = Path(path) / _CHECKPOINTS
    if not folder.is_dir():
        return []
    return sorted(
        int(entry.name)
        for entry in folder.iterdir()
        if entry.name.isdigit() and (entry / "_CHECKPOINT_METADATA").is_file()
    )


def _held(path: Path) -> dict | None:
    """Returns what the folder says of itself, None for a new one."""
    held = _read(path)
    if held is not None:
        return held
    others = [entry.name for entry in _entries(path) if entry.name[0] != "."]
    if others:
        raise FileExistsError(
            f"{path} holds something else than a run ({', '.join(others[:3])}); "
            "choose another folder."
        )
    return None


def _entries(path: Path) -> list[Path]:
    if path.exists() and not path.is_dir():
        raise FileExistsError(f"{path} is a file; choose a folder for the run.")
    return sorted(path.iterdir()) if path.exists() else []


def _read(path: Path) -> dict | None:
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


def _lock(path: Path):
    from filelock import FileLock, Timeout

    path.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path / ".lock", timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(
            f"another process trains in {path}; wait for its end, or choose another "
            "folder."
        ) from error
    return lock


def _remove(folder: Path) -> None:
    # Under another name first: what is half removed must not look like a checkpoint.
    aside = folder.with_name(_REMOVED + folder.name)
    with contextlib.suppress(FileNotFoundError):
        os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


def _remove_leftovers(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name.startswith(_REMOVED) or _UNFINISHED in entry.name:
            shutil.rmtree(entry, ignore_errors=True)


def _loss(checkpoint: Path) -> float | None:
    return load_meta(checkpoint).get("valid_loss")


def _best(losses: Mapping[int, float | None]) -> int | None:
    known = {
        number: loss
        for number, loss in losses.items()
        if loss is not None and not math.isnan(loss)
    }
    return min(known, key=lambda number: (known[number], number), default=None)
