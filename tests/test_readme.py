"""What the README shows is what the program does."""

import re
from pathlib import Path

import jax.numpy as jnp
import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def block(start: str) -> str:
    return next(code for code in BLOCKS if start in code)


def test_it_opens_with_the_two_commands():
    commands = re.findall(r"^    (.*)$", README, re.MULTILINE)
    assert commands[:2] == [
        "pip install . && jaxtune fine-tune --demo",
        'pip install ".[test]" && pytest',
    ]


def test_the_pure_listing_runs(weights_dir):
    batch = {"image": jnp.zeros((4, 32, 32, 3)), "label": jnp.arange(4)}
    names = {"batch": batch}
    exec(compile(block("make_train_step"), "README.md", "exec"), names)
    assert int(names["state"].step) == 1
    assert bool(jnp.isfinite(names["metrics"]["loss"]))


@pytest.mark.slow
def test_the_first_listing_runs(weights_dir, data_dir, tmp_path, monkeypatch):
    (tmp_path / "flowers5").symlink_to(data_dir / "flowers5")
    photo = next((data_dir / "flowers5" / "valid" / "tulip").iterdir())
    (tmp_path / "photo.jpg").symlink_to(photo)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    code = block("ImageDataLoaders.from_folder")
    exec(compile(code, "README.md", "exec"), names)
    assert names["history"][-1].metrics["error_rate"] < 0.2


def test_every_dependency_has_its_reason():
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)\]", project, re.DOTALL | re.MULTILINE)
    names = re.findall(r'"([a-z0-9-]+)', listed.group(1))
    table = README[README.index("## DEPENDENCIES") :]
    assert names and all(f"| {name} | " in table for name in names)
