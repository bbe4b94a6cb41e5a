"""The cache: whole or absent, under interruption, alteration and concurrency."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from jaxtune.pretrained.cache import (
    cache_dir,
    cached,
    is_whole,
    locked,
    new_file,
    record_of,
    sha256_of,
)

ROOT = Path(__file__).parents[2]


def writer(text, calls=None):
    def make(temporary):
        if calls is not None:
            calls.append(temporary)
        temporary.write_text(text)
        return "a test"

    return make


def visible(folder):
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_place_comes_from_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("JAXTUNE_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "own"
    monkeypatch.delenv("JAXTUNE_CACHE_DIR")
    assert cache_dir() == tmp_path / "xdg" / "jaxtune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    if sys.platform == "linux":
        assert cache_dir() == tmp_path / ".cache" / "jaxtune"
    assert not (tmp_path / "own").exists()


def test_made_once_and_recorded(tmp_path):
    path, calls = tmp_path / "deep" / "a.bin", []
    for _ in range(2):
        assert cached(path, writer("one", calls)) == path
    assert len(calls) == 1 and calls[0] != path and calls[0].name == "a.bin"
    assert path.read_text() == "one"
    assert record_of(path) == {
        "sha256": sha256_of(path),
        "size": 3,
        "source": "a test",
    }
    assert visible(path.parent) == ["a.bin", "a.bin.record"]


@pytest.mark.parametrize("damage", ["flip", "cut", "record", "no record", "other"])
def test_altered_file_is_made_again(tmp_path, damage, capsys):
    path, calls = tmp_path / "a.bin", []
    cached(path, writer("right", calls))
    record = tmp_path / "a.bin.record"
    match damage:
        case "flip":
            path.write_text("rigat")
        case "cut":
            path.write_text("rig")
        case "record":
            record.write_text("{")
        case "no record":
            record.unlink()
        case "other":
            record.write_text(json.dumps([1]))
    assert not is_whole(path)
    assert cached(path, writer("right", calls)).read_text() == "right"
    assert len(calls) == 2 and is_whole(path)
    assert ("altered" in capsys.readouterr().err) == (damage in ("flip", "cut"))


def test_interrupted_writing_leaves_nothing(tmp_path):
    path = tmp_path / "a.bin"

    def interrupted(temporary):
        temporary.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached(path, interrupted)
    assert visible(tmp_path) == []
    assert cached(path, writer("whole")).read_text() == "whole"


def test_new_file_keeps_the_old_one_until_the_new_is_whole(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="stop"):
        with new_file(path) as temporary:
            temporary.write_text("new")
            raise ValueError("stop")
    assert path.read_text() == "old" and visible(tmp_path) == ["a.txt"]
    with new_file(path) as temporary:
        temporary.write_text("new")
        temporary.chmod(0o600)
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


def test_new_file_that_was_never_written_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        with new_file(tmp_path / "a.txt"):
            pass
    assert visible(tmp_path) == []


PROCESS = """
    import importlib.util, sys, time, types
    from pathlib import Path
    for name in ("jaxtune", "jaxtune.pretrained"):
        module = types.ModuleType(name)
        module.__path__ = [str(Path(sys.argv[1], *name.split(".")))]
        sys.modules[name] = module
    from jaxtune.pretrained.cache import cached

    target, calls = Path(sys.argv[2]), Path(sys.argv[3])

    def make(temporary):
        with calls.open("a") as file:
            file.write("made\\n")
        with temporary.open("wb") as file:
            for part in range(8):
                file.write(bytes([part]) * 10000)
                file.flush()
                time.sleep(float(sys.argv[4]))
        return "a process"

    print(cached(target, make).stat().st_size)
"""


def start(tmp_path, pause):
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(PROCESS),
            str(ROOT),
            str(tmp_path / "cache" / "a.bin"),
            str(tmp_path / "calls"),
            str(pause),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_at_once_make_one_whole_file(tmp_path):
    processes = [start(tmp_path, 0.1) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out.strip()) == (0, "80000"), err
    assert (tmp_path / "calls").read_text() == "made\n"
    assert is_whole(tmp_path / "cache" / "a.bin")


def test_killed_process_leaves_nothing_that_is_taken_for_whole(tmp_path):
    process = start(tmp_path, 30)
    cache = tmp_path / "cache"
    deadline = time.monotonic() + 60
    while not list(cache.glob(".*.partial/a.bin")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert list(cache.glob(".*.partial")) and not (cache / "a.bin").exists()
    assert not is_whole(cache / "a.bin")
    assert cached(cache / "a.bin", writer("whole")).read_text() == "whole"
    assert visible(cache) == ["a.bin", "a.bin.record"]


def test_lock_held_too_long_says_what_to_do(tmp_path):
    path = tmp_path / "a.bin"
    with locked(path):
        with pytest.raises(TimeoutError, match="JAXTUNE_CACHE_DIR"):
            with locked(path, timeout=0.1):
                pass


def test_folder_that_cannot_be_made_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="JAXTUNE_CACHE_DIR"):
        cached(tmp_path / "file" / "a.bin", writer("x"))
