"""``narfx report``: one HTML file about a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from narfx.errors import UsageError
from narfx.report.compare_page import compare_page
from narfx.report.page import as_html
from narfx.report.parts import Page
from narfx.report.reading import RunFiles, read_run
from narfx.report.search_page import search_page
from narfx.report.solve_page import solve_page
from narfx.report.train_page import train_page
from narfx.runs.tensorboard import check_tensorboard, write_tensorboard
from narfx.support.files import check_writable, disk_errors, write_text

__all__ = ["report"]

_PAGES: dict[str, Callable[[RunFiles], Page]] = {
    "search": search_page, "train": train_page, "compare": compare_page, "solve": solve_page
}  # fmt: skip
_NAME = "report.html"


def report(
    run: Path | str, out: Path | str | None = None, *, overwrite: bool = False, tensorboard: bool = False
) -> dict[str, Any]:
    """Write a report about a run of ``search``, ``train`` or ``compare``, or about what ``solve`` answered.

    The file needs no network and loads nothing. Only files of the run are read; no code that they name is run. A run
    that is not finished, or is damaged in part, is shown as far as it can be read, and the report says so.

    Args:
        run: The run directory.
        out: The HTML file; ``report.html`` in the run without it.
        overwrite: Whether it may replace a file.
        tensorboard: Whether the folder ``tensorboard`` in the run gets the scalars of the run as well.

    Returns:
        ``{"run", "kind", "finished", "verdict", "warnings", "bytes", "files": {"report", ...}}``; ``warnings`` are what
        could not be read.

    Raises:
        UsageError: There is no run, or ``out`` exists, or cannot be written, or ``tensorboard`` is asked for and is
            not installed.
    """
    check_tensorboard(tensorboard)
    run = Path(run)
    place = run / _NAME if out is None else Path(out)
    found = read_run(run)
    _check_place(place, overwrite)
    page = _PAGES[found.kind](found)
    content = as_html(page)
    write_text(place, content)
    files = {"report": str(place)}
    if tensorboard:
        files["tensorboard"] = str(write_tensorboard(run))
    return {
        "run": str(run),
        "kind": found.kind,
        "finished": found.result is not None,
        "verdict": "\n".join(verdict.text for verdict in page.verdicts),
        "warnings": list(page.warnings),
        "bytes": len(content.encode()),
        "files": files,
    }


def _check_place(place: Path, overwrite: bool) -> None:
    check_writable(place)
    with disk_errors(place):
        exists = place.exists()
        has_folder = place.parent.is_dir()
    if place.suffix.lower() not in (".html", ".htm"):
        raise UsageError(
            f"{place} would hold HTML: give --out a name that ends in .html", where=str(place), kind="not_html"
        )
    if exists and not overwrite:
        raise UsageError(
            f"{place} exists: choose another name with --out, or add --overwrite",
            where=str(place),
            kind="output_exists",
        )
    if not has_folder:
        raise UsageError(
            f"there is no folder {place.parent} to write {place.name} into: make it, or choose another with --out",
            where=str(place),
            kind="missing_folder",
        )
