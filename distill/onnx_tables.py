"""Tables of numbers as operators of ONNX, opset 17, in float64: what `to_onnx` adds before the network."""

from collections.abc import Callable, Sequence
from itertools import combinations, combinations_with_replacement
from typing import Any

import numpy as np

from distill.codecs.table import TableStep, categorical, numeric
from distill.codecs.table.fields import Value, is_nan
from distill.codecs.table.structure import Select, Union

__all__ = ["add_table"]

_FUNCTIONS = {
    "sqrt": "Sqrt", "abs": "Abs", "exp": "Exp", "log": "Log", "sign": "Sign", "floor": "Floor", "ceil": "Ceil",
    "rint": "Round", "negative": "Neg", "reciprocal": "Reciprocal", "tanh": "Tanh",
}  # fmt: skip
# As in scikit-learn
_SMALL_EXPONENT = np.spacing(1.0)


def add_table(
    graph: Any, step: TableStep, rows: str, steps: Callable[[Any, Sequence[Any], str], str], fills: bool = False
) -> str:
    """Add the operations of a table.

    Parameters
    ----------
    graph : object
        Has `node` and `constant`; see `distill.onnx`.
    step : TableStep
    rows : str
        Name of the table's columns as numbers, float64.
    steps : callable
        Adds steps of section 0: ``steps(graph, steps, rows)`` returns the name of their result.
    fills : bool
        Whether the network takes missing values, so that NaN does not mark a row that is refused.

    Returns
    -------
    str
        Name of the numbers that the table leads to. All numbers of a row are NaN that the table refuses.

    Raises
    ------
    TypeError
        If the table has text, or operations that ONNX has no operators for, or refuses rows where the network fills.
    """
    table = _Table(graph, steps, step)
    rows = table.add(step.operations, rows, step.n_columns)[0]
    if table.checks and fills:
        raise TypeError(
            f"the student begins with a table ({', '.join(step.names)}) that refuses missing values or categories, "
            "which a model in ONNX does by NaN, and its network takes NaN for a missing value; fit the pipeline with a "
            "SimpleImputer and handle_unknown='ignore'"
        )
    for check in table.checks:
        rows = graph.node("Add", [rows, check])
    return rows


class _Table:
    """Operators of a table, and vectors that are NaN for rows that it refuses and otherwise 0."""

    def __init__(self, graph: Any, steps: Callable[[Any, Sequence[Any], str], str], step: TableStep):
        self.graph, self.steps, self.step = graph, steps, step
        self.checks: list[str] = []

    def add(self, operations: Sequence[Any], rows: str, n_columns: int) -> tuple[str, int]:
        """Add operations one after the other; return the name and the number of the columns they lead to."""
        for operation in operations:
            add = getattr(self, f"_{type(operation).__name__.lower()}", None)
            if add is None:
                raise self._error(operation, "has no form in ONNX here")
            rows, n_columns = add(operation, rows, n_columns)
        return rows, n_columns

    def _error(self, operation: Any, reason: str) -> TypeError:
        names = ", ".join(self.step.names)
        return TypeError(
            f"the student begins with a table ({names}), of which the operation {operation.name!r} {reason}; export "
            "the last step of the pipeline alone, to_onnx(pipeline[-1]), and give the model the rows "
            "pipeline[:-1].transform(X)"
        )

    def _node(self, operator: str, *inputs: Any, **attributes: Any) -> str:
        names = [each if isinstance(each, str) else self.graph.constant(each) for each in inputs]
        return self.graph.node(operator, names, **attributes)

    def _double(self, name: str) -> str:
        return self.graph.node("Cast", [name], to=self.graph.onnx.TensorProto.DOUBLE)

    def _chosen(self, rows: str, columns: Sequence[int]) -> str:
        return self._node("Gather", rows, np.array(columns, np.int64), axis=1)

    def _side_by_side(self, parts: list[str]) -> str:
        return parts[0] if len(parts) == 1 else self.graph.node("Concat", parts, axis=1)

    def _check(self, values: str) -> None:
        """Remember that a row with NaN among these values is refused."""
        total = self._node("ReduceSum", values, np.array([1], np.int64), keepdims=1)
        self.checks.append(self._node("Mul", total, np.float64(0)))

    def _select(self, operation: Select, rows: str, n_columns: int) -> tuple[str, int]:
        return self._chosen(rows, operation.columns), len(operation.columns)

    def _union(self, operation: Union, rows: str, n_columns: int) -> tuple[str, int]:
        parts = [self.add(branch, rows, n_columns) for branch in operation.branches]
        parts = [part for part in parts if part[1]]
        return self._side_by_side([name for name, _ in parts]), sum(width for _, width in parts)

    def _elementwise(self, operation: numeric.Elementwise, rows: str, n_columns: int) -> tuple[str, int]:
        return self.steps(self.graph, operation.steps, rows), n_columns

    def _complete(self, operation: numeric.Complete, rows: str, n_columns: int) -> tuple[str, int]:
        self._check(rows)
        return rows, n_columns

    def _function(self, operation: numeric.Function, rows: str, n_columns: int) -> tuple[str, int]:
        name = operation.function
        if name == "log1p":
            rows = self._node("Log", self._node("Add", rows, np.float64(1)))
        elif name == "expm1":
            rows = self._node("Sub", self._node("Exp", rows), np.float64(1))
        elif name == "square":
            rows = self._node("Mul", rows, rows)
        elif name == "isnan":
            rows = self._double(self._node("IsNaN", rows))
        elif name in _FUNCTIONS:
            rows = self._node(_FUNCTIONS[name], rows)
        else:
            raise self._error(operation, f"{name} has no form in ONNX here")
        return rows, n_columns

    def _missing(self, operation: Any, rows: str) -> str:
        """Return the name of where values are missing."""
        if operation.missing is None or is_nan(operation.missing):
            return self._node("IsNaN", rows)
        if isinstance(operation.missing, str):
            raise self._error(operation, f"is for text, {operation.missing!r}, and X of the model holds numbers")
        return self._node("Equal", rows, np.float64(operation.missing))

    def _impute(self, operation: categorical.Impute, rows: str, n_columns: int) -> tuple[str, int]:
        fills = self._numbers(operation, operation.fills)
        kept = self._chosen(rows, operation.columns)
        parts = [self._node("Where", self._missing(operation, kept), fills, kept)] if operation.columns else []
        if operation.indicated:
            parts.append(self._double(self._missing(operation, self._chosen(rows, operation.indicated))))
        return self._side_by_side(parts), len(operation.columns) + len(operation.indicated)

    def _indicate(self, operation: categorical.Indicate, rows: str, n_columns: int) -> tuple[str, int]:
        others = sorted(set(range(n_columns)) - set(operation.columns))
        if operation.refuses_others and others:
            missing = self._missing(operation, self._chosen(rows, others))
            self._check(self._node("Where", missing, np.float64(np.nan), np.float64(0)))
        return self._double(self._missing(operation, self._chosen(rows, operation.columns))), len(operation.columns)

    def _numbers(self, operation: Any, values: Sequence[Value]) -> np.ndarray:
        """Return values as numbers, missing ones as NaN."""
        if any(isinstance(value, str) for value in values):
            raise self._error(operation, f"has text, such as {values[0]!r}, and X of the model holds numbers")
        return np.array([np.nan if value is None else float(value) for value in values])

    def _places(self, operation: Any, values: Sequence[Value], rows: str, column: int) -> tuple[str, str]:
        """Return where the column equals each of the categories, and where it equals none, both as bool."""
        numbers, chosen = self._numbers(operation, values), self._chosen(rows, [column])
        equal = self._node("Equal", chosen, np.where(np.isnan(numbers), 0, numbers)[None])
        # NaN equals nothing
        equal = self._node("And", equal, ~np.isnan(numbers)[None])
        missing = self._node("And", self._node("IsNaN", chosen), np.isnan(numbers)[None])
        equal = self._node("Or", equal, missing)
        count = self._node("ReduceSum", self._double(equal), np.array([1], np.int64), keepdims=1)
        return equal, self._node("Equal", count, np.float64(0))

    def _onehot(self, operation: categorical.OneHot, rows: str, n_columns: int) -> tuple[str, int]:
        parts, width = [], 0
        for column, (values, codes, n_outputs, unknown) in enumerate(operation.features):
            equal, none = self._places(operation, values, rows, column)
            matrix = np.zeros((len(values), n_outputs))
            for index, code in enumerate(codes):
                if code >= 0:
                    matrix[index, code] = 1
            if unknown is None:
                self._check(self._node("Where", none, np.float64(np.nan), np.float64(0)))
            if n_outputs:
                part = self._node("MatMul", self._double(equal), matrix)
                if unknown is not None and unknown >= 0:
                    part = self._node("Where", none, np.eye(n_outputs)[unknown][None], part)
                parts.append(part)
                width += n_outputs
        return self._side_by_side(parts), width

    def _encode(self, operation: categorical.Encode, rows: str, n_columns: int) -> tuple[str, int]:
        parts, width = [], 0
        for column, (values, numbers, unknown) in enumerate(operation.features):
            equal, none = self._places(operation, values, rows, column)
            known = np.arange(len(values), dtype=np.float64)[:, None] if numbers is None else numbers
            part = self._node("MatMul", self._double(equal), np.nan_to_num(known))
            for index in np.flatnonzero(np.isnan(known).any(axis=1)):
                here = self._chosen(equal, [int(index)])
                part = self._node("Where", here, known[index][None], part)
            if unknown is None:
                self._check(self._node("Where", none, np.float64(np.nan), np.float64(0)))
            else:
                part = self._node("Where", none, unknown[None], part)
            parts.append(part)
            width += known.shape[1]
        return self._side_by_side(parts), width

    def _power(self, operation: numeric.Power, rows: str, n_columns: int) -> tuple[str, int]:
        exponents = np.asarray(operation.exponents, np.float64)
        if operation.positive:
            return self._power_of(self._node("Log", rows), exponents), n_columns
        size = self._node("Log", self._node("Add", self._node("Abs", rows), np.float64(1)))
        below = self._node("Neg", self._power_of(size, 2 - exponents))
        return self._node(
            "Where", self._node("Less", rows, np.float64(0)), below, self._power_of(size, exponents)
        ), n_columns

    def _power_of(self, logarithms: str, exponents: np.ndarray) -> str:
        """Return the powers of numbers less one over the exponents, the logarithms where these are zero."""
        zero = np.abs(exponents) <= _SMALL_EXPONENT
        safe = np.where(zero, 1, exponents)[None]
        powers = self._node("Exp", self._node("Mul", logarithms, safe))
        powers = self._node("Div", self._node("Sub", powers, np.float64(1)), safe)
        return self._node("Where", zero[None], logarithms, powers) if zero.any() else powers

    def _bins(self, operation: numeric.Bins, rows: str, n_columns: int) -> tuple[str, int]:
        parts = []
        for column, edges in enumerate(operation.edges):
            chosen = self._chosen(rows, [column])
            number = self._node("Mul", chosen, np.float64(0))
            if len(edges):
                above = self._double(self._node("GreaterOrEqual", chosen, edges[None]))
                number = self._node("ReduceSum", above, np.array([1], np.int64), keepdims=1)
            if operation.one_hot:
                number = self._double(self._node("Equal", number, np.arange(len(edges) + 1, dtype=np.float64)[None]))
            parts.append(number)
        return self._side_by_side(parts), sum(len(edges) + 1 if operation.one_hot else 1 for edges in operation.edges)

    def _threshold(self, operation: numeric.Threshold, rows: str, n_columns: int) -> tuple[str, int]:
        return self._double(self._node("Greater", rows, np.float64(operation.threshold))), n_columns

    def _polynomial(self, operation: numeric.Polynomial, rows: str, n_columns: int) -> tuple[str, int]:
        combine = combinations if operation.interaction_only else combinations_with_replacement
        ones = self._node("Add", self._node("Mul", self._chosen(rows, [0]), np.float64(0)), np.float64(1))
        parts, terms, before = [ones] if operation.include_bias else [], rows, list(combine(range(n_columns), 1))
        for degree in range(1, operation.max_degree + 1):
            now = list(combine(range(n_columns), degree))
            if not now:
                break
            if degree > 1:
                places = {term: index for index, term in enumerate(before)}
                shorter = self._chosen(terms, [places[term[1:]] for term in now])
                terms = self._node("Mul", shorter, self._chosen(rows, [term[0] for term in now]))
                before = now
            if degree >= operation.min_degree:
                parts.append(terms)
        return self._side_by_side(parts), operation.n_outputs(n_columns)

    def _normalize(self, operation: numeric.Normalize, rows: str, n_columns: int) -> tuple[str, int]:
        sizes = self._node("Abs", rows)
        if operation.norm == "max":
            norms = self._node("ReduceMax", sizes, axes=[1], keepdims=1)
        else:
            values = sizes if operation.norm == "l1" else self._node("Mul", rows, rows)
            norms = self._node("ReduceSum", values, np.array([1], np.int64), keepdims=1)
            norms = norms if operation.norm == "l1" else self._node("Sqrt", norms)
        norms = self._node("Where", self._node("Equal", norms, np.float64(0)), np.float64(1), norms)
        return self._node("Div", rows, norms), n_columns

    def _product(self, operation: numeric.Product, rows: str, n_columns: int) -> tuple[str, int]:
        return self._node("MatMul", rows, np.asarray(operation.matrix, np.float64)), operation.matrix.shape[1]
