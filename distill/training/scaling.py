"""Scaling of inputs of any unit to the range a network is trained on, with as few parameters as possible."""

from dataclasses import dataclass

import numpy as np
from scipy import sparse

from distill.network import scale_inputs

INPUT_SCALINGS = ("auto", "common", "per-feature", None)

# Features whose ranges are within this factor have one unit: pixels and one-hot codes do, ages and incomes do not.
# Chosen by hand
_SAME_UNIT = 10.0
# Largest scaled value of a training row: larger ones would give rarely varying features large weights. Chosen by hand
_MAX_SCALED = 100.0
# Rows whose statistics are computed at once: 4096 rows of 1000 features are 32 MB in float64
_BLOCK = 4096
# Offsets in standard deviations from which rows are scaled in float64. Float32 holds seven digits, of which four are
# left at this offset
_MAX_NARROW_OFFSET = 1000.0
# Standard deviation of a feature, relative to its mean, below which it is constant: the resolution of the rows, with
# a factor for the rounding of the statistics
_RESOLUTION = {np.dtype(np.float32): 1e-6, np.dtype(np.float16): 1e-3}
_RESOLUTION_OF_FLOAT64 = 1e-15
# Wild values: at most this fraction of a feature's values on either side, beyond a gap of `_GAP` times the range of the
# others, or `_GAP_OF_RARE` times where 90 % of the values are equal. Chosen by hand
_MAX_WILD, _GAP, _GAP_OF_RARE = 0.05, 10.0, 1000.0
# Standard deviations of a feature in steps of its type below which differences are rounding, with an offset of more
# than this many ranges
_COARSE_STEPS, _SHIFTED = 4.0, 1000.0
# Rows from which the features that may have wild values are found, and their values, 128 MB in float64. Chosen by hand
_SAMPLE, _SAMPLE_VALUES = 2000, 2**24
# Distance of the clipping from the range of the other values, in its own units: wild values stay apart from them
_CLIP_MARGIN = 2.0


@dataclass(frozen=True, eq=False)
class InputScaling:
    """Scaling of the inputs of a network: ``(X - offset) * scale``, clipped, with zeros for missing values.

    Parameters
    ----------
    offset, scale : ndarray of shape () or (n_features,), float32 or float64, or None
        None for no scaling.
    varies : ndarray of shape (n_features,), bool
        False for constant features, which get no weight.
    clip : float or None
        Limit of the magnitude of scaled values; None without wild values.
    fill : bool
        Whether rows have missing values, NaN, which become zero after scaling.
    """

    offset: np.ndarray | None
    scale: np.ndarray | None
    varies: np.ndarray
    clip: float | None = None
    fill: bool = False

    def restore(self, rows: np.ndarray) -> np.ndarray:
        """Return scaled rows in their own units, float64; features that do not vary are zero."""
        found = rows.astype(np.float64)
        if self.scale is not None:
            found = np.divide(found, self.scale, out=np.zeros_like(found), where=np.asarray(self.scale) != 0)
        return found if self.offset is None else found + self.offset

    def apply(self, X: np.ndarray) -> np.ndarray:
        """Return the scaled rows as a new float32 array, constant features as zeros."""
        rows = scale_inputs(X, self.offset, self.scale, self.clip, self.fill)
        if not self.varies.all():
            rows[:, ~self.varies] = 0
        return rows


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Minimum, maximum, mean and variance of every feature, of its values that are not missing.

    Parameters
    ----------
    low, high, mean, variance : ndarray of shape (n_features,), float64
    """

    low: np.ndarray
    high: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


def fit_input_scaling(
    X: np.ndarray | sparse.csr_array, mode: str | None = "auto", narrow: bool = False
) -> InputScaling:
    """Choose offset and scale from training rows.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)
        Of any numeric type. NaN is a missing value.
    mode : {"auto", "common", "per-feature"} or None
        "common": one offset, the mean of all values, and one scale, the inverse of their standard deviation.
        "per-feature": mean and inverse standard deviation of every feature; a standard deviation below a hundredth of
        the feature's range is replaced by that hundredth, so that scaled training rows stay within 100 and a feature
        that hardly ever varies gets no huge weight. "auto": "common" if `have_one_unit` is true, else "per-feature";
        wild values (see `wild_values`) count neither for the decision nor for offset and scale, and are clipped. Rows
        with missing values are scaled per feature. None: no scaling. Constant features are left out of all means, and
        get no weight.
    narrow : bool
        Whether offset and scale must be float32 and nothing may be clipped, so that the scaling can be folded into a
        layer. Otherwise they are float64 where an offset is more than 1000 standard deviations.

    Returns
    -------
    InputScaling

    Examples
    --------
    >>> X = np.array([[150.0, 4e4, 7.0], [170.0, 5e4, 7.0], [190.0, 9e4, 7.0]])
    >>> scaling = fit_input_scaling(X)
    >>> scaling.offset.round(), scaling.varies
    (array([  170., 60000.,     0.], dtype=float32), array([ True,  True, False]))

    An offset that float32 cannot hold:

    >>> fit_input_scaling(X + 1e12).apply(X + 1e12)[:, 0].round(2)
    array([-1.22,  0.  ,  1.22], dtype=float32)
    """
    if mode not in INPUT_SCALINGS:
        raise ValueError(f"input_scaling must be 'auto', 'common', 'per-feature' or None, got {mode!r}")
    fill = X.dtype.kind == "f" and bool(np.isnan(X.data if sparse.issparse(X) else X).any())
    robust = mode == "auto" and not narrow
    wild = wild_values(X) if robust else {}
    statistics = feature_statistics(X, wild)
    low, high, mean, variance = statistics.low, statistics.high, statistics.mean, statistics.variance
    # A feature whose variation is below the resolution of its values is constant
    resolution = _RESOLUTION.get(X.dtype, _RESOLUTION_OF_FLOAT64)
    varies = (high > low) & (np.sqrt(variance) > resolution * np.abs(mean))
    if mode is None or not varies.any():
        return InputScaling(None, None, varies, fill=fill)
    if mode == "auto":
        is_common = not fill and have_one_unit(low[varies], high[varies], mean[varies])
        mode = "common" if is_common else "per-feature"
    if mode == "common":
        offset = mean[varies].mean()
        std = np.sqrt(np.mean(variance[varies] + np.square(mean[varies] - offset)))
        scale = 1 / std
    else:
        std = np.maximum(np.sqrt(variance), (high - low) / _MAX_SCALED)
        scale = np.divide(1, std, out=np.zeros_like(std), where=varies)
        offset = np.where(varies, mean, 0)
    clip = None
    if wild:
        largest = np.maximum(np.abs(low - offset), np.abs(high - offset)) * scale
        clip = float(np.float32(_CLIP_MARGIN * largest[varies].max()))
    offset, scale = np.asarray(offset), np.asarray(scale)
    if narrow or not _needs_float64(offset, scale):
        offset, scale = offset.astype(np.float32), scale.astype(np.float32)
    else:
        scale = _short(scale)
    return InputScaling(offset, scale, varies, clip, fill)


def coarse_feature(X: np.ndarray | sparse.csr_array) -> int | None:
    """Return a feature whose values differ by a few steps of their type only, None if there is none.

    Examples
    --------
    >>> coarse_feature((1e8 + np.arange(60)[:, None] % 20).astype(np.float32))
    0
    """
    if X.dtype.kind not in "iuf":
        return None
    statistics = feature_statistics(X)
    largest = np.maximum(np.abs(statistics.low), np.abs(statistics.high))
    # Integers are converted to float64, which has steps above 1 beyond 2^53
    kind = X.dtype if X.dtype.kind == "f" else np.dtype(np.float64)
    with np.errstate(over="ignore"):
        steps = np.spacing(largest.astype(kind)).astype(np.float64)
    exact = (largest < 2.0**53) if X.dtype.kind != "f" else np.zeros(len(steps), bool)
    # Whole numbers and other coarse scales are no rounding: only an offset makes a step as large as the spread
    shifted = largest > _SHIFTED * (statistics.high - statistics.low)
    coarse = (
        (statistics.high > statistics.low) & shifted & ~exact & (np.sqrt(statistics.variance) < _COARSE_STEPS * steps)
    )
    return int(np.flatnonzero(coarse)[0]) if coarse.any() else None


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
        in ten has a range below m / 10 (rarely inked pixels do), and no feature's mean is further than m from the mean
        of them all: with a common offset, the differences between latitudes or between longitudes would be small next
        to that between latitude and longitude. Ranges are compared and not standard deviations: those of pixels differ
        by a factor of a hundred between the middle and the border of an image, and their ranges hardly.

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
        and np.abs(mean - mean.mean()).max() <= middle
    )


def wild_values(X: np.ndarray | sparse.csr_array) -> dict[int, tuple[float, float]]:
    """Find features with a few values far beyond all others, such as a -99999 for "not measured".

    A standard deviation with them would hide the differences between the other values.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)

    Returns
    -------
    dict of int to tuple of float
        For each such feature, minimum and maximum of the other values. Wild are at most 5 % of a feature's values
        on either side, beyond a gap of 10 times the range of the others.

    Examples
    --------
    >>> column = np.append(np.linspace(0, 1, 199), -99999.0)
    >>> wild_values(np.stack([column, np.arange(200.0)], axis=1))
    {0: (0.0, 1.0)}
    """
    low, high = feature_ranges(X)
    # Evenly spaced rows show which features may have such values, at a small part of the cost of sorting them all
    n_rows = max(_SAMPLE // 100, min(_SAMPLE, _SAMPLE_VALUES // X.shape[1]))
    sample = np.unique(np.linspace(0, X.shape[0] - 1, n_rows).astype(int))
    rows = np.sort(dense(X[sample]).astype(np.float64), axis=0)[_middle(len(sample))]
    with np.errstate(invalid="ignore"):
        candidates = np.flatnonzero(high - low > _GAP * np.ptp(np.nan_to_num(rows), axis=0))
    columns = X if isinstance(X, np.ndarray) or not len(candidates) else X.tocsc()
    found: dict[int, tuple[float, float]] = {}
    # A gap says less where nine in ten values are equal, as of a pixel with ink in few images: such a feature has wild
    # values only if another one has, since it is whole rows that were not measured
    for rare in (False, True):
        for feature in candidates:
            if feature not in found:
                bounds = _others(dense(columns[:, [feature]]).astype(np.float64).ravel(), rare)
                found |= {} if bounds is None else {int(feature): bounds}
        if not found:
            break
    return found


def _middle(n_values: int) -> slice:
    """Return the positions of the middle 90 % of sorted values."""
    n_outer = int(_MAX_WILD * n_values)
    return slice(n_outer, n_values - n_outer)


def _others(column: np.ndarray, rare: bool) -> tuple[float, float] | None:
    """Return minimum and maximum of the values that are not wild; None if no value is, or 90 % are equal.

    With `rare` also where 90 % are equal.
    """
    values = np.sort(column[~np.isnan(column)])
    middle = _middle(len(values))
    inside = values[middle]
    if not len(inside) or (inside[0] == inside[-1] and not rare):
        return None
    factor = _GAP if inside[-1] > inside[0] else _GAP_OF_RARE
    first, last = middle.start, middle.stop - 1
    with np.errstate(over="ignore"):
        gaps = np.diff(values)
        # Gaps that are not large even next to the middle are skipped
        large = np.flatnonzero(gaps > factor * (inside[-1] - inside[0]))
        while True:
            below, above = large[large < first], large[large >= last]
            # The gaps next to the range, or the ends of the values
            first = int(below[-1]) + 1 if len(below) else 0
            last = int(above[0]) if len(above) else len(values) - 1
            limit = factor * (values[last] - values[first])
            nearest = min(
                [index for index in (first - 1, last) if 0 <= index < len(gaps)], key=gaps.__getitem__, default=0
            )
            if (first, last) == (0, len(values) - 1):
                return None
            if limit and gaps[nearest] > limit:
                return float(values[first]), float(values[last])
            # The nearer values beyond a gap are not wild
            large = large[large != nearest]


def _needs_float64(offset: np.ndarray, scale: np.ndarray) -> bool:
    """Return whether an offset uses up the digits of float32, or a scale is outside of its range."""
    with np.errstate(over="ignore"):
        shift = np.abs(offset * scale)
    used = scale[scale > 0]
    limits = np.finfo(np.float32)
    return bool(shift.max() > _MAX_NARROW_OFFSET or used.max() > limits.max or used.min() < limits.tiny)


def _short(scale: np.ndarray) -> np.ndarray:
    """Return scales rounded to float32, as float64, where float32 can hold them: they then take half of the bytes."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = scale.astype(np.float32).astype(np.float64)
    limits = np.finfo(np.float32)
    fits = (scale == 0) | ((scale < limits.max) & (scale > limits.tiny))
    return rounded if fits.all() else scale


def dense(X: np.ndarray | sparse.csr_array) -> np.ndarray:
    """Return rows as a dense array."""
    return X if isinstance(X, np.ndarray) else X.toarray()


def feature_ranges(X: np.ndarray | sparse.csr_array) -> tuple[np.ndarray, np.ndarray]:
    """Return minimum and maximum of every feature, float64, of its values that are not missing; NaN where all are."""
    if not isinstance(X, np.ndarray):
        low, high = dense(X.nanmin(axis=0)).ravel(), dense(X.nanmax(axis=0)).ravel()
    elif X.dtype.kind != "f":
        low, high = X.min(axis=0), X.max(axis=0)
    else:  # fmin and fmax prefer numbers to NaN
        low, high = np.fmin.reduce(X, axis=0), np.fmax.reduce(X, axis=0)
    # Differences of small integers overflow, and Booleans have none
    return low.astype(np.float64), high.astype(np.float64)


def feature_statistics(
    X: np.ndarray | sparse.csr_array, wild: dict[int, tuple[float, float]] | None = None
) -> FeatureStatistics:
    """Return statistics of every feature in float64.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)
    wild : dict of int to tuple of float, or None
        Features with wild values, which do not count; see `wild_values`.

    Returns
    -------
    FeatureStatistics
    """
    statistics = _dense_statistics(X) if isinstance(X, np.ndarray) else _sparse_statistics(X)
    for feature, (low, high) in (wild or {}).items():
        column = dense(X[:, [feature]]).ravel()
        values = column[(column >= low) & (column <= high)].astype(np.float64)
        statistics.low[feature], statistics.high[feature] = low, high
        statistics.mean[feature], statistics.variance[feature] = values.mean(), values.var()
    return statistics


def _dense_statistics(X: np.ndarray) -> FeatureStatistics:
    low, high = feature_ranges(X)
    blocks = [X[start : start + _BLOCK] for start in range(0, len(X), _BLOCK)]
    if X.dtype.kind == "f" and any(np.isnan(block).any() for block in blocks):
        return _statistics_of_present(blocks, low, high)
    # A sum of values far from zero would lose the digits of their differences
    base = np.where(np.abs(low) > _MAX_NARROW_OFFSET * (high - low), low, 0.0)
    mean = base + sum((block - base).sum(axis=0) for block in blocks) / len(X)
    variance = sum(np.square(block - mean).sum(axis=0) for block in blocks) / len(X)
    return FeatureStatistics(low, high, mean, variance)


def _statistics_of_present(blocks: list[np.ndarray], low: np.ndarray, high: np.ndarray) -> FeatureStatistics:
    """Return statistics of rows with missing values."""
    n_present = sum((~np.isnan(block)).sum(axis=0) for block in blocks).clip(1)
    mean = low + sum(np.nansum(block - low, axis=0) for block in blocks) / n_present
    variance = sum(np.nansum(np.square(block - mean), axis=0) for block in blocks) / n_present
    nothing = np.isnan(low)
    return FeatureStatistics(*(np.where(nothing, 0.0, part) for part in (low, high, mean, variance)))


def _sparse_statistics(X: sparse.csr_array) -> FeatureStatistics:
    n_samples, n_features = X.shape
    columns = X.tocsc()
    feature = np.repeat(np.arange(n_features), np.diff(columns.indptr))
    values, missing = columns.data.astype(np.float64), np.isnan(columns.data)
    n_present = (n_samples - np.bincount(feature[missing], minlength=n_features)).clip(1)
    feature, values = feature[~missing], values[~missing]
    stored = np.bincount(feature, minlength=n_features)
    # Zeros are not stored: extremes start from zero, unless all values of a feature are stored
    low, high = np.zeros(n_features), np.zeros(n_features)
    low[(stored == n_present) & (stored > 0)], high[(stored == n_present) & (stored > 0)] = np.inf, -np.inf
    np.minimum.at(low, feature, values)
    np.maximum.at(high, feature, values)
    mean = np.bincount(feature, values, minlength=n_features) / n_present
    squares = np.bincount(feature, np.square(values - mean[feature]), minlength=n_features)
    return FeatureStatistics(low, high, mean, (squares + (n_present - stored) * np.square(mean)) / n_present)
