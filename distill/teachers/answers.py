"""Answers of a fitted teacher about further rows, in the form of its predictions for those of the fit."""

from typing import Any

import numpy as np
from sklearn.base import BaseEstimator

from distill.teachers.arrays import finite
from distill.teachers.calls import like, predict
from distill.teachers.methods import Precomputed, is_transductive
from distill.teachers.reading import Predictions
from distill.teachers.soft import distances_of, inputs_of_last_step


def check_answers(teacher: BaseEstimator, target: str) -> None:
    """Raise ValueError if a teacher, fitted or not, has no predictions for further rows."""
    if isinstance(teacher, Precomputed):
        why = "'precomputed' predictions are known for the rows of X only"
    elif is_transductive(teacher, target):
        why = f"{type(teacher).__name__} has predictions for the rows of its fit only, and no method {target}"
    else:
        return
    raise ValueError(f"n_queries asks the teacher about further rows, but {why}; set n_queries=0")


def answers(teacher: BaseEstimator, X: Any, rows: Any, predictions: Predictions) -> tuple[np.ndarray, np.ndarray]:
    """Return what a teacher answers about further rows.

    Parameters
    ----------
    teacher : estimator
        Fitted.
    X : array-like, sparse matrix or data frame
        Rows of the fit, in whose type the teacher gets the others.
    rows : ndarray or CSR of shape (n_rows, n_features)
    predictions : Predictions
        For the rows of the fit.

    Returns
    -------
    answered : ndarray of shape (n_rows,), bool
        False for rows with a label that no row of the fit has, which cannot be learned.
    targets : ndarray of shape (n_answered, ...)
        As `predictions.soft` where there are soft labels, else as `predictions.values`.

    Raises
    ------
    ValueError
        If the teacher refuses the rows, or its answers do not have the form of those for the rows of the fit.
    """
    name = type(teacher).__name__
    try:
        if predictions.soft is not None and hasattr(teacher, "soft_labels"):  # an ensemble
            return np.ones(rows.shape[0], bool), teacher.soft_labels(like(X, rows))
        with inputs_of_last_step(teacher) as inputs:
            found = predict(teacher, like(X, rows), predictions.target)
        if len(found) != rows.shape[0]:
            raise ValueError(f"{len(found)} predictions for {rows.shape[0]} rows")
        if predictions.kind == "labels":
            return _labels(teacher, like(X, rows), found.ravel(), predictions, inputs)
        values = finite(found, name).reshape(len(found), -1)
        if values.shape[1:] != predictions.values.shape[1:]:
            raise ValueError(f"predictions of {values.shape[1]} columns in place of {predictions.values.shape[1]}")
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"the teacher {name} does not predict for rows made of those of its fit: {error}; set n_queries=0"
        ) from error
    if predictions.kind == "probabilities":
        values = np.clip(values, 0, None)
        values = (values / values.sum(axis=1, keepdims=True)).astype(np.float32)
    return np.ones(len(values), bool), values


def _labels(
    teacher: BaseEstimator, rows: Any, labels: np.ndarray, predictions: Predictions, inputs: list
) -> tuple[np.ndarray, np.ndarray]:
    """Return which labels are known, and their positions, or soft labels."""
    classes = np.asarray(predictions.classes)
    order = np.argsort(classes)
    positions = order[np.searchsorted(classes, labels, sorter=order).clip(max=len(classes) - 1)].astype(np.int64)
    known = classes[positions] == labels
    positions = positions[known]
    if predictions.soft is None:
        return known, positions
    softness = predictions.softness
    if softness is None or softness.owners is None:  # strengths are known of the rows of the fit only
        return known, np.eye(len(classes), dtype=np.float32)[positions]
    return known, softness.soften(distances_of(teacher, rows, softness, *inputs)[known], positions, len(classes))
