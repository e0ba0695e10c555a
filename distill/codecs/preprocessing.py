"""Encode the preprocessing of samples before the network: elementwise steps, matrix products, moments of images.

The payload of the section, in this order:

============ =======================================================================================
n_features   varint, features before the first step
n_steps      one byte, 1 or more
each step    a byte: the operation, and flags: 8 one value for all features, 16 values are `f4`, else `f8`;
             then the values. A product has its number of outputs as a varint first. Moments have no values
             but a byte of flags (1 centre, 2 deskew, 4 scale, 8 channels, 16 blur), height, width and, with 8,
             number of channels as varints, and, with 16, the standard deviation of the blur as `f4`
============ =======================================================================================
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from distill.codecs.reader import Reader, StudentFileError, varint

OPERATIONS = ("subtract", "divide", "multiply", "add", "clip", "product", "moments")
# The operation, in the lowest bits of the byte of a step, and flags
_OPERATION, _SHARED, _SINGLE = 7, 8, 16
# The number of steps is stored in one byte
_MAX_STEPS = 255
# Flags of moments
_CENTRE, _DESKEW, _SCALE, _CHANNELS, _BLUR = 1, 2, 4, 8, 16
# The widest blur in pixels: it bounds the time that a forged file can cost
_MAX_BLUR = 64


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


@dataclass(frozen=True)
class MomentsStep:
    """The step that moves images by their own moments.

    Parameters
    ----------
    shape : tuple of int
        Height, width and number of channels.
    centre, deskew, scale : bool
    blur : float
        Standard deviation in pixels, from 0 to 64; a float32.
    """

    shape: tuple[int, int, int]
    centre: bool = True
    deskew: bool = True
    scale: bool = False
    blur: float = 0.0
    operation: ClassVar[str] = "moments"


AnyStep = Step | MomentsStep


def encode(n_features: int, steps: Sequence[AnyStep]) -> bytes:
    """Write steps for samples of `n_features`; values become float32 or one value only if that is lossless.

    Raises
    ------
    ValueError
        If there are no steps or more than 255.

    Examples
    --------
    >>> encode(64, [Step("multiply", np.full(64, 0.0625))]).hex()
    '40011a0000803d'
    >>> encode(784, [MomentsStep((28, 28, 1))]).hex()
    '90060106031c1c'
    """
    if not 1 <= len(steps) <= _MAX_STEPS:
        raise ValueError(f"there must be 1 to {_MAX_STEPS} steps before a network, got {len(steps)}")
    written = bytearray(varint(n_features) + bytes([len(steps)]))
    for step in steps:
        if isinstance(step, MomentsStep):
            written += _encode_moments(step)
            continue
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


def _encode_moments(step: MomentsStep) -> bytes:
    """Return the bytes of the step."""
    n_sizes = 3 if step.shape[2] > 1 else 2
    flags = step.centre * _CENTRE | step.deskew * _DESKEW | step.scale * _SCALE
    flags |= (n_sizes > 2) * _CHANNELS | (step.blur > 0) * _BLUR
    written = bytes([OPERATIONS.index(step.operation), flags]) + b"".join(map(varint, step.shape[:n_sizes]))
    return written + (np.float32(step.blur).astype("<f4").tobytes() if step.blur else b"")


def decode(reader: Reader, n_inputs: int) -> tuple[int, tuple[AnyStep, ...]]:
    """Read the steps before a network of `n_inputs`.

    Returns
    -------
    n_features : int
    steps : tuple of Step or MomentsStep

    Raises
    ------
    StudentFileError
        If the bytes are damaged, a step is unknown, or the last one has another number of outputs than `n_inputs`.
    """
    n_features, n_steps = reader.varint("preprocessing"), reader.byte("preprocessing")
    if not n_features or not n_steps:
        raise StudentFileError(f"{reader.where} has {n_steps} steps for {n_features} features")
    width, steps = n_features, list[AnyStep]()
    for _ in range(n_steps):
        flags = reader.byte("preprocessing")
        if flags & _OPERATION >= len(OPERATIONS) or flags > 31:
            raise StudentFileError(f"{reader.where} has a step {flags}, which this version cannot read")
        operation = OPERATIONS[flags & _OPERATION]
        values: np.ndarray
        if operation == "moments":
            if flags & ~_OPERATION:
                raise StudentFileError(f"{reader.where} has moments with impossible flags {flags}")
            steps.append(_decode_moments(reader, width))
            continue
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
            values = reader.array(kind, int(np.prod(shape)), "preprocessing").reshape(shape)
            with np.errstate(invalid="ignore"):  # of a NaN that signals, which is refused here
                values = values.astype(np.float64)
        _check(reader, operation, values)
        steps.append(Step(operation, values))
    if width != n_inputs:
        raise StudentFileError(f"{reader.where} leads to {width} inputs, and the network has {n_inputs}")
    return n_features, tuple(steps)


def _decode_moments(reader: Reader, width: int) -> MomentsStep:
    """Read the step for rows of `width` values."""
    flags = reader.byte("preprocessing")
    if flags > 31 or not flags & ~_CHANNELS:
        raise StudentFileError(f"{reader.where} has moments with impossible flags {flags}")
    sizes = [reader.varint("preprocessing") for _ in range(3 if flags & _CHANNELS else 2)]
    # Nothing is allocated for a shape that is not that of the rows
    if math.prod(sizes) != width or (flags & _CHANNELS and sizes[2] == 1):
        raise StudentFileError(f"{reader.where} has moments of images of shape {tuple(sizes)} for {width} features")
    blur = float(reader.array("<f4", 1, "preprocessing")[0]) if flags & _BLUR else 0.0
    if flags & _BLUR and not 0 < blur <= _MAX_BLUR:
        raise StudentFileError(f"{reader.where} has moments with a blur of {blur} pixels, not above 0 and up to 64")
    height, width, *channels = sizes
    shape = (height, width, channels[0] if channels else 1)
    return MomentsStep(shape, bool(flags & _CENTRE), bool(flags & _DESKEW), bool(flags & _SCALE), blur)


def _check(reader: Reader, operation: str, values: np.ndarray) -> None:
    """Raise StudentFileError if a step has invalid values."""
    if not np.isfinite(values).all():
        raise StudentFileError(f"{reader.where} has values that are NaN or infinite")
    if operation == "divide" and not np.all(values):
        raise StudentFileError(f"{reader.where} divides by zero")
    if operation == "clip" and values[0] > values[1]:
        raise StudentFileError(f"{reader.where} clips to the empty range {values[0]}..{values[1]}")
