"""Tables are read as their users mean them, without any DataFrame library."""

from pathlib import Path

import numpy as np
import pytest

from jaxtune.data import as_table, read_csv, table_items
from jaxtune.data.tables import Table, valid_rows


class Frame:
    """The least that a DataFrame is."""

    def __init__(self, **columns):
        self._columns = columns
        self.columns = list(columns)

    def __getitem__(self, name):
        return iter(self._columns[name])


def items(frame, **options):
    return table_items(as_table(frame), "photos", **options)


def test_what_has_columns_is_a_table():
    wanted = Table(("fn", "label"), (["a", "b"], [1, 2]))
    columns = {"fn": ["a", "b"], "label": np.array([1, 2])}
    assert as_table(Frame(**columns)) == as_table(columns) == wanted
    assert as_table(wanted) is wanted and len(wanted) == 2
    assert type(as_table(columns)["label"][0]) is int


def test_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"fn": ["a", "b"], "tags": ["x y", None]})
    found = items(frame, label_delim=" ")
    assert found.labels.tolist() == [[1, 1], [0, 0]]


def test_what_is_no_table():
    for wrong in (5, "labels.csv", [("a", "b")]):
        with pytest.raises(TypeError, match="`columns`.*got (int|str|list)"):
            as_table(wrong)
    with pytest.raises(ValueError, match=r"differ in length: \{'a': 1, 'b': 2\}"):
        as_table({"a": [1], "b": [1, 2]})
    twice = Frame(a=[1])
    twice.columns = ["a", "a"]
    with pytest.raises(ValueError, match="same name: a"):
        as_table(twice)


def test_columns_by_name_and_position():
    table = Table(("fn", "label", 0), (["x"], ["y"], ["z"]))
    assert [table[c] for c in ("label", 1, -2, 0)] == [["y"], ["y"], ["y"], ["z"]]
    for wrong in ("lable", 3, None, True):
        with pytest.raises(ValueError, match=r"no column .*'fn', 'label', 0.*0 to 2"):
            table[wrong]


def test_the_first_two_columns_are_photo_and_class():
    found = items(Frame(fn=["a.jpg", "b/c.jpg"], breed=["pug", "cat"], age=[1, 2]))
    assert found.paths == (Path("photos/a.jpg"), Path("photos/b/c.jpg"))
    assert found.kind == "single" and found.classes == ("cat", "pug")
    assert found.labels.tolist() == [1, 0]


def test_several_labels_in_a_column():
    frame = Frame(age=[1, 2, 3, 4], tags=["b a", "", None, " b  "], fn=list("wxyz"))
    found = items(frame, fn_col="fn", label_col="tags", label_delim=" ", suff=".png")
    assert found.kind == "multi" and found.classes == ("a", "b")
    assert found.labels.tolist() == [[1, 1], [0, 0], [0, 0], [0, 1]]
    assert found.paths[3] == Path("photos/z.png")
    with pytest.raises(ValueError, match="label_delim=' ' splits one column"):
        items(frame, fn_col=2, label_col=["tags", "age"], label_delim=" ")


def test_columns_of_zeros_and_ones():
    frame = Frame(fn=list("ab"), sea=[1, 0], sun=np.array([True, True]), sky=[0.0, 1])
    found = items(frame, label_col=["sea", "sky", "sun"])
    assert found.kind == "multi" and found.classes == ("sea", "sky", "sun")
    assert found.labels.tolist() == [[1, 0, 1], [0, 1, 1]]
    ordered = items(frame, label_col=[1, 2], classes=("sun", "sea"))
    assert ordered.labels.tolist() == [[1, 1], [1, 0]]
    with pytest.raises(ValueError, match=r"classes=\('sun',\) and the columns"):
        items(frame, label_col=[1, 2], classes=("sun",))


def test_columns_of_names():
    frame = Frame(fn=list("abc"), one=["x", "y", ""], two=["y", None, float("nan")])
    found = items(frame, label_col=("one", "two"))
    assert found.classes == ("x", "y")
    assert found.labels.tolist() == [[1, 1], [0, 1], [0, 0]]


def test_columns_of_numbers():
    frame = Frame(fn=list("ab"), x=[1, 5], y=[0.5, 2], bit=[0, 1], hole=[1.5, None])
    one, two = items(frame, label_col="y"), items(frame, label_col=["x", "y"])
    assert one.kind == two.kind == "regression"
    assert one.labels.tolist() == [0.5, 2] and two.labels.tolist() == [[1, 0.5], [5, 2]]
    forced = items(frame, label_col=["x", "bit"], kind="regression")
    assert forced.labels.tolist() == [[1, 0], [5, 1]]
    with pytest.raises(ValueError, match="1 of 4 cells in the columns y, hole are emp"):
        items(frame, label_col=["y", "hole"])
    with pytest.raises(ValueError, match="1 of 2 photos get no label: photos/b"):
        items(frame, label_col="hole")


def test_missing_columns_are_named_together():
    frame = Frame(fn=["a"], label=["b"])
    with pytest.raises(ValueError, match="no columns 'file', 'tags'; .*'fn', 'label'"):
        items(frame, fn_col="file", label_col="tags")
    with pytest.raises(ValueError, match="no column 'tags'; .*'fn', 'label'"):
        items(frame, label_col=["label", "tags"])
    with pytest.raises(ValueError, match="no rows"):
        items(Frame(fn=[], label=[]))
    with pytest.raises(ValueError, match="2 rows name no photo: rows 0, 2"):
        items(Frame(fn=["", "x", None], label=list("abc")))


def test_a_forgotten_ending_is_found(tmp_path):
    (tmp_path / "a.JPG").touch()
    table = as_table({"fn": ["a"], "label": ["x"]})
    with pytest.raises(ValueError, match="Add suff='.JPG'"):
        table_items(table, tmp_path)
    assert table_items(table, tmp_path, suff=".JPG").paths == (tmp_path / "a.JPG",)


@pytest.mark.parametrize(
    "values",
    [
        [True, False],
        [np.True_, np.False_],
        [1, 0],
        [1.0, 0.0],
        ["True", "False"],
        ["true", ""],
        ["1", "0"],
        ["yes", "no"],
    ],
)
def test_rows_that_validate(values):
    assert valid_rows(as_table({"v": values}), "v").tolist() == [True, False]


def test_rows_that_do_not_say():
    table = as_table({"v": [True, "maybe", None], "w": [1, 1, 1]})
    with pytest.raises(ValueError, match="2 of 3 hold 'maybe', None"):
        valid_rows(table, "v")
    with pytest.raises(ValueError, match="is True in all 3 rows"):
        valid_rows(table, "w")


def write(path, text):
    path.write_bytes(text.encode())
    return path


def test_csv(tmp_path):
    text = '\ufefffn,label\r\na.jpg,"one, two"\r\n\r\nb.jpg,three\r\n'
    table = read_csv(write(tmp_path / "x.csv", text))
    assert table.names == ("fn", "label")
    assert table.columns == (["a.jpg", "b.jpg"], ["one, two", "three"])
    bare = write(tmp_path / "bare.csv", "a;1\nb;2\n")
    assert read_csv(bare, header=None, delimiter=";").names == (0, 1)
    assert read_csv(bare, header=0, delimiter=";").columns == (["b"], ["2"])


@pytest.mark.parametrize(
    ("cells", "kind", "classes"),
    [
        ("1 10 2", "single", ("1", "2", "10")),
        ("007 010 007", "single", ("007", "010")),
        ("0.5 1 2e3", "regression", ()),
        ("True False True", "single", ("False", "True")),
        ("a 1 b", "single", ("1", "a", "b")),
    ],
)
def test_numbers_in_csv(tmp_path, cells, kind, classes):
    rows = "".join(f"{n:03},{cell}\n" for n, cell in enumerate(cells.split()))
    table = read_csv(write(tmp_path / "x.csv", "fn,label\n" + rows))
    found = table_items(table, tmp_path, text=True)
    assert found.kind == kind and found.classes == classes
    assert found.paths[1] == tmp_path / "001"  # a file's name is never a number


def test_csv_that_cannot_be_read(tmp_path):
    for text, message in (
        ("fn,label\n", "no rows below its header"),
        ("", "no rows"),
        ("fn,label\na,b\nc\nd,e,f\n", "2 columns, but not in line 3, 4.*quotes"),
        ("fn;label\na;b\n", "has one column, 'fn;label'.*delimiter=';'"),
    ):
        with pytest.raises(ValueError, match=message):
            read_csv(write(tmp_path / "x.csv", text))
    with pytest.raises(FileNotFoundError, match="beside it are x.csv.*csv_fname"):
        read_csv(tmp_path / "y.csv")
