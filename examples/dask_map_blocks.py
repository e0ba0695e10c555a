"""
Label a Dask array
==================

Label more samples than fit in memory, on a cluster, with a student of a few kilobytes.

The teacher learns from a part of the samples. Only the bytes of its student file go to the workers, a few kilobytes
that NumPy alone can run; each block of a Dask array is labeled on the worker that holds it. For data frames see
:doc:`dask_map_partitions`.
"""

import sys

import dask.array as da
import numpy as np
from dask.distributed import Client, LocalCluster
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline

import distill
from distill import Distiller
from mbn import MultilayerBootstrapNetwork

N_ROWS, N_FEATURES, N_CLUSTERS = 100_000, 16, 8


def rows_of_block(block_id):
    """Make a block of rows around the centers; stands for a file that a worker reads."""
    rng = np.random.default_rng(block_id)
    centers = np.random.default_rng(0).normal(0, 4, (N_CLUSTERS, N_FEATURES))
    size = N_ROWS // 20
    return (centers[rng.integers(0, N_CLUSTERS, size)] + rng.standard_normal((size, N_FEATURES))).astype(np.float32)


def read(block_info=None):
    return rows_of_block(block_info[None]["chunk-location"][0])


def label(block, student):
    """Label one block; `student` holds the bytes of a student file."""
    return distill.load(student).predict(block)


def main():
    X = da.map_blocks(read, chunks=((N_ROWS // 20,) * 20, (N_FEATURES,)), dtype=np.float32)
    teacher = make_pipeline(
        MultilayerBootstrapNetwork(n_clusters=N_CLUSTERS, n_estimators=50, random_state=0),
        KMeans(N_CLUSTERS, n_init=5, random_state=0),
    )
    sample = rows_of_block(0)[:2000]
    student = Distiller(teacher, hidden_layer_sizes=(32,), max_iter=20, random_state=0).fit(sample)
    data = student.to_bytes()
    print(f"student: {len(data)} bytes; agreement with the teacher {student.score(rows_of_block(1)[:1000]):.3f}")

    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster),
    ):
        labels = X.map_blocks(label, student=data, drop_axis=1, dtype=np.int64).compute()

    print(f"labeled {len(labels)} rows; cluster sizes: {np.bincount(labels).tolist()}")
    last = slice(-(N_ROWS // 20), None)
    identical = np.array_equal(labels[last], student.predict(rows_of_block(19)))
    print(f"the same labels as here: {identical}")
    return 0 if identical else 1


if __name__ == "__main__":
    sys.exit(main())
