"""Students outside Python: what is written for other languages, and its size there."""
