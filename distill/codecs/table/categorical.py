"""Operations on missing values and categories."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np

from distill.codecs.table.fields import Source, Value, Writer

__all__ = ["Categories", "Encode", "Impute", "Indicate", "Numbers", "OneHot"]

# How codes of categories are written, and what an unknown category is
_ALL, _SOME = 0, 1
_ERROR, _ZEROS, _CODE = 0, 1, 2


@dataclass(frozen=True, eq=False)
class Impute:
    """Missing values replaced by the value of their column, and columns that tell where they were.

    Parameters
    ----------
    missing : str, int, float or None
        The value that is missing, NaN for instance.
    columns : tuple of int
        Indices of the columns that are kept.
    fills : tuple
        The value of each of these columns.
    indicated : tuple of int
        Indices of the columns for which there is a column of 0 and 1 at the end.
    """

    missing: Value
    columns: tuple[int, ...]
    fills: tuple[Value, ...]
    indicated: tuple[int, ...] = ()
    code: ClassVar[int] = 5
    name: ClassVar[str] = "impute"

    def write(self, out: Writer) -> None:
        """Write what is missing, the columns, their values and the columns that are indicated."""
        out.values([self.missing])
        out.indices(self.columns)
        out.values(self.fills)
        out.indices(self.indicated)

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["Impute", int]:
        """Read what is missing and what replaces it."""
        (missing,) = source.values(1)
        columns = source.indices(n_columns)
        fills = source.values(len(columns))
        indicated = source.indices(n_columns)
        return cls(missing, columns, fills, indicated), len(columns) + len(indicated)


@dataclass(frozen=True, eq=False)
class Indicate:
    """1 where a value is missing, else 0.

    Parameters
    ----------
    missing : str, int, float or None
    columns : tuple of int
        Indices of the columns that are looked at.
    refuses_others : bool
        Whether a missing value in another column is an error.
    """

    missing: Value
    columns: tuple[int, ...]
    refuses_others: bool = False
    code: ClassVar[int] = 6
    name: ClassVar[str] = "indicate"

    def write(self, out: Writer) -> None:
        """Write what is missing and the columns."""
        out.values([self.missing])
        out.byte(self.refuses_others)
        out.indices(self.columns)

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["Indicate", int]:
        """Read what is missing and the columns."""
        (missing,) = source.values(1)
        refuses = source.flag()
        columns = source.indices(n_columns)
        return cls(missing, columns, refuses), len(columns)


class Categories(NamedTuple):
    """The categories of a column, and the columns that they become.

    Parameters
    ----------
    values : tuple
        All different.
    codes : tuple of int
        For each category, the index of the column that is 1, or -1 if all are 0.
    n_outputs : int
    unknown : int or None
        The index for a value that is no category, -1 if all columns are 0, None if it is an error.
    """

    values: tuple[Value, ...]
    codes: tuple[int, ...]
    n_outputs: int
    unknown: int | None


@dataclass(frozen=True, eq=False)
class OneHot:
    """A column for each category, 1 for that of the row.

    Parameters
    ----------
    features : tuple of Categories
        For each column.
    """

    features: tuple[Categories, ...]
    code: ClassVar[int] = 7
    name: ClassVar[str] = "one-hot"

    def write(self, out: Writer) -> None:
        """Write the categories of each column."""
        for values, codes, n_outputs, unknown in self.features:
            out.varint(len(values))
            out.values(values)
            if codes == tuple(range(len(values))) and n_outputs == len(values):
                out.byte(_ALL)
            else:
                out.byte(_SOME)
                out.varint(n_outputs)
                for code in codes:
                    out.varint(code + 1)
            out.byte(_ERROR if unknown is None else _ZEROS if unknown < 0 else _CODE)
            if unknown is not None and unknown >= 0:
                out.varint(unknown)

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["OneHot", int]:
        """Read the categories of each column."""
        source.check_count(n_columns, 4)
        features = []
        for _ in range(n_columns):
            values = _read_categories(source)
            codes: Sequence[int] = range(len(values))
            n_outputs = len(values)
            if source.byte(_SOME) == _SOME:
                n_outputs = source.varint(len(values))
                source.check_count(len(values))
                codes = [source.varint(n_outputs) - 1 for _ in values]
            way = source.byte(_CODE)
            unknown = None if way == _ERROR else -1 if way == _ZEROS else source.varint()
            if unknown is not None and unknown >= n_outputs:
                raise source.error(f"has unknown categories in column {unknown} of {n_outputs}")
            features.append(Categories(values, tuple(codes), n_outputs, unknown))
        return cls(tuple(features)), sum(feature.n_outputs for feature in features)


class Numbers(NamedTuple):
    """The categories of a column and their numbers.

    Parameters
    ----------
    values : tuple
        All different.
    numbers : ndarray of shape (n_categories, n_outputs), or None
        None: the index of each category.
    unknown : ndarray of shape (n_outputs,), or None
        Numbers of a value that is no category; None if it is an error.
    """

    values: tuple[Value, ...]
    numbers: np.ndarray | None
    unknown: np.ndarray | None

    @property
    def n_outputs(self) -> int:
        """Number of columns."""
        return 1 if self.numbers is None else self.numbers.shape[1]


@dataclass(frozen=True, eq=False)
class Encode:
    """One or more numbers for each category.

    Parameters
    ----------
    features : tuple of Numbers
        For each column.
    """

    features: tuple[Numbers, ...]
    code: ClassVar[int] = 8
    name: ClassVar[str] = "encode"

    def write(self, out: Writer) -> None:
        """Write categories and numbers of each column."""
        for values, numbers, unknown in self.features:
            out.varint(len(values))
            out.values(values)
            out.varint(0 if numbers is None else numbers.shape[1])
            if numbers is not None:
                out.numbers(numbers)
            out.byte(unknown is not None)
            if unknown is not None:
                out.numbers(unknown)

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["Encode", int]:
        """Read categories and numbers of each column."""
        source.check_count(n_columns, 4)
        features = []
        for _ in range(n_columns):
            values = _read_categories(source)
            n_outputs = source.varint()
            numbers = None
            if n_outputs:
                numbers = source.numbers(len(values) * n_outputs, may_be_nan=True).reshape(len(values), n_outputs)
            unknown = source.numbers(n_outputs or 1, may_be_nan=True) if source.flag() else None
            features.append(Numbers(values, numbers, unknown))
        return cls(tuple(features)), sum(feature.n_outputs for feature in features)


def _read_categories(source: Source) -> tuple[Value, ...]:
    """Read categories; StudentFileError if two are equal."""
    values = source.values(source.spend(source.varint()))
    if len(set(values)) < len(values):
        raise source.error("has a category twice")
    return values
