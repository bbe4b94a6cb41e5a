"""The `jaxtune` command: fine-tune on a folder of photos, predict with the result.

The commands only call the Python API. Arguments are checked before any work begins.
"""

import contextlib
import io
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jaxtune.arguments import check_choice, check_number, like
from jaxtune.checkpoint import check_run_folder, place_of, write_json
from jaxtune.data import ImageDataLoaders, list_photos
from jaxtune.data.photos import find_bad
from jaxtune.learner import (
    OutOfMemoryError,
    Prediction,
    load_predictor,
    vision_learner,
)
from jaxtune.loop.processes import is_first_process, join_processes
from jaxtune.pretrained import ARCHITECTURES, demo_photos
from jaxtune.text_tables import one_line
from jaxtune.train import DeviceError, check_epochs, error_rate, local_devices

app = typer.Typer(
    help="Transfer learning for images on JAX.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

#: Side of the demo's images, in pixels: it takes four minutes on two cores.
_DEMO_SIZE = 128


@app.callback()
def _root() -> None:
    """Transfer learning for images on JAX."""


@app.command("fine-tune")
def fine_tune(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="Photos: train/ and valid/ (or val/) with one folder per class, or "
            "just one folder per class, of which a fifth is used for validation."
        ),
    ] = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Download a few photos and train on them.")
    ] = False,
    arch: Annotated[str, typer.Option(help="Architecture.")] = "resnet18",
    weights: Annotated[
        str | None, typer.Option(help="Pretrained weights: a name or a file.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Epochs after unfreezing.")] = 3,
    freeze_epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs with the body frozen; default: 1, or as the recipe says."
        ),
    ] = None,
    base_lr: Annotated[float, typer.Option(help="Peak learning rate.")] = 2e-3,
    size: Annotated[
        int | None,
        typer.Option(help="Side of the images, in pixels; default 224, demo 128."),
    ] = None,
    batch_size: Annotated[
        str, typer.Option(help='Photos in a batch; "auto" for as many as fit.')
    ] = "32",
    seed: Annotated[int, typer.Option(help="Random seed.")] = 0,
    on_error: Annotated[
        str, typer.Option(help="What a broken photo does: raise or skip.")
    ] = "raise",
    out: Annotated[
        str | None,
        typer.Option(
            help="Folder to save the run in, or gs://bucket/name. If the run was "
            "stopped or killed, the same command resumes it."
        ),
    ] = None,
    save_every: Annotated[
        float | None,
        typer.Option(help="Seconds between checkpoints in --out; default 60."),
    ] = None,
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed",
            help="Train together with the other processes that SLURM, Open MPI or a "
            "TPU pod has started, or that --coordinator joins.",
        ),
    ] = False,
    coordinator: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of the first process, where nothing tells it."),
    ] = None,
    num_processes: Annotated[
        int | None, typer.Option(help="Number of processes, with --coordinator.")
    ] = None,
    process_id: Annotated[
        int | None,
        typer.Option(help="This process's number from 0, with --coordinator."),
    ] = None,
) -> None:
    """Fine-tunes a pretrained network on a folder of photos."""
    if demo == (folder is not None):
        raise _Failure("give a folder of photos, or --demo, and not both.")
    if arch not in ARCHITECTURES:
        raise _Failure(f"no architecture {arch!r}. {like(arch, ARCHITECTURES)}")
    if save_every is not None and out is None:
        raise _Failure(
            "--save-every needs a folder for the run: give --out FOLDER too."
        )
    check_number(base_lr, "--base-lr", above=0)
    check_epochs(epochs, "--epochs")
    if freeze_epochs is not None:
        check_epochs(freeze_epochs, "--freeze-epochs", least=0)
    if out is not None:
        check_run_folder(out)
    joined = (coordinator, num_processes, process_id)
    if distributed:
        join_processes(*joined)
    elif joined != (None, None, None):
        raise _Failure("--coordinator and the numbers of processes need --distributed.")
    local_devices()
    first = is_first_process()
    shown = (
        contextlib.nullcontext() if first else contextlib.redirect_stdout(io.StringIO())
    )
    with shown:
        data = ImageDataLoaders.from_folder(
            demo_photos() if folder is None else folder,
            **_splits(folder),
            size=(_DEMO_SIZE if demo else 224) if size is None else size,
            batch_size=_batch_size(batch_size),
            seed=seed,
            on_error=on_error,
        )
        print(data, flush=True)
        model = vision_learner(
            data, ARCHITECTURES[arch], weights=weights, metrics=error_rate
        )
        history = model.fine_tune(
            epochs, base_lr, freeze_epochs=freeze_epochs, run=out, save_every=save_every
        )
        if first:
            _show_predictions(model, data)
        if first and out is not None:
            write_json(place_of(out) / "history.json", history.history)
            print(f"saved to {out}; try: jaxtune predict {out} PHOTO")


@app.command()
def predict(
    run: Annotated[str, typer.Argument(help="Folder that fine-tune made with --out.")],
    photos: Annotated[
        list[str], typer.Argument(help="Photos, folders of photos, or globs.")
    ],
    best: Annotated[
        bool,
        typer.Option(
            "--best", help="Use the checkpoint with the lowest validation loss."
        ),
    ] = False,
    on_error: Annotated[
        str, typer.Option(help="What a broken photo does: raise or skip.")
    ] = "raise",
) -> None:
    """Predicts the labels of photos with a fine-tuned network."""
    check_choice(on_error, "--on-error", ("raise", "skip"))
    listed = [photo for given in photos for photo in list_photos(given, "PHOTOS").each]
    predictor = load_predictor(run, which="best" if best else "latest")
    bad = find_bad(listed) if on_error == "raise" else {}
    if bad:
        raise _Failure("\n".join(map(str, bad.values())))
    with warnings.catch_warnings():
        # The table has a line for each photo that could not be read.
        warnings.simplefilter("ignore" if on_error == "skip" else "default")
        predictions = predictor.predict(listed, on_error=on_error)
    columns = {
        "single": ("photo", "label", "probability"),
        "multi": ("photo", "labels", "probabilities"),
        "regression": ("photo", "value"),
    }[predictor.kind]
    rows = [
        [os.fspath(photo), *_cells(predictor.kind, prediction)]
        for photo, prediction in zip(listed, predictions, strict=True)
    ]
    _print_table(columns, rows)


#: Errors of the device that a user can fix.
_OF_THE_DEVICE = (DeviceError, OutOfMemoryError, NotImplementedError)


class _Failure(Exception):  # noqa: N818 - shown as one line, not as a traceback
    """An error that the user can fix."""


def _splits(folder: Path | None) -> dict:
    if folder is None or (folder / "train").is_dir():
        names = ("valid", "val", "validation")
        here = [n for n in names if folder is not None and (folder / n).is_dir()]
        return {"valid": here[0]} if here else {}
    return {"valid_pct": 0.2}


def _cells(kind: str, prediction: Prediction | None) -> list[str]:
    """The cells of a prediction's row, after the photo's name."""
    if prediction is None:
        return ["can't be read", *([] if kind == "regression" else [""])]
    label, values = prediction.label, prediction.probabilities
    if kind == "regression":
        return [", ".join(f"{x:.4g}" for x in values)]
    if kind == "single":
        return [label, f"{values.max():.3f}"]
    shown = ", ".join(f"{x:.3f}" for x in values[prediction.index])
    return [", ".join(label) or "none", shown]


def _batch_size(given: str) -> int | str:
    if given == "auto":
        return given
    try:
        return int(given)
    except ValueError:
        raise _Failure(
            f"--batch-size must be a whole number or auto; received {given!r}."
        ) from None


def _show_predictions(model, data, count: int = 10) -> None:
    items = data.valid_items
    step = max(len(items.paths) // count, 1)
    chosen = range(0, len(items.paths), step)[:count]
    predictions = model.predict([items.paths[i] for i in chosen])
    rows = []
    for i, prediction in zip(chosen, predictions, strict=True):
        true = data.classes[int(items.labels[i])]
        name = Path(items.paths[i]).name
        wrong = "" if prediction.label == true else "wrong"
        rows.append([name, true, *_cells(data.kind, prediction), wrong])
    _print_table(("photo", "true label", "prediction", "probability", ""), rows)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # As Text: brackets in names of photos and classes are not rich's markup.
        table.add_row(*(Text(one_line(cell)) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:
        # A pipe has no width: don't wrap tables in logs at 80 columns.
        console.width = 10_000
    console.print(table)


def main() -> None:
    """Runs the command; errors that a user can fix are one line on standard error."""
    for stream in (sys.stdout, sys.stderr):
        # File names may contain characters that the terminal's encoding lacks.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except (_Failure, ValueError, OSError, TypeError, *_OF_THE_DEVICE) as error:
        if os.environ.get("JAXTUNE_TRACEBACK"):
            raise
        print(f"jaxtune: {error}", file=sys.stderr)
        sys.exit(2)
