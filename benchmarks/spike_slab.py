"""SpikeSlabCompressor: feature selection and pruning, compared with simpler methods.

(a) selection: 2000 correlated inputs of which 5 matter; against the lasso, random-forest importance and magnitude
    pruning.
(b) structure: 1000 inputs of which 5 matter, targets from a small network 5-2-2-1.
(c) lenet: LeNet-300-100 trained with labels: test error by density, against magnitude pruning at the same density with
    the same fine-tuning; and codebooks on top, in bytes of real files.
(d) student: the student of an MBN teacher, without labels: agreement with the dense student, and the pixels used.

Settings of (a) and (b) were chosen on other data sets than those reported; those of (c) and (d) are the result of
--choose on the last 10000 training images, with networks and pruning trained on the first 50000.

    python benchmarks/spike_slab.py --data DIR [--seeds 3] [--labels FILE] [--parts selection,structure,lenet,student]
    python benchmarks/spike_slab.py --data DIR --choose [--labels FILE] [--parts lenet,student]
"""

import warnings
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import joblib
import numpy as np
from common import RESULTS, clustering_accuracy, load_mnist, parser, spread, table, write_json
from lenet import as_classifier, choose, fit_student, teacher_labels, train_lenet, without_held_out
from sklearn.ensemble import RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LassoCV
from sklearn.neural_network import MLPRegressor

from distill import load
from distill.compressors.base import network_of
from distill.compressors.codebook.estimator import CodebookCompressor
from distill.compressors.pruning import keep_largest
from distill.compressors.spike_slab.encoding import encode
from distill.compressors.spike_slab.estimator import SpikeSlabCompressor
from distill.compressors.spike_slab.pruned import extract, fine_tune
from distill.compressors.spike_slab.training import TrainingSettings
from distill.training.losses import Likelihood
from distill.training.targets import draw_calibration, targets_from_outputs, targets_from_y
from distill.training.units import make_task

N_DATA_SETS = 10
N_ROWS, N_TEST_ROWS, N_RELEVANT = 10_000, 2_000, 5
SIMULATIONS = {
    "selection": {"n_features": 2000, "hidden_layer_sizes": (16,)},
    "structure": {"n_features": 1000, "hidden_layer_sizes": (16, 8)},
}
SELECTION = {"prior_inclusion": 1e-4, "eliminate": True, "learning_rate_init": 1e-2, "max_iter": 40}
LENET_DENSITIES, STUDENT_DENSITY = (0.03, 0.05, 0.08), 0.1
# Candidates of --choose
LENET_CANDIDATES = ({"max_iter": 40, "fine_tune_iter": 15}, {"max_iter": 20, "fine_tune_iter": 30})
STUDENT_CANDIDATES = tuple({"max_iter": 20, "fine_tune_iter": 20, "temperature": by} for by in (1.0, 4.0))
MAGNITUDE_CANDIDATES = ("network", "standardized", "layers")
CODEBOOK_CANDIDATES = tuple({"bits": bits, "n_calibration": None, "max_iter": 10} for bits in (2, 3, 4))
CODEBOOK_MAY_COST = 0.1  # percent of the images
# Its result
LENET = LENET_CANDIDATES[1]
STUDENT = STUDENT_CANDIDATES[1]
MAGNITUDE = {"lenet": "layers", "student": "layers"}
CODEBOOK = CODEBOOK_CANDIDATES[1]


def main():
    line = parser(__doc__, "spike_slab")
    line.add_argument(
        "--labels", type=Path, help="npz with train_labels and test_labels of an MBN teacher fitted before"
    )
    line.add_argument("--cache", type=Path, default=RESULTS / "cache", help="cache of fitted networks")
    line.add_argument("--choose", action="store_true", help="only choose settings, on validation images")
    line.add_argument("--parts", default="selection,structure,lenet,student", help="parts to run")
    line.add_argument("--densities", type=float, nargs="+", default=LENET_DENSITIES, help="densities of LeNet-300-100")
    line.add_argument("--data-sets", type=int, default=N_DATA_SETS, help="number of data sets of each simulation")
    options = line.parse_args()
    memory = joblib.Memory(options.cache, verbose=0)
    if options.choose:
        choose_settings(*load_mnist(options.data)[:2], memory, options)
        return
    results = {"seeds": options.seeds, "data_sets": options.data_sets}
    for part in options.parts.split(","):
        if part in SIMULATIONS:
            results[part] = bench_simulation(part, options.data_sets, memory)
        if part == "lenet":
            results[part] = bench_lenet(load_mnist(options.data), options.seeds, memory, options.densities)
        if part == "student":
            results[part] = bench_student(load_mnist(options.data), options.seeds, memory, options.labels, options.out)
        write_json(options.out, results)  # after every part: an interrupted run keeps the finished ones
    if set(SIMULATIONS) & set(results):
        results["calibration"] = calibration([run for name in SIMULATIONS for run in results.get(name, [])])
        write_json(options.out, results)


# (a) and (b): selection of the relevant inputs


def draw(kind, seed):
    """Return inputs and noisy targets for training and test; the first five inputs are relevant."""
    rng = np.random.default_rng(seed)
    n_rows, n_features = N_ROWS + N_TEST_ROWS, SIMULATIONS[kind]["n_features"]
    if kind == "selection":
        common = rng.standard_normal((n_rows, 1))
        X = (common + rng.standard_normal((n_rows, n_features))) / np.sqrt(2)
        y = 5 * X[:, 1] / (1 + X[:, 0] ** 2) + 5 * np.sin(X[:, 2] * X[:, 3]) + 2 * X[:, 4]
    else:
        X = rng.standard_normal((n_rows, n_features))
        y = np.tanh(2 * np.tanh(2 * X[:, 0] - X[:, 1])) + 2 * np.tanh(2 * np.tanh(X[:, 2] - 2 * X[:, 3] - 2 * X[:, 4]))
    y = y + rng.standard_normal(n_rows)
    X, y = X.astype(np.float32), y.astype(np.float32)
    return X[:N_ROWS], y[:N_ROWS], X[N_ROWS:], y[N_ROWS:]


def bench_simulation(kind, n_data_sets, memory):
    simulated = memory.cache(simulate)
    runs = []
    for seed in range(n_data_sets):
        runs.append(simulated(kind, seed, SELECTION))
        print(f"{kind} {seed}: {runs[-1]['spike_slab']}", flush=True)
    rows = []
    for name in ("spike_slab", "magnitude", "lasso", "forest", "dense"):
        of_name = [run[name] for run in runs]
        rows.append(
            [
                name,
                sum(run["found"] == N_RELEVANT for run in of_name),
                *(spread([run[key] for run in of_name]) for key in ("found", "false", "error")),
                ", ".join(sorted({"-".join(map(str, run["widths"])) for run in of_name if "widths" in run})),
                f"{np.mean([run['seconds'] for run in of_name]):.1f}",
            ]
        )
    columns = [kind, f"all {N_RELEVANT} found", "found", "false", "test error", "inputs used and widths", "seconds"]
    table(f"{n_data_sets} data sets; test error is the mean squared error, of which 1 is noise", columns, rows)
    return runs


def simulate(kind, seed, settings):
    """Return the selected inputs, relevant or not, and the test error of every method on one data set."""
    X, y, X_test, y_test = draw(kind, seed)

    def measured(support, predictions, seconds):
        return {
            "found": int(support[:N_RELEVANT].sum()),
            "false": int(support[N_RELEVANT:].sum()),
            "error": float(np.mean((predictions - y_test) ** 2)),
            "seconds": seconds,
        }

    began = perf_counter()
    hidden = SIMULATIONS[kind]["hidden_layer_sizes"]
    dense = MLPRegressor(
        hidden_layer_sizes=hidden, activation="tanh", max_iter=30, early_stopping=True, random_state=seed
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        dense.fit(X, y)
    found = {"seed": seed, "dense": measured(np.ones(X.shape[1], bool), dense.predict(X_test), perf_counter() - began)}

    began = perf_counter()
    selected = SpikeSlabCompressor(FrozenEstimator(dense), random_state=seed, **settings).fit(X, y)
    found["spike_slab"] = measured(selected.get_support(), selected.predict(X_test), perf_counter() - began)
    found["spike_slab"]["widths"] = widths(selected.network_)
    found["spike_slab"]["n_weights"] = selected.report_["n_weights"]
    found["inclusion"] = selected.feature_inclusion_.astype(float).tolist()

    began = perf_counter()
    student = load(prune_by_magnitude(selected, X, y))
    predictions = np.ravel(student.predict(X_test))
    used = student.network.weights[0].any(axis=1)
    found["magnitude"] = {**measured(used, predictions, perf_counter() - began), "widths": widths(student.network)}

    began = perf_counter()
    lasso = LassoCV(cv=3, alphas=20, eps=1e-2, max_iter=10_000, random_state=seed).fit(X.astype(np.float64), y)
    found["lasso"] = measured(lasso.coef_ != 0, lasso.predict(X_test), perf_counter() - began)

    # The forest ranks inputs and does not select: it gets the number of relevant ones
    began = perf_counter()
    forest = RandomForestRegressor(30, max_features=0.1, min_samples_leaf=5, max_samples=0.5, random_state=seed)
    forest.fit(X, y)
    best = np.isin(np.arange(X.shape[1]), np.argsort(-forest.feature_importances_)[:N_RELEVANT])
    found["forest"] = measured(best, forest.predict(X_test), perf_counter() - began)
    return found


def calibration(runs):
    """Return the fraction of relevant inputs by inclusion probability."""
    inclusion = np.array([run["inclusion"][i] for run in runs for i in range(len(run["inclusion"]))])
    relevant = np.array([i < N_RELEVANT for run in runs for i in range(len(run["inclusion"]))])
    bins, rows = (0, 0.1, 0.5, 0.9, 1.0001), []
    for low, high in pairwise(bins):
        inside = (inclusion >= low) & (inclusion < high)
        fraction = float(relevant[inside].mean()) if inside.any() else None
        rows.append({"from": low, "to": min(high, 1), "n_inputs": int(inside.sum()), "fraction_relevant": fraction})
    columns = ["inclusion probability", "inputs", "fraction relevant"]
    cells = [[f"{row['from']:g} to {row['to']:g}", row["n_inputs"], row["fraction_relevant"]] for row in rows]
    table("Inputs of all simulations by inclusion probability", columns, cells)
    return rows


def widths(network):
    """Return the number of used inputs, and the units of every layer."""
    return [int(network.weights[0].any(axis=1).sum()), *network.layer_sizes[1:]]


# Magnitude pruning, in all else as SpikeSlabCompressor


def prune_by_magnitude(compressor, X, y=None, rule="layers"):
    """Return the file of the largest weights, as many as a fitted SpikeSlabCompressor has kept, fine-tuned in its way.

    Rules: "network", the largest of all weights; "standardized", the largest in units of the standard deviation of
    their layer; "layers", in each layer as many as spike and slab has kept.
    """
    network = network_of(compressor.estimator_)
    seed, fraction = compressor.random_state, compressor.validation_fraction
    calibration = draw_calibration(X, y, network, compressor.n_calibration, fraction, seed)
    if y is None:
        targets = targets_from_outputs(network, calibration)
    else:
        targets = targets_from_y(network, replace(calibration, seed=seed), fraction)
    task = make_task(network, calibration.varies, targets)
    sizes = [np.abs(weight) for weight in task.network.weights]
    if rule == "layers":
        numbers = [int(mask.sum()) for mask in compressor.kept_weights_]
        masks = [keep_largest([size], n_kept)[0] for size, n_kept in zip(sizes, numbers)]
    else:
        units = [weight.std() if rule == "standardized" else 1 for weight in task.network.weights]
        masks = keep_largest([size / unit for size, unit in zip(sizes, units)], compressor.report_["n_weights"])
    stds = [np.full_like(weight, 0.1 / np.sqrt(len(weight))) for weight in task.network.weights]
    settings = TrainingSettings(
        fine_tune_iter=compressor.fine_tune_iter,
        temperature=compressor.temperature,
        batch_size=compressor.batch_size,
        learning_rate=compressor.learning_rate_init,
        seed=seed,
    )
    likelihood = Likelihood(task.kind, network.layer_sizes[-1])
    pruned = extract(task, task.network, stds, masks)
    pruned, _ = fine_tune(pruned, task, likelihood, compressor.kl_weight_, settings)
    return encode(pruned, network, compressor.weight_dtype)


# (c) LeNet-300-100


def bench_lenet(images, n_seeds, memory, densities):
    X, y, X_test, y_test = images
    runs = []
    for seed in range(n_seeds):
        arrays = memory.cache(train_lenet)(X, y, seed)
        estimator = as_classifier(arrays, X, y)
        base = 100 * float(np.mean(estimator.predict(X_test) != y_test))
        n_all = sum(weight.size for weight in arrays[0])
        for density in densities:
            pruned = memory.cache(prune, ignore=["X", "y", "estimator"])(
                arrays, {**LENET, "density": density}, seed, X=X, y=y, estimator=estimator
            )
            files = {"spike and slab": pruned["data"]}
            files["magnitude"] = memory.cache(magnitude, ignore=["X", "y", "pruned"])(
                pruned["data"], MAGNITUDE["lenet"], X=X, y=y, pruned=pruned["compressor"]
            )
            files["with codebooks"] = memory.cache(code, ignore=["X", "pruned"])(
                pruned["data"], CODEBOOK, seed, X=X, pruned=pruned["compressor"]
            )
            for name, data in files.items():
                run = {"name": name, "density": density, "seed": seed, "float_error": base, **describe(data, n_all)}
                run["error"] = 100 * float(np.mean(load(data).predict(X_test) != y_test))
                runs.append(run)
                print(f"seed {seed} {name} {density:g}: {run['bytes']} bytes, error {run['error']:.2f}", flush=True)
    print_lenet(runs)
    return runs


def prune(network, settings, seed, *, X, y, estimator):
    """Prune an estimator; `network` identifies it in the cache."""
    began = perf_counter()
    compressor = SpikeSlabCompressor(FrozenEstimator(estimator), random_state=seed, **settings).fit(X, y)
    seconds = perf_counter() - began
    return {"data": compressor.to_bytes(), "seconds": seconds, "compressor": compressor}


def magnitude(network, rule, *, X, y, pruned):
    """Prune by magnitude to the density of a pruned network; `network` identifies it in the cache."""
    return prune_by_magnitude(pruned, X, y, rule)


def code(network, settings, seed, *, X, pruned):
    """Compress a pruned network with codebooks; `network` identifies it in the cache."""
    return CodebookCompressor(FrozenEstimator(pruned), random_state=seed, **settings).fit(X).to_bytes()


def describe(data, n_all):
    """Return the number of weights in a file, their fraction of all before pruning, its bytes and its layer sizes."""
    network = load(data).network
    n_weights = sum(int(np.count_nonzero(weight)) for weight in network.weights)
    return {"n_weights": n_weights, "kept": n_weights / n_all, "bytes": len(data), "widths": widths(network)}


def print_lenet(runs):
    rows = []
    for name, density in dict.fromkeys((run["name"], run["density"]) for run in runs):
        some = [run for run in runs if (run["name"], run["density"]) == (name, density)]
        columns = [spread([run[key] for run in some]) for key in ("error", "float_error")]
        kept, n_bytes = np.mean([run["kept"] for run in some]), np.mean([run["bytes"] for run in some])
        shapes = ", ".join("-".join(map(str, run["widths"])) for run in some)
        rows.append([f"{name}, {density:g}", f"{100 * kept:.2f}", *columns, round(n_bytes), shapes])
    columns = ["LeNet-300-100, labels", "weights %", "error %", "float %", "bytes", "inputs used and widths"]
    table("Test error, mean +- standard deviation over seeds", columns, rows)
    errors = {(run["name"], run["density"], run["seed"]): run["error"] for run in runs}
    rows = []
    for density in dict.fromkeys(run["density"] for run in runs):
        seeds = [run["seed"] for run in runs if (run["name"], run["density"]) == ("magnitude", density)]
        gains = [errors["magnitude", density, seed] - errors["spike and slab", density, seed] for seed in seeds]
        rows.append([f"{density:g}", ", ".join(f"{gain:+.2f}" for gain in gains), spread(gains)])
    columns = ["density", "every seed", "mean +- standard deviation"]
    table("Error of magnitude pruning minus that of spike and slab, in points", columns, rows)


# (d) the student of a teacher without labels


def bench_student(images, n_seeds, memory, path, out):
    X, _, X_test, y_test = images
    labels, labels_test = teacher_labels(path, X, X_test, memory)
    runs = []
    for seed in range(n_seeds):
        student = memory.cache(fit_student)(X, labels, seed)
        expected = student.predict(X_test)
        pruned = memory.cache(prune, ignore=["X", "y", "estimator"])(
            student.to_bytes(), {**STUDENT, "density": STUDENT_DENSITY}, seed, X=X, y=None, estimator=student
        )
        by_magnitude = memory.cache(magnitude, ignore=["X", "y", "pruned"])(
            pruned["data"], MAGNITUDE["student"], X=X, y=None, pruned=pruned["compressor"]
        )
        for name, data in (("spike and slab", pruned["data"]), ("magnitude", by_magnitude)):
            predictions = load(data).predict(X_test)
            run = {
                "name": name,
                "seed": seed,
                **describe(data, sum(weight.size for weight in network_of(student).weights)),
                "agreement": 100 * float(np.mean(predictions == expected)),
                "agreement_with_teacher": 100 * float(np.mean(predictions == labels_test)),
                "acc": 100 * clustering_accuracy(y_test, predictions),
                "float_acc": 100 * clustering_accuracy(y_test, expected),
                "seconds": pruned["seconds"],
            }
            runs.append(run)
            print(f"seed {seed}: {run}", flush=True)
        if seed == 0:
            inclusion = pruned["compressor"].feature_inclusion_
            border = X.max(axis=0) == 0
            runs[0] |= {"dead_pixels": int(border.sum()), "dead_included": int((inclusion[border] > 0.5).sum())}
            draw_inclusion(inclusion, pruned["compressor"].get_support(), X, out.with_suffix(".png"))
    rows = []
    for name in ("spike and slab", "magnitude"):
        some = [run for run in runs if run["name"] == name]
        cells = (spread([run[key] for run in some]) for key in ("agreement", "agreement_with_teacher", "acc"))
        kept, n_bytes = np.mean([run["kept"] for run in some]), np.mean([run["bytes"] for run in some])
        rows.append([name, f"{100 * kept:.2f}", round(n_bytes), *cells])
    columns = ["student without labels", "weights %", "bytes", "agreement %", "with the teacher %", "ACC %"]
    table("Test images, mean +- standard deviation over seeds", columns, rows)
    return runs


def draw_inclusion(inclusion, support, X, path):
    """Draw the standard deviation of every pixel, its inclusion probability, and the used pixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    shown = {"standard deviation of the pixel": X.std(axis=0), "inclusion probability": inclusion, "used": support}
    for axes, (title, values) in zip(figure.subplots(1, 3), shown.items()):
        axes.imshow(np.reshape(values, (28, 28)).astype(float), cmap="gray")
        axes.set(title=title, xticks=[], yticks=[])
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=100)
    print(f"Written: {path}")


# Choice of settings, on training images only


def choose_settings(X, y, memory, options):
    """Choose settings for both networks, and write all candidates with their results."""
    found = {}
    for part in options.parts.split(","):
        if part not in SIMULATIONS:
            found[part] = choose_for(part, without_held_out(X, y), memory, options.labels)
            write_json(options.out.with_stem(options.out.stem + "_choice"), found)


def choose_for(part, images, memory, path):
    """Prune with every candidate; choose by images that neither network nor pruning was trained on."""
    X, y, X_validation, expected = images
    if part == "lenet":
        density, candidates = LENET_DENSITIES[1], LENET_CANDIDATES
        network = memory.cache(train_lenet)(X, y, 0)
        estimator = as_classifier(network, X, y)
    else:
        labels, _ = teacher_labels(path, X, X_validation, memory)
        density, candidates = STUDENT_DENSITY, STUDENT_CANDIDATES
        estimator = memory.cache(fit_student)(X, labels[: len(X)], 0)
        network, y, expected = estimator.to_bytes(), None, estimator.predict(X_validation)

    def validated(settings, data):
        error = 100 * float(np.mean(load(data).predict(X_validation) != expected))
        return {"settings": settings, "error": error, "bytes": len(data)}

    found = {"uncompressed_error": 100 * float(np.mean(estimator.predict(X_validation) != expected))}
    title = f"{part}, density {density:g}"
    cached = memory.cache(prune, ignore=["X", "y", "estimator"])
    runs = [
        cached(network, {**settings, "density": density}, 0, X=X, y=y, estimator=estimator) for settings in candidates
    ]
    tried = [validated(settings, run["data"]) for settings, run in zip(candidates, runs)]
    found["spike and slab"] = choose(title, tried)
    best = runs[candidates.index(found["spike and slab"]["chosen"])]
    cached = memory.cache(magnitude, ignore=["X", "y", "pruned"])
    tried = [
        validated(rule, cached(best["data"], rule, X=X, y=y, pruned=best["compressor"]))
        for rule in MAGNITUDE_CANDIDATES
    ]
    found["magnitude"] = choose(f"{title}, magnitude pruning", tried)
    if part == "lenet":
        cached = memory.cache(code, ignore=["X", "pruned"])
        tried = [
            validated(settings, cached(best["data"], settings, 0, X=X, pruned=best["compressor"]))
            for settings in CODEBOOK_CANDIDATES
        ]
        most_error = validated(None, best["data"])["error"] + CODEBOOK_MAY_COST
        found["codebooks"] = choose(f"{title}, codebooks on top", tried, smallest="bytes", most_error=most_error)
    return found


if __name__ == "__main__":
    main()
