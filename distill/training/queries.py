"""Further rows about which a teacher is asked: between neighboring training rows, or training rows changed at random.

A teacher that can predict for new rows knows more than the labels of its own. Rows between neighbors show where its
borders run, and shifted or turned images that they are images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from scipy import ndimage, sparse

from distill.training.device import one_thread
from distill.training.scaling import InputScaling, dense

AUGMENTATIONS = ("shift", "affine")

# Neighbors of a row, one of which is drawn. Chosen by hand
_NEIGHBORS = 5
# Training rows among which neighbors are searched, their values (64 MB in float32), and the number of rows of a block
_REFERENCE, _VALUES, _BLOCK = 10_000, 2**24, 1024
# Largest shift of an image as a fraction of its sides, angle in degrees, and change of size and shear. Chosen by hand
_SHIFT, _ANGLE, _SIZE, _SHEAR = 0.08, 10.0, 0.1, 0.1


@dataclass(frozen=True, eq=False)
class Queries:
    """Further training rows with a teacher's answers.

    Parameters
    ----------
    rows : ndarray or CSR of shape (n_rows, n_features)
        In their own units.
    targets : ndarray
        As the teacher's predictions for the training rows: positions of labels, soft labels, probabilities or values.
    """

    rows: np.ndarray | sparse.csr_array
    targets: np.ndarray


def check_augment(augment: Any, input_shape: Any, n_features: int) -> tuple[int, ...]:
    """Return the shape of an image as a tuple; ValueError if an augmentation by name does not have a fitting one."""
    shape = () if input_shape is None else tuple(int(side) for side in input_shape)
    if isinstance(augment, str) and not shape:
        raise ValueError(
            f"augment={augment!r} moves images, and input_shape is None: set it to (height, width), or to "
            "(height, width, channels)"
        )
    if shape and (len(shape) not in (2, 3) or min(shape) < 1 or prod(shape) != n_features):
        raise ValueError(
            f"input_shape={input_shape!r} must be (height, width) or (height, width, channels), and their product the "
            f"number of features of X, which is {n_features}"
        )
    return shape


def make_queries(
    X: np.ndarray | sparse.csr_array,
    train: np.ndarray,
    scaling: InputScaling,
    n_queries: int,
    augment: Callable | str | None,
    input_shape: tuple[int, ...],
    seed: int,
) -> np.ndarray | sparse.csr_array:
    """Make further rows from training rows.

    Parameters
    ----------
    X : ndarray or CSR of shape (n_samples, n_features)
    train : ndarray of int
        Positions of the training rows: nothing is made of validation rows.
    scaling : InputScaling
        Distances between rows are those of the student's inputs.
    n_queries : int
    augment : callable(rows, rng) -> ndarray, "shift", "affine" or None
        None makes all rows between neighbors, else half of them.
    input_shape : tuple of int
        Of images; empty if it is not needed.
    seed : int

    Returns
    -------
    ndarray or CSR of shape (n_queries, n_features)
        float64; float32 for X of that type and for integers of 8 or 16 bits.

    Examples
    --------
    >>> from distill.training.scaling import fit_input_scaling
    >>> X = np.array([[0.0], [1.0], [100.0], [101.0]])
    >>> rows = make_queries(X, np.arange(4), fit_input_scaling(X), 1000, None, (), seed=0)
    >>> rows.shape, bool(((rows >= 0) & (rows <= 101)).all())
    ((1000, 1), True)
    """
    rng = np.random.default_rng(seed)
    X = X.astype(np.float32 if X.dtype.itemsize <= 2 or X.dtype == np.float32 else np.float64)
    n_between = n_queries if augment is None else n_queries - n_queries // 2
    parts = [_between(X, train, scaling, n_between, rng)]
    if augment is not None:
        parts += [_augmented(X, train, n_queries // 2, _augmentation(augment, input_shape), rng)]
    return sparse.csr_array(sparse.vstack(parts)) if sparse.issparse(X) else np.vstack(parts)


def _between(
    X: np.ndarray | sparse.csr_array, train: np.ndarray, scaling: InputScaling, n_rows: int, rng: np.random.Generator
) -> np.ndarray | sparse.csr_array:
    """Return rows at random places between a training row and one of its nearest neighbors."""
    known = np.sort(rng.permutation(train)[: max(2, min(_REFERENCE, _VALUES // max(1, X.shape[1])))])
    start = rng.integers(len(known), size=n_rows)
    asked, position = np.unique(start, return_inverse=True)
    neighbors = _neighbors(scaling.apply(dense(X[known])), asked)
    end = neighbors[position, rng.integers(neighbors.shape[1], size=n_rows)]
    part = rng.random((n_rows, 1)).astype(X.dtype)
    first, last = X[known[start]], X[known[end]]
    if sparse.issparse(X):
        return sparse.csr_array(first.multiply(1 - part) + last.multiply(part)).astype(X.dtype)
    return first + part * (last - first)


def _neighbors(rows: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Return the positions of the nearest other rows of some, shape (n_asked, n_neighbors)."""
    known, found = torch.from_numpy(np.ascontiguousarray(rows)), []
    with one_thread():
        for block in torch.from_numpy(asked).split(_BLOCK):
            distances = torch.cdist(known[block], known)
            distances[torch.arange(len(block)), block] = torch.inf
            found.append(distances.topk(max(1, min(_NEIGHBORS, len(known) - 1)), dim=1, largest=False).indices)
    return torch.cat(found).numpy()


def _augmented(
    X: np.ndarray | sparse.csr_array,
    train: np.ndarray,
    n_rows: int,
    change: Callable[[np.ndarray, np.random.Generator], Any],
    rng: np.random.Generator,
) -> np.ndarray | sparse.csr_array:
    """Return training rows, changed a block at a time; ValueError if their number or shape is no longer the same."""
    chosen, parts = train[rng.integers(len(train), size=n_rows)], [X[:0]]
    for start in range(0, n_rows, _BLOCK):
        rows = np.array(dense(X[chosen[start : start + _BLOCK]]))
        changed = np.asarray(change(rows, rng))
        if changed.shape != rows.shape or changed.dtype.kind not in "fiub":
            raise ValueError(
                f"augment returned {changed.dtype} of shape {changed.shape} for rows of shape {rows.shape}; it must "
                "return as many rows of as many numbers"
            )
        if np.isinf(changed).any() or (np.isnan(changed).any() and not np.isnan(rows).any()):
            raise ValueError("augment returned values that are NaN or infinite, and was given none")
        changed = changed.astype(X.dtype)
        parts.append(sparse.csr_array(changed) if sparse.issparse(X) else changed)
    return sparse.csr_array(sparse.vstack(parts)) if sparse.issparse(X) else np.vstack(parts)


def _augmentation(augment: Callable | str, shape: tuple[int, ...]) -> Callable[[np.ndarray, np.random.Generator], Any]:
    """Return the function of rows and a generator."""
    if callable(augment):
        return augment

    def change(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        images = rows.reshape(len(rows), shape[0], shape[1], -1)
        for image, (matrix, shift) in zip(images, _moves(len(rows), shape, augment == "affine", rng)):
            middle = (np.array(shape[:2]) - 1) / 2
            offset = middle - matrix @ (middle + shift)
            for channel in range(image.shape[2]):
                image[:, :, channel] = ndimage.affine_transform(
                    image[:, :, channel], matrix, offset, order=1, mode="nearest"
                )
        return images.reshape(rows.shape)

    return change


def _moves(
    n_rows: int, shape: tuple[int, ...], is_affine: bool, rng: np.random.Generator
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield a matrix of two rows and a shift in pixels, at least one pixel at most, for each image."""
    most = np.maximum(1, np.round(_SHIFT * np.array(shape[:2])))
    for _ in range(n_rows):
        shift, matrix = rng.uniform(-most, most), np.eye(2)
        if is_affine:
            angle = np.deg2rad(rng.uniform(-_ANGLE, _ANGLE))
            turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
            size = np.diag(rng.uniform(1 - _SIZE, 1 + _SIZE, 2))
            matrix = turn @ size @ np.array([[1, rng.uniform(-_SHEAR, _SHEAR)], [0, 1]])
        yield matrix, shift
