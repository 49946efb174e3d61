"""``narfx trace --latency``: the report of a trace with what its operators take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from narfx.compiler.traced import Traced
from narfx.errors import UsageError
from narfx.latency.check import check_latency
from narfx.latency.metric import LatencyOptions, open_latency
from narfx.runs.progress import Reporter
from narfx.support.schema import validated

__all__ = ["trace_latency"]


def trace_latency(
    traced: Traced, given: Mapping[str, Any], check: int | None, *, seed: int, reporter: Reporter
) -> dict[str, Any]:
    """The trace's report with ``"latency"``: the setting, milliseconds by slot and choice, and the check.

    Args:
        traced: The trace.
        given: The fields of :class:`LatencyOptions` that the user gave.
        check: How many random vectors are timed whole, if any.
        seed: Of the check's draws.
        reporter: Told what takes long.

    Raises:
        UsageError: An option is wrong, or nothing asks for latency.
    """
    options = validated(LatencyOptions, given, "--latency", kind="bad_option")
    if check is not None and check < 2:
        raise UsageError(
            f"a check takes at least 2 vectors, not {check}", where="--latency-check", kind="latency_check"
        )
    if check is None and not options.wanted():
        raise UsageError(
            f"{', '.join(f'--{name}' for name in given)} says how latency is measured: add --latency",
            where="--latency",
            kind="latency_options",
        )
    traced, timed = open_latency(traced, options)
    for note in timed.notes:
        reporter.say(note)
    found = None
    if check is not None:
        found = check_latency(traced, timed.table.setting, vectors=check, seed=seed, reporter=reporter)
    report, space = traced.to_json(), traced.space
    report["notes"] += timed.notes
    report["latency"] = {
        **timed.to_json(),
        "fixed": space.fixed["latency"],
        "operators": list(space.operators),
        "slots": [
            {
                "name": slot.name,
                **space.own_choices(slot),
                "milliseconds": [ms if k in slot.legal else None for k, ms in enumerate(slot.costs["latency"])],
            }
            for slot in space.slots
            if slot.sites
        ],
        "check": found.to_json() if found is not None else None,
    }
    return report
