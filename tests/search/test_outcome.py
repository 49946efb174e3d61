"""The end of a search: what is said of the kept vector, and of a base that was never trained."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from small_search import CONFIG

from narfx.cli import tables
from narfx.data.image_data import load_data
from narfx.inputs.model_ref import load_model
from narfx.inputs.weights import write_weights
from narfx.search import SearchConfig, run
from narfx.search.judgement import unpacked
from narfx.search.prepared import prepare
from narfx.search.stages import stages_of
from narfx.space.front_file import Front
from narfx.support.differences import over_images

SMALL = CONFIG | {"epochs": 2, "steps": 2}


def test_a_search_is_judged_by_images_that_did_not_choose(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = SearchConfig(**SMALL | {"strategy": "random", "budget": "params<=0.8x,macs<=0.8x"})
    result = run(config, tmp_path / "run")
    judged, space = result["judgement"], prepare(config, stages_of(config), "cpu", None).space
    assert (judged["part"], judged["images"]) == ("test part", 128)
    evaluated = json.loads((tmp_path / "run/evaluations.json").read_text())["evaluations"]
    records = {space.read(record): record for record in evaluated}
    right = {vector: unpacked(record["right"], 128) for vector, record in records.items() if "right" in record}
    randoms = [space.read(record) for record in result["randoms"]]
    kept, alone = space.read(result), space.read(judged["macs_alone"])
    assert judged["random"]["equal"] == ["macs", "params"] and all(map(space.feasible, randoms))
    expected = over_images(right[kept], [right[vector] for vector in randoms]).to_json()
    assert {key: judged["random"][key] for key in expected} == expected
    expected = over_images(right[kept], [right[alone]]).to_json()
    assert {key: judged["macs_alone"][key] for key in expected} == expected
    everything = itertools.product(*(slot.legal for slot in space.slots))
    most = max(space.cost(vector)["macs"] for vector in everything if space.feasible(vector))
    assert judged["macs_alone"]["macs"] == most == space.cost(alone)["macs"] and space.feasible(alone)
    assert "128 images that did not choose" in result["verdict"] and "beat" not in result["verdict"]
    kept_metrics = json.loads((tmp_path / "run/arch.json").read_text())["metrics"]
    assert kept_metrics["judgement"] == judged and kept_metrics["starting_weights"] == "random, seed 0"
    # The base was never trained.
    assert result["base"]["accuracy"] is None
    front = Front.load(tmp_path / "run/front.json")
    assert all(point.accuracy is not None for point in front.points) and front.base.accuracy is None
    assert front.costs == ("macs", "params") and front.evaluated >= 8 and front.archive > 0
    # Of a front that nobody asked for, the kept vector alone has weights.
    assert {point.vector for point in front.points if point.weights} <= {tuple(result["vector"])}
    tables.search(result, Console(width=200))
    printed = capsys.readouterr().out
    assert "not trained" in printed and "starting weights: random, seed 0" in printed and "MACs alone" in printed


def test_a_base_with_weights_has_an_accuracy_and_is_remembered(tmp_path: Path) -> None:
    write_weights(load_model(CONFIG["model"], seed=3), tmp_path / "base.safetensors")
    config = SearchConfig(**SMALL | {"init": "base", "weights": str(tmp_path / "base.safetensors"), "randoms": 8})
    result = run(config, tmp_path / "run")
    assert result["base"]["accuracy"] is not None
    written = json.loads((tmp_path / "run/arch.json").read_text())
    assert (written["init"], written["base_weights"]) == ("base", "../base.safetensors")
    assert written["metrics"]["starting_weights"] == "base.safetensors: the base's"


def test_without_a_test_part_half_of_the_validation_images_judge(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 255, (40, 4, 4), dtype=np.uint8), np.arange(40) % 2
    own, held = np.arange(40)[:, None, None] + np.zeros((40, 4, 4)), np.arange(11)[:, None, None] + np.zeros((11, 4, 4))
    np.savez(tmp_path / "d.npz", x_train=own.astype(np.uint8), y_train=labels,
             x_val=100 + held.astype(np.uint8), y_val=np.arange(11) % 2)  # fmt: skip
    for memory in (2**31, 0):  # in memory, or read for each batch
        data = load_data(str(tmp_path / "d.npz"), (1, 4, 4), memory=memory)
        split = data.with_test(1)
        assert split.test is not None and split.test_from_val and (len(split.val), len(split.test)) == (6, 5)
        seen = [
            {int(image[0, 0, 0]) for image in part.images(torch.arange(len(part)))} for part in (split.val, split.test)
        ]
        assert not seen[0] & seen[1] and seen[0] | seen[1] == set(range(100, 111))
        assert sorted(split.test.labels.tolist()) == [0, 0, 0, 1, 1] or sorted(split.test.labels.tolist()) == [
            0,
            0,
            1,
            1,
            1,
        ]
        assert any("5 of 11 validation images are set apart" in note for note in split.notes)
        assert split.with_test(1) is split
    np.savez(tmp_path / "few.npz", x_train=images, y_train=labels, x_val=images[:2], y_val=labels[:2])
    assert load_data(str(tmp_path / "few.npz"), (1, 4, 4)).with_test(0).test is None  # one image of each class
