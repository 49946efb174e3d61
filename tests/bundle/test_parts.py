"""Files are read with their larger weights apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from narfx.bundle.onnx.parts import load_parts


def test_parts_of_a_file_hold_what_onnx_reads(tmp_path: Path) -> None:
    large = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    stored = {
        "raw": numpy_helper.from_array(large, "raw"),
        "listed": helper.make_tensor("listed", TensorProto.FLOAT, large.shape, large.ravel()),
        "half": numpy_helper.from_array(large.astype(np.float16), "half"),
        "end": numpy_helper.from_array(large, "end"),
        "small": numpy_helper.from_array(large[:2], "small"),
    }
    told = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [40, 50]) for name in ("x", "end", "y")]
    node = helper.make_node("Sum", ["x", "raw", "listed", "end"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", told[:2], told[2:], list(stored.values())))
    path = tmp_path / "model.onnx"
    onnx.save(model, str(path))
    parts = load_parts(path)
    assert {name: values.dtype for name, values in parts.weights.items()} == {
        "raw": np.float32, "listed": np.float32, "half": np.float16,
    }  # fmt: skip
    assert all(np.array_equal(values, numpy_helper.to_array(stored[name])) for name, values in parts.weights.items())
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in parts.model.graph.initializer}
    assert kept.keys() == {"end", "small"} and np.array_equal(kept["end"], large)
    assert [value.name for value in parts.model.graph.input[:2]] == ["x", "end"]
    assert {value.name for value in parts.model.graph.input[2:]} == parts.weights.keys()
    assert parts.model.graph.node == model.graph.node and parts.model.opset_import == model.opset_import
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match="cut off"):
        load_parts(path)
