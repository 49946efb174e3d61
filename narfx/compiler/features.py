"""The inputs and outputs of the operators at some slots, recorded by the dispatch nodes themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

from torch import Tensor, nn

from narfx.errors import UsageError
from narfx.operators.dispatch import Dispatch
from narfx.space.records import AnySite
from narfx.space.space import SearchSpace
from narfx.support.text import count

__all__ = ["Feature", "Visit", "check_slots", "recorded", "visited"]


class Feature(NamedTuple):
    """What went into the operator at one call site and what came out of it, each (N, C, H, W)."""

    input: Tensor
    output: Tensor


class Visit(NamedTuple):
    """One call of a dispatch node in a forward pass, at the moment at which it happens.

    ``input`` and ``output`` are the tensors themselves, each (N, C, H, W); what follows in the pass may change them in
    place, and whoever is visited must not.
    """

    node: Dispatch
    input: Tensor
    output: Tensor


def check_slots(space: SearchSpace, slots: Iterable[int]) -> dict[int, tuple[AnySite, ...]]:
    """The call sites of these slots.

    Raises:
        UsageError: There is no such slot, or it is a skip.
    """
    wanted: dict[int, tuple[AnySite, ...]] = {}
    for index in slots:
        if not isinstance(index, int) or not 0 <= index < len(space):
            raise UsageError(
                f"there is no slot {index!r}: the space has {count(len(space), 'slot')}", kind="unknown_slot"
            )
        if not space.slots[index].sites:
            raise UsageError(
                f"slot {index} ({space.slots[index].name}) has no features: only the slots of operators have them",
                kind="no_features",
            )
        wanted[index] = space.slots[index].sites
    return wanted


@contextmanager
def recorded(
    net: nn.Module, dispatches: Sequence[Sequence[Dispatch]], wanted: Mapping[int, tuple[AnySite, ...]]
) -> Iterator[dict[int, dict[str, Feature]]]:
    """Inputs and outputs of the wanted slots of ``net`` inside the context; a later forward replaces them."""
    seen: dict[int, dict[str, Feature]] = {index: {} for index in wanted}
    recorders: list[_Recorder] = []
    with ExitStack() as stack:
        for index, sites in wanted.items():
            for dispatch in dispatches[index]:
                names = [site.name for site in sites if site.target == dispatch.site]
                if names:  # norms stand in the same slot
                    recorders.append(_Recorder(names, seen[index]))
                    stack.callback(dispatch.watch(recorders[-1]))

        def begin(*_: object) -> None:
            for recorder in recorders:
                recorder.restart()

        stack.callback(net.register_forward_pre_hook(begin).remove)
        yield seen


@contextmanager
def visited(nodes: Iterable[Dispatch], visitor: Callable[[Visit], None]) -> Iterator[None]:
    """Inside the context ``visitor`` is called at each call of these nodes."""
    with ExitStack() as stack:
        for node in nodes:

            def tell(input: Tensor, output: Tensor, node: Dispatch = node) -> None:
                visitor(Visit(node, input, output))

            stack.callback(node.watch(tell))
        yield


class _Recorder:
    """Writes down the calls of one module, each under the name of its site, in the order of the graph.

    ``restart`` is called where a forward pass begins, because the one before may have failed between two calls.
    """

    def __init__(self, names: Sequence[str], seen: dict[str, Feature]) -> None:
        self.names, self.seen, self.calls = names, seen, 0

    def __call__(self, input: Tensor, output: Tensor) -> None:
        self.seen[self.names[self.calls % len(self.names)]] = Feature(input.clone(), output.clone())
        self.calls += 1

    def restart(self) -> None:
        """The next call is the module's first."""
        self.calls = 0
