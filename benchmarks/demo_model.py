"""The 1000-byte model of the drawing page: digits without labels, from MNIST to ``examples/models/``.

As in part (a) of `random_code.py`: an MBN teacher with k-means finds ten clusters of the training images; a network
784-300-100-10 imitates its labels on shifted images; a random code of at most 1000 bytes imitates that network. Labels
are used when all of this is done: to score, and to write down which digit most validation images of a cluster show.

    python benchmarks/demo_model.py --data DIR [--out FOLDER] [--seed 0]
"""

import argparse
import json
from pathlib import Path

import joblib
import numpy as np
from common import RESULTS, clustering_accuracy, load_mnist, machine
from lenet import N_VALIDATION, teacher_labels
from random_code import CANDIDATES, compress, train_network

from distill import load
from distill.codecs.files import write_bytes

MAX_BYTES = 1000


def main():
    """Make the model, score it, and write it with its description."""
    line = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    line.add_argument("--data", type=Path, required=True, help="folder with mnist/")
    line.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "examples" / "models")
    line.add_argument("--cache", type=Path, default=RESULTS / "cache")
    line.add_argument("--steps", type=int, default=12000, help="training steps before coding")
    line.add_argument("--seed", type=int, default=0)
    options = line.parse_args()
    memory = joblib.Memory(options.cache, verbose=0)
    X, y, X_test, y_test = load_mnist(options.data)
    labels, labels_test = teacher_labels(None, X, X_test, memory)
    print(f"teacher: ACC {100 * clustering_accuracy(y_test, labels_test):.2f} %", flush=True)
    n_train = len(X) - N_VALIDATION
    network = memory.cache(train_network)(X[:n_train], labels[:n_train])
    attempt = memory.cache(compress, ignore=["X"])
    runs = [
        attempt(network, X[:n_train], MAX_BYTES, options.seed, options.steps, candidate)
        for candidate in CANDIDATES[MAX_BYTES]
    ]
    # Chosen by the labels of the teacher on validation images
    scores = [float(np.mean(load(run["data"]).predict(X[n_train:]) == labels[n_train:])) for run in runs]
    print("agreement with the teacher on validation images:", scores, flush=True)
    best = int(np.argmax(scores))
    data = runs[best]["data"]
    student = load(data)
    clusters_valid, clusters_test = student.predict(X[n_train:]), student.predict(X_test)
    counts = np.zeros((10, 10), int)
    np.add.at(counts, (clusters_valid.astype(int), y[n_train:]), 1)
    description = {
        "names": {str(cluster): str(row.argmax()) for cluster, row in enumerate(counts)},
        "word": "cluster",
        "note": "The model was trained without labels: its answer is the number of a cluster. The digit is the one "
        f"that most images of the cluster show, counted with the labels of {N_VALIDATION} images after the training.",
        "made_by": "python benchmarks/demo_model.py --data DIR",
        "training": "MNIST, 55000 images without labels (the teacher: 60000); pixels from 0 to 1",
        "settings": CANDIDATES[MAX_BYTES][best]._asdict() | {"seed": options.seed, "steps": options.steps},
        "bytes": len(data),
        "test_images": len(X_test),
        "test_acc": clustering_accuracy(y_test, clusters_test.astype(int)),
        "test_agreement_with_teacher": float(np.mean(clusters_test == labels_test)),
        "teacher_test_acc": clustering_accuracy(y_test, labels_test),
        "machine": machine(),
    }
    options.out.mkdir(parents=True, exist_ok=True)
    write_bytes(data, str(options.out / "mnist_1000.student"))
    write_bytes((json.dumps(description, indent=1) + "\n").encode(), str(options.out / "mnist_1000.json"))
    print(json.dumps(description, indent=1))


if __name__ == "__main__":
    main()
