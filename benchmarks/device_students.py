"""Students for the benchmark of devices, made once and kept as files."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
from common import load_mnist
from lenet import N_VALIDATION, teacher_labels
from random_code import CANDIDATES, compress, train_network
from sklearn.cluster import KMeans
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.ensemble import IsolationForest
from sklearn.frozen import FrozenEstimator

from distill import CodebookCompressor, Distiller, RandomCodeCompressor, SpikeSlabCompressor, load
from distill.codecs.files import write_bytes

N_DIGITS, N_TUMORS = 1200, 400
# Rows of MNIST for the small student, its codebook and its pruning: minutes, and enough for weights as they are in use
N_SMALL = 20_000


class Case(NamedTuple):
    """A student with held-out rows.

    Parameters
    ----------
    title : str
    path : Path
    rows : ndarray of shape (n_rows, n_features), float32
        Held-out rows as the student takes them.
    calibration : ndarray
        Rows of the fit.
    largest : int
        Rows times this number are integers: 1 for the digits, 255 for the pixels; 0 if they are not.
    truth : ndarray of shape (n_rows,) or None
        True labels, of MNIST.
    """

    title: str
    path: Path
    rows: np.ndarray
    calibration: np.ndarray
    largest: int
    truth: np.ndarray | None = None


def cases(folder: Path, data: Path, cache: Path) -> list[Case]:
    """Return the students; those that are not in the folder are fitted and written to it.

    Parameters
    ----------
    folder : Path
        For student files; delete one to fit it again.
    data : Path
        Folder with mnist/.
    cache : Path
        Of the teacher and of the network that is compressed, as in `random_code.py`.
    """
    makers = Makers(data, joblib.Memory(cache, verbose=0))
    found = []
    for name, (title, make, rows) in makers.table().items():
        path = folder / f"{name}.student"
        if not path.exists():
            print(f"fitting {title}", flush=True)
            folder.mkdir(parents=True, exist_ok=True)
            write_bytes(make(), str(path))
        train, test, largest = rows()
        assert load(path.read_bytes()).n_features_in_ == test.shape[1]
        truth = makers.y_test if test is makers.X_test else None
        found.append(Case(title, path, test, train, largest, truth))
    return found


class Makers:
    """The fits of the students."""

    def __init__(self, data: Path, memory: joblib.Memory):
        self.memory = memory
        self.X, _, self.X_test, self.y_test = load_mnist(data)

    def table(self) -> dict[str, tuple[str, Callable, Callable]]:
        """Return title, fit and rows of each."""
        return {
            "digits": ("digits 64-32-10", self.digits, self.digit_rows),
            **{
                f"mnist_{n_bytes}": (f"MNIST, random code of {n_bytes} bytes", self.random_code(n_bytes), self.pixels)
                for n_bytes in (1000, 2000, 4300)
            },
            "mnist_1000_device": ("MNIST, random code of 1000 bytes for devices", self.code_for_device, self.pixels),
            "codebook": ("MNIST 784-32-10, codebooks of 2 bits", self.codebook, self.pixels),
            "spike_slab": ("MNIST 784-32-10, spike and slab, 15 %", self.spike_slab, self.pixels),
            "umap": ("UMAP of the digits, 64-32-2", self.umap, self.digit_rows),
            "isolation_forest": ("IsolationForest's score, 30-32-1", self.isolation_forest, self.tumors),
        }

    def digit_rows(self) -> tuple[np.ndarray, np.ndarray, int]:
        X = load_digits().data.astype(np.float32)
        return X[:N_DIGITS], X[N_DIGITS:], 1

    def pixels(self) -> tuple[np.ndarray, np.ndarray, int]:
        return self.X[: len(self.X) - N_VALIDATION], self.X_test, 255

    def tumors(self) -> tuple[np.ndarray, np.ndarray, int]:
        X = load_breast_cancer().data.astype(np.float32)
        return X[:N_TUMORS], X[N_TUMORS:], 0

    def digits(self) -> bytes:
        teacher = KMeans(10, n_init=10, random_state=0)
        return Distiller(teacher, hidden_layer_sizes=(32,), random_state=0).fit(self.digit_rows()[0]).to_bytes()

    def random_code(self, n_bytes: int) -> Callable[[], bytes]:
        # 1000: as the model of the drawing page, which is chosen on validation images
        settings = {1000: CANDIDATES[1000][1], 2000: CANDIDATES[2000][0], 4300: CANDIDATES[4300][0]}[n_bytes]

        def make() -> bytes:
            X, network = self.labelled()
            return self.memory.cache(compress, ignore=["X"])(network, X, n_bytes, 0, 12000, settings)["data"]

        return make

    def code_for_device(self) -> bytes:
        """Return a random code whose weights the device computes, with the settings of that of 1000 bytes."""
        X, network = self.labelled()
        settings = CANDIDATES[1000][1]
        compressor = RandomCodeCompressor(
            FrozenEstimator(network), max_bytes=1000, hidden_layer_sizes=settings.hidden, n_steps=12000,
            temperature=settings.temperature, learning_rate_init=settings.learning_rate, input_shape=(28, 28),
            n_frequencies=settings.waves, for_device=True, random_state=0,
        )  # fmt: skip
        return compressor.fit(X).to_bytes()

    def labelled(self):
        """Return training images and the network 784-300-100-10 that imitates the labels of the teacher."""
        X = self.pixels()[0]
        labels, _ = teacher_labels(None, self.X, self.X_test, self.memory)
        return X, self.memory.cache(train_network)(X, labels[: len(X)])

    def small(self) -> Distiller:
        """Return a student 784-32-10 of the teacher's labels."""
        labels, _ = teacher_labels(None, self.X, self.X_test, self.memory)
        student = Distiller("precomputed", hidden_layer_sizes=(32,), random_state=0)
        return student.fit(self.X[:N_SMALL], labels[:N_SMALL])

    def codebook(self) -> bytes:
        student = FrozenEstimator(self.small())
        return CodebookCompressor(student, bits=2, random_state=0).fit(self.X[:N_SMALL]).to_bytes()

    def spike_slab(self) -> bytes:
        student = FrozenEstimator(self.small())
        return SpikeSlabCompressor(student, density=0.15, random_state=0).fit(self.X[:N_SMALL]).to_bytes()

    def umap(self) -> bytes:
        from umap import UMAP

        teacher = UMAP(random_state=0, n_jobs=1)
        return Distiller(teacher, hidden_layer_sizes=(32,), random_state=0).fit(self.digit_rows()[0]).to_bytes()

    def isolation_forest(self) -> bytes:
        teacher = IsolationForest(random_state=0)
        student = Distiller(teacher, target="decision_function", hidden_layer_sizes=(32,), random_state=0)
        return student.fit(self.tumors()[0]).to_bytes()
