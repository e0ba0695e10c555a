"""Preprocessing before a network in NumPy, bit-identical for a row in any batch."""

from collections.abc import Sequence

import numpy as np

from distill.codecs.preprocessing import Step
from distill.network import Network
from distill.runtime.forward import Forward

_IN_PLACE = {"subtract": np.subtract, "divide": np.divide, "multiply": np.multiply, "add": np.add}


class Preprocessing:
    """Steps of preprocessing before a network.

    Elementwise steps are computed in float64, one after the other, as in scikit-learn's scalers for float64. The inputs
    of a product are rounded to float32, and it is computed in float32, like a layer of the network.

    Parameters
    ----------
    n_features_in : int
        Number of features before the first step.
    steps : sequence of Step

    Examples
    --------
    >>> halve = Preprocessing(2, [Step("subtract", np.array([1.0, 2.0])), Step("divide", np.array(2.0))])
    >>> halve(np.array([[3.0, 3.0]]))
    array([[1. , 0.5]])
    """

    def __init__(self, n_features_in: int, steps: Sequence[Step]):
        self.n_features_in = n_features_in
        self.steps = tuple(steps)
        self._products = [
            Forward(Network((step.values,), (np.zeros(step.values.shape[1], np.float32),)))
            if step.operation == "product"
            else None
            for step in self.steps
        ]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the inputs of the network.

        Parameters
        ----------
        rows : ndarray of shape (n_samples, n_features_in), float64
            Overwritten.

        Returns
        -------
        ndarray of shape (n_samples, n_inputs), float64
            Infinite or NaN where a step has overflowed.
        """
        # Overflow is reported by the caller, as a value that is not finite
        with np.errstate(all="ignore"):
            for step, product in zip(self.steps, self._products):
                if product is not None:
                    rows = product(rows.astype(np.float32)).astype(np.float64)
                elif step.operation == "clip":
                    np.clip(rows, *step.values, out=rows)
                else:
                    _IN_PLACE[step.operation](rows, step.values, out=rows)
        return rows
