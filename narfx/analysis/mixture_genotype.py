"""The genotype of a search by gradients, from the architecture weights in its events."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from narfx.analysis.steps import malformed, read_steps
from narfx.compiler.open import NetworkOptions, open_base
from narfx.errors import UsageError
from narfx.runs.events import EVENTS, Step
from narfx.space.architecture import Architecture
from narfx.space.genotype import Genotype, derive_genotype

__all__ = ["architecture_rows", "genotype_of_run"]

_NEVER = -1e30
_RAW = ("stacnas",)
"""Strategies that compare edges by their raw weights, as StacNAS's program does; DARTS compares probabilities."""


def genotype_of_run(run: Path) -> Genotype:
    """The genotype of a finished search: each node has the two edges whose operators other than none are strongest.

    Raises:
        UsageError: The folder holds no finished search by a strategy with architecture weights, or its space no cells.
    """
    path = run / "arch.json"
    architecture = Architecture.load(path)
    rows = architecture_rows(run)
    options = NetworkOptions(model=architecture.model, input=architecture.input, **architecture.of_space())
    traced = open_base(options, relative_to=run, seed=architecture.seed or 0)
    architecture.check(traced.space)
    return derive_genotype(traced.space, rows)


def architecture_rows(run: Path) -> list[list[float]]:
    """By slot how strong each of its choices was when last at least two of them competed.

    That is the probability, and for ``stacnas`` the weight itself; what did not compete is weaker than all that did. In
    the second stage of ``stacnas`` a group of one operator has no rival: its slot keeps the weights of the first stage.

    Raises:
        UsageError: The run has no steps, or none with architecture weights, or they cannot be read.
    """
    strategy, steps = read_steps(run)
    recorded = [step for step in steps if "alphas" in step.more]
    if not recorded:
        raise UsageError(
            f"{run} has no architecture weights, because strategy {strategy!r} learns none: search with darts, gdas or "
            "stacnas",
            where=str(run / EVENTS),
            kind="no_architecture_weights",
        )
    try:
        tables = [_table(step, raw=strategy in _RAW) for step in recorded]
        rows = tables[-1]
        if any(len(table) != len(rows) for table in tables):
            raise ValueError("records of different numbers of slots")
        for index, row in enumerate(rows):
            if _competing(row) < 2:
                rows[index] = next((t[index] for t in reversed(tables) if _competing(t[index]) > 1), row)
    except (KeyError, TypeError, ValueError) as error:
        raise malformed(run, error) from error
    return rows


def _table(step: Step, *, raw: bool) -> list[list[float]]:
    return [
        [
            (float(alpha) if raw else float(p)) if float(p) > 0 else _NEVER
            for p, alpha in zip(probabilities, alphas, strict=True)
        ]
        for probabilities, alphas in zip(step.more["probabilities"], step.more["alphas"], strict=True)
    ]


def _competing(row: Sequence[float]) -> int:
    return sum(value > _NEVER for value in row)
