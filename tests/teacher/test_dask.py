"""Fits on a Dask cluster: the same bits as in this process, each large array sent once, and workers that die."""

import os
import runpy
import signal
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from joblib import parallel_config
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline

from mbn import MultilayerBootstrapNetwork, assign_direct, assign_neighbors, layers, neighbors, parallel, tree

distributed = pytest.importorskip("distributed")

DIGITS = load_digits().data.astype(np.float32)
# Warnings of the cluster itself while its workers start, die and stop
pytestmark = [
    pytest.mark.filterwarnings("ignore:::distributed", "ignore::ResourceWarning", "ignore::RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning"),  # of short trainings
]


@pytest.fixture(scope="module")
def client():
    with (
        warnings.catch_warnings(action="ignore"),
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def a_network(**settings):
    return MultilayerBootstrapNetwork(n_estimators=20, random_state=0, **settings)


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"assignment": "direct", "k": [60, 20]}, {"max_samples": 700}])
def test_cluster_gives_the_same_bits(client, settings, monkeypatch):
    X = sparse.csr_array(DIGITS) if "k" in settings else DIGITS
    here = a_network(**settings).fit(X)
    Z, codes = here.transform(X), here.encode(X, one_hot=False)
    threads = a_network(n_jobs=2, **settings).fit(X)
    assert_array_equal(threads.transform(X), Z)
    for module in (assign_neighbors, assign_direct):  # tasks that ran in this process would fail
        monkeypatch.setattr(module, "nearest_centroids", None)
    with parallel_config(backend="dask"):
        there = a_network(**settings).fit(X)
        assert_array_equal(there.transform(X), Z)
        assert_array_equal(there.encode(X, one_hot=False), codes)


def test_approximate_search_on_cluster(client, monkeypatch):
    monkeypatch.setattr(neighbors, "EXACT_OPERATIONS", 0)
    Z = a_network().fit_transform(DIGITS)
    monkeypatch.setattr(tree, "nearest_rows", None)  # as above
    with parallel_config(backend="dask"):
        assert_array_equal(a_network().fit_transform(DIGITS), Z)


@pytest.fixture
def sent(monkeypatch):
    """The arrays that are sent to workers on their own."""
    arrays = []
    scatter = distributed.Client.scatter

    def counted(self, data, *args, **kwargs):
        arrays.append(data)
        return scatter(self, data, *args, **kwargs)

    monkeypatch.setattr(distributed.Client, "scatter", counted)
    return arrays


def test_large_arrays_are_sent_once(client, sent):
    reference, tall = np.ones((300, 300)), sparse.csr_array(np.eye(500))
    with parallel_config(backend="dask"):
        sums = [total for _, total in parallel.run(sum_up, ([reference], tall), range(40), lambda i: (np.full(9, i),))]
    assert_array_equal(sums, 90000 + 500 + 9 * np.arange(40))
    assert sum(np.may_share_memory(array, reference) for array in sent) == 1
    assert len(sent) == 4  # the reference and the three arrays of the sparse matrix


def test_array_of_consecutive_tasks_is_sent_once(client, sent):
    shared, first, second = np.ones((2, 50_000)), np.full((2, 50_000), 2.0), np.full((2, 50_000), 3.0)
    assert min(array.nbytes for array in (shared, first, second)) > parallel.LARGE_BYTES
    own = [first] * 6 + [second] * 6 + [shared] * 6
    with parallel_config(backend="dask"):
        sums = [total for _, total in parallel.run(sum_up, ([shared], np.zeros(3)), range(18), lambda i: (own[i],))]
    assert_array_equal(sums, 100_000 * np.repeat([3, 4, 2], 6))
    for array in (shared, first, second):
        assert sum(np.may_share_memory(array, other) for other in sent) == 1


def sum_up(shared, tall, own):
    return shared[0].sum() + tall.sum() + own.sum()


@pytest.mark.slow
def test_distiller_and_grid_search_on_cluster(client):
    from distill import Distiller  # here, so that no worker has to load torch

    X = DIGITS[:300]
    teacher = make_pipeline(a_network(), KMeans(10, n_init=1, random_state=0))
    distiller = Distiller(teacher, hidden_layer_sizes=(16,), max_iter=3, random_state=0)
    search = GridSearchCV(a_network(), {"max_features": [0.3, 0.6]}, scoring=_spread, cv=2)
    here = distiller.fit(X).predict_proba(X), search.fit(X).cv_results_["mean_test_score"]
    with parallel_config(backend="dask"):
        assert_array_equal(distiller.fit(X).predict_proba(X), here[0])
        assert_array_equal(search.fit(X).cv_results_["mean_test_score"], here[1])


def _spread(model, X, y=None):
    return float(model.transform(X).std())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dask_map_blocks", "dask_map_partitions"])
def test_student_on_dask_collection(client, name, monkeypatch, capsys):
    """The examples, on the cluster of the other tests in place of their own."""
    if name == "dask_map_partitions":
        pytest.importorskip("pandas")
        pytest.importorskip("pyarrow")
    monkeypatch.setattr("dask.distributed.LocalCluster", lambda **_: nullcontext())
    monkeypatch.setattr("dask.distributed.Client", lambda _: nullcontext())
    example = Path(__file__).parents[2] / "examples" / f"{name}.py"
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(example), run_name="__main__")
    assert ended.value.code == 0
    assert "the same labels as here: True" in capsys.readouterr().out


@pytest.mark.slow
def test_fit_survives_the_death_of_a_worker(client, tmp_path, monkeypatch):
    """The last one, because the cluster starts another worker only after a while."""
    X = DIGITS[:800]
    Z = a_network().fit_transform(X)
    marker = tmp_path / "killed"
    match = layers.match_group

    with warnings.catch_warnings(action="ignore"), parallel_config(backend="dask"):
        monkeypatch.setattr(layers, "match_group", _Deadly(match, marker))
        assert_array_equal(a_network().fit_transform(X), Z)
    assert marker.exists()


class _Deadly:
    """Kills the first worker that calls it; afterwards it calls the function."""

    def __init__(self, function, marker):
        self.function, self.marker, self.parent = function, marker, os.getpid()

    def __call__(self, *args):
        if os.getpid() != self.parent and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.function(*args)
