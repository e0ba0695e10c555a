"""Give any unsupervised model a fast, tiny predict: distill it, compress it, ship a few kilobytes."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from distill.compressors import COMPRESSORS
from distill.utils.extras import training_needed

if TYPE_CHECKING:
    from distill.codecs.container import StudentFileError as StudentFileError
    from distill.compressors import *  # noqa: F403
    from distill.distiller import Distiller as Distiller
    from distill.export.c import to_c as to_c
    from distill.model_selection import AutoCompressor as AutoCompressor
    from distill.onnx import to_onnx as to_onnx
    from distill.pipeline import save as save
    from distill.runtime import Student as Student
    from distill.runtime import load as load

__version__ = "0.1.0"

_HOMES = {
    "AutoCompressor": "distill.model_selection",
    "Distiller": "distill.distiller",
    "Student": "distill.runtime",
    "StudentFileError": "distill.codecs.container",
    "load": "distill.runtime",
    "save": "distill.pipeline",
    "to_c": "distill.export.c",
    "to_onnx": "distill.onnx",
    **dict.fromkeys(COMPRESSORS.values(), "distill.compressors"),
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    # torch and scikit-learn are imported on first use, so that a student runs with NumPy alone
    if name in _HOMES:
        with training_needed(f"distill.{name}"):
            return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'distill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
