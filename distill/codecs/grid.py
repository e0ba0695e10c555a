"""Grid codec: every weight is an integer multiple of a step, and steps follow the standard deviations of a posterior.

A weight of standard deviation r_i s_j, a factor of its row times a factor of its column, is an integer multiple of

    Delta_ij = c r_i s_j,

so that one factor per row and column sets the precision of every weight, and the variances of the predictions follow
from the same factors. Steps of about a standard deviation are optimal in rate-distortion theory: where the loss is
(w - mean)^2 / (2 sigma^2) nats, a nat of code is worth a nat of loss at c = sqrt(12). Most codes of weights that do not
differ significantly from zero are small. They are entropy-coded in classes of similar steps.

Rows may have larger steps where later rows can compensate for the rounding error: then the standard deviation of a row
given the rows before it is larger than the stored one.

The biases are the last row. All scales are powers of 2^(1/4), which are computed to the same bit on every machine. The
payload of one layer, in this order:

=========== ====================================================================================================
flags       1, 2: form of `used`, see `distill.codecs.masks`; 4: there is noise; 8: the levels are standard
            deviations; 16: the noise is Student's t; 32: there are step exponents
step        c as a power of 2^(1/4), a signed byte
used        one bit for each input, packed or, with flag 2, entropy-coded; with flag 1 only
columns     levels of s; see `_encode_levels`
rows        levels of r, of the used inputs and the biases
exponents   levels that are added to those of the steps, of the same rows; with flag 32 only
n_classes   one byte; weights are in classes of equal width by the levels of their steps
codes       of the weights, class by class, then of the biases; see `_encode_codes`
noise       the variance of every output's noise, float32; with flag 4 only
degrees     degrees of freedom of Student's t, above 2, for every output's noise, float32; with flag 16 only
=========== ====================================================================================================
"""

from dataclasses import dataclass

import numpy as np

from distill.codecs import bits, entropy, masks
from distill.codecs.reader import Reader, StudentFileError, varint
from distill.codecs.sections import GRID, Layer, Section

# Magnitudes of codes are below 2**(8 + 24): 24 low bits as they are, 8 high ones entropy-coded
MAX_LOW_BITS = 24

# Flags of a layer
_USED, _NOISE, _VARIANCES, _DEGREES, _EXPONENTS, _ALL_FLAGS = 3, 4, 8, 16, 32, 63
_LEVELS_PER_OCTAVE = 4
# 2**(0/4) to 2**(3/4), as literals: a power function may differ in the last bit between machines
_FRACTIONS = np.array([1.0, 1.189207115002721, 1.4142135623730951, 1.681792830507429])
# Range of the levels of a standard deviation, 2**-100 to 2**100: their squares are finite in float64
_MIN_LEVEL, _MAX_LEVEL = -400, 400
# Largest span of a list of levels: half the alphabet of the entropy coder
_MAX_SPAN = 1 << 11
# Class counts that the encoder tries: more classes take more tables of frequencies. A reader accepts 1 to 16
_CLASS_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16)


@dataclass(frozen=True, eq=False)
class GridLayer:
    """A layer whose weights are integer multiples of steps.

    Parameters
    ----------
    codes : ndarray of shape (n_inputs + 1, n_outputs), int64
        The biases last. Zero in the rows of unused inputs.
    row_levels : ndarray of shape (n_inputs + 1,), int64
        Standard deviations of the rows as powers of 2^(1/4), the biases' last.
    column_levels : ndarray of shape (n_outputs,), int64
        Standard deviations of the columns. That of a weight is the product of both.
    step_level : int
        The step in units of the standard deviation, as a power of 2^(1/4).
    used : ndarray of shape (n_inputs,), bool
        Inputs that have weights.
    noise : ndarray of shape (n_outputs,), float32, or None
        Variance of the noise of every output; for a last layer.
    has_variances : bool
        Whether the levels are standard deviations of a posterior, and not only sizes of steps.
    degrees_of_freedom : ndarray of shape (n_outputs,), float32, or None
        Degrees of freedom of Student's t noise, above 2; None for normal noise.
    step_exponents : ndarray of shape (n_inputs + 1,), int64, or None
        Factor by which the steps of a row are larger than its standard deviation implies, as a power of 2^(1/4); the
        biases' last. None is 0 for all.
    """

    codes: np.ndarray
    row_levels: np.ndarray
    column_levels: np.ndarray
    step_level: int
    used: np.ndarray
    noise: np.ndarray | None = None
    has_variances: bool = True
    degrees_of_freedom: np.ndarray | None = None
    step_exponents: np.ndarray | None = None

    @property
    def levels(self) -> np.ndarray:
        """The step of every weight over c, as a power of 2^(1/4); ndarray of shape (n_inputs + 1, n_outputs), int64."""
        rows = self.row_levels if self.step_exponents is None else self.row_levels + self.step_exponents
        return rows[:, None] + self.column_levels

    @property
    def matrix(self) -> np.ndarray:
        """Weights and, in the last row, biases; ndarray of shape (n_inputs + 1, n_outputs), float32."""
        return (self.codes * power(self.levels + self.step_level)).astype(np.float32)

    @property
    def row_variance(self) -> np.ndarray:
        """Variances of the rows, the biases' last, 0 for unused inputs; ndarray of shape (n_inputs + 1,), float32."""
        variance = power(2 * self.row_levels)
        variance[:-1][~self.used] = 0
        return variance.astype(np.float32)

    @property
    def column_variance(self) -> np.ndarray:
        """Variances of the columns; ndarray of shape (n_outputs,), float32."""
        return power(2 * self.column_levels).astype(np.float32)

    @property
    def layer(self) -> Layer:
        """Weights, biases, and as extras the variances and the noise."""
        matrix, extras = self.matrix, {}
        if self.has_variances:
            extras = {"row_variance": self.row_variance, "column_variance": self.column_variance}
        if self.noise is not None:
            extras["noise_variance"] = self.noise
        if self.degrees_of_freedom is not None:
            extras["noise_degrees"] = self.degrees_of_freedom
        return Layer(matrix[:-1], matrix[-1], extras)


def power(levels: np.ndarray) -> np.ndarray:
    """Return 2^(levels / 4), to the same bit on every machine.

    Examples
    --------
    >>> power(np.array([-4, 0, 2, 9]))
    array([0.5       , 1.        , 1.41421356, 4.75682846])
    """
    octaves, parts = np.divmod(levels, _LEVELS_PER_OCTAVE)
    return np.ldexp(_FRACTIONS[parts], octaves)


def nearest_level(scale: np.ndarray) -> np.ndarray:
    """Return the levels nearest to positive scales, on the logarithmic scale, between -400 and 400.

    Examples
    --------
    >>> nearest_level(np.array([0.5, 1.1, 1.3]))
    array([-4,  1,  2])
    """
    return np.clip(np.rint(_LEVELS_PER_OCTAVE * np.log2(scale)), _MIN_LEVEL, _MAX_LEVEL).astype(np.int64)


def encode(layer: GridLayer) -> Section:
    """Write one layer.

    Parameters
    ----------
    layer : GridLayer

    Returns
    -------
    Section

    Raises
    ------
    ValueError
        If levels or codes are beyond the range of the format.
    """
    used = layer.used
    flags, written_used = masks.encode_used(used)
    written = layer.step_level.to_bytes(1, "little", signed=True) + written_used
    stored = np.append(used, True)
    written += _encode_levels(layer.column_levels) + _encode_levels(layer.row_levels[stored])
    if layer.step_exponents is not None and layer.step_exponents[stored].any():
        flags |= _EXPONENTS
        written += _encode_levels(layer.step_exponents[stored])
    codes, levels = layer.codes[:-1][used], layer.levels[:-1][used]
    written += min((_encode_classes(codes, levels, n) for n in _CLASS_COUNTS), key=len)
    written += _encode_codes(layer.codes[-1])
    if layer.noise is not None:
        flags |= _NOISE
        written += layer.noise.astype("<f4").tobytes()
    if layer.degrees_of_freedom is not None:
        flags |= _DEGREES
        written += layer.degrees_of_freedom.astype("<f4").tobytes()
    flags |= _VARIANCES if layer.has_variances else 0
    return Section(GRID, bytes([flags]) + written)


def decode(reader: Reader, shapes: list[tuple[int, int]]) -> list[Layer]:
    """Read one layer of the first of `shapes`; see `distill.codecs.sections`."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # infinite weights are refused by the container
        layer = decode_layer(reader, *shapes[0]).layer
    if not all(np.isfinite(values).all() for values in layer.extras.values()):
        raise StudentFileError(f"{reader.where} has variances that are infinite")
    return [layer]


def decode_layer(reader: Reader, n_inputs: int, n_outputs: int) -> GridLayer:
    """Read one layer without computing its weights.

    Parameters
    ----------
    reader : Reader
    n_inputs, n_outputs : int

    Returns
    -------
    GridLayer

    Raises
    ------
    StudentFileError
        If the bytes are damaged or were not written for a layer of this shape.
    """
    flags = reader.byte("header")
    if flags > _ALL_FLAGS or flags & (_NOISE | _DEGREES) == _DEGREES or flags & _USED not in masks.FORMS:
        raise StudentFileError(f"{reader.where} has impossible flags {flags}")
    step_level = int(reader.array("<i1", 1, "header")[0])
    used = masks.decode_used(reader, n_inputs, flags & _USED)
    column_levels = _decode_levels(reader, n_outputs)
    stored_levels = steps = _decode_levels(reader, int(used.sum()) + 1)
    row_levels, exponents, stored = np.full(n_inputs + 1, stored_levels[-1]), None, np.append(used, True)
    row_levels[stored] = stored_levels
    if flags & _EXPONENTS:
        exponents = np.zeros(n_inputs + 1, np.int64)
        exponents[stored] = _decode_levels(reader, len(stored_levels))
        steps = stored_levels + exponents[stored]
    codes = np.zeros((n_inputs + 1, n_outputs), np.int64)
    codes[:-1][used] = _decode_classes(reader, steps[:-1, None] + column_levels)
    codes[-1] = _decode_codes(reader, n_outputs, "biases")
    noise, degrees = _decode_noise(reader, n_outputs, flags)
    has_variances = bool(flags & _VARIANCES)
    return GridLayer(codes, row_levels, column_levels, step_level, used, noise, has_variances, degrees, exponents)


def _decode_noise(reader: Reader, n_outputs: int, flags: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the variances of the noise and the degrees of freedom, None where the file has none."""
    noise = degrees = None
    if flags & _NOISE:
        noise = reader.array("<f4", n_outputs, "noise")
        if not (np.isfinite(noise) & (noise >= 0)).all():
            raise StudentFileError(f"{reader.where} has noise that is negative or not finite")
    if flags & _DEGREES:
        degrees = reader.array("<f4", n_outputs, "noise")
        if not (np.isfinite(degrees) & (degrees > 2)).all():
            raise StudentFileError(f"{reader.where} has noise whose degrees of freedom are not above 2")
    return noise, degrees


def _encode_levels(levels: np.ndarray) -> bytes:
    """Write levels: the lowest, the distance of the highest from it, and every distance from it, entropy-coded."""
    lowest, span = int(levels.min()), int(np.ptp(levels))
    if not -(1 << 15) <= lowest < 1 << 15 or span >= _MAX_SPAN:
        raise ValueError("the variances of a layer's weights span a wider range than a student file holds")
    return lowest.to_bytes(2, "little", signed=True) + varint(span) + entropy.encode(levels - lowest, span + 1)


def _decode_levels(reader: Reader, count: int) -> np.ndarray:
    """Read `count` levels."""
    lowest = int(reader.array("<i2", 1, "variances")[0])
    span = reader.varint("variances", _MAX_SPAN - 1)
    return lowest + entropy.decode(reader, count, span + 1, "variances").astype(np.int64)


def _encode_classes(codes: np.ndarray, levels: np.ndarray, n_classes: int) -> bytes:
    """Write the codes of the weights in classes of similar levels."""
    classes = _classes(levels, n_classes)
    return bytes([n_classes]) + b"".join(_encode_codes(codes[classes == number]) for number in range(n_classes))


def _decode_classes(reader: Reader, levels: np.ndarray) -> np.ndarray:
    """Read the codes of weights with these levels of steps."""
    n_classes = reader.byte("header")
    if not 1 <= n_classes <= max(_CLASS_COUNTS):
        raise StudentFileError(f"{reader.where} has {n_classes} classes of codes")
    classes, codes = _classes(levels, n_classes), np.empty(levels.shape, np.int64)
    for number in range(n_classes):
        inside = classes == number
        codes[inside] = _decode_codes(reader, int(inside.sum()), "weights")
    return codes


def _classes(levels: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the class of every weight: intervals of equal width between the lowest and the highest level."""
    if not levels.size:
        return np.zeros(levels.shape, np.int64)
    return (levels - levels.min()) * n_classes // (np.ptp(levels) + 1)


def _encode_codes(codes: np.ndarray) -> bytes:
    """Write integers: low bits and signs packed, the bits above them entropy-coded.

    One byte for the largest high part and one for the number of low bits; the high parts, entropy-coded; the low bits;
    one bit of sign for each integer that is not zero.
    """
    codes = codes.ravel()
    magnitude = np.abs(codes)
    largest = int(magnitude.max(initial=0))
    first = max(0, largest.bit_length() - 8)
    signs = bits.pack((codes[codes != 0] < 0).astype(np.uint8), 1)
    # Low bits are nearly uniform: packing more of them costs little, and shortens the alphabet of the high parts
    options = []
    for n_low in range(first, min(first + 8, largest.bit_length()) + 1):
        high, low = magnitude >> n_low, magnitude & (1 << n_low) - 1
        top = largest >> n_low
        coded = entropy.encode(high, top + 1)
        options.append(bytes([top, n_low]) + coded + bits.pack(low, n_low) + signs)
    return min(options, key=len)


def _decode_codes(reader: Reader, count: int, part: str) -> np.ndarray:
    """Read `count` integers."""
    top, n_low = reader.byte(part), reader.byte(part)
    if n_low > MAX_LOW_BITS:
        raise StudentFileError(f"{reader.where} has codes with {n_low} low bits, {MAX_LOW_BITS} are possible")
    high = entropy.decode(reader, count, top + 1, part).astype(np.int64)
    low = bits.unpack(reader.take(bits.packed_size(count, n_low), part), n_low, count)
    magnitude = (high << n_low) + low
    signed = magnitude != 0
    n_signed = int(signed.sum())
    magnitude[signed] *= 1 - 2 * bits.unpack(reader.take(bits.packed_size(n_signed, 1), part), 1, n_signed).astype(int)
    return magnitude
