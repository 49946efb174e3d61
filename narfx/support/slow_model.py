"""What is said of a model that does not end: by the process that runs it, or by its parent.

Only the standard library is imported here, as in :mod:`narfx.support.hidden`.
"""

from __future__ import annotations

__all__ = ["MODEL_SECONDS", "TOO_SLOW", "too_slow"]

MODEL_SECONDS = "NARFX_MODEL_SECONDS"
"""The environment variable with the seconds that a step with a user's model may take; 0 is no limit."""
TOO_SLOW = "model_time"


def too_slow(seconds: str, place: str | None = None) -> str:
    """The message; ``seconds`` is the limit in words, ``place`` the line that ran when the time was over, if known."""
    at = f" (it was at {place})" if place else ""
    return (
        f"the model did not end within {seconds}{at}: look for an endless loop, or allow more time with "
        f"{MODEL_SECONDS}=SECONDS (0: no limit)"
    )
