"""Students for machines without Python: generated C."""
