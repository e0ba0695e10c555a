"""What an installed package and its metadata promise: one version, type markers, names that editors see."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib import resources
from pathlib import Path

from fresh_process import run_python

import distill
import mbn
from distill.utils import extras

ROOT = Path(__file__).parent.parent


def test_version_is_the_same_everywhere():
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version, date = re.search(r"^## \[(\d[^]]*)\] - (\d{4}-\d\d-\d\d)$", changelog, flags=re.MULTILINE).groups()
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.search(r"^version: (\S+)$", citation, flags=re.MULTILINE)[1] == version
    assert re.search(r"^date-released: (\S+)$", citation, flags=re.MULTILINE)[1] == date
    assert distill.__version__ == version or ".dev" in distill.__version__


def test_version_can_be_read_without_importing_the_package():
    tree = ast.parse((ROOT / "distill" / "__init__.py").read_text(encoding="utf-8"))
    assigned = {node.targets[0].id: node.value for node in tree.body if isinstance(node, ast.Assign)}
    assert ast.literal_eval(assigned["__version__"]) == distill.__version__ == mbn.__version__


def test_type_checkers_use_the_annotations():
    assert resources.files("distill").joinpath("py.typed").is_file()


def test_import_of_the_package_loads_neither_torch_nor_scikit_learn():
    code = "import sys, distill; print({'torch', 'sklearn', 'scipy'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_default_installation_runs_students_and_an_extra_makes_them():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {
        name: [re.match(r"[\w.-]+", line)[0] for line in lines]
        for name, lines in project["optional-dependencies"].items()
    }
    assert [re.match(r"[\w.-]+", line)[0] for line in project["dependencies"]] == ["numpy"]
    assert [{"scikit-learn": "sklearn"}.get(name, name) for name in names["train"]] == list(extras.TRAINING)
    # Whoever installs another extra can fit
    for name in ("dask", "docs", "onnx", "plot", "test"):
        assert "mbn-distill" in names[name]


MISSING = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"scipy", "sklearn", "torch", "joblib", "filelock", "numba", "threadpoolctl"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
import distill, mbn
for statement in sys.argv[1:]:
    try:
        exec(statement)
    except ImportError as error:
        assert "pip install 'mbn-distill[train]'" in str(error), error
    else:
        raise AssertionError(statement)
assert distill.load and distill.Student and distill.StudentFileError
"""


def test_what_needs_the_extra_says_how_to_install_it():
    run_python(
        MISSING,
        "from distill import Distiller",
        "from distill import save",
        "from distill.compressors import SpikeSlabCompressor",
        "distill.CodebookCompressor",
        "from distill.model_selection import fidelity_scorer",
        "from mbn import MultilayerBootstrapNetwork",
        "mbn.in_blocks",
        "from mbn.preprocessing import ImageMoments",
    )


def test_links_of_the_readme_exist():
    for page in ("README.md", "CONTRIBUTING.md", "SECURITY.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            assert (ROOT / link).exists(), f"{page} links to {link}"
