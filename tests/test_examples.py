"""Each example runs unchanged and writes the files that its page describes."""

import runpy
import sys
from pathlib import Path

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.testing import assert_array_equal

from distill import load

EXAMPLES = Path(__file__).parent.parent / "examples"
FILES = {
    "plot_search_compression": ["search_compression.png", "winner.student"],
    "plot_compress_umap": ["embedding.png", "embedding-float32.student", "embedding.student"],
    "plot_give_hdbscan_predict": ["hdbscan.png", "hdbscan.student"],
    "plot_compress_mlpclassifier": ["weight_codes.png", "classifier.student"],
    "quickstart": ["quickstart.png", "digits.student", "digits-2bit.student"],
}


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run an example, look at what it prints and writes, and return its variables."""

    def run(name):
        monkeypatch.chdir(tmp_path)  # results/ is created here, so that the checkout is not touched
        monkeypatch.setattr(sys, "argv", [f"{name}.py"])
        with matplotlib.rc_context({"backend": "Agg"}):
            variables = runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
        assert capsys.readouterr().out.count("\n") >= 4
        for file in FILES[name]:
            path = tmp_path / "results" / file
            assert path.stat().st_size > 100
            if path.suffix == ".student":
                load(path)
        assert {path.name for path in (tmp_path / "results").iterdir()} == set(FILES[name])
        return variables

    yield run
    plt.close("all")


@pytest.mark.slow
@pytest.mark.usefixtures("brief")
@pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")  # of the short trainings
@pytest.mark.parametrize("name", [name for name in FILES if name != "plot_compress_umap"])
def test_example(name, run):
    run(name)


@pytest.mark.slow  # umap-learn compiles its kernels, about 13 s
@pytest.mark.usefixtures("few_digits")
@pytest.mark.filterwarnings("ignore")
def test_student_of_umap_embeds_new_rows(run):
    """A teacher of a third party, with pickling of its own."""
    variables = run("plot_compress_umap")
    if variables["name"] != "UMAP":
        return
    student, X_new = variables["student"], variables["X_new"]
    Z = student.transform(X_new)
    assert Z.shape == (len(X_new), 2)
    assert student.score(X_new) > 0.9  # R^2 against umap's own transform; 0.98 when written
    assert_array_equal(load(student.to_bytes()).transform(X_new), Z)
    assert student.nbytes_ < 200_000 and np.isfinite(Z).all()


def test_every_example_is_tested():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    # tests/runtime/test_student_file.py, tests/teacher/test_dask.py and tests/web/test_page_in_browser.py run these
    assert scripts - {"deploy", "dask_map_blocks", "dask_map_partitions", "web_page"} == set(FILES)


def test_examples_that_draw_are_executed_by_the_gallery():
    """`make docs` executes files named plot_* and the quickstart."""
    drawing = {path.stem for path in EXAMPLES.glob("*.py") if "savefig" in path.read_text(encoding="utf-8")}
    assert drawing == set(FILES)
    assert all(name.startswith("plot_") for name in drawing - {"quickstart"})
