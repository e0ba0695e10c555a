"""Save a fitted Pipeline as a student file, with its scalers, principal components and moments of images."""

import os
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.decomposition import PCA
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MaxAbsScaler, MinMaxScaler, RobustScaler, StandardScaler
from sklearn.utils.validation import check_is_fitted

from distill.base import StudentMixin
from distill.codecs import container
from distill.codecs.preprocessing import AnyStep, MomentsStep, Step
from distill.runtime import Student

_DTYPES = ("float64", "float32")
# A mean this small relative to the standard deviation is below the resolution of float32 rows
_NEGLIGIBLE_MEAN = 1e-9


def save(estimator: BaseEstimator, path: str | os.PathLike | BinaryIO, *, dtype: str = "float64") -> None:
    """Write the student file of a fitted estimator or Pipeline, for `distill.load`.

    Parameters
    ----------
    estimator : Distiller, compressor, Pipeline that ends in one, or a search over them
        Fitted; see `to_bytes`.
    path : str, path or open binary file
        An existing file is replaced atomically; a named pipe or a device is written to. An open file, `io.BytesIO` or
        anything else with a method `write` for bytes is written from its present position and stays open.
    dtype : {"float64", "float32"}, default="float64"
        See `to_bytes`.

    Raises
    ------
    TypeError, ValueError, sklearn.exceptions.NotFittedError
        See `to_bytes`.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.pipeline import make_pipeline
    >>> from sklearn.preprocessing import StandardScaler
    >>> from distill import Distiller, load, save
    >>> X, _ = load_digits(return_X_y=True)
    >>> student = Distiller(KMeans(10, n_init=1, random_state=0), hidden_layer_sizes=(32,), max_iter=20, random_state=0)
    >>> pipeline = make_pipeline(StandardScaler(), student).fit(X)
    >>> save(pipeline, "digits.student")  # doctest: +SKIP
    >>> bool((load(to_bytes(pipeline)).predict(X) == pipeline.predict(X)).all())
    True
    """
    container.save(to_bytes(estimator, dtype=dtype), path)


def to_bytes(estimator: BaseEstimator, *, dtype: str = "float64") -> bytes:
    """Return the student file of a fitted estimator or Pipeline.

    Parameters
    ----------
    estimator : Distiller, compressor, Pipeline that ends in one, or a search over them
        Fitted. Of a search (GridSearchCV and all others with a `best_estimator_`) the best one. The steps before the
        last one may be StandardScaler, MinMaxScaler, MaxAbsScaler, RobustScaler, PCA,
        `mbn.preprocessing.ImageMoments` and pipelines of them.
    dtype : {"float64", "float32"}, default="float64"
        Type of the scalers' values; values that float32 holds exactly are always stored as float32. With "float32" the
        file is smaller by four bytes per value, and scaled rows differ by about 1e-7 of the subtracted offset.

    Returns
    -------
    bytes

    Raises
    ------
    TypeError
        If the last step is not a Distiller or compressor, or another step is not supported.
    ValueError
        If `dtype` is unknown.
    sklearn.exceptions.NotFittedError
        If a step is not fitted.

    Notes
    -----
    Scalers are computed in float64, one operation after the other, as scikit-learn does for float64 or integer X, and
    so are moments of images: for those the predictions of the file and of the Pipeline are bit-identical. For float32
    rows scikit-learn rounds after every operation, and the order of additions in a PCA depends on the number of rows:
    predictions then differ by the effect of a change in the last digits of a float32 row.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(repr, _DTYPES))}, got {dtype!r}")
    *before, (name, student) = _flat_steps(estimator)
    if not isinstance(student, StudentMixin | Student):
        raise TypeError(
            f"a student file needs a Distiller or a compressor, or a Pipeline that ends in one, got {name} "
            f"({type(student).__name__})"
        )
    steps: list[AnyStep] = []
    translations = _translations()
    for step_name, transformer in before:
        if type(transformer) not in translations:
            known = ", ".join(kind.__name__ for kind in translations)
            raise TypeError(
                f"{step_name} ({type(transformer).__name__}) cannot go into a student file: the steps "
                f"before the student may be {known}; save the last step alone, pipeline[-1].save(path), and give its "
                "student the rows pipeline[:-1].transform(X); or put the step into the teacher, "
                "Distiller(make_pipeline(..., teacher)), and fit again: the student then takes the rows as they are, "
                "missing values included"
            )
        check_is_fitted(transformer)
        steps += translations[type(transformer)](transformer)
    data = student.to_bytes()
    if not before:
        return data
    # A compressed student file may have preprocessing of its own, after that of the pipeline
    steps += container.decode(data).steps
    if dtype == "float32":
        steps = [
            Step(step.operation, np.asarray(step.values, np.float32)) if isinstance(step, Step) else step
            for step in steps
        ]
    first = before[0][1]
    names = tuple(map(str, first.feature_names_in_)) if hasattr(first, "feature_names_in_") else None
    return container.with_steps(data, first.n_features_in_, steps, names)


def _flat_steps(estimator: Any, name: str = "estimator") -> Iterator[tuple[str, Any]]:
    """Yield name and estimator of all steps, those of nested pipelines included, without passthrough steps."""
    if isinstance(estimator, FrozenEstimator):
        yield from _flat_steps(estimator.estimator, name)
    elif hasattr(estimator, "best_estimator_"):  # a search
        yield from _flat_steps(estimator.best_estimator_, name)
    elif hasattr(estimator, "refit") and hasattr(estimator, "estimator") and not isinstance(estimator, StudentMixin):
        check_is_fitted(estimator)
        raise TypeError(
            f"{name} ({type(estimator).__name__}) has no best_estimator_, because refit={estimator.refit!r}: there is "
            "nothing to save; search with refit=True, or fit and save the estimator with the parameters that you want"
        )
    elif isinstance(estimator, Pipeline):
        for step_name, step in estimator.steps:
            if step is not None and step != "passthrough":
                yield from _flat_steps(step, f"step {step_name!r}")
    else:
        yield name, estimator


def _standard(scaler: StandardScaler) -> list[Step]:
    """Return the steps of the standardization."""
    subtraction = [Step("subtract", scaler.mean_)] if scaler.with_mean else []
    return subtraction + ([Step("divide", scaler.scale_)] if scaler.with_std else [])


def _min_max(scaler: MinMaxScaler) -> list[Step]:
    """Return the steps of the scaling to a range."""
    clip = [Step("clip", np.array(scaler.feature_range, np.float64))] if scaler.clip else []
    return [Step("multiply", scaler.scale_), Step("add", scaler.min_), *clip]


def _max_abs(scaler: MaxAbsScaler) -> list[Step]:
    """Return the steps of the division by the largest magnitude."""
    clip = [Step("clip", np.array([-1.0, 1.0]))] if getattr(scaler, "clip", False) else []
    return [Step("divide", scaler.scale_), *clip]


def _robust(scaler: RobustScaler) -> list[Step]:
    """Return the steps of the centering and scaling by quantiles."""
    subtraction = [Step("subtract", scaler.center_)] if scaler.with_centering else []
    return subtraction + ([Step("divide", scaler.scale_)] if scaler.with_scaling else [])


def _pca(pca: PCA) -> list[Step]:
    """Return the steps of the projection onto principal components, without the subtraction of a negligible mean."""
    components = pca.components_.astype(np.float64)
    if pca.whiten:
        std = np.sqrt(pca.explained_variance_.astype(np.float64))
        components /= np.maximum(std, np.finfo(pca.explained_variance_.dtype).eps)[:, None]
    std = np.sqrt(pca.explained_variance_.sum() / len(pca.mean_))
    centered = np.abs(pca.mean_).max() <= _NEGLIGIBLE_MEAN * std
    return [*([] if centered else [Step("subtract", pca.mean_)]), Step("product", components.T.astype(np.float32))]


def _image_moments(transformer: Any) -> list[MomentsStep]:
    """Return the step of the moments, none if nothing is to be done."""
    blur = float(np.float32(transformer.blur))
    flags = bool(transformer.centre), bool(transformer.deskew), bool(transformer.scale)
    return [MomentsStep(transformer.shape_, *flags, blur)] if any(flags) or blur else []


_TRANSLATIONS: dict[type, Callable[[Any], list]] = {
    StandardScaler: _standard,
    MinMaxScaler: _min_max,
    MaxAbsScaler: _max_abs,
    RobustScaler: _robust,
    PCA: _pca,
}


def _translations() -> dict[type, Callable[[Any], list]]:
    """Return the functions that translate steps of a Pipeline, by type."""
    # The one place where this package knows the other, only when a pipeline is written
    from mbn.preprocessing import ImageMoments

    return _TRANSLATIONS | {ImageMoments: _image_moments}
