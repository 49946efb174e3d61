"""The nodes that a supernet decides at: the dispatchable op node, and the gate at which skips are added or not."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from itertools import chain, repeat
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import relu

from narfx.graph.nodes import tensors
from narfx.inputs.user_code import user_code
from narfx.operators.common_start import after_relu
from narfx.operators.one_convolution import convolved, merged
from narfx.operators.registry import OWN
from narfx.operators.scaled_end import scalable_end, scaled_call
from narfx.operators.weighted_sum import Weight, weighted_sum
from narfx.support.devices import is_out_of_memory

__all__ = ["Dispatch", "Shortcut", "SkipGate", "Weights"]

Pair = tuple[int, int]
Watcher = Callable[[Tensor, Tensor], None]
"""Called with the input of a call (the first, where there are several) and its output."""


class Weights(tuple[Weight, ...]):
    """The weights of a mixture. A copy of a network shares them: torch copies no tensor that was computed."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Weights:
        return self


class Watchers(tuple[Watcher, ...]):
    """Who is given the inputs and outputs of a node; a copy of a network is not watched."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Watchers:
        return Watchers()


class Parts(list[Tensor]):
    """The outputs of a mixture's candidates, one each, on the way to the norms of their own."""


class Dispatch(nn.Module):
    """Candidates by operator name, and the selection that is computed.

    A selection is a sequence of names, each with an optional weight. One name without a weight is called directly,
    and what is not selected is not computed: it gets no gradient, so an optimizer that skips parameters without one
    (after ``zero_grad(set_to_none=True)``) applies neither momentum nor weight decay to it. Several names, or a
    weighted one, give the weighted sum of the candidates' outputs.

    An operator of the user's own that fails in a call is a ``UsageError`` that names it and the ``site``.

    Args:
        candidates: The operators that may be selected; the first is.
        slot: The index of the slot whose choice this follows.
        site: The module path at which it stands.
        apart: Whether a mixture is given as the list of its outputs, without weights, to a Dispatch of norms, which
            maps each by the norm of its operator and adds them up: sum of w·norm(op(x)), not norm of a sum.
    """

    narfx_leaf = True

    def __init__(
        self, candidates: Mapping[str, nn.Module], *, slot: int = 0, site: str = "a site", apart: bool = False
    ) -> None:
        super().__init__()
        self.slot, self.site, self.apart = slot, site, apart
        self.candidates = nn.ModuleDict(candidates)
        self._watchers = Watchers()
        self._call: tuple[tuple[Any, ...], dict[str, Any]] = (), {}
        self.select(next(iter(candidates)))

    @property
    def selected(self) -> tuple[str, ...]:
        """The names of the candidates that a call computes."""
        return self._selection[0]

    def select(self, *names: str, weights: Sequence[Weight] | None = None) -> None:
        """Select one operator, or a mixture with one scalar weight a name; ``KeyError`` for an unknown name."""
        for name in names:
            if name not in self.candidates:
                raise KeyError(f"no candidate {name!r} here: there are {', '.join(self.candidates)}")
        if not names or (weights is None and len(names) > 1) or (weights is not None and len(weights) != len(names)):
            raise ValueError("select one name, or several with one weight each")
        self._selection = names, None if weights is None else Weights(weights)
        self._choose_way()

    def watch(self, watcher: Watcher) -> Callable[[], None]:
        """Give ``watcher`` the input and the output of each call, until the function that this returns is called."""
        self._watchers = Watchers((*self._watchers, watcher))
        self._choose_way()

        def stop() -> None:
            self._watchers = Watchers(other for other in self._watchers if other is not watcher)
            self._choose_way()

        return stop

    def _choose_way(self) -> None:
        """The one operator that a call is, where it is nothing more: the usual case costs one question."""
        names, weights = self._selection
        self._alone = names[0] if weights is None and not self._watchers else None

    def forward(self, *inputs: Any, **named: Any) -> Tensor | list[Tensor]:
        """Map (N, C, H, W) as the selected candidates do; called by keyword, ``input`` has a convolution's name.

        A site that declares its candidates may take more than one tensor; each candidate is called as the site is.
        """
        if not inputs and "input" in named:
            inputs = (named.pop("input"),)
        if self._alone is not None:
            return self.compute(self._alone, *inputs, **named)
        names, weights = self._selection
        if inputs and isinstance(inputs[0], Parts):
            calls = [partial(self.compute, name, part) for name, part in zip(names, inputs[0], strict=True)]
        else:
            calls = [partial(self.compute, name, *inputs, **named) for name in names]
        if self.apart and weights is not None:
            parts = Parts(call() for call in calls)
            if self._watchers:
                self._show(inputs, named, weighted_sum(weights, parts))
            return parts
        total = calls[0]() if weights is None else self._mixed(names, weights, calls, inputs, named)
        self._show(inputs, named, total)
        return total

    def _mixed(
        self,
        names: Sequence[str],
        weights: Sequence[Weight],
        calls: Sequence[Callable[[], Tensor]],
        inputs: tuple[Any, ...],
        named: dict[str, Any],
    ) -> Tensor:
        """The weighted sum of calls, in as few passes over images as the operators allow.

        Those that one convolution computes are one call. Of the others, one that a layer can scale is scaled there, and
        only added; and those that begin with a ReLU share it.
        """
        operators = [self.candidates[name] for name in names]
        one = inputs[0] if len(inputs) == 1 and not named and isinstance(inputs[0], Tensor) else None
        linear = {} if one is None else merged(operators, one)
        left = [index for index in range(len(names)) if index not in linear]
        calls = [calls[index] for index in left]
        if one is not None:
            calls = self._rectified_once([names[index] for index in left], calls, one)
        ends = [scalable_end(operators[index]) for index in left]
        scales = [weights[index] if end is None else 1.0 for index, end in zip(left, ends, strict=True)]
        outputs = map(scaled_call, calls, ends, (weights[index] for index in left))
        if linear and one is not None:
            total = convolved([*linear.values()], [weights[index] for index in linear], one)
            return weighted_sum([1.0, *scales], chain([total], outputs)) if left else total
        return weighted_sum(scales, outputs)

    def _rectified_once(
        self, names: Sequence[str], calls: Sequence[Callable[[], Tensor]], x: Tensor
    ) -> list[Callable[[], Tensor]]:
        """The calls, in which operators that begin with the ReLU of ``x`` are given it where they are several."""
        after = [after_relu(self.candidates[name]) for name in names]
        if sum(rest is not None for rest in after) < 2:
            return [*calls]
        rectified = relu(x)
        return [
            call if rest is None else partial(self._run, name, rest, rectified)
            for name, rest, call in zip(names, after, calls, strict=True)
        ]

    def _show(self, inputs: tuple[Any, ...], named: dict[str, Any], output: Tensor) -> None:
        if not self._watchers:
            return
        self._call = inputs, named
        try:
            for watcher in self._watchers:
                watcher(tensors((inputs, named))[0], output)
        finally:
            self._call = (), {}

    def again(self, name: str) -> Tensor:
        """The output of another candidate for the inputs of the call that a watcher is shown; for watchers only."""
        return self.compute(name, *self._call[0], **self._call[1])

    def compute(self, name: str, *inputs: Any, **named: Any) -> Tensor:
        """The output of one candidate, whatever is selected; ``UsageError`` where a user's operator fails."""
        return self._run(name, self.candidates[name], *inputs, **named)

    def _run(self, name: str, operator: nn.Module, *inputs: Any, **named: Any) -> Tensor:
        try:
            output: Tensor = operator(*inputs, **named)
        except Exception as error:
            if name == "base" or name in OWN or is_out_of_memory(error):
                raise
            shapes = "+".join("x".join(map(str, x.shape)) for x in tensors((inputs, named)))
            with user_code(f"operator {name} fails at {self.site} on {shapes}", where=name, kind="operator_failed"):
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

    @property
    def opened(self) -> tuple[Pair, ...]:
        """The skip, where it is open."""
        return (self.pair,) if self.open else ()

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

    def select(self, opened: Collection[Pair], weights: Mapping[Pair, Weight] | None = None) -> None:
        """Open these of the gate's skips and close the others; pairs of other gates are no matter.

        With ``weights`` each open skip is multiplied by its own before it is added.
        """
        self._open = tuple(
            (index, _key(pair) if _key(pair) in self.projections else None)
            for index, pair in enumerate(self.pairs)
            if pair in opened
        )
        self._weights = None if weights is None else Weights(weights[pair] for pair in self.opened)

    def projection(self, pair: Pair) -> nn.Module | None:
        """The 1x1 convolution and BatchNorm of a skip, where it has one of the supernet's own."""
        return dict(self.projections.items()).get(_key(pair))

    def forward(self, x: Tensor, *sources: Tensor | None) -> Tensor:
        """Add the open skips to ``x``; there is one source a pair, each of them (N, C, H, W)."""
        for (index, key), weight in zip(self._open, self._weights or repeat(None), strict=False):
            source = sources[index]
            assert source is not None  # a shortcut is open when its skip is
            skip = source if key is None else self.projections[key](source)
            x = x + (skip if weight is None else weight * skip)
        return x

    def extra_repr(self) -> str:
        """What is open, for ``repr``."""
        return f"open={list(self.opened)} of {len(self.pairs)}"


def _key(pair: Pair) -> str:
    return f"{pair[0]}_{pair[1]}"
