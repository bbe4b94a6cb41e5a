"""What the README and the pages beside the code show is what the program does."""

import dataclasses
import functools
import pickle
import re
import shlex
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import typer
from flax import nnx
from photos import make_photos, tiny_resnet
from PIL import Image

import jaxtune
from jaxtune import (
    ImageDataLoaders,
    create_cnn_model,
    error_rate,
    save_checkpoint,
    split_module,
    vision_learner,
)
from jaxtune.cli import app
from jaxtune.transfer import ConcatPool

ROOT = Path(__file__).parents[1]
README = "README.md"
FOLDERS = ("benchmarks", "examples", "jaxtune", "tests", "weights")
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*.md")
)
TEXTS = {page: (ROOT / page).read_text() for page in [README, *PAGES]}
#: Pages whose listings are run by the functions below, and in another file.
RUN_HERE = {
    README,
    "jaxtune/QUESTIONS.md",
    "jaxtune/inspect/README.md",
    "jaxtune/loop/README.md",
    "jaxtune/results/README.md",
    "jaxtune/train/README.md",
    "jaxtune/transfer/README.md",
}
RUN_ELSEWHERE = {"jaxtune/checkpoint/FORMAT.md": "tests/checkpoint/test_format.py"}


def listings(page: str) -> list[str]:
    """Returns a page's listings in Python."""
    return re.findall(r"^```python\n(.*?)^```", TEXTS[page], re.DOTALL | re.MULTILINE)


def commands(page: str) -> list[str]:
    """Returns a page's lines for a shell."""
    return re.findall(r"^    (.*)$", TEXTS[page], re.MULTILINE)


def prose(page: str) -> str:
    """Returns a page without its listings and code."""
    text = re.sub(r"^```.*?^```", "", TEXTS[page], flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^    .*$", "", text, flags=re.MULTILINE))


def links(page: str) -> list[str]:
    """Returns where a page's links and pictures lead to in the repository."""
    targets = re.findall(r"\]\(([^)\s]+)\)", prose(page))
    return [target for target in targets if "://" not in target]


def anchors(page: str) -> set[str]:
    """Returns the anchors that GitHub gives to a page's headings."""
    text = re.sub(r"^```.*?^```", "", TEXTS[page], flags=re.DOTALL | re.MULTILINE)
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        repeated = [each for each in found if re.sub(r"-\d+$", "", each) == name]
        found.add(f"{name}-{len(repeated)}" if repeated else name)
    return found


def target(page: str, link: str) -> str:
    """Returns the file that a page's link leads to, as a path in the repository."""
    path = (ROOT / page).parent / link.split("#")[0] if link[0] != "#" else ROOT / page
    return path.resolve().relative_to(ROOT.resolve()).as_posix()


def run(page: str, names: dict) -> None:
    """Runs a page's listings one after the other, in the same names."""
    for code in listings(page):
        exec(compile(code, page, "exec"), names)


def test_it_opens_with_the_two_commands():
    assert commands(README)[:2] == [
        "pip install . && jaxtune fine-tune --demo",
        'pip install ".[test]" && pytest',
    ]


def test_it_is_read_in_ten_minutes_and_fine_tune_is_on_the_first_screen():
    lines = TEXTS[README].splitlines()
    assert len(lines) < 250
    assert any("model.fine_tune(" in line for line in lines[:40])


def test_each_page_is_linked_from_it_exactly_once():
    targets = [target(README, link) for link in links(README)]
    assert PAGES
    assert sorted(page for page in targets if page.endswith(".md")) == sorted(
        # A link to one of its own headings leads to no other page.
        PAGES + [README] * targets.count(README)
    )


@pytest.mark.parametrize("page", TEXTS)
def test_links_and_anchors_lead_somewhere(page):
    for link in links(page):
        to = target(page, link)
        assert (ROOT / to).exists(), link
        if "#" in link:
            assert link.split("#")[1] in anchors(to), link


@pytest.mark.parametrize("page", TEXTS)
def test_modules_and_scripts_that_are_named_are_there(page):
    for name in re.findall(r"python -m (benchmarks\.\w+)", TEXTS[page]):
        assert (ROOT / f"{name.replace('.', '/')}.py").exists(), name
    for name in re.findall(r"examples/[\w/]+\.py", TEXTS[page]):
        assert (ROOT / name).exists(), name


def test_commands_have_the_options_that_are_shown():
    group = typer.main.get_command(app)
    shown = [
        shlex.split(line.split(" && ")[-1])[1:]
        for page in TEXTS
        for line in commands(page)
        if line.split(" && ")[-1].startswith("jaxtune ")
    ]
    assert len(shown) == 5
    for name, *arguments in shown:
        # Parses, runs nothing, and raises where there is no such option.
        group.commands[name].make_context(name, arguments)


def test_every_listing_is_run_by_a_test():
    assert {page for page in TEXTS if listings(page)} == RUN_HERE | set(RUN_ELSEWHERE)
    for page, tests in RUN_ELSEWHERE.items():
        assert Path(page).name in (ROOT / tests).read_text()


@pytest.mark.slow
def test_the_first_listing_runs(weights_dir, data_dir, tmp_path, monkeypatch):
    (tmp_path / "flowers5").symlink_to(data_dir / "flowers5")
    photo = next((data_dir / "flowers5" / "valid" / "tulip").iterdir())
    (tmp_path / "photo.jpg").symlink_to(photo)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    run(README, names)
    assert names["history"][-1].metrics["error_rate"] < 0.2


def test_every_dependency_has_its_reason():
    project = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)\]", project, re.DOTALL | re.MULTILINE)
    names = re.findall(r'"([a-z0-9-]+)', listed.group(1))
    table = TEXTS[README][TEXTS[README].index("## DEPENDENCIES") :]
    assert names and all(f"| {name} | " in table for name in names)


class OwnNetwork(nnx.Module):
    """A network that the library has never heard of."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.stem = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.blocks = nnx.Conv(8, 16, (3, 3), strides=2, rngs=rngs)
        self.fc = nnx.Linear(16, 10, rngs=rngs)

    def __call__(self, x):
        return self.fc(nnx.relu(self.blocks(nnx.relu(self.stem(x)))).mean((1, 2)))


class FiveBlocks(nnx.Module):
    """Another one, with blocks that can be cut between."""

    def __init__(self, *, rngs: nnx.Rngs):
        self.blocks = nnx.List(
            nnx.Conv(3 if i == 0 else 8, 8, (3, 3), rngs=rngs) for i in range(5)
        )
        self.fc = nnx.Linear(8, 10, rngs=rngs)

    def __call__(self, x):
        for block in self.blocks:
            x = nnx.relu(block(x))
        return self.fc(x.mean((1, 2)))


@pytest.fixture
def names(tmp_path, monkeypatch) -> dict:
    """The names that the pages' listings go on with, in a folder of photos."""
    photos = make_photos(tmp_path / "photos", train=16, valid=4)
    photo = next(photos.rglob("*.png"))
    Image.open(photo).save(tmp_path / "photo.jpg")
    data = ImageDataLoaders.from_folder(photos, size=32, batch_size=8, seed=0)
    model = vision_learner(data, tiny_resnet, metrics=error_rate)
    public = {name: getattr(jaxtune, name) for name in dir(jaxtune) if name[0] != "_"}
    monkeypatch.chdir(tmp_path)
    return public | {"data": data, "model": model, "photo": photo}


def test_a_step_of_pure_functions_runs_and_is_exported(weights_dir):
    batch = {"image": jnp.zeros((4, 32, 32, 3)), "label": jnp.arange(4)}
    names = {"batch": batch}
    run("jaxtune/train/README.md", names)
    assert int(names["state"].step) == 1
    assert bool(jnp.isfinite(names["metrics"]["loss"]))
    assert names["exported"].platforms == ("cpu", "cuda", "tpu")


@pytest.mark.end_to_end
def test_other_groups_cuts_and_heads_make_learners(names, monkeypatch, capsys):
    made = []

    def made_learner(*args, **options):
        made.append(vision_learner(*args, **options))
        return made[-1]

    monkeypatch.setitem(jaxtune.ARCHITECTURES, "resnet34", tiny_resnet)
    names |= {"resnet18": tiny_resnet, "resnet34": tiny_resnet}
    names |= {
        "vision_learner": made_learner,
        "my_network": FiveBlocks(rngs=nnx.Rngs(0)),
    }
    names["my_body"] = jaxtune.create_body(OwnNetwork(rngs=nnx.Rngs(0)), "blocks")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run("jaxtune/transfer/README.md", names)
    assert list(made[0].groups) == ["stem", "blocks", "head"]
    assert len(made[1].groups) == 3
    assert [list(learner.groups) for learner in made[2:5]] == [["body", "head"]] * 3
    # Of one network and one body nothing says what they were trained with.
    assert sum("mean" in str(warning.message) for warning in caught) == 2
    assert "after 'blocks" in capsys.readouterr().out


@pytest.mark.end_to_end
def test_looking_inside_shows_what_trains_and_what_moved(names, capsys):
    run("jaxtune/inspect/README.md", names)
    printed = capsys.readouterr().out
    assert "phase 2, early frozen, as saved" in printed
    assert Path("history.png").stat().st_size > 0
    phases = [row.phase for row in names["model"].history]
    assert set(phases) == {1, 2} and phases.count(2) == 3


@pytest.mark.end_to_end
def test_results_are_shown(names, capsys):
    names["model"].fine_tune(1)
    run("jaxtune/results/README.md", names)
    assert "macro avg" in capsys.readouterr().out
    assert len(names["probabilities"]) == len(names["targets"]) == 12


@pytest.mark.end_to_end
def test_a_run_is_kept_and_another_checkpoint_opened(names, capsys):
    model = names["model"]
    _, params, model_state = split_module(model.model)
    other = jax.tree.map(lambda leaf: leaf + 1, params)
    save_checkpoint("theirs", params=other, model_state=model_state, meta={})
    names |= {"params": params, "model_state": model_state}
    run("jaxtune/loop/README.md", names)
    assert Path("runs/flowers/run.json").exists()
    after = jax.tree.leaves(split_module(model.model)[1])
    first, *_ = jax.tree.leaves(names["params"]["body"])
    np.testing.assert_array_equal(first, jax.tree.leaves(other["body"])[0])
    # Once more, by a learner that is as the first one was: nothing trains.
    capsys.readouterr()
    again = vision_learner(names["data"], tiny_resnet, metrics=error_rate)
    exec(listings("jaxtune/loop/README.md")[0], {"model": again})
    assert "finished" in capsys.readouterr().out
    for old, new in zip(
        after, jax.tree.leaves(split_module(again.model)[1]), strict=True
    ):
        np.testing.assert_array_equal(old, new)


def questions() -> list[tuple[str, str]]:
    """Each question with its listing."""
    parts = re.split(r"^### (.*)$", TEXTS["jaxtune/QUESTIONS.md"], flags=re.MULTILINE)
    found = []
    for question, answer in zip(parts[1::2], parts[2::2], strict=True):
        (code,) = re.findall(r"```python\n(.*?)```", answer, re.DOTALL)
        found.append((question, code))
    return found


@pytest.mark.end_to_end
def test_every_question_is_answered_by_its_listing(names, capsys):
    photos = Path("photos").resolve()
    names |= {"jax": jax, "jnp": jnp, "nnx": nnx, "dataclasses": dataclasses}
    names |= {"pickle": pickle, "ConcatPool": ConcatPool}
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
    printed = {}
    for question, code in questions():
        exec(compile(code, f"QUESTIONS.md, {question}", "exec"), names)
        printed[question] = capsys.readouterr().out
    assert len(printed) == len(listings("jaxtune/QUESTIONS.md")) == 27
    said = {
        "Which layers": "('early', 'late')\n",
        "Does a fit": "phase 1: 17 epochs, 102 steps; early, late frozen",
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
