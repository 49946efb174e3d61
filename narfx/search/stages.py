"""A search as a list of stages, each with its own space, preparation of the supernet and strategy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from typing import Any, TypeAlias

from narfx.errors import UsageError
from narfx.search.config import SearchConfig
from narfx.search.goals import cost_names
from narfx.search.preparation import NO_PREPARATION, Distil, Preparation, WarmUp
from narfx.search.registry import build_with, stage_maker, strategy_options
from narfx.search.strategy import Evaluated, Result
from narfx.search.supernet_strategy import AnyStrategy, SupernetStrategy
from narfx.space.records import Vector
from narfx.space.space import SearchSpace
from narfx.support.ranks import Ranks
from narfx.support.seeds import derive

__all__ = [
    "Found",
    "Narrowing",
    "Stage",
    "check_epochs",
    "check_stages",
    "keep_finalists",
    "spaces",
    "stages_of",
    "whole_space",
]


@dataclass(frozen=True)
class Found:
    """What a stage found: its finalists, the most promising first, and all that it evaluated; nothing before any."""

    finalists: tuple[Vector, ...] = ()
    archive: tuple[Evaluated, ...] = ()

    @classmethod
    def by(cls, strategy: AnyStrategy, finalists: int) -> Found:
        """What a strategy has found so far."""
        return cls(tuple(strategy.finalists(finalists)), tuple(strategy.archive()))

    def to_state(self) -> dict[str, Any]:
        """Plain values for a checkpoint."""
        return {
            "finalists": [list(vector) for vector in self.finalists],
            "archive": [
                [list(entry.vector), entry.result.reward, dict(entry.result.costs), entry.evaluations]
                for entry in self.archive
            ],
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Found:
        """The inverse of :meth:`to_state`."""
        return cls(
            tuple(tuple(vector) for vector in state["finalists"]),
            tuple(Evaluated(tuple(v), Result(reward, costs), n) for v, reward, costs, n in state["archive"]),
        )


Narrowing: TypeAlias = Callable[[SearchSpace, Found], SearchSpace]
"""From the space of the stage before and what that stage found to a space with the same slots and fewer choices.

It is called again when a search is resumed, so it must depend on its arguments alone.
"""


def whole_space(space: SearchSpace, found: Found) -> SearchSpace:
    """The space as it is."""
    return space


def keep_finalists(space: SearchSpace, found: Found) -> SearchSpace:
    """At each slot the choices of the finalists of the stage before."""
    return space.restrict({index: set(entries) for index, entries in enumerate(zip(*found.finalists, strict=True))})


@dataclass(frozen=True)
class Stage:
    """One stage of a search.

    The supernet of the search is that of the whole space; a stage trains and evaluates the vectors of its own space.

    Args:
        space: Narrows the space of the stage before (of the first stage: the model's space within the budget).
        preparation: Trains the supernet before the strategy begins.
        strategy: The name of a registered strategy; each stage makes a new one.
        epochs: Epochs after those of the preparation.
        options: The strategy's options.
        fresh: Whether the stage carries nothing over but what the stage before found: ``space`` narrows the first
            stage's space before any narrowing, and shared weights, head and optimizer are those that the search
            started with.
    """

    space: Narrowing
    preparation: Preparation
    strategy: str
    epochs: int
    options: Mapping[str, Any] = field(default_factory=dict)
    fresh: bool = False

    @property
    def length(self) -> int:
        """All epochs of the stage."""
        return self.preparation.epochs + self.epochs

    @property
    def trades(self) -> bool:
        """Whether the strategy trades costs for reward: it has the option ``costs``."""
        return any(option.name == "costs" for option in strategy_options(self.strategy))

    def build(self, space: SearchSpace, index: int, seed: int, front: Sequence[str] = ()) -> AnyStrategy:
        """The strategy of this stage, the ``index``-th of a search with this seed, for its own space.

        One that trades costs trades those of the ``front``, unless its options name others.
        """
        own = seed if index == 0 else derive(seed, "stage", index)
        costs = {"costs": ",".join(front)} if front and self.trades else {}
        return build_with(self.strategy, space, own, {**costs, **self.options})

    def judged(self, space: SearchSpace, front: Sequence[str]) -> tuple[str, ...] | None:
        """The costs over which its hypervolume counts: those of the ``front``, else those that its strategy trades."""
        if front or not self.trades:
            return tuple(front) or None
        named = [name.strip().lower() for name in str(self.options.get("costs", "")).split(",")]
        return tuple(name for name in named if name in space.metrics) or cost_names(space, "")

    def describe(self) -> dict[str, Any]:
        """Plain values by which a resumed search is known to have the same stages."""
        own: dict[str, Any] = asdict(self.preparation) if is_dataclass(self.preparation) else {}
        prepared = {"preparation": type(self.preparation).__name__, "preparation_epochs": self.preparation.epochs}
        prepared |= {key: value for key, value in own.items() if key != "epochs"}
        fresh = {"fresh": True} if self.fresh else {}
        return {**prepared, "strategy": self.strategy, "options": dict(self.options), "epochs": self.epochs, **fresh}


def stages_of(config: SearchConfig) -> tuple[Stage, ...]:
    """The stages of a configuration: those that its strategy is registered with, else one of the whole space.

    Raises:
        UsageError: There are too few epochs for the strategy's stages, or an option that decides about them is wrong.
    """
    rest = config.epochs - config.pretrain_epochs
    maker = stage_maker(config.strategy)
    if maker is not None:
        return tuple(maker(_preparation(config), rest, dict(config.strategy_options)))
    return (Stage(whole_space, _preparation(config), config.strategy, rest, config.strategy_options),)


def _preparation(config: SearchConfig) -> Preparation:
    if not config.pretrain_epochs:
        return NO_PREPARATION
    if config.prepare == "distil":
        return Distil(config.pretrain_epochs, config.distil_lr, config.distil_compare, config.pretrain_epochs // 2)
    return WarmUp(config.pretrain_epochs)


def spaces(space: SearchSpace, stages: Sequence[Stage], found: Sequence[Found]) -> list[SearchSpace]:
    """The spaces of the stages so far: ``found`` has what each finished stage found, and the next space is the last.

    Raises:
        UsageError: A narrowing gives another space than one with the same slots and a part of the choices.
        InfeasibleBudgetError: No vector of a narrowed space meets the budget.
    """
    narrowed: list[SearchSpace] = []
    for stage, before in zip(stages, (Found(), *found), strict=False):
        wider = space if stage.fresh or not narrowed else narrowed[-1]
        narrowed.append(_narrowed(wider, stage, before))
    return narrowed


def _narrowed(space: SearchSpace, stage: Stage, found: Found) -> SearchSpace:
    narrow = stage.space(space, found)
    fits = [slot.name for slot in narrow.slots] == [slot.name for slot in space.slots] and all(
        own.legal and set(own.legal) <= set(wide.legal) for own, wide in zip(narrow.slots, space.slots, strict=True)
    )
    if not fits:
        raise UsageError(
            f"the space of the stage with strategy {stage.strategy!r} must have the slots of the space before it and "
            "a part of its choices: use SearchSpace.restrict",
            where="stages",
            kind="stage_space",
        )
    return narrow.within(narrow.budget)


def check_epochs(stages: Sequence[Stage]) -> None:
    """Refuse an empty list of stages, and stages that leave their strategy no epoch.

    Raises:
        UsageError: See above.
    """
    if not stages or any(stage.epochs < 1 or stage.preparation.epochs < 0 for stage in stages):
        raise UsageError(
            "a search needs stages, each with at least one epoch for its strategy", where="stages", kind="stage_epochs"
        )


def check_stages(
    stages: Sequence[Stage],
    space: SearchSpace,
    seed: int,
    front: Sequence[str] = (),
    ranks: Ranks | None = None,
) -> None:
    """Refuse what would fail in a later stage: a wrong strategy or option, or a strategy without an archive.

    With several ranks, a strategy that trains with the supernet is refused: it would learn something else on each.

    Raises:
        UsageError: See above.
    """
    first = spaces(space, stages[:1], ())[0]
    for index, stage in enumerate(stages):
        made = stage.build(space if index else first, index, seed, front)
        if isinstance(made, SupernetStrategy) and not (ranks or Ranks()).alone:
            raise UsageError(
                f"strategy {stage.strategy!r} trains with the supernet in steps of its own, which several ranks cannot "
                "share: search with one process, without torchrun",
                where="--strategy",
                kind="strategy_ranks",
            )
        if stage is not stages[-1] and not hasattr(made, "archive"):
            raise UsageError(
                f"strategy {stage.strategy!r} has no archive(), which the next stage needs to narrow its space: add "
                "it, or make this stage the last",
                where="stages",
                kind="stage_archive",
            )
