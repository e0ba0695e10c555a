"""Products of the bottom layer on a torch device.

Rows or codes for which two centroids are within the error of a float32 product go through the same exact comparison as
on the CPU, so that the codes are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mbn import assign_direct, assign_neighbors
from mbn.metrics import relative_error
from mbn.neighbors import SPARE, NeighborSearch, rank

if TYPE_CHECKING:
    import torch

# Rows of X whose distances to all reference rows are computed at once
_QUERY_ROWS = 4096
# Largest array of a block on the device: 512 MB as float32
_VALUES_PER_BLOCK = 1 << 27


def resolve_device(name: str) -> torch.device:
    """Return a torch device by name.

    Raises
    ------
    ValueError
        If the name is unknown or the device is not available.
    """
    import torch

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={name!r} cannot be used here ({error}); use device='cpu'") from error
    return device


@dataclass(frozen=True)
class DeviceSearch(NeighborSearch):
    """Compare each dense row with all reference rows by matrix products on a device.

    Parameters
    ----------
    reference, metric, n_neighbors
        As in `mbn.neighbors.NeighborSearch`.
    device : torch.device
    """

    device: torch.device

    def candidates(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Find the candidates of the rows `queries`; see `mbn.neighbors.NeighborSearch.candidates`."""
        return queries, nearest_rows(queries, self.reference, self.n_neighbors, self.metric, self.device)


def nearest_rows(
    X: np.ndarray, reference: np.ndarray, n_neighbors: int, metric: str, device: torch.device
) -> np.ndarray:
    """As `mbn.neighbors.nearest_rows`, for dense rows, with the products on a device."""
    import torch

    n_kept = min(n_neighbors + SPARE, len(reference))
    out = np.empty((len(X), n_neighbors), np.int32)
    on_device = torch.from_numpy(reference).to(device)
    offsets = torch.zeros(len(reference), device=device) if metric == "linear" else on_device.square().sum(1)
    factor = -1 if metric == "linear" else -2
    n_rows = max(64, min(_QUERY_ROWS, _VALUES_PER_BLOCK // len(reference)))
    for first in range(0, len(X), n_rows):
        block = np.ascontiguousarray(X[first : first + n_rows])
        values = torch.addmm(offsets, torch.from_numpy(block).to(device), on_device.T, alpha=factor)
        kept = torch.topk(values, n_kept, largest=False, sorted=False).indices.to(torch.int32).cpu().numpy()
        rank(block, reference, kept, metric, out[first : first + len(block)])
    return out


def neighbor_codes(
    X: np.ndarray,
    reference: np.ndarray,
    candidates: np.ndarray,
    positions: np.ndarray,
    rows: np.ndarray,
    masks: np.ndarray,
    n_first: int,
    device: torch.device,
) -> np.ndarray:
    """As `mbn.assign_neighbors.nearest_centroids`, for dense rows and squared distances, with products on a device."""
    import torch

    k = rows.shape[1]
    codes = np.empty((len(X), len(rows)), positions.dtype)
    ambiguous = np.empty(len(X), bool)
    reference_there, masks_there = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (reference, masks))
    positions_there = torch.from_numpy(positions.astype(np.int32)).to(device)
    doubtful = np.empty(codes.shape, np.uint8)
    slope = float(assign_neighbors.cost_fraction(masks, "euclidean"))
    relative = float(relative_error(X.shape[1]))
    n_rows = max(1, _VALUES_PER_BLOCK // (n_first * max(X.shape[1], len(rows))))
    for first in range(0, len(X), n_rows):
        block = slice(first, first + n_rows)
        near = torch.from_numpy(candidates[block, :n_first].astype(np.int64)).to(device)
        x = torch.from_numpy(np.ascontiguousarray(X[block])).to(device)
        terms = (reference_there[near] - x[:, None]).square()
        costs, totals = terms @ masks_there, terms.sum(2)
        position = positions_there[near]
        rest = costs - slope * totals[:, :, None]
        costs = torch.where(position == k, torch.inf, costs)
        two, which = torch.topk(costs, min(2, costs.shape[1]), dim=1, largest=False)
        choice = torch.gather(position, 1, which[:, :1]).squeeze(1)
        clear = two[:, -1] > two[:, 0] * (1 + relative) if two.shape[1] > 1 else torch.ones_like(choice, dtype=bool)
        clear |= torch.isinf(two[:, -1])
        doubtful[block] = _doubt(two[:, 0], totals, slope, rest, relative).cpu().numpy()
        codes[block] = torch.where(torch.isinf(two[:, 0]), k, choice).cpu().numpy()
        ambiguous[block] = (~clear | torch.isinf(two[:, 0])).any(dim=1).cpu().numpy()
    again = np.flatnonzero(ambiguous)
    if len(again):
        codes[again] = assign_neighbors.nearest_centroids(
            X[again], reference, candidates[again], positions, rows, masks, "euclidean", n_first
        )
    doubtful[again] = assign_neighbors.NO
    assign_neighbors.look_further(
        X, reference, candidates, n_first, positions, rows, masks, "euclidean", doubtful, codes
    )
    return codes


def _doubt(best: torch.Tensor, totals: torch.Tensor, slope: float, rest: torch.Tensor, relative: float) -> torch.Tensor:
    """Flag doubtful codes as `mbn.assign_neighbors` does, from the costs of the first candidates in float32.

    Parameters
    ----------
    best : tensor of shape (n_rows, n_estimators)
        Lowest cost of a drawn candidate.
    totals : tensor of shape (n_rows, n_first)
        Costs in all features.
    slope, relative : float
    rest : tensor of shape (n_rows, n_first, n_estimators)
        Differences between costs and expected costs.

    Returns
    -------
    tensor of shape (n_rows, n_estimators)
    """
    import torch

    n_first, epsilon, squared_clear = rest.shape[1], float(np.finfo(np.float32).eps), assign_neighbors.CLEAR**2
    error = (relative + 2 * n_first * epsilon) * totals.amax(1, keepdim=True)
    mean, square = rest.mean(1), rest.square().mean(1)
    margin = slope * totals[:, -1:] + mean - best
    clearness = margin * margin.abs() - squared_clear * (square - mean**2)
    unsure = 4 * error * (margin.abs() + error)
    unsure += squared_clear * (4 * error * (square.sqrt() + error) + 4 * n_first * epsilon * square)
    flags = torch.where(clearness < 0, assign_neighbors.YES, assign_neighbors.NO)
    flags = torch.where(clearness.abs() <= unsure, assign_neighbors.CLOSE, flags)
    return torch.where(torch.isinf(best), assign_neighbors.NO, flags)


def direct_codes(
    X: np.ndarray, reference: np.ndarray, rows: np.ndarray, used: np.ndarray, device: torch.device
) -> np.ndarray:
    """As `mbn.assign_direct.nearest_centroids`, for dense rows and squared distances, with products on a device."""
    import torch

    X_there, reference_there = torch.from_numpy(X).to(device), torch.from_numpy(reference).to(device)
    codes = np.empty((len(rows), len(X)), np.min_scalar_type(rows.shape[1]))
    relative = float(relative_error(used.shape[1]))
    n_rows = max(64, _VALUES_PER_BLOCK // rows.shape[1])
    for v in range(len(rows)):
        features = torch.from_numpy(used[v].astype(np.int64)).to(device)
        centroids = reference_there[torch.from_numpy(rows[v].astype(np.int64)).to(device)][:, features]
        squares = centroids.square().sum(1)
        longest = squares.max().sqrt()
        ambiguous = []
        for first in range(0, len(X), n_rows):
            block = X_there[first : first + n_rows][:, features]
            values = torch.addmm(squares / 2, block, centroids.T, alpha=-1)
            two, which = torch.topk(values, min(2, values.shape[1]), dim=1, largest=False)
            slack = relative * longest * (block.square().sum(1).sqrt() + longest)
            codes[v, first : first + n_rows] = which[:, 0].cpu().numpy()
            close = (two[:, -1] <= two[:, 0] + slack) & (two.shape[1] > 1)
            ambiguous.append(close.cpu().numpy())
        again = np.flatnonzero(np.concatenate(ambiguous))
        if len(again):
            one = slice(v, v + 1)
            codes[v, again] = assign_direct.nearest_centroids(X[again], reference, rows[one], used[one], "euclidean")[0]
    return codes
