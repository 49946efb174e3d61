"""A run that is resumed although it is finished: its result is read, or it gets more epochs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from narfx.errors import UsageError
from narfx.runs.events import EVENTS, Trained, iter_events
from narfx.runs.folder import RunFolder
from narfx.runs.origin import reconfigure
from narfx.runs.progress import Reporter
from narfx.support.seals import read_sealed

__all__ = ["extend", "finished_result", "tell_trained"]


def finished_result(folder: RunFolder, name: str, reporter: Reporter, *, extends: bool = True) -> dict[str, Any] | None:
    """The result of a finished run, which its last file ``name`` holds; ``None`` where the run is not finished."""
    if not (folder.path / name).is_file():
        return None
    result = read_sealed(folder.path / name, "delete it and resume the run, which writes it again")
    cure = "; --resume --epochs N extends it" if extends else ""
    reporter.say(f"the run in {folder.path} is finished, and this is its result{cure}")
    return result


def extend(folder: RunFolder, epochs: int, results: Sequence[str]) -> None:
    """Give a run more epochs; it goes on as if it had been started with them.

    Args:
        folder: The run, finished or not.
        epochs: Its new number of epochs in all.
        results: The files that belong to the old end of the run, which are deleted: first the one that marks its end.

    Raises:
        UsageError: These are not more epochs than the run has, or another process is running in it.
    """
    if not folder.ranks.first:
        return
    with folder:
        config = folder.config()
        if epochs <= config["epochs"]:
            raise UsageError(
                f"the run in {folder.path} has --epochs {config['epochs']}, and --resume --epochs {epochs} does not "
                "extend it: give a larger number, or leave out --epochs",
                where="--epochs",
                kind="fewer_epochs",
            )
        for name in results:
            (folder.path / name).unlink(missing_ok=True)
        reconfigure(folder.path, epochs=epochs)


def tell_trained(folder: RunFolder, place: RunFolder, event: Trained) -> None:
    """Write the event of a training that is finished in ``place``, unless the run has it, and remove its checkpoints.

    A process may be killed between the metrics of a training and its event.
    """
    place.remove_checkpoints()
    told = iter_events(folder.path, Trained) if (folder.path / EVENTS).is_file() else ()
    if not any((known.name, known.seed) == (event.name, event.seed) for known in told):
        folder.write(event)
