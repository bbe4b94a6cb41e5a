import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from jaxtune.checkpoint import (
    RunFolder,
    RunMismatchError,
    checkpoint_numbers,
    environment,
    find_checkpoint,
    is_run,
    load_checkpoint,
    load_meta,
    read_run,
    save_checkpoint,
)
from jaxtune.checkpoint.run import check_recipe

RECIPE = {
    "phases": [{"epochs": 1, "rates": [1e-3, 1e-2]}, {"epochs": 2, "rates": (1, 2)}],
    "data": {"photos": 96, "size": (16, 16)},
    "start": "abc",
}
SAVED = json.loads(json.dumps(RECIPE))
MADE = {"jax": "0.10", "device": "cpu", "devices": 1}


def open_run(path, recipe=RECIPE, made_with=MADE, **options):
    return RunFolder(path, recipe, made_with=made_with, **options)


def tree(value):
    return nnx.State({"body": {"weight": jnp.full((3,), float(value))}})


def save(folder, number, loss=None, **options):
    folder.save(
        number,
        params=tree(number),
        model_state=nnx.State({}),
        opt_state={"count": jnp.int32(number)},
        meta={"number": number},
        valid_loss=loss,
        **options,
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "runs" / "pets"


def test_latest_and_best_stay_and_the_others_go(path):
    with open_run(path) as folder:
        assert folder.latest is None
        for number, loss in enumerate([None, 0.5, None, 0.3, 0.4, None, math.nan]):
            save(folder, number, loss)
        folder.wait()
        assert list(folder) == [3, 6]
    assert find_checkpoint(path).name == "6"
    assert find_checkpoint(path, "best").name == "3"
    assert load_meta(find_checkpoint(path, "best"))["valid_loss"] == 0.3
    params, _ = load_checkpoint(
        find_checkpoint(path), params=tree(0), model_state=nnx.State({})
    )
    np.testing.assert_array_equal(params["body"]["weight"], [6.0, 6.0, 6.0])


def test_best_outlives_the_process(path):
    with open_run(path) as folder:
        save(folder, 1, 0.3)
        save(folder, 2, 0.4)
    with open_run(path) as folder:
        save(folder, 3, 0.5, wait=True)
        assert list(folder) == [1, 3]
        save(folder, 4, 0.2, wait=True)
        assert list(folder) == [4]


def test_what_a_killed_process_leaves_is_no_checkpoint_and_is_removed(path):
    with open_run(path) as folder:
        save(folder, 1, 0.3)
    checkpoints = path / "checkpoints"
    half = [checkpoints / name for name in ("2.orbax-checkpoint-tmp", ".removed-0")]
    for entry in half:
        (entry / "params").mkdir(parents=True)
    (checkpoints / "3").mkdir()
    assert checkpoint_numbers(path) == [1]
    with open_run(path) as folder:
        assert folder.latest == checkpoints / "1"
        assert not any(entry.exists() for entry in half)


def test_another_recipe_is_refused_and_nothing_is_lost(path):
    with open_run(path) as folder:
        save(folder, 1)
    other = {**RECIPE, "data": {"photos": 97, "size": (16, 16)}}
    with pytest.raises(RunMismatchError, match="data.photos: 96 in the folder, 97 now"):
        open_run(path, other)
    with open_run(path) as folder:
        assert list(folder) == [1]


def test_what_it_was_begun_with_is_remembered(path):
    open_run(path).close()
    with open_run(path, {**RECIPE, "start": "def"}, made_with={"jax": "9"}) as folder:
        assert folder.begun_with == MADE


def test_a_folder_of_something_else_is_left_alone(path):
    path.mkdir(parents=True)
    (path / "thesis.tex").write_text("years of work")
    with pytest.raises(FileExistsError, match=r"thesis\.tex.*choose another folder"):
        open_run(path)
    assert os.listdir(path) == ["thesis.tex"]
    (path / "run.json").write_text("[1, 2")
    with pytest.raises(FileExistsError, match="not a jaxtune run's"):
        open_run(path)
    file = path / "file"
    file.write_text("")
    with pytest.raises(FileExistsError, match="is a file"):
        open_run(file)


def test_one_process_at_a_time(path):
    with open_run(path):
        code = (
            "import sys; from jaxtune.checkpoint import RunFolder\n"
            "try: RunFolder(sys.argv[1], {'a': 1}, made_with={})\n"
            "except Exception as error: print(type(error).__name__, error)"
        )
        other = [sys.executable, "-c", code.replace("{'a': 1}", repr(RECIPE))]
        answer = subprocess.run(
            [*other, str(path)], capture_output=True, text=True, check=True
        )
        assert answer.stdout.startswith("BlockingIOError another process trains in")
    open_run(path).close()


def test_when_a_checkpoint_is_due(path):
    with open_run(path, save_every=0) as folder:
        assert folder.is_due
        save(folder, 1, wait=True)
        assert folder.is_due
    with open_run(path, save_every=1000) as folder:
        assert not folder.is_due
    with pytest.raises(ValueError, match="save_every is seconds"):
        open_run(path, save_every=-1)


def test_a_checkpoint_that_cannot_be_written_is_said(path):
    with open_run(path) as folder:
        save(folder, 1, wait=True)
        (path / "checkpoints").rename(path / "aside")
        (path / "checkpoints").write_text("in the way")
        save(folder, 2)
        with pytest.raises(OSError, match="checkpoints"):
            folder.wait()
        (path / "checkpoints").unlink()
        (path / "aside").rename(path / "checkpoints")
        save(folder, 3, wait=True)
        assert list(folder) == [3]


def test_what_a_run_says_of_itself(path, tmp_path):
    open_run(path).close()
    assert is_run(path) and not is_run(tmp_path)
    record = read_run(path)
    assert record["made_with"] == MADE
    assert record["recipe"]["data"] == {"photos": 96, "size": [16, 16]}
    with pytest.raises(FileNotFoundError, match="there is no run in"):
        read_run(tmp_path)


def test_which_checkpoint(path, tmp_path):
    open_run(path).close()
    with pytest.raises(FileNotFoundError, match="nothing was saved"):
        find_checkpoint(path)
    with open_run(path) as folder:
        save(folder, 1)
    with pytest.raises(FileNotFoundError, match="no epoch is finished"):
        find_checkpoint(path, "best")
    with pytest.raises(ValueError, match="which must be 'latest' or 'best'"):
        find_checkpoint(path, "newest")
    plain = save_checkpoint(
        tmp_path / "plain", params=tree(0), model_state=nnx.State({}), meta={}
    )
    assert find_checkpoint(plain) == plain
    with pytest.raises(ValueError, match="is no run: leave which out"):
        find_checkpoint(plain, "best")


# The recipe.


def check(recipe, made_with=MADE):
    check_recipe(
        Path("runs/pets"), {"recipe": SAVED, "made_with": MADE}, recipe, made_with
    )


def test_the_difference_names_both_sides():
    other = json.loads(json.dumps(SAVED))
    check(other)
    other["phases"][1]["epochs"] = 5
    other["data"]["photos"] = 97
    other["data"]["seed"] = 3
    del other["data"]["size"]
    with pytest.raises(RunMismatchError) as caught:
        check(other)
    text = str(caught.value)
    assert text.startswith("runs/pets holds a run of another recipe")
    assert "phases.2.epochs: 2 in the folder, 5 now" in text
    assert "data.photos: 96 in the folder, 97 now" in text
    assert "data.seed: nothing in the folder, 3 now" in text
    assert "data.size: [16, 16] in the folder, nothing now" in text
    assert "phases.1" not in text and "choose another folder" in text


def test_a_long_difference_is_cut_short():
    many = {**SAVED, **{f"option{i}": i for i in range(30)}}
    with pytest.raises(RunMismatchError, match="… and 10 more"):
        check(many)


def test_the_first_values_count_on_the_machine_that_began():
    other = {**SAVED, "start": "def"}
    with pytest.raises(RunMismatchError, match='start: "abc" in the folder, "def" now'):
        check(other)
    check(other, {**MADE, "jax": "0.12"})


def test_the_machine_is_described():
    described = environment()
    assert (
        described["jax"] == jax.__version__
        and described["devices"] == jax.device_count()
    )
