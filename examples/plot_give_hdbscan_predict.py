"""HDBSCAN has no predict; its student has one, of a few hundred bytes.

    python examples/give_hdbscan_predict.py

writes a picture and the student's file to results/.
"""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from sklearn.cluster import HDBSCAN
from sklearn.datasets import make_moons

from distill import CodebookCompressor, Distiller

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main():
    RESULTS.mkdir(exist_ok=True)
    random = np.random.default_rng(0)
    moons, _ = make_moons(2000, noise=0.06, random_state=0)
    blob = random.normal([2.0, 1.3], 0.12, (500, 2))
    noise = random.uniform([-1.6, -1.1], [2.6, 2.0], (800, 2))
    X = np.concatenate([moons, blob, noise])

    student = Distiller(
        HDBSCAN(min_cluster_size=100, copy=True),
        hidden_layer_sizes=(48, 48),
        learning_rate_init=3e-3,
        jitter=0.2,
        random_state=0,
    ).fit(X)
    small = CodebookCompressor(student, bits=4, random_state=0).fit(X)
    labels = student.teacher_.labels_
    print(f"HDBSCAN: {labels.max() + 1} clusters and {np.mean(labels == -1):.0%} noise (-1) in {len(X)} rows")
    print(f"Student: {student.nbytes_} bytes, agreement on held-out rows {student.best_validation_score_:.1%}")
    print(f"Compressed: {small.nbytes_} bytes, agreement with HDBSCAN {np.mean(small.predict(X) == labels):.1%}")
    for place, row in {"in a moon": [0, 1], "in the blob": [2.0, 1.3], "far away": [-1.5, 1.9]}.items():
        print(f"A new row {place}: {small.predict([row])[0]}")
    small.save(RESULTS / "hdbscan.student")

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), sharex=True, sharey=True, layout="constrained")
    colours = plt.get_cmap("tab10")
    for label in np.unique(labels):
        rows = X[labels == label]
        axes[0].scatter(*rows.T, s=5, color="0.7" if label < 0 else colours(label))
    x, y = np.meshgrid(np.linspace(-1.6, 2.6, 420), np.linspace(-1.1, 2.0, 310))
    regions = small.predict(np.column_stack([x.ravel(), y.ravel()])).reshape(x.shape)
    painted = np.array([[0.93, 0.93, 0.93], *(colours(label)[:3] for label in range(labels.max() + 1))])
    axes[1].imshow(painted[regions + 1], extent=(-1.6, 2.6, -1.1, 2.0), origin="lower", aspect="auto", alpha=0.6)
    axes[0].set_title("what HDBSCAN says of the rows of its fit")
    axes[1].set_title(f"what its student of {small.nbytes_} bytes says of any row")
    figure.savefig(RESULTS / "hdbscan.png", dpi=120)


if __name__ == "__main__":
    main()
