"""python -m distill: info and predict."""

import os
import subprocess
import sys

import numpy as np
import pytest
from fresh_process import environment
from some_students import labelled, make_network, make_rows

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
