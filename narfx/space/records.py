"""Sites, skips and slots, as plain records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from narfx.errors import UsageError
from narfx.support.text import count

__all__ = ["AnySite", "Cost", "DeclaredSite", "Site", "Skip", "Skipped", "Slot", "Vector"]


Vector = tuple[int, ...]


Cost = Mapping[str, float]


@dataclass(frozen=True)
class Site:
    """One call of a convolution in the traced graph.

    ``target`` is the module path, ``occurrence`` counts the calls of that module in graph order. Shapes are those of
    one sample, ``(channels, height, width)``. ``own_params`` counts the parameters of the site's own call where they
    may be other than a plain convolution's (a parametrization has its own), and ``more_macs`` the MACs with which a
    parametrization computes the weight. ``images`` is the batch of the call for one sample: more than 1 where the model
    folds frames, pairs or windows into the batch axis.
    """

    target: str
    occurrence: int
    kind: str
    in_channels: int
    out_channels: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    bias: bool
    padding_mode: Literal["zeros", "reflect", "replicate", "circular"]
    input_shape: tuple[int, int, int]
    output_shape: tuple[int, int, int]
    where: str = ""
    own_params: int | None = None
    images: int = 1
    more_macs: int = 0

    @property
    def name(self) -> str:
        """The module path, followed by ``@n`` for the calls after the first."""
        return _call_name(self.target, self.occurrence)

    def signature(self) -> str:
        """The geometry in one line, the same for every trace of one model."""
        return (
            f"{self.name} {self.kind} {self.in_channels}->{self.out_channels} kernel {_by(self.kernel)} "
            f"stride {_by(self.stride)} padding {_by(self.padding)} dilation {_by(self.dilation)} "
            f"groups {self.groups} bias {self.bias} mode {self.padding_mode} "
            f"shape {_by(self.input_shape)}->{_by(self.output_shape)}"
            + (f" images {self.images}" if self.images > 1 else "")
        )

    def geometry(self) -> dict[str, Any]:
        """What a report shows of the convolution, in plain values."""
        return {
            "kind": self.kind,
            "in_channels": self.in_channels,
            "out_channels": self.out_channels,
            "kernel": list(self.kernel),
            "stride": list(self.stride),
            "groups": self.groups,
            "input_shape": list(self.input_shape),
            "output_shape": list(self.output_shape),
        }


@dataclass(frozen=True)
class DeclaredSite:
    """One call of a module that declares its own candidates, such as an edge of a cell.

    ``target`` and ``occurrence`` are those of :class:`Site`, ``kind`` is a word for what the module is.
    ``candidates`` names what may stand here; index 0 is what the model has. Shapes are those of one sample:
    ``input_shapes`` has one for each tensor that the call takes. ``own_params`` and ``own_macs`` are the cost of what
    the model has, where it is known. ``images`` is as in :class:`Site`. Sites with the same ``slot`` share one choice;
    without it a site follows its own (all calls of one module follow one choice).
    """

    target: str
    occurrence: int
    kind: str
    candidates: tuple[str, ...]
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    where: str = ""
    own_params: int | None = None
    own_macs: int | None = None
    images: int = 1
    slot: str | None = None

    @property
    def name(self) -> str:
        """The module path, followed by ``@n`` for the calls after the first."""
        return _call_name(self.target, self.occurrence)

    def signature(self) -> str:
        """Kind and shapes in one line, the same for every trace of one model."""
        shapes = f"{'+'.join(map(_by, self.input_shapes))}->{_by(self.output_shape)}"
        return f"{self.name} {self.kind} shape {shapes}" + (f" images {self.images}" if self.images > 1 else "")

    def geometry(self) -> dict[str, Any]:
        """What a report shows of the site, in plain values."""
        return {
            "kind": self.kind,
            "input_shapes": [list(shape) for shape in self.input_shapes],
            "output_shape": list(self.output_shape),
        }


AnySite = Site | DeclaredSite
"""A place where one thing of several may stand: a convolution, or a module that declares its candidates."""


def _call_name(target: str, occurrence: int) -> str:
    return target if occurrence == 0 else f"{target}@{occurrence}"


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


@dataclass(frozen=True)
class Skipped:
    """A call or module that is not refined: a stable reason code, the reason in words, and the source line."""

    name: str
    code: str
    reason: str
    where: str


@dataclass(frozen=True)
class Skip:
    """A possible skip of the skip domain: the output of node ``source`` is added at node ``target``.

    Nodes are the convolutions on the main path, counted from 1; node 0 is what feeds node 1. ``base`` says whether
    the base network has this skip, ``signature`` names its ends and what lies between them.
    """

    source: int
    target: int
    base: bool = False
    signature: str = ""

    @property
    def choices(self) -> tuple[str, str]:
        """The names of the two entries: 0 is as the base has it, 1 the other way."""
        return ("open", "closed") if self.base else ("closed", "open")


@dataclass(frozen=True)
class Slot:
    """One entry of a vector: a set of sites that share one choice, a skip, or anything else with named choices.

    ``choices`` names what each entry means; index 0 is what the base has, so that a vector of zeros is the base in
    every space. A slot of convolutions has the space's operators, a slot with a ``skip`` its two states; any other
    slot has a list of its own, of any length.

    ``legal`` holds the indices that may be chosen, in ascending order: of a traced model 0 is always among them, in a
    restricted space it may be missing. ``refused`` has the reason for each index that was never legal. ``costs`` has
    for each metric one absolute cost for each choice; index 0 has the base's cost even where it is not legal, and
    where another choice was never legal, its cost means nothing.
    """

    name: str
    sites: tuple[AnySite, ...]
    legal: tuple[int, ...]
    refused: Mapping[int, str]
    costs: Mapping[str, tuple[float, ...]]
    skip: Skip | None = None
    choices: tuple[str, ...] = field(kw_only=True)

    def __post_init__(self) -> None:
        if wrong := _contradiction(self):
            raise UsageError(f"slot {self.name}: {wrong}", where=self.name, kind="bad_slot")


def _contradiction(slot: Slot) -> str | None:
    """What does not go together in a slot, in words."""
    known = len(slot.choices)
    if not slot.legal or slot.legal[0] < 0 or slot.legal[-1] >= known or [*slot.legal] != sorted({*slot.legal}):
        return f"legal has ascending indices of its {known} choices, at least one, not {slot.legal}"
    for metric, costs in slot.costs.items():
        if len(costs) != known:
            return f"{metric} has {len(costs)} costs, but there are {count(known, 'choice')}"
    if slot.skip is not None and slot.choices != slot.skip.choices:
        return f"the choices of this skip are {', '.join(slot.skip.choices)}, not {', '.join(slot.choices)}"
    return None
