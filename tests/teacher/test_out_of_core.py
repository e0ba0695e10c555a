"""Rows that do not fit in memory: read and transformed in blocks."""

import tracemalloc

import numpy as np
import pytest
from numpy.lib.format import open_memmap
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn import config_context
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.pipeline import make_pipeline

from mbn import MultilayerBootstrapNetwork, in_blocks, rows
from mbn.rows import Rows, fit_preparation
from mbn.schedule import draw_landmarks

DIGITS = load_digits().data


def a_network(**settings):
    settings = {"n_estimators": 15, "max_samples": 400, "random_state": 0, **settings}
    return MultilayerBootstrapNetwork(**settings)


def on_disk(folder, X, name="X.npy"):
    np.save(folder / name, X)
    return np.load(folder / name, mmap_mode="r")


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """The same rows, 16 MB as float32, on disk and in other forms."""
    rng = np.random.default_rng(0)
    X = rng.integers(0, 5, (20_000, 200)) * (rng.random((20_000, 200)) < 0.2)
    folder = tmp_path_factory.mktemp("rows")
    return {
        "float64": on_disk(folder, X.astype(float), "double.npy"),
        "float32": on_disk(folder, X.astype(np.float32), "single.npy"),
        "uint8": on_disk(folder, X.astype(np.uint8), "bytes.npy"),
        "Fortran": np.asfortranarray(X.astype(np.float32)),
        "CSR": sparse.csr_array(X.astype(float)),
    }


@pytest.mark.parametrize("kind", ["float64", "float32", "uint8", "Fortran", "CSR"])
def test_rows_are_never_copied_as_a_whole(many, kind, tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "READ_VALUES", 1 << 18)
    X, few = many[kind], dict(n_clusters=4, n_estimators=6, n_neighbors=8, assignment="neighbors")
    out = open_memmap(tmp_path / "Z.npy", "w+", np.float32, (20_000, 4))
    with config_context(working_memory=8):
        a_network(**few).fit(X[:1000]).transform(X[:1000])  # loads kernels
        tracemalloc.start()
        model = a_network(**few).fit(X)
        assert model.transform(X, out=out) is out
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert_array_equal(out[::40], model.transform(many["float32"][::40]))
    assert peak < 20_000 * 200 * 4 / 4  # a quarter of the rows as float32; 1 to 2 MB when written


def test_fit_reads_only_rows_that_may_become_centroids(many, monkeypatch):
    seen = []
    read = Rows.__getitem__
    monkeypatch.setattr(Rows, "__getitem__", lambda self, which: (seen.append(self.shape[0]), read(self, which))[1])
    a_network(n_clusters=4).fit(many["float64"])
    assert seen and max(seen) == 400


def test_network_does_not_depend_on_storage(tmp_path):
    X = DIGITS[:500]
    wide, narrow = on_disk(tmp_path, X, "wide.npy"), on_disk(tmp_path, X.astype(np.uint8), "narrow.npy")
    for settings in ({}, {"assignment": "direct", "k": 100}, {"max_samples": None}, {"metric": "cosine"}):
        expected = a_network(**settings).fit(X.astype(np.float32)).transform(X)
        for stored in (wide, narrow, np.asfortranarray(X), X.tolist()):
            assert_array_equal(a_network(**settings).fit(stored).transform(stored), expected)


def test_float32_rows_are_not_copied_into_the_model(tmp_path):
    X = on_disk(tmp_path, np.random.default_rng(0).random((500, 6), np.float32))
    model = MultilayerBootstrapNetwork(n_estimators=15, n_clusters=3, k=250, random_state=0).fit(X)
    assert np.may_share_memory(model.layers_[0].reference, X)


def test_max_samples_equals_fit_on_the_drawn_rows():
    model = a_network().fit(DIGITS)
    chosen = draw_landmarks(len(DIGITS), 400, model.seed_)
    smaller = MultilayerBootstrapNetwork(n_estimators=15, random_state=0).fit(DIGITS[chosen])
    assert_array_equal(model.transform(DIGITS), smaller.transform(DIGITS))
    assert_array_equal(a_network().fit_transform(DIGITS), model.transform(DIGITS))


def test_codes_have_the_smallest_dtype():
    for n_centroids, dtype in ((20, np.uint8), (256, np.uint8), (257, np.uint16)):
        model = MultilayerBootstrapNetwork(n_estimators=5, k=[n_centroids], random_state=0).fit(DIGITS[:500])
        codes = model.encode(DIGITS, one_hot=False)
        assert codes.dtype == dtype
        columns = model.encode(DIGITS).indices.reshape(codes.shape)
        assert_array_equal(columns - np.arange(5) * n_centroids, codes)
        wider = np.empty(codes.shape, np.int64)
        assert model.encode(DIGITS, one_hot=False, out=wider) is wider
        assert_array_equal(wider, codes)


@pytest.mark.parametrize(
    "out, message",
    [
        (np.empty((500, 9), np.float32), r"must be an array of shape \(500, 10\)"),
        (np.empty((500, 10), np.int32), "can hold float32"),
        (np.empty((500, 10), np.float16), "larger type"),
        ([[0.0] * 10] * 500, "must be an array"),
    ],
)
def test_out_of_wrong_shape_or_dtype_raises(out, message):
    model = a_network().fit(DIGITS)
    with pytest.raises(ValueError, match=message):
        model.transform(DIGITS[:500], out=out)


def test_out_that_cannot_be_used_raises(tmp_path):
    model = a_network(output="codes").fit(DIGITS)
    with pytest.raises(ValueError, match="one_hot=False"):
        model.transform(DIGITS, out=np.empty((len(DIGITS), 15)))
    with pytest.raises(ValueError, match="one_hot=False"):
        model.encode(DIGITS, out=np.empty((len(DIGITS), 15)))
    with pytest.raises(ValueError, match="writeable"):
        model.encode(DIGITS, one_hot=False, out=on_disk(tmp_path, np.empty((len(DIGITS), 15), np.uint8)))
    with pytest.raises(ValueError, match="can hold uint8"):
        model.encode(DIGITS, one_hot=False, out=np.empty((len(DIGITS), 15), bool))


def test_in_blocks(tmp_path):
    X = on_disk(tmp_path, DIGITS)
    teacher = make_pipeline(a_network(), KMeans(10, n_init=1, random_state=0)).fit(X)
    expected = teacher.predict(X)
    sizes, labels = [], np.empty(len(X), np.int32)
    for block, predictions in in_blocks(teacher.predict, X, n_rows=500):
        sizes.append(len(predictions))
        labels[block] = predictions
    assert sizes == [500, 500, 500, 297]
    assert_array_equal(labels, expected)
    with pytest.raises(ValueError, match="n_rows=0 must be"):
        next(in_blocks(teacher.predict, X, n_rows=0))


def test_values_too_large_for_float32_raise():
    X = DIGITS.copy()
    model = a_network().fit(X)
    X[-1, 5] = 1e300
    for call in (model.transform, MultilayerBootstrapNetwork(n_estimators=3).fit):
        with pytest.raises(ValueError, match="too large"):
            call(X)


def test_sparse_input_is_unchanged():
    X = sparse.csr_array(DIGITS[:500])
    X.indices[: X.indptr[1]] = X.indices[: X.indptr[1]][::-1].copy()
    X.data[: X.indptr[1]] = X.data[: X.indptr[1]][::-1].copy()
    X.has_sorted_indices = False
    indices = X.indices.copy()
    Z = a_network().fit(X).transform(X)
    assert_array_equal(X.indices, indices)
    assert_array_equal(Z, a_network().fit(DIGITS[:500]).transform(DIGITS[:500]))


def test_dense_rows_after_fit_on_sparse_rows_and_the_reverse():
    X, X_sparse = DIGITS[:500], sparse.csr_matrix(DIGITS[:500])
    for assignment in ("direct", "neighbors"):
        dense, other = (a_network(assignment=assignment).fit(rows) for rows in (X, X_sparse))
        assert_array_equal(other.transform(X), dense.transform(X_sparse))
        assert_array_equal(other.transform(X), dense.transform(X))


def test_preparation_does_not_depend_on_blocks(monkeypatch):
    X = np.column_stack([DIGITS[:, 2:9] + 1e4, np.full(len(DIGITS), 3.0)])
    whole = fit_preparation(X, "euclidean")
    monkeypatch.setattr(rows, "READ_VALUES", 100)
    pieces = fit_preparation(X, "euclidean")
    assert_array_equal(pieces.keep, np.arange(7))
    assert_array_equal(pieces.mean, whole.mean)
    assert pieces.factor is None and whole.factor is None
