"""Cost of a search over compressions, against the sum of its parts, and fidelity of AutoCompressor.

A grid of 12 settings with 3 folds on digits, teacher and student cached by `memory=`, is timed in one process; so are 4
fits of the teacher, 4 of the student and 37 compressions of such students, one by one and without a cache. Then
AutoCompressor compresses students to 2048 bytes, and their agreement is measured on held-out rows.

    python benchmarks/search.py
"""

import tempfile
from time import perf_counter, process_time

import numpy as np
from common import parser, table, write_json
from sklearn.base import clone
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV, KFold, ParameterGrid, train_test_split
from sklearn.pipeline import make_pipeline

from distill import AutoCompressor, CodebookCompressor, Distiller
from distill.model_selection import SCORING, smallest_within
from mbn import MultilayerBootstrapNetwork

GRID = {"bits": [1, 2, 3, 4], "n_groups": [1, 2, 4]}


def make_teacher(seed):
    return make_pipeline(MultilayerBootstrapNetwork(random_state=seed), KMeans(10, n_init=10, random_state=seed))


def clock():
    """Return wall clock and processor time, in seconds; the latter is more precise on a busy machine."""
    return np.array([perf_counter(), process_time()])


def cost(X, seed):
    """Return the seconds of the search and of its parts."""
    student = Distiller(make_teacher(seed), hidden_layer_sizes=(64,), random_state=seed)
    compressor = CodebookCompressor(student, max_iter=5, random_state=seed)
    clone(compressor).fit(X[:300])  # kernels are compiled once

    def search():
        with tempfile.TemporaryDirectory() as cache:
            kept = clone(compressor).set_params(memory=cache, estimator__memory=cache)
            began = clock()
            GridSearchCV(kept, GRID, scoring=SCORING, refit=smallest_within(0.01), cv=KFold(3)).fit(X)
            return clock() - began

    teachers, students, compressions = np.zeros((3, 2))
    folds = [train for train, _ in KFold(3).split(X)]
    for index, rows in enumerate([*folds, np.arange(len(X))]):
        began = clock()
        teacher = make_teacher(seed).fit(X[rows])
        teachers += clock() - began
        began = clock()
        fitted = Distiller(FrozenEstimator(teacher), hidden_layer_sizes=(64,), random_state=seed).fit(X[rows])
        students += clock() - began
        began = clock()
        for parameters in list(ParameterGrid(GRID))[: 1 if index == len(folds) else None]:
            clone(compressor).set_params(estimator=FrozenEstimator(fitted), **parameters).fit(X[rows])
        compressions += clock() - began
    searched = search()
    parts = {"4 teachers": teachers, "4 students": students, "37 compressions": compressions}
    return {
        "search": searched.tolist(),
        **{name: seconds.tolist() for name, seconds in parts.items()},
        "ratio": (searched / sum(parts.values())).tolist(),
    }


def demand(X, X_new, seed):
    """Compress a student to 2048 bytes; return its scores on held-out rows."""
    student = Distiller(make_teacher(seed), random_state=seed).fit(X)
    began = perf_counter()
    small = AutoCompressor(FrozenEstimator(student), max_bytes=2048, random_state=seed).fit(X)
    seconds = perf_counter() - began
    predicted = small.predict(X_new)
    return {
        "seconds": seconds,
        "bytes": small.nbytes_,
        "winner": small.best_params_,
        "agreement with student": float(np.mean(predicted == student.predict(X_new))),
        "fidelity to teacher": float(small.score(X_new)),
        "fidelity of student": float(student.score(X_new)),
    }


def main():
    options = parser(__doc__, "search", data=False).parse_args()
    X, _ = load_digits(return_X_y=True)
    results = {"demand": []}
    results["cost"] = cost(X, 0)
    write_json(options.out, results)
    rows = [[name, *seconds] for name, seconds in results["cost"].items()]
    table("Search of 12 settings x 3 folds, seconds", ["", "wall clock", "processor"], rows)
    for seed in range(options.seeds):
        rows, rows_new = train_test_split(X, test_size=0.25, random_state=seed)
        results["demand"].append(demand(rows, rows_new, seed))
        write_json(options.out, results)
    names = ["bytes", "agreement with student", "fidelity to teacher", "fidelity of student", "seconds", "winner"]
    rows = [[seed, *(run[name] for name in names)] for seed, run in enumerate(results["demand"])]
    table("AutoCompressor(max_bytes=2048)", ["seed", *names], rows)


if __name__ == "__main__":
    main()
