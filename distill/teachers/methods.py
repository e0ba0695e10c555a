"""The methods of a teacher: which there are, which one is imitated, and what kind of estimator a teacher is."""

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, ClusterMixin, OutlierMixin, RegressorMixin
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import Tags, get_tags

from distill.network import TARGETS
from distill.teachers.arrays import as_array

# Methods that predict for the rows of the fit only, and the fitted attributes that hold these predictions
WITH_FIT = {"predict": "fit_predict", "transform": "fit_transform"}
FITTED_ATTRIBUTES = {"predict": "labels_", "transform": "embedding_"}
# Methods that target="auto" prefers, by the type of the teacher
_AUTOMATIC = {
    "classifier": ("predict_proba", "predict"),
    "clusterer": ("predict_proba", "predict"),
    "regressor": ("predict",),
    "outlier_detector": ("decision_function", "predict"),
    None: ("transform", "predict_proba", "predict", "decision_function"),
}
_TYPES = {
    ClassifierMixin: "classifier",
    ClusterMixin: "clusterer",
    OutlierMixin: "outlier_detector",
    RegressorMixin: "regressor",
}
PRECOMPUTED = "precomputed"


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
        kind = get_tags(teacher).estimator_type
    except AttributeError:  # an estimator not derived from BaseEstimator has no tags
        kind = None
    if kind is None:
        kind = getattr(teacher, "_estimator_type", None)
    # The tags of a class that names BaseEstimator before its mixin, as EVoC does, lack the type
    *_, inner = nested(teacher)
    return kind or next((kind for mixin, kind in _TYPES.items() if isinstance(inner, mixin)), None)


def is_detector(teacher: BaseEstimator) -> bool:
    """Return whether a teacher is an outlier detector by its type, or by its methods if it declares no type.

    Those are decision values and labels, and a fit without y; detectors of several packages derive from no class of
    scikit-learn's.
    """
    kind = teacher_type(teacher)
    if kind is not None or not (hasattr(teacher, "decision_function") and hasattr(teacher, "predict")):
        return kind == "outlier_detector"
    return not hasattr(teacher, "transform") and not needs_y(teacher)


def predicts_values(teacher: BaseEstimator, target: str) -> bool:
    """Return whether the predictions are values and not labels, judged by the type of a teacher before its fit."""
    return target in ("transform", "decision_function") or (
        target == "predict" and teacher_type(teacher) == "regressor"
    )


def is_transductive(teacher: BaseEstimator, target: str) -> bool:
    """Return whether a teacher predicts for the rows of its fit only (DBSCAN, TSNE, SpectralClustering, ...)."""
    return not hasattr(teacher, target)


def _target_of(y: Any) -> str:
    """Return the method whose predictions y seem to be."""
    if y is None:
        return "predict"
    values = as_array(y, "'precomputed' (y)")
    return "transform" if values.ndim == 2 and (values.shape[1] > 1 or values.dtype.kind == "f") else "predict"


def needs_y(teacher: BaseEstimator) -> bool:
    """Return whether the fit of a teacher requires y, by its tags or by the parameters of its fit."""
    try:
        if get_tags(teacher).target_tags.required:
            return True
    except AttributeError:
        pass
    *_, inner = nested(teacher)
    try:
        parameter = inspect.signature(inner.fit).parameters.get("y")
    except (AttributeError, TypeError, ValueError):
        return False
    return parameter is not None and parameter.default is inspect.Parameter.empty


def nested(teacher: Any) -> Iterator[Any]:
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
    if hasattr(teacher, method) or hasattr(teacher, WITH_FIT.get(method, method)):
        return True
    return holder(teacher, method) is not None


def holder(teacher: BaseEstimator, method: str) -> Any:
    """Return the frozen estimator in a teacher that holds the predictions for the rows of its fit, or None."""
    frozen = False
    for inner in nested(teacher):
        frozen = frozen or isinstance(inner, FrozenEstimator)
    return inner if frozen and hasattr(inner, FITTED_ATTRIBUTES.get(method, "")) else None
