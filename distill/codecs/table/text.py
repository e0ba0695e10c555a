"""Operations on columns of text."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from distill.codecs.table.fields import MAX_COLUMNS, Source, Writer
from distill.codecs.table.numeric import NORMS

__all__ = ["ACCENTS", "ANALYZERS", "BLANKED", "CHARACTERS", "Text", "Weigh"]

ANALYZERS = ("word", "char", "char_wb")
ACCENTS = ("keep", "ascii", "unicode")
# What the words are made of: the name and the class of characters in regular expressions
CHARACTERS = {
    "letters, digits and underscores": r"\w",
    "no blanks": r"\S",
    "ASCII letters": "[a-zA-Z]",
    "small ASCII letters": "[a-z]",
    "ASCII letters and digits": "[a-zA-Z0-9]",
    "letters": r"[^\W\d_]",
    "digits": r"\d",
    "letters and underscores": r"[^\W\d]",
}
# Words of these characters may not be bounded: a bound within them would cut them
BLANKED = "no blanks"
_LOWER, _BOUNDED, _BINARY, _HASHED, _SIGNED = 1, 2, 4, 8, 16
# Longest n-grams and words that a forged file may have, since time grows with them
_MAX_NGRAM, _MAX_LETTERS = 64, 64
# Weights whose numbers of documents are looked for: up to this size, where the rarest n-gram is in so many at most
_MOST_LOGARITHM, _MOST_LEAST = 22.0, 256


@dataclass(frozen=True, eq=False)
class Text:
    """Counts of n-grams in a text.

    Parameters
    ----------
    analyzer : {"word", "char", "char_wb"}
    ngrams : tuple of int
        The least and the largest number of words or characters.
    lower : bool
        Whether the text is converted to lower case.
    accents : {"keep", "ascii", "unicode"}
    characters : str
        What words are made of, a key of `CHARACTERS`.
    min_letters : int
        The least number of such characters.
    bounded : bool
        Whether words begin and end where letters, digits and underscores do.
    stop_words : tuple of str
    vocabulary : tuple of str
        The n-grams that are counted, one for each column; empty if they are hashed.
    n_hashed : int
        Number of columns of hashed n-grams.
    signed : bool
        Whether half of the hashed n-grams count negatively.
    binary : bool
        Whether a count above one is one.
    """

    analyzer: str
    ngrams: tuple[int, int]
    lower: bool = True
    accents: str = "keep"
    characters: str = next(iter(CHARACTERS))
    min_letters: int = 2
    bounded: bool = True
    stop_words: tuple[str, ...] = ()
    vocabulary: tuple[str, ...] = ()
    n_hashed: int = 0
    signed: bool = True
    binary: bool = False
    code: ClassVar[int] = 17
    name: ClassVar[str] = "text"

    def write(self, out: Writer) -> None:
        """Write how texts are cut, the stop words, and the vocabulary or the number of hashes."""
        out.byte(ANALYZERS.index(self.analyzer) | ACCENTS.index(self.accents) << 2)
        flags = (_LOWER if self.lower else 0) | (_BOUNDED if self.bounded else 0) | (_BINARY if self.binary else 0)
        flags |= (_HASHED if self.n_hashed else 0) | (_SIGNED if self.n_hashed and self.signed else 0)
        out.byte(flags)
        out.byte(self.ngrams[0])
        out.byte(self.ngrams[1])
        if self.analyzer == "word":
            out.byte(list(CHARACTERS).index(self.characters))
            out.byte(self.min_letters)
            out.varint(len(self.stop_words))
            out.strings(self.stop_words)
        out.varint(self.n_hashed or len(self.vocabulary))
        if not self.n_hashed:
            out.strings(self.vocabulary)

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["Text", int]:
        """Read how texts are cut and counted."""
        if n_columns != 1:
            raise source.error(f"cuts texts out of {n_columns} columns, not of one")
        kind, flags = source.byte(), source.byte(31)
        if kind & 3 >= len(ANALYZERS) or kind >> 2 >= len(ACCENTS):
            raise source.error(f"cuts texts in a way {kind}, which this version cannot read")
        shortest, longest = source.byte(_MAX_NGRAM), source.byte(_MAX_NGRAM)
        if not 1 <= shortest <= longest or (flags & _SIGNED and not flags & _HASHED):
            raise source.error(f"has n-grams of {shortest} to {longest}, or impossible flags {flags}")
        characters, min_letters = next(iter(CHARACTERS)), 2
        stop_words: tuple[str, ...] = ()
        if kind & 3 == 0:
            characters = list(CHARACTERS)[source.byte(len(CHARACTERS) - 1)]
            min_letters = source.byte(_MAX_LETTERS)
            if not min_letters or (flags & _BOUNDED and characters == BLANKED):
                raise source.error("has words without letters, or words of any characters that are bounded")
            stop_words = source.strings(source.count(2))
        count = source.varint(MAX_COLUMNS)
        if not count:
            raise source.error("has texts without n-grams")
        vocabulary = () if flags & _HASHED else source.strings(count)
        if len(set(vocabulary)) < len(vocabulary):
            raise source.error("has an n-gram twice")
        return cls(
            ANALYZERS[kind & 3],
            (shortest, longest),
            bool(flags & _LOWER),
            ACCENTS[kind >> 2],
            characters,
            min_letters,
            bool(flags & _BOUNDED),
            stop_words,
            vocabulary,
            count if flags & _HASHED else 0,
            bool(flags & _SIGNED),
            bool(flags & _BINARY),
        ), count


@dataclass(frozen=True, eq=False)
class Weigh:
    """Counts as weights: logarithms of counts, times weights of columns, over the norm of the row.

    Parameters
    ----------
    weights : ndarray of shape (n_columns,), or None
        Inverse document frequencies.
    sublinear : bool
        Whether counts become one plus their logarithm.
    norm : {"l1", "l2", "max"} or None
    """

    weights: np.ndarray | None
    sublinear: bool = False
    norm: str | None = None
    code: ClassVar[int] = 18
    name: ClassVar[str] = "weigh"

    def write(self, out: Writer) -> None:
        """Write the kind, and the weights, as numbers of documents or as few different numbers if they are."""
        out.byte((0 if self.norm is None else NORMS.index(self.norm) + 1) | self.sublinear << 2)
        if self.weights is None:
            out.byte(0)
            return
        different, indices = np.unique(self.weights, return_inverse=True)
        documents = document_counts(self.weights)
        if documents is not None:
            out.byte(3)
            out.varint(documents[0])
            for count in documents[1].tolist():
                out.varint(count)
        elif len(different) <= 256:
            out.byte(2)
            out.varint(len(different))
            out.numbers(different)
            out.data += indices.astype(np.uint8).tobytes()
        else:
            out.byte(1)
            out.numbers(self.weights)

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["Weigh", int]:
        """Read the kind and the weights."""
        flags, way = source.byte(7), source.byte(3)
        weights = None
        if way == 1:
            weights = source.numbers(n_columns)
        elif way == 2:
            different = source.numbers(source.varint(256))
            indices = source.reader.array("u1", n_columns, "table")
            if n_columns and (not len(different) or indices.max() >= len(different)):
                raise source.error("has weights beyond their table")
            weights = different[indices] if n_columns else np.zeros(0)
        elif way == 3:
            total = source.varint()
            source.check_count(n_columns)
            counts = np.array([source.varint() for _ in range(n_columns)], np.float64)
            if not total or not counts.all():
                raise source.error("has weights of no documents")
            weights = inverse_frequencies(total, counts)
        return cls(weights, bool(flags & 4), None if not flags & 3 else NORMS[(flags & 3) - 1]), n_columns


def inverse_frequencies(total: int, counts: np.ndarray) -> np.ndarray:
    """Return inverse document frequencies as scikit-learn computes them.

    Examples
    --------
    >>> inverse_frequencies(8, np.array([8.0, 2.0])).round(3)
    array([1.   , 2.386])
    """
    return np.log(total / counts) + 1.0


def document_counts(weights: np.ndarray) -> tuple[int, np.ndarray] | None:
    """Return numbers of documents whose inverse frequencies are the weights, bit for bit, or None if none are found.

    Examples
    --------
    >>> document_counts(inverse_frequencies(1001, np.array([5.0, 400.0, 11.0])))
    (1001, array([  5, 400,  11]))
    """
    if not len(weights) or not np.isfinite(weights).all() or np.abs(weights).max() > _MOST_LOGARITHM:
        return None
    shares = np.exp(weights - 1.0)
    for least in range(1, _MOST_LEAST + 1):
        # The rarest n-gram is in so many documents
        total = round(least * float(shares.max()))
        if not 0 < total < 2**31:
            continue
        counts = np.rint(total / shares)
        if counts.min() >= 1 and counts.max() < 2**31 and np.array_equal(inverse_frequencies(total, counts), weights):
            return total, counts.astype(np.int64)
    return None
