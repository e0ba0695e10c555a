"""Preprocessing of samples of which more is known than their features: images."""

try:
    from mbn.preprocessing.image_moments import ImageMoments
except ModuleNotFoundError as error:
    if (error.name or "mbn").split(".")[0] == "mbn":
        raise
    raise ImportError(
        f"mbn.preprocessing needs {error.name}, which is not installed: pip install 'mbn-distill[train]'"
    ) from error

__all__ = ["ImageMoments"]
