"""Symbols in as many bits as their frequencies ask for: an interleaved rANS coder in NumPy.

The coder is Duda's range variant of asymmetric numeral systems ("Asymmetric numeral systems", arXiv:1311.2540): a
state of 32 bits that gives or takes words of 16 bits. Short messages use one state; long ones several, which take
turns in reading the words (Giesen, "Interleaved entropy coders", arXiv:1402.3392), so that NumPy decodes one symbol of
each at a time. Everything is integers: what is decoded does not depend on the machine.

Frequencies are integers that sum to a power of two. `encode` and `decode` choose, store and read them; `encode_symbols`
and `decode_symbols` take them from the caller, one row for each context where symbols come in several kinds.
"""

import heapq
from array import array

import numpy as np

from distill.codecs.reader import Reader, StudentFileError, varint

_LOWEST = 1 << 16
_WORD_BITS = 16
_PRECISIONS = (6, 8, 10, 12, 14, 16)
_MOST_LANES = 1024
_BLOCK = 1 << 12
_MOST_SYMBOLS = 1 << 12


def encode(symbols: np.ndarray, n_symbols: int) -> bytes:
    """Write symbols together with their frequencies.

    Parameters
    ----------
    symbols : array-like of shape (count,), integers in [0, n_symbols)
    n_symbols : int in [1, 4096]
        Size of the alphabet; one symbol alone costs no bits.

    Returns
    -------
    bytes
        Self-delimiting: `decode` reads as much as there is of it.

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
    """Read what `encode` has written.

    Parameters
    ----------
    reader : Reader
    count : int
        Number of symbols. It must be known to be reasonable: symbols that cost nothing are not backed by bytes.
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


def quantize(counts: np.ndarray, precision: int) -> np.ndarray:
    """Return frequencies that sum to ``2**precision``, close to `counts` in code length, none of those seen zero.

    Parameters
    ----------
    counts : array-like of shape (n_symbols,), integers >= 0
    precision : int in [1, 16]

    Returns
    -------
    ndarray of shape (n_symbols,), int64

    Examples
    --------
    >>> quantize([900, 100, 0, 1], 4)
    array([13,  2,  0,  1])
    """
    counts = np.asarray(counts, np.int64)
    total, seen = 1 << precision, counts > 0
    if not seen.any():
        return np.eye(1, len(counts), dtype=np.int64)[0] * total
    if seen.sum() > total:
        raise ValueError(f"{seen.sum()} symbols do not fit into frequencies that sum to {total}")
    # From below, one more at a time where it shortens the code most: what is left to hand out is little
    spare = total - seen.sum()
    frequencies = np.where(seen, np.maximum(1, counts * spare // counts.sum()), 0)
    gains = [(-counts[i] * np.log1p(1 / frequencies[i]), i) for i in np.flatnonzero(seen)]
    heapq.heapify(gains)
    for _ in range(total - frequencies.sum()):
        i = gains[0][1]
        frequencies[i] += 1
        heapq.heapreplace(gains, (-counts[i] * np.log1p(1 / frequencies[i]), i))
    return frequencies


def encode_symbols(symbols: np.ndarray, frequencies: np.ndarray, contexts: np.ndarray | None = None) -> bytes:
    """Write symbols whose frequencies the reader knows.

    Parameters
    ----------
    symbols : array-like of shape (count,), integers in [0, n_symbols)
    frequencies : array-like of shape (n_symbols,) or (n_contexts, n_symbols), integers >= 0
        Each row sums to the same power of two, at most 2**16.
    contexts : array-like of shape (count,), integers in [0, n_contexts), or None
        The row of `frequencies` that holds for each symbol.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If a symbol occurs whose frequency is zero, or the arguments contradict each other.
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
    n_lanes = _n_lanes(len(symbols), bits / 8)
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
    """Read what `encode_symbols` has written with the same frequencies and contexts.

    Returns
    -------
    ndarray of shape (count,), uint16
    """
    table, precision = _checked_frequencies(frequencies)
    n_lanes = reader.varint(part, _MOST_LANES)
    n_words = reader.varint(part)
    if n_lanes == 0:
        raise StudentFileError(f"{reader.where}: symbols coded in no lane at all")
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
    """What decoding looks up: the row (context, symbol) that a slot of the state belongs to, and what the row has."""

    def __init__(self, table: np.ndarray, precision: int):
        self.precision, self.mask = precision, (1 << precision) - 1
        self.frequency, self.start = table.ravel(), (np.cumsum(table, axis=1) - table).ravel()
        self.row_of_slot = np.repeat(np.arange(table.size, dtype=np.uint32), self.frequency)


def _checked(values: np.ndarray, upper: int) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iub"):
        raise ValueError(f"symbols must be a vector of integers, got shape {values.shape} of {values.dtype}")
    if not 1 <= upper <= _MOST_SYMBOLS:
        raise ValueError(f"the alphabet must have 1..{_MOST_SYMBOLS} symbols, got {upper}")
    if values.size and not 0 <= values.min() <= values.max() < upper:
        raise ValueError(f"symbols must be in [0, {upper}), got {values.min()}..{values.max()}")
    return values.astype(np.int64)


def _checked_frequencies(frequencies: np.ndarray) -> tuple[np.ndarray, int]:
    table = np.atleast_2d(np.asarray(frequencies, np.int64))
    totals = table.sum(axis=1)
    precision = int(totals[0]).bit_length() - 1
    if table.min() < 0 or not 0 <= precision <= 16 or (totals != 1 << precision).any():
        raise ValueError(f"frequencies must sum to the same power of two up to 2**16 in each row, got sums {totals}")
    return table, precision


def _ideal_bits(counts: np.ndarray, frequencies: np.ndarray) -> float:
    seen = counts > 0
    return float(counts[seen] @ (np.log2(frequencies.sum()) - np.log2(frequencies[seen])))


def _encode_frequencies(frequencies: np.ndarray) -> bytes:
    # The last one is what is missing from the sum; a zero is followed by the number of zeros that follow it
    written, values = bytearray(), frequencies[:-1].tolist()
    while values:
        written += varint(values[0])
        if values.pop(0) == 0:
            n_more = next((index for index, value in enumerate(values) if value), len(values))
            written += varint(n_more)
            del values[:n_more]
    return bytes(written)


def _decode_frequencies(reader: Reader, n_symbols: int, total: int, part: str) -> np.ndarray:
    frequencies = []
    while len(frequencies) < n_symbols - 1:
        frequencies.append(reader.varint(part, total))
        if frequencies[-1] == 0:
            frequencies += [0] * reader.varint(part, n_symbols - 1 - len(frequencies))
    frequencies.append(total - sum(frequencies))
    if frequencies[-1] < 0:
        raise StudentFileError(f"{reader.where}: frequencies sum to more than {total}")
    return np.array(frequencies)


def _n_lanes(count: int, n_bytes: float) -> int:
    # A lane costs two bytes more than what it carries, and below 32 lanes plain Python is as fast as NumPy
    n_lanes = int(min(_MOST_LANES, count // 4096, n_bytes / 1600))
    return n_lanes if n_lanes >= 32 else 1


def _encode_one(frequency: np.ndarray, start: np.ndarray, precision: int) -> list[int]:
    # A single lane begins at zero and so wastes nothing; its last state is written as the first words of the stream
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
    words, rows = iter(memoryview(stream)), np.empty(count, np.uint32)
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
            # Towards the end the state is low because it began at zero, and no word is left
            if state < _LOWEST and (word := next(words, None)) is not None:
                state = state << _WORD_BITS | word
        block[:] = decoded
    return rows if state == 0 and next(words, None) is None else None


def _encode_many(frequency: np.ndarray, start: np.ndarray, precision: int, n_lanes: int) -> np.ndarray:
    states, stream = np.full(n_lanes, _LOWEST, np.int64), []
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
        low = (state < _LOWEST).nonzero()[0]
        words = stream[position : position + len(low)]
        if len(words) < len(low):
            return None
        state[low] = state[low] << _WORD_BITS | words
        position += len(low)
        states[: len(state)] = state
    return rows if position == len(stream) and (states == _LOWEST).all() else None
