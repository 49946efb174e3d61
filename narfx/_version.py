"""The version of narfx."""

__version__ = "0.1.0"
