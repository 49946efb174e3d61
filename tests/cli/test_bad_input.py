"""What a user can hand over that the compiler must answer in one sentence, with its exit code and reason code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import RunJson, in_process_json

HEAD = "import torch\nfrom torch import nn\n\nINPUT_SHAPE = (3, 16, 16)\n\n\n"

MODELS = {
    "no_convolution": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.head = nn.Linear(3, 4)

            def forward(self, x):
                return self.head(x.mean((2, 3)))
        """,
    "only_depthwise": """
        class Net(nn.Sequential):
            def __init__(self):
                super().__init__(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))
        """,
    "several_inputs": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.one, self.two = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

            def forward(self, x, mask):
                return self.two(self.one(x * mask))
        """,
    "on_a_gpu": """
        def model():
            return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)).to("cuda:7")
        """,
    "integer_weights": """
        def model():
            net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))
            for conv in net:
                for name, value in list(conv.named_parameters()):
                    setattr(conv, name, nn.Parameter(torch.ones(value.shape, dtype=torch.int8), requires_grad=False))
            return net
        """,
    "small_input": """
        def model():
            return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.MaxPool2d(32))
        """,
    "control_flow": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3))

            def forward(self, x):
                if x.sum() > 0:
                    return self.body(x)
                return x
        """,
    "names_of_fx": """
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.graph, self.conv = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)

            def forward(self, x):
                return self.conv(self.graph(x))
        """,
}

ANSWERS = [
    ("no_convolution", [], 3, "nothing_to_refine", "it contains no convolution"),
    ("only_depthwise", [], 3, "nothing_to_refine", "1: it is depthwise already"),
    ("several_inputs", [], 2, "inputs", "takes 2 required inputs (x, mask)"),
    ("on_a_gpu", [], 2, "no_device", "net.py:model"),
    ("integer_weights", [], 2, "weights_not_float", "int8"),
    ("small_input", [], 2, "input_shape", "does not accept an input of 3,16,16"),
    ("small_input", ["--input", "1,64,64"], 2, "input_shape", "does not accept an input of 1,64,64"),
    ("control_flow", [], 2, "untraceable", "MODEL#body"),
    ("names_of_fx", [], 2, "name_clash", "has a part named graph"),
    ("no_convolution", ["--device", "cuda:7"], 2, "no_device", "cuda:7"),
]


@pytest.fixture
def narfx(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> RunJson:
    """The command with ``--json``, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return in_process_json(capfd)


def written(folder: Path, name: str) -> Path:
    path = folder / "net.py"
    lines = MODELS[name].strip("\n").splitlines()
    indent = len(lines[0]) - len(lines[0].lstrip())
    path.write_text(HEAD + "\n".join(line[indent:] for line in lines).rstrip() + "\n")
    return path


@pytest.mark.parametrize(("name", "options", "code", "kind", "said"), ANSWERS)
def test_each_has_one_sentence_and_a_reason_code(
    narfx: RunJson, tmp_path: Path, name: str, options: list[str], code: int, kind: str, said: str
) -> None:
    written(tmp_path, name)
    got, answer, stderr = narfx("trace", "net.py", *options)
    assert "Traceback" not in stderr
    assert (got, answer["error"]["code"], answer["error"]["kind"]) == (code, code, kind), answer
    assert said in answer["error"]["message"], answer
    assert "\n" not in answer["error"]["message"]


def test_a_name_of_narfx_is_no_name_that_clashes(narfx: RunJson, tmp_path: Path) -> None:
    """A model may call its parts as narfx calls those that it inserts."""
    (tmp_path / "net.py").write_text(
        HEAD
        + "class Net(nn.Module):\n"
        + "    def __init__(self):\n        super().__init__()\n"
        + "        self.candidates, self.base, self.dwsep3x3 = (nn.Conv2d(c, 8, 3, padding=1) for c in (3, 8, 8))\n"
        + "        self.chosen, self.selection, self.slot = nn.ReLU(), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3)\n\n"
        + "    def forward(self, x):\n"
        + "        x = self.selection(self.chosen(self.base(self.candidates(x))))\n"
        + "        return self.slot(self.dwsep3x3(x)).mean((2, 3))\n"
    )
    (tmp_path / "arch.json").write_text(json.dumps({"model": "net.py", "vector": [1, 2, 0]}))
    got, answer, stderr = narfx("apply", "arch.json", "--out", "out")
    assert got == 0, (answer, stderr)
    assert answer["parity"]["passed"]


def test_a_part_that_is_not_there_is_named(narfx: RunJson, tmp_path: Path) -> None:
    written(tmp_path, "control_flow")
    got, answer, _ = narfx("trace", "net.py#boddy")
    assert (got, answer["error"]["kind"]) == (2, "unknown_part")
    assert "parts are body" in answer["error"]["message"]


def test_a_part_is_refined_for_itself(narfx: RunJson, tmp_path: Path) -> None:
    """From the trace to the proof, where the whole model cannot be traced."""
    written(tmp_path, "control_flow")
    got, traced, _ = narfx("trace", "net.py#body")
    assert (got, [site["name"] for site in traced["sites"]]) == (0, ["1"])
    (tmp_path / "arch.json").write_text(json.dumps({"model": "net.py#body", "vector": [1]}))
    assert narfx("apply", "arch.json", "--out", "out")[0] == 0
    assert json.loads((tmp_path / "out" / "arch.json").read_text())["model"].endswith("net.py#body")
    assert narfx("check", "out")[0] == 0
