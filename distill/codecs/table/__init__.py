"""Encode tables: what is done with columns of numbers, categories and text before the network.

A table is a list of operations, each a frozen dataclass with `write` and `read`. To add one, give it the next code,
enter it here, and write its function in `distill.runtime.table`, its translation in `distill.translation` and its
paragraph in docs/format.md.
"""

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from distill.codecs.labels import MAX_INFLATION, inflate
from distill.codecs.reader import BytesLike, Reader, StudentFileError, varint
from distill.codecs.table.categorical import Encode, Impute, Indicate, OneHot
from distill.codecs.table.fields import Source, Writer
from distill.codecs.table.numeric import (
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
from distill.codecs.table.structure import Select, Union, write_operations
from distill.codecs.table.text import Text, Weigh

__all__ = ["OPERATIONS", "TableStep", "decode", "encode", "n_outputs"]

OPERATIONS: dict[int, Any] = {
    operation.code: operation
    for operation in (
        Select, Union, Elementwise, Complete, Function, Impute, Indicate, OneHot, Encode, Power, Quantiles, Bins,
        Threshold, Spline, Polynomial, Normalize, Product, Text, Weigh,
    )
}  # fmt: skip
_PLAIN, _DEFLATED = range(2)
_TEXTS = 2


@dataclass(frozen=True, eq=False)
class TableStep:
    """The step from a table of any values to numbers.

    Parameters
    ----------
    n_columns : int
        Number of columns of the table.
    operations : tuple
        One after the other.
    texts : bool
        Whether rows are texts, so that X may be a list of strings; then there is one column.
    n_cells : int
        Number of columns of all operations together, as a measure of memory; 0 if it is not known.
    """

    n_columns: int
    operations: tuple[Any, ...]
    texts: bool = False
    n_cells: int = 0
    operation: ClassVar[str] = "table"

    @property
    def names(self) -> tuple[str, ...]:
        """Different names of its operations, those of branches included, in their order."""
        return tuple(dict.fromkeys(_names(self.operations)))


def _names(operations: tuple[Any, ...]) -> Iterator[str]:
    """Yield the names of operations but unions and selections, which every table has."""
    for operation in operations:
        if isinstance(operation, Union):
            for branch in operation.branches:
                yield from _names(branch)
        elif not isinstance(operation, Select | Complete):
            yield operation.name


def encode(table: TableStep, single: bool = False) -> bytes:
    """Write a table, deflated where that is shorter.

    Parameters
    ----------
    table : TableStep
    single : bool
        Whether numbers that were fitted are rounded to float32.

    Examples
    --------
    >>> from distill.codecs.table.categorical import Categories
    >>> colors = Categories(("blue", "red"), (0, 1), 2, unknown=-1)
    >>> encode(TableStep(2, (Select((1,)), OneHot((colors,))))).hex()
    '0002020001020702020004626c756500037265640001'
    """
    out = Writer(single)
    out.varint(table.n_columns)
    write_operations(out, table.operations)
    packer = zlib.compressobj(9, wbits=-15)
    deflated = varint(len(out.data)) + packer.compress(bytes(out.data)) + packer.flush()
    texts = _TEXTS if table.texts else 0
    if len(deflated) < len(out.data) and len(out.data) <= MAX_INFLATION * len(deflated):
        return bytes([_DEFLATED | texts]) + deflated
    return bytes([_PLAIN | texts]) + out.data


def n_outputs(operations: tuple[Any, ...], n_columns: int) -> int:
    """Return the number of columns that operations for `n_columns` lead to.

    Examples
    --------
    >>> n_outputs((Polynomial(0, 2),), 3)
    10
    """
    out = Writer()
    write_operations(out, operations)
    source = Source(Reader(bytes(out.data)), 1 << 22, _read_operations)
    return _read_operations(source, n_columns)[1]


def decode(reader: Reader, n_bytes: int) -> tuple[TableStep, int]:
    """Read a table.

    Parameters
    ----------
    reader : Reader
    n_bytes : int
        Size of the file.

    Returns
    -------
    table : TableStep
    n_outputs : int

    Raises
    ------
    StudentFileError
        If the bytes are damaged, or an operation is unknown.
    """
    flags = reader.byte("table")
    if flags > 3:
        raise StudentFileError(f"{reader.where} has impossible flags {flags}")
    length = reader.varint("table") if flags & _DEFLATED else 0
    written: BytesLike = reader.take(reader.remaining, "table")
    if flags & _DEFLATED:
        if length > MAX_INFLATION * (len(written) + 5):
            raise StudentFileError(f"{reader.where}: {length} bytes of a table in {len(written)} deflated ones")
        written = inflate(written, length, reader.where)
    inner = Reader(written, reader.where)
    source = Source(inner, n_bytes, _read_operations)
    n_columns = source.varint()
    if not n_columns or (flags & _TEXTS and n_columns != 1):
        raise source.error(f"has {n_columns} columns")
    operations, width = _read_operations(source, source.spend(n_columns))
    if not width:
        raise source.error("leads to no columns")
    inner.finish()
    return TableStep(n_columns, operations, bool(flags & _TEXTS), source.n_cells), width


def _read_operations(source: Source, n_columns: int) -> tuple[tuple[Any, ...], int]:
    """Read a list of operations for `n_columns`; return them and the number of columns at their end."""
    operations = []
    for _ in range(source.count()):
        code = source.byte()
        if code not in OPERATIONS:
            raise source.error(f"has an operation {code}, which this version cannot read")
        operation, n_columns = OPERATIONS[code].read(source, n_columns)
        source.spend(n_columns)
        operations.append(operation)
    return tuple(operations), n_columns
