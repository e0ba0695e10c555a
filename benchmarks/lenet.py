"""The networks on MNIST that several benchmarks compress, and how settings are chosen for them.

LeNet-300-100, and students of an unlabelled teacher.
"""

import math
from pathlib import Path

import numpy as np
import torch
from common import table
from joblib import Memory
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline

from distill import Distiller
from distill.training.loop import train
from distill.training.losses import cross_entropy
from distill.training.perceptron import Perceptron, initial_network
from distill.training.samples import DenseRows, holdout, outputs_of
from mbn import MultilayerBootstrapNetwork

N_VALIDATION = 5000
N_JUDGED = 10_000


class DropoutPerceptron(Perceptron):
    """A perceptron whose inputs and hidden units are left out at random while it trains."""

    rates = (0.15, 0.3, 0.3)

    def forward(self, rows):
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            rows = torch.nn.functional.dropout(rows, self.rates[index], self.training)
            rows = torch.nn.functional.linear(rows, weight, bias)
            rows = self.activate(rows) if index < last else rows
        return rows


def train_lenet(X, y, seed):
    """Train 784-300-100-10 with labels; the pass that is kept is chosen on held-out training images."""
    torch.manual_seed(seed)  # of the dropout
    learned, held_out = holdout(y, len(X), N_VALIDATION / len(X), seed)
    module = DropoutPerceptron(initial_network((784, 300, 100, 10), "relu", seed, X.any(axis=0)))
    rows = DenseRows(torch.from_numpy(X[learned]), torch.from_numpy(y[learned]))
    judged = DenseRows(torch.from_numpy(X[held_out]), torch.from_numpy(y[held_out]))

    def loss(module, rows, labels):
        return cross_entropy(module(rows), labels)

    def validate(module):
        outputs = outputs_of(module, judged)
        labels = judged.tensors[1]
        return float((outputs.argmax(dim=1) == labels).float().mean()), float(cross_entropy(outputs, labels))

    history = train(
        module,
        loss,
        rows,
        batch_size=256,
        learning_rate=2e-3,
        max_iter=30,
        validate=validate,
        averaging=0.999,
        seed=seed,
    )
    print(f"LeNet-300-100, seed {seed}: validation accuracy {history.best_score:.4f}", flush=True)
    return module.arrays()


def as_classifier(arrays, X, y):
    """Weights trained in torch, in scikit-learn's classifier."""
    sizes = tuple(bias.size for bias in arrays[1][:-1])
    estimator = MLPClassifier(sizes, random_state=0).partial_fit(X[:100], y[:100], classes=np.unique(y))
    estimator.coefs_, estimator.intercepts_ = map(list, arrays)
    return estimator


class Remembered(ClusterMixin, BaseEstimator):
    """A teacher that has been fitted before and remembers its labels of the training rows."""

    def __init__(self, labels):
        self.labels = labels

    def fit(self, X, y=None):
        self.labels_ = self.labels
        return self


def teacher_labels(path: Path | None, X: np.ndarray, X_test: np.ndarray, memory: Memory):
    """Return what an MBN teacher says about training and test images: from a file, or fitted here."""
    if path is None:
        return memory.cache(fit_teacher)(X, X_test)
    stored = np.load(path)
    return stored["train_labels"], stored["test_labels"]


def fit_teacher(X, X_test):
    teacher = make_pipeline(
        MultilayerBootstrapNetwork(n_jobs=-1, random_state=0), KMeans(10, n_init=10, random_state=0)
    ).fit(X)
    return teacher[-1].labels_, teacher.predict(X_test)


def fit_student(X, labels, seed):
    """A student 784-256-64-10 of an unlabelled teacher."""
    return Distiller(Remembered(labels), max_iter=30, random_state=seed).fit(X)


def without_judged(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The training images without the last 10000, and these, on which settings are chosen; no test image."""
    return X[:-N_JUDGED], y[:-N_JUDGED], X[-N_JUDGED:], y[-N_JUDGED:]


def choose(target, tried, *, smallest="error", most_bytes=math.inf, most_error=math.inf):
    """Print what settings came to on validation images; say which are chosen.

    The rule: of the files that have no more than `most_bytes` and err in no more than `most_error` percent of the
    images, the one with the smallest error (or the fewest bytes), of equal ones the smaller.
    """
    rule = f"the smallest {smallest}"
    rule += f", of files with at most {most_bytes} bytes" if most_bytes < math.inf else ""
    rule += f", of files with an error of at most {most_error:.2f} %" if most_error < math.inf else ""
    allowed = [run for run in tried if run["bytes"] <= most_bytes and run["error"] <= most_error]
    if not allowed:
        raise SystemExit(f"{target}: none of the settings gives {rule}")
    winner = min(allowed, key=lambda run: (run[smallest], run["bytes"]))
    rows = [[run["settings"], run["bytes"], f"{run['error']:.2f}", "chosen" * (run is winner)] for run in tried]
    table(f"{target}: {rule}", ["settings", "bytes", "error %", ""], rows)
    return {"rule": rule, "tried": tried, "chosen": winner["settings"]}
