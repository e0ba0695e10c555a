"""Matrix Gaussian posteriors on MNIST: bytes against error, and calibration of the predictions.

    python benchmarks/matrix_gaussian.py --data DIR --labels FILE --other DIR

(lenet) LeNet-300-100, trained with labels and compressed with its outputs as targets: files at several rate weights,
with steps that follow the posterior, with one step for each layer (their geometric mean), with one step for the whole
network, and with independently rounded weights.
(deep) 784-150-150-150-10 trained from scratch with labels, on the images and four copies shifted by one pixel.
(student) The student of an unlabeled teacher.
With --choose, candidates for the settings are trained on the first 50000 training images and scored on the other 10000,
without the test images. The settings in LENET and DEEP were chosen in this way.
Calibration is the expected calibration error over 15 bins; entropies are those of test images, of noise, and of other
images if a folder is given (e.g. Fashion-MNIST in IDX files).
All predictions are those of a student loaded from bytes. Results are written after every run.
"""

import gzip
import json
from dataclasses import dataclass, fields, replace
from itertools import pairwise, product
from pathlib import Path
from time import perf_counter

import joblib
import numpy as np
from common import RESULTS, clustering_accuracy, load_mnist, parser, spread, table, write_json
from lenet import as_classifier, fit_student, teacher_labels, train_lenet, without_held_out
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import roc_auc_score

from distill import MatrixGaussianCompressor, load
from distill.codecs.grid import nearest_level, power
from distill.compressors.matrix_gaussian.quantization import GaussianWeights, encode
from distill.compressors.matrix_gaussian.rounding import round_independently
from distill.training.perceptron import initial_network

DEEP_SIZES = (784, 150, 150, 150, 10)
LENET = {"kl_weight": 0.03, "learn_from": "outputs", "max_iter": 20, "learning_rate_init": 0.01}
DEEP = {"shifts": True, "kl_weight": 0.1, "max_iter": 12, "learning_rate_init": 0.02}
STUDENT = {"kl_weight": 0.03, "max_iter": 20, "learning_rate_init": 0.01}
# Candidates of --choose
LENET_CANDIDATES = (
    {},
    {"kl_weight": 0.01},
    {"kl_weight": 0.1},
    {"kl_weight": 0.1, "learn_from": "y"},
    {"kl_weight": 0.1, "learn_from": "y", "prior": "row"},
    {"kl_weight": 0.3, "learn_from": "y", "prior": "row"},
)
DEEP_CANDIDATES = (
    {},
    {"kl_weight": 0.03},
    {"shifts": False, "max_iter": 60, "kl_weight": 0.02},
    {"shifts": False, "max_iter": 60, "kl_weight": 0.1},
    {"shifts": False, "max_iter": 60, "kl_weight": 1.0},
    {"shifts": False, "max_iter": 60, "kl_weight": 1.0, "n_pseudo": 50, "bound": "paper"},
)
RATES = (0.1, 0.2, 0.3, 0.5, 1.0)
DEEP_RATES = (0.01, 0.2)
TARGETS = (20_000, 25_000, 30_000)
N_ROUNDING = 4000
KINDS = ("posterior steps", "one step a layer", "one step", "independent")


def main():
    line = parser(__doc__, "matrix_gaussian")
    line.add_argument("--labels", type=Path, help="npz with train_labels and test_labels of a teacher fitted before")
    line.add_argument("--other", type=Path, help="folder with t10k-images-idx3-ubyte.gz of other images")
    line.add_argument("--cache", type=Path, default=RESULTS / "cache", help="folder of trained networks")
    line.add_argument("--parts", default="lenet,deep,student")
    line.add_argument("--choose", action="store_true", help="compare candidates on training images, with one seed")
    options = line.parse_args()
    memory = joblib.Memory(options.cache, verbose=0)
    X, y, X_test, y_test = load_mnist(options.data)
    if options.choose:
        X, y, X_test, y_test = without_held_out(X, y)
    others = {"noise": np.random.default_rng(0).uniform(0, 1, (2000, 784)).astype(np.float32)}
    if options.other:
        others["other images"] = read_images(options.other)[:2000]
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    results.pop("machine", None)
    n_seeds = 1 if options.choose else options.seeds
    for part in options.parts.split(","):
        if part == "lenet":
            runs = lenet(X, y, X_test, y_test, others, n_seeds, memory, LENET_CANDIDATES if options.choose else ({},))
        elif part == "deep":
            runs = deep(X, y, X_test, y_test, others, n_seeds, DEEP_CANDIDATES if options.choose else ({},))
        else:
            labels, _ = teacher_labels(options.labels, X, X_test, memory)
            runs = student(X, labels[: len(X)], X_test, y_test, n_seeds, memory)
        finished = results[f"{part}, candidates" if options.choose else part] = []
        for run in runs:
            finished.append(run)
            print(run_line(run), flush=True)
            write_json(options.out, results)
    report(results)


class Recording(MatrixGaussianCompressor):
    """Keeps the posterior of the weights, so that it can be encoded at many rate weights."""

    def encode_weights(self, weights, inputs):
        self.weights_, self.inputs_ = weights, inputs[:N_ROUNDING]
        return super().encode_weights(weights, inputs)


@dataclass(frozen=True, eq=False)
class UniformSteps(GaussianWeights):
    """Weights whose steps are equal within a layer: of `level`, or the geometric mean of the steps of the posterior."""

    level: int | None = None

    def round_layer(self, index, rate_weight):
        rows, columns = self.row_variances[index], self.column_variances[index]
        level = round(layer_level(rows, columns)) if self.level is None else self.level
        uniform = np.full(len(rows), power(np.array(2 * level))), np.ones(len(columns))
        noise = self.noise if index == len(self.row_variances) - 1 else None
        layer = round_independently(self.matrices[index], *uniform, rate_weight, noise)
        return replace(layer, has_variances=False)


def with_uniform_steps(weights, level=None):
    """Return weights with uniform steps; as `marginal` ones they get no larger steps where rows are compensated."""
    copied = {field.name: getattr(weights, field.name) for field in fields(weights)}
    return UniformSteps(**(copied | {"marginal": True, "level": level}))


def lenet(X, y, X_test, y_test, others, n_seeds, memory, candidates):
    """Yield one run for each seed, candidate, rate weight and kind of steps."""
    for seed, changes in product(range(n_seeds), candidates):
        network = as_classifier(memory.cache(train_lenet)(X, y, seed), X, y)
        float_error = error(network.predict(X_test), y_test)
        began = perf_counter()
        settings = LENET | changes
        compressor = Recording(
            FrozenEstimator(network), validation_fraction=1000 / 60000, random_state=seed, **settings
        ).fit(X, y)
        seconds = perf_counter() - began
        for rate_weight, kind in product(RATES, KINDS):
            weights, inputs = compressor.weights_, compressor.inputs_
            if kind.startswith("one step"):
                weights = with_uniform_steps(weights, mean_level(weights) if kind == "one step" else None)
            data = encode(weights, rate_weight, None if kind == "independent" else inputs)
            loaded = load(data)
            run = {"seed": seed, **settings, "steps": kind, "rate_weight": rate_weight, "bytes": len(data)}
            run |= scores(loaded, X_test, y_test) | {"float_error": float_error, "seconds": seconds}
            run |= {"layers": "-".join(map(str, loaded.network.layer_sizes))}
            run |= {"inputs": int(loaded.network.weights[0].any(axis=1).sum())}
            if kind == "posterior steps" and rate_weight == RATES[2]:
                run |= confidence(loaded, X_test, y_test, others)
            yield run


def layer_level(row_variance, column_variance):
    """Return the mean level of the standard deviations of a layer's weights."""
    return nearest_level(np.sqrt(row_variance)).mean() + nearest_level(np.sqrt(column_variance)).mean()


def mean_level(weights):
    """Return the mean level of the standard deviations of all weights: of one step for the whole network."""
    layers = list(zip(weights.row_variances, weights.column_variances))
    sizes = [len(rows) * len(columns) for rows, columns in layers]
    return round(np.average([layer_level(rows, columns) for rows, columns in layers], weights=sizes))


def deep(X, y, X_test, y_test, others, n_seeds, candidates):
    """Yield one run for each seed and candidate."""
    for seed, changes in product(range(n_seeds), candidates):
        start = initial_network(DEEP_SIZES, "relu", seed, X.any(axis=0))
        network = as_classifier((start.weights, start.biases), X, y)
        began = perf_counter()
        settings = DEEP | changes
        rows, labels = shifted(X, y) if settings["shifts"] else (X, y)
        compressor = Recording(
            FrozenEstimator(network),
            validation_fraction=1000 / 60000,
            rate_weight=0.1,
            random_state=seed,
            **{name: value for name, value in settings.items() if name != "shifts"},
        ).fit(rows, labels)
        seconds = perf_counter() - began
        for rate_weight in DEEP_RATES:
            data = encode(compressor.weights_, rate_weight, compressor.inputs_)
            loaded = load(data)
            yield {
                "seed": seed,
                **settings,
                "rate_weight": rate_weight,
                "bytes": len(data),
                "layers": "-".join(map(str, loaded.network.layer_sizes)),
                "inputs": int(loaded.network.weights[0].any(axis=1).sum()),
                "seconds": seconds,
                **scores(loaded, X_test, y_test),
                **confidence(loaded, X_test, y_test, others),
            }


def shifted(X, y):
    """Return the images, and each of them shifted by one pixel in four directions, with their labels."""
    images = X.reshape(-1, 28, 28)
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    moves = ((1, 1), (0, 1), (2, 1), (1, 0), (1, 2))
    parts = [padded[:, row : row + 28, column : column + 28].reshape(-1, 784) for row, column in moves]
    return np.concatenate(parts), np.tile(y, len(moves))


def student(X, labels, X_test, y_test, n_seeds, memory):
    """Yield one run for each seed and rate weight."""
    for seed in range(n_seeds):
        wrapped = memory.cache(fit_student)(X, labels, seed)
        expected = wrapped.predict(X_test)
        began = perf_counter()
        compressor = Recording(FrozenEstimator(wrapped), random_state=seed, **STUDENT).fit(X)
        seconds = perf_counter() - began
        for rate_weight in RATES:
            data = encode(compressor.weights_, rate_weight, compressor.inputs_)
            predictions = load(data).predict(X_test)
            yield {
                "seed": seed,
                **STUDENT,
                "rate_weight": rate_weight,
                "bytes": len(data),
                "float_bytes": wrapped.nbytes_,
                "agreement": 100 * float(np.mean(predictions == expected)),
                "acc": 100 * clustering_accuracy(y_test, predictions),
                "float_acc": 100 * clustering_accuracy(y_test, expected),
                "seconds": seconds,
            }


def scores(loaded, X_test, y_test):
    """Error in percent and cross-entropy in nats, with the mean weights."""
    predicted = loaded.predict_proba(X_test)
    return {"error": error(predicted.argmax(axis=1), y_test), "nats": cross_entropy(predicted, y_test)}


def cross_entropy(probabilities, labels):
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], 1e-12)).mean())


def confidence(loaded, X_test, y_test, others):
    """Calibration of the probabilities, and their entropies for test images and others."""
    measured = {}
    for name, averaged in (("mean weights", False), ("averaged", True)):
        predicted = loaded.predict_proba(X_test, averaged=averaged)
        measured[f"{name}: error"] = error(predicted.argmax(axis=1), y_test)
        measured[f"{name}: calibration error"] = calibration_error(predicted, y_test)
        measured[f"{name}: nats"] = cross_entropy(predicted, y_test)
        inside = entropies(predicted)
        measured[f"{name}: entropy"] = float(inside.mean())
        for other, images in others.items():
            outside = entropies(loaded.predict_proba(images, averaged=averaged))
            measured[f"{name}: entropy of {other}"] = float(outside.mean())
            truth = np.repeat([0, 1], [len(inside), len(outside)])
            measured[f"{name}: AUROC of {other}"] = float(roc_auc_score(truth, np.append(inside, outside)))
    return measured


def calibration_error(probabilities, labels, n_bins=15):
    """Mean distance of confidence and accuracy over bins of confidence, weighted by their samples, in percent."""
    confidence, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    total = 0.0
    for low, high in pairwise(np.linspace(0, 1, n_bins + 1)):
        inside = (confidence > low) & (confidence <= high)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return 100 * float(total)


def entropies(probabilities):
    return -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1)


def error(predictions, labels):
    """Fraction of wrong predictions in percent."""
    return 100 * float(np.mean(predictions != labels))


def read_images(folder):
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        return np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784).astype(np.float32) / 255


def report(results):
    """Print tables of the results."""
    if results.get("lenet"):
        rows = []
        for rate_weight, kind in product(RATES, KINDS):
            runs = [run for run in results["lenet"] if (run["rate_weight"], run["steps"]) == (rate_weight, kind)]
            rows.append([f"{kind}, {rate_weight:g}", *columns_of(runs, ("bytes", "inputs", "error", "nats"))])
        table("LeNet-300-100, labels", ["", "bytes", "inputs", "error %", "nats"], rows)
        rows = [
            [f"{kind}, {key}", *(spread(at_bytes(results["lenet"], kind, key, target)) for target in TARGETS)]
            for key, kind in product(("error", "nats"), KINDS)
        ]
        table("LeNet-300-100 at equal bytes, interpolated", ["", *map(str, TARGETS)], rows)
    if results.get("deep"):
        keys = ("bytes", "error", "averaged: error", "mean weights: calibration error", "averaged: calibration error")
        rows = [
            [rate, *columns_of([run for run in results["deep"] if run["rate_weight"] == rate], keys)]
            for rate in dict.fromkeys(run["rate_weight"] for run in results["deep"])
        ]
        table("784-150-150-150-10, labels", ["rate weight", *keys], rows)
    if results.get("student"):
        rows = []
        for rate in RATES:
            runs = [run for run in results["student"] if run["rate_weight"] == rate]
            rows.append([rate, *columns_of(runs, ("bytes", "float_bytes", "agreement", "acc", "float_acc"))])
        table("Student without labels", ["rate", "bytes", "float bytes", "agreement %", "ACC %", "float ACC %"], rows)


def at_bytes(runs, kind, key, target):
    """Return the score at a size, for every seed, interpolated between the files of the sizes next to it."""
    values = []
    for seed in sorted({run["seed"] for run in runs}):
        points = sorted((np.log(run["bytes"]), run[key]) for run in runs if (run["seed"], run["steps"]) == (seed, kind))
        values.append(float(np.interp(np.log(target), *zip(*points), left=np.nan, right=np.nan)))
    return values


def run_line(run):
    return ", ".join(
        f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in run.items()
    )


def columns_of(runs, keys):
    return [spread([run[key] for run in runs]) for key in keys]


if __name__ == "__main__":
    main()
