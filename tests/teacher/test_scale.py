"""The benchmark of growth with the number of rows: its arithmetic, and that it runs."""

import gc
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from mbn import neighbors

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scale.py"


@pytest.fixture(scope="module")
def scale():
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        spec = importlib.util.spec_from_file_location("scale", SCRIPT)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPT.parent))
    return module


def test_exponents_are_slopes_in_logarithms(scale):
    runs = [
        {"rows": n, "fit": 1e-4 * n**1.3, "total": 2e-3 * n, "peak_gb": 0.2, "upper": 0.01} for n in (1e4, 1e5, 1e6)
    ]
    slopes = scale.exponents(runs)
    assert slopes == pytest.approx({"fit": 1.3, "total": 1, "peak_gb": 0}, abs=1e-9)  # none for stages without time
    assert scale.exponents(runs, least_rows=1e6) == {}


@pytest.mark.slow
def test_memory_of_files_does_not_count(scale, tmp_path):
    X = scale.synthetic_rows(tmp_path / "X.npy", 200_000)
    with scale.PeakMemory() as memory:
        float(X.sum())
    assert memory.peak < 5e6 < X.nbytes
    gc.collect()  # memory of earlier tests must not be freed meanwhile
    with scale.PeakMemory() as memory:
        held = np.ones(20_000_000)
    assert memory.peak > 0.9 * held.nbytes


@pytest.mark.slow
def test_small_sizes_run(tmp_path):
    out = tmp_path / "scale.json"
    options = ["--parts", "landmarks", "--landmarks-rows", "3000", "--max-samples", "1000", "--n-estimators", "8"]
    shown = subprocess.run([sys.executable, SCRIPT, "--out", out, *options], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    results = json.loads(out.read_text())
    (run,) = results["landmarks"]["runs"]
    assert (run["rows"], run["k"][0]) == (3000, 500)
    assert run["transform"] > 0
    assert out.with_suffix(".png").stat().st_size > 5000


@pytest.mark.parametrize("approximate", [500, 2000])
def test_fit_with_half_of_the_rows(scale, approximate, monkeypatch):
    monkeypatch.setattr(neighbors, "EXACT_OPERATIONS", neighbors.EXACT_OPERATIONS)  # the script sets it
    monkeypatch.setattr(scale, "warm_up", lambda: None)
    options = {"n_estimators": 8, "n_jobs": 1, "clock": "cpu", "scratch": None, "approximate": approximate}
    run = scale.fit_once("half", 1000, SimpleNamespace(**options))
    assert (run["rows"], run["k"][0]) == (1000, 500)
    assert 0 < run["neighbors"] < run["fit"] <= run["total"] and "transform" not in run
