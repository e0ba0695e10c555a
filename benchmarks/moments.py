"""MNIST without labels, with images centered and deskewed by their own moments: teacher, student, small files.

`ImageMoments` is knowledge about images, which k-means and UMAP of raw pixels do not have. As in `random_code.py`, part
(a): an MBN teacher with k-means finds ten clusters of all moved training images; a network 784-300-100-10 imitates its
labels on shifted ones; random codes imitate that network. Files begin with the moments and take raw images. The last
5000 training images choose the settings by the labels of the teacher, never by true ones; scores are of test images.

    python benchmarks/moments.py --data DIR [--seeds 3] [--budgets 1000,500]
"""

from pathlib import Path

import joblib
import numpy as np
from common import RESULTS, clustering_scores, load_mnist, parser, table, write_json
from lenet import N_VALIDATION, teacher_labels
from random_code import CANDIDATES, compress, train_network

from distill import load
from distill.codecs import container, preprocessing
from distill.codecs.preprocessing import MomentsStep
from distill.compressors.base import network_of
from distill.runtime import Student
from mbn.preprocessing import ImageMoments

STEP = MomentsStep((28, 28, 1))


def main():
    """Measure teacher, student and files; the results are written after each."""
    line = parser(__doc__, "moments")
    line.add_argument("--budgets", default="1000,500", help="bytes of files, with the moments")
    line.add_argument("--cache", type=Path, default=RESULTS / "cache", help="cache of networks and files")
    line.add_argument("--steps", type=int, default=12000, help="training steps before coding")
    options = line.parse_args()
    memory = joblib.Memory(options.cache, verbose=0)
    X, y, X_test, y_test = load_mnist(options.data)
    raw_test, moments = X_test, ImageMoments((28, 28))
    X, X_test = (np.ascontiguousarray(moments.fit_transform(part), np.float32) for part in (X, X_test))
    labels, labels_test = teacher_labels(None, X, X_test, memory)
    results = {
        "teacher, training images": clustering_scores(y, labels),
        "teacher, test images": clustering_scores(y_test, labels_test),
    }
    report(results, options.out)
    n_train = len(X) - N_VALIDATION
    network = memory.cache(train_network)(X[:n_train], labels[:n_train])
    clusters = Student(network_of(network)).predict(X_test)
    results["student 784-300-100-10"] = scores(clusters, labels_test, y_test)
    report(results, options.out)
    attempt = memory.cache(compress, ignore=["X"])
    for budget in map(int, options.budgets.split(",")):
        left = budget - n_bytes_of_step()
        tried = [attempt(network, X[:n_train], left, 0, options.steps, candidate) for candidate in CANDIDATES[budget]]
        agreement = [np.mean(load(run["data"]).predict(X[n_train:]) == labels[n_train:]) for run in tried]
        chosen = CANDIDATES[budget][int(np.argmax(agreement))]
        for seed in range(options.seeds):
            run = attempt(network, X[:n_train], left, seed, options.steps, chosen)
            student = load(container.with_steps(run["data"], 784, [STEP], None))
            n_bytes = student.report["n_bytes"]
            results[f"{n_bytes} bytes, seed {seed}"] = scores(student.predict(raw_test), labels_test, y_test)
            report(results, options.out)


def n_bytes_of_step():
    """Return the bytes that the moments take in a file: a frame of two bytes, and its content."""
    return 2 + len(preprocessing.encode(784, [STEP]))


def scores(clusters, labels, truth):
    """Return the scores of clusters of test images, and their agreement with the teacher."""
    clusters = clusters.astype(int)
    return clustering_scores(truth, clusters) | {"agreement": float(np.mean(clusters == labels))}


def report(results, path):
    """Print and write the results."""
    rows = [
        [name, *(f"{100 * row[score]:.2f}" if score in row else "" for score in ("acc", "nmi", "agreement"))]
        for name, row in results.items()
    ]
    table("MNIST, images moved by their moments, no labels: percent", ["", "ACC", "NMI", "agreement"], rows)
    write_json(path, results)


if __name__ == "__main__":
    main()
