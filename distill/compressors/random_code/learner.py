"""From a starting point to codes: train a posterior, code it block by block, choose codes again for the whole.

Everything that changes is in one state, which can be saved between any two steps and taken up again: the result is the
same bit for bit.
"""

import io
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from distill.codecs import container
from distill.compressors.random_code.mean_kl import MeanKL
from distill.compressors.random_code.mean_var import MeanVar
from distill.compressors.random_code.refinement import (
    Rows,
    SharedNetwork,
    choose_together,
    curvature,
    loss_and_gradient,
    mean_loss,
    tune_scales,
)
from distill.compressors.random_code.selection import choose

REPORTS_PER_PART = 20
_WARM_UP, _LAST_RATE, _CODING_RATE = 100, 0.1, 0.2
_RATES = {"gamma": 1.0, "log_variance": 1.0, "tau": 0.5, "mean": 0.5, "log_scales": 0.2}
_NUMBERS_PER_GROUP = 200
_CURVATURE_ROWS = 4096
_SCALE_STEPS = 100
_SECONDS_BETWEEN_CHECKPOINTS = 20.0


@dataclass(frozen=True)
class LearnerSettings:
    """How codes are learned; see `distill.compressors.random_code.estimator.RandomCodeCompressor`.

    `penalty` and `penalty_rate` are of "mean-var": the first weight of a block's divergence, and by how much a step
    changes it.
    """

    parameterization: str = "mean-kl"
    n_steps: int = 8000
    n_steps_between_blocks: int = 5
    n_refinements: int = 2
    batch_size: int = 256
    learning_rate: float = 2e-2
    selection: str = "argmax"
    kl_margin: float = 0.0
    seed: int = 0
    penalty: float = 1e-6
    penalty_rate: float = 0.01


class Learner:
    """Codes and scales for a network that is to give some outputs.

    Parameters
    ----------
    network : SharedNetwork
    learned, held_out : Rows
        Rows to learn from, and rows that judge the last choice of codes.
    means : Tensor of shape (n_blocks, block_size)
        Where the posterior's means begin, in units of the scales.
    log_scales : Tensor of shape (n_layers, 2)
        Where ln scales of weights and of biases begin.
    settings : LearnerSettings
    report : callable(message) -> bool
        Called now and then; true asks to come to an end soon.
    """

    def __init__(
        self,
        network: SharedNetwork,
        learned: Rows,
        held_out: Rows,
        means: Tensor,
        log_scales: Tensor,
        settings: LearnerSettings,
        report: Callable[[str], bool] = lambda message: False,
    ):
        self.network, self.layout, self.settings = network, network.layout, settings
        self.learned, self.held_out, self.report = learned, held_out, report
        budget = (self.layout.bits_per_block - settings.kl_margin) * math.log(2)
        if settings.parameterization == "mean-kl":
            self.posterior = MeanKL(means, network.used, budget)
        else:
            self.posterior = MeanVar(means, network.used, budget, settings.penalty, settings.penalty_rate)
        self.log_scales = torch.nn.Parameter(log_scales.clone())
        named = [*self.posterior.named_parameters(), ("log_scales", self.log_scales)]
        self.optimizer = torch.optim.Adam(
            [{"params": [array], "factor": settings.learning_rate * _RATES[name]} for name, array in named]
        )
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.numbers = torch.zeros(means.shape)
        self.codes = np.zeros(self.layout.n_blocks, np.int64)
        self.coded = torch.zeros(len(means), dtype=torch.bool)
        self.order = np.random.default_rng(settings.seed).permutation(self.layout.n_blocks)
        self.done = {"steps": 0, "blocks": 0, "passes": 0, "groups": 0}
        self.best: dict | None = None
        self.loss = math.nan
        self.hurry = False
        self.checkpoint: Path | None = None
        self.fingerprint = ""
        self._saved = self._began = time.monotonic()
        self._first_share = self._last_share = 0.0

    def run(self) -> tuple[np.ndarray, np.ndarray]:
        """Learn to the end.

        Returns
        -------
        codes : ndarray of shape (n_blocks,), int64
        scales : ndarray of shape (n_layers, 2), float16
        """
        self.train()
        self.code()
        self.refine()
        return self.codes, self.scales()

    def scales(self) -> np.ndarray:
        """Return the scales as they are stored, shape (n_layers, 2), float16."""
        most = float(np.finfo(np.float16).max)
        return self.log_scales.detach().exp().clamp(max=most).numpy().astype(np.float16)

    def train(self) -> None:
        """Train the posterior of all blocks."""
        n_steps = self.settings.n_steps
        self._begin(self.done["steps"] / n_steps)
        while (step := self.done["steps"]) < n_steps and not self.hurry:
            decay = 0.5 * (1 + math.cos(math.pi * step / n_steps))
            self._step(min(1.0, (step + 1) / _WARM_UP) * (_LAST_RATE + (1 - _LAST_RATE) * decay))
            self.done["steps"] += 1
            self._between(f"training, step {step + 1}/{n_steps}: loss {self.loss:.5f}", (step + 1) / n_steps)

    def code(self) -> None:
        """Code one block after the other, and train those not yet coded in between."""
        n_blocks = self.layout.n_blocks
        self._begin(self.done["blocks"] / n_blocks)
        while (position := self.done["blocks"]) < n_blocks:
            self._code_block(int(self.order[position]))
            for _ in range(0 if self.hurry else self.settings.n_steps_between_blocks):
                self._step(_CODING_RATE)
            self.done["blocks"] += 1
            self._between(f"coding, block {position + 1}/{n_blocks}: loss {self.loss:.5f}", (position + 1) / n_blocks)

    def refine(self) -> None:
        """Choose the codes again for the whole network, as long as held-out rows gain."""
        per_group = max(1, _NUMBERS_PER_GROUP // self.layout.block_size)
        n_groups = -(-self.layout.n_blocks // per_group)
        if self.best is None:
            self.best = self._candidate()
        while self.done["passes"] < self.settings.n_refinements and not self.hurry:
            random = np.random.default_rng([self.settings.seed, self.done["passes"]])
            order = random.permutation(self.layout.n_blocks)
            self._begin(self.done["groups"] / n_groups)
            while self.done["groups"] < n_groups and not self.hurry:
                group = self.done["groups"]
                self._refine_group(order[group * per_group : (group + 1) * per_group])
                self.done["groups"] += 1
                message = f"refining, pass {self.done['passes'] + 1}, group {group + 1}/{n_groups}"
                self._between(f"{message}: loss {self.loss:.5f}", (group + 1) / n_groups)
            tuned = tune_scales(self.network, self.numbers, self.log_scales, self.learned, _SCALE_STEPS, self.generator)
            with torch.no_grad():
                self.log_scales.copy_(tuned)
            candidate = self._candidate()
            self.done["passes"] += 1
            self.done["groups"] = 0
            if candidate["loss"] >= self.best["loss"]:
                self.done["passes"] = self.settings.n_refinements
            else:
                self.best = candidate
        self._adopt(self.best)

    def sample(self) -> Tensor:
        """Draw the numbers of all blocks: those of coded blocks as they are, the others from their posteriors."""
        mean, log_variance = self.posterior()
        noise = torch.randn(mean.shape, generator=self.generator)
        return torch.where(self.coded[:, None], self.numbers, mean + torch.exp(0.5 * log_variance) * noise)

    def resume(self, directory: str | os.PathLike, fingerprint: str) -> None:
        """Save the state in this directory from now on, and go on from what is saved there.

        Raises
        ------
        ValueError
            If what is there was made with other settings or rows, or cannot be read. It is left as it is.
        """
        self.checkpoint, self.fingerprint = Path(directory) / "random-code.checkpoint", fingerprint
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        if not self.checkpoint.exists():
            return
        try:
            state = torch.load(self.checkpoint, weights_only=True)
            known = state.get("fingerprint")
        except Exception as error:
            raise ValueError(
                f"checkpoint={os.fspath(directory)!r} has a file {self.checkpoint.name} that cannot be read; delete it "
                "to begin again"
            ) from error
        if known != fingerprint:
            raise ValueError(
                f"checkpoint={os.fspath(directory)!r} belongs to a fit with other rows, another wrapped network or "
                "other parameters; choose another directory, or delete it to begin again"
            )
        self._load(state)

    def forget(self) -> None:
        """Delete the saved state: the work is done."""
        if self.checkpoint is not None:
            self.checkpoint.unlink(missing_ok=True)

    def _step(self, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = group["factor"] * rate
        batch = torch.randint(len(self.learned), (self.settings.batch_size,), generator=self.generator)
        self.optimizer.zero_grad()
        layers = self.network.layers(self.sample(), self.log_scales.exp())
        loss = self.learned.loss(self.network.outputs(self.learned.inputs[batch], layers), self.learned.targets[batch])
        if isinstance(self.posterior, MeanVar):
            spent = torch.where(self.coded, self.posterior.budget, self.posterior.divergence())
            (loss + (self.posterior.penalties * spent).sum()).backward()
            self.posterior.anneal(spent.detach())
        else:
            loss.backward()
        self.optimizer.step()
        value = loss.item()
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss became {value} in step {self.done['steps'] + 1}; lower learning_rate_init, now "
                f"{self.settings.learning_rate}"
            )
        self.loss = value if math.isnan(self.loss) else 0.99 * self.loss + 0.01 * value

    @torch.no_grad()
    def _code_block(self, block: int) -> None:
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

    def _refine_group(self, blocks: np.ndarray) -> None:
        used = self.network.used
        scales = self.log_scales.detach().exp()
        before, gradient = loss_and_gradient(self.network, self.numbers, scales, self.learned)
        chosen = torch.cat([torch.nonzero(used[block])[:, 0] + int(block) * used.shape[1] for block in blocks])
        n_rows = len(self.learned)
        sample = torch.randperm(n_rows, generator=self.generator)[: min(_CURVATURE_ROWS, n_rows)]
        some = replace(self.learned, inputs=self.learned.inputs[sample], targets=self.learned.targets[sample])
        hessian = curvature(self.network, self.numbers, scales, chosen, some)
        slope, hessian = gradient.reshape(-1)[chosen].double().numpy(), hessian.double().numpy()
        self.loss = before
        while len(blocks):
            current = [self.numbers[block][used[block]].double().numpy() for block in blocks]
            n_numbers = sum(map(len, current))
            codes, _ = choose_together(
                self.layout, blocks.tolist(), current, slope[:n_numbers], hessian[:n_numbers, :n_numbers]
            )
            changed = [(int(block), code) for block, code in zip(blocks, codes) if code is not None]
            moved = self.numbers.clone()
            for block, code in changed:
                moved[block] = self._candidate_numbers(block, code)
            after = mean_loss(self.network, moved, scales, self.learned)
            if after < before:
                self.numbers, self.loss = moved, after
                for block, code in changed:
                    self.codes[block] = code
                return
            # Fewer blocks move less, and the model is better near where it was made
            blocks = blocks[: len(blocks) // 2]

    def _candidate_numbers(self, block: int, code: int) -> Tensor:
        return torch.from_numpy(self.layout.candidates(block, code, code + 1)[0].copy())

    def _candidate(self) -> dict:
        """What would be written now, and how well it does on held-out rows."""
        scales = torch.from_numpy(self.scales().astype(np.float32))
        return {
            "numbers": self.numbers.clone(),
            "codes": torch.from_numpy(self.codes.copy()),
            "log_scales": self.log_scales.detach().clone(),
            "loss": mean_loss(self.network, self.numbers, scales, self.held_out),
        }

    def _adopt(self, candidate: dict) -> None:
        self.numbers, self.codes = candidate["numbers"].clone(), candidate["codes"].numpy().copy()
        with torch.no_grad():
            self.log_scales.copy_(candidate["log_scales"])

    def _begin(self, share: float) -> None:
        """Note when a part of the work begins, of which this share is done."""
        self._began, self._first_share, self._last_share = time.monotonic(), share, share

    def _between(self, message: str, share: float) -> None:
        """Save the state and report, if it is time; this share of a part of the work is done."""
        now = time.monotonic()
        if self.checkpoint is not None and now - self._saved >= _SECONDS_BETWEEN_CHECKPOINTS:
            buffer = io.BytesIO()
            torch.save(self._state(), buffer)
            container.save(buffer.getvalue(), self.checkpoint)
            self._saved = time.monotonic()
        if int(share * REPORTS_PER_PART) > int(self._last_share * REPORTS_PER_PART):
            left = (now - self._began) * (1 - share) / (share - self._first_share)
            self.hurry = bool(self.report(f"{message}, about {left:.0f} s left of this part")) or self.hurry
        self._last_share = share

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
            "loss": self.loss,
        }

    def _load(self, state: dict) -> None:
        self.posterior.load_state_dict(state["posterior"])
        with torch.no_grad():
            self.log_scales.copy_(state["log_scales"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.numbers, self.coded = state["numbers"], state["coded"]
        self.codes = state["codes"].numpy().copy()
        self.done, self.best, self.loss = state["done"], state["best"], state["loss"]
