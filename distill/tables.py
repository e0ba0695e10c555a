"""Samples from files and streams for the command line: NumPy arrays, separated text, Parquet.

Text may begin with a byte order mark and be separated by commas, semicolons, tabs or blanks. Which columns a student
takes is decided by the names in the first line; what was decided is noted, and what cannot be read is an error with its
line and column.
"""

import csv
import gzip
import io
import os
import sys
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from importlib import import_module
from itertools import chain, islice
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from distill.runtime.columns import column_names, matrix

__all__ = ["Wanted", "read_rows"]

_TEXT, _TABLES = (".csv", ".tsv"), (".parquet", ".pq")
# Lines from which the separator is found
_SAMPLE = 20
_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", " ": "blanks"}
# Cells without a value, in lower case; they are NaN
_MISSING = {"", "na", "n/a", "nan", "null", "none"}
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
    """

    n_features: int
    names: tuple[str, ...] | None
    fills: bool
    note: Callable[[str], None]


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
        return _by_name(np.load(path, mmap_mode="r", allow_pickle=False), path, wanted)
    with open(path, "rb") as file:
        if name.endswith(_TABLES):
            return _by_name(_parquet(file, path), path, wanted)
        return _Text(path, wanted).read(gzip.open(file) if name.endswith(".gz") else file)


def _from_bytes(data: bytes, path: str, wanted: Wanted) -> Any:
    """Return the samples in bytes of any kind."""
    if data.startswith(_GZIP):
        return _from_bytes(gzip.decompress(data), path, wanted)
    if data.startswith(_NPY):
        return _by_name(np.load(io.BytesIO(data), allow_pickle=False), path, wanted)
    if data.startswith(_PARQUET):
        return _by_name(_parquet(io.BytesIO(data), path), path, wanted)
    return _Text(path, wanted).read(io.BytesIO(data))


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
    if found is None or wanted.names is None:
        return table
    _check_names(list(found), path, wanted)
    if set(found) != set(wanted.names):
        table = {name: table[name] for name in wanted.names}
    return matrix(table, wanted.names)


def _check_names(found: list[str], path: str, wanted: Wanted) -> None:
    """Note columns that are not needed; ValueError if one is missing or there are two of its name."""
    names = wanted.names or ()
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"{path} lacks the columns {missing[:5]} that the student was fitted with")
    twice = [name for name in names if found.count(name) > 1]
    if twice:
        raise ValueError(f"{path} has the columns {twice[:5]} more than once; rename one of each")
    extra = [name for name in found if name not in names]
    if extra:
        more = f" and {len(extra) - 5} more" if len(extra) > 5 else ""
        wanted.note(f"columns of {path} that the student was not fitted with are ignored: {extra[:5]}{more}")


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
        separator = self._separator(lines)
        rows = _split(self._watched(chain(lines, text)), separator)
        first = next(rows, None)
        if first is None:
            raise ValueError(f"{self.path} is no numeric table: it is empty")
        header, width, order = self._header(first[1]), len(first[1]), None
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
                    values.extend(map(float, taken))
                    continue
                except ValueError:
                    del values[(n_rows - 1) * len(taken) :]
            values.extend(self._numbers(taken, line, header, separator))
            self.underscore = False
        if not n_rows:
            raise ValueError(f"{self.path} is no numeric table: it has no rows")
        return np.frombuffer(values, np.float64).reshape(n_rows, -1)

    def _watched(self, lines: Iterable[str]) -> Iterator[str]:
        """Yield lines and remember an underscore, which `float` allows inside a number."""
        for line in lines:
            self.underscore |= "_" in line
            yield line

    def _numbers(self, cells: list[str], line: int, names: list[str] | None, separator: str) -> list[float]:
        """Return the cells of a row of which some may be missing; ValueError for one that is no number."""
        found = []
        for index, cell in enumerate(cells):
            place = f"line {line}, column {index + 1 if names is None else repr(names[index])}"
            if _is_numeric(cell):
                found.append(float(cell))
            elif _is_missing(cell):
                if not self.wanted.fills:
                    raise ValueError(f"{self.path} has no value in {place}, and this student needs all")
                found.append(np.nan)
            else:
                decimal = separator != "," and cell.count(",") == 1 and _is_numeric(cell.replace(",", "."))
                advice = "; it has a decimal comma, and must have a decimal point" if decimal else ""
                raise ValueError(
                    f"{self.path} is no numeric table: could not convert string {cell!r} in {place}{advice}"
                )
        return found

    def _header(self, cells: list[str]) -> list[str] | None:
        """Return the names in the first line, or None if it is a row."""
        if self.names is not None:
            for names in (cells, _stripped(cells), _stripped(_uncommented(cells))):
                if set(self.names) <= set(names):
                    return names
        texts = [index for index, cell in enumerate(cells) if not (_is_numeric(cell) or _is_missing(cell))]
        if not texts:
            if len(cells) > 1 and cells == [str(index) for index in range(len(cells))]:
                self.wanted.note(f"the first line of {self.path}, 0, 1, 2, ..., is taken for a row of numbers")
            return None
        if any(_is_numeric(cell) for cell in cells):
            # If it were names its numbers would be lost without a word
            raise ValueError(
                f"{self.path} is no numeric table: line 1 has numbers, and {cells[texts[0]]!r} in column "
                f"{texts[0] + 1}; it must hold only numbers or only names"
            )
        return _uncommented(cells)

    def _separator(self, lines: list[str]) -> str:
        """Return the separator that makes the best table of the first lines; a comma, where all are equal."""

        def quality(separator: str) -> tuple[bool, bool, bool, bool]:
            rows = [cells for _, cells in _split(lines, separator)]
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


def _split(lines: Iterable[str], separator: str) -> Iterator[tuple[int, list[str]]]:
    """Yield number and cells of every line that is not blank; a quoted cell may hold line breaks."""
    if separator == " ":
        yield from ((number, line.split()) for number, line in enumerate(lines, 1) if line.strip())
        return
    reader = csv.reader(lines, delimiter=separator)
    for cells in reader:
        if len(cells) > 1 or (cells and cells[0].strip()):
            yield reader.line_num, cells


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
