"""The bundle: what ``apply`` writes, what ``check`` believes, and what is left when something fails."""

from __future__ import annotations

import ast
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file
from sample_networks import Chain, images, settled
from torch import nn

import narfx
from narfx.bundle.bundle import export
from narfx.bundle.codegen import generate
from narfx.bundle.onnx.write import compare_onnx, export_onnx
from narfx.compiler.open import open_architecture
from narfx.errors import NarfxError, ParityError, RunError, UsageError
from narfx.graph.cost import measure
from narfx.graph.tracing import trace_graph
from narfx.inputs.model_ref import load_model
from narfx.inputs.weights import load_state, read_weights

HEAD = """
import torch
from torch import nn

INPUT_SHAPE = (3, 8, 8)
"""

NET = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.one = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, 2, padding=1, groups=2), nn.ReLU(inplace=True), nn.Dropout(0.5))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        x = torch.relu(self.norm(self.one(x))) + x
        return self.head(self.body(x).mean((2, 3)))
"""
)

# Each line is something that a generated file or a file of weights may get wrong.
AWKWARD = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.5, 0.25, float("inf")]).reshape(3, 1, 1), persistent=False)
        self.register_buffer("scale", torch.full((8, 1, 1), 1.5))
        self.shift = nn.Parameter(torch.ones(8, 1, 1))
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.site = nn.Conv2d(8, 8, 3, padding="same", dilation=2, padding_mode="circular")
        self.one, self.two = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.two.weight = self.one.weight
        self.norm = nn.BatchNorm2d(8, affine=False)
        self.clamp = nn.Hardtanh(0, float("inf"))

    def forward(self, x, mask=None, flip: bool = False):
        if mask is not None:
            x = x * mask
        x = self.site(self.stem(x - self.mean.clamp(max=0.125))) * self.scale.sqrt() + self.shift
        x = x * torch.tensor([0.5, 2.0]).repeat(4).reshape(8, 1, 1)
        x = self.two(self.norm(self.one(x)))
        return {"features": self.clamp(x), "means": [x.mean((2, 3)), x.mean()]}
"""
).replace("x.mean()]", "x.mean((1, 2, 3))]")

RANDOM = NET.replace("return self.head", "x = x + torch.rand_like(x)\n        return self.head")

OWN_LEAF = (
    NET.replace("return self.head(", "return self.leaf(")
    .replace("self.head = nn.Linear(8, 5)", "self.leaf = Leaf(8, 5)")
    .replace(
        "class Net(",
        """class Leaf(nn.Linear):
    def forward(self, x):
        return -super().forward(x) if self.training else super().forward(x)


class Net(""",
    )
    + "\nmodel = Net\n"
)


def model_file(folder: Path, source: str = NET, **values: Any) -> Path:
    """``net.py`` and an ``arch.json`` beside it; its path."""
    folder.mkdir(exist_ok=True)
    (folder / "net.py").write_text(source)
    (folder / "arch.json").write_text(json.dumps({"model": "net.py", "vector": [1, 2], **values}))
    return folder / "arch.json"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, weights for it, an architecture, and its bundle in ``out``."""
    folder = tmp_path_factory.mktemp("home")
    arch = model_file(folder, preprocessing={"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25]}, metrics={"top1": 0.5})
    model = settled(load_model(str(folder / "net.py")))
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "base.safetensors")
    report = narfx.apply(arch, folder / "out", weights=str(folder / "base.safetensors"))
    (folder / "report.json").write_text(json.dumps(report))
    return folder


@pytest.fixture(scope="module")
def report(home: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((home / "report.json").read_text())
    return loaded


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
    assert set(parity) == numbers | {"passed", "nodes"}
    assert parity["signal"] > 0.01 and parity["nodes"]["compared"] >= 8
    assert 0 <= parity["nodes"]["max_rel_error"] <= 1e-5
    assert parity["passed"] is True
    assert 0 <= parity["max_rel_error"] <= parity["tolerance"] == 1e-5
    assert (len(parity["batch_sizes"]), len(set(parity["batch_sizes"]))) == (3, 3)
    assert parity["samples"] == 2 * sum(parity["batch_sizes"])  # the file, and one with random statistics


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


def test_the_source_needs_only_torch(home: Path) -> None:
    tree = ast.parse((home / "out" / "model.py").read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(str(node.module).split(".")[0])
    assert imported <= {"torch", "collections"}
    assert "it needs only torch." in str(ast.get_docstring(tree))


def run(code: str, folder: Path) -> str:
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_source_and_the_weights_give_the_network_without_narfx(home: Path, tmp_path: Path) -> None:
    for name in ("model.py", "model.safetensors"):
        shutil.copy(home / "out" / name, tmp_path / name)
    x = images(2, 3, 8, 8)
    save_file({"x": x}, tmp_path / "x.safetensors")
    code = """
import sys
import safetensors.torch, torch
from model import INPUT_SHAPE, Model
torch.set_num_threads(1)
network = Model().eval()
network.load_state_dict(safetensors.torch.load_file("model.safetensors"))
with torch.no_grad():
    y = network(safetensors.torch.load_file("x.safetensors")["x"])
safetensors.torch.save_file({"y": y}, "y.safetensors")
print(INPUT_SHAPE, sorted({"narfx", "torchvision", "onnx"} & set(sys.modules)))
"""
    assert run(code, tmp_path) == "(3, 8, 8) []"
    reopened = open_architecture(narfx.Architecture.load(home / "out" / "arch.json"), relative_to=home / "out")
    with torch.no_grad():
        assert torch.equal(load_file(tmp_path / "y.safetensors")["y"], reopened.network(x))


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


def change_initializer(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if numpy_helper.to_array(tensor).size > 8)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.001, tensor.name))
    onnx.save(model, bundle / "model.onnx")


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
    with pytest.raises(RunError, match="torch's ONNX exporter cannot export this network") as caught:
        export_onnx(network, (3, 8, 8), tmp_path / "model.onnx")
    assert (caught.value.kind, caught.value.exit_code) == ("onnx_export", 7)
    assert "\x1b" not in str(caught.value) and "eig" in str(caught.value)
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


def test_awkward_networks_come_out_whole(tmp_path: Path) -> None:
    out = tmp_path / "out"
    found = narfx.apply(model_file(tmp_path, AWKWARD, vector=[1]), out)
    assert found["source"] is None
    assert narfx.check(out)["parity"]["passed"]
    names = [output.name for output in onnx.load(out / "model.onnx").graph.output]
    assert names == found["output_names"] == ["features", "means_0", "means_1"]
    own = load_model(str(tmp_path / "net.py")).state_dict()
    state = load_file(out / "model.safetensors")
    assert {key for key in state if not key.startswith("site.")} == {key for key in own if not key.startswith("site.")}
    model = load_model(str(out / "model.py"))
    model.load_state_dict(state)
    assert model.get_parameter("two.weight") is model.get_parameter("one.weight")
    assert sum(p.numel() for p in model.parameters()) == found["params"]
    outputs = model.eval()(images(2, 3, 8, 8))
    assert list(outputs) == ["features", "means"]
    change_initializer(out)
    with pytest.raises(ParityError, match=r"first difference at (\S+) ") as caught:
        narfx.check(out)
    assert caught.value.where == "stem"
    assert trace_graph(Chain()).graph_module.graph  # and traces go on as before


def test_a_class_of_the_users_file_is_not_imported_by_a_name_that_nobody_has(tmp_path: Path) -> None:
    found = narfx.apply(model_file(tmp_path, OWN_LEAF), tmp_path / "out")
    assert found["source"] == "no model.py: the class of leaf, Leaf, cannot be imported by the name of its module"
    assert "source" not in found["files"]
    assert not (tmp_path / "out" / "model.py").exists()


OPERATOR = """import narfx
from own_layers import Doubled


def build(site):
    return Doubled(site.in_channels, site.out_channels, site.kernel, site.stride, site.padding, groups=site.groups)


def cost(site):
    return {"params": sum(p.numel() for p in build(site).parameters()), "macs": 0}


narfx.register_operator(narfx.Operator("doubled", build, lambda site: None, cost, None))
"""

LAYERS = """from torch import nn


class Doubled(nn.Conv2d):
    def forward(self, x):
        return 2 * super().forward(x)
"""


@pytest.mark.parametrize("operators", [True, False])
def test_a_bundle_with_files_of_the_users_is_whole_wherever_it_lies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operators: bool
) -> None:
    home, away = tmp_path / "home", tmp_path / "away"
    arch = model_file(home, ("import own_layers\n" if not operators else "") + OWN_LEAF)
    (home / "own_layers.py").write_text(LAYERS)
    if operators:
        (home / "ops").mkdir()
        shutil.move(home / "own_layers.py", home / "ops" / "own_layers.py")
        (home / "ops" / "mine.py").write_text(OPERATOR)
        values = {"operators": ["base", "dwsep3x3", "doubled"], "operator_files": ["ops/mine.py"]}
        arch = model_file(home, OWN_LEAF, **values)
    report = narfx.apply(arch, home / "out")
    assert report["source"].startswith("no model.py: ")
    away.mkdir()
    shutil.move(home / "out", away / "out")
    shutil.rmtree(home)
    monkeypatch.chdir("/")
    found = narfx.Architecture.load(away / "out" / "arch.json")
    assert found.model == "base/net.py"
    assert found.operator_files == (("operators/mine.py",) if operators else ())
    assert narfx.check(away / "out")["parity"]["passed"]
    for file in (away / "out").rglob("*"):
        assert not file.is_file() or str(home).encode() not in file.read_bytes()
    # And it is the start of another.
    again = narfx.apply(away / "out" / "arch.json", away / "more" / "out")
    assert again["parity"]["passed"] and again["weights"].startswith("model.safetensors")
    shutil.rmtree(away / "out")
    assert narfx.check(away / "more" / "out")["parity"]["passed"]


def test_files_of_operators_of_one_name_do_not_meet(tmp_path: Path) -> None:
    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "own_layers.py").write_text(LAYERS)
        (tmp_path / place / "mine.py").write_text(OPERATOR.replace("doubled", f"doubled_{place}"))
    operators = ["base", "dwsep3x3", "maxpool3x3", "doubled_one", "doubled_two"]
    files = ["one/mine.py", "two/mine.py"]
    narfx.apply(model_file(tmp_path, operators=operators, operator_files=files), tmp_path / "out")
    found = narfx.Architecture.load(tmp_path / "out" / "arch.json").operator_files
    assert found == ("operators/mine.py", "operators/1/mine.py")
    assert "doubled_two" in (tmp_path / "out" / found[1]).read_text()
    assert (tmp_path / "out" / "operators" / "1" / "own_layers.py").is_file()
    assert narfx.check(tmp_path / "out")["parity"]["passed"]


def test_a_title_cannot_end_its_docstring() -> None:
    """The title holds the model's reference, which an ``arch.json`` from elsewhere may choose."""
    network = trace_graph(Chain(1)).graph_module
    for title in (
        'a"""\nraise SystemExit(1)\n"""',
        "b\\",
        'c"',
        'd\\"""\nraise SystemExit(1)#',
        "e\r\nraise SystemExit",
    ):
        source = generate(network, title, (3, 8, 8))
        scope: dict[str, Any] = {"__name__": "generated"}
        exec(compile(source, "generated", "exec"), scope)
        assert list(scope["Model"]().state_dict()) == list(network.state_dict())


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


def test_a_larger_buffer_outside_the_state_dict_stands_in_the_source(tmp_path: Path) -> None:
    class Grid(nn.Module):
        grid: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("grid", torch.randn(1, 3, 16, 16), persistent=False)
            self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.b(self.a(x + self.get_buffer("grid"))).mean((2, 3))
            return result

    network = narfx.lower(narfx.Supernet(narfx.trace(Grid(), input=(3, 16, 16))), (2,)).eval()
    report = narfx.export(network, tmp_path / "out", input=(3, 16, 16))
    assert report["source"] is None and "grid" not in network.state_dict()
    rebuilt = load_model(str(tmp_path / "out" / "model.py"))
    load_state(rebuilt, read_weights(tmp_path / "out" / "model.safetensors")[0], source="model.safetensors")
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(rebuilt.eval()(x), network(x))
