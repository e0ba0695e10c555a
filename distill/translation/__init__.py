"""Translate fitted transformers of scikit-learn into what a student file contains.

Each module has the functions of one family; here are those that contain others: pipelines, unions, columns.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, IncrementalPCA, TruncatedSVD
from sklearn.feature_extraction.text import TfidfTransformer
from sklearn.feature_selection import SelectorMixin
from sklearn.frozen import FrozenEstimator
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.preprocessing import KBinsDiscretizer, OrdinalEncoder, QuantileTransformer, TargetEncoder
from sklearn.utils.validation import check_is_fitted

from distill.codecs import table
from distill.codecs.preprocessing import Step
from distill.codecs.table.structure import Select, Union
from distill.translation import categorical, numeric, text

__all__ = ["gives_sparse", "input_of", "known_names", "operations_of", "steps"]

steps = numeric.steps


def known_names() -> list[str]:
    """Return the names of the transformers that can be translated."""
    found = [*numeric.operations(), *categorical.operations(), *text.operations(), ColumnTransformer, FeatureUnion]
    return [*(kind.__name__ for kind in found), "Pipeline", "and selections of features such as SelectKBest"]


def input_of(transformer: Any) -> tuple[int, tuple[str, ...] | None, bool]:
    """Return the number of columns that a fitted transformer takes, their names, and whether it takes texts."""
    if hasattr(transformer, "n_features_in_"):
        names = getattr(transformer, "feature_names_in_", None)
        return transformer.n_features_in_, None if names is None else tuple(map(str, names)), False
    return 1, None, True


def gives_sparse(transformer: Any, sparse: bool = False) -> bool:
    """Return whether a fitted transformer returns a sparse matrix, for rows that are sparse or not."""
    if isinstance(transformer, FrozenEstimator):
        return gives_sparse(transformer.estimator, sparse)
    if isinstance(transformer, Pipeline):
        for _, step in transformer.steps:
            sparse = gives_sparse(step, sparse)
        return sparse
    if isinstance(transformer, FeatureUnion):
        return any(gives_sparse(inner, sparse) for _, inner in transformer.transformer_list)
    if isinstance(transformer, ColumnTransformer):
        return bool(transformer.sparse_output_)
    if hasattr(transformer, "sparse_output"):
        return bool(transformer.sparse_output)
    if isinstance(transformer, KBinsDiscretizer):
        return transformer.encode == "onehot"
    if isinstance(transformer, (*text.VECTORIZERS, TfidfTransformer)):
        return True
    # Those that return what they get, and those that give dense rows
    return sparse and not isinstance(transformer, PCA | IncrementalPCA | TruncatedSVD | OrdinalEncoder | TargetEncoder)


def operations_of(transformer: Any, where: str, sparse: bool = False) -> tuple[Any, ...]:
    """Return the operations of a fitted transformer.

    Parameters
    ----------
    transformer : object
    where : str
        The step, for errors.
    sparse : bool
        Whether the step before it returns a sparse matrix.

    Raises
    ------
    TypeError
        If the transformer, or one in it, cannot go into a student file.
    sklearn.exceptions.NotFittedError
        If it is not fitted.
    """
    if transformer is None or (isinstance(transformer, str) and transformer == "passthrough"):
        return ()
    if isinstance(transformer, FrozenEstimator):
        return operations_of(transformer.estimator, where, sparse)
    if isinstance(transformer, Pipeline):
        operations: tuple[Any, ...] = ()
        for name, step in transformer.steps:
            operations += operations_of(step, f"{where}, step {name!r}", sparse)
            sparse = gives_sparse(step, sparse)
        return operations
    if isinstance(transformer, FeatureUnion):
        return _union(transformer, where, sparse)
    if sparse and isinstance(transformer, QuantileTransformer) and transformer.output_distribution == "normal":
        raise TypeError(
            f"{_named(transformer, where)} comes after a step that returns a sparse matrix, of which it leaves the "
            "zeros as they are; set sparse_output=False in that step, or sparse_threshold=0 in a ColumnTransformer, "
            "and fit again"
        )
    if isinstance(transformer, SelectorMixin):
        check_is_fitted(transformer)
        return numeric.selected(transformer, _named(transformer, where))
    translate = _translations().get(type(transformer))
    if translate is None:
        raise TypeError(
            f"{_named(transformer, where)} cannot go into a student file: the steps before the student may be "
            f"{', '.join(known_names())}; save the last step alone, pipeline[-1].save(path), and give its student "
            "the rows pipeline[:-1].transform(X); or put the step into the teacher, Distiller(make_pipeline(..., "
            "teacher)), and fit again: the student then takes the rows as they are, missing values included"
        )
    if not isinstance(transformer, text.VECTORIZERS):
        check_is_fitted(transformer)
    return translate(transformer, _named(transformer, where))


def _named(transformer: Any, where: str) -> str:
    return f"{where} ({type(transformer).__name__})"


def _translations() -> dict[type, Callable[[Any, str], tuple[Any, ...]]]:
    return {
        **numeric.operations(),
        **categorical.operations(),
        **text.operations(),
        ColumnTransformer: _columns,
    }


def _columns(transformer: ColumnTransformer, where: str) -> tuple[Any, ...]:
    indices = transformer._transformer_to_input_indices
    weights = transformer.transformer_weights or {}
    branches = []
    for name, inner, _ in transformer.transformers_:
        chosen = tuple(int(index) for index in np.atleast_1d(indices[name]))
        if not chosen or (isinstance(inner, str) and inner == "drop"):
            continue
        operations = (Select(chosen), *operations_of(inner, f"{where}, transformer {name!r}"))
        branches.append(_weighted(operations, transformer.n_features_in_, weights.get(name)))
    return (Union(tuple(branches)),)


def _union(transformer: FeatureUnion, where: str, sparse: bool) -> tuple[Any, ...]:
    weights = transformer.transformer_weights or {}
    branches = []
    for name, inner in transformer.transformer_list:
        if isinstance(inner, str) and inner == "drop":
            continue
        operations = operations_of(inner, f"{where}, transformer {name!r}", sparse)
        n_columns = input_of(inner)[0] if not isinstance(inner, str) else transformer.n_features_in_
        branches.append(_weighted(operations, n_columns, weights.get(name)))
    return (Union(tuple(branches)),)


def _weighted(operations: tuple[Any, ...], n_columns: int, weight: float | None) -> tuple[Any, ...]:
    """Return operations whose results are multiplied by a weight."""
    width = 0 if weight is None else table.n_outputs(operations, n_columns)
    if not width:
        return operations
    return (*operations, *numeric.elementwise([Step("multiply", np.array(weight, np.float64))], width))
