"""Student files of a few dozen bytes with every field of the format, and the same with each byte changed.

In a small file nearly every byte is a field that a reader must check, so that changing one after the other reaches
checks that random damage of larger files misses.
"""

import zlib
from collections.abc import Iterator

import numpy as np
from some_students import make_network

from distill.codecs import codebook, codes, container, entropy, grid, random_code, sparse
from distill.codecs.container import Section
from distill.codecs.preprocessing import MomentsStep, Step
from distill.codecs.random_code import Layout
from distill.codecs.reader import varint

_VALUES = (0, 1, 2, 3, 4, 8, 16, 17, 25, 32, 64, 255)


def small_files() -> dict[str, bytes]:
    """Return files by name, of at most some 100 bytes."""
    files = _described_files()
    pair = make_network((4, 3))
    for name, sections in {"codebook": _codebooks(), "grid": _grids(), "sparse": _sparse_layers()}.items():
        for index, section in enumerate(sections):
            files[f"{name} {index}"] = container.pack(pair, [section])
    for index, (shapes, factors, extents, n_waves) in enumerate(
        ((((4, 3), (3, 1)), (1, 2), (), 0), (((4, 3),), (1,), (2, 2), 3), (((6, 1),), (5,), (1, 6), 6))
    ):
        layout = Layout(shapes, factors, 4, 3, index, extents, n_waves)
        section = random_code.encode(layout, np.array([1, 15, 4]), np.full((len(shapes), 2), 0.5, np.float16))
        network = make_network((shapes[0][0], *(n_outputs for _, n_outputs in shapes)))
        files[f"random code {index}"] = container.pack(network, [section])
    return files


def _described_files() -> dict[str, bytes]:
    """Return files with sections 0 to 4."""
    descriptions = {
        "consecutive": {"target": "predict", "output": "softmax", "classes": np.array([-1, 0])},
        "integers": {"target": "predict_proba", "output": "logistic", "classes": np.array([3, -(2**40)])},
        "strings": {"target": "predict", "output": "softmax", "classes": np.array(["\ufeffa", "日"])},
        "booleans": {"target": "decision_function", "classes": np.array([True, False])},
        "floats": {"target": "predict", "classes": np.array([0.5, np.nan])},
        "names": {"feature_names": ("a", "bc", "")},
        "deflated": {"feature_names": tuple(f"aaaaaaaaaaaaa{index}" for index in range(3))},
        "offset": {"offset": np.float32(2), "scale": np.arange(1, 4, dtype=np.float32)},
        "wide": {"offset": np.arange(3) + 0.1, "scale": np.array(0.3), "clip": 2.0, "fill": True},
        "selective": {"offset": np.array([0, 1e10, 0.1]), "scale": np.array([0, 2, 0.5])},
        "output": {"output_offset": np.array(0.3), "output_scale": np.array([0.5, 1e50])},
        "relu": {"output": "relu", "activation": "tanh"},
    }
    files = {name: container.encode(make_network((3, 2), **more), "float16") for name, more in descriptions.items()}
    files["column"] = container.encode(make_network((2, 2, 1), target="predict", squeeze=True), "float16")
    some_inputs = varint(2 + 8 + 16 + 512) + b"\5" + np.ones(4, "<f4").tobytes()
    files["selective"] = _with_section(files["offset"], 3, some_inputs)
    plain = container.encode(make_network((2, 1)), "float16")
    steps = [
        Step("subtract", np.array([1.5, 2.25])),
        Step("divide", np.array([3.0, 0.1])),
        Step("clip", np.array([-1.0, 2.0])),
        Step("multiply", np.array(0.3)),
        Step("add", np.array([1.0, 1.0])),
    ]
    files["steps"] = container.with_steps(plain, 2, steps, ("a", "b"))
    files["product"] = container.with_steps(plain, 3, [Step("product", np.ones((3, 2), np.float32))], None)
    moments = [MomentsStep((2, 1, 2), blur=0.5), MomentsStep((2, 2, 1), scale=True)]
    files["moments"] = container.with_steps(container.encode(make_network((4, 1)), "float16"), 4, moments, None)
    return files


def _codebooks() -> Iterator[Section]:
    """Yield codebook sections of a layer of 4 inputs and 3 outputs, with every form of groups and codes."""
    levels, bias = np.array([[-0.5, 0.25, 2.0]], np.float32), np.zeros(3, np.float32)
    used = np.array([True, False, True, True])
    digits = np.arange(9).reshape(3, 3) * 5 % 3
    for groups, scales in (((0, 1, 2), True), ((2, 0, 1), False), ((0, 0, 1), False)):
        groups = np.array(groups)
        n_groups = groups.max() + 1
        codebooks = levels if scales else np.repeat(levels, n_groups, axis=0)
        factors = np.ones(n_groups, np.float32) if scales else None
        layer = codebook.CodebookLayer(digits.astype(np.uint8), codebooks, factors, groups, bias, used)
        section = codebook.encode(layer, "off")
        yield section
        n_packed = 1 + 3  # the byte of the form, and nine codes of two bits
        head = section.payload[: len(section.payload) - n_packed]
        yield Section(section.codec, head + b"\1" + entropy.encode(digits.ravel(), 3))
        yield Section(
            section.codec, head + codes_in_contexts(digits, 3, np.array([0, 1, 0]), np.array([1, 0, 0]), (2, 2))
        )
        mask = entropy.encode(used.astype(np.uint8), 2)
        at = section.payload.index(b"\x0d")  # the packed mask of used inputs
        yield Section(section.codec, bytes([head[0] | 8]) + head[1:at] + mask + section.payload[at + 1 :])


def codes_in_contexts(
    digits: np.ndarray, n_codewords: int, rows: np.ndarray, columns: np.ndarray, n_classes: tuple[int, int]
) -> bytes:
    """Return codes, entropy-coded with nearly equal frequencies in every context.

    Parameters
    ----------
    digits : ndarray of shape (n_used, n_outputs)
    n_codewords : int
    rows, columns : ndarray of shape (n_used,), (n_outputs,)
        Classes.
    n_classes : tuple of int
    """
    n_contexts, each = n_classes[0] * n_classes[1], 4096 // n_codewords
    written = bytes([2, *n_classes]) + entropy.encode(rows, n_classes[0]) + entropy.encode(columns, n_classes[1])
    written += (n_codewords - 1) * n_contexts * varint(each)
    frequencies = np.full((n_contexts, n_codewords), each)
    frequencies[:, -1] = 4096 - (n_codewords - 1) * each
    contexts = (rows[:, None] * n_classes[1] + columns).ravel()
    return written + entropy.encode_symbols(digits.ravel(), frequencies, contexts)


def _grids() -> Iterator[Section]:
    """Yield grid sections of a layer of 4 inputs and 3 outputs, with every part."""
    used = np.array([True, False, True, True])
    matrix = np.array([[1, 0, -2], [0, 0, 0], [300, 4, 0], [0, -1, 5], [2, 0, 1]])
    rows, columns, exponents = np.array([1, 4, -9, 2, 4]), np.array([0, 3, 1]), np.array([0, 0, 3, 1, -2])
    noise, degrees = np.array([0, 0.5, 2], np.float32), np.array([3, 2.5, 9], np.float32)
    yield grid.encode(grid.GridLayer(matrix, rows, columns, -8, used, noise, True, degrees, exponents))
    yield grid.encode(grid.GridLayer(matrix, rows, columns, 2, used, noise, False))
    empty = np.zeros_like(matrix)
    none = np.zeros(4, bool)
    yield grid.encode(grid.GridLayer(empty, np.full(5, 3), columns, 0, none, None, True))


def _sparse_layers() -> Iterator[Section]:
    """Yield sparse sections of a layer of 4 inputs and 3 outputs."""
    weight = np.array([[0.5, 0, 0], [0, 0, 0], [0, -2.0, 1.0], [0, 0, 4.0]], np.float32)
    for dtype in ("float16", "float32"):
        yield sparse.encode(weight, np.ones(3), dtype)
    yield sparse.encode(np.ones((4, 3)), np.ones(3), "float16")
    values = weight[weight != 0].astype("<f2")
    planes = values.view(np.uint8).reshape(-1, 2)
    coded = entropy.encode(planes[:, 1], 256) + planes[:, 0].tobytes()
    yield Section(24, b"\7\x0d" + codes.encode_codes((weight != 0)[[0, 2, 3]].astype(int), 2, "off") + coded + bytes(6))


def _with_section(data: bytes, kind: int, payload: bytes) -> bytes:
    """Return a file with another content of a section, and the right checksum."""
    header, sections = container.split(data)
    return _joined(header, [(each, payload if each == kind else old) for each, old in sections])


def _joined(header: bytes, sections: list[tuple[int, bytes]]) -> bytes:
    data = header + b"".join(bytes([kind]) + varint(len(payload)) + payload for kind, payload in sections)
    return data + zlib.crc32(data).to_bytes(4, "little")


def changed_files(data: bytes) -> Iterator[bytes]:
    """Yield a file with each byte after the first five changed, left out or repeated, with the right checksum.

    Lengths of sections fit, where a byte of one is left out or repeated.
    """
    body = data[:-4]
    for place in range(5, len(body)):
        byte = body[place]
        for value in sorted({*_VALUES, byte ^ 1, byte ^ 128, (byte + 1) % 256, (byte - 1) % 256} - {byte}):
            changed = body[:place] + bytes([value]) + body[place + 1 :]
            yield changed + zlib.crc32(changed).to_bytes(4, "little")
    header, sections = container.split(data)
    for number, (kind, payload) in enumerate(sections):
        for place in range(len(payload)):
            for replacement in (b"", payload[place : place + 1] * 2, b"\0" + payload[place : place + 1]):
                other = payload[:place] + replacement + payload[place + 1 :]
                yield _joined(header, [*sections[:number], (kind, other), *sections[number + 1 :]])
        yield _joined(header, [*sections[:number], *sections[number + 1 :]])
        yield _joined(header, [*sections[:number], (kind, payload), *sections[number:]])
