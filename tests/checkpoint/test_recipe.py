import json
import os
from pathlib import Path

import jax
import pytest

from jaxtune.checkpoint import RunMismatchError, environment, write_json
from jaxtune.checkpoint.recipe import check_recipe

MADE = {"jax": "0.10", "device": "cpu", "devices": 1}
RECIPE = {
    "phases": [{"epochs": 1, "rates": [1e-3, 1e-2]}, {"epochs": 2, "rates": [1, 2]}],
    "data": {"photos": 96, "size": [16, 16]},
    "start": "abc",
}
HELD = {"recipe": RECIPE, "made_with": MADE}


def check(recipe, made_with=MADE):
    check_recipe(Path("runs/pets"), HELD, recipe, made_with)


def test_the_difference_names_both_sides():
    other = json.loads(json.dumps(RECIPE))
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
    many = {**RECIPE, **{f"option{i}": i for i in range(30)}}
    with pytest.raises(RunMismatchError, match="… and 10 more"):
        check(many)


def test_the_first_values_count_on_the_machine_that_began():
    other = {**RECIPE, "start": "def"}
    with pytest.raises(RunMismatchError, match='start: "abc" in the folder, "def" now'):
        check(other)
    check(other, {**MADE, "jax": "0.12"})


def test_the_machine_is_described():
    found = environment()
    assert found["jax"] == jax.__version__ and found["devices"] == jax.device_count()


def test_a_file_of_json_is_whole_or_absent(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": [1, None]})
    assert json.loads(path.read_text()) == {"a": [1, None]}
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": [1, None]}
    assert [name for name in os.listdir(tmp_path) if name[0] != "."] == ["a.json"]
