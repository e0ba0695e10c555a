"""One thread for every numeric library, and the fitted estimators that many tests share.

The arrays of the tests are small and the suite has a worker for each core, so that a second thread only waits. Tests of
threads set their number themselves. The shared estimators are fitted once per worker: no test may change them.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")

import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator

from distill import Distiller, MatrixGaussianCompressor, RandomCodeCompressor, SpikeSlabCompressor

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def train_rows():
    """The first 1200 of the digits, features in [0, 1]; the other 597 are for testing."""
    return load_digits().data[:1200] / 16


@pytest.fixture(scope="session")
def student(train_rows):
    """A student of k-means on the digits, of two hidden layers."""
    teacher = KMeans(10, n_init=1, random_state=0)
    return Distiller(teacher, hidden_layer_sizes=(32, 16), max_iter=30, random_state=0).fit(train_rows)


@pytest.fixture(scope="session")
def shallow_student(train_rows):
    """A student of k-means on the digits, of one hidden layer."""
    teacher = KMeans(10, n_init=1, random_state=0)
    return Distiller(teacher, hidden_layer_sizes=(24,), max_iter=40, random_state=0).fit(train_rows)


@pytest.fixture(scope="session")
def matrix_gaussian(student, train_rows):
    return MatrixGaussianCompressor(FrozenEstimator(student), max_iter=15, random_state=0).fit(train_rows)


@pytest.fixture(scope="session")
def spike_slab(student, train_rows):
    compressor = SpikeSlabCompressor(
        FrozenEstimator(student), density=0.25, max_iter=12, fine_tune_iter=4, random_state=0
    )
    return compressor.fit(train_rows)


@pytest.fixture(scope="session")
def random_code(shallow_student, train_rows):
    compressor = RandomCodeCompressor(
        FrozenEstimator(shallow_student),
        max_bytes=400,
        bits_per_block=10,
        input_shape=(8, 8),
        n_frequencies=24,
        n_steps=1500,
        n_steps_between_blocks=1,
        n_refinements=1,
        random_state=0,
    )
    return compressor.fit(train_rows)


def pytest_collection_modifyitems(items):
    """Mark the examples of the estimators' docstrings slow: each of them trains a network."""
    for item in items:
        if isinstance(item, pytest.DoctestItem) and item.name.endswith(("Compressor", "Distiller", "model_selection")):
            item.add_marker(pytest.mark.slow)
