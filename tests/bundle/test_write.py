"""Weights in the ONNX file: their types, and networks that are not exported."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from sample_networks import Chain
from small_exports import SHAPE, net, torch_weights
from torch import Tensor, nn

import narfx
from narfx.bundle.onnx.write import export_onnx
from narfx.errors import ParityError, UsageError
from narfx.graph.tracing import trace_graph
from narfx.inputs.model_ref import load_model


def test_other_floating_numbers_are_written_as_float32(tmp_path: Path) -> None:
    """So with bfloat16 as with float16; of float64 see the tests of the bundle."""
    network = net().to(torch.bfloat16)
    assert narfx.export(network, tmp_path / "out", input=SHAPE)["parity"]["passed"]
    assert network.get_parameter("conv.weight").dtype == torch.bfloat16
    model = onnx.load(tmp_path / "out" / "model.onnx")
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert weights["conv.weight"].dtype == "float32"
    assert torch_weights(tmp_path / "out")["conv.weight"].equal(network.get_parameter("conv.weight").float())


def test_the_file_has_the_bytes_that_protobuf_writes(tmp_path: Path) -> None:
    """Also where its larger weights do not go through protobuf."""
    network = trace_graph(load_model("narfx:resnet8").eval()).graph_module
    export_onnx(network, (3, 32, 32), tmp_path / "model.onnx", metadata={"input": [3, 32, 32]})
    model = onnx.load(tmp_path / "model.onnx")
    assert model.SerializeToString(deterministic=True) == (tmp_path / "model.onnx").read_bytes()
    written = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert max(values.size for values in written.values()) >= 1024
    assert torch.equal(torch.tensor(written["fc.weight"]), network.get_parameter("fc.weight"))


def test_complex_weights_are_refused(tmp_path: Path) -> None:
    class Turning(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.turn = nn.Parameter(torch.ones(3, 1, 1, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = super().forward((x * self.turn).real)
            return result

    network = trace_graph(Turning().eval()).graph_module
    with pytest.raises(UsageError, match=r"turn is torch.complex64, but ONNX has only real numbers") as caught:
        narfx.export(network, tmp_path / "out", input=SHAPE)
    assert (caught.value.kind, caught.value.where) == ("weights_not_float", "turn")
    assert list(tmp_path.iterdir()) == []


class Whole(Chain):
    """Integer parameters as they occur beside floating-point ones: added, chosen by, compared with, made floats of."""

    def __init__(self) -> None:
        super().__init__()
        self.shift = self.kept(torch.arange(3, dtype=torch.int8).reshape(3, 1, 1))
        self.order = self.kept(torch.tensor([2, 0, 1]))
        self.mask = self.kept(torch.tensor([True, False, True]).reshape(3, 1, 1))
        self.coded = self.kept(torch.arange(-4, 5, dtype=torch.int8).reshape(3, 3, 1, 1))

    @staticmethod
    def kept(values: Tensor) -> nn.Parameter:
        return nn.Parameter(values, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.where(self.mask, (x + self.shift)[:, self.order], 0.0)
        result: Tensor = super().forward(F.conv2d(x, self.coded.float() * 0.25))
        return result


def test_integer_parameters_are_exported_as_they_are(tmp_path: Path) -> None:
    model = Whole().eval()
    traced = narfx.trace(model, input=SHAPE)
    network = narfx.lower(narfx.Supernet(traced), [1] * len(traced.space))
    report = narfx.export(network, tmp_path / "out", input=SHAPE)
    assert report["parity"]["passed"] and report["source"] is None
    for name, value in torch_weights(tmp_path / "out").items():
        if not value.is_floating_point() and not name.endswith("num_batches_tracked"):
            assert value.dtype == model.get_parameter(name).dtype
            assert value.equal(model.get_parameter(name))


@pytest.mark.filterwarnings("ignore:.*quantiz.*:UserWarning", "ignore:.*quantiz.*:DeprecationWarning")
def test_quantised_weights_are_refused(tmp_path: Path) -> None:
    model = torch.ao.quantization.quantize_dynamic(Chain().eval(), {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(UsageError, match="not a tensor; torch cannot export it: export the float") as caught:
        narfx.export(trace_graph(model).graph_module, tmp_path / "out", input=SHAPE)
    assert caught.value.kind == "weights_not_float"
    assert str(caught.value.where).startswith("head.")


@pytest.mark.parametrize(
    "finish",
    [
        lambda x, y: F.dropout(y),
        lambda x, y: F.dropout(y, 0.5, True),
        lambda x, y: F.batch_norm(y, y.mean((0, 2, 3)), y.mean((0, 2, 3)), training=True),
    ],
)
def test_a_call_that_trains_in_any_mode_is_not_exported(tmp_path: Path, finish: Callable[..., Any]) -> None:
    with pytest.raises(ParityError, match="is called with training=True") as caught:
        export_onnx(net(finish), SHAPE, tmp_path / "model.onnx")
    assert caught.value.kind == "not_lowered"
    assert list(tmp_path.iterdir()) == []


class InPairs(Chain):
    """An image and its mirror image, stacked along the batch."""

    def forward(self, x: Tensor) -> Tensor:
        one, other = super().forward(torch.cat([x, x.flip(-1)])).chunk(2)
        return one + other


def test_a_file_that_torchs_optimiser_cannot_read_is_written_as_it_is(tmp_path: Path) -> None:
    """It fails on the parts of a free batch (onnxscript 0.7)."""
    network = trace_graph(InPairs().eval()).graph_module
    parity = narfx.export(network, tmp_path / "out", input=SHAPE)["parity"]
    assert parity["passed"] and parity["batch_sizes"] == [1, 2, 5] and parity["nodes"]["compared"] > 3
    kinds = {node.op_type for node in onnx.load(tmp_path / "out" / "model.onnx").graph.node}
    assert "SplitToSequence" in kinds
