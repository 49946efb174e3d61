"""The outputs of the ONNX file against those of the network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from small_exports import SHAPE, copy_of, net, resnet_bundle
from torch import Tensor

import narfx
from narfx.bundle.onnx.write import export_onnx
from narfx.bundle.proof.parity import compare_onnx
from narfx.errors import ParityError


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resnet_bundle(tmp_path_factory)


@pytest.fixture
def copied(resnet: Path, tmp_path: Path) -> Path:
    return copy_of(resnet, tmp_path)


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


def test_a_file_that_says_too_little_is_refused(copied: Path) -> None:
    model = onnx.load(copied / "model.onnx")
    kept = [entry for entry in model.metadata_props if entry.key != "narfx.sites"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    onnx.save(model, copied / "model.onnx")
    with pytest.raises(ParityError, match="its sites is missing") as caught:
        narfx.check(copied)
    assert caught.value.kind == "metadata"
