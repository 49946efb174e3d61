"""Networks of cells: DARTS's search network, and the network of a genotype (arXiv 1806.09055).

A stem, then cells in a row, each of which reads the two before it; those at a third and at two thirds halve the map and
double the channels. A cell sends its inputs through a 1x1 convolution first. Then global average pooling and a linear
layer. The stem for small images is a 3x3 convolution; that for ImageNet reduces 224 x 224 to 28 x 28.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from narfx.errors import UsageError
from narfx.models.cell_edge import CellEdge, Fixed
from narfx.models.cell_operators import FactorizedReduce, read_operators
from narfx.models.cell_spaces import S1
from narfx.models.options import check_sizes
from narfx.space.genotype import Genotype, parse_genotype, read_genotype
from narfx.space.published import PICTURES, PUBLISHED
from narfx.support.schema import validated

__all__ = ["Cell", "CellNetwork", "darts", "darts_search", "find_genotype"]

_NODES = 4
_BASES = ("sep_conv_3x3", "nor_conv_3x3", "dil_conv_3x3", "skip_connect")
"""What an edge of the search network has, if it is offered: the first of these."""

Operand = tuple[int, int, str, Sequence[str]]
"""An edge: the node that it reads, the node that it adds to, its operator, and what else may stand there."""


class Cell(nn.Module):
    """Two 1x1 convolutions, the edges, and the concatenation of nodes.

    Args:
        kind: ``normal`` or ``reduce``; the edges from an input of a ``reduce`` cell have stride 2.
        operands: The edges, those of one node one after another.
        concat: The nodes that are concatenated.
        before: The channels of the two inputs.
        channels: Those of a node.
        reduced: Whether the cell before halved the map, which the other input then has to do.
        affine: Whether BatchNorms have a scale and a shift.
        options: ``pool_norm`` and ``drop_path`` of :class:`~narfx.models.cell_edge.CellEdge`.
    """

    def __init__(
        self,
        kind: str,
        operands: Sequence[Operand],
        concat: Sequence[int],
        before: tuple[int, int],
        channels: int,
        reduced: bool,
        affine: bool,
        **options: Any,
    ) -> None:
        super().__init__()
        self.width = len(concat) * channels
        self.concat, self.nodes = tuple(concat), max(node for _, node, _, _ in operands)
        self.preprocess0 = FactorizedReduce(before[0], channels, affine) if reduced else _conv1x1(
            before[0], channels, affine
        )  # fmt: skip
        self.preprocess1 = _conv1x1(before[1], channels, affine)
        self.edges = nn.ModuleDict()
        self.reads: dict[int, list[tuple[int, str]]] = {}
        for source, node, own, others in operands:
            again = f"{source}_{node}" in self.edges
            key = f"{source}_{node}" + ("_again" if again else "")
            slot = f"{kind} {source}->{node}" + (" again" if again else "")
            stride = 2 if kind == "reduce" and source < 2 else 1
            self.edges[key] = CellEdge(own, others, channels, stride, slot, affine=affine, **options)
            self.reads.setdefault(node, []).append((source, key))

    def forward(self, before: Tensor, last: Tensor) -> Tensor:
        """Map the outputs of the two cells before to (N, width, H, W)."""
        nodes = [self.preprocess0(before), self.preprocess1(last)]
        for node in range(2, self.nodes + 1):
            first, *others = (self.edges[key](nodes[source]) for source, key in self.reads[node])
            total = first
            for other in others:
                total = total + other
            nodes.append(total)
        return torch.cat([nodes[node] for node in self.concat], 1)


def _conv1x1(in_channels: int, channels: int, affine: bool) -> nn.Module:
    conv = nn.Conv2d(in_channels, channels, 1, bias=False)
    return nn.Sequential(nn.ReLU(), conv, nn.BatchNorm2d(channels, affine=affine))


class CellNetwork(nn.Module):
    """A row of cells; see the module. ``genotype`` is that of the network, or ``None`` for a search network."""

    def __init__(
        self,
        cells: Mapping[str, tuple[Sequence[Operand], Sequence[int]]],
        count: int,
        channels: int,
        num_classes: int,
        in_channels: int,
        stem: str,
        *,
        genotype: Genotype | None = None,
        auxiliary: bool = False,
        affine: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        check_sizes(cells=count, channels=channels, num_classes=num_classes, in_channels=in_channels)
        self.genotype = genotype
        imagenet = _is_imagenet(stem)
        self.stem = _imagenet_stem(in_channels, channels) if imagenet else _cifar_stem(in_channels, channels)
        self.stem1 = _second_stem(channels) if imagenet else None
        before, last = (channels, channels) if imagenet else (3 * channels, 3 * channels)
        reduced = imagenet
        self.cells = nn.ModuleList()
        reductions = {count // 3, 2 * count // 3} if count > 2 else set[int]()
        for index in range(count):
            kind = "reduce" if index in reductions else "normal"
            channels *= 2 if kind == "reduce" else 1
            operands, concat = cells[kind]
            cell = Cell(kind, operands, concat, (before, last), channels, reduced, affine, **options)
            self.cells.append(cell)
            reduced, before, last = kind == "reduce", last, cell.width
            if index == 2 * count // 3:
                self.auxiliary_after = index
                self.auxiliary = _auxiliary_head(last, num_classes, 2 if imagenet else 3) if auxiliary else None
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(last, num_classes)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Map images (N, in_channels, H, W) to logits (N, num_classes).

        In training mode a network with an auxiliary head returns the head's logits too.
        """
        before = self.stem(x)
        last = before if self.stem1 is None else self.stem1(before)
        extra = None
        for index, cell in enumerate(self.cells):
            before, last = last, cell(before, last)
            if self.auxiliary is not None and self.training and index == self.auxiliary_after:
                extra = self.auxiliary(last)
        logits: Tensor = self.classifier(torch.flatten(self.pool(last), 1))
        return logits if extra is None else (logits, extra)


def _is_imagenet(stem: str) -> bool:
    if stem not in ("cifar", "imagenet"):
        raise UsageError(f"stem is cifar or imagenet, not {stem!r}", where="stem", kind="model_arguments")
    return stem == "imagenet"


def _cifar_stem(in_channels: int, channels: int) -> nn.Module:
    return Fixed(nn.Conv2d(in_channels, 3 * channels, 3, padding=1, bias=False), nn.BatchNorm2d(3 * channels))


def _imagenet_stem(in_channels: int, channels: int) -> nn.Module:
    return Fixed(
        nn.Conv2d(in_channels, channels // 2, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels // 2),
        nn.ReLU(),
        nn.Conv2d(channels // 2, channels, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(channels),
    )


def _second_stem(channels: int) -> nn.Module:
    conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False)
    return Fixed(nn.ReLU(), conv, nn.BatchNorm2d(channels))


def _auxiliary_head(channels: int, num_classes: int, stride: int) -> nn.Module:
    """The head at two thirds of the depth; it expects maps of 8x8 (CIFAR, stride 3) or 7x7 (ImageNet, stride 2)."""
    return Fixed(
        nn.ReLU(),
        nn.AvgPool2d(5, stride, count_include_pad=False),
        nn.Conv2d(channels, 128, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Conv2d(128, 768, 2, bias=False),
        nn.BatchNorm2d(768),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(768, num_classes),
    )


def find_genotype(given: Any) -> Genotype:
    """A genotype by its published name, as a file, as text or as a dictionary.

    Raises:
        UsageError: There is no such name or file, or the genotype is not sound.
    """
    if isinstance(given, Genotype):
        return given
    if isinstance(given, Mapping):
        return validated(Genotype, dict(given), "genotype", kind="bad_genotype")
    if not isinstance(given, str):
        raise UsageError(f"genotype is a name, a file or its four lists, not {given!r:.60}", kind="model_arguments")
    if given.lower() in PUBLISHED:
        return PUBLISHED[given.lower()]
    if given.lower() in PICTURES:
        raise UsageError(
            f"{given} is published as a picture only ({PICTURES[given.lower()]}): read it off, and give a file",
            where="genotype",
            kind="unknown_genotype",
        )
    if "normal" in given:
        return parse_genotype(given)
    if Path(given).suffix or Path(given).is_file():
        return read_genotype(given)
    raise UsageError(
        f"there is no genotype {given!r}: give a file, or one of {', '.join(PUBLISHED)}",
        where="genotype",
        kind="unknown_genotype",
    )


def darts(
    genotype: Any = "darts_v2",
    cells: int = 20,
    channels: int = 36,
    num_classes: int = 10,
    in_channels: int = 3,
    stem: str = "cifar",
    auxiliary: bool = False,
    drop_path: float = 0.0,
    operators: str | Sequence[str] = "darts",
) -> CellNetwork:
    """The network of a genotype (DARTS, arXiv 1806.09055), whose operators may be refined at fixed edges.

    Args:
        genotype: A published name, a file, or the four lists.
        cells: How many.
        channels: Those of a node in the first cells.
        num_classes: Length of the logits.
        in_channels: Channels of the image.
        stem: ``cifar`` or ``imagenet``.
        auxiliary: Whether training mode gives the logits of an auxiliary head too.
        drop_path: The probability with which an edge is dropped for a sample in training mode.
        operators: What may stand on an edge beside its own operator; a set or a list.

    Raises:
        UsageError: An argument is wrong.
    """
    if not isinstance(drop_path, (int, float)) or not 0 <= drop_path < 1:
        raise UsageError(
            f"drop_path is a probability below 1, not {drop_path!r}", where="drop_path", kind="model_arguments"
        )
    found, offered = find_genotype(genotype), read_operators(operators)
    kinds = {
        kind: (
            [(source, 2 + index // 2, own, offered) for index, (own, source) in enumerate(found.edges(kind))],
            found.concat(kind),
        )
        for kind in ("normal", "reduce")
    }
    return CellNetwork(
        kinds, cells, channels, num_classes, in_channels, stem,
        genotype=found, auxiliary=auxiliary, drop_path=float(drop_path),
    )  # fmt: skip


def darts_search(
    operators: str | Sequence[str] = "darts",
    cells: int = 8,
    channels: int = 16,
    num_classes: int = 10,
    in_channels: int = 3,
    stem: str = "cifar",
    affine: bool = False,
) -> CellNetwork:
    """The search network of DARTS (arXiv 1806.09055): cells of four nodes and 14 edges, each of which is a site.

    Args:
        operators: A set (``darts``; ``s1`` to ``s4`` of arXiv 1909.09656) or a list.
        cells: How many.
        channels: Those of a node in the first cells.
        num_classes: Length of the logits.
        in_channels: Channels of the image.
        stem: ``cifar`` or ``imagenet``.
        affine: Whether BatchNorms have a scale and a shift; those of DARTS's search network have none.

    Raises:
        UsageError: An argument is wrong.
    """
    edges = [(source, node) for node in range(2, 2 + _NODES) for source in range(node)]
    offered = S1 if operators == "s1" else dict.fromkeys(S1, [read_operators(operators)] * len(edges))
    kinds = {
        kind: (
            [(source, node, _base(names), names) for (source, node), names in zip(edges, offered[kind], strict=True)],
            range(2, 2 + _NODES),
        )
        for kind in ("normal", "reduce")
    }
    return CellNetwork(kinds, cells, channels, num_classes, in_channels, stem, affine=affine, pool_norm=True)


def _base(names: Iterable[str]) -> str:
    offered = list(names)
    return next((name for name in (*_BASES, *offered) if name in offered and name not in ("none", "noise")), offered[0])
