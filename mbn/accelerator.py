"""The bottom layer's products on a torch device.

The device proposes and the processor decides: rows or codes on which two centroids come closer than float32 products
can tell go through the same exact comparison as on the processor, so the codes are the same.
"""

import numpy as np

from mbn import bottom, neighbors
from mbn.neighbors import SPARE

_QUERY_ROWS = 4096
_VALUES_PER_BLOCK = 1 << 27


def resolve_device(name):
    """A torch device by name.

    Raises
    ------
    ValueError
        If the name is unknown or the device is not there.
    """
    import torch

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device={name!r} cannot be used here ({error}); use device='cpu'") from error
    return device


def nearest_rows(X, reference, n_neighbors, metric, device):
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
        neighbors.rank(block, reference, kept, metric, out[first : first + len(block)])
    return out


def assign_neighbors(X, reference, candidates, positions, rows, masks, n_first, device):
    """As `mbn.bottom.assign_neighbors`, for dense rows and squared distances, with the products on a device."""
    import torch

    none = rows.shape[1]
    codes = np.empty((len(X), len(rows)), positions.dtype)
    doubtful = np.empty(len(X), bool)
    reference_there, masks_there = (torch.from_numpy(np.ascontiguousarray(a)).to(device) for a in (reference, masks))
    positions_there = torch.from_numpy(positions.astype(np.int32)).to(device)
    flags = np.empty(codes.shape, np.uint8)
    slope = float(bottom.cost_share(masks, "euclidean"))
    relative = float(bottom.relative_error(X.shape[1]))
    n_rows = max(1, _VALUES_PER_BLOCK // (n_first * max(X.shape[1], len(rows))))
    for first in range(0, len(X), n_rows):
        near = torch.from_numpy(candidates[first : first + n_rows, :n_first].astype(np.int64)).to(device)
        block = torch.from_numpy(np.ascontiguousarray(X[first : first + n_rows])).to(device)
        terms = (reference_there[near] - block[:, None]).square()
        costs, totals = terms @ masks_there, terms.sum(2)
        place = positions_there[near]
        rest = costs - slope * totals[:, :, None]
        costs = torch.where(place == none, torch.inf, costs)
        two, which = torch.topk(costs, min(2, costs.shape[1]), dim=1, largest=False)
        choice = torch.gather(place, 1, which[:, :1]).squeeze(1)
        clear = two[:, -1] > two[:, 0] * (1 + relative) if two.shape[1] > 1 else torch.ones_like(choice, dtype=bool)
        clear |= torch.isinf(two[:, -1])
        flags[first : first + n_rows] = _doubt(two[:, 0], totals, slope, rest, relative).cpu().numpy()
        codes[first : first + n_rows] = torch.where(torch.isinf(two[:, 0]), none, choice).cpu().numpy()
        doubtful[first : first + n_rows] = (~clear | torch.isinf(two[:, 0])).any(dim=1).cpu().numpy()
    again = np.flatnonzero(doubtful)
    if len(again):
        codes[again] = bottom.assign_neighbors(
            X[again], reference, candidates[again], positions, rows, masks, "euclidean", n_first
        )
    flags[again] = 0
    bottom.look_further(X, reference, candidates, n_first, positions, rows, masks, "euclidean", flags, codes)
    return codes


def _doubt(best, totals, slope, rest, relative):
    """Which codes are doubtful, as `mbn.bottom` marks them, by the costs of the first candidates in float32."""
    import torch

    n_first, epsilon = rest.shape[1], float(np.finfo(np.float32).eps)
    error = (relative + 2 * n_first * epsilon) * totals.amax(1, keepdim=True)
    mean, square = rest.mean(1), rest.square().mean(1)
    margin = slope * totals[:, -1:] + mean - best
    apart = margin * margin.abs() - bottom.CLEAR**2 * (square - mean**2)
    unsure = 4 * error * (margin.abs() + error)
    unsure += bottom.CLEAR**2 * (4 * error * (square.sqrt() + error) + 4 * n_first * epsilon * square)
    flags = torch.where(apart < 0, bottom.YES, bottom.NO)
    flags = torch.where(apart.abs() <= unsure, bottom.CLOSE, flags)
    return torch.where(torch.isinf(best), bottom.NO, flags)


def assign_direct(X, reference, rows, used, device):
    """As `mbn.bottom.assign_direct`, for dense rows and squared distances, with the products on a device."""
    import torch

    X_there, reference_there = torch.from_numpy(X).to(device), torch.from_numpy(reference).to(device)
    codes = np.empty((len(rows), len(X)), np.min_scalar_type(rows.shape[1]))
    relative = float(bottom.relative_error(used.shape[1]))
    n_rows = max(64, _VALUES_PER_BLOCK // rows.shape[1])
    for v in range(len(rows)):
        features = torch.from_numpy(used[v].astype(np.int64)).to(device)
        centroids = reference_there[torch.from_numpy(rows[v].astype(np.int64)).to(device)][:, features]
        squares = centroids.square().sum(1)
        longest = squares.max().sqrt()
        doubtful = []
        for first in range(0, len(X), n_rows):
            block = X_there[first : first + n_rows][:, features]
            values = torch.addmm(squares / 2, block, centroids.T, alpha=-1)
            two, which = torch.topk(values, min(2, values.shape[1]), dim=1, largest=False)
            slack = relative * longest * (block.square().sum(1).sqrt() + longest)
            codes[v, first : first + n_rows] = which[:, 0].cpu().numpy()
            close = (two[:, -1] <= two[:, 0] + slack) & (two.shape[1] > 1)
            doubtful.append(close.cpu().numpy())
        again = np.flatnonzero(np.concatenate(doubtful))
        if len(again):
            codes[v, again] = bottom.assign_direct(X[again], reference, rows[v : v + 1], used[v : v + 1], "euclidean")[
                0
            ]
    return codes
