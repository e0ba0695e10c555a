"""Codebook codec: every weight is a code into a small codebook.

The columns of a layer's matrix, one per neuron, fall into groups. A weight is the codeword that its code names, times
the scale of its neuron's group, or it is a codeword of the group's separate codebook.

The payload of one layer, in this order; `half` is an exponent of two, one signed byte, followed by the 16-bit floats
that it multiplies:

=============== ================================================================================================
flags           1: there are scales; 2: groups are in any order; 4, 8: form of `used`, see `distill.codecs.masks`
n_codewords - 1 one byte
n_groups        varint
groups          sizes of all groups but the last as varints; or, with flag 2, every neuron's group, packed
used            one bit for each input, packed or, with flag 8, entropy-coded; with flag 4 only
codebooks       half, (1 if there are scales or one group, else n_groups) x n_codewords
scales          half, n_groups; with flag 1 only
biases          half, n_outputs
codes           see `distill.codecs.codes`; one for each used input and neuron, the codes of an input side by side
=============== ================================================================================================
"""

from dataclasses import dataclass

import numpy as np

from distill.codecs import bits, masks
from distill.codecs.codes import decode_codes, encode_codes
from distill.codecs.reader import Reader, StudentFileError, varint
from distill.codecs.sections import CODEBOOK, Layer, Section

# Flags; those of the form of `used` begin at bit _USED_SHIFT
_SCALES, _ANY_ORDER, _USED_SHIFT, _ALL_FLAGS = 1, 2, 2, 15
# Powers of two that float32 holds without loss
_MIN_EXPONENT, _MAX_EXPONENT = -126, 127


@dataclass(frozen=True, eq=False)
class CodebookLayer:
    """A layer whose weights are codes.

    Parameters
    ----------
    codes : ndarray of shape (n_used, n_outputs), uint8
        Index of every weight's codeword; one row for each used input.
    codebooks : ndarray of shape (1, n_codewords) or (n_groups, n_codewords), float32
        One codebook for all groups, or one for each.
    scales : ndarray of shape (n_groups,), float32, or None
        Factors of the shared codebook; None if every group has its own codebook.
    groups : ndarray of shape (n_outputs,), intp
        The group of every neuron.
    bias : ndarray of shape (n_outputs,), float32
    used : ndarray of shape (n_inputs,), bool
        Inputs that have weights; the weights of all other inputs are zero.
    """

    codes: np.ndarray
    codebooks: np.ndarray
    scales: np.ndarray | None
    groups: np.ndarray
    bias: np.ndarray
    used: np.ndarray

    @property
    def levels(self) -> np.ndarray:
        """Possible weights of each group; ndarray of shape (n_groups, n_codewords), float32."""
        return self.codebooks if self.scales is None else self.codebooks * self.scales[:, None]

    @property
    def weight(self) -> np.ndarray:
        """Decoded weights; ndarray of shape (n_inputs, n_outputs), float32."""
        weight = np.zeros((len(self.used), self.codes.shape[1]), np.float32)
        weight[self.used] = self.levels[self.groups, self.codes]
        return weight


def round_to_half(values: np.ndarray) -> np.ndarray:
    """Round values to those that a file can store: 16-bit floats times a common power of two.

    Parameters
    ----------
    values : ndarray, finite

    Returns
    -------
    ndarray of the same shape, float32
        Within 1/2048 of every value that is not 16000 times smaller than the largest. Idempotent.

    Examples
    --------
    >>> round_to_half(np.array([1.0, 1.0004, 1.0006], dtype=np.float32))
    array([1.       , 1.       , 1.0009766], dtype=float32)
    """
    return _from_half(*_to_half(_from_half(*_to_half(values))))


def encode(layer: CodebookLayer, entropy_coding: str = "auto") -> Section:
    """Write one layer.

    Parameters
    ----------
    layer : CodebookLayer
        Its codebooks, scales and biases must have been rounded by `round_to_half`.
    entropy_coding : {"auto", "off"}
        "auto": codes are entropy-coded where that is shorter; "off": they are always packed.

    Returns
    -------
    Section

    Raises
    ------
    ValueError
        If a codeword, scale or bias cannot be stored without loss.
    """
    n_groups, n_codewords = len(layer.levels), layer.codebooks.shape[1]
    flags = 0 if layer.scales is None else _SCALES
    written = bytearray([n_codewords - 1]) + varint(n_groups)
    # Neurons sorted by group need the sizes of the groups alone
    if np.all(np.diff(layer.groups) >= 0):
        sizes = np.bincount(layer.groups, minlength=n_groups)[:-1]
        written += b"".join(varint(int(size)) for size in sizes)
    else:
        flags |= _ANY_ORDER
        written += bits.pack(layer.groups, bits.width_of(n_groups))
    form, used = masks.encode_used(layer.used)
    flags |= form << _USED_SHIFT
    written += used
    written += _encode_half(layer.codebooks)
    written += b"" if layer.scales is None else _encode_half(layer.scales)
    written += _encode_half(layer.bias)
    return Section(CODEBOOK, bytes([flags]) + bytes(written) + encode_codes(layer.codes, n_codewords, entropy_coding))


def decode(reader: Reader, shapes: list[tuple[int, int]]) -> list[Layer]:
    """Read one layer of the first of `shapes`; see `distill.codecs.sections`."""
    layer = decode_layer(reader, *shapes[0])
    with np.errstate(over="ignore", under="ignore"):  # infinite weights are refused by the container
        return [Layer(layer.weight, layer.bias)]


def decode_layer(reader: Reader, n_inputs: int, n_outputs: int) -> CodebookLayer:
    """Read one layer without computing its weights.

    Parameters
    ----------
    reader : Reader
    n_inputs, n_outputs : int

    Returns
    -------
    CodebookLayer

    Raises
    ------
    StudentFileError
        If the bytes are damaged or were not written for a layer of this shape.
    """
    flags = reader.byte("header")
    if flags > _ALL_FLAGS or flags >> _USED_SHIFT not in masks.FORMS:
        raise StudentFileError(f"{reader.where} has impossible flags {flags}")
    n_codewords = reader.byte("header") + 1
    n_groups = reader.varint("header", n_outputs)
    if n_groups == 0:
        raise StudentFileError(f"{reader.where} has no groups of neurons")
    if flags & _ANY_ORDER:
        width = bits.width_of(n_groups)
        data = reader.take(bits.packed_size(n_outputs, width), "groups")
        groups = bits.unpack(data, width, n_outputs).astype(np.intp)
        if groups.max() >= n_groups:
            raise StudentFileError(f"{reader.where} names group {groups.max()} of {n_groups}")
    else:
        sizes = [reader.varint("groups", n_outputs) for _ in range(n_groups - 1)]
        if sum(sizes) > n_outputs:
            raise StudentFileError(f"{reader.where} has groups of {sum(sizes)} neurons, and there are {n_outputs}")
        groups = np.repeat(np.arange(n_groups), [*sizes, n_outputs - sum(sizes)])
    used = masks.decode_used(reader, n_inputs, flags >> _USED_SHIFT)
    n_codebooks = 1 if flags & _SCALES else n_groups
    codebooks = _decode_half(reader, n_codebooks * n_codewords, "codebooks").reshape(n_codebooks, n_codewords)
    scales = _decode_half(reader, n_groups, "scales") if flags & _SCALES else None
    bias = _decode_half(reader, n_outputs, "biases")
    codes = decode_codes(reader, int(used.sum()), n_outputs, n_codewords)
    return CodebookLayer(codes, codebooks, scales, groups, bias, used)


def _encode_half(values: np.ndarray) -> bytes:
    """Return a half array: the exponent and the 16-bit floats; ValueError if they are not exact."""
    halves, exponent = _to_half(values)
    if not np.array_equal(_from_half(halves, exponent), values):
        raise ValueError("codewords, scales and biases must be rounded before they are written; call round_to_half")
    return exponent.to_bytes(1, "little", signed=True) + halves.astype("<f2").tobytes()


def _decode_half(reader: Reader, count: int, part: str) -> np.ndarray:
    """Read a half array; StudentFileError if a value is not finite."""
    exponent = int.from_bytes(reader.take(1, part), "little", signed=True)
    halves = reader.array("<f2", count, part)
    if not np.isfinite(halves).all():
        raise StudentFileError(f"{reader.where}: {part} are NaN or infinite")
    with np.errstate(over="ignore"):
        values = _from_half(halves, exponent)
    if not np.isfinite(values).all():
        raise StudentFileError(f"{reader.where}: {part} are too large for float32")
    return values


def _to_half(values: np.ndarray) -> tuple[np.ndarray, int]:
    """Return 16-bit floats and the exponent of their common power of two."""
    largest = float(np.abs(values).max(initial=0.0))
    exponent = int(np.clip(np.frexp(largest)[1], _MIN_EXPONENT, _MAX_EXPONENT)) if largest else 0
    return np.ldexp(np.asarray(values, np.float64), -exponent).astype(np.float16), exponent


def _from_half(halves: np.ndarray, exponent: int) -> np.ndarray:
    """Return the float32 values of 16-bit floats and their exponent."""
    return np.ldexp(halves.astype(np.float32), exponent)
