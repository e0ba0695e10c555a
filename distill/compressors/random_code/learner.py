"""Learn random codes: train a posterior, code it block by block, choose the codes again for the whole network.

The state can be saved between any two steps. A run that resumes from it gives the same bits.
"""

import io
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import torch
from torch import Tensor

from distill.codecs import container
from distill.compressors.random_code.mean_kl import MeanKL
from distill.compressors.random_code.mean_var import MeanVar
from distill.compressors.random_code.refinement import (
    SharedNetwork,
    choose_together,
    curvature,
    loss_and_gradient,
    mean_loss,
    tune_scales,
)
from distill.compressors.random_code.selection import choose
from distill.network import Network
from distill.runtime.forward import layer_outputs
from distill.training.losses import DistillationLoss
from distill.training.samples import DenseRows
from distill.training.targets import Calibration

PARAMETERIZATIONS = {"mean-kl": MeanKL, "mean-var": MeanVar}
# Reports in each of training, coding and the refinements
REPORTS_PER_PART = 20
# An interrupted fit loses at most this time
SECONDS_BETWEEN_CHECKPOINTS = 20.0
# Steps over which the learning rate increases, the fraction of it at the end of half a cosine, and the constant
# fraction while blocks are coded. Chosen by hand
_WARM_UP, _LAST_RATE, _CODING_RATE = 100, 0.1, 0.2
# Learning rates of the parameters as fractions of `learning_rate`: the ratios of the first experiments on MNIST, with
# 1e-2 for gamma, 5e-3 for tau and 2e-3 for log scales, and those of the corresponding parameters of Mean-Var
_RATES = {"gamma": 1.0, "log_variance": 1.0, "tau": 0.5, "mean": 0.5, "log_scales": 0.2}
# Random numbers in a group of blocks whose codes are chosen together. The curvature takes memory and time in proportion
# to its square; larger groups take more dependencies between blocks into account. Chosen by hand
_NUMBERS_PER_GROUP = 200
# Samples for the curvature, whose cost is proportional; the gradient is that of all samples. Chosen by hand
_CURVATURE_ROWS = 4096
# Steps of the tuning of scales after each refinement. Chosen by hand
_SCALE_STEPS = 100
# Smallest initial scale of a layer, and that of a layer of zeros: a scale of zero has no logarithm. Chosen by hand
_LEAST_SCALE, _SCALE_OF_ZEROS = 1e-3, 0.1


@dataclass(frozen=True)
class LearnerSettings:
    """Settings of a `Learner`; see `distill.RandomCodeCompressor`.

    Parameters
    ----------
    n_steps : int
        Training steps before the first block is coded.
    n_steps_between_blocks : int
        Training steps after each block.
    n_refinements : int
        Largest number of refinements.
    batch_size : int
    learning_rate : float
        Adam's.
    selection : {"argmax", "sample", "nearest"}
    seed : int
        Seed of batches, draws and the order of the blocks.
    """

    n_steps: int = 8000
    n_steps_between_blocks: int = 5
    n_refinements: int = 2
    batch_size: int = 256
    learning_rate: float = 2e-2
    selection: str = "argmax"
    seed: int = 0


def distillation_samples(
    network: Network, shared: SharedNetwork, calibration: Calibration, temperature: float = 1.0
) -> tuple[DistillationLoss, DenseRows, DenseRows]:
    """Return the loss against a network's outputs, and samples with its targets.

    Parameters
    ----------
    network : Network
        The original network.
    shared : SharedNetwork
        The network that is trained.
    calibration : Calibration
    temperature : float
        See `DistillationLoss`.

    Returns
    -------
    loss : DistillationLoss
    samples, validation_samples : DenseRows
        Inputs after `shared.project`, and targets.
    """
    outputs = [layer_outputs(network, rows)[-1] for rows in (calibration.train, calibration.validation)]
    loss = DistillationLoss(network, outputs[0], temperature)
    samples, validation_samples = (
        DenseRows(shared.project(inputs), loss.targets(target))
        for inputs, target in zip((calibration.train, calibration.validation), outputs)
    )
    return loss, samples, validation_samples


def initial_posterior(
    shared: SharedNetwork, network: Network, parameterization: str = "mean-kl", kl_margin: float = 0.0
) -> tuple[MeanKL | MeanVar, Tensor]:
    """Return a posterior around the weights of a network, and ln scales.

    Parameters
    ----------
    shared : SharedNetwork
    network : Network
        Of the same layer sizes.
    parameterization : {"mean-kl", "mean-var"}
    kl_margin : float
        Bits by which the information of a block is below that of its code.

    Returns
    -------
    posterior : MeanKL or MeanVar
    log_scales : Tensor of shape (n_layers, 2)
    """
    means, log_scales = initial_means(shared, network, kl_margin)
    budget = (shared.layout.bits_per_block - kl_margin) * math.log(2)
    return PARAMETERIZATIONS[parameterization](means, shared.used, budget), log_scales


def initial_means(shared: SharedNetwork, network: Network, kl_margin: float = 0.0) -> tuple[Tensor, Tensor]:
    """Return initial means and ln scales of a posterior around the weights of a network.

    Parameters
    ----------
    shared : SharedNetwork
    network : Network
        Of the same layer sizes. Weights that share a random number are averaged.
    kl_margin : float
        Bits by which the information of a block is below that of its code.

    Returns
    -------
    means : Tensor of shape (n_blocks, block_size)
        In units of the scales.
    log_scales : Tensor of shape (n_layers, 2)
        Of weights and of biases, such that the means take half of the budget: a mean has ``mean ** 2 / 2`` nats.
    """
    layout = shared.layout
    bits = (layout.bits_per_block - kl_margin) * layout.n_blocks
    std = np.sqrt(bits * np.log(2) / layout.n_numbers)
    parts, scales = [], []
    for weight, bias in shared.average(list(zip(network.weights, network.biases))):
        pair = []
        for numbers in (weight, bias):
            size = float(np.sqrt(np.mean(np.square(numbers, dtype=np.float64))))
            pair.append(max(size / std, _LEAST_SCALE if size else _SCALE_OF_ZEROS))
        parts.append((weight / np.float32(pair[0]), bias / np.float32(pair[1])))
        scales.append(pair)
    return shared.gather(parts), torch.log(torch.tensor(scales, dtype=torch.float32))


def fingerprint(network: Network, calibration: Calibration, *settings: Any) -> str:
    """Return a hash of network, samples and settings, which determine a run."""
    arrays = (*network.weights, *network.biases, calibration.train, calibration.validation)
    return joblib.hash((network.activation, network.output, arrays, settings))


class Learner:
    """Learn codes and scales of a network against the outputs of another one.

    Parameters
    ----------
    network : SharedNetwork
    posterior : MeanKL or MeanVar
        Posterior of the random numbers in all blocks, in units of the scales. It is trained in place.
    log_scales : Tensor of shape (n_layers, 2)
        Initial ln scales of weights and of biases.
    samples, validation_samples : DenseRows
        Inputs after `SharedNetwork.project`, and the targets of `loss`. A refinement is kept if it lowers the loss of
        the validation samples.
    loss : DistillationLoss
    settings : LearnerSettings
    report : callable(message) -> bool
        Called periodically; return True to stop early.

    Attributes
    ----------
    numbers : Tensor of shape (n_blocks, block_size)
        Random numbers of the coded blocks; 0 for the others.
    codes : ndarray of shape (n_blocks,), int64
    coded : Tensor of shape (n_blocks,), bool
    done : dict of str to int
        Numbers of finished steps, blocks, refinements and groups of the current refinement.
    """

    def __init__(
        self,
        network: SharedNetwork,
        posterior: MeanKL | MeanVar,
        log_scales: Tensor,
        samples: DenseRows,
        validation_samples: DenseRows,
        loss: DistillationLoss,
        settings: LearnerSettings,
        report: Callable[[str], bool] = lambda message: False,
    ):
        self.network, self.layout, self.posterior, self.settings = network, network.layout, posterior, settings
        self.samples, self.validation_samples, self.loss, self.report = samples, validation_samples, loss, report
        self.log_scales = torch.nn.Parameter(log_scales.clone())
        named = [*self.posterior.named_parameters(), ("log_scales", self.log_scales)]
        self.optimizer = torch.optim.Adam(
            [{"params": [array], "factor": settings.learning_rate * _RATES[name]} for name, array in named]
        )
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.numbers = torch.zeros(network.used.shape)
        self.codes = np.zeros(self.layout.n_blocks, np.int64)
        self.coded = torch.zeros(self.layout.n_blocks, dtype=torch.bool)
        self.order = np.random.default_rng(settings.seed).permutation(self.layout.n_blocks)
        self.done = {"steps": 0, "blocks": 0, "refinements": 0, "groups": 0}
        self.best: dict | None = None
        self.running_loss = math.nan
        self.stop_requested = False
        self.checkpoint: Path | None = None
        self.fingerprint = ""
        self._saved = self._began = time.monotonic()
        self._first_fraction = self._last_fraction = 0.0

    def run(self) -> tuple[np.ndarray, np.ndarray]:
        """Train, code and refine.

        Returns
        -------
        codes : ndarray of shape (n_blocks,), int64
        scales : ndarray of shape (n_layers, 2), float16

        Raises
        ------
        FloatingPointError
            If the loss is no longer finite.
        """
        self.train()
        self.code()
        self.refine()
        return self.codes, self.scales()

    def scales(self) -> np.ndarray:
        """Return the scales as in the file, shape (n_layers, 2), float16."""
        largest = float(np.finfo(np.float16).max)
        return self.log_scales.detach().exp().clamp(max=largest).numpy().astype(np.float16)

    def train(self) -> None:
        """Train the posterior of all blocks."""
        n_steps = self.settings.n_steps
        self._begin(self.done["steps"] / n_steps)
        while (step := self.done["steps"]) < n_steps and not self.stop_requested:
            decay = 0.5 * (1 + math.cos(math.pi * step / n_steps))
            self.step(min(1.0, (step + 1) / _WARM_UP) * (_LAST_RATE + (1 - _LAST_RATE) * decay))
            self.done["steps"] += 1
            message = f"training, step {step + 1}/{n_steps}: loss {self.running_loss:.5f}"
            self.checkpoint_and_report(message, (step + 1) / n_steps)

    def code(self) -> None:
        """Code one block after the other, and train those not yet coded in between."""
        n_blocks = self.layout.n_blocks
        self._begin(self.done["blocks"] / n_blocks)
        while (position := self.done["blocks"]) < n_blocks:
            self.code_block(int(self.order[position]))
            for _ in range(0 if self.stop_requested else self.settings.n_steps_between_blocks):
                self.step(_CODING_RATE)
            self.done["blocks"] += 1
            message = f"coding, block {position + 1}/{n_blocks}: loss {self.running_loss:.5f}"
            self.checkpoint_and_report(message, (position + 1) / n_blocks)

    def refine(self) -> None:
        """Choose the codes again for the whole network, until the validation loss rises."""
        per_group = max(1, _NUMBERS_PER_GROUP // self.layout.block_size)
        n_groups = -(-self.layout.n_blocks // per_group)
        if self.best is None:
            self.best = self._candidate()
        while self.done["refinements"] < self.settings.n_refinements and not self.stop_requested:
            rng = np.random.default_rng([self.settings.seed, self.done["refinements"]])
            order = rng.permutation(self.layout.n_blocks)
            self._begin(self.done["groups"] / n_groups)
            while self.done["groups"] < n_groups and not self.stop_requested:
                group = self.done["groups"]
                self.refine_group(order[group * per_group : (group + 1) * per_group])
                self.done["groups"] += 1
                message = f"refinement {self.done['refinements'] + 1}, group {group + 1}/{n_groups}"
                self.checkpoint_and_report(f"{message}: loss {self.running_loss:.5f}", (group + 1) / n_groups)
            self._tune_scales()
            candidate = self._candidate()
            self.done["refinements"] += 1
            self.done["groups"] = 0
            if candidate["loss"] >= self.best["loss"]:
                self.done["refinements"] = self.settings.n_refinements
            else:
                self.best = candidate
        self._adopt(self.best)

    def sample(self) -> Tensor:
        """Return random numbers of all blocks, (n_blocks, block_size): coded ones, and draws from the posteriors."""
        mean, log_variance = self.posterior()
        noise = torch.randn(mean.shape, generator=self.generator)
        return torch.where(self.coded[:, None], self.numbers, mean + torch.exp(0.5 * log_variance) * noise)

    def step(self, rate: float) -> None:
        """Take one training step at this fraction of the learning rate; errors are those of `run`."""
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * rate
        batch = torch.randint(len(self.samples), (self.settings.batch_size,), generator=self.generator)
        inputs, targets = self.samples.take(batch)
        self.optimizer.zero_grad()
        layers = self.network.layers(self.sample(), self.log_scales.exp())
        loss = self.loss(self.network.outputs(inputs, layers), targets)
        (loss + self.posterior.penalty(self.coded)).backward()
        self.optimizer.step()
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss became {value} in step {self.done['steps'] + 1}; lower learning_rate_init, now "
                f"{self.settings.learning_rate}"
            )
        self.running_loss = value if math.isnan(self.running_loss) else 0.99 * self.running_loss + 0.01 * value

    @torch.no_grad()
    def code_block(self, block: int) -> None:
        """Choose a block's code for its posterior."""
        mean, log_variance = self.posterior()
        used = self.network.used[block]
        code = choose(
            self.layout,
            block,
            mean[block][used].numpy(),
            log_variance[block][used].numpy(),
            self.settings.selection,
            self.settings.seed,
        )
        self.codes[block] = code
        self.numbers[block] = self._candidate_numbers(block, code)
        self.coded[block] = True

    def refine_group(self, blocks: np.ndarray) -> None:
        """Choose the codes of some blocks again for the loss of the network; the loss does not increase."""
        used = self.network.used
        scales = self.log_scales.detach().exp()
        before, gradient = loss_and_gradient(self.network, self.numbers, scales, self.samples, self.loss)
        chosen = torch.cat([torch.nonzero(used[block])[:, 0] + int(block) * used.shape[1] for block in blocks])
        n_rows = len(self.samples)
        subset = torch.randperm(n_rows, generator=self.generator)[: min(_CURVATURE_ROWS, n_rows)]
        inputs, _ = self.samples.take(subset)
        hessian = curvature(self.network, self.numbers, scales, chosen, inputs, self.loss)
        slope, second = gradient.reshape(-1)[chosen].double().numpy(), hessian.double().numpy()
        self.running_loss = before
        while len(blocks):
            current = [self.numbers[block][used[block]].double().numpy() for block in blocks]
            n_numbers = sum(map(len, current))
            codes, _ = choose_together(
                self.layout, blocks.tolist(), current, slope[:n_numbers], second[:n_numbers, :n_numbers]
            )
            changed = [(int(block), code) for block, code in zip(blocks, codes) if code is not None]
            moved = self.numbers.clone()
            for block, code in changed:
                moved[block] = self._candidate_numbers(block, code)
            after = mean_loss(self.network, moved, scales, self.samples, self.loss)
            if after < before:
                self.numbers, self.running_loss = moved, after
                for block, code in changed:
                    self.codes[block] = code
                return
            # The quadratic model is better for smaller changes, and fewer blocks change less
            blocks = blocks[: len(blocks) // 2]

    def resume(self, directory: str | os.PathLike, fingerprint: str) -> None:
        """Save the state in a directory from now on, and continue from the state saved there, if any.

        Parameters
        ----------
        directory : path
            Created if it does not exist.
        fingerprint : str
            Hash of the run; a state with another one raises.

        Raises
        ------
        ValueError
            If the saved state has another fingerprint or cannot be read. It is not modified.
        """
        self.checkpoint, self.fingerprint = Path(directory) / "random-code.checkpoint", fingerprint
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        if not self.checkpoint.exists():
            return
        try:
            state = torch.load(self.checkpoint, weights_only=True)
            found = state.get("fingerprint")
        except Exception as error:
            raise ValueError(
                f"checkpoint={os.fspath(directory)!r} has a file {self.checkpoint.name} that cannot be read; delete it "
                "to begin again"
            ) from error
        if found != fingerprint:
            raise ValueError(
                f"checkpoint={os.fspath(directory)!r} belongs to a fit with other rows, another wrapped network or "
                "other parameters; choose another directory, or delete it to begin again"
            )
        self._load(state)

    def forget(self) -> None:
        """Delete the saved state."""
        if self.checkpoint is not None:
            self.checkpoint.unlink(missing_ok=True)

    def checkpoint_and_report(self, message: str, fraction: float) -> None:
        """Save the state and report, each at its interval.

        Parameters
        ----------
        message : str
        fraction : float
            Finished fraction of training, coding or a refinement.
        """
        now = time.monotonic()
        if self.checkpoint is not None and now - self._saved >= SECONDS_BETWEEN_CHECKPOINTS:
            buffer = io.BytesIO()
            torch.save(self._state(), buffer)
            container.save(buffer.getvalue(), self.checkpoint)
            self._saved = time.monotonic()
        if int(fraction * REPORTS_PER_PART) > int(self._last_fraction * REPORTS_PER_PART):
            left = (now - self._began) * (1 - fraction) / (fraction - self._first_fraction)
            stop = self.report(f"{message}, about {left:.0f} s left of this part")
            self.stop_requested = bool(stop) or self.stop_requested
        self._last_fraction = fraction

    def _candidate_numbers(self, block: int, code: int) -> Tensor:
        return torch.from_numpy(self.layout.candidates(block, code, code + 1)[0].copy())

    def _tune_scales(self) -> None:
        tuned = tune_scales(
            self.network, self.numbers, self.log_scales, self.samples, self.loss, _SCALE_STEPS, self.generator
        )
        with torch.no_grad():
            self.log_scales.copy_(tuned)

    def _candidate(self) -> dict:
        """Return the current result with its validation loss, computed with scales rounded as in the file."""
        scales = torch.from_numpy(self.scales().astype(np.float32))
        return {
            "numbers": self.numbers.clone(),
            "codes": torch.from_numpy(self.codes.copy()),
            "log_scales": self.log_scales.detach().clone(),
            "loss": mean_loss(self.network, self.numbers, scales, self.validation_samples, self.loss),
        }

    def _adopt(self, candidate: dict) -> None:
        """Set random numbers, codes and scales to those of a candidate."""
        self.numbers, self.codes = candidate["numbers"].clone(), candidate["codes"].numpy().copy()
        with torch.no_grad():
            self.log_scales.copy_(candidate["log_scales"])

    def _begin(self, fraction: float) -> None:
        """Start the clock of a part of the work with this finished fraction, for the remaining time."""
        self._began, self._first_fraction, self._last_fraction = time.monotonic(), fraction, fraction

    def _state(self) -> dict:
        return {
            "fingerprint": self.fingerprint,
            "posterior": self.posterior.state_dict(),
            "log_scales": self.log_scales.detach(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "numbers": self.numbers,
            "codes": torch.from_numpy(self.codes),
            "coded": self.coded,
            "done": self.done,
            "best": self.best,
            "running_loss": self.running_loss,
        }

    def _load(self, state: dict) -> None:
        self.posterior.load_state_dict(state["posterior"])
        with torch.no_grad():
            self.log_scales.copy_(state["log_scales"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.numbers, self.coded = state["numbers"], state["coded"]
        self.codes = state["codes"].numpy().copy()
        self.done, self.best, self.running_loss = state["done"], state["best"], state["running_loss"]
