"""The student file: a network's description, its weights in sections, a checksum (docs/format.md).

`pack` puts together what codecs have written; `decode` reads a file back; `report` says where the bytes are. `encode`
is the short way for weights stored as they are.
"""

import os
import zlib
from collections.abc import Iterable, Sequence
from importlib import import_module
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from distill.codecs import dense, labels, preprocessing
from distill.codecs.preprocessing import Step
from distill.codecs.reader import Reader, StudentFileError, varint
from distill.codecs.sections import Layer, Section
from distill.network import ACTIVATIONS, OUTPUTS, TARGETS, Network

__all__ = ["CODECS", "Codec", "Contents", "Section", "StudentFileError", "decode", "encode", "pack", "report", "save"]

MAGIC = b"MBNS"
VERSION = 1
_PREPROCESSING, _CLASSES, _NAMES, _INPUT = 0, 1, 2, 3
_OFFSET, _OFFSET_PER_FEATURE, _SCALE, _SCALE_PER_FEATURE = 1, 2, 4, 8
_MOST_LAYERS = 255


class Codec(NamedTuple):
    """How the weights of one or more layers are read.

    Parameters
    ----------
    name : str
    module : str
        Where it is, below `distill.codecs`; loaded by the first file that needs it, because most need one.
    """

    name: str
    module: str

    def decode(self, reader: Reader, shapes: list[tuple[int, int]], number: int) -> list[Layer]:
        """Read the next layers of a file.

        Parameters
        ----------
        reader : Reader
        shapes : list of tuple
            (n_inputs, n_outputs) of all layers that are still to come.
        number : int
            Under which the codec was called.

        Returns
        -------
        list of Layer
            One or more of them, from the first.
        """
        return import_module(f"distill.codecs.{self.module}").decode(reader, shapes, number)


CODECS = {
    16: Codec("float32", "dense"),
    17: Codec("float16", "dense"),
    18: Codec("codebook", "codebook"),
    20: Codec("random code", "random_code"),
    22: Codec("grid", "grid"),
    24: Codec("sparse", "sparse"),
}


class Contents(NamedTuple):
    """What is in a student file.

    Parameters
    ----------
    network : Network
    extras : tuple of dict of str to ndarray
        What the codecs know about each layer besides its weights.
    codecs : tuple of str
        Names of the codecs of the weight sections.
    parts : dict of str to int
        Bytes of each part; their sum is the size of the file.
    n_features : int
        Features of the rows that come in; the network's unless steps before it change their number.
    steps : tuple of Step
        What is done to rows before they enter the network.
    """

    network: Network
    extras: tuple[dict[str, np.ndarray], ...]
    codecs: tuple[str, ...]
    parts: dict[str, int]
    n_features: int
    steps: tuple[Step, ...] = ()


def encode(network: Network, codec: str = "float32") -> bytes:
    """Write a network with its weights as they are.

    Parameters
    ----------
    network : Network
    codec : {"float32", "float16"}

    Examples
    --------
    >>> import numpy as np
    >>> from distill.network import Network
    >>> data = encode(Network((np.eye(2, dtype=np.float32),), (np.zeros(2, np.float32),)))
    >>> len(data), decode(data).network.layer_sizes
    (39, (2, 2))
    """
    names = {CODECS[number].name: number for number in (dense.FLOAT32, dense.FLOAT16)}
    if codec not in names:
        raise ValueError(f"codec must be one of {sorted(names)}, got {codec!r}")
    layers = zip(network.weights, network.biases)
    return pack(network, [dense.encode(weight, bias, names[codec]) for weight, bias in layers])


def pack(network: Network, sections: Iterable[Section]) -> bytes:
    """Put a network's description and its weight sections into one file.

    Parameters
    ----------
    network : Network
        Its weights are looked at for their shapes only.
    sections : iterable of Section
        Written by codecs, in the order of the layers.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If the network contradicts itself, or the result could not be read back.
    """
    body = [_encode_header(network)]
    if network.classes is not None:
        body.append(_framed(_CLASSES, labels.encode_classes(network.classes)))
    if network.feature_names is not None:
        body.append(_framed(_NAMES, labels.encode_names(network.feature_names)))
    if network.offset is not None or network.scale is not None:
        body.append(_framed(_INPUT, _encode_input(network)))
    body += [_framed(section.codec, section.payload) for section in sections]
    data = b"".join(body)
    data += zlib.crc32(data).to_bytes(4, "little")
    decode(data)
    return data


def with_steps(data: bytes, n_features: int, steps: Sequence[Step], feature_names: Sequence[str] | None) -> bytes:
    """Put steps in front of the network in a student file; all else stays byte for byte.

    Parameters
    ----------
    data : bytes
        A file without such steps.
    n_features : int
        Features of the rows that come in.
    steps : sequence of Step
        None at all leaves the file with other names.
    feature_names : sequence of str or None
        Of these features; they take the place of the names of the network's inputs.

    Returns
    -------
    bytes

    Raises
    ------
    ValueError
        If the steps do not lead to the network's inputs.
    """
    header, sections = split(data)
    body = [header]
    replaced = [(_PREPROCESSING, preprocessing.encode(n_features, steps))] if steps else []
    replaced += [(_NAMES, labels.encode_names(tuple(feature_names)))] if feature_names is not None else []
    kept = [section for section in sections if section[0] not in (_PREPROCESSING, _NAMES)]
    # Of the weights, which come after all else, the order says to which layer they belong
    body += [_framed(*section) for section in sorted(replaced + kept, key=lambda section: min(section[0], 16))]
    written = b"".join(body)
    written += zlib.crc32(written).to_bytes(4, "little")
    decode(written)
    return written


def split(data: bytes) -> tuple[bytes, list[tuple[int, bytes]]]:
    """Return the header of a student file, and kind and contents of every section."""
    reader = Reader(_checked(memoryview(data).cast("B")))
    reader.take(len(MAGIC) + 2, "header")
    _decode_sizes(reader, len(data))
    header = bytes(data[: len(data) - 4 - reader.remaining])
    sections = []
    while reader.remaining:
        kind = reader.byte("header")
        sections.append((kind, bytes(reader.take(reader.varint("header"), ""))))
    return header, sections


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
        If the bytes are damaged, cut, too many, of another version, or no student file.
    """
    data = memoryview(data).cast("B")
    reader = Reader(_checked(data))
    parts = reader.parts
    reader.take(len(MAGIC) + 1, "header")
    kind, sizes = reader.byte("header"), _decode_sizes(reader, len(data))
    described = {"activation": kind & 7, "target": kind >> 3 & 3, "output": kind >> 5 & 3}
    for (name, number), values in zip(described.items(), (ACTIVATIONS, TARGETS, OUTPUTS)):
        if number >= len(values):
            raise StudentFileError(f"the file names {name} number {number}, which this version does not know")
        described[name] = values[number]
    described["squeeze"] = bool(kind >> 7)

    shapes = list(pairwise(sizes))
    layers: list[Layer] = []
    names: list[str] = []
    last_tag, n_features, steps = -1, sizes[0], ()
    while reader.remaining:
        tag = reader.byte("header")
        where = f"section {tag} of the file"
        section = Reader(reader.take(reader.varint("header"), ""), where)
        if tag < 16 and tag <= last_tag:
            raise StudentFileError(f"{where} comes after section {last_tag}")
        if tag == _PREPROCESSING:
            n_features, steps = preprocessing.decode(section, sizes[0])
        elif tag == _CLASSES:
            described["classes"] = labels.decode_classes(section, _n_classes(described["output"], sizes[-1]))
        elif tag == _NAMES:
            described["feature_names"] = labels.decode_names(section, n_features)
        elif tag == _INPUT:
            described["offset"], described["scale"] = _decode_input(section, sizes[0])
        elif tag in CODECS:
            if len(layers) == len(shapes):
                raise StudentFileError(f"{where} comes after the last of {len(shapes)} layers")
            layers += CODECS[tag].decode(section, shapes[len(layers) :], tag)
            names.append(CODECS[tag].name)
        else:
            raise StudentFileError(f"the file has a section of kind {tag}, which this version does not know")
        section.finish()
        parts.update(section.parts)
        last_tag = tag
    if len(layers) != len(shapes):
        raise StudentFileError(f"the file has weights for {len(layers)} of {len(shapes)} layers")
    parts["checksum"] += 4
    del parts[""]
    weights, biases, extras = zip(*layers)
    network = Network(weights, biases, **described)
    _check(network)
    return Contents(network, extras, tuple(names), dict(parts), n_features, steps)


def report(data: bytes) -> dict:
    """Say where the bytes of a student file are.

    Returns
    -------
    dict
        ``n_bytes``; ``bytes``, a dict from part to bytes that sums to it; ``codecs``; ``layer_sizes``; ``n_parameters``
        (weights and biases); ``bits_per_weight``, 8 * n_bytes / n_parameters; ``baseline``, what the ratio compares
        with; ``ratio``, the baseline's bytes over n_bytes.
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


def save(data: bytes, path: str | os.PathLike) -> None:
    """Write bytes to a file so that at any moment either the old file or the new one is there.

    Parameters
    ----------
    data : bytes
    path : str or path
        A process that is killed while it writes leaves the old file as it was, and beside it at most a file whose name
        begins with a dot and ends with ".part".
    """
    # What a link points to is replaced, not the link
    folder, name = os.path.split(os.path.realpath(path))
    temporary = os.path.join(folder, f".{name}.{os.getpid()}-{os.urandom(4).hex()}.part")
    try:
        with open(temporary, "xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, os.path.join(folder, name))
    except BaseException:
        if os.path.exists(temporary):
            os.unlink(temporary)
        raise
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _encode_header(network: Network) -> bytes:
    sizes = network.layer_sizes
    kind = ACTIVATIONS.index(network.activation) | TARGETS.index(network.target) << 3
    kind |= OUTPUTS.index(network.output) << 5 | network.squeeze << 7
    return MAGIC + bytes([VERSION, kind]) + b"".join(map(varint, (len(sizes) - 1, *sizes)))


def _framed(tag: int, payload: bytes) -> bytes:
    return bytes([tag]) + varint(len(payload)) + payload


def _encode_input(network: Network) -> bytes:
    flags, written = 0, b""
    for value, flag in ((network.offset, _OFFSET), (network.scale, _SCALE)):
        if value is not None:
            flags |= flag if np.ndim(value) == 0 else 2 * flag
            written += np.asarray(value, "<f4").tobytes()
    return bytes([flags]) + written


def _decode_input(reader: Reader, n_features: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    flags = reader.byte("input")
    if not 0 < flags < 16 or flags & 3 == 3 or flags & 12 == 12:
        raise StudentFileError(f"{reader.where} has impossible flags {flags}")
    values = []
    for shared, per_feature in ((_OFFSET, _OFFSET_PER_FEATURE), (_SCALE, _SCALE_PER_FEATURE)):
        if flags & per_feature:
            values.append(reader.array("<f4", n_features, "input"))
        else:
            values.append(reader.array("<f4", 1, "input").reshape(()) if flags & shared else None)
    return values[0], values[1]


def _n_classes(output: str, n_outputs: int) -> int:
    return 2 if n_outputs == 1 and output != "softmax" else n_outputs


def _checked(data: memoryview) -> memoryview:
    if len(data) < len(MAGIC) + 1 or data[: len(MAGIC)] != MAGIC:
        raise StudentFileError(f"this is no student file: it does not begin with {MAGIC!r}")
    if data[len(MAGIC)] != VERSION:
        raise StudentFileError(
            f"the file has format version {data[len(MAGIC)]}, this version of distill reads {VERSION}"
        )
    if len(data) < len(MAGIC) + 5 or zlib.crc32(data[:-4]) != int.from_bytes(data[-4:], "little"):
        raise StudentFileError("the file is damaged or cut: its checksum does not match")
    return data[:-4]


def _decode_sizes(reader: Reader, n_bytes: int) -> list[int]:
    n_layers = reader.varint("header", _MOST_LAYERS)
    sizes = [reader.varint("header") for _ in range(n_layers + 1)]
    if not n_layers or 0 in sizes:
        raise StudentFileError(f"the file describes an empty network, layer sizes {sizes}")
    # A codec may say much in few bytes; this bounds what a hostile header can make a reader allocate.
    most = min(4096 * n_bytes, 2**24 + 64 * n_bytes)
    n_parameters = sum((n_inputs + 1) * n_outputs for n_inputs, n_outputs in pairwise(sizes))
    if n_parameters > most:
        raise StudentFileError(f"layer sizes {sizes} are {n_parameters} weights, too many for {n_bytes} bytes")
    return sizes


def _check(network: Network) -> None:
    n_outputs = network.layer_sizes[-1]
    for index, layer in enumerate(zip(network.weights, network.biases)):
        if not all(np.isfinite(array).all() for array in layer):
            raise StudentFileError(f"layer {index} has weights that are NaN or infinite")
    for value in (network.offset, network.scale):
        if value is not None and not np.isfinite(value).all():
            raise StudentFileError("the input's offset or scale is NaN or infinite")
    if network.classes is None and network.output != "identity":
        raise StudentFileError(f"output {network.output!r} needs classes and there are none")
    if network.target == "predict_proba" and network.output == "identity":
        raise StudentFileError("target 'predict_proba' needs output 'softmax' or 'logistic'")
    if network.squeeze and n_outputs != 1:
        raise StudentFileError(f"a network of {n_outputs} outputs cannot be answered as one vector")
