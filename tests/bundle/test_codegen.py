"""``model.py``: source that needs only torch and gives the network."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file
from sample_networks import Chain, images
from small_bundles import HEAD, NET, change_initializer, folder_with_bundle, model_file, report_of
from torch import nn

import narfx
from narfx.bundle.codegen import generate
from narfx.compiler.open import open_architecture
from narfx.errors import ParityError
from narfx.graph.tracing import trace_graph
from narfx.inputs.model_ref import load_model
from narfx.inputs.weights import load_state, read_weights

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


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_with_bundle(tmp_path_factory)


@pytest.fixture(scope="module")
def report(home: Path) -> dict[str, Any]:
    return report_of(home)


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
