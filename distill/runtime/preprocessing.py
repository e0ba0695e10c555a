"""Preprocessing before a network in NumPy, bit-identical for a row in any batch."""

import math
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from distill.codecs.preprocessing import AnyStep, MomentsStep
from distill.network import Network
from distill.runtime.forward import Forward
from distill.runtime.moving import block_size, blur_weights, move_images

if TYPE_CHECKING:
    from distill.codecs.table import TableStep

_IN_PLACE = {"subtract": np.subtract, "divide": np.divide, "multiply": np.multiply, "add": np.add}


class Preprocessing:
    """Steps of preprocessing before a network.

    Elementwise steps are computed in float64, one after the other, as in scikit-learn's scalers for float64. The inputs
    of a product are rounded to float32, and it is computed in float32, like a layer of the network. Images are moved by
    their moments in float64, one by one. A table, which can be the first step, makes numbers of values of any type.

    Parameters
    ----------
    n_features_in : int
        Number of features before the first step.
    steps : sequence of TableStep, Step or MomentsStep

    Examples
    --------
    >>> from distill.codecs.preprocessing import Step
    >>> halve = Preprocessing(2, [Step("subtract", np.array([1.0, 2.0])), Step("divide", np.array(2.0))])
    >>> halve(np.array([[3.0, 3.0]]))
    array([[1. , 0.5]])
    """

    def __init__(self, n_features_in: int, steps: "Sequence[AnyStep | TableStep]"):
        self.n_features_in = n_features_in
        self.steps: tuple[Any, ...] = tuple(steps)
        self._calls = [_call_of(step) for step in self.steps]

    @property
    def table(self) -> "TableStep | None":
        """The table at the beginning, if there is one."""
        return self.steps[0] if self.steps and self.steps[0].operation == "table" else None

    @property
    def is_elementwise(self) -> bool:
        """Whether every step but a table is for each feature alone, so that a missing value stays one missing value."""
        return all(step.operation not in ("moments", "product") for step in self.steps)

    def __call__(self, rows: Any) -> np.ndarray:
        """Return the inputs of the network.

        Parameters
        ----------
        rows : ndarray of shape (n_samples, n_features_in), float64
            Overwritten. Of a table: `distill.runtime.table.Cells`.

        Returns
        -------
        ndarray of shape (n_samples, n_inputs), float64
            Infinite or NaN where a step has overflowed.
        """
        # Overflow is reported by the caller, as a value that is not finite
        with np.errstate(all="ignore"):
            for call in self._calls:
                rows = call(rows)
        return rows


def _call_of(step: Any) -> Any:
    """Return the function of a step, which may overwrite its rows; it can be pickled."""
    if step.operation == "table":
        # Imported when first needed: most files have none
        return import_module("distill.runtime.table").Table(step)
    if isinstance(step, MomentsStep):
        return partial(_move, step, blur_weights(step.blur))
    if step.operation == "product":
        return partial(_multiply, Forward(Network((step.values,), (np.zeros(step.values.shape[1], np.float32),))))
    return partial(_clip if step.operation == "clip" else partial(_calculate, step.operation), step.values)


def _move(step: MomentsStep, weights: list[float], rows: np.ndarray) -> np.ndarray:
    size = block_size(math.prod(step.shape))
    for start in range(0, len(rows), size):
        block = slice(start, start + size)
        rows[block] = move_images(rows[block], step.shape, step.centre, step.deskew, step.scale, weights)
    return rows


def _multiply(product: Forward, rows: np.ndarray) -> np.ndarray:
    return product(rows.astype(np.float32)).astype(np.float64)


def _clip(limits: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return np.clip(rows, *limits, out=rows)


def _calculate(operation: str, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    return _IN_PLACE[operation](rows, values, out=rows)
