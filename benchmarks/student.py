"""Latency, throughput, import, loading and size of the student file, against onnxruntime and torch.

All speeds are measured in one process, alternating between the competitors, with the same number of threads for all,
and given as ratios. Rows are held-out digits of scikit-learn's bundled set, 8 x 8 pixels and enlarged to 28 x 28.
Single rows are predicted one after another, so that the times include the rare rows whose labels are too close for the
fast kernel.

    python benchmarks/student.py
"""

import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from time import perf_counter

import numpy as np
import onnxruntime
import torch
from common import parser, table, write_json
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier
from threadpoolctl import threadpool_limits

from distill import Distiller
from distill.base import student_attributes
from distill.codecs import container, entropy
from distill.codecs.reader import Reader
from distill.network import Network
from distill.onnx import to_onnx
from distill.runtime import Student, load
from distill.runtime.forward import prepare
from distill.runtime.single_row import SingleRowClassifier

SIZES = {"64-32-10": (32,), "784-256-64-10": (256, 64)}
BATCH = 10_000
N_SINGLES = 300


def main() -> None:
    line = parser(__doc__, "student", data=False)
    line.add_argument("--repeat", type=int, default=25, help="repetitions for every competitor")
    options = line.parse_args()
    results = {}
    for name, hidden in SIZES.items():
        network, X = trained_network(hidden)
        for n_threads in (1, 2):
            with threads(n_threads):
                results[f"{name}, {n_threads} threads"] = speeds(network, X, n_threads, options.repeat)
    print_speeds(results)
    results["import"] = import_times()
    results["files"] = {name: file_costs(trained_network(hidden)[0]) for name, hidden in SIZES.items()}
    results["entropy"] = entropy_costs()
    print_costs(results)
    write_json(options.out, results)


def trained_network(hidden: tuple[int, ...]) -> tuple[Network, np.ndarray]:
    """Return a classifier of digits as a network, and held-out rows."""
    X, y = load_digits(return_X_y=True)
    X = X.reshape(-1, 8, 8)
    if len(hidden) > 1:
        # Linear interpolation to 28 x 28
        places = np.linspace(0, 7, 28)
        weight = np.maximum(0, 1 - np.abs(places[:, None] - np.arange(8)))
        X = weight @ X @ weight.T
    X = np.ascontiguousarray(X.reshape(len(X), -1), np.float32) / 16
    mlp = MLPClassifier(hidden, early_stopping=True, random_state=0).fit(X[N_SINGLES:], y[N_SINGLES:])
    weights = tuple(weight.astype(np.float32) for weight in mlp.coefs_)
    biases = tuple(bias.astype(np.float32) for bias in mlp.intercepts_)
    return Network(weights, biases, "relu", "predict", "softmax", mlp.classes_), X[:N_SINGLES]


def fitted_estimator(data: bytes, n_features: int) -> Distiller:
    """Return an estimator that predicts with the student in `data`, as after a fit."""
    estimator = Distiller(MLPClassifier())
    vars(estimator).update(student_attributes(data), n_features_in_=n_features)
    return estimator


@contextmanager
def threads(count: int):
    """Limit NumPy and torch to this number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    with threadpool_limits(count):
        yield
    torch.set_num_threads(before)


def speeds(network: Network, X: np.ndarray, n_threads: int, repeat: int) -> dict:
    """Return microseconds, for a single row and for each row of a batch."""
    data = container.encode(network)
    student, estimator = load(data), fitted_estimator(data, X.shape[1])
    session, logits = onnx_sessions(student, n_threads)
    module = torch_module(network)
    singles = [X[index : index + 1] for index in range(len(X))]
    doubles, tensors = [row.astype(np.float64) for row in singles], [torch.from_numpy(row) for row in singles]
    batch = np.tile(X, (-(-BATCH // len(X)), 1))[:BATCH]
    tensor = torch.from_numpy(batch)
    with torch.inference_mode():
        one = alternate(
            {
                "predict": lambda index: student.predict(singles[index]),
                "predict, float64": lambda index: student.predict(doubles[index]),
                "predict of the estimator": lambda index: estimator.predict(singles[index]),
                "predict_proba": lambda index: student.predict_proba(singles[index]),
                "onnxruntime labels": lambda index: session.run(["label"], {"X": singles[index]}),
                "onnxruntime logits": lambda index: logits.run(None, {"X": singles[index]}),
                "torch logits": lambda index: module(tensors[index]),
            },
            range(N_SINGLES),
            repeat,
        )
        many = alternate(
            {
                "predict": lambda index: student.predict(batch),
                "raw_outputs": lambda index: student.raw_outputs(batch),
                "onnxruntime labels": lambda index: session.run(["label"], {"X": batch}),
                "torch labels": lambda index: module(tensor).argmax(dim=1),
                "torch logits": lambda index: module(tensor),
            },
            range(1),
            repeat,
        )
    single_row = SingleRowClassifier(prepare(student.network), student.network.activation)
    return {
        "certain": float(np.mean([single_row.label(row) >= 0 for row in singles])),
        "one": {name: 1e6 * time for name, time in one.items()},
        "many": {name: 1e6 * time / BATCH for name, time in many.items()},
    }


def alternate(competitors: dict[str, Callable], indices: range, repeat: int = 15) -> dict[str, float]:
    """Return the mean seconds of a call of each in its fastest repetition, measured in turns."""
    best = dict.fromkeys(competitors, np.inf)
    for _ in range(repeat):
        for name, call in competitors.items():
            call(0)
            began = perf_counter()
            for index in indices:
                call(index)
            best[name] = min(best[name], (perf_counter() - began) / len(indices))
    return best


def onnx_sessions(
    student: Student, n_threads: int
) -> tuple[onnxruntime.InferenceSession, onnxruntime.InferenceSession]:
    """Return a session with labels as output, and one with logits."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = n_threads
    network = student.network
    bare = Student(Network(network.weights, network.biases, network.activation))
    return tuple(
        onnxruntime.InferenceSession(to_onnx(each).SerializeToString(), options, providers=["CPUExecutionProvider"])
        for each in (student, bare)
    )


def torch_module(network: Network) -> torch.nn.Sequential:
    """Return the same network in torch."""
    layers = []
    for weight, bias in zip(network.weights, network.biases):
        linear = torch.nn.Linear(*weight.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(weight.T))
            linear.bias.copy_(torch.from_numpy(bias))
        layers += [linear, torch.nn.ReLU()]
    return torch.nn.Sequential(*layers[:-1])


def import_times(repeat: int = 15) -> dict[str, float]:
    """Return the seconds of two imports, each in a fresh interpreter, in turns."""
    times = {"numpy": [], "distill.runtime": []}
    for _ in range(repeat):
        for name, found in times.items():
            code = f"import time; began = time.perf_counter(); import {name}; print(time.perf_counter() - began)"
            found.append(float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout))
    return {name: min(found) for name, found in times.items()}


def file_costs(network: Network) -> dict[str, float]:
    """Return the bytes of a file beyond its weights, and the times of loading and the first call."""
    data = container.encode(network)
    student = load(data)
    loading = alternate({"load": lambda index: load(data)}, range(1))["load"]
    began = perf_counter()
    student.predict(np.zeros((2, network.n_features), np.float32))
    first = perf_counter() - began
    return {
        "bytes": len(data),
        "overhead": len(data) - 4 * network.n_parameters,
        "load ms": 1e3 * loading,
        "first call ms": 1e3 * first,
    }


def entropy_costs() -> dict[str, dict[str, float]]:
    """Return the bytes of coded symbols beyond their entropy, and the time of decoding."""
    costs = {}
    for name, weights in {
        "1 bit": [1, 1],
        "2 bits": [1, 1, 1, 1],
        "8 % not zero": [92, 2, 2, 2, 2],
        "1 % not zero": [99, 0.5, 0.5],
    }.items():
        probabilities = np.array(weights) / np.sum(weights)
        symbols = np.random.default_rng(0).choice(len(weights), 266_000, p=probabilities)
        frequency = np.bincount(symbols) / len(symbols)
        ideal = -len(symbols) * (frequency @ np.log2(frequency)) / 8
        data = entropy.encode(symbols, len(weights))
        decoding = alternate({"decode": partial(_decode, data, len(weights))}, range(1), 5)
        costs[name] = {"bytes": len(data), "above entropy": len(data) - ideal, "decode ms": 1e3 * decoding["decode"]}
    return costs


def _decode(data: bytes, n_symbols: int, index: int) -> None:
    entropy.decode(Reader(data), 266_000, n_symbols)


def print_speeds(results: dict) -> None:
    for case, found in results.items():
        one, many = found["one"], found["many"]
        rows = [
            [name, time, one["onnxruntime labels"] / time, one["torch logits"] / time] for name, time in one.items()
        ]
        table(
            f"{case}: one row ({found['certain']:.1%} certain)",
            ["", "us", "onnxruntime labels / this", "torch logits / this"],
            rows,
        )
        rows = [
            [name, time, many["onnxruntime labels"] / time, many["torch logits"] / time] for name, time in many.items()
        ]
        table(
            f"{case}: {BATCH} rows",
            ["", "us per row", "onnxruntime labels / this", "torch logits / this"],
            rows,
        )


def print_costs(results: dict) -> None:
    times = results["import"]
    table(
        "import, in a fresh interpreter",
        ["", "ms", "ratio"],
        [[name, 1e3 * time, time / times["numpy"]] for name, time in times.items()],
    )
    table(
        "files in float32",
        ["", "bytes", "beyond weights", "load ms", "first call ms"],
        [[name, *cost.values()] for name, cost in results["files"].items()],
    )
    table(
        "266000 entropy-coded symbols",
        ["", "bytes", "above entropy", "decode ms"],
        [[name, *cost.values()] for name, cost in results["entropy"].items()],
    )


if __name__ == "__main__":
    main()
