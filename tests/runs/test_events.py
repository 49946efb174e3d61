"""Events as typed records: what narfx writes is read back, and no line of an old or a later version is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from narfx.runs.events import (
    Done,
    Epoch,
    Event,
    Other,
    Saved,
    StageBegan,
    Step,
    Trained,
    Weights,
    from_line,
    iter_events,
)
from narfx.runs.folder import RunFolder

EVENTS = (
    Weights(epoch=1, loss=2.5, lr=0.1),
    Step(metric="accuracy", epoch=1, vectors=[[0, 1]], rewards=[0.5], more={"reward": 0.5, "gradient": {"skips": 1.0}}),
    StageBegan(stage=2, strategy="nar", legal=[[0, 1], [2]]),
    Epoch(epoch=1, loss=2.5, lr=0.1),
    Trained(name="base", seed=0, more={"vector": [0, 0], "epochs": 1}),
    Done(more={"data": "digits", "accuracy": 0.5}),
    Other(name="of a later version", more={"value": 1}),
)


def test_what_is_written_is_read_and_sent(tmp_path: Path) -> None:
    seen: list[Event] = []
    with RunFolder.create(tmp_path / "run", {}) as folder:
        folder.subscribe(seen.append)
        for event in EVENTS:
            folder.write(event)
        folder.save({"epoch": 1})
    read = list(iter_events(tmp_path / "run", Event))
    assert [event.line() for event in read] == [event.line() for event in EVENTS]
    assert [type(event) for event in read] == [type(event) for event in EVENTS]
    assert read == seen[:-1]
    assert isinstance(seen[-1], Saved)
    assert list(iter_events(tmp_path / "run", Weights)) == [read[0]]


def test_a_line_keeps_its_keys_in_their_order() -> None:
    for line in (
        {"event": "weights", "epoch": 1, "loss": 2.0, "lr": 0.1, "seconds": 0.2},
        {"event": "step", "metric": "accuracy", "epoch": 3, "vectors": [[0]], "rewards": [0.1], "reward": 0.1,
         "spread": 0.2, "assigned": {}, "seconds": 0.3},
        {"event": "epoch", "epoch": 1, "loss": 2.0, "lr": 0.1, "seconds": 0.2},
        {"event": "trained", "name": "base", "seed": 1, "vector": [0], "epochs": 1, "seconds": 9.5},
        {"event": "done", "data": "digits", "metric": "accuracy", "macs": 5, "seconds": 9.5},
    ):  # fmt: skip
        event = from_line(line)
        assert json.dumps({**event.line(), "seconds": event.seconds}) == json.dumps(line)


@pytest.mark.parametrize(
    "line",
    [
        {"event": "weights"},
        {"event": "weights", "epoch": 1, "loss": None, "seconds": None},
        {"event": "step", "epoch": 1, "vectors": [[0]], "rewards": [0.1]},  # before steps had a metric
        {"event": "step", "vectors": "text", "gradient": 3, "more": 1},
        {"event": "done", "accuracy": "high", "seconds": 1},
        {"event": "never heard of", "epoch": 7, "name": "x"},
    ],
)
def test_nothing_of_another_version_is_refused(line: dict[str, object]) -> None:
    event = from_line(line)
    rest = {key: value for key, value in line.items() if key not in ("event", "seconds") and value is not None}
    assert event.line() == {"event": line["event"], **rest}


def test_the_last_line_of_a_crash_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"event": "weights", "epoch": 1}\n{"event": "wei')
    assert [event.epoch for event in iter_events(tmp_path, Weights)] == [1]


def test_a_subscriber_gets_what_follows_its_subscription(tmp_path: Path) -> None:
    seen: list[Event] = []
    with RunFolder.create(tmp_path / "run", {}) as folder:
        folder.event("mine", value=float("nan"))
        folder.subscribe(seen.append)
        folder.event("mine", value=float("inf"), epoch=2)
    assert [(event.kind, event.line()) for event in seen] == [
        ("other", {"event": "mine", "value": None, "epoch": 2})
    ]  # fmt: skip
