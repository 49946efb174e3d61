"""One point of a front: by its number, by a bound on its costs, or the knee."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from narfx.errors import InfeasibleBudgetError, UsageError
from narfx.space.budget import Budget
from narfx.space.front import scaled
from narfx.space.metrics import metric
from narfx.space.notebook import amount

__all__ = ["knee", "pick", "reference_point"]

Record = Mapping[str, Any]


def pick(text: str, records: Sequence[Record], base: Mapping[str, float], costs: Sequence[str]) -> int:
    """The index of the point that ``text`` names.

    Args:
        text: A number from 1, ``knee``, or bounds such as ``macs<=0.5x`` (of these points the most accurate, and of
            equals the first).
        records: The points of a front with their accuracies and costs.
        base: The costs of the base, to which ``x`` is relative.
        costs: The costs over which this is a front.

    Raises:
        UsageError: The text cannot be read, there is no such number, or the front has no knee.
        InfeasibleBudgetError: No point meets the bounds; the message names the nearest.
    """
    text = text.strip()
    if text.lower() == "knee":
        return knee(records, costs)
    if text.isdecimal():
        if not 1 <= int(text) <= len(records):
            raise UsageError(
                f"--pick {text}: the front has the points 1 to {len(records)}", where="--pick", kind="no_such_point"
            )
        return int(text) - 1
    if "<=" not in text:
        raise UsageError(
            f"cannot read --pick {text!r}: write the number of a point, knee, or a bound such as macs<=0.5x",
            where="--pick",
            kind="pick_syntax",
        )
    try:
        budget = Budget.parse(text, base)
    except UsageError as error:
        raise UsageError(f"--pick {text}: {error}", where="--pick", kind=error.kind) from error
    within = [index for index, record in enumerate(records) if budget.met_by(record)]
    if not within:
        raise _none_meets(text, records, budget)
    return max(within, key=lambda index: (records[index]["accuracy"], -index))


def _none_meets(text: str, records: Sequence[Record], budget: Budget) -> InfeasibleBudgetError:
    def over(index: int) -> float:
        return max(records[index][name] / bound if bound else float("inf") for name, bound in budget.bounds.items())

    nearest = min(range(len(records)), key=over)
    found = "; ".join(
        f"{metric(name).words} {amount(name, records[nearest][name])}, bound {amount(name, bound)}"
        for name, bound in budget.bounds.items()
    )
    return InfeasibleBudgetError(
        f"no point of the front meets {text}: the nearest is point {nearest + 1} ({found}); raise the bound, or give "
        f"--pick {nearest + 1}",
        where="--pick",
        kind="no_point",
    )


def knee(records: Sequence[Record], costs: Sequence[str]) -> int:
    """The index of the point that gains most: its accuracy less the mean of its costs, all scaled.

    Each is scaled to run from 0 to 1 over the front; a cost that is the same for all points is left aside. With one
    cost this is the point farthest above the chord between the two ends, as Das has it (Structural Optimization 18,
    1999). Of a front of one point it is that point.

    Raises:
        UsageError: No point lies above the chord, as on a front of two points.
    """
    if len(records) == 1:
        return 0
    accuracies = scaled([record["accuracy"] for record in records])
    differing = [name for name in costs if len({record[name] for record in records}) > 1]
    columns = [scaled([record[name] for record in records]) for name in differing]
    gains = [
        accuracies[index] - sum(column[index] for column in columns) / max(len(columns), 1)
        for index in range(len(records))
    ]
    best = max(range(len(records)), key=lambda index: (gains[index], -index))
    ends = (min(range(len(records)), key=lambda index: accuracies[index]), accuracies.index(max(accuracies)))
    if gains[best] <= max(gains[end] for end in ends) + 1e-9:
        raise UsageError(
            f"this front of {len(records)} points has no knee: no point lies above the line between its ends; pick one "
            "by its number, or by a bound such as macs<=0.5x",
            where="--pick",
            kind="no_knee",
        )
    return best


def reference_point(text: str | None, base: Mapping[str, float], costs: Sequence[str]) -> dict[str, float]:
    """The reference point of a hypervolume: by default accuracy 0 and the base's costs.

    Args:
        text: ``accuracy=0.1,macs=1x``: what it names replaces the default; ``x`` is relative to the base.
        base: The costs of the base.
        costs: The costs that count.

    Raises:
        UsageError: The text cannot be read, or names something else.
    """
    reference = {"accuracy": 0.0, **{name: float(base[name]) for name in costs}}
    for term in [] if text is None else text.split(","):
        name, equals, value = (part.strip() for part in term.partition("="))
        if not equals or name not in reference:
            raise UsageError(
                f"cannot read --reference {term.strip()!r}: write accuracy=0.1 or a cost of this front "
                f"({', '.join(costs)}), as in {costs[0]}=1x, with commas between",
                where="--reference",
                kind="reference_syntax",
            )
        reference[name] = (
            _accuracy(value) if name == "accuracy" else Budget.parse(f"{name}<={value}", base).bounds[name]
        )
    wrong = next((name for name in costs if reference[name] <= 0), None)
    if wrong is not None:
        raise UsageError(
            f"the reference point has {wrong} {reference[wrong]:g}: a cost there must be above 0, so name it with "
            f"--reference {wrong}=NUMBER",
            where="--reference",
            kind="reference_syntax",
        )
    return reference


def _accuracy(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1:
        raise UsageError(
            f"--reference accuracy={text}: an accuracy is at least 0 and below 1", where="--reference",
            kind="reference_syntax",
        )  # fmt: skip
    return value
