"""A reader of student files written from docs/format.md alone, in plain Python, to hold the documentation to its word.

It shares no code with the package, checks little, and is slow.
"""

import itertools
import math
import statistics
import struct
import zlib

import independent_tables

ACTIVATIONS = [
    lambda x: x,
    lambda x: max(x, 0.0),
    math.tanh,
    lambda x: 1 / (1 + math.exp(-x)),
]
TARGETS = ["predict", "predict_proba", "transform", "decision_function"]
OUTPUTS = ["identity", "softmax", "logistic", "relu"]


class Bytes:
    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, count):
        assert self.at + count <= len(self.data)
        self.at += count
        return self.data[self.at - count : self.at]

    def byte(self):
        return self.take(1)[0]

    def varint(self):
        value = shift = 0
        while True:
            byte = self.byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    def zigzag(self):
        value = self.varint()
        return -(value + 1) // 2 if value % 2 else value // 2

    def string(self):
        return self.take(self.varint()).decode()

    def numbers(self, kind, count):
        letter = {"u1": "B", "u2": "H", "f2": "e", "f4": "f", "f8": "d"}[kind]
        return list(struct.unpack(f"<{count}{letter}", self.take(struct.calcsize(letter) * count)))

    def packed(self, width, count):
        number = int.from_bytes(self.take((count * width + 7) // 8), "little")
        return [number >> index * width & (1 << width) - 1 for index in range(count)]

    def half_array(self, count):
        exponent = struct.unpack("<b", self.take(1))[0]
        return [math.ldexp(value, exponent) for value in self.numbers("f2", count)]


def read(data):
    """Return the network in a file as a dict."""
    assert data[:4] == b"MBNS"
    assert data[4] == 1
    assert zlib.crc32(data[:-4]) == int.from_bytes(data[-4:], "little")
    file = Bytes(data[5:-4])
    kind = file.byte()
    network = {
        "activation": kind & 7,
        "target": TARGETS[kind >> 3 & 3],
        "output": OUTPUTS[kind >> 5 & 3],
        "squeeze": bool(kind >> 7),
        "classes": None,
        "names": None,
        "offset": None,
        "scale": None,
        "clip": None,
        "missing": False,
        "output_offset": None,
        "output_scale": None,
        "layers": [],
        "variances": [],
        "steps": [],
        "table": None,
    }
    n_layers = file.varint()
    sizes = [file.varint() for _ in range(n_layers + 1)]
    n_features = sizes[0]
    while file.at < len(file.data):
        kind = file.byte()
        section = Bytes(file.take(file.varint()))
        if kind == 5:
            network["table"] = independent_tables.read_table(section, Bytes, read_steps)
            n_features = network["table"]["n_columns"]
        elif kind == 0:
            found, network["steps"] = read_steps(section)
            n_features = n_features if network["table"] else found
        elif kind == 1:
            network["classes"] = read_classes(section)
        elif kind == 2:
            network["names"] = read_names(section, n_features)
        elif kind == 3:
            read_input(section, sizes[0], network)
        elif kind == 4:
            flags = section.byte()
            for shared, name in ((1, "output_offset"), (4, "output_scale")):
                if flags & shared:
                    network[name] = section.numbers("f8", 1) * sizes[-1]
                elif flags & 2 * shared:
                    network[name] = section.numbers("f8", sizes[-1])
        else:
            index = len(network["layers"])
            if kind in (20, 21):
                network["layers"] += read_random_code(section, list(itertools.pairwise(sizes)), kind == 21)
            else:
                weights, biases, *variances = LAYERS[kind](section, sizes[index], sizes[index + 1])
                network["layers"].append((weights, biases))
                network["variances"] += variances
        assert section.at == len(section.data)
    assert len(network["layers"]) == n_layers
    return network


def read_input(section, n_inputs, network):
    flags = section.varint()
    used = section.packed(1, n_inputs) if flags & 512 else [1] * n_inputs
    for shared, double, name in ((1, 128, "offset"), (4, 256, "scale")):
        kind = "f8" if flags & double else "f4"
        if flags & shared:
            network[name] = section.numbers(kind, 1) * n_inputs
        elif flags & 2 * shared:
            numbers = iter(section.numbers(kind, sum(used)))
            network[name] = [next(numbers) if is_used else 0.0 for is_used in used]
    if flags & 32:
        network["clip"] = section.numbers("f4", 1)[0]
    network["missing"] = bool(flags & 64)


def read_steps(section):
    n_features = width = section.varint()
    steps = []
    for _ in range(section.byte()):
        flags = section.byte()
        operation = flags & 7
        if operation == 6:
            choices = section.byte()
            sizes = [section.varint() for _ in range(3 if choices & 8 else 2)]
            blur = section.numbers("f4", 1)[0] if choices & 16 else 0
            values = choices, (*sizes, 1)[:3], blur
        elif operation == 5:
            n_outputs = section.varint()
            numbers = section.numbers("f4", width * n_outputs)
            values = [numbers[row * n_outputs : (row + 1) * n_outputs] for row in range(width)]
            width = n_outputs
        else:
            count = 2 if operation == 4 else 1 if flags & 8 else width
            values = section.numbers("f4" if flags & 16 else "f8", count)
            values = values * width if flags & 8 else values
        steps.append((operation, values))
    return n_features, steps


def take_step(operation, values, row):
    if operation == 4:
        return [min(max(x, values[0]), values[1]) for x in row]
    if operation == 5:
        return [sum(x * weight for x, weight in zip(row, column)) for column in zip(*values)]
    if operation == 6:
        return move_image(*values, row)
    calculate = [lambda x, v: x - v, lambda x, v: x / v, lambda x, v: x * v, lambda x, v: x + v][operation]
    return list(map(calculate, row, values))


def move_image(choices, shape, blur, row):
    h, w, n_channels = shape
    channels = [[row[(i * w + j) * n_channels + k] for i in range(h) for j in range(w)] for k in range(n_channels)]
    least = [min(channel) for channel in channels]
    channels = [[x - low for x in channel] for channel, low in zip(channels, least)]
    pixels = [(i, j, sum(channel[i * w + j] for channel in channels)) for i in range(h) for j in range(w)]
    m = sum(g for _, _, g in pixels) or 1
    r, q = sum(g * i for i, _, g in pixels) / m, sum(g * j for _, j, g in pixels) / m
    v = sum(g * (i - r) ** 2 for i, _, g in pixels)
    u = sum(g * (j - q) ** 2 for _, j, g in pixels)
    t = sum(g * (i - r) * (j - q) for i, j, g in pixels)
    a = t / v if choices & 2 and v > 1e-9 * m else 0
    s = math.sqrt(32 / 3 * ((v / m + 1 / 12) / h**2 + ((u - a * t) / m + 1 / 12) / w**2)) if choices & 4 else 1
    i0, j0 = ((h - 1) / 2, (w - 1) / 2) if choices & 1 else (r, q)
    moved = []
    for channel in channels:
        image = []
        for i in range(h):
            y = r + s * (i - i0)
            image.append([value_at(channel, h, w, y, q + s * (j - j0) + a * (y - r)) for j in range(w)])
        if blur:
            image = [smooth(line, blur) for line in zip(*image)]
            image = [smooth(line, blur) for line in zip(*image)]
        moved.append(image)
    return [moved[k][i][j] + least[k] for i in range(h) for j in range(w) for k in range(n_channels)]


def value_at(channel, h, w, y, x):
    total, top, left = 0.0, math.floor(y), math.floor(x)
    for i, by_row in ((top, top + 1 - y), (top + 1, y - top)):
        for j, by_column in ((left, left + 1 - x), (left + 1, x - left)):
            if 0 <= i < h and 0 <= j < w:
                total += by_row * by_column * channel[i * w + j]
    return total


def smooth(line, blur):
    reach = math.ceil(4 * blur)
    heights = {n: math.exp(-(n**2) / (2 * blur**2)) for n in range(-reach, reach + 1)}
    total = sum(heights.values())
    return [sum(heights.get(n - at, 0) * x for n, x in enumerate(line)) / total for at in range(len(line))]


def read_classes(section):
    count, way = section.varint(), section.byte()
    if way == 0:
        first = section.zigzag()
        return list(range(first, first + count))
    if way == 1:
        return [section.zigzag() for _ in range(count)]
    if way == 2:
        return [section.string() for _ in range(count)]
    if way == 3:
        return [bool(value) for value in section.numbers("u1", count)]
    return section.numbers("f8", count)


def read_names(section, count):
    names = section
    if section.byte() == 1:
        length = section.varint()
        names = Bytes(zlib.decompress(section.take(len(section.data) - section.at), wbits=-15))
        assert len(names.data) == length
    return [names.string() for _ in range(count)]


def read_dense(kind):
    def layer(section, n_inputs, n_outputs):
        weights = [section.numbers(kind, n_outputs) for _ in range(n_inputs)]
        return weights, section.numbers(kind, n_outputs)

    return layer


def read_codebook(section, n_inputs, n_outputs):
    flags, n_codewords, n_groups = section.byte(), section.byte() + 1, section.varint()
    if flags & 2:
        groups = section.packed(math.ceil(math.log2(n_groups)), n_outputs)
    else:
        sizes = [section.varint() for _ in range(n_groups - 1)]
        sizes.append(n_outputs - sum(sizes))
        groups = [group for group, size in enumerate(sizes) for _ in range(size)]
    used = [1] * n_inputs
    if flags & 4:
        used = read_symbols(section, n_inputs, 2) if flags & 8 else section.packed(1, n_inputs)
    n_codebooks = 1 if flags & 1 else n_groups
    numbers = section.half_array(n_codebooks * n_codewords)
    codebooks = [numbers[first : first + n_codewords] for first in range(0, len(numbers), n_codewords)]
    scales = section.half_array(n_groups) if flags & 1 else None
    biases = section.half_array(n_outputs)
    codes = read_codes(section, sum(used), n_outputs, n_codewords)
    codes, weights = iter(codes), []
    for is_used in used:
        weights.append([0.0] * n_outputs)
        for output in range(n_outputs if is_used else 0):
            if scales is None:
                weights[-1][output] = codebooks[groups[output]][next(codes)]
            else:
                weights[-1][output] = codebooks[0][next(codes)] * scales[groups[output]]
    return weights, biases


def read_codes(section, n_used, n_outputs, n_codewords):
    count, way = n_used * n_outputs, section.byte()
    if way == 0:
        return section.packed(math.ceil(math.log2(n_codewords)), count)
    if way == 1:
        return read_symbols(section, count, n_codewords)
    n_classes = section.byte(), section.byte()
    rows = read_symbols(section, n_used, n_classes[0])
    columns = read_symbols(section, n_outputs, n_classes[1])
    tables = []
    for _ in range(n_classes[0] * n_classes[1]):
        table = [section.varint() for _ in range(n_codewords - 1)]
        tables.append([*table, 4096 - sum(table)])
    contexts = [row * n_classes[1] + column for row in rows for column in columns]
    return read_message(section, 12, tables, contexts)


def read_sparse(section, n_inputs, n_outputs):
    flags = section.byte()
    kind, size = ("f2", 2) if flags & 1 else ("f4", 4)
    used = section.packed(1, n_inputs) if flags & 2 else [1] * n_inputs
    mask = read_codes(section, sum(used), n_outputs, 2)
    if flags & 4:
        last = read_symbols(section, sum(mask), 256)
        others = [section.take(size - 1) for _ in last]
        values = Bytes(b"".join(other + bytes([byte]) for other, byte in zip(others, last))).numbers(kind, sum(mask))
    else:
        values = section.numbers(kind, sum(mask))
    mask, values = iter(mask), iter(values)
    weights = [[next(values) if next(mask) else 0.0 for _ in range(n_outputs if u else 0)] for u in used]
    return [row or [0.0] * n_outputs for row in weights], section.numbers(kind, n_outputs)


def read_grid(section, n_inputs, n_outputs):
    flags = section.byte()
    factor = struct.unpack("<b", section.take(1))[0]
    used = [1] * n_inputs
    if flags & 1:
        used = read_symbols(section, n_inputs, 2) if flags & 2 else section.packed(1, n_inputs)
    columns = read_levels(section, n_outputs)
    rows = read_levels(section, sum(used) + 1)
    coarser = read_levels(section, len(rows)) if flags & 32 else [0] * len(rows)
    steps = [[row + more + column for column in columns] for row, more in zip(rows, coarser)]
    inner = [level for row in steps[:-1] for level in row]
    n_classes = section.byte()
    codes = [0] * len(inner)
    lowest, width = min(inner, default=0), max(inner, default=0) - min(inner, default=0) + 1
    for number in range(n_classes):
        places = [place for place, level in enumerate(inner) if (level - lowest) * n_classes // width == number]
        for place, code in zip(places, read_whole_numbers(section, len(places))):
            codes[place] = code
    codes += read_whole_numbers(section, n_outputs)
    flat = [level for row in steps for level in row]
    values = iter([code * 2 ** ((level + factor) / 4) for code, level in zip(codes, flat)])
    matrix = [[next(values) if is_used else 0.0 for _ in range(n_outputs)] for is_used in [*used, 1]]
    noise = section.numbers("f4", n_outputs) if flags & 4 else None
    degrees = section.numbers("f4", n_outputs) if flags & 16 else None
    variances = {"noise": noise, "degrees": degrees, "rows": None, "columns": None}
    if flags & 8:
        stored = iter(rows)
        variances["rows"] = [2 ** (next(stored) / 2) if is_used else 0.0 for is_used in [*used, 1]]
        variances["columns"] = [2 ** (level / 2) for level in columns]
    return matrix[:-1], matrix[-1], variances


def read_levels(section, count):
    lowest, span = struct.unpack("<h", section.take(2))[0], section.varint()
    return [lowest + symbol for symbol in read_symbols(section, count, span + 1)]


def read_whole_numbers(section, count):
    top, n_low = section.byte(), section.byte()
    high = read_symbols(section, count, top + 1)
    magnitudes = [h << n_low | low for h, low in zip(high, section.packed(n_low, count))]
    signs = iter(section.packed(1, sum(magnitude != 0 for magnitude in magnitudes)))
    return [-magnitude if magnitude and next(signs) else magnitude for magnitude in magnitudes]


def read_random_code(section, shapes, small):
    n_bits, seed, n_blocks = section.byte(), section.varint(), section.varint()
    factors = [1 if small else section.varint() for _ in shapes]
    extents = [section.varint() for _ in range(section.varint())]
    n_rows = [n_inputs for n_inputs, _ in shapes]
    if extents:
        n_rows[0] = section.varint()
    scales = [section.numbers("f2", 2) for _ in shapes]
    codes = section.packed(n_bits, n_blocks)
    counts = []
    for rows, (_, n_outputs), factor in zip(n_rows, shapes, factors):
        counts += [math.ceil(rows * n_outputs / factor), n_outputs]
    total = sum(counts)
    size = math.ceil(total / n_blocks)
    if small:
        blocks = [small_normals(seed, (block * 2**n_bits + code) % 2**32, size) for block, code in enumerate(codes)]
        order = small_order(total)
    else:
        blocks = [normals(seed, block, code, size) for block, code in enumerate(codes)]
        order = permutation(seed, 0, total)
    drawn = [block[place] for place in range(size) for block in blocks][:total]
    numbers = [0.0] * total
    for position, number in zip(order, drawn):
        numbers[position] = number
    layers, at = [], 0
    for index, (rows, (_, n_outputs), factor) in enumerate(zip(n_rows, shapes, factors)):
        own, at = numbers[at : at + counts[2 * index]], at + counts[2 * index]
        biases, at = numbers[at : at + n_outputs], at + n_outputs
        flat = own
        if factor > 1:
            flat = [0.0] * (rows * n_outputs)
            for i, entry in enumerate(permutation(seed, index + 1, len(flat))):
                flat[entry] = own[i // factor] * (-1) ** (i % factor)
        matrix = [flat[row * n_outputs : (row + 1) * n_outputs] for row in range(rows)]
        if index == 0 and extents:
            matrix = spread_waves(matrix, extents, n_outputs)
        scale, bias_scale = scales[index]
        layers.append(([[x * scale for x in row] for row in matrix], [x * bias_scale for x in biases]))
    return layers


def spread_waves(amplitudes, extents, n_outputs):
    places = list(itertools.product(*map(range, extents)))
    waves = sorted(places, key=lambda wave: sum((k / extent) ** 2 for k, extent in zip(wave, extents)))

    def height(k, x, extent):
        return math.sqrt(2 / extent) * math.cos(math.pi * k * (2 * x + 1) / (2 * extent)) if k else extent**-0.5

    weights = []
    for place in places:
        heights = [math.prod(map(height, wave, place, extents)) for wave in waves[: len(amplitudes)]]
        weights.append([sum(h * row[output] for h, row in zip(heights, amplitudes)) for output in range(n_outputs)])
    return weights


def mix(z):
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
    return z ^ z >> 31


def words(keys, count):
    state = 0
    for key in keys:
        state = mix((state + (key + 1) * 0x9E3779B97F4A7C15) % 2**64)
    return [mix((state + (i + 1) * 0x9E3779B97F4A7C15) % 2**64) for i in range(count)]


def normals(seed, block, candidate, count):
    indices = []
    for word in words((seed, 0, block, candidate), math.ceil(count / 4)):
        indices += [word >> shift & 0xFFFF for shift in (0, 16, 32, 48)]
    return [statistics.NormalDist().inv_cdf((index + 0.5) / 65536) for index in indices[:count]]


def small_mix(z):
    z = (z ^ z >> 16) * 0x7FEB352D % 2**32
    z = (z ^ z >> 15) * 0x846CA68B % 2**32
    return z ^ z >> 16


def small_normals(seed, key, count):
    start = small_mix((seed + 0x9E3779B9) % 2**32)
    state = small_mix((start + (key + 1) * 0x9E3779B9) % 2**32)
    found = []
    for index in range(math.ceil(count / 4)):
        word = small_mix((state + (index + 1) * 0x9E3779B9) % 2**32)
        found += [statistics.NormalDist().inv_cdf(((word >> shift & 0xFF) + 0.5) / 256) for shift in (0, 8, 16, 24)]
    return found[:count]


def small_order(count):
    stride = count * 40503 // 65536
    while math.gcd(stride, count) != 1:
        stride += 1
    at = {element * stride % count: element for element in range(count)}
    return [at[place] for place in range(count)]


def permutation(seed, number, count):
    drawn = words((seed, 1, number), count)
    return sorted(range(count), key=drawn.__getitem__)


LAYERS = {16: read_dense("f4"), 17: read_dense("f2"), 18: read_codebook, 22: read_grid, 24: read_sparse}


def read_symbols(section, count, n_symbols):
    precision = section.byte()
    frequencies = []
    while len(frequencies) < n_symbols - 1:
        frequencies.append(section.varint())
        if frequencies[-1] == 0:
            frequencies += [0] * section.varint()
    frequencies.append(2**precision - sum(frequencies))
    return read_message(section, precision, [frequencies], [0] * count)


def read_message(section, precision, tables, contexts):
    n_lanes, n_words = section.varint(), section.varint()
    words = section.numbers("u2", n_words)
    starts = [[sum(table[:symbol]) for symbol in range(len(table))] for table in tables]
    if n_lanes > 1:
        upper, lower, words = words[:n_lanes], words[n_lanes : 2 * n_lanes], words[2 * n_lanes :]
        states = [high << 16 | low for high, low in zip(upper, lower)]
    else:
        states = [0]
        for _ in range(min(2, len(words))):
            states[0] = states[0] << 16 | words.pop(0)
    words.reverse()
    symbols = []
    for index, context in enumerate(contexts):
        x = states[index % n_lanes]
        slot = x % 2**precision
        frequency, start = tables[context], starts[context]
        symbol = next(s for s in range(len(frequency)) if start[s] <= slot < start[s] + frequency[s])
        symbols.append(symbol)
        x = frequency[symbol] * (x >> precision) + slot - start[symbol]
        if x < 2**16 and (n_lanes > 1 or words):
            x = x << 16 | words.pop()
        states[index % n_lanes] = x
    assert not words
    assert all(state == (2**16 if n_lanes > 1 else 0) for state in states)
    return symbols


def scaled(network, row):
    """Return one row as it enters the first layer."""
    if network["table"]:
        row = independent_tables.table_row(network["table"], row, take_step)
    for step in network["steps"]:
        row = take_step(*step, row)
    if network["offset"]:
        row = [x - offset for x, offset in zip(row, network["offset"])]
    if network["scale"]:
        row = [x * scale for x, scale in zip(row, network["scale"])]
    if network["clip"]:
        row = [x if math.isnan(x) else min(max(x, -network["clip"]), network["clip"]) for x in row]
    return [0.0 if math.isnan(x) else x for x in row] if network["missing"] else row


def sums(network, row):
    """Return the outputs of the last layer for one row, in double precision."""
    row = scaled(network, row)
    activation = ACTIVATIONS[network["activation"]]
    for index, (weights, biases) in enumerate(network["layers"]):
        row = [sum(x * weight[output] for x, weight in zip(row, weights)) + bias for output, bias in enumerate(biases)]
        if index < len(network["layers"]) - 1:
            row = [activation(x) for x in row]
    return row


def values(network, row):
    """Return the values of one row: an embedding, a regression, decision values."""
    outputs = sums(network, row)
    if network["output"] == "softmax":
        return probabilities(network, row)
    if network["output"] == "relu":
        outputs = [max(x, 0.0) for x in outputs]
    if network["output_scale"]:
        outputs = [x * scale for x, scale in zip(outputs, network["output_scale"])]
    if network["output_offset"]:
        outputs = [x + offset for x, offset in zip(outputs, network["output_offset"])]
    return outputs


def standard_deviations(network, row):
    """Return the standard deviations of the outputs for one row, the noise included."""
    mean = scaled(network, row)
    variance = [0.0] * len(mean)
    for index, ((weights, biases), known) in enumerate(zip(network["layers"], network["variances"])):
        if index:
            moments = [activation_moments(network["activation"], m, s) for m, s in zip(mean, variance)]
            mean, variance = zip(*moments)
        *rows, of_bias = known["rows"]
        by_weights = of_bias + sum((m * m + s) * u for m, s, u in zip(mean, variance, rows))
        columns = list(enumerate(known["columns"]))
        spread = [by_weights * v + sum(s * w[o] ** 2 for s, w in zip(variance, weights)) for o, v in columns]
        mean = [sum(m * w[o] for m, w in zip(mean, weights)) + biases[o] for o, _ in columns]
        variance = spread
    return [math.sqrt(s + noise) for s, noise in zip(variance, known["noise"] or [0.0] * len(variance))]


def activation_moments(activation, mean, variance):
    """Return mean and variance of an activation of a normal number, by the trapezoidal rule over ten deviations."""
    points = [index / 100 for index in range(-1000, 1001)]
    values = [ACTIVATIONS[activation](mean + math.sqrt(variance) * point) for point in points]
    density = [math.exp(-(point**2) / 2) / math.sqrt(2 * math.pi) / 100 for point in points]
    first = sum(value * weight for value, weight in zip(values, density))
    return first, sum((value - first) ** 2 * weight for value, weight in zip(values, density))


def probabilities(network, row):
    """Return the probabilities of the classes for one row."""
    outputs = sums(network, row)
    if network["output"] == "softmax":
        exponentials = [math.exp(x - max(outputs)) for x in outputs]
        return [x / sum(exponentials) for x in exponentials]
    positive = [1 / (1 + math.exp(-x)) for x in outputs]
    return [1 - positive[0], positive[0]] if len(positive) == 1 else positive


def label(network, row):
    """Return the label of one row."""
    outputs = sums(network, row)
    if len(outputs) == 1 and network["output"] != "softmax":
        return network["classes"][outputs[0] > 0]
    return network["classes"][outputs.index(max(outputs))]
