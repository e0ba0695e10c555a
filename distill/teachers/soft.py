"""Soft labels of a clusterer: how near a row is to the border between clusters, not only on which side of it.

Distances to the centers of k-means, or the strengths with which HDBSCAN's rows belong to their clusters, are at hand
where the labels are. A student of soft labels agrees with its teacher on more new rows than one of the labels alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import _safe_indexing, indexable

from distill.teachers.arrays import as_array, on_host
from distill.teachers.calls import call
from distill.teachers.methods import WITH_FIT, Precomputed, is_detector, nested, teacher_type
from distill.teachers.reading import Predictions
from distill.teachers.softness import Softness, gaps, with_labels

# Exponent of the soft labels, in units of the typical difference between the two smallest squared distances: larger
# ones are softer. Of .1, .2, .4 and .8 chosen on held-out rows of digits and of 5000 images of MNIST
TEMPERATURE = 0.4
# Values of a transformer are distances if the smallest one has the row's label in all but this fraction of the rows.
# The tree of bisecting k-means finds another center than the nearest one in up to a tenth of the rows: on digits (8 %)
# students of soft labels then agreed with it on .6 % fewer rows than those of the labels
_UNEXPLAINED = 0.02
# Largest number of soft labels and of distances, 512 MB in float32
_MOST_VALUES = 2**27
# Rows that show how many distances there are, and the fewest rows of the fit for each where several are of one label
_SAMPLE, _ROWS_PER_COLUMN = 100, 5
# Fitted attributes with the strength, in [0, 1], with which each row of the fit belongs to its cluster
_STRENGTHS = ("probabilities_", "membership_strengths_")


@contextmanager
def inputs_of_last_step(teacher: BaseEstimator) -> Iterator[list]:
    """Keep the rows that the last step of a pipeline labels in its fit, to ask it about them a second time.

    Transforming the rows of the fit again may take as long as the fit, and may give other rows, as UMAP's.

    Parameters
    ----------
    teacher : estimator
        A clone that no other thread uses. Nothing is kept if it is no pipeline.

    Yields
    ------
    list
        Empty, or with the rows as its last element after the fit.
    """
    last, found = teacher, list[Any]()
    while isinstance(last, Pipeline) and last.steps:
        last = last.steps[-1][1]
    methods = [name for name in (WITH_FIT["predict"], "predict") if hasattr(last, name)]
    # A frozen step is the user's own, and may be in use elsewhere
    if last is teacher or isinstance(last, FrozenEstimator | str) or not hasattr(last, "transform"):
        methods = []

    def watched(method: Any) -> Any:
        def call_and_keep(X: Any, *args: Any, **kwargs: Any) -> Any:
            found.append(X)
            return method(X, *args, **kwargs)

        return call_and_keep

    try:
        for name in methods:
            vars(last)[name] = watched(getattr(last, name))
        yield found
    finally:
        for name in methods:
            vars(last).pop(name, None)
        del found[:-1]


def soften(teacher: BaseEstimator, X: Any, predictions: Predictions, inputs: Any = None) -> Predictions:
    """Return the labels of a clusterer with soft ones beside them, where its answers give any.

    Parameters
    ----------
    teacher : estimator
        Fitted.
    X : array-like or sparse matrix of shape (n_samples, n_features)
        Rows of the fit.
    predictions : Predictions
        For the same rows.
    inputs : array-like or None
        The rows as they reach the last step of a pipeline; None if it shall transform them again.

    Returns
    -------
    Predictions
        With `soft` and `softness`; unchanged if these are no labels of a clusterer, or nothing softer is known. What
        `transform` returns are distances if its smallest value in a row tells the label. (Several columns may belong
        to one label.) Strengths in [0, 1] of a row are those that its fit keeps beside equal `labels_`.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from distill.teachers import fit_and_predict, read_predictions
    >>> X = np.array([[0.0], [1.0], [4.0], [9.0], [10.0]])
    >>> teacher, labels = fit_and_predict(KMeans(2, random_state=0), X)
    >>> found = soften(teacher, X, read_predictions(teacher, labels, "predict", 5))
    >>> found.softness.source, found.soft.max(axis=1).round(2)
    ('transform', array([0.96, 0.93, 0.71, 0.87, 0.92], dtype=float32))
    """
    if predictions.kind != "labels" or isinstance(teacher, Precomputed) or is_detector(teacher):
        return predictions
    if hasattr(teacher, "soft_labels_"):  # an ensemble
        averaged = with_labels(teacher.soft_labels_, predictions.values)
        return replace(predictions, soft=averaged, softness=Softness(f"{len(teacher.estimators_)} teachers"))
    if teacher_type(teacher) not in ("clusterer", None):
        return predictions
    return _from_distances(teacher, X, predictions, inputs) or _from_strengths(teacher, predictions) or predictions


def distances_of(teacher: BaseEstimator, X: Any, softness: Softness, inputs: Any = None) -> np.ndarray:
    """Return the distances of rows to the centers of a fitted teacher, float64; ValueError if these are none.

    See `soften` for the parameters.
    """
    found = _distances(*_last_step(teacher, X, inputs))
    if found is None or found.shape[1:] != np.shape(cast(np.ndarray, softness.owners)):
        raise ValueError("transform returns no distances for them, as it does for the rows of the fit")
    return found


def _last_step(teacher: BaseEstimator, X: Any, inputs: Any) -> tuple[Any, Any]:
    """Return the last step of a pipeline and its rows where these are known, else the teacher and X."""
    if inputs is None:
        return teacher, X
    *_, last = nested(teacher)
    return last, inputs


def _from_distances(teacher: BaseEstimator, X: Any, predictions: Predictions, inputs: Any) -> Predictions | None:
    """Return predictions with soft labels from distances; None if there are none."""
    labels, n_classes = predictions.values, len(np.asarray(predictions.classes))
    if not hasattr(teacher, "transform"):
        return None
    last, X = _last_step(teacher, X, inputs)
    # Agglomerations may have a column for each row: a few rows show whether all can be transformed
    few = _distances(last, X, np.arange(min(_SAMPLE, len(labels))))
    if few is None or len(labels) * max(n_classes, few.shape[1]) > _MOST_VALUES:
        return None
    if few.shape[1] > max(n_classes, len(labels) // _ROWS_PER_COLUMN):
        return None
    values = _distances(last, X)
    if values is None or values.shape != (len(labels), few.shape[1]):
        return None
    inside = labels != (-1 if predictions.noise is None else predictions.noise)
    owners = _owners(values[inside].argmin(axis=1), labels[inside], values.shape[1], n_classes)
    if owners is None:
        return None
    second = np.partition(gaps(values[inside], owners, n_classes), 1, axis=1)[:, 1]
    unit = float(np.median(second))
    if not 0 < unit < np.inf:
        return None
    softness = Softness("transform", TEMPERATURE, unit, owners)
    return replace(predictions, soft=softness.soften(values, labels, n_classes), softness=softness)


def _distances(teacher: BaseEstimator, X: Any, positions: np.ndarray | None = None) -> np.ndarray | None:
    """Return what `transform` gives for rows, or those at some positions, float64; None if these are no distances."""
    try:
        rows = X if positions is None else _safe_indexing(indexable(X)[0], positions)
        values = as_array(call(teacher, "transform", rows), "").astype(np.float64)
    except (TypeError, ValueError):  # no numbers, or not for these rows
        return None
    return values if values.ndim == 2 and np.isfinite(values).all() and values.min() >= 0 else None


def _owners(nearest: np.ndarray, labels: np.ndarray, n_columns: int, n_classes: int) -> np.ndarray | None:
    """Return the label of each column, -1 where it is nearest to no row; None if columns do not tell the labels."""
    present = np.bincount(labels, minlength=n_classes) > 0
    if present.sum() < 2 or present.sum() > n_columns:
        return None
    counts = np.zeros((n_columns, n_classes), np.int64)
    np.add.at(counts, (nearest, labels), 1)
    owners = np.where(counts.any(axis=1), counts.argmax(axis=1), -1)
    explained = counts.max(axis=1).sum() >= (1 - _UNEXPLAINED) * len(labels)
    return owners if explained and np.isin(np.flatnonzero(present), owners).all() else None


def _from_strengths(teacher: BaseEstimator, predictions: Predictions) -> Predictions | None:
    """Return predictions with soft labels from the strengths that a fit keeps; None if there are none."""
    labels, classes = predictions.values, np.asarray(predictions.classes)
    if len(labels) * len(classes) > _MOST_VALUES:
        return None
    *_, last = nested(teacher)
    name = next((name for name in _STRENGTHS if hasattr(last, name)), "")
    kept = on_host(getattr(last, "labels_", ()))
    strengths = on_host(getattr(last, name, ()))
    if not strengths.shape == kept.shape == labels.shape or not np.array_equal(kept, classes[labels]):
        return None
    if strengths.dtype.kind != "f" or not ((strengths >= 0) & (strengths <= 1)).all():
        return None
    is_noise = labels == (-1 if predictions.noise is None else predictions.noise)
    share = np.bincount(labels, minlength=len(classes)) / len(labels)
    # A row of strength zero is on the border: half of it belongs to its cluster. The rest is divided by the shares of
    # the labels, which on blobs, moons and digits was better than to give it all to noise
    own = np.where(is_noise, 1.0, 0.5 + 0.5 * strengths)
    others = np.tile(share, (len(labels), 1))
    others[np.arange(len(labels)), labels] = 0
    total = others.sum(axis=1, keepdims=True)
    soft = np.divide(others, total, out=np.zeros_like(others), where=total > 0) * (1 - own[:, None])
    soft[np.arange(len(labels)), labels] = own
    return replace(predictions, soft=with_labels(soft, labels), softness=Softness(name))
