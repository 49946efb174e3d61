"""The list of ``narfx ops list``: all operators, with their costs at one site."""

from __future__ import annotations

from typing import Any

from narfx.operators.at_site import operator_cost, refusal
from narfx.operators.files import load_operators
from narfx.operators.registry import operator_names, origin
from narfx.verbs.sample_sites import sample_site

__all__ = ["catalogue"]


def catalogue(file: str | None = None) -> dict[str, Any]:
    """``{"site", "operators"}``: name, origin, and parameters and MACs at a 3×3 site of 64 channels on a 56×56 map.

    An operator that refuses this site has a reason instead of a cost. The operators of ``file`` are loaded first.

    Raises:
        UsageError: There is no such file, or it registers no operator.
    """
    if file is not None:
        load_operators(file)
    _, site = sample_site(3, 64, 64, (56, 56), {"bias": False})
    entries = []
    for name in operator_names():
        reason = refusal(site, name)
        cost = operator_cost(site, name) if reason is None else {"params": None, "macs": None}
        entries.append(
            {"name": name, "from": "the model" if name == "base" else origin(name), "refused": reason, **cost}
        )
    return {"site": site.name, "operators": entries}
