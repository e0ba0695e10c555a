"""Sparse codec: a mask of the nonzero weights, entropy-coded, and their values.

The payload of one layer, in this order:

======== ==============================================================================================
flags    1: values are 16-bit floats, else 32-bit; 2: not all inputs are used; 4: values are entropy-coded
used     one bit for each input, packed; with flag 2 only
mask     for each used input and each neuron 1 if the weight is not zero: codes below 2, see
         `distill.codecs.codes`
values   of the nonzero weights, those of an input side by side. Plain; or with flag 4 the last, highest byte of
         every value entropy-coded, then the other bytes of every value
biases   as plain values
======== ==============================================================================================

The highest byte of a float holds its sign and exponent, and weights of similar size have few exponents: entropy coding
saves about half of that byte.
"""

import numpy as np

from distill.codecs import entropy, masks
from distill.codecs.codes import decode_codes, encode_codes
from distill.codecs.reader import Reader, StudentFileError
from distill.codecs.sections import SPARSE, Layer, Section

# Flags of a layer
_HALF, _SOME_INPUTS, _CODED_VALUES, _ALL_FLAGS = 1, 2, 4, 7


def encode(weight: np.ndarray, bias: np.ndarray, dtype: str = "float16") -> Section:
    """Write one layer; weights that are zero in the float type are not stored.

    Parameters
    ----------
    weight : ndarray of shape (n_inputs, n_outputs)
    bias : ndarray of shape (n_outputs,)
    dtype : {"float32", "float16"}

    Returns
    -------
    Section

    Raises
    ------
    ValueError
        If a weight is NaN, infinite or beyond the range of the type.

    Examples
    --------
    >>> weight = np.zeros((100, 10), np.float32)
    >>> weight[3] = 0.5
    >>> len(encode(weight, np.zeros(10)).payload)
    56
    """
    kind = np.dtype("<f2" if dtype == "float16" else "<f4")
    with np.errstate(over="ignore", under="ignore"):
        weight, bias = np.asarray(weight).astype(kind), np.asarray(bias).astype(kind)
    if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ValueError(f"a layer has weights that are NaN, infinite or too large for {dtype}; use another type")
    mask = weight != 0
    used = mask.any(axis=1)
    # This section has no flag for coded inputs, so that their bits are always packed
    form, written = masks.encode_used(used, entropy_coding=False)
    flags = (_HALF if kind.itemsize == 2 else 0) | (0 if form == masks.ALL_USED else _SOME_INPUTS)
    written += encode_codes(mask[used].astype(np.uint8), 2, "auto")
    plain, coded = weight[mask].tobytes(), _encode_values(weight[mask])
    flags |= _CODED_VALUES if len(coded) < len(plain) else 0
    return Section(SPARSE, bytes([flags]) + written + min(plain, coded, key=len) + bias.tobytes())


def decode(reader: Reader, shapes: list[tuple[int, int]]) -> list[Layer]:
    """Read one layer of the first of `shapes`; see `distill.codecs.sections`."""
    n_inputs, n_outputs = shapes[0]
    flags = reader.byte("header")
    if flags > _ALL_FLAGS:
        raise StudentFileError(f"{reader.where} has impossible flags {flags}")
    form = masks.PACKED if flags & _SOME_INPUTS else masks.ALL_USED
    used = masks.decode_used(reader, n_inputs, form, "mask")
    mask = np.zeros((n_inputs, n_outputs), bool)
    mask[used] = decode_codes(reader, int(used.sum()), n_outputs, 2)
    reader.parts["mask"] += reader.parts.pop("codes")
    kind, count = "<f2" if flags & _HALF else "<f4", int(mask.sum())
    weight = np.zeros((n_inputs, n_outputs), np.float32)
    weight[mask] = (
        _decode_values(reader, count, kind) if flags & _CODED_VALUES else reader.array(kind, count, "weights")
    )
    return [Layer(weight, reader.array(kind, n_outputs, "biases").astype(np.float32))]


def _encode_values(values: np.ndarray) -> bytes:
    """Write the highest bytes of floats entropy-coded, then the other bytes."""
    planes = values.view(np.uint8).reshape(len(values), values.dtype.itemsize)
    return entropy.encode(planes[:, -1], 256) + planes[:, :-1].tobytes()


def _decode_values(reader: Reader, count: int, kind: str) -> np.ndarray:
    """Read `count` floats whose highest bytes are entropy-coded."""
    size = np.dtype(kind).itemsize
    planes = np.empty((count, size), np.uint8)
    planes[:, -1] = entropy.decode(reader, count, 256, "weights")
    planes[:, :-1] = np.frombuffer(reader.take(count * (size - 1), "weights"), np.uint8).reshape(count, size - 1)
    return planes.view(kind)[:, 0]
