"""Run js/distill.js in node on student files, and compare its answers with those of the package's own reader."""

import base64
import json
import math
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
from tools import need

from distill.codecs.container import StudentFileError
from distill.codecs.preprocessing import MomentsStep
from distill.runtime import Student, load

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "js" / "distill.js"
TESTS = ROOT / "tests" / "js"
# JavaScript names of methods
METHODS = {
    "predict": "predict",
    "predictProba": "predict_proba",
    "transform": "transform",
    "decisionFunction": "decision_function",
}
# Of a sum of up to 160 products and a few parts, in units of the sum of magnitudes
_ROUNDING = 170 * 2.0**-24
# Above what underflows
_UNDERFLOW = 1e-36


def node() -> str:
    """Return the path of node; skip the test, or fail, if there is none."""
    return need("node")[0]


def run(script: str | Path, *arguments: object) -> str:
    """Run a script in node and return what it prints; an AssertionError with its errors if it fails."""
    done = subprocess.run([node(), script, *map(str, arguments)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def answers(files: list[bytes], rows: list, folder: Path) -> list[dict]:
    """Return what js/distill.js gives for files, in one process.

    Parameters
    ----------
    files : list of bytes
    rows : list
        For each file, an array of shape (n_samples, n_features), or the number of rows of `pattern`.
    folder : Path
        For the exchanged files.

    Returns
    -------
    list of dict
        See tests/js/answer.mjs.
    """
    jobs = [
        {"data": encoded(data), "rows": X if isinstance(X, int) else encoded(np.asarray(X, "<f8").tobytes())}
        for data, X in zip(files, rows)
    ]
    return _exchange("answer.mjs", jobs, folder)


def internals(tasks: list[list], folder: Path) -> list:
    """Return what functions give that js/distill.js does not export; see tests/js/internals.mjs."""
    return _exchange("internals.mjs", tasks, folder)


def encoded(data: bytes) -> str:
    """Return bytes as base64."""
    return base64.b64encode(data).decode()


def decoded(text: str, dtype: str = "<f4") -> np.ndarray:
    """Return an array from its bytes as base64."""
    return np.frombuffer(base64.b64decode(text), dtype)


def _exchange(script: str, jobs: list, folder: Path) -> list:
    given, found = folder / "jobs.json", folder / "answers.json"
    given.write_text(json.dumps(jobs))
    run(TESTS / script, SOURCE, given, found)
    return json.loads(found.read_text())


def pattern(n_rows: int, width: int) -> np.ndarray:
    """Return the rows that tests/js/answer.mjs makes itself: ones, then multiples of a quarter."""
    row, index = np.arange(n_rows)[:, None], np.arange(width)
    return np.where(row == 0, 1.0, ((index * 7 + row * 3) % 11 - 5) / 4)


def compare(data: bytes, rows: np.ndarray | int, answer: dict) -> str:
    """Assert that an answer in JavaScript is that of the package; return how both ended.

    Without rows (0) only whether the file is accepted, and what it describes, is compared.
    """
    try:
        with np.errstate(invalid="ignore"):  # a signaling NaN among floats that are cast to float64
            student = load(data)
    except StudentFileError as error:
        assert "refused" in answer, f"Python refuses ({error}), JavaScript: {answer}"
        return "refused"
    assert "found" in answer, f"Python accepts {student}, JavaScript: {answer}"
    _compare_descriptions(student, answer)
    X = pattern(rows, student.n_features_in_) if isinstance(rows, int) else rows
    return "accepted" + "".join(sorted({_compare_row(student, row, k, answer) for k, row in enumerate(X[:, None])}))


def _compare_descriptions(student: Student, answer: dict) -> None:
    network = student.network
    offered = {name for name in METHODS.values() if hasattr(student, name)}
    assert {METHODS[name] for name in answer["methods"]} == offered
    assert answer["nFeatures"] == student.n_features_in_
    assert answer["nOutputs"] == network.layer_sizes[-1]
    assert answer["featureNames"] == (None if network.feature_names is None else list(network.feature_names))
    assert answer["classes"] == (None if network.classes is None else labels_in_json(network.classes))


def labels_in_json(labels: np.ndarray) -> list:
    """Return labels as tests/js/answer.mjs writes them."""
    values = labels.tolist()
    if labels.dtype.kind == "i" and any(abs(value) >= 2**53 for value in values):
        return [str(value) for value in values]
    if labels.dtype.kind == "f":
        return [value if math.isfinite(value) else _NAMES[str(value)] for value in values]
    return values


_NAMES = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _compare_row(student: Student, row: np.ndarray, index: int, answer: dict) -> str:
    """Assert that the answers for a row, shape (1, n_features), agree; return how the row ended."""
    found = {METHODS[name]: values[index] for name, values in answer["found"].items()}
    try:
        with np.errstate(all="ignore"):
            outputs = student.raw_outputs(row)[0]
            expected = {name: getattr(student, name)(row)[0] for name in found}
    except ValueError as error:
        assert "X before the network" in str(error) or "X has values" in str(error)
        assert all("error" in value for value in found.values()), f"Python refuses a row ({error}): {found}"
        return ", row refused"
    errors = error_bounds(student, row)
    # In JavaScript outputs that are not finite are an error; near the largest float32 both may happen
    if not np.isfinite(outputs).all() or not np.isfinite(errors).all() or np.abs(outputs).max() + errors.max() > 3e38:
        return ", outputs overflow"
    for name, value in found.items():
        assert not (isinstance(value, dict) and "error" in value), f"{name}: {value}"
        if student.network.classes is not None and name == "predict":
            if is_certain(student, outputs, errors):
                assert value == labels_in_json(student.classes_)[_position(student, outputs)]
            continue
        _assert_near(student, name, np.ravel(value), np.ravel(expected[name]).astype(float), errors)
    return ""


def is_certain(student: Student, outputs: np.ndarray, errors: np.ndarray) -> bool:
    """Return whether the largest output leads all others by more than both errors."""
    if len(outputs) < len(student.classes_):
        return bool(abs(outputs[0]) > errors[0])
    best = int(outputs.argmax())
    others = np.arange(len(outputs)) != best
    return bool((outputs[best] - errors[best] > (outputs + errors)[others]).all())


def _position(student: Student, outputs: np.ndarray) -> int:
    return int(outputs[0] > 0) if len(outputs) < len(student.classes_) else int(outputs.argmax())


def _assert_near(student: Student, name: str, found: np.ndarray, expected: np.ndarray, errors: np.ndarray) -> None:
    network = student.network
    assert found.shape == expected.shape
    if name == "predict_proba" or (network.output == "softmax" and network.classes is None):
        tolerance = np.minimum(2 * errors.max(), 1) + 1e-6
    else:
        scale = 1.0 if network.output_scale is None else network.output_scale
        tolerance = errors * scale + 1e-12 * np.abs(expected)
    with np.errstate(invalid="ignore"):
        near = (np.abs(found - expected) <= tolerance) | (found == expected)
    assert near.all(), f"{name}: {found}, expected {expected}, tolerance {tolerance}"


def error_bounds(student: Student, row: np.ndarray) -> np.ndarray:
    """Return bounds of the differences between two computations of the outputs in float32, shape (n_outputs,)."""
    network = student.network
    with np.errstate(all="ignore"):
        size, error = _preprocessed_bounds(student, np.abs(row[0].astype(float)))
        offset = 0.0 if network.offset is None else np.abs(network.offset.astype(float))
        scale = 1.0 if network.scale is None else np.abs(network.scale.astype(float))
        rounding = 2.0**-50 if network.has_wide_inputs else 2.0**-22
        size, error = (size + offset) * scale, error * scale + (size + offset) * scale * rounding
        if size.max() > 3e38:  # an error in JavaScript; in Python the network may still give finite outputs
            return np.full(network.layer_sizes[-1], np.inf)
        for index, (weight, bias) in enumerate(zip(network.weights, network.biases)):
            if index and network.activation in ("tanh", "logistic"):
                size, error = np.minimum(size, 1), np.minimum(error, 2) + 1e-6
            weight, bias = np.abs(weight.astype(float)), np.abs(bias.astype(float))
            size = np.nan_to_num(size) @ weight + bias
            error = np.nan_to_num(error) @ weight + _ROUNDING * size + _UNDERFLOW
    return error


def _preprocessed_bounds(student: Student, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return bounds of the magnitudes of a row before the network and of its errors, after rounding to float32."""
    error = np.zeros_like(size)
    for step in () if student.preprocessing is None else student.preprocessing.steps:
        if isinstance(step, MomentsStep):
            # Convex combinations of differences of pixels, and places of pixels that are off by some 1e-12
            size, error = np.full_like(size, 4 * size.max()), np.full_like(size, 4 * error.max() + 1e-8 * size.max())
        elif step.operation == "product":
            matrix = np.abs(step.values.astype(float))
            size, error = size @ matrix, (error + size * 2.0**-23) @ matrix + _ROUNDING * (size @ matrix)
        elif step.operation in ("add", "subtract"):
            size = size + np.abs(step.values)
            error = error + size * 2.0**-52
        elif step.operation != "clip":
            factor = np.abs(step.values) if step.operation == "multiply" else 1 / np.abs(step.values)
            size, error = size * factor, error * factor + size * factor * 2.0**-52
    return size, error if student.network.has_wide_inputs else error + size * 2.0**-23


def fuzz(n_cases: int, seed: int, folder: Path) -> Counter:
    """Compare both readers on mutilated files; see tests/helpers/fuzz_student_file.py.

    Returns
    -------
    Counter
        How the cases ended.

    Raises
    ------
    AssertionError
        Naming the cases in which the readers differ.
    """
    import fuzz_student_file

    files = [fuzz_student_file.case(seed, index)[0] for index in range(n_cases)]
    outcome: Counter[str] = Counter()
    faults = []
    for index, (data, answer) in enumerate(zip(files, answers(files, [3] * n_cases, folder))):
        try:
            outcome[compare(data, 3, answer)] += 1
        except AssertionError as error:
            faults.append(f"case {index} of seed {seed} ({len(data)} bytes): {str(error)[:600]}")
    assert not faults, f"{len(faults)} faults\n" + "\n".join(faults[:20])
    return outcome
