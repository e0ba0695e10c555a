"""From the top layer's codes to numbers: the one-hot matrix and its principal components."""

import numpy as np
from numba import njit
from scipy import sparse
from sklearn.decomposition import PCA

_SMALL = 500


def one_hot(codes, k):
    """The codes as a sparse matrix of zeros and ones.

    Parameters
    ----------
    codes : ndarray of shape (n_samples, n_estimators)
        Values 0 .. k - 1.
    k : int

    Returns
    -------
    CSR array of shape (n_samples, n_estimators * k), float32
        One one per row and clustering.
    """
    n_samples, n_estimators = codes.shape
    columns = np.arange(n_estimators, dtype=np.int32) * k + codes.astype(np.int32)
    starts = np.arange(n_samples + 1, dtype=np.int64) * n_estimators
    data = np.ones(columns.size, np.float32)
    return sparse.csr_array((data, columns.reshape(-1), starts), shape=(n_samples, n_estimators * k))


def principal_components(codes, k, n_components, random_state):
    """Principal components of the one-hot codes, which are centred implicitly and never densified.

    Returns
    -------
    components : ndarray of shape (n_components, n_estimators * k), float32
        The largest entry of each is positive.
    mean : ndarray of shape (n_estimators * k,), float32
    ratio : ndarray of shape (n_components,)
        Share of the variance explained.
    """
    X = one_hot(codes, k)
    if (codes == codes[0]).all():
        components = np.zeros((n_components, X.shape[1]), np.float32)
        return components, X[:1].toarray().reshape(-1), np.zeros(n_components)
    if min(X.shape) <= max(_SMALL, 2 * n_components):
        pca = PCA(n_components, svd_solver="full").fit(X.toarray())
    else:
        pca = PCA(n_components, svd_solver="arpack", random_state=random_state).fit(X)
    mean = np.asarray(X.mean(axis=0), np.float32).reshape(-1)
    largest = np.argmax(np.abs(pca.components_).round(6), axis=1)
    signs = np.sign(pca.components_[np.arange(n_components), largest])
    signs[signs == 0] = 1
    return (pca.components_ * signs[:, None]).astype(np.float32), mean, pca.explained_variance_ratio_


def project(codes, k, components, mean):
    """Coordinates of rows, given by their codes, on the principal components.

    The sum runs over the clusterings in their order, whatever the number of rows.
    """
    out = np.empty((len(codes), len(components)), np.float32)
    _project(codes, k, np.ascontiguousarray(components.T), components @ mean, out)
    return out


@njit(cache=True, nogil=True, boundscheck=False)
def _project(codes, k, table, shift, out):
    n_samples, n_estimators = codes.shape
    for i in range(n_samples):
        out[i] = -shift
        for v in range(n_estimators):
            line = table[v * k + codes[i, v]]
            for d in range(out.shape[1]):
                out[i, d] += line[d]
