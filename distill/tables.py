"""Samples from files and streams for the command line: NumPy arrays, separated text, Parquet.

Text may begin with a byte order mark and be separated by commas, semicolons, tabs or blanks, or by what Excel's first
line `sep=;` says. Which columns a student
takes is decided by the names in the first line; what was decided is noted, and what cannot be read is an error with its
line and column.
"""

import csv
import gzip
import io
import math
import os
import re
import sys
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from itertools import chain, islice
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from distill.runtime.columns import column_names, matrix

__all__ = ["Wanted", "check_values", "read_rows"]

_TEXT, _TABLES = (".csv", ".tsv"), (".parquet", ".pq")
# Lines from which the separator is found
_SAMPLE = 20
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", " ": "blanks"}
# Cells without a value, in lower case; they are NaN
_MISSING = {"", "na", "n/a", "nan", "null", "none"}
# A number in another notation than Python's: with a decimal comma, or with thousands apart
_OTHER_NOTATION = re.compile(
    r"[+-]?(\d+|\d{1,3}([.' \xa0\u202f]\d{3})+),\d+(e[+-]?\d+)?|[+-]?\d{1,3}([,' \xa0\u202f]\d{3})+(\.\d*)?",
    re.IGNORECASE,
)
# Excel's first line that says the separator
_SEPARATOR_LINE = re.compile(r'"?sep=(.)"?[\r\n]*', re.IGNORECASE)
# Rows of an array that are looked through for missing values at once
_BLOCK = 4096
# First bytes of files, by which those without a suffix are known
_NPY, _PARQUET, _GZIP = b"\x93NUMPY", b"PAR1", b"\x1f\x8b"
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class Wanted(NamedTuple):
    """What a student takes.

    Parameters
    ----------
    n_features : int
        Helps to find the separator.
    names : tuple of str or None
        Names of its features.
    fills : bool
        Whether it takes missing values.
    note : callable
        Called with remarks for the user.
    cells : bool
        Whether columns may hold values of any type.
    """

    n_features: int
    names: tuple[str, ...] | None
    fills: bool
    note: Callable[[str], None]
    cells: bool = False


def read_rows(path: str, wanted: Wanted) -> Any:
    """Return the samples of a file, columns in the order of the names where the file names its columns.

    Parameters
    ----------
    path : str
        A file whose name ends with .npy, .csv, .tsv or .parquet (.csv.gz and .tsv.gz too); "-", standard input; or a
        named pipe. The last two hold any of these, which is seen from their first bytes.
    wanted : Wanted

    Returns
    -------
    ndarray or container of columns

    Raises
    ------
    ValueError
        If the file lacks a named feature, is of another kind, or is no numeric table.
    ImportError
        If the file is Parquet and nothing that reads it is installed.
    OSError
        If it cannot be read.
    """
    try:
        return _read_rows(path, wanted)
    except (UnicodeError, csv.Error, EOFError, zlib.error) as error:
        name = "standard input" if path == "-" else path
        advice = "; save it as UTF-8" if isinstance(error, UnicodeError) else ""
        raise ValueError(f"{name} is damaged or no table: {error}{advice}") from error


def _read_rows(path: str, wanted: Wanted) -> Any:
    if path == "-":
        stream = getattr(sys.stdin, "buffer", None)
        return _from_bytes(sys.stdin.read().encode() if stream is None else stream.read(), "standard input", wanted)
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        with open(path, "rb") as stream:
            return _from_bytes(stream.read(), path, wanted)
    name = path.lower()
    if not name.removesuffix(".gz").endswith(_TEXT) and not name.endswith((".npy", *_TABLES)):
        raise ValueError(
            f"the data must end with .npy or .csv, or .tsv or .parquet, or be - for standard input, got {path!r}"
        )
    if name.endswith(".npy"):
        return _by_name(_array(path, path, mmap_mode="r"), path, wanted)
    with open(path, "rb") as file:
        if name.endswith(_TABLES):
            return _by_name(_parquet(file, path), path, wanted)
        return _Text(path, wanted).read(gzip.open(file) if name.endswith(".gz") else file)


def _from_bytes(data: bytes, path: str, wanted: Wanted) -> Any:
    """Return the samples in bytes of any kind."""
    if data.startswith(_GZIP):
        return _from_bytes(gzip.decompress(data), path, wanted)
    if data.startswith(_NPY):
        return _by_name(_array(io.BytesIO(data), path), path, wanted)
    if data.startswith(_PARQUET):
        return _by_name(_parquet(io.BytesIO(data), path), path, wanted)
    return _Text(path, wanted).read(io.BytesIO(data))


def check_values(table: Any, path: str, wanted: Wanted) -> None:
    """Raise ValueError for the first value of a file that a student does not take, with its row and column.

    Parameters
    ----------
    table : ndarray or container of columns
        What `read_rows` returned.
    path : str
    wanted : Wanted

    Raises
    ------
    ValueError
        If a value is missing, infinite or too large for float32.
    """
    names = column_names(table) or wanted.names
    rows = matrix(table)
    if rows.ndim != 2 or rows.dtype.kind != "f":
        return
    for start in range(0, len(rows), _BLOCK):
        block = rows[start : start + _BLOCK]
        wrong = np.abs(block) > np.finfo(np.float32).max
        wrong = np.argwhere(wrong if wanted.fills else wrong | np.isnan(block))
        if len(wrong):
            row, column = wrong[0].tolist()
            name = column + 1 if names is None or len(names) != rows.shape[1] else repr(names[column])
            place = f"row {start + row + 1}, column {name}"
            raise ValueError(_unusable(block[row, column], path, place))


def _unusable(value: float, path: str, place: str) -> str:
    """Return the message for a value that is NaN, infinite or too large."""
    if math.isnan(value):
        return f"{path} has no value in {place}, and this student needs all; fill it in or leave the row out"
    kind = "an infinite value" if math.isinf(value) else f"too large a value, {value},"
    return f"{path} has {kind} in {place}; correct it or leave the row out"


def _array(file: Any, path: str, **options: Any) -> Any:
    """Return the array in a .npy file."""
    try:
        return np.load(file, allow_pickle=False, **options)
    except ValueError as error:
        if "objects" in str(error) or "pickle" in str(error):
            raise ValueError(
                f"{path} holds Python objects, which are not loaded, because that may run code; save numbers, as with "
                "numpy.save(path, X.astype(float))"
            ) from None
        raise ValueError(f"{path} cannot be read as .npy: {error}") from error


def _parquet(file: BinaryIO, path: str) -> Any:
    """Return a Parquet file as a table of the first library that is installed."""
    for module, function in (("pyarrow.parquet", "read_table"), ("polars", "read_parquet"), ("pandas", "read_parquet")):
        try:
            return getattr(import_module(module), function)(file)
        except ImportError:  # of pandas also where it has no engine
            file.seek(0)
        except Exception as error:
            raise ValueError(f"{path} cannot be read as Parquet: {error}".splitlines()[0]) from error
    raise ImportError(f"to read {path} pyarrow or polars is needed: pip install pyarrow")


def _by_name(table: Any, path: str, wanted: Wanted) -> Any:
    """Return an array as it is, and a table without the columns that the student does not take."""
    found = column_names(table)
    if found is not None and wanted.names is None:
        wanted.note(f"{path} has names of columns, and the student has none: they are taken in the order of the fit")
    if found is None or wanted.names is None:
        return table
    _check_names(list(found), path, wanted)
    if set(found) != set(wanted.names):
        table = {name: table[name] for name in wanted.names}
    return table if wanted.cells else matrix(table, wanted.names)


def _check_names(found: list[str], path: str, wanted: Wanted) -> None:
    """Note columns that are not needed; ValueError if one is missing or there are two of its name."""
    names = wanted.names or ()
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(
            f"{path} lacks the columns {_shortened(missing)} that the student was fitted with; it has "
            f"{_shortened(found)}"
        )
    twice = [name for name in names if found.count(name) > 1]
    if twice:
        raise ValueError(f"{path} has the columns {twice[:5]} more than once; rename one of each")
    extra = [name for name in found if name not in names]
    if extra:
        wanted.note(f"columns of {path} that the student was not fitted with are ignored: {_shortened(extra)}")


def _shortened(names: Sequence[str]) -> str:
    """Return the first of many names."""
    return f"{list(names[:5])}{f' and {len(names) - 5} more' if len(names) > 5 else ''}"


class _Text:
    """Separated text.

    Parameters
    ----------
    path : str
        For messages.
    wanted : Wanted
    """

    def __init__(self, path: str, wanted: Wanted):
        self.path, self.wanted, self.names = path, wanted, wanted.names
        self.underscore = False

    def read(self, file: Any) -> np.ndarray:
        """Return the rows of a binary file as float64."""
        file = file if hasattr(file, "peek") else io.BufferedReader(file)
        start = file.peek(3)[:3]
        encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), "utf-8")
        with io.TextIOWrapper(file, encoding, newline="") as text:
            return self._rows(text)

    def _rows(self, text: io.TextIOBase) -> np.ndarray:
        lines = list(islice(text, _SAMPLE))
        said = _SEPARATOR_LINE.fullmatch(lines[0]) if lines else None
        if said is not None:
            lines[0] = "\n"  # blank, so that the lines after it keep their numbers
        separator = self._separator(lines) if said is None else said[1]
        rows = _split(self._watched(chain(lines, text)), separator, _has_blanks_before_quotes(lines, separator))
        first = next(rows, None)
        if first is None:
            raise ValueError(f"{self.path} is no numeric table: it is empty")
        header, width, order = self._header(*first), len(first[1]), None
        if header is None:
            rows = chain([first], rows)
        else:
            self.underscore = False
            if self.names is not None:
                _check_names(header, self.path, self.wanted)
                order, header = [header.index(name) for name in self.names], list(self.names)
        # The cells are counted in every line: one more or less would shift all that follow
        values, n_rows = array("d"), 0
        for line, cells in rows:
            if len(cells) != width:
                raise ValueError(
                    f"{self.path} is no numeric table: line {line} has {len(cells)} cells, and the first has {width}"
                )
            taken = cells if order is None else [cells[index] for index in order]
            n_rows += 1
            if not self.underscore:
                try:
                    numbers = list(map(float, taken))
                    if math.isfinite(sum(numbers)):
                        values.extend(numbers)
                        continue
                except ValueError:
                    pass
            values.extend(self._numbers(taken, line, header))
            self.underscore = False
        if not n_rows:
            raise ValueError(f"{self.path} is no numeric table: it has no rows")
        if self.names is not None and header is None and width == self.wanted.n_features:
            self.wanted.note(
                f"{self.path} has no names of columns: they are taken in the order of the fit, {_shortened(self.names)}"
            )
        return np.frombuffer(values, np.float64).reshape(n_rows, -1)

    def _watched(self, lines: Iterable[str]) -> Iterator[str]:
        """Yield lines and remember an underscore, which `float` allows inside a number."""
        for line in lines:
            self.underscore |= "_" in line
            yield line

    def _numbers(self, cells: list[str], line: int, names: list[str] | None) -> list[float]:
        """Return the cells of a row of which some may be missing; ValueError for one that is no number."""
        found = []
        for index, cell in enumerate(cells):
            place = f"line {line}, column {index + 1 if names is None else repr(names[index])}"
            number = float(cell) if _is_numeric(cell) else np.nan
            if math.isnan(number) and not _is_missing(cell):
                raise self._no_number(cell, place)
            if math.isinf(number) or (math.isnan(number) and not self.wanted.fills):
                raise ValueError(_unusable(number, self.path, place))
            found.append(number)
        return found

    def _no_number(self, cell: str, place: str) -> ValueError:
        """Return the error for a cell that holds something else."""
        advice = ""
        if _OTHER_NOTATION.fullmatch(cell.strip()):
            decimal = cell.count(",") == 1 and _is_numeric(cell.replace(",", "."))
            kind = "has a decimal comma" if decimal else "has its thousands apart"
            advice = f"; it {kind}, and must have {'a decimal point' if decimal else 'none but a decimal point'}"
        return ValueError(f"{self.path} is no numeric table: could not convert string {cell!r} in {place}{advice}")

    def _header(self, line: int, cells: list[str]) -> list[str] | None:
        """Return the names in the first line that is not blank, or None if it is a row."""
        if self.names is not None:
            for names in (cells, _stripped(cells), _stripped(_uncommented(cells))):
                if set(self.names) <= set(names):
                    if all(map(_is_numeric, names)):
                        self._note_names(names)
                    return names
        # A row of numbers in another notation would be lost as well
        for index, cell in enumerate(cells):
            if _OTHER_NOTATION.fullmatch(cell.strip()):
                raise self._no_number(cell, f"line {line}, column {index + 1}")
        texts = [index for index, cell in enumerate(cells) if not (_is_numeric(cell) or _is_missing(cell))]
        if not texts:
            if len(cells) > 1 and cells == [str(index) for index in range(len(cells))]:
                self.wanted.note(f"the first line of {self.path}, 0, 1, 2, ..., is taken for a row of numbers")
            return None
        if any(_is_numeric(cell) for cell in cells):
            # If it were names its numbers would be lost without a word
            raise ValueError(
                f"{self.path} is no numeric table: line {line} has numbers, and {cells[texts[0]]!r} in column "
                f"{texts[0] + 1}; it must hold only numbers or only names"
            )
        names = _uncommented(cells)
        if self.names is None:
            self._note_names(names)
        return names

    def _note_names(self, names: list[str]) -> None:
        """Note that the first line is no row, where that may be wrong."""
        order = "" if self.names is not None else ", and the columns are taken in the order of the fit"
        self.wanted.note(f"the first line of {self.path} is taken for names, {_shortened(names)}{order}")

    def _separator(self, lines: list[str]) -> str:
        """Return the separator that makes the best table of the first lines; a comma, where all are equal."""

        def quality(separator: str) -> tuple[bool, bool, bool, bool]:
            rows = [cells for _, cells in _split(lines, separator, _has_blanks_before_quotes(lines, separator))]
            named = self.names is not None and set(self.names) <= {*rows[0], *_stripped(rows[0])}
            widths = {len(cells) for cells in rows}
            regular = len(widths) == 1 and widths != {1}
            fits = regular and widths == {self.wanted.n_features}
            numeric = all(_is_numeric(cell) or _is_missing(cell) for cells in rows[1:] for cell in cells)
            return named, fits and numeric, fits, regular

        if not any(line.strip() for line in lines):
            return ","
        best = max(_SEPARATORS, key=quality)
        if best != ",":
            self.wanted.note(f"{self.path} is read with {_SEPARATORS[best]} between its cells")
        return best


def _split(lines: Iterable[str], separator: str, skips_blanks: bool) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of every line that is not blank; a quoted cell may hold line breaks."""
    if separator == " ":
        yield from ((number, line.split()) for number, line in enumerate(lines, 1) if line.strip())
        return
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=skips_blanks)
    line = 1  # of the first of several, in which a quote may be left open
    for cells in reader:
        if len(cells) > 1 or (cells and cells[0].strip()):
            yield line, cells
        line = reader.line_num + 1


def _has_blanks_before_quotes(lines: Iterable[str], separator: str) -> bool:
    """Return whether there are blanks between separators and quoted cells, which hide the quotes from `csv`."""
    pattern = re.compile(f'(^|{re.escape(separator)}) +"')
    return any(pattern.search(line) for line in lines)


def _stripped(cells: list[str]) -> list[str]:
    return [cell.strip() for cell in cells]


def _uncommented(cells: list[str]) -> list[str]:
    """Return the names of a first line without the "#" with which NumPy writes it."""
    return [cells[0].lstrip("#").strip(), *cells[1:]] if cells[0].startswith("#") else cells


def _is_missing(cell: str) -> bool:
    """Return whether a cell has no value."""
    return cell.strip().lower() in _MISSING


def _is_numeric(cell: str) -> bool:
    """Return whether a cell is a number, which "1_000" and "nan" are not."""
    try:
        float(cell)
    except ValueError:
        return False
    return "_" not in cell and not _is_missing(cell)
