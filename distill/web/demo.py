"""The page on which a student answers, as one HTML file, and a small server for it.

Images are drawn on a canvas; other inputs are number fields. Everything is inlined: the page loads nothing, so that it
works opened from a disk as well.
"""

import argparse
import base64
import errno
import gzip
import html
import json
import math
from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from typing import Any

import numpy as np

from distill.codecs.files import read_bytes, write_bytes
from distill.codecs.preprocessing import MomentsStep
from distill.runtime import Student
from distill.runtime.columns import matrix
from distill.tables import Wanted, check_values, read_rows

__all__ = ["add_arguments", "make_page", "run", "serve"]

# Images have at least so many pixels on a side where nothing but the number of features says that they are images
_LEAST_SIDE = 7
# Usual values of ink, of which the nearest is taken where only the scaling in the file tells it, and the standard
# deviation of pixels in images of digits relative to it: 0.31 in MNIST, 0.38 in scikit-learn's digits
_USUAL_HIGHS, _USUAL_DEVIATION = (1.0, 16.0, 255.0), 0.34
_PORT = 8000
# Rows that are offered as examples
_MOST_EXAMPLES = 20


def make_page(
    source: Any,
    *,
    title: str = "Try the model",
    shape: tuple[int, int] | None = None,
    fields: bool = False,
    pixel_range: tuple[float, float] | None = None,
    names: Mapping[Any, str] | None = None,
    word: str = "label",
    note: str | None = None,
    examples: Sequence | np.ndarray = (),
    remark: Callable[[str], None] = lambda text: None,
) -> str:
    """Return a page on which a student answers, as HTML that needs no other file.

    Parameters
    ----------
    source : str, path, open binary file or bytes-like
        A student file.
    title : str
    shape : tuple of int or None
        Height and width of images, whose pixels are the features, row by row; a canvas is shown. None takes a square
        number of features without names, from 49 on, for a square image.
    fields : bool
        Show a number field for each feature in any case.
    pixel_range : tuple of float or None
        The values of paper and ink in the images of the training. None takes the range of the examples if they are
        rows, otherwise from 0 to the one of 1, 16 and 255 that suits the scaling in the file.
    names : mapping of labels to str or None
        Names that are shown in place of labels, such as the digit that a cluster shows.
    word : str
        What a label is, such as "cluster".
    note : str or None
        A text at the end of the page, such as where the names come from.
    examples : array-like of shape (n_examples, n_features), or list of lists of lists
        Rows to click, of which the first twenty are taken; the first one is the initial content of number fields. With
        images also drawings: lists of strokes, each ``[x, y, x, y, ...]`` from 0 to 1, from the left and the top.
    remark : callable
        Called with remarks for the user: what was assumed of images.

    Returns
    -------
    str

    Raises
    ------
    StudentFileError
        If the file is damaged, of another format version, or no student file.
    ValueError
        If the shape has another number of pixels than the student features, a name is for a label that the student does
        not have, or an example does not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from distill.codecs import container
    >>> from distill.network import Network
    >>> network = Network((np.eye(2, dtype=np.float32),), (np.zeros(2, np.float32),), feature_names=("height", "width"))
    >>> page = make_page(container.encode(network), title="Sizes")
    >>> "<title>Sizes</title>" in page, "height" in page
    (True, True)
    """
    data = bytes(read_bytes(source))
    student = Student.from_bytes(data)
    if student.preprocessing is not None and student.preprocessing.table is not None:
        raise ValueError(
            "this student takes a table of numbers, categories or text (section 5 of its file), which js/distill.js "
            "does not read yet; a page needs a student of numbers"
        )
    if fields and shape is not None:
        raise ValueError(f"a page has a canvas or number fields: give shape={shape} or fields=True, not both")
    image_shape = None if fields else _image_shape(student, shape, remark)
    content: dict[str, Any] = {
        "student": base64.b64encode(data).decode(),
        "bytes": len(data),
        "names": _names(student, names),
        "word": word,
        "note": _note(names) if note is None else note,
        "fills": _takes_missing_values(student),
    }
    drawings, rows = _examples(student, examples, image_shape)
    content["examples"] = drawings or _as_lists(rows)
    if image_shape is None:
        if pixel_range is not None:
            remark("the range is for images, and this page has number fields")
        known = student.network.feature_names
        content["features"] = list(known or (f"feature {index + 1}" for index in range(student.n_features_in_)))
    else:
        low, high = _pixel_range(student, pixel_range, rows, remark)
        content["image"] = {"height": image_shape[0], "width": image_shape[1], "low": low, "high": high}
    parts = {
        "title": html.escape(title),
        "style": _text("page.css"),
        "runtime": _text("distill.min.js"),
        "drawing": _text("drawing.js"),
        "page": _text("page.js"),
        # "</script>" in a name must not end the script
        "data": json.dumps(content, separators=(",", ":")).replace("<", "\\u003c"),
    }
    page = _text("page.html")
    first, *rest = page.split("{{")
    for part in rest:
        name, text = part.split("}}", 1)
        first += parts[name].strip() + text
    return first


def serve(
    page: str, *, port: int = _PORT, open_browser: bool = True, ready: Callable[[Any], None] | None = None
) -> None:
    """Show a page at a port of this machine until the process is interrupted.

    Parameters
    ----------
    page : str
        HTML, as of `make_page`.
    port : int
        0 for any free one. The server cannot be reached from other machines.
    open_browser : bool
        Open the page in the browser of the desktop.
    ready : callable or None
        Called with the server before it starts; its method `shutdown`, from another thread, ends it.

    Raises
    ------
    OSError
        If the port is in use.
    ValueError
        If there is no such port.
    """
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # for this command only: it takes 30 ms

    if not 0 <= port <= 65535:
        raise ValueError(f"a port is a number from 0 to 65535, got {port}")
    body = page.encode()
    compressed = gzip.compress(body, mtime=0)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            """Answer with the page."""
            if self.path.split("?")[0] not in ("/", "/index.html"):
                self.send_error(404)
                return
            takes_gzip = "gzip" in self.headers.get("Accept-Encoding", "")
            content = compressed if takes_gzip else body
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Cache-Control", "no-store")
            self.send_header("Vary", "Accept-Encoding")
            if takes_gzip:
                self.send_header("Content-Encoding", "gzip")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, format, *arguments):
            """Print nothing."""

    try:
        server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    except OSError as error:
        if error.errno not in (errno.EADDRINUSE, errno.EACCES):
            raise
        raise OSError(
            error.errno, f"port {port} cannot be used ({error.strerror}); give another --port, or 0 for a free one"
        ) from None
    with server:
        address = f"http://127.0.0.1:{server.server_port}/"
        print(f"{address} (Ctrl+C ends the server)", flush=True)
        if ready is not None:
            ready(server)
        if open_browser:
            import webbrowser

            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("file", help="student file")
    parser.add_argument("--port", type=int, default=_PORT, help=f"port, 0 for any free one; {_PORT} by default")
    parser.add_argument("--no-browser", action="store_true", help="print the address only")
    parser.add_argument("-o", "--output", help="write the page to this .html file, which can be opened from a disk")
    parser.add_argument("--title", default="Try the model")
    parser.add_argument("--shape", type=_pair(int), metavar="H,W", help="draw images of H x W pixels")
    parser.add_argument("--fields", action="store_true", help="a number field for each feature instead of a canvas")
    parser.add_argument("--range", type=_pair(float), metavar="LOW,HIGH", help="values of paper and ink, such as 0,255")
    parser.add_argument(
        "--names",
        help='.json with names of labels, {"0": "seven", ...}, or {"names": {...}, "word": "cluster", "note": "..."}',
    )
    parser.add_argument("--examples", help="rows to click (.npy, .csv, .tsv, .parquet), or drawings (.json)")


def run(options: argparse.Namespace, note: Callable[[str], None]) -> None:
    """Carry out the command: serve the page, or write it.

    Parameters
    ----------
    options : argparse.Namespace
        See `add_arguments`.
    note : callable
        Called with remarks for the user.
    """
    if options.output is not None and not options.output.endswith((".html", ".htm")):
        raise ValueError(f"the output must end with .html, got {options.output!r}")
    data = bytes(read_bytes(options.file))
    page = make_page(
        data,
        title=options.title,
        shape=options.shape,
        fields=options.fields,
        pixel_range=options.range,
        examples=() if options.examples is None else _read_examples(options.examples, Student.from_bytes(data), note),
        remark=note,
        **_read_names(options.names),
    )
    if options.output is None:
        serve(page, port=options.port, open_browser=not options.no_browser)
    else:
        write_bytes(page.encode(), options.output)


def _image_shape(
    student: Student, shape: tuple[int, int] | None, remark: Callable[[str], None]
) -> tuple[int, int] | None:
    """Return height and width of the images, or None for number fields."""
    n_features = student.n_features_in_
    if shape is not None:
        if min(shape) < 1 or math.prod(shape) != n_features:
            raise ValueError(
                f"an image of {shape[0]} x {shape[1]} pixels is no row of this student's {n_features} features"
            )
        return shape
    for step in () if student.preprocessing is None else student.preprocessing.steps:
        if isinstance(step, MomentsStep) and math.prod(step.shape) == n_features:
            return step.shape[:2] if step.shape[2] == 1 else None
    side = math.isqrt(n_features)
    if side * side != n_features or side < _LEAST_SIDE or student.network.feature_names is not None:
        return None
    remark(f"rows are taken for images of {side} x {side} pixels; --fields shows number fields instead")
    return side, side


def _pixel_range(
    student: Student, given: tuple[float, float] | None, rows: np.ndarray, remark: Callable[[str], None]
) -> tuple[float, float]:
    """Return the values of paper and ink."""
    if given is not None:
        low, high = map(float, given)
        largest = float(np.finfo(np.float32).max)
        if not (abs(low) <= largest and abs(high) <= largest and low != high):
            raise ValueError(
                f"the range must be two different numbers in float32, the values of paper and ink, got {low:g},{high:g}"
            )
        return low, high
    if len(rows) and rows.min() < rows.max():
        return float(rows.min()), float(rows.max())
    scale, high = student.network.scale, 1.0
    if student.preprocessing is None and scale is not None and np.ndim(scale) == 0 and scale > 0:
        usual = 1 / float(scale) / _USUAL_DEVIATION
        high = min(_USUAL_HIGHS, key=lambda value: abs(math.log(value / usual)))
    remark(f"pixels are taken to be 0 where there is no ink and {high:g} where there is; if not, give --range LOW,HIGH")
    return 0.0, high


def _names(student: Student, names: Mapping[Any, str] | None) -> dict[str, str]:
    """Return the names by the label as JavaScript prints it."""
    if not names:
        return {}
    classes = student.network.classes
    labels = [] if classes is None else [_printed(label) for label in classes]
    for label, name in names.items():
        if _printed(label) not in labels:
            has = f"it has {', '.join(labels[:10])}" if labels else "it has no labels"
            raise ValueError(f"names has the label {label!r}, which this student does not predict; {has}")
        if not isinstance(name, str):
            raise ValueError(f"the name of label {label!r} must be text, got {name!r}")
    return {_printed(label): name for label, name in names.items()}


def _printed(label: Any) -> str:
    """Return a label as JavaScript's String() prints it."""
    if isinstance(label, bool | np.bool_):
        return str(bool(label)).lower()
    if isinstance(label, float | np.floating) and float(label).is_integer():
        return str(int(label))
    return str(label)


def _note(names: Mapping[Any, str] | None) -> str:
    """Return the text at the end of the page."""
    if names:
        return (
            "The model predicts a label. The names of the labels were given to this page, and are no part of the model."
        )
    return ""


def _examples(
    student: Student, examples: Sequence | np.ndarray, image_shape: tuple[int, int] | None
) -> tuple[list, np.ndarray]:
    """Return drawings, and rows of float64; one of them is empty."""
    n_features, none = student.n_features_in_, np.empty((0, student.n_features_in_))
    if len(examples) == 0:
        return [], none
    if not isinstance(examples, np.ndarray) and not np.isscalar(examples[0]) and _is_list(examples[0][0]):
        if image_shape is None:
            raise ValueError("the examples are drawings, and this page has number fields; give rows of numbers")
        return [_drawing(example, index) for index, example in enumerate(examples[:_MOST_EXAMPLES])], none
    rows = np.asarray(examples, dtype=np.float64)[:_MOST_EXAMPLES]
    if rows.ndim != 2 or rows.shape[1] != n_features:
        raise ValueError(f"examples must be rows of {n_features} features, got shape {np.shape(examples)}")
    if not (np.isfinite(rows) | (np.isnan(rows) & _takes_missing_values(student))).all():
        raise ValueError("examples have a value that is missing or infinite; leave their rows out")
    return [], rows


def _takes_missing_values(student: Student) -> bool:
    before = student.preprocessing
    return bool(student.network.fill and (before is None or before.is_elementwise))


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _drawing(example: Any, index: int) -> list:
    """Return strokes as lists of numbers; ValueError if they are something else."""
    strokes = [np.asarray(stroke, dtype=np.float64) for stroke in example if _is_list(stroke)]
    fits = all(stroke.ndim == 1 and len(stroke) and len(stroke) % 2 == 0 for stroke in strokes)
    if not fits or len(strokes) != len(example) or not all(((0 <= s) & (s <= 1)).all() for s in strokes):
        raise ValueError(f"drawing {index + 1} of the examples must be a list of strokes [x, y, x, y, ...] from 0 to 1")
    return [stroke.tolist() for stroke in strokes]


def _as_lists(rows: np.ndarray) -> list[list[float | None]]:
    """Return rows for JSON, with None for missing values."""
    return [[None if math.isnan(value) else _number(value) for value in row] for row in rows.tolist()]


def _number(value: float) -> float:
    """Return a number that is printed in at most nine digits, which identify a float32."""
    short = float(f"{value:.9g}")
    return int(short) if short.is_integer() and abs(short) < 1e15 else short


def _read_examples(path: str, student: Student, note: Callable[[str], None]) -> Any:
    """Return the rows or drawings of a file."""
    if path.endswith(".json"):
        examples = _read_json(path)
        if not isinstance(examples, list):
            raise ValueError(f"{path} must hold a list of drawings, got {type(examples).__name__}")
        return examples
    wanted = Wanted(student.n_features_in_, student.network.feature_names, student.network.fill, note)
    rows = read_rows(path, wanted)
    check_values(rows, path, wanted)
    return matrix(rows)


def _read_names(path: str | None) -> dict[str, Any]:
    """Return the arguments `names` and `note` from a file."""
    if path is None:
        return {}
    content = _read_json(path)
    names = content.get("names", content) if isinstance(content, dict) else content
    if not isinstance(names, dict):
        raise ValueError(f'{path} must hold the names of labels, {{"0": "seven", ...}}')
    if names is content:
        return {"names": names}
    texts = {key: content[key] for key in ("word", "note") if key in content}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{key} in {path} must be text, got {text!r}")
    return {"names": names, **texts}


def _read_json(path: str) -> Any:
    try:
        return json.loads(bytes(read_bytes(path)))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None


def _pair(kind: Callable[[str], Any]) -> Callable[[str], tuple]:
    """Return a parser of two numbers with a comma between them."""

    def parse(text: str) -> tuple:
        try:
            first, second = map(kind, text.split(","))
        except ValueError:
            raise argparse.ArgumentTypeError(
                f"two numbers with a comma between them are needed, got {text!r}"
            ) from None
        return first, second

    return parse


def _text(name: str) -> str:
    """Return a file of this package."""
    return (resources.files("distill.web") / name).read_text(encoding="utf-8")
