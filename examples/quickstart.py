"""
Quickstart: ten digits without labels
=====================================

From unlabeled samples to a teacher, and from the teacher to a student file of a few kilobytes that predicts as the
teacher does.

A multilayer bootstrap network and k-means find the ten digits in images of 8 x 8 pixels without labels. A small network
learns to predict the teacher's clusters; a compressor stores it with two bits per weight. Labels only score all of them
at the end, on samples that none of them has seen. ``make demo`` runs this script.
"""

import io
from pathlib import Path
from time import perf_counter

import joblib
import matplotlib.pyplot as plt
import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.metrics import normalized_mutual_info_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from distill import CodebookCompressor, Distiller, load
from mbn import MultilayerBootstrapNetwork

RESULTS = Path("results")
RESULTS.mkdir(exist_ok=True)

X, y = load_digits(return_X_y=True)
X, X_new, _, y_new = train_test_split(X, y, test_size=0.25, random_state=0)

# %%
# Teacher
# -------
# Any transformer, clusterer or pipeline can be the teacher.

began = perf_counter()
teacher = make_pipeline(
    MultilayerBootstrapNetwork(n_jobs=-1, random_state=0), KMeans(10, n_init=10, random_state=0)
).fit(X)
print(f"Teacher: MBN and k-means, {len(X)} samples without labels, {perf_counter() - began:.1f} s")

# %%
# Student and compressed student
# ------------------------------
# Both are saved. What follows uses the files, for which NumPy is enough.

began = perf_counter()
student = Distiller(FrozenEstimator(teacher), hidden_layer_sizes=(64, 32), random_state=0).fit(X)
print(f"Student: 64-64-32-10, {perf_counter() - began:.1f} s")
began = perf_counter()
compressed = CodebookCompressor(FrozenEstimator(student), bits=2, random_state=0).fit(X)
print(f"Compressed student: 2 bits per weight, {perf_counter() - began:.1f} s")

student.save(RESULTS / "digits.student")
compressed.save(RESULTS / "digits-2bit.student")
deployed = load(RESULTS / "digits.student")
deployed_compressed = load(RESULTS / "digits-2bit.student")

# %%
# Accuracy, time and size
# -----------------------
# ACC is the clustering accuracy, NMI the normalized mutual information with the labels; agreement is the ACC between
# the predictions of a model and those of the teacher. Times are those of the loaded student files.


def clustering_accuracy(labels, clusters):
    """Return the fraction of samples in the right cluster, under the best one-to-one matching of clusters (ACC)."""
    table = np.zeros((labels.max() + 1, clusters.max() + 1), int)
    np.add.at(table, (labels, clusters), 1)
    rows, columns = linear_sum_assignment(-table)
    return table[rows, columns].sum() / len(labels)


def microseconds_per_row(predict, X, seconds=0.5):
    """Return the time of the fastest of the calls in some `seconds`, divided by the number of rows."""
    predict(X)
    fastest, end = np.inf, perf_counter() + seconds
    while True:
        began = perf_counter()
        predict(X)
        ended = perf_counter()
        fastest = min(fastest, ended - began)
        if ended > end:
            return fastest / len(X) * 1e6


def pickled_bytes(model):
    """Return the size of a joblib dump."""
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    return buffer.tell()


kmeans = KMeans(10, n_init=10, random_state=0).fit(X)
batch = np.tile(X_new, (10000 // len(X_new) + 1, 1))[:10000]
expected = teacher.predict(X_new)
print(f"{len(X_new)} test samples         ACC    NMI  agreement    us/row, one  us/row, 10000      bytes")
for name, model, size in [
    ("k-means on pixels", kmeans, pickled_bytes(kmeans)),
    ("teacher", teacher, pickled_bytes(teacher)),
    ("student", deployed, (RESULTS / "digits.student").stat().st_size),
    ("student, 2 bits", deployed_compressed, (RESULTS / "digits-2bit.student").stat().st_size),
]:
    clusters = model.predict(X_new)
    agreement = clustering_accuracy(expected, clusters)
    accuracy, information = clustering_accuracy(y_new, clusters), normalized_mutual_info_score(y_new, clusters)
    one, many = microseconds_per_row(model.predict, X_new[:1]), microseconds_per_row(model.predict, batch)
    print(f"{name:18s} {accuracy:9.1%} {information:6.3f} {agreement:10.1%} {one:14.1f} {many:14.2f} {size:10d}")

# %%
# The embedding
# -------------
# A second student learns the embedding of the network itself. The picture shows test samples in both embeddings, in
# the plane of the two directions with the largest variance of the teacher's.

network = teacher[0]
embedder = Distiller(FrozenEstimator(network), random_state=0).fit(X)
views = {"teacher (MBN)": network.transform(X_new), "student": embedder.transform(X_new)}
center = views["teacher (MBN)"].mean(axis=0)
plane = np.linalg.svd(views["teacher (MBN)"] - center, full_matrices=False)[2][:2].T
figure, axes = plt.subplots(1, 2, figsize=(10, 4.8), sharex=True, sharey=True, layout="constrained")
for axis, (name, Z) in zip(axes, views.items()):
    points = axis.scatter(*((Z - center) @ plane).T, c=expected, cmap="tab10", vmin=-0.5, vmax=9.5, s=14)
    axis.set_title(name)
    axis.set_xlabel("first principal direction")
axes[0].set_ylabel("second principal direction")
figure.colorbar(points, ax=axes, label="cluster of the teacher", ticks=range(10))
figure.suptitle(f"Embedding of test digits, R² of the student {embedder.score(X_new):.3f}")
figure.savefig(RESULTS / "quickstart.png", dpi=120)
print(f"Written to {RESULTS}/: quickstart.png, digits.student, digits-2bit.student")
