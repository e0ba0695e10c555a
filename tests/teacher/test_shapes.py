"""Clusters that are not round, in few features, found by the defaults and k-means."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits, make_circles, make_moons
from sklearn.metrics import adjusted_rand_score

from mbn import MultilayerBootstrapNetwork, guides, layers
from mbn.rows import Rows
from mbn.schedule import most_centroids, n_used_features, ratio


def a_network(n_clusters, **settings):
    return MultilayerBootstrapNetwork(n_clusters=n_clusters, **{"n_estimators": 100, "random_state": 5, **settings})


def score(X, y, **settings):
    """Adjusted Rand index of the defaults, but for fewer clusterings, and k-means."""
    n_clusters = len(np.unique(y))
    Z = a_network(n_clusters, **settings).fit_transform(X)
    return adjusted_rand_score(y, KMeans(n_clusters, n_init=10, random_state=0).fit_predict(Z))


def groups(sizes, n_features, seed=5):
    y = np.repeat(np.arange(len(sizes)), sizes)
    noise = np.random.default_rng(seed).normal(size=(len(y), n_features))
    return 10 * y[:, None] + noise, y


@pytest.mark.parametrize(
    "data", [make_moons(700, noise=0.05, random_state=5), make_circles(700, factor=0.5, noise=0.05, random_state=5)]
)
def test_moons_and_circles(data):
    assert score(*data, n_estimators=200) > 0.9  # 1.0 when written


@pytest.mark.parametrize("n_features", [1, 2, 3])
@pytest.mark.parametrize("sizes", [[40] * 4, [80, 100, 120, 140]])
def test_groups_in_few_features(sizes, n_features):
    assert score(*groups(sizes, n_features)) == 1


def test_all_features_are_used_where_they_are_few():
    assert [n_used_features(0.5, n) for n in (1, 2, 8, 9, 15, 16, 17, 64)] == [1, 2, 8, 8, 8, 8, 8, 32]
    assert n_used_features(1.0, 64) == 64 and n_used_features(0.01, 30) == 8
    digits = load_digits().data[:100]
    model = MultilayerBootstrapNetwork(n_estimators=3, random_state=0).fit(digits)
    assert model.k_ == (50, 25) and model.layers_[1].guides is None
    few = clone(model).fit(np.c_[digits[:, 2:6], np.ones((100, 20))])  # features that do not vary do not count
    assert few.layers_[0].used.shape[1] == 4 and few.k_[:2] == (50, 45)
    assert [most_centroids(n, 10, 2) for n in (100, 1000, 10**5)] == [50, 200, 1000]
    assert [most_centroids(1000, 10, n) for n in (1, 8, 9)] == [120, 200, 1000]
    assert [ratio("auto", n) for n in (1, 2, 8, 9)] == [0.5, 0.9, 0.9, 0.5] and ratio(0.3, 2) == 0.3


def test_guides_lead_to_a_centroid():
    below = np.array([[0, 0], [0, 1], [2, 1], [2, 3], [9, 9]], np.uint8)  # a chain, and one without any link
    rows, used = np.array([[3]]), np.array([[0, 1]])
    nearest = np.zeros((5, 1), np.uint8)
    two = np.array([[3, 1]])  # the second centroid is drawn in one clustering, by its code alone
    assert_array_equal(guides.codes_of_guides(nearest, below, below, rows, used), nearest)
    found = guides.codes_of_guides(np.array([[0], [1], [1], [0], [0]], np.uint8), below, below, two, used)
    assert_array_equal(found, [[1], [1], [1], [0], [0]])
    codes = np.array([[0], [0]], np.uint8)
    new = np.array([[0, 7], [8, 8]], np.uint8)
    followed = guides.follow(codes, new, below, two, np.array([[1]]), np.arange(5), found)
    assert_array_equal(followed, [[1], [0]])  # like the first row of the chain; and none


def test_rows_alone_and_other_forms_give_the_same_codes(tmp_path):
    X, _ = make_moons(200, noise=0.05, random_state=0)
    model = a_network(2, n_estimators=15, memory=tmp_path)
    Z = model.fit_transform(X)
    assert any(layer.guides is not None for layer in model.layers_)
    for again in (model, clone(model).fit(X), clone(model).set_params(n_jobs=2, memory=None).fit(X)):
        assert_array_equal(again.transform(X), Z)
        assert_array_equal(again.transform(X[7:9]), Z[7:9])
    settings = model._settings()
    codes = layers.assign_bottom(Rows(X, model.preparation_)[:], model.layers_[0], settings)
    layer, found = model.layers_[1], layers.assign_upper(codes, model.layers_[1], model.k_[0], 1)
    shared = codes[:, None] == layer.reference[np.take_along_axis(layer.rows.T, found.astype(int), 0)]
    shared = shared[:, np.arange(15)[:, None], layer.used]
    assert 0 < (~shared.any(axis=2)).mean() < 0.2  # some samples follow guides
