"""Where a wrong ONNX file goes wrong: the first node that differs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from sample_networks import images, settled
from small_exports import SHAPE, copy_of, net, resnet_bundle, spoil, torch_weights, written

import narfx
from narfx.bundle.onnx.write import export_onnx
from narfx.bundle.proof.first_difference import first_difference
from narfx.bundle.proof.parity import Reference
from narfx.bundle.proof.proof import Proof
from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.errors import ParityError
from narfx.graph.tracing import trace_graph
from narfx.inputs.model_ref import load_model


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resnet_bundle(tmp_path_factory)


@pytest.fixture
def copied(resnet: Path, tmp_path: Path) -> Path:
    return copy_of(resnet, tmp_path)


POSITIONS = [
    ("conv1.weight", "bn1", ["conv1"]),
    ("stages.0.0.conv1.depthwise.weight", "stages.0.0.bn1", ["stages.0.0.conv1"]),
    ("stages.1.0.conv1.pointwise.weight", "stages.1.0.bn1", ["stages.1.0.conv1"]),
    ("stages.1.0.conv2.weight", "stages.1.0.bn2", ["stages.1.0.conv2"]),
    ("stages.2.0.shortcut.0.weight", "stages.2.0.shortcut.1", ["stages.2.0.shortcut.0"]),
    ("fc.bias", "fc", []),
]


@pytest.mark.parametrize(("weight", "node", "fused"), POSITIONS)
@pytest.mark.parametrize("source", [True, False])
def test_the_first_node_that_differs_is_named(
    copied: Path, weight: str, node: str, fused: list[str], source: bool
) -> None:
    if not source:
        (copied / "model.py").unlink()  # then the network is lowered again, not traced from its source
    spoil(copied / "model.onnx", weight)
    with pytest.raises(ParityError) as caught:
        narfx.check(copied)
    assert (caught.value.kind, caught.value.exit_code, caught.value.where) == ("parity", 5, node)
    message = str(caught.value)
    assert f"first difference at {node} (" in message
    assert weight in message.split("with the weights ")[1].split(", ")
    assert all(name in message.split("or before it, in ")[1] for name in fused)
    assert ("resnet_cifar.py:" in message) is not source and ("model.py:" in message) is source


def test_a_file_without_marks_is_searched_by_its_values(copied: Path) -> None:
    """As another exporter would have written it, with nothing to say which node is which."""
    for weight, _, fused in POSITIONS[2:]:
        shutil.copy(copied / "model.onnx", copied / "bare.onnx")
        model = onnx.load(copied / "bare.onnx")
        for index, node in enumerate(model.graph.node):
            del node.metadata_props[:]
            node.name = f"n{index}"
        onnx.save(model, copied / "bare.onnx")
        spoil(copied / "bare.onnx", weight)
        network = load_model(str(copied / "model.py"))
        network.load_state_dict(torch_weights(copied))
        found = first_difference(network, copied / "bare.onnx", [images(2, 3, 16, 16)])
        assert found is not None
        assert found.node.startswith(fused[0] if fused else "fc")
        assert weight in found.weights


def test_a_file_that_is_right_has_no_such_node(resnet: Path) -> None:
    network = load_model(str(resnet / "model.py"))
    network.load_state_dict(torch_weights(resnet))
    assert first_difference(network, resnet / "model.onnx", [images(2, 3, 16, 16)]) is None


def other_weights(path: Path) -> None:
    model = onnx.load(path)
    generator = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32:
            random = generator.normal(size=values.shape).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(random, tensor.name))
    onnx.save(model, path)


def other_width(path: Path) -> None:
    metadata = {key.removeprefix("narfx."): json.loads(value) for key, value in written(path).items()}
    network = trace_graph(settled(load_model("narfx:resnet8?width=6"))).graph_module
    export_onnx(network, (3, 16, 16), path, metadata=metadata)


@pytest.mark.parametrize(
    ("swap", "by"), [(other_weights, "by .*of its largest value"), (other_width, "by .*another shape")]
)
def test_the_file_of_another_network_differs_from_its_start(
    copied: Path, swap: Callable[[Path], None], by: str
) -> None:
    """Its metadata are the bundle's, so that only what it computes can tell."""
    swap(copied / "model.onnx")
    with pytest.raises(ParityError, match=rf"or before it, in conv1, {by}") as caught:
        narfx.check(copied)
    assert (caught.value.where, caught.value.kind) == ("bn1", "parity")


def test_a_node_that_no_file_can_repeat_is_named_when_it_is_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Net(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.one, self.two = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)\n\n"
        "    def forward(self, x):\n        y = self.two(self.one(x))\n        return y + torch.rand_like(y)\n"
    )
    (tmp_path / "arch.json").write_text(json.dumps({"model": "net.py", "vector": [1], "input": SHAPE}))
    code = run_app(app, ["apply", str(tmp_path / "arch.json"), "--out", str(tmp_path / "out"), "--json"])
    told = json.loads(capfd.readouterr().out)["error"]
    assert (code, told["code"], told["kind"], told["where"]) == (5, 5, "parity", "rand_like()")
    assert "first difference at rand_like() (net.py:12)" in told["message"]
    report = json.loads((tmp_path / "out.failed" / "report.json").read_text())
    assert report["parity"]["passed"] is False
    assert report["difference"].items() >= {"node": "rand_like()", "source": "net.py:12", "fused": []}.items()
    assert report["difference"]["onnx_node"] and report["difference"]["error"] > 1e-3


def test_what_follows_a_node_that_is_computed_in_another_way_clears_it(tmp_path: Path) -> None:
    """A file may hold a value that no node of the network has; only what then comes out wrong counts."""
    network = net(lambda x, y: (torch.sigmoid(y).flip(3).flip(3) * 2.0, y.mean((2, 3))))
    export_onnx(network, SHAPE, tmp_path / "model.onnx")
    model = onnx.load(tmp_path / "model.onnx")
    marked = {p.value: n for n in model.graph.node for p in n.metadata_props if p.key == "narfx.node"}
    # The mark of a value that is mirrored there and mirrored back behind it.
    swapped = next(p for p in marked["sigmoid()"].metadata_props if p.key == "narfx.node")
    other = next(p for p in marked[".flip()"].metadata_props if p.key == "narfx.node")
    swapped.value, other.value = other.value, swapped.value
    onnx.save(model, tmp_path / "model.onnx")
    assert first_difference(network, tmp_path / "model.onnx", [images(2, *SHAPE)]) is None
    proof = Proof()
    proof.add(Reference(network, SHAPE), tmp_path / "model.onnx")
    proof.add_nodes(Reference(network, SHAPE), tmp_path / "model.onnx")
    assert not proof.passed
    shutil.copy(tmp_path / "model.onnx", tmp_path / "marked.onnx")
    proof = Proof()
    proof.add(Reference(network, SHAPE), tmp_path / "model.onnx")
    proof.add_nodes(
        Reference(network, SHAPE), tmp_path / "model.onnx", just_written=True
    )  # then the exporter put them there
    assert proof.passed
    left = [p.value for n in onnx.load(tmp_path / "model.onnx").graph.node for p in n.metadata_props]
    assert "norm" in left and ".flip()" not in left and "sigmoid()" not in left
    spoil(tmp_path / "marked.onnx", "conv.weight")
    found = first_difference(network, tmp_path / "marked.onnx", [images(2, *SHAPE)])
    assert found is not None and (found.node, found.fused) == ("norm", ("conv",))


DEAD = """import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.norm = nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)
        self.two, self.gate, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 1), nn.Linear(8, 4)
        nn.init.constant_(self.gate.bias, -100.0)

    def forward(self, x):
        y = torch.relu(self.norm(self.one(x)))
        y = (self.two(y) * 1e-20) * torch.sigmoid(self.gate(y))
        return self.head(y.mean((2, 3)))
"""


@pytest.fixture(scope="module")
def dead(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a network whose output is the same for every image."""
    folder = tmp_path_factory.mktemp("dead")
    (folder / "net.py").write_text(DEAD)
    arch = narfx.Architecture(model="net.py", vector=(0,), input=SHAPE)
    report = narfx.apply(arch, folder / "out", relative_to=folder)
    assert report["parity"]["signal"] == 0 and report["parity"]["passed"]
    return folder / "out"


@pytest.mark.parametrize(
    ("weight", "factor", "node"),
    [
        ("one.weight", 0.0, "norm"),
        ("one.weight", 1.001, "norm"),
        ("two.weight", 0.0, "two"),
        ("gate.bias", 1.01, "gate"),
        ("gate.weight", -1.0, "gate"),
    ],
)
def test_a_changed_weight_is_found_though_no_output_shows_it(
    dead: Path, tmp_path: Path, weight: str, factor: float, node: str
) -> None:
    shutil.copytree(dead, tmp_path / "out")
    shutil.copy(dead.parent / "net.py", tmp_path / "net.py")
    spoil(tmp_path / "out" / "model.onnx", weight, factor)
    with pytest.raises(
        ParityError, match=rf"has the same outputs as the network, but its nodes .* first difference at {node} "
    ) as caught:
        narfx.check(tmp_path / "out")
    assert (caught.value.kind, caught.value.where) == ("parity", node)
    assert weight in str(caught.value).split("with the weights ")[1].split(", ")


def test_one_weight_of_many_is_found_in_a_torchvision_network(tmp_path: Path) -> None:
    """A fresh GoogLeNet gives every image the same output."""
    arch = narfx.Architecture(model="torchvision:googlenet?init_weights=False", vector=(0,) * 19, input=(3, 64, 64))
    narfx.apply(arch, tmp_path / "out")
    assert narfx.check(tmp_path / "out")["parity"]["nodes"]["compared"] > 100
    path = tmp_path / "out" / "model.onnx"
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == "inception3a.branch1.conv.weight")
    values = numpy_helper.to_array(tensor).copy()
    values[3, 5] = 0.0
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    onnx.save(model, path)
    with pytest.raises(ParityError) as caught:
        narfx.check(tmp_path / "out")
    assert caught.value.where == "inception3a.branch1.bn"


def test_values_that_are_not_finite_are_called_so(tmp_path: Path) -> None:
    with pytest.raises(
        ParityError, match=r"first difference at truediv\(\) .*, where the network's own value contains NaN"
    ) as caught:
        narfx.export(net(lambda x, y: y.mean((2, 3)) / 0.0 * 0), tmp_path / "out", input=SHAPE)
    assert caught.value.where == "truediv()" and "shape" not in str(caught.value)
    report = json.loads((tmp_path / "out.failed" / "report.json").read_text())
    assert (report["difference"]["reason"], report["difference"]["error"]) == ("network_not_finite", None)
    network = net()
    export_onnx(network, SHAPE, tmp_path / "model.onnx")
    spoil(tmp_path / "model.onnx", "conv.bias", float("inf"))
    found = first_difference(network, tmp_path / "model.onnx", [images(2, *SHAPE)])
    assert found is not None and found.reason == "file_not_finite"
    assert "at norm" in str(found) and "where the file's value contains NaN or Inf" in str(found)
