"""The networks of cells: what their papers count, what an edge offers, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sample_networks import images, settled
from torch import nn

import narfx
from narfx.errors import UsageError
from narfx.graph.cost import measure
from narfx.inputs.model_ref import load_model
from narfx.inputs.reference import ModelRef
from narfx.models.cell_operators import OPERATOR_SETS, build_cell_operator, read_operators, start_like
from narfx.models.cells import darts, darts_search, find_genotype
from narfx.models.nasbench201 import nasbench201
from narfx.space.cells import widest
from narfx.space.genotype import CELL_OPERATORS, derive_genotype
from narfx.space.published import PUBLISHED

SMALL: dict[str, Any] = {"cells": 3, "channels": 4}


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# What 20 cells of 36 channels have without an auxiliary head. Table 1 of DARTS (arXiv 1806.09055) prints 3.3 M for
# darts_v2; its own program prints 3.349342 M. For AmoebaNet-A in the same network it prints 3.1 M.
@pytest.mark.parametrize(
    ("name", "count", "printed", "digit"),
    [("darts_v2", 3_349_342, 3.35e6, 0.01e6), ("amoebanet", 3_145_078, 3.1e6, 0.1e6)],
)
def test_published_networks_have_the_parameters_of_their_papers(
    name: str, count: int, printed: float, digit: float
) -> None:
    with torch.device("meta"):
        assert parameters(darts(name)) == count
    assert abs(count - printed) <= digit / 2 or abs(count - printed) <= 0.01 * printed


def by_hand(name: str, channels: int, cells: int) -> int:
    """Parameters of the network of a genotype, without a module: an operator, its channels and its BatchNorms."""
    genotype = PUBLISHED[name]

    def operator(name: str, c: int, reduces: bool) -> int:
        kernel = int(name[-1]) if name[-1].isdigit() else 0
        if name.startswith("sep"):
            return 2 * (kernel * kernel * c + c * c + 2 * c)
        if name.startswith("dil"):
            return kernel * kernel * c + c * c + 2 * c
        if name == "conv_7x1_1x7":
            return 14 * c * c + 2 * c
        return c * c + 2 * c if name == "skip_connect" and reduces else 0

    total, before, last, c = 27 * 3 * channels + 6 * channels, 3 * channels, 3 * channels, channels
    for index in range(cells):
        kind = "reduce" if index in (cells // 3, 2 * cells // 3) else "normal"
        c *= 2 if kind == "reduce" else 1
        total += before * c + last * c + 4 * c  # two 1x1 convolutions, one of them in two halves
        total += sum(operator(op, c, kind == "reduce" and source < 2) for op, source in genotype.edges(kind))
        before, last = last, c * len(genotype.concat(kind))
    return total + last * 10 + 10


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_every_published_network_has_the_parameters_counted_by_hand(name: str) -> None:
    with torch.device("meta"):
        assert parameters(darts(name)) == by_hand(name, 36, 20)


def test_the_imagenet_network_of_darts_has_the_papers_parameters() -> None:
    with torch.device("meta"):
        model = darts("darts_v2", cells=14, channels=48, num_classes=1000, stem="imagenet")
    assert parameters(model) == 4_718_752  # 4.7 M in Table 3 of the paper


def test_nas_bench_201_has_the_benchmarks_parameters_and_flops() -> None:
    # All edges nor_conv_3x3: 1.531546 M parameters and 220.12 M FLOPs in the benchmark's own record.
    assert measure(nasbench201(), (3, 32, 32)) == {"params": 1_531_546, "macs": 220_119_680}


def test_the_space_of_nas_bench_201_has_its_15625_networks() -> None:
    traced = narfx.trace(nasbench201(cells=1, channels=4), (3, 8, 8))
    assert [slot.name for slot in traced.space.slots] == [f"cell {i}->{j}" for j in range(1, 4) for i in range(j)]
    assert traced.space.size == 15_625


@pytest.mark.parametrize("operators", ["darts", "s1", "s2", "s3", "s4", "skip_connect,sep_conv_5x5"])
def test_a_search_network_has_14_edges_a_cell_and_its_vectors_lower(operators: str) -> None:
    model = settled(darts_search(operators, **SMALL))
    traced = narfx.trace(model, (3, 8, 8))
    assert [slot.name for slot in traced.space.slots].count("normal 0->2") == 1 and len(traced.space) == 28
    if operators == "s1":
        assert all(len(slot.choices) == 2 for slot in traced.space.slots)
    else:
        assert all(set(slot.choices) == set(read_operators(operators)) for slot in traced.space.slots)
    net = narfx.Supernet(traced).eval()
    x = images(2, 3, 8, 8)
    assert torch.equal(net(x), model(x))
    vector = [len(slot.choices) - 1 for slot in traced.space.slots]
    net.set_vector(vector)
    lowered = narfx.lower(net, vector).eval()
    assert measure(lowered, (3, 8, 8)) == traced.space.cost(vector)
    torch.manual_seed(0)  # noise
    expected = net(x)
    torch.manual_seed(0)
    torch.testing.assert_close(lowered(x), expected)


def test_the_genotype_of_a_vector_is_the_network_that_the_vector_lowers_to() -> None:
    genotype = PUBLISHED["snas_mild"]
    traced = narfx.trace(darts_search(**SMALL, affine=True), (3, 8, 8))
    wanted = {
        f"{kind} {source}->{2 + index // 2}": name
        for kind in ("normal", "reduce")
        for index, (name, source) in enumerate(genotype.edges(kind))
    }
    vector = [slot.choices.index(wanted.get(slot.name, "none")) for slot in traced.space.slots]
    found = derive_genotype(traced.space, vector)
    assert all(set(found.edges(kind)) == set(genotype.edges(kind)) for kind in ("normal", "reduce"))
    # A search network has BatchNorms after its pools, which the network of a genotype has not.
    lowered, whole = narfx.lower(narfx.Supernet(traced), vector), darts(found, **SMALL)
    assert measure(lowered, (3, 8, 8))["macs"] == measure(whole, (3, 8, 8))["macs"]


def test_the_operators_of_a_genotypes_edges_may_be_refined() -> None:
    traced = narfx.trace(darts("darts_v2", **SMALL), (3, 8, 8))
    first = traced.space.slots[0]
    assert (
        first.name == "normal 0->2"
        and first.choices[0] == "sep_conv_3x3"
        and set(first.choices) == set(CELL_OPERATORS[:8])
    )
    found, own = derive_genotype(traced.space, traced.space.base), PUBLISHED["darts_v2"]
    nodes = [[sorted(g.normal[i : i + 2]) for i in range(0, 8, 2)] for g in (found, own)]
    assert nodes[0] == nodes[1] and found.normal_concat == own.normal_concat


def test_a_genotype_that_reads_one_node_twice_has_two_edges() -> None:
    model = darts("nasnet", **SMALL).eval()
    traced = narfx.trace(model, (3, 8, 8))
    again = [slot.name for slot in traced.space.slots if slot.name.endswith("again")]
    assert again == ["normal 0->3 again", "normal 0->5 again", "normal 1->6 again"]
    x = images(1, 3, 8, 8)
    assert torch.equal(narfx.lower(narfx.Supernet(traced), traced.space.base)(x), model(x))


@pytest.mark.parametrize("own", ["sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "nor_conv_3x3"])
def test_a_larger_kernel_of_a_family_starts_as_the_smaller_one(own: str) -> None:
    family = {"sep": ("sep_conv_3x3", "sep_conv_5x5", "sep_conv_7x7"), "dil": ("dil_conv_3x3", "dil_conv_5x5")}
    x = images(2, 4, 9, 9)
    mine = settled(build_cell_operator(own, 4, 1))
    for name in family.get(own[:3], ("nor_conv_1x1", "nor_conv_3x3")):
        module = build_cell_operator(name, 4, 1).eval()
        with torch.no_grad():
            start_like(module, name, mine, own)
        assert torch.allclose(module(x), mine(x), atol=1e-6) == (name[-1] >= own[-1])


def test_drop_path_drops_whole_samples_in_training_mode_only() -> None:
    module = build_cell_operator("sep_conv_3x3", 4, 1, drop_path=0.5)
    x = torch.ones(64, 4, 5, 5)
    plain = build_cell_operator("avg_pool_3x3", 4, 1, drop_path=0.5)
    torch.manual_seed(0)
    dropped = plain.train()(x)
    assert {float(v) for v in dropped.flatten(1).amax(1)} == {0.0, 2.0}
    assert all(float(v.min()) == float(v.max()) for v in dropped)
    assert torch.equal(plain.eval()(x), x)
    assert isinstance(module, nn.Sequential) and isinstance(module[-1], nn.Dropout3d)
    assert isinstance(build_cell_operator("skip_connect", 4, 1, drop_path=0.5), nn.Identity)


def test_an_auxiliary_head_speaks_in_training_mode() -> None:
    model = darts("darts_v2", cells=3, channels=4, auxiliary=True)
    x = images(2, 3, 32, 32)
    logits, extra = model.train()(x)
    assert logits.shape == extra.shape == (2, 10)
    assert model.eval()(x).shape == (2, 10)
    assert parameters(model) > parameters(darts("darts_v2", cells=3, channels=4))


def test_the_imagenet_stem_reduces_eight_times() -> None:
    model = darts(cells=3, channels=8, stem="imagenet", num_classes=7).eval()
    assert model(images(1, 3, 64, 64)).shape == (1, 7)
    traced = narfx.trace(model, (3, 64, 64))
    assert {entry.code for entry in traced.skipped if entry.name.startswith("stem")} <= {"fixed", "first"}


def test_a_genotype_file_in_a_reference_is_written_out_where_the_reference_is_kept(tmp_path: Path) -> None:
    wide = widest(PUBLISHED["darts_v2"])
    wide.save(tmp_path / "wide.json")
    ref = ModelRef.parse("narfx:darts?genotype=wide.json&cells=3&channels=4")
    model: Any = load_model(ref, relative_to=tmp_path)
    assert model.genotype == wide
    kept = str(ref.beside(tmp_path / "elsewhere", relative_to=tmp_path))
    again: Any = load_model(kept)
    assert "wide.json" not in kept and again.genotype == wide


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"genotype": "resnet"}, "there is no genotype 'resnet': give a file, or one of nasnet"),
        ({"genotype": "none.json"}, "there is no genotype file none.json"),
        ({"genotype": 3}, "genotype is a name, a file or its four lists"),
        ({"genotype": {"normal": []}}, "genotype: normal_concat is missing"),
        ({"operators": "conv"}, "there is no operator 'conv' for cells"),
        ({"operators": "none"}, "one other than none"),
        ({"operators": "skip_connect,skip_connect"}, "names each operator once"),
        ({"stem": "mnist"}, "stem is cifar or imagenet"),
        ({"drop_path": 1.0}, "drop_path is a probability below 1"),
        ({"cells": 0}, "cells must be a positive integer"),
    ],
)
def test_wrong_arguments_are_one_sentence(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        darts(**arguments)
    assert said in str(error.value)


def test_the_genotypes_that_are_published_as_pictures_only_are_said_to_be() -> None:
    for name in ("stacnas_cifar10", "stacnas_cifar100"):
        with pytest.raises(UsageError, match="published as a picture only"):
            find_genotype(name)


@pytest.mark.parametrize("name", sorted({*CELL_OPERATORS} - {"none"}))
@pytest.mark.parametrize("stride", [1, 2])
def test_every_operator_keeps_or_halves_the_map(name: str, stride: int) -> None:
    assert build_cell_operator(name, 6, stride).eval()(images(1, 6, 8, 8)).shape == (1, 6, 8 // stride, 8 // stride)


def test_the_sets_of_operators() -> None:
    assert OPERATOR_SETS["s2"] == ("skip_connect", "sep_conv_3x3")
    assert set(OPERATOR_SETS["darts"]) == set(CELL_OPERATORS[:8])
    assert json.dumps(list(OPERATOR_SETS["s3"])) == '["none", "skip_connect", "sep_conv_3x3"]'
