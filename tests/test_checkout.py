"""What a checkout without symbolic links, the import of ``passes`` and a built wheel give a user."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from checkout import ROOT, copy_checkout, python


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copy_checkout(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def without_links(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As git writes a checkout with ``core.symlinks false``: the target of the link is the text of a file."""
    copy = copy_checkout(tmp_path_factory.mktemp("without_links"))
    link = copy / "narfx" / "passes"
    target = link.readlink().as_posix()
    link.unlink()
    link.write_text(target)
    return copy


def test_without_symbolic_links_an_import_says_what_to_do(without_links: Path) -> None:
    done = python(without_links, "-c", "import narfx")
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ImportError: narfx/passes is not a folder")
    assert "git config core.symlinks true" in last
    assert "ModuleNotFoundError" not in done.stderr


@pytest.mark.parametrize("start", [("-m", "narfx"), ("narfx",)], ids=["module", "script"])
def test_without_symbolic_links_the_command_says_what_to_do(without_links: Path, start: tuple[str, ...]) -> None:
    script = without_links / "narfx-script" / "narfx"
    script.parent.mkdir(exist_ok=True)
    script.write_text("from narfx.cli import main\n\nmain()\n")  # as pip writes it
    command = start if start[0] == "-m" else (str(script),)
    done = python(without_links, *command, "trace", "narfx:resnet20")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("narfx: narfx/passes is not a folder")
    assert len(done.stderr.splitlines()) == 1
    answered = python(without_links, *command, "trace", "narfx:resnet20", "--json")
    error = json.loads(answered.stdout)["error"]
    assert (error["code"], error["kind"], error["where"]) == (2, "broken_checkout", "narfx/passes")
    assert answered.stderr == f"narfx: {error['message']}\n"


def test_without_symbolic_links_a_wheel_does_not_import_either(without_links: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel(without_links)) as archive:
        archive.extractall(tmp_path)
    done = python(tmp_path, "-c", "import narfx")
    assert done.stderr.splitlines()[-1].startswith("ImportError: narfx/passes is not a folder")


def test_a_copy_of_the_folder_takes_the_place_of_the_link(without_links: Path, tmp_path: Path) -> None:
    """The second cure that the message names."""
    copy = copy_checkout(tmp_path)
    (copy / "narfx" / "passes").unlink()
    (copy / "passes").rename(copy / "narfx" / "passes")
    done = python(copy, "-c", "import narfx.passes; print(narfx.passes.Pass.__module__)")
    assert (done.returncode, done.stdout) == (0, "narfx.passes.base\n"), done.stderr


@pytest.mark.parametrize("statement", ["import passes", "from passes.base import Pass", "import narfx, passes"])
def test_passes_are_imported_by_one_name_only(checkout: Path, statement: str) -> None:
    done = python(checkout, "-c", statement)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "ImportError: import narfx.passes, not passes: the folder passes/ is the package narfx.passes"
    )


def wheel(checkout: Path) -> Path:
    code = "from setuptools.build_meta import build_wheel; build_wheel('wheels')"
    done = python(checkout, "-c", code)
    assert done.returncode == 0, done.stderr
    (built,) = (checkout / "wheels").glob("*.whl")
    return built


def test_the_wheel_has_every_module_and_no_test(checkout: Path) -> None:
    with zipfile.ZipFile(wheel(checkout)) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    own = {file.relative_to(ROOT).as_posix() for file in (ROOT / "narfx").rglob("*.py")}
    passes = {f"narfx/{file.relative_to(ROOT).as_posix()}" for file in (ROOT / "passes").rglob("*.py")}
    assert len(passes) > 10
    page = {f"narfx/report/templates/page.{kind}" for kind in ("html", "css", "js")}
    assert packed == own | passes | page | {"narfx/py.typed"}
