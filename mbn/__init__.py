"""Multilayer bootstrap networks: clusterings of random data points, layer upon layer."""

__all__ = ["MultilayerBootstrapNetwork"]


def __getattr__(name: str):
    if name == "MultilayerBootstrapNetwork":
        from mbn.network import MultilayerBootstrapNetwork

        return MultilayerBootstrapNetwork
    raise AttributeError(f"module 'mbn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
