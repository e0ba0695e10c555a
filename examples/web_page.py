"""
Put a student on a web page
===========================

One HTML file with a student of 1000 bytes: whoever opens it draws a digit, and the page shows its cluster.

A multilayer bootstrap network and k-means find ten clusters of digits without labels. A random code of at most 1000
bytes learns to predict them; ``input_shape`` says that the 64 features are a grid of pixels. The digit that most images
of a cluster show becomes its name; labels are used for nothing else, and after the training.
"""

from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline

from distill import Distiller, RandomCodeCompressor
from distill.web import make_page
from mbn import MultilayerBootstrapNetwork

RESULTS = Path("results")
RESULTS.mkdir(exist_ok=True)

X, y = load_digits(return_X_y=True)
X, X_new, y, y_new = train_test_split(X, y, test_size=0.25, random_state=0)

# %%
# Teacher, student, and its file
# ------------------------------

teacher = make_pipeline(MultilayerBootstrapNetwork(n_jobs=-1, random_state=0), KMeans(10, n_init=10, random_state=0))
student = RandomCodeCompressor(
    Distiller(teacher, random_state=0),
    max_bytes=1000,
    hidden_layer_sizes=(32,),
    input_shape=(8, 8),
    n_frequencies=32,
    random_state=0,
).fit(X)
student.save(RESULTS / "digits.student")
print(f"Student: {student.nbytes_} bytes")
print(f"Agreement with the teacher on new images: {100 * student.score(X_new):.1f} %")

# %%
# Names of the clusters
# ---------------------

clusters = student.predict(X)
names = {int(cluster): str(np.bincount(y[clusters == cluster]).argmax()) for cluster in np.unique(clusters)}
named = np.array([int(names[int(cluster)]) for cluster in student.predict(X_new)])
print(f"Names of the clusters: {names}")
print(f"The name is the digit of {100 * np.mean(named == y_new):.1f} % of the new images")

# %%
# The page
# --------
# It contains the student and its runtime, and loads nothing. Some new images are examples to click.

page = make_page(
    RESULTS / "digits.student",
    title="Draw a digit",
    shape=(8, 8),
    pixel_range=(0, 16),
    names=names,
    word="cluster",
    note="The model was trained without labels: the name of a cluster is the digit that most of its images show.",
    examples=X_new[:12],
)
(RESULTS / "digits.html").write_text(page, encoding="utf-8")
print(f"Page: results/digits.html, {len(page.encode()) / 1000:.0f} kB")
