"""Rows that a clusterer calls noise, left out of what is imitated."""

from dataclasses import replace

import numpy as np
from sklearn.base import BaseEstimator

from distill.teachers.methods import Precomputed, is_detector
from distill.teachers.reading import Predictions, noise_parameters

# The label of noise, by the convention of scikit-learn's clusterers, which other packages share
NOISE = -1


def without_noise(teacher: BaseEstimator, predictions: Predictions) -> tuple[Predictions, np.ndarray]:
    """Return a clusterer's labels without those of noise, and the positions of the rows that are left.

    Parameters
    ----------
    teacher : estimator
        Fitted.
    predictions : Predictions
        For the rows of the fit.

    Returns
    -------
    predictions : Predictions
        For the rows that are left, of soft labels too, whose rows sum to one again; no class for noise.
    positions : ndarray of shape (n_left,), int64

    Raises
    ------
    ValueError
        If the teacher never has a label of noise, as far as its parameters tell, or fewer than two others are left.

    Examples
    --------
    >>> from sklearn.cluster import DBSCAN
    >>> from distill.teachers import read_predictions
    >>> left, positions = without_noise(DBSCAN(), read_predictions(DBSCAN(), [0, 0, -1, 1], "predict", 4))
    >>> left.classes, left.values, positions
    (array([0, 1]), array([0, 0, 1]), array([0, 1, 3]))
    """
    name = "'precomputed' (y)" if isinstance(teacher, Precomputed) else type(teacher).__name__
    noise, classes = predictions.noise, np.asarray(predictions.classes)
    if noise is None and predictions.kind == "labels":
        if classes.dtype.kind == "i" and NOISE in classes:
            noise = int(np.flatnonzero(classes == NOISE)[0])
        elif noise_parameters(teacher) and not is_detector(teacher):
            return predictions, np.arange(len(predictions.values))
    if noise is None or is_detector(teacher):
        raise ValueError(
            f"noise='exclude' leaves out the rows that a clusterer calls noise (label {NOISE}), but "
            f"{_why_none(predictions, name, noise is not None)}, or set noise='learn'"
        )
    positions = np.flatnonzero(predictions.values != noise)
    values = predictions.values[positions]
    if len(np.unique(values)) < 2:
        raise ValueError(
            f"the teacher {name} has {len(np.unique(values))} label besides noise, for {len(values)} of "
            f"{len(predictions.values)} rows: without the others there is nothing to imitate; set noise='learn', or "
            "change the teacher's parameters so that it finds more clusters"
        )
    soft, softness = predictions.soft, predictions.softness
    if soft is not None:
        soft = np.delete(soft[positions], noise, axis=1)
        soft = soft / soft.sum(axis=1, keepdims=True)
    if softness is not None and softness.owners is not None:
        owners = np.where(softness.owners == noise, -1, softness.owners)
        softness = replace(softness, owners=owners - (owners > noise))
    left = replace(
        predictions,
        values=values - (values > noise),
        classes=np.delete(classes, noise),
        noise=None,
        soft=soft,
        softness=softness,
    )
    return left, positions


def _why_none(predictions: Predictions, name: str, detects: bool) -> str:
    """Return why there are no rows of noise, and what to change."""
    if detects:
        return (
            f"the teacher {name} is an outlier detector, and without outliers all rows have one label; use a clusterer"
        )
    if predictions.kind == "values":
        return f"the teacher {name} has no labels (target={predictions.target!r}); imitate a clusterer's labels"
    if predictions.kind == "probabilities":
        return f"the probabilities of the teacher {name} have no class for it; set target='predict'"
    return f"the teacher {name} calls none of the {len(predictions.values)} rows so; use one that marks noise"
