"""Checks of what is given for a vector or one of its entries, with messages that name the slot and the reason."""

from __future__ import annotations

import operator
from collections.abc import Sequence

from narfx.errors import UsageError
from narfx.space.records import Slot, Vector
from narfx.support.text import count

__all__ = ["check_vector", "choice_index", "entries"]


def check_vector(slots: Sequence[Slot], vector: Sequence[object]) -> Vector:
    """``vector`` as a tuple of legal indices, one for each slot; an entry is the index of a choice, or its name.

    Raises:
        UsageError: It is no list, has the wrong length, an entry that is neither index nor name, an index out of range
            or a choice that its slot refuses; the message names the slot and the reason.
    """
    try:
        vector = list(vector if not isinstance(vector, str) else None)  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(
            f"a vector is a list of one index or name of a choice for each slot, not {vector!r:.60}",
            kind="vector_entry",
        ) from None
    if len(vector) != len(slots):
        raise UsageError(
            f"the vector has {entries(len(vector))}, but the model has {_slots(slots)}", kind="vector_length"
        )
    return tuple(_legal(given, slot, index) for index, (given, slot) in enumerate(zip(vector, slots, strict=True)))


def choice_index(slot: Slot, index: int, choice: str | int) -> int:
    """The index of a choice that is given by its name or its index; ``base`` names index 0 at every slot.

    Args:
        slot: Where the choice stands.
        index: The slot's own index, for the message.
        choice: Name or index.

    Raises:
        UsageError: The slot has no such choice.
    """
    if choice in slot.choices:
        return slot.choices.index(str(choice))
    if choice == "base":
        return 0
    if isinstance(choice, int) and choice in range(len(slot.choices)):
        return choice
    raise UsageError(
        f"{_where(slot, index)} has no choice {choice!r}: its choices are {_numbered(slot)}",
        where=_where(slot, index),
        kind="unknown_operator",
    )


def entries(number: int) -> str:
    """``1 entry``, ``2 entries``."""
    return f"{number} entr{'y' if number == 1 else 'ies'}"


def _slots(slots: Sequence[Slot]) -> str:
    skips = sum(slot.skip is not None for slot in slots)
    return count(len(slots) - skips, "slot") + (f" and {count(skips, 'possible skip')}" if skips else "")


def _legal(given: object, slot: Slot, index: int) -> int:
    where = _where(slot, index)
    entry = choice_index(slot, index, given) if isinstance(given, str) else _integer(given, where)
    if entry not in range(len(slot.choices)):
        raise UsageError(
            f"entry {entry} at {where} is out of range: there are {len(slot.choices)} choices, {_numbered(slot)}",
            where=where,
            kind="vector_index",
        )
    if entry not in slot.legal:
        reason = slot.refused.get(entry, "this stage of the search left it out")
        raise UsageError(
            f"entry {entry} ({slot.choices[entry]}) is not legal at {where}: {reason}",
            where=where,
            kind="vector_illegal",
        )
    return entry


def _where(slot: Slot, index: int) -> str:
    return f"slot {index} ({slot.name})"


def _numbered(slot: Slot) -> str:
    return ", ".join(f"{index} {name}" for index, name in enumerate(slot.choices))


def _integer(entry: object, where: str) -> int:
    """An entry of a vector as an ``int``: Python's or numpy's integer, but no bool and no float."""
    try:
        if not isinstance(entry, bool):
            return operator.index(entry)  # type: ignore[arg-type]
    except TypeError:
        pass
    raise UsageError(f"entry {entry!r} at {where} is neither an index nor a name", where=where, kind="vector_entry")
