"""Scaling of inputs of any unit to the range a network is trained on, with as few parameters as possible."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from distill.network import scale_inputs

INPUT_SCALINGS = ("auto", "common", "per-feature", None)

# Features whose ranges and means are within this factor have one unit: pixels and one-hot codes do, ages and incomes
# do not. Chosen by hand
_SAME_UNIT = 10.0
# Largest scaled value of a training row: larger ones would give rarely varying features large weights. Chosen by hand
_MAX_SCALED = 100.0
# Rows whose statistics are computed at once: 4096 rows of 1000 features are 32 MB in float64
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class InputScaling:
    """Scaling of the inputs of a network: ``(X - offset) * scale``.

    Parameters
    ----------
    offset, scale : ndarray of shape () or (n_features,), float32, or None
        None for no scaling.
    varies : ndarray of shape (n_features,), bool
        False for constant features, which get no weight.
    """

    offset: np.ndarray | None
    scale: np.ndarray | None
    varies: np.ndarray

    def apply(self, X: np.ndarray) -> np.ndarray:
        """Return the scaled rows as a new float32 array, constant features as zeros."""
        rows = scale_inputs(X, self.offset, self.scale)
        if not self.varies.all():
            rows[:, ~self.varies] = 0
        return rows


def fit_input_scaling(X: np.ndarray | sparse.csr_array, mode: str | None = "auto") -> InputScaling:
    """Choose offset and scale from training rows.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)
    mode : {"auto", "common", "per-feature"} or None
        "common": one offset, the mean of all values, and one scale, the inverse of their standard deviation.
        "per-feature": mean and inverse standard deviation of every feature; a standard deviation below a hundredth of
        the feature's range is replaced by that hundredth, so that scaled training rows stay within 100 and a feature
        that hardly ever varies gets no huge weight. "auto": "common" if `have_one_unit` is true, else "per-feature".
        None: no scaling. Constant features are left out of all means, and get no weight.

    Returns
    -------
    InputScaling

    Examples
    --------
    >>> X = np.array([[150.0, 4e4, 7.0], [170.0, 5e4, 7.0], [190.0, 9e4, 7.0]])
    >>> scaling = fit_input_scaling(X)
    >>> scaling.offset.round(), scaling.varies
    (array([  170., 60000.,     0.], dtype=float32), array([ True,  True, False]))
    """
    if mode not in INPUT_SCALINGS:
        raise ValueError(f"input_scaling must be 'auto', 'common', 'per-feature' or None, got {mode!r}")
    low, high, mean, variance = feature_statistics(X)
    # A feature whose variation float32 cannot distinguish from rounding is constant
    varies = (high > low) & (np.sqrt(variance) > 1e-6 * np.abs(mean))
    if mode is None or not varies.any():
        return InputScaling(None, None, varies)
    if mode == "auto":
        mode = "common" if have_one_unit(low[varies], high[varies], mean[varies]) else "per-feature"
    if mode == "common":
        offset = mean[varies].mean()
        std = np.sqrt(np.mean(variance[varies] + np.square(mean[varies] - offset)))
        return InputScaling(np.asarray(offset, np.float32), np.asarray(1 / std, np.float32), varies)
    std = np.maximum(np.sqrt(variance), (high - low) / _MAX_SCALED)
    scale = np.divide(1, std, out=np.zeros_like(std), where=varies)
    return InputScaling(np.where(varies, mean, 0).astype(np.float32), scale.astype(np.float32), varies)


def have_one_unit(low: np.ndarray, high: np.ndarray, mean: np.ndarray) -> bool:
    """Return whether features seem to have one unit, such as pixels, channels, coordinates and one-hot codes.

    Parameters
    ----------
    low, high, mean : ndarray of shape (n_features,)
        Statistics of every feature that varies.

    Returns
    -------
    bool
        True where, with m the median of the features' ranges (high - low), no range is above 10 m, at most one feature
        in ten has a range below m / 10 (rarely inked pixels do), and no feature's mean is further than 10 m from the
        mean of them all. Ranges are compared and not standard deviations: those of pixels differ by a factor of a
        hundred between the middle and the border of an image, and their ranges hardly.

    Examples
    --------
    >>> have_one_unit(np.zeros(3), np.array([255.0, 255.0, 31.0]), np.array([90.0, 3.0, 0.1]))
    True
    >>> have_one_unit(np.array([150.0, 2e4]), np.array([190.0, 9e4]), np.array([170.0, 4e4]))
    False
    """
    ranges = high - low
    middle = np.median(ranges)
    return bool(
        ranges.max() <= _SAME_UNIT * middle
        and np.mean(ranges < middle / _SAME_UNIT) <= 0.1
        and np.abs(mean - mean.mean()).max() <= _SAME_UNIT * middle
    )


def feature_statistics(X: np.ndarray | sparse.csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return minimum, maximum, mean and variance of every feature, float64, of the values in float32."""
    if sparse.issparse(X):
        return _sparse_statistics(X)
    blocks = [slice(start, start + _BLOCK) for start in range(0, len(X), _BLOCK)]
    low = np.min([X[block].min(axis=0) for block in blocks], axis=0)
    high = np.max([X[block].max(axis=0) for block in blocks], axis=0)
    mean = sum(X[block].astype(np.float32).sum(axis=0, dtype=np.float64) for block in blocks) / len(X)
    variance = sum(np.square(X[block].astype(np.float32) - mean).sum(axis=0) for block in blocks) / len(X)
    return low.astype(np.float32).astype(np.float64), high.astype(np.float32).astype(np.float64), mean, variance


def _sparse_statistics(X: sparse.csr_array) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    n_samples, n_features = X.shape
    columns = X.tocsc()
    values = columns.data.astype(np.float32).astype(np.float64)
    stored = np.diff(columns.indptr)
    feature = np.repeat(np.arange(n_features), stored)
    # Zeros are not stored: extremes start from zero, unless all values of a feature are stored
    low = np.zeros(n_features)
    high = np.zeros(n_features)
    np.minimum.at(low, feature, values)
    np.maximum.at(high, feature, values)
    for extreme, reduce in ((low, np.minimum), (high, np.maximum)):
        for full in np.flatnonzero(stored == n_samples):
            extreme[full] = reduce.reduce(values[columns.indptr[full] : columns.indptr[full + 1]])
    mean = np.bincount(feature, values, minlength=n_features) / n_samples
    squares = np.bincount(feature, np.square(values - mean[feature]), minlength=n_features)
    return low, high, mean, (squares + (n_samples - stored) * np.square(mean)) / n_samples
