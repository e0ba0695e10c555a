"""Fitted transformers of numbers as steps and operations of a student file."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.feature_selection import SelectorMixin
from sklearn.preprocessing import (
    Binarizer,
    FunctionTransformer,
    KBinsDiscretizer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PolynomialFeatures,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    SplineTransformer,
    StandardScaler,
)  # fmt: skip
from sklearn.random_projection import GaussianRandomProjection, SparseRandomProjection
from sklearn.utils import get_tags

from distill.codecs.preprocessing import AnyStep, MomentsStep, Step
from distill.codecs.table import numeric, structure

__all__ = ["elementwise", "operations", "selected", "steps"]

# A mean this small relative to the standard deviation is below the resolution of float32 rows
_NEGLIGIBLE_MEAN = 1e-9


def _standard(scaler: StandardScaler) -> list[AnyStep]:
    """Return the steps of the standardization."""
    subtraction: list[AnyStep] = [Step("subtract", scaler.mean_)] if scaler.with_mean else []
    return subtraction + ([Step("divide", scaler.scale_)] if scaler.with_std else [])


def _min_max(scaler: MinMaxScaler) -> list[AnyStep]:
    """Return the steps of the scaling to a range."""
    clip = [Step("clip", np.array(scaler.feature_range, np.float64))] if scaler.clip else []
    return [Step("multiply", scaler.scale_), Step("add", scaler.min_), *clip]


def _max_abs(scaler: MaxAbsScaler) -> list[AnyStep]:
    """Return the steps of the division by the largest magnitude."""
    clip = [Step("clip", np.array([-1.0, 1.0]))] if getattr(scaler, "clip", False) else []
    return [Step("divide", scaler.scale_), *clip]


def _robust(scaler: RobustScaler) -> list[AnyStep]:
    """Return the steps of the centering and scaling by quantiles."""
    subtraction: list[AnyStep] = [Step("subtract", scaler.center_)] if scaler.with_centering else []
    return subtraction + ([Step("divide", scaler.scale_)] if scaler.with_scaling else [])


def _pca(pca: PCA) -> list[AnyStep]:
    """Return the steps of the projection onto principal components, without the subtraction of a negligible mean."""
    components = pca.components_.astype(np.float64)
    if pca.whiten:
        components /= _whitening(pca)[:, None]
    std = np.sqrt(pca.explained_variance_.sum() / len(pca.mean_))
    centered = np.abs(pca.mean_).max() <= _NEGLIGIBLE_MEAN * std
    return [*([] if centered else [Step("subtract", pca.mean_)]), Step("product", components.T.astype(np.float32))]


def _whitening(pca: PCA) -> np.ndarray:
    """Return the standard deviations of principal components, without those next to zero."""
    std = np.sqrt(pca.explained_variance_.astype(np.float64))
    return np.maximum(std, np.finfo(pca.explained_variance_.dtype).eps)


def _image_moments(transformer: Any) -> list[AnyStep]:
    """Return the step of the moments, none if nothing is to be done."""
    blur = float(np.float32(transformer.blur))
    flags = bool(transformer.centre), bool(transformer.deskew), bool(transformer.scale)
    return [MomentsStep(transformer.shape_, *flags, blur)] if any(flags) or blur else []


# What goes into section 0; the moments of images by name, because their module is imported only if it is used
_SCALERS: dict[type, Callable[[Any], list[AnyStep]]] = {
    StandardScaler: _standard,
    MinMaxScaler: _min_max,
    MaxAbsScaler: _max_abs,
    RobustScaler: _robust,
}


def steps() -> dict[type, Callable[[Any], list[AnyStep]]]:
    """Return the functions that translate transformers into steps of section 0, by type."""
    # The one place where this package knows the other, only when a pipeline is written
    from mbn.preprocessing import ImageMoments

    return {**_SCALERS, PCA: _pca, ImageMoments: _image_moments}


def operations() -> dict[type, Callable[[Any, str], tuple[Any, ...]]]:
    """Return the functions that translate transformers of numbers into operations, by type."""
    from mbn.preprocessing import ImageMoments

    return {
        **dict.fromkeys(_SCALERS, _scaled),
        PCA: _projected,
        ImageMoments: _moved,
        IncrementalPCA: _projected,
        TruncatedSVD: _multiplied,
        GaussianRandomProjection: _multiplied,
        SparseRandomProjection: _multiplied,
        FunctionTransformer: _function,
        PowerTransformer: _power,
        QuantileTransformer: _quantiles,
        KBinsDiscretizer: _bins,
        Binarizer: lambda step, where: (numeric.Complete(), numeric.Threshold(float(step.threshold))),
        Normalizer: lambda step, where: (numeric.Complete(), numeric.Normalize(step.norm)),
        PolynomialFeatures: _polynomial,
        SplineTransformer: _spline,
    }


def elementwise(steps: list[AnyStep], n_columns: int) -> tuple[Any, ...]:
    """Return the operation of steps of section 0, none if there are no steps."""
    return (numeric.Elementwise(tuple(steps), n_columns),) if steps else ()


def _scaled(scaler: Any, where: str) -> tuple[Any, ...]:
    steps = _SCALERS[type(scaler)](scaler)
    for step in steps:
        if isinstance(step, Step):
            _check_finite(step.values, where)
    return elementwise(steps, scaler.n_features_in_)


def _check_finite(values: np.ndarray, where: str) -> None:
    """Raise ValueError if a transformer has learned no numbers for a column."""
    if not np.isfinite(values).all():
        raise ValueError(
            f"{where} was fitted with a column that was missing in all rows, or infinite; leave the column out, or "
            "fill it in before"
        )


def _moved(transformer: Any, where: str) -> tuple[Any, ...]:
    return (numeric.Complete(), *elementwise(_image_moments(transformer), transformer.n_features_in_))


def _projected(pca: Any, where: str) -> tuple[Any, ...]:
    components = pca.components_.astype(np.float64).T
    after: list[AnyStep] = [Step("subtract", pca.mean_.astype(np.float64) @ components)]
    if pca.whiten:
        after.append(Step("divide", _whitening(pca)))
    return (numeric.Complete(), numeric.Product(components), *elementwise(after, components.shape[1]))


def _multiplied(transformer: Any, where: str) -> tuple[Any, ...]:
    components = transformer.components_
    components = components.toarray() if hasattr(components, "toarray") else components
    return numeric.Complete(), numeric.Product(components.astype(np.float64).T)


def _function(transformer: FunctionTransformer, where: str) -> tuple[Any, ...]:
    checks = (numeric.Complete(),) if transformer.validate else ()
    if transformer.func is None:
        return checks
    names = {getattr(np, name): name for name in numeric.FUNCTIONS}
    known = isinstance(transformer.func, np.ufunc) and transformer.func in names
    if not known or transformer.kw_args:
        shown = getattr(transformer.func, "__name__", repr(transformer.func))
        arguments = f" with kw_args={transformer.kw_args!r}" if transformer.kw_args else ""
        raise TypeError(
            f"{where} has the function {shown}{arguments}, which cannot go into a student file; it may be numpy's "
            f"{', '.join(numeric.FUNCTIONS)}, alone. Compute others before the rows reach the pipeline"
        )
    return (*checks, numeric.Function(names[transformer.func]))


def _power(transformer: PowerTransformer, where: str) -> tuple[Any, ...]:
    exponents = np.asarray(transformer.lambdas_, np.float64)
    powers = (numeric.Power(exponents, transformer.method == "box-cox"),)
    # The fitted scaler is its own only in a private attribute, as in `sklearn.preprocessing.power_transform`
    return powers + (_scaled(transformer._scaler, where) if transformer.standardize else ())


def _quantiles(transformer: QuantileTransformer, where: str) -> tuple[Any, ...]:
    quantiles = np.asarray(transformer.quantiles_, np.float64)
    _check_finite(quantiles, where)
    references = np.asarray(transformer.references_, np.float64)
    return (numeric.Quantiles(quantiles, references, transformer.output_distribution == "normal"),)


def _bins(transformer: KBinsDiscretizer, where: str) -> tuple[Any, ...]:
    if transformer.dtype is not None and np.dtype(transformer.dtype) != np.float64:
        raise TypeError(
            f"{where} has dtype={transformer.dtype!r}, which rounds rows before they are binned; fit it with dtype=None"
        )
    edges = tuple(np.asarray(edges[1:-1], np.float64) for edges in transformer.bin_edges_)
    return numeric.Complete(), numeric.Bins(edges, transformer.encode != "ordinal")


def _polynomial(transformer: PolynomialFeatures, where: str) -> tuple[Any, ...]:
    degree = transformer.degree
    least, largest = (0, degree) if isinstance(degree, int | np.integer) else degree
    flags = bool(transformer.interaction_only), bool(transformer.include_bias)
    return numeric.Complete(), numeric.Polynomial(int(least), int(largest), *flags)


def _spline(transformer: SplineTransformer, where: str) -> tuple[Any, ...]:
    knots = np.column_stack([spline.t for spline in transformer.bsplines_]).astype(np.float64)
    zeros = getattr(transformer, "handle_missing", "error") == "zeros"
    return (
        numeric.Spline(knots, transformer.degree, transformer.extrapolation, bool(transformer.include_bias), zeros),
    )


def selected(selector: SelectorMixin, where: str) -> tuple[Any, ...]:
    """Return the operations of a selection of features."""
    select = structure.Select(tuple(selector.get_support(indices=True).tolist()))
    return (select,) if get_tags(selector).input_tags.allow_nan else (numeric.Complete(), select)
