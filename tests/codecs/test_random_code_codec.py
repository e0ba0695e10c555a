"""Random codes: bytes that decode to the same weights everywhere, and candidates that stand for a posterior."""

import hashlib
import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.fft
from scipy import stats

from distill.codecs import bits, container, cosine, generator, random_code
from distill.codecs.random_code import RANDOM_CODE, Layout, decode, encode, read
from distill.codecs.reader import Reader, StudentFileError
from distill.compressors.random_code import selection
from distill.compressors.random_code.selection import choose, log_weights
from distill.network import Network

LAYOUTS = {
    "one layer": Layout(((3, 2),), (1,), 8, 4, seed=5),
    "shared": Layout(((40, 15), (15, 4)), (6, 2), 12, 21, seed=3),
    "grid": Layout(((30, 7), (7, 3)), (1, 1), 5, 9, seed=2**32 - 1, input_shape=(5, 6), n_frequencies=8),
    "shared grid": Layout(((24, 8), (8, 1)), (3, 1), 10, 40, seed=1, input_shape=(2, 3, 4), n_frequencies=20),
    "one weight": Layout(((1, 1),), (1,), 24, 2, seed=0),
}


def fill(layout, seed=0):
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 1 << layout.bits_per_block, layout.n_blocks)
    return codes, rng.uniform(0.1, 2, (len(layout.shapes), 2)).astype(np.float16)


def student(layout, seed=0):
    codes, scales = fill(layout, seed)
    layers = layout.layers(layout.numbers(codes), scales)
    network = Network(tuple(layer.weight for layer in layers), tuple(layer.bias for layer in layers))
    return network, encode(layout, codes, scales)


@pytest.fixture(params=LAYOUTS, ids=str)
def layout(request):
    return LAYOUTS[request.param]


class TestFile:
    def test_weights_return_bit_for_bit(self, layout):
        network, section = student(layout)
        contents = container.decode(container.pack(network, [section]))
        for found, expected in zip(
            contents.network.weights + contents.network.biases, network.weights + network.biases
        ):
            assert found.dtype == np.float32 and np.array_equal(found, expected)
        assert contents.codecs == ("random code",)

    def test_size_is_head_scales_and_packed_codes(self, layout):
        codes, scales = fill(layout)
        payload = encode(layout, codes, scales).payload
        reader = Reader(payload)
        decode(reader, list(layout.shapes))
        reader.finish()
        assert reader.parts["codes"] == bits.packed_size(layout.n_blocks, layout.bits_per_block)
        assert reader.parts["scales"] == 4 * len(layout.shapes)
        assert sum(reader.parts.values()) == len(payload)

    def test_read_returns_what_encode_was_given(self, layout):
        codes, scales = fill(layout)
        found, read_codes, read_scales = read(Reader(encode(layout, codes, scales).payload), list(layout.shapes))
        assert found == layout
        assert np.array_equal(read_codes, codes) and np.array_equal(read_scales, scales)

    def test_a_missing_or_an_extra_byte_is_refused(self, layout):
        network, section = student(layout)
        for payload in (section.payload[:-1], section.payload + b"\0", b""):
            with pytest.raises(StudentFileError):
                container.pack(network, [random_code.Section(RANDOM_CODE, payload)])

    def test_padding_bits_must_be_zero(self):
        layout = LAYOUTS["grid"]
        payload = bytearray(encode(layout, *fill(layout)).payload)
        assert layout.n_blocks * layout.bits_per_block % 8
        payload[-1] |= 0x80
        with pytest.raises(StudentFileError, match="not zero"):
            read(Reader(bytes(payload)), list(layout.shapes))

    @pytest.mark.parametrize(
        "position, value", [(0, 3), (0, 25), (1, 0x80), (2, 0), (2, 90), (3, 0), (4, 9), (3, 0x7F)]
    )
    def test_impossible_settings_are_refused(self, position, value):
        layout = LAYOUTS["one layer"]
        payload = bytearray(encode(layout, *fill(layout)).payload)
        payload[position] = value
        with pytest.raises(StudentFileError):
            decode(Reader(bytes(payload)), list(layout.shapes))

    @pytest.mark.parametrize("number", [b"\x00\x7c", b"\x00\x7e", b"\x00\xbc", b"\x00\x80"])
    def test_negative_and_infinite_scales_are_refused(self, number):
        layout = LAYOUTS["one layer"]
        payload = bytearray(encode(layout, *fill(layout)).payload)
        payload[5:7] = number
        with pytest.raises(StudentFileError, match="scales"):
            read(Reader(bytes(payload)), list(layout.shapes))

    def test_writer_refuses_what_the_reader_would(self):
        layout = LAYOUTS["one layer"]
        codes, scales = fill(layout)
        with pytest.raises(ValueError, match="one per block"):
            encode(layout, codes[:-1], scales)
        with pytest.raises(ValueError, match="scales"):
            encode(layout, codes, -scales)
        with pytest.raises(ValueError, match="to fit 8 bits"):
            encode(layout, codes + 256, scales)
        with pytest.raises(ValueError, match="too much work"):
            encode(Layout(((2**16, 2**10),), (1,), 8, 4, 0, (2**16,), 2**16), codes, scales)
        with pytest.raises(ValueError, match="does not hold"):
            encode(Layout(((3, 2),), (1,), 8, 4, 0, (2, 2), 3), codes, scales)


class TestDecoder:
    def test_one_code_changes_its_block_and_nothing_else(self, layout):
        codes, _ = fill(layout)
        places = layout.places()
        before = layout.numbers(codes)
        for block in range(layout.n_blocks):
            changed = codes.copy()
            changed[block] ^= 1
            moved = np.flatnonzero(layout.numbers(changed) != before)
            assert set(moved) <= set(places[block]) and len(moved)

    def test_blocks_hold_every_number_once(self, layout):
        places = layout.places()
        assert sorted(places[places >= 0]) == list(range(layout.n_numbers))
        assert (places[:, :-1] >= 0).all()

    def test_numbers_are_the_chosen_candidates(self, layout):
        codes, _ = fill(layout)
        numbers, places = layout.numbers(codes), layout.places()
        for block, code in enumerate(codes):
            used = places[block] >= 0
            expected = layout.candidates(block, int(code), int(code) + 1)[0]
            assert np.array_equal(numbers[places[block][used]], expected[used])

    def test_sharing_is_even_and_half_negative(self):
        layout = LAYOUTS["shared"]
        index, sign = layout.sharing(0)
        assert set(np.bincount(index)) == {6} and set(np.bincount(index, weights=sign)) == {0}
        assert np.array_equal(layout.sharing(1)[0] // 1, layout.sharing(1)[0])
        weight = layout.layers(layout.numbers(fill(layout)[0]), np.ones((2, 2), np.float16))[0].weight
        assert len(np.unique(np.abs(weight))) == 100

    def test_weights_of_known_codes(self):
        found = {}
        for name, layout in LAYOUTS.items():
            digest = hashlib.sha256()
            codes = np.arange(layout.n_blocks) * 2654435761 % (1 << layout.bits_per_block)
            for layer in layout.layers(layout.numbers(codes), np.ones((len(layout.shapes), 2), np.float16)):
                digest.update(layer.weight.astype("<f4").tobytes() + layer.bias.astype("<f4").tobytes())
            found[name] = digest.hexdigest()[:16]
        assert found == KNOWN

    def test_decodes_alike_in_any_process_with_numpy_alone(self):
        script = (
            "import sys; sys.modules.update(torch=None, sklearn=None, scipy=None)\n"
            "import hashlib; from distill.codecs import container\n"
            "network = container.decode(sys.stdin.buffer.read()).network\n"
            "print(hashlib.sha256(b''.join(a.tobytes() for a in network.weights + network.biases)).hexdigest())"
        )
        layout = LAYOUTS["shared grid"]
        network, section = student(layout)
        data = container.pack(network, [section])
        expected = hashlib.sha256(b"".join(a.tobytes() for a in network.weights + network.biases)).hexdigest()
        for threads in ("1", "2"):
            environment = {"OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
            run = subprocess.run(
                [sys.executable, "-c", script], input=data, capture_output=True, check=True, env=environment
            )
            assert run.stdout.decode().strip() == expected


class TestEncoder:
    layout = Layout(((20, 2),), (1,), 14, 6, seed=11)

    def posterior(self, kappa):
        """Return means and ln variances of 7 numbers with a divergence of `kappa` nats, by bisection."""
        rng = np.random.default_rng(2)
        mean = rng.standard_normal(7) * np.sqrt(kappa) / 4
        low, high = 1e-12, 1.0
        for _ in range(200):
            variance = math.sqrt(low * high)
            divergence = 0.5 * (mean**2 + variance - 1 - math.log(variance)).sum()
            low, high = (variance, high) if divergence > kappa else (low, variance)
        return mean, np.full(7, math.log(variance))

    def test_log_weights_are_those_of_scipy(self):
        mean, log_variance = self.posterior(3.0)
        candidates = self.layout.candidates(2, 0, 50)
        std = np.exp(0.5 * log_variance)
        posterior = stats.norm.logpdf(candidates, mean, std).sum(axis=1)
        prior = stats.norm.logpdf(candidates).sum(axis=1)
        for found, expected in (
            (log_weights(candidates, mean, log_variance), posterior - prior),
            (log_weights(candidates, mean, log_variance, against_prior=False), posterior),
        ):
            np.testing.assert_allclose(found - found[0], expected - expected[0], rtol=1e-5, atol=1e-5)

    @pytest.mark.slow
    def test_drawn_candidates_have_the_posteriors_mean_and_variance(self):
        # 3 nats against 14 bits of candidates: importance sampling is almost exact. The weight without the prior's 1/2
        # (as in the method's public code) would shrink the variance and move the mean.
        mean, log_variance = self.posterior(3.0)
        drawn = []
        for seed in range(150):
            layout = Layout(((20, 2),), (1,), 14, 6, seed=seed)
            for block in range(6):
                code = choose(layout, block, mean, log_variance, "sample", seed=seed)
                drawn.append(layout.candidates(block, code, code + 1)[0])
        drawn = np.array(drawn, dtype=np.float64)
        std = np.exp(0.5 * log_variance)
        error = (drawn.mean(axis=0) - mean) / (std / np.sqrt(len(drawn)))
        assert np.abs(error).max() < 4
        ratio = drawn.var(axis=0) / std**2
        # Standard error of a variance from n draws is sqrt(2 / n)
        assert np.abs(ratio - 1).max() < 4.5 * math.sqrt(2 / len(drawn))

    def test_order_of_the_rules(self):
        # "nearest" is nearest by construction; an exact draw would have a distance of 1
        mean, log_variance = self.posterior(14 * math.log(2))
        distance = {}
        for rule in ("sample", "argmax", "nearest"):
            chosen = []
            for block in range(6):
                for seed in range(20):
                    layout = Layout(((20, 2),), (1,), 14, 6, seed=seed)
                    code = choose(layout, block, mean, log_variance, rule, seed=seed)
                    chosen.append(layout.candidates(block, code, code + 1)[0])
            distance[rule] = np.mean((np.array(chosen) - mean) ** 2 / np.exp(log_variance))
        assert distance["nearest"] < distance["argmax"] < distance["sample"]
        assert 1.0 < distance["sample"] < 1.8 and distance["nearest"] < 1.5

    @pytest.mark.parametrize("rule", ["sample", "argmax", "nearest"])
    def test_code_does_not_depend_on_chunk_size(self, rule, monkeypatch):
        mean, log_variance = self.posterior(9.0)
        whole = [choose(self.layout, block, mean, log_variance, rule) for block in range(6)]
        for size in (1, 100, 7 * 1000, 1 << 16):
            monkeypatch.setattr(selection, "CHUNK_VALUES", size if size > 1 else 7 * 50)
            assert [choose(self.layout, block, mean, log_variance, rule) for block in range(6)] == whole

    def test_every_rule_takes_the_nearest_candidate_of_a_sharp_posterior(self):
        target = self.layout.candidates(3, 12345, 12346)[0].astype(np.float64)
        for rule in ("sample", "argmax", "nearest"):
            assert choose(self.layout, 3, target, np.full(7, -30.0), rule) == 12345

    def test_random_access_to_candidates_equals_sequential(self):
        every = self.layout.candidates(4)
        assert every.shape == (1 << 14, 7)
        assert np.array_equal(self.layout.candidates(4, 700, 703), every[700:703])
        assert np.array_equal(generator.normals(11, 4, 9999, 7), every[9999])


class TestWaves:
    @pytest.mark.parametrize("extent", [1, 2, 3, 7, 28, 501])
    def test_are_those_of_scipy(self, extent):
        expected = scipy.fft.dct(np.eye(extent), axis=0, norm="ortho")
        np.testing.assert_allclose(cosine.waves(extent, extent), expected, atol=2e-8)

    @pytest.mark.parametrize("shape", [(9,), (4, 6), (3, 2, 5)])
    def test_all_waves_are_the_inverse_transform(self, shape):
        n_inputs = math.prod(shape)
        amplitudes = np.random.default_rng(0).standard_normal((n_inputs, 2)).astype(np.float32)
        numbers = cosine.lowest_frequencies(shape, n_inputs)
        grid = np.zeros((*shape, 2))
        grid[tuple(numbers.T)] = amplitudes
        expected = scipy.fft.idctn(grid, axes=range(len(shape)), norm="ortho").reshape(n_inputs, 2)
        np.testing.assert_allclose(cosine.synthesize(amplitudes, shape), expected, atol=1e-6)

    def test_slow_waves_come_first(self):
        numbers = cosine.lowest_frequencies((8, 4), 32)
        speed = ((numbers / [8, 4]) ** 2).sum(axis=1)
        assert (np.diff(speed) >= 0).all() and len(np.unique(numbers, axis=0)) == 32

    def test_work_is_never_underestimated(self):
        for shape, n_frequencies in (((6, 5), 7), ((12,), 4), ((2, 3, 4), 24)):
            extents = cosine.lowest_frequencies(shape, n_frequencies).max(axis=0) + 1
            made, current = 0, list(extents)
            for axis, extent in enumerate(shape):
                current[axis] = extent
                made += extents[axis] * math.prod(current) * 3
            assert made <= cosine.synthesis_work(shape, n_frequencies, 3)


KNOWN = {
    "one layer": "13bcf95949ab3618",
    "shared": "891711a086b23b65",
    "grid": "9cc9a01f46865202",
    "shared grid": "597c94e9fba611a2",
    "one weight": "1cd9c1aa4b0e7b78",
}
