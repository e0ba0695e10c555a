"""Codes for rows that share none with any drawn centroid, used where rows have few features.

Rows with few features lie along lines and sheets, where a row has few neighbors: some share no code at all with a
drawn centroid. The one drawn first is then an arbitrary choice, which links rows of all clusters; instead such a row
follows the most similar guide. Guides are some rows that were drawn; those among them that share no code with a
centroid follow each other, a step at a time from those that do.
"""

import numpy as np
from numba import njit

# Guides of a layer: this many for each code below, so that every row shares codes with some, and at most MOST_GUIDES
_GUIDES_PER_CODE, LEAST_GUIDES, MOST_GUIDES = 4, 512, 2048
# Key of the guides' random stream
_STREAM = 1 << 22


def draw_guides(n_reference: int, n_codes: int, seed: int, layer: int) -> np.ndarray:
    """Draw rows of a layer's reference as guides.

    Parameters
    ----------
    n_reference : int
    n_codes : int
        Number of different codes below.
    seed, layer : int

    Returns
    -------
    ndarray of shape (n_guides,), int64
        Ascending.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_STREAM, layer)))
    return np.sort(rng.permutation(n_reference)[: min(max(_GUIDES_PER_CODE * n_codes, LEAST_GUIDES), MOST_GUIDES)])


def codes_of_guides(
    codes: np.ndarray, below: np.ndarray, reference: np.ndarray, rows: np.ndarray, used: np.ndarray
) -> np.ndarray:
    """Codes of guides, of which some follow others.

    Parameters
    ----------
    codes : ndarray of shape (n_guides, n_estimators)
        Nearest centroids; arbitrary where no code is shared.
    below : ndarray of shape (n_guides, n_inputs)
        Codes of the guides in the layer below.
    reference, rows, used
        As in `mbn.layers.Layer`.

    Returns
    -------
    ndarray of shape (n_guides, n_estimators)
        Of the type of `codes`.
    """
    below = np.ascontiguousarray(below)
    lonely = _lonely(below, reference, rows, used, codes)
    found = np.ascontiguousarray(codes, np.int32)
    rest = np.flatnonzero(lonely.any(axis=1))
    if len(rest) == 0:
        return codes
    shared = _shared(below[rest], below)
    order = np.argsort(-shared, axis=1, kind="stable").astype(np.int32)
    # Centroids at the other end of a chain of guides are reached in as many rounds as it has links
    while _take_from_others(rest, order, np.take_along_axis(shared, order, 1) > 0, lonely, found):
        pass
    return found.astype(codes.dtype)


def follow(
    codes: np.ndarray,
    below: np.ndarray,
    reference: np.ndarray,
    rows: np.ndarray,
    used: np.ndarray,
    guides: np.ndarray,
    guide_codes: np.ndarray,
) -> np.ndarray:
    """Codes of rows, of which those that share none with a centroid follow the most similar guide.

    Parameters
    ----------
    codes : ndarray of shape (n_rows, n_estimators)
        Nearest centroids.
    below : ndarray of shape (n_rows, n_inputs)
    reference, rows, used, guides, guide_codes
        As in `mbn.layers.Layer`.

    Returns
    -------
    ndarray of shape (n_rows, n_estimators)
        Of the type of `codes`. Of guides that are equally similar the first is followed.
    """
    below = np.ascontiguousarray(below)
    lonely = _lonely(below, reference, rows, used, codes)
    rest = np.flatnonzero(lonely.any(axis=1))
    if len(rest) == 0:
        return codes
    shared = _shared(below[rest], np.ascontiguousarray(reference[guides]))
    nearest = shared.argmax(axis=1)
    reached = shared[np.arange(len(rest)), nearest] > 0
    rest, nearest = rest[reached], nearest[reached]
    codes = codes.copy()
    codes[rest] = np.where(lonely[rest], guide_codes[nearest], codes[rest])
    return codes


def _lonely(
    below: np.ndarray, reference: np.ndarray, rows: np.ndarray, used: np.ndarray, codes: np.ndarray
) -> np.ndarray:
    """Whether rows share no code with their nearest centroids, of shape (n_rows, n_estimators); as in `follow`."""
    out = np.empty(codes.shape, bool)
    centroids = np.ascontiguousarray(np.take_along_axis(rows.T, codes.astype(np.intp), axis=0), np.int32)
    _find_lonely(below, np.ascontiguousarray(reference), centroids, np.ascontiguousarray(used, np.int32), out)
    return out


@njit(cache=True, nogil=True, boundscheck=False)
def _find_lonely(
    below: np.ndarray, reference: np.ndarray, centroids: np.ndarray, used: np.ndarray, out: np.ndarray
) -> None:
    """Compare the codes of rows with those of their centroids, up to the first that is shared.

    ========= ========================== ======== =========================================
    below     (n_rows, n_inputs)         unsigned
    reference (n_reference, n_inputs)    unsigned
    centroids (n_rows, n_estimators)     int32    rows of the reference
    used      (n_estimators, n_used)     int32    inputs of each clustering
    out       (n_rows, n_estimators)     bool     written: whether no code is shared
    ========= ========================== ======== =========================================
    """
    for i in range(out.shape[0]):
        for v in range(out.shape[1]):
            centroid, alone = centroids[i, v], True
            for a in range(used.shape[1]):
                u = used[v, a]
                if below[i, u] == reference[centroid, u]:
                    alone = False
                    break
            out[i, v] = alone


@njit(cache=True, nogil=True, boundscheck=False)
def _shared(below: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Count the codes that rows share with other rows, all of the same type; of shape (n_rows, n_others), int32."""
    out = np.empty((len(below), len(others)), np.int32)
    for i in range(len(below)):
        mine = below[i]
        for j in range(len(others)):
            other = others[j]
            count = np.int32(0)
            for a in range(len(mine)):
                count += np.int32(mine[a] == other[a])
            out[i, j] = count
    return out


@njit(cache=True, nogil=True, boundscheck=False)
def _take_from_others(
    rest: np.ndarray, order: np.ndarray, reached: np.ndarray, lonely: np.ndarray, codes: np.ndarray
) -> bool:
    """Let guides that are alone take the codes of those that are not, once; returns whether any did.

    ======= ======================== ===== ==================================================
    rest    (n_rest,)                int64 guides that are alone in some clustering
    order   (n_rest, n_guides)       int32 all guides, the most similar first
    reached (n_rest, n_guides)       bool  whether codes are shared with these
    lonely  (n_guides, n_estimators) bool  changed in place
    codes   (n_guides, n_estimators) int32 changed in place
    ======= ======================== ===== ==================================================
    """
    before = lonely.copy()
    changed = False
    for i in range(len(rest)):
        guide = rest[i]
        for v in range(codes.shape[1]):
            if not before[guide, v]:
                continue
            for j in range(order.shape[1]):
                if not reached[i, j]:
                    break
                if not before[order[i, j], v]:
                    codes[guide, v] = codes[order[i, j], v]
                    lonely[guide, v] = False
                    changed = True
                    break
    return changed
