"""What a report takes from the files of a run, as validated records; all else in them is left aside."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, StrictInt

__all__ = [
    "CompareResult",
    "Contrast",
    "Entry",
    "Evaluated",
    "Row",
    "SearchResult",
    "SolveResult",
    "TrainResult",
]

Accuracy = Annotated[FiniteFloat, Field(ge=0, le=1)]
Vector = tuple[Annotated[StrictInt, Field(ge=0)], ...]
Skips = tuple[tuple[StrictInt, StrictInt], ...]


class _Read(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class Evaluated(BaseModel):
    """An evaluated vector; its costs are among the numbers that no field takes."""

    model_config = ConfigDict(extra="allow", frozen=True)

    vector: Vector
    skips: Skips | None = None
    accuracy: Accuracy | None = None
    loss: float | None = None
    right: str | None = None

    @property
    def costs(self) -> dict[str, float]:
        """The costs by metric."""
        known = self.model_extra or {}
        return {name: float(known[name]) for name in _COSTS if type(known.get(name)) in (int, float)}

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for the same vector."""
        return self.vector, self.skips


_COSTS = ("macs", "params", "latency")


class Contrast(_Read):
    """A difference from something else, and the accuracy of that."""

    accuracy: Accuracy | None = None
    difference: float | None = None
    standard_error: float | None = None
    verdict: str | None = None
    vectors: int = 0
    equal: tuple[str, ...] = ()
    vector: Vector | None = None
    skips: Skips | None = None


class _Judgement(_Read):
    part: str | None = None
    images: int = 0
    accuracy: Accuracy | None = None
    random: Contrast = Contrast()
    macs_alone: Contrast = Contrast()


class _Base(_Read):
    accuracy: Accuracy | None = None
    macs: FiniteFloat | None = None
    params: FiniteFloat | None = None
    latency: FiniteFloat | None = None


class _Said(_Read):
    message: str


class SearchResult(Evaluated):
    """``result.json`` of a search."""

    data: str = ""
    metric: str = "accuracy"
    strategy: str = ""
    budget: str = "none"
    starting_weights: str = ""
    base: _Base = _Base()
    judgement: _Judgement | None = None
    verdict: str = ""
    below_budget: _Said | None = None
    timed_whole: _Said | None = None
    finalists: tuple[Evaluated, ...] = ()
    randoms: tuple[Evaluated, ...] = ()


class Part(_Read):
    """What a network has on one part of the data."""

    accuracy: Accuracy
    loss: float | None = None
    images: int = 0


class TrainResult(_Read):
    """``metrics.json`` of a training."""

    params: FiniteFloat | None = None
    macs: FiniteFloat | None = None
    vector: Vector | None = None
    skips: Skips | None = None
    starting_weights: str = ""
    epochs: int = 0
    loss: float | None = None
    metric: str = "accuracy"
    val: Part | None = None
    test: Part | None = None


class Row(_Read):
    """One network of a comparison over all seeds."""

    name: str
    vector: Vector
    skips: Skips | None = None
    params: FiniteFloat | None = None
    macs: FiniteFloat | None = None
    latency: FiniteFloat | None = None
    starting_weights: str = ""
    accuracies: tuple[Accuracy, ...] = ()
    mean: Accuracy
    standard_error: float | None = None

    @property
    def costs(self) -> dict[str, float]:
        """The costs by metric."""
        return {name: value for name in _COSTS if (value := getattr(self, name)) is not None}


class _Random(_Read):
    vectors: int = 0
    mean: float | None = None
    standard_error: float | None = None
    best: float | None = None
    against: Contrast | None = None


class Entry(_Read):
    """One architecture of a comparison beside its base and its random vectors."""

    name: str
    kind: str = ""
    model: str = ""
    base: str = "base"
    equal: tuple[str, ...] = ()
    against_base: Contrast | None = None
    random: _Random = _Random()
    verdict: str = ""


class CompareResult(_Read):
    """``comparison.json``."""

    part: str = "test"
    metric: str = "accuracy"
    seeds: int = 1
    rows: tuple[Row, ...] = ()
    architectures: tuple[Entry, ...] = ()
    verdict: str = ""


class _SolvePoint(Evaluated):
    budget: str = ""
    predicted_accuracy: float | None = None


class _Asked(_Read):
    budget: str
    count: int = 1
    points: int = 7


class SolveResult(_Read):
    """``solve.json``."""

    run: str = ""
    metric: str = "accuracy"
    bounded: str = "macs"
    base: dict[str, FiniteFloat] = Field(default_factory=dict)
    points: tuple[_SolvePoint, ...] = ()
    notes: tuple[str, ...] = ()
    asked: _Asked | None = None
