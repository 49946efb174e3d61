"""How every training begins: the architecture that a user names, and a run directory that holds its own copy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import fx

from narfx.graph.digest import network_digest
from narfx.inputs.paths import find, named_digests, named_paths, relocated
from narfx.inputs.reference import is_file_name
from narfx.runs.folder import RunFolder
from narfx.space.architecture import Architecture
from narfx.support.folders import check_output, check_replaceable
from narfx.support.ranks import Ranks
from narfx.support.seals import digest
from narfx.tasks.task import Task
from narfx.training.about import ABOUT
from narfx.training.start import TrainingOptions

__all__ = ["SEEN", "Placed", "check_out", "create_run", "open_target", "reads_of"]

SEEN = (
    "warning: validation images are held out of the training part, and the weights it starts from may have been "
    "trained on them; --val-data names other images"
)


class Placed(NamedTuple):
    """An architecture and the folder at which its paths start."""

    architecture: Architecture
    place: Path


def open_target(target: str, start: Path | None) -> Placed | None:
    """The architecture that ``target`` names; ``None`` where it is a model reference.

    Raises:
        UsageError: There is no such file, or it is malformed.
    """
    if not is_file_name(target, ".json"):
        return None
    path = find(target, start)
    return Placed(Architecture.load(path), path.parent)


def check_out(config: TrainingOptions, out: Path, start: Path | None, *, overwrite: bool) -> None:
    """Refuse an output folder before any work is done.

    Raises:
        UsageError: ``out`` may not be replaced, or holds what the configuration names.
    """
    check_output(out, overwrite=overwrite)
    check_replaceable(out, named_paths(config, start))


def reads_of(
    config: TrainingOptions,
    start: Path | None,
    targets: Sequence[Placed],
    networks: Iterable[fx.GraphModule],
    tasks: Iterable[Task],
) -> dict[str, str]:
    """Digests of all that a training reads: files by their names, the data of its tasks, and traced networks.

    ``start`` and ``targets`` are as for :func:`create_run`.
    """
    found = named_digests(config, start)
    for name, (architecture, place) in zip(_copies(targets), targets, strict=True):
        found |= {f"{file} of {name}": known for file, known in named_digests(architecture, place).items()}
    found["the images or labels"] = digest(task.data.digest for task in tasks)
    found["the traced network"] = digest(map(network_digest, networks))
    return found


def create_run(
    config: TrainingOptions,
    out: Path,
    targets: Sequence[Placed],
    start: Path | None,
    *,
    overwrite: bool,
    reads: Mapping[str, str],
    about: Mapping[str, Any],
    ranks: Ranks | None = None,
) -> RunFolder:
    """Make a run directory that holds its configuration and a copy of each architecture, so that it can be moved.

    Args:
        config: Its paths start at ``start``; in the run they start at the run.
        out: The run directory.
        targets: The architectures that ``target``, then ``further``, name.
        start: The folder at which the configuration's paths start.
        overwrite: Whether a folder that is not empty is replaced.
        reads: Digests of what the run reads from elsewhere.
        about: The values of ``about.json`` (:mod:`narfx.training.about`).
        ranks: This process among those that train together; rank 0 alone writes.

    Raises:
        UsageError: ``out`` may not be replaced, or holds a file that is read.
    """
    inputs, files = named_paths(config, start), dict[str, Any]({ABOUT: dict(about)})
    names = _copies(targets)
    for name, (architecture, place) in zip(names, targets, strict=True):
        inputs += named_paths(architecture, place)
        files[name] = relocated(architecture, out, start=place).model_dump(mode="json", exclude_none=True)
    values = relocated(config, out, start=start).model_dump(mode="json")
    if targets:
        values["target"] = names[0]
    if len(targets) > 1:
        values["further"] = names[1:]
    return RunFolder.create(
        out, values, overwrite=overwrite, inputs=inputs, files=files, reads=reads, ranks=ranks, staged=True
    )  # fmt: skip


def _copies(targets: Sequence[Placed]) -> list[str]:
    """The names of the run's copies of architectures."""
    return [f"target-{number}.json" if number > 1 else "target.json" for number in range(1, len(targets) + 1)]
