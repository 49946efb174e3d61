"""What runs code: a file may name what it likes, and only what docs/what_runs_code.md allows is run."""

from __future__ import annotations

import importlib.util
import json
import marshal
import os
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from command import RunJson, in_process_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from torch import nn

from narfx.errors import RunError, UsageError
from narfx.inputs.model_ref import load_model
from narfx.inputs.trust import UNTRUSTED, trusted

NET = """
from torch import nn
from layers import middle

INPUT_SHAPE = (1, 8, 8)


def make(width=4):
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), middle(), nn.BatchNorm2d(4),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


def wipe(**_):
    open("canary", "w").close()
    return make()


import os
import torch
"""
LAYERS = "from torch import nn\n\n\ndef middle():\n    return nn.Conv2d(4, 4, 3, padding=1)\n"
EVIL = "open('canary', 'w').close()\n" + NET.replace("middle()", "nn.Conv2d(4, 4, 3)").replace(
    "from layers import middle", "def load(*arguments, **options):\n    return make()"
)

# References that would run something that nobody asked for; each would leave the file "canary", or remove "victim".
HOSTILE = [
    "os:system?command='touch canary'",
    "posix:system?command='touch canary'",
    "os:popen?cmd='touch canary'",
    "os.path:os.system?command='touch canary'",
    "subprocess:run?args=['touch', 'canary']",
    "subprocess:Popen?args=['touch', 'canary']",
    'builtins:eval?source=\'open("canary", "w")\'',
    'builtins:exec?source=\'open("canary", "w")\'',
    "builtins:open?file=canary&mode=w",
    "io:open?file=canary&mode=w",
    "shutil:rmtree?path=victim",
    "shutil:copyfile?src=net.py&dst=canary",
    "pathlib:os.mkdir?path=canary",
    "importlib:import_module?name=evil",
    "importlib.util:importlib.import_module?name=evil",
    "runpy:run_path?path_name=evil.py",
    "pkgutil:resolve_name?name='evil:make'",
    "code:interact",
    "webbrowser:open?url=evil",
    "torch:os.system?command='touch canary'",
    "torch.hub:os.system?command='touch canary'",
    "torch.hub:shutil.rmtree?path=victim",
    "torch.hub:load?repo_or_dir=hub&model=make&source=local",
    "torch:load?f=evil.pt&weights_only=False",
    "torch:jit.load?f=evil.pt",
    "torch:classes.load_library?path=evil.so",
    "torch.utils.cpp_extension:load?name=evil&sources=['evil.cpp']",
    "numpy:load?file=evil.npy&allow_pickle=True",
    "numpy:savetxt?fname=canary&X=[1]",
    "torchvision.models:squeezenet1_1?weights=DEFAULT",
    "torchvision.models:squeezenet1_1?pretrained=True",
    "torchvision.models:squeezenet1_1?progress='https://a/b'",
    "torch.nn:Module?trust_remote_code=True",
    "torch.nn:Module?model_name_or_path=evil",
    "torch.nn:Conv2d?in_channels=1&out_channels=2&kernel_size=evil",
    "test.autotest:main",
    "narfx.__main__:main",
    "narfx.cli:main",
    "narfx.inputs.trust:trusted",
    "narfx.inputs.model_ref:load_model?ref='evil.py:make'",
    "evil:make",
    "evil:model",
    "pack:make",
    "pack.inner:make",
    "room.inner:make",
    "evil.py",
    "evil.py:make",
    "sub/../evil.py:make",
    "../outside.py:make",
    "{folder}/evil.py:make",
    "{folder}/../outside.py:make",
    # In a file that the user has run, things that he has not named:
    "net.py:wipe",
    "net.py:wipe?width=3",
    "net.py:os.system?command='touch canary'",
    "net.py:torch.hub.load?repo_or_dir=hub&model=make&source=local",
    "net.py:torch.load?f=evil.pt&weights_only=False",
    "net.py:make.__globals__",
    "net.py:__loader__.get_data?path=evil.py",
    "net.py:make?width='../outside.py'",
]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of a user who has run ``net.py:make``, with files of somebody else in it."""
    monkeypatch.delenv("NARFX_TRUST")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    folder = tmp_path / "work"
    for name in ("victim", "sub", "hub", "pack", "room"):
        (folder / name).mkdir(parents=True)
    monkeypatch.chdir(folder)
    (folder / "net.py").write_text(NET)
    (folder / "layers.py").write_text(LAYERS)
    load_model("net.py:make")
    for name in (
        "evil",
        "evil.py",
        "../outside.py",
        "hub/hubconf.py",
        "pack/__init__.py",
        "pack/inner.py",
        "room/inner.py",
    ):
        (folder / name).write_text(EVIL)
    torch.save({"evil": _Touch()}, folder / "evil.pt")
    np.save(folder / "evil.npy", np.array([_Touch()], dtype=object), allow_pickle=True)
    return folder


class _Touch:
    def __reduce__(self) -> tuple[Any, ...]:
        return eval, ("open('canary', 'w').close()",)


@pytest.fixture
def narfx(capfd: pytest.CaptureFixture[str]) -> RunJson:
    return in_process_json(capfd)


def architecture(model: str, **more: Any) -> None:
    Path("arch.json").write_text(json.dumps({"model": model, "vector": [1], "input": [1, 8, 8]} | more))


def untouched(here: Path) -> bool:
    return not list(here.parent.rglob("canary")) and (here / "victim").is_dir()


@pytest.mark.parametrize("reference", HOSTILE)
def test_a_hostile_reference_runs_nothing(here: Path, narfx: RunJson, reference: str) -> None:
    architecture(reference.format(folder=here))
    code, found, _ = narfx("apply", "arch.json", "--out", "out")
    assert (code, found["error"]["kind"]) == (2, UNTRUSTED), found
    assert untouched(here) and not (here / "out").exists()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    st.sampled_from(sorted(sys.stdlib_module_names)),
    st.sampled_from(["", ".path", ".__main__", "._x"]),
    st.sampled_from(["system", "run", "make", "sys.modules", "__builtins__", "os.system"]),
    st.sampled_from(["", "?command='touch canary'", "?path=victim"]),
)
def test_no_module_of_python_is_even_imported(here: Path, top: str, sub: str, name: str, arguments: str) -> None:
    before = set(sys.modules)
    with pytest.raises(UsageError) as raised:
        load_model(f"{top}{sub}:{name}{arguments}", relative_to=here)
    assert raised.value.kind == UNTRUSTED and untouched(here) and set(sys.modules) == before
    with trusted(), pytest.raises(UsageError):
        load_model(f"{top}{sub}:{name}{arguments}", relative_to=here)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.sampled_from([torch, torch.hub, torch.nn, torch.nn.functional, torch.utils.data, np, onnx, sys]), st.data())
def test_no_function_of_a_package_is_called(here: Path, module: ModuleType, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(vars(module))))
    entry = getattr(module, name)
    if not (isinstance(entry, type) and issubclass(entry, nn.Module)):
        with pytest.raises(UsageError) as raised:
            load_model(f"{module.__name__}:{name}", relative_to=here)
        assert raised.value.kind == UNTRUSTED


@pytest.mark.parametrize(
    "reference",
    ["narfx:resnet8", "torchvision:squeezenet1_1", "torchvision.models:squeezenet1_1?num_classes=3",
     "torch.nn:Conv2d?in_channels=1&out_channels=2&kernel_size=3", "net.py:make", "net.py:make?width=7"],
)  # fmt: skip
def test_networks_of_packages_and_what_the_user_named_run(here: Path, reference: str) -> None:
    assert isinstance(load_model(reference, relative_to=here), nn.Module)


def test_what_the_user_ran_goes_on_without_a_flag_until_it_changes(here: Path, narfx: RunJson) -> None:
    architecture("net.py:make", vector=[0, 0])  # too long: the model is built, and then the vector refused
    assert narfx("apply", "arch.json", "--out", "out")[1]["error"]["kind"] != UNTRUSTED
    # Bytecode beside a file is not the file: that of somebody else is never read.
    layers = here / "layers.py"
    cache = Path(importlib.util.cache_from_source(str(layers)))
    cache.parent.mkdir(exist_ok=True)
    unchecked = importlib.util.MAGIC_NUMBER + (1).to_bytes(4, "little") + bytes(8)  # Python itself would run it
    cache.write_bytes(unchecked + marshal.dumps(compile(EVIL, str(layers), "exec")))
    load_model("net.py:make", relative_to=here)
    assert untouched(here)
    layers.write_text(LAYERS + "\nopen('canary', 'w').close()\n")
    code, found, _ = narfx("apply", "arch.json", "--out", "out")
    assert (code, found["error"]["kind"], found["error"]["where"]) == (2, UNTRUSTED, str(layers)), found
    assert "--trust" in found["error"]["message"] and untouched(here)
    assert narfx("apply", "arch.json", "--out", "out", "--trust")[1]["error"]["kind"] != UNTRUSTED
    assert not untouched(here)
    load_model("net.py:make", relative_to=here)  # what was trusted once is known


def test_what_a_model_imports_while_it_runs(here: Path) -> None:
    (here / "mine").mkdir()
    (here / "mine" / "__init__.py").write_text("")
    (here / "mine" / "late.py").write_text("")
    (here / "lazy.py").write_text(
        "import mine\nfrom torch import nn\n\n\nclass Net(nn.Module):\n    def forward(self, x):\n"
        "        import mine.late\n        return x\n"
    )
    load_model("lazy.py")(torch.ones(1))
    load_model("lazy.py", relative_to=here)(torch.ones(1))
    (here / "mine" / "late.py").write_text("open('canary', 'w').close()\n")
    with pytest.raises(UsageError, match=r"late\.py is code that you have not run before"):
        load_model("lazy.py", relative_to=here)(torch.ones(1))
    assert untouched(here)


def test_operators_and_data_out_of_files(here: Path, narfx: RunJson) -> None:
    architecture("narfx:resnet_digits", operator_files=["evil.py"])
    assert narfx("apply", "arch.json", "--out", "out")[1]["error"]["kind"] == UNTRUSTED
    for data in ("evil.py:make", "evil:make", "os:getcwd", "net.py:wipe", "torch.hub:list"):
        (here / "config.json").write_text(json.dumps({"target": "narfx:resnet_digits", "data": data, "epochs": 1}))
        code, found, _ = narfx("train", "--config", "config.json", "--out", "out")
        assert (code, found["error"]["kind"]) == (2, UNTRUSTED), (data, found)
    for field in ("optimizer", "schedule", "augment"):
        for own in ("evil.py:make", "evil:make", "os:getcwd", "net.py:wipe", "torch.hub:list"):
            values = {"target": "narfx:resnet_digits", "data": "digits", "lr": 0.1, field: own}
            (here / "config.json").write_text(json.dumps(values))
            code, found, _ = narfx("train", "--config", "config.json", "--out", "out")
            assert (code, found["error"]["kind"]) == (2, UNTRUSTED), (own, found)
    (here / "config.json").write_text(json.dumps({"model": "evil.py", "data": "digits"}))
    assert narfx("search", "--config", "config.json", "--out", "out")[1]["error"]["kind"] == UNTRUSTED
    assert untouched(here) and not (here / "out").exists()
    # What stands on the command line beside a config file is named.
    (here / "mine.py").write_text("def data():\n    raise ValueError('it ran')\n")
    found = narfx("train", "narfx:resnet_digits", "--data", "mine.py:data", "--config", "config.json", "--out", "out")[
        1
    ]
    assert "model" in found["error"]["message"] or "it ran" in found["error"]["message"]
    (here / "config.json").write_text(json.dumps({"epochs": 1}))
    found = narfx("train", "narfx:resnet_digits", "--data", "mine.py:data", "--config", "config.json", "--out", "out")[
        1
    ]
    assert "it ran" in found["error"]["message"]


def test_a_run_resumes_while_its_code_is_what_it_was(
    here: Path, narfx: RunJson, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any, **__: Any) -> None:
        raise RunError("the disk is full", kind="disk_full")

    with monkeypatch.context() as patch:
        patch.setattr("narfx.verbs.train.fit", stopped)
        started = narfx("train", "net.py:make", "--data", "digits", "--epochs", "1", "--out", "run")
        assert started[0] == 7
        assert narfx("train", "--resume", "--out", "run")[0] == 7  # its code ran
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "of another user"))
    code, found, _ = narfx("train", "--resume", "--out", "run")
    assert (code, found["error"]["kind"], found["error"]["where"]) == (2, UNTRUSTED, str(here / "net.py")), found
    assert narfx("train", "--resume", "--out", "run", "--trust")[0] == 0


def test_a_bundle_of_somebody_else(here: Path, narfx: RunJson, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs where narfx writes the same model.py; its ONNX file is proven without any Python of it."""
    architecture("narfx:chain12?channels=4&nodes=3&in_channels=1", vector=[0, 1, 2])
    assert narfx("apply", "arch.json", "--out", "out")[0] == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "of another user"))
    assert narfx("check", "out")[0] == 0
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "of a third"))
    source = here / "out" / "model.py"
    source.write_text(source.read_text() + "\nopen('canary', 'w').close()\n")
    for command in (["check", "out"], ["evaluate", "out", "--data", "digits"]):
        code, found, _ = narfx(*command)
        assert (code, found["error"]["kind"], found["error"]["where"]) == (2, UNTRUSTED, str(source)), found
    code, found, _ = narfx("check", "out", "--no-code")
    assert (code, found["outputs"], found["weights"]["constants"]) == (0, {"output": [10]}, {}), found
    assert found["weights"]["fused"] > found["weights"]["equal"] > 0 and found["not_proven"]
    os.mkfifo(here / "out" / "model.onnx.data")  # where an ONNX file may say that its weights are
    assert narfx("check", "out", "--no-code")[1]["error"]["kind"] == "unreadable_file"
    (here / "out" / "model.onnx.data").unlink()
    assert untouched(here)
    for name in ("stem.conv.weight", "fc.bias"):
        shutil.copytree(here / "out", here / name)
        _change(here / name / "model.onnx", name)
        code, found, _ = narfx("check", name, "--no-code")
        assert (code, found["error"]["kind"], found["error"]["where"]) == (5, "weights", name), found


def _change(path: Path, name: str) -> None:
    """Make the last value of a tensor one percent larger."""
    model = onnx.load(str(path))
    for tensor in model.graph.initializer:
        if tensor.name == name:
            values = numpy_helper.to_array(tensor).copy()
            values.flat[-1] *= 1.01
            tensor.CopyFrom(numpy_helper.from_array(values, name))
    onnx.save(model, str(path))
