"""Saved scores of single replacements: files, and what is solved with them."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from own_choices import budgets, everything, mixed_spaces

from narfx.errors import UsageError
from narfx.space import ScoreTable, SearchSpace, Vector, best_vectors
from narfx.space.budget import Budget

SCORES = {(i, k): round(0.1 * k + 0.03 * i * (k > 1), 3) for i in range(5) for k in range(4)}


def space() -> SearchSpace:
    return SearchSpace.uniform(5, [4, 2, 4, 3, 4])


def known(space: SearchSpace) -> dict[tuple[int, int], float]:
    return {(i, k): SCORES[i, k] for i, slot in enumerate(space.slots) for k in slot.legal}


def table() -> ScoreTable:
    return ScoreTable.of(space(), known(space()), measured="rise of the loss", images=256)


def total(vector: Vector, scores: dict[tuple[int, int], float]) -> float:
    return sum(scores[i, k] for i, k in enumerate(vector))


def test_a_table_is_written_and_read_back(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    table().save(path)
    read = ScoreTable.load(path)
    assert read == table() and read.scores == known(space())
    assert (read.measured, read.images, read.fingerprint) == ("rise of the loss", 256, space().fingerprint())
    read.check(space())
    read.check(space().within(Budget({"macs": 2.0})))
    written = json.loads(path.read_text())
    assert written["slots"][1] == {"name": "slot1", "choices": ["base", "op1"], "scores": [0.0, 0.1]}
    again = tmp_path / "again.json"
    read.save(str(again))
    assert again.read_bytes() == path.read_bytes()


def test_index_0_need_not_be_given_and_what_is_not_legal_is_left_out(tmp_path: Path) -> None:
    narrow = space().restrict({0: [1, 3], 2: [0, 2]})
    given_scores = {pair: score for pair, score in known(narrow).items() if pair[1]}
    made = ScoreTable.of(narrow, given_scores, measured="fall of the accuracy", images=1)
    assert made.scores == known(narrow)
    assert made.slots[0].scores == (None, 0.1, None, 0.3)
    made.save(tmp_path / "s.json")
    assert json.loads((tmp_path / "s.json").read_text())["slots"][2]["scores"] == [0.0, None, 0.26, None]
    ScoreTable.load(tmp_path / "s.json").check(narrow)


def test_another_space_or_a_missing_score_is_refused() -> None:
    with pytest.raises(UsageError, match="measured in another space") as caught:
        table().check(SearchSpace.uniform(5, 4))
    assert (caught.value.kind, caught.value.where) == ("fingerprint", "fingerprint")
    holes = table().model_dump()
    holes["slots"][2]["scores"] = (0.0, 0.1, None, 0.3)
    with pytest.raises(UsageError, match=r"choice 2 \(op2\) of slot 2 \(slot2\) has no score") as caught:
        ScoreTable.model_validate(holes).check(space())
    assert caught.value.kind == "scores_incomplete"
    with pytest.raises(UsageError, match=r"choice 3 \(op3\) of slot 4 \(slot4\) has no score"):
        best_vectors(space(), {pair: score for pair, score in known(space()).items() if pair != (4, 3)})


@pytest.mark.parametrize("score", [math.nan, math.inf])
def test_a_score_that_is_not_finite_is_refused(score: float) -> None:
    wrong = {**known(space()), (3, 1): score}
    for use in (lambda: best_vectors(space(), wrong), lambda: ScoreTable.of(space(), wrong, measured="m", images=1)):
        with pytest.raises(UsageError, match=r"choice 1 \(op1\) of slot 3 \(slot3\) has the score (nan|inf)"):
            use()


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"images": 0}, "images must be at least 1"), ({"images": 2.0}, "images"),
     ({"scores": {**SCORES, (1, 0): 0.5}}, "the score of base is 0, because scores are relative to it, not 0.5")],
)  # fmt: skip
def test_a_table_of_wrong_values_is_refused(changes: dict[str, Any], said: str) -> None:
    values: dict[str, Any] = {"scores": known(space()), "measured": "m", "images": 1, **changes}
    with pytest.raises(UsageError) as caught:
        ScoreTable.of(space(), values.pop("scores"), **values)
    assert caught.value.kind == "malformed_scores" and said in str(caught.value)


def slot(values: dict[str, Any], **changes: Any) -> None:
    values["slots"][0].update(changes)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda v: v.pop("fingerprint"), "fingerprint is missing"),
        (lambda v: v.update(version=2), "version"),
        (lambda v: v.update(images=-1), "images"),
        (lambda v: v.update(images=True), "images"),
        (lambda v: v.update(measured=3), "measured"),
        (lambda v: v.update(scores=[]), "there is no key scores"),
        (lambda v: v.update(slots={}), "slots"),
        (
            lambda v: slot(v, scores=[0.0, 0.1]),
            "slot slot0: there is one score for each choice, but there are 2 scores",
        ),
        (lambda v: slot(v, scores=[0.1, 0.1, 0.2, 0.3]), "the score of base is 0, because scores are relative to it"),
        (lambda v: slot(v, scores=[0.0, "0.1", 0.2, 0.3]), "slots.0.scores.1"),
        (lambda v: slot(v, scores=[0.0, True, 0.2, 0.3]), "slots.0.scores.1"),
        (lambda v: slot(v, choices=[], scores=[]), "there are 0 scores and 0 choices"),
        (lambda v: slot(v, names=1), "slots.0.names"),
    ],
)
def test_a_damaged_file_is_refused_in_one_sentence(
    tmp_path: Path, damage: Callable[[dict[str, Any]], object], said: str
) -> None:
    values = table().model_dump(mode="json")
    damage(values)
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UsageError) as caught:
        ScoreTable.load(path)
    assert (caught.value.kind, caught.value.where) == ("malformed_scores", str(path))
    assert said in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "kind"),
    [("", "malformed_json"), ("{", "malformed_json"), ('{"images": NaN}', "malformed_json"),
     ('{"images": 1e999}', "malformed_json"), ("[]", "malformed_scores"), ("null", "malformed_scores"),
     (None, "missing_file")],
)  # fmt: skip
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, text: str | None, kind: str) -> None:
    path = tmp_path / "scores.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UsageError) as caught:
        ScoreTable.load(path)
    assert caught.value.kind == kind and str(path) in str(caught.value)


# --- solving


@given(mixed_spaces(), st.data())
@settings(max_examples=30, deadline=None)
def test_a_table_solves_its_space_under_any_budget(space: SearchSpace, data: st.DataObject) -> None:
    pairs = [(i, k) for i, slot in enumerate(space.slots) for k in slot.legal if k]
    scores = {pair: data.draw(st.integers(-20, 99)) / 8 for pair in pairs}
    made = ScoreTable.of(space, scores, measured="rise of the loss", images=10)
    made.check(space)
    bounded = space.within(data.draw(budgets(space)))
    feasible = [vector for vector in everything(bounded) if bounded.feasible(vector)]
    (best,) = best_vectors(bounded, made.scores)
    assert best in feasible
    assert total(best, made.scores) == pytest.approx(min(total(vector, made.scores) for vector in feasible))


def test_several_solutions_are_the_best_that_differ_enough() -> None:
    bounded = space().within(Budget({"macs": 2.5}))
    scores = table().scores
    feasible = sorted(
        (vector for vector in everything(bounded) if bounded.feasible(vector)), key=lambda v: total(v, scores)
    )
    found = best_vectors(bounded, scores, 4, most_shared=2)
    assert len(found) == 4
    kept: list[Vector] = []
    for vector in found:
        apart = [v for v in feasible if all(sum(a == b for a, b in zip(v, k, strict=True)) <= 2 for k in kept)]
        assert vector in apart and total(vector, scores) == pytest.approx(total(apart[0], scores))
        kept.append(vector)


def test_a_restriction_is_solved_with_the_scores_of_the_whole_space() -> None:
    narrow = space().restrict({0: ["op2", "op3"], 2: ["op1"]})
    scores = table().scores
    best = min(everything(narrow), key=lambda vector: total(vector, scores))
    assert best_vectors(narrow, scores) == [best]
    assert best[0] == 2 and best[2] == 1
    table().check(narrow)
    with pytest.raises(UsageError, match="another space"):
        table().check(SearchSpace.uniform(5, 4))


def test_solutions_come_in_order_however_the_scores_are_shifted() -> None:
    """A solver that stops within a fraction of the sum would mix them up."""
    generator = random.Random(0)
    scores = {pair: 100 + generator.random() for pair in known(space())}
    ranked = sorted(total(vector, scores) for vector in everything(space()))
    found = [total(vector, scores) for vector in best_vectors(space(), scores, 12)]
    assert found == pytest.approx(ranked[:12], abs=1e-9)
