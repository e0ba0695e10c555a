"""Tables of the golden files: every operation with every flag, and rows of cells for each."""

import math
from dataclasses import replace

import numpy as np

from distill.codecs.preprocessing import MomentsStep, Step
from distill.codecs.table import TableStep
from distill.codecs.table.categorical import Categories, Encode, Impute, Indicate, Numbers, OneHot
from distill.codecs.table.numeric import (
    EXTRAPOLATIONS,
    FUNCTIONS,
    NORMS,
    Bins,
    Complete,
    Elementwise,
    Function,
    Normalize,
    Polynomial,
    Power,
    Product,
    Quantiles,
    Spline,
    Threshold,
)  # fmt: skip
from distill.codecs.table.structure import Select, Union
from distill.codecs.table.text import CHARACTERS, Text, Weigh, inverse_frequencies

NAN = math.nan


def _halved(*indices):
    """Return operations that begin with some columns, filled and halved."""
    fill = Impute(NAN, tuple(range(len(indices))), (0.5,) * len(indices))
    return Select(indices), fill, Elementwise((Step("multiply", np.array(0.5)),), len(indices))


CATEGORICAL = Union((
    (Select((0, 1)), Impute(NAN, (0, 1), (0.25, 3), (1,)), Impute(None, (0, 1, 2), (0.5, 2, 0.125))),
    (Select((2,)), OneHot((Categories(("blau", "grün", "red", None), (0, 1, 2, 3), 4, None),))),
    (Select((3, 1)), OneHot((
        Categories((False, True), (-1, 0), 1, -1),
        Categories((1, 2, 3, 5, NAN), (0, 1, 2, 2, -1), 3, 2),
    ))),
    (Select((2,)), Encode((Numbers(("red", "grün"), None, np.array([NAN])),)), Impute(NAN, (0,), (-1.5,))),
    (Select((4, 1)), Encode((
        Numbers(("a", 2.5, 7, None, NAN), np.arange(10).reshape(5, 2) / 8, np.array([0.1, -0.1])),
        Numbers((1, 2, 3, 5, NAN), np.array([[0.5], [1.5], [NAN], [2], [3]]), np.array([9.0])),
    )), Impute(NAN, (2, 1, 0), (0.0, 0.0, 0.0))),
    (Select((0, 1, 4)), Indicate(NAN, (1, 2))),
    (Select((2,)), Impute("red", (0,), ("blau",)), OneHot((Categories(("blau", "grün"), (0, 1), 2, -1),))),
    (Select((1,)), Impute(2, (), (), (0,))),
    (Select((4,)), Indicate(None, (0,), True)),
))  # fmt: skip
CELLS = [
    [0.5, 1, "blau", True, "a"],
    [NAN, 2, "red", False, 2.5],
    [-1e3, None, None, None, 7],
    [2, 5, "grün", 1, None],
    [3.25, 4, "red", 0.0, "b"],
]
NUMBERS = [[0.5, 1.25, -0.75], [2.0, -3.0, 0.0], [NAN, 1.5, 0.25], [-4.0, NAN, 9.0], [1.0, 0.125, -2.5], [0.25, 2, 1]]
KNOTS = np.column_stack([np.arange(-5.0, 6.0), np.arange(-5.0, 6.0) / 2 + 0.25, np.arange(11) ** 2 / 16.0 - 1.5])


def _without_missing():
    return Select((0, 1, 2)), Impute(NAN, (0, 1, 2), (0.5, 0.25, 0.125)), Complete()


AROUND_ONE = Elementwise((Step("multiply", np.array(1 / 16)), Step("add", np.array(1.0))), 3)
NUMERIC = Union((
    *((*_without_missing(), AROUND_ONE, Function(name)) for name in FUNCTIONS),
    (Function("isnan"),),
    (Power(np.array([0.5, 0.0, 2.0])), Impute(NAN, (0, 1, 2), (0, 0, 0))),
    (*_without_missing(), Function("abs"), Elementwise((Step("add", np.array(0.1)),), 3),
     Power(np.array([0.5, 0.0, -2.0]), positive=True)),
    *((Quantiles(np.array([[-3.0, -2, -1], [0, 1, 0.25], [0, 1, 0.5], [0, 1.5, 2], [2, 1.75, 3]]), references, normal),
       Impute(NAN, (0, 1, 2), (0, 0, 0)))
      for references in (np.linspace(0, 1, 5), np.array([0, 0.25, 0.375, 0.5, 1])) for normal in (False, True)),
    *((*_without_missing(), Bins((np.array([0.0, 0.5, 1.0]), np.array([]), np.array([0.125, 0.25])), hot))
      for hot in (False, True)),
    (*_without_missing(), Threshold(0.5)),
    *((*_without_missing(), Elementwise((Step("clip", np.array([-0.25, 0.5])),) if beyond == "error" else
                                        (Step("add", np.array(0.0)),), 3), Spline(KNOTS, degree, beyond, bias))
      for degree in (1, 2, 3) for beyond in EXTRAPOLATIONS for bias in (True, False)),
    (Spline(KNOTS, 3, "linear", True, True),),
    (*_without_missing(), Spline(KNOTS, 0, "constant")),
    (*_without_missing(), Spline(KNOTS, 0, "linear")),
    *((*_without_missing(), Polynomial(least, 3, only, bias))
      for least in (0, 2) for only in (False, True) for bias in (False, True)),
    *((*_without_missing(), Normalize(norm)) for norm in NORMS),
    (*_without_missing(), Product(np.array([[0.5, 0.1], [-1, 2], [3, -0.25]]))),
))  # fmt: skip
IMAGES = Union(
    (_halved(*range(12)), (Complete(), Elementwise((MomentsStep((3, 4, 1)), Step("subtract", np.arange(12.0))), 12)))
)
PIXELS = [[float((7 * row + 5 * column) % 11) for column in range(12)] for row in range(3)]
TEXTS = [
    ["The quick brown fox; the lazy dog's 12 x_y"],
    ["Ünïcode STRASSE straße déjà-vu ﬁn"],
    [""],
    ["tabs\t\tand   spaces\nlines fox fox Fox"],
    ["İstanbul ΑΣ ab abcd 1234 e-mail"],
]
WORDS = Text("word", (1, 2), stop_words=("fox", "the"), vocabulary=("brown", "and", "lazy dog", "straße", "déjà", "12"))


def _counts(**more):
    return replace(WORDS, **more), Weigh(np.array([0.5, 1, 1.5, 0.5, 1, 2]), norm="l2")


VOCABULARIES = Union((
    _counts(), _counts(lower=False), _counts(binary=True), _counts(accents="ascii"), _counts(accents="unicode"),
    *(_counts(characters=name, min_letters=2, bounded=False) for name in CHARACTERS),
    *(_counts(characters=name, min_letters=1) for name in CHARACTERS if name != "no blanks"),
    (WORDS, Weigh(inverse_frequencies(1001, np.array([3.0, 900, 17, 3, 55, 260])), norm="l2")),
    (WORDS, Weigh(None, True)), (WORDS, Weigh(None, False, "l1")), (WORDS, Weigh(np.arange(1.0, 7.0) / 7, True, "max")),
    (replace(WORDS, ngrams=(2, 3), vocabulary=("quick brown", "lazy dog's", "tabs and spaces"), stop_words=()),),
    (Text("char", (1, 3), vocabulary=("f", "fo", " fo", "ß", "  ", "ab")),),
    (Text("char_wb", (2, 4), vocabulary=(" f", "fox ", " ab ", " abc", "e-ma", "st")),),
    (replace(WORDS, vocabulary=tuple(f"term {index}" for index in range(300))), Weigh(np.arange(300) / 300)),
))  # fmt: skip
HASHES = Union(tuple(
    (Text(analyzer, ngrams, n_hashed=size, signed=signed, binary=binary), Normalize("l2"))
    for analyzer, ngrams, size in (("word", (1, 1), 16), ("char", (2, 3), 7), ("char_wb", (3, 5), 11))
    for signed in (False, True) for binary in (False, True)
))  # fmt: skip


def _none(width):
    return []


# Table, further steps of section 0 by the number of columns, names, rows
TABLES = {
    "categories": (TableStep(5, (CATEGORICAL,)), _none, ("x", "n", "color", "is ß", "mixed"), CELLS),
    "numbers": (
        TableStep(3, (NUMERIC,)),
        lambda width: [
            Step("subtract", np.arange(width) / 64),
            Step("clip", np.array([-20.0, 20.0])),
            Step("multiply", np.array(1 / 32)),
        ],
        None,
        NUMBERS,
    ),
    "images": (TableStep(12, (IMAGES,)), _none, None, PIXELS),
    "words": (TableStep(1, (VOCABULARIES,), texts=True), _none, None, TEXTS),
    "hashes": (TableStep(1, (HASHES,), texts=True), _none, None, TEXTS),
    "columns": (
        TableStep(3, (Select((2, 0, 0)), Impute(NAN, (0, 1, 2), (1, 2, 0.1)))),
        _none,
        ("a", "b", "c"),
        NUMBERS,
    ),
}
