"""One thread for every numeric library, and the fitted estimators that many tests share.

The arrays of the tests are small and the suite has a worker for each core, so that a second thread only waits. Tests of
threads set their number themselves. The shared estimators are fitted once for all workers: no test may change them.
"""

import gc
import os
import pickle
from dataclasses import replace
from functools import partial

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import pytest
import short_training
import sklearn.datasets
import torch
from filelock import FileLock
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator

from distill import Distiller, MatrixGaussianCompressor, RandomCodeCompressor, SpikeSlabCompressor
from distill.compressors.codebook import budget_search
from distill.compressors.random_code.learner import Learner
from mbn import MultilayerBootstrapNetwork

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def train_rows():
    """The first 1200 of the digits, features in [0, 1]; the other 597 are for testing."""
    return load_digits().data[:1200] / 16


@pytest.fixture(scope="session")
def fit_once(tmp_path_factory):
    """Return a function that fits an estimator, or reads what another worker has fitted."""

    def fit(name, estimator, X):
        if "PYTEST_XDIST_WORKER" not in os.environ:
            return estimator.fit(X)
        path = tmp_path_factory.getbasetemp().parent / f"{name}.pickle"  # one folder for all workers of a run
        with FileLock(f"{path}.lock"):
            if not path.exists():
                partial_path = path.with_suffix(".partial")
                partial_path.write_bytes(pickle.dumps(estimator.fit(X)))
                partial_path.replace(path)
        return pickle.loads(path.read_bytes())

    return fit


@pytest.fixture(scope="session")
def student(fit_once, train_rows):
    """A student of the labels of k-means on the digits, of two hidden layers."""
    teacher = KMeans(10, n_init=1, random_state=0)
    settings = {"hidden_layer_sizes": (32, 16), "max_iter": 30, "random_state": 0}
    return fit_once("student", Distiller(teacher, target="predict", **settings), train_rows)


@pytest.fixture(scope="session")
def shallow_student(fit_once, train_rows):
    """A student of the labels of k-means on the digits, of one hidden layer."""
    teacher = KMeans(10, n_init=1, random_state=0)
    settings = {"hidden_layer_sizes": (24,), "max_iter": 40, "random_state": 0}
    return fit_once("shallow_student", Distiller(teacher, target="predict", **settings), train_rows)


@pytest.fixture(scope="session")
def matrix_gaussian(fit_once, student, train_rows):
    compressor = MatrixGaussianCompressor(FrozenEstimator(student), max_iter=15, random_state=0)
    return fit_once("matrix_gaussian", compressor, train_rows)


@pytest.fixture(scope="session")
def spike_slab(fit_once, student, train_rows):
    compressor = SpikeSlabCompressor(
        FrozenEstimator(student), density=0.25, max_iter=12, fine_tune_iter=4, random_state=0
    )
    return fit_once("spike_slab", compressor, train_rows)


@pytest.fixture(scope="session")
def random_code(fit_once, shallow_student, train_rows):
    compressor = RandomCodeCompressor(
        FrozenEstimator(shallow_student),
        max_bytes=400,
        bits_per_block=10,
        input_shape=(8, 8),
        n_frequencies=24,
        n_steps=700,
        n_steps_between_blocks=1,
        n_refinements=1,
        random_state=0,
    )
    return fit_once("random_code", compressor, train_rows)


@pytest.fixture
def few_digits(monkeypatch):
    """A third of the digits, for code that loads them itself."""

    def load(**options):
        digits = load_digits(**options)
        return tuple(array[:600] for array in digits) if isinstance(digits, tuple) else digits

    monkeypatch.setattr(sklearn.datasets, "load_digits", load)


@pytest.fixture
def limit_training(monkeypatch):
    """Return a function that sets bounds of the options of all trainings, such as ``max_iter``."""
    return partial(short_training.limit_training, monkeypatch)


@pytest.fixture
def few_halvings(monkeypatch):
    """Halve the price of a bit twice, and not seven times, when a codebook is fitted into a budget of bytes."""
    bisect = budget_search.bisect

    def bisect_briefly(attempt, fitting, failing, n_halvings):
        return bisect(attempt, fitting, failing, min(n_halvings, 2))

    monkeypatch.setattr(budget_search, "bisect", bisect_briefly)


@pytest.fixture
def brief(few_digits, few_halvings, limit_training, monkeypatch):
    """Few digits, few clusterings, short trainings and searches, for pages and examples to run as they are printed.

    They go through all of the code that they go through otherwise. `make docs` runs the examples in full.
    """
    train_codes = Learner.train

    def train_codes_briefly(learner):
        settings = learner.settings
        learner.settings = replace(settings, n_steps=min(settings.n_steps, 50), n_steps_between_blocks=0)
        train_codes(learner)

    limit_training(max_iter=4, min_steps=8)
    monkeypatch.setattr(Learner, "train", train_codes_briefly)
    make = MultilayerBootstrapNetwork.__init__
    monkeypatch.setattr(make, "__kwdefaults__", {**make.__kwdefaults__, "n_estimators": 40})


def pytest_collection_finish():
    """Take what the imports have made, hundreds of thousands of objects, out of the passes of the garbage collector."""
    gc.collect()
    gc.freeze()


def pytest_collection_modifyitems(items):
    """Mark the examples of the estimators' docstrings slow: each of them trains a network."""
    for item in items:
        if isinstance(item, pytest.DoctestItem) and item.name.endswith(("Compressor", "Distiller", "model_selection")):
            item.add_marker(pytest.mark.slow)
