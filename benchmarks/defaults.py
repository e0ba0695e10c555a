"""Choice of the defaults of the multilayer bootstrap network: one setting changed at a time, on three data sets.

Training rows only: 10000 images of MNIST, 10000 of Fashion-MNIST if its folder is given, and scikit-learn's digits,
without labels; k-means on the output, labels only for scores. ACC in percent, mean over seeds.

    python benchmarks/defaults.py --data DIR [--fashion DIR] [--n-estimators 200]
"""

import gzip
from pathlib import Path

import numpy as np
from common import clustering_scores, load_mnist, parser, spread, table, write_json
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits

from mbn import MultilayerBootstrapNetwork

N_ROWS = 10000
CHANGES = {
    "defaults": {},
    "delta=.3": {"delta": 0.3},
    "delta=.7": {"delta": 0.7},
    "k=.25 n": {"k": 0.25},
    "k=.8 n": {"k": 0.8},
    "max_features=.2": {"max_features": 0.2},
    "max_features=.8": {"max_features": 0.8},
    "n_neighbors=32": {"n_neighbors": 32},
    "n_neighbors=128": {"n_neighbors": 128},
}


def main():
    line = parser(__doc__, "defaults")
    line.add_argument("--fashion", type=Path, help="folder with train-images-idx3-ubyte.gz and its labels")
    line.add_argument("--n-estimators", type=int, default=200)
    options = line.parse_args()
    sets = data_sets(options)
    results = {name: {} for name in sets}
    for change, settings in CHANGES.items():
        for name, (X, y) in sets.items():
            scores = [score(X, y, settings, seed, options.n_estimators) for seed in range(options.seeds)]
            results[name][change] = scores
            print(f"{change}, {name}: ACC {spread([s['acc'] for s in scores])}", flush=True)
        write_json(options.out, results)
    rows = [[change, *[spread([100 * s["acc"] for s in results[name][change]]) for name in sets]] for change in CHANGES]
    table("ACC in percent of MBN + k-means, training rows without labels", ["", *sets], rows)


def data_sets(options):
    X, y, _, _ = load_mnist(options.data)
    sets = {"digits": load_digits(return_X_y=True), "MNIST": (X[:N_ROWS], y[:N_ROWS])}
    if options.fashion:
        X = read(options.fashion, "images-idx3", 16).reshape(-1, 784)[:N_ROWS].astype(np.float32) / 255
        sets["Fashion-MNIST"] = X, read(options.fashion, "labels-idx1", 8)[:N_ROWS].astype(int)
    return sets


def read(folder, kind, offset):
    """Return the values of a file in the format of MNIST, compressed or not."""
    path = folder / f"train-{kind}-ubyte.gz"
    data = gzip.decompress(path.read_bytes()) if path.exists() else path.with_suffix("").read_bytes()
    return np.frombuffer(data, np.uint8, offset=offset)


def score(X, y, settings, seed, n_estimators):
    settings = dict(settings)
    if "k" in settings:
        settings["k"] = int(settings["k"] * len(X))
    model = MultilayerBootstrapNetwork(n_estimators=n_estimators, random_state=seed, n_jobs=-1, **settings)
    found = KMeans(10, n_init=10, random_state=seed).fit_predict(model.fit_transform(X))
    return clustering_scores(np.asarray(y), found)


if __name__ == "__main__":
    main()
