"""How the teacher's fit grows with the number of rows: seconds and peak memory, each size in a process of its own.

MNIST rows (training and held-out images together, 70000) at the default settings, and clustered synthetic data
with 64 features, up to a million rows, where approximate neighbours take over.

    python benchmarks/scale.py --data DIR [--rows 5000 10000 20000 40000 70000] [--synthetic 100000 1000000]
"""

import json
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import matplotlib
import numpy as np
from common import load_mnist, parser, peak_memory, stopwatch, table, write_json

matplotlib.use("Agg")

STAGES = ("neighbors", "bottom", "upper", "output", "total")


def main():
    line = parser(__doc__, "scale")
    line.add_argument("--rows", type=int, nargs="*", default=[5000, 10000, 20000, 40000, 70000])
    line.add_argument("--synthetic", type=int, nargs="*", default=[100_000, 1_000_000])
    line.add_argument("--n-estimators", type=int, default=400, help="clusterings per layer of the synthetic fits")
    line.add_argument("--max-samples", type=int, default=None, help="landmarks of the synthetic fits")
    line.add_argument(
        "--one", nargs=2, metavar=("KIND", "ROWS"), help="fit once and print JSON; used by the script itself"
    )
    options = line.parse_args()
    if options.one:
        print(json.dumps(fit_once(options.one[0], int(options.one[1]), options)))
        return
    results = {}
    for kind, sizes in (("MNIST", options.rows), ("synthetic", options.synthetic)):
        runs = [in_own_process(kind, n, options) for n in sizes]
        results[kind] = runs
        if runs:
            table(
                f"{kind}: growth of the fit with the number of rows",
                ["rows", "k1", *(f"{stage} s" for stage in STAGES), "peak GB", "GB of X"],
                [
                    [run["rows"], run["k"][0], *(run[stage] for stage in STAGES), run["peak_gb"], run["x_gb"]]
                    for run in runs
                ],
            )
        if len(runs) > 1:
            slope = np.polyfit(np.log([run["rows"] for run in runs]), np.log([run["total"] for run in runs]), 1)[0]
            print(f"{kind}: seconds grow as rows ** {slope:.2f}")
            results[f"{kind}_exponent"] = float(slope)
    draw(results, options.out.with_suffix(".png"))
    write_json(options.out, results)


def in_own_process(kind, n_rows, options):
    command = [sys.executable, __file__, "--data", str(options.data), "--one", kind, str(n_rows)]
    command += ["--n-estimators", str(options.n_estimators)]
    if options.max_samples:
        command += ["--max-samples", str(options.max_samples)]
    answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(answer.splitlines()[-1])


def fit_once(kind, n_rows, options):
    from mbn import MultilayerBootstrapNetwork, network, output

    X = rows_of(kind, n_rows, options.data)
    MultilayerBootstrapNetwork(n_estimators=8, n_jobs=-1).fit(X[:3000])  # kernels compile
    settings = {}
    if kind == "synthetic":
        settings = {"max_samples": options.max_samples, "n_estimators": options.n_estimators}
    model = MultilayerBootstrapNetwork(n_jobs=-1, random_state=0, **settings)
    watched = (
        (network, "_nearest"),
        (network, "_assign_bottom"),
        (network, "_assign_upper"),
        (output, "principal_components"),
    )
    began = perf_counter()
    with stopwatch(*watched) as times:
        model.fit(X)
    neighbors = sum(times["_nearest"])
    return {
        "rows": n_rows,
        "k": model.k_,
        "neighbors": neighbors,
        "bottom": sum(times["_assign_bottom"]) - neighbors,
        "upper": sum(times["_assign_upper"]),
        "output": sum(times["principal_components"]),
        "total": perf_counter() - began,
        "peak_gb": peak_memory(),
        "x_gb": X.nbytes / 1e9,
    }


def rows_of(kind, n_rows, folder):
    if kind == "MNIST":
        X, _, X_test, _ = load_mnist(folder)
        return np.random.default_rng(0).permutation(np.vstack([X, X_test]))[:n_rows]
    rng = np.random.default_rng(0)
    centers = rng.normal(0, 3, (20, 64)).astype(np.float32)
    X = rng.standard_normal((n_rows, 64), dtype=np.float32)
    X += centers[rng.integers(0, 20, n_rows)]
    return X


def draw(results, path):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for kind, mark in (("MNIST", "o-"), ("synthetic", "s--")):
        runs = results.get(kind, [])
        if runs:
            rows = [run["rows"] for run in runs]
            for stage in ("neighbors", "bottom", "upper", "total"):
                axes[0].loglog(rows, [run[stage] for run in runs], mark, label=f"{kind}: {stage}", alpha=0.8)
            axes[1].loglog(rows, [run["peak_gb"] for run in runs], mark, label=f"{kind}: peak memory")
            axes[1].loglog(rows, [run["x_gb"] for run in runs], mark, alpha=0.4, label=f"{kind}: X itself")
    axes[0].set_ylabel("seconds")
    axes[1].set_ylabel("GB")
    for axis in axes:
        axis.set_xlabel("rows")
        axis.legend(fontsize=7)
        axis.grid(which="both", alpha=0.2)
    figure.suptitle("Fit of a multilayer bootstrap network at its defaults")
    Path(path).parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=120)
    print(f"Picture: {path}")


if __name__ == "__main__":
    main()
