"""The command line."""

from narfx.cli.app import main

__all__ = ["main"]
