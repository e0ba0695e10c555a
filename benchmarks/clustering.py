"""Clusterers on public data sets: agreement with the classes, seconds, ranks; and the students of the network.

Every method gets the same rows and settings that were fixed before any result was seen: its own defaults, and the
true number of classes where it takes one (`GIVEN`). The others find a number themselves, and rows that they leave out
get the label of the nearest clustered row. Parts, all by default, or one or several with --parts:

- clusters: all data sets x methods x seeds, mean ranks with the critical difference of Nemenyi's test, and a picture;
- students: held-out agreement of the default student with MBNClustering, on a quarter of the rows;
- ensembles: the same with three of them as one teacher, the first that of the part students;
- auto: the numbers of clusters that MBNClustering(n_clusters="auto") proposes.

    python benchmarks/clustering.py [--parts clusters students ...] [--data DIR] [--seeds 3] [--max-rows 4000]

Classes are used for scores only. The defaults of MBNClustering were chosen on the data sets named in
`clustering_data.CHOSEN`, which have no part in the ranks. The JSON is written after every fit, and a run that was
stopped goes on where it was. All libraries use one thread.
"""

import argparse
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from time import process_time

import matplotlib
import numba
import numpy as np
from clustering_data import CHOSEN, FROM_FOLDER, SEEN, SETS, load
from common import RESULTS, clustering_accuracy, machine, table
from scipy import stats
from sklearn.cluster import HDBSCAN, KMeans, SpectralClustering
from sklearn.datasets import make_blobs
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier
from threadpoolctl import threadpool_limits

matplotlib.use("Agg")

PARTS = ("clusters", "students", "ensembles", "auto")
# Methods that are told the number of classes, and those that find a number of clusters themselves
GIVEN = ("k-means", "GaussianMixture", "SpectralClustering", "UMAP + k-means", "EVoC, about c", "MBNClustering")
FREE = ("UMAP + HDBSCAN", "EVoC")
OURS = "MBNClustering"
# Sets whose students are measured: the targets of their agreement in percent, for the rest that of small sets
AGREEMENT = {"digits": 97, "short texts": 93, "docstrings": 93, "letter": 93}
SMALL_ROWS, SMALL_AGREEMENT = 1000, 94
# Teachers of an ensemble
MEMBERS = 3
SCORES = ("acc", "nmi", "ari")


def main():
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    line.add_argument(
        "--data", type=Path, help="folder with mnist/, which adds a set of drawn rows of all 60000 images"
    )
    line.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    line.add_argument("--sets", nargs="*", choices=list(SETS), default=list(SETS))
    line.add_argument("--seeds", type=int, default=3)
    line.add_argument("--max-rows", type=int, default=4000, help="rows of a data set, drawn once")
    line.add_argument("--out", type=Path, default=RESULTS / "clustering.json", help="JSON file of the results")
    line.add_argument("--show", action="store_true", help="tables and picture of the results there are, without a fit")
    options = line.parse_args()
    record = Record(options.out, options.max_rows)
    if not options.show:
        names = [name for name in options.sets if options.data or name not in FROM_FOLDER]
        data = {name: found for name in names if (found := load(name, options.max_rows, options.data)) is not None}
        numba.set_num_threads(1)
        with warnings.catch_warnings(), threadpool_limits(1):
            warnings.simplefilter("ignore")  # of other packages, about threads and iterations
            warm_up()
            for part in options.parts:
                RUN[part](data, options.seeds, record)
    show(record, options.out)


class Record:
    """Results by part, data set, method and seed, written to a file after each of them."""

    def __init__(self, path: Path, max_rows: int):
        self.path = path
        self.results = json.loads(path.read_text()) if path.exists() else {"max_rows": max_rows, "sets": {}, "runs": {}}
        if self.results["max_rows"] != max_rows:
            raise SystemExit(f"{path} has results of --max-rows {self.results['max_rows']}; give another --out")

    def add_set(self, name: str, X: np.ndarray, y: np.ndarray) -> None:
        found = [len(X), X.shape[1], int(y.max()) + 1]
        if self.results["sets"].setdefault(name, found) != found:
            raise SystemExit(f"{self.path} has results of other rows of {name}; give another --out")

    def has(self, *key: object) -> bool:
        return "/".join(map(str, key)) in self.results["runs"]

    def add(self, result: dict, *key: object) -> None:
        self.results["runs"]["/".join(map(str, key))] = result
        text = json.dumps({**self.results, "machine": machine()}, indent=1, default=float) + "\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text(text)
        temporary.replace(self.path)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in result.items())
        print(f"{' '.join(map(str, key))}: {shown}", flush=True)

    def values(self, part: str, name: str, method: str, score: str) -> np.ndarray:
        """Return a score of all seeds."""
        start = f"{part}/{name}/{method}/"
        runs = self.results["runs"].items()
        return np.array([run[score] for key, run in runs if key.startswith(start) and score in run])


# -- clusters


def clusters(data: dict, n_seeds: int, record: Record) -> None:
    for seed in range(n_seeds):
        for name, (X, y) in data.items():
            record.add_set(name, X, y)
            for methods in FITS:
                if not all(record.has("clusters", name, method, seed) for method in methods):
                    for method, result in zip(methods, FITS[methods](X, int(y.max()) + 1, seed)):
                        record.add(scores(y, *result), "clusters", name, method, seed)


def scores(y: np.ndarray, labels: np.ndarray, seconds: float) -> dict[str, float]:
    """Return the scores of labels, none of them -1; `n` is the number of clusters."""
    labels = np.unique(labels, return_inverse=True)[1]
    return {
        "acc": clustering_accuracy(y, labels),
        "nmi": float(normalized_mutual_info_score(y, labels)),
        "ari": float(adjusted_rand_score(y, labels)),
        "n": int(labels.max()) + 1,
        "seconds": seconds,
    }


def timed(function: Callable, *arguments) -> tuple:
    """Return what a function returns, and the seconds of the processor: other work on the machine does not count."""
    began = process_time()
    return function(*arguments), process_time() - began


def simple(make: Callable) -> Callable:
    def fit(X: np.ndarray, n_clusters: int, seed: int) -> list[tuple]:
        return [timed(make(n_clusters, seed).fit_predict, X)]

    return fit


def spectral(n_clusters: int, seed: int) -> SpectralClustering:
    return SpectralClustering(n_clusters, affinity="nearest_neighbors", random_state=seed)


def embedded(X: np.ndarray, n_clusters: int, seed: int) -> list[tuple]:
    """Return labels and seconds of k-means and HDBSCAN on one embedding by UMAP, with its settings for clustering."""
    from umap import UMAP

    embed = UMAP(n_components=10, min_dist=0.0, random_state=seed, n_jobs=1).fit_transform
    Z, seconds = timed(embed, X)
    labels, more = timed(KMeans(n_clusters, n_init=10, random_state=seed).fit_predict, Z)
    free, again = timed(HDBSCAN(min_cluster_size=max(10, len(X) // 100), copy=True).fit_predict, Z)
    return [(labels, seconds + more), (follow(Z, free), seconds + again)]


def evoc(X: np.ndarray, n_clusters: int, seed: int) -> list[tuple]:
    from evoc import EVoC

    X = np.ascontiguousarray(X, np.float32)
    free, seconds = timed(EVoC(random_state=seed).fit_predict, X)
    labels, more = timed(EVoC(approx_n_clusters=n_clusters, random_state=seed).fit_predict, X)
    return [(follow(X, labels), more), (follow(X, free), seconds)]


def follow(X: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return labels in which rows that were left out have that of the nearest row that was not."""
    out = labels == -1
    if out.all() or not out.any():
        return np.zeros(len(X), int) if out.all() else labels
    labels = labels.copy()
    labels[out] = KNeighborsClassifier(1).fit(X[~out], labels[~out]).predict(X[out])
    return labels


def mbn(n_clusters: int | str, seed: int):
    from mbn import MBNClustering

    return MBNClustering(n_clusters, random_state=seed)


FITS: dict[tuple[str, ...], Callable] = {
    ("k-means",): simple(lambda c, seed: KMeans(c, n_init=10, random_state=seed)),
    ("GaussianMixture",): simple(lambda c, seed: GaussianMixture(c, random_state=seed)),
    ("SpectralClustering",): simple(spectral),
    ("UMAP + k-means", "UMAP + HDBSCAN"): embedded,
    ("EVoC, about c", "EVoC"): evoc,
    (OURS,): simple(mbn),
}


def warm_up() -> None:
    """Compile or load all kernels, which is not timed."""
    X, _ = make_blobs(600, 16, centers=4, random_state=0)
    for fit in FITS.values():
        fit(X, 4, 0)


# -- students and numbers of clusters


def students(data: dict, n_seeds: int, record: Record) -> None:
    for seed in range(n_seeds):
        for name, (X, y) in data.items():
            if measured(name, X) and not record.has("students", name, OURS, seed):
                teacher = mbn(int(y.max()) + 1, seed)
                record.add(student_of(teacher, X, y, seed), "students", name, OURS, seed)


def ensembles(data: dict, n_seeds: int, record: Record) -> None:
    for seed in range(n_seeds):
        for name, (X, y) in data.items():
            if measured(name, X) and not record.has("ensembles", name, OURS, seed):
                teachers = [mbn(int(y.max()) + 1, seed + 100 * member) for member in range(MEMBERS)]
                record.add(student_of(teachers, X, y, seed), "ensembles", name, OURS, seed)


def measured(name: str, X: np.ndarray) -> bool:
    """Return whether students are measured on a data set."""
    return len(X) < SMALL_ROWS or name in AGREEMENT


def student_of(teacher, X: np.ndarray, y: np.ndarray, seed: int) -> dict[str, float]:
    """Fit the default student to three quarters of the rows; return its agreement and both ACC on the others."""
    from distill import Distiller

    train, test = train_test_split(np.arange(len(X)), random_state=seed)
    began = process_time()
    student = Distiller(teacher, random_state=seed).fit(X[train])
    spent = process_time() - began
    expected, found = student.teacher_.predict(X[test]), student.predict(X[test])
    return {
        "agreement": float(np.mean(expected == found)),
        "teacher": clustering_accuracy(y[test], expected),
        "student": clustering_accuracy(y[test], found),
        "seconds": spent,
    }


def numbers(data: dict, n_seeds: int, record: Record) -> None:
    for seed in range(n_seeds):
        for name, (X, y) in data.items():
            if not record.has("auto", name, OURS, seed):
                record.add(scores(y, *timed(mbn("auto", seed).fit_predict, X)), "auto", name, OURS, seed)


RUN = {"clusters": clusters, "students": students, "ensembles": ensembles, "auto": numbers}

# -- tables and picture


def show(record: Record, path: Path) -> None:
    sets = record.results["sets"]
    methods = [*GIVEN, *FREE]
    means = {score: mean_scores(record, sets, methods, score) for score in (*SCORES, "seconds", "n")}
    for score in SCORES:
        rows = [[title(name, sets), *(100 * means[score][name])] for name in means[score]]
        table(f"{score.upper()} in percent, mean over seeds", ["rows x features, classes", *methods], percent(rows))
    rows = [[title(name, sets), *(f"{value:.1f}" for value in row)] for name, row in means["seconds"].items()]
    table("Seconds of one processor", ["", *methods], rows)
    rows = [[title(name, sets), *(f"{value:.0f}" for value in row[-len(FREE) :])] for name, row in means["n"].items()]
    table("Clusters of those that find a number themselves", ["", *FREE], rows)
    apart = [name for name in means["acc"] if name not in (*CHOSEN, *FROM_FOLDER)]
    unseen = [name for name in apart if name not in SEEN]
    for words, names in (("not chosen on", apart), ("not seen in any choice", unseen)):
        for score in SCORES:
            ranking(words, names, score, means[score], path)
    behind(means["acc"], [name for name in means["acc"] if name not in CHOSEN])
    show_students(record, sets, "students", "Students of MBNClustering on a quarter of the rows, percent")
    show_students(record, sets, "ensembles", f"The same, of {MEMBERS} of them as one teacher")
    show_numbers(record, sets, means["ari"])


def mean_scores(record: Record, sets: dict, methods: list[str], score: str) -> dict[str, np.ndarray]:
    """Return the mean over seeds of each method, for the data sets on which all methods were fitted."""
    found = {name: [record.values("clusters", name, method, score) for method in methods] for name in sets}
    complete = {name: values for name, values in found.items() if all(len(part) for part in values)}
    return {name: np.array([part.mean() for part in values]) for name, values in complete.items()}


def title(name: str, sets: dict) -> str:
    rows, features, classes = sets[name]
    mark = " (chosen on)" if name in CHOSEN else " (seen)" if name in SEEN else ""
    return f"{name}{mark}, {rows} x {features}, {classes}"


def percent(rows: list[list]) -> list[list]:
    return [[first, *(f"{value:.1f}" for value in values)] for first, *values in rows]


def ranking(words: str, names: list[str], score: str, means: dict[str, np.ndarray], path: Path) -> None:
    """Print mean ranks among the methods that are told the number, and draw them for ACC."""
    if len(names) < 2:
        return
    values = np.array([means[name][: len(GIVEN)] for name in names])
    ranks, difference, p = mean_ranks(values)
    rows = [[GIVEN[i], f"{ranks[i]:.2f}", f"{100 * values[:, i].mean():.1f}"] for i in np.argsort(ranks)]
    table(
        f"Mean ranks by {score.upper()} on {len(names)} sets {words}: critical difference {difference:.2f} "
        f"(Nemenyi, .05), Friedman's p {p:.2g}",
        ["", "mean rank", "mean"],
        rows,
    )
    if score == "acc" and words == "not chosen on":
        draw(ranks, difference, path.with_name(f"{path.stem}_ranks.png"))


def mean_ranks(values: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Return mean ranks of the columns, the critical difference at .05, and the p-value of Friedman's test.

    Parameters
    ----------
    values : ndarray of shape (n_sets, n_methods)
        Larger ones are better; equal ones share a rank.

    References
    ----------
    J. Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7 (2006).
    """
    n_sets, n_methods = values.shape
    ranks = stats.rankdata(-np.round(values, 6), axis=1).mean(axis=0)
    quantile = stats.studentized_range.ppf(0.95, n_methods, np.inf) / np.sqrt(2)
    difference = float(quantile * np.sqrt(n_methods * (n_methods + 1) / (6 * n_sets)))
    return ranks, difference, float(stats.friedmanchisquare(*values.T).pvalue)


def draw(ranks: np.ndarray, difference: float, path: Path) -> None:
    """Draw mean ranks on a line; bars join methods that do not differ by the critical difference."""
    import matplotlib.pyplot as plt

    order = np.argsort(ranks)
    figure, axes = plt.subplots(figsize=(7.2, 2.6), layout="constrained")
    low, high = int(np.floor(ranks.min())), int(np.ceil(ranks.max()))
    axes.plot([low, high], [0, 0], color="black", linewidth=1)
    for tick in range(low, high + 1):
        axes.plot([tick, tick], [0, 0.08], color="black", linewidth=1)
        axes.text(tick, 0.12, str(tick), ha="center", va="bottom")
    axes.plot([low, low + difference], [0.62, 0.62], color="black", linewidth=2)
    axes.text(low + difference / 2, 0.68, f"critical difference {difference:.2f}", ha="center", va="bottom")
    half = (len(order) + 1) // 2
    for place, method in enumerate(order):
        left = place < half
        level = -0.45 - 0.28 * (place if left else len(order) - 1 - place)
        end = low - 0.1 if left else high + 0.1
        axes.plot([ranks[method], ranks[method], end], [0, level, level], color="gray", linewidth=1)
        label = f"{GIVEN[method]} {ranks[method]:.2f}"
        axes.text(end, level, label, ha="right" if left else "left", va="center")
    bars, level = [], -0.08
    for first in range(len(order)):
        together = [
            place for place in range(first, len(order)) if ranks[order[place]] - ranks[order[first]] <= difference
        ]
        if len(together) > 1 and not any(together[-1] <= last for _, last in bars):
            bars.append((first, together[-1]))
            ends = [ranks[order[first]] - 0.04, ranks[order[together[-1]]] + 0.04]
            axes.plot(ends, [level, level], color="black", linewidth=3, solid_capstyle="butt")
            level -= 0.09
    axes.set_xlim(low - 2, high + 2)
    axes.axis("off")
    figure.savefig(path, dpi=150)
    plt.close(figure)
    print(f"Written: {path}")


def behind(means: dict[str, np.ndarray], names: list[str]) -> None:
    """Print the sets on which the network is behind the best of k-means and UMAP + k-means."""
    ours, others = GIVEN.index(OURS), [GIVEN.index("k-means"), GIVEN.index("UMAP + k-means")]
    rows = [
        [name, 100 * (means[name][ours] - means[name][others].max())] for name in [*CHOSEN, *names] if name in means
    ]
    rows = [[name, f"{value:+.1f}"] for name, value in sorted(rows, key=lambda row: row[1])]
    table("ACC of MBNClustering less the best of k-means and UMAP + k-means, points", ["", "difference"], rows)


def show_students(record: Record, sets: dict, part: str, title_of_table: str) -> None:
    rows = []
    for name in sets:
        agreement = 100 * record.values(part, name, OURS, "agreement")
        if len(agreement):
            teacher, student = (100 * record.values(part, name, OURS, which) for which in ("teacher", "student"))
            wanted = AGREEMENT.get(name, SMALL_AGREEMENT)
            spread = agreement.std(ddof=1) if len(agreement) > 1 else 0.0
            row = [f"{agreement.mean():.1f} +- {spread:.1f}", wanted, f"{teacher.mean():.1f}", f"{student.mean():.1f}"]
            rows.append([title(name, sets), *row])
    if rows:
        table(title_of_table, ["", "agreement", "wanted", "ACC of teacher", "of student"], rows)


def show_numbers(record: Record, sets: dict, given: dict[str, np.ndarray]) -> None:
    rows = []
    for name in sets:
        proposed = record.values("auto", name, OURS, "n").astype(int)
        if len(proposed) and name in given:
            found = 100 * record.values("auto", name, OURS, "ari")
            row = [sets[name][2], ", ".join(map(str, proposed)), f"{found.mean():.1f}"]
            rows.append([title(name, sets), *row, f"{100 * given[name][GIVEN.index(OURS)]:.1f}"])
    if rows:
        columns = ["", "classes", "proposed", "ARI", "ARI with the number of classes"]
        table('MBNClustering(n_clusters="auto")', columns, rows)


if __name__ == "__main__":
    main()
