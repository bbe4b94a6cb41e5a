"""Turns what a user says into published weights: a name, a hub name, or a path.

In: an architecture's name and the `weights` argument. Out: a `Weights` value with the
file's path and how images must be prepared. The one rule: weights of another
architecture are refused by name, before anything is read.
"""

import dataclasses
import json
import os
from pathlib import Path

from jaxtune.arguments import described
from jaxtune.pretrained.cache import sha256_of
from jaxtune.pretrained.fetch import find_config, find_weights
from jaxtune.pretrained.files import ENDINGS, read_weights
from jaxtune.pretrained.manifest import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Entry,
    Hub,
    entries_of,
    find_entry,
    manifest,
)


@dataclasses.dataclass(frozen=True)
class Weights:
    """Published weights that were found, and what they expect.

    Attributes:
        name: the manifest's name, the hub's, or the file's.
        architecture: the network they belong to.
        path: the file.
        mean: subtracted from RGB in 0..1.
        std: what the difference is divided by.
        input_size: side in pixels of the square images they are used with.
        num_classes: number of logits.
        source: where they came from, in words.
        licence: under which they are published; None if not known.
        is_known: whether mean, std and size are published with the weights; for a file
            of unknown origin they are ImageNet's, which is a guess.
    """

    name: str
    architecture: str
    path: Path
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    input_size: int
    num_classes: int
    source: str
    licence: str | None = None
    is_known: bool = True


def resolve_weights(
    architecture: str, weights: str | os.PathLike | None = None
) -> Weights:
    """Finds weights for an architecture, fetching them where need be.

    Args:
        architecture: its name, such as "resnet18".
        weights: None or "default" for the architecture's default; a name of the
            manifest ("resnet18_imagenet1k_v1", or short "imagenet1k_v1", in any case);
            a hub name ("timm/resnet50.a1_in1k"; those not in the manifest take mean,
            std and size from their config.json); or the path of a file. For a file
            that the manifest knows by its sha256, mean, std and size are the
            manifest's, for any other ImageNet's and 224 pixels.

    Raises:
        TypeError: `weights` is neither a name nor a path.
        ValueError: the name is not known (those known are listed), or the weights
            belong to another architecture.
        FileNotFoundError: there is no such path, or no source has the file.
    """
    if weights is not None and not isinstance(weights, str | os.PathLike):
        raise TypeError(
            f"weights must be a name such as {_known(architecture)}, or the path of a "
            f"file ({', '.join(ENDINGS)}); received {described(weights)}."
        )
    if weights is not None and not os.fspath(weights):
        raise ValueError(
            "weights must be a name or the path of a file; received an empty string. "
            "Leave it out for the default ones."
        )
    if weights is None or (isinstance(weights, str) and weights.lower() == "default"):
        return _from_entry(_default(architecture))
    if isinstance(weights, str):
        entry = find_entry(weights, architecture)
        if entry is None and weights.startswith("timm/"):
            _refuse_other(weights, weights[5:].partition(".")[0], architecture)
            entry = _entry_from_hub(weights, architecture)
        if entry is not None:
            _refuse_other(entry.name, entry.architecture, architecture)
            return _from_entry(entry)
        if not _is_path(weights):
            raise ValueError(
                f"no weights named {weights!r} for {architecture}. Known: "
                f"{_known(architecture)}; or pass 'timm/{architecture}.<tag>', or the "
                f"path of a file ({', '.join(ENDINGS)})"
            )
    return _from_path(architecture, Path(weights).expanduser())


def _is_path(text: str) -> bool:
    separators = [os.sep, *([os.altsep] if os.altsep else [])]
    return (
        Path(text).suffix.lower() in ENDINGS
        or any(each in text for each in separators)
        or Path(text).exists()
    )


def _known(architecture: str) -> str:
    names = [entry.name for entry in entries_of(architecture)]
    return ", ".join(names) or "none in the manifest"


def _default(architecture: str) -> Entry:
    entries = entries_of(architecture)
    if not entries or not entries[0].default:
        known = sorted({entry.architecture for entry in manifest().values()})
        raise ValueError(
            f"no published weights are known for {architecture!r}; there are some for "
            f"{', '.join(known)}. Pass a path as `weights`, or pretrained=False"
        )
    return entries[0]


def _refuse_other(name: str, owner: str, architecture: str) -> None:
    if owner != architecture:
        raise ValueError(
            f"{name} holds weights of {owner}, but the network is {architecture}. "
            f"Known for {architecture}: {_known(architecture)}"
        )


def _from_entry(entry: Entry) -> Weights:
    found = find_weights(entry)
    return _weights(entry, entry.name, found.path, found.source)


def _weights(entry: Entry, name: str, path: Path, source: str) -> Weights:
    return Weights(
        name=name,
        architecture=entry.architecture,
        path=path,
        mean=entry.mean,
        std=entry.std,
        input_size=entry.input_size,
        num_classes=entry.num_classes,
        source=source,
        licence=entry.licence,
    )


def _entry_from_hub(repo: str, architecture: str) -> Entry:
    path = find_config(repo)
    try:
        config = json.loads(path.read_text("utf-8"))
        data = config["pretrained_cfg"]
        _, height, width = data.get("test_input_size") or data["input_size"]
        if height != width:
            raise ValueError(f"images of {height} by {width} are not square")
        return Entry(
            name=repo,
            architecture=config.get("architecture", architecture),
            file=f"{repo.replace('/', '_')}.safetensors",
            licence=data.get("license"),
            mean=_three(data["mean"]),
            std=_three(data["std"]),
            input_size=int(height),
            # timm's num_classes=0 has no classifier.
            num_classes=int(data.get("num_classes") or config["num_classes"]) or 1000,
            hub=Hub(repo),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"the config.json of {repo} does not say how to use it "
            f"({type(error).__name__}: {error}); fetch the file yourself and pass its "
            "path as `weights`"
        ) from error


def _three(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _from_path(architecture: str, path: Path) -> Weights:
    if not path.is_file():
        raise FileNotFoundError(
            f"no file of weights at {path}. Known names for {architecture}: "
            f"{_known(architecture)}"
        )
    digest = sha256_of(path)
    for entry in manifest().values():
        if digest in entry.known_sha256:
            _refuse_other(str(path), entry.architecture, architecture)
            return _weights(entry, entry.name, path, str(path))
    return Weights(
        name=path.stem,
        architecture=architecture,
        path=path,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        input_size=224,
        num_classes=_classes_of(path),
        source=str(path),
        is_known=False,
    )


def _classes_of(path: Path) -> int:
    """Returns the classifier's length; 1000 where the file has no classifier."""
    arrays = read_weights(path)
    for ending in ("fc.bias", "fc.weight"):
        for name in sorted(arrays, key=len):
            if f".{name}".endswith(f".{ending}") and arrays[name].ndim:
                return int(arrays[name].shape[0])
    return 1000
