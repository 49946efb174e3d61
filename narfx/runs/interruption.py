"""Ctrl-C and full memory in a run, as errors that say how to go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from narfx.errors import InterruptedRunError, LostRankError, RunError
from narfx.runs.folder import RunFolder
from narfx.support.devices import is_out_of_memory
from narfx.support.joining import naming_the_lost

__all__ = ["interruptible"]


@contextmanager
def interruptible(folder: RunFolder, *, resumable: bool = False) -> Iterator[None]:
    """Turn Ctrl-C, a lost rank, and what a machine runs out of, into the error that says how to go on.

    ``resumable`` says that the folder can be resumed without a checkpoint of its own.
    """
    resume = f"the run in {folder.out} resumes with --resume --out {folder.out}"

    def kept() -> bool:
        return not folder.staged and (resumable or folder.has_checkpoint)

    try:
        with naming_the_lost(lambda: resume if kept() else "there is no checkpoint yet"):
            yield
    except LostRankError:
        raise
    except KeyboardInterrupt as error:
        raise InterruptedRunError(
            f"interrupted; {resume}" if kept() else f"interrupted before the first checkpoint of {folder.out}",
            resumable=kept(),
            where=str(folder.out),
        ) from error
    except RunError as error:
        if not folder.ranks.first:  # rank 0 says what is kept
            raise
        left = "the last checkpoint is kept" if kept() else "there is no checkpoint yet"
        raise RunError(f"{error}; {left}", where=error.where, kind=error.kind, details=error.details) from error
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        if not folder.ranks.first:
            raise RunError("out of memory: use a smaller batch", kind="out_of_memory") from error
        left = resume if kept() else "there is no checkpoint yet"
        raise RunError(
            f"out of memory: use a smaller batch; {left}", where=str(folder.out), kind="out_of_memory"
        ) from error
