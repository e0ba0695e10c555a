"""MNIST without labels: accuracy, speed and memory of teacher and student, against k-means and UMAP.

Fits MBN + k-means on the 60000 training images for several seeds, distills each into students of several sizes, and
scores all of them on the training images and on the 10000 held-out ones. Labels are only used for scores. Every speed
is given as a ratio to a reference in the same process: the n x n float32 product of the rows, UMAP, or a plain loop of
the same steps.

    python benchmarks/mnist.py --data DIR [--seeds 3] [--without-umap]
"""

import copy
import warnings
from itertools import pairwise
from time import perf_counter

import numpy as np
import torch
from common import (
    clustering_scores,
    load_mnist,
    parser,
    peak_memory,
    product_seconds,
    seconds,
    spread,
    stopwatch,
    table,
    write_json,
)
from joblib import effective_n_jobs
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline

from distill import Distiller, load
from mbn import MultilayerBootstrapNetwork, assign_direct, layers, output
from mbn.layers import Layer, LayerSettings
from mbn.neighbors import ExactSearch
from mbn.rows import Rows

STUDENTS = {"784-512-128-10": (512, 128), "784-256-64-10": (256, 64), "784-128-10": (128,), "784-64-10": (64,)}
# Epochs when training is timed, a quarter of those of a student of MNIST
N_EPOCHS = 10


def main():
    line = parser(__doc__, "mnist")
    line.add_argument("--without-umap", action="store_true", help="without the comparison with umap-learn")
    line.add_argument("--rows", type=int, default=60000, help="number of training images, fewer for a quick run")
    options = line.parse_args()
    X, y, X_test, y_test = load_mnist(options.data)
    X, y = X[: options.rows], y[: options.rows]
    results = {"seeds": options.seeds}

    warm_up(X)
    product = product_seconds(X)
    rate = 2 * len(X) ** 2 * X.shape[1] / product / 1e9
    print(f"n x n float32 product of the {len(X)} rows: {product:.1f} s ({rate:.0f} GFLOP/s)")
    results["product_seconds"] = product

    fitted = {}  # students of the last seed
    rows, teachers, students = [], [], {name: [] for name in STUDENTS}
    for seed in range(options.seeds):
        kmeans = KMeans(10, n_init=10, random_state=seed).fit(X)
        rows.append(scores("k-means on pixels", seed, y, kmeans.labels_, y_test, kmeans.predict(X_test)))
        teacher, stages = fit_teacher(X, seed)
        stages["product"] = product_seconds(X)
        stages["peak_gb"] = peak_memory()
        labels, labels_test = teacher[-1].labels_, teacher.predict(X_test)
        rows.append(scores("MBN + k-means", seed, y, labels, y_test, labels_test))
        teachers.append(stages)
        print(f"seed {seed}: teacher in {stages['total']:.0f} s, ACC {rows[-1]['train']['acc']:.4f}", flush=True)
        for name, sizes in STUDENTS.items():
            student = Distiller(GivenLabels(labels), hidden_layer_sizes=sizes, random_state=seed)
            began = perf_counter()
            student.fit(X)
            took = perf_counter() - began
            fitted[name] = student
            print(f"seed {seed}: student {name} in {took:.0f} s", flush=True)
            predicted, predicted_test = student.predict(X), student.predict(X_test)
            rows.append(scores(f"student {name}", seed, y, predicted, y_test, predicted_test))
            students[name].append(
                {
                    "seed": seed,
                    "agreement": float(np.mean(predicted_test == labels_test)),
                    "acc_test": rows[-1]["test"]["acc"],
                    "acc_test_teacher": rows[-1 - 1 - list(STUDENTS).index(name)]["test"]["acc"],
                    "seconds": took,
                    "n_iter": student.n_iter_,
                    "bytes": student.nbytes_,
                }
            )
    results |= {"scores": rows, "teachers": teachers, "students": students}
    print_scores(rows)
    print_teachers(teachers)
    table(
        "Students on held-out images (mean over seeds)",
        ["student", "agreement", "ACC", "teacher's ACC", "fit s", "epochs", "bytes"],
        [
            [name, *(spread([run[key] for run in runs]) for key in ("agreement", "acc_test", "acc_test_teacher")),
             *(float(np.mean([run[key] for run in runs])) for key in ("seconds", "n_iter")), runs[0]["bytes"]]
            for name, runs in students.items()
        ],
    )  # fmt: skip

    some = np.random.default_rng(0).permutation(len(X))[:500]
    results["exactness"] = {
        "train": exact_fraction(teacher[0], X[some]),
        "test": exact_fraction(teacher[0], X_test[:500]),
    }
    print(
        "Fraction of bottom-layer codes equal to direct assignment (500 rows, 40 clusterings): "
        f"{results['exactness']['train']:.2%} of training rows, {results['exactness']['test']:.2%} of new rows"
    )
    results["direct"] = direct_ratio(X)
    print(f"Direct assignment, k=1428: {results['direct']:.2f} x its matrix products alone")
    results["training_ratio"] = training_ratio(X, labels)
    print(f"Training a student: {results['training_ratio']:.2f} x a plain torch loop of the same steps")
    times = speed(teacher, fitted, X, X_test)
    if not options.without_umap:
        results["umap"] = compare_with_umap(X, y, X_test, y_test)
        print(f"UMAP + k-means: fit {results['umap']['fit_seconds']:.1f} s, {results['umap']}")
        print(f"MBN's fit: {teachers[-1]['total'] / results['umap']['fit_seconds']:.2f} x UMAP's")
        times["umap-learn"] = results["umap"]["us_per_row"]
    print_speed(times, fitted)
    results["speed"] = times
    write_json(options.out, results)


def warm_up(X):
    """Compile every kernel; the result is cached on disk."""
    MultilayerBootstrapNetwork(n_estimators=8, n_jobs=-1, k=2000, max_samples=2500).fit(X[:6000]).transform(X[:20])
    MultilayerBootstrapNetwork(n_estimators=8, n_jobs=-1, k=200, assignment="direct").fit(X[:3000])
    codes = np.random.default_rng(0).integers(0, 4000, (9000, 64)).astype(np.uint16)
    layers.fit_upper(codes, 1, 2000, LayerSettings(8, 0.5, 0, "euclidean", "neighbors", 64, n_jobs=-1), 4000)


def fit_teacher(X, seed):
    """Fit MBN + k-means; return it and the seconds of its stages."""
    teacher = make_pipeline(
        MultilayerBootstrapNetwork(n_jobs=-1, random_state=seed), KMeans(10, n_init=10, random_state=seed)
    )
    watched = (
        (ExactSearch, "candidates"),
        (layers, "assign_bottom"),
        (layers, "assign_upper"),
        (output, "principal_components"),
    )
    began = perf_counter()
    with stopwatch(*watched) as times:
        teacher.fit(X)
    total = perf_counter() - began
    neighbors = sum(times["candidates"]) / effective_n_jobs(-1)  # by several threads at a time
    stages = {
        "neighbors": neighbors,
        "bottom": sum(times["assign_bottom"]) - neighbors,
        "upper": sum(times["assign_upper"]),
        "output": sum(times["principal_components"]),
        "total": total,
        "upper_layers": times["assign_upper"],
        "k": teacher[0].k_,
    }
    return teacher, stages


class GivenLabels(ClusterMixin, BaseEstimator):
    """Teacher with given labels of the training rows."""

    def __init__(self, labels):
        self.labels = labels

    def fit(self, X, y=None):
        self.labels_ = self.labels
        return self


def scores(name, seed, y, predicted, y_test, predicted_test):
    return {
        "model": name,
        "seed": seed,
        "train": clustering_scores(y, predicted),
        "test": clustering_scores(y_test, predicted_test),
    }


def print_scores(rows):
    names = list(dict.fromkeys(row["model"] for row in rows))
    columns = [("train", "acc"), ("train", "nmi"), ("test", "acc"), ("test", "nmi")]
    table(
        f"Accuracy (mean +- standard deviation over {1 + max(row['seed'] for row in rows)} seeds)",
        ["model", "ACC train", "NMI train", "ACC held-out", "NMI held-out"],
        [
            [name, *(spread([row[part][key] for row in rows if row["model"] == name]) for part, key in columns)]
            for name in names
        ],
    )


def print_teachers(teachers):
    table(
        f"Stages of the teacher's fit, k={teachers[0]['k']}: seconds, and ratio to the n x n product beside each fit",
        ["stage", *(f"seed {i}" for i in range(len(teachers))), "ratio"],
        [
            [
                stage,
                *(run[stage] for run in teachers),
                float(np.median([run[stage] / run["product"] for run in teachers])),
            ]
            for stage in ("neighbors", "bottom", "upper", "output", "total", "product")
        ],
    )
    print(f"Peak memory so far: {teachers[-1]['peak_gb']:.2f} GB")


def exact_fraction(model, X, n_clusterings=40):
    """Return the fraction of bottom-layer codes that equal those of direct assignment."""
    layer = model.layers_[0]
    part = Layer(layer.reference, layer.rows[:n_clusterings], layer.used[:n_clusterings])
    X = Rows(X, model.preparation_).whole()
    near, direct = (
        layers.assign_bottom(
            X, part, LayerSettings(n_clusterings, 0.5, 0, "euclidean", assignment, model.n_neighbors, n_jobs=-1)
        )
        for assignment in ("neighbors", "direct")
    )
    return float(np.mean(near == direct))


def direct_ratio(X, k=1428, n_clusterings=6, n_rows=16384):
    """Return the time of direct assignment over that of its matrix products alone, with one thread."""
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng(0)
    part = np.ascontiguousarray(np.resize(X, (n_rows, X.shape[1])))
    rows = np.array([rng.permutation(n_rows)[:k] for _ in range(n_clusterings)])
    used = np.array([np.sort(rng.permutation(784)[:392]) for _ in range(n_clusterings)])
    operands = [part[:, features][:2048].copy() for features in used]
    centroids = [part[row][:, features].copy() for row, features in zip(rows, used)]

    def bare():
        for a, b in zip(operands, centroids):
            for _ in range(n_rows // 2048):
                a @ b.T

    with threadpool_limits(1):
        whole = seconds(lambda: assign_direct.nearest_centroids(part, part, rows, used, "euclidean"), repeat=3)
        return whole / seconds(bare, repeat=3)


def speed(teacher, students, X, X_test):
    """Return microseconds per row in batches of 1 and of 10000."""
    paper = MultilayerBootstrapNetwork(k=1428, assignment="direct", n_jobs=-1, random_state=0).fit(X[:10000])
    direct = copy.copy(teacher[0])
    direct.assignment_ = "direct"
    times = {
        "MBN, neighbors, k1=n/2": (per_row(teacher[0].transform, X_test[:1]), per_row(teacher[0].transform, X_test)),
        "MBN, direct, k1=n/2 (300 rows)": (None, per_row(direct.transform, X_test[:300])),
        "MBN, direct, k1=1428": (per_row(paper.transform, X_test[:1]), per_row(paper.transform, X_test)),
    }
    for name, student in students.items():
        predict = load(student.to_bytes()).predict
        times[f"student {name}"] = (per_row(predict, X_test[:1], 2000), per_row(predict, X_test, 20))
    return times


def per_row(function, X, repeat=1):
    """Return microseconds per row, of the fastest of several calls."""
    return seconds(function, X, repeat=repeat) / len(X) * 1e6


def print_speed(times, students):
    columns = ["model", "us/row, batch 1", "us/row, batch 10000"]
    table(
        "Prediction on held-out images, and the factors by which students are faster",
        columns + [f"x {name} (1)" for name in students] + [f"x {name} (10000)" for name in students],
        [
            [name, one or "-", many,
             *((one / times[f"student {student}"][0] if one else "-") for student in students),
             *(many / times[f"student {student}"][1] for student in students)]
            for name, (one, many) in times.items()
        ],
    )  # fmt: skip


def training_ratio(X, labels):
    """Return the time of a Distiller's fit over that of a plain torch loop of the same steps on one thread."""
    settings = dict(hidden_layer_sizes=(256, 64), max_iter=N_EPOCHS, early_stopping=False, random_state=0)
    part, predicted = X, labels

    def distilled():
        Distiller(GivenLabels(predicted), **settings).fit(part)

    def bare():
        n_threads = torch.get_num_threads()
        torch.set_num_threads(1)
        sizes = (784, 256, 64, 10)
        layers = [torch.nn.Linear(a, b) for a, b in pairwise(sizes)]
        module = torch.nn.Sequential(layers[0], torch.nn.ReLU(), layers[1], torch.nn.ReLU(), layers[2])
        optimizer = torch.optim.Adam(module.parameters())
        rows, targets = torch.from_numpy(part), torch.from_numpy(predicted.astype(np.int64))
        for _ in range(N_EPOCHS):
            for index in torch.randperm(len(rows)).split(256):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(module(rows[index]), targets[index]).backward()
                optimizer.step()
        torch.set_num_threads(n_threads)

    return seconds(distilled, repeat=1) / seconds(bare, repeat=1)


def compare_with_umap(X, y, X_test, y_test):
    """Score UMAP with the settings that its documentation recommends for clustering, followed by k-means."""
    from umap import UMAP

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        UMAP(n_components=10, n_neighbors=30, min_dist=0.0).fit(X[:2000]).transform(X_test[:20])  # compiles
        began = perf_counter()
        umap = UMAP(n_components=10, n_neighbors=30, min_dist=0.0).fit(X)
        took = perf_counter() - began
        kmeans = KMeans(10, n_init=10, random_state=0).fit(umap.embedding_)
        one = per_row(umap.transform, X_test[:1], 3)
        began = perf_counter()
        embedded = umap.transform(X_test)
        many = (perf_counter() - began) / len(X_test) * 1e6
    return {
        "fit_seconds": took,
        "us_per_row": (one, many),
        "train": clustering_scores(y, kmeans.labels_),
        "test": clustering_scores(y_test, kmeans.predict(embedded)),
    }


if __name__ == "__main__":
    main()
