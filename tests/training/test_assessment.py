"""Students that are poor say so, and the plateau at the start of a training is not taken for its end."""

import warnings

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans
from sklearn.datasets import load_diabetes
from sklearn.decomposition import KernelPCA
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVR, OneClassSVM

from distill import Distiller
from distill.exceptions import FidelityWarning
from distill.training.assessment import Baseline, linear_model
from distill.training.fidelity import agreement_per_class
from distill.training.initialization import bend_at_rows
from distill.training.perceptron import Perceptron, initial_network
from distill.training.samples import DenseRows, JitteredRows, SparseRows, at_most, rows_per_block, typical_gap
from distill.training.scaling import fit_input_scaling

torch = pytest.importorskip("torch")
NORMAL = np.random.default_rng(0).normal(size=(600, 2))


# Reported for students of OneClassSVM(nu=.05) on normal rows: R^2 .02 to .12, because training stopped on a plateau
def test_training_leaves_the_plateau_of_a_one_class_svm():
    student = Distiller(OneClassSVM(nu=0.05), random_state=0).fit(NORMAL[:300])
    assert student.best_validation_score_ > 0.9


@pytest.mark.parametrize(
    "teacher, of_regression",
    [(KernelPCA(2, kernel="rbf", gamma=0.5), False), (SVR(C=100), True)],
)
def test_other_numbers_are_learned_with_the_defaults(teacher, of_regression):
    X, y = load_diabetes(return_X_y=True)
    X, y = (StandardScaler().fit_transform(X)[:300], y[:300]) if of_regression else (NORMAL[:150], None)
    assert Distiller(teacher, random_state=0).fit(X, y).best_validation_score_ > 0.9


def test_first_layer_bends_at_training_rows():
    rows = DenseRows(torch.from_numpy(NORMAL[:5].astype(np.float32)))
    module = Perceptron(initial_network((2, 12, 1), seed=0))
    bend_at_rows(module, rows, seed=0)
    outputs = torch.nn.functional.linear(rows.tensors[0], module.weights[0], module.biases[0])
    assert torch.all(outputs.abs().amin(dim=0) < 1e-6)
    linear = Perceptron(initial_network((2, 1), seed=0))
    bend_at_rows(linear, rows, seed=0)
    assert not linear.biases[0].any()


@pytest.mark.parametrize(
    "teacher, settings, message",
    [
        (LogisticRegression(), {"max_iter": 1, "learning_rate_init": 1e-6}, "of a linear model; try a larger max_iter"),
        (Ridge(), {"max_iter": 1, "learning_rate_init": 1e-6}, "R.2 against its teacher on held-out rows"),
        (LogisticRegression(), {"max_iter": 1, "learning_rate_init": 1e-6, "early_stopping": False}, "rows of the fit"),
    ],
)
def test_poor_student_warns_at_the_line_of_the_fit(teacher, settings, message):
    y = (NORMAL[:, 0] > 0.5).astype(int)
    with pytest.warns(FidelityWarning, match=message) as caught:
        Distiller(teacher, hidden_layer_sizes=(4,), random_state=1, **settings).fit(NORMAL, y)
    assert caught[0].filename == __file__


class Noise(ClusterMixin, BaseEstimator):
    """Labels that do not depend on the rows."""

    def fit(self, X, y=None):
        self.labels_ = np.random.default_rng(0).integers(0, 3, len(X))
        return self


def test_labels_that_cannot_be_learned_warn():
    with pytest.warns(FidelityWarning, match="agreement with its teacher"):
        Distiller(Noise(), hidden_layer_sizes=(4,), max_iter=3, random_state=0).fit(NORMAL[:200])


def test_floor_allows_for_chance():
    assert Baseline(0.99, 0.5, 20, True).floor == pytest.approx(0.94, abs=0.01)
    assert Baseline(0.5, 0.9, 1000, True).is_below(0.8) and not Baseline(0.5, 0.9, 1000, True).is_below(0.86)
    assert Baseline(-3.0, 0.0, 50, False).is_below(0.0) and not Baseline(0.4, 0.0, 50, False).is_below(0.31)


@pytest.mark.parametrize("n_features", [5, 40])
def test_linear_model_is_ridge(n_features):
    rng = np.random.default_rng(0)
    X, T, others = rng.normal(size=(30, n_features)), rng.normal(size=(30, 2)), rng.normal(size=(4, n_features))
    penalty = 1e-3 * np.square(X - X.mean(axis=0)).sum() / n_features
    expected = Ridge(penalty).fit(X, T).predict(others)
    np.testing.assert_allclose(linear_model(X, T, others), expected, rtol=1e-6, atol=1e-8)


# One row for each label: the score was NaN, with NumPy's "Mean of empty slice"
@pytest.mark.parametrize("n_rows", [2, 5])
def test_one_row_for_each_label(n_rows):
    X = np.arange(3.0 * n_rows).reshape(n_rows, 3) ** 2
    with pytest.warns(FidelityWarning, match="every label occurs in one row only"):
        student = Distiller(KMeans(n_rows, n_init=1, random_state=0), max_iter=20, random_state=0).fit(X)
    assert student.best_validation_score_ is None and student.validation_scores_ is None
    assert student.n_iter_ == 20 and student.score(X) == 1


@pytest.mark.parametrize("fraction", [1e-9, 0.999])
def test_extreme_fractions_keep_a_training_and_a_validation_row(fraction):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FidelityWarning)
        for teacher, X in ((Ridge(), NORMAL[:2]), (KMeans(2, n_init=1, random_state=0), NORMAL[:3])):
            student = Distiller(teacher, hidden_layer_sizes=(4,), max_iter=2, validation_fraction=fraction)
            assert np.isfinite(student.fit(X, X[:, 0]).best_validation_score_)


def test_agreement_per_class_of_a_student():
    labels = np.repeat([0, 1, 2], [150, 145, 5])
    X = np.array([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])[labels] + NORMAL[:300]
    teacher = LogisticRegression().fit(X, np.array(["a", "b", "c"])[labels])
    student = Distiller(teacher, hidden_layer_sizes=(16,), max_iter=30, random_state=0).fit(X, teacher.predict(X))
    assert student.report_["agreement_per_class"].keys() == {"a", "b", "c"}
    assert min(student.report_["agreement_per_class"].values()) > 0.9
    assert "agreement_per_class" not in Distiller(Ridge(), max_iter=5, learning_rate_init=0.01).fit(X, X[:, 0]).report_


def test_few_held_out_rows_of_a_label_are_completed_by_training_rows():
    expected, more = np.repeat([0, 1], [12, 2]), np.repeat([0, 1], [30, 8])
    found = agreement_per_class(expected, np.zeros(14, int), 3, more, more)
    np.testing.assert_array_equal(found, [1, 0.8, np.nan])


# sklearn-onnx #53: 5000 x 60000 CSR rows of 1.2 MB took 2.85 GB in fit
def test_blocks_of_wide_rows_are_bounded_in_bytes():
    assert rows_per_block(1024) == 4096 and rows_per_block(60000) * 60000 < 2**22 and rows_per_block(10**9) == 1
    wide = sparse.csr_array((np.ones(3, np.float32), ([0, 5, 9], [1, 30000, 2])), shape=(300, 60000))
    rows = SparseRows(wide, fit_input_scaling(wide), torch.arange(300))
    taken, targets = rows.take(torch.tensor([9, 0, *range(100, 200)]))
    np.testing.assert_array_equal(taken.numpy(), rows.scaling.apply(wide[targets.numpy()].toarray()))
    assert len(at_most(2000, rows, seed=0)) == 279 and typical_gap(rows, seed=0) == 0


def test_noise_of_wide_rows_has_its_standard_deviation():
    varies = np.arange(30000) % 3 > 0
    rows = JitteredRows(DenseRows(torch.zeros(100, 30000)), 0.5, varies, seed=0)
    moved = rows.take(torch.arange(100))[0].numpy()
    assert not moved[:, ~varies].any() and rows.line.numel() < 2**22
    np.testing.assert_allclose(moved[:, varies].std(), 0.5, rtol=0.01)
    assert not np.array_equal(moved[0], moved[1])
