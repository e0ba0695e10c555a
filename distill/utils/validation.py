"""Checks, seeds and routing of parameters before a fit."""

import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from scipy import sparse
from sklearn import get_config
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator

# Packages whose calls are not the user's
_PACKAGES = ("distill", "sklearn", "joblib")
# Seeds are drawn below it and fit into 32-bit integers
LARGEST_SEED = 2**31 - 1
# Largest value of X: the square of a larger one, times the number of samples, may be infinite in float64
LARGEST_VALUE = 1e150


def check_choice(name: str, value: Any, choices: Sequence) -> None:
    """Raise ValueError if a value is none of the choices."""
    if not any(value is choice or (isinstance(value, str) and value == choice) for choice in choices):
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def check_finite(parameters: Mapping[str, Any]) -> None:
    """Raise ValueError for parameters that are NaN or infinite."""
    for name, value in parameters.items():
        if isinstance(value, Real) and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, got {value!r}")


def check_magnitude(X: np.ndarray | sparse.csr_array) -> None:
    """Raise ValueError for values whose variance may be infinite in float64; missing values are ignored."""
    values = X if isinstance(X, np.ndarray) else X.data
    if values.dtype.kind == "f" and values.dtype.itemsize >= 8 and values.size:
        largest = np.fmax(np.fmax.reduce(values, axis=None), -np.fmin.reduce(values, axis=None))
        if largest > LARGEST_VALUE:
            raise ValueError(
                f"X has values as large as {largest:.3g}, and those above {LARGEST_VALUE:g} have squares that are "
                "infinite; scale X down"
            )


def check_length(y: Any, n_samples: int) -> None:
    """Raise ValueError if y does not have an entry for every sample of X."""
    shape = y.shape if hasattr(y, "shape") else np.asarray(y).shape
    if not shape:
        raise ValueError(f"y must be an array with one entry for each of {n_samples} samples, got {y!r}")
    length = shape[0]
    if length != n_samples:
        raise ValueError(f"X has {n_samples} samples and y has {length}; pass equally many")


def warn_user(message: str) -> None:
    """Warn at the line that called this package, through any decorator, pipeline or search in between."""
    level, frame = 1, sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").split(".")[0] in _PACKAGES:
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level)


def routes(fit_params: dict) -> bool:
    """Return whether parameters of `fit` are routed by scikit-learn's metadata routing."""
    return bool(fit_params) and get_config()["enable_metadata_routing"]


def seeded(estimator: BaseEstimator, seed: int) -> BaseEstimator:
    """Set every `random_state` in an estimator that is None, except in frozen ones.

    Parameters
    ----------
    estimator : estimator
        Unfitted; modified, unless it is a FrozenEstimator.
    seed : int

    Returns
    -------
    estimator
        The same object.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> seeded(KMeans(), 0).random_state, seeded(KMeans(random_state=7), 0).random_state
    (209652396, 7)
    """
    if isinstance(estimator, FrozenEstimator):
        return estimator
    parameters = estimator.get_params(deep=True)
    frozen = tuple(f"{name}__" for name, value in parameters.items() if isinstance(value, FrozenEstimator))
    unset = [
        name
        for name, value in sorted(parameters.items())
        if value is None and name.split("__")[-1] == "random_state" and not name.startswith(frozen)
    ]
    rng = np.random.RandomState(seed)
    return estimator.set_params(**{name: int(rng.randint(LARGEST_SEED)) for name in unset})
