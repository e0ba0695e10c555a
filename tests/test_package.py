"""What an installed package and its metadata promise: one version, type markers, names that editors see."""

import ast
import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import distill
import mbn

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


def test_links_of_the_readme_exist():
    for page in ("README.md", "CONTRIBUTING.md", "SECURITY.md"):
        for link in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8")):
            assert (ROOT / link).exists(), f"{page} links to {link}"
