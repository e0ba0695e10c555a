"""Configuration of Sphinx for `make docs`."""

import os
import re

from sphinx_gallery.sorting import ExplicitOrder

import distill
from distill import __version__
from distill.compressors import COMPRESSORS

os.environ["MPLBACKEND"] = "Agg"  # for examples that draw, and the processes they start

project = "mbn-distill"
copyright = "the mbn-distill developers"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "numpydoc", "myst_parser", "sphinx_gallery.gen_gallery"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "auto_examples/*.ipynb", "auto_examples/*.py", "sg_execution_times.rst"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings say more
numpydoc_show_class_members = False
numpydoc_class_members_toctree = False
default_role = "code"

# Examples that draw and the quickstart are executed. The others are shown as code only: they start a cluster or another
# interpreter
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/(plot_|quickstart)",
    "within_subsection_order": ExplicitOrder(
        [
            "quickstart.py",
            "plot_give_hdbscan_predict.py",
            "plot_compress_umap.py",
            "plot_compress_mlpclassifier.py",
            "plot_search_compression.py",
            "deploy.py",
            "web_page.py",
            "dask_map_blocks.py",
            "dask_map_partitions.py",
        ]
    ),
    "abort_on_example_error": True,
    "download_all_examples": False,
    "min_reported_time": 1e9,
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "write_computation_times": False,
}

html_theme = "furo"
html_title = "mbn-distill"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#1f5c99", "color-brand-content": "#1f5c99"},
}
html_show_sphinx = False


# Methods for subclasses and for other estimators, which are described in "Write a compressor"
PROTOCOL = {
    "get_metadata_routing",
    "imitated_estimator",
    "imitated_method",
    "predict_imitated",
    "student_output",
    "scaled_network",
}


def public_methods(name):
    """Return the names of the methods of an estimator that are not scikit-learn's own, in the order of definition."""
    methods = {}
    for base in getattr(distill, name).__mro__:
        if base.__module__.startswith(("distill.", "mbn.")):
            methods |= dict.fromkeys(member for member, value in vars(base).items() if hasattr(value, "__get__"))
    return [
        member
        for member in methods
        if not member.startswith(("_", "set_")) and not member.endswith("_") and member not in PROTOCOL
    ]


def fill_in_compressors(app, docname, source):
    """Write the API page of the compressors from the registry."""
    if docname == "api/compressors":
        names = [*COMPRESSORS.values(), "AutoCompressor"]
        entries = [(name, ", ".join(public_methods(name))) for name in names]
        source[0] = app.builder.templates.render_string(source[0], {"compressors": entries})


def setup(app):
    """Write pages from the registry, and escape the trailing underscore of fitted attributes, a link in reST."""

    def escape(app, what, name, obj, options, lines):
        for index, line in enumerate(lines):
            if not line.lstrip().startswith((">>>", "...")):
                lines[index] = re.sub(r"(?<![\w`*\\])(\w*\w)_(?![\w`*])", r"\1\\_", line)

    app.connect("source-read", fill_in_compressors)
    app.connect("autodoc-process-docstring", escape, priority=900)
