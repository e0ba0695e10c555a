"""python -m distill: info and predict."""

import gzip
import io
import os
import pickle
import subprocess
import sys
import threading

import numpy as np
import pandas as pd
import polars as pl
import pytest
from fresh_process import environment
from some_students import labelled, make_network, make_rows

from distill import tables
from distill.__main__ import main
from distill.codecs import container
from distill.runtime import load

NAMES = ("a", "b", "c", 'with "quotes", and comma')


@pytest.fixture
def student(tmp_path):
    path = tmp_path / "labels.student"
    container.save(container.encode(labelled((4, 8, 3), feature_names=NAMES)), path)
    return path


@pytest.fixture
def rows(tmp_path):
    rows = make_rows(30, 4)
    np.save(tmp_path / "rows.npy", rows)
    np.savetxt(tmp_path / "rows.csv", rows, delimiter=",")
    header = 'a,b,c,"with ""quotes"", and comma"'
    np.savetxt(tmp_path / "named.csv", rows, delimiter=",", header=header, comments="")
    swapped = 'c,"with ""quotes"", and comma",a,b'
    np.savetxt(tmp_path / "swapped.csv", np.roll(rows, 2, axis=1), delimiter=",", header=swapped, comments="")
    return rows


def test_info_prints_the_report(student, capsys):
    assert main(["info", str(student)]) == 0
    printed = capsys.readouterr().out
    assert "4 - 8 - 3, relu" in printed
    assert "predict, predict_proba" in printed
    assert "class 0, class 1, class 2" in printed
    assert f"{os.path.getsize(student)} bytes" in printed
    parts = [line for line in printed.splitlines() if line.startswith("  ")]
    assert sum(int(line.split()[-2]) for line in parts) == os.path.getsize(student)


@pytest.mark.parametrize("data", ["rows.npy", "rows.csv", "named.csv", "swapped.csv"])
def test_predict(student, rows, data, tmp_path, capsys):
    expected = load(student).predict(rows).tolist()
    assert main(["predict", str(student), str(tmp_path / data)]) == 0
    assert capsys.readouterr().out.splitlines() == expected
    assert main(["predict", str(student), str(tmp_path / data), "-o", str(tmp_path / "out.csv")]) == 0
    assert (tmp_path / "out.csv").read_text().splitlines() == expected
    assert main(["predict", str(student), str(tmp_path / data), "--output", str(tmp_path / "out.npy")]) == 0
    assert np.load(tmp_path / "out.npy").tolist() == expected
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".part")]


def test_written_predictions_round_trip(student, rows, tmp_path, capsys):
    arguments = ["predict", str(student), str(tmp_path / "rows.npy"), "--method", "predict_proba"]
    expected = load(student).predict_proba(rows)
    for name in ("out.npy", "out.csv"):
        assert main([*arguments, "-o", str(tmp_path / name)]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), expected)
    np.testing.assert_array_equal(np.loadtxt(tmp_path / "out.csv", np.float32, delimiter=","), expected)
    container.save(container.encode(make_network((4, 2))), tmp_path / "embedding.student")
    assert main(["predict", str(tmp_path / "embedding.student"), str(tmp_path / "rows.npy")]) == 0
    assert len(capsys.readouterr().out.splitlines()[0].split(",")) == 2


def test_errors_are_printed_in_one_line(student, rows, tmp_path, capsys):
    np.save(tmp_path / "wide.npy", np.zeros((2, 5)))
    np.save(tmp_path / "objects.npy", np.array([None]), allow_pickle=True)
    (tmp_path / "other.csv").write_text("a,b,c,d\n1,2,3,4\n")
    (tmp_path / "broken.csv").write_text("1,2,3,4\n1,2,3,x\n")
    (tmp_path / "empty.csv").write_text('a,b,c,"with ""quotes"", and comma"\n')
    (tmp_path / "broken.student").write_bytes(student.read_bytes()[:-1])
    good = str(tmp_path / "rows.npy")
    for arguments, message in [
        (["info", str(tmp_path / "missing")], "No such file"),
        (["info", str(tmp_path / "broken.student")], "damaged or cut"),
        (["info", str(tmp_path / "rows.csv")], "no student file"),
        (["predict", str(student), str(tmp_path / "wide.npy")], "X has 5 features"),
        (["predict", str(student), str(tmp_path / "objects.npy")], "Python objects"),
        (["predict", str(student), str(tmp_path / "other.csv")], "lacks the columns"),
        (["predict", str(student), str(tmp_path / "broken.csv")], "could not convert string 'x'"),
        (["predict", str(student), str(tmp_path / "empty.csv")], "empty.csv is no numeric table"),
        (["predict", str(student), "rows.txt"], "must end with .npy or .csv, or .tsv or .parquet, or be - for"),
        (["predict", str(student), good, "-o", "out.txt"], "must end with .npy or .csv, got 'out.txt'"),
        (["predict", str(student), good, "--method", "transform"], "this student has no transform"),
    ]:
        assert main(arguments) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert len(captured.err.splitlines()) == 1
        assert captured.out == ""
    with pytest.raises(SystemExit, match="2"):
        main([])


def test_runs_as_a_module(student):
    command = [sys.executable, "-m", "distill", "info", str(student)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, env=environment()).stdout
    assert "labels" not in printed
    assert "4 - 8 - 3" in printed


# tables of all kinds


@pytest.fixture
def table(rows):
    """The rows with their names, in another order and with a column that the student does not take."""
    frame = pd.DataFrame(rows, columns=list(NAMES)).assign(id=[f"no {index}_0" for index in range(30)])
    return frame[["id", *NAMES[::-1]]]


def predict(student, path, capsys):
    """Return the printed labels, and what was noted."""
    assert main(["predict", str(student), str(path)]) == 0
    captured = capsys.readouterr()
    return captured.out.splitlines(), captured.err


def refuse(student, path, capsys):
    """Return the error of a prediction, one line."""
    assert main(["predict", str(student), str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.splitlines()[-1]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("separator", "word"), [(",", ""), (";", "semicolons"), ("\t", "tabs")])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_text_of_all_kinds(student, table, encoding, separator, word, end, tmp_path, capsys):
    """Byte order marks as Excel writes them (orange3 #7000), separators of other languages, ends of lines."""
    expected = load(student).predict(table[list(NAMES)].to_numpy()).tolist()
    path = tmp_path / "table.csv"
    table.to_csv(path, index=False, sep=separator, encoding=encoding, lineterminator=end)
    labels, noted = predict(student, path, capsys)
    assert labels == expected
    assert "ignored: ['id']" in noted
    assert (f"{path} is read with {word} between its cells" in noted) == bool(word)
    # Without names, in the student's order
    table[list(NAMES)].to_csv(path, index=False, header=False, sep=separator, encoding=encoding, lineterminator=end)
    labels, noted = predict(student, path, capsys)
    assert labels == expected
    assert (f"{path} is read with {word} between its cells" in noted) == bool(word)


def test_blanks_between_cells_and_names_behind_a_hash(student, rows, tmp_path, capsys):
    """As numpy.savetxt writes them without arguments."""
    np.savetxt(tmp_path / "blanks.csv", rows)
    labels, noted = predict(student, tmp_path / "blanks.csv", capsys)
    assert labels == load(student).predict(rows).tolist()
    assert "read with blanks" in noted
    header = 'c,"with ""quotes"", and comma",a,b'
    np.savetxt(tmp_path / "hash.csv", np.roll(rows, 2, axis=1), delimiter=",", header=header)
    assert predict(student, tmp_path / "hash.csv", capsys)[0] == labels


@pytest.mark.parametrize("name", ["t.parquet", "t.pq", "t.tsv", "t.csv.gz", "T.CSV", "t.npy"])
def test_suffixes(student, table, name, tmp_path, capsys):
    path = str(tmp_path / name)
    if name.endswith(("parquet", "pq")):
        table.to_parquet(path)
    elif name.endswith("npy"):
        np.save(path, np.rec.fromarrays([table[column].to_numpy() for column in NAMES[::-1]], names=list(NAMES[::-1])))
    else:
        table.to_csv(path, index=False, sep="\t" if name.endswith("tsv") else ",")
    labels, noted = predict(student, path, capsys)
    assert labels == load(student).predict(table[list(NAMES)].to_numpy()).tolist()
    assert ("ignored: ['id']" in noted) == (not name.endswith("npy"))


@pytest.mark.parametrize("n_missing", range(4))
def test_parquet_needs_a_library(student, table, n_missing, tmp_path, capsys, monkeypatch):
    """pandas reads it with pyarrow, which is installed here."""
    table.to_parquet(tmp_path / "t.parquet")
    real, missing = tables.import_module, ("pyarrow.parquet", "polars", "pandas")[:n_missing]

    def import_module(name):
        if name in missing:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name)

    monkeypatch.setattr(tables, "import_module", import_module)
    if n_missing == 3:
        assert "pip install pyarrow" in refuse(student, tmp_path / "t.parquet", capsys)
    else:
        expected = load(student).predict(table[list(NAMES)].to_numpy()).tolist()
        assert predict(student, tmp_path / "t.parquet", capsys)[0] == expected


@pytest.mark.parametrize("kind", ["csv", "semicolons", "npy", "parquet", "gzip"])
def test_standard_input_and_pipes(student, table, kind, tmp_path, capsys, monkeypatch):
    stream = io.BytesIO()
    if kind == "npy":
        np.save(stream, table[list(NAMES)].to_numpy())
    elif kind == "parquet":
        pl.from_pandas(table).write_parquet(stream)
    else:
        text = table.to_csv(index=False, sep=";" if kind == "semicolons" else ",").encode()
        stream.write(gzip.compress(text) if kind == "gzip" else text)
    expected = load(student).predict(table[list(NAMES)].to_numpy()).tolist()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stream.getvalue())))
    labels, noted = predict(student, "-", capsys)
    assert labels == expected
    assert ("standard input is read with semicolons" in noted) == (kind == "semicolons")
    if os.name == "posix":
        os.mkfifo(tmp_path / "pipe")
        writer = threading.Thread(target=(tmp_path / "pipe").write_bytes, args=(stream.getvalue(),))
        writer.start()
        assert predict(student, tmp_path / "pipe", capsys)[0] == expected
        writer.join()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1;2;3;4\n1;2;3,5;4\n", "convert string '3,5' in line 2, column 3; it has a decimal comma"),
        ("1\t2\t3\t4\n1\t2\t3\t1,5\n", "convert string '1,5' in line 2, column 4; it has a decimal comma"),
        ("{}\n1,2,3,4\n\n1,2,x,4\n", "convert string 'x' in line 4, column 'c'"),
        ("1,2,3,4\n1,2_0,3,4\n", "convert string '2_0' in line 2, column 2"),
        ("{}\n1,2,3,4\n1,,3,4\n", "has no value in line 3, column 'b'"),
        ("1,2,3,4\n1,2,NA,4\n", "has no value in line 2, column 3"),
        ("1,2,,4\n1,2,3,4\n", "has no value in line 1, column 3"),
        ("1,2,x,4\n1,2,3,4\n", "line 1 has numbers, and 'x' in column 3"),
        ("1,2,3,4\n1,2,3,4,5\n", "line 2 has 5 cells, and the first has 4"),
        ("id,{}\nSmith, J,1,2,3,4\n", "line 2 has 6 cells, and the first has 5"),
        ("a,{}\n1,1,2,3,4\n", "has the columns ['a'] more than once"),
        ("a,b,c\n1,2,3\n", "lacks the columns ['with"),
        ("1,2,3\n", "X has 3 features"),
        ("", "it is empty"),
        ("\n \n", "it is empty"),
        ("{}\n", "it has no rows"),
        ('1,2,3,"4\n1,2,3,4\n', "line 1 has numbers, and '4"),
        # A first row is never lost as names
        ("1,5;2,5;3,5;4,5\n1;2;3;4\n", "convert string '1,5' in line 1, column 1; it has a decimal comma"),
        ("\n1;2;3,5;x\n1;2;3;4\n", "convert string '3,5' in line 2, column 3; it has a decimal comma"),
        ('"1,5","2,5","3,5","4,5"\n1,2,3,4\n', "convert string '1,5' in line 1, column 1; it has a decimal comma"),
        ('"1,234.5",-,-,-\n1,2,3,4\n', "convert string '1,234.5' in line 1, column 1; it has its thousands apart"),
        ("x;y;z;1.234.567,5\n1;2;3;4\n", "in line 1, column 4; it has its thousands apart"),
        ("sep=;\n1;2;3,5;4\n", "convert string '3,5' in line 2, column 3"),
        ("1,2,3,4\n1,nan,3,4\n", "has no value in line 2, column 2, and this student needs all"),
        ("1,2,3,4\n1,2,-inf,4\n", "has an infinite value in line 2, column 3"),
        ("{}\n1,2,3,1e400\n", "has an infinite value in line 2, column 'with"),
        ("1,2,3,4\n1,2,1e39,4\n", "has too large a value, 1e+39, in row 2, column 'c'"),
        ("x,y,z,a,u,v,w\n1,2,3,4,5,6,7\n", "it has ['x', 'y', 'z', 'a', 'u'] and 2 more"),
    ],
)
def test_bad_cells_are_named(student, text, message, tmp_path, capsys):
    path = tmp_path / "bad.csv"
    path.write_text(text.replace("{}", 'a,b,c,"with ""quotes"", and comma"'))
    error = refuse(student, path, capsys)
    assert message in error
    assert "bad.csv" in error or "X has" in error
    assert "sklearn" not in error


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("nan.npy", lambda path: np.save(path, [[1, 2, 3, 4], [1, np.nan, 3, 4]]), "no value in row 2, column 'b'"),
        ("inf.npy", lambda path: np.save(path, np.full((1, 4), -np.inf)), "an infinite value in row 1, column 'a'"),
        (
            "null.parquet",
            lambda path: pl.DataFrame([[1, 2], [3, 4], [5, None], [7, 8]], schema=list(NAMES)).write_parquet(path),
            "no value in row 2, column 'c'",
        ),
        ("o.npy", lambda path: np.save(path, np.array([[1, None]])), "holds Python objects, which are not loaded"),
        ("pickle.npy", lambda path: path.write_bytes(pickle.dumps([1, 2])), "holds Python objects"),
        ("lacking.parquet", lambda path: pl.DataFrame({"a": [1], "x": [2]}).write_parquet(path), "it has ['a', 'x']"),
    ],
)
def test_values_that_no_student_takes_are_named(student, name, write, message, tmp_path, capsys):
    write(tmp_path / name)
    error = refuse(student, tmp_path / name, capsys)
    assert f"{tmp_path / name}" in error
    assert message in error
    assert "sklearn" not in error
    assert "allow_pickle" not in error


@pytest.mark.parametrize(
    ("text", "separator"),
    [
        ("sep=;\na;b;c;{}\n", ";"),
        ("\ufeffsep=|\r\na|b|c|{}\r\n", "|"),
        ('"sep=\t"\na\tb\tc\t{}\n', "\t"),
        ('a, b, "c", {}\n', ","),
        (' "a" ;  "b"; "c"; {}\n', ";"),
    ],
)
def test_first_lines_of_excel_and_of_hands(student, text, separator, tmp_path, capsys):
    """Excel writes and reads a first line `sep=;`; people write blanks after commas."""
    rows = make_rows(3, 4)
    with open(tmp_path / "t.csv", "w", encoding="utf-8", newline="") as file:
        file.write(text.replace("{}", '"with ""quotes"", and comma"'))
        np.savetxt(file, rows, delimiter=separator)
    assert predict(student, tmp_path / "t.csv", capsys)[0] == load(student).predict(rows).tolist()


def test_order_without_names_is_noted(student, rows, tmp_path, capsys):
    noted = predict(student, tmp_path / "rows.csv", capsys)[1]
    assert (
        f"{tmp_path / 'rows.csv'} has no names of columns: they are taken in the order of the fit, ['a', 'b'" in noted
    )
    assert "no names" not in predict(student, tmp_path / "named.csv", capsys)[1]


def test_names_that_are_numbers_are_a_header(rows, tmp_path, capsys):
    names = ("1", "2", "3", "4")
    container.save(container.encode(labelled((4, 8, 3), feature_names=names)), tmp_path / "numbers.student")
    expected = load(tmp_path / "numbers.student").predict(rows).tolist()
    np.savetxt(tmp_path / "t.csv", rows[:, ::-1], delimiter=",", header="4,3,2,1", comments="")
    labels, noted = predict(tmp_path / "numbers.student", tmp_path / "t.csv", capsys)
    assert labels == expected
    assert "is taken for names, ['4', '3', '2', '1']" in noted
    np.savetxt(tmp_path / "t.csv", rows, delimiter=",")
    assert predict(tmp_path / "numbers.student", tmp_path / "t.csv", capsys)[0] == expected


def test_student_that_takes_missing_values_reads_them(rows, tmp_path, capsys):
    network = labelled((4, 8, 3), feature_names=NAMES, offset=np.zeros(4, np.float32), fill=True)
    (tmp_path / "inf.csv").write_text("1,nan,3,4\n1,inf,3,4\n")
    container.save(container.encode(network), tmp_path / "fills.student")
    rows = np.where(np.arange(120).reshape(30, 4) % 7 == 0, np.nan, rows)
    frame = pd.DataFrame(rows, columns=list(NAMES))[list(NAMES[::-1])]
    expected = load(tmp_path / "fills.student").predict(rows).tolist()
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "named.csv", index=False, na_rep="NA", sep=";")
    frame.convert_dtypes().to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "named.csv", "t.parquet"):
        assert predict(tmp_path / "fills.student", tmp_path / name, capsys)[0] == expected
    np.savetxt(tmp_path / "nan.csv", rows, delimiter=",")  # writes "nan"
    assert predict(tmp_path / "fills.student", tmp_path / "nan.csv", capsys)[0] == expected
    error = refuse(tmp_path / "fills.student", tmp_path / "inf.csv", capsys)
    assert "an infinite value in line 2, column 2" in error


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("latin.csv", "Größe,b,c,d\n1,2,3,4\n".encode("latin-1")),
        ("cut.csv.gz", gzip.compress(b"1,2,3,4\n" * 1000, mtime=0)[:-20]),
        ("none.csv.gz", b"no gzip"),
        ("none.parquet", b"PAR1 and no more"),
        ("none.npy", b""),
        ("huge.csv", b"1,2,3," + b"4" * 200_000),
    ],
)
def test_damaged_files_are_one_line(student, name, data, tmp_path, capsys):
    (tmp_path / name).write_bytes(data)
    assert refuse(student, tmp_path / name, capsys).startswith("python -m distill predict: ")


def test_first_line_of_numbers_that_count_is_noted(student, rows, tmp_path, capsys):
    """pandas writes such names; they cannot be told from a row."""
    pd.DataFrame(rows).to_csv(tmp_path / "counted.csv", index=False)
    labels, noted = predict(student, tmp_path / "counted.csv", capsys)
    assert len(labels) == 31
    assert "0, 1, 2, ..., is taken for a row of numbers" in noted


def test_student_without_names_takes_tables_by_position(rows, tmp_path, capsys):
    container.save(container.encode(labelled((4, 8, 3))), tmp_path / "plain.student")
    expected = load(tmp_path / "plain.student").predict(rows).tolist()
    frame = pd.DataFrame(rows, columns=["x_1", "x_2", "x_3", "x_4"])
    frame.to_csv(tmp_path / "t.csv", index=False, sep=";")
    frame.to_parquet(tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        labels, noted = predict(tmp_path / "plain.student", tmp_path / name, capsys)
        assert labels == expected
        assert ("is taken for names, ['x_1', 'x_2', 'x_3', 'x_4']" in noted) == (name == "t.csv")
        assert "taken in the order of the fit" in noted


@pytest.mark.skipif(os.name != "posix", reason="named pipes")
def test_predictions_go_into_pipes_and_devices(student, rows, tmp_path, capsys):
    expected = load(student).predict(rows).tolist()
    os.mkfifo(tmp_path / "pipe")
    arguments = ["predict", str(student), str(tmp_path / "rows.npy"), "-o"]
    writer = threading.Thread(target=main, args=([*arguments, str(tmp_path / "pipe")],))
    writer.start()
    assert (tmp_path / "pipe").read_text().splitlines() == expected
    writer.join()
    assert main([*arguments, os.devnull]) == 0
    assert not os.path.isfile(os.devnull)
    assert main([*arguments, str(tmp_path / "nowhere" / "out.csv")]) == 2
    assert f"no such folder; create it first, as with os.makedirs: '{tmp_path / 'nowhere'}'" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix", reason="pipes")
def test_reader_that_has_had_enough_is_no_error(student, tmp_path):
    np.save(tmp_path / "many.npy", np.zeros((200_000, 4), np.float32))
    command = f"{sys.executable} -m distill predict {student} {tmp_path / 'many.npy'} | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, env=environment())
    assert result.stdout.splitlines() == load(student).predict(np.zeros((1, 4))).tolist()
    assert result.stderr == ""
