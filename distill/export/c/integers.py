"""Stages of a student in integer arithmetic, as C; see `distill.export.c.quantization`."""

import numpy as np

from distill.export.c import computed, quantization, text
from distill.export.c.floats import Code, Emitter, code_line, pack_rows, reader
from distill.export.c.header import Outputs
from distill.export.c.quantization import Front, IntegerLinear, IntegerProgram, IntegerWaves


def front(emit: Emitter, stage: Front, n_features: int, kind: str) -> Code:
    """Return the function that scales and rounds inputs, ``{name}_front(x, out)``; inputs come from `reader`."""
    name, largest = emit.name, text.number(float(stage.largest))
    lines = f"""static inline void {name}_front(const {text.TYPES[kind]} *x, int16_t *out)
{{
    size_t i;
    for (i = 0; i < {n_features}; i++) {{
        float h = {name}_input_front(x, i);
        h = (h >= {largest} ? {largest} : h >= -{largest} ? h : h < 0.0f ? -{largest} : 0.0f) + 0.5f; /* 0 for NaN */
        out[i] = (int16_t)((int16_t)h - (h < (float)(int16_t)h));
    }}
}}"""
    return Code([lines], 0, 0)


def waves(emit: Emitter, index: int, stage: IntegerWaves, kind: str) -> Code:
    """Return the function of waves, ``{name}_layer{index}(x, out)``; see `distill.export.c.floats.waves`."""
    rows, columns = stage.waves.shape
    numbers = stage.waves.numbers
    n_waves, (n_down, across) = len(numbers), (int(count) + 1 for count in numbers.max(axis=0))
    kinds = text.integer_kind(0, int(numbers.max()))
    declarations = [emit.array(f"wave{index}", numbers, kinds)]
    n_bytes = numbers.size * int(kinds[1])
    tables = {}
    for extent in dict.fromkeys(stage.waves.shape):
        tables[extent] = f"cosine{index}_{extent}"
        declarations.append(emit.array(tables[extent], stage.table(extent), "i2"))
        n_bytes += 2 * (2 * extent + 1)
    cosines = {
        extent: emit.read("i2", f"{emit.name}_{table}[m <= {2 * extent} ? m : {4 * extent} - m]")
        for extent, table in tables.items()
    }
    of_row, of_column = (emit.read(kinds, f"{emit.name}_wave{index}[2 * k{end}]") for end in ("", " + 1"))
    largest, roots = 2**15 - 1, ""
    if stage.waves.normed:
        for place, extent in zip((of_row, of_column), stage.waves.shape):
            if extent > 1:
                roots += f"        sum = {place} == 0 ? (sum * {quantization.ROOT_OF_HALF}) >> 15 : sum;\n"
    lines = f"""static inline void {emit.name}_layer{index}(const {text.TYPES[kind]} *x, int16_t *out)
{{
    size_t r, c, k;
    int32_t along[{across}], sums[{n_waves}];
    int16_t down[{n_down}]; /* the cosines of a row: no division for each wave */
    for (k = 0; k < {n_waves}; k++) {{
        sums[k] = 0;
    }}
    for (r = 0; r < {rows}; r++, x += {columns}) {{
        size_t m;
        for (k = 0; k < {across}; k++) {{
            along[k] = 0;
        }}
        for (c = 0; c < {columns}; c++) {{
            if (x[c] == 0) {{
                continue;
            }}
            m = 0;
            for (k = 0; k < {across}; k++) {{
                along[k] += (int32_t)x[c] * {cosines[columns]};
                m += 2 * c + 1;
                m = m >= {4 * columns} ? m - {4 * columns} : m;
            }}
        }}
        for (k = 0; k < {across}; k++) {{
            along[k] >>= {stage.first};
        }}
        m = 0;
        for (k = 0; k < {n_down}; k++) {{
            down[k] = {cosines[rows]};
            m += 2 * r + 1;
            m = m >= {4 * rows} ? m - {4 * rows} : m;
        }}
        for (k = 0; k < {n_waves}; k++) {{
            sums[k] += (int32_t)(int16_t)along[{of_column}] * down[{of_row}];
        }}
    }}
    for (k = 0; k < {n_waves}; k++) {{
        int32_t sum = sums[k] >> {stage.last};
        sum = sum > {largest} ? {largest} : sum < -{largest} ? -{largest} : sum;
{roots}        out[k] = (int16_t)sum;
    }}
}}"""
    return Code(
        [*declarations, lines], n_bytes, rows * columns * across + rows * n_waves, 4 * (across + n_waves) + 2 * n_down
    )


def linear(emit: Emitter, index: int, layer: IntegerLinear, kind: str, magnitude: int) -> tuple[Code, str]:
    """Return the functions of a layer and the type of its outputs.

    They are ``{name}_score{index}(x, j)`` and, but for the last layer, ``{name}_layer{index}(x, out)``.

    Parameters
    ----------
    emit : Emitter
    index : int
    layer : IntegerLinear
    kind : str
        NumPy's code of the type of the inputs.
    magnitude : int
        Of the inputs, at most.
    """
    name = emit.name
    largest = int(np.abs(layer.weight).max(initial=0))
    of_weight = "i1" if largest <= 127 else "i2"
    # int has 16 bits on AVR, where products of 8 bits are two cycles
    product = "{x} * {w}" if magnitude * max(largest, 1) <= 2**15 - 1 else "(int32_t){x} * {w}"
    if layer.by_inputs:
        declarations, loop, n_bytes, n_operations = _rows_of_weights(emit, index, layer, of_weight, product, kind)
    else:
        declarations, loop, n_bytes, n_operations = _weights(emit, index, layer, of_weight, product)
    of_bias = "i2" if np.abs(layer.bias).max(initial=0) <= 2**15 - 1 else "i4"
    declarations += [
        emit.array(f"bias{index}", layer.bias, of_bias),
        emit.array(f"scale{index}", layer.multiplier, "i2"),
    ]
    n_bytes += layer.bias.size * (int(of_bias[1]) + 2)
    shift = [f"sum >>= {layer.pre};"] if layer.pre else []
    reach = 2**15 - 1
    shift += [f"sum = sum > {reach} ? {reach} : sum < -{reach} ? -{reach} : sum;"]
    bias = emit.read(of_bias, f"{name}_bias{index}[j]")
    parameter, lines = f"const {text.TYPES[kind]} *x", [f"int32_t sum = {bias};", *loop, *shift]
    if layer.by_inputs:
        parameter, lines = "int32_t sum", shift
    declarations.append(
        f"""static inline int32_t {name}_score{index}({parameter}, size_t j)
{{
{chr(10).join(f"    {line}" for line in lines)}
    return sum * {emit.read("i2", f"{name}_scale{index}[j]")};
}}"""
    )
    if layer.is_last:
        return Code(declarations, n_bytes, n_operations), "i4"
    values = layer.table if layer.table is not None else np.array([layer.low, layer.high])
    of_out = text.integer_kind(int(values.min()), int(values.max()))
    result = "value"
    if layer.table is not None:
        of_table = text.integer_kind(int(layer.table.min()), int(layer.table.max()))
        declarations.append(emit.array(f"table{index}", layer.table, of_table))
        n_bytes += layer.table.size * int(of_table[1])
        width = quantization.TABLE_STEP.bit_length() - 1
        place = f"{name}_table{index}[(value >> {width}) + {quantization.TABLE_HALF // quantization.TABLE_STEP}MORE]"
        left, right = (emit.read(of_table, place.replace("MORE", more)) for more in ("", " + 1"))
        rest = f"(value & {quantization.TABLE_STEP - 1})"
        result = f"({left} + ((((int32_t){right} - {left}) * {rest} + {quantization.TABLE_STEP // 2}) >> {width}))"
    half = f" + {text.number(1 << (layer.post - 1), 'i4')}" if layer.post else ""
    n_outputs = layer.weight.shape[1]
    call, sums, n_scratch = f"{name}_score{index}(x, j)", [], 0
    if layer.by_inputs:
        call, n_scratch = f"{name}_score{index}(sums[j], j)", 4 * n_outputs
        sums = [
            f"int32_t sums[{n_outputs}];",
            f"for (j = 0; j < {n_outputs}; j++) {{",
            f"    sums[j] = {bias};",
            "}",
            *loop,
        ]
    rounded = f"({call}{half}) >> {layer.post}" if layer.post else call
    declarations.append(
        f"""static inline void {name}_layer{index}(const {text.TYPES[kind]} *x, {text.TYPES[of_out]} *out)
{{
    size_t j;
{chr(10).join(f"    {line}" for line in sums)}
    for (j = 0; j < {n_outputs}; j++) {{
        int32_t value = {rounded};
        value = value < {layer.low} ? {layer.low} : value > {layer.high} ? {layer.high} : value;
        out[j] = ({text.TYPES[of_out]}){result};
    }}
}}"""
    )
    return Code(declarations, n_bytes, n_operations, n_scratch), of_out


def _rows_of_weights(
    emit: Emitter, index: int, layer: IntegerLinear, kind: str, product: str, inputs: str
) -> tuple[list[str], list[str], int, int]:
    """Return arrays, loop, bytes and products of weights in rows of an input each, which are added to `sums`."""
    name = emit.name
    n_inputs, n_outputs = layer.weight.shape
    used = layer.weight.any(axis=1)
    skipped = np.flatnonzero(~used)
    of_skipped = text.integer_kind(0, n_inputs - 1)
    # A list of the inputs without weights is shorter than their rows; codes have no rows for them
    skips = len(skipped) > 0 and (layer.values is not None or n_outputs > int(of_skipped[1]))
    weight = layer.weight[used] if skips else layer.weight
    small = np.zeros((0, 0), np.int64)
    stride, body = (
        n_outputs,
        [f"sums[j] += {product.format(x='h', w=emit.read(kind, f'{name}_weight{index}[row + j]'))};"],
    )
    if layer.values is not None:
        codes, tables, groups, width = layer.values
        packed = pack_rows(codes, width)
        small = np.zeros((len(tables), 1 << width), np.int64)
        for output, group in enumerate(groups):
            small[group, codes[:, output]] = weight[:, output]
    if layer.values is not None and packed.size + small.size * int(kind[1]) < weight.size * int(kind[1]):
        arrays = [emit.array(f"codes{index}", packed, "u1"), emit.array(f"values{index}", small, kind)]
        n_bytes, stride, place = packed.size + small.size * int(kind[1]), packed.shape[1], "code"
        if len(tables) > 1:
            of_groups = text.integer_kind(0, len(tables) - 1)
            arrays.append(emit.array(f"group{index}", groups, of_groups))
            n_bytes += groups.size * int(of_groups[1])
            place = f"((size_t){emit.read(of_groups, f'{name}_group{index}[j]')} << {width}) + code"
        value = emit.read(kind, f"{name}_values{index}[{place}]")
        body = [code_line(emit, f"{name}_codes{index}", "row", width), f"sums[j] += {product.format(x='h', w=value)};"]
    else:
        counts, (rows, outputs) = np.count_nonzero(layer.weight, axis=1), np.nonzero(layer.weight)
        of_counts, of_outputs = text.integer_kind(0, int(counts.max())), text.integer_kind(0, n_outputs - 1)
        n_sparse = n_inputs * int(of_counts[1]) + len(rows) * (int(of_outputs[1]) + int(kind[1]))
        if n_sparse < weight.size * int(kind[1]):
            arrays = [
                emit.array(f"count{index}", counts, of_counts),
                emit.array(f"output{index}", outputs, of_outputs),
                emit.array(f"weight{index}", layer.weight[rows, outputs], kind),
            ]
            at, value = emit.read(of_outputs, f"{name}_output{index}[k]"), emit.read(kind, f"{name}_weight{index}[k]")
            loop = [
                "size_t i, k = 0;",
                f"for (i = 0; i < {n_inputs}; i++) {{",
                f"    const {text.TYPES[inputs]} h = x[i];",
                f"    const size_t end = k + {emit.read(of_counts, f'{name}_count{index}[i]')};",
                "    if (h == 0) {",
                "        k = end;",
                "    }",
                "    for (; k < end; k++) {",
                f"        sums[{at}] += {product.format(x='h', w=value)};",
                "    }",
                "}",
            ]
            return arrays, loop, n_sparse, len(rows)
        arrays, n_bytes = [emit.array(f"weight{index}", weight, kind)], weight.size * int(kind[1])
    head = ["size_t i, row = 0;"]
    skip = []
    if skips:
        arrays.append(emit.array(f"unused{index}", skipped, of_skipped))
        n_bytes += skipped.size * int(of_skipped[1])
        head = ["size_t i, row = 0, skip = 0;"]
        skip = [f"    if (skip < {len(skipped)} && i == {emit.read(of_skipped, f'{name}_unused{index}[skip]')}) {{"]
        skip += ["        skip++;", "        continue;", "    }"]
    loop = [
        *head,
        f"for (i = 0; i < {n_inputs}; i++) {{",
        f"    const {text.TYPES[inputs]} h = x[i];",
        *skip,
        "    if (h != 0) {",
        f"        for (j = 0; j < {n_outputs}; j++) {{",
        *(f"            {line}" for line in body),
        "        }",
        "    }",
        f"    row += {stride};",
        "}",
    ]
    return arrays, loop, n_bytes, weight.size


def _weights(
    emit: Emitter, index: int, layer: IntegerLinear, kind: str, product: str
) -> tuple[list[str], list[str], int, int]:
    """Return arrays, loop, bytes and products of the smallest form of the weights: dense, codes, or sparse."""
    name = emit.name
    n_inputs, n_outputs = layer.weight.shape
    if layer.computed is not None:
        layout = layer.computed.layout
        places, total = computed.place_type(layer.computed), layout.n_numbers
        first = f"({layout.place(layer.computed.start)}u + (uint32_t)j * {layout.place(1)}u) % {total}u"
        loop = [
            f"{places} p = ({places})({first});",
            "size_t n;",
            f"for (n = {n_inputs}; n; n--, x++) {{",
            f"    sum += {product.format(x='*x', w=f'{name}_number(p)')};",
            f"    {computed.step(layer.computed, 'p', n_outputs)}",
            "}",
        ]
        return [], loop, 0, n_inputs * n_outputs
    columns, rows = np.nonzero(layer.weight.T)
    widest = text.integer_kind(0, n_inputs - 1)
    counts = np.bincount(columns, minlength=n_outputs)
    of_starts = text.integer_kind(0, len(rows))
    n_sparse = len(rows) * (int(kind[1]) + int(widest[1])) + (n_outputs + 1) * int(of_starts[1])
    n_dense = n_inputs * n_outputs * int(kind[1])
    n_coded = 1 << 62
    if layer.values is not None:
        codes, tables, groups, width = layer.values
        packed = pack_rows(codes.T, width)
        small = np.zeros((len(tables), 1 << width), np.int64)
        for output, group in enumerate(groups):
            small[group, codes[:, output]] = layer.weight[:, output]
        n_coded = packed.size + small.size * int(kind[1]) + (groups.size if len(tables) > 1 else 0)
    if n_coded < min(n_dense, n_sparse):
        arrays = [emit.array(f"codes{index}", packed, "u1"), emit.array(f"values{index}", small, kind)]
        place = "code"
        if len(tables) > 1:
            of_groups = text.integer_kind(0, len(tables) - 1)
            arrays.append(emit.array(f"group{index}", groups, of_groups))
            place = "group + code"
        value = emit.read(kind, f"{name}_values{index}[{place}]")
        line = code_line(emit, f"{name}_codes{index}", "row", width).replace("(j ", "(i ").replace("+ j]", "+ i]")
        loop = [
            f"const size_t row = j * {packed.shape[1]};",
            *(
                [f"const size_t group = (size_t){emit.read(of_groups, f'{name}_group{index}[j]')} << {width};"]
                if len(tables) > 1
                else []
            ),
            "size_t i;",
            f"for (i = 0; i < {n_inputs}; i++) {{",
            f"    {line}",
            f"    sum += {product.format(x='x[i]', w=value)};",
            "}",
        ]
        return arrays, loop, n_coded, n_inputs * n_outputs
    if n_sparse < n_dense:
        starts = np.append(0, np.cumsum(counts))
        arrays = [
            emit.array(f"start{index}", starts, of_starts),
            emit.array(f"input{index}", rows if len(rows) else np.zeros(1, np.int64), widest),
            emit.array(f"weight{index}", layer.weight.T[columns, rows] if len(rows) else np.zeros(1, np.int64), kind),
        ]
        begin, end = (emit.read(of_starts, f"{name}_start{index}[j{more}]") for more in ("", " + 1"))
        at, value = emit.read(widest, f"{name}_input{index}[k]"), emit.read(kind, f"{name}_weight{index}[k]")
        loop = [
            f"size_t k = {begin};",
            f"const size_t end = {end};",
            "for (; k < end; k++) {",
            f"    sum += {product.format(x=f'x[{at}]', w=value)};",
            "}",
        ]
        return arrays, loop, n_sparse, len(rows)
    arrays = [emit.array(f"weight{index}", layer.weight.T, kind)]
    # Pointers that walk and a counter that runs down to zero: a sixth faster on AVR than indices
    loop = [
        f"const {text.TYPES[kind]} *w = {name}_weight{index} + j * {n_inputs};",
        f"{'uint8_t' if n_inputs < 256 else 'size_t'} n;",
        f"for (n = {n_inputs}; n; n--, x++, w++) {{",
        f"    sum += {product.format(x='*x', w=emit.read(kind, '*w'))};",
        "}",
    ]
    return arrays, loop, n_dense, n_inputs * n_outputs


def stages(
    emit: Emitter, program: IntegerProgram, input_kind: str, n_features: int, source: str = "x", start: int = 0
) -> tuple[list[Code], Outputs, int]:
    """Return the code of the stages, how outputs are computed, and the bytes of the buffers.

    Parameters
    ----------
    emit : Emitter
    program : IntegerProgram
    input_kind : str
        NumPy's code of the type of the inputs.
    n_features : int
        Number of inputs.
    source : str
        The array of the inputs.
    start : int
        Number of the first stage.
    """
    codes, prepare, n_buffers = [], [], 0
    place, kind, magnitude = source, input_kind, {"u1": 255, "i1": 128, "i2": 32768}.get(input_kind, 0)
    if program.front is not None:
        codes.append(reader(emit, "_front", program.front.affines, kind))
        codes.append(front(emit, program.front, n_features, kind))
        prepare += [f"int16_t inputs[{n_features}];"]
        place, kind, magnitude = "inputs", "i2", program.front.largest
        n_buffers += 2 * n_features
    calls = [f"{emit.name}_front({source}, inputs);"] if program.front is not None else []
    for index, stage in enumerate(program.stages, start):
        if isinstance(stage, IntegerWaves):
            codes.append(waves(emit, index, stage, kind))
            width, out_kind, magnitude = len(stage.waves.numbers), "i2", 2**15 - 1
        else:
            code, out_kind = linear(emit, index, stage, kind, magnitude)
            codes.append(code)
            width, magnitude = stage.weight.shape[1], stage.magnitude
            if stage.is_last:
                declarations = [line for code in codes for line in code.declarations]
                step = text.number(stage.step)
                score = f"{emit.name}_score{index}({place}, j)"
                outputs = Outputs(declarations, [*prepare, *calls], score, "int32_t", f"(float){score} * {step}")
                return codes, outputs, n_buffers
        buffer = f"buffer{index}"
        prepare.append(f"{text.TYPES[out_kind]} {buffer}[{width}];")
        calls.append(f"{emit.name}_layer{index}({place}, {buffer});")
        n_buffers += width * int(out_kind[1])
        place, kind = buffer, out_kind
    raise AssertionError("a program ends with a layer of scores")
