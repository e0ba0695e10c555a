"""What a device needs to run a student file; it imports NumPy alone."""

from distill.runtime.student import Student, load

__all__ = ["Student", "load"]
