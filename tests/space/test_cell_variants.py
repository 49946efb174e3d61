"""Width and depth of cells, and the variants of a genotype."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narfx.errors import UsageError
from narfx.space.cells import genotype_shape, narrowest, random_genotype, shape_of, widest
from narfx.space.genotype import CELL_OPERATORS
from narfx.space.published import PUBLISHED

NAMES = sorted(PUBLISHED)


# The normal cells in Figure 1 of Shu, Wang and Cai (arXiv 1909.09569).
@pytest.mark.parametrize(
    ("name", "width", "depth"),
    [("nasnet", 5, 2), ("amoebanet", 4, 4), ("enas", 5, 2), ("darts_v2", 3.5, 3), ("snas_mild", 4, 2)],
)
def test_the_cells_of_the_papers_figure(name: str, width: float, depth: int) -> None:
    assert genotype_shape(PUBLISHED[name])["normal"] == {"width": width, "depth": depth}


def test_width_and_depth_by_hand() -> None:
    # a reads two inputs, b reads a and an input, c reads b twice.
    cell = {"a": ["x", "y"], "b": ["a", "x"], "c": ["b", "b"]}
    assert shape_of(cell) == {"width": 1.5, "depth": 4}
    assert shape_of(cell, {"a": 2.0, "b": 1.0, "c": 1.0}) == {"width": 2.5, "depth": 4}


@pytest.mark.parametrize("name", NAMES)
def test_no_variant_is_wider_and_shallower_than_the_widest(name: str) -> None:
    genotype = PUBLISHED[name]
    for kind in ("normal", "reduce"):
        nodes = len(genotype.edges(kind)) // 2
        assert genotype_shape(widest(genotype))[kind] == {"width": nodes, "depth": 2}
        assert genotype_shape(narrowest(genotype))[kind] == {"width": 1, "depth": nodes + 1}
    for variant in (widest(genotype), narrowest(genotype)):
        assert [op for op, _ in variant.normal] == [op for op, _ in genotype.normal]
        assert variant.normal_concat == genotype.normal_concat


@given(st.sampled_from(NAMES), st.integers(0, 10**6))
def test_random_connections_keep_the_operators_and_random_operators_the_connections(name: str, seed: int) -> None:
    genotype = PUBLISHED[name]
    wired, drawn = (random_genotype(genotype, kind, seed) for kind in ("connections", "operators"))
    for kind in ("normal", "reduce"):
        assert [op for op, _ in wired.edges(kind)] == [op for op, _ in genotype.edges(kind)]
        assert [source for _, source in drawn.edges(kind)] == [source for _, source in genotype.edges(kind)]
        assert {op for op, _ in drawn.edges(kind)} <= set(CELL_OPERATORS[1:8])
    assert random_genotype(genotype, "connections", seed) == wired


@given(st.sampled_from(NAMES), st.integers(0, 10**6))
def test_no_wiring_is_wider_or_shallower_than_the_widest_nor_narrower_or_deeper_than_the_narrowest(
    name: str, seed: int
) -> None:
    wired = random_genotype(PUBLISHED[name], "connections", seed)
    wide, narrow = genotype_shape(widest(wired)), genotype_shape(narrowest(wired))
    for kind, shape in genotype_shape(wired).items():
        assert narrow[kind]["width"] <= shape["width"] <= wide[kind]["width"]
        assert wide[kind]["depth"] <= shape["depth"] <= narrow[kind]["depth"]
    # Edges that start at an input stay where they are, unless both of a node start at the same one.
    kept = [(a, b) for a, b in zip(wired.normal, widest(wired).normal, strict=True) if a != b]
    assert all(operator == other for (operator, _), (other, _) in kept)
    assert genotype_shape(widest(wide_again := widest(wired))) == wide and widest(wide_again) == wide_again


def test_every_source_and_every_operator_is_drawn() -> None:
    genotype = PUBLISHED["darts_v2"]
    wired = [random_genotype(genotype, "connections", seed) for seed in range(200)]
    assert [{g.normal[i][1] for g in wired} for i in (0, 7)] == [{0, 1}, {0, 1, 2, 3, 4}]
    assert {op for seed in range(30) for op, _ in random_genotype(genotype, "operators", seed).normal} == set(
        CELL_OPERATORS[1:8]
    )


def test_a_wrong_generator_or_seed_is_refused() -> None:
    with pytest.raises(UsageError, match="random connections or operators"):
        random_genotype(PUBLISHED["enas"], "everything", 0)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="a seed is a whole number from 0"):
        random_genotype(PUBLISHED["enas"], "operators", -1)
