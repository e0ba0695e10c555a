"""Write the golden student files that are not there yet; never touch one that is.

Each is a network whose weights are simple fractions, so that all codings keep them, with what it answers for a few
rows: computed in double precision by the plain reader in `tests/independent_reader.py`.

    python tests/golden/write.py
"""

import json
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np

from distill.codecs import codebook, container, grid
from distill.codecs.preprocessing import Step
from distill.network import Network

FOLDER = Path(__file__).parent
sys.path.insert(0, str(FOLDER.parent))

import independent_reader  # noqa: E402

INTEGERS = np.arange(10)
MORE_INTEGERS = np.array([-1, 3, 1_000_000_000_000])
STRINGS = np.array(["setosa", "ßeta", "日本語"])

NETWORKS = {
    "integers-float32": ((64, 32, 16, 10), "relu", "predict", "softmax", {"classes": INTEGERS}),
    "integers-float16": ((64, 32, 10), "tanh", "predict", "softmax", {"classes": INTEGERS}),
    "noise-float32": ((5, 3), "relu", "predict", "softmax", {"classes": MORE_INTEGERS}),
    "strings-float32": ((4, 8, 3), "logistic", "predict_proba", "softmax", {"classes": STRINGS}),
    "booleans-float16": ((7, 5, 1), "relu", "predict_proba", "logistic", {"classes": np.array([False, True])}),
    "floats-float32": ((3, 2), "relu", "predict", "softmax", {"classes": np.array([0.5, -2.0])}),
    "margin-float32": (
        (6, 4, 1),
        "tanh",
        "decision_function",
        "identity",
        {"classes": np.array([-1, 1]), "squeeze": True},
    ),
    "decisions-float32": ((6, 4), "relu", "decision_function", "identity", {"classes": np.arange(4)}),
    "regressor-float32": ((3, 9, 1), "relu", "predict", "identity", {"squeeze": True}),
    "regressor-float16": ((3, 9, 2), "identity", "predict", "identity", {}),
    "embedding-float32": (
        (30, 12, 2),
        "relu",
        "transform",
        "identity",
        {
            "offset": np.float32(0.25),
            "scale": np.float32(1.5),
            "feature_names": tuple(f"wavelength {200 + 10 * index} nm" for index in range(30)),
        },
    ),
    "embedding-float16": (
        (3, 4, 2),
        "logistic",
        "transform",
        "identity",
        {
            "offset": np.array([0.5, -1000.0, 0.0], np.float32),
            "scale": np.array([1.0, 0.5, 4.0], np.float32),
            "feature_names": ("x", "y", "ℓ"),
        },
    ),
    "integers-codebook": ((64, 32, 10), "relu", "predict", "softmax", {"classes": INTEGERS}),
    "integers-steps": ((6, 8, 10), "relu", "predict", "softmax", {"classes": INTEGERS}),
    "regressor-grid": ((8, 12, 5, 2), "relu", "predict", "identity", {"offset": np.float32(0.5)}),
}


def fractions(count: int, denominator: int, seed: int) -> np.ndarray:
    """Return multiples of 1/denominator between -1 and 1 in an order that looks random."""
    steps = (np.arange(1, count + 1, dtype=np.int64) * (7919 + 2 * seed) * 104_729) % 1_000_003 % (2 * denominator + 1)
    return ((steps - denominator) / denominator).astype(np.float32)


def build(name: str) -> tuple[bytes, np.ndarray]:
    """Return the bytes of a golden file and rows to ask it about."""
    sizes, activation, target, output, more = NETWORKS[name]
    weights, biases = [], []
    for index, (n_inputs, n_outputs) in enumerate(pairwise(sizes)):
        weights.append(fractions(n_inputs * n_outputs, 64, index).reshape(n_inputs, n_outputs))
        biases.append(fractions(n_outputs, 8, index + 50))
    coding = name.split("-")[-1]
    if coding == "codebook":
        layers = [codebook_layer(weight, bias, index) for index, (weight, bias) in enumerate(zip(weights, biases))]
        weights = [layer.weight for layer in layers]
    if coding == "grid":
        last = len(weights) - 1
        layers = [
            grid_layer(weight, bias, index, index == last) for index, (weight, bias) in enumerate(zip(weights, biases))
        ]
        weights, biases = [layer.matrix[:-1] for layer in layers], [layer.matrix[-1] for layer in layers]
    network = Network(tuple(weights), tuple(biases), activation, target, output, **more)
    n_features = 9 if coding == "steps" else sizes[0]
    rows = fractions(6 * n_features, 32, 99).reshape(6, n_features) * 2
    if coding == "steps":
        names = tuple(f"pixel {index}" for index in range(n_features))
        return container.with_steps(container.encode(network, "float16"), n_features, all_operations(), names), rows
    if coding == "codebook":
        return container.pack(network, [codebook.encode(layer) for layer in layers]), rows
    if coding == "grid":
        return container.pack(network, [grid.encode(layer) for layer in layers]), rows
    return container.encode(network, coding), rows


def all_operations() -> list[Step]:
    """Return a step of every operation, with numbers of every kind, that lead from nine features to six."""
    return [
        Step("subtract", fractions(9, 64, 20).astype(np.float64) / 3),  # not to be had in 32 bits
        Step("divide", np.linspace(1, 3, 9)),
        Step("product", fractions(54, 16, 21).reshape(9, 6)),
        Step("multiply", np.full(6, 0.5)),
        Step("add", np.array(0.1)),
        Step("clip", np.array([-1.5, 1.25])),
    ]


def grid_layer(weight: np.ndarray, bias: np.ndarray, index: int, is_last: bool) -> grid.GridLayer:
    """Return a layer of whole steps: with inputs that are not used, large numbers and noise here and there."""
    n_inputs, n_outputs = weight.shape
    codes = np.rint(np.vstack([weight * (3 if index else 400), 40 * bias])).astype(np.int64)
    used = np.arange(n_inputs) % 7 != 3 if index < 2 else np.ones(n_inputs, bool)
    codes[:-1][~used] = 0
    rows, columns = -8 - np.arange(n_inputs + 1) * 5 % 9, np.arange(n_outputs) * 3 % 7
    rows[:-1][~used] = rows[-1]
    noise = np.array([0.25, 0.5], np.float32) if is_last else None
    return grid.GridLayer(codes, rows, columns, 2 if index else -20, used, noise)


def codebook_layer(weight: np.ndarray, bias: np.ndarray, index: int) -> codebook.CodebookLayer:
    """Return a layer with one of four codewords for each weight; shared ones with scales first, then of each group."""
    n_inputs, n_outputs = weight.shape
    codes = np.clip((np.abs(weight) * 6).astype(np.uint8), 0, 3)
    used = np.arange(n_inputs) % 9 != 4
    groups = np.arange(n_outputs) * 3 // n_outputs if index == 0 else np.arange(n_outputs) % 3
    codebooks = fractions(4, 32, 7).reshape(1, 4) if index == 0 else fractions(12, 32, 8).reshape(3, 4)
    scales = np.array([0.5, 1.0, 1.5], np.float32) if index == 0 else None
    return codebook.CodebookLayer(codes[used], codebooks, scales, groups, bias, used)


def main() -> None:
    """Write what is missing."""
    expected = FOLDER / "expected.json"
    known = json.loads(expected.read_text()) if expected.exists() else {}
    for name in NETWORKS:
        file = FOLDER / f"{name}.student"
        if file.exists():
            continue
        data, rows = build(name)
        network = independent_reader.read(data)
        known[name] = {"rows": rows.tolist(), "sums": [independent_reader.sums(network, row) for row in rows.tolist()]}
        if network["classes"]:
            known[name]["labels"] = [independent_reader.label(network, row) for row in rows.tolist()]
        if network["output"] != "identity":
            known[name]["probabilities"] = [independent_reader.probabilities(network, row) for row in rows.tolist()]
        file.write_bytes(data)
        print(f"{file.name}: {len(data)} bytes")
    lines = [f"{json.dumps(name)}: {json.dumps(known[name])}" for name in sorted(known)]
    expected.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
