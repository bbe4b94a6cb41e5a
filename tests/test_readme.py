"""What the README shows is what the program does."""

import dataclasses
import functools
import pickle
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from photos import make_photos, tiny_resnet

import jaxtune
from jaxtune import (
    ImageDataLoaders,
    create_cnn_model,
    error_rate,
    vision_learner,
)
from jaxtune.transfer import ConcatPool

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
    # It goes on to a program for every platform.
    exec(compile(block("jax.export"), "README.md", "exec"), names)
    assert names["exported"].platforms == ("cpu", "cuda", "tpu")


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


def questions() -> list[tuple[str, str]]:
    """Each question of the README with its listing."""
    section = README[README.index("## Questions") :].split("\n## ", 2)[0]
    parts = re.split(r"^\*\*(.*?)\*\*", section, flags=re.MULTILINE)[1:]
    found = []
    for question, answer in zip(parts[::2], parts[1::2], strict=True):
        (code,) = re.findall(r"```python\n(.*?)```", answer, re.DOTALL)
        found.append((question, code))
    return found


class OwnNetwork(nnx.Module):
    """A network that the library has never heard of."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.blocks = nnx.Conv(8, 16, (3, 3), strides=2, rngs=rngs)
        self.fc = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        return self.fc(nnx.relu(self.blocks(nnx.relu(self.stem(x)))).mean((1, 2)))


def test_every_question_is_answered_by_its_listing(tmp_path, monkeypatch, capsys):
    photos = make_photos(tmp_path / "photos", train=16, valid=4)
    data = ImageDataLoaders.from_folder(photos, size=32, batch_size=8, seed=0)
    model = vision_learner(data, tiny_resnet, metrics=error_rate)
    names = {name: getattr(jaxtune, name) for name in dir(jaxtune) if name[0] != "_"}
    names |= {"jax": jax, "jnp": jnp, "nnx": nnx, "dataclasses": dataclasses}
    names |= {"data": data, "model": model, "ConcatPool": ConcatPool}
    names |= {"pickle": pickle}
    names |= {"photo": next(photos.rglob("*.png"))}
    names |= {"my_network": OwnNetwork(rngs=nnx.Rngs(0))}
    rows = [f"{p.relative_to(photos)},{p.parent.name}é" for p in photos.rglob("*.png")]
    text = "\n".join(["photo,kind", *rows])
    (photos / "labels.csv").write_text(text, encoding="cp1252")
    images = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3))
    names |= {"images": images.astype(np.uint8), "one_hot": np.eye(3)[[0, 1, 2] * 4]}
    names["my_body"] = jaxtune.create_body(OwnNetwork(rngs=nnx.Rngs(0)), "blocks")
    # Only of its own architectures does a checkpoint say how to build the network.
    as_it_was = create_cnn_model(tiny_resnet, 3, rngs=nnx.Rngs(0))
    names["continue_from"] = functools.partial(jaxtune.continue_from, module=as_it_was)
    monkeypatch.chdir(tmp_path)
    printed = {}
    for question, code in questions():
        exec(compile(code, f"README.md, {question}", "exec"), names)
        printed[question] = capsys.readouterr().out
    assert len(printed) == 27
    said = {
        "Which layers": "('early', 'late')\n",
        "Does a fit": "phase 1: 1 epoch, 6 steps; early, late frozen",
        "How many epochs": "1 1 ",
        "Do `save()`": "phase 3, early frozen, as saved",
        "What does `slice": "(1e-05, 0.0001, 0.001)\n(0.0001, 0.0001, 0.001)\n",
        "Can F1": "f1_score  roc_auc_score  found_classes",
        "What is gradual": "phase 2/3 · late, head only",
        "How do I predict a whole": "macro avg",
        "I have new photos": "early frozen, as in phase 3",
        "My network": "after 'blocks'",
        "Are all my photos": "60 photos were decoded; 0 can't be read.\nTrue []\n",
        "My labels": "single ('0', '1', '2')\n",
        "How do I feed": "(7, 7, 4, 64)\n",
        "What is in the new head": "\n1024\n546304\n",
    }
    for start, text in said.items():
        (found,) = (out for q, out in printed.items() if q.startswith(start))
        assert text in found, start
