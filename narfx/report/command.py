"""The command that repeats a run, from its configuration: the options that differ from their defaults."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from narfx.errors import UsageError
from narfx.inputs.paths import relocate
from narfx.search.config import SearchConfig
from narfx.support.text import escaped
from narfx.verbs.comparison import CompareConfig
from narfx.verbs.train import TrainConfig

__all__ = ["again", "quoted", "run_command", "solve_command"]

SCHEMAS: dict[str, type[BaseModel]] = {"search": SearchConfig, "train": TrainConfig, "compare": CompareConfig}
_POSITIONAL = ("model", "target", "further")
_NEEDED = ("model", "target", "further", "names", "data")
_PAIRS = {"strategy_options": "--strategy-option", "task_options": "--task-option"}
_OTHER = {"operator_files": "--operators-file", "teacher_model": "--teacher"}
_SWITCHES = ("channels_last", "skips_from_input")  # they also have a --no- form


def run_command(kind: str, config: Mapping[str, Any], run: Path) -> str | None:
    """The command that starts the same run again, in the folder that holds ``run``.

    Returns:
        ``None`` where this version of narfx cannot read the configuration, or no options give it.
    """
    schema = SCHEMAS[kind]
    place = run.resolve().parent
    try:
        values = {**config, **relocate(schema, config, place, start=run.resolve())}
        wanted = schema.model_validate(values)
    except (ValidationError, UsageError, TypeError, ValueError):
        return None
    fields = _least(schema, wanted)
    if fields is None:
        return None
    options = [word for name, value in fields.items() if name not in _POSITIONAL for word in _option(name, value)]
    words = ["narfx", kind, *_targets(kind, fields), *options, "--out", again(run)]
    return quoted(words)


def again(run: Path) -> str:
    """A name for a run that repeats another one."""
    return f"{run.resolve().name}-again"


def solve_command(run: str, budget: str, count: int, points: int, out: Path) -> str:
    """The command that answers a budget again."""
    options = [*(["--count", str(count)] if count != 1 else []), *(["--points", str(points)] if points != 7 else [])]
    return quoted(["narfx", "solve", run, "--budget", budget, *options, "--out", again(out)])


def quoted(words: Iterable[str]) -> str:
    """The words as a POSIX shell takes them; one with control characters as bash and zsh take it."""
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    if escaped(word) == word and "\n" not in word and "\t" not in word:
        return shlex.quote(word)
    inner = "".join(_ansi(letter) for letter in word)
    return f"$'{inner}'"


def _ansi(letter: str) -> str:
    if letter in "\\'":
        return f"\\{letter}"
    if letter.isprintable():
        return letter
    return "".join(f"\\x{byte:02x}" for byte in letter.encode("utf-8", "surrogateescape"))


def _least(schema: type[BaseModel], wanted: BaseModel) -> dict[str, Any] | None:
    """The fewest fields from which the configuration follows; ``None`` where none do."""
    values = dict(wanted)
    fields = {name: values[name] for name in _NEEDED if values.get(name) not in (None, ())}
    fields |= _different(schema, fields, values)
    fields |= _different(schema, fields, values)  # what the first ones set beside themselves, as a schedule does
    for name in [name for name in fields if name not in _NEEDED]:
        fewer = {key: value for key, value in fields.items() if key != name}
        fields = fewer if _gives(schema, fewer, wanted) else fields
    return fields if _gives(schema, fields, wanted) and _sayable(fields) else None


def _different(schema: type[BaseModel], fields: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that do not follow from the fields; all of them where these alone are no configuration."""
    try:
        found = dict(schema.model_validate(fields))
    except ValidationError:
        return {name: value for name, value in values.items() if value not in (None, (), {})}
    return {name: value for name, value in values.items() if found[name] != value}


def _gives(schema: type[BaseModel], fields: Mapping[str, Any], wanted: BaseModel) -> bool:
    try:
        return schema.model_validate(fields) == wanted
    except ValidationError:
        return False


def _sayable(fields: Mapping[str, Any]) -> bool:
    """Whether every field has an option that says it: no option gives a value of nothing back."""
    return not any(
        value is None or value in ((), {}) or value is False for name, value in fields.items() if name not in _SWITCHES
    )


def _targets(kind: str, fields: Mapping[str, Any]) -> list[str]:
    if kind == "search":
        return [_safe(str(fields["model"]))]
    targets = [str(fields["target"]), *map(str, fields.get("further", ()))]
    names = fields.get("names", ())
    return [f"{name}={path}" for name, path in zip(names, targets, strict=False)] or [_safe(path) for path in targets]


def _safe(word: str) -> str:
    """A path that begins with a dash is not taken for an option."""
    return f"./{word}" if word.startswith("-") else word


def _option(name: str, value: Any) -> list[str]:
    """The words of one field."""
    if name == "names":
        return []
    if name in _PAIRS:
        return [word for key, entry in value.items() for word in (_PAIRS[name], f"{key}={_literal(entry)}")]
    option = _OTHER.get(name, f"--{name.replace('_', '-')}")
    if isinstance(value, bool):
        return [option if value else option.replace("--", "--no-", 1)]
    text = ",".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
    return [f"{option}={text}"] if text.startswith("-") else [option, text]


def _literal(value: Any) -> str:
    """A value of KEY=VALUE: a text as it is, unless it would be read as something else."""
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z_][\w.-]*", value) and value not in ("True", "False", "None"):
        return value
    return repr(value)
