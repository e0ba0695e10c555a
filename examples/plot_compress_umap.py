"""UMAP's transform in a few kilobytes: a student that maps new rows in microseconds.

Without umap-learn, t-SNE is the teacher, which has no transform at all: its student has.

    python examples/compress_umap.py

writes a picture and the student's file to results/.
"""

import pickle
import warnings
from pathlib import Path
from time import perf_counter

import matplotlib

matplotlib.use("Agg")
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.manifold import TSNE
from sklearn.model_selection import train_test_split

from distill import CodebookCompressor, Distiller, load
from distill.plotting import EmbeddingDisplay

RESULTS = Path(__file__).resolve().parent.parent / "results"


def make_teacher():
    try:
        from umap import UMAP
    except ImportError:
        return TSNE(random_state=0)
    return UMAP(random_state=0, n_jobs=1)


def microseconds_per_row(transform, X):
    transform(X[:1])
    began = perf_counter()
    for row in X[:20]:
        transform(row[None])
    return (perf_counter() - began) / 20 * 1e6


def main():
    RESULTS.mkdir(exist_ok=True)
    X, y = load_digits(return_X_y=True)
    X, X_new, y, _ = train_test_split(X, y, test_size=0.25, random_state=0)
    teacher = make_teacher()
    name = type(teacher).__name__
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # UMAP says that a random_state keeps it to one thread
        student = Distiller(teacher, random_state=0).fit(X)
        small = CodebookCompressor(FrozenEstimator(student), bits=4, random_state=0).fit(X)
        n_bytes = len(pickle.dumps(student.teacher_))
        if hasattr(student.teacher_, "transform"):
            print(f"{name}: {n_bytes} bytes, {microseconds_per_row(student.teacher_.transform, X_new):.0f} us a row")
        else:
            print(f"{name}: no transform of new rows")
    small.save(RESULTS / "embedding.student")
    deployed = load(RESULTS / "embedding.student")
    for what, model, size in [("student", student, student.nbytes_), ("compressed", deployed, small.nbytes_)]:
        print(f"{what}: {size} bytes, {microseconds_per_row(model.transform, X_new):.0f} us a row")
    print(f"R^2 on held-out rows: {student.best_validation_score_:.3f}")

    display = EmbeddingDisplay.from_estimator(small, X, y, embedding=student.teacher_.embedding_)
    display.axes_[0].set_title(f"{name}, {n_bytes / 1e6:.1f} MB")
    display.axes_[1].set_title(f"student, {small.nbytes_ / 1e3:.1f} kB, R² = {display.fidelity:.3f}")
    display.figure_.savefig(RESULTS / "embedding.png", dpi=120)


if __name__ == "__main__":
    main()
