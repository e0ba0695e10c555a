"""A network whose weights have variances: how sure it is of every answer, and how precisely each weight is stored."""

from dataclasses import replace
from numbers import Integral, Real

import joblib
import numpy as np
from scipy import sparse, special, stats
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, check_scalar, validate_data

from distill.codecs import container
from distill.compressors.base import Compressed, Compressor, compression_targets, learns_from_y
from distill.compressors.matrix_gaussian import quantization as files
from distill.compressors.matrix_gaussian.training import (
    EXPECTATIONS,
    PRIORS,
    Posterior,
    Rows,
    VariationalSettings,
    fit_tails,
    initial_means,
    learn,
    make_posterior,
    settle_noise,
)
from distill.network import Network
from distill.runtime.moments import sample_outputs
from distill.training.targets import Calibration, Targets, encode_targets, probabilities, validation_fidelity
from distill.training.units import Task, make_task
from distill.utils.progress import Stage
from distill.utils.validation import LARGEST_SEED, check_choice

LEARN_FROM = ("auto", "outputs", "y")
_BOUNDS, _NOISES = ("valid", "paper"), ("normal", "t")
_TEMPERED = 0.1
_MOST_ROUNDING_ROWS = 6000


class MatrixGaussianCompressor(Compressor):
    """Learn how uncertain every weight is, store it as precisely as that, and answer with standard deviations.

    Every layer's weights get a matrix Gaussian posterior: a variance for each row (what leaves one input) and for each
    column (what enters one output), whose products are the variances of the weights. It is learned by variational
    inference from the outputs of the wrapped network or from y. Weights are stored on a grid whose step follows their
    deviation; rows and columns that say nothing are dropped. The variances are in the file as well, so that a loaded
    student tells how sure it is with NumPy alone.

    Parameters
    ----------
    estimator : Distiller, compressor, MLPClassifier, MLPRegressor, or a FrozenEstimator of one
        A clone is fitted; a `FrozenEstimator(fitted)` is not fitted again. Its network is where training starts.
    rate_weight : float, default=0.1
        What a nat of code is worth in nats of loss, positive: the step of the grid is ``sqrt(12 rate_weight)``
        deviations, and weights are rounded towards zero where that saves more than it costs. Not used with `max_bytes`.
    max_bytes : int or None, default=None
        The size that the file must not exceed; the smallest `rate_weight` is taken that fits.
    min_signal : float, default=0.05
        Rows and columns of weights, hidden units among them, are dropped where the mean of ``mean^2 / variance`` is
        below this. 0 keeps all of them.
    compensate : bool, default=True
        Whether the weights of a layer are rounded together, so that errors of correlated inputs cancel, and each layer
        makes good what those before it have changed; wide layers then have coarser steps where others make good for
        them. Otherwise every weight goes its own way.
    kl_weight : float or "auto", default="auto"
        What the divergence from the prior counts compared with the likelihood. 1 is the posterior proper; lower values
        say less of the prior and are surer, as if every row had been seen several times. "auto" is 1 for answers y,
        which are noisy, and 0.1 for the outputs of a network, which are not.
    prior : {"normal", "row", "layer"}, default="normal"
        N(0, 1) for every weight, in units in which a layer divides its inputs by the square root of their number; or
        normal with a precision that is not known, one for each row or one for each layer.
    n_pseudo : int, default=0
        Pairs of pseudo-inputs and pseudo-outputs of every layer, learned with the rest. They make the covariance of the
        rows more than a diagonal while it is learned; the file keeps its diagonal.
    n_factors : int, default=0
        Rank of what the covariance of the rows has beside its diagonal. The file keeps the diagonal.
    bound : {"valid", "paper"}, default="valid"
        Whether pseudo-outputs have a distribution, so that the loss is a bound on the targets, or are fixed numbers as
        in the authors' program.
    expectation : {"moments", "draws"}, default="moments"
        How the expected squared error of numbers is computed: in closed form, exactly for one hidden layer; or from one
        draw for every row. Labels always take draws.
    noise : {"normal", "t"}, default="normal"
        The noise of numbers: normal, or Student's t, whose heavy tails allow for rows far off. Its degrees of freedom
        are then chosen on held-out rows, and are in the file.
    learn_from : {"auto", "outputs", "y"}, default="auto"
        What the rows are said to answer: what the wrapped network does, or y. "auto" is "y" where y is given and an
        MLPClassifier or MLPRegressor is wrapped.
    max_iter : int, default=100
        Passes over the rows, 1 or more.
    warm_up : float in [0, 1], default=0.1
        Share of the passes during which the divergence comes to count.
    initial_deviation : float, default=0.05
        Standard deviation of the weights when training starts.
    batch_size : int, default=256
        Rows in a step.
    learning_rate_init : float, default=5e-3
        Adam's step size at the start.
    n_calibration : int or None, default=None
        How many rows are looked at when learning from outputs; None for all.
    validation_fraction : float, default=0.1
        Share of rows that is held out, between 0 and 1: for what is reported, and for the noise of numbers.
    memory : str, joblib.Memory or None, default=None
        Where the fitted wrapped estimator is kept, so that a grid over the parameters here fits it once.
    random_state : int, RandomState instance or None, default=None
        Of all draws, and of every `random_state` inside `estimator` that is None.
    verbose : int, default=0
        1 prints a line for every pass.

    Attributes
    ----------
    estimator_ : estimator
        The fitted wrapped estimator; it is not modified.
    network_ : Network
        Means of the weights as they are in the file.
    row_variances_ : list of ndarray of shape (n_inputs + 1,)
        For every layer of the network, as in the file; the biases' last, 0 for inputs that were dropped.
    column_variances_ : list of ndarray of shape (n_outputs,)
        A weight's variance is that of its row times that of its column.
    noise_ : ndarray of shape (n_outputs,) or None
        Deviation of the noise of numbers; None for labels.
    noise_degrees_ : ndarray of shape (n_outputs,) or None
        Degrees of freedom of the noise where it is Student's t, above 2.
    bound_ : float
        The targets lower bound in nats per row, with the divergence weighted; of the training rows.
    rate_weight_ : float
        That of the file.
    n_iter_ : int
        Passes over the rows.
    classes_ : ndarray of shape (n_classes,)
        The labels, where the answers are labels.
    labels_ : ndarray of shape (n_samples,)
        Labels of the rows of the fit; where a clusterer is imitated.
    nbytes_ : int
        Size of the student file.
    report_ : dict
        Where its bytes are; "n_weights" that are not zero, "n_features" used, "layer_sizes_before", "rate_weight", and
        "agreement" on held-out rows with what was learned: a share of equal labels or an explained variance.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n_features_in_,)
        Where X had names.

    See Also
    --------
    SpikeSlabCompressor : Which weights are needed at all.
    CodebookCompressor : A few bits for each weight, without variances.

    Notes
    -----
    Numbers are standardised while they are learned; what is answered is in their own units. Their noise is given the
    size of the errors on held-out rows where these are larger than those of the training rows.

    References
    ----------
    Louizos and Welling, "Structured and efficient variational deep learning with matrix Gaussian posteriors", ICML
    2016, arXiv 1603.04733. Moments in closed form: Wu et al., "Deterministic variational inference for robust Bayesian
    neural networks", ICLR 2019. Steps that follow the posterior are our own proposal; see docs/matrix_gaussian.md.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.neural_network import MLPRegressor
    >>> from sklearn.preprocessing import StandardScaler
    >>> from distill.compressors.matrix_gaussian.estimator import MatrixGaussianCompressor
    >>> X, y = load_diabetes(return_X_y=True, scaled=False)
    >>> X = StandardScaler().fit_transform(X)
    >>> network = MLPRegressor(hidden_layer_sizes=20, learning_rate_init=0.1, early_stopping=True)
    >>> uncertain = MatrixGaussianCompressor(network, max_iter=50, random_state=0).fit(X, y)
    >>> answers, deviations = uncertain.predict(X, return_std=True)
    >>> bool(abs(y - answers).mean() < 50) and uncertain.nbytes_ < 500
    True
    """

    def __init__(
        self,
        estimator: BaseEstimator,
        *,
        rate_weight: float = 0.1,
        max_bytes: int | None = None,
        min_signal: float = 0.05,
        compensate: bool = True,
        kl_weight: float | str = "auto",
        prior: str = "normal",
        n_pseudo: int = 0,
        n_factors: int = 0,
        bound: str = "valid",
        expectation: str = "moments",
        noise: str = "normal",
        learn_from: str = "auto",
        max_iter: int = 100,
        warm_up: float = 0.1,
        initial_deviation: float = 0.05,
        batch_size: int = 256,
        learning_rate_init: float = 5e-3,
        n_calibration: int | None = None,
        validation_fraction: float = 0.1,
        memory: str | joblib.Memory | None = None,
        random_state: int | np.random.RandomState | None = None,
        verbose: int = 0,
    ):
        self.estimator = estimator
        self.rate_weight = rate_weight
        self.max_bytes = max_bytes
        self.min_signal = min_signal
        self.compensate = compensate
        self.kl_weight = kl_weight
        self.prior = prior
        self.n_pseudo = n_pseudo
        self.n_factors = n_factors
        self.bound = bound
        self.expectation = expectation
        self.noise = noise
        self.learn_from = learn_from
        self.max_iter = max_iter
        self.warm_up = warm_up
        self.initial_deviation = initial_deviation
        self.batch_size = batch_size
        self.learning_rate_init = learning_rate_init
        self.n_calibration = n_calibration
        self.validation_fraction = validation_fraction
        self.memory = memory
        self.random_state = random_state
        self.verbose = verbose

    def predict(self, X, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Answer labels, or what a regressor answers.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        return_std : bool
            Whether to answer standard deviations as well, of numbers only: of the function and of the noise together.

        Returns
        -------
        answers : ndarray of shape (n_samples,) or (n_samples, n_outputs)
        deviations : ndarray of the same shape
            With `return_std` only.
        """
        answers = super().predict(X)
        return (answers, self._deviation("predict", X, answers)) if return_std else answers

    def predict_proba(self, X, averaged: bool = False) -> np.ndarray:
        """Answer the probability of every label.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        averaged : bool
            Whether probabilities are averaged over the weights that are possible, and not those of the mean weights:
            less sure far from what was learned.

        Returns
        -------
        ndarray of shape (n_samples, n_classes), float32
            Columns as in `classes_`; rows sum to one.
        """
        if not averaged:
            return super().predict_proba(X)
        return self._student.predict_proba(self._rows(X), averaged=True)

    def transform(self, X, return_std: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Answer the embedding.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        return_std : bool
            Whether to answer standard deviations as well.

        Returns
        -------
        embedding : ndarray of shape (n_samples, n_components), float32
            Or a data frame; see `set_output`.
        deviations : ndarray of shape (n_samples, n_components), float32
            With `return_std` only.
        """
        answers = self.student_output("transform", X)
        return (answers, self._deviation("transform", X, answers)) if return_std else answers

    def sample(self, X, n_draws: int = 100, random_state=0) -> np.ndarray:
        """Draw networks from the posterior, and let each answer all rows: functions.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        n_draws : int
            Number of networks, 1 or more.
        random_state : int, RandomState instance or None

        Returns
        -------
        ndarray of shape (n_draws, n_samples, n_outputs), float32
            Numbers without noise, or probabilities of the labels.
        """
        draws = self._draw(X, n_draws, random_state)
        return draws if self.network_.output == "identity" else probabilities(draws, self.network_.output)

    def log_likelihood(self, X, y, n_draws: int = 100, random_state=0) -> float:
        """Return how probable given answers are, on average.

        Parameters
        ----------
        X : {array-like, sparse matrix} of shape (n_samples, n_features)
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Labels or numbers.
        n_draws : int
            Probabilities, or densities of numbers with the noise, are averaged over so many draws of the weights.
        random_state : int, RandomState instance or None

        Returns
        -------
        float
            Mean logarithm of a row's probability, or of its density in the units of y, in nats.
        """
        draws = self._draw(X, n_draws, random_state).astype(np.float64)
        targets = encode_targets(y, self.network_)
        if len(targets) != draws.shape[1]:
            raise ValueError(f"X has {draws.shape[1]} rows and y has {len(targets)}; they must be as many")
        if self.network_.classes is not None:
            if self.network_.output == "identity":
                raise ValueError("decision values have no probabilities; imitate predict or predict_proba instead")
            averaged = probabilities(draws, self.network_.output).mean(axis=0)
            found = averaged[np.arange(len(targets)), targets]
            return float(np.log(np.maximum(found, np.finfo(np.float32).tiny)).mean())
        deviation = np.maximum(self.noise_.astype(np.float64), np.finfo(np.float32).tiny)
        if self.noise_degrees_ is None:
            densities = stats.norm.logpdf(targets, draws, deviation)
        else:
            degrees = self.noise_degrees_.astype(np.float64)
            densities = stats.t.logpdf(targets, degrees, draws, deviation * np.sqrt((degrees - 2) / degrees))
        return float((special.logsumexp(densities.sum(axis=2), axis=0) - np.log(n_draws)).mean())

    @property
    def row_variances_(self) -> list[np.ndarray]:
        """Variances of the rows of every layer."""
        return [extras["row_variance"] for extras in self._fitted_student("row_variances_").extras]

    @property
    def column_variances_(self) -> list[np.ndarray]:
        """Variances of the columns of every layer."""
        return [extras["column_variance"] for extras in self._fitted_student("column_variances_").extras]

    @property
    def noise_(self) -> np.ndarray | None:
        """Deviation of the noise of numbers."""
        variance = self._fitted_student("noise_").extras[-1].get("noise_variance")
        return None if variance is None else np.sqrt(variance)

    @property
    def noise_degrees_(self) -> np.ndarray | None:
        """Degrees of freedom of the noise."""
        return self._fitted_student("noise_degrees_").extras[-1].get("noise_degrees")

    def _check_parameters(self) -> None:
        for name, choices in (
            ("noise", _NOISES),
            ("prior", PRIORS),
            ("bound", _BOUNDS),
            ("expectation", EXPECTATIONS),
            ("learn_from", LEARN_FROM),
        ):
            check_choice(name, getattr(self, name), choices)
        positive = {"min_val": 0, "include_boundaries": "neither"}
        for name in ("rate_weight", "initial_deviation", "learning_rate_init"):
            check_scalar(getattr(self, name), name, Real, **positive)
        if self.kl_weight != "auto":
            check_scalar(self.kl_weight, "kl_weight", Real, **positive)
        check_scalar(self.min_signal, "min_signal", Real, min_val=0)
        check_scalar(self.warm_up, "warm_up", Real, min_val=0, max_val=1)
        for name, least in (("n_pseudo", 0), ("n_factors", 0), ("max_iter", 1), ("batch_size", 1)):
            check_scalar(getattr(self, name), name, Integral, min_val=least)
        for name, least in (("max_bytes", 1), ("n_calibration", 2)):
            if getattr(self, name) is not None:
                check_scalar(getattr(self, name), name, Integral, min_val=least)
        check_scalar(
            self.validation_fraction, "validation_fraction", Real, min_val=0, max_val=1, include_boundaries="neither"
        )

    def _n_steps(self) -> int:
        return int(self.max_iter)

    def _compress(self, network: Network, calibration: Calibration, stage: Stage) -> Compressed:
        targets = compression_targets(self, network, calibration)
        task = make_task(network, calibration.varies, targets)
        settings = self._settings(learns_from_y(self, calibration.y), calibration.seed)
        rows, held_out = (Rows(*part.tensors) for part in (task.train, task.validation))
        posterior = make_posterior(
            initial_means(task.network), network.activation, settings, len(rows), targets.kind == "regression"
        )

        def report(posterior: Posterior, message: str) -> bool:
            return stage.step(message, lambda: self._write(posterior, task, network, targets)[0])

        try:
            history = learn(posterior, rows, settings, report)
        except FloatingPointError as error:
            raise ValueError(f"the posterior has diverged: {error}") from error
        settle_noise(posterior, rows, held_out)
        if self.noise == "t" and posterior.noise is not None:
            fit_tails(posterior, held_out)
        data, rate_weight = self._write(posterior, task, network, targets)
        report = measure(container.decode(data).network, network, targets) | {"rate_weight": rate_weight}
        bound = -float(history.loss_curve[-1])
        return Compressed(data, report, {"n_iter_": history.n_iter, "bound_": bound, "rate_weight_": rate_weight})

    def _settings(self, from_y: bool, seed: int) -> VariationalSettings:
        return VariationalSettings(
            (1.0 if from_y else _TEMPERED) if self.kl_weight == "auto" else float(self.kl_weight),
            self.prior,
            float(self.initial_deviation),
            int(self.n_factors),
            int(self.n_pseudo),
            self.bound,
            self.expectation,
            int(self.max_iter),
            float(self.warm_up),
            int(self.batch_size),
            float(self.learning_rate_init),
            seed,
        )

    def _write(self, posterior: Posterior, task: Task, network: Network, targets: Targets) -> tuple[bytes, float]:
        belief = files.believe(posterior, task.standardization, network, self.noise == "t")
        if self.min_signal:
            belief = files.reduce(belief, files.signal_masks(belief, float(self.min_signal)))
        inputs = None
        if self.compensate:
            inputs = entering(targets.train[:_MOST_ROUNDING_ROWS], belief.network, network)
        if self.max_bytes is not None:
            return files.write_within(belief, int(self.max_bytes), inputs=inputs)
        return files.write(belief, float(self.rate_weight), inputs=inputs), float(self.rate_weight)

    def _rows(self, X):
        check_is_fitted(self)
        return validate_data(self, X, reset=False, accept_sparse="csr", dtype=np.float32)

    def _deviation(self, method: str, X, answers) -> np.ndarray:
        deviations = getattr(self._student, method)(self._rows(X), return_std=True)[1]
        return deviations.astype(np.float64) if method == "predict" else deviations

    def _draw(self, X, n_draws: int, random_state) -> np.ndarray:
        check_scalar(n_draws, "n_draws", Integral, min_val=1)
        rows = self._rows(X)
        rows = rows.toarray() if sparse.issparse(rows) else rows
        random = np.random.default_rng(check_random_state(random_state).randint(LARGEST_SEED))
        return sample_outputs(self.network_, self.row_variances_, self.column_variances_, rows, n_draws, random)


def entering(rows: np.ndarray, found: Network, network: Network) -> np.ndarray:
    """Return rows, which enter the first layer of `network`, as they enter that of `found`, float32."""
    if network.offset is None and network.scale is None:  # what the file has as an input section is not applied yet
        rows = rows if found.offset is None else rows - found.offset
        rows = rows if found.scale is None else rows * found.scale
    return rows.astype(np.float32)


def measure(found: Network, network: Network, targets: Targets) -> dict:
    """Say what is left of a network and how well it answers; see `MatrixGaussianCompressor.report_`."""
    targets = replace(targets, validation=entering(targets.validation, found, network))
    return {
        "n_weights": sum(int(np.count_nonzero(weight)) for weight in found.weights),
        "n_features": int(found.weights[0].any(axis=1).sum()),
        "layer_sizes_before": network.layer_sizes,
        "agreement": validation_fidelity(found, targets),
    }
