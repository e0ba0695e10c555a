"""Students for machines without Python: generated C, and its size there."""
