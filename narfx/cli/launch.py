"""What the verbs that make a run share: a new one from a configuration, or an old one resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from narfx.cli.console import Output, abandon, failure_of
from narfx.cli.options import option_names
from narfx.errors import UsageError
from narfx.support.folders import check_output, refuse_inside
from narfx.support.joining import joined

if TYPE_CHECKING:
    from pydantic import BaseModel


__all__ = ["launch"]

Result = dict[str, Any]
_MISSING = {"data": "--data SOURCE", "model": "a MODEL", "target": "an arch.json", "targets": "a network"}


def launch(
    schema: type[BaseModel],
    start: Callable[..., Result],
    resume: Callable[..., Result],
    estimate: Callable[..., Result],
    *,
    needed: str,
    out: Path,
    fields: dict[str, Any],
    options: Mapping[str, Any],
    output: Output,
    extends: bool = True,
    shared: bool = True,
    verb: str | None = None,
) -> Result:
    """Start a run of this configuration, estimate it, or resume the one in ``out``.

    Args:
        schema: The class of the configuration.
        start: Called with the configuration, ``out``, and ``device``, ``overwrite``, ``reporter`` and, where the verb
            has the option, ``tensorboard``, and where it runs on several ranks, ``ranks``; with a config file also with
            ``relative_to``.
        resume: Called with ``out``, and ``device``, ``previous``, ``reporter``, ``tensorboard`` and ``ranks`` likewise;
            if ``--epochs`` is given, also with ``epochs``.
        estimate: Called with the configuration, ``device`` and ``ranks`` likewise, on rank 0 alone, for ``--dry-run``;
            with a config file also with ``relative_to``.
        needed: The field that must be given together with ``data``.
        out: The run directory.
        fields: The fields of the configuration that the user gave.
        options: All options of the verb.
        output: Has the reporter.
        extends: Whether a run of this verb can get more epochs.
        shared: Whether several ranks can share a run of this verb.
        verb: What messages call it, where the name of the schema is another one.

    Raises:
        UsageError: An option is missing or wrong, or ``--resume`` is given with options that it would ignore.
    """
    from narfx.inputs.paths import code_places
    from narfx.inputs.trust import naming
    from narfx.runs.tensorboard import check_tensorboard
    from narfx.support.schema import validated  # pydantic's models of this package need torch: --help does not

    with joined(options["device"], describe=failure_of, give_up=abandon) as ranks:
        known = {"device": options["device"], **({"ranks": ranks} if shared else {})}
        common = {**known, "reporter": output.reporter}
        if "tensorboard" in options:  # not every run has scalars
            check_tensorboard(options["tensorboard"])
            common["tensorboard"] = options["tensorboard"]
        previous = _previous(options)
        if options["resume"]:
            more = {"epochs": fields.pop("epochs")} if extends and "epochs" in fields else {}
            _check_resume(options, fields)
            return resume(out, previous=previous, **more, **common)
        if options["config"] is not None:
            refuse_inside(out, [options["config"]])
        values = _values(schema, options["config"], fields)
        for key in (needed, "data"):
            if key not in values:
                raise UsageError(
                    f"{_MISSING[key]} is missing: give it, or a --config that has it", where=key, kind="missing_option"
                )
        called = verb or schema.__name__.removesuffix("Config").lower()
        config = validated(schema, values, called, names=option_names(fields))
        # What a config file names is not named by the user.
        start_of_paths = {} if options["config"] is None else {"relative_to": Path.cwd()}
        with naming(code_places(schema, fields)):
            if options["dry_run"]:
                check_output(out, overwrite=options["overwrite"])
                return estimate(config, **known, **start_of_paths) if ranks.first else {}
            return start(config, out, overwrite=options["overwrite"], **common, **start_of_paths)


def _values(schema: type[BaseModel], config: Path | None, fields: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config file, its paths seen from the working folder, and over them those that the user gave."""
    if config is None:
        return fields
    from narfx.inputs.paths import relocate
    from narfx.support.files import read_json
    from narfx.training.recipe import SCHEDULES, without_schedule

    read = read_json(config)
    if not isinstance(read, dict):
        raise UsageError(
            f"{config} is not a JSON object: give the config.json of a run", where=str(config), kind="bad_config"
        )
    if fields.get("schedule") in SCHEDULES:  # it wins over the epochs and rates that a run's config.json holds
        read = without_schedule(read)
    if "teacher" in fields or "teacher_model" in fields:  # they name one thing
        read = {key: value for key, value in read.items() if not key.startswith("teacher")}
    read = {key: value for key, value in read.items() if key not in fields}
    return {**read, **relocate(schema, read, Path.cwd(), start=config.parent), **fields}


def _previous(options: Mapping[str, Any]) -> bool:
    """Whether a run is resumed from the checkpoint before its last."""
    named = options["checkpoint"]
    if named is not None and (named not in ("last", "previous") or not options["resume"]):
        raise UsageError(
            f"--checkpoint {named}: write --resume --checkpoint previous, or last",
            where="--checkpoint",
            kind="resume_options",
        )
    return bool(named == "previous")


def _check_resume(options: Mapping[str, Any], fields: Mapping[str, Any]) -> None:
    """Refuse options that a resumed run would ignore."""
    named = [
        *(f"--{key.replace('_', '-')}" for key in ("config", "overwrite", "dry_run") if options[key]),
        *option_names(fields).values(),
    ]
    if named:
        raise UsageError(
            f"--resume takes everything from the run in --out: leave out {', '.join(named)}",
            where="--resume",
            kind="resume_options",
        )
