"""
Give HDBSCAN a predict method
=============================

HDBSCAN has no ``predict``. Its student has one, in a file of less than two kilobytes.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import HDBSCAN
from sklearn.datasets import make_moons

from distill import CodebookCompressor, Distiller

RESULTS = Path("results")
RESULTS.mkdir(exist_ok=True)

rng = np.random.default_rng(0)
moons, _ = make_moons(2000, noise=0.06, random_state=0)
blob = rng.normal([2.0, 1.3], 0.12, (500, 2))
noise = rng.uniform([-1.6, -1.1], [2.6, 2.0], (800, 2))
X = np.concatenate([moons, blob, noise])

# %%
# Distill and compress
# --------------------

student = Distiller(
    HDBSCAN(min_cluster_size=100, copy=True),
    hidden_layer_sizes=(48, 48),
    learning_rate_init=3e-3,
    jitter=0.2,
    random_state=0,
).fit(X)
compressed = CodebookCompressor(student, bits=4, random_state=0).fit(X)
compressed.save(RESULTS / "hdbscan.student")
labels = student.teacher_.labels_
print(f"HDBSCAN: {labels.max() + 1} clusters and {np.mean(labels == -1):.0%} noise (-1) in {len(X)} samples")
print(f"student: {student.nbytes_} bytes, agreement on the validation set {student.best_validation_score_:.1%}")
print(f"compressed: {compressed.nbytes_} bytes, agreement with HDBSCAN {np.mean(compressed.predict(X) == labels):.1%}")

# %%
# New samples get a label
# -----------------------

for place, row in {"in a moon": [0, 1], "in the blob": [2.0, 1.3], "far away": [-1.5, 1.9]}.items():
    print(f"a new sample {place}: {compressed.predict([row])[0]}")

# %%
# Labels of HDBSCAN and predictions of the student
# ------------------------------------------------
# Noise is gray.

figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharex=True, sharey=True, layout="constrained")
colors = plt.get_cmap("tab10")
for label in np.unique(labels):
    rows = X[labels == label]
    axes[0].scatter(*rows.T, s=5, color="0.7" if label < 0 else colors(label))
x, y = np.meshgrid(np.linspace(-1.6, 2.6, 420), np.linspace(-1.1, 2.0, 310))
regions = compressed.predict(np.column_stack([x.ravel(), y.ravel()])).reshape(x.shape)
palette = np.array([[0.93, 0.93, 0.93], *(colors(label)[:3] for label in range(labels.max() + 1))])
axes[1].imshow(palette[regions + 1], extent=(-1.6, 2.6, -1.1, 2.0), origin="lower", aspect="auto", alpha=0.6)
axes[0].set_title("labels of HDBSCAN for its training samples")
axes[1].set_title(f"predictions of its student of {compressed.nbytes_} bytes")
figure.savefig(RESULTS / "hdbscan.png", dpi=120)
