"""Networks on MNIST for several benchmarks, and the choice of settings for their compression.

LeNet-300-100, and students of a teacher without labels.
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
N_HELD_OUT = 10_000


class DropoutPerceptron(Perceptron):
    """A perceptron with dropout of inputs and hidden units in training."""

    rates = (0.15, 0.3, 0.3)

    def forward(self, rows):
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases)):
            rows = torch.nn.functional.dropout(rows, self.rates[index], self.training)
            rows = torch.nn.functional.linear(rows, weight, bias)
            rows = self.activate(rows) if index < last else rows
        return rows


def train_lenet(X, y, seed):
    """Train 784-300-100-10 with labels; the epoch with the best validation accuracy is kept."""
    torch.manual_seed(seed)  # of the dropout
    learned, held_out = holdout(y, len(X), N_VALIDATION / len(X), seed)
    module = DropoutPerceptron(initial_network((784, 300, 100, 10), "relu", seed, X.any(axis=0)))
    rows = DenseRows(torch.from_numpy(X[learned]), torch.from_numpy(y[learned]))
    validation = DenseRows(torch.from_numpy(X[held_out]), torch.from_numpy(y[held_out]))

    def loss(module, rows, labels):
        return cross_entropy(module(rows), labels)

    def validate(module):
        outputs = outputs_of(module, validation)
        labels = validation.tensors[1]
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
    """Return scikit-learn's classifier with weights that were trained in torch."""
    sizes = tuple(bias.size for bias in arrays[1][:-1])
    estimator = MLPClassifier(sizes, random_state=0).partial_fit(X[:100], y[:100], classes=np.unique(y))
    estimator.coefs_, estimator.intercepts_ = map(list, arrays)
    return estimator


class GivenLabels(ClusterMixin, BaseEstimator):
    """Teacher with given labels of the training rows."""

    def __init__(self, labels):
        self.labels = labels

    def fit(self, X, y=None):
        self.labels_ = self.labels
        return self


def teacher_labels(path: Path | None, X: np.ndarray, X_test: np.ndarray, memory: Memory):
    """Return labels of an MBN teacher for training and test images, from a file or fitted here."""
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
    """Fit a student 784-256-64-10 to the labels of a teacher."""
    return Distiller(GivenLabels(labels), max_iter=30, random_state=seed).fit(X)


def without_held_out(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Split the training images and their labels: without the last 10000, and these, the validation set."""
    return X[:-N_HELD_OUT], y[:-N_HELD_OUT], X[-N_HELD_OUT:], y[-N_HELD_OUT:]


def choose(target, tried, *, smallest="error", most_bytes=math.inf, most_error=math.inf):
    """Print the results of settings on validation images, and choose one.

    Of the files with at most `most_bytes` and an error of at most `most_error` percent, the one with the smallest error
    (or the fewest bytes) is chosen, of equal ones the smaller.
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
