"""The approximate search for neighbours against brute force, and what it promises whatever its recall."""

import tracemalloc

import numpy as np
import pytest
from joblib import parallel_config
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_digits

from mbn import MultilayerBootstrapNetwork, bottom, layers, neighbors, output, tree

DIGITS = load_digits().data.astype(np.float32)
UNIT = DIGITS / np.linalg.norm(DIGITS, axis=1, keepdims=True)


def search(X, n_neighbors, metric="euclidean", entropy=0):
    """Neighbours in the order of the rows, found for all leaves at once."""
    grown = tree.grow(X, entropy)
    found = np.empty((X.shape[0], n_neighbors), np.int32)
    found[grown[0]] = tree.nearest_rows(X, grown, slice(0, grown[1].shape[1]), n_neighbors, metric)
    return found


def recall(found, expected):
    return np.mean([len(np.intersect1d(a, b)) for a, b in zip(found, expected)]) / expected.shape[1]


@pytest.fixture
def small(monkeypatch):
    """Leaves of 16 rows, of 128 of which a row looks at 24: a fifth of the rows."""
    monkeypatch.setattr(tree, "_LEAF_ROWS", 16)
    monkeypatch.setattr(tree, "_PROBED", 24)
    monkeypatch.setattr(tree, "_NEARBY", 64)


@pytest.mark.parametrize("metric, X", [("euclidean", DIGITS), ("linear", UNIT)])
@pytest.mark.parametrize("as_sparse", [False, True])
def test_most_neighbours_are_the_exact_ones(metric, X, as_sparse, small):
    given = sparse.csr_array(X) if as_sparse else X
    found = search(given, 20, metric)
    exact = neighbors.nearest_rows(X, X, 20, metric)
    assert recall(found, exact) > (0.95 if as_sparse else 0.98)
    if metric == "euclidean":
        assert recall(found[:, :1], exact[:, :1]) == 1  # a row finds itself


def test_rows_without_structure(small):
    X = np.random.default_rng(0).standard_normal((2000, 32), dtype=np.float32)
    assert recall(search(X, 20), neighbors.nearest_rows(X, X, 20)) > 0.6


@pytest.mark.parametrize("n_samples", [1, 2, 100, 256, 257, 1797])
@pytest.mark.parametrize("as_sparse", [False, True])
def test_few_rows_are_searched_exactly(n_samples, as_sparse):
    """Where a row looks at all leaves; among others where there is one leaf only."""
    X = DIGITS[:n_samples]
    given = sparse.csr_array(X) if as_sparse else X
    n_neighbors = min(n_samples, 20)
    assert_array_equal(search(given, n_neighbors), neighbors.nearest_rows(given, given, n_neighbors))


def test_all_rows_alike(small):
    X = np.ones((500, 3), np.float32)
    grown = tree.grow(X, 0)
    sizes = np.diff(tree.bounds(500, grown[1].shape[1]))
    assert set(sizes) <= {15, 16}  # equal leaves even then
    assert_array_equal(np.sort(grown[0]), np.arange(500))
    found = search(X, 40)
    assert all(len(set(line)) == 40 for line in found)


def test_more_neighbours_than_the_leaves_looked_at_hold(small):
    X = DIGITS[:600]
    assert_array_equal(search(X, 600), neighbors.nearest_rows(X, X, 600))


@pytest.mark.parametrize("as_sparse", [False, True])
def test_neighbours_do_not_depend_on_what_is_searched_together(as_sparse, small):
    X = sparse.csr_array(DIGITS) if as_sparse else DIGITS
    grown = tree.grow(X, 0)
    n_leaves = grown[1].shape[1]
    whole = tree.nearest_rows(X, grown, slice(0, n_leaves), 20, "euclidean")
    for size in (1, 5):
        parts = [
            tree.nearest_rows(X, grown, slice(first, min(first + size, n_leaves)), 20, "euclidean")
            for first in range(0, n_leaves, size)
        ]
        assert_array_equal(np.vstack(parts), whole)
    assert_array_equal(np.concatenate([tree.rows_of(grown, slice(i, i + 1)) for i in range(n_leaves)]), grown[0])


def test_the_seed_decides(small):
    same = tree.grow(DIGITS, 3)
    for a, b in zip(same, tree.grow(DIGITS, 3)):
        assert_array_equal(a, b)
    assert (tree.grow(DIGITS, 4)[0] != same[0]).any()


@pytest.mark.parametrize("n_values", [0, 3, 10**6])
def test_the_smallest_are_selected(n_values):
    """Among equal values those of low number; with any number of different values."""
    rng = np.random.default_rng(0)
    for _ in range(200):
        values = rng.integers(-n_values, n_values + 1, (1, rng.integers(1, 70))).astype(np.float32)
        out = np.empty((1, rng.integers(1, values.size + 1)), np.int32)
        tree._smallest(values, out)
        assert_array_equal(np.sort(out[0]), np.sort(np.argsort(values[0], kind="stable")[: out.size]))


def test_what_is_kept_of_the_rows():
    order, centres, signs = tree.grow(DIGITS, 0)
    assert order.nbytes == 4 * len(DIGITS) and centres.shape == (64, 8) and signs is None
    thin = sparse.csr_array(([1.0], ([0], [0])), shape=(600, 10_000), dtype=np.float32)
    order, centres, signs = tree.grow(thin, 0)
    assert centres.shape == (128, 4) and signs.shape == (10_000, 128)  # no centres as wide as the rows


# -- within the network


def codes_of(X, **settings):
    settings = {"n_estimators": 20, "k": [900, 60], "random_state": 0, "output": "codes", **settings}
    model = MultilayerBootstrapNetwork(**settings)
    return model.fit_transform(X).indices, model


def direct_share(X, **settings):
    _, model = codes_of(X, k=[900], **settings)
    prepared = X[:, X.std(axis=0) > 0] if settings.get("metric") != "cosine" else UNIT[:, X.std(axis=0) > 0]
    arguments = prepared, model._layers[0], model.metric
    found = layers.assign_bottom(*arguments, "neighbors", 64, None, "cpu", 0, True)
    return np.mean(found == layers.assign_bottom(*arguments, "direct", 64, None, "cpu"))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_codes_are_mostly_those_of_direct_assignment(metric, small, monkeypatch):
    exact = direct_share(DIGITS, metric=metric)
    monkeypatch.setattr(neighbors, "_EXACT_OPERATIONS", 1e6)
    found = direct_share(DIGITS, metric=metric)
    assert found > exact - 0.01 and found > 0.97


def test_workers_backends_and_tasks_do_not_change_the_codes(small, monkeypatch):
    monkeypatch.setattr(neighbors, "_EXACT_OPERATIONS", 1e6)
    expected, model = codes_of(DIGITS)
    assert_array_equal(codes_of(DIGITS, n_jobs=2)[0], expected)
    with parallel_config(backend="threading", n_jobs=3):
        assert_array_equal(codes_of(DIGITS)[0], expected)
    monkeypatch.setattr(layers, "_MOST_ROWS", 40)
    monkeypatch.setattr(layers, "_LEAST_ROWS", 1)
    assert_array_equal(codes_of(DIGITS)[0], expected)
    assert_array_equal(clone(model).fit_transform(DIGITS.astype(float)).indices, expected)


@pytest.mark.parametrize("as_sparse", [False, True])
@pytest.mark.parametrize("operations", [1e6, 2e13])
def test_tables_of_candidates_alone_give_the_same_codes(as_sparse, operations, small, monkeypatch):
    X = sparse.csr_array(DIGITS) if as_sparse else DIGITS
    monkeypatch.setattr(neighbors, "_EXACT_OPERATIONS", operations)
    expected, model = codes_of(X)
    new = model.encode(X[:50] * np.float32(0.9)).indices
    monkeypatch.setattr(layers, "_INDEX_BYTES", 0)
    for size in (0, 50_000):  # tables of single rows, and of some
        monkeypatch.setattr(bottom, "TABLE_BYTES", size)
        assert_array_equal(codes_of(X)[0], expected)
        assert_array_equal(model.encode(X[:50] * np.float32(0.9)).indices, new)


def test_no_stage_takes_memory_for_each_row_and_clustering(small, monkeypatch):
    """But for its answer; what follows the rows are a permutation of them and a few numbers for each."""
    for module, name, value in (
        (neighbors, "_EXACT_OPERATIONS", 1e6), (bottom, "TABLE_BYTES", 1 << 18), (layers, "_INDEX_BYTES", 1 << 18),
        (layers, "_MOST_ROWS", 256), (layers, "_TRANSFORM_ROWS", 1024), (output, "_LEFT_BYTES", 1 << 18),
        (output, "_BLOCK", 1024),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, value)
    taken = {}

    def watch(module, name):
        function = getattr(module, name)

        def watched(*args, **options):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            answer = function(*args, **options)
            _, peak = tracemalloc.get_traced_memory()
            arrays = answer if isinstance(answer, tuple) else (answer,)
            taken.setdefault(name, []).append(peak - before - sum(array.nbytes for array in arrays))
            return answer

        monkeypatch.setattr(module, name, watched)

    for module, name in ((layers, "assign_bottom"), (layers, "assign_upper"), (output, "principal_components")):
        watch(module, name)
    most = []
    for n_samples in (12_000, 4000, 12_000):  # the first loads kernels
        taken.clear()
        X = np.random.default_rng(0).standard_normal((n_samples, 6), dtype=np.float32)
        model = MultilayerBootstrapNetwork(n_estimators=40, n_neighbors=32, random_state=0)
        tracemalloc.start()
        model.fit(X)
        tracemalloc.stop()
        most.append({name: max(sizes) for name, sizes in taken.items()})
    for name in most[0]:  # bytes; a position or code of each clustering would be 80 for each row
        assert (most[2][name] - most[1][name]) / 8000 < 40, name
