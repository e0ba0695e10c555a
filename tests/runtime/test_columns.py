"""Columns by name from any container, for a loaded student: scikit-learn #7242."""

import datetime
import decimal
from collections import namedtuple

import dask.dataframe
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse
from some_students import labelled, make_rows

from distill.runtime import Student
from distill.runtime.columns import check_labels, column_names, matrix, structured

NAMES = ("alpha", "beta", "gamma")
ROWS = make_rows(6, 3)


class Labeled:
    """An array with names along the second dimension, as xarray's DataArray offers it."""

    def __init__(self, table):
        self.dims, self.coords = ("row", "feature"), {"feature": np.array(list(table))}
        self._values = np.column_stack(list(table.values()))

    def __array__(self, dtype=None, copy=None):
        return self._values


def struct_array(table):
    return pa.RecordBatch.from_pydict(table).to_struct_array()


class Archive(dict):
    """A Mapping that is no plain dict, such as NumPy's archives and xarray's data sets."""


def records(table):
    Row = namedtuple("Row", table)
    return [Row(*values) for values in zip(*table.values())]


CONTAINERS = {
    "pandas": pd.DataFrame,
    "pandas nullable": lambda table: pd.DataFrame(table).convert_dtypes(),
    "pandas of pyarrow": lambda table: pa.table(table).to_pandas(types_mapper=pd.ArrowDtype),
    "pandas objects": lambda table: pd.DataFrame(table).astype(object),
    "polars": pl.DataFrame,
    "polars lazy": lambda table: pl.DataFrame(table).lazy(),
    "pyarrow table": pa.table,
    "pyarrow batch": pa.RecordBatch.from_pydict,
    "polars structs": lambda table: pl.DataFrame(table).to_struct("x"),
    "pyarrow structs": struct_array,
    "pyarrow chunks of structs": lambda table: pa.table(table).to_struct_array(),
    "pandas structs": lambda table: pd.Series(struct_array(table), dtype=pd.ArrowDtype(struct_array(table).type)),
    "dask": lambda table: dask.dataframe.from_pandas(pd.DataFrame(table), npartitions=2),
    "duckdb": lambda table: duckdb.from_arrow(pa.table(table)),
    "structured": lambda table: structured(table),
    "record array": lambda table: structured(table).view(np.recarray),
    "structured mixed": lambda table: np.rec.fromarrays(
        [values.astype(dtype) for values, dtype in zip(table.values(), ("f4", "f8", "f4"))], names=list(table)
    ),
    "dict of arrays": dict,
    "dict of lists": lambda table: {name: values.tolist() for name, values in table.items()},
    "dict of series": lambda table: {name: pl.Series(values) for name, values in table.items()},
    "mapping": Archive,
    "list of dicts": lambda table: [dict(zip(table, values)) for values in zip(*table.values())],
    "list of named tuples": records,
    "labeled array": Labeled,
}


@pytest.fixture(scope="module")
def student():
    return Student(labelled((3, 4), feature_names=NAMES))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)], ids=str)
@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS)
def test_columns_are_matched_by_name(student, make, order):
    X = make({NAMES[index]: ROWS[:, index].copy() for index in order})
    assert column_names(X) == tuple(NAMES[index] for index in order)
    np.testing.assert_array_equal(student.raw_outputs(X), student.raw_outputs(ROWS))
    np.testing.assert_array_equal(student.predict(X), student.predict(ROWS))
    np.testing.assert_array_equal(student.predict_proba(X), student.predict_proba(ROWS))


@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS)
def test_student_without_names_takes_positions(make):
    X = make({name: ROWS[:, index].copy() for index, name in enumerate(("c", "a", "b"))})
    student = Student(labelled((3, 4)))
    np.testing.assert_array_equal(student.raw_outputs(X), student.raw_outputs(ROWS))


@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS)
def test_missing_and_unknown_columns_are_named(student, make):
    table = {name: ROWS[:, index].copy() for index, name in enumerate(NAMES)}
    with pytest.raises(ValueError, match=r"1 are missing \['gamma'\], 1 are unknown \['delta'\]"):
        student.predict(make({**{name: table[name] for name in NAMES[:2]}, "delta": table["gamma"]}))
    if make is CONTAINERS["structured mixed"]:
        return
    with pytest.raises(ValueError, match=r"1 are unknown \['extra'\]; use .*student.feature_names_in_"):
        student.predict(make({"extra": table["beta"], **table}))


@pytest.mark.parametrize(
    "name",
    ["pandas", "polars", "polars lazy", "pyarrow table", "duckdb", "structured", "dict of arrays", "list of dicts"],
)
def test_advice_on_unknown_columns_works(student, name):
    table = {"extra": ROWS[:, 0].copy()} | {name: ROWS[:, index].copy() for index, name in enumerate(NAMES)}
    X = CONTAINERS[name](table)
    with pytest.raises(ValueError, match="use") as caught:
        student.predict(X)
    selected = eval(str(caught.value).partition("; use ")[2], {"X": X, "student": student})
    np.testing.assert_array_equal(student.raw_outputs(selected), student.raw_outputs(ROWS))


def test_labels_that_count_the_columns_mean_positions(student):
    for X in (pd.DataFrame(ROWS), pd.DataFrame(ROWS[:, ::-1], columns=[2, 1, 0]).iloc[:, ::-1], ROWS.tolist()):
        np.testing.assert_array_equal(student.raw_outputs(X), student.raw_outputs(ROWS))


@pytest.mark.parametrize(
    "labels", [[2, 1, 0], [0, "beta", 2], [5, 6, 7], [0.5, 1.5, 2.5], [("x", "a"), "b", "c"]], ids=str
)
@pytest.mark.parametrize("make", [pd.DataFrame, dict, lambda table: [dict(zip(table, map(float, ROWS[0])))]])
def test_other_labels_are_no_positions(student, make, labels):
    """They may say another order, which would be wrong labels without a word: scikit-learn #7242."""
    X = make(dict(zip(labels, ROWS.T)))
    with pytest.raises(ValueError, match=r"X has the column labels .* student was fitted with the names") as caught:
        student.predict(X)
    assert str(labels[0]) in str(caught.value)
    way_out = str(caught.value).rpartition("give ")[2]
    corrected = eval(way_out, {"X": X, "student": student})
    np.testing.assert_array_equal(
        student.raw_outputs(corrected), student.raw_outputs(ROWS[: len(X) if len(X) < 3 else 6])
    )
    if isinstance(X, pd.DataFrame):
        exec(str(caught.value).rpartition("set ")[2].partition(" or ")[0], {"X": X, "student": student})
        np.testing.assert_array_equal(student.raw_outputs(X), student.raw_outputs(ROWS))


def test_names_in_a_level_of_labels_are_found(student):
    X = pd.concat({"x": pd.DataFrame(ROWS, columns=NAMES).iloc[:, ::-1]}, axis=1)
    with pytest.raises(ValueError, match=r"X.columns = X.columns.get_level_values\(1\) gives") as caught:
        student.predict(X)
    exec(str(caught.value).partition("; ")[2].partition(" gives")[0], {"X": X})
    np.testing.assert_array_equal(student.raw_outputs(X), student.raw_outputs(ROWS))


@pytest.mark.parametrize("make", [pd.DataFrame, dict, lambda table: [dict(zip(table, map(float, ROWS[0])))]])
def test_student_without_names_refuses_positions_in_another_order(make):
    student, X = Student(labelled((3, 4))), make(dict(zip([2, 0, 1], ROWS[:, [2, 0, 1]].T)))
    with pytest.raises(ValueError, match=r"labels \[2, 0, 1\], which count the columns in another order") as caught:
        student.predict(X)
    if not isinstance(X, list):
        selected = eval(str(caught.value).partition("give ")[2].partition(", or")[0], {"X": X})
        np.testing.assert_array_equal(student.raw_outputs(selected), student.raw_outputs(ROWS))
    check_labels(make(dict(zip([2, 4, 3], ROWS.T))), None)


@pytest.mark.parametrize("layout", ["csr", "coo", "dok", "lil", "dia"])
def test_sparse_rows_have_no_labels(student, layout):
    X = sparse.csr_array(ROWS).asformat(layout)
    check_labels(X, NAMES)
    assert column_names(X) is None
    np.testing.assert_array_equal(student.raw_outputs(X), student.raw_outputs(ROWS))


def test_reader_of_batches_is_read(student):
    table = pa.table(dict(zip(NAMES[::-1], ROWS[:, ::-1].T)))
    assert column_names(table.to_reader()) == NAMES[::-1]
    np.testing.assert_array_equal(student.raw_outputs(table.to_reader()), student.raw_outputs(ROWS))


def test_advice_on_a_series_of_rows_works(student):
    for X in (pd.Series(ROWS.tolist()), pd.Series(pd.DataFrame(ROWS, columns=NAMES).to_dict("records"))):
        with pytest.raises(ValueError, match="must have two dimensions") as caught:
            student.predict(X)
        corrected = eval(str(caught.value).partition("; ")[2].rpartition(")")[0] + ")", {"X": X, "numpy": np})
        np.testing.assert_array_equal(student.raw_outputs(corrected), student.raw_outputs(ROWS))


@pytest.mark.parametrize(
    ("make", "value", "message"),
    [
        (pd.DataFrame, np.array(["2024-01-01"] * 6, "datetime64[ns]"), "holds dates, such as 2024-01-01"),
        (dict, np.array([1] * 6, "timedelta64[s]"), "holds time spans, such as 1"),
        (dict, np.full(6, 1j), "holds complex numbers"),
        (pl.DataFrame, [datetime.date(2024, 1, 1)] * 6, "holds dates"),
        (pa.table, [datetime.date(2024, 1, 1)] * 6, "holds dates"),
        (pa.table, [datetime.time(12)] * 6, "no numbers, such as datetime.time"),
        (pa.table, pa.array(["red"] * 6).dictionary_encode(), "holds text, such as 'red'"),
        (pd.DataFrame, pd.Categorical(["red"] * 6), "holds text, such as 'red'"),
        (pl.DataFrame, pl.Series(["red"] * 6, dtype=pl.Categorical), "holds text, such as 'red'"),
        (dict, ["red"] * 6, "holds text, such as red"),
        (pd.DataFrame, [[1, 2]] * 6, r"no numbers, such as \[1, 2\]"),
        (dict, np.zeros((6, 2)), r"has the shape \(6, 2\); it needs one number for each row"),
        (dict, 3.0, r"one number for each row; of a single row it is \[value\]"),
        (dict, np.zeros(5), "column 'beta' of X has 5 values, and column 'alpha' has 6"),
    ],
)
def test_columns_that_are_no_numbers_are_named(student, make, value, message):
    X = make({"alpha": ROWS[:, 0].copy(), "beta": value, "gamma": ROWS[:, 2].copy()})
    with pytest.raises(ValueError, match=f"(column 'beta' of X )?.*{message}") as caught:
        student.predict(X)
    assert "'beta'" in str(caught.value)


@pytest.mark.parametrize(
    ("make", "value"),
    [
        (pd.DataFrame, pd.array([1, None, 3], "Int64")),
        (pd.DataFrame, pd.array([True, None, True], "boolean")),
        (pl.DataFrame, [1, None, 3]),
        (pa.table, [1, None, 3]),
        (lambda table: duckdb.from_arrow(pa.table(table)), [1, None, 3]),
        (dict, [1, None, 3]),
        (dict, np.ma.array([1, 2, 3], mask=[False, True, False])),
    ],
    ids=["pandas Int64", "pandas boolean", "polars", "pyarrow", "duckdb", "None", "masked"],
)
def test_missing_values_are_no_numbers(student, make, value):
    """They are NaN, which this student refuses; never what lies behind a mask."""
    X = make({"alpha": [1.0, 2.0, 3.0], "beta": value, "gamma": [1.0, 2.0, 3.0]})
    assert np.isnan(matrix(X)[:, 1]).tolist() == [False, True, False]
    with pytest.raises(ValueError, match="NaN"):
        student.predict(X)


def test_missing_values_reach_a_student_that_takes_them():
    student = Student(labelled((3, 4), feature_names=NAMES, offset=np.ones(3, np.float32), fill=True))
    table = {"gamma": [1, 2, 3], "beta": [1, None, 3], "alpha": [0.5, 1.5, None]}
    expected = student.raw_outputs([[0.5, 1, 1], [1.5, np.nan, 2], [np.nan, 3, 3]])
    for X in (table, pd.DataFrame(table).convert_dtypes(), pl.DataFrame(table).lazy(), pa.table(table)):
        np.testing.assert_array_equal(student.raw_outputs(X), expected)


def test_masked_rows_are_not_unmasked():
    with pytest.raises(ValueError, match="NaN"):
        Student(labelled((3, 4))).predict(np.ma.array(ROWS, mask=ROWS > 0))


def test_types_with_a_value_are_read(student):
    numbers = [decimal.Decimal("1.5"), decimal.Decimal("-2")]
    for X in (
        {"beta": numbers, "alpha": [True, False], "gamma": np.array([3, 250], np.uint8)},
        pa.table({"beta": numbers, "alpha": [True, False], "gamma": pa.array([3, 250], pa.uint8())}),
        pl.DataFrame({"beta": numbers, "alpha": [True, False], "gamma": [3, 250]}),
        pd.DataFrame({"beta": numbers, "alpha": [True, False], "gamma": pd.Categorical([3, 250])}),
    ):
        np.testing.assert_array_equal(student.raw_outputs(X), student.raw_outputs([[1, 1.5, 3], [0, -2, 250]]))


def test_columns_of_one_name(student):
    twice = pd.DataFrame(np.column_stack([ROWS, ROWS[:, :1]]), columns=[*NAMES, "alpha"])
    with pytest.raises(ValueError, match="column 'alpha' more than once"):
        student.predict(twice)
    mixed = pd.DataFrame({"a": [1.0, 2.0], "b": [True, False], "c": [3, 4]}).set_axis(["a", "a", "c"], axis=1)
    plain = Student(labelled((3, 4)))
    np.testing.assert_array_equal(plain.raw_outputs(mixed), plain.raw_outputs([[1, 1, 3], [2, 0, 4]]))


def test_rows_that_lack_a_value_are_named(student):
    with pytest.raises(ValueError, match=r"row 1 of X lacks the values \['beta'\]"):
        student.predict([{"alpha": 1, "beta": 2, "gamma": 3}, {"alpha": 1, "gamma": 3}])


# numbers in one dimension: the advice is code that works


@pytest.mark.parametrize(
    "make",
    [np.asarray, list, tuple, pd.Series, pl.Series, pa.array, lambda row: pd.DataFrame(ROWS, columns=NAMES).iloc[0]],
    ids=["array", "list", "tuple", "pandas", "polars", "pyarrow", "row of a frame"],
)
def test_advice_on_a_single_row_works(student, make):
    X = make(ROWS[0])
    with pytest.raises(ValueError, match="must have two dimensions") as caught:
        student.predict(X)
    advice = str(caught.value).partition("; ")[2].removesuffix(" is a single row")
    corrected = eval(advice, {"X": X, "numpy": np})
    np.testing.assert_array_equal(student.raw_outputs(corrected), student.raw_outputs(ROWS[:1]))


@pytest.mark.parametrize("make", [np.asarray, list, tuple, pd.Series, pl.Series, pa.array])
def test_advice_on_a_single_feature_works(make):
    student = Student(labelled((1, 4)))
    X = make(ROWS[:, 0])
    with pytest.raises(ValueError, match="must have two dimensions") as caught:
        student.predict(X)
    advice = str(caught.value).partition("; ")[2].removesuffix(" has a row for each value")
    corrected = eval(advice, {"X": X, "numpy": np})
    np.testing.assert_array_equal(student.raw_outputs(corrected), student.raw_outputs(ROWS[:, :1]))
