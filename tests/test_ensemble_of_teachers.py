"""Several clusterers as one teacher: aligned labels, averaged soft labels, and what cannot be averaged."""

from itertools import permutations

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.cluster import DBSCAN, HDBSCAN, AgglomerativeClustering, KMeans
from sklearn.datasets import make_blobs
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.mixture import GaussianMixture
from sklearn.pipeline import make_pipeline

from distill import CodebookCompressor, Distiller, load
from distill.teachers import Ensemble, read_predictions
from distill.teachers.ensemble import aligned

X, TRUE = make_blobs(200, centers=[[0, 0], [3, 0], [0, 3], [3, 3]], cluster_std=0.7, random_state=0)
SMALL = {"hidden_layer_sizes": (16,), "max_iter": 12, "learning_rate_init": 0.01, "random_state": 0}


def kmeans(seed=0, k=4):
    return KMeans(k, n_init=1, init="random", max_iter=2, random_state=seed)


def predictions(labels):
    return read_predictions(KMeans(), np.array(labels), "predict", len(labels))


@pytest.mark.parametrize("seed", range(4))
def test_alignment_is_the_best_of_all_permutations(seed):
    rng = np.random.default_rng(seed)
    first = rng.integers(0, 5, 80)
    second = np.where(rng.random(80) < 0.6, rng.permutation(5)[first], rng.integers(0, 5, 80))
    classes, (own, places) = aligned([predictions(first), predictions(second)])
    agreements = [np.sum(np.array(order)[second] == first) for order in permutations(range(5))]
    assert own.tolist() == classes.tolist() == list(range(5)) and sorted(places) == list(range(5))
    assert np.sum(places[second] == first) == max(agreements)


def test_clusters_beyond_the_number_of_the_first_join_those_in_which_they_are():
    first = [0] * 6 + [1] * 6
    more = [2] * 3 + [0] * 3 + [3] * 2 + [1] * 4
    classes, (_, places) = aligned([predictions(first), predictions(more)])
    assert classes.tolist() == [0, 1] and places.tolist() == [0, 1, 0, 1]
    # And fewer: one cluster of the first has no vote of the other
    classes, (_, places) = aligned([predictions(more), predictions(first)])
    assert classes.tolist() == [0, 1, 2, 3] and places.tolist() == [0, 1]


def test_noise_is_noise_in_all():
    first, second = [0, 0, 1, 1, 1], [-1, 5, 0, 0, -1]
    classes, places = aligned([predictions(first), predictions(second)])
    assert classes.tolist() == [-1, 0, 1] and places[0].tolist() == [1, 2] and places[1].tolist() == [0, 2, 1]
    classes, places = aligned([predictions(second), predictions(first)])
    assert classes.tolist() == [-1, 0, 5] and places[1].tolist() == [2, 1]
    with pytest.raises(ValueError, match=r"labels .'a', 'b'., beside which -1"):
        aligned([predictions(["a", "a", "b", "b", "b"]), predictions(second)])


def soft_by_hand(model):
    squares = model.transform(X) ** 2
    gaps = squares - squares.min(axis=1, keepdims=True)
    soft = np.exp(-gaps / (0.4 * np.median(np.sort(gaps, axis=1)[:, 1])))
    return soft / soft.sum(axis=1, keepdims=True)


def test_soft_labels_are_the_average_of_aligned_ones():
    members = [kmeans(seed) for seed in range(3)]
    student = Distiller(members, **SMALL).fit(X)
    fitted = [clone(member).fit(X) for member in members]
    parts = [soft_by_hand(fitted[0])]
    for model in fitted[1:]:
        orders = [np.array(order) for order in permutations(range(4))]
        best = max(orders, key=lambda order: np.sum(order[model.labels_] == fitted[0].labels_))
        parts.append(soft_by_hand(model)[:, np.argsort(best)])
    expected = np.mean(parts, axis=0)
    assert student.learned_ == "soft labels from 3 teachers" and student.temperature_ is None
    np.testing.assert_allclose(student.teacher_.soft_labels_, expected, atol=1e-5)
    np.testing.assert_array_equal(student.teacher_.labels_, expected.argmax(axis=1))
    # They do not agree about all rows, so that the average is a decision
    assert 0.01 < np.mean([part.argmax(axis=1) != expected.argmax(axis=1) for part in parts]) < 0.2
    # For further rows the same
    np.testing.assert_allclose(student.teacher_.soft_labels(X), student.teacher_.soft_labels_, atol=1e-5)
    assert student.score(X) == np.mean(student.predict(X) == student.teacher_.predict(X)) > 0.9
    assert load(student.to_bytes()).predict(X).tolist() == student.labels_.tolist()


def test_equal_teachers_are_one():
    one = Distiller(kmeans(), target="predict", **SMALL).fit(X)
    three = Distiller([kmeans()] * 3, target="predict", **SMALL).fit(X)
    assert three.learned_ == "labels" and three.to_bytes() == one.to_bytes()


def test_the_first_decides_where_two_differ():
    student = Distiller([DBSCAN(eps=0.4, min_samples=6), FrozenEstimator(AgglomerativeClustering(5).fit(X))], **SMALL)
    expected = DBSCAN(eps=0.4, min_samples=6).fit_predict(X)
    student.fit(X)
    assert student.teacher_.labels_.tolist() == expected.tolist()
    assert not hasattr(student.teacher_, "predict") and -1 in student.classes_
    with pytest.raises(ValueError, match="predictions for the rows of its fit only"):
        student.score(X)


@pytest.mark.parametrize(
    "members",
    [
        [kmeans(), GaussianMixture(4, random_state=0), kmeans(1, 6)],
        [make_pipeline(PCA(2), kmeans()), FrozenEstimator(kmeans(3).fit(X))],
        [HDBSCAN(min_cluster_size=20, copy=True), AgglomerativeClustering(4), kmeans(2, 3)],
    ],
    ids=["probabilities", "pipeline", "noise"],
)
def test_clusterers_of_all_kinds(members):
    student = Distiller(members, **SMALL).fit(X)
    assert np.mean(student.predict(X) == student.teacher_.labels_) > 0.85
    assert student.predict_proba(X[:3]).shape == (3, len(student.classes_))
    small = CodebookCompressor(FrozenEstimator(student), max_iter=2, random_state=0).fit(X)
    assert np.mean(small.predict(X) == student.predict(X)) > 0.85
    again = Distiller(members, **SMALL).fit(X)
    assert again.to_bytes() == student.to_bytes()


def test_seeds_differ_between_members_and_rows_are_asked_about(tmp_path):
    members = [KMeans(4, n_init=1, init="random", max_iter=2)] * 3
    settings = {**SMALL, "n_queries": 100, "memory": str(tmp_path)}
    student = Distiller(members, **settings).fit(X)
    centers = [member.cluster_centers_ for member in student.teacher_.estimators_]
    assert not np.allclose(centers[0], centers[1]) and not np.allclose(centers[1], centers[2])
    assert student.report_["n_queries"] == 100 and members[0].random_state is None
    assert Distiller(members, **settings).fit(X).to_bytes() == student.to_bytes()
    on_sparse = Distiller(members, **SMALL).fit(sparse.csr_array(X))
    assert set(on_sparse.classes_) == {0, 1, 2, 3}


def test_noise_of_an_ensemble_can_be_left_out():
    members = [HDBSCAN(min_cluster_size=20, copy=True), HDBSCAN(min_cluster_size=15, copy=True)]
    student = Distiller(members, noise="exclude", **SMALL).fit(X)
    assert -1 not in student.classes_
    assert student.report_["n_excluded"] == (student.teacher_.labels_ == -1).sum() > 0


@pytest.mark.parametrize(
    "members, settings, error, message",
    [
        ([kmeans()], {}, ValueError, "list of 1, and an ensemble needs two"),
        ([], {}, ValueError, "list of 0"),
        ([kmeans(), PCA(2)], {}, TypeError, r"teacher\[1\] must be a clusterer.*got PCA; embeddings are not averaged"),
        ([LogisticRegression(), kmeans()], {}, TypeError, r"teacher\[0\] must be a clusterer.*VotingClassifier"),
        ([kmeans(), KMeans], {}, TypeError, r"teacher\[1\] must be an estimator instance"),
        ([kmeans(), "precomputed"], {}, TypeError, r"teacher\[1\] must be an estimator instance"),
        ([kmeans(), kmeans(1)], {"target": "transform"}, ValueError, "Ensemble does not have it; it offers predict"),
    ],
    ids=["one", "none", "embedding", "classifier", "class", "precomputed", "transform"],
)
def test_lists_that_are_no_ensemble(members, settings, error, message):
    with pytest.raises(error, match=message):
        Distiller(members, **settings, **SMALL).fit(X)


def test_labels_that_no_row_of_the_fit_has():
    class Surprise(KMeans):
        def predict(self, X):
            return super().predict(X) + 7

    fitted = Ensemble([Surprise(3, n_init=1, random_state=0), kmeans()]).fit(X)
    with pytest.raises(ValueError, match=r"Surprise gives 1 of 1 rows labels that no row of its fit has, such as \d+"):
        fitted.predict(X[:1])
