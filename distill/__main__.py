"""Command line: report the contents of a student file, or predict with it.

python -m distill info FILE
python -m distill predict FILE data.npy|data.csv [-o predictions.npy|predictions.csv] [--method METHOD]
"""

import argparse
import csv
import os
import sys
import warnings
from collections.abc import Sequence
from typing import TextIO, cast

import numpy as np

from distill.runtime import Student, load

_METHODS = ("predict", "predict_proba", "transform", "decision_function")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str or None
        None for those of the process, ``sys.argv[1:]``.

    Returns
    -------
    int
        Exit status: 0, or 2 for a wrong file or argument, whose error is printed to stderr.
    """
    parser = argparse.ArgumentParser(prog="python -m distill", description="Read student files with NumPy alone.")
    commands = parser.add_subparsers(dest="command", required=True)
    info = commands.add_parser("info", help="print the contents of a student file and the sizes of its parts")
    info.add_argument("file", help="student file")
    predict = commands.add_parser("predict", help="predict for the rows of a file")
    predict.add_argument("file", help="student file")
    predict.add_argument(
        "data", help="samples as .npy or .csv; a first line of .csv that is not numeric holds column names"
    )
    predict.add_argument("-o", "--output", help=".npy or .csv to write; without it predictions are printed as CSV")
    predict.add_argument(
        "--method", choices=_METHODS, help="method to call; by default the one that the student was trained for"
    )
    options = parser.parse_args(arguments)
    try:
        student = load(options.file)
        if options.command == "info":
            print(describe(student))
        else:
            _predict(student, options.data, options.output, options.method)
    except (OSError, ValueError, AttributeError) as error:
        print(f"{parser.prog} {options.command}: {error}", file=sys.stderr)
        return 2
    return 0


def describe(student: Student) -> str:
    """Return a description of a student and its report as text."""
    network, report = student.network, cast(dict, student.report)  # `load` sets the report
    sizes = report["layer_sizes"]
    lines = [
        ("layers", f"{' - '.join(map(str, sizes))}, {network.activation}"),
        ("methods", ", ".join(name for name in _METHODS if hasattr(student, name))),
    ]
    if student.preprocessing is not None:
        steps = ", ".join(step.operation for step in student.preprocessing.steps)
        lines.insert(0, ("before", f"{steps}, of {student.n_features_in_} features"))
    if network.classes is not None:
        lines.append(("classes", _shortened([str(value) for value in network.classes])))
    if network.feature_names is not None:
        lines.append(("features", _shortened(network.feature_names)))
    lines += [
        ("weights", f"{report['n_parameters']}, coded as {', '.join(dict.fromkeys(report['codecs']))}"),
        ("size", f"{report['n_bytes']} bytes, {report['bits_per_weight']:.2f} bits per weight"),
        ("ratio", f"{report['ratio']:.2f} (baseline: {report['baseline']})"),
    ]
    lines += [(f"  {part}", f"{count} bytes") for part, count in report["bytes"].items()]
    return "\n".join(f"{name:<16}{value}" for name, value in lines)


def _shortened(values: Sequence[str]) -> str:
    """Join values with commas, only the first ten of many."""
    text = ", ".join(values[:10])
    return text if len(values) <= 10 else f"{text}, ... ({len(values)})"


def _predict(student: Student, data: str, output: str | None, method: str | None) -> None:
    """Predict for the rows of a file and print or write the result, atomically."""
    if output is not None and not output.endswith((".npy", ".csv")):
        raise ValueError(f"the output must end with .npy or .csv, got {output!r}")
    predictions = getattr(student, method or _usual_method(student))(_read(data, student))
    if output is None:
        _write_csv(sys.stdout, predictions)
        return
    # A file that appears under its name only when it is complete
    temporary = f"{output}.{os.getpid()}.part"
    try:
        if output.endswith(".npy"):
            with open(temporary, "wb") as file:
                np.save(file, predictions.astype(str) if predictions.dtype == object else predictions)
        else:
            with open(temporary, "w", newline="") as file:
                _write_csv(file, predictions)
        os.replace(temporary, output)
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise


def _usual_method(student: Student) -> str:
    """Return the method that the student was trained for, labels before probabilities."""
    target = student.network.target
    return "predict" if target == "predict_proba" else target


def _read(path: str, student: Student) -> np.ndarray:
    """Return the rows of a .npy or .csv file, columns in the order of the student's features.

    Raises
    ------
    ValueError
        If the file has another extension, lacks a named feature, or is not a numeric table.
    """
    if path.endswith(".npy"):
        return np.load(path, mmap_mode="r", allow_pickle=False)
    if not path.endswith(".csv"):
        raise ValueError(f"the data must end with .npy or .csv, got {path!r}")
    with open(path, newline="") as file:
        header = next(csv.reader(file), [])
    names = student.network.feature_names
    # Preprocessing is in float64, the network in float32
    dtype = np.float32 if student.preprocessing is None else np.float64
    named = not all(_is_numeric(cell) for cell in header)
    order: slice | list[int] = slice(None)
    if named and names is not None and header != list(names):
        missing = [name for name in names if name not in header]
        if missing:
            raise ValueError(f"{path} lacks the columns {missing[:5]} that the student was fitted with")
        order = [header.index(name) for name in names]
    # loadtxt only warns about a file without rows
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            return np.loadtxt(path, dtype, delimiter=",", skiprows=int(named), ndmin=2, quotechar='"')[:, order]
        except (ValueError, UserWarning) as error:
            raise ValueError(f"{path} is no numeric table: {error}") from error


def _is_numeric(cell: str) -> bool:
    """Return whether a cell is a number."""
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _write_csv(file: TextIO, predictions: np.ndarray) -> None:
    """Write predictions as CSV, one row per sample."""
    rows = predictions.reshape(len(predictions), -1).tolist()
    if predictions.dtype == np.float32:
        # The shortest digits that identify a float32
        rows = [[str(value) for value in row] for row in predictions.reshape(len(predictions), -1)]
    csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
