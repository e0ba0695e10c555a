"""Write a student as one C99 header."""

import os
import warnings
from typing import Any, BinaryIO

import numpy as np

from distill.codecs import files
from distill.export.c import text
from distill.export.c.assembly import Integers, best_integers, float_code, half, within_words
from distill.export.c.calibration import (
    CALIBRATION_ROWS,
    INPUT_TYPES,
    TEST_ROWS,
    as_inputs,
    drawn,
    expected_of,
    input_kind,
    labels_or_values,
    samples_of,
)
from distill.export.c.floats import Code, Emitter
from distill.export.c.header import features, head, methods, selftest
from distill.export.c.program import Images, Linear, Program, outputs_of, program_of
from distill.export.students import student_in
from distill.runtime import Student

ARITHMETICS = ("float", "int8", "int16")
# Flash and RAM in bytes of the chip behind each target; None for any
TARGETS = {"c99": None, "avr": (32768, 2048)}
# Samples, and different ones, below which a calibration is warned of
_FEW, _FEW_DIFFERENT = 50, 5
# Bytes of the code of `predict` on AVR, with avr-gcc -Os: 770 to 1620 in integers and 2200 in float, with waves
_AVR_CODE = {"float": 2200, "int8": 1600, "int16": 1600}
# Return addresses and registers of the functions on the stack
_AVR_STACK = 64


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
    >>> [line for line in text.splitlines() if line.endswith("sides_predict(const sides_input *x)")]
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
    is_number = isinstance(min_agreement, int | float | np.number)
    if min_agreement is not None and not (is_number and 0 <= min_agreement <= 1):
        raise ValueError(f"min_agreement must be in [0, 1], got {min_agreement!r}")
    if not (isinstance(input_scale, int | float | np.number) and 0 < input_scale < np.inf):
        raise ValueError(f"input_scale must be a number above 0, got {input_scale!r}")
    student = student_in(student, "to_c")
    program = program_of(student, float(input_scale))
    samples = None if calibration is None else samples_of(student, calibration)
    rows = None if samples is None else as_inputs(samples, float(input_scale))
    kind = input_kind(program, rows, arithmetic, input_type)
    typical = drawn(program, kind, arithmetic) if rows is None else rows
    samples = typical * program.input_scale if samples is None else samples
    emit = Emitter(name)
    network = program.network
    integer = None
    program = within_words(program)
    if arithmetic == "float":
        codes, outputs, n_buffers = float_code(emit, program, kind)
    else:
        reference = labels_or_values(program, student.raw_outputs(samples))
        integer = best_integers(emit, program, typical, reference, kind, arithmetic)
        codes, outputs, n_buffers = integer.codes, integer.outputs, integer.n_buffers
        _check_agreement(integer.agreement, min_agreement, arithmetic, rows is None)
        if rows is not None and (len(rows) < _FEW or len(np.unique(rows, axis=0)) < _FEW_DIFFERENT):
            warnings.warn(
                f"calibration has {len(rows)} samples, {len(np.unique(rows, axis=0))} of them different; the agreement "
                f"{integer.agreement:.4f} of so few says little about others: give some hundred typical ones",
                UserWarning,
                stacklevel=2,
            )
    wide = _wide_output(program)
    _check_doubles(target, program, kind == "f8" or wide)
    # A missing value has no literal in C
    whole = typical[np.isfinite(typical).all(axis=1)]
    tested = (whole if len(whole) else np.nan_to_num(typical))[:TEST_ROWS].astype(np.dtype(kind))
    reached = outputs_of(program.stages, tested.astype(np.float64)) if integer is None else integer.values(tested)
    expected = expected_of(program, reached, integer is None, wide)
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
        *half(emit, codes),
        *features(emit, names),
        *methods(emit, network, outputs, wide),
        *selftest(emit, network, tested, kind, expected),
        f"#endif /* {name.upper()}_H */",
    ]
    made = "\n\n".join(parts) + "\n"
    if path is not None:
        files.write_bytes(made.encode(), path)
    return made


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


def _comment(
    student: Student,
    program: Program,
    name: str,
    arithmetic: str,
    kind: str,
    n_bytes: int,
    ram: int,
    codes: list[Code],
    integer: Integers | None,
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
            f"{min(len(rows), CALIBRATION_ROWS)} calibration samples"
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
