"""A vector as it stands in files: the open skips as pairs of nodes, and the entries of all other slots."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from narfx.errors import UsageError
from narfx.space.records import Skip, Slot, Vector
from narfx.space.vectors import entries
from narfx.support.text import count

__all__ = ["join_vector", "split_vector"]

Pairs = tuple[tuple[int, int], ...]


def split_vector(slots: Sequence[Slot], vector: Sequence[int]) -> tuple[Vector, Pairs | None]:
    """The entries of the slots that are no skips, and the skips (t, j) that are open.

    The skips are ``None`` where no slot is one: then they are the base's.
    """
    paired = list(zip(slots, vector, strict=True))
    others = tuple(entry for slot, entry in paired if slot.skip is None)
    skips = [(slot.skip, entry) for slot, entry in paired if slot.skip is not None]
    if not skips:
        return others, None
    return others, tuple((skip.source, skip.target) for skip, entry in skips if skip.base != bool(entry))


def join_vector(
    slots: Sequence[Slot],
    impossible: Mapping[tuple[int, int], str],
    others: Sequence[int],
    skips: Iterable[Sequence[int]] | None,
) -> Vector:
    """The vector of these entries and open skips; the inverse of ``split_vector``.

    Args:
        slots: Those of the space.
        impossible: The pairs that no skip can join, with the reasons.
        others: The entries of the slots that are no skips. Only their number is checked.
        skips: The open skips; ``None`` for those of the base.

    Raises:
        UsageError: There are too few or too many entries, or a skip is given twice or is not one of the space's.
    """
    known = {(slot.skip.source, slot.skip.target): slot.skip for slot in slots if slot.skip is not None}
    if len(others) != len(slots) - len(known):
        raise UsageError(
            f"the vector has {entries(len(others))}, but the model has {count(len(slots) - len(known), 'slot')}",
            kind="vector_length",
        )
    opened = [tuple(pair) for pair in skips] if skips is not None else [p for p, skip in known.items() if skip.base]
    for index, pair in enumerate(opened):
        if pair not in known:
            raise UsageError(
                f"{list(pair)} is no possible skip of this network: {_why_not(pair, known, impossible)}",
                where="skips",
                kind="unknown_skip",
            )
        if pair in opened[:index]:
            raise UsageError(f"the skip {list(pair)} is given twice: remove one", where="skips", kind="repeated_skip")
    rest = iter(others)
    return tuple(
        next(rest) if (skip := slot.skip) is None else int(skip.base != ((skip.source, skip.target) in opened))
        for slot in slots
    )


def _why_not(
    pair: tuple[int, ...], known: Mapping[tuple[int, int], Skip], impossible: Mapping[tuple[int, int], str]
) -> str:
    if not known:
        return "its skip domain is not open"
    if pair in impossible:
        return impossible[pair[0], pair[1]]
    if pair[0] > pair[1] - 2:
        return "a skip [t, j] goes from node t to node j with t <= j - 2"
    ends = [*impossible, *known]
    return f"its nodes are {min(t for t, _ in ends)} to {max(j for _, j in ends)}"
