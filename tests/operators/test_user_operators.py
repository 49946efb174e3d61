"""Operators of the user's own: files of them, what is said where one is wrong, and ``narfx ops``."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Run, in_process
from sample_networks import Chain, images, part, settled
from torch import nn

import narfx
from narfx.errors import NarfxError, UsageError
from narfx.graph.cost import measure
from narfx.inputs.model_ref import load_model
from narfx.operators import (
    choose_operators,
    get_operator,
    load_operators,
    operator_cost,
    operator_names,
    unregister_operator,
)
from narfx.operators.registry import origin
from narfx.space.architecture import DEFAULT_OPERATORS, Architecture
from narfx.space.records import Site
from narfx.verbs.ops_test import CHECKS, try_operators

ROOT = Path(__file__).parents[2]
OWN = operator_names()

NET = """
import torch
from torch import nn

INPUT_SHAPE = (1, 8, 8)

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.a = nn.Conv2d(8, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 10)

    def forward(self, x):
        x = torch.relu(self.a(self.stem(x)))
        return self.head(self.b(x).mean((2, 3)))
"""

ONE = """
import narfx
from torch import nn

def build(site):
    return nn.Conv2d(site.in_channels, site.out_channels, 1, stride=site.stride, groups=site.groups)

narfx.register_operator(narfx.Operator({name!r}, build, {refuse}, {cost}, {start}))
"""


SMALL = """
import narfx
from torch import nn

class Small(nn.Module):
    def __init__(self, site, pairs):
        super().__init__()
        self.conv = nn.Conv2d(site.in_channels, site.out_channels, 1)
        self.pairs = pairs

    def forward(self, x):
        y = self.conv(x)
        if self.pairs:
            return y.reshape(2, -1, *x.shape[2:])
        if len(x) > 3:
            raise ValueError("too many")
        return y

narfx.register_operator(narfx.Operator("small", lambda site: Small(site, False)))
narfx.register_operator(narfx.Operator("pairs", lambda site: Small(site, True)))
"""

CACHED = """
import narfx
from torch import nn

KEPT = {}

def build(site):
    key = site.in_channels, site.out_channels
    return KEPT.setdefault(key, nn.Conv2d(*key, 1))

def refuse(site):
    return None if site.input_shape == site.output_shape and site.groups == 1 else "no"

narfx.register_operator(narfx.Operator("cached", build, refuse))
"""


def write(path: Path, name: str = "mine", *, refuse: str = "None", cost: str = "None", start: str = "None") -> Path:
    """A file with one operator, a 1x1 convolution."""
    path.write_text(ONE.format(name=name, refuse=refuse, cost=cost, start=start))
    return path


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run narfx in this process, in a fresh folder that holds ``net.py`` and ``my_ops.py``, the documentation's."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    text = (ROOT / "docs" / "operators.md").read_text()
    (tmp_path / "my_ops.py").write_text(re.findall(r"```python\n(.*?)```", text, re.DOTALL)[0])

    return in_process(capfd)


def refused(run: Run, *arguments: str) -> dict[str, Any]:
    """Run with --json: exit code 2, one JSON object, one sentence on standard error, no traceback."""
    code, out, err = run(*arguments, "--json")
    error: dict[str, Any] = json.loads(out)["error"]
    assert (code, error["code"]) == (2, 2), error
    assert error["message"] in err and "Traceback" not in err
    return error


def traced_operators(run: Run, *arguments: str) -> list[str]:
    code, out, err = run("trace", "net.py", "--input", "1,8,8", "--json", *arguments)
    assert code == 0, err
    names: list[str] = json.loads(out)["operators"]
    return names


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--operators", "my_ops.py"], [*DEFAULT_OPERATORS, "strips3x3"]),
        (["--operators", "base,conv1x1,my_ops.py"], ["base", "conv1x1", "strips3x3"]),
        (["--operators", "base,my_ops.py:strips3x3,identity"], ["base", "strips3x3", "identity"]),
        (["--operators", "my_ops.py:strips3x3"], [*DEFAULT_OPERATORS, "strips3x3"]),
        (["--operators", "base,strips3x3", "--operators-file", "my_ops.py"], ["base", "strips3x3"]),
        (["--operators", "base,strips3x3,my_ops.py"], ["base", "strips3x3"]),
        (["--operators", "base,my_ops.py,strips3x3"], ["base", "strips3x3"]),
        (["--operators-file", "my_ops.py"], [*DEFAULT_OPERATORS, "strips3x3"]),
        (["--operators", "base,dwsep3x3", "--operators-file", "my_ops.py"], ["base", "dwsep3x3"]),
    ],
)
def test_a_list_may_name_files(run: Run, arguments: list[str], names: list[str]) -> None:
    assert traced_operators(run, *arguments) == names


@pytest.mark.parametrize(
    ("operators", "kind", "words"),
    [
        ("base,strips3x3", "unknown_operator", "unknown operator 'strips3x3'"),
        ("base,my_ops.py:strip3x3", "unknown_operator", "did you mean strips3x3?"),
        ("base,none.py", "missing_file", "there is no operator file none.py"),
        ("base,net.py", "no_operators", "net.py registers no operator"),
        ("strips3x3,my_ops.py", "bad_config", "the list starts with base"),
        ("base,base,my_ops.py", "bad_config", "names each operator once"),
    ],
)
def test_a_wrong_list_is_one_sentence(run: Run, operators: str, kind: str, words: str) -> None:
    error = refused(run, "trace", "net.py", "--input", "1,8,8", "--operators", operators)
    assert error["kind"] == kind and words in error["message"]


def test_the_file_travels_from_search_to_apply_and_resume(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = ["--epochs", "2", "--pretrain-epochs", "1", "--steps", "1", "--finalists", "1", "--data-fraction", "0.2"]
    operators = ["--operators", "base,my_ops.py", "--budget", "macs<=0.8x"]
    code, _, err = run("search", "net.py", "--data", "digits", "--out", "run/one", *quick, *operators, "-q")
    assert code == 0, err
    found = Architecture.load("run/one/arch.json")
    assert found.operators == ("base", "strips3x3") and found.operator_files == ("../../my_ops.py",)
    # The folder moves, and the commands come from elsewhere.
    home = tmp_path / "elsewhere"
    home.mkdir()
    for name in ("run", "net.py", "my_ops.py"):
        shutil.move(tmp_path / name, home / name)
    unregister_operator("strips3x3")
    monkeypatch.chdir("/")
    place = home / "run" / "one"
    before = (place / "arch.json").read_text()
    (place / "result.json").unlink()  # of a finished run the result is read, and nothing else
    code, _, err = run("search", "--resume", "--out", str(place), "-q")
    assert code == 0, err
    assert (place / "arch.json").read_text() == before
    unregister_operator("strips3x3")
    code, out, err = run("apply", str(place / "arch.json"), "--out", str(home / "bundle"), "--json")
    assert code == 0, err
    assert json.loads(out)["parity"]["passed"]
    assert Architecture.load(home / "bundle" / "arch.json").operator_files == ("operators/my_ops.py",)
    (home / "bundle" / "model.py").unlink()
    unregister_operator("strips3x3")
    assert run("check", str(home / "bundle"))[0] == 0  # rebuilt from the base and the file of operators


def test_a_training_run_and_a_config_name_the_file_from_where_they_lie(run: Run, tmp_path: Path) -> None:
    (tmp_path / "archs").mkdir()
    architecture = Architecture(
        model="net.py",
        vector=(1, 0),
        input=(1, 8, 8),
        operators=("base", "strips3x3"),
        operator_files=("../my_ops.py",),
    )
    architecture.save(tmp_path / "archs" / "arch.json")
    code, _, err = run(
        "train", "archs/arch.json", "--data", "digits", "--out", "t", "--epochs", "1", "--data-fraction", "0.2", "-q"
    )
    assert code == 0, err
    for file in ("t/target.json", "t/arch.json"):
        assert Architecture.load(file).operator_files == ("../my_ops.py",)
    (tmp_path / "c").mkdir()
    config = {"model": "../net.py", "data": "digits", "operators": ["base", "strips3x3"], "epochs": 2, "steps": 1}
    config |= {"operator_files": ["../my_ops.py"], "pretrain_epochs": 1, "finalists": 1, "data_fraction": 0.2}
    (tmp_path / "c" / "config.json").write_text(json.dumps(config))
    code, _, err = run("search", "--config", "c/config.json", "--out", "s", "-q")
    assert code == 0, err
    assert Architecture.load("s/arch.json").operator_files == ("../my_ops.py",)
    error = refused(run, "apply", "t/arch.json", "--out", "t", "--overwrite")
    assert error["kind"] != "internal"


def test_an_output_folder_that_holds_the_file_is_not_replaced(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    shutil.copy(tmp_path / "my_ops.py", place / "ops.py")
    options = ["--operators", "base,place/ops.py", "--data", "digits", "--out", "place", "--overwrite"]
    refused(run, "search", "net.py", *options)
    assert (place / "ops.py").is_file()


def test_an_arch_json_without_files_does_not_mention_them(tmp_path: Path) -> None:
    Architecture(model="net.py", vector=(0,)).save(tmp_path / "arch.json")
    assert "operator_files" not in json.loads((tmp_path / "arch.json").read_text())


def test_a_file_among_the_names_of_an_arch_json_is_pointed_to_its_place(run: Run, tmp_path: Path) -> None:
    values = {"model": "net.py", "vector": [0, 0], "operators": ["base", "my_ops.py"]}
    (tmp_path / "arch.json").write_text(json.dumps(values))
    error = refused(run, "apply", "arch.json", "--out", "out")
    assert "my_ops.py names a file: put it into operator_files" in error["message"]


# Loading


def test_a_file_may_be_loaded_again_and_its_present_content_counts(tmp_path: Path) -> None:
    path = write(tmp_path / "ops.py")
    assert load_operators(path) == load_operators(path) == ("mine",)
    first = get_operator("mine")
    write(path, "other")
    assert load_operators(path) == ("other",)
    assert "mine" not in operator_names() and get_operator("other") is not first
    assert origin("other") == str(path)


def test_a_copy_of_a_file_is_the_same_file(tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    path = write(tmp_path / "ops.py")
    load_operators(path)
    assert load_operators(shutil.copy(path, tmp_path / "copy" / "ops.py")) == ("mine",)


def test_two_files_with_one_name_are_refused(tmp_path: Path) -> None:
    first, second = write(tmp_path / "one.py"), write(tmp_path / "two.py", cost="lambda site: {}")
    load_operators(first)
    mine = get_operator("mine")
    with pytest.raises(UsageError, match=r"there is already an operator 'mine', registered by .*one\.py") as caught:
        load_operators(second)
    assert caught.value.kind == "operator_name" and get_operator("mine") is mine
    with pytest.raises(UsageError, match="already"):
        choose_operators(["base", str(first), str(second)])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("import narfx\nraise ValueError('no luck')", r"ValueError at .*ops\.py:2: no luck"),
        ("this is no Python", r"SyntaxError at .*ops\.py:1"),
        ("import nowhere_to_be_found", "install nowhere_to_be_found"),
        ("import narfx\nnarfx.register_operator('mine')", "takes a narfx.Operator, not a str"),
        (
            "import narfx\nnarfx.register_operator(narfx.Operator('dwsep3x3', print))",
            "there is already an operator 'dwsep3x3'",
        ),
        ("import narfx\nnarfx.register_operator(narfx.Operator('base', print))", "there is already an operator 'base'"),
        ("import narfx\nnarfx.register_operator(narfx.Operator('my-op', print))", "must be an identifier, not 'my-op'"),
        (
            "import narfx\nfor _ in range(2): narfx.register_operator(narfx.Operator('x', print))",
            "there is already an .* 'x'",
        ),
    ],
)
def test_a_file_that_fails_registers_nothing(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "ops.py"
    path.write_text(text)
    with pytest.raises(UsageError, match=words):
        load_operators(path)
    assert operator_names() == OWN
    path.write_text("import narfx\nnarfx.register_operator(narfx.Operator('early', print))\n" + text)
    with pytest.raises(UsageError):
        load_operators(path)
    assert operator_names() == OWN


def test_a_file_may_import_its_neighbours_and_print(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "helper_of_mine.py")
    (tmp_path / "ops.py").write_text("import helper_of_mine\nprint('loaded')\n")
    assert load_operators(tmp_path / "ops.py") == ("mine",)
    assert load_operators(tmp_path / "helper_of_mine.py") == ("mine",)
    assert capsys.readouterr() == ("", "loaded\n")


def test_a_model_file_may_register_its_operators_itself(tmp_path: Path) -> None:
    path = tmp_path / "net.py"
    path.write_text(NET + ONE.format(name="mine", refuse=None, cost=None, start=None))
    for _ in range(2):
        model = load_model(f"{path}:Net")
    assert narfx.trace(model, input=(1, 8, 8), operators=("base", "mine")).space.operators == ("base", "mine")


def test_own_operators_cannot_be_forgotten() -> None:
    with pytest.raises(UsageError, match="is built in and cannot be removed"):
        unregister_operator("dwsep3x3")
    with pytest.raises(UsageError, match="unknown operator"):
        unregister_operator("mine")


# What only a builder says


def test_a_builder_alone_is_enough() -> None:
    def build(site: Any) -> nn.Module:
        return nn.Sequential(nn.ReLU(), nn.Conv2d(site.in_channels, site.out_channels, 1, stride=site.stride))

    narfx.register_operator(narfx.Operator("mine", build))
    model = settled(Chain())
    traced = narfx.trace(model, input=(3, 8, 8), operators=("base", "mine"))
    site = traced.space.sites[0]
    assert isinstance(site, Site)
    assert operator_cost(site, "mine") == {"params": 8 * 8 + 8, "macs": 8 * 8 * 64}
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = narfx.lower(narfx.Supernet(traced), (1, 1))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    second = narfx.lower(narfx.Supernet(traced), (1, 1))
    x = images(2, 3, 8, 8)
    assert torch.equal(first(x), second(x))
    assert measure(first, (3, 8, 8)) == traced.space.cost((1, 1))
    # Sites draw values of their own.
    assert not torch.equal(part(first, "body.0.1").weight, part(first, "body.3.1").weight)


def test_a_refusal_is_a_reason_of_the_space_and_no_cost_is_asked_then() -> None:
    def cost(site: Any) -> dict[str, float]:
        raise AssertionError("asked")

    narfx.register_operator(narfx.Operator("mine", nn.Identity, lambda site: "not on a Sunday", cost))
    traced = narfx.trace(settled(Chain()), input=(3, 8, 8), operators=("base", "dwsep3x3", "mine"))
    slot = traced.space.slots[0]
    assert slot.legal == (0, 1) and slot.refused[2] == "not on a Sunday"
    assert "mine may stand nowhere, as at body.0: not on a Sunday" in traced.notes


def raising(*_: Any) -> Any:
    raise KeyError("gone")


_CACHE: dict[str, nn.Module] = {}


class PairsOnly(nn.Module):
    """It reshapes for a batch of two."""

    def __init__(self, channels: int, *, view: bool = False) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.view = view

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return y.view(2, *x.shape[1:]) if self.view else y.reshape(2, -1, *x.shape[2:])


class Doubling(nn.Module):
    """Its batch is not that of its input."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, x])


def conv(site: Any) -> nn.Module:
    return nn.Conv2d(site.in_channels, site.out_channels, 1)


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"build": lambda site: nn.MaxPool2d(2)}, "operator_shape", "maps 8x8x8 to 8x4x4 at body.0, where 8x8x8"),
        ({"build": lambda site: nn.Linear(8, 3)}, "operator_shape", "maps 8x8x8 to 8x8x3 at body.0"),
        ({"build": lambda site: nn.Linear(9, 3)}, "operator_failed", "cannot be run at body.0: RuntimeError"),
        ({"build": raising}, "operator_failed", r"cannot be built at body.0: KeyError at .*test_user_operators.py:\d+"),
        (
            {"build": lambda site: None},
            "operator_result",
            "builds a NoneType at body.0: .* must return a torch.nn.Module",
        ),
        ({"build": lambda site: nn.Identity()}, "operator_in_place", "returns its own input at body.0"),
        ({"build": lambda site: nn.Hardtanh(inplace=True)}, "operator_in_place", "changes its input at body.0"),
        ({"build": lambda site: nn.MaxPool2d(1, return_indices=True)}, "operator_shape", "to a tuple at body.0"),
        (
            {"build": conv, "refuse": raising},
            "operator_failed",
            "refuse.site. of operator .* fails at body.0: KeyError",
        ),
        (
            {"build": conv, "refuse": lambda site: False},
            "operator_refuse",
            "returns False at body.0: it must return a reason",
        ),
        ({"build": conv, "cost": raising}, "operator_failed", "cost.site. of operator .* fails at body.0: KeyError"),
        (
            {"build": conv, "cost": lambda site: 7},
            "operator_cost",
            "returns 7 at body.0: .* two numbers from 0 to 2..53",
        ),
        ({"build": conv, "cost": lambda site: {"params": 1}}, "operator_cost", "params and macs"),
        ({"build": conv, "cost": lambda site: {"params": 1, "macs": float("nan")}}, "operator_cost", "params and macs"),
        ({"build": conv, "cost": lambda site: {"params": 1, "macs": 10**400}}, "operator_cost", "'macs': 1000"),
        (
            {"build": conv, "cost": lambda site: {"params": 1, "macs": 10**9999}},
            "operator_cost",
            "a dict that cannot be printed",
        ),
        ({"build": conv, "cost": lambda site: {"params": True, "macs": 0}}, "operator_cost", "{'params': True"),
        ({"build": conv, "start": raising}, "operator_failed", "cannot start from the weights of body.0: KeyError"),
        ({"build": lambda site: _CACHE.setdefault("one", conv(site))}, "operator_shared", "a new module at each call"),
        ({"build": lambda site: PairsOnly(8)}, "operator_shape", "maps 8x8x8 to 4x8x8 at body.0 on a batch of 1"),
        ({"build": lambda site: PairsOnly(8, view=True)}, "operator_failed", "body.0 on a batch of 1: RuntimeError at"),
        ({"build": lambda site: Doubling()}, "operator_shape", "returns a batch of 4 for a batch of 2 at body.0"),
        ({"build": lambda site: conv(site).half()}, "operator_failed", "at body.0: RuntimeError: [^/]*same"),
    ],
)
def test_what_an_operator_does_wrong_names_it_and_the_site(fields: dict[str, Any], kind: str, words: str) -> None:
    narfx.register_operator(narfx.Operator("mine", **fields))
    with pytest.raises(UsageError, match=words) as caught:
        narfx.Supernet(narfx.trace(settled(Chain()), input=(3, 8, 8), operators=("base", "mine")))
    assert "operator mine" in str(caught.value) and caught.value.kind == kind and caught.value.exit_code == 2


class Small(nn.Module):
    """It takes no batch of more than three."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if len(x) > 3:
            raise ValueError("too many")
        y: torch.Tensor = self.conv(x)
        return y


def test_an_operator_that_fails_in_a_supernet_names_itself_and_its_site() -> None:
    narfx.register_operator(narfx.Operator("mine", lambda site: Small(site.in_channels)))
    net = narfx.Supernet(narfx.trace(settled(Chain()), input=(3, 8, 8), operators=("base", "mine")))
    net.set_vector((0, 1))
    assert net(images(3, 3, 8, 8)).shape == (3, 5)
    words = r"operator mine fails at body\.3 on 4x8x8x8: ValueError at .*test_user_operators\.py:\d+: too many"
    with pytest.raises(UsageError, match=words) as caught:
        net(images(4, 3, 8, 8))
    assert (caught.value.kind, caught.value.exit_code) == ("operator_failed", 2)
    # What is wrong with the user's call of the network is no fault of an operator.
    net.set_vector((0, 0))
    with pytest.raises(RuntimeError):
        net(images(2, 8, 8, 8))


def test_a_search_ends_in_a_sentence_where_an_operator_fails(run: Run, tmp_path: Path) -> None:
    (tmp_path / "small.py").write_text(SMALL)
    for out, operators in (("a", "base,small.py"), ("b", "base,small.py:pairs")):
        quick = ["--epochs", "1", "--pretrain-epochs", "0", "--steps", "1", "--data-fraction", "0.2", "--out", out]
        error = refused(run, "search", "net.py", "--data", "digits", *quick, "--operators", operators)
        assert error["kind"] in ("operator_failed", "operator_shape")
        assert re.search(r"operator (small|pairs) .* at [ab] ", error["message"])


def test_a_builder_that_keeps_its_modules_is_told_so_by_every_command(run: Run, tmp_path: Path) -> None:
    (tmp_path / "cached.py").write_text(CACHED)
    options = ["--operators", "base,cached.py"]
    error = refused(run, "search", "net.py", "--data", "digits", "--out", "s", *options)
    assert (
        error["kind"] == "operator_shared" and "operator cached returns the same module twice at a" in error["message"]
    )
    unregister_operator("cached")
    values = {"model": "net.py", "vector": [1, 0], "input": [1, 8, 8], "operators": ["base", "cached"]}
    (tmp_path / "arch.json").write_text(json.dumps(values | {"operator_files": ["cached.py"]}))
    assert refused(run, "apply", "arch.json", "--out", "bundle")["kind"] == "operator_shared"
    unregister_operator("cached")
    code, out, err = run("ops", "test", "cached.py", "--json")
    failed = [record for record in json.loads(out)["checks"] if not record["passed"]]
    assert code == 2 and "Traceback" not in err
    assert {record["check"] for record in failed} == {"build"}
    assert all("a new module at each call" in record["message"] for record in failed)


def test_a_builder_that_the_meta_device_cannot_run_is_run_on_the_cpu() -> None:
    class Values(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor([1.0] * channels))
            self.largest = float(self.scale.max())  # the meta device has no values

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.scale[:, None, None] / self.largest

    narfx.register_operator(narfx.Operator("mine", lambda site: Values(site.in_channels)))
    traced = narfx.trace(settled(Chain()), input=(3, 8, 8), operators=("base", "mine"))
    assert traced.space.slots[0].costs == {"params": (576, 8), "macs": (576 * 64, 0)}


# narfx ops


def test_ops_test_passes_the_documented_example(run: Run) -> None:
    code, out, err = run("ops", "test", "my_ops.py", "--json")
    report = json.loads(out)
    assert code == 0, err
    assert report["passed"] and report["file"] == "my_ops.py" and report["notes"] == []
    (entry,) = report["operators"]
    assert entry == {"name": "strips3x3", "passed": True, "legal": 20, "refused": 11}
    assert {record["check"] for record in report["checks"]} == set(CHECKS)
    assert sum(record["check"] == "onnx" for record in report["checks"]) == 2
    reasons = [entry["reason"] for entry in report["geometries"] if not entry["legal"]]
    assert len(reasons) == 11 and all(reasons)


def test_ops_test_shows_what_failed(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "ops.py", cost="lambda site: {'params': 1, 'macs': 0}")
    code, out, _ = run("ops", "test", "ops.py")
    assert code == 2 and "FAILED" in out and "cost(site) says 1 params" in out
    assert "maps 16x8x8 to 16x8x8 at 3x3 16->16 on 8x8 padding 0" in " ".join(out.split())
    code, out, err = run("ops", "test", "ops.py", "--json")
    report = json.loads(out)
    assert code == 2 and not report["passed"] and "Traceback" not in err
    assert {record["check"] for record in report["checks"] if not record["passed"]} == {"site", "cost"}


def test_an_operator_that_is_legal_nowhere_does_not_pass(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "ops.py", refuse="lambda site: 'no'")
    code, out, _ = run("ops", "test", "ops.py", "--json")
    (failed,) = json.loads(out)["checks"]
    assert code == 2 and failed["check"] == "legal" and "none of the 31 geometries" in failed["message"]
    assert "every geometry" in run("ops", "test", "ops.py")[1]


def test_ops_test_without_a_file_is_one_sentence(run: Run) -> None:
    assert refused(run, "ops", "test", "none.py")["kind"] == "missing_file"


def test_ops_list_shows_all_of_them(run: Run) -> None:
    code, out, _ = run("ops", "list", "my_ops.py", "--json")
    report = json.loads(out)
    assert code == 0 and [entry["name"] for entry in report["operators"]] == [*OWN, "strips3x3"]
    costs = {entry["name"]: entry["params"] for entry in report["operators"]}
    assert costs["base"] == 36864 and costs["strips3x3"] == 2 * 3 * 64 * 64 and costs["identity"] == 0
    code, out, _ = run("ops", "list")
    assert code == 0 and all(name in out for name in OWN) and "site's own convolution" in out


class Leaky(nn.Module):
    """A 1x1 convolution with one fault."""

    def __init__(self, channels: int, fault: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.idle = nn.Parameter(torch.ones(1))
        self.fault = fault
        self.hidden = [torch.zeros(1)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        idle = self.idle.detach() if self.fault == "gradient" else self.idle
        y: torch.Tensor = self.conv(x) * idle
        if self.fault == "output" and self.training:
            y = y / 0
        if self.fault == "repeat":
            self.hidden[0] += 1
            y = y + self.hidden[0]
        if self.fault == "onnx" and y.sum() > 1e9:
            y = y + 1
        return y

    def __deepcopy__(self, memo: dict[int, Any]) -> Leaky:
        if self.fault == "copy":
            return self
        other = Leaky(self.conv.in_channels, self.fault)
        other.load_state_dict(self.state_dict())
        return other.train(self.training)


_SHARED = nn.Conv2d(16, 16, 1)


def half(module: nn.Module, conv: nn.Conv2d) -> None:
    module.half()


def unset(module: nn.Module, conv: nn.Conv2d) -> None:
    for parameter in module.parameters():
        parameter.fill_(float("nan"))


class Stateful(nn.Module):
    """It keeps a weight where no state dict finds it."""

    count = 0

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        Stateful.count += 1
        self.number = Stateful.count

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x) + self.number
        return y


class NoGrad(nn.Module):
    """It computes without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(16, 16, 1)

    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.conv(x)
        return y


class Fives(nn.Module):
    """At a batch of five it makes no map of its size."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[..., : 3 if len(x) == 5 else None] * 1


@pytest.mark.parametrize(
    ("check", "build", "fields", "words"),
    [
        ("build", lambda site: _SHARED, {}, "share a parameter"),
        ("start", None, {"start": half}, "as torch.float16, not torch.float32"),
        ("start", None, {"start": unset}, "not finite"),
        ("output", None, {}, "not finite in training mode"),
        ("gradient", None, {}, "no gradient reaches idle"),
        ("gradient", lambda site: nn.Sequential(nn.Conv2d(16, 16, 1), nn.Threshold(9e9, 0)), {}, "reaches the input"),
        ("gradient", lambda site: NoGrad(), {}, "no gradient reaches anything"),
        ("onnx", lambda site: Fives(), {}, "for a batch of 5, not (5, 16, 12, 12)"),
        ("cost", None, {"cost": lambda site: {"params": 0, "macs": 0}}, "says 0 params, the module has 273"),
        ("repeat", None, {}, "two calls in eval mode"),
        ("copy", None, {}, "a deepcopy gives another output, or shares"),
        ("state", lambda site: Stateful(16), {}, "the same state dict gives another output"),
        ("onnx", None, {}, "torch's ONNX exporter cannot export"),
    ],
)
def test_each_check_finds_its_fault(
    check: str, build: Callable[[Any], nn.Module] | None, fields: dict[str, Any], words: str
) -> None:
    def only(site: Any) -> str | None:
        return None if site.kernel == (7, 7) and site.output_shape == site.input_shape else "tried elsewhere"

    made = build or (lambda site: Leaky(16, check))
    narfx.register_operator(narfx.Operator("mine", made, only, **fields))
    report = try_operators(["mine"])
    messages = [record["message"] for record in report["checks"] if record["check"] == check and not record["passed"]]
    assert messages and words in messages[0] and not report["passed"]


def test_trying_operators_spares_the_callers_random_numbers() -> None:
    before = torch.get_rng_state()
    with pytest.raises(NarfxError, match="unknown operator"):
        try_operators(["nothing"])
    assert torch.equal(torch.get_rng_state(), before)
