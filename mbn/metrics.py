"""Metrics of the bottom layer: their integers in compiled kernels, and the error of their sums in float32.

The cost of a centroid y for a row x, over the features that a clustering uses:

=========== ==================================
"euclidean" ``sum((x - y) ** 2)``
"linear"    ``-sum(x * y)``
"cosine"    ``-sum(x * y) / sqrt(sum(y ** 2))``
=========== ==================================
"""

from typing import Any

import numpy as np

# Rows: an ndarray, or a CSR array or matrix
Matrix = Any
EUCLIDEAN, LINEAR, COSINE = 0, 1, 2
METRIC_NUMBERS = {"euclidean": EUCLIDEAN, "linear": LINEAR, "cosine": COSINE}
# Spacing of float32 numbers at 1, twice the largest relative error of a rounding
EPSILON = np.float32(2.0**-23)


def relative_error(n_features: int) -> np.float32:
    """Bound of the relative error of a sum of `n_features` terms in float32, for any order of the additions.

    Relative to the sum of the absolute terms. A sum of n rounded terms is off by less than about ``n * EPSILON / 2``;
    the bound is four times as large, for differences, squares and comparisons of two such sums.
    """
    return np.float32(2 * (n_features + 4)) * EPSILON
