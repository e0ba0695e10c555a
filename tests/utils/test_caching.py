"""`memory=`: nothing is computed twice, with any number of workers."""

import pickle
import signal
import threading
from collections import Counter
from pathlib import Path

import joblib
import numpy as np
import pytest
from counting_teacher import CountingKMeans, X, note, pipeline_with, small_search
from joblib import numpy_pickle, parallel_config
from joblib.externals.loky import get_reusable_executor
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import GridSearchCV

from distill import Distiller
from distill.model_selection import fidelity_scorer
from distill.training import student
from distill.utils.caching import cached_call, call_key

pytestmark = [
    # Networks are trained too short on purpose, and say so
    pytest.mark.filterwarnings("ignore::distill.exceptions.FidelityWarning"),
    # joblib measures wall time, which on a machine in use is long whatever is written
    pytest.mark.filterwarnings("ignore:Persisting input arguments took"),
]

GRID = {"compress__bits": [1, 2, 3], "compress__n_groups": [1, 2], "compress__max_iter": [0, 1]}


def search(pipeline, grid=GRID, **options):
    found = GridSearchCV(pipeline, grid, scoring=fidelity_scorer, cv=3, error_score="raise", **options).fit(X)
    assert len(found.cv_results_["params"]) == np.prod([len(values) for values in grid.values()])
    return found


def counts(tmp_path, output):
    """Return the numbers of fits of the teacher, trainings of the student and predictions of the teacher."""
    words = Counter((tmp_path / "log").read_text().split())
    return words["fit"], output.count("Calling distill.training.student.fit_student"), words["predict"]


@pytest.fixture
def two_workers(request, capfd):  # capfd first: workers inherit the standard output
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


@pytest.mark.slow
@pytest.mark.parametrize("two_workers", ["loky", "threading", "dask"], indirect=True)
def test_grid_search_fits_teacher_and_student_once_per_fold(two_workers, tmp_path, capfd):
    found = search(pipeline_with(tmp_path), n_jobs=2)
    assert len(found.cv_results_["params"]) * 3 + 1 == 37
    n_teachers, n_students, n_predictions = counts(tmp_path, capfd.readouterr().out)
    assert (n_teachers, n_students) == (4, 4)
    assert n_predictions == 3


@pytest.mark.parametrize("memories", [(True, False), (False, True)], ids=["distiller", "compressor"])
def test_one_memory_suffices_if_only_outer_parameters_vary(memories, tmp_path, capfd):
    search(pipeline_with(tmp_path, *memories), {"compress__bits": [1, 2]})
    n_teachers, n_students, n_predictions = counts(tmp_path, capfd.readouterr().out)
    assert n_teachers == 4 and n_predictions == 3
    assert n_students == (4 if memories[0] else 0)  # else they are part of the cached fit of the compressor


@pytest.mark.slow
def test_each_student_is_trained_once_per_fold(tmp_path, capfd):
    search(pipeline_with(tmp_path), {"compress__bits": [1, 2], "compress__estimator__alpha": [1e-4, 1e-2]})
    assert counts(tmp_path, capfd.readouterr().out)[:2] == (4, 2 * 3 + 1)


def test_without_memory_every_fit_is_computed(tmp_path):
    search(pipeline_with(tmp_path, False, False), {"compress__bits": [1, 2]})
    assert counts(tmp_path, "")[0] == 2 * 3 + 1


def test_frozen_teacher_is_not_fitted(tmp_path):
    teacher = CountingKMeans(log=str(tmp_path / "log"), random_state=0).fit(X)
    student = Distiller(FrozenEstimator(teacher), hidden_layer_sizes=(8,), max_iter=2, random_state=0)
    GridSearchCV(student, {"alpha": [1e-4, 1e-2]}, scoring=fidelity_scorer, cv=3).fit(X)
    assert counts(tmp_path, "")[0] == 0


def test_cached_results_are_identical(tmp_path):
    estimator = pipeline_with(tmp_path)
    first, second = clone(estimator).fit(X), clone(estimator).fit(X)
    plain = pipeline_with(tmp_path, False, False).fit(X)
    assert first[-1].to_bytes() == second[-1].to_bytes() == plain[-1].to_bytes()
    assert first.score(X) == second.score(X) == plain.score(X)
    assert_array_equal(first.predict(X), plain.predict(X))


def test_refit_with_other_rows_scores_against_the_new_teacher(tmp_path):
    estimator = pipeline_with(tmp_path)["compress"].fit(X)
    assert estimator.score(X) == pytest.approx(
        np.mean(estimator.predict(X) == estimator.estimator_.teacher_.predict(X))
    )
    other = estimator.fit(X[::-1] * 2)
    assert other.score(X) == pytest.approx(np.mean(other.predict(X) == other.estimator_.teacher_.predict(X)))


def test_concurrent_threads_compute_once(tmp_path):
    barrier, results = threading.Barrier(8), []

    def call():
        barrier.wait()
        results.append(cached_call(str(tmp_path / "cache"), noted_square, 3, log=tmp_path / "log"))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [9] * 8
    assert (tmp_path / "log").read_text() == "square\n"


def test_keyword_arguments_are_not_part_of_the_key(tmp_path):
    for log in ("first", "second"):
        assert cached_call(str(tmp_path / "cache"), noted_square, 4, log=tmp_path / log) == 16
    assert (tmp_path / "first").exists() and not (tmp_path / "second").exists()
    assert cached_call(None, noted_square, 4, log=tmp_path / "second") == 16
    assert (tmp_path / "second").exists()


def noted_square(number, log):
    note(log, "square")
    return number**2


def test_keys_depend_on_values():
    estimator = Distiller(CountingKMeans(), random_state=0)
    key = call_key(noted_square, estimator, X)
    assert call_key(noted_square, *pickle.loads(pickle.dumps((estimator, X)))) == key
    assert call_key(noted_square, clone(estimator), np.asfortranarray(X)) == key
    assert call_key(noted_square, estimator, X[1:]) != key
    assert call_key(noted_square, clone(estimator).set_params(alpha=1.0), X) != key


@pytest.fixture
def interrupts():
    """Ctrl-C raises KeyboardInterrupt, also where a shell has started the tests in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupts")
@pytest.mark.parametrize("moment, count", [("training", 2), ("writing", 3)])
def test_interrupted_search_leaves_a_valid_cache(moment, count, tmp_path, monkeypatch):
    calls = []

    def reached(when):
        calls.append(when)
        if when == moment and len(calls) == count:
            signal.raise_signal(signal.SIGINT)

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

    with monkeypatch.context() as patched:
        patched.setattr(student, "train", train)
        patched.setattr(numpy_pickle, "dump", dump)
        with pytest.raises(KeyboardInterrupt):
            small_search(pipeline_with(tmp_path))
    assert len(calls) == count
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert {path.name for path in kept} <= {"output.pkl", "metadata.json", "func_code.py", ".gitignore"}
    results = [joblib.load(path) for path in kept if path.suffix == ".pkl"]  # none of them is truncated
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


def test_concurrent_first_calls_of_an_empty_cache_do_not_warn(tmp_path, monkeypatch):
    glob, calls = Path.glob, []

    def glob_after_another_call(folder, pattern):
        calls.append(folder)
        if len(calls) == 1:
            cached_call(str(tmp_path), divmod_of, 9, 2)
        return glob(folder, pattern)

    monkeypatch.setattr(Path, "glob", glob_after_another_call)
    assert cached_call(str(tmp_path), divmod_of, 7, 2) == (3, 1)  # warnings are errors
    assert calls[0] == tmp_path / "distill-locks"


def divmod_of(first, second):
    return divmod(first, second)
