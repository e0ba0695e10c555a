"""Scores of fidelity and size for searches, the Pareto front, and the smallest candidate within a tolerance.

>>> from sklearn.cluster import KMeans
>>> from sklearn.datasets import load_digits
>>> from sklearn.frozen import FrozenEstimator
>>> from sklearn.model_selection import GridSearchCV
>>> from distill import CodebookCompressor, Distiller
>>> X, _ = load_digits(return_X_y=True)
>>> student = Distiller(KMeans(4, n_init=1, random_state=0), hidden_layer_sizes=(16,), random_state=0).fit(X[:1000])
>>> compressor = CodebookCompressor(FrozenEstimator(student), max_iter=2, random_state=0)
>>> search = GridSearchCV(compressor, {"bits": [1, 3]}, scoring=SCORING, refit=smallest_within(0.1), cv=2).fit(X[1000:])
>>> search.best_params_, pareto_front(search.cv_results_)
({'bits': 1}, array([0, 1]))
"""

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_scalar

from distill.pipeline import to_bytes
from distill.teachers import Precomputed

__all__ = ["SCORING", "SmallestWithin", "fidelity_scorer", "pareto_front", "size_scorer",
           "smallest_within"]  # fmt: skip


def fidelity_scorer(estimator: Any, X: Any, y: Any = None) -> float:
    """Score the fidelity to the imitated estimator: a scorer for scikit-learn's searches.

    Parameters
    ----------
    estimator : Distiller, compressor, or Pipeline that ends in one
        Fitted.
    X : array-like of shape (n_samples, n_features)
    y : array-like or None
        Ignored, unless they are the predictions that are imitated: those of ``Distiller("precomputed")``.

    Returns
    -------
    float
        Accuracy for labels, R^2 otherwise; at most 1.
    """
    student = estimator
    while isinstance(student, Pipeline):
        student = student[-1]
    imitated = student.imitated_estimator() if hasattr(student, "imitated_estimator") else None
    return estimator.score(X, y) if isinstance(imitated, Precomputed) else estimator.score(X)


def size_scorer(estimator: Any, X: Any = None, y: Any = None) -> float:
    """Score the size of the student file: minus its bytes, because scikit-learn maximizes scores.

    Parameters
    ----------
    estimator : Distiller, compressor, or Pipeline that ends in one
        Fitted. Of a Pipeline with steps that cannot go into a file, the last step alone is measured.
    X, y : None
        Ignored.

    Returns
    -------
    float
    """
    try:
        return -float(len(to_bytes(estimator)))
    except TypeError:
        if not isinstance(estimator, Pipeline):
            raise
        return -float(len(to_bytes(estimator[-1])))


SCORING = {"fidelity": fidelity_scorer, "size": size_scorer}
"""Both scorers under the names that `smallest_within`, `pareto_front` and `TradeOffDisplay` expect."""


@dataclass(frozen=True)
class SmallestWithin:
    """Choose the smallest candidate of a search whose fidelity is close to the best; see `smallest_within`.

    Parameters
    ----------
    tolerance : float or "standard error"
        Largest distance from the best mean fidelity.
    fidelity : str, default="fidelity"
        Name of the score of fidelity.
    size : str, default="size"
        Name of the score of size.
    """

    tolerance: float | str
    fidelity: str = "fidelity"
    size: str = "size"

    def __call__(self, cv_results: Mapping[str, Any]) -> int:
        """Return the position of the chosen candidate in `cv_results_`."""
        fidelity, n_bytes = mean_scores(cv_results, self.fidelity, self.size)
        if np.isnan(fidelity).all():
            raise ValueError(f"no candidate has a {self.fidelity}: all fits have failed")
        best = int(np.nanargmax(fidelity))
        tolerance = self.tolerance
        if tolerance == "standard error":
            tolerance = _standard_error(cv_results, self.fidelity, best)
        # 1e-12 more, so that the choice among candidates at the limit does not depend on the rounding of means
        good = np.flatnonzero(fidelity >= fidelity[best] - tolerance - 1e-12)
        return int(good[np.lexsort((-fidelity[good], n_bytes[good]))[0]])


def smallest_within(tolerance: float | str = 0.01, *, fidelity: str = "fidelity", size: str = "size") -> SmallestWithin:
    """Return a `refit` for searches: the fewest bytes among candidates with a fidelity close to the best.

    Parameters
    ----------
    tolerance : float or "standard error", default=0.01
        Largest distance of a candidate's mean fidelity from the best; or one standard error of the best mean over the
        folds (Breiman et al., "Classification and regression trees", 1984).
    fidelity, size : str
        Names of the scores, as in ``scoring={"fidelity": fidelity_scorer, "size": size_scorer}``, which is `SCORING`.

    Returns
    -------
    callable(cv_results_) -> int
        For ``GridSearchCV(..., scoring=SCORING, refit=smallest_within(0.01))`` and RandomizedSearchCV; scikit-learn's
        halving searches have only one score. Among candidates of equal size the most faithful one is chosen; failed
        candidates are ignored.

    Raises
    ------
    ValueError
        If `tolerance` is neither a number from 0 nor "standard error".

    Examples
    --------
    >>> results = {"mean_test_fidelity": np.array([0.99, 0.985, 0.9]), "mean_test_size": np.array([-900, -500, -100])}
    >>> smallest_within(0.01)(results), smallest_within(0.2)(results)
    (1, 2)
    """
    if isinstance(tolerance, str):
        if tolerance != "standard error":
            raise ValueError(f"tolerance must be a number from 0, or 'standard error', got {tolerance!r}")
    else:
        check_scalar(tolerance, "tolerance", Real, min_val=0)
    return SmallestWithin(tolerance, fidelity, size)


def pareto_front(cv_results: Mapping[str, Any], *, fidelity: str = "fidelity", size: str = "size") -> np.ndarray:
    """Return the candidates that no other one dominates: none is as good in both scores and better in one.

    Parameters
    ----------
    cv_results : dict
        The `cv_results_` of a search.
    fidelity, size : str
        Names of the scores.

    Returns
    -------
    ndarray of int
        Positions in `cv_results`, smallest file first; of equal ones the first. Failed candidates are left out.

    Examples
    --------
    >>> results = {"mean_test_fidelity": [0.9, 0.8, 0.99, 0.95], "mean_test_size": [-100, -200, -300, -300]}
    >>> pareto_front(results)
    array([0, 2])
    """
    scores, n_bytes = mean_scores(cv_results, fidelity, size)
    order = np.lexsort((-scores, n_bytes))
    order = order[~np.isnan(scores[order]) & ~np.isnan(n_bytes[order])]
    if not len(order):
        return order
    best_before = np.concatenate([[-np.inf], np.maximum.accumulate(scores[order])[:-1]])
    return order[scores[order] > best_before]


def mean_scores(cv_results: Mapping[str, Any], fidelity: str, size: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean fidelity and the mean number of bytes of all candidates.

    Raises
    ------
    ValueError
        If the results have no such scores.
    """
    values = []
    for name in (fidelity, size):
        if f"mean_test_{name}" not in cv_results:
            known = [key.removeprefix("mean_test_") for key in cv_results if key.startswith("mean_test_")]
            raise ValueError(
                f"cv_results_ has no score {name!r}, only {known}; search with scoring=SCORING, or name your scores in "
                "fidelity= and size="
            )
        values.append(np.asarray(cv_results[f"mean_test_{name}"], float))
    return values[0], -values[1]


def _standard_error(cv_results: Mapping[str, Any], name: str, index: int) -> float:
    n_splits = sum(key.startswith("split") and key.endswith(f"_test_{name}") for key in cv_results)
    if n_splits < 2:
        raise ValueError(f"a standard error needs several folds, and {name} was measured on {n_splits}")
    # From the standard deviation over the folds, with n in its denominator, to the standard error of their mean
    return float(cv_results[f"std_test_{name}"][index] / np.sqrt(n_splits - 1))
