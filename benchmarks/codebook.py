"""CodebookCompressor on MNIST: size of the files and error, for all solvers and 1 to 3 bits.

(a) LeNet-300-100 trained with labels, for comparison with published results: test error.
(b) A student of an unlabeled MBN teacher, 784-256-64-10: agreement with the uncompressed student, clustering accuracy
    (ACC).
(c) scikit-learn's MLPClassifier on digits: size relative to its joblib dump and to its raw float32 weights.

No compression uses labels. The settings, BEST and PRICED below, are those that --choose finds with the last 10000
training images as validation set, and networks and compression fitted to the first 50000.

    python benchmarks/codebook.py --data DIR [--seeds 3] [--labels FILE] [--cache DIR] [--parts lenet,student,digits]
    python benchmarks/codebook.py --data DIR --choose [--labels FILE]
"""

import os
import tempfile
import warnings
from pathlib import Path
from time import perf_counter

import joblib
import numpy as np
from common import RESULTS, clustering_accuracy, load_mnist, parser, spread, table, write_json
from lenet import as_classifier, choose, fit_student, teacher_labels, train_lenet, without_held_out
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from distill import CodebookCompressor, load
from distill.compressors.base import network_of
from distill.compressors.codebook.layers import relative_error
from distill.runtime.forward import layer_outputs
from distill.training.perceptron import initial_network

RATES = (0.01, 0.03, 0.1)
# Candidates of --choose. A scale for every neuron costs two bytes each; training codes needs many steps
CANDIDATES = (
    {},
    {"train_codes": True, "n_calibration": None, "max_iter": 10},
    {"n_groups": 512, "train_codes": True, "n_calibration": None, "max_iter": 30},
    {"solver": "gradient", "n_groups": 512, "train_codes": True, "n_calibration": None, "max_iter": 20},
)
PRICED_CANDIDATES = ({}, {"n_calibration": None, "max_iter": 5})
# Size of packed codes and a few percent
MAX_BYTES = {"lenet": {1: 34_500, 2: 68_000}, "student": {1: 28_500, 2: 56_000}}
# Choices of --choose
BEST = {
    "lenet": {1: CANDIDATES[3], 2: CANDIDATES[3]},
    "student": {1: CANDIDATES[2], 2: CANDIDATES[3]},
}
PRICED = {"lenet": PRICED_CANDIDATES[0], "student": PRICED_CANDIDATES[1]}


def main():
    line = parser(__doc__, "codebook")
    line.add_argument("--labels", type=Path, help="npz with train_labels and test_labels of a fitted MBN teacher")
    line.add_argument("--cache", type=Path, default=RESULTS / "cache", help="cache of trained networks")
    line.add_argument("--best", action="store_true", help="only the best settings of 1 and 2 bits")
    line.add_argument("--choose", action="store_true", help="only choose settings on the validation set")
    line.add_argument("--parts", default="lenet,student,digits", help="which of lenet, student, digits to run")
    options = line.parse_args()
    memory = joblib.Memory(options.cache, verbose=0)
    X, y, X_test, y_test = load_mnist(options.data)
    warm_up()
    if options.choose:
        choose_settings(X, y, memory, options)
        return
    results = {"seeds": options.seeds}
    for part in options.parts.split(","):
        if part == "lenet":
            results[part] = bench_lenet(X, y, X_test, y_test, options.seeds, memory, options.best)
        if part == "student":
            results[part] = bench_student(X, y, X_test, y_test, options.seeds, memory, options.labels, options.best)
        if part == "digits":
            results[part] = bench_digits(options.seeds)
        write_json(options.out, results)  # after every part, so that an interruption loses no results


# (a) LeNet-300-100 with labels


def bench_lenet(X, y, X_test, y_test, n_seeds, memory, best_only):
    runs, measured = [], memory.cache(compress, ignore=["X", "X_test", "estimator"])
    for seed in range(n_seeds):
        network = memory.cache(train_lenet)(X, y, seed)
        estimator = as_classifier(network, X, y)
        base = 100 * np.mean(estimator.predict(X_test) != y_test)
        for settings in settings_to_try("lenet", best_only):
            run = dict(measured(network, settings, seed, X=X, X_test=X_test, estimator=estimator))
            run["float_error"] = base
            run["error"] = 100 * float(np.mean(run.pop("predictions") != y_test))
            runs.append(run)
            print(
                f"seed {seed} {name_of(settings)}: {run['bytes']} bytes, error {run['error']:.2f} (float {base:.2f}), "
                f"{run['seconds']:.0f} s",
                flush=True,
            )
    columns = ["LeNet-300-100, labels", "bytes", "ratio", "error %", "float %", "loss", "output error", "fit s"]
    print_runs("Test error, mean +- standard deviation over seeds", columns, runs, "error", "float_error")
    return runs


# (b) the student of an unlabeled teacher


def bench_student(X, y, X_test, y_test, n_seeds, memory, path, best_only):
    labels, labels_test = teacher_labels(path, X, X_test, memory)
    runs, measured = [], memory.cache(compress, ignore=["X", "X_test", "estimator"])
    for seed in range(n_seeds):
        student = memory.cache(fit_student)(X, labels, seed)
        expected = student.predict(X_test)
        for settings in settings_to_try("student", best_only):
            run = dict(measured(student.to_bytes(), settings, seed, X=X, X_test=X_test, estimator=student))
            predictions = run.pop("predictions")
            run["agreement"] = 100 * float(np.mean(predictions == expected))
            run["acc"] = 100 * clustering_accuracy(y_test, predictions)
            run["float_acc"] = 100 * clustering_accuracy(y_test, expected)
            run["agreement_with_teacher"] = 100 * float(np.mean(predictions == labels_test))
            runs.append(run)
            print(
                f"seed {seed} {name_of(settings)}: {run['bytes']} bytes, agreement {run['agreement']:.2f}, ACC "
                f"{run['acc']:.2f} (float {run['float_acc']:.2f})",
                flush=True,
            )
    columns = ["unlabeled student", "bytes", "ratio", "agreement %", "ACC %", "loss", "output error", "fit s"]
    print_runs("Test images, mean +- standard deviation over seeds", columns, runs, "agreement", "acc")
    return runs


# shared by (a) and (b)


def settings_to_try(part, best_only):
    """Yield the best settings of 1 and 2 bits; then all solvers and bits; then prices per bit."""
    for bits, best in BEST[part].items():
        yield {"solver": "cd", "bits": bits, **best}
    if best_only:
        return
    for bits in (1, 2, 3):
        for solver in ("kmeans", "cd", "gradient"):
            if solver != "gradient" or bits < 3:
                yield {"solver": solver, "bits": bits, "max_iter": 0}
    for bits in (1, 2):
        yield {"solver": "kmeans", "bits": bits}
        yield {"solver": "cd", "bits": bits}
    for rate in RATES:
        yield {"solver": "cd", "bits": 2, "rate_weight": rate, **PRICED[part]}


def compress(network, settings, seed, *, X, X_test, estimator):
    """Compress a fitted estimator; return measurements, and the predictions of the loaded file for X_test.

    `network` identifies the estimator in the cache, so that an interrupted benchmark continues where it stopped.
    """
    compressor = CodebookCompressor(FrozenEstimator(estimator), random_state=seed, **settings)
    began = perf_counter()
    compressor.fit(X)
    took = perf_counter() - began
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.student"
        compressor.save(path)
        n_bytes, student = os.path.getsize(path), load(path)
    report = compressor.report_
    return {
        **settings,
        "name": name_of(settings),
        "seed": seed,
        "bytes": n_bytes,
        "ratio": report["ratio"],
        "parts": report["bytes"],
        "entropy": [layer["entropy"] for layer in report["layers"]],
        "output_error": output_error(compressor, X_test),
        "seconds": took,
        "predictions": student.predict(X_test),
    }


def output_error(compressor, X_test):
    """Return the squared error of the last layer's outputs on test images, as a fraction of their variance."""
    original = network_of(compressor.estimator_)
    samples = original.scale_inputs(X_test)
    targets, outputs = layer_outputs(original, samples)[-1], layer_outputs(compressor.network_, samples)[-1]
    return relative_error(outputs, targets)


def name_of(settings):
    name = f"{settings['solver']} {settings['bits']} bit"
    if "rate_weight" in settings:
        name += f", rate_weight {settings['rate_weight']:g}"
    if settings.get("train_codes"):
        name += ", codes trained"
    return name + (", no final training" if settings.get("max_iter") == 0 else "")


def print_runs(title, columns, runs, first, second):
    rows = []
    for name in dict.fromkeys(run["name"] for run in runs):
        of_name = [run for run in runs if run["name"] == name]
        mean = {
            key: float(np.mean([run[key] for run in of_name])) for key in ("bytes", "ratio", "output_error", "seconds")
        }
        loss = [
            run[first] - run["float_error"] if first == "error" else run["float_acc"] - run["acc"] for run in of_name
        ]
        rows.append(
            [
                name,
                round(mean["bytes"]),
                f"{mean['ratio']:.1f}",
                spread([run[first] for run in of_name]),
                spread([run[second] for run in of_name]),
                f"{np.mean(loss):+.2f}",
                mean["output_error"],
                f"{mean['seconds']:.1f}",
            ]
        )
    table(title, columns, rows)


# choice of settings, without the test images


def choose_settings(X, y, memory, options):
    """Choose settings for every network, and write all candidates to a JSON file."""
    found = {}
    for part in options.parts.split(","):
        if part in BEST:
            found[part] = choose_for(part, without_held_out(X, y), memory, options.labels)
            write_json(options.out.with_stem(options.out.stem + "_choice"), found)


def choose_for(part, images, memory, path):
    """Compress with every candidate; return their errors on the validation set and the choices."""
    X, y, X_validation, truth = images
    if part == "lenet":
        network = memory.cache(train_lenet)(X, y, 0)
        estimator = as_classifier(network, X, y)
    else:
        labels, _ = teacher_labels(path, X, X_validation, memory)
        estimator = memory.cache(fit_student)(X, labels[: len(X)], 0)
        network, truth = estimator.to_bytes(), estimator.predict(X_validation)
    measured = memory.cache(compress, ignore=["X", "X_test", "estimator"])

    def attempt(settings):
        run = measured(network, settings, 0, X=X, X_test=X_validation, estimator=estimator)
        error = 100 * float(np.mean(run["predictions"] != truth))
        return {"settings": settings, "error": error, "bytes": run["bytes"], "seconds": run["seconds"]}

    found = {"uncompressed_error": 100 * float(np.mean(estimator.predict(X_validation) != truth))}
    for bits, max_bytes in MAX_BYTES[part].items():
        tried = [attempt({"solver": "cd", "bits": bits, **candidate}) for candidate in CANDIDATES]
        found[f"{bits} bit"] = choose(f"{part}, {bits} bit", tried, most_bytes=max_bytes)
    tried = [attempt({"solver": "cd", "bits": 2, "rate_weight": RATES[1], **more}) for more in PRICED_CANDIDATES]
    found["priced"] = choose(f"{part}, rate_weight {RATES[1]:g}", tried)
    return found


# (c) scikit-learn's classifier


def bench_digits(n_seeds):
    X, y = load_digits(return_X_y=True)
    runs = []
    for seed in range(n_seeds):
        X_train, X_test, y_train, y_test = train_test_split(X / 16, y, test_size=0.3, random_state=seed, stratify=y)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            network = MLPClassifier((128, 64), max_iter=100, random_state=seed).fit(X_train, y_train)
        with tempfile.TemporaryDirectory() as folder:
            joblib.dump(network, Path(folder) / "network.joblib")
            dumped = os.path.getsize(Path(folder) / "network.joblib")
        raw = 4 * sum(array.size for array in network.coefs_ + network.intercepts_)
        for bits in (1, 2, 3):
            times = {}
            for solver in ("kmeans", "cd"):
                began = perf_counter()
                compressor = CodebookCompressor(FrozenEstimator(network), bits=bits, solver=solver, random_state=seed)
                compressor.fit(X_train)
                times[solver] = perf_counter() - began
            runs.append(
                {
                    "seed": seed,
                    "bits": bits,
                    "bytes": compressor.nbytes_,
                    "times_joblib": dumped / compressor.nbytes_,
                    "times_raw": raw / compressor.nbytes_,
                    "loss": 100 * (network.score(X_test, y_test) - compressor.score(X_test, y_test)),
                    "seconds_over_kmeans": times["cd"] / times["kmeans"],
                }
            )
    columns = ["bytes", "times_joblib", "times_raw", "loss", "seconds_over_kmeans"]
    rows = [
        [f"cd {bits} bit", *(spread([run[column] for run in runs if run["bits"] == bits]) for column in columns)]
        for bits in (1, 2, 3)
    ]
    table("MLPClassifier(128, 64) on digits", ["", *columns], rows)
    return runs


def warm_up():
    """Compile every kernel; the result is cached on disk."""
    X, y = load_digits(return_X_y=True)
    network = as_classifier(initial_arrays(), X, y)
    for solver in ("kmeans", "cd", "gradient"):
        CodebookCompressor(FrozenEstimator(network), solver=solver, max_iter=1, rate_weight=0.1).fit(X[:300])


def initial_arrays():
    network = initial_network((64, 8, 10))
    return network.weights, network.biases


if __name__ == "__main__":
    main()
