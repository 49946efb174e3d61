"""Find the main path of a traced graph: its convolutions in order, and the residual adds on it.

Each node has one predecessor on the main path. Where several tensors join, the predecessor is the last node that all
paths from the input pass (the immediate dominator). A residual add is the exception: if one branch is a shortcut (no
convolution, or one 1x1 convolution) and the other branch has the convolutions, the main path follows the convolutions.
So three things are not on the main path: the projection of a shortcut, a gate (squeeze and excitation), and parallel
convolutions whose outputs are concatenated. Module names are not used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from narfx.errors import UsageError
from narfx.graph.nodes import source_line
from narfx.passes.blocks import is_residual_add

__all__ = ["MainPath", "PathNode", "ResidualAdd", "find_main_path"]

_F = nn.functional
_CONVS = {torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose2d, _F.conv2d, _F.conv_transpose2d}
_CONCATENATIONS = {torch.cat, torch.concat, torch.concatenate, torch.stack}
_ACTIVATIONS = {
    "relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "prelu", "elu", "elu_", "celu", "selu", "gelu", "silu",
    "mish", "sigmoid", "sigmoid_", "tanh", "tanh_", "hardtanh", "hardtanh_", "hardswish", "hardsigmoid", "softplus",
}  # fmt: skip
_NORMS = {"batch_norm", "group_norm", "instance_norm", "layer_norm"}
_POOLS = {_F.max_pool2d, _F.avg_pool2d, torch.max_pool2d}


@dataclass(frozen=True)
class ResidualAdd:
    """An add on the main path.

    Attributes:
        add: The add.
        main: Its operand on the main path.
        shortcut: Its other operand.
        entry: The node where the two branches split.
        branch: The nodes of the shortcut, in graph order.
    """

    add: Node
    main: Node
    shortcut: Node
    entry: Node
    branch: tuple[Node, ...]


@dataclass(frozen=True)
class PathNode:
    """A convolution of the main path, with the normalisation and activation that follow.

    Attributes:
        conv: The convolution.
        place: The normalisation after it, or the convolution itself if there is none.
        adds: The residual adds after ``place``, in order.
        output: The node that the next part of the path reads.
        nodes: All nodes of the path from ``conv`` to the next convolution (excluded).
    """

    conv: Node
    place: Node
    adds: tuple[ResidualAdd, ...]
    output: Node
    nodes: tuple[Node, ...]


@dataclass(frozen=True)
class MainPath:
    """The main path of a graph.

    Attributes:
        source: The graph node that feeds the first path node; it is node 0.
        before: All nodes of the path before the first path node.
        nodes: The path nodes; the first is node 1.
        other_adds: Residual adds before node 1 or not on the path.
    """

    source: Node
    before: tuple[Node, ...]
    nodes: tuple[PathNode, ...]
    other_adds: tuple[ResidualAdd, ...]


def find_main_path(graph_module: GraphModule, *, include_first: bool = False) -> MainPath:
    """Find the single path from input to output that has the network's convolutions.

    The network's first convolution, its stem, is not a path node unless ``include_first``; it belongs to node 0.

    Raises:
        UsageError: There is no such path (``kind="no_main_path"``): no convolution except the stem is on it, or more
            convolutions are on parallel branches than on the path.
    """
    ways = _Ways(graph_module)
    chain = ways.to_output()
    convs = [index for index, node in enumerate(chain) if ways.is_conv(node)]
    beside = ways.side_by_side - set(chain)
    if len(beside) > len(convs):
        meeting = ways.first_meeting
        raise UsageError(
            f"the network has no single main path for skips: {len(beside)} of its convolutions are on parallel "
            f"branches that join at {meeting}, and only {len(convs)} on one path; leave out --search-skips",
            where=meeting,
            kind="no_main_path",
        )
    stem = None
    if convs and not include_first and chain[convs[0]] is ways.first_conv:
        stem, convs = convs[0], convs[1:]
    if not convs:
        raise UsageError(
            "the network has no single main path for skips: no convolution"
            + (" except the first" if stem is not None else "")
            + " is on the path from its input to its output; leave out --search-skips",
            kind="no_main_path",
        )
    entries = {add.entry for add in ways.adds.values()}
    nodes = [
        _path_node(ways, chain[start:end], entries) for start, end in zip(convs, [*convs[1:], len(chain)], strict=True)
    ]
    before = chain[: convs[0]]
    read = [node for node in before if node in entries]
    if read:
        source = read[-1]
    else:
        source = before[-1] if stem is None else _path_node(ways, chain[stem : convs[0]], entries).output
    placed = {add.add for node in nodes for add in node.adds}
    others = tuple(add for add in ways.adds.values() if add.add not in placed)
    return MainPath(source, tuple(before), tuple(nodes), others)


def _is_output(node: Node) -> bool:
    """The output node, or the container of several outputs (an ``OrderedDict``, a named tuple)."""
    return node.op == "output" or isinstance(node.target, type)


def _path_node(ways: _Ways, nodes: list[Node], entries: set[Node]) -> PathNode:
    """The path node of the convolution ``nodes[0]``."""
    conv, *after = nodes
    place, normalised = conv, False
    for node in after:
        if ways.is_norm(node):
            place, normalised = node, True
        if normalised or not ways.is_passive(node):
            break
    adds = tuple(ways.adds[node] for node in after if node in ways.adds)
    output = adds[-1].add if adds else place
    first = nodes.index(output) + 1
    read = [node for node in nodes[first - 1 :] if node in entries]
    if read:
        return PathNode(conv, place, adds, read[-1], tuple(nodes))
    normalised |= bool(adds)
    for node in nodes[first:]:
        late = ways.is_norm(node) and not normalised
        normalised |= late
        if not (late or ways.is_activation(node) or ways.is_passive(node) or ways.is_pool(node)):
            break
        output = node
    return PathNode(conv, place, adds, output, tuple(nodes))


class _Ways:
    """For each node its predecessor on the main path."""

    def __init__(self, graph_module: GraphModule) -> None:
        self.modules = dict(graph_module.named_modules())
        self.root = graph_module
        self.adds: dict[Node, ResidualAdd] = {}
        self.side_by_side: set[Node] = set()
        self.first_meeting = ""
        self.first_conv: Node | None = None
        self._parent: dict[Node, Node | None] = {}
        self._depth: dict[Node, int] = {}
        self._back: dict[Node, list[Node]] = {}
        self._order = {node: index for index, node in enumerate(graph_module.graph.nodes)}
        for node in graph_module.graph.nodes:
            self._take(node)
        self._output = next(node for node in graph_module.graph.nodes if node.op == "output")

    def to_output(self) -> list[Node]:
        """The main path from input to output, without the output node itself."""
        chain, node = [], self._parent.get(self._output)
        while node is not None:
            if not _is_output(node):
                chain.append(node)
            node = self._parent[node]
        return chain[::-1]

    def _take(self, node: Node) -> None:
        inputs = [source for source in node.all_input_nodes if source in self._depth]
        if node.op != "placeholder" and (not inputs or _is_size(node)):
            return  # not data flow: a constant, a read of a parameter, a shape and values computed from it
        if self.first_conv is None and self.is_conv(node):
            self.first_conv = node
        parent = self._meet(inputs)
        self._back[node] = inputs
        if len(inputs) > 1 and parent is not None:
            add = self._residual(node, inputs, parent) if is_residual_add(node) and len(inputs) == 2 else None
            if add is not None:
                self.adds[node], self._back[node], parent = add, [add.main], add.main
            elif is_residual_add(node) or node.target in _CONCATENATIONS or _is_output(node):
                found = {n for operand in inputs for n in self._between(parent, operand) if self.is_conv(n)}
                if found - self.side_by_side and not self.first_meeting:
                    self.first_meeting = source_line(node) or node.name
                self.side_by_side |= found
        self._parent[node] = parent
        self._depth[node] = 0 if parent is None else self._depth[parent] + 1

    def _meet(self, nodes: Iterable[Node]) -> Node | None:
        """The last node that all paths from the input to these nodes pass, or ``None``."""
        met: Node | None = None
        for index, node in enumerate(nodes):
            other: Node | None = node
            if index == 0:
                met = node
            while met is not other and met is not None and other is not None:
                if self._depth[met] >= self._depth[other]:
                    met = self._parent[met]
                else:
                    other = self._parent[other]
            met = met if met is other else None
        return met

    def _between(self, entry: Node, exit_: Node) -> list[Node]:
        """The nodes on the paths from ``entry`` (excluded) to ``exit_`` (included), unordered."""
        found, waiting = {entry: None}, [exit_]
        while waiting:
            node = waiting.pop()
            if node not in found:
                found[node] = None
                waiting += self._back[node]
        return list(found)[1:]

    def _residual(self, add: Node, operands: list[Node], entry: Node) -> ResidualAdd | None:
        """The residual add, if exactly one of its branches is a shortcut; otherwise ``None``."""
        branches = [self._between(entry, operand) for operand in operands]
        convs = [[node for node in branch if self.is_conv(node)] for branch in branches]
        short = [len(found) <= 1 and all(map(self._is_pointwise, found)) for found in convs]
        for shortcut, main in ((0, 1), (1, 0)):
            if short[shortcut] and (len(convs[main]) > len(convs[shortcut]) or not short[main]):
                order = tuple(sorted(branches[shortcut], key=self._order.__getitem__))
                return ResidualAdd(add, operands[main], operands[shortcut], entry, order)
        return None

    def is_conv(self, node: Node) -> bool:
        """Whether a node calls a convolution, as a module or as a function."""
        return self._calls(node, nn.modules.conv._ConvNd) or (node.op == "call_function" and node.target in _CONVS)

    def _is_pointwise(self, node: Node) -> bool:
        weight: Tensor | None = None
        if node.op == "call_module":
            weight = getattr(self.modules[str(node.target)], "weight", None)
        else:
            read = node.args[1] if len(node.args) > 1 else node.kwargs.get("weight")
            if isinstance(read, Node) and read.op == "get_attr":
                owner, _, name = str(read.target).rpartition(".")
                weight = getattr(self.root.get_submodule(owner), name)
        return weight is not None and all(size == 1 for size in weight.shape[2:])

    def is_norm(self, node: Node) -> bool:
        """Whether a node normalises."""
        norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)
        return self._calls(node, norms) or _function(node, _NORMS)

    def is_activation(self, node: Node) -> bool:
        """Whether a node is an elementwise activation."""
        known = self.modules.get(str(node.target)) if node.op == "call_module" else None
        return (known is not None and type(known).__module__ == nn.modules.activation.__name__) or _function(
            node, _ACTIVATIONS
        )

    def is_passive(self, node: Node) -> bool:
        """Whether a node returns its input unchanged in eval mode (identity, dropout)."""
        return self._calls(node, (nn.Identity, nn.modules.dropout._DropoutNd)) or _function(node, {"dropout"})

    def is_pool(self, node: Node) -> bool:
        """Whether a node is a local pooling."""
        local = (nn.modules.pooling._MaxPoolNd, nn.modules.pooling._AvgPoolNd)
        return self._calls(node, local) or (node.op == "call_function" and node.target in _POOLS)

    def _calls(self, node: Node, kinds: type | tuple[type, ...]) -> bool:
        return node.op == "call_module" and isinstance(self.modules[str(node.target)], kinds)


def _is_size(node: Node) -> bool:
    if node.op == "call_method":
        return node.target in ("size", "dim", "numel", "stride")
    known = ("shape", "ndim", "device", "dtype")
    return node.op == "call_function" and node.target is getattr and node.args[1] in known


def _function(node: Node, names: set[str]) -> bool:
    """Whether a node calls a function or a method with one of these names."""
    target: str | Callable[..., object] = node.target
    if node.op == "call_function":
        return getattr(target, "__name__", "") in names
    return node.op == "call_method" and target in names
