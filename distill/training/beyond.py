"""Rows around and beyond the training rows, for which a teacher that marks noise or outliers is imitated as well.

A network extrapolates: without such rows it gives a row at a hundred times the spread of the data the label of some
cluster, and is certain of it. Inputs are clipped to a box around the data, so that the rows in that box stand for all
others.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import sparse

from distill.training.device import one_thread
from distill.training.scaling import InputScaling, dense

# Made rows: as many as training rows within these limits. Chosen by hand on blobs, moons, positions and digits
_LEAST, _MOST = 400, 10_000
# Training rows to which distances are computed, and the number of rows of a block
_REFERENCE, _BLOCK = 10_000, 1024
# Values of such a sample of rows, 64 MB in float32, whatever the number of features
_VALUES = 2**24
# A row is beyond the data at this multiple of a nearly largest distance between neighboring rows that are no noise;
# about nearer ones nothing is known. Chosen by hand on the same data
_FAR, _QUANTILE = 2.0, 0.99


@dataclass(frozen=True, eq=False)
class Beyond:
    """Rows around and beyond the training rows, with their labels.

    Parameters
    ----------
    scaling : InputScaling
        Of the student's inputs, with a clip.
    rows : ndarray of shape (n_rows, n_features), float32
        Scaled.
    labels : ndarray of shape (n_rows,), int64
        Positions of labels.
    """

    scaling: InputScaling
    rows: np.ndarray
    labels: np.ndarray


def surround(
    X: np.ndarray | sparse.csr_array, is_inside: np.ndarray, scaling: InputScaling, seed: int
) -> tuple[InputScaling, np.ndarray]:
    """Clip inputs to a box, and make rows in it around and beyond the training rows.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)
        Training rows.
    is_inside : ndarray of shape (n_samples,), bool
        Rows that are neither noise nor outliers.
    scaling : InputScaling
    seed : int

    Returns
    -------
    scaling : InputScaling
        With a clip so far out that a row with one clipped feature is beyond the data.
    rows : ndarray of shape (n_rows, n_features), float32
        Scaled, and none near a row inside: a quarter each of training rows pushed outwards, of rows drawn evenly
        around the data, of rows in all directions up to the corners of the box, and of training rows with some
        features beyond their range. Constant features are zero.

    Examples
    --------
    >>> from distill.training.scaling import fit_input_scaling
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> scaling, rows = surround(X, np.ones(200, bool), fit_input_scaling(X), seed=0)
    >>> bool(np.abs(rows).max() == np.float32(scaling.clip)), bool(np.linalg.norm(rows, axis=1).min() > 1)
    (True, True)
    """
    rng = np.random.default_rng(seed)
    n_samples, varies = X.shape[0], np.flatnonzero(scaling.varies)
    most = max(1, _VALUES // X.shape[1])
    drawn = np.sort(rng.permutation(n_samples)[: min(_REFERENCE, most)])
    rows = scaling.apply(dense(X[drawn]))[:, varies]
    inside = rows[is_inside[drawn]]
    if not inside.size:
        return scaling, np.zeros((0, X.shape[1]), np.float32)
    near = _FAR * float(np.quantile(_gaps(inside, inside, same=True), _QUANTILE))
    clip = float(np.float32(max(scaling.clip or 0.0, np.abs(rows).max() + 2 * near)))
    n_rows = int(min(max(n_samples, _LEAST), _MOST, most)) // 4 + 1
    made = np.vstack([np.clip(part, -clip, clip).astype(np.float32) for part in _candidates(rows, n_rows, clip, rng)])
    made = made[_gaps(made, inside, same=False) > near]
    found = np.zeros((len(made), X.shape[1]), np.float32)
    found[:, varies] = made
    return replace(scaling, clip=clip), found


def _candidates(rows: np.ndarray, n_rows: int, clip: float, rng: np.random.Generator) -> list[np.ndarray]:
    """Return rows of the four kinds, `n_rows` of each, partly outside of the box."""
    n_features = rows.shape[1]
    low, high, center = rows.min(axis=0), rows.max(axis=0), rows.mean(axis=0)

    def log_uniform(first: float, last: float, shape: tuple[int, ...]) -> np.ndarray:
        return np.exp(rng.uniform(np.log(first), np.log(last), shape))

    some = rows[rng.integers(len(rows), size=n_rows)]
    pushed = center + (some - center) * log_uniform(1.1, 10, (n_rows, 1))
    margin = (high - low) / 4
    around = rng.uniform(low - margin, high + margin, (n_rows, n_features))
    directions = rng.normal(size=(n_rows, n_features))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    radius = max(float(np.linalg.norm(rows - center, axis=1).max()), 1e-6)
    distant = center + directions * log_uniform(radius, max(10 * clip * np.sqrt(n_features), 10 * radius), (n_rows, 1))
    partly = rows[rng.integers(len(rows), size=n_rows)]
    n_changed = log_uniform(1, n_features + 1, (n_rows,)).astype(int)
    is_changed = np.argsort(np.argsort(rng.random(partly.shape), axis=1), axis=1) < n_changed[:, None]
    values = rng.choice([-1, 1], partly.shape) * log_uniform(float(np.abs(rows).max()) / 2, 2 * clip, partly.shape)
    return [pushed, around, distant, np.where(is_changed, values, partly)]


def _gaps(rows: np.ndarray, others: np.ndarray, same: bool) -> np.ndarray:
    """Return the distance of each row to the nearest of the others; if they are the same, to the nearest but itself."""
    known, found = torch.from_numpy(np.ascontiguousarray(others)), []
    with one_thread():
        for block in torch.from_numpy(np.ascontiguousarray(rows)).split(_BLOCK):
            distances = torch.cdist(block, known)
            nearest = distances.topk(min(2, len(known)), dim=1, largest=False).values
            found.append(nearest[:, -1] if same else nearest[:, 0])
    return torch.cat(found).numpy() if found else np.zeros(0, np.float32)
