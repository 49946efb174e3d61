"""A lowered network is an ordinary GraphModule: what users do with one next."""

from __future__ import annotations

import copy
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from sample_networks import ResidualNet, images, settled
from torch import fx, nn
from torch.nn.utils import prune

import narfx
from narfx.models import MODELS

SHAPE = (3, 16, 16)


@pytest.fixture(scope="module")
def lowered() -> fx.GraphModule:
    """ResNet-8 with other operators at some sites, in eval mode, its norms settled."""
    traced = narfx.trace(MODELS["resnet8"].factory(), input=SHAPE)
    vector = [slot.legal[index % len(slot.legal)] for index, slot in enumerate(traced.space.slots)]
    network = narfx.lower(narfx.Supernet(traced), vector)
    settled(network)
    return network


def same(ours: nn.Module, theirs: nn.Module, tolerance: float = 0.0) -> None:
    with torch.no_grad():
        a, b = ours(images(3, *SHAPE)), theirs(images(3, *SHAPE))
    assert (a - b).abs().max() <= tolerance * b.abs().max()


def through_pickle(network: fx.GraphModule) -> nn.Module:
    copied: nn.Module = pickle.loads(pickle.dumps(network))
    return copied


def through_torch_save(network: fx.GraphModule) -> nn.Module:
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    loaded: nn.Module = torch.load(file, weights_only=False)  # the test's own object
    return loaded


@pytest.mark.parametrize("way", [copy.deepcopy, through_pickle, through_torch_save, fx.symbolic_trace])
def test_copies_compute_the_same(lowered: fx.GraphModule, way: Callable[[fx.GraphModule], nn.Module]) -> None:
    same(way(lowered).eval(), lowered)
    assert way(lowered).state_dict().keys() == lowered.state_dict().keys()


def test_torch_export_takes_it(lowered: fx.GraphModule) -> None:
    program = torch.export.export(lowered, (images(2, *SHAPE),), dynamic_shapes=({0: torch.export.Dim("batch")},))
    same(program.module(), lowered, 1e-6)


@pytest.mark.filterwarnings("ignore")  # torch's own of deprecated parts of the compiler
def test_torch_compile_takes_it(lowered: fx.GraphModule) -> None:
    torch._dynamo.reset()
    compiled: Any = torch.compile(lowered, backend="aot_eager", fullgraph=True)
    same(compiled, lowered, 1e-6)


def test_pruning_goes_on_where_lowering_ends(lowered: fx.GraphModule) -> None:
    """Half of every convolution's weights are cut, and the network is traced and refined again."""
    network = copy.deepcopy(lowered)
    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    for conv in convolutions:
        prune.l1_unstructured(conv, "weight", amount=0.5)
        prune.remove(conv, "weight")
    zeros = sum(int((conv.weight == 0).sum()) for conv in convolutions)
    assert zeros >= 0.49 * sum(conv.weight.numel() for conv in convolutions)
    again = narfx.trace(network, input=SHAPE)
    same(narfx.lower(narfx.Supernet(again), again.space.base).eval(), network)


def test_quantisation_goes_on_where_lowering_ends(lowered: fx.GraphModule) -> None:
    """Dynamic quantisation of the classifier changes the output by its rounding and no more."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own: torchao will have this one day
        quantised = torch.ao.quantization.quantize_dynamic(copy.deepcopy(lowered), {nn.Linear}, torch.qint8)
    assert any(type(module).__module__.startswith("torch.ao") for module in quantised.modules())
    same(quantised, lowered, 0.05)


def test_a_lowered_network_trains(lowered: fx.GraphModule) -> None:
    network = copy.deepcopy(lowered).train()
    before = copy.deepcopy(network.state_dict())
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    network(images(4, *SHAPE)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    optimizer.step()
    assert any(not torch.equal(before[key], value) for key, value in network.state_dict().items())


def test_nothing_that_is_done_with_a_trace_reaches_the_model() -> None:
    """The trace shares the model's parameters; whoever changes weights has a copy of them."""
    model = settled(ResidualNet())
    before = copy.deepcopy(model.state_dict())
    traced = narfx.trace(model, input=(3, 8, 8))
    net = narfx.Supernet(traced).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=1.0)
    net.set_vector([slot.legal[-1] for slot in traced.space.slots])
    net(images(4, 3, 8, 8)).square().mean().backward()
    optimizer.step()
    traced.graph_module.train()(images(4, 3, 8, 8))  # moves the running statistics of the trace alone
    with torch.no_grad():
        for parameter in narfx.lower(net, net.vector).parameters():
            parameter.zero_()
    assert not model.training
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
