"""
Deploy a student
================

Train here, predict elsewhere: a student file runs where neither torch nor scikit-learn is installed.

k-means finds ten clusters of digits, and a small network learns to predict them and is saved. A new interpreter, in
which importing torch or scikit-learn is an error, then loads the file and predicts the same samples.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from distill import Distiller

# The program of the small machine
DEPLOYED = """
import sys

for absent in ("torch", "sklearn", "scipy"):
    sys.modules[absent] = None  # importing it is now an ImportError

import numpy as np
import distill

student = distill.load(sys.argv[1])
rows = np.load(sys.argv[2])
np.save(sys.argv[3], student.predict(rows))
print(f"{student} predicted {len(rows)} samples")
"""


def main():
    X = load_digits().data.astype(np.float32)
    X_train, X_new = train_test_split(X, test_size=0.3, random_state=0)
    distiller = Distiller(KMeans(10, n_init=3, random_state=0), hidden_layer_sizes=(32,), random_state=0).fit(X_train)

    with tempfile.TemporaryDirectory() as folder:
        file, rows, labels = (Path(folder) / name for name in ("digits.student", "rows.npy", "labels.npy"))
        distiller.save(file)
        np.save(rows, X_new)
        print(
            f"saved {os.path.getsize(file)} bytes; agreement with k-means on test samples {distiller.score(X_new):.3f}"
        )
        subprocess.run([sys.executable, "-c", DEPLOYED, file, rows, labels], check=True)
        identical = np.array_equal(np.load(labels), distiller.predict(X_new))
    print(f"the same predictions as here: {identical}")
    return 0 if identical else 1


if __name__ == "__main__":
    sys.exit(main())
