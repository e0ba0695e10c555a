"""Weights as codes into small codebooks: the layer as data, and as bytes.

The columns of a layer's matrix, its neurons, fall into groups. A weight is the codeword that its code names, times the
scale of its neuron's group, or it is a codeword of the group's own codebook.

The payload of one layer, in this order; `half` is an exponent of two, one signed byte, and 16-bit floats that it
multiplies:

=============== ================================================================================================
flags           1: there are scales; 2: groups are in any order; 4: not all inputs are used; 8: that is entropy-coded
n_codewords - 1 one byte
n_groups        varint
groups          sizes of all groups but the last as varints; or, with flag 2, every neuron's group, packed
used            one bit for each input, packed or entropy-coded; with flag 4 only
codebooks       half, (1 if there are scales or one group, else n_groups) x n_codewords
scales          half, n_groups; with flag 1 only
biases          half, n_outputs
codes           see `_encode_codes`, one for each used input and neuron, an input's codes side by side
=============== ================================================================================================
"""

from dataclasses import dataclass

import numpy as np

from distill.codecs import bits, entropy
from distill.codecs.layers import Layer, Section
from distill.codecs.reader import Reader, StudentFileError, varint

CODEBOOK = 18

_SCALES, _ANY_ORDER, _SOME_INPUTS, _CODED_INPUTS = 1, 2, 4, 8
_PACKED, _CODED, _IN_CONTEXTS = 0, 1, 2
_CONTEXTS = ((4, 1), (4, 4), (8, 8))
_MOST_IN_CONTEXTS = 32
_PRECISION = 12
_LOWEST_EXPONENT, _HIGHEST_EXPONENT = -126, 127


@dataclass(frozen=True, eq=False)
class CodebookLayer:
    """A layer whose weights are codes.

    Parameters
    ----------
    codes : ndarray of shape (n_used, n_outputs), uint8
        Position of every weight's codeword; one row for each input that is used.
    codebooks : ndarray of shape (1, n_codewords) or (n_groups, n_codewords), float32
        One that all groups share, or one for each.
    scales : ndarray of shape (n_groups,), float32, or None
        What multiplies the shared codebook; None where every group has its own.
    groups : ndarray of shape (n_outputs,), intp
        The group of every neuron.
    bias : ndarray of shape (n_outputs,), float32
    used : ndarray of shape (n_inputs,), bool
        Inputs that have weights at all; the others' are zero.
    """

    codes: np.ndarray
    codebooks: np.ndarray
    scales: np.ndarray | None
    groups: np.ndarray
    bias: np.ndarray
    used: np.ndarray

    @property
    def levels(self) -> np.ndarray:
        """The weights that each group can have; ndarray of shape (n_groups, n_codewords), float32."""
        return self.codebooks if self.scales is None else self.codebooks * self.scales[:, None]

    @property
    def weight(self) -> np.ndarray:
        """The matrix; ndarray of shape (n_inputs, n_outputs), float32."""
        weight = np.zeros((len(self.used), self.codes.shape[1]), np.float32)
        weight[self.used] = self.levels[self.groups, self.codes]
        return weight


def round_to_half(values: np.ndarray) -> np.ndarray:
    """Round numbers to those that a file stores: 16-bit floats that share one power of two.

    Parameters
    ----------
    values : ndarray, finite

    Returns
    -------
    ndarray of the same shape, float32
        Within 1/2048 of every value that is not 16000 times smaller than the largest. Rounding twice changes nothing.

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
        Its numbers must be those that `round_to_half` gives.
    entropy_coding : {"auto", "off"}
        Whether codes are entropy-coded where that is shorter, or always packed.

    Raises
    ------
    ValueError
        If a number cannot be stored as it is.
    """
    n_groups, n_codewords = len(layer.levels), layer.codebooks.shape[1]
    flags = 0 if layer.scales is None else _SCALES
    written = bytearray([n_codewords - 1]) + varint(n_groups)
    if np.all(np.diff(layer.groups) >= 0):
        sizes = np.bincount(layer.groups, minlength=n_groups)[:-1]
        written += b"".join(varint(int(size)) for size in sizes)
    else:
        flags |= _ANY_ORDER
        written += bits.pack(layer.groups, _width(n_groups))
    if not layer.used.all():
        flags |= _SOME_INPUTS
        packed, coded = bits.pack(layer.used.astype(np.uint8), 1), entropy.encode(layer.used.astype(np.uint8), 2)
        flags |= _CODED_INPUTS if len(coded) < len(packed) else 0
        written += min(packed, coded, key=len)
    written += _encode_half(layer.codebooks)
    written += b"" if layer.scales is None else _encode_half(layer.scales)
    written += _encode_half(layer.bias)
    return Section(CODEBOOK, bytes([flags]) + bytes(written) + _encode_codes(layer.codes, n_codewords, entropy_coding))


def decode(reader: Reader, shapes: list[tuple[int, int]], codec: int = CODEBOOK) -> list[Layer]:
    """Read one layer of the first of `shapes`."""
    layer = decode_layer(reader, *shapes[0])
    with np.errstate(over="ignore", under="ignore"):  # what is then infinite is refused by the container
        return [Layer(layer.weight, layer.bias)]


def decode_layer(reader: Reader, n_inputs: int, n_outputs: int) -> CodebookLayer:
    """Read what `encode` has written.

    Raises
    ------
    StudentFileError
        If it was not written for a layer of this shape.
    """
    flags = reader.byte("header")
    if flags > 15 or flags & (_SOME_INPUTS | _CODED_INPUTS) == _CODED_INPUTS:
        raise StudentFileError(f"{reader.where} has impossible flags {flags}")
    n_codewords = reader.byte("header") + 1
    n_groups = reader.varint("header", n_outputs)
    if n_groups == 0:
        raise StudentFileError(f"{reader.where} has no groups of neurons")
    if flags & _ANY_ORDER:
        width = _width(n_groups)
        data = reader.take(bits.packed_size(n_outputs, width), "groups")
        groups = bits.unpack(data, width, n_outputs).astype(np.intp)
        if groups.max() >= n_groups:
            raise StudentFileError(f"{reader.where} names group {groups.max()} of {n_groups}")
    else:
        sizes = [reader.varint("groups", n_outputs) for _ in range(n_groups - 1)]
        if sum(sizes) > n_outputs:
            raise StudentFileError(f"{reader.where} has groups of {sum(sizes)} neurons, and there are {n_outputs}")
        groups = np.repeat(np.arange(n_groups), [*sizes, n_outputs - sum(sizes)])
    used = np.ones(n_inputs, bool)
    if flags & _CODED_INPUTS:
        used = entropy.decode(reader, n_inputs, 2, "used inputs").astype(bool)
    elif flags & _SOME_INPUTS:
        data = reader.take(bits.packed_size(n_inputs, 1), "used inputs")
        used = bits.unpack(data, 1, n_inputs).astype(bool)
    n_codebooks = 1 if flags & _SCALES else n_groups
    codebooks = _decode_half(reader, n_codebooks * n_codewords, "codebooks").reshape(n_codebooks, n_codewords)
    scales = _decode_half(reader, n_groups, "scales") if flags & _SCALES else None
    bias = _decode_half(reader, n_outputs, "biases")
    codes = _decode_codes(reader, int(used.sum()), n_outputs, n_codewords)
    return CodebookLayer(codes, codebooks, scales, groups, bias, used)


def _encode_codes(codes: np.ndarray, n_codewords: int, entropy_coding: str) -> bytes:
    """Write codes in the shortest of three ways, and a byte that says which.

    0: packed, ceil(log2 n_codewords) bits each. 1: entropy-coded. 2: entropy-coded with frequencies that depend on the
    classes of the input and of the neuron: the two numbers of classes as bytes, the classes of all inputs and of all
    neurons entropy-coded, then for each pair of classes all frequencies but the last as varints, which sum to 4096.
    """
    symbols = codes.ravel()
    ways = [bytes([_PACKED]) + bits.pack(symbols, _width(n_codewords))]
    if entropy_coding == "off":
        return ways[0]
    ways.append(bytes([_CODED]) + entropy.encode(symbols, n_codewords))
    if symbols.size > 4096 and 1 < n_codewords <= _MOST_IN_CONTEXTS:
        for n_classes in _CONTEXTS:
            rows, columns = _classify(codes, n_codewords, *n_classes)
            ways.append(bytes([_IN_CONTEXTS]) + _encode_in_contexts(codes, n_codewords, rows, columns))
    return min(ways, key=len)


def _decode_codes(reader: Reader, n_used: int, n_outputs: int, n_codewords: int) -> np.ndarray:
    way, count = reader.byte("codes"), n_used * n_outputs
    if way == _PACKED:
        width = _width(n_codewords)
        symbols = bits.unpack(reader.take(bits.packed_size(count, width), "codes"), width, count)
        if count and symbols.max() >= n_codewords:
            raise StudentFileError(f"{reader.where} has code {symbols.max()}, and {n_codewords} codewords")
    elif way == _CODED:
        symbols = entropy.decode(reader, count, n_codewords)
    elif way == _IN_CONTEXTS:
        symbols = _decode_in_contexts(reader, n_used, n_outputs, n_codewords)
    else:
        raise StudentFileError(f"{reader.where} has codes written in way {way}, which this version does not know")
    return symbols.astype(np.uint8).reshape(n_used, n_outputs)


def _encode_in_contexts(codes: np.ndarray, n_codewords: int, rows: np.ndarray, columns: np.ndarray) -> bytes:
    n_classes = int(rows.max()) + 1, int(columns.max()) + 1
    contexts = (rows[:, None] * n_classes[1] + columns).ravel()
    counts = _count(codes, contexts.reshape(codes.shape), n_classes[0] * n_classes[1], n_codewords)
    table = np.array([entropy.quantize(count, _PRECISION) for count in counts])
    written = bytes(n_classes) + entropy.encode(rows, n_classes[0]) + entropy.encode(columns, n_classes[1])
    written += b"".join(varint(int(frequency)) for frequency in table[:, :-1].ravel())
    return written + entropy.encode_symbols(codes.ravel(), table, contexts)


def _decode_in_contexts(reader: Reader, n_used: int, n_outputs: int, n_codewords: int) -> np.ndarray:
    n_classes = reader.byte("codes"), reader.byte("codes")
    if 0 in n_classes or n_classes[0] * n_classes[1] > 256:
        raise StudentFileError(f"{reader.where} has codes in {n_classes} classes")
    rows = entropy.decode(reader, n_used, n_classes[0]).astype(np.int64)
    columns = entropy.decode(reader, n_outputs, n_classes[1]).astype(np.int64)
    total, n_contexts = 1 << _PRECISION, n_classes[0] * n_classes[1]
    table = np.zeros((n_contexts, n_codewords), np.int64)
    for context in range(n_contexts):
        table[context, :-1] = [reader.varint("codes", total) for _ in range(n_codewords - 1)]
    table[:, -1] = total - table.sum(axis=1)
    if table.min() < 0:
        raise StudentFileError(f"{reader.where}: frequencies sum to more than {total}")
    contexts = (rows[:, None] * n_classes[1] + columns).ravel()
    return entropy.decode_symbols(reader, n_used * n_outputs, table, contexts)


def _classify(codes: np.ndarray, n_codewords: int, n_row_classes: int, n_column_classes: int):
    """Sort rows and columns into classes so that codes are short when each pair of classes has its frequencies."""
    common = codes == np.bincount(codes.ravel()).argmax()
    rows = _quantiles(common.mean(axis=1), n_row_classes)
    columns = _quantiles(common.mean(axis=0), n_column_classes)
    for _ in range(6):
        rows = _reclassify(codes, rows, columns, n_codewords, n_row_classes, n_column_classes)
        columns = _reclassify(codes.T, columns, rows, n_codewords, n_column_classes, n_row_classes)
    return np.unique(rows, return_inverse=True)[1], np.unique(columns, return_inverse=True)[1]


def _reclassify(codes, rows, columns, n_codewords, n_row_classes, n_column_classes) -> np.ndarray:
    if n_row_classes == 1:
        return rows
    counts = _count(codes, rows[:, None] * n_column_classes + columns, n_row_classes * n_column_classes, n_codewords)
    lengths = -np.log2((counts + 0.5) / (counts + 0.5).sum(axis=1, keepdims=True))
    lengths = lengths.reshape(n_row_classes, n_column_classes * n_codewords)
    place = np.arange(len(codes))[:, None] * (n_column_classes * n_codewords) + columns * n_codewords + codes
    of_row = np.bincount(place.ravel(), minlength=len(codes) * n_column_classes * n_codewords)
    return (of_row.reshape(len(codes), -1) @ lengths.T).argmin(axis=1)


def _count(codes: np.ndarray, contexts: np.ndarray, n_contexts: int, n_codewords: int) -> np.ndarray:
    counts = np.bincount((contexts * n_codewords + codes).ravel(), minlength=n_contexts * n_codewords)
    return counts.reshape(n_contexts, n_codewords)


def _quantiles(values: np.ndarray, n_classes: int) -> np.ndarray:
    ranks = np.empty(len(values), np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks * n_classes // max(len(values), 1)


def _width(n_values: int) -> int:
    return (n_values - 1).bit_length()


def _encode_half(values: np.ndarray) -> bytes:
    halves, exponent = _to_half(values)
    if not np.array_equal(_from_half(halves, exponent), values):
        raise ValueError("codewords, scales and biases must be rounded before they are written, by round_to_half")
    return exponent.to_bytes(1, "little", signed=True) + halves.astype("<f2").tobytes()


def _decode_half(reader: Reader, count: int, part: str) -> np.ndarray:
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
    """Return 16-bit floats and the exponent of the power of two that multiplies them."""
    largest = float(np.abs(values).max(initial=0.0))
    exponent = int(np.clip(np.frexp(largest)[1], _LOWEST_EXPONENT, _HIGHEST_EXPONENT)) if largest else 0
    return np.ldexp(np.asarray(values, np.float64), -exponent).astype(np.float16), exponent


def _from_half(halves: np.ndarray, exponent: int) -> np.ndarray:
    return np.ldexp(halves.astype(np.float32), exponent)
