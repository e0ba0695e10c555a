"""Multilayer bootstrap networks: clusterings of randomly drawn samples, layer upon layer."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mbn.clustering import MBNClustering
    from mbn.estimator import MultilayerBootstrapNetwork
    from mbn.rows import in_blocks

__all__ = ["MBNClustering", "MultilayerBootstrapNetwork", "in_blocks"]

# Names are imported on first use, so that `import mbn` loads neither numba nor scikit-learn
_MODULES = {
    "MBNClustering": "mbn.clustering",
    "MultilayerBootstrapNetwork": "mbn.estimator",
    "in_blocks": "mbn.rows",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        try:
            return getattr(import_module(_MODULES[name]), name)
        except ModuleNotFoundError as error:
            if (error.name or "mbn").split(".")[0] == "mbn":
                raise
            raise ImportError(
                f"mbn.{name} needs {error.name}, which is not installed: pip install 'mbn-distill[train]'"
            ) from error
    if name == "__version__":  # of the distribution, which is written in `distill`
        return version("mbn-distill")
    raise AttributeError(f"module 'mbn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
