"""Save a fitted Pipeline as a student file, with all of its preprocessing."""

import os
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from distill import translation
from distill.base import StudentMixin
from distill.codecs import container
from distill.codecs.preprocessing import Step
from distill.codecs.table import TableStep
from distill.runtime import Student

_DTYPES = ("float64", "float32")


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
        last one may be scikit-learn's scalers, encoders, imputers, vectorizers of texts, selections of features, PCA
        and TruncatedSVD, `mbn.preprocessing.ImageMoments`, and pipelines, unions and ColumnTransformers of them; an
        error for any other step names all.
    dtype : {"float64", "float32"}, default="float64"
        Type of the steps' values; values that float32 holds exactly are always stored as float32. With "float32" the
        file is smaller by four bytes per value, and scaled rows differ by about 1e-7 of the subtracted offset.
        Categories, values of imputers and the knots of splines are always stored exactly.

    Returns
    -------
    bytes

    Raises
    ------
    TypeError
        If the last step is not a Distiller or compressor, or another step is not supported, or has a function, a
        pattern or a category that a file cannot hold.
    ValueError
        If `dtype` is unknown.
    sklearn.exceptions.NotFittedError
        If a step is not fitted.

    Notes
    -----
    Steps are computed in float64, one operation after the other, as scikit-learn does for float64 or integer X: the
    predictions of the file and of the Pipeline are bit-identical, unless a sum is added in another order (PCA,
    TruncatedSVD, Normalizer) or a function is computed by another library (PowerTransformer, normal quantiles). For
    float32 rows scikit-learn rounds after every operation: predictions then differ by the effect of a change in the
    last digits of a float32 row.

    Scalers, PCA and ImageMoments alone give a file that all versions read; for other steps there is a section that
    versions before it refuse.
    """
    if dtype not in _DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(map(repr, _DTYPES))}, got {dtype!r}")
    *before, (name, student) = _flat_steps(estimator)
    if not isinstance(student, StudentMixin | Student):
        raise TypeError(
            f"a student file needs a Distiller or a compressor, or a Pipeline that ends in one, got {name} "
            f"({type(student).__name__})"
        )
    data = student.to_bytes()
    if not before:
        return data
    # A compressed student file may have preprocessing of its own, after that of the pipeline
    own = container.decode(data).steps
    n_features, names, texts = translation.input_of(before[0][1])
    steps = _numeric_steps(before, own)
    if steps is None:
        steps = _table_steps(before, own, n_features, texts)
    elif dtype == "float32":
        steps = [
            Step(step.operation, np.asarray(step.values, np.float32)) if isinstance(step, Step) else step
            for step in steps
        ]
    return container.with_steps(data, n_features, steps, names, single=dtype == "float32")


def _numeric_steps(before: Sequence[tuple[str, Any]], own: Sequence[Any]) -> list[Any] | None:
    """Return all steps as those of section 0, which every version reads, or None if that is not enough."""
    translations = translation.steps()
    if any(type(transformer) not in translations for _, transformer in before):
        return None
    if any(step.operation == "table" for step in own):
        return None
    steps: list[Any] = []
    for _, transformer in before:
        check_is_fitted(transformer)
        steps += translations[type(transformer)](transformer)
    return [*steps, *own]


def _table_steps(before: Sequence[tuple[str, Any]], own: Sequence[Any], n_columns: int, texts: bool) -> list[Any]:
    """Return all steps as a table, with the student's own steps after it."""
    operations: tuple[Any, ...] = ()
    sparse = False
    for name, transformer in before:
        operations += translation.operations_of(transformer, name, sparse)
        sparse = translation.gives_sparse(transformer, sparse)
    if own and own[0].operation == "table":
        operations, own = operations + own[0].operations, own[1:]
    return [TableStep(n_columns, operations, texts), *own]


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
