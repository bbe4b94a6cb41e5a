"""The benchmarks run, small; what they measure is never asserted here."""

import ast
import importlib
import json
import sys
from pathlib import Path

import pytest
from photos import make_photos, tiny_resnet

import jaxtune

FOLDER = Path(__file__).parents[1] / "benchmarks"
# Behind everything else: jaxtune itself is the installed one.
sys.path.append(str(FOLDER.parent))
gpu, input, measure, step = (
    importlib.import_module(f"benchmarks.{name}")
    for name in ("gpu", "input", "measure", "step")
)
SCRIPTS = ["accuracy", "checkpoint", "compile", "fine_tune", "gpu", "input", "step"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_each_says_what_it_measures_and_how_to_run_it(name):
    text = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    assert f"python -m benchmarks.{name}" in text
    assert "One line of JSON" in text or "one line of JSON" in text


def test_calls_take_turns_and_the_first_round_is_not_counted():
    order = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    times = measure.in_turn(calls, rounds=2, least=0.0)
    assert [len(found) for found in times.values()] == [2, 2]
    # Once to warm up; then, in each round, once to warm up and once for the clock.
    assert "".join(order) == "ab" + "aabb" * 2


def test_a_ratio_is_taken_within_each_round():
    figures = measure.ratio([1.0, 4.0, 3.0], [2.0, 4.0, 1.0])
    assert figures == {"ratio": 1.0, "spread": [0.5, 3.0]}
    assert measure.table(["a", "b"], [[1, "x"]]) == "| a | b |\n|---|---|\n| 1 | x |"


@pytest.fixture
def tiny(monkeypatch):
    """An architecture of the scripts' `--arch` that compiles soon."""
    monkeypatch.setattr(jaxtune, "tiny_resnet", tiny_resnet, raising=False)
    return "tiny_resnet"


def test_the_gpu_script_runs_small_without_one(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAXTUNE_ONEDNN", "0")
    photos = make_photos(tmp_path, train=8)
    rows = gpu.main(
        f"--arch {tiny} --batch 4 --size 32 --precision float32 --rounds 1 --steps 1 "
        f"--side 64 --copy 1 --no-torch --data {photos}".split()
    )
    assert [(row["case"], row["who"]) for row in rows] == [
        (case, who)
        for case in ("frozen", "unfrozen")
        for who in ("jaxtune", "jaxtune, with input")
    ]
    assert all(row["images_per_second"] > 0 for row in rows)
    assert all(0 < row["share_of_roofline"] for row in rows)
    lines = capsys.readouterr().out.splitlines()
    first = json.loads(lines[0])
    assert first["case"] == "frozen" and first["versions"]["jax"]
    assert lines[-6].startswith("| case | who |")


def test_our_step_of_each_case_is_a_step(tiny):
    batch = step.arrays(2, 32)
    predict = step.ours(tiny, "inference", batch)
    assert predict().shape == (2, step.CLASSES)
    frozen = step.ours(tiny, "frozen", batch)
    assert frozen() > 0 and frozen() > 0


def test_an_epoch_of_input_gives_the_last_batch(tmp_path):
    photos = make_photos(tmp_path, train=8)
    epoch, data = input.ours(photos, 32, 4, cached=True)
    assert epoch().shape[0] == 4
    assert data.train_loader.cached_bytes > 0
    uncached, data = input.ours(photos, 32, 4, cached=False)
    assert uncached().shape[0] == 4
    assert data.train_loader.cached_bytes == 0
