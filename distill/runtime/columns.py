"""Columns by name, out of data frames and all other containers that name theirs.

Containers are recognized by what they offer, so that no library is imported: data frames of pandas, polars (lazy ones
as well), dask, pyarrow (tables, record batches and their readers), series of structs of these, duckdb's relations,
NumPy's structured arrays, dicts of columns, lists of dicts or of named tuples, data sets of xarray and arrays of xarray
with names along the second dimension.

>>> import numpy as np
>>> table = {"height": [1.5, 2.0], "width": [3, 4]}
>>> column_names(table)
('height', 'width')
>>> matrix(table, ("width", "height"))
array([[3. , 1.5],
       [4. , 2. ]])
"""

import sys
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["cells", "check_labels", "column_names", "in_memory", "matrix", "single_row", "structured"]

# Kinds of the dtypes of real numbers, and what the others are called
_NUMERIC = "fiub"
_KINDS = {"M": "dates", "m": "time spans", "c": "complex numbers", "U": "text", "S": "bytes", "V": "several values"}


def column_names(X: Any) -> tuple[str, ...] | None:
    """Return the names of the columns of X, or None if it has none, or some that are no strings.

    Parameters
    ----------
    X : object
        Any container of rows.

    Returns
    -------
    tuple of str or None
    """
    keys = _keys(X)
    return tuple(map(str, keys)) if keys and all(isinstance(key, str) for key in keys) else None


def matrix(X: Any, names: Sequence[str] | None = None) -> Any:
    """Return X as an array or a CSR matrix, its columns by name.

    Parameters
    ----------
    X : {array-like, container of columns, sparse matrix} of shape (n_samples, n_features)
    names : sequence of str or None
        Columns to return, in this order. An X without names is returned as it is, as is one whose labels are 0, 1, 2,
        ..., as of a data frame made from an array.

    Returns
    -------
    ndarray or CSR
        Columns of a container in their common type; missing values are NaN.

    Raises
    ------
    ValueError
        If a name is missing or found twice, X has other columns as well, its labels are neither names nor 0, 1, 2, ...,
        or a column does not hold one real number for each row.

    Examples
    --------
    >>> matrix([{"b": 2, "a": 1}, {"a": 3, "b": 4}], ("a", "b"))
    array([[1, 2],
           [3, 4]])
    """
    if hasattr(X, "tocsr"):
        return X.tocsr()
    X = _opened(X)
    keys = _keys(X)
    if not keys:
        return _plain(X)
    check_labels(X, names)
    order: Sequence | None = None
    if names is not None and all(isinstance(key, str) for key in keys) and list(keys) != list(names):
        _check_names(X, keys, names)
        order = names
    X = in_memory(X)
    # Not of polars and pyarrow, which make numbers of dates
    if isinstance(X, np.ndarray) or hasattr(X, "iloc") or (hasattr(X, "coords") and not isinstance(X, Mapping)):
        whole = _whole(X, keys)
        if whole is not None:
            return whole if order is None else whole[:, [keys.index(name) for name in order]]
        if len(set(keys)) < len(keys):  # then single columns cannot be had by their names
            return _plain(X)
    return _side_by_side(X, keys if order is None else order)


def cells(X: Any, names: Sequence[str] | None = None, needed: Collection[int] | None = None) -> Any:
    """Return the columns of X with values of any type, each in its own type.

    Parameters
    ----------
    X : {array-like, container of columns, sparse matrix} of shape (n_samples, n_features)
        A dict may hold a single value for each name: one row.
    names : sequence of str or None
        Columns to return, in this order; see `matrix`.
    needed : collection of int or None
        Indices of the names that X must have; None for all. Others may be absent, and are then columns of None.

    Returns
    -------
    ndarray or CSR of numbers of shape (n_samples, n_features), or list of ndarray of shape (n_samples,)
        Arrays of a list hold numbers or Python objects; pandas's missing values are NaN.

    Raises
    ------
    ValueError
        As in `matrix`, but not for columns of text and objects.

    Examples
    --------
    >>> cells({"color": "red", "size": 2}, ("size", "color"))
    [array([2]), array(['red'], dtype=object)]
    """
    if hasattr(X, "tocsr"):
        return X.tocsr()
    X = _opened(X)
    keys = _keys(X)
    if not keys:
        return _plain_cells(X)
    check_labels(X, names)
    order: Sequence = keys
    if names is not None and all(isinstance(key, str) for key in keys):
        found = set(keys)
        present = [name for index, name in enumerate(names) if needed is None or index in needed or name in found]
        if list(keys) != present:
            _check_names(X, keys, present)
        order = names
    X = in_memory(X)
    # A name that is there twice can be had by its position only
    if len(set(keys)) < len(keys):
        _check_twice(keys, keys)
    if isinstance(X, list | tuple):
        X = _transposed(X, [name for name in order if name in keys])
    elif hasattr(X, "coords") and hasattr(X, "dims") and not isinstance(X, Mapping):
        X = dict(zip(keys, np.asarray(X).T))
    elif isinstance(X, Mapping) and all(np.ndim(X[key]) == 0 for key in keys):
        X = {key: _objects([X[key]]) for key in keys}
    columns = [_cells_of(X[name], name) if name in keys else None for name in order]
    n_rows = next(len(column) for column in columns if column is not None)
    for name, column in zip(order, columns):
        if column is not None and len(column) != n_rows:
            raise ValueError(
                f"column {name!r} of X has {len(column)} values, and another column has {n_rows}; all columns must be "
                "of one length"
            )
    return [np.full(n_rows, None) if column is None else column for column in columns]


def structured(X: Any) -> np.ndarray:
    """Return a container of named columns as a structured array, in memory and of one type.

    Raises
    ------
    ValueError
        If a name is found twice, or a column does not hold one real number for each row.

    Examples
    --------
    >>> structured({"a": [1, 2], "b": [3, 4]})
    array([(1, 3), (2, 4)], dtype=[('a', '<i8'), ('b', '<i8')])
    """
    names = column_names(X) or ()
    _check_twice(names, names)
    values = np.ascontiguousarray(matrix(X))
    return values.view([(name, values.dtype) for name in names]).reshape(len(values))


def check_labels(X: Any, names: Sequence[str] | None) -> None:
    """Raise ValueError if columns would be taken by position although their labels say another order, or may.

    Parameters
    ----------
    X : object
        Any container of rows. Labels that are all strings, and none at all, are right here.
    names : sequence of str or None
        Names of the columns that are wanted. Without them labels only must not count the columns in another order: an
        integer is a position to most libraries.

    Examples
    --------
    >>> check_labels([{0: 1.5, 1: 2.5}], ("a", "b"))
    >>> check_labels({1: [1.5], 0: [2.5]}, None)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    ValueError: X has the column labels [1, 0], which count the columns in another order; give {label: X[label] for ...
    """
    keys = _keys(X) or []
    count = list(range(len(keys)))
    if all(isinstance(key, str) for key in keys) or keys == count:
        return
    labels = f"{keys[:5]}{' and more' if len(keys) > 5 else ''}"
    if names is None:
        if set(keys) == set(count):
            raise ValueError(
                f"X has the column labels {labels}, which count the columns in another order; give "
                f"{_selection(X, f'range({len(keys)})', 'label')}, or rename them"
            )
        return
    raise ValueError(
        f"X has the column labels {labels}, and the student was fitted with the names {list(names)[:5]}; "
        f"{_naming(X, keys, names)}"
    )


def in_memory(X: Any) -> Any:
    """Return a lazy container in memory, computed or read once, and any other as it is."""
    if hasattr(X, "collect_schema") and hasattr(X, "collect"):  # polars
        return X.collect()
    if getattr(X, "__dask_graph__", None) is not None:
        return X.compute()
    if hasattr(X, "fetchnumpy"):  # duckdb
        return X.fetchnumpy()
    if hasattr(X, "toPandas"):  # Spark
        return X.toPandas()
    if _is_reader(X):
        return X.read_all()
    return X


def single_row(X: Any, n_features: int) -> str:
    """Return the advice to write a vector as rows: as one row, or as one feature where that is all there is."""
    if hasattr(X, "tolist") and getattr(getattr(X, "dtype", None), "kind", "") == "O" and len(X):
        value = next(iter(X))
        if isinstance(value, Mapping):
            return "X.tolist() is a list of rows that name their values"
        if not isinstance(value, str) and hasattr(value, "__len__"):
            return "numpy.array(X.tolist()) has a row for each value"
    n_values = len(X) if hasattr(X, "__len__") else 0
    column = n_features == 1 and n_values > 1
    if type(X) is np.ndarray:
        return "X[:, None] has a row for each value" if column else "X[None] is a single row"
    if isinstance(X, list | tuple):
        return "[[value] for value in X] has a row for each value" if column else "[X] is a single row"
    if hasattr(X, "to_frame") and column:
        return "X.to_frame() has a row for each value"
    if hasattr(X, "to_frame") and hasattr(X, "index"):
        return "X.to_frame().T is a single row"
    return "numpy.asarray(X)[:, None] has a row for each value" if column else "numpy.asarray(X)[None] is a single row"


def _opened(X: Any) -> Any:
    """Return a series of structs as a container of their columns, and any other X as it is."""
    if isinstance(X, np.ndarray | list | tuple):
        return X
    dtype = getattr(X, "dtype", None)
    if hasattr(getattr(X, "type", None), "get_field_index") and hasattr(X, "flatten"):  # pyarrow
        names = [X.type.field(index).name for index in range(X.type.num_fields)]
        _check_twice(names, names)
        return dict(zip(names, X.flatten()))
    if hasattr(dtype, "fields") and hasattr(getattr(X, "struct", None), "unnest"):  # polars
        return X.struct.unnest()
    if hasattr(getattr(dtype, "pyarrow_dtype", None), "get_field_index"):  # pandas
        return X.struct.explode()
    return X


def _is_reader(X: Any) -> bool:
    """Return whether X is a reader of record batches, which can be read once."""
    return callable(getattr(X, "read_all", None)) and hasattr(getattr(X, "schema", None), "names")


def _keys(X: Any) -> list | None:
    """Return the names of the columns, which need not be strings, or None."""
    if isinstance(X, np.ndarray):
        return None if X.dtype.names is None else list(X.dtype.names)
    if hasattr(X, "tocsr"):  # one of them is a dict, of positions
        return None
    X = _opened(X)
    if isinstance(X, list | tuple):
        row = X[0] if len(X) else None
        return list(row) if isinstance(row, Mapping) else list(getattr(row, "_fields", ())) or None
    if hasattr(X, "collect_schema"):  # of polars: to ask a lazy frame for its columns gives a warning
        return list(X.collect_schema().names())
    if isinstance(X, Mapping):  # dicts, data sets of xarray, files of NumPy with several arrays
        return list(X)
    for attribute in ("column_names", "columns"):  # in pyarrow, `columns` are the values
        found = getattr(X, attribute, None)
        if found is not None and not callable(found):
            return list(found)
    if _is_reader(X):
        return list(X.schema.names)
    if hasattr(X, "coords") and hasattr(X, "dims") and len(X.dims) == 2 and X.dims[1] in X.coords:  # of xarray
        return np.asarray(X.coords[X.dims[1]]).tolist()
    return None


def _plain(X: Any) -> np.ndarray:
    """Return a container without names of columns as an array."""
    try:
        if isinstance(X, np.ma.MaskedArray):  # as an array it would show what is behind the mask
            return np.ma.filled(X.astype(np.float64), np.nan)
        return np.asarray(X)
    except ValueError as error:
        raise ValueError(f"X must be an array of numbers with rows of equal length: {error}") from error


def _check_names(X: Any, keys: list, names: Sequence[str]) -> None:
    """Raise ValueError unless the columns are the names, in any order."""
    found, wanted = set(keys), set(names)
    missing, unknown = [name for name in names if name not in found], [key for key in keys if key not in wanted]
    if missing:
        raise ValueError(
            f"X must have the columns the student was fitted with: {len(missing)} are missing {missing[:5]}, "
            f"{len(unknown)} are unknown {unknown[:5]}"
        )
    if unknown:
        raise ValueError(
            f"X has columns that the student was not fitted with, {len(unknown)} are unknown {unknown[:5]}; use "
            f"{_selection(X)}"
        )
    _check_twice(keys, names)


def _check_twice(keys: Sequence, names: Sequence[str]) -> None:
    """Raise ValueError if a column that is taken by its name is there twice."""
    if len(set(keys)) < len(keys):
        twice = next(name for name in names if list(keys).count(name) > 1)
        raise ValueError(f"X has the column {twice!r} more than once; rename one of them")


def _selection(X: Any, names: str = "student.feature_names_in_", name: str = "name") -> str:
    """Return the code that selects columns, of which `names` is the code and `name` is one."""
    if isinstance(X, Mapping):
        return f"{{{name}: X[{name}] for {name} in {names}}}"
    if isinstance(X, list | tuple):
        return f"[{{{name}: row[{name}] for {name} in {names}}} for row in X]"
    if hasattr(X, "fetchnumpy"):
        return f"X.select(*{names})"
    if _is_reader(X):
        return f"X.read_all().select(list({names}))"
    return f"X.select(list({names}))" if hasattr(X, "select") else f"X[list({names})]"


def _naming(X: Any, keys: list, names: Sequence[str]) -> str:
    """Return the code that gives the columns their names."""
    if hasattr(X, "iloc"):
        tuples = all(isinstance(key, tuple) for key in keys)
        for level in range(min(map(len, keys)) if tuples else 0):
            if {key[level] for key in keys} == set(names):
                return f"X.columns = X.columns.get_level_values({level}) gives them these"
        array = " or give X.to_numpy()" if hasattr(X, "to_numpy") else ""
        return f"if its columns are in this order, set X.columns = student.feature_names_in_{array}"
    if isinstance(X, Mapping):
        return "if its columns are in this order, give dict(zip(student.feature_names_in_, X.values()))"
    if isinstance(X, list | tuple):
        return "if its values are in this order, give [list(row.values()) for row in X]"
    return "if its columns are in this order, give numpy.asarray(X)"


def _whole(X: Any, keys: list) -> np.ndarray | None:
    """Return all columns at once, which is faster, or None where they are not numbers or not of one type."""
    if isinstance(X, np.ndarray) and X.dtype.names is not None:
        dtypes = {X.dtype.fields[name][0] for name in keys}
        dtype = dtypes.pop()
        packed = not dtypes and dtype.subdtype is None and X.dtype.itemsize == dtype.itemsize * len(keys)
        if not (packed and X.ndim == 1 and X.flags.c_contiguous and not isinstance(X, np.ma.MaskedArray)):
            return None
        whole = np.asarray(X).view(dtype).reshape(len(X), len(keys))
    else:
        whole = np.asarray(X)
    numeric = whole.ndim == 2 and whole.shape[1] == len(keys) and whole.dtype.kind in _NUMERIC
    return whole if numeric else None


def _side_by_side(X: Any, names: Sequence) -> np.ndarray:
    """Return single columns as a matrix of their common type."""
    if isinstance(X, list | tuple):
        X = _transposed(X, names)
    elif hasattr(X, "coords") and hasattr(X, "dims") and not isinstance(X, Mapping):
        X = dict(zip(names, np.asarray(X).T))
    columns = [_numbers(X[name], name) for name in names]
    for name, column in zip(names, columns):
        if len(column) != len(columns[0]):
            raise ValueError(
                f"column {name!r} of X has {len(column)} values, and column {names[0]!r} has {len(columns[0])}; all "
                "columns must be of one length"
            )
    return np.column_stack(columns)


def _transposed(X: Sequence, names: Sequence) -> dict[Any, list]:
    """Return rows that name their values as a dict of columns."""
    columns: dict[Any, list] = {name: [] for name in names}
    for index, row in enumerate(X):
        values = row if isinstance(row, Mapping) else dict(zip(getattr(row, "_fields", ()), row))
        if values.keys() != columns.keys() and set(names) - set(values):
            lacking = [name for name in names if name not in values]
            raise ValueError(f"row {index} of X lacks the values {lacking[:5]}")
        for name in names:
            columns[name].append(values[name])
    return columns


def _numbers(column: Any, name: Any) -> np.ndarray:
    """Return the values of a column as real numbers, missing ones as NaN."""
    where = f"column {name!r} of X"
    values = column if isinstance(column, np.ma.MaskedArray) else np.asarray(column)
    if values.ndim != 1:
        # pandas returns a frame for a name that it has twice
        raise ValueError(
            f"{where} has the shape {values.shape}; it needs one number for each row"
            + ("; of a single row it is [value]" if values.ndim == 0 else "")
        )
    if isinstance(values, np.ma.MaskedArray):
        values = np.ma.filled(values.astype(np.float64), np.nan) if values.dtype.kind in _NUMERIC else values.filled()
    if values.dtype.kind == "O":
        values = _from_objects(column, values, where)
    if values.dtype.kind not in _NUMERIC:
        kind = _KINDS.get(values.dtype.kind, "values")
        shown = f", such as {values[0]!s}" if len(values) else ""
        raise ValueError(f"{where} holds {kind}{shown}; give numbers, made as for the fit")
    return values


def _from_objects(column: Any, values: np.ndarray, where: str) -> np.ndarray:
    """Return Python objects as float64."""
    try:
        if hasattr(column, "to_numpy") and hasattr(column, "isna"):  # pandas: it knows its missing values
            return column.to_numpy(dtype=np.float64, na_value=np.nan)
        return values.astype(np.float64)
    except (TypeError, ValueError):
        pass
    for value in values:
        try:
            if value is not None:
                float(value)
        except (TypeError, ValueError):
            kind = "text" if isinstance(value, str) else "values that are no numbers"
            raise ValueError(f"{where} holds {kind}, such as {value!r}; give numbers, made as for the fit") from None
    raise ValueError(f"{where} holds no numbers")


def _plain_cells(X: Any) -> Any:
    """Return a container without names as a matrix of numbers, or its columns as a list."""
    if isinstance(X, list | tuple) and not hasattr(X, "dtype"):
        # An array of numbers and text would be one of text
        lengths = {len(row) if isinstance(row, list | tuple | np.ndarray) else -1 for row in X}
        if len(lengths) > 1:
            raise ValueError(f"X must have rows of equal length, and they have {sorted(lengths)[:5]} values")
        width = lengths.pop() if lengths else 0
        if width >= 0:
            return [_cells_of([row[index] for row in X], index) for index in range(width)]
        return [_cells_of(X, 0)]
    array = _plain(X)
    if array.ndim == 1:
        return [_cells_of(X, 0)]
    if array.ndim != 2:
        raise ValueError(f"X must have two dimensions, and its shape is {array.shape}; it needs a row per sample")
    if array.dtype.kind in _NUMERIC:
        return array
    return [_cells_of(column, index) for index, column in enumerate(array.T)]


def _cells_of(column: Any, name: Any) -> np.ndarray:
    """Return a column as numbers or as Python objects, among which pandas's missing value is NaN."""
    where = f"column {name!r} of X"
    dtype = getattr(column, "dtype", None)
    if isinstance(column, np.ma.MaskedArray):
        if column.dtype.kind in _NUMERIC:
            return np.ma.filled(column.astype(np.float64), np.nan) if np.ma.is_masked(column) else np.asarray(column)
        values = np.array(column.data, object)
        values[np.ma.getmaskarray(column)] = None
    elif hasattr(column, "isna") and hasattr(column, "to_numpy") and getattr(dtype, "kind", "O") in _NUMERIC:
        # Nullable numbers of pandas: integers stay integers where none is missing
        missing = bool(column.isna().any())
        values = column.to_numpy(dtype=np.float64, na_value=np.nan) if missing else np.asarray(column.to_numpy())
        if not missing and values.dtype.kind == "O":
            values = np.array(values.tolist())
    elif isinstance(column, list | tuple):
        values = _objects(column)
    elif hasattr(getattr(column, "type", None), "index_type"):
        # As an array, categories of pyarrow lose what is missing
        values = _objects(column.to_pylist())
    else:
        values = np.asarray(column)
    if values.ndim != 1:
        raise ValueError(f"{where} has the shape {values.shape}; it needs one value for each row")
    if values.dtype.kind in "US":
        if values.dtype.kind == "S":
            raise ValueError(f"{where} holds bytes, such as {values[:1].tolist()}; decode them")
        values = values.astype(object)
    if values.dtype.kind == "O":
        unknown = getattr(sys.modules.get("pandas"), "NA", None)
        if unknown is not None:
            hidden = np.array([value is unknown for value in values], bool)
            if hidden.any():
                values = values.copy()
                values[hidden] = np.nan
    elif values.dtype.kind not in _NUMERIC:
        kind = _KINDS.get(values.dtype.kind, "values")
        shown = f", such as {values[0]!s}" if len(values) else ""
        raise ValueError(f"{where} holds {kind}{shown}; give numbers or text, made as for the fit")
    return values


def _objects(values: Sequence) -> np.ndarray:
    """Return values as an array of numbers if all are numbers of one type, else of objects."""
    types = {type(value) for value in values}
    if len(types) == 1 and types <= {int, float, bool}:
        array = np.array(values)
        if array.dtype.kind in _NUMERIC:
            return array
    array = np.empty(len(values), object)
    array[:] = values
    return array
