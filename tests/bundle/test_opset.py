"""The opset that is asked for is the one in the file, or is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import onnx
import pytest
import torch.nn.functional as F
from small_exports import SHAPE, copy_of, net, resnet_bundle, written

import narfx
from narfx.bundle.onnx.write import export_onnx
from narfx.bundle.proof.parity import compare_onnx
from narfx.errors import ParityError, UsageError


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return resnet_bundle(tmp_path_factory)


@pytest.fixture
def copied(resnet: Path, tmp_path: Path) -> Path:
    return copy_of(resnet, tmp_path)


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


def test_a_refused_opset_says_which_operator_is_younger(tmp_path: Path) -> None:
    network = net(lambda x, y: F.interpolate(y, (y.shape[2] + x.shape[0], y.shape[3])).mean((2, 3)))
    said = r"opset 13 \(its operator Shape has no option end there\): choose one from 15 to \d\d, or leave out"
    with pytest.raises(UsageError, match=said):
        narfx.export(network, tmp_path / "out", input=SHAPE, opset=13)
    assert narfx.export(network, tmp_path / "out", input=SHAPE, opset=15)["opset"] == 15


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
