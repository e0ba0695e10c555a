"""Predictions of a teacher as targets for the training of a network.

A teacher is any scikit-learn estimator, and the `target` is one of its methods. Its predictions are labels, class
probabilities, or values (an embedding, a score, a regression); `read_predictions` distinguishes them.
"""

import array
import copy
import inspect
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real
from typing import Any, cast

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags, _safe_indexing, get_tags, indexable
from sklearn.utils.validation import _num_samples

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
# The labels of a teacher follow from its decision values if a threshold gives all but this fraction of them
_UNEXPLAINED = 0.02
# Rows whose labels are compared with those that the most probable class or the largest decision value gives
_COMPARED = 1000
# Parameters that decide how many rows are noise or outliers, for advice where all rows or none are
_NOISE_PARAMETERS = ("eps", "min_samples", "min_cluster_size", "cluster_selection_epsilon", "contamination", "nu", "xi")
PRECOMPUTED = "precomputed"


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
    threshold : float
        Of decision values with two classes: the label is the second class where the value is larger, else the first.
        Classes need not be sorted.
    range : {"any", "non-negative", "distribution"}
        Values that cannot be negative, or whose rows are probabilities, as far as the predictions tell; see
        `range_of`.
    noise : int or None
        Position of the label of noise or outliers, -1, of a clusterer or an outlier detector.
    note : str
        What the user should know about these predictions: a warning, empty if there is none.
    """

    kind: str
    values: np.ndarray
    target: str
    classes: np.ndarray | None = None
    squeeze: bool = False
    threshold: float = 0.0
    range: str = "any"
    note: str = ""
    noise: int | None = None

    @property
    def labels(self) -> np.ndarray:
        """Positions in `classes`, shape (n_samples,); of probabilities, those of the largest."""
        return self.values.argmax(axis=1) if self.kind == "probabilities" else self.values


class Precomputed(BaseEstimator):
    """In place of a teacher that is not at hand: its predictions are the y of the fit.

    Parameters
    ----------
    target : {"auto", "predict", "predict_proba", "transform", "decision_function"}
        The method that made them. "auto" decides by y; see `resolve_target`.
    """

    def __init__(self, target: str = "auto"):
        self.target = target

    def fit(self, X: Any, y: Any = None) -> "Precomputed":
        """Keep the names of the columns of y, which are the classes of probabilities and decision values."""
        if y is None:
            raise ValueError(
                "teacher='precomputed' requires y to be passed, but the target y is None: y are the predictions that "
                "are imitated, one for each row of X"
            )
        columns = list(y.columns) if np.ndim(y) == 2 and hasattr(y, "columns") else []
        if columns and len({type(column) for column in columns}) == 1 and isinstance(columns[0], str | int):
            self.classes_ = np.array(columns)
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = tags.target_tags.multi_output = True
        tags.input_tags.sparse = True
        return tags


def resolve_target(teacher: BaseEstimator, target: str = "auto", y: Any = None) -> str:
    """Choose the method of a teacher that is imitated.

    Parameters
    ----------
    teacher : estimator
        Fitted or not.
    target : {"auto", "predict", "predict_proba", "transform", "decision_function"}
        "auto" takes `predict_proba`, else `predict`, of classifiers and clusterers; `predict` of regressors;
        `decision_function` of outlier detectors; `transform` of transformers. A teacher that has `fit_predict` or
        `fit_transform` only is used through these, under the names `predict` and `transform`.
    y : array-like or None
        Of `Precomputed` predictions: "auto" takes a float array of two dimensions for an embedding ("transform"), all
        others for labels or regression values ("predict").

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
        raise TypeError(
            "teacher must be an estimator instance with a fit method, or 'precomputed' where y are its predictions, "
            f"got {teacher!r}"
        )
    if not isinstance(target, str) or target not in ("auto", *TARGETS):
        raise ValueError(f"target must be 'auto' or one of {', '.join(map(repr, TARGETS))}, got {target!r}")
    if isinstance(teacher, Precomputed):
        return _target_of(y) if target == "auto" else target
    name = type(teacher).__name__
    offered = [method for method in TARGETS if _has_method(teacher, method)]
    if not offered:
        raise TypeError(
            f"teacher must have one of {', '.join(TARGETS)}, fit_predict and fit_transform; {name} has none of them"
        )
    if target == "auto":
        kind = "outlier_detector" if is_detector(teacher) else teacher_type(teacher)
        preferred = _AUTOMATIC.get(kind, _AUTOMATIC[None])
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


def is_detector(teacher: BaseEstimator) -> bool:
    """Return whether a teacher is an outlier detector by its type, or by its methods if it declares no type.

    Those are decision values and labels, and a fit without y; detectors of several packages derive from no class of
    scikit-learn's.
    """
    kind = teacher_type(teacher)
    if kind is not None or not (hasattr(teacher, "decision_function") and hasattr(teacher, "predict")):
        return kind == "outlier_detector"
    return not hasattr(teacher, "transform") and not _needs_y(teacher)


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
        given = (own_copy(X),) if y is None and not _needs_y(teacher) else (own_copy(X), own_copy(y))
        if hasattr(teacher, _WITH_FIT.get(target, "")):
            return teacher, getattr(teacher, _WITH_FIT[target])(*given, **own_params)
        teacher.fit(*given, **own_params)
    if hasattr(teacher, target):
        return teacher, _call(teacher, target, X)
    return teacher, _predictions_of_fit(teacher, X, target)


def labels_beside(teacher: BaseEstimator, X: Any, target: str) -> np.ndarray | None:
    """Return a fitted teacher's labels where its decision values are imitated, else None.

    What a large decision value means, and where the labels change, differs between packages: it is read from both.
    """
    if target != "decision_function" or not hasattr(teacher, "predict"):
        return None
    return as_array(_call(teacher, "predict", X), type(teacher).__name__)


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
            f"({_WITH_FIT.get(target)}), so it cannot be compared on X; pass the expected predictions "
            "as y, or see best_validation_score_ for the "
            "fidelity on the validation set of the student's training"
        )
    return as_array(_call(teacher, target, X), type(teacher).__name__)


def _call(teacher: BaseEstimator, method: str, X: Any) -> Any:
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


def own_copy(data: Any) -> Any:
    """Return data that a teacher may change in place: a copy, or the data itself where they cannot be changed.

    Parameters
    ----------
    data : object
        X, y, or a parameter of fit. A memory map, which may be larger than the memory, is not copied: the result is a
        view that cannot be written to.

    Returns
    -------
    object
        Of the same type.

    Examples
    --------
    >>> X = np.zeros((2, 2))
    >>> np.shares_memory(own_copy(X), X)
    False
    >>> X.flags.writeable = False
    >>> own_copy(X) is X
    True
    """
    if isinstance(data, np.ndarray):
        return _own_array(data)
    if sparse.issparse(data):
        return _own_sparse(data)
    if hasattr(data, "iloc"):  # pandas, and others with its methods
        return data.copy()
    # Tensors and buffers give NumPy their memory, not a copy. Nothing is asked of those that would compute it first
    if (hasattr(data, "__dlpack__") or isinstance(data, array.array | memoryview)) and not hasattr(data, "compute"):
        view = np.asarray(data)
        if view.flags.writeable and np.may_share_memory(view, np.asarray(data)):
            return view.copy() if isinstance(data, memoryview) else copy.deepcopy(data)
    return data


def read_predictions(
    teacher: BaseEstimator, predictions: Any, target: str, n_samples: int, labels: np.ndarray | None = None
) -> Predictions:
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
    labels : ndarray or None
        For decision values: the labels of the same rows; see `labels_beside`.

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
    >>> found = read_predictions(DBSCAN(), [0, 0, -1, 1], "predict", 4)
    >>> found.kind, found.values, found.classes
    ('labels', array([1, 1, 0, 2]), array([-1,  0,  1]))
    """
    name = "'precomputed' (y)" if isinstance(teacher, Precomputed) else type(teacher).__name__
    values = as_array(predictions, name)
    if len(values) != n_samples:
        raise ValueError(
            f"the teacher {name} returned {len(values)} rows for {n_samples}; a teacher must neither add nor drop rows"
        )
    if target == "predict_proba":
        return _read_probabilities(teacher, values, name)
    if target == "predict" and _are_labels(teacher, values):
        return _read_labels(teacher, values, name)
    return _read_values(teacher, values, target, name, labels)


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
        found = np.asarray(predict(teacher, _like(X, rows), predictions.target)).ravel()
    except (TypeError, ValueError):
        return np.full(len(rows), noise, np.int64)
    positions = np.searchsorted(classes, found).clip(max=len(classes) - 1)
    # A label of no row of the fit cannot be learned, and a row beyond all others is noise at the latest then
    return np.where(classes[positions] == found, positions, noise).astype(np.int64)


def _like(X: Any, rows: np.ndarray) -> Any:
    """Return rows in the type of X where that is a data frame, else as they are."""
    if hasattr(X, "iloc") and hasattr(X, "columns"):
        return type(X)(rows, columns=X.columns)
    if hasattr(X, "with_columns") and hasattr(X, "columns"):
        return type(X)(rows, schema=list(X.columns))
    return rows


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
    positions = np.arange(0, len(predictions.values), max(1, len(predictions.values) // _COMPARED))
    try:
        labels = as_array(_call(teacher, "predict", _safe_indexing(indexable(X)[0], positions)), "")
    except (TypeError, ValueError):  # rows that cannot be selected, or a teacher that wants all of them
        return ""
    if labels.shape != positions.shape:
        return ""
    agreement = np.mean(predictions.classes[predictions.values[positions].argmax(axis=1)] == labels)
    if agreement >= 1 - _UNEXPLAINED:
        return ""
    largest = "the most probable class" if predictions.kind == "probabilities" else "the largest decision value"
    return (
        f"the labels of the teacher {type(teacher).__name__} are those of {largest} in {agreement:.1%} of the training "
        "rows only, and the student's labels are those in all; use target='predict' to imitate the teacher's labels"
    )


def range_of(values: np.ndarray, target: str) -> str:
    """Return the range that values are bound to, as far as they tell.

    Parameters
    ----------
    values : ndarray of shape (n_samples, n_outputs)
        Finite, the predictions for the training rows.
    target : {"predict", "transform", "decision_function"}

    Returns
    -------
    {"any", "non-negative", "distribution"}
        "distribution" for an embedding of two columns or more, none negative, in which every row sums to one within
        1e-5. "non-negative" if no value is negative and zero is a bound: of an embedding, if every column comes within
        a hundredth of its range to zero (an embedding that happens to be positive does not); of a regression, if some
        values are exactly zero, as those of means of counts. "any" for all others.

    Examples
    --------
    >>> range_of(np.array([[0.2, 0.8], [1.0, 0.0]]), "transform"), range_of(np.array([[3.0], [4.0]]), "transform")
    ('distribution', 'any')
    """
    if target not in ("transform", "predict") or values.min() < 0:
        return "any"
    if target == "predict":
        return "non-negative" if values.min() == 0 < values.max() else "any"
    if values.shape[1] > 1 and np.abs(values.sum(axis=1) - 1).max() <= 1e-5:
        return "distribution"
    low, high = values.min(axis=0), values.max(axis=0)
    return "non-negative" if (low <= 0.01 * (high - low))[high > low].all() and (high > low).any() else "any"


def _target_of(y: Any) -> str:
    """Return the method whose predictions y seem to be."""
    if y is None:
        return "predict"
    values = as_array(y, "'precomputed' (y)")
    return "transform" if values.ndim == 2 and (values.shape[1] > 1 or values.dtype.kind == "f") else "predict"


def _needs_y(teacher: BaseEstimator) -> bool:
    """Return whether the fit of a teacher requires y, by its tags or by the parameters of its fit."""
    try:
        if get_tags(teacher).target_tags.required:
            return True
    except AttributeError:
        pass
    *_, inner = _nested(teacher)
    try:
        parameter = inspect.signature(inner.fit).parameters.get("y")
    except (AttributeError, TypeError, ValueError):
        return False
    return parameter is not None and parameter.default is inspect.Parameter.empty


def _nested(teacher: Any) -> Iterator[Any]:
    """Yield a teacher, and the estimators in it that make its predictions: those of frozen ones and of pipelines."""
    while True:
        yield teacher
        if isinstance(teacher, FrozenEstimator):
            teacher = teacher.estimator
        elif isinstance(teacher, Pipeline):
            teacher = teacher.steps[-1][1]
        elif hasattr(teacher, "best_estimator_"):
            teacher = teacher.best_estimator_
        else:
            return


def _has_method(teacher: BaseEstimator, method: str) -> bool:
    """Return whether a teacher has predictions of a method, if only for the rows of its fit."""
    if hasattr(teacher, method) or hasattr(teacher, _WITH_FIT.get(method, method)):
        return True
    return _holder(teacher, method) is not None


def _holder(teacher: BaseEstimator, method: str) -> Any:
    """Return the frozen estimator in a teacher that holds the predictions for the rows of its fit, or None."""
    frozen = False
    for inner in _nested(teacher):
        frozen = frozen or isinstance(inner, FrozenEstimator)
    return inner if frozen and hasattr(inner, _FITTED_ATTRIBUTES.get(method, "")) else None


def _predictions_of_fit(teacher: BaseEstimator, X: Any, target: str) -> np.ndarray:
    """Return the predictions that a frozen teacher holds; ValueError if X has another number of rows."""
    holder = _holder(teacher, target)
    predictions = getattr(holder, _FITTED_ATTRIBUTES[target])
    if len(predictions) != _num_samples(X):
        raise ValueError(
            f"the frozen teacher {type(holder).__name__} has predictions for the "
            f"{len(predictions)} rows of its fit only, and X has {_num_samples(X)}; pass those rows, or "
            "the teacher without FrozenEstimator so that it is fitted"
        )
    return predictions


def _own_array(data: np.ndarray) -> np.ndarray:
    """Return a copy of an array, one that cannot be written to as it is, and a memory map as a read-only view."""
    if not data.flags.writeable:
        return data
    if not _is_mapped(data):
        return data.copy(order="K")
    view = data.view()
    view.flags.writeable = False
    return view


def _is_mapped(data: np.ndarray) -> bool:
    """Return whether the values of an array are in a file."""
    base: Any = data
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return isinstance(base, mmap.mmap)


def _own_sparse(data: Any) -> Any:
    """Return a copy of a sparse matrix or array, with those of its arrays that `_own_array` does not copy."""
    parts = {name: value for name, value in vars(data).items() if isinstance(value, np.ndarray)}
    if data.format not in ("csr", "csc", "bsr", "dia"):
        return data.copy()
    own = copy.copy(data)
    vars(own).update({name: _own_array(value) for name, value in parts.items()})
    return own


def as_array(predictions: Any, name: str) -> np.ndarray:
    """Return predictions as a dense array of one or two dimensions; ValueError if that is impossible.

    Parameters
    ----------
    predictions : array-like or sparse matrix
        Unchanged output of a method of a teacher.
    name : str
        Name of the teacher in messages.

    Returns
    -------
    ndarray
    """
    if isinstance(predictions, tuple):  # scikit-learn's cross decompositions return (X, y)
        predictions = predictions[0]
    if isinstance(predictions, list) and predictions and np.ndim(predictions[0]) > 1:
        raise ValueError(_several_labels(name, "several outputs at once"))
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
        raise ValueError(_several_labels(name, f"{values.shape[1]} labels per row"))
    values = values.ravel()
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"the teacher {name} returned labels that are NaN or infinite")
    try:
        found, positions = np.unique(values, return_inverse=True)
    except TypeError as error:
        raise ValueError(f"the labels of the teacher {name} are not all of one type: {error}") from error
    if len(found) == 1:
        raise ValueError(_one_label(teacher, found.tolist()[0], len(values), name))
    # Classes without a row in the data keep their place among the outputs
    known = getattr(teacher, "classes_", None)
    if isinstance(known, np.ndarray) and known.ndim == 1 and len(known) > len(found) and np.isin(found, known).all():
        positions, found = np.searchsorted(known, found)[positions], known
    noise = None
    if found.dtype.kind == "i" and -1 in found and _marks_noise(teacher, found):
        noise = int(np.flatnonzero(found == -1)[0])
    return Predictions("labels", positions.astype(np.int64), "predict", plain_classes(found), squeeze=True, noise=noise)


def _marks_noise(teacher: BaseEstimator, found: np.ndarray) -> bool:
    """Return whether the label -1 is that of noise or outliers, and not one of two classes -1 and 1."""
    if isinstance(teacher, Precomputed):  # clusters are numbered from zero
        return found[0] == -1 and 0 in found
    without_type = teacher_type(teacher) is None and hasattr(teacher, "fit_predict") and not _needs_y(teacher)
    return teacher_type(teacher) == "clusterer" or is_detector(teacher) or without_type


def _read_probabilities(teacher: BaseEstimator, values: np.ndarray, name: str) -> Predictions:
    """Return probabilities, float32, after a check of their range and of the sum of each row."""
    values = _finite(values, name)
    if values.ndim == 1 or values.shape[1] < 2:
        raise ValueError(
            f"the teacher {name} has one class only: there is nothing to imitate; change its parameters or give it "
            "more varied rows"
            if not isinstance(teacher, Precomputed)
            else "probabilities need a column for each class: for those of the second of two, pass "
            "np.column_stack([1 - p, p]) as y"
        )
    if values.min() < -1e-3 or np.abs(values.sum(axis=1) - 1).max() > 1e-3:
        if values.min() >= 0 and values.max() <= 1 and not isinstance(teacher, Precomputed):
            raise ValueError(
                _several_labels(name, "probabilities whose rows do not sum to one, as those of several labels per row")
            )
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


def _read_values(
    teacher: BaseEstimator, values: np.ndarray, target: str, name: str, labels: np.ndarray | None
) -> Predictions:
    """Return values as columns, float64, with classes for decision values."""
    squeeze = values.ndim == 1
    values = _finite(values, name).reshape(len(values), -1)
    if np.abs(values).max() > _LARGEST_VALUE:
        raise ValueError(
            f"the predictions of the teacher {name} are as large as {np.abs(values).max():.3g}, and their variance is "
            "infinite in float64; scale them down"
        )
    if target != "decision_function":
        return Predictions("values", values, target, squeeze=squeeze, range=range_of(values, target))
    known = np.array([-1, 1]) if teacher_type(teacher) == "outlier_detector" else getattr(teacher, "classes_", None)
    n_classes = 2 if values.shape[1] == 1 else values.shape[1]
    classes = plain_classes(known) if isinstance(known, np.ndarray) and known.shape == (n_classes,) else None
    threshold, note = 0.0, ""
    if labels is not None and n_classes == 2 and labels.size == len(values):
        classes, threshold, note = _read_threshold(teacher, values[:, 0], labels.ravel(), classes, name)
    return Predictions("values", values, target, classes, squeeze, threshold, note=note)


def _read_threshold(
    teacher: BaseEstimator, scores: np.ndarray, labels: np.ndarray, classes: np.ndarray | None, name: str
) -> tuple[np.ndarray | None, float, str]:
    """Return classes and threshold of decision values, of which the labels are known, and a warning or ""."""
    found = np.unique(labels)
    if len(found) == 1:
        classes, threshold = _single_label(teacher, scores, found[0], classes)
        if classes is not None:
            return classes, threshold, ""
        return None, 0.0, (
            f"the teacher {name} gives all rows the label {found.tolist()[0]!r}, so that it is not known which "
            "decision values have another one: the student predicts decision values and no labels; change the "
            "teacher's parameters or give it more varied rows"
        )  # fmt: skip
    if len(found) > 2:
        return None, 0.0, (
            f"the teacher {name} has {len(found)} labels and one decision value per row, from which labels do not "
            "follow: the student predicts decision values and no labels; use target='predict' to imitate the labels"
        )  # fmt: skip
    classes, threshold, agreement = _convention(scores, labels, getattr(teacher, "threshold_", None))
    return plain_classes(classes), threshold, _unexplained(labels, agreement, name)


def _convention(scores: np.ndarray, labels: np.ndarray, proposed: Any) -> tuple[np.ndarray, float, float]:
    """Find the threshold of decision values that gives the labels, of which there are two.

    scikit-learn's detectors answer 1 for values above zero, and -1 for the outliers; PyOD's 1 for the outliers, which
    are above a `threshold_`.

    Parameters
    ----------
    scores, labels : ndarray of shape (n_samples,)
    proposed : object
        A threshold that the teacher names; used if it is a number and as good as any.

    Returns
    -------
    classes : ndarray of shape (2,)
        The label up to the threshold, and the one above it.
    threshold : float
        Zero if that is as good as any.
    agreement : float
        Fraction of the labels that the threshold gives.
    """
    found, position = np.unique(labels, return_inverse=True)
    n_samples, n_second = len(scores), int(position.sum())
    order = np.argsort(scores)
    ordered, second = scores[order], np.concatenate([[0], np.cumsum(position[order])])
    # Labels that are right if all rows from a cut on have the second label; no cut goes between equal values
    right = np.arange(n_samples + 1) - second + n_second - second
    cuts = np.concatenate([[True], ordered[1:] > ordered[:-1], [True]])
    rising = np.where(cuts, right, -1)
    falling = np.where(cuts, n_samples - right, -1)
    rises = rising.max() >= falling.max()
    best = int((rising if rises else falling).argmax())
    classes = found if rises else found[::-1]
    most = int(max(rising.max(), falling.max()))
    # Rounding may put a few rows on the other side of the teacher's own threshold
    slack = min(n_samples // 1000, min(n_second, n_samples - n_second) // 10)
    second = labels == classes[1]
    for threshold in (0.0, float(proposed) if isinstance(proposed, Real) else np.nan):
        right_here = max(np.sum((scores > threshold) == second), np.sum((scores >= threshold) == second))
        if right_here >= most - slack:
            return classes, threshold, right_here / n_samples
    threshold = ordered[max(best - 1, 0)] / 2 + ordered[min(best, n_samples - 1)] / 2
    return classes, float(threshold), most / n_samples


def _unexplained(labels: np.ndarray, agreement: float, name: str) -> str:
    """Return a warning if a threshold of the decision values gives too few of the labels, else ""."""
    rarer = np.unique(labels, return_counts=True)[1].min() / len(labels)
    if 1 - agreement <= min(_UNEXPLAINED, rarer / 4):
        return ""
    return (
        f"the labels of the teacher {name} do not follow from its decision values: the best threshold gives "
        f"{agreement:.1%} of those of the training rows; the student's labels are those of this threshold, use "
        "target='predict' to imitate the teacher's"
    )


def _single_label(
    teacher: BaseEstimator, scores: np.ndarray, label: Any, classes: np.ndarray | None
) -> tuple[np.ndarray | None, float]:
    """Return classes and threshold of decision values whose rows all have one label; None if they are not known."""
    if classes is not None and label in classes:
        signs = scores >= 0 if label == classes[1] else scores <= 0
        if signs.mean() >= 1 - _UNEXPLAINED:
            return classes, 0.0
    threshold = getattr(teacher, "threshold_", None)
    if not isinstance(threshold, Real) or label not in (-1, 0, 1):
        return None, 0.0
    threshold, other = float(threshold), 1 if label == 0 else -label
    if (scores <= threshold).all():
        return np.array([label, other]), threshold
    return (np.array([other, label]), threshold) if (scores >= threshold).all() else (None, 0.0)


def _one_label(teacher: BaseEstimator, label: Any, n_samples: int, name: str) -> str:
    """Return the message for a teacher that gives all rows one label."""
    kind, advice = teacher_type(teacher), "change the teacher's parameters or give it more varied rows"
    try:
        parameters = {parameter.split("__")[-1] for parameter in teacher.get_params()}
    except (AttributeError, TypeError):
        parameters = set()
    if found := [parameter for parameter in _NOISE_PARAMETERS if parameter in parameters]:
        advice = f"change its {' or '.join(found)}, or scale the features"
    what = f"put all {n_samples} rows in one class, {label!r}"
    if isinstance(teacher, Precomputed):
        return f"y has the same label for all {n_samples} rows, one class, {label!r}: there is nothing to imitate"
    if label == -1 and kind in ("clusterer", "outlier_detector"):
        noise = "noise" if kind == "clusterer" else "an outlier"
        what = f"calls each of the {n_samples} rows {noise} (label -1), one class"
    elif label == 1 and kind == "outlier_detector":
        what = f"calls none of the {n_samples} rows an outlier (label 1), one class"
    return f"the teacher {name} {what}: there is nothing to imitate; {advice}"


def _several_labels(name: str, what: str) -> str:
    """Return the message for a teacher of several labels."""
    return (
        f"the teacher {name} predicts {what}, which one student does not; train one for each label on the teacher's "
        "predictions Y, MultiOutputClassifier(Distiller('precomputed')).fit(X, Y) (sklearn.multioutput), or imitate "
        "values of any kind with Distiller('precomputed', target='transform').fit(X, Y)"
    )


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
