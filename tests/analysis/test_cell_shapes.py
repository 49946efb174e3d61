"""``narfx analyze cells``: genotypes, networks of cells, and residual blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
from cell_networks import USER_CELLS
from command import Run, RunJson, in_process, in_process_json

import narfx
from narfx.analysis import cells
from narfx.models.cells import darts, darts_search
from narfx.space.genotype import read_genotype
from narfx.space.published import PUBLISHED


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    return in_process(capfd)


@pytest.fixture
def run_json(capfd: pytest.CaptureFixture[str]) -> RunJson:
    return in_process_json(capfd)


def test_a_published_genotype_by_its_name(run_json: RunJson) -> None:
    code, result, _ = run_json("analyze", "cells", "darts_v2")
    assert code == 0
    assert result["normal"] == {"width": 3.5, "depth": 3} and result["reduce"] == {"width": 2.5, "depth": 3}


def test_the_network_of_a_genotype_has_the_shape_of_its_genotype() -> None:
    for name in ("nasnet", "amoebanet", "enas", "snas_mild"):
        result = cells(f"narfx:darts?genotype={name}&cells=3&channels=4")
        expected = cells(name)
        assert (result["normal"], result["reduce"]) == (expected["normal"], expected["reduce"])
        assert [cell["kind"] for cell in result["cells"]] == ["normal", "reduce", "reduce"]


def test_a_users_network_of_cells(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(USER_CELLS)
    result = cells(str(tmp_path / "net.py"))
    # Node 1 reads the input, node 2 the input and node 1.
    assert result["normal"] == result["reduce"] == {"width": 1.5, "depth": 3}
    assert [cell["name"] for cell in result["cells"]] == ["cells.0", "cells.1", "cells.2"]


def test_an_arch_json_has_no_edge_where_it_has_none(tmp_path: Path) -> None:
    reference = "narfx:darts_search?cells=3&channels=4&operators=s3"
    traced = narfx.trace(darts_search("s3", cells=3, channels=4), (3, 8, 8), reference=reference)
    wanted = {f"{kind} {source}->{2 + i // 2}" for kind in ("normal", "reduce")
              for i, (_, source) in enumerate(PUBLISHED["darts_v2"].edges(kind))}  # fmt: skip
    vector = [slot.choices.index("skip_connect" if slot.name in wanted else "none") for slot in traced.space.slots]
    file, out = tmp_path / "arch.json", tmp_path / "genotype.json"
    traced.architecture(vector).save(file)
    result = cells(str(file), out=out)
    assert result["normal"] == {"width": 3.5, "depth": 3} and result["reduce"] == {"width": 2.5, "depth": 3}
    assert {source for _, source in read_genotype(out).normal} == {0, 1, 2}
    # A node without edges is zeros: what reads it has no edge there either.
    bare = [0 if slot.choices[0] != "none" else 1 for slot in traced.space.slots]
    for index, slot in enumerate(traced.space.slots):
        bare[index] = slot.choices.index("none") if slot.name.endswith("->2") else slot.choices.index("skip_connect")
    traced.architecture(bare).save(file)
    assert cells(str(file))["normal"] == {"width": pytest.approx(1 + 2 / 3 + 0.5, abs=1e-5), "depth": 4}


def test_residual_blocks() -> None:
    result = cells("narfx:resnet8")
    # Two convolutions in a row and, where the shapes differ, a projection beside them.
    assert [(block["width"], block["depth"]) for block in result["blocks"]] == [(1.0, 3), (2.0, 3), (2.0, 3)]
    assert result["blocks"][0]["name"] == "stages.0.0"


@pytest.mark.parametrize("variant", ["random-connections", "random-operators", "widest", "narrowest"])
def test_variants_are_written_and_read_again(run_json: RunJson, tmp_path: Path, variant: str) -> None:
    out = tmp_path / "cell.json"
    arguments = ("--variant", variant, "--seed", "3", "--out", str(out))
    code, result, _ = run_json("analyze", "cells", "enas", *arguments)
    assert code == 0 and result["genotype"] == read_genotype(out).to_json()
    assert run_json("analyze", "cells", str(out))[1]["normal"] == result["normal"]
    before = out.read_bytes()
    assert run_json("analyze", "cells", "nasnet", *arguments)[0] == 2 and out.read_bytes() == before
    assert run_json("analyze", "cells", "nasnet", *arguments, "--overwrite")[0] == 0 and out.read_bytes() != before


def test_several_random_variants_in_a_folder(run: Run, run_json: RunJson, tmp_path: Path) -> None:
    out = tmp_path / "cells"
    given = ("analyze", "cells", "darts_v2", "--count", "3", "--seed", "4", "--out", str(out))
    code, result, _ = run_json(*given, "--variant", "random-connections")
    assert code == 0 and [row["seed"] for row in result["genotypes"]] == [4, 5, 6]
    for row in result["genotypes"]:
        single = run_json("analyze", "cells", "darts_v2", "--variant", "random-connections", "--seed", str(row["seed"]))
        assert row["genotype"] == single[1]["genotype"] == read_genotype(row["file"]).to_json()
        assert (row["normal"], row["reduce"]) == (single[1]["normal"], single[1]["reduce"])
        assert sorted(op for op, _ in row["genotype"]["normal"]) == sorted(op for op, _ in PUBLISHED["darts_v2"].normal)
    assert narfx.trace(darts(genotype=result["genotypes"][0]["file"], cells=1, channels=2), (3, 8, 8)).space
    assert run(*given, "--variant", "random-operators")[0] == 2
    code, table, _ = run(*given, "--variant", "random-operators", "--overwrite")
    assert code == 0 and "normal: width" in table and "random-operators-6.json" in table
    assert sorted(path.name for path in out.iterdir()) == [
        "cells.json", "random-operators-4.json", "random-operators-5.json", "random-operators-6.json",
    ]  # fmt: skip


def test_the_table(run: Run) -> None:
    code, out, _ = run("analyze", "cells", "snas_mild")
    assert code == 0 and "4c" in out and "sep_conv_3x3:0" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("nothing",), "there is no genotype 'nothing': give a file, or one of nasnet"),
        (("missing.json",), "there is no file missing.json"),
        (("enas", "--variant", "flat"), "there is no variant 'flat': choose from random-connections"),
        (("enas", "--count", "2"), "--count makes several random variants"),
        (("enas", "--variant", "widest", "--count", "2"), "--count makes several random variants"),
        (("enas", "--variant", "random-operators", "--count", "0"), "--count is a whole number from 1"),
        (("narfx:chain12",), "has neither cells nor residual blocks"),
        (("narfx:resnet8", "--variant", "widest"), "has no genotype"),
        (("narfx:nothing",), "nothing"),
    ],
)
def test_bad_input_is_one_sentence(run: Run, arguments: tuple[str, ...], said: str) -> None:
    code, out, error = run("analyze", "cells", *arguments)
    assert code == 2 and said in " ".join(error.split()) and out == "" and "Traceback" not in error


def test_a_malformed_genotype_file_is_one_sentence(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "cell.json"
    file.write_text('{"normal": [["skip_connect", 5], ["skip_connect", 0]], "normal_concat": [2]}')
    code, _, error = run("analyze", "cells", str(file))
    assert code == 2 and "cell.json" in error
