"""Analyses of a finished run, from its events alone: records out, and figures where they are asked for."""

from narfx.analysis.gradient_curves import gradients
from narfx.analysis.reward_curves import rewards

__all__ = ["gradients", "rewards"]
