"""Groups of operators: as written, by family, at each slot, and the spaces of the two stages."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_spaces import slot, spaces, three_slots

from narfx.errors import InfeasibleBudgetError, UsageError
from narfx.space.budget import Budget
from narfx.space.genotype import CELL_OPERATORS
from narfx.space.groups import Groups, operator_family
from narfx.space.records import Slot
from narfx.space.space import SearchSpace

DARTS = CELL_OPERATORS[:8]
PAIRS = "max_pool_3x3/avg_pool_3x3,sep_conv_3x3/sep_conv_5x5,dil_conv_3x3/dil_conv_5x5"


def edge(name: str = "normal 0->2", legal: tuple[int, ...] = tuple(range(8))) -> Slot:
    return Slot(name, (), legal, {}, {"macs": tuple(map(float, range(8)))}, choices=DARTS)


def names(groups: list[tuple[int, ...]]) -> list[tuple[str, ...]]:
    return [tuple(DARTS[k] for k in group) for group in groups]


def test_the_families_of_darts_are_the_groups_of_the_paper() -> None:
    assert names(Groups().of(edge())) == [
        ("none",), ("max_pool_3x3", "avg_pool_3x3"), ("skip_connect",), ("sep_conv_3x3", "sep_conv_5x5"),
        ("dil_conv_3x3", "dil_conv_5x5"),
    ]  # fmt: skip
    assert sorted(Groups.parse(PAIRS).of(edge())) == sorted(Groups().of(edge()))
    assert str(Groups.parse(PAIRS)) == PAIRS


def test_convolutions_and_pools_have_families_too() -> None:
    found = {name: operator_family(name) for name in ("base", "conv5x5", "dwsep3x3", "maxpool3x3", "conv_7x1_1x7")}
    assert found == {"base": "conv", "conv5x5": "conv", "dwsep3x3": "dwsep", "maxpool3x3": "pool",
                     "conv_7x1_1x7": "conv"}  # fmt: skip
    assert Groups().of(three_slots().slots[0]) == [(0,), (1,), (2, 3)]


def test_the_first_legal_member_represents_a_group() -> None:
    groups = Groups.parse("sep_conv_5x5/sep_conv_3x3")
    assert names(groups.of(edge()))[0] == ("sep_conv_5x5", "sep_conv_3x3")
    assert names(groups.of(edge(legal=(0, 4))))[0] == ("sep_conv_3x3",)


@given(spaces(), st.data())
def test_the_stages_split_each_slot(space: SearchSpace, data: st.DataObject) -> None:
    groups = Groups()
    for own in space.slots:
        assert sorted(k for group in groups.of(own) for k in group) == [*own.legal]
    try:
        first = groups.representatives(space)
    except UsageError:
        assert all(len(groups.of(own)) == 1 for own in space.slots)
        return
    vector = tuple(data.draw(st.sampled_from(own.legal)) for own in first.slots)
    second = groups.members(space, [vector])
    for own, wide, entry in zip(second.slots, space.slots, vector, strict=True):
        assert entry in own.legal and own.costs == wide.costs
        assert set(own.legal) == next(set(group) for group in groups.of(wide) if entry in group)


def test_a_group_of_a_dear_representative_can_still_meet_a_budget() -> None:
    """The representative costs 9, the other member 1; only groups that hold it meet the bound."""
    own = slot("a", (0, 1, 2, 3), (9, 8, 9, 1))
    space = SearchSpace(own.choices, (own,)).within(Budget({"macs": 5}))
    first = Groups().representatives(space)
    assert first.slots[0].legal == (0, 1, 2) and [first.feasible((k,)) for k in (0, 1, 2)] == [False, False, True]
    assert Groups().members(space, [(2,)]).slots[0].legal == (2, 3)
    with pytest.raises(InfeasibleBudgetError):
        Groups().members(space, [(0,)])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sep_conv_3x3/sep_conv_3x3", "each name once"),
        ("sep_conv_3x3,,skip_connect", "each name once"),
        ("none/skip_connect", "none in no group"),
        ("conv_7x1_1x7/nor_conv_3x3", "the group conv_7x1_1x7/nor_conv_3x3 would be empty"),
        ("/".join(DARTS[1:]), "one group at each slot"),
    ],
)
def test_wrong_groups_are_one_sentence(text: str, said: str) -> None:
    space = SearchSpace((), (edge(legal=tuple(range(1, 8))),))
    with pytest.raises(UsageError, match=said):
        Groups.parse(text).representatives(space)
