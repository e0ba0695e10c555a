"""Numbers far from zero, very large or very small: float64 keeps what float32 would round (scikit-learn #9354)."""

import warnings

import numpy as np
import pytest
from numpy.lib.format import open_memmap
from numpy.testing import assert_array_equal
from scipy import sparse
from sklearn.datasets import load_digits, make_blobs

from mbn import MultilayerBootstrapNetwork, rows
from mbn.rows import Rows, fit_preparation

BLOBS, _ = make_blobs(160, centers=4, n_features=5, random_state=0)
BLOBS = np.round(BLOBS * 64) / 64  # sums with whole numbers are exact


def a_network(**settings):
    return MultilayerBootstrapNetwork(n_clusters=4, n_estimators=12, **{"random_state": 0, **settings})


def codes(X, **settings):
    return a_network(**settings).fit(X).encode(X, one_hot=False)


@pytest.fixture(scope="module")
def expected():
    return codes(BLOBS)


@pytest.mark.parametrize("offset", [1e4, 1e8, 1e9, -1e11, 2.0**42, np.array([0, 1.7e9, 0, -3e5, 0])])
def test_codes_do_not_depend_on_offset(expected, offset):
    X = BLOBS + offset
    model = a_network().fit(X)
    for again in (X, sparse.csr_array(X), np.asfortranarray(X)):
        assert_array_equal(model.encode(again, one_hot=False), expected)
    assert_array_equal(model.encode(X[40:41], one_hot=False), expected[40:41])


@pytest.mark.parametrize("settings", [{"assignment": "direct"}, {"assignment": "neighbors"}, {"max_samples": 100}])
def test_offset_in_every_assignment(settings):
    wide = np.c_[BLOBS, BLOBS[::-1]]  # more than few features
    expected = codes(wide, **settings)
    assert_array_equal(codes(wide + 1e9, **settings), expected)
    assert_array_equal(codes(sparse.csr_matrix(wide + 1e9), **settings), expected)


def test_offset_in_blocks_memory_maps_and_cache(tmp_path, monkeypatch, expected):
    stored = open_memmap(tmp_path / "X.npy", "w+", np.float64, BLOBS.shape)
    stored[:] = BLOBS + 1e10
    monkeypatch.setattr(rows, "READ_VALUES", 100)
    memory = tmp_path / "layers"
    assert_array_equal(codes(stored, memory=memory), expected)
    assert_array_equal(codes(stored, memory=memory), expected)
    other = BLOBS[::-1] + 1e10  # the same numbers in float32
    with warnings.catch_warnings(action="ignore", category=UserWarning):  # layers are kept for other rows only
        assert_array_equal(codes(other, memory=memory), codes(BLOBS[::-1]))


@pytest.mark.parametrize("dtype", [np.int64, np.uint64, np.int32])
def test_offset_of_integers(dtype):
    whole = (BLOBS * 64).astype(np.int64)
    offset = 2 * 10**9 if dtype == np.int32 else 10**14
    X = (whole + offset).astype(dtype)
    assert_array_equal(codes(X), codes(whole))
    with pytest.warns(UserWarning, match=r"column 0 and 4 more of X holds integers past 2\*\*53"):
        a_network().fit(whole + 2**60)


@pytest.mark.parametrize("exponent", [1000, 200, -200, -1000, -1060])
def test_codes_do_not_depend_on_scale(expected, exponent):
    assert_array_equal(codes(np.ldexp(BLOBS, exponent)), expected)


def test_offset_and_scale_together(expected):
    assert_array_equal(codes(np.ldexp(BLOBS + 2.0**30, -900)), expected)


@pytest.mark.parametrize("n_zeros", [2, 60])
def test_missing_values_as_zeros_do_not_hide_the_offset(n_zeros):
    zeros = np.zeros((n_zeros, 5))
    near = np.r_[BLOBS, zeros - 2.0**30]
    assert_array_equal(codes(np.r_[BLOBS + 2.0**30, zeros]), codes(near))


def test_one_row_differs():
    X = np.full((60, 3), 1e9)
    X[17, 1] += 1e-3
    found = codes(X, k=[30, 6])
    assert (np.delete(found, 17, axis=0) == found[0]).all()
    assert (found[17] != found[0]).any()


def test_features_that_vary_by_rounding_are_constant():
    noise = 0.3 + np.random.default_rng(0).choice([0, 2.0**-54], len(BLOBS))
    assert_array_equal(codes(np.c_[BLOBS, noise]), codes(np.c_[BLOBS, np.full(len(BLOBS), 0.3)]))


@pytest.mark.parametrize("metric", ["cosine", "linear"])
def test_offset_with_a_meaning_is_kept_and_said(metric):
    with pytest.warns(UserWarning, match="column 0 and 4 more of X is too coarse in float32.*center the features"):
        model = a_network(metric=metric).fit(BLOBS + 1e9)
    assert model.preparation_.mean is None
    with warnings.catch_warnings(action="error"):
        a_network(metric=metric).fit(BLOBS + 10)


def test_what_float32_cannot_hold_is_said():
    pd = pytest.importorskip("pandas")
    two_places = pd.DataFrame(np.r_[BLOBS, BLOBS + [1e9, 0, 0, 0, 0]], columns=list("abcde"))
    with pytest.warns(UserWarning, match="column 'a' of X is too coarse"):
        a_network().fit(two_places)
    with pytest.warns(UserWarning, match="column 1 of X is left out: its values are so small"):
        model = a_network().fit(BLOBS * [1, 1e-60, 1, 1, 1])
    assert_array_equal(model.preparation_.keep, [0, 2, 3, 4])
    wild = BLOBS.copy()
    wild[3, 2] = 1e300
    with pytest.raises(ValueError, match=r"value too large for float32 beside the others: column 2 reaches"):
        a_network().fit(wild)


def test_ordinary_rows_are_rounded_as_before():
    digits = load_digits().data
    for X in (digits, digits / 16, digits.astype(np.float32) + 1000, digits + 1000):
        found = Rows(X, fit_preparation(X, "euclidean")).whole()
        kept = X.astype(np.float32)[:, digits.std(axis=0) > 0]
        middle = kept.min(axis=0) / 2 + kept.max(axis=0) / 2
        distant = np.abs(middle) > 8 * (kept.max(axis=0) / 2 - kept.min(axis=0) / 2)
        assert_array_equal(found, kept - np.where(distant, middle, np.float32(0)))
