"""A teacher that logs its fits and predictions from any process, and searches with it; importable in workers."""

import os

import joblib
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from distill import CodebookCompressor, Distiller
from distill.model_selection import fidelity_scorer

X = load_digits().data[:240]  # a slice of a larger array: its memory layout differs after pickling


class CountingKMeans(KMeans):
    def __init__(self, n_clusters=4, *, log=None, n_init=1, random_state=None):
        super().__init__(n_clusters, n_init=n_init, random_state=random_state)
        self.log = log

    def fit_predict(self, X, y=None, sample_weight=None):
        note(self.log, "fit")
        return super().fit_predict(X, y, sample_weight)

    def predict(self, X):
        note(self.log, "predict")
        return super().predict(X)


def note(log, word):
    # A single write to a file opened for appending is atomic
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{word}\n".encode())
    os.close(file)


def pipeline_with(tmp_path, inner_memory=True, outer_memory=True):
    """Return a pipeline whose stages cache their results and print when they compute."""
    memory = joblib.Memory(tmp_path / "cache", verbose=1)
    teacher = CountingKMeans(log=str(tmp_path / "log"), random_state=0)
    student = Distiller(
        teacher, hidden_layer_sizes=(8,), max_iter=2, random_state=0, memory=memory if inner_memory else None
    )
    compressor = CodebookCompressor(student, max_iter=1, random_state=0, memory=memory if outer_memory else None)
    return Pipeline([("scale", StandardScaler()), ("compress", compressor)])


def small_search(pipeline):
    return GridSearchCV(pipeline, {"compress__bits": [1, 2]}, scoring=fidelity_scorer, cv=2, error_score="raise").fit(X)
