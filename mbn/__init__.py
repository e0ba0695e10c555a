"""Multilayer bootstrap networks: clusterings of random data points, layer upon layer."""

from mbn.network import MultilayerBootstrapNetwork

__all__ = ["MultilayerBootstrapNetwork"]
