"""Stages of a student in float arithmetic, as C.

Layers take their inputs one by one: an input is scaled when it is read, and needs no memory; one that is zero costs no
multiplications, as four fifths of the pixels of a digit. Outputs are in RAM, weights in flash in the smallest of these
forms, all of which give exactly the float32 weights of the student:

=========== =============================================================================
dense       4 bytes per weight
half        2 bytes per weight, where all weights are 16-bit floats
codes       1, 2, 4 or 8 bits per weight, and tables of their values: one, or one per set of outputs with equal values
sparse      per weight that is not zero 4 bytes and an index of 1 or 2 bytes
=========== =============================================================================
"""

from dataclasses import dataclass

import numpy as np

from distill.export.c import text
from distill.export.c.program import Affine, Linear, Waves, half_turn

# With a larger offset in units of the scale, float32 would lose more than 1e-6 of a scaled input
_MAX_FLOAT_OFFSET = 16.0
# Widths of packed codes: they do not cross the border of a byte
_CODE_BITS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Emitter:
    """Names in a header.

    Parameters
    ----------
    name : str
        The prefix.
    """

    name: str

    @property
    def flash(self) -> str:
        """The attribute of arrays in flash."""
        return f" {self.name.upper()}_FLASH"

    def read(self, kind: str, place: str) -> str:
        """Return the expression of a value in flash; `kind` is NumPy's code of its type."""
        return f"{self.name.upper()}_{kind.upper()}({place})"

    def array(self, name: str, values: np.ndarray, kind: str) -> str:
        """Return the declaration of an array in flash."""
        return text.array(f"{self.name}_{name}", values, kind, self.flash)


@dataclass(frozen=True)
class Code:
    """A piece of a header.

    Parameters
    ----------
    declarations : list of str
        Arrays and functions.
    n_bytes : int
        Bytes of the arrays.
    n_operations : int
        Multiplications for one row, at most.
    n_scratch : int
        Bytes of local arrays.
    """

    declarations: list[str]
    n_bytes: int
    n_operations: int
    n_scratch: int = 0


def reader(emit: Emitter, index: int | str, affines: list[Affine], kind: str) -> Code:
    """Return the function that reads input i of a stage and scales it, ``{name}_input{index}(x, i)``.

    Parameters
    ----------
    emit : Emitter
    index : int or str
        Of the stage.
    affines : list of Affine
        Elementwise stages before this one.
    kind : str
        NumPy's code of the type of `x`.
    """
    declarations, lines, n_bytes, n_products = [], [], 0, 0
    value, known = "x[i]", kind
    for number, affine in enumerate(affines):
        wide = affine.is_wide or bool((np.abs(affine.offset * affine.scale) > _MAX_FLOAT_OFFSET).any())
        working = "f8" if wide else "f4"
        value = value if known == working else f"({text.TYPES[working]}){value}"
        for sign, term, values, neutral in (
            ("-", "offset", affine.offset, 0.0),
            ("*", "scale", affine.scale, 1.0),
            ("+", "shift", affine.shift, 0.0),
        ):
            if (values == neutral).all():
                continue
            if (values == values[0]).all():
                operand = text.number(values[0], working)
            else:
                array = f"{term}{index}" + (f"_{number}" if number else "")
                declarations.append(emit.array(array, values, working))
                n_bytes += values.size * (8 if wide else 4)
                operand = emit.read(working, f"{emit.name}_{array}[i]")
            value = f"({value} {sign} {operand})"
            n_products += sign == "*"
        local = f"v{number}"
        lines.append(f"{text.TYPES[working]} {local} = {value};")
        if affine.limits is not None:
            low, high = (text.number(limit, working) for limit in affine.limits)
            lines.append(f"{local} = {local} < {low} ? {low} : {local} > {high} ? {high} : {local};")
        if affine.fill:
            lines.append(f"{local} = {local} != {local} ? {text.number(0, working)} : {local}; /* NaN: missing */")
        value, known = local, working
    result = value if known == "f4" else f"(float){value}"
    head = f"static inline float {emit.name}_input{index}(const {text.TYPES[kind]} *x, size_t i)"
    declarations.append("\n".join([head, "{", *(f"    {line}" for line in lines), f"    return {result};", "}"]))
    return Code(declarations, n_bytes, n_products)


def linear(emit: Emitter, index: int, layer: Linear, kind: str, form: "Form | None" = None) -> Code:
    """Return the function of a layer, ``{name}_layer{index}(x, out)``; its inputs come from `reader`.

    The weights are in `form`, or in the smallest form.
    """
    n_outputs = layer.weight.shape[1]
    weights = form
    if weights is None:
        weights = min((make(emit, index, layer.weight) for make in _FORMS), key=lambda form: form.n_bytes)
    declarations = [*weights.declarations, emit.array(f"bias{index}", layer.bias, "f4")]
    bias = emit.read("f4", f"{emit.name}_bias{index}[j]")
    lines = [
        f"static inline void {emit.name}_layer{index}(const {text.TYPES[kind]} *x, float *out)",
        "{",
        "    size_t j;",
        f"    for (j = 0; j < {n_outputs}; j++) {{",
        f"        out[j] = {bias};",
        "    }",
        *(f"    {line}" for line in weights.loop),
        *activation(layer.activation, n_outputs),
        "}",
    ]
    n_bytes = weights.n_bytes + 4 * n_outputs
    return Code([*declarations, "\n".join(lines)], n_bytes, weights.n_operations)


def activation(kind: str, n_outputs: int) -> list[str]:
    """Return the lines that apply an activation to `out`; expf is a macro on AVR, whose result is a double."""
    formula = {
        "relu": "out[j] < 0.0f ? 0.0f : out[j]",
        "tanh": "(float)tanhf(out[j])",
        "logistic": "1.0f / (1.0f + (float)expf(-out[j]))",
    }.get(kind)
    if formula is None:
        return []
    return [f"    for (j = 0; j < {n_outputs}; j++) {{", f"        out[j] = {formula};", "    }"]


@dataclass(frozen=True)
class Form:
    """One form of the weights of a layer in flash.

    Parameters
    ----------
    declarations : list of str
    loop : list of str
        Lines that add the products of all inputs and weights to `out`.
    n_bytes, n_operations : int
        Bytes in flash, and products of a row without zeros.
    """

    declarations: list[str]
    loop: list[str]
    n_bytes: int
    n_operations: int


def _dense(emit: Emitter, index: int, weight: np.ndarray) -> Form:
    used, declarations, n_bytes, loop = _used(emit, index, weight)
    declarations.append(emit.array(f"weight{index}", weight[used], "f4"))
    value = emit.read("f4", f"{emit.name}_weight{index}[row + j]")
    return _by_rows(declarations, loop, weight[used], f"out[j] += h * {value};", n_bytes + 4 * weight[used].size)


def _half(emit: Emitter, index: int, weight: np.ndarray) -> Form:
    with np.errstate(all="ignore"):
        halves = weight.astype(np.float16)
    if not (halves.astype(np.float32) == weight).all():
        return _NEVER
    used, declarations, n_bytes, loop = _used(emit, index, weight)
    declarations.append(emit.array(f"weight{index}", halves[used].view(np.uint16), "u2"))
    value = emit.read("u2", f"{emit.name}_weight{index}[row + j]")
    add = f"out[j] += h * {emit.name}_half({value});"
    return _by_rows(declarations, loop, weight[used], add, n_bytes + 2 * weight[used].size)


def _codes(emit: Emitter, index: int, weight: np.ndarray) -> Form:
    used, declarations, n_bytes, loop = _used(emit, index, weight)
    coded = coded_columns(weight[used])
    if coded is None:
        return _NEVER
    codes, tables, groups, width = coded
    packed = pack_rows(codes, width)
    declarations += [emit.array(f"codes{index}", packed, "u1"), emit.array(f"values{index}", tables, "f4")]
    n_bytes += packed.size + 4 * tables.size
    place = "code"
    if len(tables) > 1:
        kind = text.integer_kind(0, len(tables) - 1)
        declarations.append(emit.array(f"group{index}", groups, kind))
        n_bytes += groups.size * int(kind[1])
        place = f"((size_t){emit.read(kind, f'{emit.name}_group{index}[j]')} << {width}) + code"
    value = emit.read("f4", f"{emit.name}_values{index}[{place}]")
    add = [code_line(emit, f"{emit.name}_codes{index}", "row", width), f"out[j] += h * {value};"]
    return _by_rows(declarations, loop, weight[used], add, n_bytes, packed.shape[1])


def _sparse(emit: Emitter, index: int, weight: np.ndarray) -> Form:
    n_inputs, n_outputs = weight.shape
    rows, columns = np.nonzero(weight)
    if not len(rows):
        return _NEVER
    values, kind = weight[rows, columns], "f4"
    with np.errstate(all="ignore"):
        halves = values.astype(np.float16)
    if (halves.astype(np.float32) == values).all():
        values, kind = halves.view(np.uint16), "u2"
    counts = np.bincount(rows, minlength=n_inputs)
    of_counts, of_columns = text.integer_kind(0, counts.max()), text.integer_kind(0, n_outputs - 1)
    names = [f"{emit.name}_{part}{index}" for part in ("count", "output", "weight")]
    declarations = [
        emit.array(f"count{index}", counts, of_counts),
        emit.array(f"output{index}", columns, of_columns),
        emit.array(f"weight{index}", values, kind),
    ]
    value = emit.read(kind, f"{names[2]}[k]")
    loop = [
        "size_t i, k = 0;",
        f"for (i = 0; i < {n_inputs}; i++) {{",
        f"    size_t n = {emit.read(of_counts, f'{names[0]}[i]')};",
        "    const float h = n ? INPUT : 0.0f;",
        "    for (; n; n--, k++) {",
        f"        out[{emit.read(of_columns, f'{names[1]}[k]')}] += h * "
        + (f"{emit.name}_half({value});" if kind == "u2" else f"{value};"),
        "    }",
        "}",
    ]
    loop = [line.replace("INPUT", f"{emit.name}_input{index}(x, i)") for line in loop]
    n_bytes = counts.size * int(of_counts[1]) + len(rows) * (int(of_columns[1]) + int(kind[1]))
    return Form(declarations, loop, n_bytes, len(rows))


_FORMS = (_dense, _half, _codes, _sparse)
_NEVER = Form([], [], 1 << 62, 0)


def _used(emit: Emitter, index: int, weight: np.ndarray) -> tuple[np.ndarray, list[str], int, list[str]]:
    """Return the inputs with rows in flash, arrays that list them or the others, their bytes, and the loop.

    Rows of zeros are left out: the shorter one of both lists takes a byte or two for each.
    """
    used = np.abs(weight).max(axis=1) > 0
    if not used.any():
        used[0] = True
    kept, skipped = np.flatnonzero(used), np.flatnonzero(~used)
    kind = text.integer_kind(0, len(weight))
    call = f"const float h = {emit.name}_input{index}(x, i);"
    if len(kept) < len(skipped):
        at = emit.read(kind, f"{emit.name}_used{index}[u]")
        loop = ["size_t u;", f"for (u = 0; u < {len(kept)}; u++) {{", f"    const size_t i = {at};", f"    {call}"]
        return kept, [emit.array(f"used{index}", kept, kind)], len(kept) * int(kind[1]), loop
    loop = ["size_t i;", f"for (i = 0; i < {len(weight)}; i++) {{", f"    {call}"]
    if not len(skipped):
        return kept, [], 0, loop
    at = emit.read(kind, f"{emit.name}_unused{index}[skip]")
    skip = [f"    if (skip < {len(skipped)} && i == {at}) {{", "        skip++;", "        continue;", "    }"]
    loop = ["size_t i, skip = 0;", loop[1], *skip, f"    {call}"]
    return kept, [emit.array(f"unused{index}", skipped, kind)], len(skipped) * int(kind[1]), loop


def _by_rows(
    declarations: list[str], loop: list[str], weight: np.ndarray, add: str | list[str], n_bytes: int, stride: int = 0
) -> Form:
    """Return the form that goes through the rows of weights, one for each input, and skips inputs that are zero."""
    n_inputs, n_outputs = weight.shape
    lines = [
        "size_t row = 0;",
        *loop,
        "    if (h != 0.0f) {",
        f"        for (j = 0; j < {n_outputs}; j++) {{",
        *(f"            {line}" for line in ([add] if isinstance(add, str) else add)),
        "        }",
        "    }",
        f"    row += {stride or n_outputs};",
        "}",
    ]
    return Form(declarations, lines, n_bytes, n_inputs * n_outputs)


def coded_columns(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, int] | None:
    """Return codes and values of a matrix whose columns have few different values, None for other ones.

    Parameters
    ----------
    weight : ndarray of shape (n_inputs, n_outputs)

    Returns
    -------
    codes : ndarray of shape (n_inputs, n_outputs), int
    tables : ndarray of shape (n_tables, 2**width), float32
        The values in ascending order; the last one is repeated.
    groups : ndarray of shape (n_outputs,), int
        The table of each output.
    width : int
        Bits of a code, 1, 2, 4 or 8.
    """
    every = np.unique(weight)
    if len(every) <= 1 << _CODE_BITS[-1]:
        per_column = [every] * weight.shape[1]
        widest = len(every)
    else:
        widest = 0
    columns = [np.unique(column) for column in weight.T]
    narrow = max(map(len, columns))
    if narrow > 1 << _CODE_BITS[-1]:
        return None
    if not widest or _code_width(narrow) < _code_width(widest):
        per_column, widest = columns, narrow
    width = _code_width(widest)
    tables: dict[bytes, int] = {}
    groups, codes, values = np.empty(weight.shape[1], np.int64), np.empty(weight.shape, np.int64), list[np.ndarray]()
    for output, (column, found) in enumerate(zip(weight.T, per_column)):
        key = found.tobytes()
        if key not in tables:
            tables[key] = len(values)
            values.append(np.append(found, np.full((1 << width) - len(found), found[-1])))
        groups[output] = tables[key]
        codes[:, output] = np.searchsorted(found, column)
    return codes, np.array(values, np.float32), groups, width


def _code_width(count: int) -> int:
    return next(width for width in _CODE_BITS if count <= 1 << width)


def pack_rows(codes: np.ndarray, width: int) -> np.ndarray:
    """Return codes packed row by row, the first in the lowest bits, rows in whole bytes; ndarray, uint8."""
    per_byte = 8 // width
    padded = np.zeros((len(codes), -(-codes.shape[1] // per_byte) * per_byte), np.int64)
    padded[:, : codes.shape[1]] = codes
    return (padded.reshape(len(codes), -1, per_byte) << np.arange(0, 8, width)).sum(axis=2).astype(np.uint8)


def code_line(emit: Emitter, array: str, row: str, width: int) -> str:
    """Return the line that unpacks code j of a row."""
    if width == 8:
        return f"const size_t code = {emit.read('u1', f'{array}[{row} + j]')};"
    shift = {1: 3, 2: 2, 4: 1}[width]
    byte = emit.read("u1", f"{array}[{row} + (j >> {shift})]")
    return f"const size_t code = ((size_t){byte} >> ((j & {8 // width - 1}) * {width})) & {(1 << width) - 1};"


def waves(emit: Emitter, index: int, stage: Waves, kind: str) -> Code:
    """Return the function of waves, ``{name}_layer{index}(x, out)``.

    A row of the grid is multiplied by the waves of the second axis, and what results by those of the first: the table
    has the cosines of half a turn of each axis.
    """
    rows, columns = stage.shape
    n_waves, (n_down, across) = len(stage.numbers), (int(count) + 1 for count in stage.numbers.max(axis=0))
    kinds = text.integer_kind(0, int(stage.numbers.max()))
    declarations = [emit.array(f"wave{index}", stage.numbers, kinds)]
    n_bytes = stage.numbers.size * int(kinds[1])
    tables = {}
    for extent in dict.fromkeys(stage.shape):
        tables[extent] = f"cosine{index}_{extent}"
        declarations.append(emit.array(tables[extent], half_turn(extent), "f4"))
        n_bytes += 4 * (2 * extent + 1)
    cosines = {
        extent: emit.read("f4", f"{emit.name}_{table}[m <= {2 * extent} ? m : {4 * extent} - m]")
        for extent, table in tables.items()
    }
    numbers = [emit.read(kinds, f"{emit.name}_wave{index}[2 * k{end}]") for end in ("", " + 1")]
    roots = []
    if stage.normed:
        roots = [f"    for (k = 0; k < {n_waves}; k++) {{"]
        for place, extent in zip(numbers, stage.shape):
            if extent > 1:
                roots.append(f"        out[k] *= {place} == 0 ? {text.number(np.sqrt(0.5))} : 1.0f;")
        roots.append("    }")
    lines = f"""static inline void {emit.name}_layer{index}(const {text.TYPES[kind]} *x, float *out)
{{
    size_t r, c, k, m;
    float along[{across}], down[{n_down}];
    for (k = 0; k < {n_waves}; k++) {{
        out[k] = 0.0f;
    }}
    for (r = 0; r < {rows}; r++) {{
        for (k = 0; k < {across}; k++) {{
            along[k] = 0.0f;
        }}
        for (c = 0; c < {columns}; c++) {{
            const float h = {emit.name}_input{index}(x, r * {columns} + c);
            if (h == 0.0f) {{
                continue;
            }}
            m = 0;
            for (k = 0; k < {across}; k++) {{
                along[k] += h * {cosines[columns]};
                m += 2 * c + 1;
                m = m >= {4 * columns} ? m - {4 * columns} : m;
            }}
        }}
        m = 0;
        for (k = 0; k < {n_down}; k++) {{
            down[k] = {cosines[rows]};
            m += 2 * r + 1;
            m = m >= {4 * rows} ? m - {4 * rows} : m;
        }}
        for (k = 0; k < {n_waves}; k++) {{
            out[k] += along[{numbers[1]}] * down[{numbers[0]}];
        }}
    }}
{chr(10).join(roots)}
}}"""
    n_operations = rows * columns * across + rows * n_waves
    return Code([*declarations, lines], n_bytes, n_operations, 4 * (across + n_down))
