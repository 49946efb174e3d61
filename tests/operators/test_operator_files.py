"""Files of the user's own operators: how they are named, found, loaded, refused and remembered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command import Run
from own_operators import NET, ONE, own_folder, refused, write
from sample_networks import Chain, images, part, settled
from torch import nn

import narfx
from narfx.errors import UsageError
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

OWN = operator_names()


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    return own_folder(capfd, tmp_path, monkeypatch)


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
