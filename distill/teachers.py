"""What a teacher says, and what a network has to produce to say the same.

A teacher is any scikit-learn estimator. It is asked one question, the `target`: one of its methods. The answers are
labels, probabilities of labels, or numbers (an embedding, a score, a regression); `read_answers` tells them apart and
`fidelity` measures how well other answers agree with them. Nothing here knows about networks.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.utils import get_tags

from distill.network import TARGETS

# What can only be asked of the rows of the fit itself, and what a fitted teacher remembers of it
_WITH_FIT = {"predict": "fit_predict", "transform": "fit_transform"}
_REMEMBERED = {"predict": "labels_", "transform": "embedding_"}

_AUTOMATIC = {
    "classifier": ("predict_proba", "predict"),
    "clusterer": ("predict_proba", "predict"),
    "regressor": ("predict",),
    "outlier_detector": ("decision_function", "predict"),
    None: ("transform", "predict_proba", "predict", "decision_function"),
}
_MOST_VALUES = 2**28


@dataclass(frozen=True, eq=False)
class Answers:
    """A teacher's answers in the form a network can be trained on.

    Parameters
    ----------
    kind : {"labels", "probabilities", "numbers"}
    values : ndarray
        Labels: positions in `classes`, shape (n_samples,), int64. Probabilities: shape (n_samples, n_classes), float32,
        rows sum to one. Numbers: shape (n_samples, n_outputs), float32.
    target : {"predict", "predict_proba", "transform", "decision_function"}
        The method that gave them.
    classes : ndarray of shape (n_classes,) or None
        The label values. Numbers have classes where they are decision values of a classifier or an outlier detector.
    squeeze : bool
        Whether the teacher answered numbers as a vector, one per row.
    """

    kind: str
    values: np.ndarray
    target: str
    classes: np.ndarray | None = None
    squeeze: bool = False

    @property
    def labels(self) -> np.ndarray:
        """Positions in `classes`, of probabilities the largest; ndarray of shape (n_samples,)."""
        return self.values.argmax(axis=1) if self.kind == "probabilities" else self.values


def resolve_target(teacher: BaseEstimator, target: str = "auto") -> str:
    """Say which of its methods a teacher is asked.

    Parameters
    ----------
    teacher : estimator
        Fitted or not.
    target : {"auto", "predict", "predict_proba", "transform", "decision_function"}
        "auto" takes `predict_proba`, else `predict`, of classifiers and clusterers; `predict` of regressors;
        `decision_function` of outlier detectors; `transform` of transformers. A teacher that has `fit_predict` or
        `fit_transform` only is asked for these, under the names `predict` and `transform`.

    Returns
    -------
    str

    Raises
    ------
    TypeError
        If `teacher` is no estimator or answers nothing.
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
    offered = [method for method in TARGETS if _answers(teacher, method)]
    if not offered:
        raise TypeError(
            f"teacher must have one of {', '.join(TARGETS)}, fit_predict and fit_transform; {name} has none of them"
        )
    if target == "auto":
        wanted = _AUTOMATIC.get(teacher_type(teacher), _AUTOMATIC[None])
        return next((method for method in wanted if method in offered), offered[0])
    if target not in offered:
        raise ValueError(f"target={target!r}, but the teacher {name} does not have it; it offers {', '.join(offered)}")
    return target


def teacher_type(teacher: BaseEstimator) -> str | None:
    """Return "classifier", "clusterer", "regressor", "outlier_detector", or None for all else."""
    try:
        return get_tags(teacher).estimator_type
    except AttributeError:  # an estimator that only looks like scikit-learn's
        return getattr(teacher, "_estimator_type", None)


def speaks_numbers(teacher: BaseEstimator, target: str) -> bool:
    """Whether the answers are numbers as far as the teacher's type tells, before it has answered."""
    return target in ("transform", "decision_function") or (
        target == "predict" and teacher_type(teacher) == "regressor"
    )


def is_transductive(teacher: BaseEstimator, target: str) -> bool:
    """Whether the teacher answers for the rows of its fit only (DBSCAN, TSNE, SpectralClustering, ...)."""
    return not hasattr(teacher, target)


def fit_and_ask(
    teacher: BaseEstimator, X: Any, y: Any = None, target: str = "predict", fit_params: dict | None = None
) -> tuple[BaseEstimator, Any]:
    """Fit a teacher, in place, and take its answers for the same rows.

    Parameters
    ----------
    teacher : estimator
        A `FrozenEstimator` is asked without being fitted. One that has no method for new rows answers with the
        `labels_` or the `embedding_` of its own fit; `X` must then be the rows it was fitted on.
    X : array-like or sparse matrix of shape (n_samples, n_features)
    y : array-like or None
        Goes to the teacher's fit.
    target : {"predict", "predict_proba", "transform", "decision_function"}
        `fit_predict` and `fit_transform` are used where the teacher has them, so that rows are not answered twice.
    fit_params : dict or None
        Goes to the teacher's fit.

    Returns
    -------
    teacher : estimator
        The teacher itself.
    answers : array-like
        As the teacher gave them; see `read_answers`.
    """
    # A teacher that needs y says so itself; one that has no such parameter is not given any
    given = (X,) if y is None and not _needs_y(teacher) else (X, y)
    fit_params = fit_params or {}
    if isinstance(teacher, FrozenEstimator):
        return teacher, getattr(teacher, target)(X) if hasattr(teacher, target) else _recall(teacher, X, target)
    if hasattr(teacher, _WITH_FIT.get(target, "")):
        answers = getattr(teacher, _WITH_FIT[target])(*given, **fit_params)
    else:
        teacher.fit(*given, **fit_params)
        answers = getattr(teacher, target)(X)
    return teacher, answers


def ask(teacher: BaseEstimator, X: Any, target: str) -> Any:
    """Take a fitted teacher's answers for any rows.

    Raises
    ------
    ValueError
        If the teacher answers for the rows of its fit only.
    """
    if is_transductive(teacher, target):
        raise ValueError(
            f"the teacher {type(teacher).__name__} answers for the rows of its fit only ({_WITH_FIT.get(target)}), so "
            "it cannot be compared on X; pass the expected answers as y, or see best_validation_score_ for the "
            "fidelity on the rows that were held out of the student's training"
        )
    return getattr(teacher, target)(X)


def read_answers(teacher: BaseEstimator, answers: Any, target: str, n_samples: int) -> Answers:
    """Turn what a fitted teacher said into training targets.

    Parameters
    ----------
    teacher : estimator
        Fitted; asked for its type and its `classes_`.
    answers : array-like
        What its method returned.
    target : {"predict", "predict_proba", "transform", "decision_function"}
    n_samples : int
        The number of rows that were asked about.

    Returns
    -------
    Answers

    Raises
    ------
    ValueError
        If rows were added or dropped, all labels are the same, or the answers are of no usable form.

    Examples
    --------
    >>> from sklearn.cluster import DBSCAN
    >>> read_answers(DBSCAN(), [0, 0, -1, 1], "predict", 4)
    Answers(kind='labels', values=array([1, 1, 0, 2]), target='predict', classes=array([-1,  0,  1]), squeeze=True)
    """
    name = type(teacher).__name__
    values = _as_array(answers, name)
    if len(values) != n_samples:
        raise ValueError(
            f"the teacher {name} answered {len(values)} rows for {n_samples}; a teacher must neither add nor drop rows"
        )
    if target == "predict_proba":
        return _read_probabilities(teacher, values, name)
    if target == "predict" and _are_labels(teacher, values):
        return _read_labels(teacher, values, name)
    return _read_numbers(teacher, values, target, name)


def fidelity(answers: Answers, others: np.ndarray) -> float:
    """Measure how well other answers agree with a teacher's.

    Parameters
    ----------
    answers : Answers
    others : ndarray
        For labels and probabilities: positions in `answers.classes`, shape (n_samples,). For numbers: shape
        (n_samples, n_outputs) or (n_samples,).

    Returns
    -------
    float
        Accuracy for labels and probabilities; for numbers R^2, every output weighted by its variance, which is one
        minus the squared error over the squared deviation from the mean.
    """
    if answers.kind != "numbers":
        return float(np.mean(answers.labels == others))
    return explained_variance(answers.values, others)


def explained_variance(expected: np.ndarray, given: np.ndarray) -> float:
    """Variance-weighted R^2 of `given` against `expected`, both of shape (n_samples, n_outputs) or (n_samples,)."""
    expected = np.asarray(expected, dtype=np.float64).reshape(len(expected), -1)
    given = np.asarray(given, dtype=np.float64).reshape(expected.shape)
    error = np.square(expected - given).sum()
    total = np.square(expected - expected.mean(axis=0)).sum()
    if total == 0:
        return 1.0 if error == 0 else 0.0
    return float(1 - error / total)


def _needs_y(teacher: BaseEstimator) -> bool:
    try:
        return get_tags(teacher).target_tags.required
    except AttributeError:
        return False


def _answers(teacher: BaseEstimator, method: str) -> bool:
    if hasattr(teacher, method) or hasattr(teacher, _WITH_FIT.get(method, method)):
        return True
    return isinstance(teacher, FrozenEstimator) and hasattr(teacher, _REMEMBERED.get(method, method))


def _recall(teacher: FrozenEstimator, X: Any, target: str) -> np.ndarray:
    remembered = getattr(teacher, _REMEMBERED[target])
    if len(remembered) != X.shape[0]:
        raise ValueError(
            f"the frozen teacher {type(teacher.estimator).__name__} knows only the {len(remembered)} rows of its own "
            f"fit, and X has {X.shape[0]}; pass those rows, or the teacher without FrozenEstimator so that it is fitted"
        )
    return remembered


def _as_array(answers: Any, name: str) -> np.ndarray:
    if isinstance(answers, tuple):  # scikit-learn's cross decompositions answer (X, y)
        answers = answers[0]
    if isinstance(answers, list) and answers and np.ndim(answers[0]) > 1:
        raise ValueError(
            f"the teacher {name} answers for several outputs at once, which a student cannot; distil one output at a "
            "time"
        )
    if sparse.issparse(answers):
        if np.prod(answers.shape, dtype=float) > _MOST_VALUES:
            raise ValueError(
                f"the teacher {name} answers with a sparse matrix of shape {answers.shape}, too wide to imitate; add a "
                "step that reduces it, such as TruncatedSVD"
            )
        answers = answers.toarray()
    values = np.asarray(answers)
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] == 0):
        raise ValueError(f"the teacher {name} answered with shape {values.shape}; one or two dimensions are needed")
    return values


def _are_labels(teacher: BaseEstimator, values: np.ndarray) -> bool:
    kind = teacher_type(teacher)
    if kind is None:
        return values.dtype.kind not in "fc"
    return kind != "regressor"


def _read_labels(teacher: BaseEstimator, values: np.ndarray, name: str) -> Answers:
    if values.ndim == 2 and values.shape[1] > 1:
        raise ValueError(
            f"the teacher {name} answers with {values.shape[1]} labels per row, which a student cannot; distil one "
            "output at a time"
        )
    values = values.ravel()
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError(f"the teacher {name} answered with labels that are NaN or infinite")
    try:
        found, positions = np.unique(values, return_inverse=True)
    except TypeError as error:
        raise ValueError(f"the labels of the teacher {name} are not all of one type: {error}") from error
    if len(found) == 1:
        raise ValueError(
            f"the teacher {name} put all {len(values)} rows in one class, {found[0]!r}: there is nothing to imitate; "
            "change the teacher's parameters or give it more varied rows"
        )
    known = getattr(teacher, "classes_", None)
    if isinstance(known, np.ndarray) and known.ndim == 1 and len(known) > len(found) and np.isin(found, known).all():
        positions, found = np.searchsorted(known, found)[positions], known
    return Answers("labels", positions.astype(np.int64), "predict", plain_classes(found), squeeze=True)


def _read_probabilities(teacher: BaseEstimator, values: np.ndarray, name: str) -> Answers:
    values = _finite(values, name)
    if values.ndim == 1 or values.shape[1] < 2:
        raise ValueError(
            f"the teacher {name} knows one class only: there is nothing to imitate; change its parameters or give it "
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
    fits = isinstance(known, np.ndarray) and known.shape == (values.shape[1],)
    return Answers(
        "probabilities", values, "predict_proba", plain_classes(known) if fits else np.arange(values.shape[1])
    )


def _read_numbers(teacher: BaseEstimator, values: np.ndarray, target: str, name: str) -> Answers:
    squeeze = values.ndim == 1
    values = _finite(values, name).astype(np.float32).reshape(len(values), -1)
    if not np.isfinite(values).all():
        raise ValueError(f"the answers of the teacher {name} are too large for float32; scale them down")
    classes = None
    if target == "decision_function":
        known = np.array([-1, 1]) if teacher_type(teacher) == "outlier_detector" else getattr(teacher, "classes_", None)
        n_classes = 2 if squeeze else values.shape[1]
        if isinstance(known, np.ndarray) and known.shape == (n_classes,):
            classes = plain_classes(known)
    return Answers("numbers", values, target, classes, squeeze)


def _finite(values: np.ndarray, name: str) -> np.ndarray:
    try:
        values = values.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"the teacher {name} answered with something other than numbers: {error}") from error
    if not np.isfinite(values).all():
        raise ValueError(f"the teacher {name} answered with values that are NaN or infinite")
    return values


def plain_classes(classes: np.ndarray) -> np.ndarray:
    """Return label values with strings as NumPy strings, whatever kind of objects they came as."""
    if classes.dtype.kind == "O" and all(isinstance(value, str) for value in classes):
        return classes.astype(str)
    return classes
