"""Where weights come from, in which order, and that no file is wrong or half there.

The hub is one of ours on the loopback, in a process of its own; pip is a stand-in.
"""

import dataclasses
import hashlib
import http.server
import json
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
import time
import types
import zipfile
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest

from jaxtune.pretrained import download
from jaxtune.pretrained.download import (
    AlteredWeightsError,
    WeightsNotFoundError,
    WheelError,
    cache_dir,
    fetch_wheel,
    find_config,
    find_weights,
    sha256_of,
    work_folder,
)
from jaxtune.pretrained.manifest import Entry, Hub, Wheel, manifest
from jaxtune.pretrained.weights_file import read_weights, write_weights

ROOT = Path(__file__).parents[2]
FILES = Path(__file__).parent / "files"


@pytest.fixture(autouse=True)
def places(monkeypatch, tmp_path):
    """An empty cache, no local folder, and neither hub nor package index in reach."""
    monkeypatch.setenv("JAXTUNE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("JAXTUNE_WEIGHTS_DIR", raising=False)

    def unreachable(*arguments, **options):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *a, **o: None)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    use_pip(monkeypatch, Pip(code=1, stderr="ERROR: No matching distribution found"))


@pytest.fixture
def published(tmp_path):
    path = tmp_path / "published.safetensors"
    write_weights(path, {"fc.bias": np.arange(3, dtype=np.float32)})
    return path


def entry_of(file, **changes):
    entry = Entry(
        name="net_tag",
        architecture="net",
        file="net_tag.safetensors",
        licence="mit",
        hub=Hub("timm/net.tag", sha256=sha256_of(file)),
    )
    return dataclasses.replace(entry, **changes)


def serve(monkeypatch, path, *, etag=None):
    """Lets the hub's client find a file; returns the options of each download."""
    downloads = []

    def hf_hub_download(repo, file, **options):
        downloads.append((repo, file, options["revision"], options["force_download"]))
        return str(path)

    remote = types.SimpleNamespace(etag=etag, size=1_500_000)
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", lambda *a, **o: remote)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", hf_hub_download)
    return downloads


class Pip:
    """Does what `pip download --dest` does, from files at hand."""

    def __init__(self, *wheels, code=0, stderr=""):
        self.wheels, self.code, self.stderr = wheels, code, stderr
        self.commands = []

    def __call__(self, command, **options):
        self.commands.append(command)
        for wheel in self.wheels:
            destination = Path(command[command.index("--dest") + 1])
            (destination / wheel.name).write_bytes(wheel.read_bytes())
        return types.SimpleNamespace(
            returncode=self.code, stdout="", stderr=self.stderr
        )


def use_pip(monkeypatch, pip):
    monkeypatch.setattr(
        download, "fetch_wheel", lambda *a, **o: fetch_wheel(*a, **o, run=pip)
    )


def a_wheel(tmp_path, content=b"content"):
    path = tmp_path / "some_data-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data/net.pkl", content)
    return path, Wheel("some-data", "1.0", sha256_of(path), "data/net.pkl")


def visible(folder):
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    return {name for name in names if not name.endswith(".lock")}


def test_cache_folder_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "cache"
    monkeypatch.delenv("JAXTUNE_CACHE_DIR")
    assert cache_dir() == tmp_path / "xdg" / "jaxtune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache_dir() == tmp_path / ".cache" / "jaxtune"
    assert not (tmp_path / "cache").exists()


def test_local_folder_comes_first(monkeypatch, tmp_path, published):
    downloads = serve(monkeypatch, published)
    monkeypatch.setenv("JAXTUNE_WEIGHTS_DIR", str(tmp_path))
    local = published.rename(tmp_path / "net_tag.safetensors")
    file = find_weights(entry_of(local))
    assert file.path == local and "JAXTUNE_WEIGHTS_DIR" in file.source
    assert downloads == [] and not cache_dir().exists()


def test_local_file_of_another_sha256_is_an_error(monkeypatch, tmp_path, published):
    monkeypatch.setenv("JAXTUNE_WEIGHTS_DIR", str(tmp_path))
    entry = entry_of(published, sha256="1" * 64)
    (tmp_path / "net_tag.safetensors").write_bytes(b"altered")
    with pytest.raises(AlteredWeightsError, match="1" * 64):
        find_weights(entry)
    unknown = dataclasses.replace(entry, sha256=None, hub=None)
    assert find_weights(unknown).path == tmp_path / "net_tag.safetensors"


def test_hub_file_stays_in_the_hub_s_cache(monkeypatch, published, capsys):
    downloads = serve(monkeypatch, published)
    file = find_weights(entry_of(published))
    assert file.path == published
    assert file.source == "hub: timm/net.tag, model.safetensors"
    assert downloads == [("timm/net.tag", "model.safetensors", "main", False)]
    assert not cache_dir().exists()
    (line,) = capsys.readouterr().err.splitlines()
    assert "timm/net.tag" in line and "1.5 MB" in line


def test_file_in_the_hub_s_cache_is_compared_and_needs_no_network(
    monkeypatch, tmp_path, published, capsys
):
    def in_hub_cache(path):
        monkeypatch.setattr(
            huggingface_hub, "try_to_load_from_cache", lambda *a, **o: str(path)
        )

    in_hub_cache(published)
    assert find_weights(entry_of(published)).path == published
    altered = tmp_path / "altered"
    altered.write_bytes(b"altered")
    in_hub_cache(altered)
    with pytest.raises(WeightsNotFoundError, match="service not known"):
        find_weights(entry_of(published))
    downloads = serve(monkeypatch, published)
    assert find_weights(entry_of(published)).path == published
    assert downloads == [("timm/net.tag", "model.safetensors", "main", True)]
    assert f"{altered} does not have the sha256" in capsys.readouterr().err


@pytest.mark.parametrize("known_by", ["manifest", "hub"])
def test_altered_download_is_refused(monkeypatch, tmp_path, published, known_by):
    right = sha256_of(published)
    altered = tmp_path / "altered"
    altered.write_bytes(b"altered")
    serve(monkeypatch, altered, etag=right if known_by == "hub" else None)
    in_manifest = right if known_by == "manifest" else None
    entry = entry_of(published, hub=Hub("timm/net.tag", sha256=in_manifest))
    with pytest.raises(WeightsNotFoundError, match=f"AlteredWeightsError.*{right}"):
        find_weights(entry)


def test_another_file_on_the_hub_is_refused_before_the_download(monkeypatch, published):
    downloads = serve(monkeypatch, published, etag="3" * 64)
    with pytest.raises(WeightsNotFoundError, match=f"{'3' * 64} instead of"):
        find_weights(entry_of(published))
    assert downloads == []


@pytest.mark.parametrize("name", ["plain.pkl", "zip.pth", "legacy.pth"])
def test_wheel_is_converted_once_where_the_hub_is_out_of_reach(
    monkeypatch, tmp_path, published, name
):
    path, wheel = a_wheel(tmp_path, (FILES / name).read_bytes())
    pip = Pip(path)
    use_pip(monkeypatch, pip)
    expected = read_weights(FILES / name)
    write_weights(published, expected)
    entry = entry_of(published, wheel=wheel)
    assert find_weights(entry).source == "wheel: some-data 1.0, data/net.pkl"
    file = find_weights(entry)
    assert file.path == cache_dir() / "weights" / "net_tag.safetensors"
    assert "cache" in file.source and len(pip.commands) == 1
    arrays = read_weights(file.path)
    assert arrays.keys() == expected.keys()
    assert all(np.array_equal(arrays[key], expected[key]) for key in expected)
    assert visible(cache_dir() / "weights") == {"net_tag.safetensors"}


@pytest.mark.parametrize("length", [0, 10, -1])
def test_damaged_file_in_the_cache_is_made_again(
    monkeypatch, tmp_path, published, length
):
    content = (FILES / "zip.pth").read_bytes()
    path, wheel = a_wheel(tmp_path, content)
    use_pip(monkeypatch, Pip(path))
    write_weights(published, read_weights(FILES / "zip.pth"))
    entry = entry_of(published, wheel=wheel)
    cached = find_weights(entry).path
    cached.write_bytes(cached.read_bytes()[:length])
    assert find_weights(entry).path == cached
    assert cached.read_bytes() == published.read_bytes()


def test_conversion_of_another_sha256_is_refused_and_not_kept(
    monkeypatch, tmp_path, published
):
    path, wheel = a_wheel(tmp_path, (FILES / "zip.pth").read_bytes())
    use_pip(monkeypatch, Pip(path))
    with pytest.raises(WeightsNotFoundError, match="converted.*instead of"):
        find_weights(entry_of(published, wheel=wheel))
    assert visible(cache_dir() / "weights") == set()


def test_hub_goes_before_the_wheel(monkeypatch, tmp_path, published):
    path, wheel = a_wheel(tmp_path)
    use_pip(monkeypatch, Pip(path))
    serve(monkeypatch, published)
    assert "hub" in find_weights(entry_of(published, wheel=wheel)).source


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch {self.marker}",)


def test_hostile_wheel_never_runs(monkeypatch, tmp_path, published):
    marker = tmp_path / "marker"
    path, wheel = a_wheel(tmp_path, pickle.dumps({"fc.bias": Hostile(marker)}))
    use_pip(monkeypatch, Pip(path))
    with pytest.raises(WeightsNotFoundError, match="UnsafeFileError"):
        find_weights(entry_of(published, wheel=wheel))
    assert not marker.exists() and visible(cache_dir() / "weights") == set()


def test_one_error_lists_all_that_was_tried(monkeypatch, tmp_path, published):
    wheel = Wheel("some-data", "1.0", "2" * 64, "data/net.pkl")
    monkeypatch.setenv("JAXTUNE_WEIGHTS_DIR", str(tmp_path / "mine"))
    with pytest.raises(WeightsNotFoundError) as caught:
        find_weights(entry_of(published, wheel=wheel))
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("net_tag.safetensors was not found")
    assert [line.split(":")[0] for line in lines[1:5]] == [
        "  1. local folder",
        "  2. cache",
        "  3. hub",
        "  4. wheel",
    ]
    assert str(tmp_path / "mine") in lines[1] and str(cache_dir()) in lines[2]
    assert "timm/net.tag" in lines[3] and "Name or service not known" in lines[3]
    assert "some-data 1.0" in lines[4] and "No matching distribution" in lines[4]
    for way_out in ("JAXTUNE_WEIGHTS_DIR", "path", "pretrained=False"):
        assert way_out in lines[5]


def test_config_comes_from_the_local_folder_then_the_hub(monkeypatch, tmp_path):
    with pytest.raises(WeightsNotFoundError, match=r"timm_net\.tag\.config\.json"):
        find_config("timm/net.tag")
    (tmp_path / "came.json").write_text("{}")
    downloads = serve(monkeypatch, tmp_path / "came.json", etag="a" * 40)
    assert find_config("timm/net.tag") == tmp_path / "came.json"
    assert downloads == [("timm/net.tag", "config.json", "main", False)]
    monkeypatch.setenv("JAXTUNE_WEIGHTS_DIR", str(tmp_path))
    (tmp_path / "timm_net.tag.config.json").write_text("{}")
    assert find_config("timm/net.tag").parent == tmp_path


def test_real_weights_of_the_local_folder(monkeypatch, weights_dir):
    monkeypatch.setenv("JAXTUNE_WEIGHTS_DIR", str(weights_dir))
    entry = manifest()["resnet18_imagenet1k_v1"]
    arrays = read_weights(find_weights(entry).path)
    assert len(arrays) == 122 and arrays["fc.weight"].shape == (1000, 512)


def test_wheel_is_fetched_with_pip_and_kept(tmp_path, capsys):
    path, wheel = a_wheel(tmp_path)
    pip = Pip(path)
    for _ in range(2):
        kept = fetch_wheel("some-data", "1.0", wheel.sha256, megabytes=1.5, run=pip)
        assert kept.read_bytes() == path.read_bytes()
    assert kept.parent == cache_dir() / "wheels"
    (command,) = pip.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "--no-input"} <= set(command)
    assert command[-1] == "some-data==1.0"
    (line,) = capsys.readouterr().err.splitlines()
    assert "some-data==1.0" in line and "1.5 MB" in line
    kept.write_bytes(b"altered")
    fetch_wheel("some-data", "1.0", wheel.sha256, run=pip)
    assert kept.read_bytes() == path.read_bytes()


def test_wheel_of_another_sha256_is_refused_and_not_kept(tmp_path):
    path, wheel = a_wheel(tmp_path)
    with pytest.raises(WheelError, match=f"{wheel.sha256} instead of 0.*not opened"):
        fetch_wheel("some-data", "1.0", "0" * 64, folder=tmp_path / "w", run=Pip(path))
    assert visible(tmp_path / "w") == set()


def slow(command, **options):
    raise subprocess.TimeoutExpired(command, options["timeout"])


@pytest.mark.parametrize(
    ("pip", "message"),
    [
        (Pip(code=1, stderr="noise\nERROR: No match\n"), "failed: ERROR: No match"),
        (Pip(code=1, stderr="python: No module named pip"), "ensurepip"),
        (Pip(), "0 wheels"),
        (slow, "longer than"),
    ],
)
def test_failure_of_pip_is_explained(tmp_path, pip, message):
    with pytest.raises(WheelError, match=message):
        fetch_wheel("none", "1.0", "0" * 64, folder=tmp_path, run=pip)


def test_work_folder_is_removed_whatever_happens(tmp_path):
    target = tmp_path / "deep" / "a.bin"
    leftover = target.with_name(".a.bin.partial")
    leftover.mkdir(parents=True)
    (leftover / "half").write_bytes(b"half")
    with pytest.raises(KeyboardInterrupt):
        with work_folder(target) as folder:
            assert folder.parent == target.parent and not list(folder.iterdir())
            (folder / "a.bin").write_bytes(b"half")
            raise KeyboardInterrupt
    assert visible(target.parent) == set()


def test_folder_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="JAXTUNE_CACHE_DIR"):
        fetch_wheel("none", "1.0", "0" * 64, folder=tmp_path / "file", run=Pip())


# A process that imports download.py alone, without jax.
BARE = """
    import json, subprocess, sys, time, types
    from pathlib import Path
    for name in ("jaxtune", "jaxtune.pretrained"):
        module = types.ModuleType(name)
        module.__path__ = [str(Path(sys.argv[1], *name.split(".")))]
        sys.modules[name] = module
    from jaxtune.pretrained.download import fetch_wheel, find_weights
    from jaxtune.pretrained.manifest import Entry, Hub
    assert "huggingface_hub" not in sys.modules
"""
WHEEL = """
    path, sha256, calls, pause = Path(sys.argv[2]), *sys.argv[3:]

    def run(command, **options):
        with open(calls, "a") as file:
            file.write("called\\n")
        destination = Path(command[command.index("--dest") + 1])
        with (destination / path.name).open("wb") as file:
            file.write(path.read_bytes()[:10])
            file.flush()
            time.sleep(float(pause))
            file.write(path.read_bytes()[10:])
        return subprocess.CompletedProcess(command, 0, "", "")

    fetch_wheel("some-data", "1.0", sha256, run=run)
"""


def start(code, *arguments, **environment):
    return subprocess.Popen(
        [
            *(sys.executable, "-c", textwrap.dedent(BARE) + textwrap.dedent(code)),
            *(str(ROOT), *map(str, arguments)),
        ],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_at_once_make_one_whole_file(tmp_path):
    path, wheel = a_wheel(tmp_path)
    calls = tmp_path / "calls"
    processes = [start(WHEEL, path, wheel.sha256, calls, 0.5) for _ in range(2)]
    for process in processes:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert calls.read_text() == "called\n"
    (name,) = visible(cache_dir() / "wheels")
    assert sha256_of(cache_dir() / "wheels" / name) == wheel.sha256


def test_killed_process_leaves_nothing_that_is_taken_for_whole(tmp_path):
    path, wheel = a_wheel(tmp_path)
    process = start(WHEEL, path, wheel.sha256, tmp_path / "calls", 30)
    folder = cache_dir() / "wheels"
    deadline = time.monotonic() + 60
    while not list(folder.glob(".*.partial/*")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    (name,) = visible(folder)
    assert name.endswith(".partial")
    kept = fetch_wheel("some-data", "1.0", wheel.sha256, run=Pip(path))
    assert visible(folder) == {kept.name}
    assert sha256_of(kept) == wheel.sha256


CONTENT = bytes(range(256)) * 500
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class LoopbackHub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        is_there = self.path.endswith("/resolve/main/model.safetensors")
        if not is_there and "/resolve/" + "b" * 40 not in self.path:
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        self.send_header("ETag", f'"{SHA256}"')
        self.send_header("X-Repo-Commit", "b" * 40)
        self.send_header("Content-Length", str(len(CONTENT)))
        self.end_headers()
        if body:
            self.wfile.write(CONTENT)

    def log_message(self, *arguments):
        return


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), LoopbackHub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


FIND = """
    entry = Entry("net_tag", "net", "net_tag.safetensors", None,
                  hub=Hub("timm/net.tag", sys.argv[2]))
    start = time.monotonic()
    try:
        answer = str(find_weights(entry).path)
    except FileNotFoundError as error:
        answer = str(error)
    print(json.dumps([answer, time.monotonic() - start]))
"""


def find(endpoint, tmp_path, file="model.safetensors", **extra):
    environment = {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
    process = start(FIND, file, **(environment | extra))
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    answer, seconds = json.loads(out.splitlines()[-1])
    return answer, err


NO_HUB = "http://127.0.0.1:9"


def test_the_real_client_downloads_once(hub, tmp_path):
    answer, err = find(hub, tmp_path)
    assert Path(answer).read_bytes() == CONTENT
    assert (tmp_path / "home") in Path(answer).parents
    assert "downloading model.safetensors of timm/net.tag" in err and "0.1 MB" in err
    assert find(NO_HUB, tmp_path) == (answer, "")
    Path(answer).resolve().write_bytes(b"damaged")
    answer, err = find(hub, tmp_path)
    assert Path(answer).read_bytes() == CONTENT and "downloading it again" in err


def test_absent_file_is_named(hub, tmp_path):
    answer, _ = find(hub, tmp_path, "other.bin")
    assert "other.bin: EntryNotFoundError" in answer.replace("Remote", "")


def test_no_network_is_known_without_the_client_s_retries(tmp_path):
    answer, err = find(NO_HUB, tmp_path)
    assert "ConnectError" in answer and "Retry" not in err


def test_offline_mode_of_the_hub_is_respected(hub, tmp_path):
    answer, _ = find(hub, tmp_path, HF_HUB_OFFLINE="1")
    assert "OfflineModeIsEnabled" in answer and "HF_HUB_OFFLINE" in answer
