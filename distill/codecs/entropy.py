"""Entropy coding: an interleaved rANS coder in NumPy.

The coder is Duda's range variant of asymmetric numeral systems ("Asymmetric numeral systems", arXiv:1311.2540): a
32-bit state that emits and reads words of 16 bits. Short messages use one state; long ones use several lanes, whose
states take turns in reading the words (Giesen, "Interleaved entropy coders", arXiv:1402.3392), so that NumPy decodes
one symbol of every lane at a time. All arithmetic is in integers: decoding does not depend on the machine.

Frequencies are integers that sum to a power of two. `encode` and `decode` choose, store and read them; `encode_symbols`
and `decode_symbols` take them from the caller, with one row per context.
"""

import heapq
from array import array
from collections.abc import Sequence

import numpy as np

from distill.codecs.reader import Reader, StudentFileError, varint

# A state is in [2**16, 2**32) between symbols
_MIN_STATE = 1 << 16
_WORD_BITS = 16
# Base-two logarithms of the sum of frequencies that the encoder tries: tables of larger ones take more bytes, and give
# shorter messages. A reader accepts 1 to 16
_PRECISIONS = (6, 8, 10, 12, 14, 16)
# Limit of the format
_MAX_LANES = 1024
# Symbols per block of the single-lane decoder, whose lists bound the memory
_BLOCK = 1 << 12
# Largest alphabet: bounds the tables of a decoder
_MAX_SYMBOLS = 1 << 12


def encode(symbols: Sequence[int] | np.ndarray, n_symbols: int) -> bytes:
    """Write symbols together with their frequencies.

    Parameters
    ----------
    symbols : array-like of shape (count,), integers in [0, n_symbols)
    n_symbols : int in [1, 4096]
        Size of the alphabet. A message of one distinct symbol takes no bits besides its frequencies.

    Returns
    -------
    bytes
        Self-delimiting: `decode` finds the end.

    Raises
    ------
    ValueError
        If a symbol or `n_symbols` is out of range.

    Examples
    --------
    >>> symbols = np.random.default_rng(0).geometric(0.7, size=4000) - 1
    >>> data = encode(symbols, 16)
    >>> bool((decode(Reader(data), 4000, 16) == symbols).all())
    True
    """
    symbols = _checked(symbols, n_symbols)
    counts = np.bincount(symbols, minlength=n_symbols)
    candidates = []
    for precision in _PRECISIONS:
        if np.count_nonzero(counts) <= 1 << precision:
            frequencies = quantize(counts, precision)
            header = bytes([precision]) + _encode_frequencies(frequencies)
            candidates.append((8 * len(header) + _ideal_bits(counts, frequencies), header, frequencies))
    _, header, frequencies = min(candidates, key=lambda candidate: candidate[0])
    return header + encode_symbols(symbols, frequencies)


def decode(reader: Reader, count: int, n_symbols: int, part: str = "codes") -> np.ndarray:
    """Read symbols and their frequencies.

    Parameters
    ----------
    reader : Reader
    count : int
        Number of symbols. The caller must bound it: symbols of probability one take no bytes.
    n_symbols : int in [1, 4096]
    part : str
        The name under which the bytes are counted.

    Returns
    -------
    ndarray of shape (count,), uint16

    Raises
    ------
    StudentFileError
        If the bytes were not written by `encode` with the same `count` and `n_symbols`.
    """
    precision = reader.byte(part)
    if not 1 <= precision <= 16:
        raise StudentFileError(f"{reader.where}: frequencies cannot sum to 2**{precision}")
    frequencies = _decode_frequencies(reader, n_symbols, 1 << precision, part)
    return decode_symbols(reader, count, frequencies, part=part)


def quantize(counts: Sequence[int] | np.ndarray, precision: int) -> np.ndarray:
    """Return frequencies of nearly minimal code length that sum to ``2**precision``.

    Parameters
    ----------
    counts : array-like of shape (n_symbols,), integers >= 0
    precision : int in [1, 16]

    Returns
    -------
    ndarray of shape (n_symbols,), int64
        Positive where `counts` is.

    Raises
    ------
    ValueError
        If more than ``2**precision`` symbols occur.

    Examples
    --------
    >>> quantize([900, 100, 0, 1], 4)
    array([13,  2,  0,  1])
    """
    counts = np.asarray(counts, np.int64)
    total, occurs = 1 << precision, counts > 0
    if not occurs.any():
        return np.eye(1, len(counts), dtype=np.int64)[0] * total
    if occurs.sum() > total:
        raise ValueError(f"{occurs.sum()} symbols do not fit into frequencies that sum to {total}")
    # Rounded down first; the small rest is handed out greedily, each time where it shortens the code most
    spare = total - occurs.sum()
    frequencies = np.where(occurs, np.maximum(1, counts * spare // counts.sum()), 0)
    gains = [(-counts[i] * np.log1p(1 / frequencies[i]), i) for i in np.flatnonzero(occurs)]
    heapq.heapify(gains)
    for _ in range(total - frequencies.sum()):
        i = gains[0][1]
        frequencies[i] += 1
        heapq.heapreplace(gains, (-counts[i] * np.log1p(1 / frequencies[i]), i))
    return frequencies


def encode_symbols(symbols: np.ndarray, frequencies: np.ndarray, contexts: np.ndarray | None = None) -> bytes:
    """Write symbols without their frequencies, which the reader must have.

    Parameters
    ----------
    symbols : array-like of shape (count,), integers in [0, n_symbols)
    frequencies : array-like of shape (n_symbols,) or (n_contexts, n_symbols), integers >= 0
        Each row sums to the same power of two, at most 2**16.
    contexts : array-like of shape (count,), integers in [0, n_contexts), or None
        The row of `frequencies` of each symbol.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If the frequency of an occurring symbol is zero, or the arguments are inconsistent.
    """
    table, precision = _checked_frequencies(frequencies)
    symbols = _checked(symbols, table.shape[1])
    rows = np.zeros(len(symbols), np.int64) if contexts is None else _checked(contexts, len(table))
    if len(rows) != len(symbols):
        raise ValueError(f"contexts has {len(rows)} entries for {len(symbols)} symbols")
    frequency = table[rows, symbols]
    if not frequency.all():
        raise ValueError("a symbol occurs whose frequency is zero")
    start = (np.cumsum(table, axis=1) - table)[rows, symbols]
    bits = len(symbols) * precision - np.log2(frequency).sum()
    n_lanes = choose_n_lanes(len(symbols), bits / 8)
    stream: list[int] | np.ndarray
    if n_lanes == 1:
        stream = _encode_one(frequency, start, precision)
    else:
        stream = _encode_many(frequency, start, precision, n_lanes)
    return varint(n_lanes) + varint(len(stream)) + np.asarray(stream, "<u2").tobytes()


def decode_symbols(
    reader: Reader,
    count: int,
    frequencies: np.ndarray,
    contexts: np.ndarray | None = None,
    part: str = "codes",
) -> np.ndarray:
    """Read symbols that were written with the same frequencies and contexts.

    Parameters
    ----------
    reader : Reader
    count : int
    frequencies, contexts
        See `encode_symbols`.
    part : str
        The name under which the bytes are counted.

    Returns
    -------
    ndarray of shape (count,), uint16

    Raises
    ------
    StudentFileError
        If the bytes are damaged.
    """
    table, precision = _checked_frequencies(frequencies)
    n_lanes = reader.varint(part, _MAX_LANES)
    n_words = reader.varint(part)
    if n_lanes == 0:
        raise StudentFileError(f"{reader.where}: the number of lanes is zero")
    stream = reader.array("<u2", n_words, part)
    base = None if contexts is None else _checked(contexts, len(table)) << precision
    tables = _Tables(table, precision)
    if n_lanes == 1:
        rows = _decode_one(stream, count, tables, base)
    else:
        rows = _decode_many(stream.astype(np.int64), n_lanes, count, tables, base)
    if rows is None:
        raise StudentFileError(f"{reader.where}: the coded symbols are damaged")
    return (rows % table.shape[1]).astype(np.uint16)


class _Tables:
    """Look-up tables of the decoder, all flattened over (context, symbol), a *row*.

    =========== =================================== ===========================================
    row_of_slot (n_contexts * 2**precision,) uint32 the row of each slot, the state's low bits
    frequency   (n_contexts * n_symbols,) int64     of each row
    start       (n_contexts * n_symbols,) int64     first slot of each row, within its context
    =========== =================================== ===========================================
    """

    def __init__(self, table: np.ndarray, precision: int):
        self.precision, self.mask = precision, (1 << precision) - 1
        self.frequency, self.start = table.ravel(), (np.cumsum(table, axis=1) - table).ravel()
        self.row_of_slot = np.repeat(np.arange(table.size, dtype=np.uint32), self.frequency)


def _checked(values: Sequence[int] | np.ndarray, upper: int) -> np.ndarray:
    """Return symbols as int64; ValueError if they are not integers in [0, upper)."""
    values = np.asarray(values)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iub"):
        raise ValueError(f"symbols must be a vector of integers, got shape {values.shape} of {values.dtype}")
    if not 1 <= upper <= _MAX_SYMBOLS:
        raise ValueError(f"the alphabet must have 1..{_MAX_SYMBOLS} symbols, got {upper}")
    if values.size and not 0 <= values.min() <= values.max() < upper:
        raise ValueError(f"symbols must be in [0, {upper}), got {values.min()}..{values.max()}")
    return values.astype(np.int64)


def _checked_frequencies(frequencies: np.ndarray) -> tuple[np.ndarray, int]:
    """Return frequencies as a table of contexts x symbols, and the base-two logarithm of their sum."""
    table = np.atleast_2d(np.asarray(frequencies, np.int64))
    totals = table.sum(axis=1)
    precision = int(totals[0]).bit_length() - 1
    if table.min() < 0 or not 0 <= precision <= 16 or (totals != 1 << precision).any():
        raise ValueError(f"frequencies must sum to the same power of two up to 2**16 in each row, got totals {totals}")
    return table, precision


def _ideal_bits(counts: np.ndarray, frequencies: np.ndarray) -> float:
    """Return the length of a message with these counts, in bits, for an ideal coder."""
    occurs = counts > 0
    return float(counts[occurs] @ (np.log2(frequencies.sum()) - np.log2(frequencies[occurs])))


def _encode_frequencies(frequencies: np.ndarray) -> bytes:
    """Write all frequencies but the last."""
    # The last one follows from the sum; after a zero comes the number of further zeros in a row
    written, values = bytearray(), frequencies[:-1].tolist()
    while values:
        written += varint(values[0])
        if values.pop(0) == 0:
            n_more = next((index for index, value in enumerate(values) if value), len(values))
            written += varint(n_more)
            del values[:n_more]
    return bytes(written)


def _decode_frequencies(reader: Reader, n_symbols: int, total: int, part: str) -> np.ndarray:
    """Read frequencies that sum to `total`."""
    frequencies: list[int] = []
    while len(frequencies) < n_symbols - 1:
        frequencies.append(reader.varint(part, total))
        if frequencies[-1] == 0:
            frequencies += [0] * reader.varint(part, n_symbols - 1 - len(frequencies))
    frequencies.append(total - sum(frequencies))
    if frequencies[-1] < 0:
        raise StudentFileError(f"{reader.where}: frequencies sum to more than {total}")
    return np.array(frequencies)


def choose_n_lanes(count: int, n_bytes: float) -> int:
    """Return the number of lanes for a message."""
    # Every lane adds two bytes to the message, at most 1/800 of it; with fewer than 32 lanes plain Python is as fast as
    # NumPy
    n_lanes = int(min(_MAX_LANES, count // 4096, n_bytes / 1600))
    return n_lanes if n_lanes >= 32 else 1


def _encode_one(frequency: np.ndarray, start: np.ndarray, precision: int) -> list[int]:
    """Encode backwards with one state; frequency and start are those of each symbol, shape (count,)."""
    # The state begins at zero, which costs no words; the last state becomes the first words of the stream
    state, stream = 0, []
    for f, s in zip(frequency[::-1].tolist(), start[::-1].tolist()):
        if state >= f << 32 - precision:
            stream.append(state & 0xFFFF)
            state >>= _WORD_BITS
        state = (state // f << precision) + state % f + s
    while state:
        stream.append(state & 0xFFFF)
        state >>= _WORD_BITS
    return stream[::-1]


def _decode_one(stream: np.ndarray, count: int, tables: _Tables, base: np.ndarray | None) -> np.ndarray | None:
    """Return the row of every symbol, or None if the stream is damaged; base is context << precision, (count,)."""
    words, rows = iter(stream.data), np.empty(count, np.uint32)
    precision, mask, row_of_slot = tables.precision, tables.mask, array("I", tables.row_of_slot.tobytes())
    frequency, start = tables.frequency.tolist(), tables.start.tolist()
    state = next(words, 0)
    if (word := next(words, None)) is not None:
        state = state << _WORD_BITS | word
    for begin in range(0, count, _BLOCK):
        block = rows[begin : begin + _BLOCK]
        decoded = [0] * len(block) if base is None else base[begin : begin + _BLOCK].tolist()
        for index, first in enumerate(decoded):
            slot = state & mask
            decoded[index] = row = row_of_slot[first + slot]
            state = frequency[row] * (state >> precision) + slot - start[row]
            # Near the end the state is low because the encoder began at zero, and no words are left
            if state < _MIN_STATE and (word := next(words, None)) is not None:
                state = state << _WORD_BITS | word
        block[:] = decoded
    return rows if state == 0 and next(words, None) is None else None


def _encode_many(frequency: np.ndarray, start: np.ndarray, precision: int, n_lanes: int) -> np.ndarray:
    """Encode backwards with `n_lanes` states; symbol t belongs to lane t mod n_lanes."""
    states, stream = np.full(n_lanes, _MIN_STATE, np.int64), []
    for first in range((len(frequency) - 1) // n_lanes * n_lanes, -1, -n_lanes):
        f, s = frequency[first : first + n_lanes], start[first : first + n_lanes]
        state = states[: len(f)]
        full = state >= f << 32 - precision
        stream.append((state[full] & 0xFFFF)[::-1])
        state = np.where(full, state >> _WORD_BITS, state)
        states[: len(f)] = (state // f << precision) + state % f + s
    stream += [(states & 0xFFFF)[::-1], (states >> _WORD_BITS)[::-1]]
    return np.concatenate(stream)[::-1]


def _decode_many(
    stream: np.ndarray, n_lanes: int, count: int, tables: _Tables, base: np.ndarray | None
) -> np.ndarray | None:
    """Return the row of every symbol, or None if the stream is damaged; see `_decode_one`."""
    if len(stream) < 2 * n_lanes:
        return None
    states = stream[:n_lanes] << _WORD_BITS | stream[n_lanes : 2 * n_lanes]
    position, rows = 2 * n_lanes, np.empty(count, np.uint32)
    for first in range(0, count, n_lanes):
        state = states[: count - first]
        slot = state & tables.mask
        row = tables.row_of_slot[slot if base is None else slot + base[first : first + n_lanes]]
        rows[first : first + n_lanes] = row
        state = tables.frequency[row] * (state >> tables.precision) + slot - tables.start[row]
        low = (state < _MIN_STATE).nonzero()[0]
        words = stream[position : position + len(low)]
        if len(words) < len(low):
            return None
        state[low] = state[low] << _WORD_BITS | words
        position += len(low)
        states[: len(state)] = state
    return rows if position == len(stream) and (states == _MIN_STATE).all() else None
