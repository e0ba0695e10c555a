"""Compressors, one folder for each method, and their registry.

The public names of `distill`, the candidates of `AutoCompressor`, the tests with scikit-learn's checks and the API
pages are all made from this table. A new compressor has a line in `COMPRESSORS` and an import for type checkers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from distill.utils.extras import training_needed

if TYPE_CHECKING:
    from distill.compressors.codebook import CodebookCompressor as CodebookCompressor
    from distill.compressors.matrix_gaussian import MatrixGaussianCompressor as MatrixGaussianCompressor
    from distill.compressors.random_code import RandomCodeCompressor as RandomCodeCompressor
    from distill.compressors.spike_slab import SpikeSlabCompressor as SpikeSlabCompressor

# Fast methods first: their order is that of AutoCompressor's candidates
COMPRESSORS = {
    "codebook": "CodebookCompressor",
    "spike_slab": "SpikeSlabCompressor",
    "matrix_gaussian": "MatrixGaussianCompressor",
    "random_code": "RandomCodeCompressor",
}


def compressor_class(method: str) -> Any:
    """Return the class of a method; the import of its folder, and of torch, happens here."""
    with training_needed(f"distill.{COMPRESSORS[method]}"):
        return getattr(import_module(f"{__name__}.{method}"), COMPRESSORS[method])


def __getattr__(name: str) -> Any:
    for method, class_name in COMPRESSORS.items():
        if name == class_name:
            return compressor_class(method)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
