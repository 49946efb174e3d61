"""Saved scores of single replacements: what each choice costs in quality, measured one slot at a time.

LANA (arXiv 2107.10624, section 3) scores every replacement once and finds architectures for any number of budgets
from the scores alone: the sum of the scores of a vector stands for its loss of quality, and
:func:`~narfx.space.solver.best_vectors` finds the least sum under a budget.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictInt, model_validator

from narfx.errors import UsageError
from narfx.space.solver import check_scores
from narfx.space.space import SearchSpace
from narfx.support.files import read_json
from narfx.support.schema import validated
from narfx.support.seals import unsealed, write_sealed

__all__ = ["ScoreTable", "SlotScores"]

Score = Annotated[FiniteFloat, Field(strict=True)]


class SlotScores(BaseModel):
    """One slot: the names of its choices and their scores, ``None`` for a choice that was not measured."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    choices: tuple[str, ...]
    scores: tuple[Score | None, ...]

    @model_validator(mode="after")
    def _one_for_each_choice(self) -> SlotScores:
        if len(self.scores) != len(self.choices) or not self.choices:
            raise ValueError(
                f"slot {self.name}: there is one score for each choice, but there are {len(self.scores)} scores and "
                f"{len(self.choices)} choices"
            )
        if self.scores[0] not in (0, None):
            raise ValueError(
                f"slot {self.name}: the score of {self.choices[0]} is 0, because scores are relative to it, "
                f"not {self.scores[0]:g}"
            )
        return self


class ScoreTable(BaseModel):
    """The scores of one space, by slot and choice. Lower is better; what the base has, index 0, has a score of 0.

    ``fingerprint`` is that of the unrestricted space, ``measured`` says in words what was measured, ``images`` on how
    many images.
    Scores hold for any budget and, as they name slot and choice by index, in any restriction of the space.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    fingerprint: str
    measured: str
    images: Annotated[StrictInt, Field(ge=1)]
    slots: tuple[SlotScores, ...]

    @classmethod
    def of(
        cls, space: SearchSpace, scores: Mapping[tuple[int, int], float], *, measured: str, images: int
    ) -> ScoreTable:
        """A table of these scores, each by slot and index of the choice; those of index 0 need not be given.

        Raises:
            UsageError: A legal choice has no score, a score is not a finite number or of index 0 and not 0, or there
                are no images.
        """
        known = {(index, 0): 0.0 for index, slot in enumerate(space.slots) if 0 in slot.legal} | dict(scores)
        check_scores(space, known)
        rows = [
            {"name": slot.name, "choices": slot.choices, "scores": tuple(_row(known, index, len(slot.choices)))}
            for index, slot in enumerate(space.slots)
        ]
        values = {
            "fingerprint": space.unrestricted().fingerprint(),
            "measured": measured,
            "images": images,
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
        write_sealed(Path(path), self.model_dump(mode="json"))

    def check(self, space: SearchSpace) -> None:
        """Refuse a space that the scores were not measured in, and a table that lacks one.

        Raises:
            UsageError: The fingerprint is another space's, or a legal choice of a slot has no score.
        """
        whole = space.unrestricted().fingerprint()
        if self.fingerprint != whole:
            raise UsageError(
                f"these scores were measured in another space (fingerprint {self.fingerprint}, this one has "
                f"{whole}): measure them again",
                where="fingerprint",
                kind="fingerprint",
            )
        check_scores(space, self.scores)


def _row(known: Mapping[tuple[int, int], float], slot: int, choices: int) -> list[float | None]:
    found = (known.get((slot, k)) for k in range(choices))
    return [None if score is None else float(score) for score in found]
