"""Saved scores of single replacements: what each choice costs in quality, measured one slot at a time.

LANA (arXiv 2107.10624, section 3) scores every replacement once and finds architectures for any number of budgets
from the scores alone: the sum of the scores of a vector stands for its loss of quality, and
:func:`~narfx.space.solver.best_vectors` finds the least sum under a budget.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictInt, model_validator

from narfx.errors import UsageError
from narfx.space.records import Slot, Vector
from narfx.space.solver import check_scores
from narfx.space.space import SearchSpace
from narfx.support.files import read_json
from narfx.support.schema import validated
from narfx.support.seals import unsealed, write_sealed

__all__ = ["Measure", "ScoreTable", "SlotScores"]

Score = Annotated[FiniteFloat, Field(strict=True)]
Error = Annotated[FiniteFloat, Field(strict=True, ge=0)]
Entries = Mapping[tuple[int, int], float]


class Measure(BaseModel):
    """One quantity at one slot, by choice: its values and their standard errors, ``None`` where it is not known."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    values: tuple[Score | None, ...]
    errors: tuple[Error | None, ...] = ()


class SlotScores(BaseModel):
    """One slot: the names of its choices and their scores, ``None`` for a choice that was not measured.

    ``measures`` has all that was measured, by name; the scores are one of these. ``costs`` has the costs of the
    choices by metric: MACs, parameters, milliseconds.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    choices: tuple[str, ...]
    scores: tuple[Score | None, ...]
    measures: dict[str, Measure] = Field(default_factory=dict)
    costs: dict[str, tuple[FiniteFloat | None, ...]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_for_each_choice(self) -> SlotScores:
        rows: dict[str, Sequence[float | None]] = {"scores": self.scores, **self.costs}
        for name, measure in self.measures.items():
            rows |= {f"values of {name}": measure.values, f"errors of {name}": measure.errors or measure.values}
        for name, row in rows.items():
            if len(row) != len(self.choices) or not self.choices:
                raise ValueError(
                    f"slot {self.name}: there is one score for each choice, but there are {len(row)} {name} and "
                    f"{len(self.choices)} choices"
                )
        return self


class ScoreTable(BaseModel):
    """The scores of one space, by slot and choice: what a vector loses if one of its choices alone is replaced.

    Lower is better. The vector is ``around``, by default the base, index 0 at each slot; its own choices score 0.
    ``fingerprint`` is that of the unrestricted space, ``measured`` says in words what was measured, ``images`` on how
    many images, which the ``seed`` decided, and ``center`` what the vector itself has, by measure.
    Scores hold for any budget and, as they name slot and choice by index, in any restriction of the space.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    fingerprint: str
    measured: str
    images: Annotated[StrictInt, Field(ge=1)]
    seed: StrictInt | None = None
    around: tuple[StrictInt, ...] | None = None
    center: dict[str, FiniteFloat] = Field(default_factory=dict)
    slots: tuple[SlotScores, ...]

    @model_validator(mode="after")
    def _relative_to_the_center(self) -> ScoreTable:
        around = (0,) * len(self.slots) if self.around is None else self.around
        if len(around) != len(self.slots):
            raise ValueError(f"around has {len(around)} entries, but there are {len(self.slots)} slots")
        for slot, entry in zip(self.slots, around, strict=True):
            if not 0 <= entry < len(slot.choices):
                raise ValueError(f"slot {slot.name}: around has entry {entry}, but there is no such choice")
            if slot.scores[entry] not in (0, None):
                raise ValueError(
                    f"slot {slot.name}: the score of {slot.choices[entry]} is 0, because scores are relative to it, "
                    f"not {slot.scores[entry]:g}"
                )
        return self

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        scores: Mapping[tuple[int, int], float],
        *,
        measured: str,
        images: int,
        seed: int | None = None,
        around: Vector | None = None,
        center: Mapping[str, float] | None = None,
        measures: Mapping[str, tuple[Entries, Entries]] | None = None,
    ) -> ScoreTable:
        """A table of these scores, each by slot and index of the choice; those of ``around`` need not be given.

        ``measures`` has values and standard errors by slot and choice, and the costs are the space's.

        Raises:
            UsageError: A legal choice has no score, a score is not a finite number, that of an entry of ``around`` is
                not 0, or there are no images.
        """
        own = space.base if around is None else around
        known = {(index, k): 0.0 for index, k in enumerate(own) if k in space.slots[index].legal} | dict(scores)
        check_scores(space, known)
        rows = []
        for index, slot in enumerate(space.slots):
            kinds = {
                name: {"values": _row(values, index, slot), "errors": _row(errors, index, slot)}
                for name, (values, errors) in (measures or {}).items()
            }
            costs = {name: [float(c) if k in slot.legal else None for k, c in enumerate(row)]
                     for name, row in slot.costs.items()} if measures else {}  # fmt: skip
            row = {"name": slot.name, "choices": slot.choices, "scores": _row(known, index, slot)}
            rows.append({**row, "measures": kinds, "costs": costs})
        values = {
            "fingerprint": space.unrestricted().fingerprint(),
            "measured": measured,
            "images": images,
            "seed": seed,
            "around": around,
            "center": dict(center or {}),
            "slots": tuple(rows),
        }
        return validated(cls, values, "scores", kind="malformed_scores")

    @property
    def scores(self) -> dict[tuple[int, int], float]:
        """The scores by (slot, index of the choice), as ``best_vectors`` takes them."""
        return {
            (index, k): score
            for index, slot in enumerate(self.slots)
            for k, score in enumerate(slot.scores)
            if score is not None
        }

    @classmethod
    def load(cls, path: Path | str) -> ScoreTable:
        """Read and validate a file of scores.

        Raises:
            UsageError: No such file, not JSON, or a value that the schema refuses; the message names the key.
        """
        values = unsealed(read_json(Path(path)), Path(path))
        return validated(cls, values, str(path), kind="malformed_scores")

    def save(self, path: Path | str) -> None:
        """Write the file whole or not at all."""
        write_sealed(Path(path), self.model_dump(mode="json", exclude_defaults=True) | {"version": self.version})

    def offered(self, space: SearchSpace) -> SearchSpace:
        """The space without the choices that have no score, because they gave NaN.

        Raises:
            InfeasibleBudgetError: What is left cannot meet the space's budget.
        """
        known = self.scores
        return space.restrict({i: [k for k in slot.legal if (i, k) in known] for i, slot in enumerate(space.slots)})

    def predict(self, vector: Vector) -> float:
        """The sum of the scores of a vector's choices: what it is expected to lose against ``around``."""
        scores = self.scores
        return math.fsum(scores[index, k] for index, k in enumerate(vector))

    def total(self, measure: str, vector: Vector) -> float | None:
        """The sum of a measure over a vector's choices; ``None`` where it was not measured for one of them."""
        found = []
        for slot, entry in zip(self.slots, vector, strict=True):
            value = slot.measures[measure].values[entry] if measure in slot.measures else None
            if value is None:
                return None
            found.append(value)
        return math.fsum(found)

    def check_same(self, space: SearchSpace) -> None:
        """Refuse the scores of another space.

        Raises:
            UsageError: The fingerprint is another space's; the message shows the first slot that differs.
        """
        whole = space.unrestricted()
        ours = [(slot.name, ", ".join(slot.choices)) for slot in self.slots]
        theirs = [(slot.name, ", ".join(slot.choices)) for slot in whole.slots]
        if self.fingerprint == whole.fingerprint() and ours == theirs:
            return
        pairs = zip_longest(ours, theirs, fillvalue=("no slot", "nothing"))
        differ = next(((a, b) for a, b in pairs if a != b), None)
        shown = f"; first difference: {_slot(differ[0])} there, {_slot(differ[1])} here" if differ else ""
        raise UsageError(
            f"these scores were measured in another space (fingerprint {self.fingerprint}, this one has "
            f"{whole.fingerprint()}{shown}): measure them again",
            where="fingerprint",
            kind="fingerprint",
        )

    def check(self, space: SearchSpace) -> None:
        """Refuse a space that the scores were not measured in, and a table that lacks one.

        Raises:
            UsageError: The fingerprint is another space's, or a legal choice of a slot has no score.
        """
        self.check_same(space)
        check_scores(space, self.scores)


def _slot(described: tuple[str, str]) -> str:
    return f"{described[0]} with {described[1]}"


def _row(known: Entries, index: int, slot: Slot) -> list[float | None]:
    found = (known.get((index, k)) for k in range(len(slot.choices)))
    return [None if score is None or not math.isfinite(score) else float(score) for score in found]
