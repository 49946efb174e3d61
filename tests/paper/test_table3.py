"""Table 3 of the NAR paper (arXiv 1905.02341): parameters and MACs of LResNet50E-IR, -R and -RP, by arithmetic.

The full network is built and traced on the meta device, where nothing is computed; the narrow one is lowered.
"""

from __future__ import annotations

import itertools
import json

import pytest
import torch

import narfx
from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.graph.cost import measure
from narfx.models.lresnet_ir import lresnet50e_ir

FACE = (3, 112, 112)
RP = (0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 2, 2, 1, 0, 1, 0)
# R is printed with 20 of its 24 entries. Of all ends only 0, 0 and two operators other than the base give its cost.
R_PRINTED = (0, 1, 2, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
R_ENDS = [(0, 0, x, y) for x in (1, 2, 3) for y in (1, 2, 3)]


@pytest.fixture(scope="module")
def traced() -> narfx.Traced:
    with torch.device("meta"):
        model = lresnet50e_ir()
    return narfx.trace(model, input=FACE, granularity="block")


def printed(cost: dict[str, float], params: float, macs: float) -> bool:
    """Whether a cost is what the paper prints, within 0.5 %; its FLOPs are our MACs."""
    return cost["params"] == pytest.approx(params, rel=5e-3) and cost["macs"] == pytest.approx(macs, rel=5e-3)


def test_a_slot_for_each_of_the_24_units(traced: narfx.Traced) -> None:
    assert len(traced.space) == 24
    assert [slot.name for slot in traced.space.slots] == [
        f"stages.{stage}.{unit}" for stage, units in enumerate((3, 4, 14, 3)) for unit in range(units)
    ]
    assert [len(slot.sites) for slot in traced.space.slots] == [2] * 24
    assert all(slot.legal == (0, 1, 2, 3) for slot in traced.space.slots)
    # The stem, and the projection of each stage's first unit.
    assert [skip.code for skip in traced.skipped] == ["first"] + ["kernel"] * 4
    assert traced.notes == ()


def test_cost_of_the_base(traced: narfx.Traced) -> None:
    cost = traced.space.cost(traced.space.base)
    assert cost == traced.cost == {"params": 43_590_848, "macs": 6_309_330_944}  # 43.59 M, 6.31 G
    assert printed(cost, 4.35e7, 6.32e9)


def test_cost_of_rp(traced: narfx.Traced) -> None:
    cost = traced.space.cost(RP)
    assert cost == {"params": 33_851_328, "macs": 4_670_131_200}  # 33.85 M, 4.67 G
    assert printed(cost, 3.38e7, 4.69e9)
    assert cost["macs"] / traced.cost["macs"] - 1 == pytest.approx(-0.26, abs=0.005)


@pytest.mark.parametrize("end", R_ENDS)
def test_cost_of_r_as_completed(traced: narfx.Traced, end: tuple[int, ...]) -> None:
    cost = traced.space.cost(R_PRINTED + end)
    assert 34.02e6 <= cost["params"] <= 34.05e6
    assert cost["macs"] == pytest.approx(5.287e9, rel=2e-4)
    assert printed(cost, 3.40e7, 5.31e9)
    assert cost["macs"] / traced.cost["macs"] - 1 == pytest.approx(-0.16, abs=0.005)


def test_no_other_end_completes_r(traced: narfx.Traced) -> None:
    ends = itertools.product(range(4), repeat=4)
    assert [end for end in ends if printed(traced.space.cost(R_PRINTED + end), 3.40e7, 5.31e9)] == R_ENDS


def test_the_lowered_network_has_the_cost_of_the_space() -> None:
    narrow = narfx.trace(lresnet50e_ir(width=4, embedding=16, size=32), input=(3, 32, 32), granularity="block")
    lowered = narfx.lower(narfx.Supernet(narrow), RP)
    assert measure(lowered, (3, 32, 32)) == narrow.space.cost(RP)
    assert sum(p.numel() for p in lowered.parameters()) == narrow.space.cost(RP)["params"]


def test_the_command_knows_the_face_size(capfd: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["trace", "narfx:lresnet50e_ir", "--granularity", "block", "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    assert (report["input"], report["slots"]) == ([3, 112, 112], 24)
    assert (report["params"], report["macs"]) == (43_590_848, 6_309_330_944)
