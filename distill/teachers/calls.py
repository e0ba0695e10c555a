"""Fit of a teacher, and the calls of its methods."""

import warnings
from dataclasses import replace
from typing import Any, cast

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, clone
from sklearn.frozen import FrozenEstimator
from sklearn.utils import _safe_indexing, indexable
from sklearn.utils.validation import _num_samples

from distill.teachers.arrays import as_array, on_host
from distill.teachers.copies import own_copy
from distill.teachers.methods import FITTED_ATTRIBUTES, WITH_FIT, Precomputed, holder, is_transductive, needs_y
from distill.teachers.reading import UNEXPLAINED, Predictions

# Rows whose labels are compared with those that the most probable class or the largest decision value gives
_COMPARED = 1000
# Labels of a clusterer's fit that its `predict` gives at least: the rest may be rows at a border between clusters
_LEAST_AGREEMENT = 0.9
# Rows of the trial that shows whether a teacher calls rows far from all others noise
_TRIAL_ROWS = 500


def fit_and_predict(
    teacher: BaseEstimator, X: Any, y: Any = None, target: str = "predict", fit_params: dict | None = None
) -> tuple[BaseEstimator, Any]:
    """Fit a teacher, in place, and return its predictions for the same rows.

    Parameters
    ----------
    teacher : estimator
        A `FrozenEstimator` is not fitted. If it has no method for new rows, its predictions are the `labels_` or the
        `embedding_` of its fit, or of the last step of a pipeline, and `X` must be the rows of that fit.
    X : array-like or sparse matrix of shape (n_samples, n_features)
        Passed to the teacher as it is, in a copy for every call: a teacher may work in place.
    y : array-like or None
        Passed to the teacher's fit.
    target : {"predict", "predict_proba", "transform", "decision_function"}
        `fit_predict` and `fit_transform` are used where the teacher has them, which saves a second computation.
    fit_params : dict or None
        Passed to the teacher's fit.

    Returns
    -------
    teacher : estimator
        The teacher itself.
    predictions : array-like
        Unchanged output of the teacher; see `read_predictions`.
    """
    own_params = {name: own_copy(value) for name, value in (fit_params or {}).items()}
    if isinstance(teacher, Precomputed):
        return teacher.fit(X, y, **own_params), y
    if not isinstance(teacher, FrozenEstimator):
        # Without y, a teacher that requires it raises its error; the fit of another one may have no parameter y
        given = (own_copy(X),) if y is None and not needs_y(teacher) else (own_copy(X), own_copy(y))
        if hasattr(teacher, WITH_FIT.get(target, "")):
            return teacher, getattr(teacher, WITH_FIT[target])(*given, **own_params)
        teacher.fit(*given, **own_params)
    if hasattr(teacher, target):
        return teacher, call(teacher, target, X)
    return teacher, _predictions_of_fit(teacher, X, target)


def labels_beside(teacher: BaseEstimator, X: Any, target: str) -> np.ndarray | None:
    """Return a fitted teacher's labels where its decision values are imitated, else None.

    What a large decision value means, and where the labels change, differs between packages: it is read from both.
    """
    if target != "decision_function" or not hasattr(teacher, "predict"):
        return None
    return as_array(call(teacher, "predict", X), type(teacher).__name__)


def predict(teacher: BaseEstimator, X: Any, target: str) -> np.ndarray:
    """Return a fitted teacher's predictions for any rows as a dense array, one or two dimensions.

    Raises
    ------
    ValueError
        If the teacher has predictions for the rows of its fit only.
    """
    if isinstance(teacher, Precomputed):
        raise ValueError(
            "teacher='precomputed' has no predictions for these rows: pass them as y, in the form they had in fit; see "
            "best_validation_score_ for the fidelity on the validation set of the student's training"
        )
    if is_transductive(teacher, target):
        raise ValueError(
            f"the teacher {type(teacher).__name__} has predictions for the rows of its fit only "
            f"({WITH_FIT.get(target)}), so it cannot be compared on X; pass the expected predictions "
            "as y, or see best_validation_score_ for the "
            "fidelity on the validation set of the student's training"
        )
    return as_array(call(teacher, target, X), type(teacher).__name__)


def predict_beyond(teacher: BaseEstimator, X: Any, rows: np.ndarray, predictions: Predictions) -> np.ndarray:
    """Return labels for rows around and beyond those of the fit, for a teacher that marks noise or outliers.

    Parameters
    ----------
    teacher : estimator
        Fitted.
    X : array-like or data frame
        Rows of the fit, whose type the teacher knows.
    rows : ndarray of shape (n_rows, n_features), float64
    predictions : Predictions
        Labels of the rows of the fit, with a label of noise.

    Returns
    -------
    ndarray of shape (n_rows,), int64
        Positions in `classes`. All are noise for a teacher that has no predictions for new rows, or refuses these.
    """
    noise, classes = cast(int, predictions.noise), np.asarray(predictions.classes)
    if is_transductive(teacher, predictions.target):
        return np.full(len(rows), noise, np.int64)
    try:
        found = np.asarray(predict(teacher, like(X, rows), predictions.target)).ravel()
    except (TypeError, ValueError):
        return np.full(len(rows), noise, np.int64)
    positions = np.searchsorted(classes, found).clip(max=len(classes) - 1)
    # A label of no row of the fit cannot be learned, and a row beyond all others is noise at the latest then
    return np.where(classes[positions] == found, positions, noise).astype(np.int64)


def with_noise(teacher: BaseEstimator, X: Any, rows: Any, predictions: Predictions) -> Predictions:
    """Return predictions with a label of noise for a clusterer that marks rows far from all others, found by a trial.

    A density-based clusterer may call no row of the fit noise, and would still do so for a row beyond them all. A clone
    is fitted to some of the rows and a few that are far from them and from each other.

    Parameters
    ----------
    teacher : estimator
        Fitted.
    X : array-like or data frame
        Rows of the fit, whose type the teacher knows.
    rows : ndarray or CSR of shape (n_samples, n_features)
        The same rows as numbers.
    predictions : Predictions
        Of the same rows.

    Returns
    -------
    Predictions
        The same, unless the teacher has labels of integers, none of them noise, no predictions for new rows, and calls
        one of the far rows -1.
    """
    classes = predictions.classes
    if predictions.kind != "labels" or predictions.noise is not None or isinstance(teacher, Precomputed):
        return predictions
    if classes is None or classes.dtype.kind != "i" or -1 in classes or not is_transductive(teacher, "predict"):
        return predictions
    some = rows[:: max(1, rows.shape[0] // _TRIAL_ROWS)]
    some = np.asarray(some.toarray() if sparse.issparse(some) else some, np.float64)
    span = np.where(np.ptp(some, axis=0) > 0, np.ptp(some, axis=0), 1.0)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (3, some.shape[1]))
    far = some.mean(axis=0) + 1000 * span * signs * np.array([[1.0], [2.0], [4.0]])
    unfitted = clone(teacher.estimator if isinstance(teacher, FrozenEstimator) else teacher)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            labels = on_host(unfitted.fit_predict(like(X, np.vstack([some, far]))))
    except Exception:  # a trial: a teacher that refuses it is one that tells nothing
        return predictions
    if labels.dtype.kind != "i" or -1 not in labels[-len(far) :]:
        return predictions
    soft, softness = predictions.soft, predictions.softness
    if soft is not None:
        soft = np.pad(soft, [(0, 0), (1, 0)])
    if softness is not None and softness.owners is not None:
        softness = replace(softness, owners=np.where(softness.owners < 0, -1, softness.owners + 1))
    values, classes = predictions.values + 1, np.append([-1], classes)
    return replace(predictions, values=values, classes=classes, noise=0, soft=soft, softness=softness)


def compare_labels(teacher: BaseEstimator, X: Any, predictions: Predictions) -> str:
    """Return a warning if a teacher's labels are not those that its probabilities or decision values give, else "".

    A classifier with a tuned threshold is an example. At most a thousand rows are compared.

    Parameters
    ----------
    teacher : estimator
        Fitted.
    X : array-like or sparse matrix of shape (n_samples, n_features)
    predictions : Predictions
        Of the same rows.

    Returns
    -------
    str
    """
    if predictions.classes is None or predictions.values.ndim == 1 or not hasattr(teacher, "predict"):
        return ""
    if predictions.values.shape[1] < 2:  # `_read_values` has compared decision values of two classes
        return ""
    labels, positions = _labels_of_some(teacher, X, len(predictions.values))
    if labels is None:
        return ""
    agreement = np.mean(predictions.classes[predictions.values[positions].argmax(axis=1)] == labels)
    if agreement >= 1 - UNEXPLAINED:
        return ""
    largest = "the most probable class" if predictions.kind == "probabilities" else "the largest decision value"
    return (
        f"the labels of the teacher {type(teacher).__name__} are those of {largest} in {agreement:.1%} of the training "
        "rows only, and the student's labels are those in all; use target='predict' to imitate the teacher's labels"
    )


def compare_labels_of_fit(teacher: BaseEstimator, X: Any, predictions: Predictions) -> str:
    """Return a warning if the `predict` of a clusterer does not give the labels of its fit, else "".

    scikit-learn's KMeans, for instance, loses the digits of rows far from zero there. At most a thousand rows are
    compared; see `compare_labels` for the parameters.
    """
    if predictions.kind != "labels" or predictions.classes is None or isinstance(teacher, Precomputed):
        return ""
    if not (hasattr(teacher, "predict") and hasattr(teacher, "fit_predict")):
        return ""
    labels, positions = _labels_of_some(teacher, X, len(predictions.values))
    if labels is None:
        return ""
    agreement = np.mean(predictions.classes[predictions.values[positions]] == labels)
    if agreement >= _LEAST_AGREEMENT:
        return ""
    return (
        f"the teacher {type(teacher).__name__} predicts the labels of its own fit for {agreement:.1%} of the training "
        "rows only, which are far from zero; the student learns those of the fit, and score compares it with predict; "
        "put a StandardScaler before the teacher, in a Pipeline"
    )


def _labels_of_some(teacher: BaseEstimator, X: Any, n_samples: int) -> tuple[np.ndarray | None, np.ndarray]:
    """Return a teacher's labels for at most some thousand rows, None if it has none for them, and their positions."""
    positions = np.arange(0, n_samples, max(1, n_samples // _COMPARED))
    try:
        labels = as_array(call(teacher, "predict", _safe_indexing(indexable(X)[0], positions)), "")
    except (TypeError, ValueError):  # rows that cannot be selected, or a teacher that wants all of them
        return None, positions
    return (labels if labels.shape == positions.shape else None), positions


def call(teacher: BaseEstimator, method: str, X: Any) -> Any:
    """Return the output of a teacher's method for rows, of which it gets a copy.

    Some estimators, KMeans among them, predict for rows in the precision of their fit only. After an error the rows are
    given once more in both; an error that remains is raised as it was.
    """
    try:
        return getattr(teacher, method)(own_copy(X))
    except (TypeError, ValueError):
        for dtype in (np.float64, np.float32):
            try:
                rows = X.astype(dtype) if hasattr(X, "astype") else np.asarray(X, dtype)
                return getattr(teacher, method)(rows)
            except (AttributeError, TypeError, ValueError):
                continue
        raise


def like(X: Any, rows: np.ndarray) -> Any:
    """Return rows in the type of X where that is a data frame or a sparse matrix, else as they are."""
    if sparse.issparse(X):
        return type(X)(rows)
    if hasattr(X, "iloc") and hasattr(X, "columns"):
        return type(X)(rows, columns=X.columns)
    if hasattr(X, "with_columns") and hasattr(X, "columns"):
        return type(X)(rows, schema=list(X.columns))
    return rows


def _predictions_of_fit(teacher: BaseEstimator, X: Any, target: str) -> np.ndarray:
    """Return the predictions that a frozen teacher holds; ValueError if X has another number of rows."""
    fitted = holder(teacher, target)
    predictions = getattr(fitted, FITTED_ATTRIBUTES[target])
    if len(predictions) != _num_samples(X):
        raise ValueError(
            f"the frozen teacher {type(fitted).__name__} has predictions for the "
            f"{len(predictions)} rows of its fit only, and X has {_num_samples(X)}; pass those rows, or "
            "the teacher without FrozenEstimator so that it is fitted"
        )
    return predictions
