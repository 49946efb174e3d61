"""What of a model can be refined, and what it costs: the report of ``narfx trace``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from narfx.compiler.open import NetworkOptions, open_base
from narfx.compiler.traced import Traced
from narfx.errors import UsageError
from narfx.latency.check import check_latency
from narfx.latency.metric import LatencyOptions, open_latency
from narfx.runs.progress import Reporter, Silent
from narfx.support.schema import validated

__all__ = ["trace_model"]


def trace_model(
    options: NetworkOptions,
    timing: Mapping[str, Any] | None = None,
    check: int | None = None,
    *,
    strict: bool = False,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Trace a model and report its sites, slots and costs, with latency where ``timing`` or ``check`` asks for it.

    Args:
        options: The model, and what of it may be refined.
        timing: The fields of :class:`LatencyOptions` that the user gave.
        check: The number of random vectors that are timed as whole networks and compared with their predictions.
        strict: Whether a part that cannot be traced is an error.
        seed: Decides the values of a model that is built without weights, and the random vectors.
        reporter: Shows how far slow work is.

    Returns:
        :meth:`narfx.compiler.traced.Traced.to_json`; with latency also ``"latency"``: the setting, the milliseconds by
        slot and choice, and the check.

    Raises:
        UsageError: The model or an option is wrong, or there are options of latency but none asks for it.
        NothingToRefineError: No site has a choice, or ``strict`` found a part that cannot be traced.
        ParityError: The trace does not compute what the model computes.
        RunError: The network cannot be exported, or onnxruntime cannot run it.
    """
    traced = open_base(options, seed=seed)
    if strict:
        traced.check_whole()
    if not timing and check is None:
        return traced.to_json()
    return _with_latency(traced, timing or {}, check, seed, reporter or Silent())


def _with_latency(
    traced: Traced, timing: Mapping[str, Any], check: int | None, seed: int, reporter: Reporter
) -> dict[str, Any]:
    options = validated(LatencyOptions, timing, "--latency", kind="bad_option")
    if check is not None and check < 2:
        raise UsageError(
            f"a check needs at least 2 vectors, not {check}", where="--latency-check", kind="latency_check"
        )  # fmt: skip
    if check is None and not options.wanted():
        raise UsageError(
            f"{', '.join(f'--{name}' for name in timing)} says how latency is measured: add --latency",
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
