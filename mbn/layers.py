"""The layers of a network: drawn, fitted, and sent rows through, a block of rows or some clusterings to a task."""

import functools

import numpy as np
from scipy import sparse
from sklearn import get_config

from mbn import accelerator, bottom, neighbors, output, tree, upper
from mbn.parallel import blocks, n_workers, run
from mbn.schedule import draw

# A worker gets so many tasks, if that leaves them no fewer rows than the least, no more than the most, and no more
# operations than take a core some ten seconds.
_TASKS_PER_WORKER, _LEAST_ROWS, _MOST_ROWS, _MOST_OPERATIONS = 6, 128, 8192, 5e11
_TRANSFORM_LEAST_ROWS = 1024
# Rows go through all layers so many at a time at most, which bounds the memory for their codes.
_TRANSFORM_ROWS = 1 << 16
# Where a code is doubtful, so many times as many nearest rows are looked at.
_FURTHER = 3
# Which kernel of the upper layers is fastest where; they all give the same codes.
_COMPARED_ROWS = 8
_DENSE_CENTROIDS = 64
_RANKED_LENGTH = 0.2  # drawn rows of one code, for each input looked at
_LISTED_CENTROIDS = 25  # likewise
# Ranking needs an index of all codes, which may take so much memory: enough for MNIST at 400 clusterings.
_INDEX_BYTES = 1 << 28


def _draw_layer(layer, k, n_estimators, max_features, entropy, n_rows, n_inputs):
    """Draw all clusterings of a layer; rows are numbered within the sorted `drawn` ones."""
    n_used = max(1, round(max_features * n_inputs))
    rows = np.empty((n_estimators, k), np.min_scalar_type(n_rows))
    used = np.empty((n_estimators, n_used), np.min_scalar_type(n_inputs))
    for v in range(n_estimators):
        rows[v], used[v] = draw(entropy, layer, v, n_rows=n_rows, k=k, n_inputs=n_inputs, n_used=n_used)
    flags = np.zeros(n_rows, bool)
    for v in range(n_estimators):
        flags[rows[v]] = True
    numbers = (np.cumsum(flags) - 1).astype(rows.dtype)
    for v in range(n_estimators):
        rows[v] = numbers[rows[v]]
    return np.flatnonzero(flags), rows, used


def fit_bottom(
    X, layer, k, n_estimators, max_features, entropy, metric, assignment, n_neighbors, *, n_jobs, device, codes=None
):
    """Draw the bottom layer from the rows X, and compute its codes if they are not known."""
    drawn, rows, used = _draw_layer(layer, k, n_estimators, max_features, entropy, *X.shape)
    complete = len(drawn) == X.shape[0]
    state = {"reference": X.whole() if complete else X[drawn], "rows": rows, "used": used}
    if codes is None:
        codes = assign_bottom(X, state, metric, assignment, n_neighbors, n_jobs, device, entropy, complete)
    return codes, state


def assign_bottom(X, state, metric, assignment, n_neighbors, n_jobs, device, entropy=0, complete=False):
    """Codes of the rows X, which are a matrix or `Rows`; `complete` says that the reference is all of them."""
    reference, rows, used = state["reference"], state["rows"], state["used"]
    n_samples, k = X.shape[0], rows.shape[1]
    codes = _no_codes(n_samples, len(rows), k)
    if device != "cpu":
        device = accelerator.resolve_device(device)
        on_device = metric == "euclidean" and not sparse.issparse(reference)
    else:
        on_device = False
    if assignment == "direct":
        if on_device:
            for block in blocks(n_samples, _TRANSFORM_ROWS):
                codes[block] = accelerator.assign_direct(X[block], reference, rows, used, device).T
            return codes
        shared = (reference, rows, used, metric)
        tasks = _tasks(n_samples, n_jobs, 2 * k * used.size)
        for block, found in run(_assign_direct, shared, tasks, lambda b: (X[b],), n_jobs=n_jobs):
            codes[block] = found
        return codes
    n_neighbors = min(n_neighbors, reference.shape[0])
    masks = np.zeros((X.shape[1], len(rows)), np.float32)
    np.put_along_axis(masks, used.T.astype(np.int64), 1, axis=0)
    if on_device:
        positions = bottom.position_table(rows, reference.shape[0])
        for block in blocks(n_samples, _TRANSFORM_ROWS):
            near = nearest(X[block], reference, device, "euclidean", n_neighbors)
            codes[block] = accelerator.assign_neighbors(
                X[block], reference, near, positions, rows, masks, n_neighbors, device
            )
        return codes
    small = reference.shape[0] * len(rows) * codes.itemsize <= bottom.TABLE_BYTES
    positions = bottom.position_table(rows, reference.shape[0]) if small else None
    further = 2 * min(_FURTHER * n_neighbors, reference.shape[0]) * masks.size
    if complete and metric != "linear" and neighbors.is_large(n_samples, reference):
        grown = tree.grow(reference, entropy)
        starts = tree.bounds(n_samples, grown[1].shape[1])
        shared = (reference, grown, positions, rows, masks, metric, n_neighbors)
        n_leaves = _tasks(n_samples, n_jobs, 2 * tree.n_compared(n_samples) * X.shape[1] + further)[0].stop // starts[1]
        tasks = blocks(len(starts) - 1, max(1, int(n_leaves)))
        for leaves, found in run(_assign_leaves, shared, tasks, lambda leaves: (leaves,), n_jobs=n_jobs):
            codes[grown[0][starts[leaves.start] : starts[leaves.stop]]] = found
        return codes
    norms = np.concatenate([neighbors.row_squares(reference[b]) for b in blocks(reference.shape[0], _TRANSFORM_ROWS)])
    shared = (reference, norms, positions, rows, masks, metric, n_neighbors)
    tasks = _tasks(n_samples, n_jobs, 2 * reference.shape[0] * X.shape[1] + further)
    for block, found in run(_assign_neighbors, shared, tasks, lambda b: (X[b],), n_jobs=n_jobs):
        codes[block] = found
    return codes


def _no_codes(n_samples, n_estimators, k):
    """Where codes go: they stand in lines, one per clustering, as most kernels read them."""
    return np.empty((n_samples, n_estimators), np.min_scalar_type(k - 1), order="F")


def _assign_direct(reference, rows, used, metric, X):
    return bottom.assign_direct(X, reference, rows, used, metric).T


def _assign_neighbors(reference, norms, positions, rows, masks, metric, n_neighbors, X):
    near = nearest(X, reference, norms, metric, n_neighbors)
    return bottom.assign_neighbors(X, reference, near, positions, rows, masks, metric, n_neighbors)


def _assign_leaves(reference, grown, positions, rows, masks, metric, n_neighbors, leaves):
    near = nearest(leaves, reference, grown, metric, n_neighbors)
    X = reference[tree.rows_of(grown, leaves)]
    return bottom.assign_neighbors(X, reference, near, positions, rows, masks, metric, n_neighbors)


def nearest(X, reference, known, metric, n_neighbors):
    """The nearest rows of every row, more than are always looked at.

    How they are searched follows from what is known of the reference: the squared lengths of its rows, a tree whose
    leaves are then asked for in place of X, or a device.
    """
    nearness = "euclidean" if metric == "euclidean" else "linear"
    n_neighbors = min(_FURTHER * n_neighbors, reference.shape[0])
    if isinstance(X, slice):
        return tree.nearest_rows(reference, known, X, n_neighbors, nearness)
    if isinstance(known, np.ndarray):
        return neighbors.nearest_rows(X, reference, n_neighbors, nearness, known)
    return accelerator.nearest_rows(X, reference, n_neighbors, nearness, known)


def fit_upper(codes, layer, k, n_estimators, max_features, entropy, n_codes, *, n_jobs, codes_above=None):
    """Draw an upper layer from the codes below it, and compute its codes if they are not known."""
    drawn, rows, used = _draw_layer(layer, k, n_estimators, max_features, entropy, *codes.shape)
    below = codes if len(drawn) == len(codes) else np.take(codes.T, drawn, axis=1).T
    state = {"codes": below, "rows": rows, "used": used}
    if codes_above is None:
        codes_above = assign_upper(codes, state, n_codes, n_jobs)
    return codes_above, state


def assign_upper(codes, state, n_codes, n_jobs):
    centroid_codes, rows, used = state["codes"], state["rows"], state["used"]
    n_samples, n_inputs = codes.shape
    k = rows.shape[1]
    centroid_lines = np.ascontiguousarray(centroid_codes.T)
    if n_samples <= _COMPARED_ROWS:
        bits = upper.pack_used(used, n_inputs)
        return upper.match_compared(np.ascontiguousarray(codes), centroid_lines, rows, bits)
    found = _no_codes(n_samples, len(rows), k)
    index_bytes = upper.index_bytes(*centroid_lines.shape, n_codes) + len(centroid_codes) * len(rows) * found.itemsize
    if index_bytes <= _INDEX_BYTES and upper.mean_list(centroid_codes) < _RANKED_LENGTH * used.shape[1]:
        bits = upper.pack_used(used, n_inputs)
        index = upper.index_all(centroid_lines, n_codes)
        positions = bottom.position_table(rows, len(centroid_codes))
        shared = (index, positions, k, bits)
        for block, part in run(
            _match_ranked, shared, _tasks(n_samples, n_jobs), lambda b: (np.ascontiguousarray(codes[b]),), n_jobs=n_jobs
        ):
            found[block] = part
        return found
    if k <= _DENSE_CENTROIDS and n_codes <= 256 and used.shape[1] <= 255:
        kernel, dtype = "dense", np.uint8
    else:
        kernel, dtype = "listed" if k > _LISTED_CENTROIDS * used.shape[1] else "indexed", codes.dtype
    centroid_lines = centroid_lines.astype(dtype, copy=False)
    shared = (centroid_lines, rows, used, n_codes, kernel)
    groups = blocks(len(rows), -(-len(rows) // (_TASKS_PER_WORKER * n_workers(n_jobs))))
    keys = [(block, group) for block in blocks(n_samples, _TRANSFORM_ROWS) for group in groups]

    @functools.lru_cache(maxsize=1)
    def lines(first, last):
        same = codes is centroid_codes and last - first == n_samples
        return centroid_lines if same else np.ascontiguousarray(codes[first:last].T, dtype)

    for (block, group), part in run(
        _match_lines, shared, keys, lambda key: (lines(key[0].start, key[0].stop), key[1]), n_jobs=n_jobs
    ):
        found[block, group] = part
    return found


def _match_ranked(index, positions, k, bits, codes):
    return upper.match_ranked(codes, index, positions, k, bits)


def _match_lines(centroid_lines, rows, used, n_codes, kernel, lines, group):
    """Codes of some clusterings, for codes below that stand in one line per clustering."""
    found = _no_codes(lines.shape[1], group.stop - group.start, rows.shape[1])
    for place, v in enumerate(range(group.start, group.stop)):
        arguments = lines, centroid_lines, rows[v], used[v]
        if kernel == "dense":
            found[:, place] = upper.match_dense(*arguments)
        elif kernel == "listed":
            found[:, place] = upper.match_listed(*arguments, n_codes)
        else:
            found[:, place] = upper.match_indexed(*arguments, n_codes)
    return found


def transform_block(layers, n_centroids, metric, assignment, n_neighbors, device, projection, X):
    """Send prepared rows through all layers; on to the principal components if there is a projection."""
    if sparse.issparse(layers[0]["reference"]) != sparse.issparse(X):  # fitted on rows of the other kind
        X = X.toarray() if sparse.issparse(X) else sparse.csr_array(X)
    codes = assign_bottom(X, layers[0], metric, assignment, n_neighbors, 1, device)
    for n_codes, layer in zip(n_centroids, layers[1:]):
        codes = assign_upper(codes, layer, n_codes, 1)
    return codes if projection is None else output.project(codes, n_centroids[-1], *projection)


def _tasks(n_samples, n_jobs, operations=1):
    """Blocks of rows, each of which takes so many operations, for all workers."""
    size = -(-n_samples // (_TASKS_PER_WORKER * n_workers(n_jobs)))
    most = min(_MOST_ROWS, int(_MOST_OPERATIONS / operations))
    return blocks(n_samples, max(_LEAST_ROWS, min(size, most)))


def transform_blocks(n_samples, n_features, n_estimators, n_neighbors, n_jobs):
    """Cut rows for `transform_block`: a block for each worker, within a quarter of scikit-learn's working_memory."""
    per_row = 12 * n_estimators + 8 * n_features + 16 * _FURTHER * n_neighbors
    most = np.clip(get_config()["working_memory"] * 2**18 // per_row, _LEAST_ROWS, _TRANSFORM_ROWS)
    return blocks(n_samples, min(max(_TRANSFORM_LEAST_ROWS, -(-n_samples // n_workers(n_jobs))), int(most)))
