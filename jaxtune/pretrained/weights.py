"""Resolves what the user passes as `weights`: a name, a hub name, or a path."""

import dataclasses
import functools
import json
import os
from pathlib import Path

from jaxtune.arguments import described
from jaxtune.pretrained.download import find_config, find_weights, sha256_of
from jaxtune.pretrained.manifest import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Entry,
    Hub,
    entries_of,
    find_entry,
    manifest,
)
from jaxtune.pretrained.weights_file import ENDINGS, read_weights


@dataclasses.dataclass(frozen=True)
class Weights:
    """A file of published weights, and how images are prepared for them.

    Attributes:
        name: The manifest's name, the hub's, or the file's.
        architecture: The network they are for.
        path: The file.
        mean: Of each channel, subtracted from RGB in 0..1.
        std: Of each channel, by which the difference is divided.
        input_size: Side in pixels of the square images.
        num_classes: Number of logits.
        source: Where they came from, for messages.
        licence: SPDX name; None if unknown.
        is_known: Whether mean, std and size were published with the weights. If not,
            they are ImageNet's, which is a guess.
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
    """Finds weights for an architecture, downloading them if need be.

    Args:
        architecture: Its name, such as "resnet18".
        weights: None or "default" for the architecture's default; a name in the
            manifest ("resnet18_imagenet1k_v1", or short "imagenet1k_v1", in upper or
            lower case); a hub name ("timm/resnet50.a1_in1k"; one outside the manifest
            takes mean, std and size from its config.json); or the path of a file. For a
            file whose sha256 is in the manifest, mean, std and size are the manifest's,
            for any other ImageNet's and 224 pixels.

    Raises:
        TypeError: `weights` is neither a name nor a path.
        ValueError: The name is unknown (the known ones are listed), or the weights are
            another architecture's; that is checked before the file is read.
        FileNotFoundError: There is no such path, or no source has the file.
    """
    if weights is not None and not isinstance(weights, str | os.PathLike):
        raise TypeError(
            f"weights must be a name such as {_known(architecture)}, or the path of a "
            f"file ({', '.join(ENDINGS)}); received {described(weights)}."
        )
    if weights is not None and not os.fspath(weights):
        raise ValueError(
            "weights must be a name or the path of a file; received an empty string. "
            "Leave it out for the architecture's default."
        )
    if weights is None or (isinstance(weights, str) and weights.lower() == "default"):
        return _from_entry(_default(architecture))
    if isinstance(weights, str):
        entry = find_entry(weights, architecture)
        if entry is None and weights.startswith("timm/"):
            published_for = weights.removeprefix("timm/").partition(".")[0]
            _check_architecture(weights, published_for, architecture)
            entry = _entry_from_hub(weights, architecture)
        if entry is not None:
            _check_architecture(entry.name, entry.architecture, architecture)
            return _from_entry(entry)
        if not _is_path(weights):
            raise ValueError(
                f"there are no weights {weights!r} for {architecture}. Known are "
                f"{_known(architecture)}; or pass 'timm/{architecture}.<tag>', or the "
                f"path of a file ({', '.join(ENDINGS)})"
            )
    return _from_path(architecture, Path(weights).expanduser())


def _is_path(text: str) -> bool:
    path = Path(text)
    return path.suffix.lower() in ENDINGS or path.name != text or path.exists()


def _known(architecture: str) -> str:
    names = [entry.name for entry in entries_of(architecture)]
    return ", ".join(names) or "none in the manifest"


def _default(architecture: str) -> Entry:
    entries = entries_of(architecture)
    if not entries or not entries[0].default:
        known = sorted({entry.architecture for entry in manifest().values()})
        raise ValueError(
            f"no published weights are known for {architecture!r}, only for "
            f"{', '.join(known)}. Pass a path as `weights`, or pretrained=False"
        )
    return entries[0]


def _check_architecture(name: str, published_for: str, architecture: str) -> None:
    if published_for != architecture:
        raise ValueError(
            f"{name} holds weights of {published_for}, but the network is "
            f"{architecture}. Known for {architecture}: {_known(architecture)}"
        )


def _from_entry(entry: Entry) -> Weights:
    file = find_weights(entry)
    return _weights(entry, file.path, file.source)


def _weights(entry: Entry, path: Path, source: str) -> Weights:
    names = ("name", "architecture", "mean", "std", "input_size", "num_classes")
    fields = {name: getattr(entry, name) for name in (*names, "licence")}
    return Weights(path=path, source=source, **fields)


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
            mean=_per_channel(data["mean"]),
            std=_per_channel(data["std"]),
            input_size=int(height),
            # 0 means that the file has no classifier.
            num_classes=int(data.get("num_classes") or config["num_classes"]) or 1000,
            hub=Hub(repo),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"the config.json of {repo} lacks what jaxtune needs, the images' mean, "
            f"std and size ({type(error).__name__}: {error}); download the weights "
            "yourself and pass their path as `weights`"
        ) from error


def _per_channel(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def _from_path(architecture: str, path: Path) -> Weights:
    if not path.is_file():
        raise FileNotFoundError(
            f"no file of weights at {path}. Known names for {architecture}: "
            f"{_known(architecture)}"
        )
    state = path.stat()
    return _from_file(architecture, path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=8)
def _from_file(architecture: str, path: Path, changed: int, size: int) -> Weights:
    """Reads the file once, however often a learner asks; `changed` in nanoseconds."""
    digest = sha256_of(path)
    for entry in manifest().values():
        if digest in entry.known_sha256:
            _check_architecture(str(path), entry.architecture, architecture)
            return _weights(entry, path, str(path))
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
    """Returns the classifier's number of classes; 1000 if the file has none."""
    arrays = read_weights(path)
    for ending in ("fc.bias", "fc.weight"):
        for name in sorted(arrays, key=len):
            if f".{name}".endswith(f".{ending}") and arrays[name].ndim:
                return int(arrays[name].shape[0])
    return 1000
