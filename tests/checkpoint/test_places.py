"""Runs and checkpoints in Google Cloud Storage, which an emulator stands in for."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
import runs
from photos import make_photos
from processes import Together, run_script
from storage import emulated_storage

from jaxtune import SaveBest
from jaxtune.checkpoint import place_of
from jaxtune.checkpoint.places import in_storage


def test_a_path_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert place_of("runs/a") == tmp_path / "runs" / "a"
    assert place_of("~") == Path.home() and place_of(tmp_path) == tmp_path
    assert not in_storage(place_of("runs/a"))


def test_a_url_is_a_place_in_storage():
    pytest.importorskip("gcsfs")
    place = place_of("gs://bucket/runs/pets")
    assert in_storage(place) and str(place / "1") == "gs://bucket/runs/pets/1"
    assert place_of(Path("gs://bucket/runs/pets")) == place == place_of(place)


def test_another_url_is_refused_before_a_folder_of_its_name_is_made():
    with pytest.raises(ValueError, match=r"run is 's3://bucket/x': a folder is needed"):
        place_of("s3://bucket/x", "run")


def test_storage_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "jaxtune\[gcs\]"'):
        place_of("gs://bucket/x")


def test_what_would_replace_a_checkpoint_in_storage_is_refused_at_once(root):
    pytest.importorskip("gcsfs")
    model = runs.make_learner(root, verbose=False)
    with pytest.raises(ValueError, match=r"gs://bucket/a is in storage, .* with run="):
        model.fine_tune(1, callbacks=SaveBest("gs://bucket/a"))
    with pytest.raises(ValueError, match="a path of its own"):
        model.save("gs://bucket/a", overwrite=True)
    assert len(model.history) == 0


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), train=8, valid=4)


@pytest.fixture(scope="module")
def storage():
    for name in ("gcsfs", "gcp_storage_emulator"):
        pytest.importorskip(name)
    with emulated_storage() as variables:
        yield variables


RUN = """
import json
import os
import sys

import runs
from jaxtune import LambdaCallback
from jaxtune.checkpoint import checkpoint_numbers, inspect_checkpoint, place_of

root, run, stop = sys.argv[1:]
seen = []


def end(epoch, logs):
    seen.append(epoch)
    if len(seen) == int(stop):
        # The checkpoint of the epoch before is whole; this one's isn't begun.
        os._exit(7)


model = runs.make_learner(root, verbose=False)
history = model.fine_tune(
    3, 1e-2, freeze_epochs=1, run=run, save_every=0,
    callbacks=LambdaCallback(on_epoch_end=end),
)
again = runs.make_learner(root, verbose=False)
again.load(run)
contents = inspect_checkpoint(f"{run}/checkpoints/{max(checkpoint_numbers(run))}")
names = sorted(entry.name for entry in place_of(run).iterdir())
print(json.dumps([
    runs.bits(model), runs.figures(model.history), len(seen),
    runs.bits(again) == runs.bits(model) and again.validate() == model.validate(),
    sorted({name[0] for name in contents.leaves}),
    len(checkpoint_numbers(run)) <= 2,
    [name for name in names if not name.startswith(".")],
    (place_of(run) / "checkpoints" / "999").exists(),
]))
"""


def outcome(root, run, stop=0, **environment):
    return json.loads(run_script(RUN, root, run, stop, **environment).splitlines()[-1])


@pytest.mark.end_to_end
def test_a_run_in_storage_is_resumed_bit_for_bit(root, storage, tmp_path):
    expected = outcome(root, tmp_path / "run")
    run = "gs://bucket/runs/pets"
    with pytest.raises(AssertionError):
        outcome(root, run, 3, **storage)
    look = (
        "import sys\n"
        "from jaxtune.checkpoint import checkpoint_numbers, place_of\n"
        "run = place_of(sys.argv[1])\n"
        "numbers = checkpoint_numbers(run)\n"
        "half = run / 'checkpoints' / '999' / '_CHECKPOINT_METADATA'\n"
        "half.write_text('{}')\n"
        "print(numbers, checkpoint_numbers(run) == numbers)"
    )
    said = run_script(look, run, **storage).splitlines()[-1]
    assert said.endswith("] True") and not said.startswith("[]")
    found = outcome(root, run, **storage)
    # It went on after the two epochs that were saved.
    assert expected.pop(2) == 4 and found.pop(2) == 2
    assert found == expected
    assert not os.path.exists("gs:")


TOGETHER = """
import sys

import jax

place, count, number, root, run = sys.argv[1:]
jax.distributed.initialize(place, int(count), int(number))
import runs

model = runs.make_learner(root, verbose=False)
model.fine_tune(1, 1e-2, freeze_epochs=1, run=run, save_every=0)
print(runs.bits(model), len(model.history))
"""


@pytest.mark.end_to_end
def test_two_processes_save_a_run_in_storage_together(root, storage, monkeypatch):
    for name, value in storage.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):
        # The second time there is nothing left to do.
        with Together(TOGETHER, 2, root, "gs://bucket/runs/two") as processes:
            first, second = (x.said.splitlines()[-1] for x in processes.ends())
        assert first == second and first.endswith(" 2")
