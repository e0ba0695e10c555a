"""Teachers get X and y as the user gave them, in a copy of their own, and their predictions may have any form."""

import array

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import sparse
from sklearn.base import BaseEstimator, ClusterMixin, clone
from sklearn.cluster import DBSCAN, KMeans
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.ensemble import RandomTreesEmbedding
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, StandardScaler

from distill import AutoCompressor, CodebookCompressor, Distiller
from distill.teachers import own_copy
from mbn import MultilayerBootstrapNetwork

# Networks are trained too short on purpose, and say so
pytestmark = pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")

X, groups = make_blobs(120, centers=[[1, 1], [9, 1], [1, 9]], cluster_std=0.6, random_state=0)
SMALL = {"hidden_layer_sizes": (8,), "max_iter": 2, "learning_rate_init": 0.02, "random_state": 0}


class Recording(ClusterMixin, BaseEstimator):
    """Keeps the type and the values of what it is given; labels by the sign of the first feature."""

    seen: list = []  # noqa: RUF012 - shared with the clone that is fitted

    def fit(self, X, y=None):
        self.seen.append(X)
        self.labels_ = self.predict(X)
        return self

    def predict(self, X):
        self.seen.append(X)
        rows = X.toarray() if sparse.issparse(X) else np.asarray(X)
        return (rows[:, 0] > rows[:, 0].mean()).astype(int)


def forms():
    integers = np.rint(X).astype(np.int64)
    return {
        "list": X.tolist(),
        "int64": integers,
        "uint8": integers.astype(np.uint8),
        "bool": integers > 4,
        "float16": X.astype(np.float16),
        "float32": X.astype(np.float32),
        "float64": X,
        "frame": pd.DataFrame(X, columns=["a", "b"]),
        "polars": pl.DataFrame(X, schema=["a", "b"]),
        "csc": sparse.csc_matrix(X),
        "coo": sparse.coo_array(integers),
        "lil": sparse.lil_array(X),
    }


@pytest.mark.parametrize("form", forms())
@pytest.mark.parametrize("make", [
    lambda teacher: Distiller(teacher, **{**SMALL, "max_iter": 1}),
    lambda teacher: CodebookCompressor(Distiller(teacher, **{**SMALL, "max_iter": 1}), max_iter=1),
], ids=["distiller", "compressor"])  # fmt: skip
def test_teacher_sees_the_form_that_the_user_gave(form, make):
    # pycaret #3774: integers became float32 on the way
    rows = forms()[form]
    Recording.seen.clear()
    fitted = make(Recording()).fit(rows)
    fitted.score(rows)
    assert len(Recording.seen) >= 3
    for seen in Recording.seen:
        assert type(seen) is type(rows) and getattr(seen, "dtype", None) == getattr(rows, "dtype", None)
        if sparse.issparse(rows):
            assert seen.format == rows.format and (seen != rows).nnz == 0
        else:
            np.testing.assert_array_equal(np.asarray(seen), np.asarray(rows))
    assert fitted.predict(rows).shape == (120,)


@pytest.mark.parametrize("form", ["list", "int64", "frame", "coo"])
def test_automatic_search_passes_rows_in_their_form(form):
    rows = forms()[form]
    Recording.seen.clear()
    student = Distiller(Recording(), **{**SMALL, "max_iter": 1})
    AutoCompressor(student, max_bytes=10**4, methods=["codebook"], effort=0.01, random_state=0).fit(rows)
    assert {type(seen) for seen in Recording.seen} == {type(rows) if form != "coo" else sparse.csr_array, type(rows)}


def test_integers_keep_their_digits():
    # pycaret #3774: 3 clusters became 17, because float32 cannot hold the identifiers
    random = np.random.default_rng(0)
    ids = np.c_[20_000_000 + 50 * random.integers(0, 3, 600) + random.integers(-5, 6, 600)]
    student = Distiller(DBSCAN(eps=1.5, min_samples=3), hidden_layer_sizes=(64, 32), max_iter=40, random_state=0).fit(
        ids
    )
    assert student.classes_.tolist() == [-1, 0, 1, 2]  # rows beyond them would be noise
    assert np.mean(student.labels_ == student.teacher_.labels_) == 1
    assert np.mean(student.predict(ids.astype(float)) == student.teacher_.labels_) == 1


@pytest.mark.parametrize("fit_dtype", [np.float32, np.uint8])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16])
def test_score_of_rows_of_another_dtype_than_in_the_fit(fit_dtype, dtype):
    # pycaret #3774: "Buffer dtype mismatch", from an estimator that predicts in the precision of its fit only
    student = Distiller(KMeans(3, n_init=1), **{**SMALL, "max_iter": 1}).fit(X.astype(fit_dtype))
    expected = student.teacher_.predict(X.astype(dtype).astype(student.teacher_.cluster_centers_.dtype))
    assert student.score(X.astype(dtype)) == np.mean(student.predict(X.astype(dtype)) == expected)


def test_text_of_numbers_is_converted_as_before():
    student = Distiller(KMeans(3, n_init=1), **{**SMALL, "max_iter": 1}).fit(X.astype(str))
    np.testing.assert_array_equal(student.predict(X.astype(str)), student.predict(X))


class InPlace(BaseEstimator):
    """Divides its input in place in every method, and changes y."""

    def fit(self, X, y=None):
        self._change(X)
        if isinstance(y, np.ndarray):
            y *= 0
        return self

    def transform(self, X):
        return self._change(X)

    @staticmethod
    def _change(X):
        if sparse.issparse(X):
            X.data /= 1000
        elif isinstance(X, pd.DataFrame):
            X.iloc[:, :] = X.to_numpy() / 1000
        else:
            rows = np.asarray(X)
            rows /= 1000
        return X


@pytest.mark.parametrize(
    "form", [np.array, np.asfortranarray, sparse.csr_array, sparse.coo_array, pd.DataFrame, torch.tensor],
    ids=["array", "fortran", "csr", "coo", "frame", "tensor"],
)  # fmt: skip
def test_teacher_that_works_in_place_changes_nothing(form):
    # scikit-learn's copy=False: the student learned from rows that the teacher had changed
    rows, y = form(X.copy()), groups.copy()
    student = Distiller(InPlace(), **{**SMALL, "max_iter": 8}).fit(rows, y)
    dense = rows.toarray() if sparse.issparse(rows) else np.asarray(rows)
    np.testing.assert_array_equal(dense, X)
    np.testing.assert_array_equal(y, groups)
    np.testing.assert_allclose(student.transform(X), X / 1000, atol=4e-3)
    assert student.score(rows) > 0.8
    np.testing.assert_array_equal(rows.toarray() if sparse.issparse(rows) else np.asarray(rows), X)


def test_pipeline_without_copies():
    pipeline = make_pipeline(StandardScaler(copy=False), KMeans(3, n_init=1, random_state=0))
    rows = X.copy()
    student = Distiller(pipeline, **{**SMALL, "max_iter": 15}).fit(rows)
    np.testing.assert_array_equal(rows, X)
    assert np.mean(clone(pipeline).fit(X.copy()).predict(X.copy()) == student.predict(X)) > 0.95
    compressor = CodebookCompressor(Distiller(pipeline, **SMALL), max_iter=1).fit(rows)
    compressor.score(rows)
    Distiller(FrozenEstimator(student.teacher_), **SMALL).fit(rows)
    np.testing.assert_array_equal(rows, X)


def test_sample_weights_belong_to_the_user():
    class Weighted(Recording):
        def fit(self, X, y=None, sample_weight=None):
            sample_weight *= 0
            return super().fit(X)

    weights = np.ones(120)
    Distiller(Weighted(), target="predict", **{**SMALL, "max_iter": 1}).fit(X, sample_weight=weights)
    assert (weights == 1).all()


def test_memory_maps_are_neither_copied_nor_written(tmp_path):
    mapped = np.memmap(tmp_path / "rows", np.float64, "w+", shape=X.shape)
    mapped[:] = X
    Recording.seen.clear()
    Distiller(Recording(), **{**SMALL, "max_iter": 1}).fit(mapped)
    assert all(np.shares_memory(seen, mapped) and not seen.flags.writeable for seen in Recording.seen)
    pipeline = make_pipeline(StandardScaler(copy=False), KMeans(3, n_init=1))
    Distiller(pipeline, **{**SMALL, "max_iter": 1}).fit(mapped)
    np.testing.assert_array_equal(mapped, X)
    part = own_copy(sparse.csr_array((mapped[:2, 0], np.array([0, 1]), np.array([0, 1, 2])), copy=False))
    assert np.shares_memory(part.data, mapped) and not part.data.flags.writeable


def test_own_copies():
    fixed = X.copy()
    fixed.flags.writeable = False
    frame = pl.DataFrame(X)
    assert own_copy(fixed) is fixed and own_copy(frame) is frame and own_copy(None) is None
    for buffer in (array.array("d", [1, 2]), memoryview(np.ones(2))):
        assert np.asarray(own_copy(buffer)).tolist() == np.asarray(buffer).tolist()
        assert not np.shares_memory(np.asarray(own_copy(buffer)), np.asarray(buffer))


@pytest.mark.parametrize(
    "teacher",
    [
        RandomTreesEmbedding(2, max_depth=2, random_state=0),
        KBinsDiscretizer(3, encode="onehot", quantile_method="averaged_inverted_cdf"),
        PCA(2).set_output(transform="pandas"),
        MultilayerBootstrapNetwork(n_clusters=3, n_estimators=20, output="codes", random_state=0),
    ],
    ids=lambda teacher: type(teacher).__name__,
)
def test_predictions_of_any_form_are_scored(teacher):
    student = Distiller(teacher, **SMALL).fit(X)
    outputs = student.teacher_.transform(X)
    outputs = outputs.toarray() if sparse.issparse(outputs) else np.asarray(outputs)
    error = np.square(outputs - student.transform(X)).sum() / np.square(outputs - outputs.mean(axis=0)).sum()
    assert student.score(X) == pytest.approx(1 - error, abs=1e-5)
    assert student.score(X, sparse.csr_array(outputs)) == pytest.approx(student.score(X))


def test_sparse_targets_of_a_regression():
    class Sparse(LinearRegression):
        def predict(self, X):
            return sparse.csr_array(super().predict(X))

    student = Distiller(Sparse(), **SMALL).fit(X, X)
    assert np.isfinite(student.score(X)) and student.predict(X).shape == X.shape
