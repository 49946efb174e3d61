"""Genotypes: read, refused, written, derived."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from narfx.errors import UsageError
from narfx.space import SearchSpace, Slot
from narfx.space.genotype import CELL_OPERATORS, Genotype, derive_genotype, parse_genotype, read_genotype
from narfx.space.published import PUBLISHED

CELL = {"normal": [["sep_conv_3x3", 0], ["skip_connect", 1]], "normal_concat": [2]}
WHOLE: dict[str, Any] = {**CELL, "reduce": [["max_pool_3x3", 0], ["max_pool_3x3", 1]], "reduce_concat": [2]}


@st.composite
def genotypes(draw: st.DrawFn) -> Genotype:
    cells: dict[str, Any] = {}
    for kind in ("normal", "reduce"):
        nodes = draw(st.integers(1, 5))
        cells[kind] = [
            (draw(st.sampled_from(CELL_OPERATORS)), draw(st.integers(0, 1 + node)))
            for node in range(nodes)
            for _ in range(2)
        ]
        cells[f"{kind}_concat"] = sorted(draw(st.sets(st.integers(2, 1 + nodes), min_size=1)))
    return Genotype(**cells)


@given(genotypes())
def test_a_genotype_is_read_as_it_was_written(genotype: Genotype) -> None:
    assert parse_genotype(genotype.text()) == genotype
    python = ", ".join(f"{key}={value!r}" for key, value in genotype.model_dump().items())
    assert parse_genotype(f"Genotype({python})") == genotype


def test_a_file_is_written_whole_and_read_again(tmp_path: Path) -> None:
    file = tmp_path / "cell.json"
    PUBLISHED["enas"].save(file)
    assert read_genotype(file) == PUBLISHED["enas"]
    assert set(json.loads(file.read_text())) == {"normal", "normal_concat", "reduce", "reduce_concat"}


def test_edges_grouped_by_node_and_a_range_are_read() -> None:
    text = (
        "Genotype(normal=[[('sep_conv_3x3', 1), ('skip_connect', 0)], [('sep_conv_3x3', 2), ('none', 0)]], "
        "normal_concat=range(2, 4), reduce=[[('max_pool_3x3', 0), ('max_pool_3x3', 1)]], reduce_concat=range(2, 3))"
    )
    found = parse_genotype(text)
    assert found.normal == (("sep_conv_3x3", 1), ("skip_connect", 0), ("sep_conv_3x3", 2), ("none", 0))
    assert (found.normal_concat, found.reduce_concat) == ((2, 3), (2,))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"normal": [["sep_conv_9x9", 0], ["skip_connect", 1]]}, "unknown operator 'sep_conv_9x9' at node 2"),
        ({"normal": [["skip_connect", 2], ["skip_connect", 1]]}, "an edge from node 2 to node 2"),
        ({"normal": [["skip_connect", -1], ["skip_connect", 1]]}, "an edge from node -1 to node 2"),
        ({"normal": [["skip_connect", 0]]}, "normal has 1 edge: each node needs two"),
        ({"normal": []}, "normal has 0 edges"),
        ({"reduce_concat": []}, "reduce_concat names no node"),
        ({"reduce_concat": [3]}, "reduce_concat has 3: it names each node once, from 2 to 2"),
        ({"reduce_concat": [1]}, "reduce_concat has 1"),
        ({"reduce_concat": [2, 2]}, "it names each node once"),
        ({"reduce": None}, "reduce"),
        ({"more": 1}, "there is no key more"),
        ({"normal": [["skip_connect", 0.5], ["skip_connect", 1]]}, "normal.0.1 must be a whole number"),
    ],
)
def test_a_wrong_genotype_is_one_sentence(change: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        parse_genotype(json.dumps({**WHOLE, **change}), "cell.json")
    assert said in str(error.value) and str(error.value).startswith("cell.json: ") and error.value.exit_code == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "x",
        "Genotype(normal=open('a'))",
        "print(1)",
        "Genotype(1)",
        "Genotype(normal=range(10**9))",
        "[" * 9999,
    ],
)
def test_text_that_is_no_genotype_runs_nothing(text: str) -> None:
    with pytest.raises(UsageError, match="is no genotype"):
        parse_genotype(text)


def test_a_file_that_is_missing_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no genotype file"):
        read_genotype(tmp_path / "none.json")


CHOICES = ("none", "skip_connect", "sep_conv_3x3")


def space(nodes: int = 2) -> SearchSpace:
    names = [
        f"{kind} {source}->{node}"
        for kind in ("normal", "reduce")
        for node in range(2, 2 + nodes)
        for source in range(node)
    ]
    costs = {"macs": (0.0, 0.0, 0.0)}
    return SearchSpace(("base",), tuple(Slot(n, (), (0, 1, 2), {}, costs, choices=CHOICES) for n in names))


def test_the_two_strongest_edges_of_a_node_stay_and_none_never_does() -> None:
    # Node 2 has two edges; node 3 has three, of which the middle one is the weakest although its none is strong.
    normal = [[0.0, 0.3, 0.1], [0.9, 0.0, 0.2], [0.0, 0.5, 0.4], [0.9, 0.05, 0.01], [0.0, 0.1, 0.6]]
    found = derive_genotype(space(), [*normal, *normal])
    assert found.normal == (("skip_connect", 0), ("sep_conv_3x3", 1), ("sep_conv_3x3", 2), ("skip_connect", 0))
    assert found.normal == found.reduce and found.normal_concat == (2, 3)
    table = np.array([*normal, *normal])
    assert derive_genotype(space(), table) == derive_genotype(space(), list(table)) == found


def test_a_vector_keeps_its_edges_that_are_not_none_the_earlier_ones_first() -> None:
    vector = ["skip_connect", "sep_conv_3x3", "none", "skip_connect", "sep_conv_3x3", *["skip_connect"] * 5]
    found = derive_genotype(space(), space().validate(vector))
    assert found.normal == (("skip_connect", 0), ("sep_conv_3x3", 1), ("skip_connect", 1), ("sep_conv_3x3", 2))
    assert found.reduce[2:] == (("skip_connect", 0), ("skip_connect", 1))


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([0] * 10, "node 2 of the normal cell has 0 edges that are not none"),
        ([1] * 9, "the vector has 9 entries"),
        ([[0.1, 0.2, math.nan]] * 10, "the weights of slot normal 0->2 must be 3 finite numbers"),
        ([[0.1, math.inf, 0.2]] * 10, "must be 3 finite numbers"),
        ([[0.1, 0.2]] * 10, "must be 3 finite numbers"),
        ([[0.1, 0.2, 0.3]] * 9, "9 rows of weights for 10 slots"),
    ],
)
def test_weights_that_give_no_genotype_are_refused(weights: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        derive_genotype(space(), weights)


def test_a_space_without_cells_has_no_genotype() -> None:
    with pytest.raises(UsageError, match="the space has no cells"):
        derive_genotype(SearchSpace.uniform(3, 3), [1, 1, 1])
