"""Evaluations at the end of a search: together as alone, and no more than their share of the work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from small_search import CONFIG

from narfx.runs.origin import write_origin
from narfx.search import SearchConfig
from narfx.search.config import config_of_run
from narfx.search.effort import Effort, passes_of_evaluations, passes_of_search
from narfx.search.evaluations import Evaluator, evaluate_vector, lowered
from narfx.search.prepared import Prepared, prepare
from narfx.search.stages import stages_of
from narfx.space.sampling import FeasibleSampler
from narfx.support.seeds import numpy_generator


def prepared(**options: Any) -> tuple[SearchConfig, Prepared]:
    config = SearchConfig(**CONFIG | options)
    return config, prepare(config, stages_of(config), "cpu", None)


@pytest.mark.parametrize(("norms", "precision"), [("shared", "fp32"), ("separate", "bf16")])
@pytest.mark.parametrize("memory", [2**30, 2**17])
def test_vectors_evaluated_together_are_as_those_evaluated_alone(norms: str, precision: str, memory: int) -> None:
    _, found = prepared(norms=norms, precision=precision)
    net, task, rng = found.net, found.task, numpy_generator(0, "vectors")
    sampler, effort = FeasibleSampler(found.space), Effort(calibration=128, val=30, test=100)
    drawn = sorted({sampler.draw(rng) for _ in range(3)})
    vectors = [*drawn, *((*vector[:-1], drawn[0][-1]) for vector in drawn[1:])]
    vectors = [vector for vector in dict.fromkeys(vectors) if found.space.feasible(vector)]
    evaluator = Evaluator(net, task, effort, memory)
    records = evaluator(vectors, ["val"])
    judged = evaluator(vectors, ["test"])
    assert evaluator.shares
    for vector, record, other in zip(vectors, records, judged, strict=True):
        assert evaluate_vector(net, vector, task, effort, judged=True) == {**record, **other}
        ours, alone = evaluator.network(vector).state_dict(), lowered(net, vector, task, effort).state_dict()
        assert list(ours) == list(alone) and all(map(torch.equal, ours.values(), alone.values()))


def test_evaluations_take_their_share_of_the_passes_and_no_more() -> None:
    config, found = prepared(data_fraction=1.0, finalists=10)

    def effort(**options: Any) -> tuple[Effort, float]:
        asked = config.model_copy(update=options)
        effort = Effort.of(asked, found.task, found.traced.space)
        end = passes_of_evaluations(asked, found.task, effort)
        return effort, end / (end + passes_of_search(asked, found.task, found.traced.space))

    least, short, long = (effort(epochs=epochs) for epochs in (2, 10, 100))
    whole = Effort(min(config.calibration_images, len(found.task.data.train)), len(found.task.data.val), 355)
    assert least[0] == Effort(128, 128, 128) and least[1] > 0.1
    assert long[0] == whole == effort(epochs=2, evaluation_share=1.0)[0] and long[1] < 0.1
    assert short[0].calibration == short[0].test < whole.test and 0.099 < short[1] <= 0.1
    assert effort(strategy="solve", epochs=3)[1] < 0.1  # one round measures enough


def test_a_run_of_an_older_version_evaluates_on_as_it_began(tmp_path: Path) -> None:
    config = SearchConfig(**CONFIG)
    values = config.model_dump(mode="json")
    write_origin(tmp_path, values, [], None)
    assert config_of_run(tmp_path) == config
    older = {key: value for key, value in values.items() if key not in ("calibration_images", "evaluation_share")}
    write_origin(tmp_path, older, [], None)
    expected = {"calibration_images": 2048, "evaluation_share": 1.0}
    assert config_of_run(tmp_path) == config.model_copy(update=expected)
