"""Draw and assign whole layers; each task has a block of rows, or some clusterings."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from scipy import sparse
from sklearn import get_config

from mbn import accelerator, assign_direct, assign_neighbors, guides, neighbors, output, tree, upper
from mbn.metrics import Matrix
from mbn.neighbors import NeighborSearch
from mbn.parallel import blocks, n_workers, run
from mbn.rows import Rows
from mbn.schedule import draw, n_used_features

# Tasks of a worker: more of them balance the load better, and each costs a message. A task has from LEAST_ROWS to
# MOST_ROWS rows, and operations for some ten seconds of a core at most, so that little is lost with a worker.
_TASKS_PER_WORKER, LEAST_ROWS, MOST_ROWS, _MOST_OPERATIONS = 6, 128, 8192, 5e11
# Rows of a block that goes through all layers: small blocks build indices more often, large ones take memory for their
# codes, which is why memory does not grow past 65536 rows (docs/results/scale.md).
TRANSFORM_LEAST_ROWS, TRANSFORM_ROWS = 1024, 1 << 16
# Candidates for each of the first ones; the further ones are compared where a code is doubtful. Time against exactness:
# on MNIST 99.94 % of the codes are exact with three times as many, for a third more time, and 99.8 % without them
# (docs/design.md).
_FURTHER = 3
# Choice of the fastest kernel of the upper layers, which all give the same codes. COMPARED_ROWS: building an index for
# so few rows takes longer than comparing them. DENSE_CENTROIDS: bytes are compared up to this k. The other two are per
# input that a clustering uses, measured on MNIST at 400, 100 and 50 clusterings and on synthetic rows (docs/design.md).
# RANKED_LENGTH: mean number of drawn rows with the same code below which ranking was the fastest. LISTED_CENTROIDS: k
# from which lists are faster than an index.
COMPARED_ROWS = 8
DENSE_CENTROIDS = 64
RANKED_LENGTH = 0.2
LISTED_CENTROIDS = 25
# Largest index of all codes for ranking, in bytes: enough for MNIST at 400 clusterings (docs/design.md).
INDEX_BYTES = 1 << 28

# Indices of rows (and of clusterings, in the upper layers) and the codes there
Parts: TypeAlias = Iterator[tuple[Any, np.ndarray]]


@dataclass(frozen=True)
class LayerSettings:
    """Settings of all layers, named as the parameters of `mbn.MultilayerBootstrapNetwork`.

    Parameters
    ----------
    n_estimators : int
    max_features : float
    seed : int
        Of all draws.
    metric : {"euclidean", "cosine", "linear"}
    assignment : {"direct", "neighbors"}
    n_neighbors : int
    n_jobs : int or None
    device : str
    guided : bool
        Whether samples that share no code with a centroid follow others; see `mbn.guides`.
    """

    n_estimators: int
    max_features: float
    seed: int
    metric: str
    assignment: str
    n_neighbors: int
    n_jobs: int | None = None
    device: str = "cpu"
    guided: bool = False


@dataclass(frozen=True)
class Layer:
    """The draws of a fitted layer.

    Parameters
    ----------
    reference : ndarray or CSR of shape (n_drawn, n_inputs)
        The rows that any clustering drew: prepared features in the bottom layer, float32, and codes of the layer below
        in the others, unsigned integers.
    rows : ndarray of shape (n_estimators, k)
        Rows of the reference that are the centroids of each clustering, in the order drawn.
    used : ndarray of shape (n_estimators, n_used)
        Inputs of each clustering, ascending.
    guides : ndarray of shape (n_guides,), or None
        Rows of the reference that are followed by rows that share no code with a centroid; None in the bottom layer
        and where the features are not few.
    guide_codes : ndarray of shape (n_guides, n_estimators), or None
        Codes of the guides in this layer.
    """

    reference: Matrix
    rows: np.ndarray
    used: np.ndarray
    guides: np.ndarray | None = None
    guide_codes: np.ndarray | None = None


def _draw_layer(
    index: int, k: int, n_rows: int, n_inputs: int, settings: LayerSettings
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw all clusterings of a layer.

    Returns
    -------
    drawn : ndarray of shape (n_drawn,), int64
        The rows that any clustering drew, ascending.
    rows : ndarray of shape (n_estimators, k)
        Indices into `drawn`.
    used : ndarray of shape (n_estimators, n_used)
    """
    n_estimators, n_used = settings.n_estimators, max(1, round(settings.max_features * n_inputs))
    n_used = n_used_features(settings.max_features, n_inputs) if index == 0 else n_used
    rows = np.empty((n_estimators, k), np.min_scalar_type(n_rows))
    used = np.empty((n_estimators, n_used), np.min_scalar_type(n_inputs))
    for v in range(n_estimators):
        rows[v], used[v] = draw(settings.seed, index, v, n_rows=n_rows, k=k, n_inputs=n_inputs, n_used=n_used)
    flags = np.zeros(n_rows, bool)
    for v in range(n_estimators):
        flags[rows[v]] = True
    numbers = (np.cumsum(flags) - 1).astype(rows.dtype)
    for v in range(n_estimators):
        rows[v] = numbers[rows[v]]
    return np.flatnonzero(flags), rows, used


def fit_bottom(X: Rows, k: int, settings: LayerSettings, codes: np.ndarray | None = None) -> tuple[np.ndarray, Layer]:
    """Draw the bottom layer from the rows X, and compute its codes if they are not given.

    Parameters
    ----------
    X : Rows of shape (n_samples, n_features)
    k : int
        Centroids of a clustering.
    settings : LayerSettings
    codes : ndarray of shape (n_samples, n_estimators), default=None
        The codes, if they are known from an earlier fit.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_estimators)
    layer : Layer
    """
    drawn, rows, used = _draw_layer(0, k, *X.shape, settings)
    complete = len(drawn) == X.shape[0]
    layer = Layer(X.whole() if complete else X[drawn], rows, used)
    if codes is None:
        codes = assign_bottom(X, layer, settings, complete)
    return codes, layer


def assign_bottom(X: Matrix | Rows, layer: Layer, settings: LayerSettings, complete: bool = False) -> np.ndarray:
    """Codes of rows in the bottom layer.

    Parameters
    ----------
    X : ndarray, CSR or Rows of shape (n_samples, n_features), float32
    layer : Layer
    settings : LayerSettings
    complete : bool, default=False
        Whether the reference of the layer is all rows of X. Only then is the search for neighbors approximate where an
        exact one would take too long.

    Returns
    -------
    ndarray of shape (n_samples, n_estimators)
        In Fortran order, since most kernels read the codes of one clustering for many rows.
    """
    codes = _empty_codes(X.shape[0], *layer.rows.shape)
    device = None if settings.device == "cpu" else accelerator.resolve_device(settings.device)
    if device is not None and settings.metric == "euclidean" and not sparse.issparse(layer.reference):
        parts = _assign_on_device(X, layer, settings, device)
    elif settings.assignment == "direct":
        parts = _assign_direct(X, layer, settings)
    elif complete and settings.metric != "linear" and neighbors.is_large(X.shape[0], layer.reference):
        parts = _assign_leaves(layer, settings)
    else:
        parts = _assign_neighbors(X, layer, settings)
    for rows, part in parts:
        codes[rows] = part
    return codes


def _empty_codes(n_samples: int, n_estimators: int, k: int) -> np.ndarray:
    """Return an array for codes, of shape (n_samples, n_estimators)."""
    return np.empty((n_samples, n_estimators), np.min_scalar_type(k - 1), order="F")


def _assign_on_device(X: Matrix | Rows, layer: Layer, settings: LayerSettings, device: Any) -> Parts:
    """Assign the rows X with products on a device; as the other generators, yields rows and their codes."""
    reference, rows = layer.reference, layer.rows
    n_reference = len(reference)
    search = accelerator.DeviceSearch(reference, "euclidean", _n_candidates(settings, n_reference), device)
    positions, masks = assign_neighbors.position_table(rows, n_reference), _masks(layer)
    n_first = min(settings.n_neighbors, n_reference)
    for block in blocks(X.shape[0], TRANSFORM_ROWS):
        if settings.assignment == "direct":
            yield block, accelerator.direct_codes(X[block], reference, rows, layer.used, device).T
        else:
            part, near = search.candidates(X[block])
            yield block, accelerator.neighbor_codes(part, reference, near, positions, rows, masks, n_first, device)


def _assign_direct(X: Matrix | Rows, layer: Layer, settings: LayerSettings) -> Parts:
    """Assign the rows X by comparing each with all centroids."""
    tasks = row_blocks(X.shape[0], settings.n_jobs, 2 * layer.rows.shape[1] * layer.used.size)
    return run(_direct_codes, (layer, settings.metric), tasks, lambda block: (X[block],), n_jobs=settings.n_jobs)


def _direct_codes(layer: Layer, metric: str, X: Matrix) -> np.ndarray:
    """Task of `_assign_direct`."""
    return assign_direct.nearest_centroids(X, layer.reference, layer.rows, layer.used, metric).T


def _assign_neighbors(X: Matrix | Rows, layer: Layer, settings: LayerSettings) -> Parts:
    """Assign the rows X by comparing each with centroids among its exact neighbors."""
    reference = layer.reference
    n_reference, n_candidates = reference.shape[0], _n_candidates(settings, reference.shape[0])
    squares = np.concatenate([neighbors.row_squares(reference[b]) for b in blocks(n_reference, TRANSFORM_ROWS)])
    search = neighbors.ExactSearch(reference, _nearness(settings), n_candidates, squares)
    tasks = row_blocks(X.shape[0], settings.n_jobs, 2 * X.shape[1] * (n_reference + n_candidates * len(layer.rows)))
    shared = (search, *_clusterings(layer, settings))
    return run(_neighbor_codes, shared, tasks, lambda block: (X[block],), n_jobs=settings.n_jobs)


def _assign_leaves(layer: Layer, settings: LayerSettings) -> Parts:
    """Assign all rows of the reference by comparing each with centroids among its approximate neighbors."""
    reference = layer.reference
    (n_samples, n_features), n_candidates = reference.shape, _n_candidates(settings, reference.shape[0])
    search = tree.TreeSearch(reference, _nearness(settings), n_candidates, tree.grow(reference, settings.seed))
    operations = 2 * n_features * (tree.n_compared(n_samples) + n_candidates * len(layer.rows))
    n_rows = row_blocks(n_samples, settings.n_jobs, operations)[0].stop
    tasks = blocks(search.tree.n_leaves, max(1, int(n_rows // search.tree.starts[1])))
    shared = (search, *_clusterings(layer, settings))
    for leaves, codes in run(_neighbor_codes, shared, tasks, lambda leaves: (leaves,), n_jobs=settings.n_jobs):
        yield search.tree.rows_of(leaves), codes


def _neighbor_codes(
    search: NeighborSearch,
    positions: np.ndarray | None,
    rows: np.ndarray,
    masks: np.ndarray,
    metric: str,
    n_first: int,
    queries: Any,
) -> np.ndarray:
    """Task of `_assign_neighbors` and `_assign_leaves`."""
    X, near = search.candidates(queries)
    return assign_neighbors.nearest_centroids(X, search.reference, near, positions, rows, masks, metric, n_first)


def _clusterings(layer: Layer, settings: LayerSettings) -> tuple:
    """Return the arguments of `_neighbor_codes` that describe the clusterings."""
    n_reference, (n_estimators, k) = layer.reference.shape[0], layer.rows.shape
    small = n_reference * n_estimators * np.min_scalar_type(k - 1).itemsize <= assign_neighbors.TABLE_BYTES
    positions = assign_neighbors.position_table(layer.rows, n_reference) if small else None
    return positions, layer.rows, _masks(layer), settings.metric, min(settings.n_neighbors, n_reference)


def _masks(layer: Layer) -> np.ndarray:
    """Return an array of shape (n_features, n_estimators), float32: one where a clustering uses a feature."""
    masks = np.zeros((layer.reference.shape[1], len(layer.rows)), np.float32)
    np.put_along_axis(masks, layer.used.T.astype(np.int64), 1, axis=0)
    return masks


def _n_candidates(settings: LayerSettings, n_reference: int) -> int:
    """Return the number of candidates of a row."""
    return min(_FURTHER * settings.n_neighbors, n_reference)


def _nearness(settings: LayerSettings) -> str:
    """Return the metric of the search: rows have length one if the metric is cosine."""
    return "euclidean" if settings.metric == "euclidean" else "linear"


def fit_upper(
    codes: np.ndarray,
    index: int,
    k: int,
    settings: LayerSettings,
    n_codes: int,
    codes_above: np.ndarray | None = None,
) -> tuple[np.ndarray, Layer]:
    """Draw an upper layer from the codes below it, and compute its codes if they are not given.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_inputs)
        Codes of the layer below.
    index : int
        Of the layer, from 1 on.
    k : int
        Centroids of a clustering.
    settings : LayerSettings
    n_codes : int
        Number of different codes below: k of that layer.
    codes_above : ndarray of shape (n_samples, n_estimators), default=None
        The codes of this layer, if they are known from an earlier fit.

    Returns
    -------
    codes : ndarray of shape (n_samples, n_estimators)
    layer : Layer
    """
    drawn, rows, used = _draw_layer(index, k, *codes.shape, settings)
    layer = Layer(codes if len(drawn) == len(codes) else np.take(codes.T, drawn, axis=1).T, rows, used)
    if settings.guided:
        chosen = guides.draw_guides(len(drawn), n_codes, settings.seed, index)
        nearest = codes_above
        if nearest is None:
            nearest = assign_upper(codes, layer, n_codes, settings.n_jobs)
        guide_codes = np.ascontiguousarray(nearest[drawn[chosen]])
        if codes_above is None:
            below = layer.reference[chosen]
            guide_codes = guides.codes_of_guides(guide_codes, below, layer.reference, rows, used)
        layer = dataclasses.replace(layer, guides=chosen, guide_codes=guide_codes)
        return _follow_guides(nearest, codes, layer, settings.n_jobs) if codes_above is None else nearest, layer
    if codes_above is None:
        codes_above = assign_upper(codes, layer, n_codes, settings.n_jobs)
    return codes_above, layer


def assign_upper(codes: np.ndarray, layer: Layer, n_codes: int, n_jobs: int | None) -> np.ndarray:
    """Codes of rows in an upper layer, by the kernel that is the fastest for them.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_inputs)
        Codes of the layer below.
    layer : Layer
    n_codes : int
        Number of different codes below.
    n_jobs : int or None

    Returns
    -------
    ndarray of shape (n_samples, n_estimators)
        In Fortran order, but for few rows.
    """
    reference, rows, used = layer.reference, layer.rows, layer.used
    reference_codes = np.ascontiguousarray(reference.T)
    if len(codes) <= COMPARED_ROWS:
        bits = upper.pack_used(used, codes.shape[1])
        found = upper.match_compared(np.ascontiguousarray(codes), reference_codes, rows, bits)
        return found if layer.guides is None else _follow_guides(found, codes, layer, n_jobs)
    found = _empty_codes(len(codes), *rows.shape)
    index_bytes = upper.index_bytes(*reference_codes.shape, n_codes) + len(reference) * len(rows) * found.itemsize
    if index_bytes <= INDEX_BYTES and upper.mean_list(reference) < RANKED_LENGTH * used.shape[1]:
        parts = _match_ranked(codes, reference_codes, layer, n_codes, n_jobs)
    else:
        parts = _match_lists(codes, reference_codes, layer, n_codes, n_jobs)
    for which, part in parts:
        found[which] = part
    return found if layer.guides is None else _follow_guides(found, codes, layer, n_jobs)


def _follow_guides(found: np.ndarray, codes: np.ndarray, layer: Layer, n_jobs: int | None) -> np.ndarray:
    """Let samples that share no code with a centroid follow guides; changes `found`, which it returns.

    Parameters
    ----------
    found : ndarray of shape (n_samples, n_estimators)
        Codes of the nearest centroids.
    codes : ndarray of shape (n_samples, n_inputs)
        Codes of the layer below.
    layer : Layer
    n_jobs : int or None

    Returns
    -------
    ndarray of shape (n_samples, n_estimators)
    """
    shared = (layer.reference, layer.rows, layer.used, layer.guides, layer.guide_codes)
    tasks = row_blocks(len(codes), n_jobs, len(layer.guides) * codes.shape[1])
    for block, part in run(_guided, shared, tasks, lambda block: (found[block], codes[block]), n_jobs=n_jobs):
        found[block] = part
    return found


def _guided(
    reference: np.ndarray,
    rows: np.ndarray,
    used: np.ndarray,
    chosen: np.ndarray,
    guide_codes: np.ndarray,
    found: np.ndarray,
    codes: np.ndarray,
) -> np.ndarray:
    """Task of `_follow_guides`."""
    return guides.follow(found, codes, reference, rows, used, chosen, guide_codes)


def _match_ranked(
    codes: np.ndarray, reference_codes: np.ndarray, layer: Layer, n_codes: int, n_jobs: int | None
) -> Parts:
    """Yield rows and their codes by ranking; `reference_codes` is the transposed reference of the layer."""
    index = upper.index_all(reference_codes, n_codes)
    positions = assign_neighbors.position_table(layer.rows, reference_codes.shape[1])
    shared = (index, positions, layer.rows.shape[1], upper.pack_used(layer.used, codes.shape[1]))
    tasks = row_blocks(len(codes), n_jobs)
    return run(_ranked_codes, shared, tasks, lambda block: (np.ascontiguousarray(codes[block]),), n_jobs=n_jobs)


def _ranked_codes(index: tuple, positions: np.ndarray, k: int, bits: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Task of `_match_ranked`."""
    return upper.match_ranked(codes, index, positions, k, bits)


def _match_lists(
    codes: np.ndarray, reference_codes: np.ndarray, layer: Layer, n_codes: int, n_jobs: int | None
) -> Parts:
    """Yield indices and codes of some rows and clusterings by the kernels for one clustering."""
    rows, used, n_samples = layer.rows, layer.used, len(codes)
    k, n_used = rows.shape[1], used.shape[1]
    if k <= DENSE_CENTROIDS and n_codes <= 256 and n_used <= 255:
        kernel, dtype = "dense", np.dtype(np.uint8)
    else:
        kernel, dtype = "listed" if k > LISTED_CENTROIDS * n_used else "indexed", codes.dtype
    reference_codes = reference_codes.astype(dtype, copy=False)
    groups = blocks(len(rows), -(-len(rows) // (_TASKS_PER_WORKER * n_workers(n_jobs))))
    keys = [(block, group) for block in blocks(n_samples, TRANSFORM_ROWS) for group in groups]

    @functools.lru_cache(maxsize=1)
    def transposed(first: int, last: int) -> np.ndarray:
        same = codes is layer.reference and last - first == n_samples
        return reference_codes if same else np.ascontiguousarray(codes[first:last].T, dtype)

    shared = (reference_codes, rows, used, n_codes, kernel)
    return run(match_group, shared, keys, lambda key: (transposed(key[0].start, key[0].stop), key[1]), n_jobs=n_jobs)


def match_group(
    reference_codes: np.ndarray,
    rows: np.ndarray,
    used: np.ndarray,
    n_codes: int,
    kernel: str,
    codes: np.ndarray,
    group: slice,
) -> np.ndarray:
    """Codes of a group of clusterings by one kernel; task of `assign_upper`.

    Parameters
    ----------
    reference_codes : ndarray of shape (n_inputs, n_drawn)
    rows : ndarray of shape (n_estimators, k)
    used : ndarray of shape (n_estimators, n_used)
    n_codes : int
    kernel : {"dense", "listed", "indexed"}
    codes : ndarray of shape (n_inputs, n_samples)
        Codes of the layer below.
    group : slice

    Returns
    -------
    ndarray of shape (n_samples, n_clusterings)
    """
    found = _empty_codes(codes.shape[1], group.stop - group.start, rows.shape[1])
    for column, v in enumerate(range(group.start, group.stop)):
        arguments = codes, reference_codes, rows[v], used[v]
        if kernel == "dense":
            found[:, column] = upper.match_dense(*arguments)
        elif kernel == "listed":
            found[:, column] = upper.match_listed(*arguments, n_codes)
        else:
            found[:, column] = upper.match_indexed(*arguments, n_codes)
    return found


def transform_block(
    layers: Sequence[Layer],
    n_centroids: tuple[int, ...],
    settings: LayerSettings,
    projection: tuple[np.ndarray, np.ndarray] | None,
    X: Matrix,
) -> np.ndarray:
    """Send prepared rows through all layers, and on to the principal components if there is a projection.

    Parameters
    ----------
    layers : sequence of Layer
    n_centroids : tuple of int
        Centroids per layer.
    settings : LayerSettings
    projection : tuple of (components, mean), or None
        As in `mbn.output.project`.
    X : ndarray or CSR of shape (n_samples, n_features), float32

    Returns
    -------
    ndarray of shape (n_samples, n_estimators) or (n_samples, n_components)
    """
    if sparse.issparse(layers[0].reference) != sparse.issparse(
        X
    ):  # dense rows for a fit on sparse ones, or the reverse
        X = X.toarray() if sparse.issparse(X) else sparse.csr_array(X)
    codes = assign_bottom(X, layers[0], settings)
    for n_codes, layer in zip(n_centroids, layers[1:]):
        codes = assign_upper(codes, layer, n_codes, settings.n_jobs)
    return codes if projection is None else output.project(codes, n_centroids[-1], *projection)


def row_blocks(n_samples: int, n_jobs: int | None, operations: int = 1) -> list[slice]:
    """Cut rows into tasks for all workers.

    Parameters
    ----------
    n_samples : int
    n_jobs : int or None
    operations : int, default=1
        Multiplications and additions for each row.

    Returns
    -------
    list of slice
    """
    size = -(-n_samples // (_TASKS_PER_WORKER * n_workers(n_jobs)))
    most = min(MOST_ROWS, int(_MOST_OPERATIONS / operations))
    return blocks(n_samples, max(LEAST_ROWS, min(size, most)))


def transform_blocks(
    n_samples: int, n_features: int, n_estimators: int, n_neighbors: int, n_jobs: int | None
) -> list[slice]:
    """Cut rows for `transform_block`: a block for each worker, within a quarter of scikit-learn's working_memory."""
    per_row = 12 * n_estimators + 8 * n_features + 16 * _FURTHER * n_neighbors
    most = np.clip(get_config()["working_memory"] * 2**18 // per_row, LEAST_ROWS, TRANSFORM_ROWS)
    return blocks(n_samples, min(max(TRANSFORM_LEAST_ROWS, -(-n_samples // n_workers(n_jobs))), int(most)))
