"""The main job: unlabelled rows -> teacher -> a student of a few kilobytes that answers as the teacher does.

A multilayer bootstrap network and k-means find the ten digits in images of 8 x 8 pixels, without labels; a small
network learns to answer as they do. The labels only score the three at the end, on rows that none of them has seen.

    python examples/quickstart.py

writes a picture and the student's file to results/.
"""

import io
from pathlib import Path
from time import perf_counter

import joblib
import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import normalized_mutual_info_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from distill import Distiller, load
from mbn import MultilayerBootstrapNetwork

RESULTS = Path(__file__).resolve().parent.parent / "results"


def clustering_accuracy(labels, clusters):
    """Share of rows in the right cluster, under the best one-to-one naming of clusters (ACC)."""
    table = np.zeros((labels.max() + 1, clusters.max() + 1), int)
    np.add.at(table, (labels, clusters), 1)
    rows, columns = linear_sum_assignment(-table)
    return table[rows, columns].sum() / len(labels)


def microseconds_per_row(predict, X):
    """Fastest of several calls, divided by the number of rows."""
    predict(X)
    times = []
    for _ in range(5):
        began = perf_counter()
        predict(X)
        times.append(perf_counter() - began)
    return min(times) / len(X) * 1e6


def pickled_bytes(model):
    """Size of a joblib dump."""
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    return buffer.tell()


def main():
    X, y = load_digits(return_X_y=True)
    X, X_new, _, y_new = train_test_split(X, y, test_size=0.25, random_state=0)
    RESULTS.mkdir(exist_ok=True)

    kmeans = KMeans(10, n_init=10, random_state=0).fit(X)
    began = perf_counter()
    teacher = make_pipeline(
        MultilayerBootstrapNetwork(n_jobs=-1, random_state=0), KMeans(10, n_init=10, random_state=0)
    ).fit(X)
    print(f"Teacher: MBN + k-means on {len(X)} rows without labels, {perf_counter() - began:.1f} s")
    began = perf_counter()
    student = Distiller(FrozenEstimator(teacher), hidden_layer_sizes=(64, 32), random_state=0).fit(X)
    print(f"Student: 64-64-32-10, {perf_counter() - began:.1f} s\n")
    path = RESULTS / "digits.student"
    student.save(path)
    deployed = load(path)  # NumPy alone would do from here on

    crowd = np.tile(X_new, (10000 // len(X_new) + 1, 1))[:10000]
    answers = teacher.predict(X_new)
    print(f"On {len(X_new)} held-out rows      ACC    NMI  agreement   us/row (1)  us/row (10000)      bytes")
    for name, model, size in [
        ("k-means on pixels", kmeans, pickled_bytes(kmeans)),
        ("teacher", teacher, pickled_bytes(teacher)),
        ("student", deployed, path.stat().st_size),
    ]:
        clusters = model.predict(X_new)
        agreement = clustering_accuracy(answers, clusters)
        accuracy, shared = clustering_accuracy(y_new, clusters), normalized_mutual_info_score(y_new, clusters)
        one, many = microseconds_per_row(model.predict, X_new[:1]), microseconds_per_row(model.predict, crowd)
        print(f"{name:20s} {accuracy:11.1%} {shared:6.3f} {agreement:10.1%} {one:12.1f} {many:15.2f} {size:10d}")

    # A second student imitates the embedding itself; the picture shows both.
    network = teacher[0]
    embedder = Distiller(FrozenEstimator(network), random_state=0).fit(X)
    views = {"teacher (MBN)": network.transform(X_new), "student": embedder.transform(X_new)}
    plane = np.linalg.svd(views["teacher (MBN)"] - views["teacher (MBN)"].mean(0), full_matrices=False)[2][:2].T
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.8), sharex=True, sharey=True, layout="constrained")
    for axis, (name, Z) in zip(axes, views.items()):
        axis.scatter(*(Z @ plane).T, c=answers, cmap="tab10", s=14)
        axis.set_title(name)
        axis.set_xlabel("first direction")
    axes[0].set_ylabel("second direction")
    figure.suptitle("Held-out digits in the embedding, coloured by the teacher's cluster")
    figure.savefig(RESULTS / "quickstart.png", dpi=120)
    print(f"\nPicture: {RESULTS / 'quickstart.png'}\nStudent file: {path}")


if __name__ == "__main__":
    main()
