"""Weights on a grid as fine as each of them needs: the layer as data, and as bytes.

A weight that is known up to a deviation of r_i s_j, the row's times the column's, is stored as a whole number of steps

    Delta_ij = c r_i s_j,

so the precision of every weight follows from one number for each row and column, which a reader needs for standard
deviations of answers anyway. Steps of about the deviation are what rate-distortion theory asks for: where the loss is
(w - mean)^2 / (2 deviation^2) nats, a nat of code is worth a nat of loss at c = sqrt(12). Whole numbers are small where
a weight is not known to differ from zero, and are entropy-coded in classes of like steps.

Rows may have a coarser step: where weights that are rounded later can make good what rounding a row does, that row's
deviation given those before it is larger than the one that is stored.

The biases are the last row. All scales are powers of 2^(1/4), computed without rounding that depends on a machine. The
payload of one layer, in this order:

=========== ====================================================================================================
flags       1: not all inputs are used; 2: that is entropy-coded; 4: there is noise; 8: there are variances; 16: the
            noise has heavy tails; 32: rows may have coarser steps
step        c as a power of 2^(1/4), a signed byte
used        one bit for each input, packed or entropy-coded; with flag 1 only
columns     levels of s; see `_encode_levels`
rows        levels of r, of the used inputs and the biases
coarser     levels that are added to those of the steps, of the same rows; with flag 32 only
n_classes   one byte; weights are in classes of equal width by the levels of their steps
codes       of the weights, class by class, then of the biases; see `_encode_codes`
noise       the variance of every output's noise, float32; with flag 4 only
tails       degrees of freedom of Student's t, above 2, for every output's noise, float32; with flag 16 only
=========== ====================================================================================================
"""

from dataclasses import dataclass

import numpy as np

from distill.codecs import bits, entropy
from distill.codecs.reader import Reader, StudentFileError, varint
from distill.codecs.sections import Layer, Section

GRID = 22
MOST_LOW_BITS = 24

_SOME_INPUTS, _CODED_INPUTS, _NOISE, _VARIANCES, _TAILS, _COARSER = 1, 2, 4, 8, 16, 32
_PER_OCTAVE = 4
_FRACTIONS = np.array([1.0, 1.189207115002721, 1.4142135623730951, 1.681792830507429])
_LOWEST, _HIGHEST = -400, 400
_MOST_SPAN = 1 << 11
_CLASS_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True, eq=False)
class GridLayer:
    """A layer whose weights are whole numbers of steps.

    Parameters
    ----------
    codes : ndarray of shape (n_inputs + 1, n_outputs), int64
        The biases last. Zero in the rows of inputs that are not used.
    row_levels : ndarray of shape (n_inputs + 1,), int64
        Deviations of rows as powers of 2^(1/4).
    column_levels : ndarray of shape (n_outputs,), int64
    step_level : int
        The step in units of the deviation, as a power of 2^(1/4).
    used : ndarray of shape (n_inputs,), bool
        Inputs that have weights at all.
    noise : ndarray of shape (n_outputs,), float32, or None
        Variance of the noise of every output; of a last layer.
    has_variances : bool
        Whether the levels are those of a posterior, and not of the steps alone.
    tails : ndarray of shape (n_outputs,), float32, or None
        Degrees of freedom of the noise where it is Student's t, above 2; None where it is normal.
    coarser : ndarray of shape (n_inputs + 1,), int64, or None
        By what factor the steps of a row are larger than its deviation says, as a power of 2^(1/4); the biases' last.
        None is 1 for all.
    """

    codes: np.ndarray
    row_levels: np.ndarray
    column_levels: np.ndarray
    step_level: int
    used: np.ndarray
    noise: np.ndarray | None = None
    has_variances: bool = True
    tails: np.ndarray | None = None
    coarser: np.ndarray | None = None

    @property
    def levels(self) -> np.ndarray:
        """Every weight's step over c as a power of 2^(1/4); ndarray of shape (n_inputs + 1, n_outputs), int64."""
        rows = self.row_levels if self.coarser is None else self.row_levels + self.coarser
        return rows[:, None] + self.column_levels

    @property
    def matrix(self) -> np.ndarray:
        """Weights and, in the last row, biases; ndarray of shape (n_inputs + 1, n_outputs), float32."""
        return (self.codes * power(self.levels + self.step_level)).astype(np.float32)

    @property
    def row_variance(self) -> np.ndarray:
        """Variances of the rows, the biases' last; ndarray of shape (n_inputs + 1,), float32. Unused inputs have 0."""
        variance = power(2 * self.row_levels)
        variance[:-1][~self.used] = 0
        return variance.astype(np.float32)

    @property
    def column_variance(self) -> np.ndarray:
        """Variances of the columns; ndarray of shape (n_outputs,), float32."""
        return power(2 * self.column_levels).astype(np.float32)

    @property
    def layer(self) -> Layer:
        """The layer as a reader of a file gets it."""
        matrix, extras = self.matrix, {}
        if self.has_variances:
            extras = {"row_variance": self.row_variance, "column_variance": self.column_variance}
        if self.noise is not None:
            extras["noise_variance"] = self.noise
        if self.tails is not None:
            extras["noise_degrees"] = self.tails
        return Layer(matrix[:-1], matrix[-1], extras)


def power(levels: np.ndarray) -> np.ndarray:
    """Return 2^(levels / 4), to the same bit on every machine.

    Examples
    --------
    >>> power(np.array([-4, 0, 2, 9]))
    array([0.5       , 1.        , 1.41421356, 4.75682846])
    """
    octaves, parts = np.divmod(levels, _PER_OCTAVE)
    return np.ldexp(_FRACTIONS[parts], octaves)


def nearest_level(scale: np.ndarray) -> np.ndarray:
    """Return the powers of 2^(1/4) nearest to positive numbers.

    Examples
    --------
    >>> nearest_level(np.array([0.5, 1.1, 1.3]))
    array([-4,  1,  2])
    """
    return np.clip(np.rint(_PER_OCTAVE * np.log2(scale)), _LOWEST, _HIGHEST).astype(np.int64)


def encode(layer: GridLayer) -> Section:
    """Write one layer.

    Raises
    ------
    ValueError
        If a number is beyond what the format holds.
    """
    flags, used = 0, layer.used
    written = layer.step_level.to_bytes(1, "little", signed=True)
    if not used.all():
        flags |= _SOME_INPUTS
        packed, coded = bits.pack(used.astype(np.uint8), 1), entropy.encode(used.astype(np.uint8), 2)
        flags |= _CODED_INPUTS if len(coded) < len(packed) else 0
        written += min(packed, coded, key=len)
    stored = np.append(used, True)
    written += _encode_levels(layer.column_levels) + _encode_levels(layer.row_levels[stored])
    if layer.coarser is not None and layer.coarser[stored].any():
        flags |= _COARSER
        written += _encode_levels(layer.coarser[stored])
    codes, levels = layer.codes[:-1][used], layer.levels[:-1][used]
    written += min((_encode_classes(codes, levels, n) for n in _CLASS_COUNTS), key=len)
    written += _encode_codes(layer.codes[-1])
    if layer.noise is not None:
        flags |= _NOISE
        written += layer.noise.astype("<f4").tobytes()
    if layer.tails is not None:
        flags |= _TAILS
        written += layer.tails.astype("<f4").tobytes()
    flags |= _VARIANCES if layer.has_variances else 0
    return Section(GRID, bytes([flags]) + written)


def decode(reader: Reader, shapes: list[tuple[int, int]], codec: int = GRID) -> list[Layer]:
    """Read one layer of the first of `shapes`."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # weights that are infinite: by the container
        layer = decode_layer(reader, *shapes[0]).layer
    if not all(np.isfinite(values).all() for values in layer.extras.values()):
        raise StudentFileError(f"{reader.where} has variances that are infinite")
    return [layer]


def decode_layer(reader: Reader, n_inputs: int, n_outputs: int) -> GridLayer:
    """Read what `encode` has written.

    Raises
    ------
    StudentFileError
        If it was not written for a layer of this shape.
    """
    flags = reader.byte("header")
    if flags > 63 or flags & (_NOISE | _TAILS) == _TAILS or flags & (_SOME_INPUTS | _CODED_INPUTS) == _CODED_INPUTS:
        raise StudentFileError(f"{reader.where} has impossible flags {flags}")
    step_level = int(reader.array("<i1", 1, "header")[0])
    used = np.ones(n_inputs, bool)
    if flags & _CODED_INPUTS:
        used = entropy.decode(reader, n_inputs, 2, "used inputs").astype(bool)
    elif flags & _SOME_INPUTS:
        used = bits.unpack(reader.take(bits.packed_size(n_inputs, 1), "used inputs"), 1, n_inputs).astype(bool)
    column_levels = _decode_levels(reader, n_outputs)
    rows = steps = _decode_levels(reader, int(used.sum()) + 1)
    row_levels, coarser, stored = np.full(n_inputs + 1, rows[-1]), None, np.append(used, True)
    row_levels[stored] = rows
    if flags & _COARSER:
        coarser = np.zeros(n_inputs + 1, np.int64)
        coarser[stored] = _decode_levels(reader, len(rows))
        steps = rows + coarser[stored]
    codes = np.zeros((n_inputs + 1, n_outputs), np.int64)
    codes[:-1][used] = _decode_classes(reader, steps[:-1, None] + column_levels)
    codes[-1] = _decode_codes(reader, n_outputs, "biases")
    noise = None
    if flags & _NOISE:
        noise = reader.array("<f4", n_outputs, "noise")
        if not (np.isfinite(noise) & (noise >= 0)).all():
            raise StudentFileError(f"{reader.where} has noise that is negative or not finite")
    tails = None
    if flags & _TAILS:
        tails = reader.array("<f4", n_outputs, "noise")
        if not (np.isfinite(tails) & (tails > 2)).all():
            raise StudentFileError(f"{reader.where} has noise whose degrees of freedom are not above 2")
    has_variances = bool(flags & _VARIANCES)
    return GridLayer(codes, row_levels, column_levels, step_level, used, noise, has_variances, tails, coarser)


def _encode_levels(levels: np.ndarray) -> bytes:
    """Write levels: the lowest, how far they go beyond it, and each one's distance from it, entropy-coded."""
    lowest, span = int(levels.min()), int(np.ptp(levels))
    if not -(1 << 15) <= lowest < 1 << 15 or span >= _MOST_SPAN:
        raise ValueError("the variances of a layer's weights span more than a student file holds")
    return lowest.to_bytes(2, "little", signed=True) + varint(span) + entropy.encode(levels - lowest, span + 1)


def _decode_levels(reader: Reader, count: int) -> np.ndarray:
    lowest = int(reader.array("<i2", 1, "variances")[0])
    span = reader.varint("variances", _MOST_SPAN - 1)
    return lowest + entropy.decode(reader, count, span + 1, "variances").astype(np.int64)


def _encode_classes(codes: np.ndarray, levels: np.ndarray, n_classes: int) -> bytes:
    """Write the weights' codes in classes of like levels."""
    classes = _classes(levels, n_classes)
    return bytes([n_classes]) + b"".join(_encode_codes(codes[classes == number]) for number in range(n_classes))


def _decode_classes(reader: Reader, levels: np.ndarray) -> np.ndarray:
    n_classes = reader.byte("header")
    if not 1 <= n_classes <= max(_CLASS_COUNTS):
        raise StudentFileError(f"{reader.where} has {n_classes} classes of codes")
    classes, codes = _classes(levels, n_classes), np.empty(levels.shape, np.int64)
    for number in range(n_classes):
        inside = classes == number
        codes[inside] = _decode_codes(reader, int(inside.sum()), "weights")
    return codes


def _classes(levels: np.ndarray, n_classes: int) -> np.ndarray:
    """Return every weight's class, by its level, in steps of equal width between the lowest and the highest."""
    if not levels.size:
        return np.zeros(levels.shape, np.int64)
    return (levels - levels.min()) * n_classes // (np.ptp(levels) + 1)


def _encode_codes(codes: np.ndarray) -> bytes:
    """Write whole numbers: low bits and signs as they are, what is above the low bits entropy-coded.

    A byte for the largest number above the low bits and one for the number of low bits; the coded numbers; the low
    bits; one bit of sign for each number that is not zero.
    """
    codes = codes.ravel()
    magnitude = np.abs(codes)
    largest = int(magnitude.max(initial=0))
    first = max(0, largest.bit_length() - 8)
    signs = bits.pack((codes[codes != 0] < 0).astype(np.uint8), 1)
    options = []
    for n_low in range(first, min(first + 8, largest.bit_length()) + 1):
        high, low = magnitude >> n_low, magnitude & (1 << n_low) - 1
        top = largest >> n_low
        coded = entropy.encode(high, top + 1)
        options.append(bytes([top, n_low]) + coded + bits.pack(low, n_low) + signs)
    return min(options, key=len)


def _decode_codes(reader: Reader, count: int, part: str) -> np.ndarray:
    top, n_low = reader.byte(part), reader.byte(part)
    if n_low > MOST_LOW_BITS:
        raise StudentFileError(f"{reader.where} has codes with {n_low} low bits, {MOST_LOW_BITS} are possible")
    high = entropy.decode(reader, count, top + 1, part).astype(np.int64)
    low = bits.unpack(reader.take(bits.packed_size(count, n_low), part), n_low, count)
    magnitude = (high << n_low) + low
    signed = magnitude != 0
    n_signed = int(signed.sum())
    magnitude[signed] *= 1 - 2 * bits.unpack(reader.take(bits.packed_size(n_signed, 1), part), 1, n_signed).astype(int)
    return magnitude
