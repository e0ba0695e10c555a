"""Copies of what a teacher is given: it may work in place."""

import array
import copy
import mmap
from typing import Any

import numpy as np
from scipy import sparse


def own_copy(data: Any) -> Any:
    """Return data that a teacher may change in place: a copy, or the data itself where they cannot be changed.

    Parameters
    ----------
    data : object
        X, y, or a parameter of fit. A memory map, which may be larger than the memory, is not copied: the result is a
        view that cannot be written to.

    Returns
    -------
    object
        Of the same type.

    Examples
    --------
    >>> X = np.zeros((2, 2))
    >>> np.shares_memory(own_copy(X), X)
    False
    >>> X.flags.writeable = False
    >>> own_copy(X) is X
    True
    """
    if isinstance(data, np.ndarray):
        return _own_array(data)
    if sparse.issparse(data):
        return _own_sparse(data)
    if hasattr(data, "iloc"):  # pandas, and others with its methods
        return data.copy()
    # Tensors and buffers give NumPy their memory, not a copy. Nothing is asked of those that would compute it first
    if (hasattr(data, "__dlpack__") or isinstance(data, array.array | memoryview)) and not hasattr(data, "compute"):
        view = np.asarray(data)
        if view.flags.writeable and np.may_share_memory(view, np.asarray(data)):
            return view.copy() if isinstance(data, memoryview) else copy.deepcopy(data)
    return data


def _own_array(data: np.ndarray) -> np.ndarray:
    """Return a copy of an array, one that cannot be written to as it is, and a memory map as a read-only view."""
    if not data.flags.writeable:
        return data
    if not _is_mapped(data):
        return data.copy(order="K")
    view = data.view()
    view.flags.writeable = False
    return view


def _is_mapped(data: np.ndarray) -> bool:
    """Return whether the values of an array are in a file."""
    base: Any = data
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return isinstance(base, mmap.mmap)


def _own_sparse(data: Any) -> Any:
    """Return a copy of a sparse matrix or array, with those of its arrays that `_own_array` does not copy."""
    parts = {name: value for name, value in vars(data).items() if isinstance(value, np.ndarray)}
    if data.format not in ("csr", "csc", "bsr", "dia"):
        return data.copy()
    own = copy.copy(data)
    vars(own).update({name: _own_array(value) for name, value in parts.items()})
    return own
