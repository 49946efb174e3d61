"""One HTML file that shows a run: from its files alone, without running any code that they name."""

from narfx.report.write import report

__all__ = ["report"]
