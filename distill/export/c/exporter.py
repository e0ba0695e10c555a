"""Write a student as one C99 header."""

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from distill.codecs import files, generator
from distill.export.c import computed, floats, images, integers, quantization, text
from distill.export.c.floats import Code, Emitter
from distill.export.c.header import Outputs, features, head, methods, selftest
from distill.export.c.program import Affine, Images, Linear, Program, Stage, Waves, outputs_of, program_of
from distill.export.students import student_in
from distill.runtime import Student, columns

ARITHMETICS = ("float", "int8", "int16")
# Flash and RAM in bytes of the chip behind each target; None for any
TARGETS = {"c99": None, "avr": (32768, 2048)}
INPUT_TYPES = {"float": "f4", "double": "f8", "uint8": "u1", "int8": "i1", "int16": "i2"}
_RANGES = {"u1": (0, 255), "i1": (-128, 127), "i2": (-32768, 32767)}
_LARGEST = {"u1": 255, "i1": 128, "i2": 32768}
# Rows that integers are chosen on, and rows of the self-test
_CALIBRATION_ROWS, _TEST_ROWS = 2000, 3
# Distance from integers, in units of `input_scale`, that is rounding
_ALMOST = 0.01
# Bytes of the code that scales inputs in float: 1.1 kB on AVR, 1.3 to 2.7 kB on a Cortex-M3
_FRONT_CODE = 1500
# Variation of values, in units of the largest, below which their agreement is judged by their magnitude
_HARDLY = 1e-3
# Share of agreement that fewer bytes may cost
_LOSS = 0.001
# Bytes of the code of `predict` on AVR, with avr-gcc -Os: 770 to 1620 in integers and 2200 in float, with waves
_AVR_CODE = {"float": 2200, "int8": 1600, "int16": 1600}
# Return addresses and registers of the functions on the stack
_AVR_STACK = 64


class _Integers(NamedTuple):
    program: quantization.IntegerProgram
    first: Sequence[Stage]
    codes: list[Code]
    outputs: Outputs
    n_buffers: int
    agreement: float


def to_c(
    student: Any,
    path: str | os.PathLike | BinaryIO | None = None,
    *,
    name: str = "model",
    arithmetic: str = "float",
    calibration: Any = None,
    target: str = "c99",
    input_type: str = "auto",
    input_scale: float = 1.0,
    min_agreement: float | None = None,
) -> str:
    """Write a student as one self-contained C99 header.

    The header has `name_predict`, `name_predict_proba`, `name_transform` and `name_decision_function` as the student
    has them, the steps before the network included, and `name_selftest`. It allocates nothing, writes to no static
    variable, and needs no library but the mathematical one, and that only for probabilities, tanh and logistic. Weights
    are constants, on AVR in flash.

    Parameters
    ----------
    student : Student, student file or its bytes, fitted Distiller or compressor, or a Pipeline that ends in one
    path : str, path, open file in binary mode or None
        File to write, atomically.
    name : str
        Prefix of all functions; an identifier of C.
    arithmetic : {"float", "int8", "int16"}
        "float" gives the student's outputs, apart from rounding. "int8" has weights of 8 bits, and activations of 8
        bits between layers; "int16" has as many of 16 bits as sums leave in 32. Both need no floating-point unit.
    calibration : array-like of shape (n_samples, n_features) or None
        Samples for the ranges of integers, and for the agreement that the header states: some hundred that are
        typical. None draws samples from the ranges in the file, which is worse.
    target : {"c99", "avr"}
        The header is the same; for "avr" it must fit into the 32 kB of flash and 2 kB of RAM of an ATmega328P, with a
        call of its predictions and nothing else in the program (`predict_proba` takes up to 2 kB more).
    input_type : {"auto", "float", "double", "uint8", "int8", "int16"}
        Type of the features that the functions take. "auto" is float, or double where float would lose the differences
        between samples; with integer arithmetic it is the narrowest integer type that holds all calibration samples, if
        they have integer values and the student takes no missing ones.
    input_scale : float
        The student's features are the inputs of the functions times this: 1 / 255 for bytes of images whose pixels
        were from 0 to 1 in Python. `calibration` has the student's features.
    min_agreement : float in [0, 1] or None
        With integer arithmetic, the least agreement with the student on the calibration samples: share of equal labels,
        or R^2 of values. None warns below .95.

    Returns
    -------
    str
        The text of the header.

    Raises
    ------
    TypeError
        If the first argument contains no student.
    ValueError
        If a parameter is invalid, calibration samples have another width, are not finite or do not fit the input type,
        the agreement is below `min_agreement`, a step has no form in C, or the target cannot hold the model. Nothing is
        written then.

    Examples
    --------
    >>> import numpy as np
    >>> from distill.network import Network
    >>> weights, biases = (np.eye(2, dtype=np.float32),), (np.zeros(2, np.float32),)
    >>> network = Network(weights, biases, target="predict", output="softmax", classes=np.array([3, 7]))
    >>> text = to_c(Student(network), name="sides")
    >>> [line for line in text.splitlines() if "sides_predict(" in line]
    ['static inline int sides_predict(const sides_input *x)']
    """
    text.check_name(name)
    for parameter, value, allowed in (
        ("arithmetic", arithmetic, ARITHMETICS),
        ("target", target, tuple(TARGETS)),
        ("input_type", input_type, ("auto", *INPUT_TYPES)),
    ):
        if value not in allowed:
            raise ValueError(f"{parameter} must be one of {list(allowed)}, got {value!r}")
    if min_agreement is not None and not 0 <= min_agreement <= 1:
        raise ValueError(f"min_agreement must be in [0, 1], got {min_agreement!r}")
    if not (isinstance(input_scale, int | float | np.number) and 0 < input_scale < np.inf):
        raise ValueError(f"input_scale must be a number above 0, got {input_scale!r}")
    student = student_in(student, "to_c")
    program = program_of(student, float(input_scale))
    samples = None if calibration is None else _samples(student, calibration)
    rows = None if samples is None else _as_inputs(samples, float(input_scale))
    kind = _input_kind(program, rows, arithmetic, input_type)
    typical = _drawn(program, kind, arithmetic) if rows is None else rows
    samples = typical * program.input_scale if samples is None else samples
    emit = Emitter(name)
    network = program.network
    integer = None
    program = _within_words(program)
    if arithmetic == "float":
        codes, outputs, n_buffers = _float_code(emit, program, kind)
    else:
        reference = _labels_or_values(program, student.raw_outputs(samples))
        integer = _best_integers(emit, program, typical, reference, kind, arithmetic)
        codes, outputs, n_buffers = integer.codes, integer.outputs, integer.n_buffers
        _check_agreement(integer.agreement, min_agreement, arithmetic, rows is None)
    wide = _wide_output(program)
    _check_doubles(target, program, kind == "f8" or wide)
    # A missing value has no literal in C
    whole = typical[np.isfinite(typical).all(axis=1)]
    tested = (whole if len(whole) else np.nan_to_num(typical))[:_TEST_ROWS].astype(np.dtype(kind))
    expected = _expected(student, program, integer, tested, wide)
    names = network.feature_names
    n_bytes = sum(code.n_bytes for code in codes)
    ram = n_buffers + program.n_features * int(kind[1]) + max(code.n_scratch for code in codes)
    _check_target(target, n_bytes + _AVR_CODE[arithmetic], ram + _AVR_STACK)
    needs_math = network.output in ("softmax", "logistic") or any(
        isinstance(stage, Images)
        or (isinstance(stage, Linear) and stage.activation in ("tanh", "logistic") and integer is None)
        for stage in program.stages
    )
    comment = _comment(student, program, name, arithmetic, kind, n_bytes, ram, codes, integer, rows)
    parts = [
        text.comment(comment),
        head(emit, kind, network, program.n_features, needs_math, wide),
        *_half(emit, codes),
        *features(emit, names),
        *methods(emit, network, outputs, wide),
        *selftest(emit, network, tested, kind, expected),
        f"#endif /* {name.upper()}_H */",
    ]
    made = "\n\n".join(parts) + "\n"
    if path is not None:
        files.write_bytes(made.encode(), path)
    return made


def _samples(student: Student, calibration: Any) -> np.ndarray:
    """Return the calibration samples, float64; ValueError if they are none of this student."""
    n_features = student.n_features_in_
    rows = columns.matrix(calibration, student.network.feature_names)
    rows = np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows, np.float64)
    if rows.ndim != 2 or rows.shape[1] != n_features or not len(rows):
        raise ValueError(
            f"calibration must have the shape (n_samples, {n_features}) of the student's samples, got {rows.shape}"
        )
    finite = np.isfinite(rows) | (np.isnan(rows) if student.network.fill else False)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(f"calibration has the value {rows[row, column]} in row {row}, column {column}; leave it out")
    if len(rows) > _CALIBRATION_ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, _CALIBRATION_ROWS).astype(np.int64)]
    return rows


def _as_inputs(samples: np.ndarray, input_scale: float) -> np.ndarray:
    """Return samples as inputs of the functions, float64."""
    if input_scale == 1:
        return samples
    rows = samples / input_scale
    whole = np.rint(rows)
    # Features that were divided in float32 are integers but for rounding
    error, largest = np.nanmax(np.abs(rows - whole)), np.nanmax(np.abs(rows))
    return whole if error < _ALMOST * min(1.0, largest) else rows


def _input_kind(program: Program, rows: np.ndarray | None, arithmetic: str, input_type: str) -> str:
    """Return NumPy's code of the type of the inputs."""
    if input_type != "auto":
        kind = INPUT_TYPES[input_type]
        if kind in _RANGES and rows is not None and not _holds(kind, rows):
            low, high = _RANGES[kind]
            raise ValueError(
                f"input_type={input_type!r} holds integers from {low} to {high}, and calibration has other values "
                f"({np.nanmin(rows):g} to {np.nanmax(rows):g}); use 'float'"
            )
        return kind
    # No integer stands for a missing value
    if arithmetic != "float" and rows is not None and not program.network.fill:
        for kind in _RANGES:
            if _holds(kind, rows):
                return kind
    first = program.stages[0]
    return "f8" if isinstance(first, Affine) and first.is_wide else "f4"


def _holds(kind: str, rows: np.ndarray) -> bool:
    low, high = _RANGES[kind]
    return bool((rows == np.rint(rows)).all() and rows.min() >= low and rows.max() <= high)


def _drawn(program: Program, kind: str, arithmetic: str) -> np.ndarray:
    """Return samples drawn from the ranges that the file has; ValueError if it has none and integers need them."""
    rng = np.random.default_rng(0)
    first = program.stages[0]
    count = _CALIBRATION_ROWS // 2 if arithmetic != "float" else _TEST_ROWS
    shape = (count, program.n_features)
    if isinstance(first, Affine) and (first.scale != 0).any():
        scale = np.where(first.scale == 0, 1.0, first.scale)
        rows = first.offset + np.clip(rng.normal(size=shape), -3, 3) / scale
    elif kind in _RANGES:
        low, high = _RANGES[kind]
        rows = rng.uniform(low, high, shape)
    elif arithmetic == "float":
        rows = rng.normal(size=shape)
    else:
        raise ValueError(
            f"arithmetic={arithmetic!r} needs the ranges of the features, and the file has none; give some hundred "
            "typical samples as calibration"
        )
    if kind in _RANGES:
        rows = np.clip(np.rint(rows), *_RANGES[kind])
    largest = np.finfo(np.float32).max
    return np.clip(rows, -largest, largest).astype(np.dtype(kind)).astype(np.float64)


def _float_stages(emit: Emitter, stages: Sequence[Stage], kind: str) -> tuple[list[Code], list[str], str, int]:
    """Return the code of stages in float arithmetic, the lines that call it, its result, and the bytes of the buffers.

    Stages end with one that is not elementwise.
    """
    codes: list[Code] = []
    prepare, calls, affines, n_buffers = [], [], [], 0
    place = "x"
    for index, stage in enumerate(stages):
        if isinstance(stage, Affine):
            affines.append(stage)
            continue
        codes.append(floats.reader(emit, index, affines, kind))
        affines = []
        if isinstance(stage, Linear):
            form = None
            if stage.computed is not None:
                form = computed.float_form(emit, index, (len(stage.weight), stage.weight.shape[1]), stage.computed)
            codes.append(floats.linear(emit, index, stage, kind, form))
            width = stage.weight.shape[1]
        elif isinstance(stage, Waves):
            codes.append(floats.waves(emit, index, stage, kind))
            width = len(stage.numbers)
        else:
            codes.append(images.images(emit, index, stage, kind))
            width = math.prod(stage.step.shape)
        buffer = f"buffer{index}"
        prepare.append(f"float {buffer}[{width}];")
        calls.append(f"{emit.name}_layer{index}({place}, {buffer});")
        place, kind = buffer, "f4"
        n_buffers += 4 * width
    return codes, [*prepare, *calls], place, n_buffers


def _float_code(emit: Emitter, program: Program, kind: str) -> tuple[list[Code], Outputs, int]:
    """Return the code of a student in float arithmetic, how outputs are computed, and the bytes of the buffers."""
    codes, prepare, place, n_buffers = _float_stages(emit, program.stages, kind)
    codes = [*_numbers(emit, program.stages, generator.small_normal_table(), "f4"), *codes]
    declarations = [line for code in codes for line in code.declarations]
    return codes, Outputs(declarations, prepare, f"{place}[j]", "float", f"{place}[j]"), n_buffers


def _numbers(emit: Emitter, stages: Sequence[Any], table: np.ndarray, kind: str) -> list[Code]:
    """Return what layers with computed weights share."""
    found = [stage.computed for stage in stages if getattr(stage, "computed", None) is not None]
    return [computed.shared(emit, found[0], table, kind)] if found else []


def _within_words(program: Program) -> Program:
    """Return the program with expanded weights where the places of computed ones would not fit into 32 bits."""
    widest = max(program.network.layer_sizes)
    stages: list[Stage] = []
    for stage in program.stages:
        if isinstance(stage, Linear) and stage.computed is not None:
            fits = widest * stage.computed.layout.n_numbers < 1 << 32
            stage = stage if fits else replace(stage, computed=None)
        stages.append(stage)
    return replace(program, stages=tuple(stages))


def _best_integers(
    emit: Emitter, program: Program, rows: np.ndarray, reference: np.ndarray, kind: str, arithmetic: str
) -> _Integers:
    """Return the student in integers: of the forms whose agreement is almost the best, the smallest.

    `reference` are the labels or values of the student for the rows.
    """
    # Images are moved in float, before everything else
    start = max((index + 1 for index, stage in enumerate(program.stages) if isinstance(stage, Images)), default=0)
    first, stages = program.stages[:start], list(program.stages[start:])
    earlier, prepare, source, n_first = _float_stages(emit, first, kind)
    given, kind = (outputs_of(first, rows), "f4") if start else (rows, kind)
    before: list[Affine] = []
    while isinstance(first_left := stages[0], Affine):
        before.append(first_left)
        stages.pop(0)
    layers = _without_affines(stages)
    n_inputs = given.shape[1]
    found = []
    for made in quantization.candidates(before, layers, given, arithmetic, _LARGEST.get(kind, 0)):
        codes, outputs, n_buffers = integers.stages(emit, made, kind, n_inputs, source, start)
        codes = [*_numbers(emit, made.stages, quantization.integer_normals()[0], "i1"), *earlier, *codes]
        outputs = replace(
            outputs,
            declarations=[line for code in codes for line in code.declarations],
            prepare=_declared_first([*prepare, *outputs.prepare]),
        )
        agreement = _agreement(reference, _labels_or_values(program, made.outputs(given)))
        found.append(_Integers(made, first, codes, outputs, n_first + n_buffers, agreement))
    best = max(made.agreement for made in found)
    almost = [made for made in found if made.agreement >= best - _LOSS]
    return min(almost, key=_cost)


def _cost(made: _Integers) -> int:
    """Return the bytes of a form: constants, buffers, and the float arithmetic that scales inputs."""
    n_constants = sum(code.n_bytes for code in made.codes)
    # RAM is a sixteenth of the flash of an ATmega328P and a fourth of that of many others
    return n_constants + 2 * made.n_buffers + (_FRONT_CODE if made.program.front is not None else 0)


def _declared_first(lines: list[str]) -> list[str]:
    """Return lines with declarations before calls."""
    return sorted(lines, key=lambda line: "(" in line)


def _without_affines(stages: list[Any]) -> list[Any]:
    """Return layers with the elementwise stages between them in their weights."""
    layers: list[Any] = []
    for stage in stages:
        if not isinstance(stage, Affine):
            layers.append(stage)
            continue
        before = layers[-1]
        if before.limits is not None:
            raise ValueError(
                "more than one clipping between two matrix products has no form in integer arithmetic; use "
                "arithmetic='float'"
            )
        bias = (before.bias - stage.offset) * stage.scale + stage.shift
        layers[-1] = Linear(before.weight * stage.scale, bias, "identity", stage.limits)
    return layers


def _labels_or_values(program: Program, outputs: np.ndarray) -> np.ndarray:
    """Return indices of labels, or the outputs themselves."""
    network = program.network
    if network.classes is None:
        return outputs
    return outputs[:, 0] > 0 if outputs.shape[1] < len(network.classes) else outputs.argmax(axis=1)


def _agreement(expected: np.ndarray, found: np.ndarray) -> float:
    """Return the share of equal labels, or R^2 of values."""
    if expected.ndim == 1:
        return float(np.mean(expected == found))
    # Squares of small values are zero in float32
    expected = expected.astype(np.float64)
    error, total = np.square(expected - found).sum(), np.square(expected - expected.mean(axis=0)).sum()
    # Values that hardly vary: what is less than a thousandth of their magnitude is no error
    total = max(total, expected.size * (_HARDLY * np.abs(expected).max(initial=0)) ** 2)
    return float(1 - error / total) if total else float(error == 0)


def _check_agreement(agreement: float, least: float | None, arithmetic: str, drawn: bool) -> None:
    """Raise ValueError below the least agreement, or warn."""
    advice = "use arithmetic='int16' or 'float'" if arithmetic == "int8" else "use arithmetic='float'"
    advice = "give typical samples as calibration" if drawn else advice
    said = f"arithmetic={arithmetic!r} agrees with the student by {agreement:.4f}"
    if least is not None and agreement < least:
        raise ValueError(f"{said}, less than min_agreement={least}; {advice}")
    if least is None and agreement < 0.95:
        warnings.warn(f"{said}; {advice}", UserWarning, stacklevel=3)


def _wide_output(program: Program) -> bool:
    """Return whether float outputs would lose the differences between values."""
    network = program.network
    offset = 0.0 if network.output_offset is None else np.abs(network.output_offset)
    scale = 1.0 if network.output_scale is None else network.output_scale
    return bool(np.any(offset > 1000 * np.abs(scale))) or bool(np.any(np.abs(scale) > 1e30))


def _expected(
    student: Student, program: Program, integer: _Integers | None, rows: np.ndarray, wide: bool
) -> dict[str, np.ndarray]:
    """Return what the functions must return for the rows of the self-test."""
    network, expected = program.network, dict[str, Any]()
    given = rows.astype(np.float64)
    if integer is None:
        outputs = outputs_of(program.stages, given)
    else:
        outputs = integer.program.outputs(outputs_of(integer.first, given))
    classes = network.classes
    if classes is not None:
        index = _labels_or_values(program, outputs).astype(np.int64)
        expected["label"] = classes[index].astype(np.int64) if classes.dtype.kind in "iub" else index
        if integer is None:
            # Rows at a border could go either way
            top = np.sort(np.column_stack([outputs, -outputs]) if outputs.shape[1] == 1 else outputs, axis=1)
            certain = top[:, -1] - top[:, -2] > 1e-3 * np.ptp(outputs)
            expected["label"] = expected["label"] if certain.all() else expected.pop("label")[:0]
            if not len(expected["label"]):
                del expected["label"]
    values = None
    if classes is not None and network.output == "softmax":
        raised = np.exp(outputs - outputs.max(axis=1, keepdims=True))
        values = raised / raised.sum(axis=1, keepdims=True)
    elif classes is not None and network.output == "logistic":
        values = 0.5 + 0.5 * np.tanh(outputs / 2)
        values = np.hstack([1 - values, values]) if values.shape[1] == 1 else values
    elif classes is None or network.target == "decision_function":
        values = outputs
        if network.output == "softmax":
            raised = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            values = raised / raised.sum(axis=1, keepdims=True)
        elif network.output == "relu":
            values = np.maximum(outputs, 0)
        if network.output_scale is not None:
            values = values * network.output_scale
        if network.output_offset is not None:
            values = values + network.output_offset
    if values is not None and np.abs(values).max(initial=0) < np.finfo(np.float32).max:
        expected["values"] = values.astype(np.float64 if wide else np.float32)
        scale = 1.0 if network.output_scale is None else np.max(np.abs(network.output_scale))
        offset = 0.0 if network.output_offset is None else np.max(np.abs(network.output_offset))
        expected["tolerance"] = np.float64(1e-4 * max(np.abs(outputs).max() * scale, 1e-30) + 1e-6 * offset)
        if classes is not None and network.gives_probabilities:
            expected["tolerance"] = np.float64(1e-3)
    return expected


def _check_doubles(target: str, program: Program, wide: bool) -> None:
    """Raise ValueError if the student needs numbers that are too long for AVR."""
    if TARGETS[target] is None:
        return
    classes = program.network.classes
    if wide:
        raise ValueError(
            f"target={target!r} has doubles of 32 bits, and the student needs 64: its offsets are large compared to "
            "the differences between samples; subtract them before the fit"
        )
    if classes is not None and classes.dtype.kind == "f" and np.abs(classes).max() > np.finfo(np.float32).max:
        raise ValueError(f"target={target!r} has doubles of 32 bits, which do not hold the label {classes.max():g}")


def _check_target(target: str, n_bytes: int, ram: int) -> None:
    """Raise ValueError if a chip cannot hold the model."""
    limits = TARGETS[target]
    if limits is None:
        return
    for what, need, limit, advice in (
        ("flash", n_bytes, limits[0], "compress the student further, or use integers of 8 bits"),
        ("RAM", ram, limits[1], "use an integer input_type, or a student with narrower layers"),
    ):
        if need > limit:
            raise ValueError(
                f"target={target!r} has {limit} bytes of {what}, and the model needs about {need}: {need - limit} "
                f"bytes too many; {advice}"
            )


def _half(emit: Emitter, codes: list[Code]) -> list[str]:
    """Return the function that converts 16-bit floats, where it is used."""
    call = f"{emit.name}_half("
    if not any(call in declaration for code in codes for declaration in code.declarations):
        return []
    lines = f"""static inline float {emit.name}_half(uint16_t bits)
{{
    /* Sign, exponent, fraction of a 16-bit float; there is no infinity among the weights */
    union {{
        uint32_t bits;
        float value;
    }} made;
    made.bits = (uint32_t)(bits & 0x7fff) << 13;
    made.value *= 5192296858534827628530496329220096.0f; /* 2^112, the difference of the exponents' offsets */
    return bits & 0x8000 ? -made.value : made.value;
}}"""
    return [lines]


def _comment(
    student: Student,
    program: Program,
    name: str,
    arithmetic: str,
    kind: str,
    n_bytes: int,
    ram: int,
    codes: list[Code],
    integer: _Integers | None,
    rows: np.ndarray | None,
) -> list[str]:
    """Return the lines of the head comment."""
    network = program.network
    sizes = " - ".join(map(str, (program.n_features, *network.layer_sizes[1:])))
    kinds = {"f4": "float", "f8": "double", "u1": "uint8_t", "i1": "int8_t", "i2": "int16_t"}
    lines = [
        f"{name}: a fully connected network {sizes} ({network.activation}), written by mbn-distill.",
        "",
        f"Arithmetic           {arithmetic}, inputs {kinds[kind]}"
        + ("" if program.input_scale == 1 else f", times {program.input_scale:.9g} the features in Python"),
        f"Constants in flash   {n_bytes} bytes",
        f"RAM                  {ram} bytes: the row ({program.n_features * int(kind[1])}) and the buffers on the stack",
        f"Multiplications      {sum(code.n_operations for code in codes)} per row at most",
    ]
    if integer is None:
        lines.append("Agreement            the student's outputs, apart from rounding in float")
    else:
        what = "equal labels" if network.classes is not None else "R^2 of the values"
        on = (
            f"{min(len(rows), _CALIBRATION_ROWS)} calibration samples"
            if rows is not None
            else "samples drawn from the ranges in the file"
        )
        lines.append(f"Agreement            {integer.agreement:.4f} ({what}, with the float student, on {on})")
    lines += [
        "",
        "A value that is not finite is undefined as an input but does no harm: some prediction is returned.",
        "This file is generated; no license is claimed on it.",
    ]
    return lines
