"""The base networks that narfx brings along."""

from narfx.models.registry import MODELS, ModelEntry

__all__ = ["MODELS", "ModelEntry"]
