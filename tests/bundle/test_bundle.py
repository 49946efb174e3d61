"""Bundles: what ``narfx apply`` writes, and what ``narfx check`` proves and refuses."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from sample_networks import Chain, settled
from small_bundles import NET, change_initializer, folder_with_bundle, model_file, report_of
from torch import nn

import narfx
from narfx.bundle.bundle import export
from narfx.bundle.onnx.write import compare_onnx, export_onnx
from narfx.compiler.open import open_architecture
from narfx.errors import NarfxError, ParityError, RunError, UsageError
from narfx.graph.cost import measure
from narfx.graph.tracing import trace_graph
from narfx.inputs.model_ref import load_model

RANDOM = NET.replace("return self.head", "x = x + torch.rand_like(x)\n        return self.head")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_with_bundle(tmp_path_factory)


@pytest.fixture(scope="module")
def report(home: Path) -> dict[str, Any]:
    return report_of(home)


@pytest.fixture
def copied(home: Path, tmp_path: Path) -> Path:
    """A bundle to tamper with; its model lies beside it as it does in ``home``."""
    shutil.copytree(home / "out", tmp_path / "out")
    shutil.copy(home / "net.py", tmp_path / "net.py")
    return tmp_path / "out"


def test_the_report(home: Path, report: dict[str, Any]) -> None:
    lowered = open_architecture(
        narfx.Architecture.load(home / "arch.json"), relative_to=home, weights=str(home / "base.safetensors")
    )
    cost = measure(lowered.network, (3, 8, 8))
    assert {key: report[key] for key in ("params", "macs")} == cost
    assert report["base"] == lowered.traced.cost
    assert report["vector"] == [1, 2]
    assert report["weights"] == "base.safetensors: the base's; operators at 2 slots warm-started, not trained"
    assert report["source"] is None
    assert set(report["versions"]) == {"narfx", "torch", "onnx", "onnxruntime"}
    names = {"arch": "arch.json", "source": "model.py", "weights": "model.safetensors", "onnx": "model.onnx"}
    assert report["files"] == {
        key: str(home / "out" / name) for key, name in (names | {"report": "report.json"}).items()
    }
    assert sorted(path.name for path in (home / "out").iterdir()) == sorted([*names.values(), "report.json"])
    written = json.loads((home / "out" / "report.json").read_text())
    assert written["files"] == names | {"report": "report.json"}
    assert written["input"] == [3, 8, 8]
    assert {key: written[key] for key in report if key != "files"} == {k: v for k, v in report.items() if k != "files"}


def test_the_parity_in_it(report: dict[str, Any]) -> None:
    parity = report["parity"]
    numbers = {"max_abs_error", "max_rel_error", "tolerance", "samples", "batch_sizes", "signal"}
    assert set(parity) == numbers | {"passed", "nodes", "random_norms"}
    assert parity["signal"] > 0.01 and parity["nodes"]["compared"] >= 8
    assert 0 <= parity["nodes"]["max_rel_error"] <= 1e-5
    assert parity["passed"] is True
    assert 0 <= parity["max_rel_error"] <= parity["tolerance"] == 1e-5
    assert (len(parity["batch_sizes"]), len(set(parity["batch_sizes"]))) == (3, 3)
    assert parity["samples"] == sum(parity["batch_sizes"])
    # The file, and one with random statistics, each node by itself.
    assert parity["random_norms"]["compared"] == parity["nodes"]["compared"]
    assert 0 <= parity["random_norms"]["max_rel_error"] <= 1e-5


def test_the_architecture_in_it(home: Path, report: dict[str, Any]) -> None:
    text = (home / "out" / "arch.json").read_text()
    values = json.loads(text)
    assert (values["model"], values["vector"], values["weights"]) == ("../net.py", [1, 2], "model.safetensors")
    # The weights were given beside the architecture, so what its own earned says nothing of these.
    assert values["metrics"] == {"params": report["params"], "macs": report["macs"]}
    assert values["preprocessing"] == {"mean": [0.5] * 3, "std": [0.25] * 3}
    assert values["input"] == [3, 8, 8]
    assert len(values["sites"]) == 2 and len(values["fingerprint"]) == 16
    assert str(home) not in text
    reopened = open_architecture(narfx.Architecture.load(home / "out" / "arch.json"), relative_to=home / "out")
    assert reopened.weights == "model.safetensors: the lowered network's"
    state = load_file(home / "out" / "model.safetensors")
    assert all(torch.equal(value, state[key]) for key, value in reopened.network.state_dict().items())


def test_the_file_of_onnx(home: Path, report: dict[str, Any]) -> None:
    model = onnx.load(home / "out" / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    (image,), (output,) = model.graph.input, model.graph.output
    assert (image.name, output.name) == ("input", "output")
    assert image.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [dim.dim_value for dim in image.type.tensor_type.shape.dim[1:]] == [3, 8, 8]
    architecture = json.loads((home / "out" / "arch.json").read_text())
    written = {entry.key: json.loads(entry.value) for entry in model.metadata_props if entry.key.startswith("narfx.")}
    assert written == {
        "narfx.model": "net.py",
        "narfx.vector": [1, 2],
        "narfx.skips": None,
        "narfx.operators": ["base", "dwsep3x3", "maxpool3x3", "avgpool3x3"],
        "narfx.granularity": "conv",
        "narfx.fingerprint": architecture["fingerprint"],
        "narfx.sites": architecture["sites"],
        "narfx.input": [3, 8, 8],
        "narfx.mean": [0.5] * 3,
        "narfx.std": [0.25] * 3,
        "narfx.versions": report["versions"],
    }


def test_a_mean_of_other_channels_is_refused_where_only_the_model_says_its_input(tmp_path: Path) -> None:
    arch = model_file(tmp_path, preprocessing={"mean": [0.5], "std": [0.5]})
    with pytest.raises(UsageError, match="mean and std are of 1 channel, but the input has 3") as caught:
        narfx.apply(arch, tmp_path / "out")
    assert (caught.value.kind, caught.value.where) == ("malformed_architecture", str(arch))
    assert not (tmp_path / "out").exists()


def test_check_repeats_the_proof(home: Path, report: dict[str, Any]) -> None:
    found = narfx.check(home / "out")
    assert {key: found[key] for key in ("params", "macs", "vector")} == {
        k: report[k] for k in ("params", "macs", "vector")
    }
    assert found["parity"]["passed"] and found["parity"]["max_rel_error"] <= 1e-5
    assert found["folder"] == str(home / "out")
    again = narfx.check(home / "out", seed=5)
    assert again["parity"]["max_rel_error"] != found["parity"]["max_rel_error"]


def test_check_needs_only_the_files(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(home / "out", tmp_path / "moved")  # without the base's net.py
    monkeypatch.chdir(tmp_path)
    assert narfx.check("moved")["parity"]["passed"]


def test_check_without_a_source_reads_the_base(copied: Path) -> None:
    (copied / "model.py").unlink()
    assert narfx.check(copied)["parity"]["passed"]


def change_weight(bundle: Path) -> None:
    state = load_file(bundle / "model.safetensors")
    state["stem.weight"][0, 0, 0, 0] += 0.01
    save_file(state, bundle / "model.safetensors")


def change_json(key: str, value: Any) -> Callable[[Path], None]:
    def change(bundle: Path) -> None:
        values = json.loads((bundle / "arch.json").read_text())
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
        (bundle / "arch.json").write_text(json.dumps(values))

    return change


def change_source(bundle: Path) -> None:
    source = (bundle / "model.py").read_text()
    (bundle / "model.py").write_text(source.replace("torch.relu(", "torch.tanh("))


def cut_onnx(bundle: Path) -> None:
    content = (bundle / "model.onnx").read_bytes()
    (bundle / "model.onnx").write_bytes(content[: len(content) // 2])


@pytest.mark.parametrize(
    ("tamper", "kind", "said"),
    [
        (change_weight, "parity", "differs from the network by"),
        (change_initializer, "parity", "differs from the network by"),
        (change_source, "parity", "differs from the network by"),
        (cut_onnx, "parity", "is not valid ONNX"),
        (lambda bundle: (bundle / "model.onnx").write_bytes(b""), "parity", "ONNX"),
        (change_json("vector", [1, 1]), "metadata", "its vector is [1, 2], arch.json has [1, 1]"),
        (change_json("fingerprint", "0" * 16), "metadata", "its fingerprint is"),
        (change_json("granularity", "block"), "metadata", 'its granularity is "conv", arch.json has "block"'),
        (change_json("preprocessing", {"mean": [0.5] * 3, "std": [0.5] * 3}), "metadata", "its std is [0.25"),
        (change_json("model", "other.py"), "metadata", 'its model is "net.py", arch.json has "other.py"'),
        (change_json("metrics", {"macs": 1}), "cost", "says 1 macs, but the network has"),
    ],
)
def test_check_finds_what_was_changed(copied: Path, tamper: Callable[[Path], None], kind: str, said: str) -> None:
    tamper(copied)
    with pytest.raises(ParityError) as caught:
        narfx.check(copied)
    assert (caught.value.kind, caught.value.exit_code) == (kind, 5)
    assert said in str(caught.value)


def drop_key(bundle: Path) -> None:
    state = load_file(bundle / "model.safetensors")
    del state["stem.weight"]
    save_file(state, bundle / "model.safetensors")


def break_source(bundle: Path) -> None:
    (bundle / "model.py").write_text("raise RuntimeError('broken')")


@pytest.mark.parametrize(
    ("spoil", "kind"),
    [
        (lambda bundle: shutil.rmtree(bundle), "missing_folder"),
        (lambda bundle: (bundle / "arch.json").unlink(), "missing_file"),
        (lambda bundle: (bundle / "model.safetensors").unlink(), "missing_file"),
        (lambda bundle: (bundle / "model.onnx").unlink(), "missing_file"),
        (lambda bundle: (bundle / "arch.json").write_text("{"), "malformed_json"),
        (change_json("input", None), "input_shape"),
        (change_json("vector", [1, 2.5]), "malformed_architecture"),
        (lambda bundle: (bundle / "model.safetensors").write_bytes(b"no"), "weights_unreadable"),
        (drop_key, "weights_mismatch"),
        (break_source, "import_failed"),
    ],
)
def test_check_refuses_what_is_no_bundle(copied: Path, spoil: Callable[[Path], Any], kind: str) -> None:
    spoil(copied)
    with pytest.raises(UsageError) as caught:
        narfx.check(copied)
    assert (caught.value.kind, caught.value.exit_code) == (kind, 2)


def test_a_bundle_is_refined_again(home: Path, tmp_path: Path) -> None:
    """What a bundle holds is a model like any other."""
    traced = narfx.trace(load_model(str(home / "out" / "model.py")), input=(3, 8, 8), include_first=True)
    assert [slot.name for slot in traced.space.slots] == ["stem"]
    arch = tmp_path / "arch.json"
    arch.write_text(json.dumps({"model": str(home / "out" / "model.py"), "vector": [1], "include_first": True}))
    found = narfx.apply(arch, tmp_path / "again", weights=str(home / "out" / "model.safetensors"))
    assert found["weights"] == "model.safetensors: the base's; operators at 1 slot warm-started, not trained"
    assert found["base"] == traced.cost
    assert narfx.check(tmp_path / "again")["parity"]["passed"]


def test_a_folder_that_is_not_empty_is_kept_or_replaced_whole(tmp_path: Path) -> None:
    arch, out = model_file(tmp_path), tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(UsageError, match="is not empty") as caught:
        narfx.apply(arch, out)
    assert (caught.value.kind, caught.value.where) == ("output_exists", str(out))
    assert [path.name for path in out.iterdir()] == ["precious.txt"]
    with pytest.raises(UsageError, match="narfx did not make the folder"):
        narfx.apply(arch, out, overwrite=True)
    assert [path.name for path in out.iterdir()] == ["precious.txt"]
    (out / "precious.txt").unlink()
    narfx.apply(arch, out)
    narfx.apply(arch, out, overwrite=True, opset=18)
    assert {entry.domain: entry.version for entry in onnx.load(out / "model.onnx").opset_import}[""] == 18
    assert narfx.check(out)["parity"]["passed"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arch.json", "net.py", "out"]


def test_a_file_in_the_place_of_the_folder_is_kept(tmp_path: Path) -> None:
    arch = model_file(tmp_path)
    (tmp_path / "out").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="exists and is not a folder"):
            narfx.apply(arch, tmp_path / "out", overwrite=overwrite)
    assert (tmp_path / "out").read_text() == "mine"


def test_the_working_folder_cannot_be_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arch = model_file(tmp_path / "model")
    for folder in (tmp_path / "work", tmp_path / "work" / "inner"):
        folder.mkdir()
    monkeypatch.chdir(tmp_path / "work" / "inner")
    for folder in (Path(), Path(".."), tmp_path / "work" / "inner"):
        with pytest.raises(UsageError) as caught:
            narfx.apply(arch, folder, overwrite=True)
        assert caught.value.kind == "output_exists"


def test_a_bundle_that_fails_its_parity_is_set_aside(tmp_path: Path) -> None:
    arch, out = model_file(tmp_path, RANDOM), tmp_path / "out"
    with pytest.raises(ParityError, match=r"differs from the network by .* \(tolerance 1e-05\)") as caught:
        narfx.apply(arch, out)
    assert caught.value.exit_code == 5
    assert str(caught.value).endswith(f"the bundle is in {out}.failed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["arch.json", "net.py", "out.failed"]
    failed = json.loads((tmp_path / "out.failed" / "report.json").read_text())
    assert failed["parity"]["passed"] is False
    assert failed["parity"]["max_rel_error"] > 1e-3
    with pytest.raises(ParityError):
        narfx.check(tmp_path / "out.failed")


def test_a_good_folder_survives_a_failed_replacement(home: Path, tmp_path: Path) -> None:
    shutil.copytree(home / "out", tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    net = narfx.Supernet(narfx.trace(settled(Chain()), input=(3, 8, 8)))
    with pytest.raises(ParityError, match="is a Dispatch of narfx") as caught:
        export(net.graph_module, tmp_path / "out", input=(3, 8, 8), overwrite=True)
    assert caught.value.kind == "not_lowered"
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_what_is_not_ready_is_not_exported(tmp_path: Path) -> None:
    net = narfx.Supernet(narfx.trace(settled(Chain()), input=(3, 8, 8)))
    lowered = narfx.lower(net, (1, 0))
    for network, said in (
        (
            net.eval().graph_module,
            "is a Dispatch of narfx.operators.dispatch, which an exported network must not contain: lower",
        ),
        (lowered.train(), "the root is in training mode"),
    ):
        with pytest.raises(ParityError, match=said) as caught:
            export_onnx(network, (3, 8, 8), tmp_path / "model.onnx")
        assert caught.value.kind == "not_lowered"
    lowered.eval().get_submodule("body.1").train()
    with pytest.raises(ParityError, match=r"body\.1 is in training mode"):
        export_onnx(lowered, (3, 8, 8), tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_torch_cannot_export_says_why(tmp_path: Path) -> None:
    class Complex(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            values: torch.Tensor = torch.linalg.eigvals(x).abs()
            return values

    network = trace_graph(Complex()).graph_module
    with pytest.raises(RunError, match=r"exporter cannot export node linalg_eigvals at .*:\d+ \(") as caught:
        export_onnx(network, (3, 8, 8), tmp_path / "model.onnx")
    assert (caught.value.kind, caught.value.exit_code) == ("onnx_export", 7)
    assert "\x1b" not in str(caught.value) and "has, or end the model before it" in str(caught.value)
    assert re.fullmatch(rf"{re.escape(__file__)}:\d+", str(caught.value.where))
    assert list(tmp_path.iterdir()) == []


def test_a_shape_that_depends_on_values_is_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    counted = "x.new_zeros((x > 0).sum().item() + 2).chunk(2)[0].sum()"
    source = NET.replace("x = self.stem(x)", f"x = self.stem(x) + {counted}")
    with pytest.raises(RunError, match="torch's ONNX exporter cannot export") as caught:
        narfx.apply(model_file(tmp_path, source), tmp_path / "out")
    assert "\n" not in str(caught.value)
    narfx_says = capfd.readouterr()
    assert (narfx_says.out, narfx_says.err) == ("", "")


def test_an_export_needs_a_shape(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        narfx.export(trace_graph(Chain()).graph_module, tmp_path / "out")
    assert caught.value.kind == "input_shape"


def test_a_network_of_the_users_own_is_exported_and_left_as_it_was(tmp_path: Path) -> None:
    lowered = narfx.lower(narfx.Supernet(narfx.trace(settled(Chain()), input=(3, 8, 8))), (1, 0)).double().train()
    found = narfx.export(lowered, tmp_path / "out")  # the shape is that of the trace
    assert (found["weights"], found["base"], found["vector"]) == ("the network's own", None, None)
    assert lowered.training and lowered.get_parameter("stem.weight").dtype == torch.float64
    assert {value.dtype for value in load_file(tmp_path / "out" / "model.safetensors").values()} == {
        torch.float32,
        torch.int64,
    }


def test_one_reference_of_each_origin(tmp_path: Path) -> None:
    architecture = narfx.Architecture(model="narfx:resnet8?width=4", vector=(1, 0, 2, 0, 3, 0))
    found = narfx.apply(architecture, tmp_path / "out")
    assert found["source"] is None
    assert json.loads((tmp_path / "out" / "arch.json").read_text())["model"] == "narfx:resnet8?width=4"
    assert narfx.check(tmp_path / "out")["params"] == found["params"] < found["base"]["params"]


def test_a_file_that_computes_something_else_is_far(home: Path) -> None:
    network = load_model(str(home / "out" / "model.py"), seed=1).eval()
    parity = compare_onnx(network, home / "out" / "model.onnx", (3, 8, 8))
    assert not parity.passed
    assert parity.max_rel_error > 1e-2
    with pytest.raises(NarfxError, match=r"onnxruntime cannot run model\.onnx"):
        compare_onnx(network, home / "out" / "model.onnx", (3, 9, 9))
