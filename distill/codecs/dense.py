"""Uncompressed weights: float32, or float16 at half the size.

The payload of one layer is its weights row by row (one row per input), then its biases, little-endian.
"""

import numpy as np

from distill.codecs.reader import Reader
from distill.codecs.sections import FLOAT16, FLOAT32, Layer, Section

_DTYPES = {FLOAT32: "<f4", FLOAT16: "<f2"}


def encode(weight: np.ndarray, bias: np.ndarray, codec: int = FLOAT32) -> Section:
    """Write one layer.

    Parameters
    ----------
    weight : ndarray of shape (n_inputs, n_outputs)
    bias : ndarray of shape (n_outputs,)
    codec : {FLOAT32, FLOAT16}

    Returns
    -------
    Section

    Raises
    ------
    ValueError
        If a weight is NaN, infinite or beyond the range of the type.

    Examples
    --------
    >>> import numpy as np
    >>> len(encode(np.zeros((3, 2)), np.zeros(2), FLOAT16).payload)
    16
    """
    with np.errstate(over="ignore"):
        written = [np.ascontiguousarray(array, _DTYPES[codec]) for array in (weight, bias)]
    if not all(np.isfinite(array).all() for array in written):
        name = np.dtype(_DTYPES[codec]).name
        raise ValueError(f"a layer has weights that are NaN, infinite or too large for {name}; use another codec")
    return Section(codec, b"".join(array.tobytes() for array in written))


def decode(reader: Reader, shapes: list[tuple[int, int]]) -> list[Layer]:
    """Read one float32 layer of the first of `shapes`; see `distill.codecs.sections`."""
    return [_layer(reader, *shapes[0], _DTYPES[FLOAT32])]


def decode_float16(reader: Reader, shapes: list[tuple[int, int]]) -> list[Layer]:
    """Read one float16 layer of the first of `shapes`; see `distill.codecs.sections`."""
    return [_layer(reader, *shapes[0], _DTYPES[FLOAT16])]


def _layer(reader: Reader, n_inputs: int, n_outputs: int, dtype: str) -> Layer:
    """Read the weights and biases of one layer."""
    weight = reader.array(dtype, n_inputs * n_outputs, "weights").astype(np.float32, copy=False)
    bias = reader.array(dtype, n_outputs, "biases").astype(np.float32, copy=False)
    return Layer(weight.reshape(n_inputs, n_outputs), bias)
