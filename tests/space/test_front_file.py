"""``front.json``: what is written is read again, and nothing else is."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from narfx.errors import UsageError
from narfx.space.front_file import Front, FrontPoint, PointWeights, is_front, standard_error
from narfx.support.seals import write_sealed

ACCURACY = st.floats(0, 1)


def made(accuracies: list[float], skips: bool = False, base: float | None = None) -> Front:
    open_skips = ((1, 3),) if skips else None
    points = tuple(
        FrontPoint(
            vector=(n, 0),
            skips=open_skips,
            accuracy=accuracy,
            standard_error=standard_error(accuracy, 40),
            costs={"macs": 10.0 + n, "params": 3},
            weights=PointWeights(file="front.safetensors", digest="0" * 64, entry=str(n)) if n else None,
        )
        for n, accuracy in enumerate(accuracies)
    )
    whole = FrontPoint(vector=(0, 0), skips=open_skips, accuracy=base, costs={"macs": 20.0, "params": 3})
    return Front(
        metric="accuracy", costs=("macs",), images=40, archive=9, evaluated=len(points), base=whole, points=points
    )


@given(st.lists(ACCURACY, min_size=1, max_size=4), st.booleans(), st.none() | ACCURACY)
def test_what_is_written_is_read_again(accuracies: list[float], skips: bool, base: float | None) -> None:
    front = made(accuracies, skips, base)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "front.json"
        front.save(path)
        assert Front.load(path) == front and is_front(path)
        values = json.loads(path.read_text())
        assert values["base"]["accuracy"] == base and ("skips" in values["points"][0]) == skips
        assert "weights" not in values["points"][0]


def test_the_standard_error_is_that_of_a_share() -> None:
    assert standard_error(0.5, 100) == pytest.approx(0.051, abs=1e-3)
    assert 0 < standard_error(1.0, 100) == 0.01  # that all are right is no proof


def changed(path: Path, change: Any, *, seal: bool) -> None:
    values = json.loads(path.read_text())
    change(values)
    if seal:
        write_sealed(path, {key: value for key, value in values.items() if key != "digest"})
    else:
        path.write_text(json.dumps(values))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v["points"][0].update(accuracy="high"), r"points\.0\.accuracy"),
        (lambda v: v["points"][0].update(accuracy=1.5), r"points\.0\.accuracy"),
        (lambda v: v["points"][0].pop("accuracy"), r"points\.0\.accuracy is missing"),
        (lambda v: v["points"][0].update(accuracy=None), "point 1 has no accuracy"),
        (lambda v: v["points"][1].update(vector=[1]), "point 2 has a vector of 1 entries, and the base one of 2"),
        (lambda v: v["points"][1].update(vector=[-1, 0]), r"points\.1\.vector\.0"),
        (lambda v: v["points"][1]["costs"].pop("macs"), "point 2 has no macs"),
        (lambda v: v["points"][1]["weights"].update(file="../secret"), "lies in the folder"),
        (lambda v: v["points"][1]["weights"].update(file="/etc/passwd"), "lies in the folder"),
        (lambda v: v.update(points=[]), "points"),
        (lambda v: v.update(costs=[]), "costs"),
        (lambda v: v.update(version=2), "version must be 1"),
        (lambda v: v.update(more=1), "there is no key more"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path: Path, change: Any, said: str) -> None:
    path = tmp_path / "front.json"
    made([0.1, 0.2]).save(path)
    changed(path, change, seal=True)
    with pytest.raises(UsageError, match=said) as caught:
        Front.load(path)
    assert caught.value.kind == "malformed_front"


def test_an_edited_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "front.json"
    for change in (lambda v: v["points"][0].update(accuracy=0.99), lambda v: v.pop("digest")):
        made([0.1, 0.2]).save(path)
        changed(path, change, seal=False)
        with pytest.raises(UsageError, match="its digest differs") as caught:
            Front.load(path)
        assert caught.value.kind == "damaged_file"


@pytest.mark.parametrize("values", [{"metric": "accuracy", "front": []}, [], {}])
def test_what_an_older_version_wrote_is_said(tmp_path: Path, values: Any) -> None:
    path = tmp_path / "front.json"
    path.write_text(json.dumps(values))
    with pytest.raises(UsageError, match="an older one wrote it") as caught:
        Front.load(path)
    assert caught.value.kind == "old_front"


def test_an_architecture_is_no_front(tmp_path: Path) -> None:
    path = tmp_path / "arch.json"
    for text, expected in (
        ('{"vector": [0]}', False),
        ('{"front": []}', True),
        ('{"points": []}', True),
        ("[]", False),
    ):
        path.write_text(text)
        assert is_front(path) is expected
    assert not is_front(tmp_path / "none.json") and not is_front(tmp_path)
