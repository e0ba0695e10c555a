"""Several clusterers as one teacher: their labels aligned, their soft labels averaged.

Clusterers number their clusters in any order, and chance decides at the borders. The numbers are aligned by the
assignment with the largest overlap, and the average of the soft labels is what the clusterers agree on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.base import BaseEstimator, ClusterMixin, clone
from sklearn.utils import Tags, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import _num_samples

from distill.teachers.calls import fit_and_predict, predict
from distill.teachers.methods import Precomputed, is_transductive, nested, resolve_target, teacher_type
from distill.teachers.reading import Predictions, read_predictions
from distill.teachers.soft import distances_of, inputs_of_last_step, soften
from distill.teachers.softness import Softness

# What the first clusterer counts more than the others, so that it decides where two labels have equally many votes
_FIRST = 1e-6
_LABELS_OF = ("classifier", "regressor", "outlier_detector")


@dataclass(frozen=True, eq=False)
class Member:
    """How the labels of a fitted clusterer become those of the ensemble.

    Parameters
    ----------
    target : {"predict", "predict_proba"}
        The method that is asked.
    classes : ndarray of shape (n_own,)
        Its own labels.
    softness : Softness or None
        How its soft labels are made of distances, for further rows.
    places : ndarray of shape (n_own,), int64
        For each of its labels the position of that of the ensemble.
    """

    target: str
    classes: np.ndarray
    softness: Softness | None
    places: np.ndarray


class Ensemble(ClusterMixin, BaseEstimator):
    """Clusterers whose labels are aligned to those of the first and whose soft labels are averaged.

    Parameters
    ----------
    estimators : sequence of estimators
        Two clusterers or more; clones are fitted, frozen ones are used as they are.

    Attributes
    ----------
    estimators_ : list of estimators
    classes_ : ndarray of shape (n_classes,)
        The labels of the first clusterer; and -1, if any calls rows noise.
    soft_labels_ : ndarray of shape (n_samples, n_classes), float32
        Average for the rows of the fit; rows sum to one.
    labels_ : ndarray of shape (n_samples,)
        The largest of each row; where two are equally large, that of the first clusterer.
    """

    def __init__(self, estimators: Sequence[BaseEstimator]):
        self.estimators = estimators

    def fit(self, X: Any, y: Any = None, **fit_params: Any) -> "Ensemble":
        """Fit the clusterers to the same rows, and align their labels."""
        fitted, found = [], []
        for estimator in self.estimators:
            own = clone(estimator)
            target = resolve_target(own)
            with inputs_of_last_step(own) as inputs:
                own, answer = fit_and_predict(own, X, y, target, fit_params)
            predictions = read_predictions(own, answer, target, _num_samples(X))
            fitted.append(own)
            found.append(soften(own, X, predictions, *inputs))
        self.estimators_ = fitted
        self.classes_, places = aligned(found)
        self._members = [
            Member(part.target, np.asarray(part.classes), part.softness, place) for part, place in zip(found, places)
        ]
        self.soft_labels_ = self._average([_soft(part) for part in found])
        self.labels_ = self.classes_[self.soft_labels_.argmax(axis=1)]
        return self

    def fit_predict(self, X: Any, y: Any = None, **fit_params: Any) -> np.ndarray:
        """Fit, and return `labels_`."""
        return self.fit(X, y, **fit_params).labels_

    def soft_labels(self, X: Any) -> np.ndarray:
        """Return averaged soft labels of further rows, float32; ValueError if a clusterer gives one a new label."""
        return self._average([_soft_of(*pair, X) for pair in zip(self.estimators_, self._members)])

    @available_if(lambda self: not any(map(_fit_only, getattr(self, "estimators_", self.estimators))))
    def predict(self, X: Any) -> np.ndarray:
        """Return the labels of rows; only if all clusterers predict for new ones."""
        return self.classes_[self.soft_labels(X).argmax(axis=1)]

    def _average(self, parts: list[np.ndarray]) -> np.ndarray:
        """Return the average of soft labels in the columns of the ensemble."""
        total = np.zeros((len(parts[0]), len(self.classes_)))
        for position, (part, member) in enumerate(zip(parts, self._members)):
            for column, place in enumerate(member.places):
                total[:, place] += part[:, column] * (1 + _FIRST if position == 0 else 1)
        return (total / total.sum(axis=1, keepdims=True)).astype(np.float32)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        for name in ("sparse", "allow_nan"):
            setattr(tags.input_tags, name, all(_allows(estimator, name) for estimator in self.estimators))
        return tags


def check_ensemble(estimators: Sequence[Any]) -> None:
    """Raise TypeError or ValueError if a list of teachers is none of two clusterers or more."""
    if len(estimators) < 2:
        raise ValueError(
            f"teacher is a list of {len(estimators)}, and an ensemble needs two clusterers or more; give one teacher "
            "without a list"
        )
    for position, estimator in enumerate(estimators):
        if isinstance(estimator, type) or not hasattr(estimator, "fit") or isinstance(estimator, Precomputed):
            raise TypeError(f"teacher[{position}] must be an estimator instance with a fit method, got {estimator!r}")
        *_, inner = nested(estimator)
        if teacher_type(estimator) in _LABELS_OF or not (hasattr(inner, "fit_predict") or hasattr(inner, "labels_")):
            raise TypeError(
                f"teacher[{position}] must be a clusterer, because a list of teachers is an ensemble whose labels are "
                f"aligned and averaged, got {type(inner).__name__}; embeddings are not averaged, and of classifiers or "
                "regressors sklearn.ensemble.VotingClassifier or VotingRegressor is one teacher"
            )


def aligned(found: Sequence[Predictions]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the labels of an ensemble, and where those of each clusterer have their place among them.

    Parameters
    ----------
    found : sequence of Predictions
        Of the same rows, labels or probabilities.

    Returns
    -------
    classes : ndarray of shape (n_classes,)
        The labels of the first; with a -1 before them if another one has noise and the first has not.
    places : list of ndarray of shape (n_own,), int64
        One-to-one between clusters, with the largest number of rows in both. Clusters beyond the number of the first
        have the place of that in which most of their rows are. Noise is noise in all.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from distill.teachers import read_predictions
    >>> parts = [[0, 0, 1, 1, 2, 2], [1, 1, 2, 2, 0, 0], [0, 0, 0, 3, 2, 1]]
    >>> aligned([read_predictions(KMeans(), part, "predict", 6) for part in parts])[1]
    [array([0, 1, 2]), array([2, 0, 1]), array([0, 2, 2, 1])]
    """
    first = found[0]
    classes, shift = np.asarray(first.classes), 0
    noise = first.noise
    if noise is None and any(part.noise is not None for part in found):
        if classes.dtype.kind not in "iu":
            raise ValueError(
                f"the first teacher has the labels {classes[:3].tolist()}, beside which -1, that of another teacher's "
                "noise, has no place; give teachers whose labels are integers"
            )
        classes, shift, noise = np.append([-1], classes), 1, 0
    labels, places = first.labels + shift, []
    clusters = np.flatnonzero(np.arange(len(classes)) != noise)
    for part in found:
        table = np.zeros((len(classes), len(np.asarray(part.classes))), np.int64)
        np.add.at(table, (labels, part.labels), 1)
        own = np.flatnonzero(np.arange(table.shape[1]) != part.noise)
        place = table.argmax(axis=0)
        rows, columns = linear_sum_assignment(-table[np.ix_(clusters, own)])
        place[own[columns]] = clusters[rows]
        if part.noise is not None and noise is not None:
            place[part.noise] = noise
        places.append(place.astype(np.int64))
    return classes, places


def _soft(predictions: Predictions) -> np.ndarray:
    """Return probabilities, soft labels, or labels as such."""
    if predictions.kind == "probabilities":
        return predictions.values
    if predictions.soft is not None:
        return predictions.soft
    return np.eye(len(np.asarray(predictions.classes)), dtype=np.float32)[predictions.values]


def _soft_of(estimator: BaseEstimator, member: Member, X: Any) -> np.ndarray:
    """Return the soft labels that a clusterer gives to further rows."""
    with inputs_of_last_step(estimator) as inputs:
        found = predict(estimator, X, member.target)
    if member.target == "predict_proba":
        return found
    positions = np.searchsorted(member.classes, found.ravel()).clip(max=len(member.classes) - 1)
    unknown = found.ravel()[member.classes[positions] != found.ravel()]
    if len(unknown):
        raise ValueError(
            f"{type(estimator).__name__} gives {len(unknown)} of {len(found)} rows labels that no row of its fit has, "
            f"such as {unknown[0].item()!r}"
        )
    if member.softness is None or member.softness.owners is None:
        return np.eye(len(member.classes), dtype=np.float32)[positions]
    return member.softness.soften(distances_of(estimator, X, member.softness, *inputs), positions, len(member.classes))


def _fit_only(estimator: BaseEstimator) -> bool:
    """Return whether a clusterer has labels for the rows of its fit only."""
    return is_transductive(estimator, "predict")


def _allows(estimator: BaseEstimator, name: str) -> bool:
    try:
        return bool(getattr(get_tags(estimator).input_tags, name))
    except AttributeError:  # no tags: it decides itself
        return True
