"""The size of the images without --input: stated by the model's origin or the images' own, never enlarged, or asked."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import nn

import narfx
from narfx.errors import UsageError
from narfx.inputs.image_size import Images, choose_input, input_of_module
from narfx.inputs.model_ref import load_model

OWN = """
from torch import nn


def make():
    return nn.Sequential(nn.Conv2d({channels}, 4, 3), nn.Conv2d(4, 4, 3), nn.Flatten())
"""


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(OWN.format(channels=3))
    Path("stated.py").write_text("INPUT_SHAPE = (1, 16, 16)\n" + OWN.format(channels=1))
    Path("package").mkdir()
    Path("package/__init__.py").touch()
    Path("package/stated.py").write_text("INPUT_SHAPE = (1, 16, 16)\n" + OWN.format(channels=1))


def chosen(reference: str, *sizes: tuple[int, int], channels: int = 1) -> tuple[tuple[int, int, int], str | None]:
    images = Images("set", channels, tuple(sorted(sizes))) if sizes else None
    return choose_input(reference, load_model(reference), images)


@pytest.mark.parametrize(
    ("reference", "sizes", "shape", "said"),
    [
        # Without images, and with images that are larger: what the origin states.
        ("stated.py:make", [], (1, 16, 16), None),
        ("stated.py:make", [(16, 16)], (1, 16, 16), "stated.py:make states it"),
        ("package.stated:make", [(20, 16), (40, 90)], (1, 16, 16), "package.stated:make states it"),
        ("narfx:lresnet10e_ir?size=16", [(250, 250)], (3, 16, 16), "states it"),
        ("torchvision:efficientnet_b1", [], (3, 240, 240), None),
        # Images that are smaller, or nothing stated: their own size, and the channels that the model takes.
        ("stated.py:make", [(8, 90)], (1, 8, 90), "the size of the images, smaller than the 1x16x16 that"),
        ("torchvision:squeezenet1_1", [(32, 32)], (3, 32, 32), "the size of the images, smaller than the 3x224x224"),
        ("own.py:make", [(9, 7)], (3, 9, 7), "input 3x9x7: the size of the images"),
    ],
)
def test_a_size_that_can_be_known(
    reference: str, sizes: list[tuple[int, int]], shape: tuple[int, int, int], said: str | None
) -> None:
    found, sentence = chosen(reference, *sizes)
    assert found == shape
    assert sentence is None if said is None else sentence is not None and said in sentence


@pytest.mark.parametrize(
    ("reference", "sizes", "kind", "said"),
    [
        ("own.py:make", [], "unknown_input", r"own.py:make does not state it: give it with --input"),
        ("torchvision:squeezenet1_1#features.3", [], "unknown_input", "does not state it"),
        ("own.py:make", [(9, 7), (8, 20)], "several_sizes", r"\(8x20 to 9x7\) and own.py:make states none: .* 3,7,7"),
        ("stated.py:make", [(9, 7), (90, 70)], "several_sizes", "states 1x16x16, for which some are too small: give"),
        ("narfx:lresnet10e_ir?size=16", [(8, 8)], "small_images", "add --input 3,16,16 to enlarge them"),
    ],
)
def test_a_size_that_is_asked_for(reference: str, sizes: list[tuple[int, int]], kind: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        chosen(reference, *sizes)
    assert (caught.value.kind, caught.value.where, caught.value.exit_code) == (kind, "--input", 2)


@pytest.mark.parametrize(
    ("name", "value", "shape"),
    [
        ("input_shape", (3, 8, 8), (3, 8, 8)),
        ("input_size", [3, 8, 9], (3, 8, 9)),
        ("input_size", 224, None),
        ("default_cfg", {"input_size": (3, 8, 8)}, (3, 8, 8)),
        ("pretrained_cfg", SimpleNamespace(input_size=(3, 8, 8)), (3, 8, 8)),
    ],
)
def test_what_a_module_states_itself(name: str, value: Any, shape: tuple[int, int, int] | None) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1))
    setattr(model, name, value)
    assert input_of_module(model) == shape
    if shape is not None:
        assert narfx.trace(model).input == shape
    else:
        with pytest.raises(UsageError, match=r"give input=\(channels, height, width\)"):
            narfx.trace(model)
