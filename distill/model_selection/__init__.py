"""Scorers and searches over fidelity and size."""

from distill.utils.extras import training_needed

with training_needed("distill.model_selection"):
    from distill.model_selection.auto import AutoCompressor
    from distill.model_selection.scores import (
        SCORING,
        SmallestWithin,
        fidelity_scorer,
        pareto_front,
        size_scorer,
        smallest_within,
    )

__all__ = [
    "SCORING",
    "AutoCompressor",
    "SmallestWithin",
    "fidelity_scorer",
    "pareto_front",
    "size_scorer",
    "smallest_within",
]
