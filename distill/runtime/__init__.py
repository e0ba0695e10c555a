"""Run student files on a device: this package imports NumPy alone."""

from distill.runtime.student import Student, load

__all__ = ["Student", "load"]
