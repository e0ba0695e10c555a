"""ONNX models predict what the students predict."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from fresh_process import run_python
from sklearn.cluster import KMeans
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from some_students import make_network, make_rows

import distill
from distill.network import ACTIVATIONS
from distill.onnx import OPSET, to_onnx
from distill.runtime import Student

STRINGS, INTEGERS = np.array(["a", "ß", "日本語"]), np.array([-1, 0, 7])
TWO = np.array(["no", "yes"])
ANSWERS = {
    "embedding": ((6, 5, 3), {}),
    "numbers": ((6, 5, 2), {"target": "predict"}),
    "number": ((6, 5, 1), {"target": "predict", "squeeze": True}),
    "column": ((6, 5, 1), {"target": "predict"}),
    "margin": ((6, 5, 1), {"target": "decision_function", "squeeze": True}),
    "margin and labels": ((6, 5, 1), {"target": "decision_function", "squeeze": True, "classes": TWO}),
    "decisions and labels": ((6, 5, 3), {"target": "decision_function", "classes": INTEGERS}),
    "integers": ((6, 5, 3), {"target": "predict", "output": "softmax", "classes": INTEGERS}),
    "strings": ((6, 5, 3), {"target": "predict_proba", "output": "softmax", "classes": STRINGS}),
    "floats": ((6, 5, 3), {"target": "predict", "output": "softmax", "classes": INTEGERS / 2}),
    "two": ((6, 5, 1), {"target": "predict_proba", "output": "logistic", "classes": TWO}),
    "booleans": ((6, 1), {"target": "predict", "output": "logistic", "classes": TWO == "yes"}),
    "several logistic": ((6, 3), {"target": "predict_proba", "output": "logistic", "classes": INTEGERS}),
    "labels alone": ((6, 3), {"target": "predict", "classes": INTEGERS}),
    "scaled": ((6, 5, 3), {"offset": np.float32(0.5), "scale": np.arange(1, 7, dtype=np.float32)}),
    "wide": ((6, 5, 3), {"offset": np.arange(6) * 1e12, "scale": np.arange(1.0, 7), "clip": 1.5, "fill": True}),
    "clipped": ((6, 5, 1), {"target": "predict_proba", "output": "logistic", "classes": TWO, "clip": 0.5}),
    "missing": ((6, 3), {"target": "predict", "output": "relu", "fill": True}),
    "distributions": ((6, 5, 3), {"output": "softmax"}),
    "moved": ((6, 5, 1), {"target": "predict", "output_offset": np.float64(1.7e9), "squeeze": True}),
    "threshold": (
        (6, 5, 1),
        {"target": "decision_function", "classes": INTEGERS[:2], "output_offset": np.float64(0.3), "squeeze": True},
    ),
    "far away": ((6, 5, 3), {"offset": np.full(6, 100, np.float32), "scale": np.float32(2)}),
}


def run(model, rows):
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"X": rows})))


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ANSWERS)
def test_model_and_student_agree(name, activation):
    sizes, more = ANSWERS[name]
    student = Student(make_network(sizes, activation, **more))
    rows = make_rows(200, 6) + more.get("offset", np.float32(0))
    if student.network.has_wide_inputs:
        rows = rows.astype(np.float64)
    if student.network.fill:
        rows[::7, 2] = np.nan
    answers = run(to_onnx(student), rows)
    method = {"embedding": "transform", "decision": "decision_function", "prediction": "predict"}
    method |= {"label": "predict", "probabilities": "predict_proba"}
    offered = {name for name in method.values() if hasattr(student, name)}
    assert {method[output] for output in answers} == offered
    for output, answer in answers.items():
        expected = getattr(student, method[output])(rows)
        assert answer.shape == expected.shape
        if output == "label":
            assert answer.tolist() == expected.tolist()
        else:
            assert answer.dtype == expected.dtype
            np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-5)
    for count in (0, 1, 3):
        for output, answer in run(to_onnx(student), rows[:count]).items():
            assert len(answer) == count, output


def test_inputs_and_opset_of_the_model():
    model = to_onnx(Student(make_network((3, 2), feature_names=("x", "y", "z"))))
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    assert json.loads(model.metadata_props[0].value) == ["x", "y", "z"]
    shape = model.graph.input[0].type.tensor_type.shape.dim
    assert not shape[0].HasField("dim_value")
    assert shape[1].dim_value == 3
    assert {node.domain for node in model.graph.node} == {""}


@pytest.mark.parametrize("name", ANSWERS)
def test_graph_has_no_unused_nodes(name):
    sizes, more = ANSWERS[name]
    graph = to_onnx(Student(make_network(sizes, **more))).graph
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    assert {constant.name for constant in graph.initializer} <= used
    assert {name for node in graph.node for name in node.output} <= used


def test_fitted_estimator(tmp_path):
    X = load_digits().data.astype(np.float32)
    distiller = distill.Distiller(
        KMeans(5, n_init=1, random_state=0), hidden_layer_sizes=(16,), max_iter=5, random_state=0
    )
    with pytest.raises(NotFittedError):
        distill.to_onnx(distiller)
    distiller.fit(X)
    model = distill.to_onnx(distiller, tmp_path / "student.onnx")
    assert onnx.load(tmp_path / "student.onnx") == model
    answers = run(model, X[:500])
    np.testing.assert_array_equal(answers["label"], distiller.predict(X[:500]))
    np.testing.assert_allclose(answers["probabilities"], distiller.predict_proba(X[:500]), atol=1e-5)


def test_unsupported_input_and_missing_onnx_raise():
    with pytest.raises(TypeError, match="takes a Student, a fitted Distiller or compressor, or a Pipeline, got KMeans"):
        to_onnx(KMeans())
    code = """
import sys
sys.modules["onnx"] = None
import distill, numpy
from distill.network import Network
weight, bias = numpy.eye(2, dtype=numpy.float32), numpy.zeros(2, numpy.float32)
distill.to_onnx(distill.Student(Network((weight,), (bias,))))
"""
    with pytest.raises(AssertionError, match=r"pip install 'mbn-distill\[onnx\]'"):
        run_python(code)
