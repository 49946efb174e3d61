"""Write an ONNX file with its weights straight from their memory.

Protobuf builds the whole message first, which copies all weights several times. The bytes here are the same: the graph
without its larger weights goes through protobuf, and the weights are put at their place.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from narfx.bundle.onnx.parts import is_large

__all__ = ["write_program"]

_GRAPH, _INITIALIZER, _RAW_DATA = 7, 5, 9  # field numbers in onnx.proto, which never change


def write_program(program: Any, path: Path) -> None:
    """Write an ``ONNXProgram`` as one file; weights and all must be below protobuf's 2 GiB."""
    import onnx_ir

    values = program.model.graph.initializers
    held = {name: value.const_value for name, value in values.items()}
    large = {name: tensor for name, tensor in held.items() if is_large(tensor) and not _noted(tensor)}
    try:
        for name, tensor in large.items():  # protobuf gets a reference to a file that is never read
            values[name].const_value = onnx_ir.ExternalTensor("none", 0, 0, tensor.dtype, shape=tensor.shape, name=name)
        model = program.model_proto
    finally:
        for name, tensor in large.items():
            values[name].const_value = tensor
    graph = model.graph
    small = {tensor.name: tensor.SerializeToString() for tensor in graph.initializer}
    pieces: list[Any] = [_fields(graph, lambda number: number < _INITIALIZER)]
    for name in held:
        parts = _large(large[name], name) if name in large else [small[name]]
        pieces += [_head(_INITIALIZER, _size(parts)), *parts]
    pieces.append(_fields(graph, lambda number: number > _INITIALIZER))
    with path.open("wb") as stream:
        stream.write(_fields(model, lambda number: number < _GRAPH))
        stream.write(_head(_GRAPH, _size(pieces)))
        for piece in pieces:
            stream.write(piece)
        stream.write(_fields(model, lambda number: number > _GRAPH))


def _noted(tensor: Any) -> bool:
    return bool(tensor.doc_string or tensor.metadata_props)


def _large(tensor: Any, name: str) -> list[Any]:
    """A ``TensorProto`` in pieces, the last of which is the tensor's own memory."""
    import onnx

    values = np.ascontiguousarray(tensor.numpy())
    values = values.astype(values.dtype.newbyteorder("<"), copy=False)
    head = onnx.TensorProto(dims=values.shape, data_type=int(tensor.dtype), name=name).SerializeToString()
    raw: Any = values.reshape(-1).view(np.uint8)
    content = memoryview(raw)
    return [head, _head(_RAW_DATA, content.nbytes), content]


def _fields(message: Any, wanted: Callable[[int], bool]) -> bytes:
    """The bytes of those fields of a message whose numbers are wanted."""
    part = type(message)()
    part.CopyFrom(message)
    for field, _ in message.ListFields():
        if not wanted(field.number):
            part.ClearField(field.name)
    content: bytes = part.SerializeToString()
    return content


def _head(field: int, size: int) -> bytes:
    """The bytes before a field of so many bytes: its number and type, and its size."""
    return _varint(field << 3 | 2) + _varint(size)


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def _size(pieces: list[Any]) -> int:
    return sum(piece.nbytes if isinstance(piece, memoryview) else len(piece) for piece in pieces)
