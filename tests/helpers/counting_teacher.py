"""A teacher that writes down every fit and every question, in whatever process; importable there."""

import os

from sklearn.cluster import KMeans


class CountingKMeans(KMeans):
    def __init__(self, n_clusters=4, *, log=None, n_init=1, random_state=None):
        super().__init__(n_clusters, n_init=n_init, random_state=random_state)
        self.log = log

    def fit_predict(self, X, y=None, sample_weight=None):
        note(self.log, "fit")
        return super().fit_predict(X, y, sample_weight)

    def predict(self, X):
        note(self.log, "ask")
        return super().predict(X)


def note(log, word):
    # A single write to a file opened for appending is whole, whoever else writes
    file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(file, f"{word}\n".encode())
    os.close(file)
