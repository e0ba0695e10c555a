"""Seven UCI regression sets in their 20 standard splits: error and log-likelihood of matrix Gaussian posteriors.

    python benchmarks/uci.py --data DIR --sets yacht,energy

A network with one hidden layer of 50 units is trained with a matrix Gaussian posterior, and with a factorized Gaussian
one. No choice depends on test samples. Activation and learning rate are chosen for each set, the same for both
posteriors, by the mean of their likelihoods on samples held out of the training samples of five splits; likewise
pseudo-data or a low-rank part in the covariance of the rows for the matrix Gaussian. The weight of the KL divergence
and the noise are chosen for each split, on samples held out of its training samples. All splits of a set are trained
side by side in one process. The tables also show ridge regression and published figures. Results are written after
every run; finished runs are skipped.
"""

import json
import math
from itertools import pairwise, product
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from common import parser, table, write_json
from scipy import stats
from sklearn.linear_model import LinearRegression, RidgeCV
from torch import Tensor, nn

from distill.compressors.matrix_gaussian.noise import GaussianNoise, predictive_log_density
from distill.compressors.matrix_gaussian.training import (
    Posterior,
    VariationalSettings,
    fit_noise,
    function_draws,
    learn,
    make_posterior,
)
from distill.training.perceptron import TORCH_ACTIVATIONS
from distill.training.samples import StackedRows

N_HIDDEN, N_SPLITS, N_DRAWS = 50, 20, 100
WEIGHTS = (1.0, 0.25, 0.06)
N_CHOOSING = 5
METHODS = ("matrix", "factorized")
DEGREES = (3.0, 5.0, 10.0, 30.0, math.inf)
SCALES = np.geomspace(0.4, 40, 28)


class Published(NamedTuple):
    """Published test log-likelihood and RMSE on the same splits."""

    likelihood: float
    error: float


class Recipe(NamedTuple):
    """Settings that are the same for all splits of a set."""

    activation: str = "tanh"
    learning_rate: float = 0.02
    n_pseudo: int = 0
    n_factors: int = 0


class DataSet(NamedTuple):
    """File, training and published figures of a set.

    Parameters
    ----------
    file : str
    n_epochs, batch_size : int
    n_inner : int
        Number of splits of the training samples for the choice of settings.
    variational : Published
        Matrix Gaussian posteriors, Louizos and Welling (2016); errors from memory.
    dropout : Published
        Fairly tuned Monte Carlo dropout.
    """

    file: str
    n_epochs: int
    batch_size: int
    n_inner: int
    variational: Published
    dropout: Published


SETS = {
    "yacht": DataSet("yacht", 100, 64, 2, Published(-1.30, 0.71), Published(-1.25, 0.67)),
    "boston": DataSet("bostonHousing", 100, 64, 1, Published(-2.46, 2.70), Published(-2.40, 2.90)),
    "energy": DataSet("energy", 120, 64, 1, Published(-1.06, 0.54), Published(-1.21, 0.54)),
    "concrete": DataSet("concrete", 200, 128, 1, Published(-3.01, 4.89), Published(-2.93, 4.82)),
    "wine": DataSet("wine-quality-red", 60, 128, 1, Published(-0.95, 0.63), Published(-0.93, 0.62)),
    "kin8nm": DataSet("kin8nm", 40, 256, 1, Published(1.10, 0.08), Published(1.14, 0.08)),
    "power": DataSet("power-plant", 70, 256, 1, Published(-2.82, 4.04), Published(-2.80, 4.01)),
}
# Published mean and standard error of the RMSE of least squares over the splits, which the loader must reproduce
LEAST_SQUARES = {"boston": (4.588, 0.210), "energy": (3.056, 0.054), "yacht": (8.970, 0.273)}


def main():
    line = parser(__doc__, "uci")
    line.add_argument("--sets", default=",".join(SETS), help="names of the sets")
    options = line.parse_args()
    torch.set_num_threads(1)
    results = json.loads(options.out.read_text()) if options.out.exists() else {}
    results.pop("machine", None)
    for name in options.sets.split(","):
        data, file = SETS[name], options.data / "uci" / f"{SETS[name].file}.npz"
        check_loader(name, file)
        found = results.setdefault(name, {})
        found.setdefault("ridge", ridge(file))
        held_out = found.setdefault("held-out", {})
        for method, recipe in choose_recipes(data, file, held_out).items():
            kinds = [f"{method}, {kind} noise" for kind in ("normal", "t")]
            if not all(kind in found and found[kind]["recipe"] == recipe._asdict() for kind in kinds):
                began = perf_counter()
                found |= evaluate(data, file, method, recipe)
                for kind in kinds:
                    print(f"{name} {kind}: {summary(found[kind])}, {perf_counter() - began:.0f} s", flush=True)
            write_json(options.out, results)
    report({name: found for name, found in results.items() if name in SETS})


# the splits


class Split(NamedTuple):
    """Standardized training and test samples of every split; leading axes are the splits."""

    X: Tensor
    y: Tensor
    X_test: Tensor
    y_test: Tensor
    mean: Tensor
    unit: Tensor


def arrays(file):
    """Return X, y and a mask of test samples for each split."""
    data = np.load(file)
    return data["X"], data["y"], data["test_mask"][:N_SPLITS]


def outer_splits(file):
    """Return the standard splits."""
    X, y, masks = arrays(file)
    return stacked([standardized(X, y, np.flatnonzero(~mask), np.flatnonzero(mask)) for mask in masks])


def inner_splits(file, n_inner, n_splits=N_SPLITS):
    """Return splits of the training samples, four fifths and one fifth; leading axes (n_inner, n_splits)."""
    X, y, masks = arrays(file)
    masks, parts = masks[:n_splits], []
    for seed in range(n_inner):
        for split, mask in enumerate(masks):
            rows = np.random.default_rng([seed, split]).permutation(np.flatnonzero(~mask))
            n_validation = len(rows) // 5
            parts.append(standardized(X, y, rows[n_validation:], rows[:n_validation]))
    return Split(*(part.unflatten(0, (n_inner, len(masks))) for part in stacked(parts)))


def standardized(X, y, train, test):
    """Return samples in units of the training samples."""
    mean, unit = X[train].mean(axis=0), X[train].std(axis=0)
    X = (X - mean) / np.where(unit > 0, unit, 1)
    mean, unit = y[train].mean(), y[train].std()
    y = (y - mean) / unit
    return X[train], y[train, None], X[test], y[test, None], mean, unit


def stacked(parts):
    return Split(*(torch.tensor(np.stack(part), dtype=torch.float32) for part in zip(*parts)))


def check_loader(name, file):
    """Raise ValueError if the errors of least squares differ from the published ones."""
    X, y, masks = arrays(file)
    errors = []
    for mask in masks:
        predictions = LinearRegression().fit(X[~mask], y[~mask]).predict(X[mask])
        errors.append(np.sqrt(np.mean(np.square(predictions - y[mask]))))
    mean, error = np.mean(errors), np.std(errors) / np.sqrt(len(errors))
    print(f"{name}: least squares, RMSE {mean:.3f} +- {error:.3f}, {len(X)} samples, {X.shape[1]} inputs")
    if name in LEAST_SQUARES and not np.allclose((mean, error), LEAST_SQUARES[name], atol=0.0055):
        raise ValueError(f"least squares should give {LEAST_SQUARES[name]}: these are other samples or other splits")


# Bayesian networks


def choose_recipes(data, file, finished):
    """Return the recipe of each method with the largest validation likelihood.

    Parameters
    ----------
    data : DataSet
    file : Path
    finished : dict
        Validation log-likelihoods by method and recipe; new ones are added.
    """
    inner = inner_splits(file, data.n_inner, N_CHOOSING)

    def likelihood(method, recipe):
        key = f"{method}, " + ", ".join(map(str, recipe))
        if key not in finished:
            likelihoods = [choose_noise(fit(data, inner, method, weight, recipe), inner)[0] for weight in WEIGHTS[1:]]
            finished[key] = float(torch.stack(likelihoods).amax(0).mean())
            print(f"  {key}: validation {finished[key]:.3f}", flush=True)
        return finished[key]

    nets = [Recipe(*choice) for choice in product(("tanh", "relu"), (0.02, 0.04))]
    net = max(nets, key=lambda recipe: sum(likelihood(method, recipe) for method in METHODS))
    matrices = [net, net._replace(n_pseudo=5), net._replace(n_factors=4)]
    return {"matrix": max(matrices, key=lambda recipe: likelihood("matrix", recipe)), "factorized": net}


def evaluate(data, file, method, recipe):
    """Choose the other settings inside the training samples of every split, train on all, and return test scores."""
    inner = inner_splits(file, data.n_inner)
    likelihoods, noises = [], []
    for weight in WEIGHTS:
        posterior = fit(data, inner, method, weight, recipe)
        likelihood, noise = choose_noise(posterior, inner)
        likelihoods.append(likelihood)
        noises.append(noise)
        print(f"  {method} {weight:g}: validation {float(likelihood.mean()):.3f}", flush=True)
    best = torch.stack(likelihoods).argmax(0)
    outer, chosen = outer_splits(file), torch.tensor(WEIGHTS)[best]
    posterior = fit(data, outer, method, chosen, recipe)
    scores = {}
    for kind in noises[0]:
        shapes, rates = (torch.stack([noise[kind][part] for noise in noises]) for part in (0, 1))
        posterior.noise.shape, posterior.noise.rate = (
            values.gather(0, best[None])[0][:, None] for values in (shapes, rates)
        )
        scores[f"{method}, {kind} noise"] = {
            **{key: values.tolist() for key, values in test_scores(posterior, outer).items()},
            "kl_weights": chosen.tolist(),
            "n_variances": n_variances(inner.X.shape[-1], method, recipe),
            "recipe": recipe._asdict(),
        }
    return scores


def fit(data, split, method, weight, recipe):
    """Train one posterior for every split."""
    settings = VariationalSettings(
        kl_weight=weight,
        n_pseudo=recipe.n_pseudo,
        n_factors=recipe.n_factors,
        expectation="draws",
        max_iter=data.n_epochs,
        batch_size=data.batch_size,
        learning_rate=recipe.learning_rate,
    )
    batch, n_samples = split.X.shape[:-2], split.X.shape[-2]
    means = initial_means(batch, (split.X.shape[-1], N_HIDDEN, 1))
    if method == "matrix":
        posterior = make_posterior(means, recipe.activation, settings, n_samples, regression=True)
    else:
        noise = GaussianNoise(n_samples, (*batch, 1))
        posterior = FactorizedPosterior(means, recipe.activation, settings.initial_std, noise)
    rows = StackedRows(split.X, split.y)
    learn(posterior, rows, settings)
    fit_noise(posterior, rows)
    return posterior


def initial_means(batch, sizes, seed=0):
    """Draw initial means, in units in which layers divide their inputs."""
    generator, means = torch.Generator().manual_seed(seed), []
    for n_inputs, n_outputs in pairwise(sizes):
        mean = torch.randn((*batch, n_inputs + 1, n_outputs), generator=generator)
        mean[..., -1, :] = 0
        means.append(mean)
    return means


def choose_noise(posterior, inner):
    """Return validation log-likelihoods, shape (n_splits,), and shape and rate of the noise's Gamma for each kind.

    The kinds are "normal" and "t": Student's t, a precision for each sample. Both maximize the likelihood of the
    validation samples of all inner splits together.
    """
    difference = inner.y_test - function_draws(posterior, inner.X_test, N_DRAWS // 2, seed=0)
    difference = difference[..., 0]
    base = float((posterior.noise.rate / posterior.noise.shape).median())
    candidates, likelihoods = [], []
    for degrees in DEGREES:
        for scale in SCALES:
            shape = min(degrees, 1e4) / 2
            candidates.append((shape, shape * base * scale))
            density = predictive_log_density(difference, *map(torch.tensor, candidates[-1]))
            likelihoods.append((torch.logsumexp(density, 0) - math.log(len(density))).mean((0, 2)))
    likelihoods, candidates = torch.stack(likelihoods), torch.tensor(candidates)
    noises = {}
    for kind, first in (("normal", len(likelihoods) - len(SCALES)), ("t", 0)):
        chosen = candidates[first + likelihoods[first:].argmax(0)]
        noises[kind] = chosen[:, 0], chosen[:, 1]
    # In the units of y, which differ a little between inner splits
    return likelihoods.amax(0) - inner.unit.log().mean(0), noises


def test_scores(posterior, split):
    """Return log-likelihood, RMSE and the fraction of targets inside 90 % intervals, for every split."""
    draws = function_draws(posterior, split.X_test, N_DRAWS, seed=1)
    difference = (split.y_test - draws)[..., 0]
    density = predictive_log_density(difference, posterior.noise.shape, posterior.noise.rate)
    likelihood = (torch.logsumexp(density, 0) - math.log(N_DRAWS)).mean(-1) - split.unit.log()
    error = (split.y_test - draws.mean(0)).square().mean((-2, -1)).sqrt() * split.unit
    scale = (posterior.noise.rate / posterior.noise.shape).sqrt().numpy()
    degrees = 2 * posterior.noise.shape.numpy()
    quantile = stats.t.cdf(difference.numpy() / scale, degrees).mean(axis=0)
    covered = torch.tensor(((quantile > 0.05) & (quantile < 0.95)).mean(axis=-1))
    return {"likelihood": likelihood, "error": error, "coverage": covered}


# the ablation: a variance for every weight


class Factorized(NamedTuple):
    """Independent normal weights of one layer, shapes (..., n_inputs + 1, n_outputs)."""

    mean: Tensor
    variance: Tensor


class FactorizedLayers(nn.Module):
    """A mean and a variance for every weight."""

    def __init__(self, means, activation, std):
        super().__init__()
        self.activate = TORCH_ACTIVATIONS[activation]
        self.means = nn.ParameterList(means)
        self.log_variances = nn.ParameterList(torch.full_like(mean, 2 * math.log(std)) for mean in means)

    def posteriors(self):
        layers = [Factorized(mean, log.exp()) for mean, log in zip(self.means, self.log_variances)]
        return layers, layers

    def outputs(self, posteriors, X, mode, generator=None):
        for index, q in enumerate(posteriors):
            X = torch.cat([X, torch.ones(*X.shape[:-1], 1)], -1) / math.sqrt(X.shape[-1] + 1)
            mean, variance = X @ q.mean, X.square() @ q.variance
            X = mean + variance.sqrt() * torch.randn(mean.shape, generator=generator)
            X = self.activate(X) if index < len(posteriors) - 1 else X
        return X


class FactorizedPosterior(Posterior):
    """Trained by the same code; only the distribution of the layers and its KL divergence differ."""

    def __init__(self, means, activation, std, noise):
        super().__init__(FactorizedLayers(means, activation, std), activation, noise)

    def moments(self, inputs, posteriors=None):
        draws = function_draws(self, inputs, 30, seed=0)
        return draws.mean(0), draws.var(0)

    def divergence(self, posteriors, prior):
        return sum(0.5 * (q.variance + q.mean.square() - 1 - q.variance.log()).sum((-2, -1)) for q in posteriors)


def n_variances(n_inputs, method, recipe):
    """Return the number of parameters of the posterior besides its means."""
    sizes = ((n_inputs + 1, N_HIDDEN), (N_HIDDEN + 1, 1))
    if method != "matrix":
        return sum(rows * columns for rows, columns in sizes)
    m = recipe.n_pseudo  # inputs, outputs, and a triangular factor of their covariance
    return sum(
        rows * (1 + recipe.n_factors) + columns + m * (rows + columns) + m * (m + 1) // 2 for rows, columns in sizes
    )


# baseline


def ridge(file):
    """Scores of ridge regression, its penalty chosen by leave-one-out, with normal noise."""
    X, y, masks = arrays(file)
    scores = {"likelihood": [], "error": [], "coverage": []}
    for mask in masks:
        train, test = np.flatnonzero(~mask), np.flatnonzero(mask)
        X_train, y_train, X_test, y_test, _, unit = standardized(X, y, train, test)
        model = RidgeCV(np.logspace(-4, 3, 15)).fit(X_train, y_train[:, 0])
        difference = y_test[:, 0] - model.predict(X_test)
        residuals = y_train[:, 0] - model.predict(X_train)
        std = np.sqrt(np.sum(residuals**2) / (len(train) - X.shape[1] - 1))
        scores["likelihood"].append(stats.norm.logpdf(difference, scale=std).mean() - np.log(unit))
        scores["error"].append(np.sqrt(np.mean(difference**2)) * unit)
        scores["coverage"].append(np.mean(np.abs(difference) < stats.norm.ppf(0.95) * std))
    return scores


# tables


def summary(scores):
    return (
        f"LL {with_error(scores['likelihood'])}, RMSE {with_error(scores['error'])}, "
        f"coverage {100 * np.mean(scores['coverage']):.1f} %"
    )


def with_error(values):
    return f"{np.mean(values):.3f} +- {standard_error(values):.3f}"


def standard_error(values):
    return np.std(values, ddof=1) / np.sqrt(len(values))


def report(results):
    """Print the results beside published ones, and on how many sets they are better."""
    methods = list(dict.fromkeys(method for found in results.values() for method in found if method != "held-out"))
    for key, title, number in (("likelihood", "Test log-likelihood", 0), ("error", "Test RMSE", 1)):
        rows = [
            [
                name,
                *(with_error(found[method][key]) if method in found else "" for method in methods),
                SETS[name].variational[number],
                SETS[name].dropout[number],
            ]
            for name, found in results.items()
        ]
        table(f"{title}, mean +- standard error over splits", ["", *methods, "published", "dropout"], rows)
    rows = []
    for method in methods:
        finished = {name: found[method] for name, found in results.items() if method in found}
        likely = {
            name: (np.mean(part["likelihood"]), standard_error(part["likelihood"])) for name, part in finished.items()
        }
        errors = {name: (np.mean(part["error"]), standard_error(part["error"])) for name, part in finished.items()}
        rows.append(
            [
                method,
                len(finished),
                sum(mean + error >= SETS[name].variational.likelihood for name, (mean, error) in likely.items()),
                sum(mean > SETS[name].dropout.likelihood for name, (mean, _) in likely.items()),
                sum(mean - error <= SETS[name].variational.error for name, (mean, error) in errors.items()),
                sum(mean < SETS[name].dropout.error for name, (mean, _) in errors.items()),
                f"{100 * np.mean([np.mean(part['coverage']) for part in finished.values()]):.1f}",
            ]
        )
    columns = ["", "sets", "LL >= published - s.e.", "LL > dropout", "RMSE <= published + s.e.", "RMSE < dropout"]
    table("On how many sets", [*columns, "coverage %"], rows)
    ablation(results)


def ablation(results):
    """Print the log-likelihood of the matrix Gaussian minus that of the factorized one, paired by splits."""
    for kind in ("normal", "t"):
        rows, ranks = [], []
        for name, found in results.items():
            both = [found.get(f"{method}, {kind} noise") for method in METHODS]
            if None in both:
                continue
            difference = np.subtract(*(part["likelihood"] for part in both))
            ranks.append(1 + int(difference.mean() < 0))
            sizes = [part["n_variances"] for part in both]
            rows.append([name, with_error(difference), int(np.sum(difference > 0)), ranks[-1], *sizes])
        columns = ["", "difference", f"splits of {N_SPLITS} won", "rank", "variances", "variances, factorized"]
        title = f"Log-likelihood, {kind} noise: matrix minus factorized"
        table(f"{title}; mean rank {np.mean(ranks):.2f} against {3 - np.mean(ranks):.2f}", columns, rows)


if __name__ == "__main__":
    main()
