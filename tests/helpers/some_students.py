"""Networks and rows for the tests of student files and of what runs them; imports NumPy alone."""

from itertools import pairwise

import numpy as np

from distill.network import Network

SIZES = [(64, 32, 10), (7, 5, 3), (784, 256, 64, 10), (300, 33, 17, 2), (5, 1, 4), (1, 9, 2), (3, 2), (2, 1)]


def make_network(sizes, activation="relu", seed=0, **more):
    """Return a network of random weights, He-scaled."""
    random = np.random.default_rng(seed)
    weights = tuple((random.normal(size=(i, o)) * np.sqrt(2 / i)).astype(np.float32) for i, o in pairwise(sizes))
    biases = tuple(0.1 * random.normal(size=size).astype(np.float32) for size in sizes[1:])
    return Network(weights, biases, activation, **more)


def labelled(sizes, activation="relu", **more):
    """Return a network that answers with labels."""
    n_classes = max(2, sizes[-1])
    output = "softmax" if sizes[-1] > 1 else "logistic"
    classes = np.array([f"class {index}" for index in range(n_classes)])
    more = {"target": "predict", "output": output, "classes": classes} | more
    return make_network(sizes, activation, **more)


def make_rows(n_samples, n_features, seed=1):
    """Return normal rows."""
    return np.random.default_rng(seed).normal(size=(n_samples, n_features)).astype(np.float32)
