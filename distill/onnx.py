"""Export students as ONNX models, for onnxruntime on servers, phones and in browsers.

Only operators of the default domain in opset 17 are used, which all builds of onnxruntime and onnxruntime-web have.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike

from distill.codecs import container
from distill.codecs.preprocessing import MomentsStep, Step
from distill.export.students import student_in
from distill.network import Network
from distill.runtime.forward import prepare
from distill.runtime.moving import NO_VARIANCE, blur_weights
from distill.runtime.preprocessing import Preprocessing

if TYPE_CHECKING:
    import onnx

# Operators and file format of ONNX 1.12: all operators used here exist in it, and newer versions exclude older runtimes
OPSET = 17
_IR_VERSION = 8
_ACTIVATIONS = {"relu": "Relu", "tanh": "Tanh", "logistic": "Sigmoid"}
_ELEMENTWISE = {"subtract": "Sub", "divide": "Div", "multiply": "Mul", "add": "Add"}
# Offsets in standard deviations that leave four of float32's seven digits
_MAX_NARROW_OFFSET = 1000.0
_OUTPUT_NAMES = {"predict": "prediction", "transform": "embedding", "decision_function": "decision"}


def to_onnx(estimator_or_student: Any, path: str | os.PathLike | BinaryIO | None = None) -> "onnx.ModelProto":
    """Export a student as an ONNX model, opset 17.

    Parameters
    ----------
    estimator_or_student : Student, student file, fitted Distiller or compressor, or a Pipeline that ends in one
        For the steps that a Pipeline may have see `distill.pipeline.to_bytes`.
    path : str, path, open binary file or None
        File to write the model to, atomically.

    Returns
    -------
    onnx.ModelProto
        Input ``X`` of shape (n_samples, n_features): float32, or float64 where the student needs its digits (see
        `distill.network.Network.has_wide_inputs`) or begins with a table of numbers. All outputs of a row are NaN that
        such a table refuses. Outputs, by the method of the student:
        ``label`` of shape (n_samples,), the label values themselves, and ``probabilities`` of shape (n_samples,
        n_classes); ``decision``, ``embedding`` or ``prediction``, of the shape of the student's method. Within 1e-5 of
        the student's outputs, relative to their scale. Feature names are in the metadata, as JSON.

    Raises
    ------
    ImportError
        If the package onnx is not installed.
    TypeError
        If the argument is neither a student nor an estimator that contains one, or it begins with a table that has text
        or an operation without a form in ONNX, which is named.

    Examples
    --------
    >>> from distill.network import Network
    >>> from distill.runtime import Student
    >>> student = Student(Network((np.eye(2, dtype=np.float32),), (np.zeros(2, np.float32),)))
    >>> model = to_onnx(student)
    >>> [node.op_type for node in model.graph.node], model.graph.output[0].name
    (['Gemm'], 'embedding')
    """
    student = student_in(estimator_or_student, "to_onnx")
    network, preprocessing = student.network, student.preprocessing
    try:
        import onnx
    except ImportError as error:
        raise ImportError("to_onnx needs the package onnx: pip install 'mbn-distill[onnx]'") from error

    graph = _Graph(onnx)
    input_type = onnx.TensorProto.DOUBLE if _needs_double(network, preprocessing) else onnx.TensorProto.FLOAT
    outputs = _network(
        graph, network, "X" if preprocessing is None else _preprocessing(graph, preprocessing, network.fill)
    )
    n_features = network.n_features if preprocessing is None else preprocessing.n_features_in
    if network.classes is None or network.target == "decision_function":
        name = _OUTPUT_NAMES[network.target]
        values, dtype = _values(graph, network, outputs)
        if network.squeeze:
            graph.node("Squeeze", [values, graph.constant(np.array([1], np.int64))], name)
        else:
            graph.rename(values, name)
            outputs = name if values == outputs else outputs
        graph.output(name, dtype, [None] if network.squeeze else [None, network.layer_sizes[-1]])
    if network.classes is not None:
        _labels(graph, network, network.classes, outputs)
    model = onnx.helper.make_model(
        onnx.helper.make_graph(
            graph.nodes,
            "student",
            [onnx.helper.make_tensor_value_info("X", input_type, [None, n_features])],
            graph.outputs,
            graph.constants,
        ),
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="mbn-distill",
    )
    if network.feature_names is not None:
        onnx.helper.set_model_props(model, {"feature_names": json.dumps(network.feature_names)})
    onnx.checker.check_model(model, full_check=True)
    if path is not None:
        container.save(model.SerializeToString(), path)
    return model


class _Graph:
    """Nodes, constants and outputs of a graph, with generated names for intermediate values."""

    def __init__(self, onnx: Any):
        self.onnx = onnx
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def node(self, operator: str, inputs: list[str], output: str | None = None, **attributes: Any) -> str:
        """Add an operator; return the name of its output."""
        output = output or f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, value: ArrayLike) -> str:
        """Add a constant; return its name."""
        name = f"constant_{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def output(self, name: str, dtype: Any, shape: list[int | None]) -> None:
        """Declare an output of the model; None in the shape is the number of rows."""
        element = self.onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self.outputs.append(self.onnx.helper.make_tensor_value_info(name, element, shape))

    def rename(self, old: str, new: str) -> None:
        """Rename an intermediate value."""
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [new if name == old else name for name in names]


def _preprocessing(graph: _Graph, preprocessing: Preprocessing, fills: bool) -> str:
    """Add the preprocessing, in float64, of a network that may fill missing values; return the name of its inputs."""
    rows, steps = graph.node("Cast", ["X"], to=graph.onnx.TensorProto.DOUBLE), preprocessing.steps
    if preprocessing.table is not None:
        # Imported when first needed, as in the runtime
        add_table = import_module("distill.onnx_tables").add_table
        rows, steps = add_table(graph, preprocessing.table, rows, _steps, fills), steps[1:]
    return _steps(graph, steps, rows)


def _steps(graph: _Graph, steps: Sequence[Any], rows: str) -> str:
    """Add steps of section 0; return the name of their result."""
    types = graph.onnx.TensorProto
    for step in steps:
        if isinstance(step, MomentsStep):
            rows = _moments(graph, step, rows)
        elif step.operation == "product":
            rows = graph.node("Cast", [rows], to=types.FLOAT)
            rows = graph.node("MatMul", [rows, graph.constant(step.values)])
            rows = graph.node("Cast", [rows], to=types.DOUBLE)
        elif step.operation == "clip":
            rows = graph.node("Clip", [rows, *(graph.constant(value) for value in step.values)])
        else:
            rows = graph.node(_ELEMENTWISE[step.operation], [rows, graph.constant(step.values)])
    return rows


def _moments(graph: _Graph, step: MomentsStep, rows: str) -> str:
    """Add the moves of images by their moments, as in `distill.runtime.moving`; return the name of the result.

    Arrays are of shape (n_images, n_channels, height, width), with 1 where they have no such axis.
    """
    (height, width, n_channels), node = step.shape, graph.node

    def number(value: ArrayLike) -> str:
        return graph.constant(np.asarray(value, np.float64))

    def total(values: str, *axes: int) -> str:
        return node("ReduceSum", [values, graph.constant(np.array(axes, np.int64))], keepdims=1)

    def product(*factors: str) -> str:
        return factors[0] if len(factors) == 1 else node("Mul", [product(*factors[:-1]), factors[-1]])

    i, j = number(np.arange(height).reshape(1, 1, -1, 1)), number(np.arange(width).reshape(1, 1, 1, -1))
    rows = node("Reshape", [rows, graph.constant(np.array([0, height, width, n_channels], np.int64))])
    planes = node("Transpose", [rows], perm=[0, 3, 1, 2])
    least = node("ReduceMin", [planes], axes=[2, 3], keepdims=1)
    values = node("Sub", [planes, least])
    weights = total(values, 1)
    mass = total(weights, 2, 3)
    mass = node("Where", [node("Greater", [mass, number(0)]), mass, number(1)])
    row, column = (node("Div", [total(product(weights, axis), 2, 3), mass]) for axis in (i, j))
    below, right = node("Sub", [i, row]), node("Sub", [j, column])
    variance = total(product(weights, below, below), 2, 3)
    covariance = total(product(weights, right, below), 2, 3)
    skew = factor = None
    if step.deskew:
        slants = node("Greater", [variance, product(mass, number(NO_VARIANCE))])
        skew = node("Div", [covariance, node("Where", [slants, variance, number(1)])])
        skew = node("Where", [slants, skew, number(0)])
    if step.scale:
        spread = total(product(weights, right, right), 2, 3)
        spread = node("Sub", [spread, product(skew, covariance)]) if skew else spread
        moments = [
            product(node("Add", [node("Div", [moment, mass]), number(1 / 12)]), number(side**-2.0))
            for moment, side in ((variance, height), (spread, width))
        ]
        factor = node("Sqrt", [product(node("Add", moments), number(32 / 3))])
    if step.centre:
        from_middle = number(np.arange(height).reshape(1, 1, -1, 1) - (height - 1) / 2)
        along = number(np.arange(width).reshape(1, 1, 1, -1) - (width - 1) / 2)
    else:
        from_middle, along = below, right
    if factor:
        from_middle, along = product(from_middle, factor), product(along, factor)
    y, x = node("Add", [row, from_middle]), node("Add", [column, along])
    if skew:
        x = node("Add", [x, product(skew, from_middle)])
    moved = _interpolated(graph, _interpolated(graph, values, y, 2, height), x, 3, width)
    if weights_of_blur := blur_weights(step.blur):
        moved = node("MatMul", [number(_blur_matrix(weights_of_blur, height)), moved])
        moved = node("MatMul", [moved, number(_blur_matrix(weights_of_blur, width))])
    moved = node("Transpose", [node("Add", [moved, least])], perm=[0, 2, 3, 1])
    return node("Reshape", [moved, graph.constant(np.array([0, height * width * n_channels], np.int64))])


def _interpolated(graph: _Graph, values: str, places: str, axis: int, size: int) -> str:
    """Add the linear interpolation of values at places along an axis, with zeros beyond the ends."""
    node, integer = graph.node, graph.onnx.TensorProto.INT64
    pads = np.zeros((2, 4), np.int64)
    pads[:, axis] = 2
    padded = node("Pad", [values, graph.constant(pads.reshape(-1))])
    whole = node("Floor", [places])
    fraction = node("Sub", [places, whole])
    limits = [graph.constant(np.float64(limit)) for limit in (-2, size)]
    first = node("Add", [node("Cast", [node("Clip", [whole, *limits])], to=integer), graph.constant(np.int64(2))])
    first = node("Expand", [first, node("Shape", [values])])
    second = node("Add", [first, graph.constant(np.int64(1))])
    left, right = (node("GatherElements", [padded, index], axis=axis) for index in (first, second))
    return node("Add", [left, node("Mul", [node("Sub", [right, left]), fraction])])


def _blur_matrix(weights: list[float], size: int) -> np.ndarray:
    """Return the matrix of a convolution along an axis of this size."""
    distance = np.abs(np.subtract.outer(np.arange(size), np.arange(size)))
    return np.append(weights, 0.0)[np.minimum(distance, len(weights))]


def _needs_double(network: Network, preprocessing: Preprocessing | None) -> bool:
    """Return whether float32 inputs would lose the digits of differences between rows."""
    if network.has_wide_inputs or (preprocessing is not None and preprocessing.table is not None):
        return True
    offset: np.ndarray | float = 0.0
    for step in () if preprocessing is None else preprocessing.steps:
        if not isinstance(step, Step):
            continue
        if step.operation == "subtract":
            offset = np.abs(step.values)
        elif step.operation == "divide" and np.any(offset > _MAX_NARROW_OFFSET * np.abs(step.values)):
            return True
    return False


def _values(graph: _Graph, network: Network, outputs: str) -> tuple[str, type]:
    """Add the output function, scale and offset of values; return their name and type."""
    if network.output == "softmax" and network.classes is None:
        outputs = graph.node("Softmax", [outputs], axis=1)
    elif network.output == "relu":
        outputs = graph.node("Relu", [outputs])
    if network.output_scale is None and network.output_offset is None:
        return outputs, np.float32
    outputs = graph.node("Cast", [outputs], to=graph.onnx.TensorProto.DOUBLE)
    for operator, value in (("Mul", network.output_scale), ("Add", network.output_offset)):
        if value is not None:
            outputs = graph.node(operator, [outputs, graph.constant(value)])
    return outputs, np.float64


def _scaled(graph: _Graph, network: Network, rows: str) -> str:
    """Add the scaling of inputs in float64; return the name of the result, float64."""
    for operator, value in (("Sub", network.offset), ("Mul", network.scale)):
        if value is not None:
            rows = graph.node(operator, [rows, graph.constant(np.asarray(value, np.float64))])
    if network.clip is not None:
        rows = graph.node(
            "Clip", [rows, *(graph.constant(np.float64(limit)) for limit in (-network.clip, network.clip))]
        )
    if network.fill:
        rows = graph.node("Where", [graph.node("IsNaN", [rows]), graph.constant(np.float64(0)), rows])
    return rows


def _network(graph: _Graph, network: Network, rows: str) -> str:
    """Add the layers; return the name of the outputs of the last one."""
    if network.has_wide_inputs:
        rows = _scaled(graph, network, rows)
        network = replace(network, offset=None, scale=None, clip=None, fill=False)
    if rows != "X":
        rows = graph.node("Cast", [rows], to=graph.onnx.TensorProto.FLOAT)
    prepared = prepare(network)
    for operator, value in (("Sub", prepared.offset), ("Mul", prepared.scale)):
        if value is not None:
            rows = graph.node(operator, [rows, graph.constant(value)])
    for index, (weight, bias) in enumerate(zip(prepared.weights, prepared.biases)):
        rows = graph.node("Gemm", [rows, graph.constant(weight), graph.constant(bias)])
        if index < len(prepared.weights) - 1 and network.activation != "identity":
            rows = graph.node(_ACTIVATIONS[network.activation], [rows])
    return rows


def _labels(graph: _Graph, network: Network, classes: np.ndarray, outputs: str) -> None:
    """Add the labels, and the probabilities if the student has them."""
    if network.layer_sizes[-1] < len(classes):
        positive = graph.node("Greater", [outputs, graph.constant(np.float32(0))])
        position = graph.node("Cast", [positive], to=graph.onnx.TensorProto.INT64)
        index = graph.node("Squeeze", [position, graph.constant(np.array([1], np.int64))])
    else:
        index = graph.node("ArgMax", [outputs], axis=1, keepdims=0)
    # ONNX has strings of Python objects only
    values = np.asarray(classes.tolist(), dtype=object) if classes.dtype.kind in "UO" else classes
    graph.node("Gather", [graph.constant(values), index], "label", axis=0)
    graph.output("label", values.dtype, [None])
    if network.output == "softmax":
        graph.node("Softmax", [outputs], "probabilities", axis=1)
    elif network.output == "logistic" and network.layer_sizes[-1] < len(classes):
        positive = graph.node("Sigmoid", [outputs])
        negative = graph.node("Sub", [graph.constant(np.float32(1)), positive])
        graph.node("Concat", [negative, positive], "probabilities", axis=1)
    elif network.output == "logistic":
        graph.node("Sigmoid", [outputs], "probabilities")
    if network.output != "identity":
        graph.output("probabilities", np.float32, [None, len(classes)])
