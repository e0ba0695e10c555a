"""Images centred and deskewed by their own moments, as a scikit-learn transformer."""

from collections.abc import Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils._param_validation import Interval
from sklearn.utils.validation import check_is_fitted

from mbn.columns import validate_rows
from mbn.preprocessing.moving import block_size, blur_weights, move_images

# The widest blur in pixels: 513 weights
_MAX_BLUR = 64


class ImageMoments(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    r"""Centre and deskew images by their own moments.

    Written digits and letters differ by where they stand and how they slant, and distances between pixels differ most
    by that. Each image is moved so that its mean is in the middle and its rows do not drift to a side. Nothing is
    learned and no label is used. It is knowledge about images all the same: the features must be pixels on a grid, of
    objects on an even, darker background, for which position and slant have no meaning.

    Parameters
    ----------
    shape : tuple of int
        Height and width of the images in pixels, or height, width and number of channels; the features are the pixels
        row by row, as ``images.reshape(n_images, -1)`` makes them. One of the numbers may be -1, and follows from the
        number of features.
    centre : bool, default=True
        Whether to move the mean of the pixels to the middle of the image.
    deskew : bool, default=True
        Whether to shift each row of pixels so that columns do not change with rows on average: the shift is the slope
        of the regression of the column on the row.
    scale : bool, default=False
        Whether to make all objects equally large: the mean of the variances of rows and columns, in units of height
        and width, becomes that of a filled square of three quarters of the side, 3/64. Small objects are enlarged by
        interpolation.
    blur : float, default=0
        Standard deviation in pixels of a Gaussian with which moved images are smoothed, from 0 to 64; rounded to
        float32.

    Attributes
    ----------
    shape_ : tuple of int
        Height, width and number of channels.
    n_features_in_ : int
        Number of features seen during `fit`, the product of `shape_`.
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of features seen during `fit`. Only if all names are strings.

    See Also
    --------
    MultilayerBootstrapNetwork : Finds more in images that differ less by position and slant.
    distill.save : Writes a pipeline with this step as a student file; the step takes a few bytes.

    Notes
    -----
    With :math:`m` the sum of the pixels of an image, :math:`r` and :math:`c` the mean row and column, and :math:`a`
    the covariance of row and column over the variance of the row, pixel :math:`(i, j)` of an image of height :math:`h`
    and width :math:`w` becomes

    .. math:: x(r + i - (h - 1)/2,\ c + j - (w - 1)/2 + a (i - (h - 1)/2)),

    interpolated bilinearly. Moments are those of the sum over the channels, and all channels move alike.

    The values of each channel are taken relative to its least value in the image, which is also the value outside of
    the image. So moments have no negative weights, an image and the same image brighter or with more contrast move
    alike, and pixels may be negative, as after a scaling that all pixels share. Bright backgrounds must be inverted
    first, and a `StandardScaler`, which gives each pixel a background of its own, belongs after this step. Constant
    images are unchanged; images of one row of pixels have no slant.

    Images are computed in float64 one by one: the result for an image is bit-identical in any batch, and rounded at
    the end if X is float32. A student file computes the same bits.

    Examples
    --------
    >>> import numpy as np
    >>> from mbn.preprocessing import ImageMoments
    >>> slanted = [[0, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 1, 0, 0, 0]]
    >>> X = np.array([slanted], dtype=float).reshape(1, -1)
    >>> ImageMoments((4, 5), centre=False).fit_transform(X).reshape(4, 5)
    array([[0., 0., 0., 0., 0.],
           [0., 0., 1., 0., 0.],
           [0., 0., 1., 0., 0.],
           [0., 0., 1., 0., 0.]])
    """

    _parameter_constraints = {  # noqa: RUF012
        "shape": ["array-like"],
        "centre": ["boolean"],
        "deskew": ["boolean"],
        "scale": ["boolean"],
        "blur": [Interval(Real, 0, _MAX_BLUR, closed="both")],
    }

    def __init__(
        self,
        shape: Sequence[int],
        *,
        centre: bool = True,
        deskew: bool = True,
        scale: bool = False,
        blur: float = 0,
    ):
        self.shape = shape
        self.centre = centre
        self.deskew = deskew
        self.scale = scale
        self.blur = blur

    def fit(self, X: Any, y: Any = None) -> "ImageMoments":
        """Check that the features are the pixels of images of this shape.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Images, one in each row.
        y : Ignored
            Not used, present for API consistency by convention.

        Returns
        -------
        self : ImageMoments

        Raises
        ------
        ValueError
            If X is not finite, or has another number of features than an image of this shape has values.
        """
        self._validate_params()
        X = validate_rows(self, X, reset=True, dtype="numeric")
        self.shape_ = _full_shape(self.shape, X.shape[1])
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Move images by their own moments.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Images, one in each row.

        Returns
        -------
        ndarray of shape (n_samples, n_features)
            float32 if X is, else float64.

        Raises
        ------
        ValueError
            If X is not finite, has other features than in `fit`, or has values too large for their moments in float64.
        """
        check_is_fitted(self)
        X = validate_rows(self, X, reset=False, dtype="numeric")
        moved = np.empty(X.shape, X.dtype if X.dtype == np.float32 else np.float64)
        weights, size = blur_weights(float(np.float32(self.blur))), block_size(X.shape[1])
        for start in range(0, len(X), size):
            block = slice(start, start + size)
            rows = X[block].astype(np.float64)
            with np.errstate(all="ignore"):
                found = move_images(rows, self.shape_, self.centre, self.deskew, self.scale, weights)
            if not np.isfinite(found).all():
                row = start + int(np.argmin(np.isfinite(found).all(axis=1)))
                raise ValueError(
                    f"row {row} of X has values from {X[row].min():g} to {X[row].max():g}, too large for moments in "
                    "float64; divide X by a constant"
                )
            moved[block] = found
        return moved

    def __sklearn_tags__(self) -> Any:
        """Declare that float32 stays float32."""
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _full_shape(shape: Any, n_features: int) -> tuple[int, int, int]:
    """Return height, width and number of channels; ValueError if they are not those of `n_features` values."""
    numbers = list(shape)
    if (
        len(numbers) not in (2, 3)
        or not all(isinstance(number, Integral) and not isinstance(number, bool) for number in numbers)
        or not all(number > 0 or number == -1 for number in numbers)
        or numbers.count(-1) > 1
    ):
        raise ValueError(
            f"shape={shape!r} must be height and width of the images in pixels, or height, width and number of "
            "channels: whole numbers above 0, of which one may be -1"
        )
    known = int(np.prod([int(number) for number in numbers if number != -1], dtype=object))
    if n_features % known or (-1 not in numbers and known != n_features):
        raise ValueError(
            f"shape={shape!r} is that of images of {known}{' times any number of' if -1 in numbers else ''} values, "
            f"and X has {n_features} features: one row of X must be one image, with all its pixels and channels"
        )
    height, width, *channels = (n_features // known if number == -1 else int(number) for number in numbers)
    return height, width, channels[0] if channels else 1
