"""Read an ONNX file without protobuf's copies of its weights: the larger ones go straight from the file into arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

__all__ = ["read_apart"]

_GRAPH, _INITIALIZER, _RAW_DATA = (number << 3 | 2 for number in (7, 5, 9))  # in onnx.proto, which never changes
_SHORT = 4096  # bytes; shorter weights stay in the message
Span = tuple[int, int]


def read_apart(
    path: Path, is_apart: Callable[[Any, Sequence[int]], bool], *, values: bool = True
) -> tuple[Any, dict[str, np.ndarray]]:
    """The ``ModelProto`` of a file, without those initializers that are put apart, and these as arrays by name.

    Args:
        path: The file.
        is_apart: Whether to put an initializer apart, by its type in numpy and its shape.
        values: Whether to read the values of these; without, the arrays hold anything.

    Raises:
        Exception: The file is not an ONNX model; protobuf has exceptions of its own.
    """
    import onnx

    model, apart = onnx.ModelProto(), dict[str, np.ndarray]()
    with path.open("rb") as stream:
        for tag, whole, body in _fields(stream, (0, path.stat().st_size)):
            if tag != _GRAPH:
                model.MergeFromString(_read(stream, whole))
                continue
            pieces = []
            for inner, piece, tensor in _fields(stream, body):
                found = _tensor(stream, tensor, is_apart, values) if inner == _INITIALIZER else None
                if found is None:
                    pieces.append(_read(stream, piece))
                else:
                    apart[found[0]] = found[1]
            model.graph.MergeFromString(b"".join(pieces))
    return model, apart


def _tensor(
    stream: BinaryIO, body: Span, is_apart: Callable[[Any, Sequence[int]], bool], read: bool
) -> tuple[str, np.ndarray] | None:
    """The name and values of a ``TensorProto``; ``None`` if it is not put apart, or holds its values in another way."""
    from onnx import TensorProto, helper

    if body[1] - body[0] < _SHORT:
        return None
    fields = list(_fields(stream, body))
    raw = [span for tag, _, span in fields if tag == _RAW_DATA]
    if len(raw) != 1 or sum(stop - start for _, (start, stop), _ in fields) - (raw[0][1] - raw[0][0]) > _SHORT:
        return None
    told = TensorProto.FromString(b"".join(_read(stream, whole) for tag, whole, _ in fields if tag != _RAW_DATA))
    dtype = helper.tensor_dtype_to_np_dtype(told.data_type)
    if not is_apart(dtype, told.dims) or raw[0][1] - raw[0][0] != np.prod(told.dims) * dtype.itemsize:
        return None
    values = np.empty(told.dims, dtype.newbyteorder("<"))
    if read:
        stream.seek(raw[0][0])
        content: Any = values.reshape(-1).view(np.uint8)
        stream.readinto(content)  # type: ignore[attr-defined]
    return told.name, values


def _fields(stream: BinaryIO, span: Span) -> Iterator[tuple[int, Span, Span]]:
    """The fields of a message: number and type of each, the bytes of the field, and those of its content."""
    start, end = span
    while start < end:
        stream.seek(start)
        tag = _varint(stream)
        kind = tag & 7
        size = _varint(stream) if kind in (0, 2) else {1: 8, 5: 4}[kind]
        body = stream.tell()
        stop = body + size if kind else body
        if stop > end:
            raise ValueError("the file is cut off")
        yield tag, (start, stop), (body, stop)
        start = stop


def _varint(stream: BinaryIO) -> int:
    number = 0
    for shift in range(0, 70, 7):
        (byte,) = stream.read(1)
        number |= (byte & 127) << shift
        if byte < 128:
            return number
    raise ValueError("a number has more than ten bytes")


def _read(stream: BinaryIO, span: Span) -> bytes:
    stream.seek(span[0])
    return stream.read(span[1] - span[0])
