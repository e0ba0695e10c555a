"""RandomCodeCompressor on MNIST: bytes of real files against error.

(a) student: a student of an unlabeled MBN teacher, from 300 bytes to 10 kB: ACC and agreement with the teacher.
(b) lenet: LeNet-300-100 trained with labels, for comparison with published results: error against the labels.
(c) speed: Mean-KL against Mean-Var, steps until the same validation loss at the same budget; published: the same with
    Mean-Var's penalties as in the code of its authors, which takes long.
(d) pruning: agreement of coded networks with the original one when their smallest weights are set to zero.

Both networks are 784-300-100-10 and are trained on images shifted by up to a pixel, the student with the teacher's
labels. Where a budget has several candidates, one is chosen by its accuracy on the last 5000 training images, with the
teacher's labels in (a), for one seed; test images are scored once, from the files. (For the origin of the candidates
see docs/results/random_code.md.) The compressor gets the grid of the images (`input_shape`); one row is without it.

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
from lenet import N_VALIDATION, as_classifier, teacher_labels
from sklearn.frozen import FrozenEstimator

from distill import RandomCodeCompressor, load
from distill.codecs import container
from distill.codecs.random_code import Layout
from distill.compressors.base import network_of
from distill.compressors.random_code.layout_search import blank_network
from distill.compressors.random_code.learner import Learner, LearnerSettings, distillation_samples, initial_means
from distill.compressors.random_code.mean_kl import MeanKL
from distill.compressors.random_code.mean_var import MeanVar
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
    """Settings for a budget; `copies`: how many copies of the images, shifted by up to a pixel, are added."""

    hidden: tuple[int, ...]
    waves: int | None
    temperature: float
    learning_rate: float = 2e-2
    copies: int = 0


# Candidates for each budget; the choice is by validation images
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
# Refinements and training between blocks take minutes where there are many blocks
REFINEMENTS = {4300: 1, 10000: 0}
STEPS_BETWEEN_BLOCKS = {2000: 2, 4300: 1, 10000: 1}


def main():
    """Run the chosen parts and write the results after each."""
    line = parser(__doc__, "random_code")
    line.add_argument(
        "--labels", type=Path, help="npz with train_labels and test_labels of an MBN teacher fitted before"
    )
    line.add_argument("--cache", type=Path, default=RESULTS / "cache", help="cache of networks and files")
    line.add_argument("--parts", default="student,lenet,speed,published,pruning", help="parts to run")
    line.add_argument("--budgets", default=",".join(map(str, CANDIDATES)), help="bytes")
    line.add_argument("--rows", type=int, default=60000, help="number of training images, fewer for a quick run")
    line.add_argument(
        "--steps", type=int, default=12000, help="training steps before coding; half in (c), a third in (d)"
    )
    options = line.parse_args()
    parts, budgets = options.parts.split(","), [int(budget) for budget in options.budgets.split(",")]
    memory = joblib.Memory(options.cache, verbose=0)
    X, y, X_test, y_test = load_mnist(options.data)
    labels, labels_test = teacher_labels(options.labels, X, X_test, memory)
    n_train = options.rows - N_VALIDATION
    data = {
        "X": X[:n_train],
        "X_valid": X[n_train : options.rows],
        "X_test": X_test,
        "y_test": y_test,
        "n_steps": options.steps,
        "memory": memory,
    }
    results = {"seeds": options.seeds, "steps": options.steps, "rows": options.rows}
    if {"student", "speed", "published", "pruning"} & set(parts):
        student = memory.cache(train_network)(data["X"], labels[:n_train])
        valid = labels[n_train : options.rows]
    if "student" in parts:
        print(f"teacher: ACC {100 * clustering_accuracy(y_test, labels_test):.2f}")
        results["student"] = bench_curve("student", student, valid, labels_test, budgets, options.seeds, data)
        write_json(options.out, results)
    if "lenet" in parts:
        network = memory.cache(train_network)(data["X"], y[:n_train])
        valid = y[n_train : options.rows]
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


# original networks


def train_network(X, y):
    """Train 784-300-100-10 with labels and shifted images; return it as scikit-learn's classifier."""
    module = Perceptron(initial_network((784, 300, 100, 10), "relu", 0, X.any(axis=0)))
    rows = DenseRows(torch.from_numpy(X), torch.from_numpy(y.astype(np.int64)))
    generator = torch.Generator().manual_seed(0)

    def loss(module, rows, labels):
        down, across = torch.randint(-1, 2, (2,), generator=generator).tolist()
        shifted = torch.roll(rows.reshape(-1, *GRID), (down, across), (1, 2)).reshape(len(rows), -1)
        return cross_entropy(module(shifted), labels)

    train(module, loss, rows, batch_size=256, learning_rate=2e-3, max_iter=30, averaging=0.999, seed=0)
    return as_classifier(module.arrays(), X, y)


# (a) and (b): bytes against error


def bench_curve(title, classifier, valid, truth, budgets, n_seeds, data):
    """For every budget: choose on validation images, then score the files of several seeds on test images."""
    reference = scores(Student(network_of(classifier)).predict(data["X_test"]), truth, data)
    print(f"{title}: uncompressed network {reference}")
    attempt = data["memory"].cache(compress, ignore=["X"])
    runs, rows = [], []
    for budget in budgets:
        candidates = CANDIDATES[budget] + (CANDIDATES_WITH_LABELS.get(budget, []) if title == LENET else [])
        tried = [attempt(classifier, data["X"], budget, 0, data["n_steps"], candidate) for candidate in candidates]
        accuracies = [float(np.mean(load(run["data"]).predict(data["X_valid"]) == valid)) for run in tried]
        for candidate, score, run in zip(candidates, accuracies, tried):
            print(f"{title}, {budget} bytes, {candidate}: {100 * score:.2f} on validation images, {run['loss']:.4f}")
        best = int(np.argmax(accuracies))
        ways = [("grid", candidates[best], seed) for seed in range(n_seeds)]
        if budget in WITHOUT_GRID:
            ways.append(("no grid", candidates[best]._replace(waves=None), 0))
        for name, candidate, seed in ways:
            run = dict(attempt(classifier, data["X"], budget, seed, data["n_steps"], candidate))
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


def compress(classifier, X, budget, seed, n_steps, settings):
    """Return file, bytes, validation loss and seconds."""
    shape = {} if settings.waves is None else {"input_shape": GRID, "n_frequencies": settings.waves}
    compressor = RandomCodeCompressor(
        FrozenEstimator(classifier),
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
        "on_validation": report,
        "loss": report["loss"],
    }


def shifted(X, seed):
    """Return the images, each shifted by up to a pixel down and across."""
    images, moved = X.reshape(-1, *GRID), np.empty((len(X), *GRID), np.float32)
    ways = np.random.default_rng(seed).integers(9, size=len(X))
    for way in range(9):
        moved[ways == way] = np.roll(images[ways == way], (way // 3 - 1, way % 3 - 1), (1, 2))
    return moved.reshape(X.shape)


def scores(predictions, truth, data):
    """Return agreement with `truth`, clustering accuracy and error against the labels, in percent."""
    return {
        "agreement": 100 * float(np.mean(predictions == truth)),
        "acc": 100 * clustering_accuracy(data["y_test"], predictions.astype(int)),
        "error": 100 * float(np.mean(predictions != data["y_test"])),
    }


# (c) Mean-KL against Mean-Var

# Hidden units, waves, random numbers and bits of a block: a third of a bit for a random number, as in the publications
# of both parameterizations, and two bits, as in the files above
REGIMES = {"1/3 bit a number": (100, 100, 30, 10), "2 bits a number": (50, 64, 6, 12)}
N_POINTS = 24
PRUNED_FRACTIONS = (0.0, 0.2, 0.4, 0.6, 0.8)
RATES, PENALTY_RATES = (2e-2, 4e-2, 8e-2), (3e-3, 1e-2)
# Initial penalties and variances of Mean-Var, and the change of penalties per step, in the code of its authors
PUBLISHED_LENGTH = 20  # times as many steps as the others
PUBLISHED = {"learning_rate": 2e-2, "penalty": 1e-8, "rate": 1e-4, "log_variance": -16.0}


def bench_speed(classifier, data, n_seeds):
    """Train both from random weights with constant learning rates; tabulate the steps to several losses."""
    attempt = data["memory"].cache(learning_curve, ignore=["X"])
    n_steps = data["n_steps"]
    choices = {
        "mean-kl": [{"learning_rate": rate} for rate in RATES],
        "mean-var": [{"learning_rate": rate, "rate": change} for rate, change in product(RATES, PENALTY_RATES)],
    }
    results, rows = {}, []
    for regime in REGIMES:
        best = {}
        for way, settings in choices.items():
            # The settings with the smallest final loss of seed 0 are taken
            tried = [attempt(classifier, data["X"], 0, regime, way, n_steps, choice) for choice in settings]
            for choice, points in zip(settings, tried):
                print(f"{regime}, {way}, {choice}: {points[-1]}", flush=True)
            best[way] = min(zip(settings, tried), key=lambda pair: pair[1][-1]["loss"])[0]
        results[regime] = {"best": best, "curves": []}
        for seed in range(n_seeds):
            curves = {way: attempt(classifier, data["X"], seed, regime, way, n_steps, best[way]) for way in choices}
            results[regime]["curves"].append(curves)
            last = curves["mean-var"][-1]["loss"]
            for times in (2, 1.5, 1.2, 1.1, 1.02):
                usual, ours = (
                    steps_to_loss(curves[way], times * last, REGIMES[regime][-1]) for way in ("mean-var", "mean-kl")
                )
                ratios = (ours["step"] / usual["step"], ours["seconds"] / usual["seconds"])
                rows.append([regime, seed, times, times * last, usual["step"], ours["step"], *ratios])
    columns = ["", "seed", "times Mean-Var's last loss", "loss", "its steps", "Mean-KL's", "ratio", "of seconds"]
    table("Steps until validation loss and budget are reached", columns, rows)
    return results


def bench_published(classifier, data, n_seeds):
    """Train Mean-Var with the penalties of its authors; tabulate the steps of Mean-KL to the same final loss."""
    attempt = data["memory"].cache(learning_curve, ignore=["X"])
    regime, n_steps = "1/3 bit a number", PUBLISHED_LENGTH * data["n_steps"]
    runs, rows = [], []
    for seed in range(n_seeds):
        points = attempt(classifier, data["X"], seed, regime, "mean-var", n_steps, PUBLISHED)
        settings = {"learning_rate": PUBLISHED["learning_rate"]}
        curve = attempt(classifier, data["X"], seed, regime, "mean-kl", n_steps // 4, settings)
        usual, ours = (steps_to_loss(each, points[-1]["loss"], REGIMES[regime][-1]) for each in (points, curve))
        runs.append({"seed": seed, "mean-var": points, "mean-kl": curve})
        steps = usual["step"], ours["step"], ours["step"] / usual["step"]
        rows.append([seed, points[-1]["loss"], *steps, curve[-1]["loss"]])
        print(f"Mean-Var with the penalties of its authors, seed {seed}: {points}", flush=True)
    columns = ["seed", "its last loss", "steps to it", "Mean-KL's", "ratio", "Mean-KL's last loss"]
    table("Mean-Var with the penalties of its authors", columns, rows)
    return runs


def steps_to_loss(points, loss, n_bits):
    """Return the first point of a curve with at most this loss at which the mean block is within its budget."""
    reached = (point for point in points if point["loss"] <= loss and point["bits"][1] <= 1.01 * n_bits)
    return next(reached, {"loss": np.nan, "step": np.nan, "seconds": np.nan})


def learning_curve(classifier, X, seed, regime, way, n_steps, settings):
    """Return, for some steps of a training, the expected validation loss and the divergence of blocks in bits."""
    hidden, waves, block_size, bits = REGIMES[regime]
    network = network_of(classifier)
    blank = blank_network(network, (hidden,), seed)
    shapes = tuple(weight.shape for weight in blank.weights)
    one_block = Layout(shapes, (1, 1), bits, 1, seed, GRID, waves)
    shared = SharedNetwork(replace(one_block, n_blocks=-(-one_block.n_numbers // block_size)), network.activation)
    calibration = draw_calibration(X, None, network, None, 0.1, seed)
    loss, samples, validation_samples = distillation_samples(network, shared, calibration)
    means, log_scales = initial_means(shared, blank)
    penalties = {name: value for name, value in settings.items() if name != "learning_rate"}
    posterior = (MeanKL if way == "mean-kl" else MeanVar)(means, shared.used, bits * np.log(2), **penalties)
    chosen = LearnerSettings(
        n_steps=n_steps,
        n_steps_between_blocks=0,
        n_refinements=0,
        learning_rate=settings["learning_rate"],
        seed=seed,
    )
    learner = Learner(shared, posterior, log_scales, samples, validation_samples, loss, chosen)
    points, took = [], 0.0
    with one_thread():
        for step in range(1, n_steps + 1):
            began = process_time()
            learner.step(min(1.0, step / 100))
            took += process_time() - began
            if step % (n_steps // N_POINTS) == 0:
                points.append({"step": step, "seconds": took, **expected_loss(learner)})
        learner.code()
    points[-1] |= as_coded(learner)
    return points


@torch.no_grad()
def expected_loss(learner, n_draws=4):
    """Return the mean validation loss of draws from the posterior, and bits of blocks: smallest, mean and largest."""
    generator, learner.generator = learner.generator, torch.Generator().manual_seed(1)
    scales = learner.log_scales.exp()
    fixed = (scales, learner.validation_samples, learner.loss)
    losses = [mean_loss(learner.network, learner.sample(), *fixed) for _ in range(n_draws)]
    learner.generator = generator
    spent = learner.posterior.divergence() / np.log(2)
    return {"loss": float(np.mean(losses)), "bits": [spent.min().item(), spent.mean().item(), spent.max().item()]}


@torch.no_grad()
def as_coded(learner):
    """Return the validation loss of a coded network, its agreement after pruning, and the kurtosis of the means."""
    scales = torch.from_numpy(learner.scales().astype(np.float32))
    inputs, targets = learner.validation_samples.tensors
    layers, agreement = learner.network.layers(learner.numbers, scales), []
    for fraction in PRUNED_FRACTIONS:
        some = [
            (torch.where(weight.abs() < weight.abs().quantile(fraction), 0.0, weight), bias) for weight, bias in layers
        ]
        labels = learner.network.outputs(inputs, some).argmax(dim=1)
        agreement.append(100 * (labels == targets.argmax(dim=1)).double().mean().item())
    means = learner.posterior()[0][learner.network.used].double()
    kurtosis = (means**4).mean() / (means**2).mean() ** 2
    loss = mean_loss(learner.network, learner.numbers, scales, learner.validation_samples, learner.loss)
    return {"coded": loss, "agreement_pruned": agreement, "kurtosis_of_means": kurtosis.item()}


# (d) pruning


def bench_pruning(classifier, data, n_seeds):
    """Set the smallest weights of coded networks to zero, layer by layer, and measure their agreement."""
    attempt = data["memory"].cache(code_for_pruning, ignore=["X"])
    rows, runs = [], []
    expected = Student(network_of(classifier)).predict(data["X_test"])
    for way in ("mean-kl", "mean-var"):
        agreement = np.zeros((n_seeds, len(PRUNED_FRACTIONS)))
        for seed in range(n_seeds):
            coded = container.decode(attempt(classifier, data["X"], seed, way, data["n_steps"])).network
            for column, fraction in enumerate(PRUNED_FRACTIONS):
                predictions = Student(pruned(coded, fraction)).predict(data["X_test"])
                agreement[seed, column] = 100 * np.mean(predictions == expected)
        runs.append({"parameterization": way, "agreement": agreement.tolist()})
        rows.append([way, *[spread(column) for column in agreement.T]])
    table("Agreement % with the wrapped network, by fraction of pruned weights", ["", *PRUNED_FRACTIONS], rows)
    return runs


def code_for_pruning(classifier, X, seed, way, n_steps):
    """Return a file of 2000 bytes without waves, so that its weights can be pruned."""
    compressor = RandomCodeCompressor(
        FrozenEstimator(classifier),
        max_bytes=2000,
        hidden_layer_sizes=(50,),
        n_steps=n_steps,
        n_refinements=0,
        parameterization=way,
        random_state=seed,
    )
    return compressor.fit(X).to_bytes()


def pruned(network, fraction):
    """Return the network without this fraction of the weights of each layer, the smallest ones."""
    weights = []
    for weight in network.weights:
        size = np.abs(weight)
        weights.append(np.where(size < np.quantile(size, fraction), np.float32(0), weight))
    return replace(network, weights=tuple(weights))


if __name__ == "__main__":
    main()
