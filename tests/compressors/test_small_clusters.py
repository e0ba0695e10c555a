"""Small clusters under compression: they are reported, missed with a warning, and kept by balanced samples."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor

from distill import AutoCompressor, CodebookCompressor, Distiller, RandomCodeCompressor, SpikeSlabCompressor
from distill.compressors import COMPRESSORS, compressor_class
from distill.compressors.base import network_of
from distill.exceptions import FidelityWarning
from distill.training.targets import draw_calibration, labels_of

SMALL = 3


def rows_with_a_small_cluster(seed):
    """Return 900 rows of four labels, 2 % of which belong to the last one, next to the first."""
    rng = np.random.default_rng(seed)
    centers, direction = 2 * rng.normal(size=(3, 20)), rng.normal(size=20)
    centers = np.vstack([centers, centers[0] + 4.5 * direction / np.linalg.norm(direction)])
    y = np.repeat(range(4), [294, 294, 294, 18])
    return centers[y] + rng.normal(size=(900, 20)), y


def fitted_student(seed):
    X, y = rows_with_a_small_cluster(seed)
    teacher = LogisticRegression(max_iter=2000, class_weight="balanced")
    return X, Distiller(teacher, hidden_layer_sizes=(32,), max_iter=30, random_state=0).fit(X, y)


@pytest.fixture(scope="module")
def fourth():
    return fitted_student(4)


@pytest.fixture(scope="module", params=["codebook", "random code"])
def lossy(request, fourth):
    """Rows, a student, and a compressor that loses the small cluster."""
    X, student = fourth if request.param == "codebook" else fitted_student(0)
    frozen = FrozenEstimator(student)
    if request.param == "codebook":
        return X, student, CodebookCompressor(frozen, bits=1, n_groups=1, max_iter=5, random_state=0)
    steps = {"n_steps": 400, "n_steps_between_blocks": 1, "n_refinements": 1}
    return X, student, RandomCodeCompressor(frozen, max_bytes=90, bits_per_block=8, random_state=0, **steps)


# Reported: at 1 bit a small cluster is lost while report_ says .99
def test_lost_cluster_warns_and_balanced_samples_keep_it(lossy):
    X, student, compressor = lossy
    with pytest.warns(FidelityWarning, match=r"the label 3: .* balance_classes=True .it has [12]\.\d+% of") as caught:
        lost = compressor.fit(X)
    assert caught[0].filename == __file__
    assert lost.report_["agreement"] > 0.95 and lost.report_["agreement_per_class"][SMALL] < 0.2
    kept = compressor.set_params(balance_classes=True).fit(X)
    assert kept.report_["agreement_per_class"][SMALL] > 0.8
    own = student.predict(X)
    assert np.mean(kept.predict(X)[own == SMALL] == SMALL) > 0.8 and np.mean(kept.predict(X) == own) > 0.98


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_array])
@pytest.mark.parametrize("n_samples", [None, 200])
def test_balanced_samples(kind, n_samples, fourth):
    X, student = fourth
    network = network_of(student)
    calibration = draw_calibration(kind(X), None, network, n_samples, 0.1, 0, balanced=True)
    labels = labels_of(network, X)
    np.testing.assert_array_equal(labels, student.predict(X))
    for rows, positions in zip((calibration.train, calibration.validation), calibration.positions):
        counts = np.bincount(labels[positions])
        assert len(set(counts)) == 1 and len(rows) == len(positions)
    assert not {*calibration.positions[0]} & {*calibration.positions[1]}
    assert {*calibration.positions[0], *calibration.positions[1]} >= {*np.flatnonzero(labels == SMALL)}


@pytest.mark.parametrize("method", COMPRESSORS)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_balance_of_numbers_raises(method):
    X, _ = rows_with_a_small_cluster(0)
    mlp = MLPRegressor(hidden_layer_sizes=(4,), max_iter=2, random_state=0).fit(X[:50], X[:50, 0])
    compressor = compressor_class(method)(FrozenEstimator(mlp), balance_classes=True)
    with pytest.raises(ValueError, match="predicts numbers; set it to False"):
        compressor.fit(X)


def test_labels_of_y_are_balanced_and_measured():
    X, y = rows_with_a_small_cluster(4)
    mlp = MLPClassifier(hidden_layer_sizes=(8,), max_iter=300, random_state=0).fit(X, y)
    compressor = SpikeSlabCompressor(
        FrozenEstimator(mlp), learn_from="y", balance_classes=True, density=0.9, max_iter=5, fine_tune_iter=5
    )
    compressor.fit(X, y)
    assert min(compressor.report_["agreement_per_class"].values()) > 0.8


# A single row of each label left no validation row for a y: a score of NaN
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
def test_y_with_one_row_of_each_label():
    X, y = np.eye(6) * 5, np.arange(6)
    mlp = MLPClassifier(hidden_layer_sizes=(8,), max_iter=200, random_state=0, solver="lbfgs").fit(X, y)
    fitted = SpikeSlabCompressor(FrozenEstimator(mlp), learn_from="y", max_iter=2, density=0.9).fit(X, y)
    assert np.isfinite(fitted.report_["agreement"])


def test_search_reports_the_chosen_candidate_only(fourth):
    X, student = fourth
    auto = AutoCompressor(
        FrozenEstimator(student), max_bytes=700, methods=["codebook"], effort=0.05, balance_classes=True, random_state=0
    )
    auto.fit(X)
    assert auto.compressor_.balance_classes and auto.report_["agreement_per_class"][SMALL] > 0.5
