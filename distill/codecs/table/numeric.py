"""Operations on columns of numbers."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from distill.codecs import preprocessing
from distill.codecs.preprocessing import AnyStep
from distill.codecs.table.fields import MAX_COLUMNS, Source, Writer

__all__ = [
    "EXTRAPOLATIONS", "FUNCTIONS", "NORMS", "Bins", "Complete", "Elementwise", "Function", "Normalize", "Polynomial",
    "Power", "Product", "Quantiles", "Spline", "Threshold",
]  # fmt: skip

# Functions of NumPy by these names
FUNCTIONS = (
    "log1p", "sqrt", "expm1", "abs", "exp", "log", "log2", "log10", "square", "cbrt", "sin", "cos", "tan", "tanh",
    "arcsinh", "sign", "floor", "ceil", "rint", "negative", "reciprocal", "isnan", "arctan", "exp2", "trunc",
)  # fmt: skip
NORMS = ("l1", "l2", "max")
EXTRAPOLATIONS = ("error", "constant", "linear", "continue", "periodic")
_BOX_COX, _UNIFORM, _EVEN = 1, 1, 2
_INTERACTIONS, _BIAS = 1, 2
_NO_BIAS, _ZEROS = 1, 2
# Degrees and orders that a forged file may not exceed, since time grows with them
_MAX_DEGREE, _MAX_SPLINE_DEGREE = 32, 24
_MAX_TERMS, _COST_OF_TERM = 1 << 16, 15


@dataclass(frozen=True)
class Complete:
    """Nothing is changed, and a missing value is an error: what comes next takes none."""

    code: ClassVar[int] = 3
    name: ClassVar[str] = "complete"

    def write(self, out: Writer) -> None:
        """Write nothing."""

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["Complete", int]:
        """Read nothing."""
        return cls(), n_columns


@dataclass(frozen=True, eq=False)
class Elementwise:
    """Steps of section 0 that keep the number of columns: everything but products.

    Parameters
    ----------
    steps : tuple of Step or MomentsStep
    """

    steps: tuple[AnyStep, ...]
    n_columns: int
    code: ClassVar[int] = 2
    name: ClassVar[str] = "scale"

    def write(self, out: Writer) -> None:
        """Write the content of a section 0."""
        steps = self.steps
        if out.single:
            steps = tuple(
                preprocessing.Step(step.operation, np.asarray(step.values, np.float32))
                if isinstance(step, preprocessing.Step)
                else step
                for step in steps
            )
        out.data += preprocessing.encode(self.n_columns, steps)

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["Elementwise", int]:
        """Read the content of a section 0."""
        n_features, steps = preprocessing.decode(source.reader, n_columns)
        if n_features != n_columns or any(step.operation == "product" for step in steps):
            raise source.error(f"has steps of {n_features} features for {n_columns} columns")
        return cls(steps, n_columns), n_columns


@dataclass(frozen=True)
class Function:
    """A function of NumPy for each number.

    Parameters
    ----------
    function : str
        One of `FUNCTIONS`.
    """

    function: str
    code: ClassVar[int] = 4
    name: ClassVar[str] = "function"

    def write(self, out: Writer) -> None:
        """Write the index of the function."""
        out.byte(FUNCTIONS.index(self.function))

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["Function", int]:
        """Read the index of the function."""
        index = source.byte()
        if index >= len(FUNCTIONS):
            raise source.error(f"has function number {index}, which this version cannot read")
        return cls(FUNCTIONS[index]), n_columns


@dataclass(frozen=True, eq=False)
class Power:
    """A power transform of each column.

    Parameters
    ----------
    exponents : ndarray of shape (n_columns,)
        The lambdas.
    positive : bool
        Whether it is Box and Cox's, for numbers above zero, and not Yeo and Johnson's.
    """

    exponents: np.ndarray
    positive: bool = False
    code: ClassVar[int] = 9
    name: ClassVar[str] = "power"

    def write(self, out: Writer) -> None:
        """Write the kind and the exponents."""
        out.byte(self.positive)
        out.numbers(self.exponents)

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["Power", int]:
        """Read the kind and the exponents."""
        positive = source.flag()
        return cls(source.numbers(n_columns), positive), n_columns


@dataclass(frozen=True, eq=False)
class Quantiles:
    """The fraction of the fit's values below each number, or the normal quantile of it.

    Parameters
    ----------
    quantiles : ndarray of shape (n_quantiles, n_columns)
        Not decreasing in any column.
    references : ndarray of shape (n_quantiles,)
        Their fractions, from 0 to 1.
    normal : bool
    """

    quantiles: np.ndarray
    references: np.ndarray
    normal: bool = False
    code: ClassVar[int] = 10
    name: ClassVar[str] = "quantiles"

    def write(self, out: Writer) -> None:
        """Write the kind, the fractions unless they are even, and the quantiles of each column."""
        count = len(self.references)
        even = np.array_equal(self.references, np.linspace(0, 1, count))
        out.byte((0 if self.normal else _UNIFORM) | (_EVEN if even else 0))
        out.varint(count)
        if not even:
            out.numbers(self.references, exact=True)
        out.numbers(self.quantiles.T)

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["Quantiles", int]:
        """Read the table of quantiles."""
        flags, count = source.byte(_UNIFORM | _EVEN), source.varint()
        source.check_count(count * n_columns, 4)
        if not count or not n_columns:
            raise source.error(f"has {count} quantiles for {n_columns} columns")
        references = np.linspace(0, 1, count) if flags & _EVEN else source.numbers(count)
        quantiles = source.numbers(count * n_columns).reshape(n_columns, count).T
        if (np.diff(quantiles, axis=0) < 0).any() or (np.diff(references) < 0).any():
            raise source.error("has quantiles that decrease")
        return cls(quantiles, references, not flags & _UNIFORM), n_columns


@dataclass(frozen=True, eq=False)
class Bins:
    """The number of the bin of each value, or a column for each bin with 1 in that of the value.

    Parameters
    ----------
    edges : tuple of ndarray
        The inner edges of each column's bins, which do not decrease; a value at an edge is in the bin above it.
    one_hot : bool
    """

    edges: tuple[np.ndarray, ...]
    one_hot: bool = False
    code: ClassVar[int] = 11
    name: ClassVar[str] = "bins"

    def write(self, out: Writer) -> None:
        """Write the kind, and the number of edges and the edges of each column."""
        out.byte(self.one_hot)
        for edges in self.edges:
            out.varint(len(edges))
            out.numbers(edges)

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["Bins", int]:
        """Read the edges."""
        one_hot, edges = source.flag(), []
        source.check_count(n_columns, 2)
        for _ in range(n_columns):
            edges.append(source.numbers(source.count(0)))
            if (np.diff(edges[-1]) < 0).any():
                raise source.error("has edges of bins that decrease")
        return cls(tuple(edges), one_hot), sum(len(each) + 1 for each in edges) if one_hot else n_columns


@dataclass(frozen=True)
class Threshold:
    """1 for numbers above a threshold, else 0.

    Parameters
    ----------
    threshold : float
    """

    threshold: float
    code: ClassVar[int] = 12
    name: ClassVar[str] = "threshold"

    def write(self, out: Writer) -> None:
        """Write the threshold."""
        out.numbers([self.threshold], exact=True)

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["Threshold", int]:
        """Read the threshold."""
        return cls(float(source.numbers(1)[0])), n_columns


@dataclass(frozen=True, eq=False)
class Spline:
    """The B-splines of each column at its values.

    Parameters
    ----------
    knots : ndarray of shape (n_knots, n_columns)
        All knots, those beyond the ends included, not decreasing.
    degree : int
    extrapolation : {"error", "constant", "linear", "continue", "periodic"}
    include_bias : bool
        Whether the last spline of each column is included.
    missing_as_zeros : bool
        Whether the splines of a missing value are all zero; otherwise it is an error.
    """

    knots: np.ndarray
    degree: int
    extrapolation: str
    include_bias: bool = True
    missing_as_zeros: bool = False
    code: ClassVar[int] = 13
    name: ClassVar[str] = "spline"

    @property
    def n_splines(self) -> int:
        """Number of splines of a column."""
        return len(self.knots) - self.degree - 1 - (self.degree if self.extrapolation == "periodic" else 0)

    def write(self, out: Writer) -> None:
        """Write the degree, the kind and the knots of each column."""
        out.byte(self.degree)
        out.byte(EXTRAPOLATIONS.index(self.extrapolation))
        out.byte((0 if self.include_bias else _NO_BIAS) | (_ZEROS if self.missing_as_zeros else 0))
        out.varint(len(self.knots))
        # Rounded knots might no longer increase, and the ends decide what is extrapolated
        out.numbers(self.knots.T, exact=True)

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["Spline", int]:
        """Read the knots."""
        degree, extrapolation = source.byte(_MAX_SPLINE_DEGREE), source.byte(len(EXTRAPOLATIONS) - 1)
        flags, count = source.byte(_NO_BIAS | _ZEROS), source.varint()
        source.check_count(count * n_columns, 4)
        knots = source.numbers(count * n_columns).reshape(n_columns, count).T
        spline = cls(knots, degree, EXTRAPOLATIONS[extrapolation], not flags & _NO_BIAS, bool(flags & _ZEROS))
        least = max(1, degree if spline.extrapolation == "periodic" else 1)
        if count < 2 * degree + 2 or spline.n_splines < least or (np.diff(knots, axis=0) < 0).any():
            raise source.error(f"has {count} knots for splines of degree {degree}, or knots that decrease")
        return spline, n_columns * (spline.n_splines - (0 if spline.include_bias else 1))


@dataclass(frozen=True)
class Polynomial:
    """Products of columns, by degree.

    Parameters
    ----------
    min_degree, max_degree : int
    interaction_only : bool
        Whether a column occurs once at most in a product.
    include_bias : bool
        Whether the first column is 1.
    """

    min_degree: int
    max_degree: int
    interaction_only: bool = False
    include_bias: bool = True
    code: ClassVar[int] = 14
    name: ClassVar[str] = "polynomial"

    def write(self, out: Writer) -> None:
        """Write the degrees and the kind."""
        out.byte(self.min_degree)
        out.byte(self.max_degree)
        out.byte((_INTERACTIONS if self.interaction_only else 0) | (_BIAS if self.include_bias else 0))

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["Polynomial", int]:
        """Read the degrees and the kind."""
        least, largest = source.byte(_MAX_DEGREE), source.byte(_MAX_DEGREE)
        flags = source.byte(_INTERACTIONS | _BIAS)
        if least > largest:
            raise source.error(f"has a polynomial of degrees {least} to {largest}")
        operation = cls(least, largest, bool(flags & _INTERACTIONS), bool(flags & _BIAS))
        # A term takes an object of Python, of the size of some columns
        n_outputs = operation.n_outputs(n_columns)
        source.spend(min(_COST_OF_TERM * n_outputs, MAX_COLUMNS + 1))
        return operation, n_outputs

    def n_outputs(self, n_columns: int) -> int:
        """Return the number of products, or one above the largest possible number."""
        total = int(self.include_bias)
        computed = total
        for degree in range(1, self.max_degree + 1):
            count = math.comb(n_columns if self.interaction_only else n_columns + degree - 1, degree)
            computed += count
            total += count if degree >= self.min_degree else 0
            if computed > _MAX_TERMS:  # those of lower degrees are computed as well
                return MAX_COLUMNS + 1
        return total


@dataclass(frozen=True)
class Normalize:
    """Each row over its norm, where that is not zero.

    Parameters
    ----------
    norm : {"l1", "l2", "max"}
    """

    norm: str
    code: ClassVar[int] = 15
    name: ClassVar[str] = "normalize"

    def write(self, out: Writer) -> None:
        """Write the index of the norm."""
        out.byte(NORMS.index(self.norm))

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["Normalize", int]:
        """Read the index of the norm."""
        return cls(NORMS[source.byte(len(NORMS) - 1)]), n_columns


@dataclass(frozen=True, eq=False)
class Product:
    """Rows times a matrix, in float64.

    Parameters
    ----------
    matrix : ndarray of shape (n_columns, n_outputs)
    """

    matrix: np.ndarray
    code: ClassVar[int] = 16
    name: ClassVar[str] = "product"

    def write(self, out: Writer) -> None:
        """Write the number of outputs and the matrix, the row of the first column first."""
        out.varint(self.matrix.shape[1])
        out.numbers(self.matrix)

    @classmethod
    def read(cls, source: Source, n_columns: int) -> tuple["Product", int]:
        """Read the matrix."""
        n_outputs = source.varint()
        return cls(source.numbers(n_columns * n_outputs).reshape(n_columns, n_outputs)), n_outputs
