"""``narfx analyze operators``: correlations on a supernet, groups, and their way into stacnas."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import Run, RunJson, in_process, in_process_json

from narfx.analysis import operators
from narfx.analysis.likeness import Alignment, Correlation
from narfx.analysis.operator_groups import site_correlations
from narfx.compiler.features import Visit
from narfx.graph.batchnorm import batch_statistics
from narfx.search import SearchConfig, run
from narfx.search.prepared import Prepared, prepare
from narfx.search.stages import stages_of

RESIDUAL: dict[str, Any] = {
    "model": "narfx:resnet_cifar?depth=8&width=4&in_channels=1&num_classes=10", "input": (1, 8, 8), "data": "digits",
    "max_train_images": 128, "batch_size": 32, "augment": "none",
}  # fmt: skip
CELLS = {**RESIDUAL, "model": "narfx:darts_search?cells=1&channels=4&in_channels=1"}


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Run:
    return in_process(capfd)


@pytest.fixture
def call_json(capfd: pytest.CaptureFixture[str]) -> RunJson:
    return in_process_json(capfd)


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search of convolutions by darts, from random weights."""
    out = tmp_path_factory.mktemp("operators") / "run"
    run(SearchConfig(**RESIDUAL, init="scratch", strategy="darts", epochs=2, finalists=2), out)
    return out


def prepared(values: dict[str, Any]) -> Prepared:
    config = SearchConfig(**values, strategy="darts", budget="none")
    return prepare(config, stages_of(config), "cpu", None)


def test_the_correlation_is_that_of_the_centred_outputs() -> None:
    made = prepared(RESIDUAL)
    net, task = made.net, made.task
    found = site_correlations(net, task, made.space, 64)
    slot = next(slot for slot in made.space.slots if len(slot.legal) == 4)
    outputs: list[torch.Tensor] = []

    def visit(seen: Visit) -> None:
        outputs.append(torch.stack([seen.node.again(slot.choices[k]) for k in slot.legal]))

    with batch_statistics(net), torch.no_grad(), net.visits([made.space.slots.index(slot)], visit):
        for images, _ in task.spread_batches(64):
            net(images)
    whole = torch.cat(outputs, 1).flatten(2).double().numpy()
    centred = (whole - whole.mean(1, keepdims=True)).reshape(len(whole), -1)
    cov = centred @ centred.T
    expected = cov / np.sqrt(np.outer(np.diag(cov), np.diag(cov)))
    names, matrix = found[slot.sites[0].target]
    assert names == [slot.choices[k] for k in slot.legal]
    np.testing.assert_allclose(matrix, expected, atol=1e-6)


def test_alignment_sees_past_the_order_of_channels() -> None:
    """A rotation of the features changes no alignment, and unrelated outputs have one near 0."""
    rng = np.random.default_rng(0)
    one, other = rng.standard_normal((2, 3, 40, 6))
    rotation, _ = np.linalg.qr(rng.standard_normal((6, 6)))
    alignment, plain = Alignment(["a", "b", "c", "d"]), Correlation(["a", "b", "c", "d"])
    for batch in range(3):
        outputs = np.stack([one[batch], 3 * one[batch] @ rotation + 1, other[batch], np.zeros((40, 6))])
        alignment.add(outputs)
        plain.add(outputs)
    names, found = alignment.matrix()
    assert names == ["a", "b", "c"]  # what does not vary is left out
    assert found[0, 1] == pytest.approx(1, abs=1e-9) and abs(found[0, 2]) < 0.2
    np.testing.assert_allclose(np.diag(found), 1)
    assert plain.matrix()[1][0, 1] < 0.9
    # Against the definition with all sums written out (Song et al., one batch).
    single = Alignment(["a", "b"])
    single.add(np.stack([one[0], other[0]]))
    assert single.matrix()[1][0, 1] == pytest.approx(_cka(one[0], other[0]), rel=1e-6)


def _cka(x: np.ndarray, y: np.ndarray) -> float:
    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        k, m, n = a @ a.T, b @ b.T, len(a)
        pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
        first = sum(k[i, j] * m[i, j] for i, j in pairs) / (n * (n - 1))
        second = sum(k[i, j] * (m[i].sum() - m[i, i] - m[i, j]) for i, j in pairs) / (n * (n - 1) * (n - 2))
        third = sum(
            k[i, j] * (m.sum() - np.trace(m) - 2 * (m[i].sum() - m[i, i]) - 2 * (m[j].sum() - m[j, j]) + 2 * m[i, j])
            for i, j in pairs
        ) / (n * (n - 1) * (n - 2) * (n - 3))
        return float(first + third - 2 * second)

    return hsic(x, y) / float(np.sqrt(hsic(x, x) * hsic(y, y)))


def test_operators_that_compute_the_same_are_one_group() -> None:
    """A larger kernel starts as the smaller one: before training they are the same operator."""
    fields = {key: value for key, value in CELLS.items() if key != "model"}
    result = operators(CELLS["model"], fields=fields, images=64)
    names = result["operators"]
    assert "none" not in names and len(names) == 7 and result["sites"] == 14
    pair = names.index("sep_conv_3x3"), names.index("sep_conv_5x5")
    assert result["likeness"][pair[0]][pair[1]] == pytest.approx(1, abs=1e-6)
    assert ["sep_conv_3x3", "sep_conv_5x5"] in result["groups"]
    assert "sep_conv_3x3/sep_conv_5x5" in result["option"]
    whole = operators(CELLS["model"], fields=fields, images=64, groups=1)
    assert whole["groups"] == [names]
    assert len(operators(CELLS["model"], fields=fields, images=64, threshold=1e-6)["groups"]) == 6


def test_a_run_gets_figures_and_groups_that_stacnas_takes(
    searched: Path, call_json: RunJson, call: Run, tmp_path: Path
) -> None:
    before = {path.name: path.read_bytes() for path in searched.iterdir() if path.is_file()}
    code, result, _ = call_json("analyze", "operators", str(searched), "--images", "64", "--groups", "2")
    assert code == 0 and result["supernet"] == "after 2 epochs" and result["images"] == 64
    assert before == {path.name: path.read_bytes() for path in searched.iterdir() if path.is_file()}
    assert sorted(name for group in result["groups"] for name in group) == sorted(result["operators"])
    matrix = np.array(result["likeness"])
    assert np.allclose(matrix, matrix.T) and np.allclose(np.diag(matrix), 1) and np.abs(matrix).max() <= 1
    for kind in ("png", "svg", "json"):
        assert Path(result["files"][kind]).stat().st_size > 1000
    numbers = json.loads(Path(result["files"]["json"]).read_text())
    assert numbers["groups"] == result["groups"] and len(numbers["by_site"]) == result["sites"]
    drawn = Path(result["files"]["png"]).read_bytes()
    assert call("analyze", "operators", str(searched), "--images", "64", "--groups", "2")[0] == 0  # and again
    assert Path(result["files"]["png"]).read_bytes() == drawn
    _, groups = result["option"].split("=")
    fields = ["--strategy", "stacnas", "--strategy-option", f"groups={groups}", "--dry-run"]
    code, _, _ = call("search", "--config", str(searched / "config.json"), *fields, "--out", str(tmp_path / "no"))
    assert code == 0


def test_the_table(searched: Path, call: Run, tmp_path: Path) -> None:
    words = ("--images", "64", "--measure", "cka", "--out", str(tmp_path / "here"))
    code, out, _ = call("analyze", "operators", str(searched), *words)
    assert (
        code == 0
        and out.startswith("cka")
        and "--strategy stacnas --strategy-option groups=" in out
        and "group:" in out
    )
    assert (tmp_path / "here" / "operators.svg").exists()
    assert call("analyze", "operators", str(searched), "--images", "64", "--out", str(tmp_path / "here"))[0] == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--images", "1"), "needs at least 2"),
        (("--groups", "2", "--threshold", "0.3"), "not both"),
        (("--groups", "99"), "--groups is 99, but only"),
        (("--threshold", "3"), "between 0 and 2"),
        (("--measure", "cosine"), "--measure is correlation or cka"),
        (("--data", "digits"), "leave out data"),
    ],
)
def test_bad_input_is_one_sentence(searched: Path, call: Run, arguments: tuple[str, ...], said: str) -> None:
    code, out, error = call("analyze", "operators", str(searched), *arguments)
    assert code == 2 and said in " ".join(error.split()) and out == "" and "Traceback" not in error


def test_what_is_no_run_and_no_model(call: Run, tmp_path: Path) -> None:
    for name in ("empty", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    said = {
        str(tmp_path / "other"): "is no run of narfx search",
        "narfx:nothing": "",
        str(tmp_path / "empty"): "",
        str(tmp_path / "missing"): "",
        "arch.json": "arch.json is one network, and operators are compared on a supernet: give the run directory of",
    }
    for target, sentence in said.items():
        code, _, error = call("analyze", "operators", target)
        assert code == 2 and sentence in " ".join(error.split()) and "Traceback" not in error


def test_one_operator_is_nothing_to_compare(call: Run) -> None:
    model = "narfx:darts_search?cells=3&channels=4&in_channels=1&operators=none,skip_connect"
    code, _, error = call("analyze", "operators", model, "--input", "1,8,8", "--data", "digits", "--images", "32")
    assert code == 2 and "no two operators" in " ".join(error.split())
