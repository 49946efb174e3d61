"""StacNAS: groups of operators first, then the members of a group, both on all training images (arXiv 1909.11926).

Correlated operators share the weight that a softmax gives to what they do, and lose to an operator that stands alone.
So stage 1 has one representative a group, and stage 2 the members of the group that stage 1 chose at each slot. Both
start from the same weights, with architecture weights of their own. Shared and architecture weights step on the same
training minibatch, from one backward pass (one-level optimisation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from narfx.compiler.supernet import Supernet
from narfx.errors import RunError, UsageError
from narfx.search.mixture.strategy import MixtureStrategy
from narfx.search.option_checks import whole
from narfx.search.preparation import NO_PREPARATION, Preparation
from narfx.search.registry import register_strategy
from narfx.search.stages import Found, Stage
from narfx.search.supernet_strategy import Minibatch
from narfx.space.groups import Groups
from narfx.space.records import Slot
from narfx.space.space import SearchSpace
from narfx.tasks.task import Task

__all__ = ["Stacnas", "stacnas_stages"]


class Stacnas(MixtureStrategy):
    """One stage: mixtures by softmax, and one backward pass for both kinds of weights.

    Args:
        space: As for all strategies.
        seed: As for all strategies.
        groups: The groups, with commas between and ``/`` between members, as in
            ``max_pool_3x3/avg_pool_3x3,sep_conv_3x3/sep_conv_5x5``; the first legal member represents its group. By
            default operators that differ in their kernel size are a group, and all pools are one.
        stages: 1 ends after the representatives, for spaces in which each group has one member.
        chosen: The vector of a stage 1 that another search made, as in ``0,3,1``: stage 2 alone, in its groups. So the
            two stages may have networks of different depth, as in the paper.
    """

    needs_epochs: ClassVar[bool] = True

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        groups: str = "",
        stages: int = 2,
        chosen: str | Sequence[str | int] = "",
        **options: Any,
    ) -> None:
        super().__init__(space, seed=seed, **options)
        self._groups, self._stages, self._chosen = _read(groups, stages, chosen)

    def _must_choose(self) -> bool:
        return False  # in stage 2 all groups may have one member; stage 1 checks its own space

    @property
    def passes(self) -> int:
        """See the base class."""
        return 1

    def computed(self, slot: Slot) -> list[tuple[int, ...]]:
        """See the base class: the representatives in stage 1, the members of one group in stage 2."""
        if self._chosen:
            entries = self._space.validate(self._chosen)
            entry = next(k for own, k in zip(self._space.slots, entries, strict=True) if own.name == slot.name)
            return [self._groups.around(slot, entry)]
        groups = self._groups.of(slot)
        members = [self._groups.with_none(slot, group) for group in groups] if self._stages == 2 else []
        return [tuple(group[0] for group in groups), *members]

    def notes(self, space: SearchSpace) -> list[str]:
        """See the base class: the groups of several operators."""
        names = {
            "/".join(s.choices[k] for k in group) for s in space.slots for group in self._groups.of(s) if group[1:]
        }
        several = ", ".join(sorted(names)) or "none of several operators"
        return [f"groups: {several}; all other operators stand alone"]

    def _learn(self, net: Supernet, task: Task, batches: Minibatch) -> float:
        values = self._weights.values
        values.grad = None
        net.set_mixture(self._weights.softmax_rows())
        loss = batches.train_weights()
        if values.grad is None:
            raise RunError("the loss does not depend on the architecture weights", kind="no_gradient")
        self._step(values.grad)
        return loss


def stacnas_stages(preparation: Preparation, epochs: int, options: Mapping[str, Any]) -> tuple[Stage, ...]:
    """Both stages; the first one has the odd epoch.

    Raises:
        UsageError: There are fewer epochs than stages, or the groups cannot be read.
    """
    try:
        groups, stages, chosen = _read(*(options.get(name, default) for name, default in _DEFAULTS.items()))
    except ValueError as error:
        raise UsageError(f"strategy 'stacnas' refuses its options: {error}", kind="strategy_option") from error
    if chosen:
        return (Stage(partial(_members_of, groups, chosen), preparation, "stacnas", epochs, options),)
    if epochs < stages:
        raise UsageError(
            f"the {stages} stages of stacnas need {stages} epochs after the preparation, not {epochs}: raise --epochs",
            where="--epochs",
            kind="stage_epochs",
        )
    second = epochs // 2 if stages == 2 else 0
    first = Stage(partial(_representatives, groups, stages), preparation, "stacnas", epochs - second, options)
    if not second:
        return (first,)
    return first, Stage(partial(_members, groups), NO_PREPARATION, "stacnas", second, options, fresh=True)


_DEFAULTS: dict[str, Any] = {"groups": "", "stages": 2, "chosen": ""}


def _read(groups: object, stages: object, chosen: object) -> tuple[Groups, int, tuple[str | int, ...]]:
    count = whole("stages", stages, least=1)
    if count > 2:
        raise ValueError(f"stages is {count}, and must be 1 or 2")
    listed = chosen if isinstance(chosen, (list, tuple)) else str(chosen).split(",") if chosen != "" else []
    entries = tuple(int(text) if text.isdecimal() else text for text in (str(entry).strip() for entry in listed))
    if entries and count == 1:
        raise ValueError("stages=1 is stage 1 alone, and chosen is for stage 2 alone: give one of them")
    return Groups.parse(str(groups)), count, entries


def _representatives(groups: Groups, stages: int, space: SearchSpace, found: Found) -> SearchSpace:
    representatives = groups.representatives(space)
    several = any(len(groups.with_none(slot, group)) > 1 for slot in space.slots for group in groups.of(slot))
    if stages == 2 and not several:
        raise UsageError(
            "each group has one operator, so stage 2 has nothing to choose: leave it out (--strategy-option stages=1), "
            "or give groups (--strategy-option groups=...)",
            where="--strategy-option",
            kind="bad_groups",
        )
    return representatives


def _members(groups: Groups, space: SearchSpace, found: Found) -> SearchSpace:
    return groups.members(space, found.finalists)


def _members_of(groups: Groups, chosen: Sequence[str | int], space: SearchSpace, found: Found) -> SearchSpace:
    groups.check(space)
    members = groups.members(space, [space.validate(chosen)])
    if all(len(slot.legal) == 1 for slot in members.slots):
        raise UsageError(
            "the groups of the vector in chosen have one operator each, so stage 2 has nothing to choose",
            where="--strategy-option",
            kind="bad_groups",
        )
    return members


register_strategy("stacnas", Stacnas, stages=stacnas_stages)
