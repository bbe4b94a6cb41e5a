"""Tables are read as their users mean them, without any DataFrame library."""

import decimal
from pathlib import Path

import numpy as np
import pytest

from jaxtune.data import as_table, label_items, read_csv, table_items
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
        with pytest.raises(TypeError, match="`columns`.*df is (int|str|list)"):
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
        with pytest.raises(
            (TypeError, ValueError), match=r"column .*'fn', 'label', 0.*0 to 2"
        ):
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
    with pytest.raises(ValueError, match=r"classes=\('sun',\) differ from the columns"):
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
    with pytest.raises(
        ValueError, match="2 of 3 rows name no photo in the .*: rows 0, 2"
    ):
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
        ("fn,label\na,b\nc\nd,e,f\n", "2 columns, but not in line 3, 4.*Quote"),
        ("fn;label\na;b\n", "has one column, 'fn;label'.*delimiter=';'"),
    ):
        with pytest.raises(ValueError, match=message):
            read_csv(write(tmp_path / "x.csv", text))
    with pytest.raises(FileNotFoundError, match="beside it are x.csv.*csv_fname"):
        read_csv(tmp_path / "y.csv")


BODY = "fn , label\n" + "".join(
    f"{n}.jpg,{'müde ' if n % 2 else 'wach'}\n" for n in range(4)
)


@pytest.mark.parametrize(
    ("written", "encoding"),
    [
        ("utf-8", None),
        ("utf-8-sig", None),
        ("utf-8-sig", "utf-8"),
        ("utf-16", None),
        ("utf-32", None),
        ("utf-16-le", "utf-16-le"),
        ("cp1252", "cp1252"),
        ("latin-1", "latin1"),
    ],
)
def test_encodings(tmp_path, written, encoding):
    (tmp_path / "x.csv").write_bytes(BODY.encode(written))
    table = read_csv(tmp_path / "x.csv", encoding=encoding)
    assert table.names == ("fn", "label")
    assert table["label"] == ["wach", "müde", "wach", "müde"]


@pytest.mark.parametrize(
    ("data", "encoding", "message"),
    [
        (
            BODY.encode("cp1252"),
            None,
            "x.csv' is not UTF-8: byte 0xfc in line 3.*cp1252",
        ),
        (BODY.encode("utf-16-be"), None, "x.csv' is not UTF-8.*encoding='utf-16-be'"),
        (BODY.encode("utf-16"), "utf-8", "x.csv' is not UTF-8.*encoding='utf-16'"),
        (b"fn,label\na,\x81\n", None, "encoding='latin-1'"),
        (BODY.encode(), "cp99", "^encoding must be .*'cp99'"),
        (BODY.encode(), "base64", "^encoding must be"),
        (b"PK\x03\x04", None, "an Excel workbook"),
        (b"\x1f\x8b", None, "compressed by gzip"),
    ],
)
def test_files_of_another_encoding(tmp_path, data, encoding, message):
    (tmp_path / "x.csv").write_bytes(data)
    with pytest.raises(ValueError, match=message):
        read_csv(tmp_path / "x.csv", encoding=encoding)


def test_what_spreadsheets_write(tmp_path):
    text = 'sep=;\n fn ; label \na.jpg; "b; c" \n d.jpg;NA\n;;\n'.replace(";;", ";")
    table = read_csv(write(tmp_path / "x.csv", text))
    assert table.names == ("fn", "label")
    assert table.columns == (["a.jpg", "d.jpg"], ["b; c", None])
    kept = read_csv(tmp_path / "x.csv", keep_default_na=False)
    assert kept["label"] == ["b; c", "NA"]


class NAType:
    """pandas' NA: it has no truth."""

    def __bool__(self):
        raise TypeError("boolean value of NA is ambiguous")

    def __eq__(self, other):
        return self

    __ne__, __hash__ = __eq__, object.__hash__


class NullScalar:
    """Arrow's null."""

    def as_py(self):
        return None


@pytest.mark.parametrize(
    "missing",
    [None, float("nan"), np.float32("nan"), np.datetime64("NaT", "D"), np.ma.masked,
     NAType(), NullScalar(), decimal.Decimal("nan"), "", "  ", b""],
    ids=lambda each: type(each).__name__ if " at 0x" in repr(each) else repr(each),
)  # fmt: skip
def test_every_form_of_missing_in_every_column(missing):
    rows = [True, missing, False, missing]
    frame = {"fn": list("abcd"), "y": list("xyxy"), "v": rows, "p": ["a", missing] * 2}
    frame |= {"n": [0.5, missing] * 2, "m": [1.5, 2.5, 3.5, 4.5]}
    way_out = r"rows 1, 3, counted from 0\)?.*[Ll]eave these rows out"
    with pytest.raises(ValueError, match="2 of 4 rows name no photo.*'p': " + way_out):
        items(frame, fn_col="p", label_col="y")
    for column in ("p", "n"):
        with pytest.raises(ValueError, match="2 of 4 photos get no label.*" + way_out):
            items(frame, label_col=column)
    with pytest.raises(ValueError, match="2 of 8 cells.*" + way_out):
        items(frame, label_col=["n", "m"])
    assert items(frame, label_col=["y", "p"]).counts() == {"a": 2, "x": 2, "y": 2}
    assert items(frame, label_col="p", label_delim=" ").counts() == {"a": 2}
    with pytest.raises(ValueError, match=r"2 of 4 hold .*\(rows 1, 3, counted from 0"):
        valid_rows(as_table(frame), "v")
    paths = [Path(f"{n}.jpg") for n in range(4)]
    with pytest.raises(ValueError, match="2 of 4 photos get no label.*rows 1, 3"):
        label_items(paths, frame["p"])


def test_missing_words_in_csv_are_those_of_pandas(tmp_path):
    path = write(tmp_path / "x.csv", "fn,label\na,x\nb,nan\nc,NULL\nd,none\n")
    with pytest.raises(
        ValueError, match="2 of 4 photos get no.*rows 1, 2.*keep_default"
    ):
        table_items(read_csv(path), tmp_path, text=True)
    names = table_items(read_csv(path, keep_default_na=False), tmp_path, text=True)
    assert names.classes == ("NULL", "nan", "none", "x")


def test_one_class_in_columns_of_zeros_and_ones():
    frame = Frame(fn=list("abc"), sea=[1.0, 0, 0], sun=[0.0, 0, 1], sky=[0.0, 1, 0])
    found = items(frame, label_col=["sea", "sun", "sky"])
    assert found.kind == "single" and found.classes == ("sea", "sun", "sky")
    assert found.labels.tolist() == [0, 2, 1]
    several = items(frame, label_col=["sea", "sun", "sky"], kind="multi")
    assert several.labels.tolist() == [[1, 0, 0], [0, 0, 1], [0, 1, 0]]


def test_a_column_that_names_the_photos_is_found(tmp_path):
    (tmp_path / "a.jpg").touch()
    table = as_table({"": [0], "file": ["a.jpg"], "label": ["x"]})
    with pytest.raises(ValueError, match="no .*/0'.*Write fn_col='file'"):
        table_items(table, tmp_path, label_col="label")
