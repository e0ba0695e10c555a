"""
Compress UMAP
=============

A student of UMAP maps new samples in microseconds, from a file of a few kilobytes.

Without umap-learn, t-SNE is the teacher. It has no ``transform``; its student has one.
"""

import pickle
import warnings
from pathlib import Path
from time import perf_counter

from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.manifold import TSNE
from sklearn.model_selection import train_test_split

from distill import CodebookCompressor, Distiller, load
from distill.plotting import EmbeddingDisplay

try:
    from umap import UMAP

    teacher = UMAP(random_state=0, n_jobs=1)
except ImportError:
    teacher = TSNE(random_state=0)

RESULTS = Path("results")
RESULTS.mkdir(exist_ok=True)

X, y = load_digits(return_X_y=True)
X, X_new, y, _ = train_test_split(X, y, test_size=0.25, random_state=0)

# %%
# Distill and compress
# --------------------

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # UMAP warns that a random_state limits it to one thread
    student = Distiller(teacher, random_state=0).fit(X)
    compressed = CodebookCompressor(FrozenEstimator(student), bits=4, random_state=0).fit(X)
student.save(RESULTS / "embedding-float32.student")
compressed.save(RESULTS / "embedding.student")
print(f"R² of the student on its validation set: {student.best_validation_score_:.3f}")

# %%
# Size and time for one sample
# ----------------------------


def microseconds_per_row(transform, X):
    """Return the mean time of a call with one row."""
    transform(X[:1])
    began = perf_counter()
    for row in X[:20]:
        transform(row[None])
    return (perf_counter() - began) / 20 * 1e6


name = type(teacher).__name__
n_bytes = len(pickle.dumps(student.teacher_))
if hasattr(student.teacher_, "transform"):
    print(f"{name}: {n_bytes} bytes, {microseconds_per_row(student.teacher_.transform, X_new):.0f} us per row")
else:
    print(f"{name}: {n_bytes} bytes, no transform of new samples")
for model, file in [("student", "embedding-float32.student"), ("student, 4 bits", "embedding.student")]:
    deployed = load(RESULTS / file)
    size, time = (RESULTS / file).stat().st_size, microseconds_per_row(deployed.transform, X_new)
    print(f"{model}: {size} bytes, {time:.0f} us per row")

# %%
# Both embeddings
# ---------------

display = EmbeddingDisplay.from_estimator(compressed, X, y, embedding=student.teacher_.embedding_)
display.axes_[0].set_title(f"{name}, {n_bytes / 1e6:.1f} MB")
display.axes_[1].set_title(f"student, {compressed.nbytes_ / 1e3:.1f} kB, R² = {display.fidelity:.3f}")
display.figure_.savefig(RESULTS / "embedding.png", dpi=120)
