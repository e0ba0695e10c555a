"""The bottom layer chosen from the data, by what two small networks agree on."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.base import clone
from sklearn.datasets import load_digits, make_blobs, make_moons
from sklearn.metrics import adjusted_rand_score

from mbn import MBNClustering, MultilayerBootstrapNetwork, layers, structure
from mbn.rows import IDENTITY, Rows
from mbn.structure import Pilot, agreement

DIGITS = load_digits().data[:600]


def noisy_directions(n_samples=800, n_features=60, seed=0):
    """Rows of length one, as of short texts: four directions, and more noise than those."""
    rng = np.random.default_rng(seed)
    topics = rng.normal(size=(4, n_features))
    X = topics[rng.integers(4, size=n_samples)] * 0.7 + rng.standard_t(3, size=(n_samples, n_features))
    return X / np.linalg.norm(X, axis=1, keepdims=True)


def a_network(**settings):
    return MultilayerBootstrapNetwork(**{"k": "stable", "n_estimators": 30, "random_state": 0, **settings})


def test_default_is_kept_where_no_halving_pays():
    X, _ = make_blobs(400, 12, centers=4, random_state=0)
    model = a_network(n_clusters=4).fit(X)
    chosen = model.structure_["k"]
    assert chosen.candidates == (200, 100, 50) and chosen.chosen == 200 and chosen.n_samples == 400
    assert min(chosen.scores) > 0.9 and model.k_ == (200, 100, 50, 25, 12, 6)
    default = a_network(n_clusters=4, k="auto").fit(X)
    assert not hasattr(default, "structure_")
    assert_array_equal(model.transform(X), default.transform(X))
    assert not hasattr(model.set_params(k="auto").fit(X), "structure_")


def test_coarse_layers_for_noisy_directions():
    X = noisy_directions()
    model = a_network(n_clusters=4).fit(X)
    chosen = model.structure_["k"]
    assert model.k_[0] == chosen.chosen < chosen.candidates[0] == 400
    assert_array_equal(np.array(chosen.candidates), 400 // 2 ** np.arange(len(chosen.candidates)))
    gain = chosen.scores[chosen.candidates.index(chosen.chosen)] - chosen.scores[0]
    assert gain > structure.PRICE and "less 0.045" in chosen.reason


def test_largest_agreement_alone_where_the_default_is_unreliable(monkeypatch):
    monkeypatch.setattr(structure, "UNRELIABLE", 1)
    monkeypatch.setattr(structure, "PILOT_ROWS", 400)
    model = a_network(n_clusters=4).fit(noisy_directions())
    chosen = model.structure_["k"]
    assert chosen.candidates[:3] == (200, 100, 50) and chosen.absolute  # of the pilot, as many in the network
    assert chosen.chosen == chosen.candidates[np.argmax(chosen.scores)] == model.k_[0]
    assert "the largest agreement, since" in chosen.reason


def test_choice_is_reproducible_and_kept(tmp_path, monkeypatch):
    X = DIGITS[:260]
    model = a_network(n_estimators=10, memory=tmp_path).fit(X)
    computed = []
    for name in ("assign_bottom", "assign_upper"):
        function = getattr(layers, name)
        monkeypatch.setattr(layers, name, lambda *args, f=function: (computed.append(f), f(*args))[1])
    again = clone(model).fit(X)
    assert again.structure_ == model.structure_ and not computed
    for other in (
        clone(model).set_params(memory=None, n_jobs=2).fit(X),
        a_network(n_estimators=10).fit(X.astype("f4")),
    ):
        assert other.structure_ == model.structure_ and computed
    path = next(path for path in tmp_path.rglob("*.layer") if b'"pilot"' in path.read_bytes())
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(match="the pilot is computed again") as record:
        clone(model).fit(X)
    assert record[0].filename == __file__


def test_noise_without_clusters_gets_the_default_and_a_warning():
    X = np.random.default_rng(0).normal(size=(400, 100))
    with pytest.warns(match="k='stable' found no structure") as record:
        model = a_network(n_estimators=15).fit(X)
    assert record[0].filename == __file__
    assert model.k_[0] == 200 and "flat" in model.structure_["k"].reason


@pytest.mark.parametrize(
    "X, reason", [(DIGITS[:120], "too few"), (make_moons(300, random_state=0)[0], "2 features have a schedule")]
)
def test_default_where_nothing_can_be_chosen(X, reason):
    model = a_network(n_estimators=5).fit(X)
    chosen = model.structure_["k"]
    assert reason in chosen.reason and chosen.chosen is None and chosen.candidates == ()
    assert model.k_ == a_network(k="auto", n_estimators=5).fit(X).k_


def test_pilot_is_a_sample_of_the_rows(monkeypatch, capsys):
    monkeypatch.setattr(structure, "PILOT_ROWS", 300)
    X = sparse.csr_array(make_blobs(600, 12, centers=4, random_state=0)[0])
    model = a_network(n_clusters=4, verbose=1).fit(X)
    assert model.structure_["k"].candidates[0] == 300 and model.structure_["k"].n_samples == 300
    assert "pilot of 300 samples, k=300: agreement" in capsys.readouterr().out
    half = clone(model).set_params(max_samples=400, verbose=0).fit(X)
    assert half.structure_["k"].candidates[0] == 200
    settings = layers.LayerSettings(10, 0.5, 0, "euclidean", "direct", 64)
    pilot = Pilot(DIGITS, IDENTITY, settings, lambda k, n: "direct", 5)
    assert_array_equal(pilot._rows, Rows(DIGITS[pilot.numbers], IDENTITY).whole())
    assert pilot.scaled((300, 150, 75, 37, 18), 15) == (150, 75, 37, 18)
    assert pilot.scaled((20,), 15) == (15,) and pilot.scaled((300, 20), 15) == (150,)
    assert pilot.scaled((20,), 15, absolute=True) == (20,)


def test_halves_have_draws_of_their_own():
    settings = layers.LayerSettings(12, 0.5, 3, "euclidean", "direct", 64)
    pilot = Pilot(DIGITS, IDENTITY, settings, lambda k, n: "direct", 5)
    (k, (one, other)), (_, above) = pilot.codes((300, 60), 2, 0)
    assert k == 300 and one.shape == other.shape == (600, 12) and not (one == other).all(axis=0).any()
    assert len(above) == 2 and above[0].max() < 60
    assert_array_equal(pilot.codes((300, 60), 2, 1)[0][1], above)
    first, second = pilot.halves((300, 60))
    assert first.shape == (600, 5) and 0 < agreement(first, second) < 1
    assert pilot.halves((300, 60))[0] is first


def test_agreement():
    rng = np.random.default_rng(0)
    A, rotation = rng.normal(size=(50, 3)), np.linalg.qr(rng.normal(size=(3, 3)))[0]
    assert agreement(A, 7 * A @ rotation + 3) == 1
    assert agreement(A, rng.normal(size=(50, 3))) < 0.2
    assert agreement(A, np.ones((50, 2))) == 0
    B = rng.normal(size=(50, 2))
    G, H = ((part - part.mean(axis=0)) @ (part - part.mean(axis=0)).T for part in (A, B))
    assert agreement(A, B) == pytest.approx((G * H).sum() / np.sqrt((G * G).sum() * (H * H).sum()), abs=1e-4)


def test_clusterer_reports_what_it_chose():
    model = MBNClustering(4, n_estimators=10, random_state=0).fit(DIGITS[:250])
    assert {"metric": model.structure_["metric"], **model.network_.structure_} == model.structure_
    assert model.structure_["k"].chosen == model.network_.k_[0]


def test_distance_is_that_of_the_clusters_which_are_found_again():
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(4, 20))
    y = np.arange(260) % 4
    rays = np.exp(rng.normal(size=(260, 1))) * (centers[y] + 0.25 * rng.normal(size=(260, 20)))
    balls = make_blobs(260, 20, centers=4, cluster_std=2.0, center_box=(20, 30), random_state=0)[0]
    few = {"n_clusters": 4, "n_estimators": 20, "k": 20, "random_state": 0}
    for rows, expected in ((rays, "cosine"), (balls, "euclidean")):
        model = MBNClustering(**few).fit(rows)
        choice = model.structure_["metric"]
        assert model.network_.metric_ == choice.chosen == expected and model.metric == "auto"
        assert choice.candidates == ("euclidean", "cosine") and choice.n_samples == 260
        assert (choice.scores[1] > choice.scores[0] + 0.02) == (expected == "cosine")
        # The fit is that of a model with this distance, and the scores are the same again
        assert_array_equal(model.labels_, MBNClustering(**few, metric=expected).fit(rows).labels_)
        assert clone(model).fit(rows).structure_ == model.structure_
    assert adjusted_rand_score(y, MBNClustering(**few).fit(rays).labels_) > 0.95


@pytest.mark.parametrize(
    "rows, settings",
    [
        (DIGITS[:300, 20:28], {}),
        (DIGITS[:90], {}),
        (DIGITS[:300], {"metric": "euclidean"}),
        (DIGITS[:300] / np.linalg.norm(DIGITS[:300], axis=1, keepdims=True), {}),
        (DIGITS[:300], {"n_clusters": 1}),
    ],
    ids=["few features", "few rows", "given", "length one", "one cluster"],
)
def test_distance_is_not_chosen(rows, settings):
    model = MBNClustering(**{"n_clusters": 4, "n_estimators": 5, "k": "auto", "random_state": 0, **settings}).fit(rows)
    assert "metric" not in model.structure_


def test_choice_of_the_distance_takes_no_draws():
    one, other = np.random.RandomState(3), np.random.RandomState(3)
    MBNClustering(4, n_estimators=5, random_state=one).fit(DIGITS[:260])
    MBNClustering(4, n_estimators=5, metric="euclidean", random_state=other).fit(DIGITS[:260])
    assert one.randint(1000) == other.randint(1000)
