"""Model references: forms, files, factories, collections."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import narfx
from narfx.errors import UsageError
from narfx.inputs.model_ref import default_input, load_model
from narfx.inputs.reference import ModelRef
from narfx.models.resnet_cifar import SmallResNet

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4, num_classes=10):
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)
        self.head = nn.Linear(width, num_classes)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))
"""


Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a file into the working directory, which is a fresh folder."""
    monkeypatch.chdir(tmp_path)

    def file(text: str, name: str = "model.py") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text))
        return path

    return file


def refusal(ref: str, relative_to: Path | None = None) -> UsageError:
    """The error that a reference causes: one that a user can read, with the exit code of wrong usage."""
    with pytest.raises(UsageError) as caught:
        load_model(ref, relative_to=relative_to)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model.py", ModelRef("file", "model.py")),
        ("./nets//model.py", ModelRef("file", "nets/model.py")),
        ("../a/model.py:build", ModelRef("file", "../a/model.py", "build")),
        ("/a/model.py:Net.small", ModelRef("file", "/a/model.py", "Net.small")),
        ("pkg.nets:build", ModelRef("module", "pkg.nets", "build")),
        ("torchvision.models:resnet18", ModelRef("module", "torchvision.models", "resnet18")),
        ("torchvision:resnet18", ModelRef("torchvision", "resnet18")),
        ("timm:resnet18.a1_in1k", ModelRef("timm", "resnet18.a1_in1k")),
        ("narfx:resnet20", ModelRef("narfx", "resnet20")),
        (" narfx:resnet20?num_classes=7 ", ModelRef("narfx", "resnet20", None, {"num_classes": 7})),
    ],
)
def test_forms(text: str, expected: ModelRef) -> None:
    assert ModelRef.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "value"),
    [("10", 10), ("0.5", 0.5), ("1e-3", 1e-3), ("(64,128)", (64, 128)), ("[1, 2]", [1, 2]), ("None", None),
     ("True", True), ("true", True), ("false", False), ("same", "same"), ("'10'", "10"), ("a=b", "a=b"), ("", ""),
     ("__import__('os')", "__import__('os')")],
)  # fmt: skip
def test_values_are_literals_or_text(text: str, value: object) -> None:
    parsed = ModelRef.parse(f"model.py?x={text}").arguments["x"]
    assert parsed == value
    assert type(parsed) is type(value)


def test_the_canonical_text_orders_arguments() -> None:
    ref = ModelRef.parse("./model.py:build?width=0.50&depth=20&mode=same")
    assert str(ref) == "model.py:build?depth=20&mode=same&width=0.5"


@given(
    st.sampled_from(["model.py", "a/model.py:build", "pkg.nets:build", "torchvision:resnet18", "narfx:resnet8"]),
    st.dictionaries(
        st.from_regex(r"[a-z_][a-z0-9_]{0,5}", fullmatch=True),
        st.integers() | st.booleans() | st.none() | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(codec="utf-8", exclude_characters="&"), max_size=8) | st.tuples(st.integers()),
    ),
)  # fmt: skip
def test_the_canonical_text_reads_back(head: str, arguments: dict[str, object]) -> None:
    parsed = ModelRef.parse(head)
    ref = ModelRef(parsed.kind, parsed.name, parsed.factory, arguments)
    assert ModelRef.parse(str(ref)) == ref


@pytest.mark.parametrize(
    "text", ["", "model", "model.pt", "model.py:", "pkg:", ":build", "torchvision:", "a b:c", "x.onnx"]
)
def test_other_texts_are_refused_with_the_forms(text: str) -> None:
    error = refusal(text)
    assert error.kind == "model_reference"
    assert all(form in str(error) for form in ("file.py", "package.module:factory", "torchvision:NAME"))


def test_a_bare_name_of_ours_is_recognised() -> None:
    assert "narfx:resnet20" in str(refusal("resnet20"))


@pytest.mark.parametrize("text", ["model.py?", "model.py?width", "model.py?=3", "model.py?a-b=3", "model.py?a=1&a=2"])
def test_arguments_that_are_no_pairs_are_refused(text: str) -> None:
    assert refusal(text).kind == "model_arguments"


def test_a_file_with_one_class(write: Write) -> None:
    write(NET)
    assert type(load_model("model.py")).__name__ == "Net"
    wide = load_model("model.py?width=8&num_classes=3")
    assert wide.head.weight.shape == (3, 8)  # type: ignore[union-attr]


def test_the_name_model_comes_before_classes(write: Write) -> None:
    write(NET + "class Other(Net): pass\nmodel = Other(width=2)\n")
    assert type(load_model("model.py")).__name__ == "Other"
    write(NET + "class Other(Net): pass\ndef model(width=3):\n    return Net(width)\n")
    assert load_model("model.py").head.in_features == 3  # type: ignore[union-attr]
    assert load_model("model.py?width=5").head.in_features == 5  # type: ignore[union-attr]
    write(NET + "class Other(Net): pass\nmodel = Other\n")
    assert type(load_model("model.py")).__name__ == "Other"


def test_a_name_model_that_is_none_is_passed_over(write: Write) -> None:
    write(NET + "model = {'width': 4}\n")
    assert type(load_model("model.py")).__name__ == "Net"
    write(NET + "def model(width):\n    return None\n")
    assert type(load_model("model.py")).__name__ == "Net"


def test_classes_from_elsewhere_and_classes_that_need_arguments_do_not_count(write: Write) -> None:
    write(
        """
        import abc
        from torch import nn
        from torch.nn import BatchNorm2d, Identity

        class Block(nn.Module):
            def __init__(self, channels):
                super().__init__()

        class Base(nn.Module, abc.ABC):
            @abc.abstractmethod
            def forward(self, x): ...

        class Net(nn.Sequential):
            pass

        Alias = Net
        """
    )
    assert type(load_model("model.py")).__name__ == "Net"


def test_several_classes_are_named(write: Write) -> None:
    write(NET + "class Other(Net): pass\nclass Needy(Net):\n    def __init__(self, x): ...\n")
    error = refusal("model.py")
    assert error.kind == "several_models"
    assert "model.py:Net, model.py:Other" in str(error)
    assert "Needy" not in str(error)
    assert type(load_model("model.py:Other")).__name__ == "Other"


def test_no_candidate_says_what_is_wanted(write: Write) -> None:
    write("x = 3\n")
    assert refusal("model.py").kind == "no_model"
    write("from torch import nn\nclass Net(nn.Module):\n    def __init__(self, depth, *, width): ...\n")
    error = refusal("model.py")
    assert error.kind == "no_model"
    assert "Net needs depth, width" in str(error)


def test_each_load_is_fresh(write: Write) -> None:
    write(NET + "model = Net()\n")
    first, second = load_model("model.py"), load_model("model.py")
    assert first is not second
    assert type(first) is not type(second)
    assert not torch.equal(first.conv.weight, second.conv.weight)  # type: ignore[arg-type, union-attr]


def test_a_changed_file_is_read_anew(write: Write) -> None:
    write(NET.replace("width=4", "width=5"))
    assert load_model("model.py").head.in_features == 5  # type: ignore[union-attr]
    write(NET.replace("width=4", "width=6"))
    assert load_model("model.py").head.in_features == 6  # type: ignore[union-attr]


def test_a_seed_gives_the_same_weights_and_leaves_the_generator_alone(write: Write) -> None:
    write(NET)
    before = torch.get_rng_state()
    first, again, other = (load_model("model.py", seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.conv.weight, again.conv.weight)  # type: ignore[arg-type, union-attr]
    assert not torch.equal(first.conv.weight, other.conv.weight)  # type: ignore[arg-type, union-attr]


def test_siblings_are_importable_and_the_path_is_restored(write: Write) -> None:
    write("from torch import nn\nclass Layer(nn.Linear): pass\n", "nets/layers.py")
    write("from layers import Layer\ndef model():\n    import late\n    return late.build(Layer)\n", "nets/model.py")
    write("def build(layer):\n    return layer(2, 3)\n", "nets/late.py")
    before = list(sys.path)
    assert load_model("nets/model.py").out_features == 3
    assert sys.path == before


def test_siblings_of_the_same_name_do_not_mix(write: Write) -> None:
    for size in (2, 3):
        write(f"SIZE = {size}\n", f"net{size}/settings_of_this_net.py")
        write(
            "from torch import nn\nfrom settings_of_this_net import SIZE\nmodel = nn.Linear(SIZE, 1)\n",
            f"net{size}/m.py",
        )
    sizes = [load_model(f"net{size}/m.py").in_features for size in (2, 3, 2)]
    assert sizes == [2, 3, 2]


def test_a_model_pickles_and_dataclasses_work(write: Write) -> None:
    write(
        NET
        + """
from dataclasses import dataclass

@dataclass
class Options:
    width: int = 6

def model():
    net = Net(Options().width)
    net.options = Options()
    return net
"""
    )
    model = load_model("model.py")
    assert pickle.loads(pickle.dumps(model)).options == model.options


def test_a_relative_path_is_taken_from_the_given_folder_first(write: Write, tmp_path: Path) -> None:
    write(NET.replace("width=4", "width=5"), "run/model.py")
    write(NET.replace("width=4", "width=6"), "model.py")
    write(NET.replace("width=4", "width=7"), "only_here.py")
    folder = tmp_path / "run"
    assert load_model("model.py", relative_to=folder).head.in_features == 5  # type: ignore[union-attr]
    assert load_model("model.py").head.in_features == 6  # type: ignore[union-attr]
    assert load_model("only_here.py", relative_to=folder).head.in_features == 7  # type: ignore[union-attr]
    assert load_model(str(tmp_path / "model.py"), relative_to=folder).head.in_features == 6  # type: ignore[union-attr]


def test_a_reference_is_rewritten_for_a_folder(write: Write, tmp_path: Path) -> None:
    write(NET, "nets/model.py")
    (tmp_path / "runs" / "one").mkdir(parents=True)
    folder = tmp_path / "runs" / "one"
    for text in ("nets/model.py:Net?width=3", f"{tmp_path}/nets/model.py:Net?width=3"):
        ref = ModelRef.parse(text).beside(folder)
        assert str(ref) == "../../nets/model.py:Net?width=3"
        assert load_model(ref, relative_to=folder).head.in_features == 3  # type: ignore[union-attr]
    assert str(ModelRef.parse("narfx:resnet8").beside(folder)) == "narfx:resnet8"


def test_what_a_file_prints_does_not_reach_standard_output(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write(NET + "print('loading')\n")
    load_model("model.py")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "loading\n")


def test_a_missing_file_is_named_with_the_places_looked_at(write: Write, tmp_path: Path) -> None:
    write("", "run/arch.json")
    error = refusal("nets/model.py", relative_to=tmp_path / "run")
    assert error.kind == "missing_file"
    assert all(text in str(error) for text in ("nets/model.py", str(tmp_path), str(tmp_path / "run")))
    (tmp_path / "folder.py").mkdir()
    assert refusal("folder.py").kind == "missing_file"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\ndef f(:\n", ["SyntaxError", "model.py:2"]),
        ("import os\nimport no_such_package_x\n", ["ModuleNotFoundError", "model.py:2", "install no_such_package_x"]),
        ("from torch import no_such_name\n", ["ImportError", "model.py:1", "no_such_name"]),
        ("x = 1\n\ny = x / 0\n", ["ZeroDivisionError", "model.py:3", "division by zero"]),
        ("import torch\n\ntorch.zeros(2) @ torch.zeros(3)\n", ["RuntimeError", "model.py:3"]),
        ("import sys\nsys.exit('give arguments')\n", ["SystemExit", "model.py:2", "give arguments"]),
        ("raise ValueError('two\\nlines')\n", ["ValueError", "model.py:1", "two lines"]),
        ("import helper_that_fails\n", ["KeyError", "helper_that_fails.py:2", "'x'"]),
        ("x = '\0'\n", ["SyntaxError"]),
    ],
)
def test_a_file_that_cannot_be_imported(write: Write, text: str, told: list[str]) -> None:
    write("\n{}['x']\n", "helper_that_fails.py")
    write(text)
    before = set(sys.modules)
    error = refusal("model.py")
    assert error.kind == "import_failed"
    assert all(part in str(error) for part in ["cannot import model.py", *told])
    assert error.where == next((part for part in told if ".py:" in part), "model.py")
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    ("ref", "text", "kind", "told"),
    [
        ("model.py:bild", "def build(): ...\n", "missing_factory", ["'bild'", "did you mean build?"]),
        ("model.py:Net.large", NET, "missing_factory", ["'Net.large'"]),
        ("model.py:width", "width = 3\n", "factory_not_callable", ["model.py:width is an int"]),
        ("model.py:build", "def build(a, b): ...\n", "factory_arguments", ["needs a, b:", "?a=...&b=..."]),
        ("model.py:build?width=1", "def build(depth, width): ...\n", "factory_arguments", ["needs depth:"]),
        ("model.py:build", "def build():\n    return {}['a']\n", "factory_failed", ["KeyError", "model.py:2", "'a'"]),
        ("model.py:build", "def build(): ...\n", "factory_result", ["returned None"]),
        ("model.py:build", "def build():\n    return [1]\n", "factory_result", ["returned a list"]),
        ("model.py:build?widht=1", "def build(width=2): ...\n", "model_arguments", ["'widht'", "did you mean width?"]),
        ("model.py:build?x=1", "def build(): ...\n", "model_arguments", ["'x'", "it takes none"]),
        ("model.py:net?x=1", NET + "net = Net()\n", "model_arguments", ["already built"]),
        ("model.py:build?x=1", NET + "def build(**k):\n    return Net(**k)\n", "factory_failed", ["TypeError"]),
    ],
)  # fmt: skip
def test_a_factory_that_cannot_be_used(write: Write, ref: str, text: str, kind: str, told: list[str]) -> None:
    write(text)
    error = refusal(ref)
    assert error.kind == kind
    assert all(part in str(error) for part in told)


def test_a_factory_may_be_a_module_a_class_or_a_method(write: Write) -> None:
    write(NET + "    @classmethod\n    def small(cls):\n        return cls(2)\nnet = Net(3)\n")
    widths = [load_model(f"model.py:{name}").head.in_features for name in ("Net", "Net.small", "net")]  # type: ignore[union-attr]
    assert widths == [4, 2, 3]


def test_a_module_in_the_working_directory(write: Write) -> None:
    write("", "a_package_of_the_test/__init__.py")
    write(NET + "def build(width):\n    return Net(width)\nready = Net(3)\n", "a_package_of_the_test/nets.py")
    before = list(sys.path)
    assert load_model("a_package_of_the_test.nets:build?width=9").head.in_features == 9  # type: ignore[union-attr]
    first, second = load_model("a_package_of_the_test.nets:ready"), load_model("a_package_of_the_test.nets:ready")
    assert first is not second
    assert sys.path == before
    assert refusal("a_package_of_the_test.netz:build").kind == "missing_module"
    assert "did you mean build?" in str(refusal("a_package_of_the_test.nets:buildd"))


def test_an_installed_module() -> None:
    model = load_model("narfx.models.resnet_cifar:resnet_cifar?depth=8&channels=(4,4,8)")
    assert isinstance(model, SmallResNet)


def test_a_module_that_is_missing_or_fails(write: Write) -> None:
    error = refusal("no_such_package_y.nets:build")
    assert error.kind == "missing_module"
    assert "'no_such_package_y'" in str(error)
    write("import no_such_package_z\n", "failing_module_of_the_test.py")
    error = refusal("failing_module_of_the_test:build")
    assert error.kind == "import_failed"
    assert "failing_module_of_the_test.py:1" in str(error)


def test_torchvision_models_are_built_without_weights() -> None:
    model = load_model("torchvision:resnet18?num_classes=7")
    assert model.fc.weight.shape == (7, 512)  # type: ignore[union-attr]
    assert load_model("torchvision:googlenet?num_classes=3&aux_logits=False").training
    backbone = load_model("torchvision:fcn_resnet50?num_classes=2")
    assert type(backbone).__name__ == "FCN"


@pytest.mark.parametrize("ask", ["weights=None", "pretrained=False", "weights=None&pretrained=false"])
def test_an_argument_that_asks_for_no_weights_is_taken(ask: str) -> None:
    ref = f"torchvision:squeezenet1_1?num_classes=3&{ask}"
    assert default_input(ref) == (3, 224, 224)
    assert load_model(ref)(torch.zeros(1, 3, 64, 64)).shape == (1, 3)
    assert ModelRef.parse(str(ModelRef.parse(ref))) == ModelRef.parse(ref)


@pytest.mark.parametrize(
    ("ref", "kind", "told"),
    [
        ("torchvision:resnet81", "unknown_model", ["'resnet81'", "resnet18"]),
        ("torchvision:zzzzzz", "unknown_model", ["it has alexnet"]),
        ("narfx:resnet21", "unknown_model", ["resnet20"]),
        ("narfx:zzz", "unknown_model", ["it has resnet8", "resnet_digits"]),
        ("torchvision:resnet18?weights=DEFAULT", "model_arguments", ["weights", "downloads nothing"]),
        ("torchvision:resnet18?pretrained=True", "model_arguments", ["pretrained"]),
        ("torchvision:fcn_resnet50?weights_backbone=DEFAULT", "model_arguments", ["weights_backbone"]),
        ("torchvision:resnet18?num_clases=3", "factory_failed", ["TypeError", "'num_clases'"]),
        ("narfx:resnet20?num_clases=3", "model_arguments", ["did you mean num_classes?"]),
        ("narfx:resnet_cifar?depth=19", "model_arguments", ["6n + 2"]),
    ],
)
def test_what_a_collection_does_not_have(ref: str, kind: str, told: list[str]) -> None:
    error = refusal(ref)
    assert error.kind == kind
    assert all(part in str(error) for part in told)


def test_a_timm_network_loads_and_traces() -> None:
    pytest.importorskip("timm", reason="timm is an extra")
    model = load_model("timm:resnet10t", seed=0).eval()
    traced = narfx.trace(model, input=(3, 64, 64))
    assert len(traced.space) == 10
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(narfx.Supernet(traced).eval()(x), model(x))


def test_timm_is_used_where_it_is_installed() -> None:
    pytest.importorskip("timm", reason="timm is an extra")
    assert load_model("timm:resnet18?num_classes=3").fc.out_features == 3  # type: ignore[union-attr]
    assert default_input("timm:resnet18") == (3, 224, 224)
    assert refusal("timm:resnet81").kind == "unknown_model"
    assert refusal("timm:resnet18?pretrained=True").kind == "model_arguments"


def python(program: str, folder: Path) -> str:
    """What a program prints that runs with ``folder`` before the installed packages."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


LOAD = """
from narfx.errors import UsageError
from narfx.inputs.model_ref import load_model
for ref in {refs!r}:
    for _ in range(2):
        try:
            load_model(ref)
        except UsageError as error:
            print(error.kind, error)
"""


def test_an_absent_or_unfit_package_is_answered_with_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "timm.py").write_text("raise ModuleNotFoundError(\"No module named 'timm'\", name='timm')\n")
    package = tmp_path / "torchvision"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')\n")
    (tmp_path / "uses_it.py").write_text("import torchvision\n")
    refs = ["torchvision:resnet18", str(tmp_path / "uses_it.py"), "timm:resnet18"]
    lines = python(LOAD.format(refs=refs), tmp_path).splitlines()
    assert [line.split()[0] for line in lines] == ["torch_torchvision_mismatch"] * 4 + ["missing_package"] * 2
    assert all("pip install --upgrade torch torchvision" in line and "torch 2." in line for line in lines[:4])
    assert all("pip install timm" in line for line in lines[4:])


def test_importing_narfx_does_not_import_the_collections(tmp_path: Path) -> None:
    program = "import sys, narfx.inputs.model_ref; print(sorted({'torchvision', 'timm', 'sklearn'} & set(sys.modules)))"
    assert python(program, tmp_path) == "[]\n"


@pytest.mark.parametrize(
    ("ref", "shape"),
    [
        ("torchvision:resnet18", (3, 224, 224)),
        ("torchvision:inception_v3", (3, 299, 299)),
        ("torchvision:quantized_resnet18", (3, 224, 224)),
        ("torchvision:fcn_resnet50", None),
        ("narfx:resnet20", (3, 32, 32)),
        ("narfx:resnet_digits", (1, 8, 8)),
        ("narfx:resnet20?in_channels=1", (1, 32, 32)),
        ("some.package:build", None),
    ],
)
def test_default_input(ref: str, shape: tuple[int, int, int] | None) -> None:
    assert default_input(ref) == shape


@pytest.mark.parametrize(
    ("line", "shape"),
    [("INPUT_SHAPE = (1, 8, 8)", (1, 8, 8)), ("INPUT_SHAPE: tuple[int, ...] = (3, 32, 16)", (3, 32, 16)),
     ("INPUT_SHAPE = (8, 8)", None), ("INPUT_SHAPE = (1, 8, -8)", None), ("INPUT_SHAPE = (1, 8.0, 8)", None),
     ("INPUT_SHAPE = make()", None), ("", None), ("def broken(:", None)],
)  # fmt: skip
def test_a_file_states_its_input_without_being_run(write: Write, line: str, shape: tuple[int, int, int] | None) -> None:
    write(f"{line}\nraise RuntimeError('was run')\n")
    assert default_input("model.py") == shape


def test_default_input_of_what_is_not_there(write: Write) -> None:
    assert default_input("model.py") is None
    with pytest.raises(UsageError, match="resnet18"):
        default_input("torchvision:resnet81")
