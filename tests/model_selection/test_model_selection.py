"""Scorers, Pareto fronts, and the choice from a search."""

import pickle

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import VarianceThreshold
from sklearn.frozen import FrozenEstimator
from sklearn.impute import KNNImputer
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    RandomizedSearchCV,
    cross_validate,
    train_test_split,
)
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from distill import CodebookCompressor, Distiller, SpikeSlabCompressor, load
from distill.model_selection import SCORING, fidelity_scorer, pareto_front, size_scorer, smallest_within
from distill.pipeline import to_bytes

# Networks are trained too short on purpose, and say so
pytestmark = pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")

DIGITS, LABELS = load_digits(return_X_y=True)
DIGITS = DIGITS / 16
X, X_NEW, y, y_new = train_test_split(DIGITS, LABELS, random_state=0)
SMALL = {"hidden_layer_sizes": (8,), "max_iter": 3, "random_state": 0}


def results(*candidates):
    """Return what a search would, of pairs of fidelities of folds and bytes."""
    folds = np.array([fidelity for fidelity, _ in candidates], float)
    return {
        "params": [{}] * len(candidates),
        "mean_test_fidelity": folds.mean(axis=1),
        "std_test_fidelity": folds.std(axis=1),
        "mean_test_size": np.array([-n_bytes for _, n_bytes in candidates], float),
        **{f"split{fold}_test_fidelity": folds[:, fold] for fold in range(folds.shape[1])},
    }


# scorers


def test_scores_are_fidelity_and_minus_bytes(student):
    assert fidelity_scorer(student, X_NEW, y_new) == student.score(X_NEW)
    assert size_scorer(student, X_NEW) == -student.nbytes_
    pipeline = make_pipeline(StandardScaler(), Distiller(KMeans(3, n_init=1, random_state=0), **SMALL)).fit(X)
    assert size_scorer(pipeline) == -len(to_bytes(pipeline)) < -pipeline[-1].nbytes_
    assert fidelity_scorer(pipeline, X_NEW) == pipeline.score(X_NEW)
    travels = make_pipeline(VarianceThreshold(), Distiller(KMeans(3, n_init=1, random_state=0), **SMALL)).fit(X)
    assert size_scorer(travels) == -len(to_bytes(travels)) < -travels[-1].nbytes_
    other = make_pipeline(KNNImputer(), Distiller(KMeans(3, n_init=1, random_state=0), **SMALL)).fit(X)
    assert size_scorer(other) == -other[-1].nbytes_
    with pytest.raises(TypeError, match="KMeans"):
        size_scorer(KMeans(2))


# choosing a candidate


def test_pareto_front_equals_brute_force():
    random = np.random.default_rng(0)
    for _ in range(50):
        scores = np.round(random.random(30), 1)
        n_bytes = np.round(random.random(30) * 20) + 1
        scores[:2] = np.nan
        found = results(*(([score], size) for score, size in zip(scores, n_bytes)))
        beaten = [
            any(
                scores[j] >= scores[i]
                and n_bytes[j] <= n_bytes[i]
                and (scores[j] > scores[i] or n_bytes[j] < n_bytes[i])
                for j in range(30)
            )
            for i in range(30)
        ]
        best = {(scores[i], n_bytes[i]) for i in range(2, 30) if not beaten[i]}
        front = pareto_front(found)
        assert {(scores[i], n_bytes[i]) for i in front} == best
        assert len(front) == len(best) and (np.diff(n_bytes[front]) > 0).all()


def test_empty_front():
    assert len(pareto_front(results(([np.nan], 3)))) == 0


def test_smallest_within_a_tolerance():
    found = results(([0.90], 100), ([0.97], 200), ([0.98], 300), ([0.985], 200), ([0.99], 900), ([np.nan], 1))
    assert [smallest_within(tolerance)(found) for tolerance in (0, 0.005, 0.01, 0.05, 0.1)] == [4, 3, 3, 3, 0]


def test_smallest_within_a_standard_error():
    # Standard error of the best candidate's mean of four folds, 0.96: 0.02 * sqrt(4 / 3) / 2
    found = results(([0.94, 0.98, 0.94, 0.98], 500), ([0.95] * 4, 300), ([0.948] * 4, 100))
    assert smallest_within("standard error")(found) == 1
    with pytest.raises(ValueError, match="several folds"):
        smallest_within("standard error")(results(([0.9], 1)))


def test_invalid_input_raises():
    for tolerance in (-0.1, "1-se"):
        with pytest.raises(ValueError, match="tolerance"):
            smallest_within(tolerance)
    with pytest.raises(ValueError, match=r"no score 'size', only \['score'\]"):
        pareto_front({"mean_test_score": [1.0]}, fidelity="score")
    with pytest.raises(ValueError, match="all fits have failed"):
        smallest_within()(results(([np.nan], 3)))


def test_pickle_and_clone():
    pick = smallest_within(0.02)
    assert pickle.loads(pickle.dumps(pick)) == pick
    assert clone(GridSearchCV(KMeans(), {}, refit=pick)).refit == pick


# searches


def test_grid_search_over_compressors_and_their_parameters(student):
    frozen = FrozenEstimator(student)
    grid = [
        {"compress": [CodebookCompressor(frozen, max_iter=0, random_state=0)], "compress__bits": [1, 2, 4]},
        {
            "compress": [SpikeSlabCompressor(frozen, max_iter=2, fine_tune_iter=1, random_state=0)],
            "compress__density": [0.2, 0.6],
        },
    ]
    search = GridSearchCV(
        Pipeline([("compress", student)]), grid, scoring=SCORING, refit=smallest_within(0.03), cv=2, error_score="raise"
    ).fit(X)
    assert search.best_index_ == smallest_within(0.03)(search.cv_results_)
    assert -size_scorer(search.best_estimator_) == search.best_estimator_["compress"].nbytes_
    fidelity = search.cv_results_["mean_test_fidelity"]
    assert fidelity[search.best_index_] >= fidelity.max() - 0.03
    front = pareto_front(search.cv_results_)
    assert 2 <= len(front) <= 5 and (np.diff(fidelity[front]) > 0).all()


def test_nested_parameters():
    pipeline = Pipeline(
        [("scale", StandardScaler()), ("compress", CodebookCompressor(Distiller(KMeans(3)), max_iter=0))]
    )
    settings = {
        "compress__bits": 3,
        "compress__estimator__hidden_layer_sizes": (4,),
        "compress__estimator__teacher__n_clusters": 2,
        "compress__estimator__teacher__n_init": 1,
        "compress__estimator__max_iter": 2,
        "compress__random_state": 0,
    }
    fitted = clone(pipeline).set_params(**settings).fit(X)
    assert fitted["compress"].network_.layer_sizes == (64, 4, 1)
    assert len(fitted.classes_) == 2


def test_randomized_and_halving_search_and_cross_validation(student):
    compressor = CodebookCompressor(FrozenEstimator(student), max_iter=0, random_state=0)
    random = RandomizedSearchCV(
        compressor, {"bits": [1, 2, 3, 4]}, n_iter=2, scoring=SCORING, refit=smallest_within(0.5), cv=2, random_state=0
    ).fit(X)
    assert random.best_params_["bits"] == min(random.cv_results_["param_bits"])
    halving = HalvingGridSearchCV(
        compressor, {"bits": [1, 4]}, scoring=fidelity_scorer, cv=2, min_resources=300, random_state=0
    ).fit(X, y)
    assert halving.best_params_["bits"] == 4
    scores = cross_validate(compressor, X, scoring=SCORING, cv=2)
    assert (scores["test_fidelity"] > 0.5).all() and (scores["test_size"] < 0).all()


@pytest.mark.slow
def test_nested_compressors(student):
    pruned = SpikeSlabCompressor(FrozenEstimator(student), density=0.3, max_iter=3, fine_tune_iter=2, random_state=0)
    stack = CodebookCompressor(pruned, bits=3, max_iter=2, random_state=0).fit(X)
    alone = CodebookCompressor(FrozenEstimator(student), bits=3, max_iter=2, random_state=0).fit(X)
    assert stack.nbytes_ < 0.7 * alone.nbytes_
    assert_array_equal(load(stack.to_bytes()).predict(X_NEW), stack.predict(X_NEW))
    grid = GridSearchCV(stack, {"estimator__density": [0.2], "bits": [2]}, scoring=fidelity_scorer, cv=2).fit(X)
    assert grid.best_estimator_.estimator_.density == 0.2
