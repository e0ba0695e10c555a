"""
Label a Dask data frame
=======================

Label a data frame larger than memory, on a cluster, with a student of a few kilobytes.

Each partition of a Dask data frame is a pandas frame. A student that was trained on a frame selects its columns by
name, so that partitions may have other columns as well. Labels come with their probability. Only a small table returns
to the client; the labeled rows stay on the workers and could be written with ``to_parquet``.
"""

import sys

import dask.dataframe as dd
import numpy as np
import pandas as pd
from dask.distributed import Client, LocalCluster
from sklearn.cluster import KMeans
from sklearn.pipeline import make_pipeline

import distill
from distill import Distiller
from mbn import MultilayerBootstrapNetwork

N_PARTS, N_ROWS, N_KINDS = 8, 5000, 5
SENSORS = ["current", "humidity", "noise", "pressure", "temperature", "vibration"]


def read(part):
    """Make a part of the readings of machines in five states; stands for a file that a worker reads."""
    rng = np.random.default_rng(part)
    states = np.random.default_rng(0).normal(0, 4, (N_KINDS, len(SENSORS)))
    readings = states[rng.integers(0, N_KINDS, N_ROWS)] + rng.standard_normal((N_ROWS, len(SENSORS)))
    frame = pd.DataFrame(readings.astype(np.float32), columns=SENSORS)
    frame.insert(0, "machine", rng.integers(0, 4, N_ROWS))
    return frame


def label(frame, student):
    """Add a state and its probability to every row; `student` holds the bytes of a student file."""
    student = distill.load(student)
    probabilities = student.predict_proba(frame[student.feature_names_in_])
    state = student.classes_[probabilities.argmax(axis=1)]
    return frame[["machine"]].assign(state=state, probability=probabilities.max(axis=1))


def main():
    teacher = make_pipeline(
        MultilayerBootstrapNetwork(n_clusters=N_KINDS, n_estimators=50, random_state=0),
        KMeans(N_KINDS, n_init=5, random_state=0),
    )
    student = Distiller(teacher, hidden_layer_sizes=(32,), max_iter=20, random_state=0).fit(read(0)[SENSORS][:2000])
    data = student.to_bytes()
    print(f"student: {len(data)} bytes; agreement with the teacher {student.score(read(1)[SENSORS][:1000]):.3f}")

    frame = dd.from_map(read, range(N_PARTS))
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster):
        labeled = frame.map_partitions(label, student=data)
        summary = labeled.groupby(["machine", "state"]).probability.agg(["count", "mean"], split_out=1).compute()
    print(summary.unstack().round(3))

    here = pd.concat([label(read(part), data) for part in range(N_PARTS)])
    counts = here.groupby(["machine", "state"]).size()
    identical = counts.equals(summary["count"].sort_index())
    print(f"the same labels as here: {identical}")
    return 0 if identical else 1


if __name__ == "__main__":
    sys.exit(main())
