"""Prediction by a fitted estimator: fast for plain arrays, with scikit-learn's checks and messages for all else."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.utils.validation import validate_data

from distill import Distiller, load

# Networks are trained too short on purpose, and say so
pytestmark = pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")

X = load_digits().data[:600]


@pytest.fixture(scope="module")
def fitted():
    teacher = KMeans(10, n_init=1, random_state=0)
    return Distiller(teacher, hidden_layer_sizes=(256, 64), max_iter=3, random_state=0).fit(X)


def changed(value):
    rows = X[:3].copy()
    rows[1, 7] = value
    return rows


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
@pytest.mark.parametrize("method", ["predict", "predict_proba"])
@pytest.mark.parametrize(
    "bad",
    [changed(np.nan), changed(np.inf), changed(1e300), X[:3, :5], X[0], X[:0], X[None, :2], changed(np.nan)[1:2],
     changed(-np.inf).astype(np.float32)[1:2], np.full((2, 64), "x"), X[:1] + 1j],
    ids=["nan", "inf", "overflow", "narrow", "vector", "empty", "deep", "row of nan", "row of inf", "text", "complex"],
)  # fmt: skip
def test_invalid_arrays_get_the_messages_of_scikit_learn(fitted, method, bad):
    for index in range(20):  # after which single rows take the fast path
        fitted.predict(X[index : index + 1])
    with pytest.raises(ValueError) as expected:
        validate_data(fitted, bad, reset=False, dtype=np.float32)
    with pytest.raises(ValueError) as found:
        getattr(fitted, method)(bad)
    assert type(found.value) is type(expected.value) and str(found.value) == str(expected.value)


def test_predictions_are_bit_identical_in_any_form(fitted):
    student = load(fitted.to_bytes())
    for method in ("predict", "predict_proba"):
        expected = getattr(student, method)(X)
        for form in (X, X.astype(np.float32), np.asfortranarray(X), X.astype(int), X.tolist(), sparse.csr_array(X)):
            np.testing.assert_array_equal(getattr(fitted, method)(form), expected)


def test_arrays_without_names_warn_where_names_were_fitted():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(X[:100]).rename(columns=str)
    model = Distiller(KMeans(3, n_init=1, random_state=0), hidden_layer_sizes=(8,), max_iter=2, random_state=0)
    model.fit(frame)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        model.predict(X[:1])


def test_plain_arrays_are_not_validated_twice(fitted, monkeypatch):
    def fail(*arguments, **settings):
        raise AssertionError("validate_data was called")

    expected = fitted.predict(X[:1].tolist())
    monkeypatch.setattr("distill.base.validate_data", fail)
    np.testing.assert_array_equal(fitted.predict(X[:1]), expected)
    np.testing.assert_array_equal(fitted.predict(X[:1].astype(np.float32)), expected)
