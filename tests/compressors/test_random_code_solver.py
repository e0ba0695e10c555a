"""Learning random codes: gradient and curvature against autograd, choices against brute force, exact resuming."""

import functools
import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from distill.codecs.random_code import Layout
from distill.compressors.random_code import learner as random_code_learner
from distill.compressors.random_code.learner import PARAMETERIZATIONS, Learner, LearnerSettings
from distill.compressors.random_code.refinement import (
    SharedNetwork,
    choose_together,
    curvature,
    loss_and_gradient,
    mean_loss,
    tune_scales,
)
from distill.network import Network
from distill.training.losses import DistillationLoss
from distill.training.samples import DenseRows

LAYOUTS = {
    "shared": Layout(((9, 6), (6, 5), (5, 3)), (3, 2, 1), 8, 12, seed=4),
    "grid": Layout(((12, 4), (4, 3)), (1, 1), 6, 10, seed=9, input_shape=(3, 4), n_frequencies=7),
}
OUTPUTS = ("softmax", "logistic", "identity")


TEMPERATURE = 1.7


def independent_loss(output, unit):
    """Return the loss up to a constant, from torch's own functions."""
    square = TEMPERATURE**2
    if output == "softmax":
        return lambda outputs, targets: square * torch.nn.functional.cross_entropy(outputs / TEMPERATURE, targets)
    if output == "logistic":
        entropy = torch.nn.BCEWithLogitsLoss(reduction="none")
        return lambda outputs, targets: square * entropy(outputs / TEMPERATURE, targets).sum(dim=1).mean()
    return lambda outputs, targets: torch.nn.functional.mse_loss(outputs / unit, targets / unit)


def problem(layout, output="softmax", activation="tanh", n_rows=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    network = SharedNetwork(layout, activation)
    inputs = torch.randn(n_rows, layout.shapes[0][0], generator=generator)
    inputs = network.project(inputs.numpy())
    numbers = torch.randn(network.used.shape, generator=generator)
    scales = 0.2 + torch.rand(len(layout.shapes), 2, generator=generator)
    # The outputs of another network of the same layout, which can be learned
    other = network.layers(torch.randn(network.used.shape, generator=generator), torch.ones(len(layout.shapes), 2))
    outputs = (3 * network.outputs(inputs, other)).numpy()
    loss = DistillationLoss(Network((), (), output=output), outputs, TEMPERATURE)
    return network, DenseRows(inputs, loss.targets(outputs)), loss, numbers, scales


@pytest.fixture(params=LAYOUTS, ids=str)
def layout(request):
    return LAYOUTS[request.param]


def test_torch_and_the_file_give_the_same_network(layout):
    network = problem(layout)[0]
    codes = np.random.default_rng(0).integers(0, 1 << layout.bits_per_block, layout.n_blocks)
    scales = np.linspace(0.5, 1, 2 * len(layout.shapes)).reshape(-1, 2).astype(np.float16)
    numbers = np.concatenate([layout.candidates(block, int(code), int(code) + 1) for block, code in enumerate(codes)])
    made = network.layers(torch.from_numpy(numbers), torch.from_numpy(scales.astype(np.float32)))
    decoded = layout.layers(layout.numbers(codes), scales)
    inputs = np.random.default_rng(1).standard_normal((5, layout.shapes[0][0])).astype(np.float32)
    expected = inputs
    for index, layer in enumerate(decoded):
        expected = expected @ layer.weight + layer.bias
        expected = np.tanh(expected) if index < len(decoded) - 1 else expected
    found = network.outputs(network.project(inputs), made)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_average_undoes_sharing(layout):
    network = problem(layout)[0]
    layers = layout.layers(
        network_numbers := np.random.default_rng(0).standard_normal(layout.n_numbers).astype(np.float32),
        np.ones((len(layout.shapes), 2), np.float16),
    )
    parts = network.average([(layer.weight, layer.bias) for layer in layers])
    np.testing.assert_allclose(np.concatenate([part for pair in parts for part in pair]), network_numbers, atol=1e-5)
    placed = network.gather(parts)[network.used].numpy()
    np.testing.assert_allclose(placed, network_numbers[network.places[network.places >= 0]], atol=1e-5)


@pytest.mark.parametrize("output", OUTPUTS)
def test_gradient_is_the_directional_derivative(layout, output):
    network, samples, loss, numbers, scales = problem(layout, output)
    value, gradient = loss_and_gradient(network, numbers, scales, samples, loss)
    assert value == pytest.approx(mean_loss(network, numbers, scales, samples, loss), rel=1e-5)
    whole = numbers.clone().requires_grad_()
    inputs, targets = samples.tensors
    independent = independent_loss(output, torch.from_numpy(loss.unit))
    independent(network.outputs(inputs, network.layers(whole, scales)), targets).backward()
    torch.testing.assert_close(gradient, whole.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("activation", ["identity", "relu", "tanh", "logistic"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_curvature_is_that_of_autograd(layout, output, activation):
    network, samples, loss, numbers, scales = problem(layout, output, activation, n_rows=7)
    inputs, targets = samples.tensors
    independent = independent_loss(output, torch.from_numpy(loss.unit))
    chosen = torch.nonzero(network.used[:4].reshape(-1))[:, 0]

    def outputs(values):
        moved = numbers.reshape(-1).index_copy(0, chosen, values).reshape(numbers.shape)
        return network.outputs(inputs, network.layers(moved, scales))

    here = numbers.reshape(-1)[chosen]
    jacobian = torch.autograd.functional.jacobian(outputs, here)  # (rows, outputs, n)
    given = outputs(here)
    expected = torch.zeros(len(chosen), len(chosen))
    for row in range(7):
        second = torch.autograd.functional.hessian(
            lambda value, row=row: independent(value[None], targets[row : row + 1]), given[row]
        )
        expected += jacobian[row].T @ second @ jacobian[row] / 7
    found = curvature(network, numbers, scales, chosen, inputs, loss)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)


class TestChoice:
    layout = Layout(((4, 3),), (1,), 4, 5, seed=2)

    def model(self):
        rng = np.random.default_rng(3)
        root = rng.standard_normal((6, 6))
        current = [self.layout.candidates(block, 3, 4)[0].astype(float) for block in (0, 1)]
        return [0, 1], current, 9 * rng.standard_normal(6), root @ root.T

    def value(self, moves, gradient, hessian):
        return gradient @ moves + 0.5 * moves @ hessian @ moves

    def test_one_block_is_chosen_exactly(self):
        _, current, gradient, hessian = self.model()
        codes, moves = choose_together(self.layout, [0], current[:1], gradient[:3], hessian[:3, :3])
        steps = self.layout.candidates(0) - current[0]
        values = [self.value(step, gradient[:3], hessian[:3, :3]) for step in steps]
        assert codes == [int(np.argmin(values))]
        np.testing.assert_allclose(moves, steps[codes[0]])

    def test_several_blocks_end_where_no_single_change_helps(self):
        blocks, current, gradient, hessian = self.model()
        _, moves = choose_together(self.layout, blocks, current, gradient, hessian, n_sweeps=50)
        found = self.value(moves, gradient, hessian)
        steps = [self.layout.candidates(block) - numbers for block, numbers in zip(blocks, current)]
        for block, step in itertools.product((0, 1), range(16)):
            changed = moves.copy()
            changed[3 * block : 3 * block + 3] = steps[block][step]
            assert self.value(changed, gradient, hessian) >= found - 1e-9
        best = min(
            self.value(np.concatenate([first, second]), gradient, hessian) for first in steps[0] for second in steps[1]
        )
        assert best <= found <= 0

    def test_nothing_moves_where_nothing_is_better(self):
        blocks, _, _, hessian = self.model()
        current = [self.layout.candidates(block, 7, 8)[0].astype(float) for block in blocks]
        codes, moves = choose_together(self.layout, blocks, current, np.zeros(6), hessian)
        assert codes == [None, None] and not moves.any()


def learner(layout, report=lambda message: False, parameterization="mean-kl", **changes):
    network, samples, loss, numbers, _ = problem(layout, n_rows=200)
    budget = layout.bits_per_block * math.log(2)
    posterior = PARAMETERIZATIONS[parameterization](0.3 * numbers, network.used, budget)
    log_scales = torch.zeros(len(layout.shapes), 2) - 1
    settings = LearnerSettings(
        **{"n_steps": 60, "n_steps_between_blocks": 2, "n_refinements": 2, "batch_size": 32, "seed": 5, **changes}
    )
    return Learner(network, posterior, log_scales, samples, samples, loss, settings, report)


def current_loss(state, scales):
    return mean_loss(state.network, state.numbers, scales, state.samples, state.loss)


@functools.cache
def uninterrupted(layout, parameterization):
    return learner(layout, parameterization=parameterization).run()


class TestLearner:
    def test_coded_blocks_never_change_while_others_learn(self, layout):
        state = learner(layout)
        state.train()
        seen = {}
        state.checkpoint_and_report = lambda message, fraction: seen.update(
            {int(block): state.numbers[block].clone() for block in state.order[: state.done["blocks"]]}
            if not any(not torch.equal(state.numbers[block], value) for block, value in seen.items())
            else pytest.fail("a coded block has changed")
        )
        state.code()
        assert len(seen) == layout.n_blocks
        assert all(torch.equal(state.sample()[block], value) for block, value in seen.items())

    def test_numbers_are_those_of_the_codes(self, layout):
        state = learner(layout)
        codes, scales = state.run()
        for block, code in enumerate(codes):
            assert np.array_equal(state.numbers[block].numpy(), layout.candidates(block, code, code + 1)[0])
        assert scales.dtype == np.float16 and scales.shape == (len(layout.shapes), 2)

    def test_refining_never_raises_the_loss(self, layout):
        state = learner(layout)
        state.train()
        state.code()
        curve = [current_loss(state, state.log_scales.detach().exp())]
        state.checkpoint_and_report = lambda message, fraction: curve.append(
            current_loss(state, state.log_scales.detach().exp())
        )
        state.settings = replace(state.settings, n_refinements=1)
        state.refine()
        assert len(curve) > 1 and (np.diff(curve) <= 1e-6).all() and curve[-1] < 0.995 * curve[0]

    @pytest.mark.parametrize("parameterization", ["mean-kl", "mean-var"])
    def test_learns(self, layout, parameterization):
        state = learner(layout, parameterization=parameterization, n_steps=300)
        before = current_loss(state, state.log_scales.exp())
        state.run()
        scales = torch.from_numpy(state.scales().astype(np.float32))
        assert current_loss(state, scales) < 0.95 * before

    @pytest.mark.slow
    @pytest.mark.parametrize("parameterization", ["mean-kl", "mean-var"])
    @pytest.mark.parametrize("after", [1, 37, 62, 66])
    def test_an_interrupted_run_ends_with_the_same_codes(self, layout, after, parameterization, tmp_path, monkeypatch):
        expected = uninterrupted(layout, parameterization)
        monkeypatch.setattr(random_code_learner, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        state = learner(layout, parameterization=parameterization)
        state.resume(tmp_path, "the same")
        count, report = itertools.count(1), state.checkpoint_and_report

        def interrupted(message, fraction):
            report(message, fraction)
            if next(count) == after:
                raise KeyboardInterrupt

        state.checkpoint_and_report = interrupted
        try:
            state.run()
        except KeyboardInterrupt:
            state = learner(layout, parameterization=parameterization)
            state.resume(tmp_path, "the same")
            assert sum(state.done.values()) > 0
            found = state.run()
        else:
            pytest.fail("it was not interrupted")
        assert np.array_equal(found[0], expected[0]) and np.array_equal(found[1], expected[1])
        state.forget()
        assert not list(tmp_path.iterdir())

    def test_checkpoint_of_another_run_or_broken_is_refused_and_kept(self, tmp_path, monkeypatch):
        monkeypatch.setattr(random_code_learner, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
        layout = LAYOUTS["grid"]
        state = learner(layout)
        state.resume(tmp_path, "one")
        state.train()
        (path,) = tmp_path.iterdir()
        kept = path.read_bytes()
        with pytest.raises(ValueError, match="other rows, another wrapped network or other parameters"):
            learner(layout).resume(tmp_path, "another")
        assert path.read_bytes() == kept
        path.write_bytes(kept[:100])
        with pytest.raises(ValueError, match="cannot be read"):
            learner(layout).resume(tmp_path, "one")
        assert path.read_bytes() == kept[:100]

    def test_a_callback_can_stop_it_early(self, layout):
        messages = []
        state = learner(layout, lambda message: messages.append(message) or len(messages) == 3)
        codes, _ = state.run()
        assert state.done["steps"] < 60 and state.done["blocks"] == layout.n_blocks and len(codes) == layout.n_blocks
        assert all("s left" in message for message in messages)


def test_scales_are_tuned_downhill(layout):
    network, samples, loss, numbers, _ = problem(layout, n_rows=200)
    start = torch.zeros(len(layout.shapes), 2)
    tuned = tune_scales(network, numbers, start, samples, loss, 200, torch.Generator().manual_seed(0))
    before = mean_loss(network, numbers, start.exp(), samples, loss)
    assert mean_loss(network, numbers, tuned.exp(), samples, loss) < before
