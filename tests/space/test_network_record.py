"""The record of a network in a file: it says the same as the space that it was made from."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narfx.space.network_record import NetworkRecord, NodeRecord, SlotRecord, slot_records
from narfx.space.space import SearchSpace


@given(st.integers(1, 6), st.integers(2, 5), st.booleans(), st.integers(0, 10**6))
def test_entries_and_costs_are_those_of_the_space(slots: int, operators: int, skips: bool, seed: int) -> None:
    space = SearchSpace.uniform(slots, operators, skips=skips)
    record = NetworkRecord(model="m", input=(3, 8, 8), slots=slot_records(space), fixed=dict(space.fixed))
    record = NetworkRecord.model_validate_json(record.model_dump_json())
    rng = random.Random(seed)
    vector = tuple(rng.choice(slot.legal) for slot in space.slots)
    assert record.entries(space.describe(vector)) == vector
    assert record.cost(vector, "macs") == pytest.approx(space.cost(vector)["macs"])
    assert [slot.choices for slot in record.slots] == [slot.choices for slot in space.slots]


@pytest.mark.parametrize("described", [{"vector": []}, {"vector": [0, 1, 2]}, {"vector": [0, 9]}, {"vector": [0, -1]}])
def test_what_is_no_vector_of_the_network_is_refused(described: dict[str, list[int]]) -> None:
    record = NetworkRecord(model="m", input=(3, 8, 8), slots=slot_records(SearchSpace.uniform(2, 3)))
    with pytest.raises(ValueError, match=r"slot|entries"):
        record.entries(described)


def test_a_record_that_contradicts_itself_is_refused() -> None:
    slot = SlotRecord(name="s", choices=("base",), legal=(0,), costs={"macs": (1.0,)})
    with pytest.raises(ValueError, match="one cost for each"):
        SlotRecord(name="s", choices=("base", "other"), legal=(0,), costs={"macs": (1.0,)})
    with pytest.raises(ValueError, match="not before it"):
        NetworkRecord(model="m", input=(1,), nodes=(NodeRecord(name="a", kind="layer", label="", inputs=(0,)),))
    with pytest.raises(ValueError, match="1 slots"):
        NetworkRecord(model="m", input=(1,), slots=(slot,), vector=(0, 0))
