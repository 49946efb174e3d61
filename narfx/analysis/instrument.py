"""The run of an instrument: it begins, goes on and ends in the same way, whatever is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from narfx.inputs.paths import named_paths, relocated
from narfx.runs.finished import finished_result
from narfx.runs.folder import RunFolder
from narfx.runs.interruption import interruptible
from narfx.runs.origin import check_reads, resumed_config
from narfx.runs.progress import Reporter, Silent
from narfx.support.files import write_bytes
from narfx.support.folders import check_output, check_replaceable
from narfx.support.seals import write_sealed
from narfx.training.about import ABOUT
from narfx.verbs.alike import AlikeConfig, Trainee, about_alike, prepare_alike, reads_alike

__all__ = ["Instrument", "Opened", "open_alike"]

C = TypeVar("C", bound=BaseModel)
N = TypeVar("N")


@dataclass(frozen=True)
class Opened(Generic[N]):
    """The networks of a run, opened and checked.

    Attributes:
        networks: At least one.
        reads: Digests of all that the run reads (:func:`narfx.runs.origin.check_reads`).
        notes: Sentences for the user.
        files: Values of JSON files that the run has from its beginning, by their names.
    """

    networks: Sequence[N]
    reads: Mapping[str, str]
    notes: Sequence[str]
    files: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Instrument(Generic[C, N]):
    """What one instrument does with a configuration ``C`` and networks ``N``.

    Attributes:
        name: Its result is ``NAME.json``.
        schema: The type of its configuration.
        figures: The file of each figure, by its key in the ``files`` of the result.
        opens: The networks, from the configuration, the device and the folder at which paths start; writes nothing.
        measures: The result without its ``files``; the work so far is kept in the folder.
        draws: The figures of a result, by their keys.
    """

    name: str
    schema: type[C]
    figures: Mapping[str, str]
    opens: Callable[[C, str, Path | None], Opened[N]]
    measures: Callable[[C, Sequence[N], RunFolder, Reporter], dict[str, Any]]
    draws: Callable[[dict[str, Any]], Mapping[str, bytes]]

    def begin(
        self, config: C, out: Path, *, device: str, overwrite: bool, reporter: Reporter | None, start: Path | None
    ) -> dict[str, Any]:
        """Measure all in a new run ``out``; paths of the configuration begin at ``start``.

        Raises:
            UsageError: A network, the data or an option is wrong, or ``out`` may not be replaced; it is not touched.
            RunError: The machine ran out of memory or disk; the last checkpoint is kept.
            InterruptedRunError: Ctrl-C.
        """
        check_output(out, overwrite=overwrite)
        inputs = named_paths(config, start)
        check_replaceable(out, inputs)
        opened = self.opens(config, device, start)
        values = relocated(config, out, start=start).model_dump(mode="json")
        folder = RunFolder.create(
            out, values, overwrite=overwrite, inputs=inputs, files=opened.files, reads=opened.reads, staged=True
        )
        return self._run(config, opened, folder, reporter or Silent())

    def resume(
        self,
        out: Path,
        *,
        device: str,
        previous: bool,
        reporter: Reporter | None,
        check: Callable[[C], None] = lambda _: None,
    ) -> dict[str, Any]:
        """Go on with the run in ``out``, whose configuration ``check`` may refuse; errors as for :meth:`begin`."""
        folder, reporter = RunFolder.open(out, previous=previous), reporter or Silent()
        config = resumed_config(folder.path, self.schema)
        check(config)
        if (found := finished_result(folder, self._result, reporter, extends=False)) is not None:
            return {**found, "files": self._places(folder.path)}
        opened = self.opens(config, device, folder.path)
        check_reads(folder.path, opened.reads)
        return self._run(config, opened, folder, reporter)

    def _run(self, config: C, opened: Opened[N], folder: RunFolder, reporter: Reporter) -> dict[str, Any]:
        with folder, interruptible(folder, resumable=True):
            for note in dict.fromkeys(opened.notes):
                reporter.say(note)
            result = self.measures(config, opened.networks, folder, reporter)
            for key, content in self.draws(result).items():
                write_bytes(folder.path / self.figures[key], content)
            write_sealed(folder.path / self._result, result)  # last: where it exists, all is complete
            folder.remove_checkpoints()
        return {**result, "files": self._places(folder.out)}

    @property
    def _result(self) -> str:
        return f"{self.name}.json"

    def _places(self, folder: Path) -> dict[str, str]:
        return {key: str(folder / name) for key, name in {"numbers": self._result, **self.figures}.items()}


def open_alike(
    config: AlikeConfig, wanted: Sequence[tuple[str, str, bool]], device: str, start: Path | None
) -> Opened[Trainee]:
    """Networks that are trained alike; arguments and errors as for :func:`narfx.verbs.alike.prepare_alike`."""
    trainees = prepare_alike(config, wanted, device=device, relative_to=start)
    notes = [note for trainee in trainees for note in trainee.prepared.notes]
    return Opened(trainees, reads_alike(config, trainees, start), notes, {ABOUT: about_alike(trainees)})
