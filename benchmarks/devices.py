"""Students as C on microcontrollers: flash, memory, time and agreement, beside emlearn and m2cgen.

Each student is written by `to_c`, compiled with -Os, and run on a simulated Cortex-M3 (qemu, instructions) and a
simulated ATmega328P (simavr, cycles). Flash of the model alone is that of a program with one call less that of the same
program with an empty function; in all is the linked program with its start. Memory is the largest stack, the variables,
the row and the results. Labels and numbers of C on this machine are compared with the Python reader for all held-out
rows, those of the simulators with C on this machine. The same networks go through emlearn with the same options of the
compiler, and what m2cgen can take through m2cgen.

Needs gcc, gcc-arm-none-eabi, libnewlib-arm-none-eabi, qemu-system-arm, gcc-avr, avr-libc, simavr and libsimavr-dev; and
emlearn, m2cgen and umap-learn (pip install mbn-distill[benchmark]).

    PYTHONPATH=tests/helpers python benchmarks/devices.py --data DIR [--students FOLDER]
"""

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
from common import RESULTS, clustering_accuracy, parser, table, write_json
from device_students import Case, cases
from simulators import Function, header_function, run_atmega328p, run_cortex_m3, run_host
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier, MLPRegressor

from distill import load, to_c
from distill.export import toolchain
from distill.export.size import FunctionSize, measure_call
from distill.network import Network
from distill.runtime import Student

FLAGS = ("-Os",)
CLOCK = 16_000_000
SIMULATORS = {"cortex-m3": run_cortex_m3, "atmega328p": run_atmega328p}


def main() -> None:
    line = parser(__doc__, "devices")
    line.add_argument("--students", type=Path, default=RESULTS / "devices", help="folder of student files, kept")
    line.add_argument("--cache", type=Path, default=RESULTS / "cache", help="as in random_code.py")
    line.add_argument("--rows", type=int, default=10_000, help="held-out rows in C on this machine")
    line.add_argument("--device-rows", type=int, default=100, help="held-out rows on the simulators, at most")
    line.add_argument("--without-others", action="store_true", help="without emlearn and m2cgen")
    line.add_argument("--cases", default="", help="names of student files, separated by commas; all without it")
    options = line.parse_args()
    names = options.cases.split(",") if options.cases else None
    results: dict = {"flags": FLAGS, "compilers": compilers(), "models": []}
    for case in cases(options.students, options.data, options.cache):
        if names is None or case.path.stem in names:
            with tempfile.TemporaryDirectory() as folder:
                results["models"] += compare(case, Path(folder), options)
            write_json(options.out, results)
    print_models(results["models"])
    for note in dict.fromkeys(entry["note"] for entry in results["models"] if entry.get("note")):
        print(note)


def compilers() -> dict[str, str]:
    """Return the versions of the compilers."""
    return {name: toolchain.compiler_version(toolchain.find_target(name)) for name in ("host", *SIMULATORS)}


def compare(case: Case, folder: Path, options: argparse.Namespace) -> list[dict]:
    """Measure a student in float and integer arithmetic, and the same network by others."""
    n_rows, n_device_rows = options.rows, options.device_rows
    student = load(case.path)
    rows = np.round(case.rows * case.largest) if case.largest else case.rows
    expected = reference(student, case.rows[:n_rows])
    found = []
    for arithmetic in ("int8", "float"):
        path = folder / f"{arithmetic}.h"
        # Pixels come as bytes, also where they become floats
        inputs = {"input_type": "uint8", "input_scale": 1 / case.largest} if case.largest else {}
        to_c(student, path, arithmetic=arithmetic, calibration=case.calibration[:2000], **inputs)
        labelled = student.network.classes is not None and student.network.target != "decision_function"
        function = header_function(path, "predict" if labelled else student.network.target)
        entry = measure(function, rows[:n_rows], expected, n_device_rows)
        if case.truth is not None:
            labels = run_host(function, rows[:n_rows], ("-O2",)).labels
            entry["acc"] = clustering_accuracy(case.truth[:n_rows], labels)
        found.append(
            {"title": case.title, "student_bytes": case.path.stat().st_size, "by": f"to_c, {arithmetic}", **entry}
        )
    if not options.without_others:
        for by, function, include in peers(student, case.largest or 1, folder):
            entry = measure(function, rows[:n_rows].astype(np.float32), expected, n_device_rows, include)
            found.append({"title": case.title, "by": by, **entry})
        if case.path.stem == "digits":
            found += others(case, student, rows[:n_rows], n_device_rows)
    for entry in found:
        print(entry["title"], entry["by"], {key: value for key, value in entry.items() if key not in ("title", "by")})
    return found


def reference(student: Student, X: np.ndarray) -> np.ndarray:
    """Return labels or values of the Python reader."""
    network = student.network
    if network.classes is not None and network.target != "decision_function":
        return student.predict(X)
    return getattr(student, network.target)(X).reshape(len(X), -1)


def measure(
    function: Function, rows: np.ndarray, expected: np.ndarray, n_device_rows: int, options: Sequence[str] = ()
) -> dict:
    """Return sizes, costs and agreement of a function."""
    on_host = run_host(function, rows, ("-O2", *options))
    entry: dict = {"rows": len(rows), **agreement(on_host, expected)}
    for name, run in SIMULATORS.items():
        target = toolchain.find_target(name)
        try:
            size = measure_call(
                name, function.declarations, function.call, input_type=function.input_type, n_inputs=function.n_inputs,
                n_outputs=function.n_outputs, output_type=function.output_type, flags=(*FLAGS, *options),
            )  # fmt: skip
        except ValueError as error:
            lines = [line for line in str(error).splitlines() if "error:" in line] or [str(error)]
            entry[name] = {"error": lines[0].split("error:")[-1].strip()}
            continue
        entry[name] = {"flash": size.flash, "flash_in_all": size.image_flash, "ram": size.ram, **parts(size)}
        if fits(size, target):
            found = run(function, rows[:n_device_rows], (*FLAGS, *options))
            same = on_host.labels[: len(found.labels)], on_host.outputs[: len(found.labels)]
            entry[name] |= {
                "cost": float(found.cost.mean()),
                "largest_cost": int(found.cost.max()),
                "measured_stack": found.stack,
                "device_rows": len(found.labels),
                "equal_to_host": bool((found.labels == same[0]).all() and (found.outputs == same[1]).all()),
                "largest_difference_to_host": float(np.abs(found.outputs - same[1]).max(initial=0)),
            }
    return entry


def parts(size: FunctionSize) -> dict:
    return {
        "code": size.code, "constants": size.constants, "static_ram": size.static_ram, "stack": size.stack,
        "input_bytes": size.input_bytes, "output_bytes": size.output_bytes,
    }  # fmt: skip


def fits(size: FunctionSize, target: toolchain.Target) -> bool:
    """Return whether a device can run the program."""
    if target.flash is None or target.ram is None:
        return True
    # The runner has its loop and its results
    needed = size.image_static_ram + (size.stack or 0) + size.output_bytes + 16
    return size.image_flash + 200 <= target.flash and needed <= target.ram


def agreement(run, expected: np.ndarray) -> dict:
    """Return how far C is from the Python reader."""
    if expected.ndim == 1:
        differing = int((run.labels != expected).sum())
        return {"differing": differing, "agreement": 1 - differing / len(expected)}
    outputs = run.outputs[:, : expected.shape[1]].astype(np.float64)
    error = np.abs(outputs - expected).max() / np.ptp(expected)
    total = np.square(expected - expected.mean(axis=0)).sum()
    return {"largest_error": float(error), "agreement": float(1 - np.square(outputs - expected).sum() / total)}


# other packages


def equivalent(network: Network, n_features: int, divisor: int):
    """Return scikit-learn's estimator with the weights of a network, the scaling of inputs and outputs folded in."""
    weights = [weight.astype(np.float64) for weight in network.weights]
    biases = [bias.astype(np.float64) for bias in network.biases]
    assert network.clip is None
    if network.offset is not None or network.scale is not None:
        offset = 0.0 if network.offset is None else network.offset
        scale = 1.0 if network.scale is None else network.scale
        biases[0] = biases[0] - np.broadcast_to(offset * scale, n_features) @ weights[0]
        weights[0] = np.broadcast_to(scale, n_features)[:, None] * weights[0]
    weights[0] = weights[0] / divisor
    hidden = network.layer_sizes[1:-1]
    X, outputs = np.zeros((10, n_features)), network.layer_sizes[-1]
    if network.classes is not None and network.target != "decision_function":
        estimator = MLPClassifier(hidden).partial_fit(X, np.arange(10) % outputs, classes=np.arange(outputs))
    else:
        if network.output_scale is not None:
            weights[-1], biases[-1] = weights[-1] * network.output_scale, biases[-1] * network.output_scale
        if network.output_offset is not None:
            biases[-1] = biases[-1] + network.output_offset
        estimator = MLPRegressor(hidden_layer_sizes=hidden).partial_fit(X, np.zeros((10, outputs)))
    estimator.coefs_, estimator.intercepts_ = weights, biases
    return estimator


def peers(student: Student, divisor: int, folder: Path):
    """Yield name and function of emlearn's programs for a network."""
    try:
        with np.errstate():  # its import lets NumPy raise for every underflow
            from emlearn import cgen, common, net
    except ImportError:
        print("without emlearn: pip install mbn-distill[benchmark]")
        return
    network, n_features = student.network, student.n_features_in_
    estimator = equivalent(network, n_features, divisor)
    layers = (
        [network.activation] * (len(network.weights) - 1) + [estimator.out_activation_],
        estimator.coefs_,
        estimator.intercepts_,
    )
    labelled = isinstance(estimator, MLPClassifier)
    n_outputs = 0 if labelled else network.layer_sizes[-1]
    options = (f"-I{common.get_include_dir()}",)
    path = folder / "emlearn_loadable.h"
    path.write_text(net.c_generate_net_loadable(*layers, "model"), encoding="utf-8")
    call = f"return model_predict(row, {n_features});"
    if not labelled:
        call = f"return model_regress(row, {n_features}, results, {n_outputs});"
    function = Function(f'#include "{path}"', call, "float", n_features, n_outputs)
    yield "emlearn, loadable", function, options
    if labelled:
        path = folder / "emlearn_inline.h"
        # emlearn 0.23.2 raises ValueError for the names of activations, which are no numbers
        with mock.patch.object(cgen, "constant", partial(named_constant, cgen.constant)):
            path.write_text(net.c_generate_net_inline(*layers, "model"), encoding="utf-8")
        yield "emlearn, inline", replace(function, declarations=f'#include "{path}"'), options


def named_constant(constant, value, dtype="float"):
    """Return a constant in C, a name as it is."""
    return value if isinstance(value, str) else constant(value, dtype)


def others(case: Case, student: Student, rows: np.ndarray, n_device_rows: int) -> list[dict]:
    """Return a linear model of the same labels by m2cgen, which takes neither networks nor isolation forests."""
    try:
        import m2cgen
    except ImportError:
        print("without m2cgen: pip install mbn-distill[benchmark]")
        return []
    try:
        m2cgen.export_to_c(equivalent(student.network, student.n_features_in_, 1))
        note = ""
    except NotImplementedError as error:
        note = f"m2cgen: {error}"
    labels = student.predict(case.calibration)
    model = LogisticRegression(max_iter=2000).fit(case.calibration, labels)
    code = m2cgen.export_to_c(model)
    largest = (
        f"{code}\nstatic int largest(const double *row) {{ double out[10]; int best = 0, j; score((double *)row, out);"
        " for (j = 1; j < 10; j++) if (out[j] > out[best]) best = j; return best; }"
    )
    function = Function(largest, "return largest(row);", "double", case.rows.shape[1])
    entry = measure(function, rows.astype(np.float64), student.predict(case.rows[: len(rows)]), n_device_rows)
    return [{"title": case.title, "by": "m2cgen, logistic regression instead", "note": note, **entry}]


def print_models(models: list[dict]) -> None:
    """Print the tables."""
    for name, unit in (("cortex-m3", "instructions"), ("atmega328p", "cycles")):
        lines = []
        for entry in models:
            found = entry[name]
            if "error" in found:
                lines.append([entry["title"], entry["by"], *["-"] * 5, *["does not fit"] * (name == "atmega328p")])
                continue
            cost = found.get("cost")
            time = [f"{1e3 * cost / CLOCK:.2f}" if cost else "does not fit"] if name == "atmega328p" else []
            lines.append(
                [entry["title"], entry["by"], found["flash"], found["flash_in_all"], found["ram"],
                 found["static_ram"], f"{cost:.0f}" if cost else "-", *time]
            )  # fmt: skip
        columns = ["model", "C by", "flash", "in all", "RAM", "of it static", unit]
        table(f"{name}, -Os", [*columns, *(["ms at 16 MHz"] if name == "atmega328p" else [])], lines)
    lines = []
    for entry in models:
        devices = [entry[name] for name in SIMULATORS if "device_rows" in entry[name]]
        lines.append([
            entry["title"], entry["by"], entry["rows"],
            entry.get("differing", f"{entry.get('largest_error', 0):.1e}"), f"{entry['agreement']:.4%}",
            f"{entry['acc']:.2%}" if "acc" in entry else "",
            *(f"{found['device_rows']}: {'equal' if found['equal_to_host'] else found['largest_difference_to_host']}"
              for found in devices),
            *["-"] * (2 - len(devices)),
        ])  # fmt: skip
    columns = ["model", "C by", "rows", "differing or error", "agreement or R^2", "ACC", *SIMULATORS]
    table("C on this machine against Python, and simulators against C on this machine", columns, lines)


if __name__ == "__main__":
    main()
