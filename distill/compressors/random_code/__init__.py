"""Minimal random code learning: networks in an exact number of bytes."""

from distill.compressors.random_code.estimator import RandomCodeCompressor

__all__ = ["RandomCodeCompressor"]
