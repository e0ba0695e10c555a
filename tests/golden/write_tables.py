"""Write the golden student files with tables that are not there yet; never touch one that is.

Each has the network's outputs for a few rows of cells, computed by the plain readers in `tests/helpers`. Together they
have every operation of section 5 with every flag; `tests/helpers/golden_tables.py` has them.

    python tests/golden/write_tables.py
"""

import json
import sys
from pathlib import Path

import numpy as np

from distill.codecs import container, table
from distill.codecs.preprocessing import AnyStep
from distill.codecs.table import TableStep
from distill.network import Network

FOLDER = Path(__file__).parent / "tables"
sys.path.insert(0, str(FOLDER.parents[1] / "helpers"))

import golden_tables  # noqa: E402
import independent_reader  # noqa: E402


def fractions(count: int, denominator: int, seed: int) -> np.ndarray:
    """Return multiples of 1/denominator between -1 and 1 in an order that looks random."""
    steps = (np.arange(1, count + 1, dtype=np.int64) * (7919 + 2 * seed) * 104_729) % 1_000_003 % (2 * denominator + 1)
    return ((steps - denominator) / denominator).astype(np.float32)


def build(name: str) -> bytes:
    """Return the bytes of a golden file: a table, further steps, and a network of one layer."""
    step, more, names, _ = golden_tables.TABLES[name]
    width = table.n_outputs(step.operations, step.n_columns)
    weight, bias = fractions(3 * width, 64, 70).reshape(width, 3), fractions(3, 8, 71)
    network = Network((weight,), (bias,), target="predict", output="softmax", classes=np.arange(3))
    steps: list[TableStep | AnyStep] = [step, *more(width)]
    return container.with_steps(container.encode(network), step.n_columns, steps, names)


def main() -> None:
    """Write what is missing."""
    expected = FOLDER / "expected.json"
    known = json.loads(expected.read_text()) if expected.exists() else {}
    for name, (*_, rows) in golden_tables.TABLES.items():
        file = FOLDER / f"{name}.student"
        if file.exists() and name in known:
            continue
        data = file.read_bytes() if file.exists() else build(name)
        network = independent_reader.read(data)
        sums = [independent_reader.sums(network, row) for row in rows]
        labels = [independent_reader.label(network, row) for row in rows]
        known[name] = {"rows": rows, "sums": sums, "labels": labels}
        file.write_bytes(data)
        print(f"{file.name}: {len(data)} bytes")
    lines = [f"{json.dumps(name)}: {json.dumps(known[name])}" for name in sorted(known)]
    expected.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    main()
