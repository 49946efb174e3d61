"""The weights of a mixture of all choices, as a caller gives them and as the nodes of a supernet take them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from narfx.errors import UsageError
from narfx.operators.weighted_sum import Weight
from narfx.space.space import SearchSpace
from narfx.support.text import article, count

__all__ = ["Mixture", "read_mixture"]

Mixture = Tensor | Sequence[Tensor | Sequence[Weight]]
"""One row of weights a slot; a tensor (slots, choices) has them where all slots have as many choices."""


def read_mixture(space: SearchSpace, mixture: Mixture) -> list[dict[int, Weight]]:
    """The weights that are computed with, by choice, for each slot; see ``Supernet.set_mixture``.

    Left out are illegal choices and weights of exactly 0 that need no gradient; where nothing would remain, the first
    legal choice does.

    Raises:
        UsageError: The rows do not fit the space, or a weight is not a finite number.
    """
    if not isinstance(mixture, (Tensor, Sequence)) or (isinstance(mixture, Tensor) and mixture.dim() == 0):
        raise UsageError(
            f"a mixture is a list of one row of weights for each slot, not {article(mixture)}", kind="mixture"
        )
    if len(mixture) != len(space):
        raise UsageError(
            f"the mixture has {count(len(mixture), 'row')}, but the space has {count(len(space), 'slot')}: give one "
            "row of weights a slot",
            kind="mixture_length",
        )
    with torch.enable_grad():  # the views of the rows are parts of the autograd graph wherever they are taken
        return [_read_row(space, index, mixture[index]) for index in range(len(space))]


def _read_row(space: SearchSpace, index: int, row: Tensor | Sequence[Weight]) -> dict[int, Weight]:
    slot = space.slots[index]
    where = f"slot {index} ({slot.name})"
    choices = slot.choices
    entries = _entries(row, where)
    if len(entries) != len(choices):
        raise UsageError(
            f"there are {count(len(entries), 'weight')} at {where}, but its choices are {len(choices)}: "
            f"{', '.join(choices)}",
            where=where,
            kind="mixture_row",
        )
    kept: dict[int, Weight] = {}
    for choice, (name, (weight, value)) in enumerate(zip(choices, entries, strict=True)):
        if not math.isfinite(value):
            raise UsageError(
                f"the weight of {name} at {where} is {value}: give finite weights", where=where, kind="mixture_weight"
            )
        if choice not in slot.legal and value != 0:
            reason = slot.refused.get(choice, "this stage of the search left it out")
            raise UsageError(
                f"{name} is not legal at {where}, so its weight must be 0, not {value:g}: {reason}",
                where=where,
                kind="mixture_illegal",
            )
        if choice in slot.legal and (value != 0 or isinstance(weight, Tensor)):
            kept[choice] = weight
    return kept or {slot.legal[0]: 0.0}


def _entries(row: Tensor | Sequence[Weight], where: str) -> list[tuple[Weight, float]]:
    """The weights of a row, tensors where gradients are wanted and numbers elsewhere, each with its present value."""
    if isinstance(row, Tensor) and row.dim() == 1 and not row.is_complex():
        values = [float(value) for value in row.tolist()]  # read at once: each reading waits for the device
        # Views one by one: those of `unbind` could not be used again after an optimizer's step on the weights.
        return [(row[k] if row.requires_grad else value, value) for k, value in enumerate(values)]
    if not isinstance(row, Sequence) or not all(map(_is_weight, row)):
        raise UsageError(
            f"the weights at {where} are one row of numbers (a tensor with one axis, or a list), not {article(row)}"
            + (f" with {row.dim()} axes" if isinstance(row, Tensor) and row.dim() != 1 else ""),
            where=where,
            kind="mixture_row",
        )
    values = [float(w.detach() if isinstance(w, Tensor) else w) for w in row]
    return [
        (w if isinstance(w, Tensor) and w.requires_grad else value, value)
        for w, value in zip(row, values, strict=True)
    ]  # fmt: skip


def _is_weight(value: object) -> bool:
    return isinstance(value, Real) or (isinstance(value, Tensor) and value.dim() == 0 and not value.is_complex())
