"""The predictions of a teacher as targets: labels, class probabilities, or values, told apart and checked."""

from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from distill.teachers.arrays import as_array, finite, plain_classes, several_labels
from distill.teachers.methods import Precomputed, is_detector, needs_y, nested, teacher_type
from distill.teachers.softness import Softness

# Squares of larger values are infinite in float64
_LARGEST_VALUE = 1e150
# The labels of a teacher follow from its decision values if a threshold gives all but this fraction of them
UNEXPLAINED = 0.02
# Parameters that decide how many rows are noise or outliers, for advice where all rows or none are
_NOISE_PARAMETERS = (
    "eps", "min_samples", "min_cluster_size", "cluster_selection_epsilon", "contamination", "nu", "xi", "outliers",
)  # fmt: skip


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
    soft : ndarray of shape (n_samples, n_classes), float32, or None
        Soft labels of a clusterer, which are learned in place of its labels: rows sum to one, and the largest is that
        of the label. See `distill.teachers.soften`.
    softness : Softness or None
        How they were made.
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
    soft: np.ndarray | None = None
    softness: Softness | None = None

    @property
    def labels(self) -> np.ndarray:
        """Positions in `classes`, shape (n_samples,); of probabilities, those of the largest."""
        return self.values.argmax(axis=1) if self.kind == "probabilities" else self.values


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


def _are_labels(teacher: BaseEstimator, values: np.ndarray) -> bool:
    """Return whether the output of `predict` holds labels; without a type of the teacher, whether it is no float."""
    kind = teacher_type(teacher)
    if kind is None:
        return values.dtype.kind not in "fc"
    return kind != "regressor"


def _read_labels(teacher: BaseEstimator, values: np.ndarray, name: str) -> Predictions:
    """Return labels as positions in the sorted label values."""
    if values.ndim == 2 and values.shape[1] > 1:
        raise ValueError(several_labels(name, f"{values.shape[1]} labels per row"))
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
    without_type = teacher_type(teacher) is None and hasattr(teacher, "fit_predict") and not needs_y(teacher)
    return teacher_type(teacher) == "clusterer" or is_detector(teacher) or without_type


def _read_probabilities(teacher: BaseEstimator, values: np.ndarray, name: str) -> Predictions:
    """Return probabilities, float32, after a check of their range and of the sum of each row."""
    values = finite(values, name)
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
                several_labels(name, "probabilities whose rows do not sum to one, as those of several labels per row")
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
    values = finite(values, name).reshape(len(values), -1)
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
    if 1 - agreement <= min(UNEXPLAINED, rarer / 4):
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
        if signs.mean() >= 1 - UNEXPLAINED:
            return classes, 0.0
    threshold = getattr(teacher, "threshold_", None)
    if not isinstance(threshold, Real) or label not in (-1, 0, 1):
        return None, 0.0
    threshold, other = float(threshold), 1 if label == 0 else -label
    if (scores <= threshold).all():
        return np.array([label, other]), threshold
    return (np.array([other, label]), threshold) if (scores >= threshold).all() else (None, 0.0)


def noise_parameters(teacher: BaseEstimator) -> list[str]:
    """Return the parameters of a teacher that decide how many rows are noise or outliers; none if it never has any."""
    parameters = set()
    for inner in nested(teacher):
        try:
            parameters |= {parameter.split("__")[-1] for parameter in inner.get_params()}
        except (AttributeError, TypeError):
            continue
    return [parameter for parameter in _NOISE_PARAMETERS if parameter in parameters]


def _one_label(teacher: BaseEstimator, label: Any, n_samples: int, name: str) -> str:
    """Return the message for a teacher that gives all rows one label."""
    kind, advice = teacher_type(teacher), "change the teacher's parameters or give it more varied rows"
    if found := noise_parameters(teacher):
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
