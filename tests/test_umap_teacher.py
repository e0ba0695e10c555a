"""A third-party teacher with custom pickling: umap-learn's UMAP."""

import warnings

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.datasets import load_digits

from distill import Distiller, load

pytestmark = pytest.mark.slow  # umap-learn compiles its kernels, about 13 s


@pytest.mark.filterwarnings("ignore")
def test_student_of_umap_embeds_new_rows():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        umap = pytest.importorskip("umap")
    X = load_digits().data
    student = Distiller(
        umap.UMAP(random_state=0, n_epochs=100), hidden_layer_sizes=(128, 64), max_iter=100, random_state=0
    ).fit(X[:1000])
    Z = student.transform(X[1000:1300])
    assert Z.shape == (300, 2)
    assert student.score(X[1000:1300]) > 0.9  # R^2 against umap's own transform; 0.96 when written
    assert_array_equal(load(student.to_bytes()).transform(X[1000:1300]), Z)
    assert student.nbytes_ < 200_000 and np.isfinite(Z).all()
