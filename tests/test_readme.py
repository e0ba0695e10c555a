"""What README and user guide show is run exactly as it is printed: page by page, one block after the other.

Only the data are fewer and the trainings shorter than a reader's.
"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]


def blocks(page):
    """Return the blocks of Python of a page, each padded so that errors name the right line."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(r"^```python\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
    return ["\n" * (text[: match.start(1)].count("\n")) + match[1] for match in found]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning")  # of the short trainings
@pytest.mark.filterwarnings("default")  # a reader may be told of changes in scikit-learn to come
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
@pytest.mark.usefixtures("brief")
def test_snippets_run_as_printed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__snippets__"}
    for code in blocks(page):
        exec(compile(code, str(page), "exec"), namespace)
    assert blocks(page), "there is nothing to run"


def test_pages_name_only_what_exists():
    import distill
    import distill.model_selection
    import distill.plotting

    known = {*distill.__all__, *distill.model_selection.__all__, *distill.plotting.__all__}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for module, name in re.findall(r"\bdistill(?:\.(model_selection|plotting))?\.([A-Z]\w+)", text):
            assert name in known, f"{page.name} names distill.{module or ''}{'.' if module else ''}{name}"
