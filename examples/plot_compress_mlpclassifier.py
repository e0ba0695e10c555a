"""
Compress an MLPClassifier
=========================

A network of scikit-learn in a file of a few kilobytes, which predicts without torch and without scikit-learn.
"""

import pickle
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

from distill import CodebookCompressor, load
from distill.plotting import WeightCodesDisplay

RESULTS = Path("results")
RESULTS.mkdir(exist_ok=True)

X, y = load_digits(return_X_y=True)
X, X_new, y, y_new = train_test_split(X / 16, y, test_size=0.25, stratify=y, random_state=0)
classifier = MLPClassifier((128, 64), early_stopping=True, max_iter=300, random_state=0).fit(X, y)

# %%
# Bytes and accuracy
# ------------------
# ``FrozenEstimator`` prevents a second fit of the classifier. The compressor learns from the classifier's outputs for
# ``X`` and needs no labels.

print(f"{'':24s}    bytes  accuracy on {len(X_new)} test samples")
print(f"{'MLPClassifier, pickled':24s} {len(pickle.dumps(classifier)):8d} {classifier.score(X_new, y_new):9.1%}")
compressed = {}
for bits in (4, 3, 2, 1):
    compressed[bits] = CodebookCompressor(FrozenEstimator(classifier), bits=bits, random_state=0).fit(X)
    accuracy = compressed[bits].score(X_new, y_new)
    print(f"{f'{bits} bits per weight':24s} {compressed[bits].nbytes_:8d} {accuracy:9.1%}")

# %%
# The file
# --------
# The loaded file gives the same predictions as the fitted compressor, bit for bit.

compressed[2].save(RESULTS / "classifier.student")
deployed = load(RESULTS / "classifier.student")
print(deployed)
print(f"predicted {deployed.predict(X_new[:10])}")
print(f"label     {y_new[:10]}")

# %%
# The codes
# ---------
# Each weight of the first layer is one of four codewords times the scale of its unit's group. Gray rows are pixels that
# are always black; the file contains no codes for them.

display = WeightCodesDisplay.from_estimator(compressed[2], layer=0)
display.figure_.savefig(RESULTS / "weight_codes.png", dpi=120)
