"""The multilayer bootstrap network against brute force, and its documented guarantees."""

import pickle

import joblib
import numpy as np
import pytest
import torch
from joblib import parallel_config
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, make_blobs
from sklearn.decomposition import PCA
from sklearn.metrics import normalized_mutual_info_score
from sklearn.pipeline import make_pipeline

from mbn import (
    MultilayerBootstrapNetwork,
    accelerator,
    assign_direct,
    assign_neighbors,
    estimator,
    layers,
    neighbors,
    output,
    upper,
)
from mbn.layers import LayerSettings
from mbn.schedule import automatic_schedule, draw

DIGITS = load_digits().data.astype(np.float32)


def codes_of(model, X):
    """Top-layer codes, one column per clustering."""
    columns = model.encode(X).indices.reshape(X.shape[0], -1)
    return columns - np.arange(model.n_estimators) * model.k_[-1]


def brute_force_codes(X, schedule, n_estimators, max_features, seed, metric="euclidean"):
    """The paper's definition with loops, dense one-hot codes and float64; ties to the centroid drawn first."""
    X = X.astype(np.float64)
    n_samples, codes = len(X), None
    for layer, k in enumerate(schedule):
        n_inputs = X.shape[1] if layer == 0 else n_estimators
        n_used = max(1, round(max_features * n_inputs))
        new = np.empty((n_samples, n_estimators), int)
        for v in range(n_estimators):
            rows, used = draw(seed, layer, v, n_rows=n_samples, k=k, n_inputs=n_inputs, n_used=n_used)
            if layer == 0:
                part, centroids = X[:, used], X[rows][:, used]
                if metric == "euclidean":
                    cost = ((part[:, None] - centroids[None]) ** 2).sum(-1)
                else:
                    cost = -part @ centroids.T
                    if metric == "cosine":
                        cost /= np.linalg.norm(centroids, axis=1)
            else:
                one_hot = (codes[:, used, None] == np.arange(codes.max() + 1)).reshape(n_samples, -1).astype(float)
                cost = -one_hot @ one_hot[rows].T
            new[:, v] = np.argmin(cost, axis=1)
        codes = new
    return codes


def assign_bottom(X, layer, metric, assignment, n_neighbors=64):
    """Codes of prepared rows in a bottom layer."""
    return layers.assign_bottom(X, layer, LayerSettings(len(layer.rows), 0.5, 0, metric, assignment, n_neighbors))


@pytest.mark.parametrize("assignment", ["direct", "neighbors"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "linear"])
def test_codes_equal_brute_force(assignment, metric):
    X = DIGITS[:150][:, DIGITS[:150].std(axis=0) > 0][:, 20:45] + 1  # integers: many ties
    model = MultilayerBootstrapNetwork(
        n_estimators=11, n_clusters=3, k=[70, 30, 9], metric=metric, assignment=assignment, n_neighbors=150,
        random_state=3,
    ).fit(X)  # fmt: skip
    codes = codes_of(model, X)
    if metric == "cosine":
        X = X / np.linalg.norm(X, axis=1, keepdims=True).astype(np.float32)
    expected = brute_force_codes(X, (70, 30, 9), 11, 0.5, model.seed_, metric)
    if metric == "euclidean":
        assert_array_equal(codes, expected)
    else:  # unit-length rows and quotients are rounded: a tie may break otherwise in float64
        assert (codes == expected).mean() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("n_codes, n_inputs, n_drawn, k", [(40, 30, 200, 70), (3, 9, 50, 50), (500, 70, 300, 1)])
def test_upper_kernels_equal_one_hot_product(n_codes, n_inputs, n_drawn, k):
    rng = np.random.default_rng(0)
    prototypes = rng.integers(0, n_codes, (20, n_inputs))
    codes = prototypes[rng.integers(0, 20, n_drawn + 40)]
    noise = rng.random(codes.shape) < 0.6
    codes = np.where(noise, rng.integers(0, n_codes, codes.shape), codes).astype(np.uint16)
    reference_codes = codes[:n_drawn]
    n_estimators, n_used = 7, max(1, n_inputs // 2)
    rows = np.array([rng.permutation(n_drawn)[:k] for _ in range(n_estimators)])
    used = np.array([np.sort(rng.permutation(n_inputs)[:n_used]) for _ in range(n_estimators)])

    expected = np.empty((len(codes), n_estimators), int)
    for v in range(n_estimators):
        shared = (codes[:, None, used[v]] == reference_codes[rows[v]][None][:, :, used[v]]).sum(-1)
        expected[:, v] = shared.argmax(1)

    columns, reference_columns = np.ascontiguousarray(codes.T), np.ascontiguousarray(reference_codes.T)
    bits = upper.pack_used(used, n_inputs)
    assert np.bitwise_count(bits).sum() == used.size
    positions = assign_neighbors.position_table(rows, n_drawn)
    index = upper.index_all(reference_columns, n_codes)
    assert_array_equal(upper.match_compared(codes, reference_columns, rows, bits), expected)
    assert_array_equal(upper.match_ranked(codes, index, positions, k, bits), expected)
    for v in range(n_estimators):
        for match in (upper.match_indexed, upper.match_listed):
            assert_array_equal(match(columns, reference_columns, rows[v], used[v], n_codes), expected[:, v])
        if n_codes <= 256:
            few = columns.astype(np.uint8), reference_columns.astype(np.uint8)
            assert_array_equal(upper.match_dense(*few, rows[v], used[v]), expected[:, v])


def test_upper_kernels_choose_first_centroid_if_no_code_is_shared():
    codes = np.zeros((3, 8), np.uint16)
    reference_codes = np.ones((5, 8), np.uint16)
    rows, used = np.array([[4, 2, 0]]), np.arange(4)[None]
    bits, positions = upper.pack_used(used, 8), assign_neighbors.position_table(rows, 5)
    index = upper.index_all(reference_codes.T.copy(), 2)
    assert_array_equal(upper.match_ranked(codes, index, positions, 3, bits), np.zeros((3, 1)))
    for match in (upper.match_indexed, upper.match_listed):
        assert_array_equal(match(codes.T.copy(), reference_codes.T.copy(), rows[0], used[0], 2), np.zeros(3))


def test_upper_kernels_with_more_than_255_inputs():
    rng = np.random.default_rng(1)
    codes = rng.integers(0, 2, (600, 60)).astype(np.uint16)
    rows = rng.permutation(60)[:20]
    expected = (codes.T[:, None] == codes.T[rows][None]).sum(-1).argmax(1)
    for match in (upper.match_indexed, upper.match_listed):
        assert_array_equal(match(codes, codes, rows, np.arange(600), 2), expected)


def test_mean_list():
    codes = np.array([[0, 3], [0, 3], [1, 3], [0, 3]], np.uint16)
    assert upper.mean_list(codes) == pytest.approx(
        ((3 * 3 + 1) / 4 + 4) / 2
    )  # three rows share with three, one with itself


def test_row_blocks_limit_rows_and_operations():
    assert [block.stop - block.start for block in layers.row_blocks(1000, 1)] == [167] * 5 + [165]
    assert len(layers.row_blocks(100_000, 2)) == 13
    assert len(layers.row_blocks(300, 2)) == 3
    assert layers.row_blocks(10**6, 1)[0] == slice(0, 8192)
    assert layers.row_blocks(10**6, 1, operations=10**9)[0] == slice(0, 500)
    assert layers.row_blocks(10**6, 1, operations=10**12)[0] == slice(0, 128)


@pytest.mark.parametrize("as_sparse", [False, True])
@pytest.mark.parametrize("metric", ["euclidean", "linear"])
def test_nearest_rows_equal_brute_force(metric, as_sparse):
    X = DIGITS[:700]
    distances = -X @ X.T if metric == "linear" else ((X[:, None] - X[None]) ** 2).sum(-1)
    expected = np.sort(distances, axis=1)[:, :20]
    given = sparse.csr_array(X) if as_sparse else X
    rows = neighbors.nearest_rows(given, given, 20, metric)
    assert_allclose(np.take_along_axis(distances, rows.astype(int), 1), expected)  # ties: any of the equal rows
    assert_array_equal(rows[5:6], neighbors.nearest_rows(given[5:6], given, 20, metric))


@pytest.mark.slow
def test_rows_without_drawn_candidates_are_compared_with_all_centroids():
    X = DIGITS[:400]
    settings = dict(n_estimators=20, k=[20, 15], random_state=0, n_clusters=8)
    model = MultilayerBootstrapNetwork(assignment="neighbors", n_neighbors=1, **settings).fit(X)
    X, layer = X[:, model.preparation_.keep], model.layers_[0]
    codes = assign_bottom(X, layer, "euclidean", "neighbors", 1)
    expected = assign_bottom(X, layer, "euclidean", "direct")
    only = neighbors.nearest_rows(X, layer.reference, 1)[:, 0]
    alone = assign_neighbors.position_table(layer.rows, len(layer.reference))[only]
    assert 0.02 < (alone == 20).mean() < 0.98
    assert_array_equal(codes, np.where(alone == 20, expected, alone))


def test_every_centroid_is_nearest_to_itself():
    X = np.random.default_rng(0).random((300, 6)).astype(np.float32)
    model = MultilayerBootstrapNetwork(n_estimators=15, n_clusters=3, k=150, random_state=0).fit(X)
    layer = model.layers_[0]
    codes = assign_bottom(X, layer, "euclidean", "neighbors")
    for v, rows in enumerate(layer.rows):
        assert_array_equal(codes[rows, v], np.arange(len(rows)))


@pytest.mark.slow
@pytest.mark.parametrize("assignment", ["direct", "neighbors"])
def test_transform_does_not_depend_on_batches(assignment, monkeypatch):
    rng = np.random.default_rng(0)
    X = rng.random((500, 13)).astype(np.float32) @ rng.random((13, 40)).astype(np.float32)
    model = MultilayerBootstrapNetwork(n_estimators=60, assignment=assignment, random_state=0, n_clusters=5).fit(X)
    new = rng.random((90, 13)).astype(np.float32) @ rng.random((13, 40)).astype(np.float32)
    whole = model.transform(new)
    for size in (1, 7, 33):
        assert_array_equal(np.vstack([model.transform(new[i : i + size]) for i in range(0, 90, size)]), whole)
    for array in (np.asfortranarray(new), new.astype(np.float64), new[::-1][::-1]):
        assert_array_equal(model.transform(array), whole)
    codes = model.encode(new)
    monkeypatch.setattr(layers, "TRANSFORM_ROWS", 50)
    assert_array_equal(model.encode(new).indices, codes.indices)
    monkeypatch.setattr(layers, "TRANSFORM_LEAST_ROWS", 17)
    monkeypatch.setattr(layers, "LEAST_ROWS", 3)
    monkeypatch.setattr(layers, "MOST_ROWS", 17)
    monkeypatch.setattr(upper, "LISTED_VALUES", 700)
    monkeypatch.setattr(assign_direct, "DIRECT_ROWS", 11)
    monkeypatch.setattr(neighbors, "QUERY_ROWS", 5)
    monkeypatch.setattr(neighbors, "REFERENCE_ROWS", 101)
    assert_array_equal(model.transform(new), whole)


@pytest.mark.parametrize("kernel", ["compared", "ranked", "listed", "indexed"])
def test_upper_kernels_give_the_same_network(kernel, monkeypatch):
    X = DIGITS[:300]
    expected = MultilayerBootstrapNetwork(n_estimators=30, random_state=0).fit_transform(X)
    monkeypatch.setattr(layers, "COMPARED_ROWS", 10**9 if kernel == "compared" else 0)
    monkeypatch.setattr(layers, "RANKED_LENGTH", np.inf if kernel == "ranked" else 0)
    monkeypatch.setattr(layers, "LISTED_CENTROIDS", 0 if kernel == "listed" else np.inf)
    monkeypatch.setattr(layers, "DENSE_CENTROIDS", 0)
    assert_array_equal(MultilayerBootstrapNetwork(n_estimators=30, random_state=0).fit_transform(X), expected)


@pytest.mark.slow
def test_result_does_not_depend_on_workers_or_backend():
    X = DIGITS[:400]
    expected = MultilayerBootstrapNetwork(n_estimators=24, random_state=5).fit_transform(X)
    assert_array_equal(MultilayerBootstrapNetwork(n_estimators=24, random_state=5, n_jobs=2).fit_transform(X), expected)
    with parallel_config(backend="loky", n_jobs=2):
        assert_array_equal(MultilayerBootstrapNetwork(n_estimators=24, random_state=5).fit_transform(X), expected)


def test_fit_transform_equals_transform_after_fit_and_refit():
    for assignment in ("neighbors", "direct"):
        model = MultilayerBootstrapNetwork(n_estimators=30, assignment=assignment, random_state=1)
        Z = model.fit_transform(DIGITS)
        assert_array_equal(model.transform(DIGITS), Z)
        assert_array_equal(clone(model).fit(DIGITS).transform(DIGITS), Z)
        assert Z.dtype == np.float32 and Z.shape == (len(DIGITS), 10)


def test_global_random_state_is_unchanged():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    MultilayerBootstrapNetwork(n_estimators=5, random_state=0).fit(DIGITS[:100])
    assert_array_equal(np.random.get_state()[1], before)


@pytest.mark.slow
def test_sparse_and_dense_rows_give_the_same_codes():
    X = DIGITS[:400]
    for metric in ("euclidean", "cosine", "linear"):
        for assignment in ("direct", "neighbors"):
            model = MultilayerBootstrapNetwork(
                n_estimators=20, metric=metric, assignment=assignment, random_state=0, k=150, output="codes"
            )
            dense = model.fit_transform(X)
            from_sparse = clone(model).fit_transform(sparse.csr_matrix(X))
            fraction = (dense.indices == from_sparse.indices).mean()
            assert fraction == 1 if metric == "euclidean" else fraction > 0.99  # cosine: rounding may break a tie


@pytest.mark.parametrize("left_bytes", [output.LEFT_BYTES, 0])
def test_components_equal_pca_of_dense_one_hot_matrix(left_bytes, monkeypatch):
    monkeypatch.setattr(output, "LEFT_BYTES", left_bytes)
    monkeypatch.setattr(output, "BLOCK", 1000)
    model = MultilayerBootstrapNetwork(n_estimators=40, n_components=4, random_state=0)
    Z = model.fit_transform(DIGITS)
    one_hot = model.encode(DIGITS)
    assert one_hot.shape == (len(DIGITS), 40 * model.k_[-1])
    assert_array_equal(np.asarray(one_hot.sum(axis=1)).reshape(-1), 40)
    pca = PCA(4, svd_solver="full").fit(one_hot.toarray())
    assert_allclose(model.explained_variance_ratio_, pca.explained_variance_ratio_, rtol=1e-4)
    assert_allclose(np.abs((model.components_ * pca.components_).sum(1)), 1, atol=1e-4)
    assert_allclose(Z, (one_hot.toarray() - model.mean_) @ model.components_.T, atol=1e-4)
    assert (model.components_[np.arange(4), np.abs(model.components_).argmax(1)] > 0).all()


def test_codes_as_output():
    model = MultilayerBootstrapNetwork(n_estimators=20, output="codes", random_state=0)
    Z = model.fit_transform(DIGITS[:200])
    assert sparse.issparse(Z) and Z.format == "csr"
    assert_array_equal(Z.toarray(), model.encode(DIGITS[:200]).toarray())
    assert len(model.get_feature_names_out()) == Z.shape[1]


def test_clusters_of_digits():
    X, y = load_digits(return_X_y=True)
    scores = []
    for seed in range(3):
        teacher = make_pipeline(
            MultilayerBootstrapNetwork(n_estimators=100, random_state=seed), KMeans(10, n_init=10, random_state=0)
        )
        scores.append(normalized_mutual_info_score(y, teacher.fit_predict(X)))
    assert np.mean(scores) > 0.85  # 0.89 when written; k-means alone: 0.74


def test_schedule():
    assert automatic_schedule(5000, 10) == (2500, 1250, 625, 312, 156, 78, 39, 19)
    assert automatic_schedule(70000, 10, k_max=1428) == (1428, 714, 357, 178, 89, 44, 22)  # the author's for MNIST
    model = MultilayerBootstrapNetwork(k=200, n_estimators=5, random_state=0).fit(DIGITS)
    assert model.k_ == (200, 100, 50, 25)
    model = MultilayerBootstrapNetwork(k=[50, 20], n_estimators=5, random_state=0).fit(DIGITS)
    assert model.k_ == (50, 20)
    with pytest.warns(UserWarning, match="collapsed to the single layer"):
        MultilayerBootstrapNetwork(n_estimators=5, random_state=0).fit(DIGITS[:20])


def test_direct_assignment_limits_schedule_by_operations(monkeypatch):
    monkeypatch.setattr(estimator, "DIRECT_OPERATIONS", 1e8)
    model = MultilayerBootstrapNetwork(assignment="direct", n_estimators=20, random_state=0).fit(DIGITS)
    assert model.k_[0] == int(1e8 / (1797 * 32 * 20 * 2))


def test_auto_assignment_depends_on_expected_candidates():
    assert MultilayerBootstrapNetwork(n_estimators=3).fit(DIGITS).assignment_ == "neighbors"
    assert MultilayerBootstrapNetwork(n_estimators=3, k=100).fit(DIGITS).assignment_ == "direct"


def test_assignment_by_neighbors_finds_nearly_all_nearest_centroids():
    settings = dict(n_estimators=40, k=[898], output="codes", random_state=0)
    direct = MultilayerBootstrapNetwork(assignment="direct", **settings).fit_transform(DIGITS)
    near = MultilayerBootstrapNetwork(assignment="neighbors", **settings).fit_transform(DIGITS)
    assert (direct.indices == near.indices).mean() > 0.985  # .9915 when written


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["euclidean", "cosine", "linear"])
def test_doubtful_codes_use_further_candidates(metric):
    """Against the rule in float64: a code is clear if its cost is CLEAR standard deviations below the expected one."""
    X = DIGITS / np.linalg.norm(DIGITS, axis=1, keepdims=True) if metric == "cosine" else DIGITS
    rng, n_first, n_used = np.random.default_rng(0), 24, 32
    rows = np.stack([rng.permutation(len(X))[:900] for _ in range(12)])
    masks = np.zeros((64, 12), np.float32)
    for v in range(12):
        masks[rng.permutation(64)[:n_used], v] = 1
    near = neighbors.nearest_rows(X[:400], X, 72, "euclidean" if metric == "euclidean" else "linear")
    positions = assign_neighbors.position_table(rows, len(X))
    settings = (positions, rows, masks, metric)
    found = assign_neighbors.nearest_centroids(X[:400], X, near, *settings, n_first)
    assert_array_equal(
        found,
        assign_neighbors.nearest_centroids(sparse.csr_array(X[:400]), sparse.csr_array(X), near, *settings, n_first),
    )
    direct = assign_direct.nearest_centroids(X[:400], X, rows, np.nonzero(masks.T)[1].reshape(12, n_used), metric).T
    first = assign_neighbors.nearest_centroids(X[:400], X, near[:, :n_first], *settings)
    assert (first == direct).mean() + 0.01 < (found == direct).mean()

    wide, slope = X.astype(float), n_used / 64 if metric != "cosine" else np.sqrt(n_used / 64)
    expected = np.empty_like(found)
    for i in range(400):
        y = wide[near[i]]
        terms = (wide[i] - y) ** 2 if metric == "euclidean" else -wide[i] * y
        costs, totals = terms @ masks, terms.sum(1)
        if metric == "cosine":
            costs /= np.sqrt(y**2 @ masks)
        rest = costs[:n_first] - slope * totals[:n_first, None]
        own = np.where(positions[near[i]] == 900, np.inf, costs)
        best = own[:n_first].min(axis=0)
        usual = slope * totals[n_first - 1] + rest.mean(axis=0)
        clear = usual - best >= float(assign_neighbors.CLEAR) * rest.std(axis=0)
        own[n_first:, clear] = np.inf
        expected[i] = np.where(own == own.min(axis=0), positions[near[i]], 900).min(axis=0)  # ties: drawn first
    assert_array_equal(found[first != 900], expected[first != 900])


def test_max_samples_limits_centroids():
    model = MultilayerBootstrapNetwork(n_estimators=30, max_samples=100, random_state=0, n_clusters=5).fit(DIGITS)
    assert model.k_[0] == 50
    assert all(len(layer.reference) <= 100 for layer in model.layers_)
    fraction = MultilayerBootstrapNetwork(n_estimators=5, max_samples=0.1, random_state=0).fit(DIGITS)
    assert fraction.k_[0] == 89


def test_layer_holds_each_drawn_row_once():
    model = MultilayerBootstrapNetwork(n_estimators=10, k=[20], random_state=0).fit(DIGITS)
    assert len(model.layers_[0].reference) == len(np.unique(model.layers_[0].rows)) <= 200


def test_cached_layers_are_reused(tmp_path, monkeypatch):
    model = MultilayerBootstrapNetwork(n_estimators=10, memory=str(tmp_path), random_state=0)
    Z = model.fit_transform(DIGITS[:200])
    monkeypatch.setattr(layers, "assign_bottom", None)
    monkeypatch.setattr(layers, "assign_upper", None)
    assert_array_equal(clone(model).fit_transform(DIGITS[:200]), Z)


def test_pickle_and_hash_are_stable():
    model = MultilayerBootstrapNetwork(n_estimators=10, random_state=0).fit(DIGITS[:200])
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.transform(DIGITS[:50]), model.transform(DIGITS[:50]))
    assert joblib.hash(again) == joblib.hash(model)


def test_feature_names_and_pandas():
    pd = pytest.importorskip("pandas")
    X = pd.DataFrame(DIGITS[:100], columns=[f"p{i}" for i in range(64)])
    model = MultilayerBootstrapNetwork(3, n_estimators=5, random_state=0).set_output(transform="pandas")
    Z = model.fit_transform(X)
    assert list(Z.columns) == ["multilayerbootstrapnetwork0", "multilayerbootstrapnetwork1",
                               "multilayerbootstrapnetwork2"]  # fmt: skip
    with pytest.raises(ValueError, match="feature names"):
        model.transform(X[X.columns[::-1]])


def test_verbose(capsys):
    MultilayerBootstrapNetwork(n_estimators=5, k=[30, 20], random_state=0, verbose=1).fit(DIGITS[:100])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "layer 1 of 2, k=30" in lines[0]


@pytest.mark.slow
def test_torch_device_gives_the_same_codes():
    device = torch.device("cpu")
    X = DIGITS[:600]
    assert_array_equal(accelerator.nearest_rows(X, X, 30, "euclidean", device), neighbors.nearest_rows(X, X, 30))
    layer = MultilayerBootstrapNetwork(n_estimators=20, random_state=0, k=300).fit(X).layers_[0]
    X, reference, rows, used = X[:, X.std(0) > 0], layer.reference, layer.rows, layer.used
    masks = np.zeros((X.shape[1], 20), np.float32)
    np.put_along_axis(masks, used.T.astype(int), 1, axis=0)
    positions, near = assign_neighbors.position_table(rows, len(reference)), neighbors.nearest_rows(X, reference, 60)
    found = accelerator.neighbor_codes(X, reference, near, positions, rows, masks, 15, device)
    assert_array_equal(
        found, assign_neighbors.nearest_centroids(X, reference, near, positions, rows, masks, "euclidean", 15)
    )
    assert (
        found != assign_neighbors.nearest_centroids(X, reference, near[:, :15], positions, rows, masks, "euclidean")
    ).any()
    assert_array_equal(
        accelerator.direct_codes(X, reference, rows, used, device),
        assign_direct.nearest_centroids(X, reference, rows, used, "euclidean"),
    )


@pytest.mark.parametrize("factor, shift", [(1e30, 0), (1e-30, 0), (1, 1e4)])
def test_clusters_do_not_depend_on_scale_and_offset(factor, shift):
    X, y = make_blobs(300, centers=4, n_features=5, random_state=0)
    X = X.round(2)
    model = MultilayerBootstrapNetwork(n_estimators=30, n_clusters=4, random_state=0)
    Z = model.fit_transform(X * factor + shift)
    labels = KMeans(4, n_init=10, random_state=0).fit_predict(Z)
    assert normalized_mutual_info_score(y, labels) > 0.9


def test_degenerate_samples():
    one_feature = np.arange(60.0)[:, None]
    assert np.isfinite(MultilayerBootstrapNetwork(n_clusters=3, n_estimators=9).fit_transform(one_feature)).all()
    constant_feature = np.column_stack([DIGITS[:100, 2:6], np.full(100, 7)])
    assert np.isfinite(MultilayerBootstrapNetwork(n_estimators=9).fit_transform(constant_feature)).all()
    duplicated = np.repeat(DIGITS[:10], 10, axis=0)
    Z = MultilayerBootstrapNetwork(n_estimators=9, random_state=0).fit_transform(duplicated)
    assert np.isfinite(Z).all()
    assert_array_equal(Z, np.repeat(Z[::10], 10, axis=0))
    identical = np.ones((40, 3))
    assert_array_equal(MultilayerBootstrapNetwork(n_clusters=3, n_estimators=9).fit_transform(identical), 0)


@pytest.mark.parametrize(
    "parameters, X, message",
    [
        ({}, np.full((50, 2), np.nan), "NaN"),
        ({}, np.full((50, 2), np.inf), "infinity"),
        ({}, np.arange(50.0), "Expected 2D array"),
        ({}, np.empty((0, 3)), "0 sample"),
        ({}, np.ones((1, 3)), "1 sample"),
        ({}, DIGITS[:12], "n_samples=12 is less than 1.5"),
        ({"k": 101}, DIGITS[:100], "only 100 rows can become"),
        ({"k": [50, 0]}, DIGITS[:100], "use values from 1 to 100"),
        ({"k": []}, DIGITS[:100], "must hold one integer or more"),
        ({"k": [20.5]}, DIGITS[:100], "must hold one integer or more"),
        ({"k": "large"}, DIGITS[:100], "'k' parameter"),
        ({"metric": "manhattan"}, DIGITS[:100], "'metric' parameter"),
        ({"assignment": "none"}, DIGITS[:100], "'assignment' parameter"),
        ({"delta": 1.0}, DIGITS[:100], "'delta' parameter"),
        ({"max_features": 0.0}, DIGITS[:100], "'max_features' parameter"),
        ({"n_estimators": 0}, DIGITS[:100], "'n_estimators' parameter"),
        ({"n_components": 101}, DIGITS[:100], "n_components=101 is more than"),
        ({"max_samples": 101}, DIGITS[:100], "max_samples=101 is more than the 100 rows"),
        ({"max_samples": 0.1}, DIGITS[:100], "max_samples=0.1 leaves 10 rows"),
        ({"device": "quantum"}, DIGITS[:100], "device='quantum' cannot be used"),
        ({"device": "cuda:77"}, DIGITS[:100], "device='cuda:77' cannot be used"),
    ],
)
def test_invalid_input_raises(parameters, X, message):
    model = MultilayerBootstrapNetwork(**parameters)
    with pytest.raises(ValueError, match=message):
        model.fit(X)
    assert not hasattr(model, "k_")


def test_wrong_number_of_features_and_unfitted_use_raise():
    model = MultilayerBootstrapNetwork(n_estimators=3)
    with pytest.raises(ValueError, match="not fitted"):
        model.transform(DIGITS)
    model.fit(DIGITS)
    with pytest.raises(ValueError, match="expecting 64 features"):
        model.encode(DIGITS[:, :10])


def test_one_hot_and_projection():
    codes = np.array([[0, 2], [1, 1]], np.uint8)
    assert_array_equal(output.one_hot(codes, 3).toarray(), [[1, 0, 0, 0, 0, 1], [0, 1, 0, 0, 1, 0]])
    components = np.arange(12, dtype=np.float32).reshape(2, 6)
    mean = np.full(6, 0.5, np.float32)
    expected = (output.one_hot(codes, 3).toarray() - mean) @ components.T
    assert_allclose(output.project(codes, 3, components, mean), expected, rtol=1e-6)
