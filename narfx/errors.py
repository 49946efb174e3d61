"""The errors a user can cause, one class for each exit code of the command line.

A message is one or two sentences: what is wrong, where, and how to fix it. ``kind`` is a short, stable reason code for
programs. ``where`` names the file, the site or the slot. ``details`` holds further plain values for programs, for
example the reason code of every convolution that is not a site.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "InfeasibleBudgetError",
    "InterruptedRunError",
    "LostRankError",
    "NarfxError",
    "NothingToRefineError",
    "ParityError",
    "RunError",
    "UsageError",
]


class NarfxError(Exception):
    """Base class of every error that narfx raises on purpose (exit code 1 if no subclass fits)."""

    exit_code = 1
    default_kind = "internal"

    def __init__(
        self,
        message: str,
        *,
        where: str | None = None,
        kind: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.details = dict(details or {})
        self.where = where
        self.kind = kind or self.default_kind


class UsageError(NarfxError):
    """A wrong argument, file or configuration (exit code 2)."""

    exit_code = 2
    default_kind = "usage"


class NothingToRefineError(NarfxError):
    """No site of the model can be refined, or a trace is partial but ``--strict`` was given (exit code 3)."""

    exit_code = 3
    default_kind = "nothing_to_refine"


class InfeasibleBudgetError(NarfxError):
    """No legal vector meets the budget (exit code 4)."""

    exit_code = 4
    default_kind = "infeasible_budget"


class ParityError(NarfxError):
    """A traced or exported network does not compute the same values as its source (exit code 5)."""

    exit_code = 5
    default_kind = "parity"


class RunError(NarfxError):
    """A run had to stop; its last good state is kept (exit code 7)."""

    exit_code = 7
    default_kind = "run_failed"


class LostRankError(RunError):
    """Another rank of the run has ended, with this exit code; ``kind`` says why."""

    def __init__(self, message: str, *, code: int = 7, kind: str | None = None, where: str | None = None) -> None:
        super().__init__(message, where=where, kind=kind)
        self.exit_code = code


class InterruptedRunError(NarfxError):
    """A run was interrupted: exit code 75 if a checkpoint can resume it, 130 if there is none."""

    default_kind = "interrupted"

    def __init__(self, message: str, *, resumable: bool, where: str | None = None) -> None:
        super().__init__(message, where=where)
        self.exit_code = 75 if resumable else 130
