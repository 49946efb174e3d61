"""The nodes that a supernet decides at: the dispatchable op node, and the gate at which skips are added or not."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["Dispatch", "Shortcut", "SkipGate"]

Pair = tuple[int, int]


class Dispatch(nn.Module):
    """Candidates by operator name, and the selection that is computed.

    A selection is a sequence of names, each with an optional weight. One name without a weight is called directly,
    and what is not selected is not computed: it gets no gradient, so an optimizer that skips parameters without one
    (after ``zero_grad(set_to_none=True)``) applies neither momentum nor weight decay to it. Several names, or a
    weighted one, give the weighted sum of the candidates' outputs.

    An operator of the user's own that fails in a call is a ``UsageError`` that names it and the ``site``.
    """

    narfx_leaf = True

    def __init__(self, candidates: Mapping[str, nn.Module], *, slot: int = 0, site: str = "a site") -> None:
        super().__init__()
        self.slot, self.site = slot, site
        self.candidates = nn.ModuleDict(candidates)
        self._selection: tuple[tuple[str, Tensor | float | None], ...] = ((next(iter(candidates)), None),)

    @property
    def selected(self) -> tuple[str, ...]:
        """The names of the candidates that a call computes."""
        return tuple(name for name, _ in self._selection)

    @property
    def chosen(self) -> nn.Module:
        """The one candidate selected; ``ValueError`` for a mixture."""
        if len(self._selection) != 1 or self._selection[0][1] is not None:
            raise ValueError(f"a mixture of {', '.join(self.selected)} is selected, not one operator")
        return self.candidates[self._selection[0][0]]

    def select(self, *names: str, weights: Sequence[Tensor | float] | None = None) -> None:
        """Select one operator, or a mixture with one scalar weight a name; ``KeyError`` for an unknown name."""
        for name in names:
            if name not in self.candidates:
                raise KeyError(f"no candidate {name!r} here: there are {', '.join(self.candidates)}")
        if not names or (weights is None and len(names) > 1) or (weights is not None and len(weights) != len(names)):
            raise ValueError("select one name, or several with one weight each")
        scales: Sequence[Tensor | float | None] = [None] if weights is None else weights
        self._selection = tuple(zip(names, scales, strict=True))

    def forward(self, input: Tensor) -> Tensor:
        """Map (N, C, H, W) as the selected candidates do; called by keyword, ``input`` has a convolution's name."""
        (name, weight), *rest = self._selection
        first = self._call(name, input)
        if weight is None:
            return first
        total = weight * first
        for name, weight in rest:
            assert weight is not None
            total = total + weight * self._call(name, input)
        return total

    def _call(self, name: str, x: Tensor) -> Tensor:
        try:
            output: Tensor = self.candidates[name](x)
        except Exception as error:
            from narfx.inputs.user_code import user_code
            from narfx.operators.registry import OWN  # a supernet that runs has no need of them
            from narfx.support.devices import is_out_of_memory

            if name == "base" or name in OWN or is_out_of_memory(error):
                raise
            what = f"operator {name} fails at {self.site} on {'x'.join(map(str, x.shape))}"
            with user_code(what, where=name, kind="operator_failed"):
                raise
        return output

    def extra_repr(self) -> str:
        """The selection, for ``repr``."""
        return f"slot={self.slot}, selected={'+'.join(self.selected)}"


class Shortcut(nn.Module):
    """What the base has on a skip of its own (a projection, a pool), computed only while that skip is open."""

    narfx_leaf = True

    def __init__(self, branch: nn.Module, pair: Pair) -> None:
        super().__init__()
        self.branch, self.pair, self.open = branch, pair, True

    def select(self, opened: Collection[Pair]) -> None:
        """Open the skip if it is among these, else close it."""
        self.open = self.pair in opened

    def forward(self, x: Tensor) -> Tensor | None:
        """Map the skip's source as the base does, or give ``None`` where the skip is closed."""
        shortcut: Tensor | None = self.branch(x) if self.open else None
        return shortcut


class SkipGate(nn.Module):
    """All possible skips to one place of the network; those that are open are added, the others not computed.

    Args:
        pairs: The skips (t, j) in the order of addition, the base's own first.
        base: Which of them the base has.
        projections: What maps a skip's source to the shape of the place, by pair, where the shapes differ.
        add: How the base writes its own add, so that lowering can write it again: the node's operation and target,
            whether the shortcut is its first operand, its name, and the names of the operands given by keyword.
    """

    narfx_leaf = True

    def __init__(
        self,
        pairs: Sequence[Pair],
        base: Collection[Pair],
        projections: Mapping[Pair, nn.Module],
        add: tuple[str, Any, bool, str, tuple[str, ...]] | None = None,
    ) -> None:
        super().__init__()
        self.pairs, self.base, self.add = tuple(pairs), frozenset(base), add
        self.projections = nn.ModuleDict({_key(pair): module for pair, module in projections.items()})
        self.select(self.base)

    @property
    def opened(self) -> tuple[Pair, ...]:
        """The skips that a call adds, in order."""
        return tuple(self.pairs[index] for index, _ in self._open)

    def select(self, opened: Collection[Pair]) -> None:
        """Open these of the gate's skips and close the others; pairs of other gates are no matter."""
        self._open = tuple(
            (index, _key(pair) if _key(pair) in self.projections else None)
            for index, pair in enumerate(self.pairs)
            if pair in opened
        )

    def projection(self, pair: Pair) -> nn.Module | None:
        """The 1x1 convolution and BatchNorm of a skip, where it has one of the supernet's own."""
        return dict(self.projections.items()).get(_key(pair))

    def forward(self, x: Tensor, *sources: Tensor | None) -> Tensor:
        """Add the open skips to ``x``; there is one source a pair, each of them (N, C, H, W)."""
        for index, key in self._open:
            source = sources[index]
            assert source is not None  # a shortcut is open when its skip is
            x = x + (source if key is None else self.projections[key](source))
        return x

    def extra_repr(self) -> str:
        """What is open, for ``repr``."""
        return f"open={list(self.opened)} of {len(self.pairs)}"


def _key(pair: Pair) -> str:
    return f"{pair[0]}_{pair[1]}"
