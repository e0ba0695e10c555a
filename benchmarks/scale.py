"""Time and memory of the teacher by the number of rows and of workers, and its fits after interruptions.

Every fit runs in a separate process. Parts, all by default, one or several with --parts:

- landmarks: clustered synthetic rows, 64 features, 10^4 .. 10^6, written to disk and read as a memory-mapped file;
  a fixed number of rows may become centroids (--max-samples), and the output is written to disk as well;
- half: the same rows, k1 of half of them, approximate neighbors from --approximate on;
- dask: the layers of one fit on one and on two worker processes;
- kill: fits killed at random times and started again; fits in which a Dask worker is killed;
- mnist: MNIST rows at the default settings (needs --data).

    python benchmarks/scale.py [--data DIR] [--parts landmarks half] [--n-estimators 50]

The JSON is written after every fit; parts that are not run keep the results of an earlier run.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path
from time import perf_counter, process_time
from unittest import mock

import matplotlib
import numpy as np
from common import RESULTS, load_mnist, machine, stopwatch, table
from joblib import effective_n_jobs

matplotlib.use("Agg")

PARTS = ("landmarks", "half", "dask", "kill", "mnist")
STAGES = ("neighbors", "bottom", "upper", "output", "transform")
N_FEATURES = 64


def main():
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    line.add_argument("--data", type=Path, help="folder with mnist/, for the part mnist")
    line.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    line.add_argument("--out", type=Path, default=RESULTS / "scale.json", help="JSON file of the results")
    line.add_argument("--landmarks-rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    line.add_argument("--half-rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    line.add_argument("--mnist-rows", type=int, nargs="*", default=[5000, 10000, 20000, 40000, 70000])
    line.add_argument("--approximate", type=int, default=100_000, help="rows from which neighbors are approximate")
    line.add_argument("--n-estimators", type=int, default=50, help="clusterings per layer of the synthetic fits")
    line.add_argument("--max-samples", type=int, default=10_000, help="rows that may become centroids")
    line.add_argument("--dask-rows", type=int, default=40_000)
    line.add_argument("--dask-estimators", type=int, default=200, help="clusterings per layer of the part dask")
    line.add_argument("--kills", type=int, default=20)
    line.add_argument("--worker-kills", type=int, default=5)
    line.add_argument("--kill-rows", type=int, default=8000)
    line.add_argument("--scratch", type=Path, help="folder for the rows on disk; the system's for temporary files")
    line.add_argument("--n-jobs", type=int, default=1, help="threads of a fit")
    line.add_argument(
        "--clock", choices=("wall", "cpu"), default="wall", help="cpu: seconds of the processor, for a machine in use"
    )
    line.add_argument("--one", nargs=2, metavar=("KIND", "ROWS"), help=argparse.SUPPRESS)
    options = line.parse_args()
    if options.one:
        print(json.dumps(fit_once(options.one[0], int(options.one[1]), options)))
        return
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    if "mnist" in options.parts and options.data is None:
        options.parts.remove("mnist")
        print("The part mnist is skipped: it needs --data")
    for part in options.parts:
        if part in ("dask", "kill"):
            results[part] = {"dask": dask_workers, "kill": kills}[part](options)
            write(options.out, results)
            continue
        runs = []
        for n_rows in getattr(options, f"{part}_rows"):
            runs.append(in_own_process(part, n_rows, options))
            results[part] = {"clock": options.clock, "runs": runs, "exponents": exponents(runs)}
            results[part]["exponents from 100000 rows"] = exponents(runs, 100_000)
            write(options.out, results)
        show(part, results[part])
    if any("runs" in result for result in results.values() if isinstance(result, dict)):
        draw(results, options.out.with_suffix(".png"))


def write(path, results):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**results, "machine": machine()}, indent=1, default=float) + "\n")


# -- growth with the number of rows


def in_own_process(kind, n_rows, options):
    command = [sys.executable, __file__, "--one", kind, str(n_rows), "--n-jobs", str(options.n_jobs)]
    command += ["--n-estimators", str(options.n_estimators), "--max-samples", str(options.max_samples)]
    command += ["--approximate", str(options.approximate), "--clock", options.clock]
    command += ["--data", str(options.data)] if options.data else []
    command += ["--scratch", str(options.scratch)] if options.scratch else []
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    run = json.loads(printed.splitlines()[-1])
    print(
        ", ".join(
            f"{name} {value if isinstance(value, (int, list)) else f'{value:.4g}'}" for name, value in run.items()
        )
    )
    return run


def fit_once(kind, n_rows, options):
    """Fit once, and transform the rows of landmarks; return the seconds of each stage and the peak memory."""
    from mbn import MultilayerBootstrapNetwork, layers, neighbors, output, tree

    settings = {} if kind == "mnist" else {"n_estimators": options.n_estimators}
    if kind == "landmarks":
        settings["max_samples"] = min(options.max_samples, n_rows)
    approximate = kind == "half" and n_rows >= options.approximate
    if kind == "half":
        neighbors.EXACT_OPERATIONS = 0 if approximate else np.inf
    warm_up()
    model = MultilayerBootstrapNetwork(n_jobs=options.n_jobs, random_state=0, **settings)
    watched = (
        (tree, "grow"),
        (neighbors.ExactSearch, "candidates"),
        (tree.TreeSearch, "candidates"),
        (layers, "assign_bottom"),
        (layers, "assign_upper"),
        (output, "principal_components"),
    )
    clock = process_time if options.clock == "cpu" else perf_counter
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        X = mnist_rows(n_rows, options.data) if kind == "mnist" else synthetic_rows(Path(folder) / "X.npy", n_rows)
        with PeakMemory() as memory:
            began, wall_began = clock(), perf_counter()
            with mock.patch("common.perf_counter", clock), stopwatch(*watched) as times:
                model.fit(X)
            fitted = clock()
            # neighbors are searched within the tasks of the bottom layer, by several threads at a time
            nearest = sum(times["grow"]) + sum(times["candidates"]) / effective_n_jobs(options.n_jobs)
            run = {
                "rows": n_rows,
                "k": model.k_,
                "neighbors": nearest,
                "bottom": sum(times["assign_bottom"]) - nearest,
                "upper": sum(times["assign_upper"]),
                "output": sum(times["principal_components"]),
                "fit": fitted - began,
            }
            if kind == "landmarks":
                out = np.lib.format.open_memmap(Path(folder) / "Z.npy", "w+", np.float32, (n_rows, 10))
                model.transform(X, out=out)
                run["transform"] = clock() - fitted
            run["total"] = clock() - began
            run["wall"] = perf_counter() - wall_began
    # X and the output are mapped from disk: the system can free such memory at any time
    peak, held = memory.peak / 1e9, model_bytes(model, X) / 1e9
    return {**run, "peak_gb": peak, "model_gb": held, "beyond_gb": peak - held, "x_gb": X.nbytes / 1e9}


def warm_up():
    """Compile or load every kernel, once per machine or process."""
    from mbn import MultilayerBootstrapNetwork

    X = np.random.default_rng(0).standard_normal((9000, 8), dtype=np.float32)
    X.flags.writeable = False
    MultilayerBootstrapNetwork(n_estimators=8).fit(X).transform(X[:20])
    MultilayerBootstrapNetwork(n_estimators=8, max_samples=4500).fit(X).transform(X)


def synthetic_rows(path, n_rows):
    """Write rows around 20 centers to disk, and map them."""
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 3, (20, N_FEATURES)).astype(np.float32)
    X = np.lib.format.open_memmap(path, "w+", np.float32, (n_rows, N_FEATURES))
    for first in range(0, n_rows, 10_000):
        size = min(10_000, n_rows - first)
        X[first : first + size] = rng.standard_normal((size, N_FEATURES), dtype=np.float32)
        X[first : first + size] += centers[rng.integers(0, 20, size)]
    X.flush()
    return np.load(path, mmap_mode="r")


def mnist_rows(n_rows, folder):
    X, _, X_test, _ = load_mnist(folder)
    return np.random.default_rng(0).permutation(np.vstack([X, X_test]))[:n_rows]


def model_bytes(model, X):
    """Return the memory of the fitted network in bytes, each array once and X not at all."""
    arrays = [array for layer in model.layers_ for array in (layer.reference, layer.rows, layer.used)]
    arrays = [array for array in arrays if not np.may_share_memory(array, X)]
    return sum({id(array): array.nbytes for array in [*arrays, model.components_]}.values())


class PeakMemory:
    """Largest anonymous memory of this process within the context, beyond that before it; in bytes."""

    def __enter__(self):
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):  # memory that was freed but not returned would not count
            ctypes.CDLL(None).malloc_trim(0)
        self.before = self.peak = self._now()
        self._done = threading.Event()
        self._watch = threading.Thread(target=self._follow, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, *_):
        self._done.set()
        self._watch.join()
        self.peak = max(self.peak, self._now()) - self.before

    def _follow(self):
        while not self._done.wait(0.02):
            self.peak = max(self.peak, self._now())

    def _now(self):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("RssAnon"):
                return int(line.split()[1]) * 1024
        return 0


def exponents(runs, least_rows=0):
    """Return the slopes of log(seconds) and log(memory) over log(rows), for stages of more than 0.2 s."""
    runs = [run for run in runs if run["rows"] >= least_rows]
    slopes = {}
    for name in (*STAGES, "fit", "total", "peak_gb", "beyond_gb"):
        kept = [run for run in runs if run.get(name, 0) > (0 if name.endswith("_gb") else 0.2)]
        if len(kept) > 1:
            slopes[name] = float(np.polyfit(*(np.log([run[key] for run in kept]) for key in ("rows", name)), 1)[0])
    return slopes


def show(part, result):
    columns = ["k1", *STAGES, "fit", "total", "peak_gb", "model_gb", "beyond_gb", "x_gb"]
    table(
        f"{part}: seconds and GB",
        ["rows", *columns],
        [[run["rows"], run["k"][0], *(run.get(name, 0.0) for name in columns[1:])] for run in result["runs"]],
    )
    for name, slope in result["exponents"].items():
        print(f"  {name} grows as rows ** {slope:.2f}")


def draw(results, path):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    styles = (("landmarks", "o-"), ("half", "s--"), ("mnist", "^:"))
    for (part, style), colors in zip(styles, ("Blues", "Oranges", "Greens")):
        runs = results.get(part, {}).get("runs", [])
        if not runs:
            continue
        rows = [run["rows"] for run in runs]
        shown = [name for name in (*STAGES, "fit", "total") if max(run.get(name, 0) for run in runs) > 1]
        for name, shade in zip(shown, np.linspace(0.4, 1, len(shown))):
            slope = results[part]["exponents"].get(name)
            label = f"{part}: {name}" + ("" if slope is None else f" ({slope:.2f})")
            times = [run.get(name) or np.nan for run in runs]
            axes[0].loglog(rows, times, style, color=plt.get_cmap(colors)(shade), label=label)
        kinds = (("peak_gb", "peak beyond X"), ("beyond_gb", "peak beyond X and the model"), ("x_gb", "X"))
        for (name, label), shade in zip(kinds, (0.9, 0.6, 0.35)):
            held = [run.get(name, np.nan) for run in runs]
            axes[1].loglog(rows, held, style, color=plt.get_cmap(colors)(shade), label=f"{part}: {label}")
    axes[0].set_ylabel("seconds (exponent)")
    axes[1].set_ylabel("GB")
    for axis in axes:
        axis.set_xlabel("rows")
        axis.legend(fontsize=6.5)
        axis.grid(which="both", alpha=0.2)
    figure.suptitle("Multilayer bootstrap networks: growth with the number of rows")
    figure.savefig(path, dpi=120)
    print(f"Picture: {path}")


# -- workers and interruptions


def some_rows(n_rows):
    with tempfile.TemporaryDirectory() as folder:
        return np.array(synthetic_rows(Path(folder) / "X.npy", n_rows))


def a_network(n_estimators):
    from mbn import MultilayerBootstrapNetwork

    return MultilayerBootstrapNetwork(n_estimators=n_estimators, random_state=0)


def cluster(n_workers):
    """Start worker processes of one thread each."""
    from dask.distributed import LocalCluster

    return LocalCluster(n_workers=n_workers, threads_per_worker=1, dashboard_address=None)


@contextlib.contextmanager
def one_core(is_pinned):
    """Keep this process on one core: with one worker of one thread, joblib computes in this process."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)} if is_pinned else cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def dask_workers(options):
    """Return the seconds of the layers on one and on two workers, in turns."""
    from dask.distributed import Client
    from joblib import parallel_config

    from mbn import layers

    X = some_rows(options.dask_rows)
    seconds = {1: [], 2: []}
    outputs = {}
    for _ in range(3):
        for n_workers in (1, 2):
            with one_core(n_workers == 1), cluster(n_workers) as local, Client(local), parallel_config(backend="dask"):
                a_network(options.dask_estimators).fit(X[:6000])  # kernels load in every worker
                with stopwatch((layers, "assign_bottom"), (layers, "assign_upper")) as times:
                    outputs[n_workers] = a_network(options.dask_estimators).fit_transform(X)
            seconds[n_workers].append([sum(times["assign_bottom"]), sum(times["assign_upper"])])
    best = {n: np.min(np.sum(values, axis=1)) for n, values in seconds.items()}
    result = {
        "rows": options.dask_rows,
        "clusterings": options.dask_estimators,
        "seconds (bottom, upper)": seconds,
        "ratio": best[1] / best[2],
        "identical": bool((outputs[1] == outputs[2]).all()),
    }
    print(
        f"Dask, {options.dask_rows} rows: one worker {best[1]:.1f} s, two {best[2]:.1f} s, ratio {result['ratio']:.2f}"
    )
    return result


RESUMED = """
import sys, time
import numpy as np
from pathlib import Path
from mbn import MultilayerBootstrapNetwork
folder, n_estimators = Path(sys.argv[1]), int(sys.argv[2])
X = np.load(folder / "X.npy", mmap_mode="r")
model = MultilayerBootstrapNetwork(n_estimators=n_estimators, memory=folder / "kept", random_state=0)
print("ready", flush=True)
began = time.perf_counter()
Z = model.fit_transform(X)
print(time.perf_counter() - began, flush=True)
np.save(folder / "Z.npy", Z)
"""


def kills(options):
    """Kill fits at random times and start them again; then Dask workers."""
    X = some_rows(options.kill_rows)
    expected = a_network(options.n_estimators).fit_transform(X)
    began = perf_counter()
    expected = a_network(options.n_estimators).fit_transform(X)
    undisturbed = perf_counter() - began
    moments = np.random.default_rng(0).uniform(0, undisturbed, options.kills)
    identical, left, resumed = 0, 0, []
    for moment in moments:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            np.save(folder / "X.npy", X)
            child = start_fit(folder, options)
            child.stdout.readline()
            time.sleep(moment)
            child.send_signal(signal.SIGKILL)
            child.wait()
            child = start_fit(folder, options)
            output = child.communicate()[0].split()
            resumed.append(float(output[1]))
            identical += child.returncode == 0 and bool((np.load(folder / "Z.npy") == expected).all())
            left += len(list((folder / "kept").rglob("*.partial")))
    result = {
        "rows": options.kill_rows,
        "kills": len(moments),
        "identical": identical,
        "partial files left": left,
        "seconds undisturbed": undisturbed,
        "seconds lost, mean": float(np.mean(moments + resumed) - undisturbed),
    }
    print(f"Kills of fits: {result}")
    return {"fit": result, "dask worker": worker_kills(options, X, expected)}


def start_fit(folder, options):
    command = [sys.executable, "-W", "error", "-c", RESUMED, str(folder), str(options.n_estimators)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def worker_kills(options, X, expected):
    from dask.distributed import Client
    from joblib import parallel_config

    undisturbed, disturbed, identical = [], [], 0
    moments = [None, *np.random.default_rng(1).uniform(0.1, 0.9, options.worker_kills)]
    for moment in moments:
        with cluster(2) as local, Client(local), parallel_config(backend="dask"):
            a_network(options.n_estimators).fit(X[:2000])
            process = next(iter(local.workers.values())).pid
            if moment is not None:
                timer = threading.Timer(moment * undisturbed[0], os.kill, (process, signal.SIGKILL))
                timer.start()
            began = perf_counter()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = a_network(options.n_estimators).fit_transform(X)
            (undisturbed if moment is None else disturbed).append(perf_counter() - began)
            identical += bool((found == expected).all())
    result = {
        "rows": options.kill_rows,
        "fits": len(moments),
        "identical": identical,
        "seconds undisturbed": undisturbed[0],
        "seconds with a kill": disturbed,
    }
    print(f"Kills of one of two Dask workers: {result}")
    return result


if __name__ == "__main__":
    main()
