"""The steps before a network, run in NumPy: a row's result is the same bit for bit whatever the rows beside it."""

from collections.abc import Sequence

import numpy as np

from distill.codecs.preprocessing import Step
from distill.network import Network
from distill.runtime.forward import Forward

_IN_PLACE = {"subtract": np.subtract, "divide": np.divide, "multiply": np.multiply, "add": np.add}


class Preprocessing:
    """Steps that rows go through before they enter the network.

    Elementwise steps are computed in float64, one after the other, as scikit-learn's scalers do for rows of float64. A
    product takes rows rounded to float32 and adds in float32, like a layer of the network.

    Parameters
    ----------
    n_features_in : int
        Features of the rows that come in.
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
        """Return rows as they enter the network.

        Parameters
        ----------
        rows : ndarray of shape (n_samples, n_features_in), float64
            Overwritten.

        Returns
        -------
        ndarray of shape (n_samples, n_inputs), float64
            Infinite or NaN where numbers have become too large.
        """
        with np.errstate(all="ignore"):
            for step, product in zip(self.steps, self._products):
                if product is not None:
                    rows = product(rows.astype(np.float32)).astype(np.float64)
                elif step.operation == "clip":
                    np.clip(rows, *step.values, out=rows)
                else:
                    _IN_PLACE[step.operation](rows, step.values, out=rows)
        return rows
