"""Find the sites of a traced graph: the convolutions that can be refined, and the reason for each other one."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate
from math import prod

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from narfx.graph.macs import parametrization_macs
from narfx.graph.nodes import call_targets, is_kernel, pair, source_line
from narfx.passes.lift_functional import FunctionalConv, read_functional
from narfx.space.records import Site, Skipped

__all__ = ["find_sites", "frozen_sites"]

_FUNCTIONAL = {
    torch.conv1d, torch.conv2d, torch.conv3d, torch.conv_transpose2d,
    nn.functional.conv1d, nn.functional.conv2d, nn.functional.conv3d, nn.functional.conv_transpose2d,
}  # fmt: skip


def find_sites(
    graph_module: GraphModule,
    shapes: Mapping[Node, tuple[int, ...]],
    *,
    kernels: Collection[int] = (3,),
    include_first: bool = False,
) -> tuple[list[Site], list[Skipped]]:
    """Find all convolution calls, in graph order.

    Args:
        graph_module: A trace in which every convolution module is a leaf.
        shapes: The output shape of each node, batch axis first.
        kernels: The square kernel sizes that make a site.
        include_first: Whether the network's first convolution may be a site.

    Returns:
        The sites (one for each call of a convolution that can be refined), and each other convolution with the reason.
    """
    modules = dict(graph_module.named_modules())
    homes, called = _homes(graph_module), call_targets(graph_module)
    functional = read_functional(graph_module)
    sites: list[Site] = []
    skipped: dict[str, Skipped] = {}
    calls: dict[str, int] = {}
    first: str | None = None
    for node in graph_module.graph.nodes:
        own = set[str]()
        module: nn.Module | None
        if node.op == "call_function" and node.target in _FUNCTIONAL:
            call = functional.get(node, "only conv2d makes a site")
            if isinstance(call, str):
                first = first or node.name
                code, reason = "functional_call", f"a functional call: {call}"
                if kind := _integers(graph_module, node):
                    code, reason = "dtype", f"its weight is computed from {kind}, which is not floating point"
                skipped[node.name] = Skipped(node.name, code, reason, source_line(node))
                continue
            target, module = call.target, call.module(graph_module)
            own = {f"a read of {call.weight}", f"a read of {call.bias}"}
            own |= {str(path).rpartition(".")[0] for path in (call.weight, call.bias) if path}
        else:
            target, module = str(node.target), modules.get(str(node.target)) if node.op == "call_module" else None
        if not isinstance(module, nn.modules.conv._ConvNd):
            continue
        first = first or target
        occurrence = calls[target] = calls.get(target, -1) + 1
        code, reason = _refusal(module, kernels, is_first=target == first and not include_first)
        places = {home for p in module.parameters() for home in homes[id(p)]} - own
        others = sorted(p for p in places if p != target and not p.startswith(f"{target}.parametrizations."))
        if not code and others:
            code, reason = (
                "shared_weight",
                f"its weights are also used by {others[0] or 'the model'}, which a swap would not change",
            )
        around = next((path for path in accumulate(target.split(".")[:-1], "{}.{}".format) if path in called), None)
        if not code and isinstance(modules.get(around or ""), nn.modules.conv._ConvNd):
            code, reason = (
                "shared_weight",
                f"its weights are also used by the calls of {around}, which a swap would not change",
            )
        if not code and around:
            code, reason = "opaque", f"it may also be used inside {around}, which is opaque"
        if code:
            skipped.setdefault(target, Skipped(target, code, reason, source_line(node)))
        else:
            assert isinstance(module, nn.Conv2d)
            sites.append(_site(node, module, target, occurrence, shapes))
    _add_uncalled(graph_module, skipped, calls)
    return sites, list(skipped.values())


def frozen_sites(graph_module: GraphModule, sites: Sequence[Site]) -> list[str]:
    """The targets of the sites whose weight is not trained (``requires_grad`` is off), each once."""
    calls = {call.target: call for call in read_functional(graph_module).values() if isinstance(call, FunctionalConv)}
    found: dict[str, None] = {}
    for site in sites:
        call = calls.get(site.target)
        module = graph_module.get_submodule(site.target) if call is None else call.module(graph_module)
        if not any(parameter.requires_grad for parameter in module.parameters()):
            found[site.target] = None
    return list(found)


def _refusal(module: nn.Module, kernels: Collection[int], *, is_first: bool) -> tuple[str, str]:
    """A reason code and a sentence, or two empty strings if the module is a site."""
    known = type(module).__name__
    if not isinstance(module, nn.Conv2d):
        return "not_conv2d", f"a {known}, not a Conv2d"
    weight = module._parameters.get("weight", next(module.parameters(), None))
    if weight is not None and not weight.is_floating_point():
        return "dtype", f"its weight is {weight.dtype}, not floating point"
    if any(getattr(type(module), name) is not getattr(nn.Conv2d, name) for name in ("forward", "_conv_forward")):
        return "subclass", f"a {known}, a subclass of Conv2d with its own forward"
    if "forward" in vars(module) or "_conv_forward" in vars(module):
        return "subclass", "its forward was replaced on the instance, which a swap would lose"
    parametrized = nn.utils.parametrize.is_parametrized(module, "weight")
    if module._forward_hooks or module._forward_pre_hooks or not (parametrized or "weight" in module._parameters):
        return "hooks", "it has forward hooks (or an old weight_norm or spectral_norm), which a swap would lose"
    height, width = pair(module.kernel_size)
    if height != width or height not in kernels:
        return "kernel", f"its kernel is {height}x{width}"
    if module.groups > 1 and module.groups == module.in_channels:
        return "depthwise", "it is depthwise already"
    if is_first:
        return "first", "it is the network's first convolution (--include-first makes it a site)"
    return "", ""


def _integers(graph_module: GraphModule, node: Node) -> str:
    """The integer parameter or buffer from which a call's weight is computed, with its dtype; empty if none."""
    waiting = [value for value in (*node.args[1:2], node.kwargs.get("weight")) if isinstance(value, Node)]
    seen = set(waiting)
    while waiting:
        source = waiting.pop()
        if source.op in ("placeholder", "call_module"):
            return ""  # it depends on the image, like the weights of a mixture of experts
        if source.op == "get_attr":
            owner, _, attribute = str(source.target).rpartition(".")
            value = getattr(graph_module.get_submodule(owner), attribute)
            if isinstance(value, Tensor) and value.ndim == 4 and not value.is_floating_point():
                return f"{source.target}, which is {value.dtype}"
        if source.target is not getattr:  # a getattr reads only properties such as the dtype
            waiting += [other for other in source.all_input_nodes if other not in seen]
            seen.update(source.all_input_nodes)
    return ""


def _homes(graph_module: GraphModule) -> dict[int, set[str]]:
    """The users of each parameter: the modules that hold it (also parts of leaves), and reads in the graph."""
    homes: dict[int, set[str]] = {}
    for name, module in graph_module.named_modules(remove_duplicate=False):
        for parameter in module.parameters(recurse=False):
            homes.setdefault(id(parameter), set()).add(name)
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            owner, _, attribute = str(node.target).rpartition(".")
            value = getattr(graph_module.get_submodule(owner), attribute)
            homes.setdefault(id(value), set()).add(f"a read of {node.target}")
    return homes


def _site(
    node: Node, conv: nn.Conv2d, target: str, occurrence: int, shapes: Mapping[Node, tuple[int, ...]]
) -> Site:  # fmt: skip
    source = node.args[0] if node.args else node.kwargs["input"]
    assert isinstance(source, Node)
    kernel, stride, dilation = pair(conv.kernel_size), pair(conv.stride), pair(conv.dilation)
    if isinstance(conv.padding, str):
        same = conv.padding == "same"
        padding = tuple(d * (k - 1) // 2 if same else 0 for k, d in zip(kernel, dilation, strict=True))
    else:
        padding = pair(conv.padding)
    return Site(
        target=target,
        occurrence=occurrence,
        kind=f"conv{kernel[0]}x{kernel[1]}",
        in_channels=conv.in_channels,
        out_channels=conv.out_channels,
        kernel=kernel,
        stride=stride,
        padding=(int(padding[0]), int(padding[1])),
        dilation=dilation,
        groups=conv.groups,
        bias=conv.bias is not None,
        padding_mode=conv.padding_mode,
        input_shape=_sample(shapes[source]),
        output_shape=_sample(shapes[node]),
        where=source_line(node),
        own_params=sum(parameter.numel() for parameter in conv.parameters()),
        images=prod(shapes[node][:-3]),
        more_macs=parametrization_macs(conv),
    )


def _sample(shape: tuple[int, ...]) -> tuple[int, int, int]:
    channels, height, width = shape[-3:]
    return channels, height, width


def _add_uncalled(graph_module: GraphModule, skipped: dict[str, Skipped], calls: Mapping[str, int]) -> None:
    """Add the convolutions inside leaves, which the graph does not show, with the reason ``opaque``."""
    for leaf in call_targets(graph_module):
        for name, module in graph_module.get_submodule(leaf).named_modules(prefix=leaf):
            if isinstance(module, nn.modules.conv._ConvNd) and name not in calls:
                owner = type(graph_module.get_submodule(leaf)).__name__
                skipped.setdefault(name, Skipped(name, "opaque", f"it is inside {leaf} ({owner}), which is opaque", ""))
            elif name not in calls and leaf not in calls and not type(module).__module__.startswith("torch."):
                for path, value in module.named_parameters(prefix=name, recurse=False):
                    if is_kernel(value):
                        reason = f"{leaf}, which is opaque, may call a functional convolution with it"
                        skipped.setdefault(path, Skipped(path, "opaque", reason, ""))
