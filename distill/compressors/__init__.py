"""The registry of compressors: one folder each, named after the method.

The public names of `distill`, the candidates of `AutoCompressor`, scikit-learn's checks in the tests and the API pages
all come from this table. A new compressor adds a line to each of the two places below.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distill.compressors.codebook import CodebookCompressor as CodebookCompressor
    from distill.compressors.matrix_gaussian import MatrixGaussianCompressor as MatrixGaussianCompressor
    from distill.compressors.random_code import RandomCodeCompressor as RandomCodeCompressor
    from distill.compressors.spike_slab import SpikeSlabCompressor as SpikeSlabCompressor

# Quick ones first: where AutoCompressor searches a size, later ones compete with what was found
COMPRESSORS = {
    "codebook": "CodebookCompressor",
    "spike_slab": "SpikeSlabCompressor",
    "matrix_gaussian": "MatrixGaussianCompressor",
    "random_code": "RandomCodeCompressor",
}


def compressor_class(method: str) -> Any:
    """Return the class of a method; its folder, and torch with it, are only imported now."""
    return getattr(import_module(f"{__name__}.{method}"), COMPRESSORS[method])


def __getattr__(name: str) -> Any:
    for method, class_name in COMPRESSORS.items():
        if name == class_name:
            return compressor_class(method)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
