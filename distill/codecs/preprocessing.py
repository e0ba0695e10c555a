"""Encode the preprocessing of samples before the network: elementwise steps and matrix products.

The payload of the section, in this order:

============ =======================================================================================
n_features   varint, features before the first step
n_steps      one byte, 1 or more
each step    a byte: the operation, and flags: 8 one value for all features, 16 values are `f4`, else `f8`;
             then the values. A product has its number of outputs as a varint first
============ =======================================================================================
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill.codecs.reader import Reader, StudentFileError, varint

OPERATIONS = ("subtract", "divide", "multiply", "add", "clip", "product")
# The operation, in the lowest bits of the byte of a step, and flags
_OPERATION, _SHARED, _SINGLE = 7, 8, 16
# The number of steps is stored in one byte
_MAX_STEPS = 255


@dataclass(frozen=True, eq=False)
class Step:
    """One step of preprocessing.

    Parameters
    ----------
    operation : {"subtract", "divide", "multiply", "add", "clip", "product"}
    values : ndarray, float64
        The operand: of shape () or (n_features,) for an elementwise operation; lower and upper limit, shape (2,), for
        a clip; the matrix on the right of a product, shape (n_features, n_outputs), float32.
    """

    operation: str
    values: np.ndarray


def encode(n_features: int, steps: Sequence[Step]) -> bytes:
    """Write steps for samples of `n_features`; values become float32 or one value only if that is lossless.

    Raises
    ------
    ValueError
        If there are no steps or more than 255.

    Examples
    --------
    >>> encode(64, [Step("multiply", np.full(64, 0.0625))]).hex()
    '40011a0000803d'
    """
    if not 1 <= len(steps) <= _MAX_STEPS:
        raise ValueError(f"there must be 1 to {_MAX_STEPS} steps before a network, got {len(steps)}")
    written = bytearray(varint(n_features) + bytes([len(steps)]))
    for step in steps:
        values, flags = np.asarray(step.values), OPERATIONS.index(step.operation)
        if step.operation == "product":
            written += bytes([flags]) + varint(values.shape[1]) + values.astype("<f4").tobytes()
            continue
        if step.operation != "clip" and (values == values.flat[0]).all():
            flags, values = flags | _SHARED, values.flat[:1]
        with np.errstate(over="ignore", under="ignore"):
            short = values.astype("<f4")
        if (short == values).all():
            flags, values = flags | _SINGLE, short
        written += bytes([flags]) + values.astype(values.dtype.newbyteorder("<")).tobytes()
    return bytes(written)


def decode(reader: Reader, n_inputs: int) -> tuple[int, tuple[Step, ...]]:
    """Read the steps before a network of `n_inputs`.

    Returns
    -------
    n_features : int
    steps : tuple of Step

    Raises
    ------
    StudentFileError
        If the bytes are damaged, a step is unknown, or the last one has another number of outputs than `n_inputs`.
    """
    n_features, n_steps = reader.varint("preprocessing"), reader.byte("preprocessing")
    if not n_features or not n_steps:
        raise StudentFileError(f"{reader.where} has {n_steps} steps for {n_features} features")
    width, steps = n_features, []
    for _ in range(n_steps):
        flags = reader.byte("preprocessing")
        if flags & _OPERATION >= len(OPERATIONS) or flags > 31:
            raise StudentFileError(f"{reader.where} has a step {flags}, which this version cannot read")
        operation = OPERATIONS[flags & _OPERATION]
        values: np.ndarray
        if operation == "product":
            if flags & ~_OPERATION:
                raise StudentFileError(f"{reader.where} has a product with impossible flags {flags}")
            n_outputs = reader.varint("preprocessing")
            if not n_outputs:
                raise StudentFileError(f"{reader.where} has a product without outputs")
            values = reader.array("<f4", width * n_outputs, "preprocessing").reshape(width, n_outputs)
            width = n_outputs
        else:
            kind = "<f4" if flags & _SINGLE else "<f8"
            shape: tuple[int, ...]
            if operation == "clip":
                if flags & _SHARED:
                    raise StudentFileError(f"{reader.where} has a clip with impossible flags {flags}")
                shape = (2,)
            else:
                shape = () if flags & _SHARED else (width,)
            values = reader.array(kind, int(np.prod(shape)), "preprocessing").reshape(shape).astype(np.float64)
        _check(reader, operation, values)
        steps.append(Step(operation, values))
    if width != n_inputs:
        raise StudentFileError(f"{reader.where} leads to {width} inputs, and the network has {n_inputs}")
    return n_features, tuple(steps)


def _check(reader: Reader, operation: str, values: np.ndarray) -> None:
    """Raise StudentFileError if a step has invalid values."""
    if not np.isfinite(values).all():
        raise StudentFileError(f"{reader.where} has values that are NaN or infinite")
    if operation == "divide" and not np.all(values):
        raise StudentFileError(f"{reader.where} divides by zero")
    if operation == "clip" and values[0] > values[1]:
        raise StudentFileError(f"{reader.where} clips to the empty range {values[0]}..{values[1]}")
