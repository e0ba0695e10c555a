"""Predictions as plain arrays."""

from typing import Any

import numpy as np
from scipy import sparse

# Largest dense array made of sparse predictions: 2^28 values are 1 GB in float32
_MOST_VALUES = 2**28


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
        raise ValueError(several_labels(name, "several outputs at once"))
    if sparse.issparse(predictions):
        if np.prod(predictions.shape, dtype=float) > _MOST_VALUES:
            raise ValueError(
                f"the teacher {name} returned a sparse matrix of shape {predictions.shape}, too wide to imitate; add a "
                "step that reduces it, such as TruncatedSVD"
            )
        predictions = predictions.toarray()
    values = on_host(predictions)
    if values.ndim not in (1, 2) or (values.ndim == 2 and values.shape[1] == 0):
        raise ValueError(f"the teacher {name} returned shape {values.shape}; one or two dimensions are needed")
    return values


def on_host(values: Any) -> np.ndarray:
    """Return values as an array of NumPy, also of arrays in a GPU's memory.

    Those of CuPy, cuDF and torch, which cuML's estimators return, refuse an implicit copy with a TypeError and have a
    method for an explicit one.
    """
    try:
        return np.asarray(values)
    except TypeError:
        for name in ("to_numpy", "get", "cpu"):
            if callable(copy := getattr(values, name, None)):
                return np.asarray(copy())
        raise


def finite(values: np.ndarray, name: str) -> np.ndarray:
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


def several_labels(name: str, what: str) -> str:
    """Return the message for a teacher of several labels."""
    return (
        f"the teacher {name} predicts {what}, which one student does not; train one for each label on the teacher's "
        "predictions Y, MultiOutputClassifier(Distiller('precomputed')).fit(X, Y) (sklearn.multioutput), or imitate "
        "values of any kind with Distiller('precomputed', target='transform').fit(X, Y)"
    )
