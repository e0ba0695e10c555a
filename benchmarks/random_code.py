"""RandomCodeCompressor on MNIST: bytes of real files against error.

(a) student: a student of an unlabelled MBN teacher, from 300 bytes to 10 kB: ACC and agreement with the teacher.
(b) lenet: LeNet-300-100 trained with labels, for comparison with published rows: error against the labels.
(c) speed: Mean-KL against Mean-Var, steps until the same held-out loss at the same budget; published: the same with
    Mean-Var's penalties as in the code of its authors, which takes long.
(d) pruning: what is left of coded networks when their smallest weights are set to zero.

Both networks are 784-300-100-10 and are trained on images shifted by up to a pixel, the student with the teacher's
labels. Where there are several candidates for a budget, the last 5000 training images choose, with the teacher's labels
where there are no others, and for one seed; test images are looked at once, from the files. (docs/random_code.md says
how the candidates came about.) The compressor is told that images are a grid (`input_shape`); what happens without that
is a row of its own.

    python benchmarks/random_code.py --data DIR [--seeds 3] [--labels FILE] [--parts student,lenet,speed]
"""

from dataclasses import replace
from itertools import product
from pathlib import Path
from time import perf_counter, process_time
from typing import NamedTuple

import joblib
import numpy as np
import torch
from common import RESULTS, clustering_accuracy, load_mnist, parser, spread, table, write_json
from lenet import N_VALIDATION, teacher_labels
from sklearn.cluster import KMeans
from sklearn.frozen import FrozenEstimator
from sklearn.neural_network import MLPClassifier

from distill import Distiller, load
from distill.codecs import container
from distill.codecs.random_code import Layout
from distill.compressors.base import network_of
from distill.compressors.random_code.estimator import RandomCodeCompressor, _rows, starting_point
from distill.compressors.random_code.learner import Learner, LearnerSettings
from distill.compressors.random_code.refinement import SharedNetwork, mean_loss
from distill.runtime import Student
from distill.training.device import one_thread
from distill.training.loop import train
from distill.training.losses import cross_entropy
from distill.training.perceptron import Perceptron, initial_network
from distill.training.samples import DenseRows
from distill.training.targets import draw_calibration

LENET = "LeNet-300-100"
GRID = (28, 28)


class Settings(NamedTuple):
    """What is chosen for a budget; `copies`: how often the images are fitted besides, shifted by up to a pixel."""

    hidden: tuple[int, ...]
    waves: int | None
    temperature: float
    learning_rate: float = 2e-2
    copies: int = 0


# What is tried for every budget
CANDIDATES = {
    300: [Settings((28,), 42, 1.0), Settings((36,), 36, 1.0)],
    500: [Settings((36,), 49, 1.0), Settings((45,), 42, 1.0)],
    1000: [Settings((50,), 64, 1.0), Settings((50,), 64, 2.0)],
    2000: [Settings((80,), 100, 2.0), Settings((100,), 81, 2.0)],
    4300: [Settings((100,), 121, 2.0)],
    10000: [Settings((200,), 225, 2.0)],
}
CANDIDATES_WITH_LABELS = {2000: [Settings((100,), 81, 2.0, 4e-2, copies=1)]}
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
    line.add_argument("--parts", default="student,lenet,speed,published,pruning", help="which of them to run")
    line.add_argument("--budgets", default=",".join(map(str, CANDIDATES)), help="bytes")
    line.add_argument("--rows", type=int, default=60000, help="training images, for a quick look at less")
    line.add_argument(
        "--steps", type=int, default=12000, help="training steps before coding; half in (c), a third in (d)"
    )
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
    if {"student", "speed", "published", "pruning"} & set(parts):
        student = memory.cache(train_network)(data["X"], labels[:n_learned])
        valid = labels[n_learned : options.rows]
    if "student" in parts:
        print(f"teacher: ACC {100 * clustering_accuracy(y_test, labels_test):.2f}")
        results["student"] = bench_curve("student", student, valid, labels_test, budgets, options.seeds, data)
        write_json(options.out, results)
    if "lenet" in parts:
        network = memory.cache(train_network)(data["X"], y[:n_learned])
        valid = y[n_learned : options.rows]
        results["lenet"] = bench_curve(LENET, network, valid, y_test, budgets, options.seeds, data)
        write_json(options.out, results)
    if "speed" in parts:
        results["speed"] = bench_speed(student, {**data, "n_steps": options.steps // 2}, options.seeds)
        write_json(options.out, results)
    if "published" in parts:
        results["published"] = bench_published(student, {**data, "n_steps": options.steps // 2}, options.seeds)
        write_json(options.out, results)
    if "pruning" in parts:
        results["pruning"] = bench_pruning(student, {**data, "n_steps": options.steps // 3}, options.seeds)
    write_json(options.out, results)


# networks that are imitated


def train_network(X, y):
    """Train 784-300-100-10 with labels, of a teacher or of people, and shifted images; returns it as a network."""
    module = Perceptron(initial_network((784, 300, 100, 10), "relu", 0, X.any(axis=0)))
    rows = DenseRows(torch.from_numpy(X), torch.from_numpy(y.astype(np.int64)))
    generator = torch.Generator().manual_seed(0)

    def loss(module, rows, labels):
        down, across = torch.randint(-1, 2, (2,), generator=generator).tolist()
        shifted = torch.roll(rows.reshape(-1, *GRID), (down, across), (1, 2)).reshape(len(rows), -1)
        return cross_entropy(module(shifted), labels)

    train(module, loss, rows, batch_size=256, learning_rate=2e-3, max_iter=30, averaging=0.999, seed=0)
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
        candidates = CANDIDATES[budget] + (CANDIDATES_WITH_LABELS.get(budget, []) if title == LENET else [])
        tried = [attempt(network, data["X"], budget, 0, data["n_steps"], candidate) for candidate in candidates]
        judged = [float(np.mean(load(run["data"]).predict(data["X_valid"]) == valid)) for run in tried]
        for candidate, score, run in zip(candidates, judged, tried):
            print(f"{title}, {budget} bytes, {candidate}: {100 * score:.2f} on validation images, {run['loss']:.4f}")
        best = int(np.argmax(judged))
        ways = [("grid", candidates[best], seed) for seed in range(n_seeds)]
        if budget in WITHOUT_GRID:
            ways.append(("no grid", candidates[best]._replace(waves=None), 0))
        for name, candidate, seed in ways:
            run = dict(attempt(network, data["X"], budget, seed, data["n_steps"], candidate))
            student, began = load(run["data"]), perf_counter()
            load(run.pop("data"))
            decoding = perf_counter() - began
            measured = scores(student.predict(data["X_test"]), truth, data)
            runs.append(
                {"budget": budget, "way": name, "settings": candidate._asdict(), "seed": seed, **run, **measured}
            )
            runs[-1]["decoding_seconds"] = decoding
            print(f"{title}, {runs[-1]}", flush=True)
        for name in ("grid", "no grid"):
            group = [run for run in runs if (run["budget"], run["way"]) == (budget, name)]
            if group:
                figures = [spread([run[name] for run in group]) for name in ("agreement", "acc", "error", "seconds")]
                settings = "{hidden} units, {waves} waves, T {temperature:g}, rate {learning_rate:g}, {copies} copies"
                settings = settings.format(**group[0]["settings"])
                rows.append([budget, settings, max(run["bytes"] for run in group), *figures])
    columns = ["budget", "settings", "bytes", "agreement %", "ACC %", "error %", "fit s"]
    table(f"{title}: test images, mean +- standard deviation over seeds", columns, rows)
    return {"uncompressed": reference, "runs": runs}


def compress(network, X, budget, seed, n_steps, settings):
    """Return file, bytes, held-out loss and seconds."""
    shape = {} if settings.waves is None else {"input_shape": GRID, "n_frequencies": settings.waves}
    compressor = RandomCodeCompressor(
        Frozen(network),
        max_bytes=budget,
        hidden_layer_sizes=settings.hidden,
        n_steps=n_steps,
        n_steps_between_blocks=STEPS_BETWEEN_BLOCKS.get(budget, 5),
        n_refinements=REFINEMENTS.get(budget, 4),
        temperature=settings.temperature,
        learning_rate_init=settings.learning_rate,
        random_state=seed,
        **shape,
    )
    rows = np.concatenate([X, *[shifted(X, copy) for copy in range(settings.copies)]])
    began = perf_counter()
    compressor.fit(rows)
    report = {name: compressor.report_[name] for name in ("loss", "agreement", "n_blocks", "n_numbers")}
    return {
        "data": compressor.to_bytes(),
        "bytes": compressor.nbytes_,
        "seconds": perf_counter() - began,
        "on_held_out": report,
        "loss": report["loss"],
    }


def shifted(X, seed):
    """The images, each shifted by up to a pixel down and across."""
    images, moved = X.reshape(-1, *GRID), np.empty((len(X), *GRID), np.float32)
    ways = np.random.default_rng(seed).integers(9, size=len(X))
    for way in range(9):
        moved[ways == way] = np.roll(images[ways == way], (way // 3 - 1, way % 3 - 1), (1, 2))
    return moved.reshape(X.shape)


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

# Hidden units, waves, numbers in a block and bits of a block: a third of a bit for a number, as where both
# parameterisations were published, and two bits, as in the files above
REGIMES = {"1/3 bit a number": (100, 100, 30, 10), "2 bits a number": (50, 64, 6, 12)}
N_POINTS = 24
PRUNED_SHARES = (0.0, 0.2, 0.4, 0.6, 0.8)
RATES, PENALTY_RATES = (2e-2, 4e-2, 8e-2), (3e-3, 1e-2)
# Penalties and variances of Mean-Var as they begin and move in the code of its authors
PUBLISHED_LENGTH = 20  # times as many steps as the others
PUBLISHED = {"learning_rate": 2e-2, "penalty": 1e-8, "penalty_rate": 1e-4, "log_variance": -16.0}


def bench_speed(network, data, n_seeds):
    """Let both learn from random weights with constant learning rates, and note when they reach which loss."""
    attempt = data["memory"].cache(learning_curve, ignore=["X"])
    n_steps = data["n_steps"]
    choices = {
        "mean-kl": [{"learning_rate": rate} for rate in RATES],
        "mean-var": [{"learning_rate": rate, "penalty_rate": change} for rate, change in product(RATES, PENALTY_RATES)],
    }
    results, rows = {}, []
    for regime in REGIMES:
        best = {}
        for way, settings in choices.items():
            # Whatever has the smallest loss at the end of seed 0 is taken
            tried = [attempt(network, data["X"], 0, regime, way, n_steps, choice) for choice in settings]
            for choice, points in zip(settings, tried):
                print(f"{regime}, {way}, {choice}: {points[-1]}", flush=True)
            best[way] = min(zip(settings, tried), key=lambda pair: pair[1][-1]["loss"])[0]
        results[regime] = {"best": best, "curves": []}
        for seed in range(n_seeds):
            curves = {way: attempt(network, data["X"], seed, regime, way, n_steps, best[way]) for way in choices}
            results[regime]["curves"].append(curves)
            last = curves["mean-var"][-1]["loss"]
            for times in (2, 1.5, 1.2, 1.1, 1.02):
                usual, ours = (
                    steps_to_loss(curves[way], times * last, REGIMES[regime][-1]) for way in ("mean-var", "mean-kl")
                )
                ratios = (ours["step"] / usual["step"], ours["seconds"] / usual["seconds"])
                rows.append([regime, seed, times, times * last, usual["step"], ours["step"], *ratios])
    columns = ["", "seed", "times Mean-Var's last loss", "loss", "its steps", "Mean-KL's", "ratio", "of seconds"]
    table("Steps until held-out loss and budget are reached", columns, rows)
    return results


def bench_published(network, data, n_seeds):
    """Let Mean-Var learn with the penalties of its authors; note when Mean-KL has what that ends with."""
    attempt = data["memory"].cache(learning_curve, ignore=["X"])
    regime, n_steps = "1/3 bit a number", PUBLISHED_LENGTH * data["n_steps"]
    runs, rows = [], []
    for seed in range(n_seeds):
        points = attempt(network, data["X"], seed, regime, "mean-var", n_steps, PUBLISHED)
        settings = {"learning_rate": PUBLISHED["learning_rate"]}
        curve = attempt(network, data["X"], seed, regime, "mean-kl", n_steps // 4, settings)
        usual, ours = (steps_to_loss(each, points[-1]["loss"], REGIMES[regime][-1]) for each in (points, curve))
        runs.append({"seed": seed, "mean-var": points, "mean-kl": curve})
        steps = usual["step"], ours["step"], ours["step"] / usual["step"]
        rows.append([seed, points[-1]["loss"], *steps, curve[-1]["loss"]])
        print(f"Mean-Var with the penalties of its authors, seed {seed}: {points}", flush=True)
    columns = ["seed", "its last loss", "steps to it", "Mean-KL's", "ratio", "Mean-KL's last loss"]
    table("Mean-Var with the penalties of its authors", columns, rows)
    return runs


def steps_to_loss(points, loss, n_bits):
    """Return the first point of a curve with this loss, or less, at which a block is worth what it may cost."""
    reached = (point for point in points if point["loss"] <= loss and point["bits"][1] <= 1.01 * n_bits)
    return next(reached, {"loss": np.nan, "step": np.nan, "seconds": np.nan})


def learning_curve(network, X, seed, regime, way, n_steps, settings):
    """Return, for some steps of a training, the expected held-out loss and what blocks are worth."""
    hidden, waves, block_size, bits = REGIMES[regime]
    blank = RandomCodeCompressor(None, hidden_layer_sizes=(hidden,))._blank(network, seed)
    shapes = tuple(weight.shape for weight in blank.weights)
    one_block = Layout(shapes, (1, 1), bits, 1, seed, GRID, waves)
    shared = SharedNetwork(replace(one_block, n_blocks=-(-one_block.n_numbers // block_size)), network.activation)
    _, learned, held_out = _rows(network, shared, draw_calibration(X, network, None, 0.1, seed))
    settings = dict(settings)
    log_variance = settings.pop("log_variance", None)
    chosen = LearnerSettings(way, n_steps, 0, 0, seed=seed, **settings)
    learner = Learner(shared, learned, held_out, *starting_point(shared, blank), chosen)
    if log_variance is not None:
        learner.posterior.log_variance.data[shared.used] = log_variance
    points, took = [], 0.0
    with one_thread():
        for step in range(1, n_steps + 1):
            began = process_time()
            learner._step(min(1.0, step / 100))
            took += process_time() - began
            if step % (n_steps // N_POINTS) == 0:
                points.append({"step": step, "seconds": took, **expected_loss(learner)})
        learner.code()
    points[-1] |= as_coded(learner)
    return points


@torch.no_grad()
def expected_loss(learner, n_draws=4):
    """Return the mean held-out loss of draws from the posterior, and bits of blocks: least, mean and most."""
    generator, learner.generator = learner.generator, torch.Generator().manual_seed(1)
    scales = learner.log_scales.exp()
    losses = [mean_loss(learner.network, learner.sample(), scales, learner.held_out) for _ in range(n_draws)]
    learner.generator = generator
    spent = learner.posterior.divergence() / np.log(2)
    return {"loss": float(np.mean(losses)), "bits": [spent.min().item(), spent.mean().item(), spent.max().item()]}


@torch.no_grad()
def as_coded(learner):
    """Return the held-out loss of a coded network, agreement when its smallest weights are zero, and tails of means."""
    scales, held_out = torch.from_numpy(learner.scales().astype(np.float32)), learner.held_out
    layers, wanted, kept = learner.network.layers(learner.numbers, scales), held_out.targets.argmax(dim=1), []
    for share in PRUNED_SHARES:
        some = [
            (torch.where(weight.abs() < weight.abs().quantile(share), 0.0, weight), bias) for weight, bias in layers
        ]
        answers = learner.network.outputs(held_out.inputs, some).argmax(dim=1)
        kept.append(100 * (answers == wanted).double().mean().item())
    means = learner.posterior()[0][learner.network.used].double()
    kurtosis = (means**4).mean() / (means**2).mean() ** 2
    loss = mean_loss(learner.network, learner.numbers, scales, held_out)
    return {"coded": loss, "agreement_pruned": kept, "kurtosis_of_means": kurtosis.item()}


# (d) pruning


def bench_pruning(network, data, n_seeds):
    """Set the smallest weights of coded networks to zero, layer by layer, and look at what they still answer."""
    attempt = data["memory"].cache(code_for_pruning, ignore=["X"])
    shares, rows, runs = PRUNED_SHARES, [], []
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
