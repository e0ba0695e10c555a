"""Fields of table operations as bytes: numbers, strings with shared beginnings, values of mixed types.

>>> written = Writer()
>>> written.values(("red", "reed", None))
>>> written.numbers([0.5, 2.0])
>>> source = Source(Reader(bytes(written.data)), 64)
>>> source.values(3), source.numbers(2)
(('red', 'reed', None), array([0.5, 2. ]))
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from distill.codecs.reader import Reader, StudentFileError, varint

__all__ = ["MAX_COLUMNS", "Source", "Value", "Writer", "is_nan"]

# What a cell may hold
Value = str | int | float | bool | None
# The largest number of columns between two operations: a HashingVectorizer has 2**20 by default
MAX_COLUMNS = 1 << 20
# Columns of all operations together, for each byte of the file and in all: they bound the memory for a row
_COLUMNS_PER_BYTE, _MAX_TOTAL_COLUMNS = 1024, 1 << 22
# Consecutive integers for each byte of the file: a few bytes stand for many of them
_INTEGERS_PER_BYTE = 64
# Tables are unions of tables; it bounds the recursion of a reader
_MAX_DEPTH = 32
_PART = "table"
# Kinds of a list of values, and flags: missing values at its end
_CONSECUTIVE, _INTEGERS, _STRINGS, _FLOATS, _SHORT_FLOATS, _BOOLEANS, _MIXED = range(7)
_NONE_LAST, _NAN_LAST = 16, 32
# Tags of the values of a mixed list
_IS_NONE, _IS_NAN, _IS_FALSE, _IS_TRUE, _IS_INTEGER, _IS_FLOAT, _IS_STRING = range(7)
_LARGEST = 2**64 - 1


def is_nan(value: Any) -> bool:
    """Return whether a value is a NaN."""
    return isinstance(value, float) and math.isnan(value)


class Writer:
    """Bytes that grow field by field.

    Parameters
    ----------
    single : bool
        Whether numbers that were fitted are rounded to float32.

    Attributes
    ----------
    data : bytearray
    """

    def __init__(self, single: bool = False):
        self.data = bytearray()
        self.single = single

    def byte(self, value: int) -> None:
        """Write an integer from 0 to 255."""
        self.data.append(value)

    def varint(self, value: int) -> None:
        """Write an unsigned integer."""
        self.data += varint(int(value))

    def zigzag(self, value: int) -> None:
        """Write an integer of either sign."""
        self.data += varint(2 * value if value >= 0 else -2 * value - 1)

    def indices(self, indices: Sequence[int]) -> None:
        """Write the number of columns, and then how far each is from the one after its predecessor."""
        self.varint(len(indices))
        expected = 0
        for index in indices:
            self.zigzag(int(index) - expected)
            expected = int(index) + 1

    def numbers(self, values: Any, exact: bool = False) -> None:
        """Write floats: a byte, 4 or 8, and the numbers as `f4` where that is lossless or allowed, else as `f8`."""
        values = np.asarray(values, np.float64).ravel()
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            short = values.astype("<f4")
            lossless = bool(((short == values) | (np.isnan(short) & np.isnan(values))).all())
        if lossless or (self.single and not exact and np.isfinite(short[np.isfinite(values)]).all()):
            self.byte(4)
            self.data += short.tobytes()
        else:
            self.byte(8)
            self.data += values.astype("<f8").tobytes()

    def string(self, value: str) -> None:
        """Write a string."""
        try:
            encoded = value.encode()
        except UnicodeEncodeError as error:
            raise ValueError(f"{value!r} cannot be written as UTF-8") from error
        self.varint(len(encoded))
        self.data += encoded

    def strings(self, values: Sequence[str]) -> None:
        """Write strings, each as the number of characters that it shares with its predecessor, and the rest."""
        last = ""
        for value in values:
            shared = 0
            for one, other in zip(last, value):
                if one != other:
                    break
                shared += 1
            self.varint(shared)
            self.string(value[shared:])
            last = value

    def values(self, values: Sequence[Value]) -> None:
        """Write values of any types; their number is known to the reader."""
        kept, flags = list(values), 0
        if kept and is_nan(kept[-1]):
            kept, flags = kept[:-1], _NAN_LAST
        if kept and kept[-1] is None:
            kept, flags = kept[:-1], flags | _NONE_LAST
        kind = _kind(kept)
        self.byte(kind | flags)
        if kind == _CONSECUTIVE:
            self.zigzag(int(kept[0] or 0))
        elif kind == _INTEGERS:
            for value in kept:
                self.zigzag(int(value or 0))
        elif kind == _STRINGS:
            self.strings([str(value) for value in kept])
        elif kind in (_FLOATS, _SHORT_FLOATS):
            self.data += np.array(kept, "<f8" if kind == _FLOATS else "<f4").tobytes()
        elif kind == _BOOLEANS:
            self.data += bytes(map(bool, kept))
        else:
            for value in kept:
                self._tagged(value)

    def _tagged(self, value: Value) -> None:
        if value is None:
            self.byte(_IS_NONE)
        elif isinstance(value, bool):
            self.byte(_IS_TRUE if value else _IS_FALSE)
        elif isinstance(value, int):
            self.byte(_IS_INTEGER)
            self.zigzag(value)
        elif isinstance(value, str):
            self.byte(_IS_STRING)
            self.string(value)
        elif is_nan(value):
            self.byte(_IS_NAN)
        else:
            self.byte(_IS_FLOAT)
            self.data += np.array(value, "<f8").tobytes()


def _kind(values: Sequence[Value]) -> int:
    """Return the kind of values, without the missing ones at their end."""
    types = {type(value) for value in values}
    if types == {int}:
        integers = [int(value or 0) for value in values]
        return _CONSECUTIVE if integers == list(range(integers[0], integers[0] + len(values))) else _INTEGERS
    if types == {float} and not any(map(is_nan, values)):
        floats = np.array(values, np.float64)
        with np.errstate(over="ignore", under="ignore"):
            return _SHORT_FLOATS if (floats.astype(np.float32) == floats).all() else _FLOATS
    return {frozenset([str]): _STRINGS, frozenset([bool]): _BOOLEANS}.get(frozenset(types), _MIXED)


class Source:
    """Fields of a table, read from untrusted bytes.

    Parameters
    ----------
    reader : Reader
    n_bytes : int
        Size of the file, which bounds the memory for a row.
    operations : callable or None
        Reads a list of operations, for operations that contain others.

    Attributes
    ----------
    n_cells : int
        Number of columns of the operations so far.
    """

    def __init__(self, reader: Reader, n_bytes: int, operations: Callable | None = None):
        self.reader = reader
        self.where = reader.where
        self._operations = operations
        self.n_cells = 0
        self._most_cells = min(_COLUMNS_PER_BYTE * n_bytes, _MAX_TOTAL_COLUMNS)
        self._most_integers = _INTEGERS_PER_BYTE * n_bytes
        self._depth = 0

    def error(self, text: str) -> StudentFileError:
        """Return the error for a table that is damaged."""
        return StudentFileError(f"{self.where} {text}")

    def spend(self, n_columns: int) -> int:
        """Return a number of columns, or raise an error if all operations together have too many."""
        self.n_cells += n_columns
        if n_columns > MAX_COLUMNS or self.n_cells > self._most_cells:
            raise self.error(f"has operations with too many columns, one of them with {n_columns}")
        return n_columns

    def operations(self, n_columns: int) -> tuple[tuple[Any, ...], int]:
        """Return the operations of an inner table and the number of columns that they lead to."""
        assert self._operations is not None
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self.error(f"has unions within unions, more than {_MAX_DEPTH}")
        found = self._operations(self, n_columns)
        self._depth -= 1
        return found

    def byte(self, largest: int = 255) -> int:
        """Return a byte of at most `largest`."""
        value = self.reader.byte(_PART)
        if value > largest:
            raise self.error(f"has {value} where {largest} is the largest possible value")
        return value

    def flag(self) -> bool:
        """Return a byte that is 0 or 1."""
        return bool(self.byte(1))

    def varint(self, limit: int = 0xFFFFFFFF) -> int:
        """Return an unsigned integer."""
        return self.reader.varint(_PART, limit)

    def count(self, least_bytes: int = 1) -> int:
        """Return the number of things to come, each of at least as many bytes."""
        count = self.varint()
        self.check_count(count, least_bytes)
        return count

    def check_count(self, count: int, least_bytes: int = 1) -> None:
        """Raise StudentFileError unless as many things can be in the bytes that are left."""
        if count * least_bytes > self.reader.remaining:
            raise self.error(f"has {self.reader.remaining} bytes, too few for {count} entries")

    def zigzag(self) -> int:
        """Return an integer of either sign, of 64 bits."""
        value = self.varint(_LARGEST)
        return value >> 1 if value % 2 == 0 else -(value >> 1) - 1

    def indices(self, n_columns: int) -> tuple[int, ...]:
        """Return indices of columns."""
        expected, indices = 0, []
        for _ in range(self.count()):
            index = expected + self.zigzag()
            if not 0 <= index < n_columns:
                raise self.error(f"takes column {index} of {n_columns}")
            indices.append(index)
            expected = index + 1
        return tuple(indices)

    def numbers(self, count: int, may_be_nan: bool = False) -> np.ndarray:
        """Return floats as float64, finite ones unless they may be NaN."""
        size = self.byte()
        if size not in (4, 8):
            raise self.error(f"has numbers of {size} bytes, which this version cannot read")
        with np.errstate(invalid="ignore"):  # of a NaN that signals
            values = self.reader.array(f"<f{size}", count, _PART).astype(np.float64)
        wrong = np.isinf(values) if may_be_nan else ~np.isfinite(values)
        if wrong.any():
            raise self.error("has numbers that are NaN or infinite")
        return values

    def string(self) -> str:
        """Return a string."""
        try:
            return str(self.reader.take(self.varint(), _PART), "utf-8")
        except UnicodeDecodeError as error:
            raise self.error("has strings that are not UTF-8") from error

    def strings(self, count: int) -> tuple[str, ...]:
        """Return strings with shared beginnings."""
        self.check_count(count, 2)
        # Each string may be as long as all bytes so far, and longer ones than the bytes of the section are refused
        last, found, left = "", [], 64 * (self.reader.remaining + 5)
        for _ in range(count):
            shared = self.varint()
            if shared > len(last):
                raise self.error(f"has a string that shares {shared} characters with one of {len(last)}")
            last = last[:shared] + self.string()
            left -= len(last)
            if left < 0:
                raise self.error("has strings that are too long together")
            found.append(last)
        return tuple(found)

    def values(self, count: int) -> tuple[Value, ...]:
        """Return values of any types."""
        kind = self.byte()
        last: list[Value] = [None] if kind & _NONE_LAST else []
        last += [math.nan] if kind & _NAN_LAST else []
        kind, count = kind & ~(_NONE_LAST | _NAN_LAST), count - len(last)
        if count < 0 or kind > _MIXED:
            raise self.error(f"has {count + len(last)} values of kind {kind}, which this version cannot read")
        found: list[Value] = []
        if kind == _CONSECUTIVE:
            if count > self._most_integers:
                raise self.error(f"has {count} integers, too many for its size")
            first = self.zigzag()
            found += range(first, first + count)
        elif kind == _STRINGS:
            found += self.strings(count)
        elif kind in (_FLOATS, _SHORT_FLOATS):
            numbers = self.reader.array("<f8" if kind == _FLOATS else "<f4", count, _PART)
            if np.isnan(numbers).any():
                raise self.error("has values that are NaN")
            found += numbers.astype(np.float64).tolist()
        else:
            self.check_count(count)
            read = {_INTEGERS: self.zigzag, _BOOLEANS: self.flag}.get(kind, self._tagged)
            found += [read() for _ in range(count)]
        return (*found, *last)

    def _tagged(self) -> Value:
        tag = self.byte(_IS_STRING)
        if tag == _IS_INTEGER:
            return self.zigzag()
        if tag == _IS_FLOAT:
            number = float(self.reader.array("<f8", 1, _PART)[0])
            if math.isnan(number):
                raise self.error("has values that are NaN")
            return number
        if tag == _IS_STRING:
            return self.string()
        return {_IS_NONE: None, _IS_NAN: math.nan, _IS_FALSE: False, _IS_TRUE: True}[tag]
