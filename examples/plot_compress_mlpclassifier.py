"""A scikit-learn MLPClassifier in a few kilobytes, without torch or scikit-learn where it is used.

    python examples/compress_mlpclassifier.py

writes a picture and the student's file to results/.
"""

import pickle
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from distill import CodebookCompressor, load
from distill.plotting import WeightCodesDisplay

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main():
    RESULTS.mkdir(exist_ok=True)
    X, y = load_digits(return_X_y=True)
    X, X_new, y, y_new = train_test_split(X / 16, y, test_size=0.25, stratify=y, random_state=0)
    classifier = MLPClassifier((128, 64), early_stopping=True, max_iter=300, random_state=0).fit(X, y)
    n_bytes = len(pickle.dumps(classifier))
    print(f"{'':24s}    bytes  accuracy on {len(X_new)} new rows")
    print(f"{'MLPClassifier, pickled':24s} {n_bytes:8d} {classifier.score(X_new, y_new):9.1%}")
    for bits in (4, 3, 2, 1):
        small = CodebookCompressor(FrozenEstimator(classifier), bits=bits, random_state=0).fit(X)
        print(f"{f'{bits} bits per weight':24s} {small.nbytes_:8d} {small.score(X_new, y_new):9.1%}")
        if bits == 2:
            small.save(RESULTS / "classifier.student")
            display = WeightCodesDisplay.from_estimator(small, layer=0)
            display.figure_.savefig(RESULTS / "weight_codes.png", dpi=120)
    deployed = load(RESULTS / "classifier.student")
    print(f"\nThe file of 2 bits: {deployed}")
    print(f"It reads {deployed.predict(X_new[:10])} where {y_new[:10]} was written")


if __name__ == "__main__":
    main()
