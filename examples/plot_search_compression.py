"""
Search over compression
=======================

Three compressors in one grid, the trade-off between size and fidelity, and the winner as a file.

A multilayer bootstrap network and k-means find the ten digits without labels, and a student learns to predict as they
do. How far can the student be compressed, and by which method? With ``memory=`` teacher and student are fitted once for
each fold, not once for each setting.
"""

import tempfile
from pathlib import Path
from time import perf_counter

import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline

from distill import CodebookCompressor, Distiller, RandomCodeCompressor, SpikeSlabCompressor, load, save
from distill.model_selection import SCORING, pareto_front, smallest_within
from distill.plotting import TradeOffDisplay
from mbn import MultilayerBootstrapNetwork

RESULTS = Path("results")
RESULTS.mkdir(exist_ok=True)

X, _ = load_digits(return_X_y=True)
X, X_new = train_test_split(X, test_size=0.25, random_state=0)

# %%
# The grid
# --------
# Compressors are swapped as a step of the pipeline. A scaler in front of them would be stored in the file.

cache = tempfile.TemporaryDirectory()
common = {"random_state": 0, "memory": cache.name}
teacher = make_pipeline(MultilayerBootstrapNetwork(random_state=0), KMeans(10, n_init=10, random_state=0))
student = Distiller(teacher, hidden_layer_sizes=(48,), **common)
codebook = CodebookCompressor(student, max_iter=5, **common)
spike_slab = SpikeSlabCompressor(student, max_iter=15, fine_tune_iter=5, **common)
random_code = RandomCodeCompressor(student, input_shape=(8, 8), n_steps=600, n_refinements=1, **common)
grid = [
    {"compress": [student]},
    {"compress": [codebook], "compress__bits": [1, 2, 3, 4]},
    {"compress": [spike_slab], "compress__density": [0.2, 0.4]},
    {"compress": [random_code], "compress__max_bytes": [300, 600]},
]
pipeline = Pipeline([("compress", student)])
began = perf_counter()
search = GridSearchCV(pipeline, grid, scoring=SCORING, refit=smallest_within(0.01), cv=2).fit(X)
cache.cleanup()
print(f"{len(search.cv_results_['params'])} settings, 2 folds: {perf_counter() - began:.0f} s")

# %%
# Size and fidelity
# -----------------
# Settings marked with a star are Pareto optimal: no other is both smaller and more faithful.

results = search.cv_results_
front = set(pareto_front(results))
print("bytes  fidelity  compressor")
for index in results["mean_test_size"].argsort()[::-1]:
    parameters = dict(results["params"][index])
    name = type(parameters.pop("compress")).__name__
    setting = ", ".join(f"{key.split('__')[-1]}={value}" for key, value in parameters.items())
    mark = "*" if index in front else " "
    size, fidelity = -results["mean_test_size"][index], results["mean_test_fidelity"][index]
    chosen = "  <- chosen" if index == search.best_index_ else ""
    print(f"{size:5.0f} {fidelity:8.1%} {mark} {name}({setting}){chosen}")

# %%

display = TradeOffDisplay.from_cv_results(results, color_by="compress", chosen=search.best_index_)
display.ax_.set_title("Agreement with the teacher on validation folds of digits")
display.figure_.savefig(RESULTS / "search_compression.png", dpi=120)

# %%
# The winner as a file
# --------------------
# It has been fitted to all training samples. The loaded file needs NumPy only.

save(search.best_estimator_, RESULTS / "winner.student")
deployed = load(RESULTS / "winner.student")
np.testing.assert_array_equal(deployed.predict(X_new), search.best_estimator_.predict(X_new))
print(f"{deployed}, fidelity on test samples {search.best_estimator_.score(X_new):.1%}")
