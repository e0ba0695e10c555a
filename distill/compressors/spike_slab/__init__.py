"""Spike-and-slab variational inference: pruning by posterior inclusion probabilities."""

from distill.compressors.spike_slab.estimator import SpikeSlabCompressor

__all__ = ["SpikeSlabCompressor"]
