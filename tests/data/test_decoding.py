"""Processes decode the same photos, whatever becomes of them."""

import os
import signal
import subprocess
import sys
import time
import warnings

import numpy as np
import pytest
from PIL import Image
from processes import PLACES

from jaxtune.data import ImageError, Loader, Preparation, decoding, label_items

PREPARATION = Preparation((20, 24), (16, 16))
NUMBER = 40


def write(root):
    rng = np.random.default_rng(0)
    for n in range(NUMBER):
        pixels = rng.integers(0, 256, (30 + n % 5, 40 + n % 7, 3), np.uint8)
        Image.fromarray(pixels).save(root / f"{n:02}.png")
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write(tmp_path_factory.mktemp("photos"))


def loader(root, **options):
    paths = sorted(root.glob("*.png"))
    items = label_items(paths, [n % 3 for n in range(len(paths))])
    options = {"batch_size": 8, "workers": 2, "cache_bytes": 0, "seed": 1} | options
    return Loader(items, PREPARATION, shuffle=True, **options)


@pytest.fixture
def processes(monkeypatch):
    """Two processes that are ready, for all loaders with that many workers."""
    monkeypatch.setattr(decoding, "_shared", decoding._Shared())
    monkeypatch.setattr(decoding, "_FEWEST", 1)
    monkeypatch.setattr(decoding, "_FEWEST_PHOTOS", 1)
    with decoding.decoding_processes(2) as started:
        wait_for(lambda: started._idle.qsize() == 2)
        yield started
    decoding._shared.timer.cancel()
    started.close()


def wait_for(condition, seconds=60.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it took too long"
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def read(processes, source):
    row = np.zeros((16, 16, 3), np.uint8)
    (aspect,) = processes.read(PREPARATION, [source], [row])
    return row, aspect


def same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])


def test_batches_do_not_depend_on_who_decodes(root, processes, monkeypatch):
    expected = list(loader(root, workers=0).batches(3))

    def not_here(self, source):
        raise AssertionError("it is decoded in this process")

    monkeypatch.setattr(Preparation, "__call__", not_here)
    same(loader(root).batches(3), expected)
    same(loader(root, cache_bytes=2**20).batches(3), expected)


def test_photos_are_decoded_while_the_processes_start(root, monkeypatch):
    started = decoding.DecodingProcesses(0)
    image, aspect = read(started, root / "00.png")
    expected, ratio = PREPARATION(root / "00.png")
    np.testing.assert_array_equal(image, expected)
    assert aspect == ratio and not started.pids


def test_a_damaged_photo_is_named_as_without_processes(tmp_path, processes):
    write(tmp_path)
    (tmp_path / "07.png").write_bytes(b"no photo")
    messages = []
    for workers in (0, 2):
        with pytest.raises(ImageError, match=r"07\.png") as caught:
            list(loader(tmp_path, workers=workers))
        messages.append(str(caught.value))
        with pytest.warns(UserWarning, match=r"Skipped a photo.*07\.png"):
            batches = list(loader(tmp_path, workers=workers, on_error="skip"))
        assert sum(batch["mask"].sum() for batch in batches) == NUMBER - 1
    assert messages[0] == messages[1]
    assert len(processes.pids) == 2


def test_a_file_that_is_gone_is_that_error(root, processes):
    assert isinstance(read(processes, root / "none.png")[1], FileNotFoundError)
    assert read(processes, root / "00.png")[0].shape == (16, 16, 3)


def test_relative_paths_are_those_of_this_process(root, processes, monkeypatch):
    image, _ = read(processes, root / "00.png")
    monkeypatch.chdir(root)
    again, _ = read(processes, "00.png")
    np.testing.assert_array_equal(again, image)


def test_a_folder_that_is_gone_does_not_matter(root, processes, tmp_path, monkeypatch):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert read(processes, root / "00.png")[0].any()


def test_a_killed_process_is_named_and_replaced(root, processes):
    expected = list(loader(root, workers=0).batches(1))
    (first, _), batches = processes.pids, []
    with pytest.warns(UserWarning, match=f"process {first},.* by signal 9"):
        for number, batch in enumerate(loader(root).batches(1)):
            if number == 0:
                os.kill(first, signal.SIGKILL)
            batches.append(batch)
        # Where the last batches were decoded already, the next photo tells.
        for _ in range(2):
            read(processes, root / "00.png")
    same(batches, expected)
    wait_for(lambda: processes._idle.qsize() == 2)
    assert first not in processes.pids and len(processes.pids) == 2


def test_they_need_no_jax(processes):
    maps = f"/proc/{processes.pids[0]}/maps"
    if not os.path.exists(maps):
        pytest.skip("the system doesn't say what a process has loaded")
    with open(maps) as file:
        loaded = file.read()
    assert "PIL" in loaded and "jaxlib" not in loaded


def test_nobody_pays_for_processes_that_are_not_used(root, monkeypatch):
    monkeypatch.setattr(decoding, "_shared", decoding._Shared())
    monkeypatch.setattr(decoding, "_IDLE_SECONDS", 0.01)
    with decoding.decoding_processes(1) as started:
        wait_for(lambda: started._idle.qsize() == 1)
        (pid,) = started.pids
        with decoding.decoding_processes(1) as again:
            assert again is started
    wait_for(lambda: not is_running(pid))
    with decoding.decoding_processes(1) as other:
        assert other is not started
        wait_for(lambda: other._idle.qsize() == 1)
    wait_for(lambda: not other.pids)


def test_a_few_photos_or_workers_are_for_threads():
    assert decoding.worth_processes(16, 1000)
    assert not decoding.worth_processes(16, 999)
    assert not decoding.worth_processes(1, 100_000)
    assert not decoding.worth_processes(0, 100_000)


@pytest.mark.parametrize(("name", "value"), [("frozen", True), ("executable", None)])
def test_an_application_without_an_interpreter_has_threads(monkeypatch, name, value):
    monkeypatch.setattr(sys, name, value, raising=False)
    assert not decoding.worth_processes(16, 1000)


#: No `if __name__ == "__main__"`, and run as a script is typed: from standard input.
SCRIPT = """
import sys, time
from pathlib import Path
from jaxtune.data import Loader, Preparation, decoding, label_items
decoding._FEWEST = decoding._FEWEST_PHOTOS = 1
paths = sorted(Path(sys.argv[1]).glob("*.png"))
items = label_items(paths, [0] * len(paths))
loader = Loader(items, Preparation((20, 24), (16, 16)), batch_size=8, workers=2)
with decoding.decoding_processes(2) as started:
    while started._idle.qsize() < 2:
        time.sleep(0.01)
    print(*started.pids, sum(int(b["image"].sum()) for b in loader), flush=True)
    if sys.argv[2] == "wait":
        time.sleep(600)
"""


@pytest.mark.end_to_end
@pytest.mark.parametrize("then", ["end", "wait"])
def test_scripts_need_no_main_and_leave_nothing_behind(root, then):
    """Also where the script itself is killed."""
    running = subprocess.Popen(
        [sys.executable, "-", root, then],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, PLACES))},
    )
    with running:
        running.stdin.write(SCRIPT)
        running.stdin.close()
        *pids, total = map(int, running.stdout.readline().split())
        expected = loader(root, workers=0)
        assert total == sum(int(batch["image"].sum()) for batch in expected)
        if then == "wait":
            assert all(map(is_running, pids))
            running.kill()
    wait_for(lambda: not any(map(is_running, pids)))


def test_threads_decode_where_no_process_starts(root, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        started = decoding.DecodingProcesses(0)
        started._start_one()
        image, _ = read(started, root / "00.png")
    assert image.shape == (16, 16, 3) and not started.pids
