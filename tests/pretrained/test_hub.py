"""The hub's client against a hub of ours on the loopback, in a process of its own."""

import hashlib
import http.server
import json
import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTENT = bytes(range(256)) * 500
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CONFIG = b'{"num_classes": 3}'


class Hub(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        large = self.path.endswith("/resolve/main/model.safetensors")
        if not large and not self.path.endswith("/resolve/main/config.json"):
            self.send_response(404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = CONTENT if large else CONFIG
        self.send_response(200)
        self.send_header("ETag", f'"{SHA256 if large else "a" * 40}"')
        self.send_header("X-Repo-Commit", "b" * 40)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *arguments):
        return


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


PROCESS = """
    import json, sys, time, types
    from pathlib import Path
    for name in ("jaxtune", "jaxtune.pretrained"):
        module = types.ModuleType(name)
        module.__path__ = [str(Path(sys.argv[1], *name.split(".")))]
        sys.modules[name] = module
    from jaxtune.pretrained.hub import fetch_from_hub

    assert "huggingface_hub" not in sys.modules
    folder = Path(sys.argv[2])
    folder.mkdir(exist_ok=True)
    start = time.monotonic()
    try:
        came = fetch_from_hub("timm/net.tag", sys.argv[3], folder=folder)
        print(json.dumps([str(came.path), came.sha256]))
    except Exception as error:
        print(json.dumps([type(error).__name__, time.monotonic() - start]))
"""


def fetch(endpoint, tmp_path, file, **extra):
    environment = os.environ | {
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
        **extra,
    }
    done = subprocess.run(
        [
            *(sys.executable, "-c", textwrap.dedent(PROCESS)),
            *(str(ROOT), str(tmp_path / "out"), file),
        ],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def test_fetches_with_the_hub_s_sha256_and_one_plain_line(hub, tmp_path):
    (path, sha256), err = fetch(hub, tmp_path, "model.safetensors")
    assert Path(path).read_bytes() == CONTENT
    assert Path(path).parent == tmp_path / "out"
    assert sha256 == SHA256
    (line,) = err.strip().splitlines()
    assert "timm/net.tag" in line and "0.1 MB" in line and str(tmp_path) in line


def test_on_a_terminal_the_bytes_are_shown(hub, tmp_path):
    _, err = fetch(hub, tmp_path, "model.safetensors", FORCE_COLOR="1", TERM="xterm")
    assert "128.0/128.0 kB" in err


def test_small_files_have_no_sha256(hub, tmp_path):
    (path, sha256), _ = fetch(hub, tmp_path, "config.json")
    assert Path(path).read_bytes() == CONFIG and sha256 is None


def test_absent_file_is_an_error(hub, tmp_path):
    (name, _), _ = fetch(hub, tmp_path, "other.bin")
    assert name.endswith("EntryNotFoundError")


def test_hub_s_own_cache_needs_no_network(tmp_path):
    repo = tmp_path / "home" / "hub" / "models--timm--net.tag"
    for folder in ("blobs", "refs", "snapshots/" + "b" * 40):
        (repo / folder).mkdir(parents=True)
    (repo / "blobs" / SHA256).write_bytes(CONTENT)
    (repo / "refs" / "main").write_text("b" * 40)
    link = repo / "snapshots" / ("b" * 40) / "model.safetensors"
    link.symlink_to(Path("../../blobs") / SHA256)
    found, _ = fetch("http://127.0.0.1:9", tmp_path, "model.safetensors")
    assert found == [str(tmp_path / "out" / "model.safetensors"), SHA256]


def test_no_network_is_known_without_the_client_s_retries(tmp_path):
    (name, _), err = fetch("http://127.0.0.1:9", tmp_path, "model.safetensors")
    assert name == "ConnectError"
    assert "Retry" not in err
