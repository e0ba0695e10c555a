"""The page as a file: what is in it, what was assumed, and what is refused. No browser is needed."""

import base64
import gzip
import hashlib
import json
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from fresh_process import environment
from some_students import labelled, make_network

from distill.__main__ import main
from distill.codecs import container
from distill.codecs.preprocessing import MomentsStep, Step
from distill.runtime import load
from distill.web import make_page, serve

ROOT = Path(__file__).parents[2]
MODELS = ROOT / "examples" / "models"


def content_of(page):
    """Return what the page holds for its script."""
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


@pytest.fixture
def image_student():
    """The bytes of a student of images of 8 x 8 pixels, labels 0 to 2."""
    return container.encode(labelled((64, 8, 3), classes=np.arange(3)))


@pytest.fixture
def table_student():
    """The bytes of a student of two named features."""
    return container.encode(labelled((2, 8, 3), feature_names=("height </script>", "width")))


def test_page_holds_the_student_and_loads_nothing(image_student):
    page = make_page(image_student)
    content = content_of(page)
    assert base64.b64decode(content["student"]) == image_student and content["bytes"] == len(image_student)
    assert content["image"] == {"height": 8, "width": 8, "low": 0, "high": 1}
    # No address, in any attribute, rule or script, and a policy that keeps the page from loading one
    assert not re.search(r"https?://|@import|url\(|\ssrc=", page)
    assert re.findall(r'href="([^"]*)"', page) == ["data:,"]
    assert "default-src 'none'" in page


def test_runtime_is_that_of_the_source():
    """`make web` makes the runtime of pages from js/distill.js."""
    source = (ROOT / "js" / "distill.js").read_bytes().replace(b"\r\n", b"\n")
    minified = (resources.files("distill.web") / "distill.min.js").read_bytes()
    assert hashlib.sha256(source).hexdigest().encode() in minified.splitlines()[0], "run make web"


def test_model_and_runtime_are_below_10_kb():
    runtime = gzip.compress((resources.files("distill.web") / "distill.min.js").read_bytes(), 9)
    assert (MODELS / "mnist_1000.student").stat().st_size <= 1000
    assert len(runtime) + 1000 <= 10_000


def test_model_is_as_described():
    description = json.loads((MODELS / "mnist_1000.json").read_text())
    student = load(MODELS / "mnist_1000.student")
    assert (student.n_features_in_, description["bytes"]) == (784, 1000)
    assert sorted(description["names"]) == sorted(description["names"].values()) == list("0123456789")
    assert description["test_acc"] > 0.96  # 0.9653 when written


def test_texts_cannot_leave_their_place(table_student):
    page = make_page(table_student, title="<b>&", note="</script><script>alert(1)</script>", names={"class 1": "<i>"})
    assert "<title>&lt;b&gt;&amp;</title>" in page
    assert page.count("<script") == page.count("</script>") == 3
    content = content_of(page)
    assert content["features"] == ["height </script>", "width"]
    assert content["names"] == {"class 1": "<i>"} and content["note"].startswith("</script>")


@pytest.mark.parametrize(
    ("n_features", "options", "steps", "shape"),
    [
        (64, {}, (), (8, 8)),
        (36, {}, (), None),  # 6 x 6 may be any table
        (48, {}, (), None),
        (48, {"shape": (6, 8)}, (), (6, 8)),
        (64, {"shape": (4, 16)}, (), (4, 16)),
        (64, {"fields": True}, (), None),
        (30, {}, (MomentsStep((5, 6, 1)),), (5, 6)),
        (75, {}, (MomentsStep((5, 5, 3)),), None),
    ],
)
def test_image_or_fields(n_features, options, steps, shape):
    data = container.with_steps(container.encode(labelled((n_features, 3))), n_features, steps, None)
    content = content_of(make_page(data, **options))
    assert content.get("image") == (
        None if shape is None else {"height": shape[0], "width": shape[1], "low": 0, "high": 1}
    )
    assert ("features" in content) == (shape is None)


def test_features_with_names_are_no_pixels():
    names = tuple(f"feature {index}" for index in range(49))
    assert content_of(make_page(container.encode(labelled((49, 3), feature_names=names))))["features"] == list(names)


@pytest.mark.parametrize(
    ("scale", "options", "expected"),
    [
        (1 / 0.308, {}, (0, 1)),  # MNIST
        (1 / 6.0, {}, (0, 16)),  # scikit-learn's digits
        (1 / 78.6, {}, (0, 255)),
        (1 / 78.6, {"pixel_range": (1, -1)}, (1, -1)),
        (1 / 78.6, {"examples": np.linspace(-2, 5, 128).reshape(2, 64)}, (-2, 5)),
    ],
)
def test_values_of_paper_and_ink(scale, options, expected):
    network = labelled((64, 3), offset=np.float32(0.1), scale=np.float32(scale))
    remarks = []
    content = content_of(make_page(container.encode(network), remark=remarks.append, **options))
    assert (content["image"]["low"], content["image"]["high"]) == expected
    assert any("images of 8 x 8" in remark for remark in remarks)
    assert any(f"{expected[1]:g} where there is" in remark for remark in remarks) == (not options)


def test_examples(image_student, table_student):
    rows = np.arange(128.0).reshape(2, 64) / 3
    np.testing.assert_allclose(content_of(make_page(image_student, examples=rows))["examples"], rows, rtol=1e-8)
    drawings = [[[0.1, 0.2, 0.3, 0.4], [0.5, 0.5]]]
    assert content_of(make_page(image_student, examples=drawings))["examples"] == drawings
    assert len(content_of(make_page(table_student, examples=np.ones((99, 2))))["examples"]) == 20
    filling = container.encode(labelled((2, 3), scale=np.float64(1), fill=True))
    content = content_of(make_page(filling, examples=[[1.5, np.nan]]))
    assert content["examples"] == [[1.5, None]] and content["fills"]
    product = Step("product", np.eye(2, dtype=np.float32))
    spread = container.with_steps(filling, 2, (product,), None)
    assert not content_of(make_page(spread))["fills"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shape": (28, 28)}, "28 x 28 pixels is no row of this student's 64 features"),
        ({"shape": (-8, -8)}, "-8 x -8 pixels"),
        ({"shape": (8, 8), "fields": True}, r"give shape=\(8, 8\) or fields=True, not both"),
        ({"pixel_range": (1, 1)}, "two different numbers"),
        ({"pixel_range": (0, np.nan)}, "two different numbers"),
        ({"names": {7: "seven"}}, "label 7, which this student does not predict; it has 0, 1, 2"),
        ({"names": {1: 7}}, "name of label 1 must be text, got 7"),
        ({"examples": np.ones((3, 5))}, r"rows of 64 features, got shape \(3, 5\)"),
        ({"examples": np.full((1, 64), np.inf)}, "missing or infinite"),
        ({"examples": [[[0.1, 0.2], [0.5]]]}, r"drawing 1 .* list of strokes \[x, y, x, y, ...\] from 0 to 1"),
        ({"examples": [[[0.1, 0.2], 5]]}, "drawing 1"),
        ({"examples": [[[0.1, 1.2]]]}, "drawing 1"),
        ({"fields": True, "examples": [[[0.1, 0.2]]]}, "this page has number fields; give rows"),
    ],
)
def test_bad_arguments(options, message, image_student):
    with pytest.raises(ValueError, match=message):
        make_page(image_student, **options)


def test_names_of_labels_that_are_no_integers():
    strings = container.encode(labelled((2, 3)))
    assert content_of(make_page(strings, names={"class 2": "b"}))["names"] == {"class 2": "b"}
    truth = container.encode(labelled((2, 1), classes=np.array([False, True])))
    assert content_of(make_page(truth, names={True: "yes"}))["names"] == {"true": "yes"}
    numbers = container.encode(labelled((2, 2), classes=np.array([1.0, 2.5])))
    assert content_of(make_page(numbers, names={1: "one", 2.5: "more"}))["names"] == {"1": "one", "2.5": "more"}
    with pytest.raises(ValueError, match="it has no labels"):
        make_page(container.encode(make_network((2, 2))), names={0: "a"})


def test_command_writes_a_page(image_student, tmp_path, capsys):
    np.save(tmp_path / "rows.npy", np.full((1, 64), 3.0))
    (tmp_path / "a.student").write_bytes(image_student)
    (tmp_path / "names.json").write_text('{"names": {"1": "one"}, "word": "cluster", "note": "counted"}')
    arguments = ["serve-demo", str(tmp_path / "a.student"), "-o", str(tmp_path / "page.html"), "--shape", "8,8"]
    more = ["--names", str(tmp_path / "names.json"), "--range", "0,16", "--examples", str(tmp_path / "rows.npy")]
    assert main([*arguments, *more, "--title", "Digits"]) == 0
    content = content_of((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert (content["names"], content["word"], content["note"]) == ({"1": "one"}, "cluster", "counted")
    assert content["examples"] == [[3] * 64] and content["image"]["high"] == 16
    (tmp_path / "names.json").write_text('{"1": "one"}')
    (tmp_path / "drawn.json").write_text("[[[0, 0, 1, 1]]]")
    assert main([*arguments, "--names", str(tmp_path / "names.json"), "--examples", str(tmp_path / "drawn.json")]) == 0
    content = content_of((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert content["examples"] == [[[0, 0, 1, 1]]] and "names of the labels were given" in content["note"]
    assert "pixels are taken to be 0" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "page.txt"], "the output must end with .html, got 'page.txt'"),
        (["--examples", "x.json"], "must hold a list of drawings, got dict"),
        (["--names", "broken.json"], "broken.json is no JSON"),
        (["--names", "list.json"], "list.json must hold the names of labels"),
        (["--names", "word.json"], "word in word.json must be text, got 5"),
        (["--shape", "9,9"], "9 x 9 pixels"),
        (["--port", "70000"], "a port is a number from 0 to 65535, got 70000"),
        (["--examples", "rows.npy"], "rows of 64 features"),
    ],
)
def test_errors_of_the_command(arguments, message, image_student, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("a.student").write_bytes(image_student)
    np.save("rows.npy", np.ones((2, 3)))
    for name, text in (("x", "{}"), ("broken", "{"), ("list", "[]"), ("word", '{"names": {}, "word": 5}')):
        Path(f"{name}.json").write_text(text)
    before = sorted(Path().iterdir())
    assert main(["serve-demo", "a.student", "--no-browser", *arguments]) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert sorted(Path().iterdir()) == before


def test_arguments_that_are_no_pairs(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["serve-demo", "a.student", "--shape", "28x28"])
    assert "two numbers with a comma between them are needed, got '28x28'" in capsys.readouterr().err


@pytest.fixture
def served(capsys):
    """The address of a page that is served."""
    servers, started = [], threading.Event()

    def ready(server):
        servers.append(server)
        started.set()

    options = {"port": 0, "open_browser": False, "ready": ready}
    thread = threading.Thread(target=serve, args=("<p>page \N{EURO SIGN}</p>",), kwargs=options)
    thread.start()
    assert started.wait(10)
    yield f"http://127.0.0.1:{servers[0].server_port}/"
    servers[0].shutdown()
    thread.join(10)
    assert not thread.is_alive()


def test_server(served, capsys):
    with urllib.request.urlopen(served, timeout=10) as answer:
        assert answer.read().decode() == "<p>page \N{EURO SIGN}</p>"
        assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    request = urllib.request.Request(served, headers={"Accept-Encoding": "gzip"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert gzip.decompress(answer.read()).decode() == "<p>page \N{EURO SIGN}</p>"
    with urllib.request.urlopen(urllib.request.Request(served, method="HEAD"), timeout=10) as answer:
        assert answer.read() == b"" and int(answer.headers["Content-Length"]) > 0
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(served + "../etc/passwd", timeout=10)
    refused.value.close()
    assert refused.value.code == 404
    with pytest.raises(OSError, match=r"cannot be used \(.*\); give another --port, or 0"):
        serve("", port=int(served.rstrip("/").rsplit(":", 1)[1]), open_browser=False)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT for a single process")
def test_command_serves_until_it_is_interrupted():
    command = [sys.executable, "-W", "error", "-m", "distill", "serve-demo", str(MODELS / "mnist_1000.student")]
    options = ["--port", "0", "--no-browser", "--range", "0,1"]
    with subprocess.Popen([*command, *options], env=environment(), text=True, stdout=-1, stderr=-1) as process:
        address = process.stdout.readline().split()[0]
        with urllib.request.urlopen(address, timeout=10) as answer:
            assert b"<title>Try the model</title>" in answer.read()
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=10)
    assert process.returncode == 0 and output.strip() == ""
    assert errors == "note: rows are taken for images of 28 x 28 pixels; --fields shows number fields instead\n"
