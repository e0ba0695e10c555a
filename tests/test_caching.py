"""What `memory=` promises: nothing is computed twice, however many workers ask."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import counting_teacher
import joblib
import numpy as np
import pytest
from counting_teacher import CountingKMeans, note
from joblib import parallel_config
from joblib.externals.loky import get_reusable_executor
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from distill import CodebookCompressor, Distiller
from distill.model_selection import fidelity_scorer
from distill.utils.caching import cached_call, call_key

X = load_digits().data[:240]  # rows within a larger array: in a worker they lie otherwise in memory
GRID = {"compress__bits": [1, 2, 3], "compress__n_groups": [1, 2], "compress__max_iter": [0, 1]}


def pipeline_with(tmp_path, inner_memory=True, outer_memory=True):
    """Return a pipeline whose stages keep their results and say so on standard output when they compute."""
    memory = joblib.Memory(tmp_path / "cache", verbose=1)
    teacher = CountingKMeans(log=str(tmp_path / "log"), random_state=0)
    student = Distiller(
        teacher, hidden_layer_sizes=(8,), max_iter=2, random_state=0, memory=memory if inner_memory else None
    )
    compressor = CodebookCompressor(student, max_iter=1, random_state=0, memory=memory if outer_memory else None)
    return Pipeline([("scale", StandardScaler()), ("compress", compressor)])


def search(pipeline, grid=GRID, **options):
    found = GridSearchCV(pipeline, grid, scoring=fidelity_scorer, cv=3, error_score="raise", **options).fit(X)
    assert len(found.cv_results_["params"]) == np.prod([len(values) for values in grid.values()])
    return found


def counts(tmp_path, output):
    """Return how often the teacher was fitted and asked, and the student trained."""
    words = Counter((tmp_path / "log").read_text().split())
    return words["fit"], output.count("Calling distill.training.student.fit_student"), words["ask"]


@pytest.fixture
def two_workers(request, capfd):  # capfd first: workers write to the standard output that they begin with
    if request.param == "dask":
        distributed = pytest.importorskip("distributed")
        # Workers in threads of this process, for speed; processes are what loky is for
        cluster = distributed.LocalCluster(2, threads_per_worker=1, processes=False, dashboard_address=":0")
        with cluster, cluster.get_client(), parallel_config("dask"):
            yield
    else:
        get_reusable_executor().shutdown(wait=True)
        with parallel_config(request.param):
            yield


@pytest.mark.parametrize("two_workers", ["loky", "threading", "dask"], indirect=True)
def test_a_grid_fits_the_teacher_and_the_student_once_per_fold(two_workers, tmp_path, capfd):
    found = search(pipeline_with(tmp_path), n_jobs=2)
    assert len(found.cv_results_["params"]) * 3 + 1 == 37
    n_teachers, n_students, n_questions = counts(tmp_path, capfd.readouterr().out)
    assert (n_teachers, n_students) == (4, 4)
    assert n_questions == 3


@pytest.mark.parametrize("memories", [(True, False), (False, True)], ids=["distiller", "compressor"])
def test_one_memory_is_enough_where_settings_outside_of_it_vary(memories, tmp_path, capfd):
    search(pipeline_with(tmp_path, *memories), {"compress__bits": [1, 2]})
    n_teachers, n_students, n_questions = counts(tmp_path, capfd.readouterr().out)
    assert n_teachers == 4 and n_questions == 3
    assert n_students == (4 if memories[0] else 0)  # else they are within what the compressor keeps


def test_distinct_students_are_trained_once_per_fold(tmp_path, capfd):
    search(pipeline_with(tmp_path), {"compress__bits": [1, 2], "compress__estimator__alpha": [1e-4, 1e-2]})
    assert counts(tmp_path, capfd.readouterr().out)[:2] == (4, 2 * 3 + 1)


def test_without_memory_all_is_computed_every_time(tmp_path):
    search(pipeline_with(tmp_path, False, False), {"compress__bits": [1, 2]})
    assert counts(tmp_path, "")[0] == 2 * 3 + 1


def test_frozen_teachers_are_never_fitted_and_see_the_validation_rows(tmp_path):
    teacher = CountingKMeans(log=str(tmp_path / "log"), random_state=0).fit(X)
    student = Distiller(FrozenEstimator(teacher), hidden_layer_sizes=(8,), max_iter=2, random_state=0)
    GridSearchCV(student, {"alpha": [1e-4, 1e-2]}, scoring=fidelity_scorer, cv=3).fit(X)
    assert counts(tmp_path, "")[0] == 0


def test_what_comes_from_the_cache_is_the_same(tmp_path):
    estimator = pipeline_with(tmp_path)
    first, second = clone(estimator).fit(X), clone(estimator).fit(X)
    plain = pipeline_with(tmp_path, False, False).fit(X)
    assert first[-1].to_bytes() == second[-1].to_bytes() == plain[-1].to_bytes()
    assert first.score(X) == second.score(X) == plain.score(X)
    assert_array_equal(first.predict(X), plain.predict(X))


def test_a_refit_with_other_rows_forgets_what_the_old_teacher_said(tmp_path):
    estimator = pipeline_with(tmp_path)["compress"].fit(X)
    assert estimator.score(X) == pytest.approx(
        np.mean(estimator.predict(X) == estimator.estimator_.teacher_.predict(X))
    )
    other = estimator.fit(X[::-1] * 2)
    assert other.score(X) == pytest.approx(np.mean(other.predict(X) == other.estimator_.teacher_.predict(X)))


def test_threads_that_come_together_compute_once(tmp_path):
    barrier, results = threading.Barrier(8), []

    def ask():
        barrier.wait()
        results.append(cached_call(str(tmp_path / "cache"), noted_square, 3, log=tmp_path / "log"))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [9] * 8
    assert (tmp_path / "log").read_text() == "square\n"


def test_what_is_passed_by_name_is_not_looked_up(tmp_path):
    for log in ("first", "second"):
        assert cached_call(str(tmp_path / "cache"), noted_square, 4, log=tmp_path / log) == 16
    assert (tmp_path / "first").exists() and not (tmp_path / "second").exists()
    assert cached_call(None, noted_square, 4, log=tmp_path / "second") == 16
    assert (tmp_path / "second").exists()


def noted_square(number, log):
    note(log, "square")
    return number**2


def test_keys_know_values_not_objects():
    estimator = Distiller(CountingKMeans(), random_state=0)
    key = call_key(noted_square, estimator, X)
    assert call_key(noted_square, *pickle.loads(pickle.dumps((estimator, X)))) == key
    assert call_key(noted_square, clone(estimator), np.asfortranarray(X)) == key
    assert call_key(noted_square, estimator, X[1:]) != key
    assert call_key(noted_square, clone(estimator).set_params(alpha=1.0), X) != key


INTERRUPTED = """
import os, signal, sys
from pathlib import Path
from joblib import _store_backends, numpy_pickle
sys.path[:0] = sys.argv[1].split(os.pathsep)
import test_caching
from distill.training import student
moment, count, calls = sys.argv[3], int(sys.argv[4]), []
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its jobs in the background ignore it
def reached(when):
    calls.append(when)
    if when == moment and len(calls) == count:
        print("reached", flush=True)
        signal.pause()
def train(*args, function=student.train, **options):
    if moment == "training":
        reached("training")
    return function(*args, **options)
def dump(item, file, *args, function=numpy_pickle.dump, **options):
    if moment == "writing":
        file.write(b"half of it")
        file.flush()
        reached("writing")
        file.seek(0)
    return function(item, file, *args, **options)
student.train, numpy_pickle.dump = train, dump
try:
    test_caching.small_search(test_caching.pipeline_with(Path(sys.argv[2])))
except KeyboardInterrupt:
    sys.exit(3)
"""


def small_search(pipeline):
    return GridSearchCV(pipeline, {"compress__bits": [1, 2]}, scoring=fidelity_scorer, cv=2, error_score="raise").fit(X)


@pytest.mark.parametrize("moment, count", [("training", 2), ("writing", 3)])
def test_an_interrupted_search_leaves_nothing_half_written_and_ends_alike(moment, count, tmp_path):
    path = os.pathsep.join([str(Path(__file__).parent), str(Path(counting_teacher.__file__).parent)])
    command = [sys.executable, "-c", INTERRUPTED, path, tmp_path, moment, str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert "reached" in (line.strip() for line in child.stdout)  # up to the first
        child.send_signal(signal.SIGINT)
        child.stdout.read()
    assert child.returncode == 3
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert {path.name for path in kept} <= {"output.pkl", "metadata.json", "func_code.py", ".gitignore"}
    results = [joblib.load(path) for path in kept if path.suffix == ".pkl"]  # all of them are whole
    n_fits = counts(tmp_path, "")[0]
    found, expected = small_search(pipeline_with(tmp_path)), small_search(pipeline_with(tmp_path, False, False))
    assert len(results) > 0 and n_fits > 0
    assert_array_equal(found.cv_results_["mean_test_score"], expected.cv_results_["mean_test_score"])
    assert found.best_estimator_[-1].to_bytes() == expected.best_estimator_[-1].to_bytes()


def test_cache_of_an_earlier_version_is_recomputed_with_a_warning(tmp_path):
    locks = tmp_path / "distill-locks"
    locks.mkdir()
    (locks / "0123.lock").touch()
    with pytest.warns(UserWarning, match="written by an earlier version of distill"):
        assert cached_call(str(tmp_path), divmod_of, 7, 2) == (3, 1)
    assert cached_call(str(tmp_path), divmod_of, 7, 2) == (3, 1)  # the warning comes once


def divmod_of(first, second):
    return divmod(first, second)
