"""Names of inputs and outputs in the ONNX file."""

from __future__ import annotations

import json
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from sample_networks import settled
from small_exports import SHAPE, net, written
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import narfx
from narfx.bundle.onnx.names import output_names
from narfx.bundle.onnx.write import export_onnx
from narfx.bundle.proof.parity import compare_onnx
from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.errors import UsageError
from narfx.graph.tracing import trace_graph

Pair = namedtuple("Pair", ["logits", "features"])


@pytest.mark.parametrize(
    ("output", "names"),
    [
        ("t", ["output"]),
        (["t", ("t", "t")], ["output", "output1", "output2"]),
        ({"z": "t", "a": "t"}, ["z", "a"]),
        ({"a b": {0: "t", "means": ["t", "t"]}}, ["a_b_0", "a_b_means_0", "a_b_means_1"]),
        (({"a": "t"}, "t"), ["output0_a", "output1"]),
        ({3: "t"}, ["output3"]),
        ([None, "t"], ["output"]),
        (Pair("t", ["t"]), ["logits", "features_0"]),
    ],
)
def test_names_come_from_keys_or_positions(output: Any, names: list[str]) -> None:
    tensors = pytree.tree_map(lambda leaf: torch.zeros(1) if leaf == "t" else leaf, output)
    assert output_names(tensors) == names
    assert output_names(tensors, [f"n{i}" for i in range(len(names))])[-1] == f"n{len(names) - 1}"


@pytest.mark.parametrize(
    ("finish", "names"),
    [
        (lambda x, y: [None, y, (y + 1, y + 2)], ["output", "output1", "output2"]),
        (lambda x, y: {"z": y, "means": [y.mean(1), y.amax(1)], "a": y + 1}, ["z", "means_0", "means_1", "a"]),
        # A value inside the file has one of these names, until the output takes it.
        (lambda x, y: {"relu": Pair(y + 1, y), "conv2d": torch.sigmoid(y)}, ["relu_logits", "relu_features", "conv2d"]),
        (lambda x, y: {"relu": y + 1, "again": y, "same": y, "image": x}, ["relu", "again", "same", "image"]),
    ],
)
def test_every_output_has_a_name_and_parity(tmp_path: Path, finish: Callable[..., Any], names: list[str]) -> None:
    network = net(finish)
    found = export_onnx(network, SHAPE, tmp_path / "model.onnx")
    assert list(found.output_names) == names
    assert [value.name for value in onnx.load(tmp_path / "model.onnx").graph.output] == names
    assert compare_onnx(network, tmp_path / "model.onnx", SHAPE).passed


def test_names_are_the_users_to_choose(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """And no path of this machine is in the file."""
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n\ndef build(width=4):\n"
        "    return nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1))\n"
    )
    arch, out = tmp_path / "arch.json", tmp_path / "out"
    model = f"{tmp_path / 'net.py'}:build?width=6"
    arch.write_text(json.dumps({"model": model, "vector": [1], "input": SHAPE}))
    asked = ["--input-name", "image", "--output-name", "relu", "--json"]
    assert run_app(app, ["apply", str(arch), "--out", str(out), *asked]) == 0
    found = json.loads(capfd.readouterr().out)
    assert (found["input_name"], found["output_names"]) == ("image", ["relu"])
    graph = onnx.load(out / "model.onnx").graph
    assert ([v.name for v in graph.input], [v.name for v in graph.output]) == (["image"], ["relu"])
    assert narfx.check(out)["output_names"] == ["relu"]
    content = (out / "model.onnx").read_bytes()
    assert str(tmp_path).encode() not in content
    assert str(Path(narfx.__file__).parent).encode() not in content
    assert json.loads(written(out / "model.onnx")["narfx.model"]) == "net.py:build?width=6"


class Clash(nn.Module):
    """A parameter has the name that the input has by default."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.input = nn.Conv2d(3, 4, 3), nn.Parameter(torch.ones(4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x) * self.input
        return y


@pytest.mark.parametrize(
    ("finish", "names", "kind", "where", "said"),
    [
        (None, {"output_names": ["a", "b"]}, "output_names", "--output-name", "returns 1 tensor: output$"),
        (None, {"output_names": []}, "output_names", "--output-name", "0 output names were given"),
        (None, {"output_names": ["input"]}, "name_clash", "--output-name", "input, which is the name of the input"),
        (None, {"output_names": ["conv.weight"]}, "name_clash", "--output-name", "the name of a weight"),
        (None, {"input_name": "norm.running_mean"}, "name_clash", "--input-name", "the name of a weight"),
        (None, {"input_name": ""}, "malformed_name", "--input-name", "'' is not a valid name for the input"),
        (None, {"output_names": ["a b"]}, "malformed_name", "--output-name", "'a b' is not a valid name"),
        (lambda x, y: [y, y + 1], {"output_names": ["a", "a"]}, "name_clash", "--output-name", "another output"),
        (lambda x, y: {"a": [y], "a_0": y}, {}, "name_clash", "--output-name", "an output cannot be named a_0"),
        (lambda x, y: {"input": y}, {}, "name_clash", "--output-name", "the name of the input"),
        (lambda x, y: {"n": 3, "y": y}, {}, "output_not_tensor", "output['n']", "returns an int at output"),
        (lambda x, y: [y, y.shape[0]], {}, "output_not_tensor", "output[1]", "ONNX has only tensors"),
        (lambda x, y: None, {}, "output_not_tensor", None, "returns no tensor"),
        (
            lambda x, y: [y, torch.fft.rfft(y)],
            {},
            "output_not_tensor",
            "output[1]",
            "returns complex numbers at output",
        ),
    ],
)
def test_a_name_that_cannot_be_had_is_refused(
    tmp_path: Path, finish: Any, names: dict[str, Any], kind: str, where: str | None, said: str
) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        narfx.export(net(finish) if finish else net(), tmp_path / "out", input=SHAPE, **names)
    assert (caught.value.kind, caught.value.where) == (kind, where)
    assert list(tmp_path.iterdir()) == []


def test_a_default_name_that_a_parameter_has_gives_way_to_an_option(tmp_path: Path) -> None:
    network = trace_graph(settled(Clash())).graph_module
    with pytest.raises(UsageError, match="choose another with --input-name") as caught:
        narfx.export(network, tmp_path / "out", input=SHAPE)
    assert caught.value.kind == "name_clash"
    assert export_onnx(network, SHAPE, tmp_path / "model.onnx", input_name="image").input_name == "image"
    assert compare_onnx(network, tmp_path / "model.onnx", SHAPE).passed
