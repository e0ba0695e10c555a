"""Training and validation samples: tensors, CSR made dense a batch at a time, stacked data sets, samples with noise.

All classes have a length and a method `take` that returns a batch: the protocol `Rows` of the training loop.
"""

import math
from typing import Protocol

import numpy as np
import torch
from scipy import sparse
from torch import Tensor, nn

from distill.training.device import one_thread
from distill.training.scaling import InputScaling

# Rows made dense or evaluated at once: 4096 rows of 1000 features are 16 MB. Of wide rows only so many that a block has
# 2^22 values, 16 MB in float32: the memory then does not grow with the width. Chosen by hand
_BLOCK, _BLOCK_VALUES = 4096, 2**22
# Values of a sample of rows that is dense as a whole, 64 MB in float32. Chosen by hand
_SAMPLE_VALUES = 2**24
# Values in the pool of noise, 8 MB in float32, and the number of batches that one pool serves: noise that is used again
# at other positions saves most of the time of drawing it. Chosen by hand
_POOL_SIZE, _POOL_LASTS = 2**21, 256
# Rows whose distances to their nearest neighbors are computed, each to all rows. Chosen by hand
_SAMPLE = 128


class Rows(Protocol):
    """Samples of a training: a length, and batches by position."""

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> tuple[Tensor, ...]:
        """Return the samples at these positions: inputs, then targets of the loss."""
        ...


class DenseRows:
    """Rows in memory: tensors of equal length, taken by position.

    Parameters
    ----------
    *tensors : Tensor of shape (n_samples, ...)
        Inputs, then the targets of the loss.
    """

    def __init__(self, *tensors: Tensor):
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    @property
    def n_features(self) -> int:
        """Number of inputs."""
        return self.tensors[0].shape[-1]

    def take(self, index: Tensor) -> tuple[Tensor, ...]:
        """Return the samples at these positions, one tensor for each of `tensors`."""
        return tuple(tensor[index] for tensor in self.tensors)


class SparseRows:
    """CSR rows, made dense and scaled a batch at a time.

    Parameters
    ----------
    X : CSR of shape (n_samples, n_features)
    scaling : InputScaling
    *tensors : Tensor of shape (n_samples, ...)
        Targets of the loss.
    device : str
    """

    def __init__(self, X: sparse.csr_array, scaling: InputScaling, *tensors: Tensor, device: str = "cpu"):
        self.X, self.scaling, self.tensors, self.device = X, scaling, tensors, device

    def __len__(self) -> int:
        return self.X.shape[0]

    @property
    def n_features(self) -> int:
        """Number of inputs."""
        return self.X.shape[1]

    def take(self, index: Tensor) -> tuple[Tensor, ...]:
        """Return the samples at these positions: dense inputs, then targets."""
        positions, n_features = index.cpu().numpy(), self.n_features
        if len(positions) <= rows_per_block(n_features):
            dense = self.scaling.apply(self.X[positions].toarray())
        else:  # a part at a time, because the rows may be float64, and scaling copies
            dense = np.empty((len(positions), n_features), np.float32)
            for start in range(0, len(positions), rows_per_block(n_features)):
                part = slice(start, start + rows_per_block(n_features))
                dense[part] = self.scaling.apply(self.X[positions[part]].toarray())
        return torch.from_numpy(dense).to(self.device), *(tensor[index] for tensor in self.tensors)


class StackedRows:
    """Several data sets of equal length, for modules that are trained side by side.

    Parameters
    ----------
    inputs : Tensor of shape (..., n_samples, n_features)
        The leading axes, if any, are those of the modules.
    targets : Tensor of shape (..., n_samples, n_outputs), or (..., n_samples)
        The second for positions of labels.

    Examples
    --------
    >>> rows = StackedRows(torch.zeros(2, 5, 3), torch.zeros(2, 5))
    >>> len(rows), [tuple(part.shape) for part in rows.take(torch.tensor([0, 4]))]
    (5, [(2, 2, 3), (2, 2)])
    """

    def __init__(self, inputs: Tensor, targets: Tensor):
        self.inputs, self.targets = inputs, targets
        self.axis = inputs.ndim - 2

    def __len__(self) -> int:
        return self.inputs.shape[self.axis]

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the samples at these positions of every data set: inputs, then targets."""
        return self.inputs.index_select(self.axis, index), self.targets.index_select(self.axis, index)


class JitteredRows:
    """Rows with normal noise on the inputs, new in every batch; the targets stay as they are.

    Parameters
    ----------
    rows : DenseRows or SparseRows
    std : float
        Standard deviation of the noise in every input.
    varies : ndarray of shape (n_features,), bool
        Inputs that are False get no noise.
    seed : int
    """

    def __init__(self, rows: DenseRows | SparseRows, std: float, varies: np.ndarray, seed: int):
        self.rows, self.std, self.varies = rows, std, torch.from_numpy(varies)
        self.generator = torch.Generator().manual_seed(seed)
        self.pool, self.n_taken = torch.empty(0, len(varies)), 0
        self.line: Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Tensor) -> tuple[Tensor, ...]:
        """Return the samples at these positions: inputs with noise, then targets."""
        inputs, *others = self.rows.take(index)
        if 2 * len(index) * len(self.varies) > _BLOCK_VALUES:
            return self._add_line(inputs), *others
        # Drawing normal noise is slow: a pool of it serves many batches, each from another position
        if self.n_taken % _POOL_LASTS == 0 or len(self.pool) < len(index):
            n_rows = max(2 * len(index), _POOL_SIZE // len(self.varies))
            noise = torch.randn(n_rows, len(self.varies), generator=self.generator)
            self.pool = (noise * (self.std * self.varies)).to(inputs.device)
        self.n_taken += 1
        start = int(torch.randint(len(self.pool) - len(index) + 1, (1,), generator=self.generator))
        # `inputs` is a copy already, so the noise is added in place
        return inputs.add_(self.pool[start : start + len(index)]), *others

    def _add_line(self, inputs: Tensor) -> Tensor:
        """Add noise to wide rows, in place: each row has a part of one long line of noise, from another position."""
        n_features = len(self.varies)
        if self.line is None or self.n_taken % _POOL_LASTS == 0:
            length = max(_POOL_SIZE, 2 * n_features)
            self.line = (torch.randn(length, generator=self.generator) * self.std).to(inputs.device)
            self.varies = self.varies.to(inputs.device)
        self.n_taken += 1
        starts = torch.randint(len(self.line) - n_features + 1, (len(inputs),), generator=self.generator)
        for row, start in zip(inputs, starts.tolist()):
            row.addcmul_(self.line[start : start + n_features], self.varies)
        return inputs


def rows_per_block(n_features: int) -> int:
    """Return the number of rows that are made dense or evaluated at once.

    Examples
    --------
    >>> rows_per_block(784), rows_per_block(60000)
    (4096, 69)
    """
    return min(_BLOCK, max(1, _BLOCK_VALUES // max(1, n_features)))


def at_most(n_rows: int, rows: DenseRows | SparseRows, seed: int) -> DenseRows:
    """Return a random choice of at most this number of rows, dense; of wide rows fewer, so that 64 MB suffice."""
    n_rows = min(n_rows, max(1, _SAMPLE_VALUES // max(1, rows.n_features)))
    if n_rows >= len(rows):
        return DenseRows(*rows.take(torch.arange(len(rows))))
    return DenseRows(*rows.take(torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))[:n_rows]))


def typical_gap(rows: DenseRows | SparseRows, seed: int) -> float:
    """Return the median distance of a row to the nearest other one, over a sample of rows.

    Parameters
    ----------
    rows : DenseRows or SparseRows
        Distances are those of the inputs.
    seed : int
        Seed of the sample.

    Returns
    -------
    float
        Zero where most rows have a duplicate.

    Examples
    --------
    >>> typical_gap(DenseRows(torch.arange(5.0)[:, None]), seed=0)
    1.0
    """
    generator = torch.Generator().manual_seed(seed)
    sample = torch.randperm(len(rows), generator=generator)[: min(_SAMPLE, rows_per_block(rows.n_features))]
    queries = rows.take(sample)[0]
    nearest = torch.full((len(sample),), math.inf, device=queries.device)
    with one_thread():
        for block in torch.arange(len(rows)).split(rows_per_block(rows.n_features)):
            distances = torch.cdist(queries, rows.take(block)[0])
            distances[(sample[:, None] == block).to(distances.device)] = math.inf
            nearest = torch.minimum(nearest, distances.min(dim=1).values)
    return float(nearest.median()) if len(rows) > 1 else 0.0


@torch.no_grad()
def outputs_of(module: nn.Module, rows: DenseRows | SparseRows, index: Tensor | None = None) -> Tensor:
    """Return a module's outputs for all samples or those at these positions, computed a block at a time.

    Returns
    -------
    Tensor of shape (n_samples, n_outputs)
    """
    index = torch.arange(len(rows)) if index is None else index
    blocks = index.split(rows_per_block(rows.n_features))
    return torch.cat([module(rows.take(block)[0]) for block in blocks])


def holdout(labels: np.ndarray | None, n_samples: int, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split samples into a training set and a validation set.

    Parameters
    ----------
    labels : ndarray of shape (n_samples,) or None
        The split is stratified, and every label keeps at least one training sample.
    n_samples : int
    fraction : float in (0, 1)
    seed : int

    Returns
    -------
    train, validation : ndarray of int
        Sorted positions; at least one each, but for no validation sample where every label occurs once.

    Examples
    --------
    >>> train, validation = holdout(np.array([0] * 8 + [1]), 9, 0.25, seed=0)
    >>> len(validation), 8 in train
    (2, True)
    """
    order = np.random.default_rng(seed).permutation(n_samples)
    n_held_out = min(max(1, round(fraction * n_samples)), n_samples - 1)
    if labels is not None:
        counts = np.bincount(labels)
        grouped = order[np.argsort(labels[order], kind="stable")]
        # The first row of every label is a training sample, so that the student has an output for every label
        first = np.concatenate([[0], np.cumsum(counts)[:-1]])[counts > 0]
        free = np.delete(grouped, first)
        n_held_out = min(n_held_out, len(free))
        # Evenly spaced positions among the rows sorted by label: a stratified choice
        order = free[((np.arange(n_held_out) + 0.5) * len(free) / max(1, n_held_out)).astype(int)]
    held_out = np.zeros(n_samples, dtype=bool)
    held_out[order[:n_held_out]] = True
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)
