"""The result of a trace as one record: the input of the supernet, the search and the export."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import fx

from narfx.errors import NothingToRefineError, UsageError
from narfx.operators import operator_cost
from narfx.passes.skips import SkipDomain
from narfx.space.architecture import Architecture, SpaceOptions
from narfx.space.records import Site, Skipped
from narfx.space.space import SearchSpace
from narfx.support.html import html_table
from narfx.support.text import count

__all__ = ["Traced"]


@dataclass(frozen=True, repr=False)
class Traced:
    """The result of ``trace``: the graph, the search space, and what is not refined, with reasons.

    ``dropped`` names the keys of the model's state dict that the traced graph does not use; the graph module keeps
    them, so that the model's checkpoints load into it.
    """

    graph_module: fx.GraphModule
    space: SearchSpace
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]
    dropped: tuple[str, ...]
    input: tuple[int, int, int]
    options: SpaceOptions
    cost: dict[str, int]
    model: str | None = field(default=None)
    skips: SkipDomain | None = None

    def __repr__(self) -> str:
        shape = "x".join(map(str, self.input))
        name = self.model or type(self.graph_module).__name__
        costs = f"{self.cost['params'] / 1e6:.4g} M parameters, {self.cost['macs'] / 1e6:,.4g} M MACs"
        left = f"{count(len(self.skipped), 'call')} left as {'it is' if len(self.skipped) == 1 else 'they are'}"
        return f"Traced({name}, input {shape}, {costs}, {self.space!r}, {left})"

    def _repr_html_(self) -> str:
        """The table of sites, as ``narfx trace`` prints it."""
        rows = [
            (
                site["name"],
                site["slot"],
                site["kind"],
                "x".join(map(str, site["output_shape"])),
                *("" if site[cost] is None else f"{site[cost]:,.0f}" for cost in ("params", "macs")),
                ", ".join(site["candidates"]),
                site["where"],
            )
            for site in self.to_json()["sites"]
        ]
        return html_table(repr(self), ("site", "slot", "kind", "output", "params", "MACs", "operators", "line"), rows)

    def architecture(self, vector: Sequence[int | str], **known: Any) -> Architecture:
        """An :class:`Architecture` of this model with ``vector``; ``known`` fills its other fields.

        In a space with the skip domain the vector holds both, and the architecture has operators and skips apart. It
        is bound to the model, not to a narrower space that this trace may have (``restrict``).

        Raises:
            UsageError: The vector is not legal, or the model was not given by a reference.
        """
        checked = self.space.validate(vector)
        if self.model is None:
            raise UsageError(
                "an architecture names its model: trace it with reference='file.py' or another reference",
                kind="no_reference",
            )
        whole = self.space.unrestricted()
        return Architecture(
            model=self.model,
            **self.space.describe(checked),
            input=self.input,
            fingerprint=whole.fingerprint(),
            sites=tuple(whole.lines()),
            **self.options.of_space(),
            **known,
        )

    def check_whole(self) -> None:
        """Raise ``NothingToRefineError`` if a part of the model could not be traced."""
        opaque = [entry for entry in self.skipped if entry.code == "untraceable"]
        if opaque:
            raise NothingToRefineError(
                f"the trace is partial: {opaque[0].name}: {opaque[0].reason}"
                + (f"; and {len(opaque) - 1} more" if len(opaque) > 1 else ""),
                where=opaque[0].where,
                kind="partial_trace",
            )

    def to_json(self) -> dict[str, Any]:
        """The report of ``narfx trace``: plain values, costs in parameters and MACs of one sample."""
        slot_of = {site.name: index for index, slot in enumerate(self.space.slots) for site in slot.sites}
        sites = []
        for site in self.space.sites:
            slot = self.space.slots[slot_of[site.name]]
            own: dict[str, Any] = {}
            if isinstance(site, Site):
                own = operator_cost(site, "base")
            else:
                own = {"params": site.own_params, "macs": site.own_macs}
            sites.append(
                {
                    "name": site.name,
                    "slot": slot_of[site.name],
                    **site.geometry(),
                    "params": own["params"],
                    "macs": own["macs"],
                    "candidates": [slot.choices[k] for k in slot.legal],
                    **self.space.own_choices(slot),
                    "where": site.where,
                }
            )
        metrics = self.space.metrics
        return {
            "model": self.model,
            "input": list(self.input),
            "granularity": self.options.granularity,
            **self.cost,
            "operators": list(self.space.operators),
            "slots": len(self.space) - len(self.space.skip_slots),
            "sites": sites,
            "skipped": [{"name": s.name, "code": s.code, "reason": s.reason, "where": s.where} for s in self.skipped],
            "cost": {
                "min": {metric: self.space.least(metric) for metric in metrics},
                "base": self.space.cost(self.space.base),
                "max": {metric: self.space.most(metric) for metric in metrics},
            },
            "fingerprint": self.space.fingerprint(),
            "dropped": list(self.dropped),
            "notes": list(self.notes),
            **({} if self.skips is None else {"skips": self._skips_to_json(self.skips)}),
        }

    def _skips_to_json(self, skips: SkipDomain) -> dict[str, Any]:
        """The nodes by name (node 0 first), the possible skips with their costs, and why others are impossible."""
        possible = [
            {
                "skip": [candidate.skip.source, candidate.skip.target],
                "base": candidate.skip.base,
                "through": None if candidate.projection is None else "conv1x1",
                "params": candidate.params,
                "macs": candidate.macs,
            }
            for candidate in skips.candidates
        ]
        return {
            "nodes": list(skips.nodes),
            "count": len(possible),
            "base": [entry["skip"] for entry in possible if entry["base"]],
            "possible": possible,
            "impossible": [{"skip": list(pair), "reason": reason} for pair, reason in skips.impossible.items()],
        }
