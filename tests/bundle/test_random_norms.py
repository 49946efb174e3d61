"""The second file of a proof: BatchNorm with random statistics, from the same export as the first."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from sample_networks import images
from torch import Tensor, fx, nn

import narfx
from narfx.bundle.onnx.parts import Parts
from narfx.bundle.onnx.write import OnnxFile, Translation, translate
from narfx.bundle.proof.parity import Reference
from narfx.bundle.proof.proof import Proof
from narfx.bundle.proof.random_norms import random_norms
from narfx.graph.tracing import trace_graph

SHAPE = (3, 8, 8)
Spoil = Callable[[onnx.ModelProto], None]


class Fresh(nn.Module):
    """Norms as they are built: one fused into a convolution, two before one, and one that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.before, self.two = nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, padding=1)
        self.again, self.other = nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False)
        nn.init.zeros_(self.conv.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = self.two(torch.relu(self.before(x)))
        y: Tensor = self.again(torch.relu(x)) + self.again(torch.sigmoid(x)) + self.other(torch.tanh(x))
        return y


@pytest.fixture(scope="module")
def fresh() -> fx.GraphModule:
    torch.manual_seed(0)
    return trace_graph(Fresh().eval()).graph_module


@pytest.fixture(scope="module")
def translation(fresh: fx.GraphModule) -> Translation:
    return translate(fresh, SHAPE)


class Faulty(Translation):
    """An exporter whose optimiser spoils what it writes."""

    spoil: Spoil

    def write(self, path: Path, metadata: Mapping[str, Any] | None = None) -> OnnxFile:
        written = super().write(path, metadata)
        model = onnx.load(path)
        type(self).spoil(model)
        onnx.save(model, path)
        return written

    def with_weights(self, weights: Mapping[str, Tensor]) -> Parts:
        parts = super().with_weights(weights)
        type(self).spoil(parts.model)
        return parts


def marked(model: onnx.ModelProto, mark: str) -> onnx.NodeProto:
    props = [(node, p.key, p.value) for node in model.graph.node for p in node.metadata_props]
    (node,) = (node for node, key, value in props if (key, value) == ("narfx.node", mark))
    found: onnx.NodeProto = node
    return found


def change(mark: str, position: int, by: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """Change one input of a node; equal tensors are stored once, so the node gets a tensor of its own."""

    def spoil(model: onnx.ModelProto) -> None:
        node = marked(model, mark)
        if position >= len(node.input):
            return  # the exporter leaves out a bias of zeros
        held = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        values = by(held[node.input[position]]).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, "spoiled"))
        node.input[position] = "spoiled"

    return spoil


def swap(one: str, other: str) -> Spoil:
    """Exchange the weights of two norms."""

    def spoil(model: onnx.ModelProto) -> None:
        first, second = marked(model, one), marked(model, other)
        for index in range(1, 5):
            first.input[index], second.input[index] = second.input[index], first.input[index]

    return spoil


# Each of them changes nothing while the statistics are fresh: mean 0, variance 1, weight 1, bias 0.
FAULTS: list[tuple[str, Spoil, str]] = [
    ("a fusion that forgets mean and bias", change("norm", 2, np.zeros_like), "norm"),
    ("a fusion that takes the bias for its negative", change("norm", 2, np.negative), "norm"),
    ("a weight taken for its square", change("before", 1, np.square), "before"),
    ("a bias with the wrong sign", change("before", 2, np.negative), "before"),
    ("a mean with the wrong sign", change("before", 3, np.negative), "before"),
    ("a variance taken for its inverse", change("before", 4, np.reciprocal), "before"),
    ("another order of channels", change("again", 3, np.flip), "again"),
    ("another order in the second call", change("again@1", 3, np.flip), "again@1"),
    ("the norm of another place", swap("before", "again"), "before"),
]


@pytest.mark.parametrize(("what", "spoil", "node"), FAULTS)
def test_a_fault_that_fresh_statistics_hide_is_found(
    fresh: fx.GraphModule, translation: Translation, tmp_path: Path, what: str, spoil: Spoil, node: str
) -> None:
    faulty = type("Planted", (Faulty,), {"spoil": staticmethod(spoil)})(**vars(translation))
    faulty.write(tmp_path / "model.onnx")
    reference, proof = Reference(fresh, SHAPE), Proof()
    proof.add(reference, tmp_path / "model.onnx")
    proof.add_nodes(reference, tmp_path / "model.onnx", just_written=True)
    assert proof.passed, what  # the file itself is right
    proof.add_random_norms(reference, tmp_path / "model.onnx", faulty)
    assert not proof.passed
    assert proof.difference is not None and proof.difference.node == node
    error = proof.error("the ONNX file", "out")
    assert error.where == node
    assert "but a second file, with random BatchNorm statistics, does not; first difference at" in str(error)


def test_a_right_export_passes(fresh: fx.GraphModule, translation: Translation, tmp_path: Path) -> None:
    translation.write(tmp_path / "model.onnx")
    before = (tmp_path / "model.onnx").read_bytes()
    reference, proof = Reference(fresh, SHAPE), Proof()
    proof.add(reference, tmp_path / "model.onnx")
    proof.add_random_norms(reference, tmp_path / "model.onnx", translation)
    assert proof.passed and proof.random_norms is not None and proof.random_norms.compared >= 10
    assert (tmp_path / "model.onnx").read_bytes() == before


def test_every_norm_is_changed_and_gives_values_of_order_one(fresh: fx.GraphModule) -> None:
    changed, tensors = random_norms(fresh, images(2, *SHAPE) * 1000)
    own = fresh.state_dict()
    keys = {key for keys in tensors for key in keys}
    assert keys == {key for key in own if key.split(".")[0] not in ("conv", "two") and "tracked" not in key}
    state = changed.state_dict()
    assert all(torch.equal(state[key], own[key]) is (key not in keys) for key in own)
    spread: list[float] = []
    for norm in changed.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.register_forward_hook(lambda module, args, output: spread.append(float(output.std())))
    with torch.no_grad():
        changed(images(2, *SHAPE) * 1000)
    assert len(spread) == 5 and all(0.1 < value < 10 for value in spread)


def test_a_norm_of_two_names_is_changed_under_both(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.one = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.two = self.one

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.two(self.conv(self.one(x)))
            return y

    _, tensors = random_norms(Twice(), images(2, *SHAPE))
    assert {frozenset(keys) for keys in tensors} >= {frozenset({"one.running_var", "two.running_var"})}
    report = narfx.export(trace_graph(Twice().eval()).graph_module, tmp_path / "out", input=SHAPE)
    assert report["parity"]["passed"] and report["parity"]["random_norms"]["compared"] >= 2


def test_the_exporter_runs_once(fresh: fx.GraphModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, export = [], torch.onnx.export

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return export(*args, **kwargs)

    monkeypatch.setattr(torch.onnx, "export", counted)
    assert narfx.export(fresh, tmp_path / "out", input=SHAPE)["parity"]["random_norms"]["compared"] >= 10
    assert len(calls) == 1


class Sized(Fresh):
    """It takes images of one size only."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4 * 64 * 64, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(super().forward(x).flatten(1))
        return y


@pytest.mark.parametrize("kind", [Fresh, Sized])
def test_a_fault_is_found_at_a_size_that_is_halved_first(kind: type[Fresh], tmp_path: Path) -> None:
    shape = (3, 64, 64)
    network = trace_graph(kind().eval()).graph_module
    right = translate(network, shape)
    spoil = change("before", 2, np.negative)
    for translation, fault in (
        (right, None),
        (type("P", (Faulty,), {"spoil": staticmethod(spoil)})(**vars(right)), "before"),
    ):
        translation.write(tmp_path / "model.onnx")
        reference, proof = Reference(network, shape), Proof()
        proof.add(reference, tmp_path / "model.onnx")
        proof.add_random_norms(reference, tmp_path / "model.onnx", translation)
        assert proof.random_norms is not None and proof.random_norms.compared >= 10
        assert proof.passed is (fault is None)
        assert fault is None or (proof.difference is not None and proof.difference.node == fault)


def test_a_network_without_norms_has_no_second_file(tmp_path: Path) -> None:
    network = trace_graph(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()).graph_module
    report = narfx.export(network, tmp_path / "out", input=SHAPE)
    assert report["parity"]["passed"] and report["parity"]["random_norms"] is None
