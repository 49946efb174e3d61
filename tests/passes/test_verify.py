"""What an export may not hold."""

from __future__ import annotations

from pathlib import Path

import torch
from sample_networks import Chain, part, settled
from small_traces import SHAPE, traced
from torch import nn

import narfx
from narfx.bundle.onnx.write import compare_onnx, export_onnx
from narfx.compiler.supernet import Supernet
from narfx.passes import verify_lowered


def test_what_an_export_may_not_hold_is_named() -> None:
    found = traced(settled(Chain()))
    net = Supernet(found)
    lowered = narfx.lower(net, (1, 0))
    assert verify_lowered(lowered) == []
    assert any("body.0 is a Dispatch of narfx" in problem for problem in verify_lowered(net.graph_module))
    part(lowered, "body").train()
    assert "body is in training mode: call eval() first" in verify_lowered(lowered)
    lowered.eval()
    part(lowered, "body").orphan = nn.Conv2d(1, 1, 1).eval()
    assert verify_lowered(lowered) == ["body.orphan is not called by the graph"]
    lowered.delete_all_unused_submodules()
    assert verify_lowered(lowered) == []
    _, first, _, later, *_ = lowered.graph.nodes
    first.args = (later,)
    assert [p for p in verify_lowered(lowered) if "not well formed" in p]


def test_a_parameter_that_nothing_reads_is_named() -> None:
    lowered = narfx.lower(Supernet(traced(settled(Chain()))), (1, 0))
    lowered.register_parameter("left", nn.Parameter(torch.zeros(2)))
    part(lowered, "body").register_buffer("over", torch.zeros(2))
    assert verify_lowered(lowered) == ["body.over is not read by the graph", "left is not read by the graph"]
    assert verify_lowered(lowered, ["left"]) == ["body.over is not read by the graph"]


def test_parts_of_the_model_that_its_graph_does_not_use_are_no_fault(tmp_path: Path) -> None:
    class Auxiliary(Chain):
        def __init__(self) -> None:
            super().__init__()
            self.aside = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Dropout(0.5))
            self.spare = nn.Parameter(torch.zeros(2))

    found = traced(settled(Auxiliary()))
    lowered = narfx.lower(Supernet(found), (1, 0))
    assert verify_lowered(lowered, found.dropped) == []
    named = ["aside.0 is not called by the graph", "spare is not read by the graph"]
    assert set(named) < set(verify_lowered(lowered))
    lowered.register_parameter("left", nn.Parameter(torch.zeros(2)))
    assert verify_lowered(lowered, found.dropped) == ["left is not read by the graph"]
    # A file holds none of them.
    export_onnx(lowered, SHAPE, tmp_path / "model.onnx")
    assert compare_onnx(lowered, tmp_path / "model.onnx", SHAPE).passed
