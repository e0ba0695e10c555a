"""Search over compression: three ways of it in one grid, the trade-offs as a picture, the winner as a file.

A multilayer bootstrap network and k-means find the ten digits without labels, and a student learns to answer as they
do. How far can the student be compressed, and how? Teacher and student are fitted once for every fold, whatever the
number of settings, because `memory=` keeps them.

    python examples/search_compression.py

writes a picture and the student's file to results/.
"""

import tempfile
from pathlib import Path
from time import perf_counter

import matplotlib

matplotlib.use("Agg")
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline

from distill import CodebookCompressor, Distiller, RandomCodeCompressor, SpikeSlabCompressor, load, save
from distill.model_selection import SCORING, pareto_front, smallest_within
from distill.plotting import TradeOffDisplay
from mbn import MultilayerBootstrapNetwork

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main():
    RESULTS.mkdir(exist_ok=True)
    X, _ = load_digits(return_X_y=True)
    X, X_new = train_test_split(X, test_size=0.25, random_state=0)
    with tempfile.TemporaryDirectory() as cache:
        teacher = make_pipeline(MultilayerBootstrapNetwork(random_state=0), KMeans(10, n_init=10, random_state=0))
        student = Distiller(teacher, hidden_layer_sizes=(48,), random_state=0, memory=cache)
        pipeline = Pipeline([("compress", student)])  # a scaler may come first; it goes into the file
        shared = {"random_state": 0, "memory": cache}
        grid = [
            {"compress": [student]},
            {"compress": [CodebookCompressor(student, max_iter=5, **shared)], "compress__bits": [1, 2, 3, 4]},
            {
                "compress": [SpikeSlabCompressor(student, max_iter=15, fine_tune_iter=5, **shared)],
                "compress__density": [0.2, 0.4],
            },
            {
                "compress": [RandomCodeCompressor(student, input_shape=(8, 8), n_steps=600, n_refinements=1, **shared)],
                "compress__max_bytes": [300, 600],
            },
        ]
        began = perf_counter()
        search = GridSearchCV(pipeline, grid, scoring=SCORING, refit=smallest_within(0.01), cv=2).fit(X)
        seconds = perf_counter() - began

    results = search.cv_results_
    front = set(pareto_front(results))
    print(f"{len(results['params'])} settings x 2 folds in {seconds:.0f} s; * none is both smaller and more faithful\n")
    print("bytes  fidelity  compressor")
    for index in results["mean_test_size"].argsort()[::-1]:
        parameters = dict(results["params"][index])
        name = type(parameters.pop("compress")).__name__
        setting = ", ".join(f"{key.split('__')[-1]}={value}" for key, value in parameters.items())
        mark = "*" if index in front else " "
        size, fidelity = -results["mean_test_size"][index], results["mean_test_fidelity"][index]
        chosen = "  <- chosen" if index == search.best_index_ else ""
        print(f"{size:5.0f} {fidelity:8.1%} {mark} {name}({setting}){chosen}")

    display = TradeOffDisplay.from_cv_results(results, color_by="compress", chosen=search.best_index_)
    display.ax_.set_title("Agreement with the teacher on held-out digits")
    display.figure_.savefig(RESULTS / "search_compression.png", dpi=120)
    save(search.best_estimator_, RESULTS / "winner.student")
    deployed = load(RESULTS / "winner.student")  # NumPy alone would do from here on
    assert (deployed.predict(X_new) == search.best_estimator_.predict(X_new)).all()
    fidelity = search.best_estimator_.score(X_new)
    print(f"\nThe winner, fitted to all rows: {deployed}, fidelity on new rows {fidelity:.1%}")


if __name__ == "__main__":
    main()
