"""The tables of student files in plain Python, written from docs/format.md alone, as `independent_reader` is."""

import itertools
import math
import re
import statistics
import unicodedata
import zlib

CLASSES = [r"\w", r"\S", "[a-zA-Z]", "[a-z]", "[a-zA-Z0-9]", r"[^\W\d_]", r"\d", r"[^\W\d]"]
FUNCTIONS = [
    math.log1p, math.sqrt, math.expm1, abs, math.exp, math.log, math.log2, math.log10, lambda x: x * x, math.cbrt,
    math.sin, math.cos, math.tan, math.tanh, math.asinh, lambda x: (x > 0) - (x < 0), math.floor, math.ceil, round,
    lambda x: -x, lambda x: 1 / x, lambda x: 0.0, math.atan, math.exp2, math.trunc,
]  # fmt: skip
NAN = math.nan


def read_table(section, make, read_steps):
    """Return the table as a dict; `make` makes a section of bytes, `read_steps` reads the content of section 0."""
    flags = section.byte()
    if flags & 1:
        length = section.varint()
        plain = zlib.decompress(section.take(len(section.data) - section.at), wbits=-15)
        assert len(plain) == length
        section = make(plain)
    n_columns = section.varint()
    section.read_steps = read_steps
    operations, n_outputs = read_list(section, n_columns)
    assert section.at == len(section.data)
    return {"n_columns": n_columns, "n_outputs": n_outputs, "operations": operations}


def read_list(section, width):
    operations = []
    for _ in range(section.varint()):
        code = section.byte()
        content, width = READERS[code](section, width)
        operations.append((code, content))
    return operations, width


def floats(section, count):
    return section.numbers(f"f{section.byte()}", count)


def indices(section):
    found, expected = [], 0
    for _ in range(section.varint()):
        found.append(expected + section.zigzag())
        expected = found[-1] + 1
    return found


def strings(section, count):
    found, last = [], ""
    for _ in range(count):
        shared = section.varint()
        last = last[:shared] + section.string()
        found.append(last)
    return found


def values(section, count):
    kind = section.byte()
    last = ([None] if kind & 16 else []) + ([NAN] if kind & 32 else [])
    count -= len(last)
    kind &= 15
    if kind == 0:
        first = section.zigzag()
        return [*range(first, first + count), *last]
    if kind == 1:
        return [*(section.zigzag() for _ in range(count)), *last]
    if kind == 2:
        return [*strings(section, count), *last]
    if kind in (3, 4):
        return [*section.numbers("f8" if kind == 3 else "f4", count), *last]
    if kind == 5:
        return [*map(bool, section.numbers("u1", count)), *last]
    return [*(tagged(section) for _ in range(count)), *last]


def tagged(section):
    tag = section.byte()
    if tag < 4:
        return [None, NAN, False, True][tag]
    return section.zigzag() if tag == 4 else section.numbers("f8", 1)[0] if tag == 5 else section.string()


def read_union(section, width):
    lists = [read_list(section, width) for _ in range(section.varint())]
    return [operations for operations, _ in lists], sum(each for _, each in lists)


def read_some(section, width):
    found = indices(section)
    return found, len(found)


def read_impute(section, width):
    (missing,) = values(section, 1)
    kept = indices(section)
    fills = values(section, len(kept))
    indicated = indices(section)
    return (missing, kept, fills, indicated), len(kept) + len(indicated)


def read_indicate(section, width):
    (missing,) = values(section, 1)
    section.byte()
    columns = indices(section)
    return (missing, columns), len(columns)


def read_one_hot(section, width):
    features = []
    for _ in range(width):
        count = section.varint()
        categories, columns, size = values(section, count), list(range(count)), count
        if section.byte():
            size = section.varint()
            columns = [section.varint() - 1 for _ in range(count)]
        way = section.byte()
        features.append((categories, columns, size, section.varint() if way == 2 else -1 if way else None))
    return features, sum(size for _, _, size, _ in features)


def read_encode(section, width):
    features = []
    for _ in range(width):
        count = section.varint()
        categories, size = values(section, count), section.varint()
        flat = floats(section, count * size) if size else range(count)
        size = size or 1
        numbers = [flat[at * size : (at + 1) * size] for at in range(count)]
        features.append((categories, numbers, size, floats(section, size) if section.byte() else None))
    return features, sum(size for _, _, size, _ in features)


def read_quantiles(section, width):
    flags, count = section.byte(), section.varint()
    references = [at / (count - 1) for at in range(count)] if flags & 2 and count > 1 else [0.0]
    if not flags & 2:
        references = floats(section, count)
    flat = floats(section, count * width)
    return (flags & 1, references, [flat[at * count : (at + 1) * count] for at in range(width)]), width


def read_bins(section, width):
    one_hot = section.byte()
    edges = [floats(section, section.varint()) for _ in range(width)]
    return (one_hot, edges), sum(len(each) + 1 for each in edges) if one_hot else width


def read_splines(section, width):
    degree, beyond, flags, count = section.byte(), section.byte(), section.byte(), section.varint()
    flat = floats(section, count * width)
    n_splines = count - degree - 1 - (degree if beyond == 4 else 0)
    knots = [flat[at * count : (at + 1) * count] for at in range(width)]
    return (degree, beyond, flags, knots, n_splines), width * (n_splines - (flags & 1))


def read_polynomial(section, width):
    least, largest, flags = section.byte(), section.byte(), section.byte()
    combine = itertools.combinations if flags & 1 else itertools.combinations_with_replacement
    terms = [()] if flags & 2 else []
    for degree in range(max(1, least), largest + 1):
        terms += combine(range(width), degree)
    return terms, len(terms)


def read_product(section, width):
    size = section.varint()
    flat = floats(section, width * size)
    return [flat[at * size : (at + 1) * size] for at in range(width)], size


def read_text(section, width):
    kind, flags, least, largest = (section.byte() for _ in range(4))
    text = {"analyzer": kind & 3, "accents": kind >> 2, "flags": flags, "sizes": range(least, largest + 1)}
    if kind & 3 == 0:
        text["class"], text["letters"] = section.byte(), section.byte()
        text["stop"] = strings(section, section.varint())
    text["size"] = section.varint()
    text["vocabulary"] = None if flags & 8 else strings(section, text["size"])
    return text, text["size"]


def read_weigh(section, width):
    flags, way = section.byte(), section.byte()
    weights = [1.0] * width
    if way == 1:
        weights = floats(section, width)
    if way == 2:
        different = floats(section, section.varint())
        weights = [different[index] for index in section.numbers("u1", width)]
    if way == 3:
        total = section.varint()
        weights = [math.log(total / section.varint()) + 1 for _ in range(width)]
    return (flags & 3, flags & 4, weights), width


READERS = {
    0: read_some,
    1: read_union,
    2: lambda section, width: (section.read_steps(section)[1], width),
    3: lambda section, width: (None, width),
    4: lambda section, width: (section.byte(), width),
    5: read_impute,
    6: read_indicate,
    7: read_one_hot,
    8: read_encode,
    9: lambda section, width: ((section.byte(), floats(section, width)), width),
    10: read_quantiles,
    11: read_bins,
    12: lambda section, width: (floats(section, 1)[0], width),
    13: read_splines,
    14: read_polynomial,
    15: lambda section, width: (section.byte(), width),
    16: read_product,
    17: read_text,
    18: read_weigh,
}


def table_row(table, row, take_step):
    """Return the numbers of a row of cells."""
    none_is_category = any_none(table["operations"])
    return list(map(number, run(table["operations"], row, take_step, none_is_category)))


def any_none(operations):
    for code, content in operations:
        if code == 1 and any(map(any_none, content)):
            return True
        if code in (7, 8) and any(None in feature[0] for feature in content):
            return True
    return False


def run(operations, row, take_step, none_is_category):
    for code, content in operations:
        if code not in (0, 1, 5, 6, 7, 8, 17):
            row = list(map(number, row))
        if code == 1:
            parts = [run(branch, row, take_step, none_is_category) for branch in content]
            row = [cell for part in parts for cell in part]
        elif code == 2:
            for step in content:
                row = take_step(*step, row)
        elif code in (5, 6):
            row = (impute if code == 5 else indicate)(content, row, none_is_category)
        else:
            row = RUN[code](content, row)
    return row


def number(cell):
    return NAN if cell is None else float(cell)


def is_nan(cell):
    return isinstance(cell, float) and math.isnan(cell)


def is_missing(cell, missing, none_is_category):
    if missing is None or is_nan(missing):
        both = not none_is_category
        return (cell is None and (missing is None or both)) or (is_nan(cell) and (missing is not None or both))
    return cell == missing


def impute(content, row, none_is_category):
    missing, kept, fills, indicated = content
    distinct = {at: none_is_category and (fill is None or isinstance(fill, str)) for at, fill in zip(kept, fills)}
    where = [is_missing(cell, missing, distinct.get(at, none_is_category)) for at, cell in enumerate(row)]
    found = [fill if where[at] else row[at] for at, fill in zip(kept, fills)]
    return found + [float(where[at]) for at in indicated]


def indicate(content, row, none_is_category):
    return [float(is_missing(row[at], content[0], none_is_category)) for at in content[1]]


def place_of(cell, categories):
    nan = next((at for at, category in enumerate(categories) if is_nan(category)), None)
    none = next((at for at, category in enumerate(categories) if category is None), None)
    if cell is None:
        return nan if none is None else none
    if is_nan(cell):
        return none if nan is None else nan
    return next((at for at, category in enumerate(categories) if category == cell), None)


def one_hot(features, row):
    found = []
    for cell, (categories, columns, size, unknown) in zip(row, features):
        place = place_of(cell, categories)
        assert place is not None or unknown is not None
        column = unknown if place is None else columns[place]
        found += [float(at == column) for at in range(size)]
    return found


def encode(features, row):
    found = []
    for cell, (categories, numbers, _, unknown) in zip(row, features):
        place = place_of(cell, categories)
        found += unknown if place is None else numbers[place]
    return found


def power(content, row):
    box_cox, exponents = content
    return [power_of(x, p, box_cox) for x, p in zip(row, exponents)]


def power_of(x, p, box_cox):
    if is_nan(x):
        return x
    if box_cox:
        return math.expm1(p * math.log(x)) / p if p else math.log(x)
    if x < 0:
        return -power_of(-x, 2 - p, False)
    return math.expm1(p * math.log1p(x)) / p if abs(p) > 2**-52 else math.log1p(x)


def quantiles(content, row):
    uniform, references, tables = content
    return [x if is_nan(x) else quantile_of(x, uniform, references, table) for x, table in zip(row, tables)]


def quantile_of(x, uniform, references, table):
    fraction = (interpolate(x, table, references, True) + interpolate(x, table, references, False)) / 2
    if uniform:
        return 0.0 if x == table[0] else 1.0 if x == table[-1] else fraction
    if x < table[0] + 1e-7:
        fraction = 0.0
    elif x > table[-1] - 1e-7:
        fraction = 1.0
    e = 1e-7 - 2**-52
    return statistics.NormalDist().inv_cdf(min(max(fraction, e), 1 - e))


def interpolate(x, table, references, last):
    if x < table[0] or x > table[-1]:
        return references[0] if x < table[0] else references[-1]
    equal = [at for at, each in enumerate(table) if each == x]
    if equal:
        return references[equal[-1] if last else equal[0]]
    above = next(at for at, each in enumerate(table) if each > x)
    share = (x - table[above - 1]) / (table[above] - table[above - 1])
    return references[above - 1] + share * (references[above] - references[above - 1])


def bins(content, row):
    hot, edges = content
    numbers = [sum(edge <= x for edge in each) for x, each in zip(row, edges)]
    if not hot:
        return list(map(float, numbers))
    return [float(at == n) for n, each in zip(numbers, edges) for at in range(len(each) + 1)]


def splines(content, row):
    degree, beyond, flags, tables, n_splines = content
    found = []
    for column, (x, knots) in enumerate(zip(row, tables)):
        if is_nan(x):
            assert flags & 2
            part = [0.0] * n_splines
        else:
            part = splines_of(x, knots, degree, beyond, n_splines, column)
        found += part[:-1] if flags & 1 else part
    return found


def splines_of(x, knots, degree, beyond, n_splines, column):
    a, b = knots[degree], knots[-degree - 1]
    if beyond == 4:
        x = a + (x - a) % (b - a) if b > a else 0.0
        basis = basis_of(x, knots, degree)
        return [one + (basis[n_splines + at] if at < degree else 0) for at, one in enumerate(basis[:n_splines])]
    shift = min(degree + column, 2) if beyond == 2 and degree <= 1 else degree
    a, b = knots[shift], knots[-shift - 1]
    if beyond == 3 or a <= x <= b:
        return basis_of(x, knots, degree)
    assert beyond != 0
    end = basis_of(a if x < a else b, knots, degree)
    slopes = [0.0] * n_splines
    size = shift
    if beyond == 2:
        slopes = slope_of(a if x < a else b, knots, degree)
        size = shift + 1 if shift <= 1 else shift
    near = range(size) if x < a else range(n_splines - size if size else 0, n_splines)
    return [end[at] + (x - (a if x < a else b)) * slopes[at] if at in near else 0.0 for at in range(n_splines)]


def interval_of(x, knots, degree):
    last = len(knots) - degree - 2
    return next((at for at in range(last, degree, -1) if knots[at] <= x), degree)


def basis_of(x, knots, degree, interval=None):
    """Return the B-splines by the recursion in the degree, those of the interval of x (or its neighbors) continued."""
    interval = interval_of(x, knots, degree) if interval is None else interval
    found = [float(at == interval) for at in range(len(knots) - 1)]
    for d in range(1, degree + 1):
        found = [
            weighted(found[at], x - knots[at], knots[at + d] - knots[at])
            + weighted(found[at + 1], knots[at + d + 1] - x, knots[at + d + 1] - knots[at + 1])
            for at in range(len(knots) - 1 - d)
        ]
    return found


def slope_of(x, knots, degree):
    if degree == 0:
        return [0.0] * (len(knots) - 1)
    lower = basis_of(x, knots, degree - 1, interval_of(x, knots, degree))
    return [
        weighted(lower[at], degree, knots[at + degree] - knots[at])
        - weighted(lower[at + 1], degree, knots[at + degree + 1] - knots[at + 1])
        for at in range(len(lower) - 1)
    ]


def weighted(value, factor, width):
    return value * factor / width if width else 0.0


def polynomial(terms, row):
    return [math.prod(row[at] for at in term) for term in terms]


def norm_of(kind, row):
    if not row:
        return 1.0
    return [sum(map(abs, row)), math.sqrt(sum(x * x for x in row)), max(map(abs, row))][kind] or 1.0


def normalize(kind, row):
    return [x / norm_of(kind, row) for x in row]


def product(matrix, row):
    return [sum(x * weight for x, weight in zip(row, column)) for column in zip(*matrix)]


def text(content, row):
    (document,), counts = row, [0.0] * content["size"]
    occurred = set()
    for term in terms_of(content, document):
        if content["vocabulary"] is not None:
            if term in content["vocabulary"]:
                counts[content["vocabulary"].index(term)] += 1
        else:
            h = murmur(term.encode())
            occurred.add(abs(h) % content["size"])
            counts[abs(h) % content["size"]] += -1 if h < 0 and content["flags"] & 16 else 1
    if content["flags"] & 4:
        counts = [float(count != 0 or at in occurred) for at, count in enumerate(counts)]
    return counts


def terms_of(content, document):
    flags, sizes = content["flags"], content["sizes"]
    if flags & 1:
        document = document.lower()
    if content["accents"] == 1:
        document = "".join(c for c in unicodedata.normalize("NFKD", document) if ord(c) < 128)
    elif content["accents"] == 2 and any(ord(c) > 127 for c in document):
        document = "".join(c for c in unicodedata.normalize("NFKD", document) if not unicodedata.combining(c))
    if content["analyzer"] == 0:
        words = []
        for kind, run_ in itertools.groupby(
            range(len(document)), lambda at: bool(re.fullmatch(CLASSES[content["class"]], document[at]))
        ):
            places = list(run_)
            word = document[places[0] : places[-1] + 1]
            if kind and len(word) >= content["letters"]:
                before, after = document[: places[0]][-1:], document[places[-1] + 1 :][:1]
                ends = is_word(before) != is_word(word[0]) and is_word(word[-1]) != is_word(after)
                if ends or not flags & 2:
                    words.append(word)
        words = [word for word in words if word not in content["stop"]]
        return [" ".join(words[at : at + n]) for n in sizes for at in range(len(words) - n + 1)]
    document = re.sub(r"\s\s+", " ", document)
    if content["analyzer"] == 1:
        return [document[at : at + n] for n in sizes for at in range(len(document) - n + 1)]
    found = []
    for word in document.split():
        word = f" {word} "
        found += [word[at : at + n] for n in sizes for at in range(len(word) - n + 1)]
        if not any(n == len(word) for n in sizes) and sizes[-1] > len(word):
            found.append(word)
    return found


def is_word(character):
    return bool(re.fullmatch(r"\w", character))


def murmur(data):
    h, mask = 0, 2**32 - 1
    for at in range(0, len(data), 4):
        k = int.from_bytes(data[at : at + 4], "little") * 0xCC9E2D51 & mask
        k = ((k << 15 | k >> 17) & mask) * 0x1B873593 & mask
        h ^= k
        if at + 4 <= len(data):
            h = (h << 13 | h >> 19) & mask
            h = h * 5 + 0xE6546B64 & mask
    h ^= len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        h = (h ^ h >> shift) * factor & mask
    return h - 2**32 if h >= 2**31 else h


def weigh(content, row):
    norm, sublinear, weights = content
    found = [(1 + math.log(x) if sublinear else x) * w if x else 0.0 for x, w in zip(row, weights)]
    return normalize(norm - 1, found) if norm else found


RUN = {
    0: lambda columns, row: [row[at] for at in columns],
    3: lambda _, row: row,
    4: lambda index, row: [float(is_nan(x)) if index == 21 else x if is_nan(x) else FUNCTIONS[index](x) for x in row],
    7: one_hot,
    8: encode,
    9: power,
    10: quantiles,
    11: bins,
    12: lambda threshold, row: [float(x > threshold) for x in row],
    13: splines,
    14: polynomial,
    15: normalize,
    16: product,
    17: text,
    18: weigh,
}
