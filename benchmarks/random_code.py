"""RandomCodeCompressor on MNIST: bytes of real files against error.

(a) student: the student of an unlabelled MBN teacher, from 300 bytes to 10 kB: ACC and agreement with the teacher.
(b) lenet: LeNet-300-100 trained with labels, for comparison with published rows: error against the labels.
(c) speed: Mean-KL against Mean-Var, steps and seconds until the same held-out loss at the same budget.
(d) pruning: what is left of coded networks when their smallest weights are set to zero.

Settings are chosen on the last 5000 training images, by agreement with the teacher where there are no labels, and for
one seed; test images are looked at once, from the files. The images are said to be a grid (`input_shape`); what happens
without that is a row of its own.

    python benchmarks/random_code.py --data DIR [--seeds 3] [--labels FILE] [--parts student,lenet,speed,pruning]
"""

from dataclasses import replace
from itertools import product
from pathlib import Path
from time import perf_counter

import joblib
import numpy as np
import torch
from common import RESULTS, clustering_accuracy, load_mnist, parser, spread, table, write_json
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline

from distill import Distiller, load
from distill.codecs import container
from distill.compressors.base import calibration_rows, network_of
from distill.compressors.random_code import RandomCodeCompressor, _rows, starting_point
from distill.runtime import Student
from distill.solvers.random_code import SharedNetwork, mean_loss
from distill.solvers.random_code_learner import Learner, LearnerSettings
from distill.students import training
from distill.students.network import Perceptron, initial_network
from mbn import MultilayerBootstrapNetwork

N_VALIDATION = 5000
GRID = (28, 28)
BUDGETS = (300, 500, 1000, 2000, 4300, 10000)
# What is tried for every budget: hidden layers and frequencies
CANDIDATES = {
    300: [((24,), 36), ((32,), 36)],
    500: [((32,), 49), ((40,), 64)],
    1000: [((50,), 64), ((50,), 100), ((70,), 80)],
    2000: [((80,), 100), ((100,), 120), ((64, 32), 100)],
    4300: [((150,), 150), ((100, 40), 150)],
    10000: [((300,), 250), ((200, 60), 200)],
}


def main():
    line = parser(__doc__, "random_code")
    line.add_argument(
        "--labels", type=Path, help="npz with train_labels and test_labels of an MBN teacher fitted before"
    )
    line.add_argument("--cache", type=Path, default=RESULTS / "cache", help="where trained networks are kept")
    line.add_argument("--parts", default="student,lenet,speed,pruning", help="which of them to run")
    line.add_argument("--budgets", default=",".join(map(str, BUDGETS)), help="bytes")
    line.add_argument("--rows", type=int, default=60000, help="training images, for a quick look at less")
    line.add_argument("--steps", type=int, default=20000, help="training steps before coding")
    options = line.parse_args()
    parts, budgets = options.parts.split(","), [int(budget) for budget in options.budgets.split(",")]
    memory = joblib.Memory(options.cache, verbose=0)
    X, y, X_test, y_test = load_mnist(options.data)
    labels, labels_test = teacher_labels(options.labels, X, X_test, memory)
    n_learned = options.rows - N_VALIDATION
    data = {
        "X": X[:n_learned],
        "X_valid": X[n_learned : options.rows],
        "X_test": X_test,
        "y_test": y_test,
        "n_steps": options.steps,
    }
    results = {"seeds": options.seeds, "steps": options.steps}
    if {"student", "speed", "pruning"} & set(parts):
        student = network_of(memory.cache(fit_student)(data["X"], labels[:n_learned]))
        valid = labels[n_learned : options.rows]
    if "student" in parts:
        print(f"teacher: ACC {100 * clustering_accuracy(y_test, labels_test):.2f}")
        results["student"] = bench_curve("student", student, valid, labels_test, budgets, options.seeds, data)
    if "lenet" in parts:
        network = memory.cache(train_lenet)(X[:n_learned], y[:n_learned])
        results["lenet"] = bench_curve(
            "LeNet-300-100", network, y[n_learned : options.rows], y_test, budgets, options.seeds, data
        )
    if "speed" in parts:
        results["speed"] = bench_speed(student, data, options.seeds)
    if "pruning" in parts:
        results["pruning"] = bench_pruning(student, data, options.seeds)
    write_json(options.out, results)


# networks that are imitated


class Remembered(ClusterMixin, BaseEstimator):
    """A teacher that has been fitted before and remembers its labels of the training rows."""

    def __init__(self, labels):
        self.labels = labels

    def fit(self, X, y=None):
        self.labels_ = self.labels
        return self


def teacher_labels(path, X, X_test, memory):
    if path is None:
        return memory.cache(fit_teacher)(X, X_test)
    stored = np.load(path)
    return stored["train_labels"], stored["test_labels"]


def fit_teacher(X, X_test):
    teacher = make_pipeline(
        MultilayerBootstrapNetwork(n_jobs=-1, random_state=0), KMeans(10, n_init=10, random_state=0)
    ).fit(X)
    return teacher[-1].labels_, teacher.predict(X_test)


def fit_student(X, labels):
    return Distiller(Remembered(labels), hidden_layer_sizes=(256, 64), max_iter=30, random_state=0).fit(X)


def train_lenet(X, y):
    """Train 784-300-100-10 with labels and shifted images; returns it as a network."""
    module = Perceptron(initial_network((784, 300, 100, 10), "relu", 0, X.any(axis=0)))
    rows = training.DenseRows(torch.from_numpy(X), torch.from_numpy(y))
    generator = torch.Generator().manual_seed(0)

    def loss(module, rows, labels):
        down, across = torch.randint(-1, 2, (2,), generator=generator).tolist()
        shifted = torch.roll(rows.reshape(-1, *GRID), (down, across), (1, 2)).reshape(len(rows), -1)
        return training.cross_entropy(module(shifted), labels)

    training.train(module, loss, rows, batch_size=256, learning_rate=2e-3, max_iter=30, averaging=0.999, seed=0)
    weights, biases = module.arrays()
    estimator = MLPClassifier((300, 100), random_state=0).partial_fit(X[:100], y[:100], classes=np.unique(y))
    estimator.coefs_, estimator.intercepts_ = list(weights), list(biases)
    return network_of(estimator)


# (a) and (b): bytes against error


def bench_curve(title, network, valid, truth, budgets, n_seeds, data):
    """For every budget: choose on validation images, then score the files of several seeds on test images."""
    reference = Student(network).predict(data["X_test"])
    print(f"{title}: uncompressed network {scores(reference, truth, data)}")
    runs = []
    for budget in budgets:
        tried = [compress(network, budget, 0, data, *candidate) for candidate in CANDIDATES[budget]]
        judged = [float(np.mean(load(run["data"]).predict(data["X_valid"]) == valid)) for run in tried]
        best = int(np.argmax(judged))
        chosen = [tried[best]]
        chosen += [compress(network, budget, seed, data, *CANDIDATES[budget][best]) for seed in range(1, n_seeds)]
        plain = compress(network, budget, 0, data, CANDIDATES[budget][best][0], None)
        for name, group in ((str(CANDIDATES[budget][best]), chosen), ("no grid", [plain])):
            for run in group:
                answers = load(run.pop("data")).predict(data["X_test"])
                runs.append({"budget": budget, "settings": name, **run, **scores(answers, truth, data)})
                print(f"{title}, {runs[-1]}", flush=True)
    rows = []
    for key in dict.fromkeys((run["budget"], run["settings"]) for run in runs):
        group = [run for run in runs if (run["budget"], run["settings"]) == key]
        figures = [spread([run[name] for run in group]) for name in ("agreement", "acc", "error", "seconds")]
        rows.append([*key, max(run["bytes"] for run in group), *figures])
    columns = ["budget", "settings", "bytes", "agreement %", "ACC %", "error %", "fit s"]
    table(f"{title}: test images, mean +- standard deviation over seeds", columns, rows)
    return runs


def compress(network, budget, seed, data, hidden, n_frequencies):
    """Return file, bytes and seconds."""
    shape = {} if n_frequencies is None else {"input_shape": GRID, "n_frequencies": n_frequencies}
    compressor = RandomCodeCompressor(
        Frozen(network),
        max_bytes=budget,
        hidden_layer_sizes=hidden,
        n_steps=data["n_steps"],
        random_state=seed,
        **shape,
    )
    began = perf_counter()
    compressor.fit(data["X"])
    return {"data": compressor.to_bytes(), "bytes": compressor.nbytes_, "seconds": perf_counter() - began}


def Frozen(network):
    """The network as something to wrap: an estimator that is fitted already."""
    estimator = Distiller(KMeans(2))
    estimator._adopt(container.encode(network))
    estimator._input_section = (network.offset, network.scale)
    estimator.n_features_in_ = network.n_features
    return FrozenEstimator(estimator)


def scores(answers, truth, data):
    return {
        "agreement": 100 * float(np.mean(answers == truth)),
        "acc": 100 * clustering_accuracy(data["y_test"], answers.astype(int)),
        "error": 100 * float(np.mean(answers != data["y_test"])),
    }


# (c) Mean-KL against Mean-Var


def bench_speed(network, data, n_seeds):
    """Train for more and more steps, code, and compare held-out losses; each way with its own best settings."""
    lengths = [data["n_steps"] // 2**halvings for halvings in (5, 4, 3, 2, 1, 0)]
    ways = {
        "mean-kl": [{"learning_rate": rate} for rate in (3e-3, 1e-2, 3e-2)],
        "mean-var": [
            {"learning_rate": rate, "penalty_rate": change}
            for rate, change in product((3e-3, 1e-2, 3e-2), (3e-3, 3e-2))
        ],
    }
    runs = []
    for way, settings in ways.items():
        for index, n_steps in product(range(len(settings)), lengths):
            runs.append(train_and_code(network, data, 0, parameterization=way, n_steps=n_steps, **settings[index]))
            print(f"seed 0: {runs[-1]}", flush=True)
    best = {}
    for way in ways:
        # The same effort for both: the settings that are best at the longest training of seed 0
        last = [run for run in runs if run["parameterization"] == way and run["n_steps"] == lengths[-1]]
        best[way] = min(last, key=lambda run: run["loss"])["settings"]
        for seed, n_steps in product(range(1, n_seeds), lengths):
            runs.append(train_and_code(network, data, seed, parameterization=way, n_steps=n_steps, **best[way]))
    rows = []
    for seed in range(n_seeds):
        curve = {
            way: sorted(
                (run["n_steps"], run["loss"], run["seconds"])
                for run in runs
                if (run["seed"], run["parameterization"], run["settings"]) == (seed, way, best[way])
            )
            for way in ways
        }
        n_steps, goal, took = curve["mean-var"][-1]
        first = next((point for point in curve["mean-kl"] if point[1] <= goal), (np.nan, np.nan, np.nan))
        rows.append([seed, goal, n_steps, first[0], first[0] / n_steps, first[2] / took])
    columns = ["seed", "Mean-Var's last loss", "its steps", "Mean-KL's steps", "ratio of steps", "ratio of seconds"]
    table("Steps until the coded network has the same held-out loss", columns, rows)
    return runs


def train_and_code(network, data, seed, **settings):
    compressor = RandomCodeCompressor(
        None, max_bytes=1000, input_shape=GRID, n_frequencies=64, hidden_layer_sizes=(50,)
    )
    smaller = compressor._blank(network, seed)
    shared = SharedNetwork(compressor._plan(network, smaller, seed), network.activation)
    _, learned, held_out = _rows(network, shared, calibration_rows(data["X"], network, None, 0.1, seed))
    means, log_scales = starting_point(shared, smaller)
    settings = LearnerSettings(n_steps_between_blocks=0, n_refinements=0, seed=seed, **settings)
    learner = Learner(shared, learned, held_out, means, log_scales, settings)
    with training.one_thread():
        began = perf_counter()
        learner.train()
        took = perf_counter() - began
        learner.code()
        loss = mean_loss(shared, learner.numbers, torch.from_numpy(learner.scales().astype(np.float32)), held_out)
    names = ("learning_rate",) if settings.parameterization == "mean-kl" else ("learning_rate", "penalty_rate")
    return {
        "seed": seed,
        "parameterization": settings.parameterization,
        "n_steps": settings.n_steps,
        "settings": {name: getattr(settings, name) for name in names},
        "loss": loss,
        "seconds": took,
    }


# (d) pruning


def bench_pruning(network, data, n_seeds):
    """Set the smallest weights of coded networks to zero, layer by layer, and look at what they still answer."""
    shares, rows, runs = (0.0, 0.2, 0.4, 0.6, 0.8), [], []
    wanted = Student(network).predict(data["X_test"])
    for way in ("mean-kl", "mean-var"):
        kept = np.zeros((n_seeds, len(shares)))
        for seed in range(n_seeds):
            compressor = RandomCodeCompressor(
                Frozen(network),
                max_bytes=2000,
                hidden_layer_sizes=(100,),
                n_steps=data["n_steps"],
                n_refinements=0,
                parameterization=way,
                random_state=seed,
            ).fit(data["X"])
            for column, share in enumerate(shares):
                answers = Student(pruned(compressor.network_, share)).predict(data["X_test"])
                kept[seed, column] = 100 * np.mean(answers == wanted)
        runs.append({"parameterization": way, "agreement": kept.tolist()})
        rows.append([way, *[spread(column) for column in kept.T]])
    table("Agreement % with the wrapped network, by share of pruned weights", ["", *shares], rows)
    return runs


def pruned(network, share):
    weights = []
    for weight in network.weights:
        size = np.abs(weight)
        weights.append(np.where(size < np.quantile(size, share), np.float32(0), weight))
    return replace(network, weights=tuple(weights))


if __name__ == "__main__":
    main()
