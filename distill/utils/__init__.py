"""Utilities of the estimators: caching, deprecation, progress and validation of parameters."""
