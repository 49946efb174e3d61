"""Analyses of a finished run, from its events alone: records out, and figures where they are asked for."""

from narfx.analysis.gradients import gradients
from narfx.analysis.rewards import rewards

__all__ = ["gradients", "rewards"]
