"""Each example runs unchanged in a new interpreter and writes the files that its page describes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from distill import load

EXAMPLES = Path(__file__).parent.parent / "examples"
FILES = {
    "plot_search_compression": ["search_compression.png", "winner.student"],
    "plot_compress_umap": ["embedding.png", "embedding-float32.student", "embedding.student"],
    "plot_give_hdbscan_predict": ["hdbscan.png", "hdbscan.student"],
    "plot_compress_mlpclassifier": ["weight_codes.png", "classifier.student"],
    "quickstart": ["quickstart.png", "digits.student", "digits-2bit.student"],
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", FILES)
def test_example(name, tmp_path):
    # results/ is created in the current folder, so that the checkout is not touched
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    shown = subprocess.run(
        [sys.executable, EXAMPLES / f"{name}.py"], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("\n") >= 4
    for file in FILES[name]:
        path = tmp_path / "results" / file
        assert path.stat().st_size > 100
        if path.suffix == ".student":
            load(path)
    assert {path.name for path in (tmp_path / "results").iterdir()} == set(FILES[name])


def test_every_example_is_tested():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    # tests/runtime/test_student_file.py and tests/teacher/test_dask.py run these
    assert scripts - {"deploy", "dask_map_blocks", "dask_map_partitions"} == set(FILES)


def test_examples_that_draw_are_executed_by_the_gallery():
    """`make docs` executes files named plot_* and the quickstart."""
    drawing = {path.stem for path in EXAMPLES.glob("*.py") if "savefig" in path.read_text(encoding="utf-8")}
    assert drawing == set(FILES)
    assert all(name.startswith("plot_") for name in drawing - {"quickstart"})
