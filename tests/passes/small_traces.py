"""Traces of small networks, and the dispatch nodes in them."""

from __future__ import annotations

import copy

from sample_networks import Chain, ResidualNet, Shared
from torch import nn
from torch.fx import GraphModule

import narfx
from narfx.operators.dispatch import Dispatch
from narfx.passes import InsertDispatch

MODELS = [Chain, ResidualNet, Shared]


SHAPE = (3, 8, 8)


def traced(model: nn.Module, granularity: str = "conv") -> narfx.Traced:
    return narfx.trace(model, input=SHAPE, granularity=granularity)


def inserted(found: narfx.Traced, *, separate_norms: bool = False) -> GraphModule:
    insert = InsertDispatch(found.space.slots, separate_norms=separate_norms)
    result: GraphModule = insert(copy.deepcopy(found.graph_module)).graph_module
    return result


def dispatches(graph_module: GraphModule) -> dict[str, Dispatch]:
    return {name: module for name, module in graph_module.named_modules() if isinstance(module, Dispatch)}
