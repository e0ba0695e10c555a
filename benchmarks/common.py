"""Common parts of the benchmarks: data, scores, clocks, tables and JSON."""

import argparse
import gzip
import json
import os
import platform
import resource
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from time import perf_counter
from unittest import mock

import numpy as np
from joblib import cpu_count
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import normalized_mutual_info_score

RESULTS = Path(__file__).resolve().parent.parent / "results"


def parser(description: str, name: str, *, data: bool = True) -> argparse.ArgumentParser:
    """Return a command line with --data, --seeds and --out."""
    line = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if data:
        line.add_argument("--data", type=Path, required=True, help="folder with mnist/ and uci/")
    line.add_argument("--seeds", type=int, default=3, help="number of seeds")
    line.add_argument("--out", type=Path, default=RESULTS / f"{name}.json", help="JSON file of the results")
    return line


def load_mnist(folder: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return training images and labels, test images and labels; images of shape (n_images, 784), float32 in [0, 1]."""
    arrays = []
    for part in ("train", "t10k"):
        for kind, offset in (("images-idx3", 16), ("labels-idx1", 8)):
            path = Path(folder) / "mnist" / f"{part}-{kind}-ubyte.gz"
            with gzip.open(path) as file:
                arrays.append(np.frombuffer(file.read(), np.uint8, offset=offset))
    X, y, X_test, y_test = arrays
    return (
        X.reshape(-1, 784).astype(np.float32) / 255, y.astype(int),
        X_test.reshape(-1, 784).astype(np.float32) / 255, y_test.astype(int),
    )  # fmt: skip


def clustering_accuracy(labels: np.ndarray, clusters: np.ndarray) -> float:
    """Return the accuracy of clusters under the best one-to-one assignment to labels (ACC)."""
    table = np.zeros((labels.max() + 1, clusters.max() + 1), int)
    np.add.at(table, (labels, clusters), 1)
    rows, columns = linear_sum_assignment(-table)
    return float(table[rows, columns].sum() / len(labels))


def clustering_scores(labels: np.ndarray, clusters: np.ndarray) -> dict[str, float]:
    """Return ACC and NMI."""
    return {
        "acc": clustering_accuracy(labels, clusters),
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
    }


def seconds(function: Callable, *arguments, repeat: int = 5) -> float:
    """Return the seconds of the fastest of several calls, after one that is not timed."""
    function(*arguments)
    times = []
    for _ in range(repeat):
        began = perf_counter()
        function(*arguments)
        times.append(perf_counter() - began)
    return min(times)


@contextmanager
def stopwatch(*targets: tuple[object, str]) -> Iterator[dict[str, list[float]]]:
    """Time every call of the given functions within the context; they are named by module and attribute."""
    times: dict[str, list[float]] = {attribute: [] for _, attribute in targets}
    patches = [mock.patch.object(owner, name, _timed(getattr(owner, name), times[name])) for owner, name in targets]
    with ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        yield times


def _timed(function, log):
    def timed(*arguments, **options):
        began = perf_counter()
        try:
            return function(*arguments, **options)
        finally:
            log.append(perf_counter() - began)

    return timed


def product_seconds(X: np.ndarray) -> float:
    """Return the seconds of the n x n float32 product of the rows, extrapolated from a part of the rows."""
    n_rows = min(len(X), max(256, int(2e11 / (len(X) * X.shape[1]))))
    part = np.ascontiguousarray(X[:n_rows])
    blocks = [X[first : first + 4096] for first in range(0, len(X), 4096)]

    def product():
        for block in blocks:
            part @ block.T

    return seconds(product, repeat=3) * len(X) / n_rows


def peak_memory() -> float:
    """Return the largest memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def machine() -> dict[str, object]:
    """Return a description of the machine."""
    return {
        "processor": platform.processor() or platform.machine(),
        "cores": cpu_count(),
        "python": platform.python_version(),
    }


def spread(values: Sequence[float]) -> str:
    """Return mean and standard deviation as text."""
    values = np.asarray(values, float)
    return f"{values.mean():.4f} +- {values.std(ddof=1) if len(values) > 1 else 0:.4f}"


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a title, columns aligned."""
    lines = [list(map(str, columns)), *[[_cell(value) for value in row] for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    print(f"\n{title}")
    for line in lines:
        print(
            "  "
            + "  ".join(
                cell.ljust(width) if i == 0 else cell.rjust(width) for i, (cell, width) in enumerate(zip(line, widths))
            )
        )
    print(flush=True)


def _cell(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def write_json(path: Path, results: dict) -> None:
    """Write the results, with NumPy scalars as floats."""
    os.makedirs(path.parent, exist_ok=True)
    path.write_text(json.dumps({"machine": machine(), **results}, indent=1, default=float) + "\n")
    print(f"Written: {path}")
