"""The dispatchable op node: all candidates of a call site, one or several of them selected."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

__all__ = ["Dispatch"]


class Dispatch(nn.Module):
    """Candidates by operator name, and the selection that is computed.

    A selection is a sequence of names, each with an optional weight. One name without a weight is called directly,
    and what is not selected is not computed: it gets no gradient, so an optimizer that skips parameters without one
    (after ``zero_grad(set_to_none=True)``) applies neither momentum nor weight decay to it. Several names, or a
    weighted one, give the weighted sum of the candidates' outputs.
    """

    def __init__(self, candidates: Mapping[str, nn.Module], *, slot: int = 0) -> None:
        super().__init__()
        self.slot = slot
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

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) as the selected candidates do."""
        (name, weight), *rest = self._selection
        first: Tensor = self.candidates[name](x)
        if weight is None:
            return first
        total = weight * first
        for name, weight in rest:
            assert weight is not None
            total = total + weight * self.candidates[name](x)
        return total

    def extra_repr(self) -> str:
        """The selection, for ``repr``."""
        return f"slot={self.slot}, selected={'+'.join(self.selected)}"
