"""Swap the convolutions of the slots, and modules that declare candidates, for dispatchable op nodes.

The node keeps its target; the module there becomes a ``Dispatch`` that holds the user's own convolution as ``base``
and the other legal operators beside it, each started from the convolution's weights. A module called at several call
sites is one Dispatch, so all its calls follow one choice and its weights stay tied.

Only legal operators are built: where the base is not legal, the convolution itself is left out.

With ``separate_norms`` the BatchNorm that alone reads a site becomes a Dispatch too, one copy an operator, so that
each operator has statistics and an affine of its own; lowering keeps the chosen copy and needs no arithmetic. A mixture
is then over operator and norm together.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from narfx.errors import UsageError
from narfx.graph.nodes import call_targets, put_module
from narfx.operators import started_operator
from narfx.operators.declared import started_candidate
from narfx.operators.dispatch import Dispatch
from narfx.passes.base import Pass
from narfx.passes.lift_functional import LiftFunctional, keep_lifted
from narfx.space.records import AnySite, DeclaredSite, Site, Slot

__all__ = ["InsertDispatch"]


class InsertDispatch(Pass):
    """In place. ``slots`` are those of the search space; a slot without sites changes nothing."""

    in_place: ClassVar[bool] = True
    swaps_only: ClassVar[bool] = True

    def __init__(self, slots: Sequence[Slot], *, separate_norms: bool = False) -> None:
        self.slots, self.separate_norms = slots, separate_norms

    def rewrite(self, graph_module: GraphModule) -> tuple[GraphModule, bool]:
        """Put a Dispatch at the target of every site; what is one already stays."""
        modified = LiftFunctional(
            [site.target for slot in self.slots for site in slot.sites if isinstance(site, Site)]
        )(graph_module).modified
        calls = call_targets(graph_module)
        read = {str(node.target).rpartition(".")[0] for node in graph_module.graph.nodes if node.op == "get_attr"}
        names_of: dict[int, list[str]] = {}
        for path, module in graph_module.named_modules(remove_duplicate=False):
            names_of.setdefault(id(module), []).append(path)
        for index, slot in enumerate(self.slots):
            names = [slot.choices[k] for k in slot.legal]
            for site in {site.target: site for site in slot.sites}.values():
                conv = graph_module.get_submodule(site.target)
                if isinstance(conv, Dispatch):
                    continue
                candidates = self._candidates(graph_module, site, conv, names, slot.choices[0])
                norm = _own_norm(graph_module, site.target, calls) if self.separate_norms else None
                apart = norm is not None and norm not in read
                dispatch = Dispatch(candidates, slot=index, site=site.target, apart=apart)
                keep_lifted(graph_module, conv, dispatch)
                for path in names_of[id(conv)]:  # a module may have names that no call uses
                    put_module(graph_module, path, dispatch)
                for node in calls[site.target]:
                    node.meta["narfx_slot"] = index
                if norm is not None and apart:
                    own = graph_module.get_submodule(norm)
                    copies = {name: own if name == slot.choices[0] else copy.deepcopy(own) for name in names}
                    norms = Dispatch(copies, slot=index, site=norm)
                    for path in names_of[id(own)]:
                        put_module(graph_module, path, norms)
                modified = True
        return graph_module, modified

    def _candidates(
        self, graph_module: GraphModule, site: AnySite, own: nn.Module, names: Sequence[str], base: str
    ) -> dict[str, nn.Module]:
        """The modules that may stand at a site; that of the ``base`` is the model's own."""
        if isinstance(site, DeclaredSite):
            _check_finite([p for p in own.parameters() if p.is_floating_point()], site)
            like = next((p for p in graph_module.parameters() if p.is_floating_point()), torch.empty(0))
            return {name: own if name == base else started_candidate(own, site, name, like) for name in names}
        assert isinstance(own, nn.Conv2d)
        plain = _plain(site, own)
        return {name: own if name == base else _candidate(name, site, plain) for name in names}


def _plain(site: Site, conv: nn.Conv2d) -> nn.Conv2d:
    """The convolution with its weight as a plain tensor (a parametrized one computes it), to start others from."""
    with torch.no_grad():
        weight = conv.weight
        _check_finite([weight] if conv.bias is None else [weight, conv.bias], site)
        if "weight" in conv._parameters:
            return conv
        plain = nn.Conv2d(
            site.in_channels, site.out_channels, site.kernel, site.stride, site.padding, site.dilation, site.groups,
            site.bias, site.padding_mode, device="meta",
        )  # fmt: skip
        trains = any(parameter.requires_grad for parameter in conv.parameters())
        plain.weight = nn.Parameter(weight.detach(), requires_grad=trains)
        plain.bias = None if conv.bias is None else nn.Parameter(conv.bias.detach(), requires_grad=trains)
        return plain.train(conv.training)


def _check_finite(weights: Sequence[Tensor], site: AnySite) -> None:
    if not all(map(_finite, weights)):
        raise UsageError(
            f"the weights of {site.name} are not all finite, and the other operators start from them: "
            "give the model weights without NaN or infinite values",
            where=site.name,
            kind="weights_not_finite",
        )


def _finite(tensor: Tensor) -> bool:
    if tensor.is_meta or not tensor.numel():
        return True
    low, high = torch.aminmax(tensor.detach())
    return math.isfinite(low) and math.isfinite(high)


def _candidate(name: str, site: Site, conv: nn.Conv2d) -> nn.Module:
    """A candidate with the convolution's device, type, mode and frozen state, started from its weights."""
    module = started_operator(name, site, conv)
    module.train(conv.training)
    return module.requires_grad_(conv.weight.requires_grad)


def _own_norm(graph_module: GraphModule, target: str, calls: dict[str, list[Node]]) -> str | None:
    """The BatchNorm that alone reads the site and reads nothing else."""
    if len(calls[target]) != 1 or len(calls[target][0].users) != 1:
        return None
    (reader,) = calls[target][0].users
    if reader.op != "call_module" or len(calls[str(reader.target)]) != 1:
        return None
    return str(reader.target) if type(graph_module.get_submodule(str(reader.target))) is nn.BatchNorm2d else None
