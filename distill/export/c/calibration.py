"""The samples on which integers are chosen and judged, and the type of the inputs."""

from typing import Any

import numpy as np

from distill.export.c.program import Affine, Program
from distill.runtime import Student, columns

INPUT_TYPES = {"float": "f4", "double": "f8", "uint8": "u1", "int8": "i1", "int16": "i2"}
RANGES = {"u1": (0, 255), "i1": (-128, 127), "i2": (-32768, 32767)}
# Rows that integers are chosen on, and rows of the self-test
CALIBRATION_ROWS, TEST_ROWS = 2000, 3
# Distance from integers, in units of `input_scale`, that is rounding
_ALMOST = 0.01
# Variation of values, in units of the largest, below which their agreement is judged by their magnitude
_HARDLY = 1e-3


def samples_of(student: Student, calibration: Any) -> np.ndarray:
    """Return the calibration samples, float64; ValueError if they are none of this student."""
    n_features = student.n_features_in_
    rows = columns.matrix(calibration, student.network.feature_names)
    rows = np.asarray(rows.toarray() if hasattr(rows, "toarray") else rows)
    if rows.dtype.kind == "c":
        raise ValueError("calibration has complex numbers, and the student's features are real")
    rows = rows.astype(np.float64)
    if rows.ndim != 2 or rows.shape[1] != n_features or not len(rows):
        raise ValueError(
            f"calibration must have the shape (n_samples, {n_features}) of the student's samples, got {rows.shape}"
        )
    finite = np.isfinite(rows) | (np.isnan(rows) if student.network.fill else False)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(f"calibration has the value {rows[row, column]} in row {row}, column {column}; leave it out")
    if len(rows) > CALIBRATION_ROWS:
        rows = rows[np.linspace(0, len(rows) - 1, CALIBRATION_ROWS).astype(np.int64)]
    return rows


def as_inputs(samples: np.ndarray, input_scale: float) -> np.ndarray:
    """Return samples as inputs of the functions, float64."""
    if input_scale == 1:
        return samples
    rows = samples / input_scale
    whole = np.rint(rows)
    # Features that were divided in float32 are integers but for rounding
    error, largest = np.nanmax(np.abs(rows - whole)), np.nanmax(np.abs(rows))
    return whole if error < _ALMOST * min(1.0, largest) else rows


def input_kind(program: Program, rows: np.ndarray | None, arithmetic: str, input_type: str) -> str:
    """Return NumPy's code of the type of the inputs."""
    if input_type != "auto":
        kind = INPUT_TYPES[input_type]
        if kind in RANGES and rows is not None and not _holds(kind, rows):
            low, high = RANGES[kind]
            raise ValueError(
                f"input_type={input_type!r} holds integers from {low} to {high}, and calibration has other values "
                f"({np.nanmin(rows):g} to {np.nanmax(rows):g}); use 'float'"
            )
        return kind
    # No integer stands for a missing value
    if arithmetic != "float" and rows is not None and not program.network.fill:
        for kind in RANGES:
            if _holds(kind, rows):
                return kind
    first = program.stages[0]
    return "f8" if isinstance(first, Affine) and first.is_wide else "f4"


def _holds(kind: str, rows: np.ndarray) -> bool:
    low, high = RANGES[kind]
    return bool((rows == np.rint(rows)).all() and rows.min() >= low and rows.max() <= high)


def drawn(program: Program, kind: str, arithmetic: str) -> np.ndarray:
    """Return samples drawn from the ranges that the file has; ValueError if it has none and integers need them."""
    rng = np.random.default_rng(0)
    first = program.stages[0]
    count = CALIBRATION_ROWS // 2 if arithmetic != "float" else TEST_ROWS
    shape = (count, program.n_features)
    if isinstance(first, Affine) and (first.scale != 0).any():
        scale = np.where(first.scale == 0, 1.0, first.scale)
        rows = first.offset + np.clip(rng.normal(size=shape), -3, 3) / scale
    elif kind in RANGES:
        low, high = RANGES[kind]
        rows = rng.uniform(low, high, shape)
    elif arithmetic == "float":
        rows = rng.normal(size=shape)
    else:
        raise ValueError(
            f"arithmetic={arithmetic!r} needs the ranges of the features, and the file has none; give some hundred "
            "typical samples as calibration"
        )
    if kind in RANGES:
        rows = np.clip(np.rint(rows), *RANGES[kind])
    largest = np.finfo(np.float32).max
    return np.clip(rows, -largest, largest).astype(np.dtype(kind)).astype(np.float64)


def labels_or_values(program: Program, outputs: np.ndarray) -> np.ndarray:
    """Return indices of labels, or the outputs themselves."""
    network = program.network
    if network.classes is None:
        return outputs
    return outputs[:, 0] > 0 if outputs.shape[1] < len(network.classes) else outputs.argmax(axis=1)


def agreement_of(expected: np.ndarray, found: np.ndarray) -> float:
    """Return the share of equal labels, or R^2 of values."""
    if expected.ndim == 1:
        return float(np.mean(expected == found))
    # Squares of small values are zero in float32
    expected = expected.astype(np.float64)
    error, total = np.square(expected - found).sum(), np.square(expected - expected.mean(axis=0)).sum()
    # Values that hardly vary: what is less than a thousandth of their magnitude is no error
    total = max(total, expected.size * (_HARDLY * np.abs(expected).max(initial=0)) ** 2)
    return float(1 - error / total) if total else float(error == 0)


def expected_of(program: Program, outputs: np.ndarray, in_float: bool, wide: bool) -> dict[str, np.ndarray]:
    """Return what the functions must return for the rows of the self-test.

    Parameters
    ----------
    program : Program
    outputs : ndarray of shape (n_rows, n_outputs), float64
        Pre-activations of the last layer for these rows.
    in_float : bool
        Whether the arithmetic is that of floats, which may round otherwise elsewhere.
    wide : bool
        Whether values are doubles.
    """
    network, expected = program.network, dict[str, Any]()
    classes = network.classes
    if classes is not None:
        index = labels_or_values(program, outputs).astype(np.int64)
        expected["label"] = classes[index].astype(np.int64) if classes.dtype.kind in "iub" else index
        if in_float:
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
