"""Round the means of a posterior to a grid that follows its variances."""

import numpy as np

from distill.codecs.grid import MAX_LOW_BITS, GridLayer, nearest_level, power

_MOST_COUNTED = 1 << 12


def quantize(
    mean: np.ndarray,
    row_variance: np.ndarray,
    column_variance: np.ndarray,
    rate_weight: float = 1.0,
    noise: np.ndarray | None = None,
    uniform: bool | int = False,
    coarser: np.ndarray | None = None,
) -> GridLayer:
    """Round a posterior's means to a grid that follows its variances.

    Parameters
    ----------
    mean : ndarray of shape (n_inputs + 1, n_outputs)
        The biases last.
    row_variance : ndarray of shape (n_inputs + 1,)
    column_variance : ndarray of shape (n_outputs,)
        A weight's variance is that of its row times that of its column.
    rate_weight : float
        What a nat of code is worth in nats of loss, positive. Steps are ``sqrt(12 rate_weight)`` deviations, and codes
        go to a smaller magnitude where the bits that this saves are worth more than the loss.
    noise : ndarray of shape (n_outputs,) or None
    uniform : bool or int
        One step for all weights of the layer, for comparison: of the size that posterior steps have in the geometric
        mean, or that of weights whose deviation has this level.
    coarser : ndarray of shape (n_inputs + 1,), int64, or None
        See `GridLayer`.

    Returns
    -------
    GridLayer

    Raises
    ------
    ValueError
        If a mean is not finite, or a variance not positive.
    """
    if not np.isfinite(mean).all():
        raise ValueError("the means of the weights must be finite; the posterior has diverged, lower the learning rate")
    for variance in (row_variance, column_variance):
        if not (np.isfinite(variance) & (variance > 0)).all():
            raise ValueError(
                "variances must be positive and finite; the posterior has diverged, lower the learning rate"
            )
    rows, columns = nearest_level(np.sqrt(row_variance)), nearest_level(np.sqrt(column_variance))
    # Scale can be moved between rows and columns; columns that begin at zero need no number to say where
    rows, columns = rows + columns.min(), columns - columns.min()
    if uniform is not False:
        level = round(rows.mean() + columns.mean()) if uniform is True else uniform
        rows, columns = np.full_like(rows, level), np.zeros_like(columns)
    step_level = int(np.clip(nearest_level(np.sqrt(12 * rate_weight)), -127, 127))
    levels = rows[:, None] + columns
    if coarser is not None:
        levels += coarser[:, None]
    exact = mean / power(levels + step_level)
    if np.abs(exact).max() >= 1 << (8 + MAX_LOW_BITS):
        raise ValueError("a weight is more steps from zero than a student file holds; use a larger rate_weight")
    step = float(power(np.array(step_level)))
    codes = np.rint(exact).astype(np.int64)
    for _ in range(3):
        codes = _cheaper_codes(exact, codes, levels, 0.5 * step**2, rate_weight)
    used = codes[:-1].any(axis=1)
    rows[:-1][~used] = rows[-1]
    noise = None if noise is None else np.asarray(noise, np.float32)
    return GridLayer(codes, rows, columns, step_level, used, noise, uniform is False, step_exponents=coarser)


def _cheaper_codes(
    exact: np.ndarray, codes: np.ndarray, levels: np.ndarray, worth: float, rate_weight: float
) -> np.ndarray:
    """Choose for every weight between the nearest code, the next one towards zero, and zero."""
    chosen = np.empty_like(codes)
    split = np.searchsorted(np.quantile(levels[:-1], (0.25, 0.5, 0.75)), levels)
    split[-1] = 4  # biases are a class of their own
    for number in range(5):
        inside = split == number
        if not inside.any():
            continue
        magnitude = np.abs(codes[inside])
        largest = int(magnitude.max())
        if largest >= _MOST_COUNTED:
            chosen[inside] = codes[inside]  # steps so fine that there is nothing to choose
            continue
        counts = np.bincount(magnitude, minlength=2) + 0.5
        nats = np.log(counts.sum()) - np.log(counts)
        nats[1:] += np.log(2)
        wanted = np.abs(exact[inside])
        nearest = np.minimum(np.rint(wanted).astype(np.int64), len(counts) - 1)
        candidates = np.stack([nearest, np.maximum(nearest - 1, 0), np.zeros_like(nearest)])
        costs = worth * np.square(candidates - wanted) + rate_weight * nats[candidates]
        best = np.take_along_axis(candidates, costs.argmin(axis=0)[None], axis=0)[0]
        chosen[inside] = np.where(exact[inside] < 0, -best, best)
    return chosen
