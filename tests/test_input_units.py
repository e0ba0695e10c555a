"""Units and offsets of inputs and outputs, wild values and missing values, from the fit to the file."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.cluster import KMeans
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.impute import KNNImputer, SimpleImputer
from sklearn.linear_model import LinearRegression
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from distill import (
    CodebookCompressor,
    Distiller,
    MatrixGaussianCompressor,
    RandomCodeCompressor,
    SpikeSlabCompressor,
    load,
)
from distill.pipeline import to_bytes
from distill.training.scaling import fit_input_scaling, have_one_unit, wild_values

random = np.random.default_rng(0)
CORNERS = random.integers(0, 2, (500, 2))
# Four clusters, a standard deviation of .7 within and a distance of 6 between
ROWS = 6 * CORNERS + random.normal(0, 0.7, CORNERS.shape)


class Corners(BaseEstimator):
    """A teacher that knows the clusters, wherever they are."""

    _estimator_type = "clusterer"

    def __init__(self, labels=None):
        self.labels = labels

    def fit_predict(self, X, y=None):
        return np.asarray(self.labels)

    def fit(self, X, y=None):
        return self


def distiller(teacher, **settings):
    return Distiller(teacher, hidden_layer_sizes=(24,), max_iter=8, random_state=0, **settings)


def agreement(X, labels=CORNERS @ [1, 2], **settings):
    """Return the share of rows whose label the estimator gives; estimator and file must agree."""
    student = distiller(Corners(labels), **settings).fit(X)
    found = student.predict(X)
    assert (load(student.to_bytes()).predict(X) == found).all()
    return np.mean(found == labels)


@pytest.mark.parametrize("spreads", [1e3, 1e6, 1e12])
def test_offsets_of_features(spreads):
    # scikit-learn #9354: features far from zero had the weight zero
    assert agreement(ROWS + spreads * ROWS.std(axis=0)) >= 0.995


@pytest.mark.parametrize(
    "X",
    [
        ROWS + [450_000, 5_800_000],  # easting and northing
        ROWS * 3600 + [1_700_000_000, 0],  # unix seconds beside a small number
        (1000 * ROWS).astype(np.int64) + 10**15,
        ROWS * [1e-30, 1] - [1e-20, 0],
        ROWS * 1e40 + 1e45,  # beyond the range of float32
        sparse.csr_array(ROWS + 1e9),
    ],
    ids=["utm", "seconds", "integers", "tiny", "huge", "sparse"],
)
def test_units_of_features(X):
    assert agreement(X) >= 0.995


@pytest.mark.parametrize("scaling", ["common", "per-feature"])
def test_offsets_with_a_given_scaling(scaling):
    assert agreement(ROWS + 1e9, input_scaling=scaling) >= 0.995


def test_small_offsets_stay_in_the_first_layer():
    network = distiller(KMeans(4, n_init=1, random_state=0)).fit(ROWS + 100).network_
    assert network.offset is None and network.scale is None and not network.has_wide_inputs


@pytest.mark.parametrize("factor", [1.0, 1e-50, 1e50])
def test_offsets_of_targets(factor):
    y = factor * (1.7e9 + 10 * (ROWS @ [1.0, -2.0]))
    model = distiller(LinearRegression()).fit(ROWS, y)
    assert model.score(ROWS, y) > 0.98
    found = load(model.to_bytes()).predict(ROWS)
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, model.predict(ROWS))
    # A further offset beside outputs around zero
    both = distiller(LinearRegression()).fit(ROWS, np.c_[y, ROWS[:, 0]])
    assert both.score(ROWS) > 0.98


def test_offsets_of_targets_of_a_wrapped_network():
    y = 1e7 + ROWS @ [1.0, -2.0]
    network = MLPRegressor(hidden_layer_sizes=(8,), max_iter=300, solver="lbfgs", random_state=0).fit(ROWS, y - 1e7)
    network.intercepts_[-1] = network.intercepts_[-1] + 1e7
    compressed = CodebookCompressor(FrozenEstimator(network), bits=4, random_state=0).fit(ROWS)
    assert compressed.score(ROWS) > 0.98


COMPRESSORS = [
    CodebookCompressor(None, bits=4),
    RandomCodeCompressor(None, max_bytes=300, n_steps=100),
    SpikeSlabCompressor(None, max_iter=20),
    MatrixGaussianCompressor(None, max_iter=20),
]


@pytest.mark.parametrize("compressor", COMPRESSORS, ids=lambda compressor: type(compressor).__name__)
def test_compressors_keep_units(compressor):
    X = ROWS + 1e9
    X[::50] = -99999
    y = 1.7e9 + 10 * (CORNERS @ [1.0, -2.0])
    model = distiller(Regressor(y)).fit(X)
    compressed = compressor.set_params(estimator=FrozenEstimator(model), random_state=0).fit(X)
    assert compressed.network_.clip == model.network_.clip
    ordinary = np.arange(len(X)) % 50 > 0
    assert np.corrcoef(compressed.predict(X[ordinary]), y[ordinary])[0, 1] > 0.97
    np.testing.assert_array_equal(load(compressed.to_bytes()).predict(X), compressed.predict(X))
    if hasattr(compressed, "sample"):
        draws = compressed.sample(X[:5], n_draws=3)
        assert draws.shape[:2] == (3, 5) and np.abs(draws - 1.7e9).max() < 1000


class Regressor(BaseEstimator):
    """A teacher that predicts what it was told, for the rows of its fit."""

    _estimator_type = "regressor"

    def __init__(self, values=None):
        self.values = values

    def fit(self, X, y=None):
        return self

    def predict(self, X):
        return np.asarray(self.values)


@pytest.mark.parametrize("value", [-99999.0, 1e9, -1e30], ids=str)
def test_a_few_wild_rows(value):
    # a sentinel for "not measured" in one row of a hundred
    X = ROWS.copy()
    X[::100] = value
    labels = CORNERS @ [1, 2]
    labels[::100] = 4
    student = distiller(Corners(labels)).fit(X)
    found = load(student.to_bytes()).predict(X)
    assert np.mean(found[labels < 4] == labels[labels < 4]) >= 0.995


def test_wild_values_of_both_signs_in_some_features():
    X = np.c_[ROWS, random.normal(size=len(ROWS))]
    X[::100, 2], X[1::100, 2], X[2::100, 0] = -99999, 1e9, 1e6
    assert agreement(X) >= 0.97


@pytest.mark.parametrize(
    "column",
    [
        random.normal(size=5000),
        np.exp(2 * random.normal(size=5000)),
        random.pareto(1, 5000),
        np.where(np.arange(5000) % 100, 0.0, 255.0),
        np.where(np.arange(5000) % 10, random.normal(size=5000), 1e6 + random.normal(size=5000)),
    ],
    ids=["normal", "lognormal", "pareto", "rare pixel", "a tenth far away"],
)
def test_values_that_are_not_wild(column):
    assert wild_values(column[:, None]) == {}
    assert fit_input_scaling(column[:, None]).clip is None


def test_wild_values_by_brute_force():
    """The others are the smallest range with all but 5 % of the values on either side and a tenfold gap around it."""
    for seed in range(40):
        rng = np.random.default_rng(seed)
        column = rng.normal(size=60)
        for _ in range(rng.integers(4)):
            column[rng.integers(60)] = rng.choice([-1, 1]) * 10 ** rng.uniform(0, 4)
        values = np.sort(column)
        expected = {}
        for width in range(53, 60):
            for first in range(max(0, 56 - width), 4):
                last = first + width
                if last < 56 or last > 59:
                    continue
                inside = values[last] - values[first]
                gaps = [values[first] - values[first - 1]] if first else []
                gaps += [values[last + 1] - values[last]] if last < 59 else []
                if gaps and min(gaps) > 10 * inside and not expected:
                    expected = {0: (values[first], values[last])}
        assert wild_values(column[:, None]) == expected, seed


def test_latitudes_and_longitudes_have_two_offsets():
    positions = np.array([[52.5, 13.4], [48.1, 11.6], [53.6, 10.0]])
    assert not have_one_unit(positions.min(axis=0), positions.max(axis=0), positions.mean(axis=0))


MISSING = np.where(random.random(ROWS.shape) < 0.03, np.nan, ROWS)


@pytest.mark.parametrize("X", [MISSING, MISSING.astype(np.float32), sparse.csr_array(MISSING)], ids=["64", "32", "csr"])
def test_missing_values_that_the_teacher_accepts(X):
    # sklearn-onnx #26 #997 #478
    teacher = make_pipeline(SimpleImputer(), StandardScaler(with_mean=False), KMeans(4, n_init=2, random_state=0))
    model = distiller(teacher).fit(X)
    assert model.score(X) > 0.97
    student = load(model.to_bytes())
    np.testing.assert_array_equal(student.predict(X), model.predict(X))
    with pytest.raises(ValueError, match="infinite"):
        student.predict([[np.inf, np.nan]])
    compressed = CodebookCompressor(FrozenEstimator(model), bits=4, random_state=0).fit(X)
    assert compressed.score(X) > 0.97


def test_missing_values_of_a_regression_in_a_pipeline():
    y = np.nan_to_num(MISSING) @ [1.0, 2.0]
    model = make_pipeline(StandardScaler(), distiller(HistGradientBoostingRegressor(max_iter=20))).fit(MISSING, y)
    assert model.score(MISSING, y) > 0.8


def test_missing_values_that_the_teacher_refuses():
    with pytest.raises(ValueError, match="KMeans does not accept missing values"):
        distiller(KMeans(4, n_init=1)).fit(MISSING)
    model = distiller(KMeans(4, n_init=1, random_state=0)).fit(ROWS)
    with pytest.raises(ValueError, match="NaN"):
        model.predict(MISSING)
    with pytest.raises(ValueError, match="NaN"):
        CodebookCompressor(FrozenEstimator(model), bits=4).fit(MISSING)


def test_advice_for_a_step_that_does_not_travel_works(tmp_path):
    pipeline = make_pipeline(KNNImputer(), distiller(KMeans(4, n_init=1, random_state=0))).fit(MISSING)
    with pytest.raises(TypeError, match=r"pipeline\[-1\]\.save\(path\).*pipeline\[:-1\]\.transform\(X\)"):
        to_bytes(pipeline)
    pipeline[-1].save(tmp_path / "last.student")
    student = load(tmp_path / "last.student")
    assert (student.predict(pipeline[:-1].transform(MISSING)) == pipeline.predict(MISSING)).all()
