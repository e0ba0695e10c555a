"""Matrices of small integers in the shortest of three forms: packed, entropy-coded, or entropy-coded in contexts."""

import numpy as np

from distill.codecs import bits, entropy
from distill.codecs.reader import Reader, StudentFileError, varint

# The forms, as the first byte of the codes
_PACKED, _CODED, _IN_CONTEXTS = 0, 1, 2
# Class counts of inputs and of neurons that the encoder tries; a reader accepts any with up to 256 contexts
_CONTEXTS = ((4, 1), (4, 4), (8, 8))
# Limits of the contexts: the tables of frequencies grow with the codebook, and take the same bytes for few codes as for
# many
_MAX_CODEWORDS_IN_CONTEXTS, _MIN_CODES_IN_CONTEXTS = 32, 4096
# Frequencies of a context sum to 2**12; see docs/format.md
_PRECISION = 12
# Rounds of the alternating assignment of inputs and neurons to classes; chosen by hand
_N_CLASSIFICATION_ROUNDS = 6


def encode_codes(codes: np.ndarray, n_codewords: int, entropy_coding: str) -> bytes:
    """Write codes in the shortest of three forms, after a byte for the form.

    Parameters
    ----------
    codes : ndarray of shape (n_used, n_outputs)
        Integers below `n_codewords`.
    n_codewords : int
    entropy_coding : {"auto", "off"}
        "off" always packs.

    Returns
    -------
    bytes

    Notes
    -----
    0: packed, ceil(log2 n_codewords) bits each. 1: entropy-coded. 2: entropy-coded with frequencies that depend on the
    classes of the input and of the neuron: the number of classes of inputs and that of neurons as bytes, the classes of
    all inputs and of all neurons entropy-coded, then for each pair of classes all frequencies but the last as varints;
    the frequencies of a pair sum to 4096.

    Examples
    --------
    >>> encode_codes(np.array([[0, 1], [3, 2]]), 4, "off").hex()
    '00b4'
    """
    symbols = codes.ravel()
    forms = [bytes([_PACKED]) + bits.pack(symbols, bits.width_of(n_codewords))]
    if entropy_coding == "off":
        return forms[0]
    forms.append(bytes([_CODED]) + entropy.encode(symbols, n_codewords))
    if symbols.size > _MIN_CODES_IN_CONTEXTS and 1 < n_codewords <= _MAX_CODEWORDS_IN_CONTEXTS:
        for n_classes in _CONTEXTS:
            rows, columns = _classify(codes, n_codewords, *n_classes)
            forms.append(bytes([_IN_CONTEXTS]) + _encode_in_contexts(codes, n_codewords, rows, columns))
    return min(forms, key=len)


def decode_codes(reader: Reader, n_used: int, n_outputs: int, n_codewords: int) -> np.ndarray:
    """Read codes back.

    Parameters
    ----------
    reader : Reader
    n_used, n_outputs, n_codewords : int

    Returns
    -------
    ndarray of shape (n_used, n_outputs), uint8

    Raises
    ------
    StudentFileError
        If a code is not below `n_codewords`, or the bytes are damaged.
    """
    form, count = reader.byte("codes"), n_used * n_outputs
    if form == _PACKED:
        width = bits.width_of(n_codewords)
        symbols = bits.unpack(reader.take(bits.packed_size(count, width), "codes"), width, count)
        if count and symbols.max() >= n_codewords:
            raise StudentFileError(f"{reader.where} has code {symbols.max()}, and {n_codewords} codewords")
    elif form == _CODED:
        symbols = entropy.decode(reader, count, n_codewords)
    elif form == _IN_CONTEXTS:
        symbols = _decode_in_contexts(reader, n_used, n_outputs, n_codewords)
    else:
        raise StudentFileError(f"{reader.where} has codes of form {form}, which this version cannot read")
    return symbols.astype(np.uint8).reshape(n_used, n_outputs)


def _encode_in_contexts(codes: np.ndarray, n_codewords: int, rows: np.ndarray, columns: np.ndarray) -> bytes:
    """Write codes with the frequencies of each pair of classes; see the notes of `encode_codes`."""
    n_classes = int(rows.max()) + 1, int(columns.max()) + 1
    contexts = (rows[:, None] * n_classes[1] + columns).ravel()
    counts = _count(codes, contexts.reshape(codes.shape), n_classes[0] * n_classes[1], n_codewords)
    table = np.array([entropy.quantize(count, _PRECISION) for count in counts])
    written = bytes(n_classes) + entropy.encode(rows, n_classes[0]) + entropy.encode(columns, n_classes[1])
    written += b"".join(varint(int(frequency)) for frequency in table[:, :-1].ravel())
    return written + entropy.encode_symbols(codes.ravel(), table, contexts)


def _decode_in_contexts(reader: Reader, n_used: int, n_outputs: int, n_codewords: int) -> np.ndarray:
    """Read codes written with the frequencies of each pair of classes."""
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


def _classify(
    codes: np.ndarray, n_codewords: int, n_row_classes: int, n_column_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Assign rows and columns to classes so that the code lengths under the frequencies of each pair are short.

    Classes start as quantiles of the frequency of the most common code; then rows and columns are reassigned in turn,
    as in k-means with code length for a distance.

    Returns
    -------
    rows : ndarray of shape (n_used,), int64
    columns : ndarray of shape (n_outputs,), int64
    """
    common = codes == np.bincount(codes.ravel()).argmax()
    rows = _quantiles(common.mean(axis=1), n_row_classes)
    columns = _quantiles(common.mean(axis=0), n_column_classes)
    for _ in range(_N_CLASSIFICATION_ROUNDS):
        rows = _reclassify(codes, rows, columns, n_codewords, n_row_classes, n_column_classes)
        columns = _reclassify(codes.T, columns, rows, n_codewords, n_column_classes, n_row_classes)
    return np.unique(rows, return_inverse=True)[1], np.unique(columns, return_inverse=True)[1]


def _reclassify(
    codes: np.ndarray,
    rows: np.ndarray,
    columns: np.ndarray,
    n_codewords: int,
    n_row_classes: int,
    n_column_classes: int,
) -> np.ndarray:
    """Assign every row to the class under whose frequencies its codes are shortest."""
    if n_row_classes == 1:
        return rows
    counts = _count(codes, rows[:, None] * n_column_classes + columns, n_row_classes * n_column_classes, n_codewords)
    # Half a count more than observed keeps all lengths finite
    lengths = -np.log2((counts + 0.5) / (counts + 0.5).sum(axis=1, keepdims=True))
    lengths = lengths.reshape(n_row_classes, n_column_classes * n_codewords)
    index = np.arange(len(codes))[:, None] * (n_column_classes * n_codewords) + columns * n_codewords + codes
    row_counts = np.bincount(index.ravel(), minlength=len(codes) * n_column_classes * n_codewords)
    return (row_counts.reshape(len(codes), -1) @ lengths.T).argmin(axis=1)


def _count(codes: np.ndarray, contexts: np.ndarray, n_contexts: int, n_codewords: int) -> np.ndarray:
    """Return how often each code occurs in each context, shape (n_contexts, n_codewords)."""
    counts = np.bincount((contexts * n_codewords + codes).ravel(), minlength=n_contexts * n_codewords)
    return counts.reshape(n_contexts, n_codewords)


def _quantiles(values: np.ndarray, n_classes: int) -> np.ndarray:
    """Return the class of every value, its quantile among all."""
    ranks = np.empty(len(values), np.int64)
    ranks[np.argsort(values, kind="stable")] = np.arange(len(values))
    return ranks * n_classes // max(len(values), 1)
