"""Sites, skips and slots, as plain records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["Cost", "Site", "Skip", "Skipped", "Slot", "Vector"]


Vector = tuple[int, ...]


Cost = Mapping[str, float]


@dataclass(frozen=True)
class Site:
    """One call of a convolution in the traced graph.

    ``target`` is the module path, ``occurrence`` counts the calls of that module in graph order. Shapes are those of
    one sample, ``(channels, height, width)``. ``own_params`` counts the parameters of the site's own call where they
    may be other than a plain convolution's (a parametrization has its own). ``images`` is the batch of the call for
    one sample: more than 1 where the model folds frames, pairs or windows into the batch axis.
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

    @property
    def name(self) -> str:
        """The module path, with ``@n`` behind it for the calls after the first."""
        return self.target if self.occurrence == 0 else f"{self.target}@{self.occurrence}"

    def signature(self) -> str:
        """The geometry in one line, the same for every trace of one model."""
        pair = "{0[0]}x{0[1]}".format
        return (
            f"{self.name} {self.kind} {self.in_channels}->{self.out_channels} kernel {pair(self.kernel)} "
            f"stride {pair(self.stride)} padding {pair(self.padding)} dilation {pair(self.dilation)} "
            f"groups {self.groups} bias {self.bias} mode {self.padding_mode} "
            f"shape {'x'.join(map(str, self.input_shape))}->{'x'.join(map(str, self.output_shape))}"
            + (f" images {self.images}" if self.images > 1 else "")
        )


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


@dataclass(frozen=True)
class Slot:
    """A set of sites that share one choice, or a skip that is there or not.

    A slot with a ``skip`` has no sites and two choices: 0 is as the base has it, 1 the other way (closed, where the
    base has it open). So a vector of zeros is the base in every space.

    ``legal`` holds the operator indices that may stand here (0, the base, always among them), ``refused`` the reason
    for each of the others, and ``costs`` the absolute cost of the slot's sites for each metric by operator index
    (meaningless where the operator is not legal).
    """

    name: str
    sites: tuple[Site, ...]
    legal: tuple[int, ...]
    refused: Mapping[int, str]
    costs: Mapping[str, tuple[float, ...]]
    skip: Skip | None = None
