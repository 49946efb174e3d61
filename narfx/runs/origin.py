"""What a run began with, in ``origin.json``: its configuration, and digests of its files and of all that it reads.

A run is resumed only from the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel

from narfx.errors import UsageError
from narfx.support.files import read_json, write_json
from narfx.support.path_fields import PathKind, path_fields
from narfx.support.schema import validated
from narfx.support.seals import damaged, file_digest, read_sealed, write_sealed

__all__ = [
    "CONFIG",
    "ORIGIN",
    "began_with",
    "changed_since",
    "check_reads",
    "reconfigure",
    "resumed_config",
    "write_origin",
]

CONFIG = "config.json"
ORIGIN, _BEFORE = "origin.json", "config before"

M = TypeVar("M", bound=BaseModel)


def write_origin(run: Path, config: Mapping[str, Any], files: Iterable[str], reads: Mapping[str, str] | None) -> None:
    """Write ``config.json`` and what the run in the folder ``run`` begins with.

    Args:
        run: The folder.
        config: The configuration.
        files: The names of the files in the folder that belong to the run from the start.
        reads: Digests of what the run reads from elsewhere, by the names that :func:`check_reads` uses; ``None`` where
            nothing is to be compared.
    """
    write_json(run / CONFIG, config)
    digests = {name: file_digest(run / name) for name in files}
    write_sealed(run / ORIGIN, {CONFIG: config, "files": digests, "reads": reads})


def resumed_config(run: Path, schema: type[M]) -> M:
    """The configuration of a run that is resumed, which is the one it began with.

    Paths may differ, because a run may be moved: what they name is compared by :func:`check_reads`.

    Raises:
        UsageError: The configuration is not the one that the run began with; the message names the field.
    """
    config, origin = read_json(run / CONFIG), _origin(run)
    paths = {name for name, kind in path_fields(schema).items() if kind is not PathKind.CODE}
    began = config if config == origin.get(_BEFORE) else origin[CONFIG]
    now = config if isinstance(config, dict) else {}
    for name in sorted((began.keys() | now.keys()) - paths):
        if name not in now or name not in began or now[name] != began[name]:
            raise _changed(
                f"{run / CONFIG} says {name} {_shown(now, name)}, but the run began with "
                f"{_shown(began, name)}: put that back, or start a new run with --config",
                run / CONFIG,
            )
    return validated(schema, config, str(run / CONFIG))


def changed_since(run: Path, config: Mapping[str, Any]) -> list[str]:
    """Sentences on what is not as it was when the run began: fields of its configuration, and files of its folder.

    Empty where nothing is known of the beginning, as in a folder of ``narfx solve``.

    Raises:
        UsageError: ``origin.json`` is damaged.
    """
    if not (run / ORIGIN).is_file():
        return []
    origin = _origin(run)
    began = config if config == origin.get(_BEFORE) else origin[CONFIG]
    found = [
        f"{CONFIG} says {name} {_shown(config, name)}, but the run began with {_shown(began, name)}"
        for name in sorted(began.keys() | config.keys())
        if name not in config
        or name not in began
        or json.dumps(config[name]) != json.dumps(began[name])  # 1 is no true
    ]
    found += [
        f"{name} was changed after narfx wrote it (its digest differs): do not trust what it says"
        for name, known in origin["files"].items()
        if (run / name).is_file() and file_digest(run / name) != known
    ]
    return found


def reconfigure(run: Path, **fields: Any) -> None:
    """Change fields of the configuration of a run that goes on, such as the number of epochs.

    A process that is killed in the midst of it leaves the old configuration or the new one, and both resume.
    """
    before = read_json(run / CONFIG)
    after = {**before, **fields}
    write_sealed(run / ORIGIN, {**_origin(run), CONFIG: after, _BEFORE: before})
    write_json(run / CONFIG, after)


def began_with(run: Path) -> Mapping[str, str]:
    """The digests of what the run in the folder ``run`` read as it began; empty where it does not say.

    Raises:
        UsageError: The file that holds them was changed.
    """
    return (_origin(run)["reads"] or {}) if (run / ORIGIN).is_file() else {}


def check_reads(run: Path, reads: Mapping[str, str]) -> None:
    """Refuse to resume a run that would now read something else than when it began.

    Raises:
        UsageError: A digest in ``reads`` is not that of :func:`write_origin`, or one of the run's own files is not what
            was written then; the message names what has changed.
    """
    origin = _origin(run)
    for name, known in origin["files"].items():
        if file_digest(run / name) != known:
            raise damaged(run / name, "restore it from a copy, or start a new run")
    began = reads if origin["reads"] is None else origin["reads"]
    changed = sorted(name for name in began.keys() | reads.keys() if began.get(name) != reads.get(name))
    if changed:
        raise _changed(
            f"what the run in {run} reads has changed since it began ({', '.join(changed)}): undo that, or "
            "start a new run",
            run / ORIGIN,
        )


def _origin(run: Path) -> dict[str, Any]:
    if not (run / ORIGIN).is_file():
        raise _changed(
            f"{run} has no {ORIGIN}: an older version of narfx wrote it, or the file was removed; start a new run",
            run / ORIGIN,
        )
    return read_sealed(run / ORIGIN, "restore it from a copy, or start a new run")


def _changed(message: str, where: Path) -> UsageError:
    return UsageError(message, where=str(where), kind="run_changed")


def _shown(values: Mapping[str, Any], name: str) -> str:
    return f"{values[name]!r:.60}" if name in values else "nothing"
