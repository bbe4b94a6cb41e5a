import pytest
from rich.cells import cell_len

from jaxtune.text_tables import (
    Column,
    Table,
    Tabular,
    format_bytes,
    format_count,
)

COLUMNS = (Column("layer", "left", folds=True), Column("params"))
ROWS = [["body.layer1.0.conv1", "36,864"], None, ["head", "2"]]


def test_columns_are_aligned_and_parts_are_ruled_off():
    text = Table(COLUMNS, ROWS, title="net", notes=["all: 2"]).text(80)
    assert text.splitlines() == [
        "net",
        "layer                params",
        "───────────────────────────",
        "body.layer1.0.conv1  36,864",
        "───────────────────────────",
        "head                      2",
        "───────────────────────────",
        "all: 2",
    ]


@pytest.mark.parametrize("width", [20, 22, 24, 26, 27, 40])
def test_a_narrow_screen_folds_and_loses_nothing(width):
    lines = Table(COLUMNS, ROWS).text(width).splitlines()
    assert max(map(len, lines)) <= width
    folded = "".join(line[: -len(" 36,864")] if "36,864" in line else line.strip()
                     for line in lines[2:])  # fmt: skip
    assert "body.layer1.0.conv1" in folded.replace(" ", "")


def test_notes_are_broken_between_words():
    notes = Table(COLUMNS, [], notes=["one two three four"]).text(15).splitlines()[-2:]
    assert notes == ["one two three", "four"]


def test_it_shows_as_html_in_a_notebook():
    html = Table(COLUMNS, [["<b>", "1"], None, ["c", "2"]], title="t").html()
    assert "&lt;b&gt;" in html and "<caption>t</caption>" in html
    assert html.count("<tbody>") == 2
    assert html.count("<th ") == 2


def test_what_is_tabular_prints_as_its_table():
    class Shown(Tabular):
        def table(self):
            return Table(COLUMNS, ROWS)

    assert str(Shown()) == repr(Shown()) == Table(COLUMNS, ROWS).text()
    assert Shown()._repr_html_() == Table(COLUMNS, ROWS).html()


def test_numbers_are_readable():
    assert format_count(1234567) == "1,234,567"
    cases = [
        (999, "999 B"),
        (2048, "2.00 KB"),
        (5 << 20, "5.00 MB"),
        (5 << 31, "10.00 GB"),
    ]
    assert [format_bytes(number) for number, _ in cases] == [text for _, text in cases]


def test_cells_are_one_line_and_as_wide_as_they_look():
    names = ["a\nb", "漢字", "[red]", "\x1b[31m", "\udcff"]
    lines = Table([Column("class", "left"), Column("n")], [[n, "7"] for n in names])
    shown = lines.text(80).splitlines()[2:]
    assert [line.split()[0] for line in shown] == [
        r"a\nb", "漢字", "[red]", r"\x1b[31m", r"\udcff",
    ]  # fmt: skip
    assert len({cell_len(line) for line in shown}) == 1
    folded = Table([Column("class", "left", folds=True)], [["漢" * 20]]).text(12)
    assert max(map(cell_len, folded.splitlines())) <= 12 and folded.count("漢") == 20
