"""The examples run as they are, in an interpreter of their own, and leave what they promise."""

import subprocess
import sys
from pathlib import Path

import pytest

from distill import load

EXAMPLES = Path(__file__).parent.parent / "examples"
LEFT = {
    "search_compression": ["search_compression.png", "winner.student"],
    "compress_umap": ["embedding.png", "embedding.student"],
    "give_hdbscan_predict": ["hdbscan.png", "hdbscan.student"],
    "compress_mlpclassifier": ["weight_codes.png", "classifier.student"],
    "quickstart": ["quickstart.png", "digits.student"],
}


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", LEFT)
def test_example(name, tmp_path):
    # A copy, so that results/ of the checkout are not touched
    script = tmp_path / "examples" / f"{name}.py"
    script.parent.mkdir()
    script.write_text((EXAMPLES / script.name).read_text(encoding="utf-8"), encoding="utf-8")
    shown = subprocess.run([sys.executable, script], capture_output=True, text=True, cwd=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("\n") >= 4
    for file in LEFT[name]:
        path = tmp_path / "results" / file
        assert path.stat().st_size > 100
        if path.suffix == ".student":
            load(path)


def test_no_example_is_left_out():
    scripts = {path.stem for path in EXAMPLES.glob("*.py")}
    # tests/test_student_file.py and tests/test_dask.py run these
    assert scripts - {"deploy", "dask_map_blocks", "dask_map_partitions"} == set(LEFT)
