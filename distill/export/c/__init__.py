"""Students as C99: one header without dependencies, for microcontrollers."""

from distill.export.c.exporter import to_c

__all__ = ["to_c"]
