"""The approximate search for neighbors against brute force, and guarantees that do not depend on its recall."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from joblib import parallel_config
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_digits

from mbn import MultilayerBootstrapNetwork, assign_neighbors, layers, neighbors, output, tree
from mbn.layers import LayerSettings

DIGITS = load_digits().data.astype(np.float32)
UNIT = DIGITS / np.linalg.norm(DIGITS, axis=1, keepdims=True)


def search(X, n_neighbors, metric="euclidean", seed=0):
    """Neighbors in the order of the rows, found for all leaves at once."""
    grown = tree.grow(X, seed)
    found = np.empty((X.shape[0], n_neighbors), np.int32)
    found[grown.order] = tree.nearest_rows(X, grown, slice(0, grown.n_leaves), n_neighbors, metric)
    return found


def recall(found, expected):
    return np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, expected)]) / expected.shape[1]


@pytest.fixture
def small(monkeypatch):
    """128 leaves of 16 rows, of which a row is compared with 24: a fifth of the rows."""
    monkeypatch.setattr(tree, "LEAF_ROWS", 16)
    monkeypatch.setattr(tree, "PROBED_LEAVES", 24)
    monkeypatch.setattr(tree, "NEARBY_LEAVES", 64)


@pytest.mark.parametrize("metric, X", [("euclidean", DIGITS), ("linear", UNIT)])
@pytest.mark.parametrize("as_sparse", [False, True])
def test_recall(metric, X, as_sparse, small):
    given = sparse.csr_array(X) if as_sparse else X
    found = search(given, 20, metric)
    exact = neighbors.nearest_rows(X, X, 20, metric)
    assert recall(found, exact) > (0.95 if as_sparse else 0.98)
    if metric == "euclidean":
        assert recall(found[:, :1], exact[:, :1]) == 1  # a row finds itself


def test_recall_of_rows_without_structure(small):
    X = np.random.default_rng(0).standard_normal((2000, 32), dtype=np.float32)
    assert recall(search(X, 20), neighbors.nearest_rows(X, X, 20)) > 0.6


@pytest.mark.parametrize("n_samples", [1, 2, 100, 256, 257, 1797])
@pytest.mark.parametrize("as_sparse", [False, True])
def test_search_is_exact_for_few_rows(n_samples, as_sparse):
    """Where a row is compared with all leaves, for example where there is one leaf only."""
    X = DIGITS[:n_samples]
    given = sparse.csr_array(X) if as_sparse else X
    n_neighbors = min(n_samples, 20)
    assert_array_equal(search(given, n_neighbors), neighbors.nearest_rows(given, given, n_neighbors))


def test_equal_rows(small):
    X = np.ones((500, 3), np.float32)
    grown = tree.grow(X, 0)
    assert set(np.diff(grown.starts)) <= {15, 16}  # leaves of equal size even then
    assert_array_equal(np.sort(grown.order), np.arange(500))
    found = search(X, 40)
    assert all(len(set(line)) == 40 for line in found)


def test_more_neighbors_than_rows_in_the_probed_leaves(small):
    X = DIGITS[:600]
    assert_array_equal(search(X, 600), neighbors.nearest_rows(X, X, 600))


@pytest.mark.slow
@pytest.mark.parametrize("as_sparse", [False, True])
def test_neighbors_do_not_depend_on_batches_of_leaves(as_sparse, small):
    X = sparse.csr_array(DIGITS) if as_sparse else DIGITS
    grown = tree.grow(X, 0)
    n_leaves = grown.n_leaves
    whole = tree.nearest_rows(X, grown, slice(0, n_leaves), 20, "euclidean")
    for size in (1, 5):
        parts = [
            tree.nearest_rows(X, grown, slice(first, min(first + size, n_leaves)), 20, "euclidean")
            for first in range(0, n_leaves, size)
        ]
        assert_array_equal(np.vstack(parts), whole)
    assert_array_equal(np.concatenate([grown.rows_of(slice(i, i + 1)) for i in range(n_leaves)]), grown.order)


def test_tree_depends_on_seed(small):
    grown, again = tree.grow(DIGITS, 3), tree.grow(DIGITS, 3)
    assert_array_equal(again.order, grown.order)
    assert_array_equal(again.centers, grown.centers)
    assert (tree.grow(DIGITS, 4).order != grown.order).any()


@pytest.mark.parametrize("n_values", [0, 3, 10**6])
def test_select_smallest(n_values):
    """Of equal values the first; with any number of different values."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = rng.integers(-n_values, n_values + 1, (1, rng.integers(1, 70))).astype(np.float32)
        found = tree.select_smallest(values, int(rng.integers(1, values.size + 1)))[0]
        assert_array_equal(np.sort(found), np.sort(np.argsort(values[0], kind="stable")[: found.size]))


def test_memory_of_tree():
    grown = tree.grow(DIGITS, 0)
    assert grown.order.nbytes == 4 * len(DIGITS) and grown.centers.shape == (64, 8) and grown.projection is None
    wide = sparse.csr_array(([1.0], ([0], [0])), shape=(600, 10_000), dtype=np.float32)
    grown = tree.grow(wide, 0)
    assert grown.centers.shape == (128, 4) and grown.projection.shape == (10_000, 128)  # narrower than the rows


# -- within the network


def codes_of(X, **settings):
    settings = {"n_estimators": 20, "k": [900, 60], "random_state": 0, "output": "codes", **settings}
    model = MultilayerBootstrapNetwork(**settings)
    return model.fit_transform(X).indices, model


def exact_fraction(X, metric):
    """Fraction of the bottom layer's codes that equal those of direct assignment."""
    _, model = codes_of(X, k=[900], metric=metric)
    prepared = (X if metric != "cosine" else UNIT)[:, X.std(axis=0) > 0]
    settings = LayerSettings(20, 0.5, 0, metric, "neighbors", 64)
    found = layers.assign_bottom(prepared, model.layers_[0], settings, complete=True)
    direct = replace(settings, assignment="direct")
    return np.mean(found == layers.assign_bottom(prepared, model.layers_[0], direct))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_most_codes_equal_direct_assignment(metric, small, monkeypatch):
    exact = exact_fraction(DIGITS, metric)
    monkeypatch.setattr(neighbors, "EXACT_OPERATIONS", 1e6)
    found = exact_fraction(DIGITS, metric)
    assert found > exact - 0.01 and found > 0.97


def test_codes_do_not_depend_on_workers_backends_or_tasks(small, monkeypatch):
    monkeypatch.setattr(neighbors, "EXACT_OPERATIONS", 1e6)
    expected, model = codes_of(DIGITS)
    assert_array_equal(codes_of(DIGITS, n_jobs=2)[0], expected)
    with parallel_config(backend="threading", n_jobs=3):
        assert_array_equal(codes_of(DIGITS)[0], expected)
    monkeypatch.setattr(layers, "MOST_ROWS", 40)
    monkeypatch.setattr(layers, "LEAST_ROWS", 1)
    assert_array_equal(codes_of(DIGITS)[0], expected)
    assert_array_equal(clone(model).fit_transform(DIGITS.astype(float)).indices, expected)


@pytest.mark.slow
@pytest.mark.parametrize("as_sparse", [False, True])
@pytest.mark.parametrize("operations", [1e6, 2e13])
def test_candidate_tables_give_the_same_codes(as_sparse, operations, small, monkeypatch):
    X = sparse.csr_array(DIGITS) if as_sparse else DIGITS
    monkeypatch.setattr(neighbors, "EXACT_OPERATIONS", operations)
    expected, model = codes_of(X)
    new = model.encode(X[:50] * np.float32(0.9)).indices
    monkeypatch.setattr(layers, "INDEX_BYTES", 0)
    for size in (0, 50_000):  # tables of single rows, and of several
        monkeypatch.setattr(assign_neighbors, "TABLE_BYTES", size)
        assert_array_equal(codes_of(X)[0], expected)
        assert_array_equal(model.encode(X[:50] * np.float32(0.9)).indices, new)


@pytest.mark.slow
def test_no_stage_takes_memory_per_row_and_clustering(small, monkeypatch):
    """Except for its output: only a permutation of the rows and a few values for each grow with them."""
    for module, name, value in (
        (neighbors, "EXACT_OPERATIONS", 1e6), (assign_neighbors, "TABLE_BYTES", 1 << 18),
        (layers, "INDEX_BYTES", 1 << 18), (layers, "MOST_ROWS", 256), (layers, "TRANSFORM_ROWS", 1024),
        (output, "LEFT_BYTES", 1 << 18), (output, "BLOCK", 1024),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    taken = {}

    def watch(module, name):
        function = getattr(module, name)

        def watched(*args, **options):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            result = function(*args, **options)
            _, peak = tracemalloc.get_traced_memory()
            arrays = result if isinstance(result, tuple) else (result,)
            taken.setdefault(name, []).append(peak - before - sum(array.nbytes for array in arrays))
            return result

        monkeypatch.setattr(module, name, watched)

    for module, name in ((layers, "assign_bottom"), (layers, "assign_upper"), (output, "principal_components")):
        watch(module, name)
    most = []
    for n_samples in (1000, 4000, 12_000):  # the first loads kernels
        taken.clear()
        X = np.random.default_rng(0).standard_normal((n_samples, 6), dtype=np.float32)
        model = MultilayerBootstrapNetwork(n_estimators=40, n_neighbors=32, random_state=0)
        tracemalloc.start()
        model.fit(X)
        tracemalloc.stop()
        most.append({name: max(sizes) for name, sizes in taken.items()})
    for name in most[0]:  # bytes; a position or code of each clustering would be 80 for each row
        assert (most[2][name] - most[1][name]) / 8000 < 40, name
