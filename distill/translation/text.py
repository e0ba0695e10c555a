"""Fitted vectorizers of texts as operations of a student file."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfTransformer, TfidfVectorizer

from distill.codecs.table import numeric, text

__all__ = ["VECTORIZERS", "operations"]

# They take texts, one for each row, not columns
VECTORIZERS = (CountVectorizer, HashingVectorizer, TfidfVectorizer)
# A class of characters, again, and how often: the patterns that are known
_FORM = re.compile(r"(?:\(\?u\))?(?P<start>\\b)?(?P<classes>.*?)(?P<many>\+|\{(?P<least>\d+),\})?(?P<end>\\b)?")
_SPELLINGS = {
    r"[^\s]": r"\S",
    "[A-Za-z]": "[a-zA-Z]",
    "[A-Za-z0-9]": "[a-zA-Z0-9]",
    "[0-9a-zA-Z]": "[a-zA-Z0-9]",
    r"[^\d\W_]": r"[^\W\d_]",
    r"[^\d\W]": r"[^\W\d]",
}


def operations() -> dict[type, Callable[[Any, str], tuple[Any, ...]]]:
    """Return the functions that translate transformers of texts into operations, by type."""
    return {
        CountVectorizer: _counted,
        TfidfVectorizer: lambda step, where: (*_counted(step, where), *_weighed(step, where)),
        TfidfTransformer: _weighed,
        HashingVectorizer: _hashed,
    }


def known_pattern(pattern: str) -> tuple[str, int, bool] | None:
    r"""Return the characters of the words of a pattern, their least number, and whether words end at boundaries.

    Examples
    --------
    >>> known_pattern(r"(?u)\b\w\w+\b")
    ('letters, digits and underscores', 2, True)
    >>> known_pattern("[A-Za-z]{3,}")
    ('ASCII letters', 3, False)
    >>> known_pattern(r"(\w+)@") is None
    True
    """
    form = _FORM.fullmatch(pattern)
    if form is None or bool(form["start"]) != bool(form["end"]) or not form["many"]:
        return None
    for name, spelling in text.CHARACTERS.items():
        for other in (spelling, *(written for written, meant in _SPELLINGS.items() if meant == spelling)):
            count = form["classes"].count(other)
            if count and form["classes"] == other * count:
                least = count - 1 + int(form["least"] or 1)
                known = 1 <= least <= 64 and not (form["start"] and name == text.BLANKED)
                return (name, least, bool(form["start"])) if known else None
    return None


def _cut(vectorizer: Any, where: str) -> dict[str, Any]:
    """Return how a vectorizer cuts texts, as arguments of `Text`."""
    for name in ("preprocessor", "tokenizer", "analyzer", "strip_accents"):
        value = getattr(vectorizer, name)
        if callable(value) or (value is not None and name in ("preprocessor", "tokenizer")):
            shown = getattr(value, "__name__", repr(value))
            raise TypeError(
                f"{where} has {name}={shown}, and a student file contains no functions; use the settings of the "
                "vectorizer in place of it, or apply the function to the texts before they reach the pipeline"
            )
    if vectorizer.input != "content":
        raise TypeError(f"{where} has input={vectorizer.input!r}; read the texts before they reach the pipeline")
    cut = {
        "analyzer": vectorizer.analyzer,
        "ngrams": (int(vectorizer.ngram_range[0]), int(vectorizer.ngram_range[1])),
        "lower": bool(vectorizer.lowercase),
        "accents": vectorizer.strip_accents or "keep",
        "binary": bool(vectorizer.binary),
    }
    if vectorizer.analyzer == "word":
        pattern = known_pattern(vectorizer.token_pattern)
        if pattern is None:
            known = ", ".join(text.CHARACTERS.values())
            raise TypeError(
                f"{where} has token_pattern={vectorizer.token_pattern!r}, and a student file contains no regular "
                f"expressions but those of words of one class of characters ({known}) and of a least length, such as "
                r"'(?u)\b\w\w+\b' or '[a-zA-Z]{3,}'; use one of them, or analyzer='char_wb'"
            )
        cut |= {"characters": pattern[0], "min_letters": pattern[1], "bounded": pattern[2]}
        cut["stop_words"] = tuple(sorted(map(str, vectorizer.get_stop_words() or ())))
    return cut


def _counted(vectorizer: CountVectorizer, where: str) -> tuple[Any, ...]:
    if not hasattr(vectorizer, "vocabulary_"):
        vectorizer._validate_vocabulary()  # a given vocabulary needs no fit
    terms = sorted(vectorizer.vocabulary_, key=vectorizer.vocabulary_.__getitem__)
    cut = _cut(vectorizer, where)
    # Of single words, stop words are not in the vocabulary: they are not counted whether or not they are removed
    if cut["ngrams"] == (1, 1) and not set(cut.get("stop_words", ())) & set(terms):
        cut.pop("stop_words", None)
    return (text.Text(vocabulary=tuple(map(str, terms)), **cut),)


def _hashed(vectorizer: HashingVectorizer, where: str) -> tuple[Any, ...]:
    signed = bool(vectorizer.alternate_sign)
    hashed = text.Text(n_hashed=int(vectorizer.n_features), signed=signed, **_cut(vectorizer, where))
    return (hashed,) if vectorizer.norm is None else (hashed, numeric.Normalize(vectorizer.norm))


def _weighed(transformer: Any, where: str) -> tuple[Any, ...]:
    weights = np.asarray(transformer.idf_, np.float64) if transformer.use_idf else None
    if weights is None and not transformer.sublinear_tf and transformer.norm is None:
        return ()
    return (text.Weigh(weights, bool(transformer.sublinear_tf), transformer.norm),)
