"""Smoke test of an installed wheel, run by `make release-check` outside of the test suite.

    python -I tests/smoke_installed.py [--numpy-only]

`-I` keeps the checkout off the import path. With `--numpy-only` the environment has NumPy alone: a golden student file
is read and predicts. Without, a student is trained, compressed, saved and loaded.
"""

import importlib.metadata
import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import numpy as np

TESTS = Path(__file__).resolve().parent


def check(condition, message):
    if not condition:
        raise SystemExit(f"smoke test failed: {message}")


def installed():
    """Check that the installed package is imported, with its version and type marker."""
    import distill

    folder = Path(distill.__file__).parent
    check(not folder.is_relative_to(TESTS.parent) or "site-packages" in folder.parts, f"imported {folder}")
    check(importlib.metadata.version("mbn-distill") == distill.__version__, "versions differ")
    check((folder / "py.typed").exists(), "py.typed is missing")
    return distill


def numpy_only(distill):
    """Check that a golden student file predicts without torch and scikit-learn, which a fit asks for."""
    for name in ("torch", "sklearn", "scipy"):
        check(importlib.util.find_spec(name) is None, f"{name} is installed")
    import mbn

    for package, name in ((distill, "Distiller"), (distill, "save"), (mbn, "MultilayerBootstrapNetwork")):
        try:
            getattr(package, name)
        except ImportError as error:
            check("pip install 'mbn-distill[train]'" in str(error), f"advice for {name}: {error}")
        else:
            check(False, f"{name} is there without scikit-learn")
    golden = next(TESTS.rglob("expected.json"))
    cases = json.loads(golden.read_text(encoding="utf-8"))
    check(cases, "no golden files")
    for name, case in cases.items():
        student = distill.load(golden.with_name(f"{name}.student"))
        if "labels" in case:
            check(student.predict(case["rows"]).tolist() == case["labels"], f"{name}: labels differ")
    from distill.web import make_page

    check(make_page(student.to_bytes()).endswith("</html>\n"), "no page")


def with_everything(distill):
    """Check the path from a teacher to a compressed student file."""
    from sklearn.cluster import KMeans
    from sklearn.datasets import load_digits
    from sklearn.pipeline import make_pipeline

    from mbn import MultilayerBootstrapNetwork

    X = load_digits().data[:600]
    network = MultilayerBootstrapNetwork(n_clusters=10, n_estimators=20, random_state=0)
    teacher = make_pipeline(network, KMeans(10, n_init=1, random_state=0))
    student = distill.Distiller(teacher, hidden_layer_sizes=(16,), max_iter=3, random_state=0)
    small = distill.CodebookCompressor(student, bits=2, random_state=0).fit(X)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "digits.student"
        small.save(path)
        check(path.stat().st_size == small.nbytes_, "size of the file")
        check(np.array_equal(distill.load(path).predict(X), small.predict(X)), "predictions of the loaded file differ")


if __name__ == "__main__":
    package = installed()
    if "--numpy-only" in sys.argv:
        numpy_only(package)
    else:
        with_everything(package)
    print(f"mbn-distill {package.__version__}: smoke test passed")
