"""The argument `weights`: names, hub names, paths, and refusals."""

import json
import shutil

import numpy as np
import pytest

from jaxtune.pretrained import weights as room
from jaxtune.pretrained.download import WeightsFile, sha256_of
from jaxtune.pretrained.manifest import manifest
from jaxtune.pretrained.weights import resolve_weights
from jaxtune.pretrained.weights_file import write_weights


@pytest.fixture(autouse=True)
def asked(monkeypatch, tmp_path):
    """Finds every file at once; returns the entries that were asked for."""
    entries = []

    def find_weights(entry):
        entries.append(entry)
        return WeightsFile(tmp_path / entry.file, "a test")

    monkeypatch.setattr(room, "find_weights", find_weights)
    return entries


@pytest.mark.parametrize("name", [None, "default", "DEFAULT"])
@pytest.mark.parametrize(
    ("architecture", "tag"),
    [("resnet18", "imagenet1k_v1"), ("resnet50", "imagenet1k_v2")],
)
def test_default_of_an_architecture(architecture, tag, name, tmp_path):
    got = resolve_weights(architecture, name)
    assert got.name == f"{architecture}_{tag}" and got.architecture == architecture
    assert got.path == tmp_path / f"{architecture}_{tag}.safetensors"
    assert (got.mean, got.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert (got.input_size, got.num_classes) == (224, 1000)
    assert (got.source, got.licence) == ("a test", "bsd-3-clause")


@pytest.mark.parametrize(
    "name",
    [
        "resnet50d_ra4_e3600_r224_in1k",
        "ra4_e3600_r224_in1k",
        "timm/resnet50d.ra4_e3600_r224_in1k",
    ],
)
def test_names_carry_their_own_mean_and_size(name):
    got = resolve_weights("resnet50d", name)
    assert got.name == "resnet50d_ra4_e3600_r224_in1k"
    assert got.mean == got.std == (0.5, 0.5, 0.5)
    assert got.input_size == 288


@pytest.mark.parametrize(
    "name", ["resnet50_imagenet1k_v2", "timm/resnet50.a1_in1k", "timm/resnet50.new"]
)
def test_weights_of_another_architecture_are_refused_by_name(name, asked):
    with pytest.raises(ValueError, match="resnet50.*resnet18") as caught:
        resolve_weights("resnet18", name)
    assert "resnet18_imagenet1k_v1" in str(caught.value)
    assert asked == []


def test_unknown_name_lists_those_known():
    with pytest.raises(ValueError, match="imagenet1k_v3") as caught:
        resolve_weights("resnet18", "imagenet1k_v3")
    for entry in manifest().values():
        assert (entry.name in str(caught.value)) == (entry.architecture == "resnet18")


def test_architecture_without_weights():
    with pytest.raises(ValueError, match="vgg16.*resnet18"):
        resolve_weights("vgg16")


def config(**changes):
    data = {
        "input_size": [3, 176, 176],
        "test_input_size": [3, 256, 256],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "num_classes": 7,
        "license": "mit",
    }
    return {"architecture": "resnet18", "pretrained_cfg": data | changes}


def test_hub_name_outside_the_manifest_takes_its_config(monkeypatch, tmp_path, asked):
    path = tmp_path / "config.json"
    monkeypatch.setattr(room, "find_config", lambda repo: path)
    path.write_text(json.dumps(config()))
    got = resolve_weights("resnet18", "timm/resnet18.mine")
    assert (got.name, got.licence) == ("timm/resnet18.mine", "mit")
    assert (got.mean, got.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (got.input_size, got.num_classes) == (256, 7)
    assert asked[0].hub.repo == "timm/resnet18.mine"
    assert asked[0].file == "timm_resnet18.mine.safetensors"
    path.write_text(json.dumps(config(test_input_size=None)))
    assert resolve_weights("resnet18", "timm/resnet18.mine").input_size == 176


@pytest.mark.parametrize(
    "broken",
    ["{", "[]", json.dumps(config(mean=[1])), json.dumps(config(input_size=[3]))],
)
def test_broken_config_is_named(monkeypatch, tmp_path, broken):
    path = tmp_path / "config.json"
    path.write_text(
        broken.replace('"test_input_size": [3, 256, 256]', '"test_input_size": null')
    )
    monkeypatch.setattr(room, "find_config", lambda repo: path)
    with pytest.raises(ValueError, match=r"config\.json of timm/resnet18\.mine"):
        resolve_weights("resnet18", "timm/resnet18.mine")


@pytest.mark.parametrize("as_text", [True, False])
def test_path_takes_imagenet_s_mean_and_the_file_s_classes(tmp_path, as_text, asked):
    path = tmp_path / "mine.safetensors"
    write_weights(path, {"fc.bias": np.zeros(37, np.float32)})
    got = resolve_weights("resnet18", str(path) if as_text else path)
    assert (got.name, got.path, got.num_classes) == ("mine", path, 37)
    assert got.mean == (0.485, 0.456, 0.406) and got.licence is None
    assert asked == []


def test_path_without_a_classifier(tmp_path):
    np.savez(tmp_path / "body.npz", **{"conv1.weight": np.zeros((2, 3, 1, 1))})
    assert resolve_weights("resnet18", tmp_path / "body.npz").num_classes == 1000


def test_path_of_a_file_that_the_manifest_knows(monkeypatch, tmp_path):
    import dataclasses

    path = tmp_path / "renamed.safetensors"
    write_weights(path, {"fc.bias": np.zeros(3, np.float32)})
    known = dataclasses.replace(
        manifest()["resnet34_ra4_e3600_r224_in1k"], sha256=sha256_of(path)
    )
    monkeypatch.setattr(room, "manifest", lambda: {known.name: known})
    got = resolve_weights("resnet34", path)
    assert (got.name, got.mean) == (known.name, (0.5, 0.5, 0.5))
    assert got.path == path and got.source == str(path)
    with pytest.raises(ValueError, match="resnet34.*resnet18"):
        resolve_weights("resnet18", path)


@pytest.mark.parametrize("name", ["no/such/file.safetensors", "none.pth"])
def test_missing_path(name):
    with pytest.raises(FileNotFoundError, match="no file of weights at"):
        resolve_weights("resnet18", name)


def test_home_is_expanded(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_weights(tmp_path / "a.safetensors", {"fc.bias": np.zeros(3, np.float32)})
    assert resolve_weights("resnet18", "~/a.safetensors").num_classes == 3
    shutil.rmtree(tmp_path)
