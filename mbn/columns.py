"""Names of columns that scikit-learn does not see.

scikit-learn reads them from some data frames. It takes the values of others (dask's, record batches of pyarrow, arrays
of xarray with names along the second dimension) by position, with a warning only where the fit had names.
"""

import warnings
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.utils import check_array
from sklearn.utils.validation import validate_data

__all__ = ["validate_rows"]


def validate_rows(estimator: BaseEstimator, X: Any, *, reset: bool, **check_params) -> Any:
    """Validate X as scikit-learn's `validate_data` does, with names of columns that it does not see.

    Parameters
    ----------
    estimator : estimator
        Its `n_features_in_` and `feature_names_in_` are set or checked.
    X : {array-like, data frame, sparse matrix} of shape (n_samples, n_features)
    reset : bool
        Whether this is a fit.
    **check_params
        See `sklearn.utils.check_array`.

    Returns
    -------
    ndarray or CSR

    Raises
    ------
    ValueError
        If X is invalid, or has other columns than in the fit, or in another order.

    Examples
    --------
    >>> import numpy as np
    >>> class Batch:
    ...     column_names = ["a", "b"]
    ...     def __array__(self, dtype=None, copy=None):
    ...         return np.ones((3, 2))
    >>> estimator = BaseEstimator()
    >>> validate_rows(estimator, Batch(), reset=True).shape, estimator.feature_names_in_
    ((3, 2), array(['a', 'b'], dtype=object))
    """
    names = _names(X)
    fitted = None if reset else vars(estimator).get("feature_names_in_")
    if names is not None and fitted is not None and names == list(fitted):
        return check_array(X, input_name="X", estimator=estimator, **check_params)
    if names is None or (fitted is None and not reset):
        return validate_data(estimator, X, reset=reset, **check_params)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that X has no names, where scikit-learn does not see them
        rows = validate_data(estimator, X, reset=reset, **check_params)
    if fitted is not None:
        raise ValueError(
            f"X has the columns {names[:5]}, and {type(estimator).__name__} was fitted with {list(fitted)[:5]}: give "
            "the same columns in the same order"
        )
    estimator.feature_names_in_ = np.array(names, dtype=object)
    return rows


def _names(X: Any) -> list[str] | None:
    """Return the names of columns, or None if X has none, or some that are no strings."""
    if isinstance(X, np.ndarray | list | tuple) or sparse.issparse(X):
        return None
    if hasattr(X, "collect_schema"):  # of polars: to ask a lazy frame for its columns gives a warning
        return _strings(X.collect_schema().names())
    for attribute in ("column_names", "columns"):  # in pyarrow, `columns` are the values
        found = getattr(X, attribute, None)
        if found is not None and not callable(found):
            return _strings(list(found))
    if hasattr(X, "coords") and hasattr(X, "dims") and len(X.dims) == 2 and X.dims[1] in X.coords:  # of xarray
        return _strings(np.asarray(X.coords[X.dims[1]]).tolist())
    return None


def _strings(names: list) -> list[str] | None:
    return [str(name) for name in names] if names and all(isinstance(name, str) for name in names) else None
