"""Functions of a column of texts. Patterns are those of this module, never of a file."""

import re
import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np

from distill.codecs.table import text
from distill.codecs.table.fields import is_nan
from distill.runtime.table.cells import Cells, shown

__all__ = ["FUNCTIONS", "analyzer", "murmur_hash"]

_BLANKS = re.compile(r"\s\s+")
_MASK = 0xFFFFFFFF
# Hashes of n-grams that are kept
_MOST_HASHES = 1 << 16


def analyzer(operation: text.Text) -> Callable[[str], list[str]]:
    """Return the function that cuts a text into its n-grams.

    Examples
    --------
    >>> analyzer(text.Text("word", (1, 2)))("A blue bird, bluer")
    ['blue', 'bird', 'bluer', 'blue bird', 'bird bluer']
    >>> analyzer(text.Text("char_wb", (3, 3)))("a bird")
    [' a ', ' bi', 'bir', 'ird', 'rd ']
    """
    shortest, longest = operation.ngrams
    cut: Callable[[str], list[str]]
    if operation.analyzer == "word":
        # Built from a fixed list: runs of one class of characters, which take linear time
        bound = r"\b" if operation.bounded else ""
        pattern = f"{bound}{text.CHARACTERS[operation.characters]}{{{operation.min_letters},}}{bound}"
        find, stop_words = re.compile(pattern).findall, frozenset(operation.stop_words)

        def cut(document: str) -> list[str]:
            tokens = find(document)
            if stop_words:
                tokens = [token for token in tokens if token not in stop_words]
            found = tokens if shortest == 1 else []
            for size in range(max(2, shortest), min(longest, len(tokens)) + 1):
                found = found + [" ".join(tokens[at : at + size]) for at in range(len(tokens) - size + 1)]
            return found

    elif operation.analyzer == "char":

        def cut(document: str) -> list[str]:
            document = _BLANKS.sub(" ", document)
            sizes = range(shortest, min(longest, len(document)) + 1)
            return [document[at : at + size] for size in sizes for at in range(len(document) - size + 1)]

    else:

        def cut(document: str) -> list[str]:
            found = []
            for word in _BLANKS.sub(" ", document).split():
                word = f" {word} "
                for size in range(shortest, longest + 1):
                    found += [word[at : at + size] for at in range(max(1, len(word) - size + 1))]
                    if size >= len(word):  # a short word counts once
                        break
            return found

    accents = {"keep": None, "ascii": _to_ascii, "unicode": _without_accents}[operation.accents]
    lower = operation.lower

    def analyze(document: str) -> list[str]:
        if lower:
            document = document.lower()
        return cut(document if accents is None else accents(document))

    return analyze


def _to_ascii(document: str) -> str:
    return unicodedata.normalize("NFKD", document).encode("ASCII", "ignore").decode("ASCII")


def _without_accents(document: str) -> str:
    if document.isascii():
        return document
    return "".join(each for each in unicodedata.normalize("NFKD", document) if not unicodedata.combining(each))


def murmur_hash(data: bytes) -> int:
    """Return the signed hash of 32 bits of MurmurHash3 with seed 0 (A. Appleby, in the public domain).

    Examples
    --------
    >>> murmur_hash(b"")
    0
    """
    state = 0
    whole = len(data) & ~3
    for at in range(0, whole, 4):
        word = int.from_bytes(data[at : at + 4], "little") * 0xCC9E2D51 & _MASK
        state ^= (word << 15 | word >> 17) * 0x1B873593 & _MASK
        state = (state << 13 | state >> 19) & _MASK
        state = state * 5 + 0xE6546B64 & _MASK
    if whole < len(data):
        word = int.from_bytes(data[whole:], "little") * 0xCC9E2D51 & _MASK
        state ^= ((word << 15 | word >> 17) & _MASK) * 0x1B873593 & _MASK
    state ^= len(data)
    state = (state ^ state >> 16) * 0x85EBCA6B & _MASK
    state = (state ^ state >> 13) * 0xC2B2AE35 & _MASK
    state ^= state >> 16
    return state - (1 << 32) if state >> 31 else state


def _text(operation: text.Text) -> Callable[[Cells], Cells]:
    analyze = analyzer(operation)
    column_of: Callable[[str], tuple[int, int] | None]
    if operation.n_hashed:
        column_of = _hashes(operation.n_hashed, operation.signed)
        width = operation.n_hashed
    else:
        vocabulary = {term: (index, 1) for index, term in enumerate(operation.vocabulary)}
        column_of, width = vocabulary.get, len(vocabulary)

    def apply(cells: Cells) -> Cells:
        counts = np.zeros((cells.shape[0], width))
        for row, document in enumerate(cells.columns()[0].tolist()):
            if not isinstance(document, str):
                missing = document is None or is_nan(document)
                kind = "missing" if missing else f"no text, {shown(document)}"
                advice = "fill it in, as with X.fillna('')" if missing else "convert it, as with X.astype(str)"
                raise cells.error(f"is {kind}, where a text is needed; {advice}", row, 0)
            found: dict[int, int] = {}
            for term in analyze(document):
                place = column_of(term)
                if place is not None:
                    found[place[0]] = found.get(place[0], 0) + place[1]
            if found:
                values = np.fromiter(found.values(), np.float64, len(found))
                if operation.binary:
                    values[:] = 1
                counts[row, np.fromiter(found, np.intp, len(found))] = values
        return cells.computed(counts)

    return apply


def _hashes(n_columns: int, signed: bool) -> Callable[[str], tuple[int, int]]:
    """Return the function from an n-gram to its column and sign, which remembers many of them."""
    known: dict[str, tuple[int, int]] = {}

    def column_of(term: str) -> tuple[int, int]:
        place = known.get(term)
        if place is None:
            # An n-gram may end between the halves of a character that Python keeps from broken text
            code = murmur_hash(term.encode("utf-8", "surrogatepass"))
            place = abs(code) % n_columns, -1 if signed and code < 0 else 1
            if len(known) < _MOST_HASHES:
                known[term] = place
        return place

    return column_of


def _weigh(operation: text.Weigh) -> Callable[[Cells], Cells]:
    def apply(cells: Cells) -> Cells:
        rows = cells.matrix()
        with np.errstate(all="ignore"):
            for row in rows:
                used = np.flatnonzero(row)
                values = row[used]
                if operation.sublinear:
                    values = np.log(values) + 1.0
                if operation.weights is not None:
                    values = values * operation.weights[used]
                row[used] = _over_norm(values, operation.norm)
        return cells.computed(rows)

    return apply


def _over_norm(values: np.ndarray, norm: str | None) -> np.ndarray:
    """Return values over their norm, added one after the other as scikit-learn does for sparse rows."""
    if norm is None or not len(values):
        return values
    if norm == "max":
        size = np.abs(values).max()
    else:
        size = np.cumsum(values * values if norm == "l2" else np.abs(values))[-1]
        size = np.sqrt(size) if norm == "l2" else size
    return values / size if size else values


FUNCTIONS: dict[type, Callable[[Any], Callable[[Cells], Cells]]] = {text.Text: _text, text.Weigh: _weigh}
