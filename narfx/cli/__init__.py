"""The command line."""

from narfx.cli.app import app, main

__all__ = ["app", "main"]
