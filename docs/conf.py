"""How Sphinx makes the documentation: `make docs`."""

import re
from importlib.metadata import version as version_of

project = "mbn-distill"
copyright = "the mbn-distill developers"
version = release = version_of("mbn-distill")

extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "numpydoc", "myst_parser"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say more
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
default_role = "code"

html_theme = "furo"
html_title = "mbn-distill"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5c99", "color-brand-content": "#1f5c99"},
}
html_show_sphinx = False


def setup(app):
    """Let names with an underscore at their end, as fitted attributes have, stand in running text of docstrings."""

    def escape(app, what, name, obj, options, lines):
        for index, line in enumerate(lines):
            if not line.lstrip().startswith((">>>", "...")):
                lines[index] = re.sub(r"(?<![\w`*\\])(\w*\w)_(?![\w`*])", r"\1\\_", line)

    app.connect("autodoc-process-docstring", escape, priority=900)
