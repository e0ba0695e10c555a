"""RandomCodeCompressor on MNIST: bytes of real files against error.

(a) student: a student of an unlabelled MBN teacher, from 300 bytes to 10 kB: ACC and agreement with the teacher.
(b) lenet: LeNet-300-100 trained with labels, for comparison with published rows: error against the labels.
(c) speed: Mean-KL against Mean-Var, steps and seconds until the same held-out loss at the same budget.
(d) pruning: what is left of coded networks when their smallest weights are set to zero.

Both networks are 784-300-100-10 and are trained on images shifted by up to a pixel, the student with the teacher's
labels. Settings are chosen on the last 5000 training images, with the teacher's labels where there are no others, and
for one seed; test images are looked at once, from the files. The compressor is told that images are a grid
(`input_shape`); what happens without that is a row of its own.

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
# What is tried for every budget: hidden layers, number of waves, temperature
CANDIDATES = {
    300: [((28,), 42, 1.0)],
    500: [((36,), 49, 1.0)],
    1000: [((50,), 64, 1.0), ((50,), 64, 2.0)],
    2000: [((80,), 100, 2.0), ((100,), 81, 2.0)],
    4300: [((100,), 121, 2.0)],
    10000: [((200,), 225, 2.0)],
}
WITHOUT_GRID = (1000,)
# Choosing codes again takes minutes where there are many, and so does training after each of them
REFINEMENTS = {4300: 1, 10000: 0}
STEPS_BETWEEN_BLOCKS = {2000: 2, 4300: 1, 10000: 1}


def main():
    line = parser(__doc__, "random_code")
    line.add_argument(
        "--labels", type=Path, help="npz with train_labels and test_labels of an MBN teacher fitted before"
    )
    line.add_argument("--cache", type=Path, default=RESULTS / "cache", help="where whatever took long is kept")
    line.add_argument("--parts", default="student,lenet,speed,pruning", help="which of them to run")
    line.add_argument("--budgets", default=",".join(map(str, CANDIDATES)), help="bytes")
    line.add_argument("--rows", type=int, default=60000, help="training images, for a quick look at less")
    line.add_argument("--steps", type=int, default=12000, help="training steps before coding")
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
        "memory": memory,
    }
    results = {"seeds": options.seeds, "steps": options.steps, "rows": options.rows}
    if {"student", "speed", "pruning"} & set(parts):
        student = memory.cache(train_network)(data["X"], labels[:n_learned])
        valid = labels[n_learned : options.rows]
    if "student" in parts:
        print(f"teacher: ACC {100 * clustering_accuracy(y_test, labels_test):.2f}")
        results["student"] = bench_curve("student", student, valid, labels_test, budgets, options.seeds, data)
        write_json(options.out, results)
    if "lenet" in parts:
        network = memory.cache(train_network)(data["X"], y[:n_learned])
        valid = y[n_learned : options.rows]
        results["lenet"] = bench_curve("LeNet-300-100", network, valid, y_test, budgets, options.seeds, data)
        write_json(options.out, results)
    if "speed" in parts:
        results["speed"] = bench_speed(student, data, options.seeds)
        write_json(options.out, results)
    if "pruning" in parts:
        results["pruning"] = bench_pruning(student, data, options.seeds)
    write_json(options.out, results)


# networks that are imitated


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


def train_network(X, y):
    """Train 784-300-100-10 with labels, of a teacher or of people, and shifted images; returns it as a network."""
    module = Perceptron(initial_network((784, 300, 100, 10), "relu", 0, X.any(axis=0)))
    rows = training.DenseRows(torch.from_numpy(X), torch.from_numpy(y.astype(np.int64)))
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
    reference = scores(Student(network).predict(data["X_test"]), truth, data)
    print(f"{title}: uncompressed network {reference}")
    attempt = data["memory"].cache(compress, ignore=["X"])
    runs, rows = [], []
    for budget in budgets:
        candidates = CANDIDATES[budget]
        tried = [attempt(network, data["X"], budget, 0, data["n_steps"], *candidate) for candidate in candidates]
        judged = [float(np.mean(load(run["data"]).predict(data["X_valid"]) == valid)) for run in tried]
        for candidate, score, run in zip(candidates, judged, tried):
            print(f"{title}, {budget} bytes, {candidate}: {100 * score:.2f} on validation images, {run['loss']:.4f}")
        best = int(np.argmax(judged))
        ways = [("grid", candidates[best], seed) for seed in range(n_seeds)]
        if budget in WITHOUT_GRID:
            ways.append(("no grid", (candidates[best][0], None, 2.0), 0))
        for name, candidate, seed in ways:
            run = dict(attempt(network, data["X"], budget, seed, data["n_steps"], *candidate))
            student, began = load(run["data"]), perf_counter()
            load(run.pop("data"))
            decoding = perf_counter() - began
            measured = scores(student.predict(data["X_test"]), truth, data)
            runs.append({"budget": budget, "way": name, "settings": candidate, "seed": seed, **run, **measured})
            runs[-1]["decoding_seconds"] = decoding
            print(f"{title}, {runs[-1]}", flush=True)
        for name in ("grid", "no grid"):
            group = [run for run in runs if (run["budget"], run["way"]) == (budget, name)]
            if group:
                figures = [spread([run[name] for run in group]) for name in ("agreement", "acc", "error", "seconds")]
                settings = "{} units, {} waves, temperature {:g}".format(*group[0]["settings"])
                rows.append([budget, settings, max(run["bytes"] for run in group), *figures])
    columns = ["budget", "settings", "bytes", "agreement %", "ACC %", "error %", "fit s"]
    table(f"{title}: test images, mean +- standard deviation over seeds", columns, rows)
    return {"uncompressed": reference, "runs": runs}


def compress(network, X, budget, seed, n_steps, hidden, n_frequencies, temperature):
    """Return file, bytes, held-out loss and seconds."""
    shape = {} if n_frequencies is None else {"input_shape": GRID, "n_frequencies": n_frequencies}
    compressor = RandomCodeCompressor(
        Frozen(network),
        max_bytes=budget,
        hidden_layer_sizes=hidden,
        n_steps=n_steps,
        n_steps_between_blocks=STEPS_BETWEEN_BLOCKS.get(budget, 5),
        n_refinements=REFINEMENTS.get(budget, 4),
        temperature=temperature,
        random_state=seed,
        **shape,
    )
    began = perf_counter()
    compressor.fit(X)
    report = {name: compressor.report_[name] for name in ("loss", "agreement", "n_blocks", "n_numbers")}
    return {
        "data": compressor.to_bytes(),
        "bytes": compressor.nbytes_,
        "seconds": perf_counter() - began,
        "on_held_out": report,
        "loss": report["loss"],
    }


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
    longest = data["n_steps"]
    lengths = [longest // 2**halvings for halvings in (4, 3, 2, 1, 0)]
    tried = {
        "mean-kl": [{"learning_rate": rate} for rate in (2e-2, 4e-2, 8e-2)],
        "mean-var": [
            {"learning_rate": rate, "penalty_rate": change}
            for rate, change in product((2e-2, 4e-2, 8e-2), (3e-3, 1e-2, 3e-2))
        ],
    }
    attempt = data["memory"].cache(train_and_code, ignore=["X"])
    runs, best = [], {}
    for way, choices in tried.items():
        # Whatever suits the longest training of seed 0 is taken
        for choice in choices:
            runs.append(attempt(network, data["X"], 0, {"parameterization": way, "n_steps": longest, **choice}))
            print(runs[-1], flush=True)
        best[way] = min(runs[-len(choices) :], key=lambda run: run["loss"])["settings"]
    rows = []
    for seed in range(n_seeds):
        curve = {way: [] for way in tried}
        for way, n_steps in product(tried, lengths):
            run = attempt(network, data["X"], seed, {**best[way], "n_steps": n_steps})
            curve[way].append((n_steps, run["loss"], run["seconds"]))
            print(run, flush=True)
            runs.append(run)
        n_steps, goal, took = curve["mean-var"][-1]
        first = next((point for point in curve["mean-kl"] if point[1] <= goal), (np.nan, np.nan, np.nan))
        rows.append([seed, goal, n_steps, first[0], first[0] / n_steps, first[2] / took])
    columns = ["seed", "Mean-Var's last loss", "its steps", "Mean-KL's steps", "ratio of steps", "ratio of seconds"]
    table("Steps until the coded network has the same held-out loss", columns, rows)
    return {"best": best, "runs": runs}


def train_and_code(network, X, seed, settings):
    """Return the held-out loss of a network of about 1000 bytes, coded after training and not improved afterwards."""
    compressor = RandomCodeCompressor(
        None, max_bytes=1000, input_shape=GRID, n_frequencies=64, hidden_layer_sizes=(50,)
    )
    smaller = compressor._blank(network, seed)
    shared = SharedNetwork(compressor._plan(network, smaller, seed), network.activation)
    _, learned, held_out = _rows(network, shared, calibration_rows(X, network, None, 0.1, seed))
    means, log_scales = starting_point(shared, smaller)
    chosen = LearnerSettings(n_steps_between_blocks=0, n_refinements=0, seed=seed, **settings)
    learner = Learner(shared, learned, held_out, means, log_scales, chosen)
    with training.one_thread():
        began = perf_counter()
        learner.train()
        took = perf_counter() - began
        spent = learner.posterior.divergence() / np.log(2)
        learner.code()
        loss = mean_loss(shared, learner.numbers, torch.from_numpy(learner.scales().astype(np.float32)), held_out)
    return {
        "seed": seed,
        "n_steps": chosen.n_steps,
        "settings": {name: value for name, value in settings.items() if name != "n_steps"},
        "loss": loss,
        "seconds": took,
        "bits_per_block": [spent.min().item(), spent.mean().item(), spent.max().item()],
    }


# (d) pruning


def bench_pruning(network, data, n_seeds):
    """Set the smallest weights of coded networks to zero, layer by layer, and look at what they still answer."""
    attempt = data["memory"].cache(code_for_pruning, ignore=["X"])
    shares, rows, runs = (0.0, 0.2, 0.4, 0.6, 0.8), [], []
    wanted = Student(network).predict(data["X_test"])
    for way in ("mean-kl", "mean-var"):
        kept = np.zeros((n_seeds, len(shares)))
        for seed in range(n_seeds):
            coded = container.decode(attempt(network, data["X"], seed, way, data["n_steps"])).network
            for column, share in enumerate(shares):
                answers = Student(pruned(coded, share)).predict(data["X_test"])
                kept[seed, column] = 100 * np.mean(answers == wanted)
        runs.append({"parameterization": way, "agreement": kept.tolist()})
        rows.append([way, *[spread(column) for column in kept.T]])
    table("Agreement % with the wrapped network, by share of pruned weights", ["", *shares], rows)
    return runs


def code_for_pruning(network, X, seed, way, n_steps):
    """Return a file of 2000 bytes whose weights stand for themselves, not for waves."""
    compressor = RandomCodeCompressor(
        Frozen(network),
        max_bytes=2000,
        hidden_layer_sizes=(50,),
        n_steps=n_steps,
        n_refinements=0,
        parameterization=way,
        random_state=seed,
    )
    return compressor.fit(X).to_bytes()


def pruned(network, share):
    weights = []
    for weight in network.weights:
        size = np.abs(weight)
        weights.append(np.where(size < np.quantile(size, share), np.float32(0), weight))
    return replace(network, weights=tuple(weights))


if __name__ == "__main__":
    main()
