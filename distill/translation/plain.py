"""Fitted values of scikit-learn as values that a student file can hold."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from distill.codecs.table.fields import Value

__all__ = ["plain_value", "plain_values"]


def plain_value(value: Any, where: str) -> Value:
    """Return a scalar as str, int, float, bool or None; NaN for pandas's missing value.

    Parameters
    ----------
    value : object
    where : str
        What holds the value, for the error.

    Raises
    ------
    TypeError
        If it is none of these.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, str):
        return str(value)
    if isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise TypeError(f"{where} has the integer {value}, beyond 64 bits, which a student file cannot hold")
        return value
    if type(value).__name__ == "NAType":
        return float("nan")
    raise TypeError(
        f"{where} has the value {value!r} ({type(value).__name__}), and a student file holds strings, integers, "
        "floats, booleans and missing values; convert the column before the fit, as with X[column].astype(str)"
    )


def plain_values(values: Sequence[Any] | np.ndarray, where: str) -> tuple[Value, ...]:
    """Return scalars as `plain_value` does."""
    return tuple(plain_value(value, where) for value in values)
