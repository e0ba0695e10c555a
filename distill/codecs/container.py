"""The student file: the description of a network, its weights in sections, a checksum (docs/format.md).

`pack` assembles a file from the sections that codecs have written, `decode` reads it, `report` lists the bytes of its
parts. `encode` packs a network whose weights are stored uncompressed.
"""

import os
import zlib
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from itertools import pairwise
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, cast

import numpy as np

from distill.codecs import dense, files, labels, preprocessing, sections
from distill.codecs.preprocessing import AnyStep
from distill.codecs.reader import Reader, StudentFileError, varint
from distill.codecs.sections import Layer, Section
from distill.network import ACTIVATIONS, OUTPUTS, TARGETS, Network

if TYPE_CHECKING:
    from distill.codecs.table import TableStep

__all__ = ["CODECS", "Codec", "Contents", "Section", "StudentFileError", "decode", "encode", "pack", "report", "save"]

MAGIC = b"MBNS"
VERSION = 1
# Kinds of the sections without weights, and flags of the input section
_PREPROCESSING, _CLASSES, _NAMES, _INPUT, _OUTPUT, _TABLE = 0, 1, 2, 3, 4, 5
# The order of the sections, weights last; older versions meet the table first, and refuse it as a later kind
_ORDER = {kind: place for place, kind in enumerate((_TABLE, _PREPROCESSING, _CLASSES, _NAMES, _INPUT, _OUTPUT))}
# Flags of the input and output sections, a varint: the first seven are those of the format's first files
_OFFSET, _OFFSET_PER_FEATURE, _SCALE, _SCALE_PER_FEATURE, _WIDE, _CLIP, _FILL = 1, 2, 4, 8, 16, 32, 64
_DOUBLE_OFFSET, _DOUBLE_SCALE, _SOME_INPUTS = 128, 256, 512
# Least kind of a section with weights
_FIRST_CODEC = 16
# Limit of the format
_MAX_LAYERS = 255
_WRITTEN_LATER = (
    f"which this version of distill cannot read; the file has format version {VERSION} and was written by a later "
    "version of distill: upgrade distill to read it"
)


class Codec(NamedTuple):
    """The decoder of the weights of one or more layers; see `distill.codecs.sections` for the contract.

    Parameters
    ----------
    name : str
        Name in the report.
    module : str
        Module of `distill.codecs`, imported when first needed: most files need a single one.
    function : str
        Function of the module, called as ``decode(reader, shapes)``.
    """

    name: str
    module: str
    function: str = "decode"

    def decode(self, reader: Reader, shapes: list[tuple[int, int]]) -> list[Layer]:
        """Read the next layers of a file.

        Parameters
        ----------
        reader : Reader
        shapes : list of tuple
            (n_inputs, n_outputs) of all layers that have no weights yet.

        Returns
        -------
        list of Layer
            One layer or more, from the first.

        Raises
        ------
        StudentFileError
            If the bytes are damaged.
        """
        return getattr(import_module(f"distill.codecs.{self.module}"), self.function)(reader, shapes)


CODECS = {
    sections.FLOAT32: Codec("float32", "dense"),
    sections.FLOAT16: Codec("float16", "dense", "decode_float16"),
    sections.CODEBOOK: Codec("codebook", "codebook"),
    sections.RANDOM_CODE: Codec("random code", "random_code"),
    sections.SMALL_RANDOM_CODE: Codec("small random code", "random_code", "decode_small"),
    sections.GRID: Codec("grid", "grid"),
    sections.SPARSE: Codec("sparse", "sparse"),
}


class Contents(NamedTuple):
    """Decoded contents of a student file.

    Parameters
    ----------
    network : Network
    extras : tuple of dict of str to ndarray
        Arrays of each layer that its codec stores besides the weights.
    codecs : tuple of str
        Names of the codecs of the weight sections.
    parts : dict of str to int
        Bytes of each part; their sum is the size of the file.
    n_features : int
        Number of input features; that of the network unless preprocessing changes it.
    steps : tuple of TableStep, Step or MomentsStep
        Preprocessing of the samples before the network. Only the first one can be a table.
    """

    network: Network
    extras: tuple[dict[str, np.ndarray], ...]
    codecs: tuple[str, ...]
    parts: dict[str, int]
    n_features: int
    steps: "tuple[AnyStep | TableStep, ...]" = ()


def encode(network: Network, codec: str = "float32") -> bytes:
    """Write a network with uncompressed weights.

    Parameters
    ----------
    network : Network
    codec : {"float32", "float16"}

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If the codec is unknown, or a weight is NaN, infinite or too large for it.

    Examples
    --------
    >>> import numpy as np
    >>> from distill.network import Network
    >>> data = encode(Network((np.eye(2, dtype=np.float32),), (np.zeros(2, np.float32),)))
    >>> len(data), decode(data).network.layer_sizes
    (39, (2, 2))
    """
    names = {CODECS[number].name: number for number in (sections.FLOAT32, sections.FLOAT16)}
    if codec not in names:
        raise ValueError(f"codec must be one of {sorted(names)}, got {codec!r}")
    layers = zip(network.weights, network.biases)
    return pack(network, [_layer_section(weight, bias, codec, names[codec]) for weight, bias in layers])


def _layer_section(weight: np.ndarray, bias: np.ndarray, codec: str, number: int) -> Section:
    """Return an uncompressed layer, or only the weights of used inputs where that is shorter by half."""
    plain = dense.encode(weight, bias, number)
    # A wide table or text has many inputs that never vary, and have no weight
    if 2 * np.count_nonzero(weight.any(axis=1)) <= len(weight):
        few = import_module("distill.codecs.sparse").encode(weight, bias, codec)
        if 2 * len(few.payload) <= len(plain.payload):
            return few
    return plain


def pack(network: Network, weight_sections: Iterable[Section]) -> bytes:
    """Assemble the file of a network from the sections of its weights.

    Parameters
    ----------
    network : Network
        Only the shapes of its weights are used.
    weight_sections : iterable of Section
        Sections from codecs, in the order of the layers.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If the description of the network is inconsistent, or the result cannot be read back.
    """
    body = [_encode_header(network)]
    if network.classes is not None:
        body.append(_framed(_CLASSES, labels.encode_classes(network.classes)))
    if network.feature_names is not None:
        body.append(_framed(_NAMES, labels.encode_names(network.feature_names)))
    if network.offset is not None or network.scale is not None or network.has_wide_inputs:
        body.append(_framed(_INPUT, _encode_input(network)))
    if network.output_offset is not None or network.output_scale is not None:
        body.append(_framed(_OUTPUT, _encode_output(network)))
    body += [_framed(section.codec, section.payload) for section in weight_sections]
    return _checked_file(body)


def with_steps(
    data: bytes,
    n_features: int,
    steps: "Sequence[AnyStep | TableStep]",
    feature_names: Sequence[str] | None,
    *,
    single: bool = False,
) -> bytes:
    """Insert preprocessing steps into a student file; all other sections stay byte for byte.

    Parameters
    ----------
    data : bytes
        A file without preprocessing.
    n_features : int
        Number of features before the first step.
    steps : sequence of TableStep, Step or MomentsStep
        If empty, only the feature names are replaced. Only the first one can be a table.
    feature_names : sequence of str or None
        Names of these features; they replace those of the network's inputs.
    single : bool
        Whether the fitted numbers of a table are rounded to float32.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If the last step does not have as many outputs as the network has inputs.
    """
    header, found = split(data)
    replaced, numeric = [], [cast(AnyStep, step) for step in steps if step.operation != "table"]
    if len(numeric) < len(steps):
        if len(numeric) < len(steps) - 1 or steps[0].operation != "table":
            raise ValueError("a table is the first step before a network, and there is one at most")
        table, step = import_module("distill.codecs.table"), cast("TableStep", steps[0])
        replaced.append((_TABLE, table.encode(step, single)))
        n_features = table.n_outputs(step.operations, step.n_columns)
    if numeric:
        replaced.append((_PREPROCESSING, preprocessing.encode(n_features, numeric)))
    replaced += [(_NAMES, labels.encode_names(tuple(feature_names)))] if feature_names is not None else []
    kept = [section for section in found if section[0] not in (_TABLE, _PREPROCESSING, _NAMES)]
    # The sort is stable: weight sections keep their order, which assigns them to layers
    ordered = sorted(replaced + kept, key=lambda section: _ORDER.get(section[0], _FIRST_CODEC))
    return _checked_file([header, *(_framed(*section) for section in ordered)])


def split(data: bytes) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Return the header of a student file, and kind and payload of every section.

    Raises
    ------
    StudentFileError
        If the magic bytes, the version or the checksum are wrong.
    """
    reader = Reader(_checked(memoryview(data).cast("B")))
    reader.take(len(MAGIC) + 2, "header")
    _decode_sizes(reader, len(data))
    header = bytes(data[: len(data) - 4 - reader.remaining])
    found = []
    while reader.remaining:
        kind = reader.byte("header")
        found.append((kind, bytes(reader.take(reader.varint("header"), ""))))
    return header, found


# A signaling NaN is refused like any other, and no warning of its conversion comes before
@np.errstate(invalid="ignore")
def decode(data: bytes) -> Contents:
    """Read a student file.

    Parameters
    ----------
    data : bytes-like

    Returns
    -------
    Contents

    Raises
    ------
    StudentFileError
        If the bytes are damaged, truncated, too many, of another format version, or not a student file.
    """
    view = memoryview(data).cast("B")
    reader = Reader(_checked(view))
    found = _decode_header(reader, len(view))
    parts, last_kind, last_place = reader.parts, -1, -1
    while reader.remaining:
        kind = reader.byte("header")
        section = Reader(reader.take(reader.varint("header"), ""), f"section {kind} of the file")
        # Names need the number of features of the preprocessing, and labels come before weights: the order is fixed
        place = _ORDER.get(kind, _FIRST_CODEC)
        if place < _FIRST_CODEC and place <= last_place:
            raise StudentFileError(f"{section.where} comes after section {last_kind}")
        if kind in CODECS:
            found.read_layers(section, CODECS[kind])
        elif kind in _DESCRIPTIONS:
            _DESCRIPTIONS[kind](found, section)
        else:
            raise StudentFileError(f"the file has a section of kind {kind}, {_WRITTEN_LATER}")
        section.finish()
        parts.update(section.parts)
        last_kind, last_place = kind, place
    if len(found.layers) != len(found.shapes):
        raise StudentFileError(f"the file has weights for {len(found.layers)} of {len(found.shapes)} layers")
    parts["checksum"] += 4
    del parts[""]  # payloads, which have been counted by their sections
    if found.width != found.sizes[0]:
        raise StudentFileError(f"the table of the file leads to {found.width} inputs, the network has {found.sizes[0]}")
    weights, biases, extras = zip(*found.layers)
    network = Network(weights, biases, **found.description)
    _check(network)
    return Contents(network, extras, tuple(found.codecs), dict(parts), found.n_features, found.steps)


def report(data: bytes) -> dict:
    """Return the bytes of each part of a student file, and its ratio of compression.

    Returns
    -------
    dict
        ``n_bytes``; ``bytes``, a dict from part to its bytes, of total n_bytes; ``codecs``; ``layer_sizes``;
        ``n_parameters`` (weights and biases); ``bits_per_weight``, 8 * n_bytes / n_parameters; ``baseline``, a
        description of the uncompressed bytes; ``ratio``, the bytes of the baseline over n_bytes.

    Raises
    ------
    StudentFileError
        See `decode`.
    """
    return summarize(decode(data))


def summarize(contents: Contents) -> dict:
    """Return the report of decoded contents; see `report`."""
    network, n_bytes = contents.network, sum(contents.parts.values())
    return {
        "n_bytes": n_bytes,
        "bytes": dict(contents.parts),
        "codecs": contents.codecs,
        "layer_sizes": network.layer_sizes,
        "n_parameters": network.n_parameters,
        "bits_per_weight": 8 * n_bytes / network.n_parameters,
        "baseline": "raw float32 weights and biases of these layers, no header",
        "ratio": 4 * network.n_parameters / n_bytes,
    }


def save(data: bytes, path: str | os.PathLike | BinaryIO) -> None:
    """Write bytes to a file atomically, or to an open binary file.

    Parameters
    ----------
    data : bytes
    path : str, path or open binary file
        A path holds either the old or the new bytes at any time; see `distill.codecs.files.write_bytes`.

    Raises
    ------
    OSError
        If the file cannot be written.
    """
    files.write_bytes(data, path)


class _Partial:
    """The contents of a partly read file.

    Parameters
    ----------
    sizes : list of int
        Number of inputs of the network, then of outputs of every layer.
    description : dict
        Arguments of `Network` besides the weights.
    n_bytes : int
        Size of the file.
    """

    def __init__(self, sizes: list[int], description: dict[str, Any], n_bytes: int):
        self.sizes = sizes
        self.n_bytes = n_bytes
        # Columns after the table, until section 0 has been read
        self.width = sizes[0]
        self.description = description
        self.n_features = sizes[0]
        self.steps: tuple[Any, ...] = ()
        self.layers: list[Layer] = []
        self.codecs: list[str] = []

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """(n_inputs, n_outputs) of every layer."""
        return list(pairwise(self.sizes))

    def read_layers(self, section: Reader, codec: Codec) -> None:
        """Read the next layers."""
        if len(self.layers) == len(self.shapes):
            raise StudentFileError(f"{section.where} comes after the last of {len(self.shapes)} layers")
        self.layers += codec.decode(section, self.shapes[len(self.layers) :])
        self.codecs.append(codec.name)

    def read_table(self, section: Reader) -> None:
        """Read the table before the network."""
        # Imported when first needed: most files have none
        step, self.width = import_module("distill.codecs.table").decode(section, self.n_bytes)
        self.n_features, self.steps = step.n_columns, (step,)

    def read_preprocessing(self, section: Reader) -> None:
        """Read the steps before the network."""
        n_features, steps = preprocessing.decode(section, self.sizes[0])
        if not self.steps:
            self.n_features = n_features
        elif n_features != self.width:
            raise StudentFileError(f"{section.where} has {n_features} features, and the table has {self.width} outputs")
        self.steps, self.width = self.steps + steps, self.sizes[0]

    def read_classes(self, section: Reader) -> None:
        """Read the label values."""
        n_classes = _n_classes(self.description["output"], self.sizes[-1])
        self.description["classes"] = labels.decode_classes(section, n_classes)

    def read_names(self, section: Reader) -> None:
        """Read the feature names."""
        self.description["feature_names"] = labels.decode_names(section, self.n_features)

    def read_input(self, section: Reader) -> None:
        """Read offset and scale of the inputs."""
        self.description.update(_decode_input(section, self.sizes[0]))

    def read_output(self, section: Reader) -> None:
        """Read offset and scale of the outputs."""
        self.description.update(_decode_output(section, self.sizes[-1]))


# Sections that hold no weights, in the order of their kinds; each at most once
_DESCRIPTIONS: dict[int, Callable[[_Partial, Reader], None]] = {
    _TABLE: _Partial.read_table,
    _PREPROCESSING: _Partial.read_preprocessing,
    _CLASSES: _Partial.read_classes,
    _NAMES: _Partial.read_names,
    _INPUT: _Partial.read_input,
    _OUTPUT: _Partial.read_output,
}


def _encode_header(network: Network) -> bytes:
    """Return magic, version, kind and layer sizes."""
    sizes = network.layer_sizes
    kind = ACTIVATIONS.index(network.activation) | TARGETS.index(network.target) << 3
    kind |= OUTPUTS.index(network.output) << 5 | network.squeeze << 7
    return MAGIC + bytes([VERSION, kind]) + b"".join(map(varint, (len(sizes) - 1, *sizes)))


def _decode_header(reader: Reader, n_bytes: int) -> _Partial:
    """Read magic, version, kind and layer sizes."""
    reader.take(len(MAGIC) + 1, "header")
    kind, sizes = reader.byte("header"), _decode_sizes(reader, n_bytes)
    description: dict[str, Any] = {"squeeze": bool(kind >> 7)}
    fields = (
        ("activation", kind & 7, ACTIVATIONS),
        ("target", kind >> 3 & 3, TARGETS),
        ("output", kind >> 5 & 3, OUTPUTS),
    )
    for name, number, values in fields:
        if number >= len(values):
            raise StudentFileError(f"the file has {name} number {number}, {_WRITTEN_LATER}")
        description[name] = values[number]
    return _Partial(sizes, description, n_bytes)


def _checked_file(body: Sequence[bytes]) -> bytes:
    """Return a file with its checksum, after it has been decoded once."""
    written = b"".join(body)
    written += zlib.crc32(written).to_bytes(4, "little")
    decode(written)
    return written


def _framed(kind: int, payload: bytes) -> bytes:
    """Return a section: kind, length and payload."""
    return bytes([kind]) + varint(len(payload)) + payload


def _encode_input(network: Network) -> bytes:
    """Return the payload of the input section."""
    flags = (_WIDE if network.has_wide_inputs else 0) | (_FILL if network.fill else 0)
    parts = (network.offset, network.scale)
    used = np.ones(network.n_features, bool)
    if all(np.ndim(part) == 1 for part in parts if part is not None):
        used = np.any([part != 0 for part in parts if part is not None] or [used], axis=0)
    written = b""
    # Inputs without a scale have no weight; a bit for each says which they are, where that is shorter
    if 4 * np.count_nonzero(~used) > len(used) / 8:
        flags |= _SOME_INPUTS
        written += np.packbits(used, bitorder="little").tobytes()
    for value, flag, double in zip(parts, (_OFFSET, _SCALE), (_DOUBLE_OFFSET, _DOUBLE_SCALE)):
        if value is not None:
            flags |= flag if np.ndim(value) == 0 else 2 * flag
            value = value[used] if flags & _SOME_INPUTS else value
            with np.errstate(over="ignore", under="ignore"):
                short = np.asarray(value, "<f4")
            if network.has_wide_inputs and not (short == value).all():
                flags |= double
                short = np.asarray(value, "<f8")
            written += short.tobytes()
    if network.clip is not None:
        flags |= _CLIP
        written += np.asarray(network.clip, "<f4").tobytes()
    return varint(flags) + written


def _decode_input(reader: Reader, n_features: int) -> dict[str, Any]:
    """Return offset, scale, clip and fill of the input section."""
    flags = reader.varint("input", 1023)
    extended = flags & (_CLIP | _FILL | _DOUBLE_OFFSET | _DOUBLE_SCALE)
    if (
        not flags
        or flags & 3 == 3
        or flags & 12 == 12
        or (extended and not flags & _WIDE)
        or (flags & _DOUBLE_OFFSET and not flags & 3)
        or (flags & _DOUBLE_SCALE and not flags & 12)
        or (flags & _SOME_INPUTS and (flags & (_OFFSET | _SCALE) or not flags & 10))
    ):
        raise StudentFileError(f"{reader.where} has impossible flags {flags}")
    found: dict[str, Any] = {}
    used = None
    if flags & _SOME_INPUTS:
        bits = np.unpackbits(reader.array("u1", -(-n_features // 8), "input"), bitorder="little").astype(bool)
        used = bits[:n_features]
        if bits[n_features:].any() or used.all():
            raise StudentFileError(f"{reader.where} has impossible bits of used inputs")
    parts = (("offset", _OFFSET, _DOUBLE_OFFSET), ("scale", _SCALE, _DOUBLE_SCALE))
    for name, shared, double in parts:
        if not flags & (shared | 2 * shared):
            continue
        kind = "<f8" if flags & double else "<f4"
        n_values = n_features if used is None else int(used.sum())
        values = reader.array(kind, 1 if flags & shared else n_values, "input")
        if used is not None:
            stored, values = values, np.zeros(n_features, values.dtype)
            values[used] = stored
        if flags & _WIDE:
            values = values.astype(np.float64)
        found[name] = values.reshape(()) if flags & shared else values
    if flags & _WIDE and not extended and not found:
        raise StudentFileError(f"{reader.where} has impossible flags {flags}")
    if flags & _CLIP:
        found["clip"] = float(reader.array("<f4", 1, "input")[0])
    if flags & _FILL:
        found["fill"] = True
    return found


def _encode_output(network: Network) -> bytes:
    """Return the payload of the output section."""
    flags, written = 0, b""
    for value, flag in ((network.output_offset, _OFFSET), (network.output_scale, _SCALE)):
        if value is not None:
            flags |= flag if np.ndim(value) == 0 else 2 * flag
            written += np.asarray(value, "<f8").tobytes()
    return bytes([flags]) + written


def _decode_output(reader: Reader, n_outputs: int) -> dict[str, np.ndarray]:
    """Return offset and scale of the output section."""
    flags = reader.byte("output")
    if not 0 < flags < 16 or flags & 3 == 3 or flags & 12 == 12:
        raise StudentFileError(f"{reader.where} has impossible flags {flags}")
    found = {}
    for name, shared in (("output_offset", _OFFSET), ("output_scale", _SCALE)):
        if flags & shared:
            found[name] = reader.array("<f8", 1, "output").reshape(()).astype(np.float64)
        elif flags & 2 * shared:
            found[name] = reader.array("<f8", n_outputs, "output").astype(np.float64)
    return found


def _n_classes(output: str, n_outputs: int) -> int:
    """Return the number of labels of a network."""
    # A single output, unless a softmax, separates two classes
    return 2 if n_outputs == 1 and output != "softmax" else n_outputs


def _checked(data: memoryview) -> memoryview:
    """Return the bytes before the checksum; StudentFileError if magic, version or checksum is wrong."""
    if len(data) < len(MAGIC) + 1 or data[: len(MAGIC)] != MAGIC:
        raise StudentFileError(f"this is no student file: it does not begin with {MAGIC!r}")
    if (version := data[len(MAGIC)]) != VERSION:
        later = (
            "; it was written by a later version of distill: upgrade distill to read it" if version > VERSION else ""
        )
        raise StudentFileError(f"the file has format version {version}, this version of distill reads {VERSION}{later}")
    if len(data) < len(MAGIC) + 5 or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise StudentFileError("the file is damaged or cut: its checksum does not match")
    return data[:-4]


def _decode_sizes(reader: Reader, n_bytes: int) -> list[int]:
    """Return the layer sizes; StudentFileError if they are too large for a file of `n_bytes`."""
    n_layers = reader.varint("header", _MAX_LAYERS)
    sizes = [reader.varint("header") for _ in range(n_layers + 1)]
    if not n_layers or 0 in sizes:
        raise StudentFileError(f"the file describes an empty network, layer sizes {sizes}")
    # A few bytes may describe many weights; this bounds the memory that a hostile header makes a reader allocate
    limit = min(4096 * n_bytes, 2**24 + 64 * n_bytes)
    n_parameters = sum((n_inputs + 1) * n_outputs for n_inputs, n_outputs in pairwise(sizes))
    if n_parameters > limit:
        raise StudentFileError(f"layer sizes {sizes} are {n_parameters} weights, too many for {n_bytes} bytes")
    return sizes


def _check(network: Network) -> None:
    """Raise StudentFileError if a network is inconsistent or not finite."""
    n_outputs = network.layer_sizes[-1]
    for index, layer in enumerate(zip(network.weights, network.biases)):
        if not all(np.isfinite(array).all() for array in layer):
            raise StudentFileError(f"layer {index} has weights that are NaN or infinite")
    for value in (network.offset, network.scale, network.output_offset, network.output_scale):
        if value is not None and not np.isfinite(value).all():
            raise StudentFileError("the offset or scale of inputs or outputs is NaN or infinite")
    if network.clip is not None and not 0 < network.clip < np.inf:
        raise StudentFileError(f"inputs are clipped at {network.clip}, which is not a positive number")
    _check_output(network)
    if network.target == "predict_proba" and not network.gives_probabilities:
        raise StudentFileError("target 'predict_proba' needs output 'softmax' or 'logistic'")
    if network.squeeze and n_outputs != 1:
        raise StudentFileError(f"a network of {n_outputs} outputs cannot predict one vector")


def _check_output(network: Network) -> None:
    """Raise StudentFileError if classes, target, offset and scale do not suit the output."""
    is_distribution = network.output == "softmax" and network.target == "transform"
    if network.classes is None and network.gives_probabilities and not is_distribution:
        raise StudentFileError(f"output {network.output!r} needs classes and there are none")
    if network.classes is not None and network.output == "relu":
        raise StudentFileError("output 'relu' is for values, and there are classes")
    moved = network.output_offset is not None or network.output_scale is not None
    if moved and network.output != "identity":
        raise StudentFileError(f"output {network.output!r} has neither an offset nor a scale")
    if network.output_scale is not None and not np.all(network.output_scale > 0):
        raise StudentFileError("the scale of the outputs is not positive")
