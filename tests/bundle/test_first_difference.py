"""The ONNX file: its opset and names, what it says of itself, and where a wrong one goes wrong."""

from __future__ import annotations

import json
import re
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from sample_networks import Chain, images, settled
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

import narfx
from narfx.bundle.onnx.names import output_names
from narfx.bundle.onnx.write import export_onnx
from narfx.bundle.proof.first_difference import first_difference
from narfx.bundle.proof.nodes import compare_nodes
from narfx.bundle.proof.parity import compare_onnx
from narfx.bundle.proof.proof import Proof
from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.errors import ParityError, UsageError
from narfx.graph.tracing import trace_graph
from narfx.inputs.model_ref import load_model

SHAPE = (3, 8, 8)
Pair = namedtuple("Pair", ["logits", "features"])


class Net(nn.Module):
    """One convolution with BatchNorm; ``finish`` makes what it returns of its input and its features."""

    def __init__(self, finish: Callable[..., Any]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.finish = finish

    def forward(self, x: Tensor) -> Any:
        return self.finish(x, torch.relu(self.norm(self.conv(x))))


def net(finish: Callable[..., Any] = lambda x, y: y.mean((2, 3))) -> fx.GraphModule:
    return trace_graph(settled(Net(finish))).graph_module


def written(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


# Where a wrong file goes wrong


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a ResNet-8 in which each kind of operator stands."""
    folder = tmp_path_factory.mktemp("resnet")
    model = settled(load_model("narfx:resnet8?width=4"))
    torch.save(model.state_dict(), folder / "base.pt")
    arch = narfx.Architecture(model="narfx:resnet8?width=4", vector=(1, 0, 2, 0, 3, 0), input=(3, 16, 16))
    narfx.apply(arch, folder / "out", weights=str(folder / "base.pt"))
    return folder / "out"


@pytest.fixture
def copied(resnet: Path, tmp_path: Path) -> Path:
    shutil.copytree(resnet, tmp_path / "out")
    return tmp_path / "out"


def spoil(path: Path, weight: str, factor: float = 1.5) -> None:
    """Change one weight of a file, wherever the exporter has fused it."""
    model = onnx.load(path)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == weight)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * factor, weight))
    onnx.save(model, path)


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


def torch_weights(bundle: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(bundle / "model.safetensors")


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
    proof.add(network, tmp_path / "model.onnx", SHAPE)
    proof.add_nodes(network, tmp_path / "model.onnx", SHAPE)
    assert not proof.passed
    shutil.copy(tmp_path / "model.onnx", tmp_path / "marked.onnx")
    proof = Proof()
    proof.add(network, tmp_path / "model.onnx", SHAPE)
    proof.add_nodes(network, tmp_path / "model.onnx", SHAPE, just_written=True)  # then the exporter put them there
    assert proof.passed
    left = [p.value for n in onnx.load(tmp_path / "model.onnx").graph.node for p in n.metadata_props]
    assert "norm" in left and ".flip()" not in left and "sigmoid()" not in left
    spoil(tmp_path / "marked.onnx", "conv.weight")
    found = first_difference(network, tmp_path / "marked.onnx", [images(2, *SHAPE)])
    assert found is not None and (found.node, found.fused) == ("norm", ("conv",))


# What no output shows

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


@pytest.mark.parametrize(
    "finish",
    [
        lambda x, y: y.view(-1, 256).add_(1.0).sum(1) + y.sum((1, 2, 3)),  # a view, changed in place
        lambda x, y: torch.relu(y + 1) + torch.relu(y + 1),  # the file computes it once
        lambda x, y: F.max_pool2d(y, 2).mean(1) + torch.max_pool2d(y, 2).sum(1),  # and that
        lambda x, y: y.masked_fill(y > 0, -float("inf")).flatten(1).softmax(1),
        lambda x, y: (y - y.mean(1, keepdim=True)) / torch.sqrt(y.var(1, keepdim=True, unbiased=False) + 1e-6),
        lambda x, y: (y - y.mean((0, 2, 3), keepdim=True)) / (y.std((0, 2, 3), keepdim=True) + 1e-3),
        lambda x, y: torch.cat([y, torch.ones_like(y[:, :1]).cumsum(2), torch.ones_like(y[:, :1]).cumsum(3)], 1),
        lambda x, y: (torch.log(y - 0.5).nan_to_num(0.0), y.chunk(2, 1)[1].relu(), F.normalize(y.flatten(1))),
        lambda x, y: {"same": y, "flat": y.flatten(1), "image": x, "k": torch.ones(3), "half": y.half()},
    ],
)
def test_no_right_file_fails_node_by_node(tmp_path: Path, finish: Callable[..., Any]) -> None:
    network = net(finish)
    export_onnx(network, SHAPE, tmp_path / "model.onnx")
    found = compare_nodes(network, tmp_path / "model.onnx", SHAPE)
    assert found.difference is None and found.compared >= 2 and found.max_rel_error < 1e-5
    spoil(tmp_path / "model.onnx", "conv.weight", 1.01)
    wrong = compare_nodes(network, tmp_path / "model.onnx", SHAPE)
    assert wrong.difference is not None and wrong.difference.node == "norm"


# Outputs that are no floating numbers, or not finite


@pytest.mark.parametrize(("size", "kind"), [(1, torch.bool), (0, torch.int64)])
def test_truth_values_and_integers_are_compared_exactly(tmp_path: Path, size: int, kind: torch.dtype) -> None:
    """They are a part of the outputs, and their images need no other."""

    def finish(x: Tensor, y: Tensor) -> Any:
        label = y.mean((2, 3))
        return {"logits": label, "said": label.max(1)[0] > 0.5 if size else label.argmax(1)}

    network = net(finish)
    export_onnx(network, SHAPE, tmp_path / "model.onnx")
    found = narfx.export(network, tmp_path / "out", input=SHAPE)
    assert found["parity"]["passed"] and found["output_names"] == ["logits", "said"]
    other = net(lambda x, y: {"logits": y.mean((2, 3)), "said": (y.mean((2, 3)).argmin(1) * 0 + 1).to(kind)})
    other.load_state_dict(network.state_dict())
    parity = compare_onnx(other, tmp_path / "model.onnx", SHAPE)
    assert not parity.passed and 0 < parity.max_rel_error <= 1 and parity.max_abs_error >= 1


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


def test_a_network_that_changes_its_input_is_compared_on_what_it_was_given(tmp_path: Path) -> None:
    network = net(lambda x, y: y.mean((2, 3)) + x.mul_(2).mean((1, 2, 3))[:, None])
    assert narfx.export(network, tmp_path / "out", input=SHAPE)["parity"]["passed"]
    model = onnx.load(tmp_path / "out" / "model.onnx")
    marks = {
        node.output[0]: entry.value
        for node in model.graph.node
        for entry in node.metadata_props
        if entry.key == "narfx.node"
    }
    assert marks["output"] == "add()"


# Opsets


@pytest.mark.parametrize("opset", [13, 17, 23])
def test_the_opset_that_is_asked_for_is_in_the_file(tmp_path: Path, opset: int) -> None:
    """torch's exporter writes 18 where less is asked for: below it the file is lowered."""
    network = net(lambda x, y: F.softmax(F.avg_pool2d(F.pad(y, (1, 1)), 2).amax((2, 3)), 1))
    path = tmp_path / "model.onnx"
    assert export_onnx(network, SHAPE, path, opset=opset, metadata={"vector": [1]}).opset == opset
    model = onnx.load(path)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert (model.ir_version <= 8) is (opset < 18)
    assert compare_onnx(network, path, SHAPE).passed
    assert written(path) == {"narfx.vector": "[1]"}
    assert any(entry.value == "norm" for node in model.graph.node for entry in node.metadata_props)


@pytest.mark.parametrize(
    ("opset", "said"),
    [
        (
            13,
            r"cannot be written at opset 13 \(HardSwish does not exist in it\): choose one from 14 to \d\d, or leave",
        ),
        (12, r"narfx supports none below 13\): choose one from 14 to \d\d,"),
        (0, r"narfx supports none below 13\): choose one from 14 to \d\d,"),
        (
            99,
            r"at opset 99 .*newer than onnx and onnxruntime here support\): choose one from 14 to \d\d, or leave",
        ),
    ],
)
def test_an_opset_that_cannot_be_had_is_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, opset: int, said: str
) -> None:
    network = net(lambda x, y: F.hardswish(y).mean((2, 3)))
    with pytest.raises(UsageError, match=said) as caught:
        narfx.export(network, tmp_path / "out", input=SHAPE, opset=opset)
    assert (caught.value.kind, caught.value.where) == ("opset", "--opset")
    assert list(tmp_path.iterdir()) == []
    # The exporter logs a traceback for this, which a terminal would show.
    assert [record.name for record in caplog.records if record.levelname in ("WARNING", "ERROR")] == []


def test_an_opset_is_had_or_refused_as_far_as_onnxruntime_knows_it(tmp_path: Path) -> None:
    """Which opset is the newest that runs depends on what is installed."""
    network = net(lambda x, y: y.mean((2, 3)))
    try:
        report = narfx.export(network, tmp_path / "out", input=SHAPE, opset=27)
    except UsageError as error:
        assert re.search(r"onnxruntime here supports none above \d+|choose one from 13 to \d+", str(error))
        assert list(tmp_path.iterdir()) == []
    else:
        assert report["opset"] == 27
        assert report["parity"]["passed"]


def test_the_newest_opset_of_the_hint_can_be_had(tmp_path: Path) -> None:
    network = net(lambda x, y: y.mean((2, 3)))
    with pytest.raises(UsageError) as caught:
        narfx.export(network, tmp_path / "out", input=SHAPE, opset=99)
    found = re.search(r"choose one from (\d+) to (\d+)", str(caught.value))
    assert found is not None
    lowest, newest = map(int, found.groups())
    for opset in (lowest, newest):
        report = narfx.export(network, tmp_path / str(opset), input=SHAPE, opset=opset)
        assert (report["opset"], report["parity"]["passed"]) == (opset, True)


def test_check_reads_the_opset_and_the_names(copied: Path) -> None:
    found = narfx.check(copied)
    report = json.loads((copied / "report.json").read_text())
    names = {"input_name": "input", "output_names": ["output"]}
    assert found.items() >= (names | {"opset": report["opset"]}).items()
    assert report.items() >= names.items() and report["opset"] >= 18
    (copied / "report.json").write_text(json.dumps(report | {"opset": 11}))
    with pytest.raises(ParityError, match=r"says opset 11, but .*model\.onnx has \d+") as caught:
        narfx.check(copied)
    assert caught.value.kind == "metadata"
    (copied / "report.json").unlink()
    assert narfx.check(copied)["opset"] == report["opset"]


# Names


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


# What may not be exported


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


# What the file says of itself


def test_a_file_that_says_too_little_is_refused(copied: Path) -> None:
    model = onnx.load(copied / "model.onnx")
    kept = [entry for entry in model.metadata_props if entry.key != "narfx.sites"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, copied / "model.onnx")
    with pytest.raises(ParityError, match="its sites is missing") as caught:
        narfx.check(copied)
    assert caught.value.kind == "metadata"
