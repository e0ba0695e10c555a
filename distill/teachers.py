"""Predictions of a teacher as targets for the training of a network.

A teacher is any scikit-learn estimator, and the `target` is one of its methods. Its predictions are labels, class
probabilities, or values (an embedding, a score, a regression); `read_predictions` distinguishes them.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.utils import get_tags

from distill.network import TARGETS

# Methods that predict for the rows of the fit only, and the fitted attributes that hold these predictions
_WITH_FIT = {"predict": "fit_predict", "transform": "fit_transform"}
_FITTED_ATTRIBUTES = {"predict": "labels_", "transform": "embedding_"}

# Methods that target="auto" prefers, by the type of the teacher
_AUTOMATIC = {
    "classifier": ("predict_proba", "predict"),
    "clusterer": ("predict_proba", "predict"),
    "regressor": ("predict",),
    "outlier_detector": ("decision_function", "predict"),
    None: ("transform", "predict_proba", "predict", "decision_function"),
}
# Largest dense array made of sparse predictions: 2^28 values are 1 GB in float32
_MOST_VALUES = 2**28
# Squares of larger values are infinite in float64
_LARGEST_VALUE = 1e150


@dataclass(frozen=True, eq=False)
class Predictions:
    """A teacher's predictions in the form that a network is trained on.

    Parameters
    ----------
    kind : {"labels", "probabilities", "values"}
    values : ndarray
        Labels: positions in `classes`, shape (n_samples,), int64. Probabilities: shape (n_samples, n_classes), float32,
        rows sum to one. Values: shape (n_samples, n_outputs), float64.
    target : {"predict", "predict_proba", "transform", "decision_function"}
        The method that returned them.
    classes : ndarray of shape (n_classes,) or None
        The labels. Values have classes where they are decision values of a classifier or an outlier detector.
    squeeze : bool
        Whether the teacher returned values as a vector, one per row.
    """

    kind: str
    values: np.ndarray
    target: str
    classes: np.ndarray | None = None
    squeeze: bool = False

    @property
    def labels(self) -> np.ndarray:
        """Positions in `classes`, shape (n_samples,); of probabilities, those of the largest."""
        return self.values.argmax(axis=1) if self.kind == "probabilities" else self.values


def resolve_target(teacher: BaseEstimator, target: str = "auto") -> str:
    """Choose the method of a teacher that is imitated.

    Parameters
    ----------
    teacher : estimator
        Fitted or not.
    target : {"auto", "predict", "predict_proba", "transform", "decision_function"}
        "auto" takes `predict_proba`, else `predict`, of classifiers and clusterers; `predict` of regressors;
        `decision_function` of outlier detectors; `transform` of transformers. A teacher that has `fit_predict` or
        `fit_transform` only is used through these, under the names `predict` and `transform`.

    Returns
    -------
    str

    Raises
    ------
    TypeError
        If `teacher` is no estimator or has no prediction method.
    ValueError
        If `target` is unknown or the teacher does not have it.

    Examples
    --------
    >>> from sklearn.cluster import DBSCAN, KMeans
    >>> from sklearn.mixture import GaussianMixture
    >>> [resolve_target(teacher) for teacher in (KMeans(), DBSCAN(), GaussianMixture())]
    ['predict', 'predict', 'predict_proba']
    >>> resolve_target(KMeans(), "transform")
    'transform'
    """
    if isinstance(teacher, type) or not hasattr(teacher, "fit"):
        raise TypeError(f"teacher must be an estimator instance with a fit method, got {teacher!r}")
    if not isinstance(target, str) or target not in ("auto", *TARGETS):
        raise ValueError(f"target must be 'auto' or one of {', '.join(map(repr, TARGETS))}, got {target!r}")
    name = type(teacher).__name__
    offered = [method for method in TARGETS if _has_method(teacher, method)]
    if not offered:
        raise TypeError(
            f"teacher must have one of {', '.join(TARGETS)}, fit_predict and fit_transform; {name} has none of them"
        )
    if target == "auto":
        preferred = _AUTOMATIC.get(teacher_type(teacher), _AUTOMATIC[None])
        return next((method for method in preferred if method in offered), offered[0])
    if target not in offered:
        raise ValueError(f"target={target!r}, but the teacher {name} does not have it; it offers {', '.join(offered)}")
    return target


def teacher_type(teacher: BaseEstimator) -> str | None:
    """Return "classifier", "clusterer", "regressor", "outlier_detector", or None for all else."""
    try:
        return get_tags(teacher).estimator_type
    except AttributeError:  # an estimator not derived from BaseEstimator has no tags
        return getattr(teacher, "_estimator_type", None)


def predicts_values(teacher: BaseEstimator, target: str) -> bool:
    """Return whether the predictions are values and not labels, judged by the type of a teacher before its fit."""
    return target in ("transform", "decision_function") or (
        target == "predict" and teacher_type(teacher) == "regressor"
    )


def is_transductive(teacher: BaseEstimator, target: str) -> bool:
    """Return whether a teacher predicts for the rows of its fit only (DBSCAN, TSNE, SpectralClustering, ...)."""
    return not hasattr(teacher, target)


def fit_and_predict(
    teacher: BaseEstimator, X: Any, y: Any = None, target: str = "predict", fit_params: dict | None = None
) -> tuple[BaseEstimator, Any]:
    """Fit a teacher, in place, and return its predictions for the same rows.

    Parameters
    ----------
    teacher : estimator
        A `FrozenEstimator` is not fitted. If it has no method for new rows, its predictions are the `labels_` or the
        `embedding_` of its fit, and `X` must be the rows of that fit.
    X : array-like or sparse matrix of shape (n_samples, n_features)
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
    # Without y, a teacher that requires it raises its error; the fit of another one may have no parameter y
    given = (X,) if y is None and not _needs_y(teacher) else (X, y)
    fit_params = fit_params or {}
    if isinstance(teacher, FrozenEstimator):
        return teacher, getattr(teacher, target)(X) if hasattr(teacher, target) else _predictions_of_fit(
            teacher, X, target
        )
    if hasattr(teacher, _WITH_FIT.get(target, "")):
        predictions = getattr(teacher, _WITH_FIT[target])(*given, **fit_params)
    else:
        teacher.fit(*given, **fit_params)
        predictions = getattr(teacher, target)(X)
    return teacher, predictions


def predict(teacher: BaseEstimator, X: Any, target: str) -> Any:
    """Return a fitted teacher's predictions for any rows.

    Raises
    ------
    ValueError
        If the teacher has predictions for the rows of its fit only.
    """
    if is_transductive(teacher, target):
        raise ValueError(
            f"the teacher {type(teacher).__name__} has predictions for the rows of its fit only "
            f"({_WITH_FIT.get(target)}), so it cannot be compared on X; pass the expected predictions "
            "as y, or see best_validation_score_ for the "
            "fidelity on the validation set of the student's training"
        )
    return getattr(teacher, target)(X)


def read_predictions(teacher: BaseEstimator, predictions: Any, target: str, n_samples: int) -> Predictions:
    """Convert the predictions of a fitted teacher into training targets.

    Parameters
    ----------
    teacher : estimator
        Fitted; its type and its `classes_` are used.
    predictions : array-like
        Unchanged output of its method.
    target : {"predict", "predict_proba", "transform", "decision_function"}
    n_samples : int
        Number of predicted rows.

    Returns
    -------
    Predictions

    Raises
    ------
    ValueError
        If rows were added or dropped, all labels are the same, or the predictions have no usable form.

    Examples
    --------
    >>> from sklearn.cluster import DBSCAN
    >>> read_predictions(DBSCAN(), [0, 0, -1, 1], "predict", 4)
    Predictions(kind='labels', values=array([1, 1, 0, 2]), target='predict', classes=array([-1,  0,  1]), squeeze=True)
    """
    name = type(teacher).__name__
    values = _as_array(predictions, name)
    if len(values) != n_samples:
        raise ValueError(
            f"the teacher {name} returned {len(values)} rows for {n_samples}; a teacher must neither add nor drop rows"
        )
    if target == "predict_proba":
        return _read_probabilities(teacher, values, name)
    if target == "predict" and _are_labels(teacher, values):
        return _read_labels(teacher, values, name)
    return _read_values(teacher, values, target, name)


def _needs_y(teacher: BaseEstimator) -> bool:
    """Return whether the fit of a teacher requires y."""
    try:
        return get_tags(teacher).target_tags.required
    except AttributeError:
        return False


def _has_method(teacher: BaseEstimator, method: str) -> bool:
    """Return whether a teacher has predictions of a method, if only for the rows of its fit."""
    if hasattr(teacher, method) or hasattr(teacher, _WITH_FIT.get(method, method)):
        return True
    return isinstance(teacher, FrozenEstimator) and hasattr(teacher, _FITTED_ATTRIBUTES.get(method, method))


def _predictions_of_fit(teacher: FrozenEstimator, X: Any, target: str) -> np.ndarray:
    """Return the predictions that a frozen teacher holds; ValueError if X has another number of rows."""
    predictions = getattr(teacher, _FITTED_ATTRIBUTES[target])
    if len(predictions) != X.shape[0]:
        raise ValueError(
            f"the frozen teacher {type(teacher.estimator).__name__} has predictions for the "
            f"{len(predictions)} rows of its fit only, and X has {X.shape[0]}; pass those rows, or "
            "the teacher without FrozenEstimator so that it is fitted"
        )
    return predictions


def _as_array(predictions: Any, name: str) -> np.ndarray:
    """Return predictions as a dense array of one or two dimensions; ValueError if that is impossible."""
    if isinstance(predictions, tuple):  # scikit-learn's cross decompositions return (X, y)
        predictions = predictions[0]
    if isinstance(predictions, list) and predictions and np.ndim(predictions[0]) > 1:
        raise ValueError(
            f"the teacher {name} predicts several outputs at once, which a student does not support; distill one "
            "output at a time"
        )
    if sparse.issparse(predictions):
        if np.prod(predictions.shape, dtype=float) > _MOST_VALUES:
            raise ValueError(
                f"the teacher {name} returned a sparse matrix of shape {predictions.shape}, too wide to imitate; add a "
                "step that reduces it, such as TruncatedSVD"
            )
        predictions = predictions.toarray()
    values = np.asarray(predictions)
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] == 0):
        raise ValueError(f"the teacher {name} returned shape {values.shape}; one or two dimensions are needed")
    return values


def _are_labels(teacher: BaseEstimator, values: np.ndarray) -> bool:
    """Return whether the output of `predict` holds labels; without a type of the teacher, whether it is no float."""
    kind = teacher_type(teacher)
    if kind is None:
        return values.dtype.kind not in "fc"
    return kind != "regressor"


def _read_labels(teacher: BaseEstimator, values: np.ndarray, name: str) -> Predictions:
    """Return labels as positions in the sorted label values."""
    if values.ndim == 2 and values.shape[1] > 1:
        raise ValueError(
            f"the teacher {name} predicts {values.shape[1]} labels per row, which a student does not support; distill "
            "one output at a time"
        )
    values = values.ravel()
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"the teacher {name} returned labels that are NaN or infinite")
    try:
        found, positions = np.unique(values, return_inverse=True)
    except TypeError as error:
        raise ValueError(f"the labels of the teacher {name} are not all of one type: {error}") from error
    if len(found) == 1:
        raise ValueError(
            f"the teacher {name} put all {len(values)} rows in one class, {found[0]!r}: there is nothing to imitate; "
            "change the teacher's parameters or give it more varied rows"
        )
    # Classes without a row in the data keep their place among the outputs
    known = getattr(teacher, "classes_", None)
    if isinstance(known, np.ndarray) and known.ndim == 1 and len(known) > len(found) and np.isin(found, known).all():
        positions, found = np.searchsorted(known, found)[positions], known
    return Predictions("labels", positions.astype(np.int64), "predict", plain_classes(found), squeeze=True)


def _read_probabilities(teacher: BaseEstimator, values: np.ndarray, name: str) -> Predictions:
    """Return probabilities, float32, after a check of their range and of the sum of each row."""
    values = _finite(values, name)
    if values.ndim == 1 or values.shape[1] < 2:
        raise ValueError(
            f"the teacher {name} has one class only: there is nothing to imitate; change its parameters or give it "
            "more varied rows"
        )
    if values.min() < -1e-3 or np.abs(values.sum(axis=1) - 1).max() > 1e-3:
        raise ValueError(
            f"the probabilities of the teacher {name} are negative or do not sum to one in every row; use "
            "target='predict' or 'decision_function'"
        )
    values = np.clip(values, 0, None)
    values = (values / values.sum(axis=1, keepdims=True)).astype(np.float32)
    known = getattr(teacher, "classes_", None)
    classes = np.arange(values.shape[1])
    if isinstance(known, np.ndarray) and known.shape == classes.shape:
        classes = plain_classes(known)
    return Predictions("probabilities", values, "predict_proba", classes)


def _read_values(teacher: BaseEstimator, values: np.ndarray, target: str, name: str) -> Predictions:
    """Return values as columns, float64, with classes for decision values."""
    squeeze = values.ndim == 1
    values = _finite(values, name).reshape(len(values), -1)
    if np.abs(values).max() > _LARGEST_VALUE:
        raise ValueError(
            f"the predictions of the teacher {name} are as large as {np.abs(values).max():.3g}, and their variance is "
            "infinite in float64; scale them down"
        )
    classes = None
    if target == "decision_function":
        known = np.array([-1, 1]) if teacher_type(teacher) == "outlier_detector" else getattr(teacher, "classes_", None)
        n_classes = 2 if squeeze else values.shape[1]
        if isinstance(known, np.ndarray) and known.shape == (n_classes,):
            classes = plain_classes(known)
    return Predictions("values", values, target, classes, squeeze)


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    """Return values as float64; ValueError if they are not numeric and finite."""
    try:
        values = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the teacher {name} returned values that are not numeric: {error}") from error
    if not np.isfinite(values).all():
        raise ValueError(f"the teacher {name} returned values that are NaN or infinite")
    return values


def plain_classes(classes: np.ndarray) -> np.ndarray:
    """Return label values, with Python strings converted to NumPy strings."""
    if classes.dtype.kind == "O" and all(isinstance(value, str) for value in classes):
        return classes.astype(str)
    return classes
