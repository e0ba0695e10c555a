"""Give any unsupervised model a fast, tiny predict: distil it, compress it, ship a few kilobytes."""

from importlib import import_module

_HOMES = {
    "AutoCompressor": "distill.model_selection",
    "CodebookCompressor": "distill.compressors.codebook.estimator",
    "MatrixGaussianCompressor": "distill.compressors.matrix_gaussian.estimator",
    "RandomCodeCompressor": "distill.compressors.random_code.estimator",
    "SpikeSlabCompressor": "distill.compressors.spike_slab.estimator",
    "Distiller": "distill.distiller",
    "Student": "distill.runtime",
    "StudentFileError": "distill.codecs.container",
    "load": "distill.runtime",
    "save": "distill.pipeline",
    "to_onnx": "distill.onnx",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str):
    # torch and scikit-learn are loaded by those who need them, so that a student runs with NumPy alone
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'distill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
