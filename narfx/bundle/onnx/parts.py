"""An ONNX model in two parts: a small message with its graph, and its larger weights as arrays.

Protobuf copies all weights whenever a message is read, copied or written, and a proof changes the graph several times.
Here the larger weights are inputs of the graph, which onnxruntime reads where they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from narfx.bundle.onnx.apart import read_apart

__all__ = ["Parts", "is_large", "load_parts", "parts_of"]

_LARGE = 1024  # values; what decides shapes is smaller, and some operators need it as a constant


@dataclass(frozen=True)
class Parts:
    """A model whose larger weights stand beside it.

    Attributes:
        model: The ``ModelProto``; its first input is the image, the others are the larger weights.
        weights: The larger weights by name.
    """

    model: Any
    weights: Mapping[str, np.ndarray]


def load_parts(path: Path, *, values: bool = True) -> Parts:
    """The two parts of the model in a file; its larger weights are read straight into their arrays.

    Without ``values`` only their types and shapes are read.
    """
    import onnx
    from onnx import helper, numpy_helper

    model, weights = read_apart(path, _large, values=values)
    onnx.load_external_data_for_model(model, str(path.parent))
    graph = model.graph
    ends = {value.name for value in (*graph.input, *graph.output)}
    small = [numpy_helper.from_array(weights.pop(name), name) for name in ends & weights.keys()]
    for name, array in weights.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        graph.input.append(helper.make_tensor_value_info(name, kind, list(array.shape)))
    for tensor in graph.initializer:
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        if _large(dtype, tensor.dims) and tensor.name not in ends:
            weights[tensor.name] = numpy_helper.to_array(tensor)
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        else:
            small.append(tensor)
    del graph.initializer[:]
    graph.initializer.extend(small)
    return Parts(model, weights)


def parts_of(program: Any) -> Parts:
    """The two parts of an ``ONNXProgram``, which is changed."""
    graph = program.model.graph
    ends = {id(value) for value in (*graph.inputs, *graph.outputs)}
    weights: dict[str, np.ndarray] = {}
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if is_large(tensor) and value.type is not None and id(value) not in ends:
            weights[name] = tensor.numpy()
            value.shape = tensor.shape
            del graph.initializers[name]
            graph.inputs.append(value)
    return Parts(program.model_proto, weights)


def is_large(tensor: Any) -> bool:
    """Whether an ``onnx_ir`` tensor is one that is kept apart."""
    return _large(tensor.dtype.numpy(), tensor.shape.numpy())


def _large(dtype: Any, shape: Sequence[int]) -> bool:
    return np.dtype(dtype).kind in "fiub" and math.prod(shape) >= _LARGE
