"""Copies of the checkout, to be broken, and processes that run in them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
_PARTS = ("narfx", "passes", "pyproject.toml", "README.md", "LICENSE")


def copy_checkout(folder: Path) -> Path:
    """A copy of the sources, in which narfx/passes is a link as in the checkout."""
    copy = folder / "checkout"
    copy.mkdir()
    for part in (ROOT / name for name in _PARTS):
        if part.is_dir():
            shutil.copytree(part, copy / part.name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(part, copy)
    return copy


def python(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in the root of a checkout, whose narfx it imports."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=checkout,
        env=os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )


def lint_imports(checkout: Path) -> subprocess.CompletedProcess[str]:
    """Check the import contract of a checkout, as ``make lint`` does."""
    return python(checkout, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache")
