import io
import re

from rich.console import Console

from jaxtune.learner import Row
from jaxtune.loop.epoch_table import Reporter

COLUMNS = ["phase", "epoch", "train_loss", "valid_loss", "images/s", "time"]
ROW = Row(1, 1, 0.5, 0.25, {}, 12.0, 65.0)


def show(terminal: bool, **options) -> str:
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, width=100, highlight=False)
    with Reporter("phase 1 · head only", COLUMNS, console=console, **options) as report:
        report.begin("epoch 1/1", 2)
        report.advance()
        report.advance(0.5)
        report.add(ROW)
    return file.getvalue()


def test_off_a_terminal_each_line_is_printed_once():
    lines = show(False).splitlines()
    assert lines[0] == "phase 1 · head only" and lines[1].split() == COLUMNS
    assert lines[2].split() == ["1", "1", "0.500000", "0.250000", "12.0", "01:05"]
    assert len(lines) == 3


def test_on_a_terminal_the_table_stands_at_the_end():
    text = show(True)
    assert "epoch 1/1" in text
    figures = [line for line in text.splitlines() if "0.250000" in line]
    assert figures and "epoch 1/1" not in text[text.rindex("0.250000") :]


def test_quiet_shows_nothing(capsys):
    with Reporter("phase 1", COLUMNS, verbose=False) as report:
        report.begin("epoch 1/1", 2)
        report.advance(0.5)
        report.add(ROW)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def test_brackets_and_colons_in_names_are_text():
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=100)
    row = Row(1, 1, 0.5, 0.25, {"f1[macro]": 0.75, "[/b]": 0.125}, 12.0, 65.0)
    columns = [*COLUMNS[:4], *row.metrics, *COLUMNS[4:]]
    with Reporter("phase [red] :smile:", columns, console=console) as report:
        report.begin("epoch [/b] :smile:", 2)
        report.add(row)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    for name in ("phase [red] :smile:", "epoch [/b] :smile:", *columns, "0.125"):
        assert name in text
