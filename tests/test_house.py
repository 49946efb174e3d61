"""How the packages of narfx hang together: which room imports from which, and under which names."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import grimp
import networkx as nx
from checkout import ROOT, copy_checkout, lint_imports

import narfx

TEST_FOLDERS = {"paper", "properties", "tools"}
"""The folders of tests that are no room."""


def rooms() -> list[str]:
    """The rooms as the import contract lists them, from the bottom to the top."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return list(reversed(layers))


def test_the_import_contract_holds() -> None:
    done = lint_imports(ROOT)
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_imports_that_go_up_and_torch_in_the_room_of_the_space_break_the_contract(tmp_path: Path) -> None:
    """By module, by package, and inside a function; the contract follows the link narfx/passes."""
    wrong = {
        "narfx/graph/nodes.py": ("import narfx.search", "narfx.graph is not allowed to import narfx.search"),
        "narfx/graph/cost.py": ("from narfx import verbs", "narfx.graph is not allowed to import narfx.verbs"),
        "narfx/graph/tracer.py": (
            "def f() -> None:\n    from narfx.compiler.open import open_base",
            "narfx.graph is not allowed to import narfx.compiler",
        ),
        "passes/blocks.py": ("import narfx.tasks", "narfx.passes is not allowed to import narfx.tasks"),
        "narfx/space/budget.py": ("import torch", "narfx.space is not allowed to import torch"),
    }
    copy = copy_checkout(tmp_path)
    for name, (line, _) in wrong.items():
        with (copy / name).open("a") as file:
            file.write(f"\n{line}\n")
    done = lint_imports(copy)
    assert done.returncode == 1
    for _, said in wrong.values():
        assert said in done.stdout


def test_a_room_that_the_contract_does_not_know_breaks_it(tmp_path: Path) -> None:
    copy = copy_checkout(tmp_path)
    (copy / "narfx" / "cellar").mkdir()
    (copy / "narfx" / "cellar" / "__init__.py").touch()
    done = lint_imports(copy)
    assert done.returncode == 1
    assert "cellar" in done.stdout


def test_no_module_imports_in_a_circle() -> None:
    """Inside a room too, and by imports inside functions too."""
    graph = grimp.build_graph("narfx", exclude_type_checking_imports=True, cache_dir=None)
    imports = nx.DiGraph(
        (one, other) for one in graph.modules for other in graph.find_modules_directly_imported_by(one)
    )
    assert "narfx.passes.base" in imports
    assert [sorted(circle) for circle in nx.strongly_connected_components(imports) if len(circle) > 1] == []


def imports_in_functions() -> Iterator[tuple[str, str]]:
    """The file and the text of each import of narfx that stands inside a function."""
    for file in sorted([*(ROOT / "narfx").rglob("*.py"), *(ROOT / "passes").rglob("*.py")]):
        tree = ast.parse(file.read_text())
        functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
        for node in {node for function in functions for node in ast.walk(function)}:
            if isinstance(node, (ast.Import, ast.ImportFrom)) and "narfx" in ast.unparse(node):
                yield file.relative_to(ROOT).as_posix(), ast.unparse(node)


def test_only_the_command_line_imports_inside_functions() -> None:
    """The command line imports a verb when it is called; elsewhere such an import only hides a circle."""
    assert [found for found in imports_in_functions() if not found[0].startswith("narfx/cli/")] == []


def packages() -> Iterator[ModuleType]:
    yield narfx
    for found in pkgutil.walk_packages(narfx.__path__, "narfx."):
        if found.ispkg:
            yield importlib.import_module(found.name)


def test_no_module_is_shadowed_by_a_name_of_its_package() -> None:
    """``import narfx.passes.sites`` binds a name in the package, which a function of that name would overwrite."""
    seen = 0
    for package in packages():
        for module in pkgutil.iter_modules(package.__path__):
            if module.name != "__main__":
                whole = importlib.import_module(f"{package.__name__}.{module.name}")
                assert getattr(package, module.name) is whole
                seen += 1
    assert seen > 100


def test_the_page_of_the_rooms_has_exactly_these_in_this_order() -> None:
    page = (ROOT / "docs" / "rooms.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    drawing = page.split("```")[1]
    assert rows == rooms()[::-1]
    assert set(rows) <= set(re.findall(r"\w+", drawing))


def test_every_room_has_its_folder_of_tests() -> None:
    """The room ``errors`` is one module without logic; its exit codes are tested with the command line."""
    folders = {file.parent.name for file in (ROOT / "tests").glob("*/*.py")}
    assert folders == {*rooms(), *TEST_FOLDERS} - {"errors"}
