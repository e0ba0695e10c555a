"""Matrix Gaussian posteriors: precision by posterior uncertainty, and predictions with standard deviations."""

from distill.compressors.matrix_gaussian.estimator import MatrixGaussianCompressor

__all__ = ["MatrixGaussianCompressor"]
