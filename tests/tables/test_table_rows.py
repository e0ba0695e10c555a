"""Rows for tables: data frames, dicts, texts and all other containers, and columns of the wrong kind."""

import pickle

import dask.dataframe
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from fresh_process import run_python
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.compose import ColumnTransformer
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler
from through_file import expected, file_of, loaded

from distill import load

TABLE = {
    "size": [1.5, None, 2.5, 0.0],
    "count": [1, 2, 3, 4],
    "color": ["red", None, "blue", "red"],
    "ok": [True, False, True, True],
    "note": ["a", "b", "c", "d"],
}
FRAME = pd.DataFrame(TABLE)
COLUMNS = ColumnTransformer(
    [
        ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["size", "count"]),
        ("colors", OneHotEncoder(handle_unknown="ignore"), ["color"]),
        ("flags", "passthrough", ["ok"]),
    ]
).fit(FRAME)


def records(table):
    return [dict(zip(table, values)) for values in zip(*table.values())]


def structured(table):
    kinds = {"size": "f4", "count": "i2", "color": "O", "ok": "?", "note": "U3"}
    rows = [
        tuple(np.nan if value is None and name == "size" else value for name, value in row.items())
        for row in records(table)
    ]
    return np.array(rows, [(name, kinds[name]) for name in table])


CONTAINERS = {
    "pandas": pd.DataFrame,
    "pandas nullable": lambda table: pd.DataFrame(table).convert_dtypes(),
    "pandas of pyarrow": lambda table: pa.table(table).to_pandas(types_mapper=pd.ArrowDtype),
    "pandas objects": lambda table: pd.DataFrame(table).astype(object),
    "pandas categories": lambda table: pd.DataFrame(table).astype({"color": "category"}),
    "polars": pl.DataFrame,
    "polars lazy": lambda table: pl.DataFrame(table).lazy(),
    "polars categories": lambda table: pl.DataFrame(table).with_columns(pl.col("color").cast(pl.Categorical)),
    "polars structs": lambda table: pl.DataFrame(table).to_struct("x"),
    "pyarrow table": pa.table,
    "pyarrow batch": pa.RecordBatch.from_pydict,
    "pyarrow dictionaries": lambda table: pa.table({**table, "color": pa.array(table["color"]).dictionary_encode()}),
    "dask": lambda table: dask.dataframe.from_pandas(pd.DataFrame(table), npartitions=2),
    "duckdb": lambda table: duckdb.from_arrow(pa.table(table)),
    "dict of lists": dict,
    "dict of arrays": lambda table: {name: np.array(values, dtype=object) for name, values in table.items()},
    "list of dicts": records,
    "structured": structured,
}  # fmt: skip


@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "reversed"])
@pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS)
def test_containers_give_the_rows_of_the_frame(make, reverse):
    table = dict(reversed(TABLE.items())) if reverse else TABLE
    assert_array_equal(loaded(COLUMNS)(make(table)), expected(COLUMNS, FRAME))


@pytest.mark.parametrize("X", [
    FRAME.astype(object).to_numpy(),
    [list(values) for values in zip(*TABLE.values())],
    [tuple(values) for values in zip(*TABLE.values())],
], ids=["array of objects", "lists", "tuples"])  # fmt: skip
def test_rows_without_names_are_taken_by_position(X):
    assert_array_equal(loaded(COLUMNS)(X), expected(COLUMNS, FRAME))


def test_one_row_may_be_a_dict():
    for row, wanted in zip(records(TABLE), expected(COLUMNS, FRAME)):
        assert_array_equal(loaded(COLUMNS)(row), wanted[None])


def test_columns_that_no_step_takes_may_be_absent():
    run = loaded(COLUMNS)
    assert_array_equal(run(FRAME.drop(columns="note")), expected(COLUMNS, FRAME))
    assert_array_equal(run(records(TABLE)[0] | {"note": None}), expected(COLUMNS, FRAME)[:1])


def test_rows_are_those_of_any_batch():
    rows = pd.concat([FRAME] * 50)
    together, run = loaded(COLUMNS)(rows), loaded(COLUMNS)
    assert_array_equal(np.vstack([run(rows[at : at + 1]) for at in range(len(rows))]), together)
    student = load(file_of(COLUMNS))
    assert_array_equal(student.transform(rows)[3:7], student.transform(rows[3:7]))
    assert student.transform(FRAME[:0]).shape == (0, 1)


def test_sparse_and_numeric_arrays():
    columns = ColumnTransformer([("n", StandardScaler(with_mean=False), [1, 2]), ("c", OrdinalEncoder(), [0])])
    X = np.array([[0, 1.5, 0], [3, 0, 2], [0, 0, 1]])
    columns.fit(X)
    for rows in (X, sparse.csr_array(X), sparse.csc_matrix(X), X.astype(np.float32), np.asfortranarray(X)):
        assert_array_equal(loaded(columns)(rows), expected(columns, X))


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ({"size": [1], "count": [1], "color": ["red"]}, r"1 are missing \['ok'\], 0 are unknown"),
        (FRAME.assign(extra=1), r"1 are unknown \['extra'\]; use .*student.feature_names_in_"),
        (pd.concat([FRAME, FRAME[["ok"]]], axis=1), "column 'ok' more than once"),
        (FRAME.assign(size="tall"), "row 0 of X, column 'size': the value is text, 'tall', where a number is needed"),
        ({**TABLE, "size": [1, 2, np.inf, 3]}, "row 2 of X, column 'size': the value is infinite"),
        ({**TABLE, "color": [None, 1, "red", "red"], "ok": ["yes"] * 4}, "row 0 of X, column 'ok': the value is text"),
        ({**TABLE, "color": [1, 2, 3, 4]}, "row 0 of X, column 'color': .* 1 is a number, and the categories are text"),
        ({**TABLE, "color": [["red"]] * 4}, r"row 0 of X, column 'color': the value \['red'\] cannot be a category"),
        (FRAME.assign(size=pd.to_datetime(["2020-01-01"] * 4)), "column 'size' of X holds dates, such as 2020"),
        (FRAME.assign(color=b"red"), "row 0 of X, column 'color'|column 'color'"),
        ({**TABLE, "color": ["red"]}, "column 'color' of X has 1 values, and another column has 4"),
        ([{"size": 1}, {"count": 1}], r"1 are missing|lacks|are missing"),
        ([[1, 2, 3]], "X has 3 columns, and the student was fitted with 5 columns"),
        ([[1, 2], [1]], r"rows of equal length, and they have \[1, 2\] values"),
        ([1, 2, 3, 4, 5], r"X is a vector.*; \[X\] is a single row"),
        (pd.Series([1, 2]), r"X is a vector, .* X.to_frame\(\).T is a single row"),
        ("red", r"X must be rows, and it is a single text; \[X\] is one row"),
        (np.ones((2, 5), complex), "column 0 of X holds complex numbers"),
        (np.ones((2, 5, 1)), "two dimensions"),
    ],
)  # fmt: skip
def test_wrong_rows_are_named(X, message):
    if isinstance(X, pd.DataFrame) and (X.get("color") == b"red").all():
        X = X.drop(columns="color").assign(color=np.array([b"red"] * 4))
    with pytest.raises(ValueError, match=message):
        load(file_of(COLUMNS)).transform(X)


def test_unknown_categories_are_named_with_row_and_column():
    encoder = OneHotEncoder().fit(pd.DataFrame({"city": list("abcdefg")}))
    student = load(file_of(encoder))
    rows = pd.DataFrame({"city": ["a"] * 5000 + ["Paris"]})
    with pytest.raises(
        ValueError,
        match=r"row 5000 of X, column 'city': the value 'Paris' is no category of the fit, .* 'a', .* and 2 more",
    ):
        student.transform(rows)
    with pytest.raises(ValueError, match="row 0 of X, column 'city': the value nan is no category"):
        student.transform(pd.DataFrame({"city": ["x", None]})[1:])


def test_missing_values_that_no_step_fills_are_named():
    student = load(file_of(COLUMNS))
    with pytest.raises(
        ValueError,
        match=r"row 1 of X: the value is missing after the steps .* in the columns \['size', 'color', 'ok'\]; fill",
    ):
        student.transform({**TABLE, "ok": [True, None, True, True]})


def test_none_and_nan_are_one_missing_value_unless_both_are_categories():
    both = OrdinalEncoder().fit(np.array([["a"], [None], [np.nan]], dtype=object))
    assert_array_equal(loaded(both)([["a"], [None], [np.nan]]), [[0], [1], [np.nan]])
    for fitted, other in ((None, np.nan), (np.nan, None)):
        encoder = OrdinalEncoder(encoded_missing_value=5).fit(np.array([["a"], [fitted]], dtype=object))
        run = loaded(encoder)
        assert_array_equal(run([["a"], [other]]), run([["a"], [fitted]]))
    filled = SimpleImputer(strategy="most_frequent").fit(np.array([["a"], ["a"], [np.nan]], dtype=object))
    chained = make_pipeline(filled, OneHotEncoder()).fit(np.array([["a"], ["a"], [np.nan]], dtype=object))
    assert_array_equal(loaded(chained)([[None], ["a"]]), [[1.0], [1.0]])


def test_none_is_no_number_where_it_is_a_category():
    # As a fit with polars gives it, and rows out of JSON at prediction
    frame = pl.DataFrame({"size": [1.0, None, 4.0], "color": ["red", None, "blue"]})
    columns = ColumnTransformer([("n", SimpleImputer(add_indicator=True), ["size"]), ("c", OneHotEncoder(), ["color"])])
    wanted = expected(columns.fit(frame), frame)
    assert_array_equal(loaded(columns)(frame), wanted)
    assert_array_equal(loaded(columns)(frame.to_dicts()), wanted)


# texts

TEXTS = ["the red fox", "a blue fox jumps", "red and blue"]


@pytest.mark.parametrize("make", [
    list, tuple, np.array, lambda texts: np.array(texts, object), pd.Series, pl.Series, pa.array,
    lambda texts: pa.chunked_array([texts]), lambda texts: pd.Series(texts, dtype="string"),
    lambda texts: [[text] for text in texts], lambda texts: pd.DataFrame({"text": texts}),
    lambda texts: pl.DataFrame({"text": texts}), lambda texts: {"text": texts},
], ids=["list", "tuple", "array", "objects", "pandas", "polars", "pyarrow", "chunks", "string dtype", "lists", "frame",
        "polars frame", "dict"])  # fmt: skip
def test_texts_in_any_container(make):
    vectorizer = TfidfVectorizer().fit(TEXTS)
    assert_array_equal(loaded(vectorizer)(make(TEXTS)), expected(vectorizer, TEXTS))


def test_wrong_texts_are_named():
    student = load(file_of(TfidfVectorizer().fit(TEXTS)))
    for X, message in [
        (["a", None], "row 1 of X, column 0: the value is missing, where a text is needed; fill it in"),
        ([["a"], [3]], r"row 1 of X, column 0: the value is no text, 3, where a text is needed; convert it"),
        ("the red fox", r"X must be rows, and it is a single text; \[X\] is one row"),
        ([["a", "b"]], "X has 2 columns, and the student was fitted with 1 columns"),
        (np.array([1.5, 2.5]), "row 0 of X, column 0: the value is no text, 1.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            student.transform(X)
    assert student.transform([]).shape == (0, 1)


def test_a_column_of_texts_beside_others():
    frame = pd.DataFrame({"price": [1.0, 2, 3], "review": TEXTS})
    columns = ColumnTransformer([("text", TfidfVectorizer(), "review"), ("price", StandardScaler(), ["price"])]).fit(
        frame
    )
    assert_array_equal(loaded(columns)(frame), expected(columns, frame))
    assert_array_equal(loaded(columns)(frame.to_dict("records")), expected(columns, frame))


# students


def test_students_of_tables_can_be_pickled():
    student = load(file_of(COLUMNS))
    assert_array_equal(pickle.loads(pickle.dumps(student)).transform(FRAME), student.transform(FRAME))


def test_tables_need_numpy_only(tmp_path):
    (tmp_path / "a.student").write_bytes(file_of(COLUMNS))
    code = (
        "import sys, distill;"
        "rows = {'size': [1.5, None], 'count': [1, 2], 'color': ['red', None], 'ok': [True, False]};"
        "print(*distill.load(sys.argv[1]).transform(rows).ravel().tolist());"
        "assert not {'torch', 'sklearn', 'scipy', 'joblib', 'pandas'} & set(sys.modules)"
    )
    printed = run_python(code, tmp_path / "a.student").split()
    assert printed == [str(value) for value in load(file_of(COLUMNS)).transform(FRAME[:2]).ravel().tolist()]
