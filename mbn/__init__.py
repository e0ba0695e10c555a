"""Multilayer bootstrap networks: clusterings of random data points, layer upon layer."""

from importlib import import_module

_HOMES = {"MultilayerBootstrapNetwork": "mbn.estimator", "in_blocks": "mbn.rows"}
__all__ = ["MultilayerBootstrapNetwork", "in_blocks"]


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'mbn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
