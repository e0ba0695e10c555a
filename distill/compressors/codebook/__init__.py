"""Joint learning of codes and mappings: weights as codes of a few bits with learned codebooks."""

from distill.compressors.codebook.estimator import CodebookCompressor

__all__ = ["CodebookCompressor"]
