"""What ``import narfx`` gives, where it comes from, and what it leaves alone."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys
from importlib.resources import files
from types import ModuleType

import pytest

import narfx
import narfx.passes

HOMES = {
    "Architecture": "narfx.space.architecture",
    "NarfxError": "narfx.errors",
    "Operator": "narfx.operators.record",
    "SearchSpace": "narfx.space.space",
    "Supernet": "narfx.compiler.supernet",
    "Traced": "narfx.compiler.traced",
    "apply": "narfx.bundle.bundle",
    "check": "narfx.bundle.bundle",
    "export": "narfx.bundle.bundle",
    "lower": "narfx.compiler.lowering",
    "register_operator": "narfx.operators.registry",
    "trace": "narfx.compiler.front_end",
}


def test_the_public_names() -> None:
    assert set(narfx.__all__) == {*HOMES, "__version__", "search"}
    assert narfx.__all__ == sorted(narfx.__all__)
    assert set(narfx.__all__) <= set(dir(narfx))
    for name in narfx.__all__:
        getattr(narfx, name)  # a name is imported on first use
    public = {name for name, value in vars(narfx).items() if name[0] != "_" and not isinstance(value, ModuleType)}
    assert public == set(HOMES)


@pytest.mark.parametrize("name", sorted(HOMES))
def test_a_public_name_says_its_module_and_what_it_is(name: str) -> None:
    value = getattr(narfx, name)
    assert value.__module__ == HOMES[name]
    assert getattr(importlib.import_module(HOMES[name]), name) is value
    assert len(inspect.getdoc(value) or "") > 40


@pytest.mark.parametrize("name", ["narfx", "narfx.search", "narfx.passes", *sorted(set(HOMES.values()))])
def test_every_name_of_a_module_exists(name: str) -> None:
    module = importlib.import_module(name)
    assert all(hasattr(module, entry) for entry in module.__all__)
    assert inspect.getdoc(module)


def test_no_module_is_shadowed_by_a_function_of_its_name() -> None:
    assert isinstance(narfx.search, ModuleType)
    for name in HOMES:
        if name.islower():
            with pytest.raises(ModuleNotFoundError):
                importlib.import_module(f"narfx.{name}")


def test_passes_have_one_name() -> None:
    assert all(getattr(narfx.passes, name).__module__.startswith("narfx.passes.") for name in narfx.passes.__all__)
    assert "passes" not in sys.modules


def test_types_ship_with_the_package() -> None:
    assert files("narfx").joinpath("py.typed").is_file()


def test_the_version_is_that_of_the_distribution() -> None:
    from importlib.metadata import version

    assert version("narfx") == narfx.__version__


@pytest.mark.parametrize(
    ("code", "also"),
    [
        ("import narfx; narfx.NarfxError; narfx.__version__; dir(narfx)", ["torch", "numpy", "pydantic"]),
        ("from narfx import Architecture, SearchSpace", ["torch"]),
        (
            "import narfx; narfx.trace, narfx.apply, narfx.search.strategy_names()\n"
            "from narfx import *; trace, Operator, search.run",
            [],
        ),
    ],
)
def test_an_import_is_quick(code: str, also: list[str]) -> None:
    """What takes seconds to import is imported where it is used."""
    heavy = ["torchvision", "timm", "onnx", "onnxruntime", "onnxscript", "sklearn", "matplotlib", "pandas", *also]
    code = f"import sys; {code}; print(sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_name_that_does_not_exist_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'narfx' has no attribute 'nothing'"):
        _ = narfx.nothing  # type: ignore[attr-defined]
    with pytest.raises(ImportError, match="cannot import name 'nothing'"):
        exec("from narfx import nothing")
