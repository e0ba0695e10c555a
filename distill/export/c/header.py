"""The header around the stages: types, the functions of the student, names of features and labels, the self-test."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from distill.export.c import text
from distill.export.c.floats import Emitter
from distill.network import Network

# Reading of values in flash: on AVR they have addresses of their own
_READS = (
    ("F4", "float", "pgm_read_float"),
    ("F8", "double", "pgm_read_float"),
    ("U1", "uint8_t", "pgm_read_byte"),
    ("I1", "int8_t", "pgm_read_byte"),
    ("U2", "uint16_t", "pgm_read_word"),
    ("I2", "int16_t", "pgm_read_word"),
    ("U4", "uint32_t", "pgm_read_dword"),
    ("I4", "int32_t", "pgm_read_dword"),
)


@dataclass(frozen=True)
class Outputs:
    """How the outputs of the last layer are computed.

    Parameters
    ----------
    declarations : list of str
        Arrays and functions of the stages.
    prepare : list of str
        Lines that compute the inputs of the last layer.
    score : str
        Expression of the pre-activation of output j, of type `score_type`, in the order of the network's outputs.
    score_type : str
    value : str
        Expression of pre-activation j as float.
    """

    declarations: list[str]
    prepare: list[str]
    score: str
    score_type: str
    value: str


def head(emit: Emitter, kind: str, network: Network, n_features: int, needs_math: bool, wide_output: bool) -> str:
    """Return the beginning of a header: includes, macros, types."""
    doubles = [
        "#if defined(__AVR__) && __SIZEOF_DOUBLE__ < 8",
        '#error "this student needs double of 64 bits"',
        "#endif",
    ]
    upper = emit.name.upper()
    lines = [
        f"#ifndef {upper}_H",
        f"#define {upper}_H",
        "",
        "#include <stddef.h>",
        "#include <stdint.h>",
        *(["#include <math.h>"] if needs_math else []),
        *(doubles if kind == "f8" or wide_output else []),
        "#if defined(__AVR__)",
        "#include <avr/pgmspace.h>",
        f"#define {upper}_FLASH PROGMEM",
        *(f"#define {upper}_{code}(v) (({kind}){read}(&(v)))" for code, kind, read in _READS),
        "#else",
        f"#define {upper}_FLASH",
        *(f"#define {upper}_{code}(v) (v)" for code, _, _ in _READS),
        "#endif",
        "",
        f"#define {upper}_N_FEATURES {n_features}",
        f"#define {upper}_N_OUTPUTS {network.layer_sizes[-1]}",
        *([] if network.classes is None else [f"#define {upper}_N_CLASSES {len(network.classes)}"]),
        "",
        f"typedef {text.TYPES[kind]} {emit.name}_input;",
        f"typedef {'double' if wide_output else 'float'} {emit.name}_output;",
    ]
    return "\n".join(lines)


def features(emit: Emitter, names: Sequence[str] | None) -> list[str]:
    """Return the struct of a row by feature name, and the functions for it."""
    if names is None:
        return []
    members = text.identifiers(names, emit.name)
    fields = [
        f"    {emit.name}_input {member};" + ("" if member == name else f" /* {_plain(name)} */")
        for member, name in zip(members, names)
    ]
    copies = [f"    x[{index}] = row->{member};" for index, member in enumerate(members)]
    return [
        "\n".join(["/* A row by the names of its features */", "typedef struct {", *fields, f"}} {emit.name}_row;"]),
        "\n".join(
            [
                f"static inline void {emit.name}_inputs(const {emit.name}_row *row, {emit.name}_input *x)",
                "{",
                *copies,
                "}",
            ]
        ),
    ]


def classes(emit: Emitter, labels: np.ndarray) -> tuple[list[str], str, str]:
    """Return declarations for labels, the type that `predict` returns, and the expression of the label at `best`."""
    name = emit.name
    values = labels.tolist()
    if labels.dtype.kind in "iub":
        values = [int(value) for value in values]
        kind = text.integer_kind(min(*values, 0), max(*values, 0))
        returned = "int" if kind in ("u1", "i1", "i2") else "int32_t" if kind in ("u2", "i4") else "int64_t"
        if kind == "u4":
            kind = "i8"
        if values == list(range(values[0], values[0] + len(values))) and kind in ("u1", "i1", "i2"):
            return [], returned, f"best + {values[0]}" if values[0] else "best"
        if kind == "i8":  # AVR has no macro that reads 8 bytes
            cases = [
                f"    case {at}:\n        return {text.number(value, 'i8')};" for at, value in enumerate(values[1:], 1)
            ]
            lines = [f"static inline int64_t {name}_label(int index)", "{", "    switch (index) {", *cases]
            lines += ["    default:", f"        return {text.number(values[0], 'i8')};", "    }", "}"]
            return ["\n".join(lines)], returned, f"{name}_label(best)"
        return [emit.array("labels", np.array(values), kind)], returned, f"{emit.read(kind, f'{name}_labels[best]')}"
    if labels.dtype.kind == "f":
        cases = [
            f"    case {at}:\n        return {text.number(value, 'f8')};" for at, value in enumerate(values[1:], 1)
        ]
        lines = [f"/* The label of index `predict` */\nstatic inline double {name}_label(int index)", "{"]
        lines += [
            "    switch (index) {",
            *cases,
            "    default:",
            f"        return {text.number(values[0], 'f8')};",
            "    }",
            "}",
        ]
        return ["\n".join(lines)], "int", "best"
    arrays = [
        f"static const char {name}_name{at}[]{emit.flash} = {text.string(str(value))};"
        for at, value in enumerate(values)
    ]
    cases = [f"    case {at}:\n        return {name}_name{at};" for at in range(1, len(values))]
    lines = [
        "/* The label of index `predict`, in UTF-8; on AVR a pointer to flash, for functions such as strcpy_P */",
        f"static inline const char *{name}_class_name(int index)",
        "{",
        "    switch (index) {",
        *cases,
        "    default:",
        f"        return {name}_name0;",
        "    }",
        "}",
    ]
    return ["\n".join([*arrays, *lines])], "int", "best"


def methods(emit: Emitter, network: Network, outputs: Outputs, wide_output: bool) -> list[str]:
    """Return the functions of the student."""
    name, n_outputs = emit.name, network.layer_sizes[-1]
    made = list(outputs.declarations)
    indented = [f"    {line}" for line in outputs.prepare]
    probabilities = network.classes is not None and network.output in ("softmax", "logistic")
    one = network.classes is not None and n_outputs < len(network.classes)
    if network.classes is not None:
        declarations, returned, label = classes(emit, network.classes)
        made += declarations
        if one:
            find = ["    const size_t j = 0;", f"    best = {outputs.score} > 0;"]
        else:
            find = [
                "    size_t j;",
                f"    {outputs.score_type} top = 0;",
                f"    for (j = 0; j < {n_outputs}; j++) {{",
                f"        const {outputs.score_type} score = {outputs.score};",
                "        if (j == 0 || score > top) {",
                "            top = score;",
                "            best = (int)j;",
                "        }",
                "    }",
            ]
        kind = "label" if label != "best" or not declarations else "index of the label"
        made.append(
            "\n".join(
                [
                    f"/* Return the {kind} of a row of {name.upper()}_N_FEATURES values. */",
                    f"static inline {returned} {name}_predict(const {name}_input *x)",
                    "{",
                    "    int best = 0;",
                    *indented,
                    "    {",
                    *(f"    {line}" for line in find),
                    "    }",
                    f"    return {label};",
                    "}",
                ]
            )
        )
    if probabilities:
        made.append(_probabilities(emit, network, outputs, one))
    if network.classes is None or network.target == "decision_function":
        method = network.target
        parameters = f"const {name}_input *x, {name}_output *out"
        made.append(
            "\n".join(
                [
                    f"/* Write the {n_outputs} {_VALUES[method]} of a row to `out`. */",
                    f"static inline void {name}_{method}({parameters})",
                    "{",
                    "    size_t j;",
                    *indented,
                    *_values(network, outputs, wide_output),
                    "}",
                ]
            )
        )
    return made


_VALUES = {
    "predict": "predictions",
    "transform": "coordinates of the embedding",
    "decision_function": "decision values",
    "predict_proba": "values",
}


def _values(network: Network, outputs: Outputs, wide: bool) -> list[str]:
    """Return the lines that write values with their output function, scale and offset."""
    n_outputs = network.layer_sizes[-1]
    if network.output == "softmax":
        return _softmax(outputs, n_outputs, "out")
    scale, offset = (
        None if value is None else np.broadcast_to(value, n_outputs)
        for value in (network.output_scale, network.output_offset)
    )
    lines = [f"    for (j = 0; j < {n_outputs}; j++) {{", f"        const float value = {outputs.value};"]
    result = "(value < 0.0f ? 0.0f : value)" if network.output == "relu" else "value"
    if wide:
        result = f"(double){result}"
    kind = "f8" if wide else "f4"
    lines += [f"        out[j] = {result};", "    }"]
    for sign, values in (("*=", scale), ("+=", offset)):
        if values is None:
            continue
        if (values == values[0]).all():
            lines.insert(-1, f"        out[j] {sign} {text.number(values[0], kind)};")
        else:
            lines += [f"    out[{j}] {sign} {text.number(value, kind)};" for j, value in enumerate(values)]
    return lines


def _softmax(outputs: Outputs, n_outputs: int, out: str) -> list[str]:
    return [
        "    float top, sum = 0.0f;",
        f"    for (j = 0; j < {n_outputs}; j++) {{",
        f"        {out}[j] = {outputs.value};",
        "    }",
        f"    top = {out}[0];",
        f"    for (j = 1; j < {n_outputs}; j++) {{",
        f"        top = {out}[j] > top ? {out}[j] : top;",
        "    }",
        f"    for (j = 0; j < {n_outputs}; j++) {{",
        f"        {out}[j] = (float)expf({out}[j] - top);",
        f"        sum += {out}[j];",
        "    }",
        f"    for (j = 0; j < {n_outputs}; j++) {{",
        f"        {out}[j] /= sum;",
        "    }",
    ]


def _probabilities(emit: Emitter, network: Network, outputs: Outputs, one: bool) -> str:
    """Return the function `predict_proba`."""
    name, n_outputs = emit.name, network.layer_sizes[-1]
    lines = [
        f"/* Write the {n_outputs + one} probabilities of the labels to `p`. */",
        f"static inline void {name}_predict_proba(const {name}_input *x, float *p)",
        "{",
        "    size_t j;",
        *(f"    {line}" for line in outputs.prepare),
    ]
    if network.output == "softmax":
        lines += _softmax(outputs, n_outputs, "p")
    else:
        lines += [f"    for (j = 0; j < {n_outputs}; j++) {{"]
        lines += [f"        p[j] = 1.0f / (1.0f + (float)expf(-({outputs.value})));", "    }"]
        if one:
            lines += ["    p[1] = p[0];", "    p[0] = 1.0f - p[1];"]
    return "\n".join([*lines, "}"])


def selftest(
    emit: Emitter, network: Network, rows: np.ndarray, kind: str, expected: dict[str, np.ndarray]
) -> list[str]:
    """Return the self-test: rows and what the functions return for them; nothing of it is in flash unless it is called.

    Parameters
    ----------
    emit : Emitter
    network : Network
    rows : ndarray of shape (n_rows, n_features)
    kind : str
    expected : dict of str to ndarray
        What `predict` returns ("label"), and values or probabilities with their tolerance ("values", "tolerance").
    """
    name, n_rows, n_features = emit.name, *rows.shape
    arrays = [emit.array("test_rows", rows, kind)]
    if not expected:  # no row with certain, finite outputs
        return [f"static inline int {name}_selftest(void)\n{{\n    return 0;\n}}"]
    body = [f"    {name}_input x[{n_features}];", "    size_t n, i;", "    int failures = 0;"]
    loop = [
        f"    for (n = 0; n < {n_rows}; n++) {{",
        f"        for (i = 0; i < {n_features}; i++) {{",
        f"            x[i] = {emit.read(kind, f'{name}_test_rows[n * {n_features} + i]')};",
        "        }",
    ]
    if "label" in expected:
        labels = expected["label"]
        of_labels = text.integer_kind(min(0, int(labels.min())), max(0, int(labels.max())))
        # Labels beyond 32 bits, which AVR has no macro to read, are compared by the other functions alone
        if of_labels != "i8":
            arrays.append(emit.array("test_labels", labels, "i4" if of_labels in ("u2", "i2") else of_labels))
            of_labels = "i4" if of_labels in ("u2", "i2") else of_labels
            loop.append(f"        failures += {name}_predict(x) != {emit.read(of_labels, f'{name}_test_labels[n]')};")
    if "values" in expected:
        values, wide = expected["values"], expected["values"].dtype == np.float64
        method = (
            "predict_proba"
            if network.output in ("softmax", "logistic") and network.classes is not None
            else network.target
        )
        of_values, width = ("f8" if wide else "f4"), values.shape[1]
        tolerance = text.number(float(expected["tolerance"]), of_values)
        arrays.append(emit.array("test_values", values, of_values))
        body.insert(1, f"    {'double' if wide else 'float'} out[{width}];")
        loop += [
            f"        {name}_{method}(x, out);",
            f"        for (i = 0; i < {width}; i++) {{",
            f"            out[i] -= {emit.read(of_values, f'{name}_test_values[n * {width} + i]')};",
            f"            failures += !(out[i] <= {tolerance} && out[i] >= -{tolerance});",
            "        }",
        ]
    function = [
        "/* Return 0 if the functions return what they did in Python, else the number of differences. */",
        f"static inline int {name}_selftest(void)",
        "{",
        *body,
        *loop,
        "    }",
        "    return failures;",
        "}",
    ]
    return [*arrays, "\n".join(function)]


def _plain(name: str) -> str:
    """Return a name for a comment: one line, and it cannot end the comment."""
    return (
        " ".join("".join(c if c.isprintable() else " " for c in name).split()).replace("*/", "* /").replace("/*", "/ *")
    )
