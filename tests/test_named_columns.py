"""Columns by name in fitted estimators, for containers that scikit-learn does not know: scikit-learn #7242."""

import warnings

import dask.dataframe
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_iris
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier

from distill import AutoCompressor, CodebookCompressor, Distiller, MatrixGaussianCompressor, load
from mbn import MultilayerBootstrapNetwork

# Networks are trained too short on purpose, and say so
pytestmark = pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")

NAMES = ["sepal length", "sepal width", "petal length", "petal width"]
X, Y = load_iris(return_X_y=True)
TABLE = dict(zip(NAMES, np.ascontiguousarray(X.T)))
REVERSED = {name: TABLE[name] for name in NAMES[::-1]}
# scikit-learn reads the names of the first two, takes the values of the next two by position, and none of the others
CONTAINERS = {
    "pandas": pd.DataFrame,
    "pyarrow table": pa.table,
    "pyarrow batch": pa.RecordBatch.from_pydict,
    "dask": lambda table: dask.dataframe.from_pandas(pd.DataFrame(table), npartitions=2),
    "polars lazy": lambda table: pl.DataFrame(table).lazy(),
    "duckdb": lambda table: duckdb.from_arrow(pa.table(table)),
    "record array": lambda table: np.rec.fromarrays(list(table.values()), names=list(table)),
    "dict": dict,
    "list of dicts": lambda table: [dict(zip(table, map(float, row))) for row in zip(*table.values())],
}
BY_POSITION = ["pyarrow batch", "dask"]
containers = pytest.mark.parametrize("make", CONTAINERS.values(), ids=CONTAINERS)


def distiller(teacher=None, **more):
    teacher = KMeans(3, n_init=1, random_state=0) if teacher is None else teacher
    # The clusters of k-means have linear borders, which a linear student learns in a few passes
    return Distiller(teacher, hidden_layer_sizes=(), learning_rate_init=0.05, max_iter=3, random_state=0, **more)


@pytest.fixture(scope="module")
def expected():
    return distiller().fit(X)


@pytest.fixture(scope="module")
def embedding():
    return MultilayerBootstrapNetwork(n_clusters=3, n_estimators=5, random_state=0).fit(pd.DataFrame(TABLE))


@containers
def test_fit_learns_names_and_predict_checks_them(make, expected):
    student = distiller().fit(make(TABLE))
    assert student.feature_names_in_.tolist() == NAMES
    np.testing.assert_array_equal(student.labels_, expected.labels_)
    np.testing.assert_array_equal(student.predict(make(TABLE)), expected.predict(X))
    assert student.score(make(TABLE)) == expected.score(X)
    with pytest.raises(ValueError, match="same order as they were in fit"):
        student.predict(make(REVERSED))
    with pytest.raises(ValueError, match="same order as they were in fit"):
        student.score(make(REVERSED))
    with pytest.raises(ValueError, match=r"unseen at fit time(.|\n)*other(.|\n)*yet now missing(.|\n)*petal width"):
        student.predict(make({**{name: TABLE[name] for name in NAMES[:3]}, "other": X[:, 3]}))
    loaded = load(student.to_bytes())
    np.testing.assert_array_equal(loaded.predict(make(REVERSED)), expected.predict(X))


def test_names_of_any_other_container_are_the_same(expected):
    student = distiller().fit(pd.DataFrame(TABLE))
    for make in CONTAINERS.values():
        np.testing.assert_array_equal(student.predict(make(TABLE)), expected.predict(X))
    with pytest.warns(UserWarning, match="X has feature names, but Distiller was fitted without"):
        np.testing.assert_array_equal(expected.predict(TABLE), expected.predict(X))


@pytest.mark.parametrize("make", [CONTAINERS["pyarrow batch"], CONTAINERS["duckdb"], dict])
def test_fit_and_embedding_in_one_call(make):
    student = distiller(PCA(2))
    embedded = clone(student).fit_transform(make(TABLE))
    np.testing.assert_array_equal(embedded, clone(student).fit_transform(X))
    np.testing.assert_array_equal(distiller().fit_predict(make(TABLE)), distiller().fit_predict(X))
    student.fit(make(TABLE))
    assert student.score(make(TABLE), PCA(2).fit_transform(X)) == student.fit(X).score(X, PCA(2).fit_transform(X))


@pytest.mark.parametrize("make", [CONTAINERS["pyarrow batch"], CONTAINERS["polars lazy"], dict])
@pytest.mark.parametrize(
    "compressor",
    [
        CodebookCompressor(distiller(), max_iter=1, random_state=0),
        MatrixGaussianCompressor(distiller(), max_iter=1, random_state=0),
        CodebookCompressor(MLPClassifier((8,), max_iter=300, random_state=0), max_iter=1, random_state=0),
        AutoCompressor(distiller(), max_bytes=300, methods=["codebook"], effort=0.01, refit=False, random_state=0),
    ],
    ids=["codebook", "matrix gaussian", "codebook of an MLP", "auto"],
)
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_compressors(make, compressor):
    y = Y if "MLP" in repr(compressor.estimator) else None
    fitted = clone(compressor).fit(make(TABLE), y)
    assert fitted.feature_names_in_.tolist() == NAMES
    assert fitted.network_.feature_names == tuple(NAMES)
    assert fitted.score(make(TABLE)) == clone(compressor).fit(pd.DataFrame(TABLE), y).score(pd.DataFrame(TABLE))
    with pytest.raises(ValueError, match="same order as they were in fit"):
        fitted.predict(make(REVERSED))
    np.testing.assert_array_equal(load(fitted.to_bytes()).predict(make(REVERSED)), fitted.predict(make(TABLE)))


def test_a_frozen_estimator_keeps_its_names():
    student = distiller().fit(TABLE)
    compressor = CodebookCompressor(FrozenEstimator(student), max_iter=1, random_state=0)
    assert compressor.fit(pa.RecordBatch.from_pydict(TABLE)).network_.feature_names == tuple(NAMES)
    with pytest.raises(ValueError, match="reorder or rename"):
        compressor.fit(REVERSED)


def test_teacher_sees_frames_as_given_and_others_as_arrays():
    seen = []

    class Noting(KMeans):
        def fit(self, X, y=None, sample_weight=None):
            seen.append(type(X))
            return super().fit(X, y, sample_weight)

    for make in (pd.DataFrame, pa.table, dict, CONTAINERS["duckdb"]):
        distiller(Noting(3, n_init=1, random_state=0)).fit(make(TABLE))
    assert seen == [pd.DataFrame, pa.Table, np.ndarray, np.ndarray]


def test_labels_that_count_in_another_order_are_refused(expected):
    """scikit-learn ignores labels that are no strings: scikit-learn #7242."""
    X_named, counted = pd.DataFrame(TABLE), pd.DataFrame(X)[[3, 2, 1, 0]]
    for call in (distiller().fit, expected.predict, expected.score):
        with pytest.raises(ValueError, match=r"labels \[3, 2, 1, 0\], which count the columns in another order"):
            call(counted)
    np.testing.assert_array_equal(expected.predict(counted[range(4)]), expected.predict(X))
    student = distiller().fit(X_named)
    for labels in ([3, 2, 1, 0], [5, 6, 7, 8], pd.MultiIndex.from_product([["x"], NAMES])):
        with pytest.raises(ValueError, match=r"X has the column labels .* student was fitted with the names"):
            student.predict(X_named.set_axis(labels, axis=1))
    for make in (pl.DataFrame(TABLE).to_struct, pa.table(TABLE).to_struct_array, pa.table(TABLE).to_reader):
        assert distiller().fit(make()).feature_names_in_.tolist() == NAMES
        np.testing.assert_array_equal(student.predict(make()), expected.predict(X))


def test_masked_values_are_not_unmasked(expected):
    masked = np.ma.array(X, mask=X > 6)
    with pytest.raises(ValueError, match="contains NaN"):
        expected.predict(masked)
    with pytest.raises(ValueError, match="contains NaN"):
        distiller().fit(masked)


# the multilayer bootstrap network


@pytest.mark.parametrize("make", [CONTAINERS[name] for name in ("pandas", "pyarrow table", *BY_POSITION)])
def test_network_learns_and_checks_names(make, embedding):
    expected = embedding.transform(pd.DataFrame(TABLE))
    fitted = clone(embedding).fit(make(TABLE))
    assert fitted.feature_names_in_.tolist() == NAMES
    for network in (fitted, embedding):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            np.testing.assert_array_equal(network.transform(make(TABLE)), expected)
        with pytest.raises(ValueError, match="same order"):
            network.transform(make(REVERSED))
        with pytest.raises(ValueError, match="same order"):
            network.encode(make(REVERSED))


def test_network_without_names(embedding):
    fitted = clone(embedding).fit(X)
    np.testing.assert_array_equal(fitted.transform(X.tolist()), fitted.transform(X))
    assert not hasattr(clone(embedding).fit(pd.DataFrame(X)), "feature_names_in_")


@pytest.mark.parametrize("make", [dict, CONTAINERS["polars lazy"], CONTAINERS["record array"]])
def test_network_refuses_what_is_no_array(make, embedding):
    with pytest.raises(ValueError, match="2D array"):
        clone(embedding).fit(make(TABLE))
