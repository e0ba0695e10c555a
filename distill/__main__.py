"""Command line: report the contents of a student file, predict with it, export it, or show a page with it.

python -m distill info FILE
python -m distill predict FILE data.npy|data.csv|data.tsv|data.parquet|- [-o predictions.npy|predictions.csv]
                          [--method METHOD]
python -m distill export FILE --target c|avr|onnx -o digits.h|digits.onnx [--name digits] [--arithmetic int8]
                         [--calibration data.npy]
python -m distill serve-demo FILE [--port N] [--no-browser] [-o page.html] [--shape H,W] [--range LOW,HIGH]
                          [--names names.json] [--examples rows.npy|rows.csv|drawings.json] [--title TITLE] [--fields]
"""

import argparse
import csv
import io
import os
import re
import sys
from collections.abc import Sequence
from typing import TextIO, cast

import numpy as np

from distill.codecs.files import write_bytes
from distill.runtime import Student, load
from distill.tables import Wanted, check_values, read_rows
from distill.web import demo

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
        "data",
        help="samples as .npy, .csv, .tsv or .parquet, or - for standard input; a first line of text that is not "
        "numeric holds column names",
    )
    predict.add_argument("-o", "--output", help=".npy or .csv to write; without it predictions are printed as CSV")
    predict.add_argument(
        "--method", choices=_METHODS, help="method to call; by default the one that the student was trained for"
    )
    export = commands.add_parser("export", help="write a student as a C99 header or as an ONNX model")
    export.add_argument("file", help="student file")
    export.add_argument("--target", choices=("c", "avr", "onnx"), required=True, help="avr: C for an ATmega328P")
    export.add_argument("-o", "--output", required=True, help="file to write")
    export.add_argument("--name", help="prefix of the C functions; by default the name of the output")
    export.add_argument("--arithmetic", choices=("float", "int8", "int16"), help="of the C code; by default float")
    export.add_argument("--calibration", help="samples for integer arithmetic, in a file as for predict")
    export.add_argument("--input-type", choices=("auto", "float", "double", "uint8", "int8", "int16"), help="of C")
    export.add_argument("--input-scale", type=float, help="the student's features are the inputs in C times this")
    export.add_argument("--min-agreement", type=float, help="least agreement of integer arithmetic with the student")
    demo.add_arguments(
        commands.add_parser(
            "serve-demo", help="show a page on which a student answers: digits are drawn, other features are fields"
        )
    )
    options = parser.parse_args(arguments)
    try:
        if options.command == "serve-demo":
            demo.run(options, _note)
            return 0
        student = load(options.file)
        if options.command == "info":
            print(describe(student))
        elif options.command == "export":
            _export(student, options)
        else:
            _predict(student, options.data, options.output, options.method)
    except BrokenPipeError:  # the reader, such as `head`, has had enough
        # The interpreter flushes the standard output at its end, which must not fail then
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (OSError, ValueError, AttributeError, ImportError) as error:
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
        kinds = [
            f"table ({', '.join(step.names)})" if step.operation == "table" else step.operation
            for step in student.preprocessing.steps
        ]
        steps = ", ".join(kinds)
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
    # A named pipe or a device gets CSV, whatever its name is
    special = output is not None and os.path.exists(output) and not os.path.isfile(output)
    if output is not None and not output.endswith((".npy", ".csv")) and not special:
        raise ValueError(f"the output must end with .npy or .csv, got {output!r}")
    predict = getattr(student, method or _usual_method(student))
    table = None if student.preprocessing is None else student.preprocessing.table
    fills = table is not None or (student.network.fill and student.preprocessing is None)
    wanted = Wanted(student.n_features_in_, student.network.feature_names, fills, _note, table is not None)
    try:
        rows = read_rows(data, wanted)
    except ValueError as error:
        if table is None:
            raise
        raise ValueError(
            f"{error}. This student takes a table of numbers, categories and text ({', '.join(table.names)}), and the "
            "command line reads such tables from Parquet; or predict in Python, as with "
            "distill.load(file).predict(pandas.read_csv(data))"
        ) from error
    try:
        predictions = predict(rows)
    except ValueError:
        if table is not None:
            raise
        check_values(rows, "standard input" if data == "-" else data, wanted)
        raise
    if output is None:
        _write_csv(sys.stdout, predictions)
        sys.stdout.flush()
    elif output.endswith(".npy"):
        buffer = io.BytesIO()
        np.save(buffer, predictions.astype(str) if predictions.dtype == object else predictions)
        write_bytes(buffer.getvalue(), output)
    else:
        text = io.StringIO(newline="")
        _write_csv(text, predictions)
        write_bytes(text.getvalue().encode(), output)


def _export(student: Student, options: argparse.Namespace) -> None:
    """Write a student in another form."""
    settings = {
        name: getattr(options, name)
        for name in ("arithmetic", "calibration", "input_type", "input_scale", "min_agreement", "name")
        if getattr(options, name) is not None
    }
    if options.target == "onnx":
        if settings:
            raise ValueError(f"--{next(iter(settings)).replace('_', '-')} is for the targets c and avr, not for onnx")
        from distill.onnx import to_onnx

        to_onnx(student, options.output)
        return
    from distill.export.c import to_c

    if "calibration" in settings:
        wanted = Wanted(student.n_features_in_, student.network.feature_names, student.network.fill, _note)
        settings["calibration"] = read_rows(options.calibration, wanted)
    stem = os.path.splitext(os.path.basename(options.output))[0]
    settings.setdefault("name", re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_"))
    if not re.match("[A-Za-z]", settings["name"]) and options.name is None:
        raise ValueError(f"functions in C cannot be named like the output {options.output!r}; give --name")
    to_c(student, options.output, target="avr" if options.target == "avr" else "c99", **settings)


def _note(text: str) -> None:
    """Print a remark to stderr."""
    print(f"note: {text}", file=sys.stderr)


def _usual_method(student: Student) -> str:
    """Return the method that the student was trained for, labels before probabilities."""
    target = student.network.target
    return "predict" if target == "predict_proba" else target


def _write_csv(file: TextIO, predictions: np.ndarray) -> None:
    """Write predictions as CSV, one row per sample."""
    rows = predictions.reshape(len(predictions), -1).tolist()
    if predictions.dtype == np.float32:
        # The shortest digits that identify a float32
        rows = [[str(value) for value in row] for row in predictions.reshape(len(predictions), -1)]
    csv.writer(file, lineterminator="\n").writerows(rows)


if __name__ == "__main__":
    sys.exit(main())
