"""What vectors have in common is computed once, and every output is bit for bit that of its own forward pass."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_networks import images
from test_random_networks import OPERATORS, SIDE, equal, networks
from test_random_skips import SIDE as SKIP_SIDE
from test_random_skips import chains, opened
from torch import nn

import narfx
from narfx.compiler.calibration import Calibration
from narfx.compiler.prefixes import Prefixes
from narfx.compiler.supernet import Supernet
from narfx.errors import NothingToRefineError, UsageError
from narfx.graph.batchnorm import batch_statistics, recalibrate
from narfx.space.records import Vector
from narfx.tasks.precision import Precision

FORMATS = Precision("fp32"), Precision("bf16")


def lot(net: Supernet, data: st.DataObject) -> list[Vector]:
    """Vectors of which some agree up to a slot, and some are the same."""
    slots = net.space.slots
    found = [tuple(data.draw(st.sampled_from(slot.legal)) for slot in slots)]
    for _ in range(data.draw(st.integers(0, 6))):
        one, other = (data.draw(st.sampled_from(found)), [data.draw(st.sampled_from(slot.legal)) for slot in slots])
        cut = data.draw(st.integers(0, len(slots)))
        found.append((*one[:cut], *other[cut:]) if data.draw(st.booleans()) else (*other[:cut], *one[cut:]))
    return found


def check(
    net: Supernet, vectors: Sequence[Vector], side: int, memory: int, precision: Precision = FORMATS[0]
) -> int:  # fmt: skip
    """Compare every output with that of a forward pass of its own; returns how many nodes were computed."""
    x = images(4, 3, side, side)
    prefixes = Prefixes(net, memory)
    with batch_statistics(net), torch.inference_mode():
        for _ in range(2):  # the first vector ever is also measured
            seen = set()
            for index in prefixes.over(vectors, len(x)):
                with precision.autocast():
                    found = prefixes(x.clone())
                net.set_vector(vectors[index])
                with precision.autocast():
                    assert equal(found, net(x.clone()))
                seen.add(index)
            assert seen == set(range(len(vectors)))
    return prefixes.computed


def calibrated(net: Supernet, vectors: Sequence[Vector], side: int, memory: int) -> bool:
    """Compare statistics and outputs of all vectors with those of each lowered alone; whether anything was shared."""
    batches, x = [images(4, 3, side, side, seed=seed) for seed in range(3)], images(5, 3, side, side)
    state, modes = copy.deepcopy(net.state_dict()), [part.training for part in net.modules()]
    calibration = Calibration(net, memory)
    if not calibration.shares(x[:2].clone()):
        return False
    for group in (vectors[:2], vectors):  # what the first group has calibrated stays as it is
        assert len([*calibration.calibrate(group, [batch.clone() for batch in batches])]) == 3 * len(group)
    outputs = {}
    with torch.inference_mode():
        for index in calibration.over(vectors, len(x)):
            outputs[index] = calibration(x.clone())
    for index, vector in enumerate(vectors):
        network = narfx.lower(net, vector)
        recalibrate(network, [batch.clone() for batch in batches])
        with torch.inference_mode():
            assert equal(outputs[index], network.eval()(x.clone()))
        ours, theirs = calibration.lowered(vector).state_dict(), network.state_dict()
        assert list(ours) == list(theirs) and all(map(torch.equal, ours.values(), theirs.values()))
    assert all(map(torch.equal, net.state_dict().values(), state.values()))
    assert [part.training for part in net.modules()] == modes
    return True


@settings(max_examples=40)
@given(network=networks(), data=st.data())
def test_operators(network: nn.Module, data: st.DataObject) -> None:
    try:
        traced = narfx.trace(network, input=(3, SIDE, SIDE), operators=OPERATORS, max_candidate_params=4.0)
    except NothingToRefineError:
        return
    net = Supernet(traced, separate_norms=data.draw(st.booleans()))
    vectors = lot(net, data)
    nodes = 2 * len(vectors) * len(net.graph_module.graph.nodes)
    memory = data.draw(st.sampled_from([0, 4 * 8 * SIDE * SIDE * 4, 2**30]))
    assert check(net, vectors, SIDE, memory, data.draw(st.sampled_from(FORMATS))) <= nodes
    assert not calibrated(net, vectors, SIDE, 0)
    calibrated(net, vectors, SIDE, memory)


@settings(max_examples=25)
@given(network=chains(), data=st.data())
def test_skips(network: nn.Module, data: st.DataObject) -> None:
    try:
        traced = opened(network)
    except UsageError:
        return
    net = Supernet(traced)
    vectors = lot(net, data)
    check(net, vectors, SKIP_SIDE, 2**30, data.draw(st.sampled_from(FORMATS)))
    calibrated(net, vectors, SKIP_SIDE, 2**30)


class InPlace(nn.Module):
    """It reads a tensor before and, if ``late``, after it has changed it in place."""

    def __init__(self, late: bool) -> None:
        super().__init__()
        self.stem, self.one, self.two = (nn.Conv2d(c, 8, 3, padding=1) for c in (3, 8, 8))
        self.late = late

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        early = self.one(x).tanh()  # the choice at this site may be the identity
        changed = x[:, :4].mul_(2).relu_()
        made: torch.Tensor = self.two(early) + (x if self.late else torch.cat([changed, changed], 1))
        return made


@pytest.mark.parametrize("late", [False, True])
def test_a_tensor_that_is_changed_in_place(late: bool) -> None:
    """A change is made to a copy, where another vector reads what was before; else nothing is shared."""
    net = Supernet(narfx.trace(InPlace(late), input=(3, 8, 8)))
    vectors = [(a, b) for a in net.space.slots[0].legal for b in net.space.slots[1].legal]
    calibrated(net, vectors, 8, 2**30)
    computed, nodes = check(net, vectors, 8, 2**30), 2 * len(vectors) * len(net.graph_module.graph.nodes)
    assert computed == nodes if late else computed < 0.8 * nodes


def test_memory_bounds_what_is_shared_and_a_chain_shares_all_of_its_beginning() -> None:
    layers = [layer for _ in range(4) for layer in (nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))]
    net = Supernet(narfx.trace(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), *layers), input=(3, 8, 8)))
    last = [(0, 0, 0, k) for k in net.space.slots[3].legal]
    nodes = len(net.graph_module.graph.nodes)
    prefixes, x = Prefixes(net), images(2, 3, 8, 8)
    for _ in range(2):
        before = prefixes.computed
        for _ in prefixes.over(last, len(x)):
            prefixes(x)
    # Of each later vector: the last convolution, its norm and the output.
    assert prefixes.computed - before == nodes + 3 * (len(last) - 1)
    calibration = Calibration(net)
    assert calibration.shares(x) and calibration.computed == nodes
    assert len([*calibration.calibrate(last, [x, x])]) == 2 * len(last)
    assert calibration.computed == nodes + 2 * (nodes + 3 * (len(last) - 1))
    assert check(net, last, 8, 0) == 2 * len(last) * nodes
    one_map = 2 * 8 * 8 * 8 * 4
    assert check(net, last, 8, one_map - 1) > check(net, last, 8, 4 * one_map)
