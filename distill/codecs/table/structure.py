"""Operations that choose columns and put those of several branches side by side."""

from dataclasses import dataclass
from typing import Any, ClassVar

from distill.codecs.table.fields import Source, Writer

__all__ = ["Select", "Union"]


@dataclass(frozen=True)
class Select:
    """Some columns, in any order.

    Parameters
    ----------
    columns : tuple of int
        Indices of columns.
    """

    columns: tuple[int, ...]
    code: ClassVar[int] = 0
    name: ClassVar[str] = "select"

    def write(self, out: Writer) -> None:
        """Write the indices."""
        out.indices(self.columns)

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["Select", int]:
        """Read the indices."""
        columns = source.indices(n_columns)
        return cls(columns), len(columns)


@dataclass(frozen=True, eq=False)
class Union:
    """The results of several lists of operations for the same columns, side by side.

    Parameters
    ----------
    branches : tuple of tuple of operations
        A branch without operations gives the columns themselves.
    """

    branches: tuple[tuple[Any, ...], ...]
    code: ClassVar[int] = 1
    name: ClassVar[str] = "union"

    def write(self, out: Writer) -> None:
        """Write the branches, each as the number of its operations and these."""
        out.varint(len(self.branches))
        for branch in self.branches:
            write_operations(out, branch)

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["Union", int]:
        """Read the branches."""
        branches, total = [], 0
        for _ in range(source.count()):
            operations, width = source.operations(n_columns)
            branches.append(operations)
            total += width
        return cls(tuple(branches)), total


def write_operations(out: Writer, operations: tuple[Any, ...]) -> None:
    """Write the number of operations and each with its code."""
    out.varint(len(operations))
    for operation in operations:
        out.byte(operation.code)
        operation.write(out)
