"""Students in JavaScript: microseconds per row in node against onnxruntime-web, and the bytes that a page must load.

js/distill.js reads the student file itself; onnxruntime-web (WebAssembly, one thread) gets the same student from
`distill.to_onnx`. Both run in one process of node, in turns; times are those of the processor, and the first load and
the first row are the fastest of some fresh processes. Networks of images have random weights, which take as long as
trained ones; rows are the test images of MNIST with --data, else random images with as many dark pixels. The network of
digits is trained. Needs node and npm; onnxruntime-web is installed by npm into --modules.

    python benchmarks/javascript.py [--data DIR]
"""

import base64
import gzip
import json
import subprocess
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
from common import RESULTS, load_mnist, parser, table, write_json
from sklearn.datasets import load_digits
from sklearn.neural_network import MLPClassifier

from distill import load, to_onnx
from distill.codecs import container, random_code
from distill.codecs.preprocessing import MomentsStep
from distill.network import Network
from distill.runtime import Student

ROOT = Path(__file__).resolve().parent.parent
ONNXRUNTIME_WEB = "1.30.0"
# What a page loads of onnxruntime-web for its processor: the module of the WebAssembly backend, and the WebAssembly
_OF_PAGE = ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm")
# Pixels that are not 0 in an image of MNIST, as a fraction
_BRIGHT = 0.19
N_ROWS = 10_000
# Processes whose fastest first load and first row are reported
N_FRESH = 7


def main() -> None:
    line = parser(__doc__, "javascript", data=False)
    line.add_argument("--data", type=Path, help="folder with mnist/, for rows that are its test images")
    line.add_argument("--repeat", type=int, default=15, help="repetitions for every competitor")
    line.add_argument("--modules", type=Path, default=RESULTS / "javascript", help="folder for onnxruntime-web")
    options = line.parse_args()
    onnxruntime = install(options.modules)
    images, digits = image_rows(options.data), digit_rows()
    results: dict[str, dict] = {}
    for name, (data, kind) in students().items():
        results[name] = measure(data, images if kind == "images" else digits, onnxruntime, options.repeat)
    sizes = page_sizes(onnxruntime)
    print_results(results, sizes)
    write_json(options.out, {"students": results, "page": sizes, "onnxruntime-web": ONNXRUNTIME_WEB})


def install(folder: Path) -> Path:
    """Install onnxruntime-web and the minifier; return the folder of onnxruntime-web."""
    folder.mkdir(parents=True, exist_ok=True)
    found = folder / "node_modules" / "onnxruntime-web"
    options = ["--no-save", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
    if not (found / "package.json").exists():
        package = f"onnxruntime-web@{ONNXRUNTIME_WEB}"
        subprocess.run(["npm", "install", "--prefix", folder, "--ignore-scripts", *options, package], check=True)
    if not (ROOT / "js" / "node_modules" / "terser").exists():
        subprocess.run(["npm", "install", "--prefix", ROOT / "js", *options], check=True)
    return found


def students() -> dict[str, tuple[bytes, str]]:
    """Return files by name, and the kind of their rows."""
    deskewed = container.with_steps(random_code_file(784, 50, 64, 1000), 784, [MomentsStep((28, 28, 1))], None)
    return {
        "64-32-10, float16": (digits_file(), "digits"),
        "784-50-10, random code": (random_code_file(784, 50, 64, 1000), "images"),
        "the same behind moments": (deskewed, "images"),
        "784-80-10, random code": (random_code_file(784, 80, 100, 2000), "images"),
        "784-256-64-10, float16": (container.encode(random_network((784, 256, 64, 10)), "float16"), "images"),
    }


def random_network(sizes: tuple[int, ...]) -> Network:
    """Return a classifier of random weights, He-scaled."""
    random = np.random.default_rng(0)
    weights = tuple((random.normal(size=shape) * np.sqrt(2 / shape[0])).astype(np.float32) for shape in pairwise(sizes))
    biases = tuple(0.1 * random.normal(size=size).astype(np.float32) for size in sizes[1:])
    return Network(weights, biases, "relu", "predict", "softmax", np.arange(sizes[-1]))


def random_code_file(n_inputs: int, n_hidden: int, n_waves: int, n_bytes: int) -> bytes:
    """Return a file of at most `n_bytes` with as many random codes as it holds."""
    network, random = random_network((n_inputs, n_hidden, 10)), np.random.default_rng(0)
    shapes = tuple(weight.shape for weight in network.weights)
    n_blocks = 8 * n_bytes // 12
    while True:
        layout = random_code.Layout(shapes, (1, 1), 12, n_blocks, 1, (28, 28), n_waves)
        # Waves of amplitude 0.3, so that outputs differ by some units
        scales = np.array([[0.3, 0.1], [0.3, 0.1]], np.float16)
        section = random_code.encode(layout, random.integers(0, 4096, n_blocks), scales)
        data = container.pack(network, [section])
        if len(data) <= n_bytes:
            return data
        n_blocks -= 1


def digits_file() -> bytes:
    """Return a classifier of the digits of scikit-learn."""
    X, y = load_digits(return_X_y=True)
    mlp = MLPClassifier((32,), early_stopping=True, random_state=0).fit(X / 16, y)
    weights = tuple(weight.astype(np.float32) for weight in mlp.coefs_)
    biases = tuple(bias.astype(np.float32) for bias in mlp.intercepts_)
    network = Network(weights, biases, "relu", "predict", "softmax", mlp.classes_)
    return container.encode(network, "float16")


def digit_rows() -> np.ndarray:
    """Return digits with noise of a sixteenth, as many as needed."""
    X = load_digits().data
    rows = np.tile(X, (-(-N_ROWS // len(X)), 1))[:N_ROWS]
    noise = np.random.default_rng(0).normal(size=rows.shape)
    return (np.maximum(rows + noise * (rows > 0), 0) / 16).astype(np.float32)


def image_rows(data: Path | None) -> np.ndarray:
    """Return the test images of MNIST, or images of as many pixels that are not 0."""
    if data is not None:
        return np.ascontiguousarray(load_mnist(data)[2])
    random = np.random.default_rng(0)
    rows = random.random((N_ROWS, 784)) * (random.random((N_ROWS, 784)) < _BRIGHT)
    return rows.astype(np.float32)


def measure(data: bytes, rows: np.ndarray, onnxruntime: Path, repeat: int) -> dict:
    """Return times, bytes and agreement of one student."""
    student = load(data)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        job = {part: str(folder / part) for part in ("student", "onnx", "rows")} | {"nFeatures": rows.shape[1]}
        (folder / "student").write_bytes(data)
        (folder / "rows").write_bytes(np.ascontiguousarray(rows, "<f4").tobytes())
        to_onnx(student, folder / "onnx")
        onnx = (folder / "onnx").read_bytes()
        found = run_job(job | {"repeat": repeat}, folder, onnxruntime)
        cold = [run_job(job, folder, onnxruntime) for _ in range(N_FRESH)]
        found |= {key: min(times[key] for times in cold) for key in cold[0]}
    return found | agreement(student, rows, found) | {"file": size_of(data), "onnx": size_of(onnx)}


def run_job(job: dict, folder: Path, onnxruntime: Path) -> dict:
    """Return what benchmarks/javascript.mjs writes, in a fresh process."""
    given, result = folder / "job.json", folder / "result.json"
    given.write_text(json.dumps(job))
    script, source = ROOT / "benchmarks" / "javascript.mjs", ROOT / "js" / "distill.js"
    subprocess.run(["node", script, source, onnxruntime, given, result], check=True)
    return json.loads(result.read_text())


def agreement(student: Student, rows: np.ndarray, found: dict) -> dict:
    """Return the labels that differ from those of the package, and the largest difference of a probability."""
    labels = student.predict(rows)
    probabilities = np.frombuffer(base64.b64decode(found.pop("probabilities")), "<f4").reshape(len(rows), -1)
    return {
        "different": int((np.array(found.pop("labels")) != labels).sum()),
        "different, onnxruntime-web": int((np.array(found.pop("ortLabels")) != labels).sum()),
        "largest difference": float(np.abs(probabilities - student.predict_proba(rows)).max()),
    }


def size_of(data: bytes) -> dict[str, int]:
    """Return the bytes of a file, and when compressed."""
    return {"bytes": len(data), "gzip": len(gzip.compress(data, 9))}


def page_sizes(onnxruntime: Path) -> dict[str, dict[str, int]]:
    """Return the bytes of what a page loads before any student."""
    printed = subprocess.run(["node", ROOT / "js" / "size.mjs"], check=True, capture_output=True, text=True).stdout
    found = json.loads(printed)
    parts = [size_of((onnxruntime / "dist" / name).read_bytes()) for name in _OF_PAGE]
    return {
        "distill.js": {"bytes": found["minified"], "gzip": found["gzip"]},
        "onnxruntime-web": {key: sum(part[key] for part in parts) for key in ("bytes", "gzip")},
    }


def print_results(results: dict[str, dict], sizes: dict[str, dict[str, int]]) -> None:
    one = [
        [name, *(1e3 * found[key] for key in ("one", "ortOne", "many", "ortMany"))] for name, found in results.items()
    ]
    table(
        "microseconds per row, labels",
        ["", "one row", "onnxruntime-web", f"{N_ROWS} rows", "onnxruntime-web"],
        one,
    )
    keys = ("firstLoad", "load", "firstRow", "session")
    table(
        "milliseconds to the first label",
        ["", "first load", "later loads", "first row", "onnxruntime-web: first session"],
        [[name, *(found[key] for key in keys)] for name, found in results.items()],
    )
    table(
        f"agreement with the package on {N_ROWS} rows",
        ["", "labels that differ", "of onnxruntime-web", "largest difference of probabilities"],
        [
            [name, found["different"], found["different, onnxruntime-web"], found["largest difference"]]
            for name, found in results.items()
        ],
    )
    table(
        "bytes of a page: runtime and model",
        ["", "file", "page", "page, gzip", "ONNX file", "page with onnxruntime-web", "gzip"],
        [
            [
                name,
                found["file"]["bytes"],
                *(sizes["distill.js"][key] + found["file"][key] for key in ("bytes", "gzip")),
                found["onnx"]["bytes"],
                *(sizes["onnxruntime-web"][key] + found["onnx"][key] for key in ("bytes", "gzip")),
            ]
            for name, found in results.items()
        ],
    )


if __name__ == "__main__":
    main()
