"""Curves over steps, as PNG and SVG; the same numbers give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from narfx.errors import UsageError
from narfx.support.figures import FORMATS, render
from narfx.support.files import disk_errors, to_json, write_bytes

__all__ = ["Drawing", "Panel", "draw_panels"]

_MOST_LABELS = 8


@dataclass(frozen=True)
class Panel:
    """One axis: its label, and its lines by name, each as steps and values. ``gradual`` lines have a natural order.

    ``errors`` are standard errors of lines, by the same names, which become bands.
    """

    label: str
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]]
    gradual: bool = False
    errors: Mapping[str, Sequence[float]] = field(default_factory=dict)


class Drawing:
    """A figure and its numbers in a folder.

    Raises:
        UsageError: One of the files exists and may not be replaced, or the folder is a file.
    """

    def __init__(self, folder: Path, name: str, *, overwrite: bool) -> None:
        self._folder = folder
        self._files = {kind: folder / f"{name}.{kind}" for kind in (*FORMATS, "json")}
        if folder.exists() and not folder.is_dir():
            raise UsageError(
                f"{folder} exists and is not a folder: choose another", where=str(folder), kind="output_exists"
            )
        for path in self._files.values():
            if path.exists() and not overwrite:
                raise UsageError(
                    f"{path} exists: choose another folder or add --overwrite", where=str(path), kind="output_exists"
                )

    def write(
        self, panels: Sequence[Panel], numbers: Mapping[str, Any], over: str = "controller step"
    ) -> dict[str, str]:
        """Draw the panels below each other, ``over`` what the last one says; returns the paths by kind."""
        return self.save(draw_panels(panels, over), numbers)

    def save(self, drawn: Mapping[str, bytes], numbers: Mapping[str, Any]) -> dict[str, str]:
        """Write a figure, by format, and its numbers; returns the paths by kind."""
        content = {**drawn, "json": to_json(numbers).encode()}
        with disk_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        for kind, path in self._files.items():
            write_bytes(path, content[kind])
        return {kind: str(path) for kind, path in self._files.items()}


def draw_panels(panels: Sequence[Panel], over: str) -> dict[str, bytes]:
    """The panels below each other, by format; ``over`` is the label of the axis that they share."""
    return render(lambda figure: _draw(panels, figure, over), 7.0, 2.2 * max(len(panels), 1.5))


def _draw(panels: Sequence[Panel], figure: Any, over: str) -> None:
    import matplotlib as mpl

    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        count = len(panel.lines)
        for index, (name, (steps, values)) in enumerate(panel.lines.items()):
            colour = mpl.colormaps["viridis"](0.9 * index / max(count - 1, 1)) if panel.gradual else f"C{index % 10}"
            shown = count <= _MOST_LABELS or index in (0, count // 2, count - 1)
            axis.plot(steps, values, color=colour, linewidth=0.8, label=name if shown else None)
            if name in panel.errors:
                low, high = zip(*((v - e, v + e) for v, e in zip(values, panel.errors[name], strict=True)), strict=True)
                axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.set_ylabel(panel.label, fontsize=8)
        axis.tick_params(labelsize=8)
        axis.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axes[-1].set_xlabel(over, fontsize=8)
