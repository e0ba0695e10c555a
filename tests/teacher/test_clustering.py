"""The network as a clusterer: labels, probabilities, stability and outliers."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.datasets import load_digits, make_blobs
from sklearn.metrics import accuracy_score, adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from distill import Distiller, load
from mbn import MBNClustering, MultilayerBootstrapNetwork, clusters
from mbn.clusters import Centers, find_clusters, fit_temperature, match, median_gap, probabilities, space, stability

DIGITS, TRUTH = load_digits(return_X_y=True)
X, NEW = DIGITS[:1000], DIGITS[1000:1060]
SMALL = {"n_estimators": 50, "random_state": 0}


@pytest.fixture(scope="module")
def model():
    return MBNClustering(10, k="auto", **SMALL).fit(X)


def test_clusters_are_those_of_the_pipeline(model):
    network = MultilayerBootstrapNetwork(n_clusters=10, **SMALL)
    Z = network.fit_transform(X)
    assert_array_equal(model.network_.transform(NEW), network.transform(NEW))
    found = KMeans(10, n_init=10, random_state=network.seed_).fit(Z.astype(np.float64))
    assert_array_equal(found.labels_, model.labels_)
    assert_array_equal(found.predict(network.transform(NEW).astype(np.float64)), model.predict(NEW))
    assert adjusted_rand_score(TRUTH[:1000], model.labels_) > 0.6  # .73 when written


def test_agglomerative_clusters_are_those_of_the_pipeline(monkeypatch):
    model = MBNClustering(10, algorithm="agglomerative", k="auto", **SMALL).fit(X)
    Z = model.network_.transform(X)
    assert adjusted_rand_score(AgglomerativeClustering(10).fit_predict(Z), model.labels_) == 1
    assert_array_equal(model.predict(X[::7]), model.labels_[::7])
    monkeypatch.setattr(clusters, "AGGLOMERATED_ROWS", 400)
    some = clone(model).fit(X)  # the others follow the nearest of these
    assert sum(len(tree.data) for tree in some.clusters_.trees) == 400  # of 1000
    assert adjusted_rand_score(some.labels_, model.labels_) > 0.5
    assert_array_equal(some.predict(X), some.labels_)


def test_prediction_depends_on_the_row_alone(model):
    assert_array_equal(model.predict(X), model.labels_)
    probability = model.predict_proba(NEW)
    for rows in (slice(0, 1), slice(3, 10), slice(None, None, -1)):
        assert_array_equal(model.predict_proba(NEW[rows]), probability[rows])
        assert_array_equal(model.predict(NEW[rows]), probability[rows].argmax(axis=1))
    assert_allclose(probability.sum(axis=1), 1)
    copy = pickle.loads(pickle.dumps(model))
    assert_array_equal(copy.predict_proba(NEW), probability)
    assert_array_equal(clone(model).set_params(n_jobs=2).fit(X).predict_proba(NEW), probability)
    assert_array_equal(model.predict(sparse.csr_array(NEW)), model.predict(NEW))


def test_landmarks(model):
    some = clone(model).set_params(max_samples=500).fit(X)
    assert some.labels_.shape == (1000,) and some.stability_.shape == (10,)
    assert_array_equal(some.predict(X), some.labels_)


def test_probabilities_tell_which_rows_keep_their_cluster(model):
    other = clone(model).set_params(random_state=1).fit(X)
    kept = match(model.labels_, other.labels_, 10) == model.labels_
    certainty = model.predict_proba(X).max(axis=1)
    certain, uncertain = certainty > 0.9, certainty < 0.6
    assert kept[certain].mean() > 0.9 > 0.7 > kept[uncertain].mean()  # .99 and .50 when written
    assert 0.5 < certain.mean() < 0.9 and abs(certainty.mean() - kept.mean()) < 0.1


def test_stability_tells_which_clusters_are_right(model):
    common = [[np.mean(TRUTH[:1000][model.labels_ == j] == digit) for digit in range(10)] for j in range(10)]
    purity = np.max(common, axis=1)
    assert np.corrcoef(purity, model.stability_)[0, 1] > 0.4  # .76 when written
    apart, _ = make_blobs(300, 12, centers=4, cluster_std=0.5, random_state=0)
    assert_array_equal(MBNClustering(4, k="auto", **SMALL).fit(apart).stability_, np.ones(4))


@pytest.mark.parametrize("outliers", [0.1, 0.0, "auto"])
def test_outliers(model, outliers):
    left = clone(model).set_params(outliers=outliers).fit(X)
    out = left.labels_ == -1
    assert_array_equal(left.predict(X), left.labels_)
    assert_array_equal(left.labels_[~out], model.labels_[~out])
    certainty = left.predict_proba(X).max(axis=1)
    assert out.sum() == {0.1: 100, 0.0: 0, "auto": (certainty < 0.5).sum()}[outliers]
    assert not out.any() or certainty[out].max() < certainty[~out].min()


def test_rows_between_clusters_are_outliers():
    rng = np.random.default_rng(0)
    centers = np.eye(12)[:3] * 8
    rows = np.concatenate([np.repeat(centers, 100, axis=0), np.full((20, 12), centers.mean(axis=0))])
    rows += rng.normal(size=rows.shape)
    model = MBNClustering(3, outliers=0.06, k="auto", **SMALL).fit(rows)
    assert (model.labels_[300:] == -1).mean() > 0.7  # .85 when written


def test_as_a_teacher():
    rows, _ = make_blobs(360, 12, centers=4, cluster_std=3.0, random_state=0)
    rows, new = rows[:300], rows[300:]
    teacher = MBNClustering(4, n_estimators=20, k="auto", random_state=0)
    student = Distiller(teacher, hidden_layer_sizes=(16,), learning_rate_init=0.01, max_iter=10, random_state=0)
    student.fit(rows)
    assert_array_equal(student.classes_, np.arange(4))
    assert accuracy_score(clone(teacher).fit(rows).predict(new), student.predict(new)) > 0.95
    assert_array_equal(load(student.to_bytes()).predict_proba(new), student.predict_proba(new))


def test_data_frames():
    frame = pd.DataFrame(X[:150], columns=[f"pixel{i}" for i in range(64)])
    named = MBNClustering(3, k=[30, 6], n_estimators=5, random_state=0).fit(frame)
    assert_array_equal(named.predict(frame), named.labels_)  # without a warning, which is an error here
    with pytest.raises(ValueError, match="feature names should match"):
        named.predict(frame[frame.columns[::-1]])


def test_in_a_pipeline_and_a_search():
    pipeline = make_pipeline(StandardScaler(), MBNClustering(3, k=12, n_estimators=20, random_state=0))
    search = GridSearchCV(
        pipeline, {"mbnclustering__algorithm": ["kmeans", "agglomerative"]}, scoring="adjusted_rand_score", cv=2
    )
    rows, y = make_blobs(300, 12, centers=3, random_state=0)
    search.fit(rows, y)
    assert search.best_score_ == 1 and search.predict(rows).shape == (300,)


def test_one_cluster_and_equal_rows():
    for algorithm in ("kmeans", "agglomerative"):
        one = MBNClustering(1, algorithm=algorithm, k="auto", n_estimators=5, random_state=0).fit(X[:60])
        assert_array_equal(one.labels_, np.zeros(60))
        assert_array_equal(one.predict_proba(X[:3]), np.ones((3, 1)))
        assert_array_equal(one.stability_, [1])
    with pytest.warns(match="distinct clusters"):
        equal = MBNClustering(2, k=[20, 5], n_estimators=5, random_state=0).fit(np.ones((40, 12)))
    assert len(np.unique(equal.labels_)) == 1 and np.isfinite(equal.predict_proba(X[:2, :12])).all()


def test_a_fit_that_fails_leaves_the_model_as_it_was(model):
    before = clone(model).fit(X[:100])
    labels = before.labels_
    with pytest.raises(ValueError, match="less than 1"):
        before.fit(X[:9])
    assert_array_equal(before.predict(X[:100]), labels)
    for bad in ({"algorithm": "ward"}, {"outliers": 1.0}, {"outliers": -0.1}, {"n_clusters": 0}, {"k": "best"}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            clone(model).set_params(**bad).fit(X)


def test_parts():
    rng = np.random.default_rng(0)
    Z, points = rng.normal(size=(50, 4)), rng.normal(size=(3, 4))
    distances = Centers(points).squared_distances(Z)
    assert_allclose(distances, ((Z[:, None] - points) ** 2).sum(axis=2))
    members = find_clusters(Z, 3, "agglomerative", 0)
    labels = AgglomerativeClustering(3).fit_predict(Z)
    expected = [((Z[:, None] - Z[labels == j]) ** 2).sum(axis=2).min(axis=1) for j in range(3)]
    assert_allclose(members.squared_distances(Z), np.transpose(expected))
    assert median_gap(np.array([[1.0, 4, 9], [0, 2, 1]])) == 2  # of 3 and 1
    assert_allclose(probabilities(np.array([[1.0, 3.0]]), 2.0, 0.5), [[1 / (1 + np.exp(-2)), 1 / (1 + np.exp(2))]])
    assert_allclose(probabilities(np.array([[0.0, 1e300]]), 1e-30, 1e-3), [[1, 0]])
    assert_array_equal(stability(np.array([0, 0, 2]), [np.array([1, 1, 0])] * 2, 3), [1, np.nan, 1])
    # Half of the rows in the middle change sides: at the best temperature those have a probability near one half
    line = np.linspace(-1, 1, 201)
    sides = np.stack([(line + 1) ** 2, (line - 1) ** 2], axis=1)
    shifted = np.stack([(line + 1.2) ** 2, (line - 0.8) ** 2], axis=1)
    temperature = fit_temperature([sides, shifted])
    assert fit_temperature([sides, sides]) < temperature < 2
    certainty = probabilities(sides, median_gap(sides), temperature).max(axis=1)
    moved = sides.argmin(axis=1) != shifted.argmin(axis=1)
    assert certainty[moved].mean() < 0.75 < certainty[~moved].mean()


@pytest.mark.parametrize("algorithm", ["kmeans", "agglomerative"])
def test_number_of_clusters_from_the_data(algorithm, tmp_path):
    rows, y = make_blobs(120, 12, centers=4, cluster_std=2.0, random_state=1)
    model = MBNClustering("auto", algorithm=algorithm, n_estimators=20, memory=tmp_path, random_state=0).fit(rows)
    choice = model.structure_["n_clusters"]
    assert model.n_clusters_ == choice.chosen == 4 and adjusted_rand_score(y, model.labels_) > 0.95
    assert choice.candidates == tuple(range(2, 13)) and choice.scores[2] == max(choice.scores) > 0.95
    assert model.structure_["k"].parameter == "k" and model.predict_proba(rows).shape == (120, 4)
    assert clone(model).fit(rows).structure_ == model.structure_
    assert clone(model).set_params(memory=None, n_jobs=2).fit(rows).structure_ == model.structure_


def test_rows_without_clusters_are_one():
    rows = np.random.default_rng(0).normal(size=(120, 20))
    with pytest.warns(match="n_clusters='auto' found no clusters: small networks find no clusters again") as record:
        model = MBNClustering("auto", k="auto", n_estimators=20, random_state=0).fit(rows)
    assert record[-1].filename == __file__
    assert model.n_clusters_ == 1 and set(model.labels_) == {0}
    with pytest.raises(ValueError, match="n_clusters='auto' needs 100 samples"):
        model.fit(rows[:99])


def test_rows_of_length_one_have_directions():
    rows = X[:150] / np.linalg.norm(X[:150], axis=1, keepdims=True)
    few = {"n_clusters": 3, "n_estimators": 5, "k": [30, 6], "random_state": 0}
    assert MBNClustering(**few).fit(rows).network_.metric_ == "cosine"
    assert MBNClustering(**few).fit(sparse.csr_array(rows)).network_.metric_ == "cosine"
    assert MBNClustering(**few).fit(rows * 1.01).network_.metric_ == "euclidean"
    cosine = MBNClustering(**few, metric="cosine").fit(rows)
    assert_array_equal(cosine.labels_, MBNClustering(**few).fit(rows).labels_)


def test_clusters_of_the_cosine_metric_are_those_of_directions():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(3, 12))
    rows = centers[np.arange(300) % 3] + 0.6 * rng.normal(size=(300, 12))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    model = MBNClustering(3, n_estimators=20, k=8, random_state=0).fit(rows)
    Z = model.network_.transform(rows).astype(float)
    Z /= np.linalg.norm(Z, axis=1, keepdims=True)
    distances = ((Z[:, None] - model.clusters_.points) ** 2).sum(axis=2)
    assert_array_equal(model.labels_, distances.argmin(axis=1))
    # Centers are means of directions, and new rows are treated alike, alone and together
    for label in range(3):
        assert_allclose(model.clusters_.points[label], Z[model.labels_ == label].mean(axis=0), atol=1e-6)
    alone = np.vstack([model.predict_proba(row[None]) for row in rows[:20]])
    assert_array_equal(alone, model.predict_proba(rows)[:20])
    assert adjusted_rand_score(np.arange(300) % 3, model.labels_) > 0.9


def test_directions_need_enough_components():
    Z = np.random.default_rng(0).normal(size=(20, 2))
    assert_allclose(np.linalg.norm(space(Z, 3, "cosine"), axis=1), 1)
    assert space(Z, 4, "cosine") is Z and space(Z, 2, "euclidean") is Z and space(Z, 2, "linear") is Z
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # two directions of one component are no four clusters
        rows = Z / np.linalg.norm(Z, axis=1, keepdims=True)
        model = MBNClustering(4, n_components=1, n_estimators=5, k=6, metric="cosine", random_state=0).fit(rows)
    assert len(set(model.labels_)) == 4
