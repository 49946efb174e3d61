"""Data from a factory of the user's own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from small_data import refused

from narfx.tasks import load_data

FACTORY = """
import numpy as np, torch
from PIL import Image
from beside import SHADE

def mapping():
    x = np.full((6, 4, 4, 3), SHADE, dtype=np.uint8)
    return {"x_train": torch.from_numpy(x), "y_train": torch.arange(6) % 2, "x_test": x[:2], "y_test": [0, 1]}

class Items:
    classes = ["no", "yes"]
    def __init__(self, count, kind):
        self.count, self.kind = count, kind
    def __len__(self):
        return self.count
    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        array = np.full((6, 5, 3), index * 10, dtype=np.uint8)
        image = {
            "pil": lambda: Image.fromarray(array),
            "array": lambda: array,
            "grey": lambda: array[..., 0],
            "uint8": lambda: torch.from_numpy(array).permute(2, 0, 1),
            "float": lambda: torch.from_numpy(array).permute(2, 0, 1).float() / 255,
            "normalised": lambda: torch.from_numpy(array).permute(2, 0, 1).float() / 255 - 0.5,
            "double": lambda: array.astype(np.float64),
            "text": lambda: "image",
            "four": lambda: np.zeros((6, 5, 4), dtype=np.uint8),
            "broken": lambda: 1 / 0,
        }[self.kind]()
        return image, torch.tensor(index % 2)

def pil(): return Items(10, "pil"), Items(4, "pil")
def array(): return Items(10, "array"), Items(4, "array")
def grey(): return [Items(10, "grey"), None]
def uint8(): return Items(10, "uint8"), Items(4, "uint8")
def floats(): return Items(10, "float"), Items(4, "float")

def normalised(): return Items(10, "normalised"), None
def double(): return Items(10, "double"), None
def text(): return Items(10, "text"), None
def four(): return Items(10, "four"), None
def broken(): return Items(10, "broken"), None
def empty(): return Items(0, "pil"), None
def float_labels(): return [(np.zeros((4, 4), np.uint8), 0.5)] * 3, None
def negative_labels(): return [(np.zeros((4, 4), np.uint8), -1)] * 3, None
def one_data_set(): return Items(10, "pil")
def three(): return 1, 2, 3
def no_train(): return None, Items(4, "pil")
def strings(): return "train", "test"
def lacking(): return {"x_train": np.zeros((2, 4, 4), np.uint8)}
def fails(): raise KeyError("weather")
def leaves(): raise SystemExit(3)
def wants(argument): return argument
number = 3
"""


PACKAGE = """
import numpy as np
def make():
    return {"x_train": np.zeros((4, 4, 4), np.uint8), "y_train": [0, 1, 0, 1]}
"""


@pytest.fixture
def factory(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(FACTORY)
    (tmp_path / "beside.py").write_text("SHADE = 70\n")
    sys.modules.pop("beside", None)
    return tmp_path / "mine.py"


def test_factory_of_arrays_from_a_file_that_imports_its_neighbour(factory: Path) -> None:
    before = list(sys.path)
    data = load_data(f"{factory}:mapping", (3, 4, 4))
    assert (len(data.train), len(data.val), len(data.test or ())) == (4, 2, 2)
    assert int(data.train.images(torch.tensor([0]))[0, 0, 0, 0]) == 70
    assert sys.path == before


@pytest.mark.parametrize("memory", [2**30, 1])
@pytest.mark.parametrize("kind", ["pil", "array", "grey", "uint8", "floats"])
def test_factory_of_data_sets(factory: Path, kind: str, memory: int) -> None:
    data = load_data(f"{factory}:{kind}", (3, 6, 5), memory=memory)
    assert data.classes == ("no", "yes")
    assert (data.test is None) == (kind == "grey")
    for part in (data.train, data.val):
        shades = part.images(torch.arange(len(part)))[:, :, 3, 2]
        assert torch.equal(shades[:, 0] // 10 % 2, part.labels)
        assert torch.equal(shades, shades[:, :1].expand(-1, 3))
    assert len(data.train) + len(data.val) == 10


def test_factory_of_an_importable_package(factory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = factory.parent / "narfx_test_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "sets.py").write_text(PACKAGE)
    monkeypatch.chdir(factory.parent)
    assert len(load_data("narfx_test_package.sets:make", (1, 4, 4)).train) == 2


@pytest.mark.parametrize(
    ("name", "kind", "told"),
    [
        ("nothing_here", "missing_factory", r"has no 'nothing_here'"),
        ("number", "factory_not_callable", "cannot be called"),
        ("fails", "factory_failed", r"KeyError at .*mine\.py:\d+: 'weather'"),
        ("leaves", "factory_failed", r"SystemExit at .*mine\.py:\d+: 3"),
        ("wants", "factory_failed", "TypeError"),
        ("one_data_set", "factory_result", "a Items"),
        ("three", "factory_result", "3 things"),
        ("no_train", "factory_result", "train part is None"),
        ("strings", "factory_result", "a str"),
        ("lacking", "missing_key", "y_train is missing"),
        ("empty", "empty_data", "has no images"),
        ("normalised", "bad_item", "leave out Normalize"),
        ("double", "bad_item", "float64"),
        ("text", "bad_item", "not str"),
        ("four", "channels", "4 channels"),
        ("broken", "bad_item", "ZeroDivisionError"),
        ("float_labels", "bad_item", "0.5"),
        ("negative_labels", "bad_item", "-1"),
    ],
)
def test_factory_refusals(factory: Path, name: str, kind: str, told: str) -> None:
    error = refused(f"{factory}:{name}", (3, 6, 5))
    assert error.kind == kind
    assert re.search(told, str(error))


def test_factory_import_refusals(tmp_path: Path) -> None:
    assert refused(f"{tmp_path}/none.py:make").kind == "missing_data"
    (tmp_path / "bad.py").write_text("def make(:\n")
    error = refused(f"{tmp_path}/bad.py:make")
    assert error.kind == "import_failed" and "SyntaxError" in str(error)
    (tmp_path / "raises.py").write_text("raise RuntimeError('two\\nlines')\n")
    assert re.search(r"RuntimeError at .*raises\.py:1: two lines$", str(refused(f"{tmp_path}/raises.py:make")))
    error = refused("no_such_package_of_narfx.data:make")
    assert error.kind == "missing_module" and "no_such_package_of_narfx" in str(error)
    assert "raises.py:factory" in str(refused(tmp_path / "raises.py"))
