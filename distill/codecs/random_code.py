"""Random code codec: weights are indices into lists of random numbers, which are generated from a seed in the file.

All weights of a network, in a shuffled order, are cut into blocks. For every block the reader generates 2**bits
candidates, lists of standard normal numbers; the file stores the index of one (Havasi, Peharz and Hernandez-Lobato,
"Minimal Random Code Learning", arXiv 1810.00440). A weight is a random number times a scale of its layer. Large layers
may have fewer random numbers than weights: each stands for several weights, chosen at random (Chen, Wilson, Tyree,
Weinberger and Chen, "Compressing Neural Networks with the Hashing Trick", ICML 2015). Where the inputs are a grid, the
random numbers of the first layer may be amplitudes of cosine waves.

The payload is: bits per block (one byte); seed, number of blocks, a sharing factor for every layer, and number of axes
of the grid (varints); if there are axes, their extents and the number of waves (varints); scales of weights and of
biases for every layer (float16); the codes, packed.

The small random code is the same from arithmetic of 32 bits, a table of 256 normal numbers, and an order that is
computed from place to place instead of a sorted one, so that a microcontroller can compute each weight where it is
needed. It has no sharing factors.
"""

from dataclasses import dataclass
from math import prod

import numpy as np

from distill.codecs import bits, cosine, generator
from distill.codecs.reader import Reader, StudentFileError, varint
from distill.codecs.sections import RANDOM_CODE, SMALL_RANDOM_CODE, Layer, Section

MIN_BITS, MAX_BITS = 4, 24

# Stream of the shuffled order; stream l + 1 is the weight sharing of layer l
_BLOCKS = 0
_MAX_SEED = 2**32 - 1
# Axes of the grid of inputs, at most
_MAX_AXES = 8
# Largest number of multiplications of the synthesis from waves: a few bytes of a damaged file could demand more
_MAX_WORK = 2**28


@dataclass(frozen=True)
class Layout:
    """The positions of the random numbers in a network: all settings of the codec.

    Parameters
    ----------
    shapes : tuple of (int, int)
        (n_inputs, n_outputs) of every layer.
    hash_factors : tuple of int
        Largest number of weights for one random number, in each layer; 1 without weight sharing.
    bits_per_block : int in [4, 24]
    n_blocks : int
    seed : int in [0, 2**32)
    input_shape : tuple of int
        Extents of the grid of inputs; empty if there is none.
    n_frequencies : int
        With a grid: number of cosine waves of the weights of the first layer.
    small : bool
        Whether numbers are those of the small random code; without weight sharing.

    Examples
    --------
    >>> layout = Layout(((784, 100), (100, 10)), (8, 1), bits_per_block=12, n_blocks=650)
    >>> layout.n_numbers, layout.block_size
    (10910, 17)
    """

    shapes: tuple[tuple[int, int], ...]
    hash_factors: tuple[int, ...]
    bits_per_block: int
    n_blocks: int
    seed: int = 0
    input_shape: tuple[int, ...] = ()
    n_frequencies: int = 0
    small: bool = False

    @property
    def shared_shapes(self) -> list[tuple[int, int]]:
        """Shape of the coded matrix of every layer: its weights, or amplitudes of waves."""
        n_inputs = self.n_frequencies if self.input_shape else self.shapes[0][0]
        return [(n_inputs, self.shapes[0][1]), *self.shapes[1:]]

    @property
    def sizes(self) -> list[int]:
        """Counts of random numbers: weights of the first layer, its biases, weights of the second layer, ..."""
        sizes = []
        for (n_inputs, n_outputs), factor in zip(self.shared_shapes, self.hash_factors):
            sizes += [-(-n_inputs * n_outputs // factor), n_outputs]
        return sizes

    @property
    def n_numbers(self) -> int:
        """Count of random numbers in the network."""
        return sum(self.sizes)

    @property
    def block_size(self) -> int:
        """Count of random numbers in the first block; later blocks may have one less."""
        return -(-self.n_numbers // self.n_blocks)

    def sharing(self, layer: int) -> tuple[np.ndarray, np.ndarray]:
        """Return index and sign of the random number of each weight of a layer.

        Parameters
        ----------
        layer : int
            Index of the layer.

        Returns
        -------
        index : ndarray of shape (n_weights,), int64
            Counted from the first random number of the layer; the weights are in row order.
        sign : ndarray of shape (n_weights,), float32
            -1 for half of the weights of each random number: with equal signs, correlated inputs would add up.
        """
        n_weights, factor = prod(self.shared_shapes[layer]), self.hash_factors[layer]
        if factor == 1:
            return np.arange(n_weights), np.ones(n_weights, np.float32)
        index, sign = np.empty(n_weights, np.int64), np.empty(n_weights, np.float32)
        order = generator.permutation(self.seed, layer + 1, n_weights)
        index[order], turn = np.divmod(np.arange(n_weights), factor)
        sign[order] = 1 - 2 * (turn % 2)
        return index, sign

    def places(self) -> np.ndarray:
        """Return the random number, by index, at each place of each block, -1 for none.

        Returns
        -------
        ndarray of shape (n_blocks, block_size), int64
        """
        order = np.full(self.n_blocks * self.block_size, -1)
        order[: self.n_numbers] = self._order()
        return order.reshape(self.block_size, self.n_blocks).T

    def _order(self) -> np.ndarray:
        """Return the random number, by index, at each place; the places of all blocks take turns."""
        if not self.small:
            return generator.permutation(self.seed, _BLOCKS, self.n_numbers)
        # The inverse of a stride is a stride, too; in place, since a forged file may demand the memory
        order = np.arange(self.n_numbers)
        order *= pow(self.place(1), -1, self.n_numbers)
        order %= self.n_numbers
        return order.astype(np.int32)

    def place(self, number: int) -> int:
        """Return the place of a random number of a small random code."""
        return number * generator.small_stride(self.n_numbers) % self.n_numbers

    def _normals(self, block: int | np.ndarray, code: np.ndarray) -> np.ndarray:
        """Return the candidates of these codes; ndarray of shape (*shape of block and code, block_size), float32."""
        if self.small:
            keys = (np.asarray(block, np.uint64) << np.uint64(self.bits_per_block)) + np.asarray(code, np.uint64)
            return generator.small_normals(self.seed, keys, self.block_size)
        return generator.normals(self.seed, block, code, self.block_size)

    def candidates(self, block: int, start: int = 0, stop: int | None = None) -> np.ndarray:
        """Return candidates of a block.

        Parameters
        ----------
        block, start, stop : int
            Index of the block, and a range of codes; by default all.

        Returns
        -------
        ndarray of shape (stop - start, block_size), float32
        """
        stop = 1 << self.bits_per_block if stop is None else stop
        return self._normals(block, np.arange(start, stop))

    def numbers(self, codes: np.ndarray) -> np.ndarray:
        """Return the random numbers of the candidates of these codes; ndarray of shape (n_numbers,), float32."""
        if self.small:
            return generator.small_normal_table()[self.indices(codes)]
        chosen = self._normals(np.arange(self.n_blocks), codes)
        numbers = np.empty(self.n_numbers, np.float32)
        numbers[self._order()] = chosen.T.reshape(-1)[: self.n_numbers]
        return numbers

    def indices(self, codes: np.ndarray) -> np.ndarray:
        """Return the indices of the numbers of a small random code in their table; ndarray of shape (n_numbers,)."""
        keys = (np.arange(self.n_blocks, dtype=np.uint64) << np.uint64(self.bits_per_block)) + codes.astype(np.uint64)
        indices = np.empty(self.n_numbers, np.uint8)
        chosen = generator.small_indices(self.seed, keys, self.block_size)
        indices[self._order()] = chosen.T.reshape(-1)[: self.n_numbers]
        return indices

    def layers(self, numbers: np.ndarray, scales: np.ndarray) -> list[Layer]:
        """Return the network's layers.

        Parameters
        ----------
        numbers : ndarray of shape (n_numbers,), float32
            Random numbers; see `numbers`.
        scales : ndarray of shape (n_layers, 2), float16
            Scales of the weights and of the biases of each layer.

        Returns
        -------
        list of Layer
        """
        shared = self.shared_layers(numbers)
        if self.input_shape:
            shared[0] = shared[0]._replace(weight=cosine.synthesize(shared[0].weight, self.input_shape))
        factors = scales.astype(np.float32)
        return [
            Layer(layer.weight * of_weights, layer.bias * of_biases)
            for layer, (of_weights, of_biases) in zip(shared, factors)
        ]

    def shared_layers(self, numbers: np.ndarray) -> list[Layer]:
        """Return the layers before their scales, with amplitudes of waves as the first weights; see `layers`."""
        parts = iter(np.split(numbers, np.cumsum(self.sizes)[:-1]))
        layers = []
        for layer, shape in enumerate(self.shared_shapes):
            index, sign = self.sharing(layer)
            layers.append(Layer((next(parts)[index] * sign).reshape(shape), next(parts)))
        return layers

    def check(self) -> None:
        """Raise ValueError if a setting is out of range."""
        if not MIN_BITS <= self.bits_per_block <= MAX_BITS:
            raise ValueError(f"bits per block must be in [{MIN_BITS}, {MAX_BITS}], got {self.bits_per_block}")
        if not 0 <= self.seed <= _MAX_SEED:
            raise ValueError(f"seed must be in [0, {_MAX_SEED}], got {self.seed}")
        if self.input_shape:
            n_inputs, n_outputs = self.shapes[0]
            if len(self.input_shape) > _MAX_AXES or min(self.input_shape) < 1 or prod(self.input_shape) != n_inputs:
                raise ValueError(f"a grid of {self.input_shape} does not hold {n_inputs} inputs")
            if not 1 <= self.n_frequencies <= n_inputs:
                raise ValueError(f"the number of waves must be in [1, {n_inputs}], got {self.n_frequencies}")
            if cosine.synthesis_work(self.input_shape, self.n_frequencies, n_outputs) > _MAX_WORK:
                raise ValueError(
                    f"{self.n_frequencies} waves on a grid of {self.input_shape} are too much work to decode"
                )
        for layer, (shape, factor) in enumerate(zip(self.shared_shapes, self.hash_factors)):
            if not 1 <= factor <= prod(shape):
                raise ValueError(f"the hash factor of layer {layer} must be in [1, {prod(shape)}], got {factor}")
        if self.small and set(self.hash_factors) != {1}:
            raise ValueError(
                f"the small random code shares no weights; hash factors must be 1, got {self.hash_factors}"
            )
        if not 1 <= self.n_blocks <= self.n_numbers:
            raise ValueError(f"the number of blocks must be in [1, {self.n_numbers}], got {self.n_blocks}")


def encode(layout: Layout, codes: np.ndarray, scales: np.ndarray) -> Section:
    """Write all layers.

    Parameters
    ----------
    layout : Layout
    codes : ndarray of shape (n_blocks,), ints in [0, 2**bits_per_block)
    scales : ndarray of shape (n_layers, 2), float16

    Returns
    -------
    Section

    Raises
    ------
    ValueError
        If the layout, a code or a scale is out of range.

    Examples
    --------
    >>> layout = Layout(((3, 2),), (1,), bits_per_block=8, n_blocks=4, seed=5)
    >>> section = encode(layout, np.array([7, 0, 255, 31]), np.ones((1, 2), np.float16))
    >>> section.payload.hex()
    '0805040100003c003c0700ff1f'
    >>> decode(Reader(section.payload), [(3, 2)])[0].weight.shape
    (3, 2)
    """
    layout.check()
    codes, scales = np.asarray(codes), np.asarray(scales, "<f2")
    if codes.shape != (layout.n_blocks,):
        raise ValueError(f"there must be {layout.n_blocks} codes, one per block, got shape {codes.shape}")
    if scales.shape != (len(layout.shapes), 2) or not _are_scales(scales):
        raise ValueError(f"scales must be two finite values >= 0 per layer, got {scales.tolist()}")
    factors = () if layout.small else layout.hash_factors
    settings = [layout.seed, layout.n_blocks, *factors, len(layout.input_shape)]
    if layout.input_shape:
        settings += [*layout.input_shape, layout.n_frequencies]
    head = bytes([layout.bits_per_block]) + b"".join(map(varint, settings))
    return Section(
        SMALL_RANDOM_CODE if layout.small else RANDOM_CODE,
        head + scales.tobytes() + bits.pack(codes, layout.bits_per_block),
    )


def decode(reader: Reader, shapes: list[tuple[int, int]]) -> list[Layer]:
    """Read all layers; see `distill.codecs.sections`."""
    layout, codes, scales = read(reader, shapes)
    return layout.layers(layout.numbers(codes), scales)


def decode_small(reader: Reader, shapes: list[tuple[int, int]]) -> list[Layer]:
    """Read all layers of a small random code; see `distill.codecs.sections`."""
    layout, codes, scales = read(reader, shapes, small=True)
    return layout.layers(layout.numbers(codes), scales)


def read(reader: Reader, shapes: list[tuple[int, int]], small: bool = False) -> tuple[Layout, np.ndarray, np.ndarray]:
    """Read layout, codes and scales without computing the weights.

    Parameters
    ----------
    reader : Reader
    shapes : list of tuple
        (n_inputs, n_outputs) of all layers.
    small : bool
        Whether the section is of the small random code.

    Returns
    -------
    layout : Layout
    codes : ndarray of shape (n_blocks,), uint32
    scales : ndarray of shape (n_layers, 2), float16

    Raises
    ------
    StudentFileError
        If the bytes are damaged or were not written for these layers.
    """
    bits_per_block = reader.byte("settings")
    seed, n_blocks = reader.varint("settings", _MAX_SEED), reader.varint("settings")
    hash_factors = tuple(1 if small else reader.varint("settings") for _ in shapes)
    input_shape: tuple[int, ...] = ()
    n_frequencies = 0
    if n_axes := reader.varint("settings", _MAX_AXES):
        input_shape = tuple(reader.varint("settings") for _ in range(n_axes))
        n_frequencies = reader.varint("settings")
    layout = Layout(tuple(shapes), hash_factors, bits_per_block, n_blocks, seed, input_shape, n_frequencies, small)
    try:
        layout.check()
    except ValueError as error:
        raise StudentFileError(f"{reader.where}: {error}") from error
    scales = reader.array("<f2", 2 * len(shapes), "scales").reshape(-1, 2)
    if not _are_scales(scales):
        raise StudentFileError(f"{reader.where} has scales that are negative or not finite")
    codes = bits.unpack(reader.take(bits.packed_size(n_blocks, bits_per_block), "codes"), bits_per_block, n_blocks)
    return layout, codes, scales


def _are_scales(scales: np.ndarray) -> bool:
    """Return whether scales are finite and not negative; -0 would be a second code of 0."""
    return bool(np.isfinite(scales).all() and not np.signbit(scales).any())
