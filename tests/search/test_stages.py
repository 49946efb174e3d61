"""A search of several stages: each narrows the space by what the one before found, and nothing is lost by a kill."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from small_search import CONFIG, Count, broken_off, same

from narfx.errors import InfeasibleBudgetError, UsageError
from narfx.runs.events import StageBegan, Step, Weights, iter_events
from narfx.search import NO_PREPARATION, Found, SearchConfig, Stage, WarmUp, keep_finalists, resume, run, whole_space
from narfx.space.budget import Budget
from narfx.space.space import SearchSpace

SEARCH = SearchConfig(**CONFIG)


def two_best(space: SearchSpace, found: Found) -> SearchSpace:
    """The choices of the two vectors of highest reward that meet the budget."""
    ranked = sorted(found.archive, key=lambda entry: -entry.result.reward)
    kept = [entry.vector for entry in ranked if space.feasible(entry.vector)][:2]
    return space.restrict({index: set(entries) for index, entries in enumerate(zip(*kept, strict=True))})


STAGES = (
    Stage(whole_space, WarmUp(1), "nar", 1, {"hidden": 8}),
    Stage(two_best, WarmUp(1), "evolution", 2, {"population": 4, "tournament": 2}),
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of two stages that nobody disturbed."""
    out = tmp_path_factory.mktemp("stages") / "run"
    run(SEARCH, out, stages=STAGES)
    return out


def test_the_second_stage_searches_what_the_first_one_left(whole: Path) -> None:
    (began,) = iter_events(whole, StageBegan)
    assert (began.stage, began.strategy) == (2, "evolution")
    steps = list(iter_events(whole, Step))
    assert [event.epoch for event in iter_events(whole, Weights)] == [1, 2, 3, 4, 5]
    assert [step.epoch for step in steps] == [2] * 3 + [4] * 3 + [5] * 3
    observed = [tuple(vector) for step in steps[:3] for vector in step.vectors or ()]
    for index, legal in enumerate(began.legal or ()):
        assert 1 <= len(legal) <= 2
        assert set(legal) <= {vector[index] for vector in observed}
    second = [vector for step in steps[3:] for vector in step.vectors or ()]
    found = json.loads((whole / "arch.json").read_text())
    for vector in [*second, found["vector"]]:
        assert all(entry in legal for entry, legal in zip(vector, began.legal or (), strict=True))
    assert found["metrics"]["strategy"] == "nar, evolution"


@pytest.mark.parametrize("event", [6, 8, 13])
def test_a_search_killed_in_either_stage_resumes_to_the_same(tmp_path: Path, whole: Path, event: int) -> None:
    """In the first strategy's epoch, at the checkpoint between the stages, and in the second strategy's epoch."""
    broken_off(tmp_path / "run", event, SEARCH, STAGES)
    same(tmp_path / "run", whole)


def test_one_stage_is_what_the_configuration_says(tmp_path: Path) -> None:
    """All files are the same, but for the one that records the stages."""
    run(SEARCH, tmp_path / "plain")
    run(SEARCH, tmp_path / "stage", stages=[Stage(whole_space, WarmUp(1), "nar", 2)])
    same(tmp_path / "plain", tmp_path / "stage")
    assert (tmp_path / "plain" / "config.json").read_text() == (tmp_path / "stage" / "config.json").read_text()
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("plain", "stage")]
    assert names[1] - names[0] == {"stages.json"}


def test_the_first_stage_may_narrow_the_models_space(tmp_path: Path) -> None:
    def without_pooling(space: SearchSpace, found: Found) -> SearchSpace:
        assert found == Found()
        return space.restrict({index: {"base", "dwsep3x3"} & _names(space, index) for index in range(len(space))})

    events = Count()
    run(
        SEARCH, tmp_path / "run", stages=[Stage(without_pooling, NO_PREPARATION, "random", 1)], subscribers=[events]
    )  # fmt: skip
    vectors = [vector for event in events.events if isinstance(event, Step) for vector in event.vectors or ()]
    assert {entry for vector in vectors for entry in vector} == {0, 1}
    assert events.kinds() == ["weights", "step", "step", "step", "done"]


def _names(space: SearchSpace, index: int) -> set[str]:
    return {space.operators[entry] for entry in space.slots[index].legal}


def test_other_stages_do_not_resume_a_run(whole: Path) -> None:
    before = (whole / "arch.json").read_bytes()
    for stages in (None, STAGES[:1], (STAGES[0], replace(STAGES[1], epochs=7))):
        with pytest.raises(UsageError, match="other stages") as caught:
            resume(whole, stages=stages)
        assert caught.value.kind == "other_stages"
    assert (whole / "arch.json").read_bytes() == before


def test_what_is_wrong_with_a_later_stage_is_said_first(tmp_path: Path) -> None:
    second = STAGES[1]
    wrong = {
        "strategy_option": replace(second, options={"population": 0}),
        "unknown_strategy": replace(second, strategy="annealing"),
        "stage_epochs": replace(second, epochs=0),
    }
    for kind, stage in wrong.items():
        with pytest.raises(UsageError) as caught:
            run(SEARCH, tmp_path / "run", stages=[STAGES[0], stage])
        assert caught.value.kind == kind
        assert not (tmp_path / "run").exists()
    with pytest.raises(UsageError, match="needs stages"):
        run(SEARCH, tmp_path / "run", stages=[])


def test_a_narrowing_that_widens_or_leaves_nothing_is_refused(tmp_path: Path) -> None:
    def other(space: SearchSpace, found: Found) -> SearchSpace:
        return SearchSpace.uniform(3, 2)

    def dear(space: SearchSpace, found: Found) -> SearchSpace:
        return replace(space, budget=Budget({"macs": 1.0}))

    with pytest.raises(UsageError, match="a part of its choices") as caught:
        run(SEARCH, tmp_path / "run", stages=[replace(STAGES[0], space=other)])
    assert caught.value.kind == "stage_space"
    with pytest.raises(InfeasibleBudgetError):
        run(SEARCH, tmp_path / "run", stages=[replace(STAGES[0], space=dear)])
    assert not (tmp_path / "run").exists()


def test_the_finalists_choices_are_a_narrowing() -> None:
    space = SearchSpace.uniform(3, 4)
    narrow = keep_finalists(space, Found(finalists=((0, 1, 2), (3, 1, 2))))
    assert [slot.legal for slot in narrow.slots] == [(0, 3), (1,), (2,)]
    assert keep_finalists(space, Found()) == space
