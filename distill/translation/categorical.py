"""Fitted encoders of categories and imputers as operations of a student file."""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.impute import MissingIndicator, SimpleImputer
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

from distill.codecs.table import categorical, numeric
from distill.codecs.table.fields import is_nan
from distill.translation.plain import plain_value, plain_values

__all__ = ["operations"]


def operations() -> dict[type, Callable[[Any, str], tuple[Any, ...]]]:
    """Return the functions that translate transformers of categories and missing values into operations, by type."""
    return {
        SimpleImputer: _imputed,
        MissingIndicator: _indicated,
        OneHotEncoder: _one_hot,
        OrdinalEncoder: _ordinal,
        TargetEncoder: _by_target,
    }


def _imputed(imputer: SimpleImputer, where: str) -> tuple[Any, ...]:
    missing = plain_value(imputer.missing_values, where)
    statistics, kept = imputer.statistics_, np.arange(len(imputer.statistics_))
    if not imputer.keep_empty_features:
        empty = np.array([is_nan(plain_value(value, where)) for value in statistics], bool)
        statistics, kept = statistics[~empty], kept[~empty]
    # scikit-learn 1.7 and later give them the type of the fit's rows, which is in a private attribute
    fills = plain_values(statistics.astype(getattr(imputer, "_fill_dtype", statistics.dtype), copy=False), where)
    indicated = tuple(imputer.indicator_.features_.tolist()) if imputer.add_indicator else ()
    return (
        *_checked(missing),
        categorical.Impute(missing, tuple(kept.tolist()), fills, indicated),
    )


def _indicated(indicator: MissingIndicator, where: str) -> tuple[Any, ...]:
    missing = plain_value(indicator.missing_values, where)
    refuses = bool(indicator.error_on_new) and indicator.features == "missing-only"
    return (
        *_checked(missing),
        categorical.Indicate(missing, tuple(indicator.features_.tolist()), refuses),
    )


def _checked(missing: Any) -> tuple[Any, ...]:
    """Return the operation that refuses NaN where a number stands for a missing value."""
    return (numeric.Complete(),) if isinstance(missing, int | float) and not is_nan(missing) else ()


def _groups(encoder: Any, index: int, n_categories: int) -> np.ndarray:
    """Return for each category its index after the infrequent ones have been grouped."""
    # scikit-learn has the mapping in a private attribute only; the public ones do not tell its order
    mappings = getattr(encoder, "_default_to_infrequent_mappings", None)
    mapping = None if mappings is None or not encoder._infrequent_enabled else mappings[index]
    groups = np.arange(n_categories)
    if mapping is not None:
        groups[: len(mapping)] = mapping
    return groups


def _has_infrequent(encoder: Any, index: int) -> bool:
    return bool(encoder._infrequent_enabled) and encoder._infrequent_indices[index] is not None


def _one_hot(encoder: OneHotEncoder, where: str) -> tuple[Any, ...]:
    dropped = encoder._drop_idx_after_grouping
    features = []
    for index, categories in enumerate(encoder.categories_):
        values = plain_values(categories, f"{where}, column {index},")
        codes = _groups(encoder, index, len(values))
        unknown: int | None = -1
        if encoder.handle_unknown == "error":
            unknown = None
        elif encoder.handle_unknown in ("infrequent_if_exist", "warn") and _has_infrequent(encoder, index):
            unknown = int(codes.max())
        drop = None if dropped is None else dropped[index]
        if drop is not None:
            if unknown is not None and unknown >= 0:
                unknown = -1 if unknown == drop else unknown - (unknown > drop)
            codes = np.where(codes == drop, -1, codes - (codes > drop))
        n_outputs = int(encoder._n_features_outs[index])
        features.append(categorical.Categories(values, tuple(codes.tolist()), n_outputs, unknown))
    return (categorical.OneHot(tuple(features)),)


def _ordinal(encoder: OrdinalEncoder, where: str) -> tuple[Any, ...]:
    features = []
    for index, categories in enumerate(encoder.categories_):
        values = plain_values(categories, f"{where}, column {index},")
        numbers = _groups(encoder, index, len(values)).astype(encoder.dtype)
        if index in encoder._missing_indices:
            numbers[encoder._missing_indices[index]] = encoder.encoded_missing_value
        numbers = numbers.astype(np.float64)
        unknown = None
        if encoder.handle_unknown == "use_encoded_value":
            unknown = np.array([encoder.unknown_value]).astype(encoder.dtype).astype(np.float64)
        is_index = np.array_equal(numbers, np.arange(len(values)))
        features.append(categorical.Numbers(values, None if is_index else numbers[:, None], unknown))
    return (categorical.Encode(tuple(features)),)


def _by_target(encoder: TargetEncoder, where: str) -> tuple[Any, ...]:
    n_outputs = len(encoder.classes_) if encoder.target_type_ == "multiclass" else 1
    unknown = np.asarray(encoder.target_mean_, np.float64).reshape(n_outputs)
    features = []
    for index, categories in enumerate(encoder.categories_):
        values = plain_values(categories, f"{where}, column {index},")
        encodings = encoder.encodings_[index * n_outputs : (index + 1) * n_outputs]
        features.append(categorical.Numbers(values, np.column_stack(encodings).astype(np.float64), unknown))
    return (categorical.Encode(tuple(features)),)
