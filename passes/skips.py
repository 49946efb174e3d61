"""Find the possible skips of a network: which pairs (t, j) of its main path an add can join, and why others cannot.

The output of node t can be added at node j if t <= j - 2, as in ENAS (Pham et al., arXiv 1802.03268) and in NAR
(arXiv 1905.02341, section 3.2). It is added at the base's own add after node j, or, if there is none, after node j's
normalisation. If shapes differ, it goes through a 1x1 convolution, with the stride that makes the map fit, and
BatchNorm. The base's own residual adds are its base skips; one that cannot be removed stays, with a reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import ceil

from torch import nn
from torch.fx import GraphModule, Node

from narfx.graph.macs import conv_macs, parametrization_macs
from narfx.graph.nodes import call_targets, source_line
from narfx.passes.main_path import MainPath, PathNode, ResidualAdd, find_main_path
from narfx.space.records import Skip, Skipped

__all__ = ["Junction", "Projection", "SkipCandidate", "SkipDomain", "find_skips"]

Shapes = Mapping[Node, tuple[int, ...]]
_PLAIN = (
    nn.Conv2d, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.Identity,
    nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd,
)  # fmt: skip
_FRESH = (nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class Projection:
    """A 1x1 convolution with BatchNorm; ``stride`` is (height, width)."""

    in_channels: int
    out_channels: int
    stride: tuple[int, int]


@dataclass(frozen=True)
class SkipCandidate:
    """A possible skip.

    Attributes:
        skip: The pair (t, j).
        source: The name of the graph node that it reads.
        projection: The convolution that the supernet adds, if shapes differ.
        branch: The names of the nodes of a base skip's own shortcut, in graph order.
        params: Parameters of the projection or of the branch.
        macs: MACs of the same for one sample.
    """

    skip: Skip
    source: str
    projection: Projection | None = None
    branch: tuple[str, ...] = ()
    params: int = 0
    macs: int = 0


@dataclass(frozen=True)
class Junction:
    """A place where skips to one node are added; ``at`` and ``main`` are names of graph nodes.

    A gate is inserted after ``at``; if ``at`` is the base's own add (of ``main`` and a shortcut), the gate replaces it.
    """

    at: str
    main: str | None
    candidates: tuple[SkipCandidate, ...]


@dataclass(frozen=True)
class SkipDomain:
    """The possible skips of a network.

    Attributes:
        nodes: The names of the main path's nodes, node 0 first.
        junctions: The places with their skips.
        impossible: The reason for each pair (t, j) that is not possible.
        fixed: The residual adds of the base that cannot be removed.
    """

    nodes: tuple[str, ...]
    junctions: tuple[Junction, ...]
    impossible: Mapping[tuple[int, int], str] = field(default_factory=dict)
    fixed: tuple[Skipped, ...] = ()

    @property
    def candidates(self) -> list[SkipCandidate]:
        """All possible skips, ordered by target, then by source."""
        found = [candidate for junction in self.junctions for candidate in junction.candidates]
        return sorted(found, key=lambda candidate: (candidate.skip.target, candidate.skip.source))


def find_skips(
    graph_module: GraphModule, shapes: Shapes, *, include_first: bool = False, from_input: bool = True
) -> SkipDomain:
    """Find the nodes of the main path and all possible skips between them.

    Args:
        graph_module: A trace in which every convolution module is a leaf.
        shapes: The output shape of each node for a batch of samples, batch axis first.
        include_first: Whether the network's first convolution is node 1; otherwise it belongs to node 0.
        from_input: Whether skips may start at node 0; otherwise they start at node 1, as in the paper.

    Raises:
        UsageError: The network has no single main path.
    """
    return _Finder(graph_module, shapes, find_main_path(graph_module, include_first=include_first), from_input).domain()


class _Finder:
    def __init__(self, graph_module: GraphModule, shapes: Shapes, path: MainPath, from_input: bool) -> None:
        self.modules = dict(graph_module.named_modules())
        self.calls = call_targets(graph_module)
        self.reads = {str(n.target).rpartition(".")[0] for n in graph_module.graph.nodes if n.op == "get_attr"}
        self.shapes, self.path, self.first = shapes, path, 0 if from_input else 1
        self.outputs = [path.source, *(node.output for node in path.nodes)]
        self.names = ["", *(self._name(node.conv) for node in path.nodes)]
        # This text is a part of skip signatures, and so of fingerprints in files: do not change it.
        self.names[0] = f"what feeds {self.names[1]}"
        self.home = dict.fromkeys(path.before, 0)
        self.home |= {node: index for index, here in enumerate(path.nodes, 1) for node in here.nodes}
        self.overwritten = {node: reason for node in self.outputs if (reason := self._overwritten(node))}
        self.impossible: dict[tuple[int, int], str] = {}
        self.fixed: list[Skipped] = []

    def domain(self) -> SkipDomain:
        for add in self.path.other_adds:
            before = add.add in self.home
            self._fix(add, "it is before node 1" if before else "it is not on the main path")
        junctions = [junction for j, node in enumerate(self.path.nodes, 1) for junction in self._junctions(j, node)]
        return SkipDomain(tuple(self.names), tuple(junctions), self.impossible, tuple(self.fixed))

    def _junctions(self, j: int, node: PathNode) -> list[Junction]:
        """One junction for each base skip to node j; the last one also has the other skips."""
        junctions, taken = [], set[tuple[int, int]]()
        at, main = node.place, None
        for add in node.adds:
            pair = self.home[add.entry], j
            again = pair in taken
            reason = self._stays(add, pair, again)
            taken.add(pair)
            if reason is None:
                junctions.append(Junction(add.add.name, add.main.name, (self._base(add, pair),)))
            else:
                self._fix(add, reason)
                if not again and self.first <= pair[0] <= j - 2:
                    self.impossible[pair] = f"it is a skip of the base that cannot be removed: {reason}"
            at, main = add.add, junctions[-1].main if reason is None else None
        others = []
        for t in range(self.first, j - 1):
            if (t, j) not in taken:
                candidate = self._other((t, j), at)
                if isinstance(candidate, str):
                    self.impossible[t, j] = candidate
                else:
                    others.append(candidate)
        if main is not None:
            own = junctions.pop().candidates
            junctions.append(Junction(at.name, main, (*own, *others)))
        elif others:
            junctions.append(Junction(at.name, None, tuple(others)))
        return junctions

    def _fix(self, add: ResidualAdd, reason: str) -> None:
        where = source_line(add.add)
        self.fixed.append(Skipped(add.add.name, "base_skip", f"a residual add that cannot be removed: {reason}", where))

    def _base(self, add: ResidualAdd, pair: tuple[int, int]) -> SkipCandidate:
        modules = [(node, self.modules[str(node.target)]) for node in add.branch if node.op == "call_module"]
        params = sum(parameter.numel() for _, module in modules for parameter in module.parameters())
        macs = sum(
            conv_macs(self.shapes[node], module.weight) + parametrization_macs(module)
            for node, module in modules
            if isinstance(module, nn.Conv2d)
        )
        through = " through " + ", ".join(str(node.target) for node, _ in modules) if modules else ""
        skip = Skip(*pair, base=True, signature=self._signature(pair) + through)
        return SkipCandidate(skip, add.entry.name, None, tuple(node.name for node in add.branch), params, macs)

    def _name(self, conv: Node) -> str:
        """The name of a site: the module path, with the suffix ``@n`` for calls after the first."""
        if conv.op != "call_module":
            return conv.name
        occurrence = self.calls[str(conv.target)].index(conv)
        return f"{conv.target}@{occurrence}" if occurrence else str(conv.target)

    def _signature(self, pair: tuple[int, int]) -> str:
        return f"{self.names[pair[0]]} -> {self.names[pair[1]]}"

    def _stays(self, add: ResidualAdd, pair: tuple[int, int], again: bool) -> str | None:
        """The reason why a residual add of the base cannot be opened and closed, or ``None``."""
        t, j = pair
        if t > j - 2:
            return f"it skips only node {j}, but a skip (t, j) needs t <= j - 2"
        if t < self.first:
            return "skips from node 0 are switched off"
        if again:
            return f"the base has another add for the same skip ({t}, {j})"
        operands = (*add.add.args, *add.add.kwargs.values())  # positional or keyword does not matter
        if operands not in ((add.main, add.shortcut), (add.shortcut, add.main)):
            return "it does more than add two tensors"
        shape = self.shapes.get(add.add)
        if shape is None or not shape == self.shapes.get(add.main) == self.shapes.get(add.shortcut):
            return "its operands differ in shape"
        changed = self._overwritten(add.add) or _writes(add.add, add.main) or _writes(add.add, add.shortcut)
        if _writes(add.add, add.shortcut) or (changed and not self._own(add.main)):
            return "without it an in-place operation would overwrite a tensor that is also read elsewhere"
        inside = {*add.branch, add.add}
        for node in add.branch:
            if node.op == "call_module":
                target = str(node.target)
                if not isinstance(self.modules[target], _PLAIN):
                    return f"{target} on its shortcut is a {type(self.modules[target]).__name__}"
                if len(self.calls[target]) > 1 or target in self.reads or self._shared(target):
                    return f"{target} on its shortcut is also used elsewhere"
            if any(source not in inside and source is not add.entry for source in node.all_input_nodes):
                return "its shortcut reads a parameter or another tensor"
            if any(user not in inside for user in node.users):
                return "its shortcut is also read elsewhere"
        return None

    def _shared(self, target: str) -> bool:
        """Whether another module holds a parameter of this module."""
        own = {id(parameter) for parameter in self.modules[target].parameters()}
        return any(
            id(parameter) in own
            for name, module in self.modules.items()
            if name != target and not name.startswith(f"{target}.")
            for parameter in module.parameters(recurse=False)
        )

    def _own(self, node: Node) -> bool:
        """Whether a tensor is made by a convolution or a norm and read by one node only."""
        while len(node.users) == 1 and node.op == "call_module":
            module = self.modules[str(node.target)]
            if isinstance(module, _FRESH):
                return True
            if not isinstance(module, (nn.Identity, nn.modules.dropout._DropoutNd)):
                return False
            node = node.all_input_nodes[0]
        return False

    def _overwritten(self, node: Node) -> str:
        """The name of the node that overwrites a tensor in place, or an empty string."""
        for user in node.users:
            module = self.modules.get(str(user.target)) if user.op == "call_module" else None
            if getattr(module, "inplace", False) or _writes(user, node):
                return user.name
            if isinstance(module, (nn.Identity, nn.modules.dropout._DropoutNd)) and (found := self._overwritten(user)):
                return found
        return ""

    def _other(self, pair: tuple[int, int], at: Node) -> SkipCandidate | str:
        """A skip that the base does not have, or the reason why it is not possible."""
        source = self.outputs[pair[0]]
        if source in self.overwritten:
            return f"{self.overwritten[source]} overwrites the output of node {pair[0]} in place"
        given, wanted = self.shapes.get(source, ()), self.shapes.get(at, ())
        if len(given) != 4 or len(wanted) != 4:
            return "one of its ends is not a map of channels, height and width"
        if given == wanted:
            return SkipCandidate(Skip(*pair, signature=self._signature(pair)), source.name)
        sizes = f"{given[2]}x{given[3]} to {wanted[2]}x{wanted[3]}"
        if wanted[2] > given[2] or wanted[3] > given[3]:
            return f"the map would grow from {sizes}"
        height, width = (ceil(old / new) for old, new in zip(given[2:], wanted[2:], strict=True))
        if (ceil(given[2] / height), ceil(given[3] / width)) != wanted[2:]:
            return f"no stride maps {sizes}"
        weights = given[1] * wanted[1]
        return SkipCandidate(
            Skip(
                *pair,
                signature=f"{self._signature(pair)} through conv1x1 {given[1]}->{wanted[1]} stride {height}x{width}",
            ),
            source.name,
            Projection(given[1], wanted[1], (height, width)),
            params=weights + 2 * wanted[1],
            macs=weights * wanted[0] * wanted[2] * wanted[3],
        )


def _writes(user: Node, tensor: Node) -> bool:
    """Whether a call writes into its operand ``tensor``."""
    if user.kwargs.get("inplace", False) is True:
        return True
    if (user.args[0] if user.args else user.kwargs.get("input")) is not tensor:
        return False
    name = getattr(user.target, "__name__", str(user.target))
    if user.op == "call_method":
        return name.endswith("_") and not name.endswith("__")
    own = getattr(user.target, "__module__", "") == "_operator" and (name == "setitem" or name.startswith("i"))
    written = own and name not in ("is_", "is_not", "index", "inv", "invert", "indexOf")
    return user.op == "call_function" and (written or (name.endswith("_") and not name.endswith("__")))
