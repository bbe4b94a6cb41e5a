import dataclasses
import json
import sys

import pytest
from kinds import make_data, make_model
from photos import make_photos
from processes import Together
from typer.testing import CliRunner

from jaxtune import ImageDataLoaders, cli
from jaxtune.learner import RunStopped


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_photos(tmp_path_factory.mktemp("photos"), train=12, valid=4)


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def failure(monkeypatch, capsys, *arguments) -> str:
    monkeypatch.setattr(sys, "argv", ["jaxtune", *map(str, arguments)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    return capsys.readouterr().err


@pytest.mark.end_to_end
def test_fine_tune_and_predict(root, tmp_path, weights_dir):
    """A real ResNet-18 on a folder, saved, and used from the command line."""
    out = tmp_path / "run"
    options = ("--size", 64, "--batch-size", 8, "--epochs", 1, "--out", out)
    trained = run("fine-tune", root, *options)
    assert trained.exit_code == 0, trained.output
    assert "phase 1/2 · head" in trained.output and "true label" in trained.output
    assert f"jaxtune predict {out}" in trained.output
    history = json.loads((out / "history.json").read_text())
    # An epoch has few batches, so the head trains for several.
    assert set(history["phase"]) == {1, 2} and history["phase"].count(2) == 1
    photo = root / "valid" / "red" / "000.png"
    answer = run("predict", out, photo)
    assert answer.exit_code == 0, answer.output
    line = next(row for row in answer.output.splitlines() if "000.png" in row)
    assert line.split()[1] in ("blue", "green", "red")
    assert 1 / 3 <= float(line.split()[2]) <= 1
    assert run("predict", out, photo, "--best").exit_code == 0
    again = run("fine-tune", root, *options)
    assert again.exit_code == 0 and f"{out} is finished" in again.output
    assert json.loads((out / "history.json").read_text()) == history
    other = run("fine-tune", root, *options, "--epochs", 2)
    assert "phases.2.epochs: 1 in the folder, 2 now" in str(other.exception)


TOGETHER = """
import sys
place, count, number, *arguments = sys.argv[1:]
sys.argv = ["jaxtune", "fine-tune", *arguments, "--distributed", "--coordinator",
            place, "--num-processes", count, "--process-id", number]
from jaxtune.cli import main
main()
"""


@pytest.mark.end_to_end
def test_two_processes_by_hand_make_one_run(root, tmp_path, weights_dir):
    out = tmp_path / "run"
    options = ("--size", 32, "--batch-size", 8, "--epochs", 1, "--out", out)
    with Together(TOGETHER, 2, root, *options) as together:
        first, second = together.ends()
    assert (first.status, second.status) == (0, 0), first.failed[-2000:]
    assert "phase 1/2 · head" in first.said and f"saved to {out}" in first.said
    assert not [x for x in second.said.splitlines() if not x.startswith("[Gloo]")]
    assert json.loads((out / "history.json").read_text())["phase"][-1] == 2
    photo = root / "valid" / "red" / "000.png"
    assert run("predict", out, photo).exit_code == 0


def test_processes_that_are_not_known_are_one_line(root, monkeypatch, capsys):
    message = failure(monkeypatch, capsys, "fine-tune", root, "--process-id", 1)
    assert "need --distributed" in message
    monkeypatch.setattr(
        "jax.distributed.initialize",
        lambda *given: (_ for _ in ()).throw(ValueError("no coordinator.")),
    )
    message = failure(monkeypatch, capsys, "fine-tune", root, "--distributed")
    assert "the other processes are not known: no coordinator. Start" in message


def test_a_stopped_run_ends_in_good_order(root, tmp_path, monkeypatch, capsys):
    class Stopped:
        def fine_tune(self, *arguments, **options):
            assert (
                options["run"] == str(tmp_path / "run") and options["save_every"] == 5.0
            )
            raise RunStopped(0)

    monkeypatch.setattr(cli, "vision_learner", lambda *a, **k: Stopped())
    command = ["fine-tune", root, "--out", tmp_path / "run", "--save-every", 5]
    monkeypatch.setattr(sys, "argv", ["jaxtune", *map(str, command)])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    assert "saved to" not in capsys.readouterr().out


def test_a_folder_of_class_folders_is_split(root, monkeypatch):
    seen = {}

    def stop(folder, **options):
        seen.update(options)
        raise ValueError("enough")

    monkeypatch.setattr(cli.ImageDataLoaders, "from_folder", stop)
    run("fine-tune", root / "train")
    assert seen["valid_pct"] == 0.2 and "valid" not in seen
    run("fine-tune", root)
    assert seen["valid"] == "valid"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fine-tune",), "give a folder of photos, or --demo"),
        (("fine-tune", "x", "--demo"), "and not both"),
        (("fine-tune", "nowhere"), "nowhere"),
        (("fine-tune", "x", "--arch", "vgg16"), "no architecture 'vgg16'"),
        (("fine-tune", "x", "--out", "."), "holds something else than a run"),
        (
            ("fine-tune", "x", "--epochs", 0),
            "--epochs must be a whole number of",
        ),
        (("fine-tune", "x", "--freeze-epochs", -1), "--freeze-epochs must be"),
        (("predict", "nowhere", "x.jpg"), "there is no checkpoint in"),
    ],
)
def test_what_is_wrong_is_one_line(arguments, message, monkeypatch, capsys):
    error = failure(monkeypatch, capsys, *arguments)
    assert error.startswith("jaxtune: ") and message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("kind", ["single", "multi", "regression"])
def test_predict_shows_every_kind_of_label_as_text(kind, tmp_path, monkeypatch):
    """Names of photos and classes are text, whatever they look like."""
    root = make_photos(tmp_path / "photos", train=2, valid=1)
    model = make_model(make_data(root, kind, batch_size=2))
    data = model.data
    classes = ("a[/b]", "[red]", ":smile: $x$")[: len(data.classes)]
    items = [
        dataclasses.replace(items, classes=classes)
        for items in (data.train_items, data.valid_items)
    ]
    model = make_model(ImageDataLoaders(*items, size=16, batch_size=2, workers=0))
    if kind == "multi":
        model.thresholds = [0, 1]
    predictor = model.to_predictor()
    monkeypatch.setattr(cli, "load_predictor", lambda *a, **k: predictor)
    photo = root / "valid" / "red" / "000.png"
    for name in ("x[1].png", "[b].png", ":smile:.png", "new\nline.png"):
        (root / name).write_bytes(photo.read_bytes())
    (root / "bad.png").write_bytes(b"nothing")
    given = (root / "x[1].png", f"{root}/*.png", root / "valid")
    answer = run("predict", "run", *given, "--on-error", "skip")
    assert answer.exit_code == 0, answer.output
    head, *lines = answer.output.splitlines()
    assert len(lines) == 9 and head.split()[0] == "photo"
    for name in ("x[1].png", "[b].png", ":smile:.png", r"new\nline.png"):
        line = next(line for line in lines if f"/{name} " in line)
        said = line.split(name)[1].strip()
        if kind == "single":
            assert said.rsplit(None, 1)[0] in classes
        if kind == "multi":
            assert said.split()[0] == "a[/b]" and float(said.split()[1]) > 0
        if kind == "regression":
            assert float(said) == pytest.approx(
                predictor.predict(photo).label, rel=0.01
            )
    assert next(row for row in lines if "bad.png" in row).rstrip().endswith("be read")
    wrong = run("predict", "run", root / "bad.png", "gone.png")
    assert "bad.png" in str(wrong.exception) and "gone.png" in str(wrong.exception)
