"""``narfx report``: what is in the page of each kind of run, finished, broken off or damaged."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from command import RunJson, in_process_json
from report_runs import SEARCH, copy_runs, edit, read

from narfx.report import report
from narfx.runs.events import Event, Saved
from narfx.runs.folder import RunFolder
from narfx.search import SearchConfig, run
from narfx.space.front_file import Front
from narfx.support.seals import write_sealed
from narfx.verbs.front import describe_front

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def runs(tmp_path_factory: pytest.TempPathFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of a run of each kind, in the working folder."""
    copy = copy_runs(tmp_path_factory, tmp_path)
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def narfx(capfd: pytest.CaptureFixture[str], runs: Path) -> RunJson:
    return in_process_json(capfd)


def test_the_page_of_a_search(narfx: RunJson, runs: Path) -> None:
    code, result, err = narfx("report", "search")
    assert (code, result["kind"], result["finished"], result["warnings"]) == (0, "search", True, []), err
    page = read(runs / "search" / "report.html")
    found = json.loads((runs / "search" / "result.json").read_text())
    verdict = found["verdict"]
    assert verdict in page.words and result["verdict"].startswith(verdict)
    # Each section has a heading, and the navigation leads to it.
    for title in (
        "Base, refined and random", "The front", "The network", "Learning curves", "Operator probabilities",
        "Gradient magnitudes", "What was asked", "Data, seeds and versions",
    ):  # fmt: skip
        assert page.words.count(title) >= 2, title
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert all((a["href"] or "")[1:] in ids for a in page.named("a"))
    # The points of the front tell their vector and costs, and copy the vector.
    points = list(page.named("g", class_="point"))
    kept = json.dumps(found["vector"])
    mine = [point for point in points if point["data-copy"] == kept]
    assert mine and all(f"macs {found['macs']:,}" in (point["data-tip"] or "") for point in mine)
    assert all(point["role"] == "button" and kept in (point["aria-label"] or "") for point in mine)
    # The network has each site with its operator.
    for site, entry in zip(
        json.loads((runs / "search/about.json").read_text())["networks"][0]["slots"], found["vector"], strict=True
    ):
        assert re.search(rf"{re.escape(site['name'])} conv3x3 {re.escape(site['choices'][entry])} ", page.words)
    # Data, seeds and versions.
    assert re.search(r"seed 0 .*torch \d+\.\d+", page.words) and "digits: 10 classes" in page.words


def test_the_page_of_a_comparison_and_of_a_training(narfx: RunJson, runs: Path) -> None:
    code, _, err = narfx("report", "compare", "--out", "c.html")
    assert code == 0, err
    page, found = read(runs / "c.html"), json.loads((runs / "compare" / "comparison.json").read_text())
    for row in found["rows"]:
        assert f"{row['name']} {100 * row['mean']:.2f} % {100 * row['standard_error']:.2f}" in page.words
    against = found["architectures"][0]["against_base"]
    assert found["verdict"] in page.words and f"{100 * abs(against['difference']):.2f}" in page.words
    assert len(list(page.named("g", class_="point"))) == len(found["rows"])
    code, _, err = narfx("report", "train", "--out", "t.html")
    assert code == 0, err
    metrics = json.loads((runs / "train" / "metrics.json").read_text())
    assert f"{100 * metrics['test']['accuracy']:.2f} ± " in read(runs / "t.html").words


def test_the_page_of_a_search_of_skips(runs: Path) -> None:
    """The main path, with the open skips; those that the base does not have are marked."""
    report("joint", "j.html")
    page, found = read(runs / "j.html"), json.loads((runs / "joint" / "result.json").read_text())
    base = [
        slot["skip"]
        for slot in json.loads((runs / "joint/about.json").read_text())["networks"][0]["slots"]
        if slot["skip_of_base"]
    ]
    assert f"{len(found['skips'])} of " in page.words
    new = [skip for skip in found["skips"] if skip not in base]
    assert bool(list(page.named("path", class_="new"))) == bool(new)
    assert all(f"{a}→{b}" in page.words for a, b in found["skips"])


def test_the_page_of_a_search_for_a_front(runs: Path) -> None:
    """Each point of ``front.json`` with its costs, in a figure for each cost, and the curves of actor and critic."""
    assert report("front", "f.html")["warnings"] == []
    page, found = read(runs / "f.html"), Front.load(runs / "front" / "front.json")
    tips = [point["data-tip"] or "" for point in page.named("g", class_="point")]
    for number, point in enumerate(found.points, 1):
        mine = [tip for tip in tips if tip.startswith(f"point {number}:")]
        assert len(mine) == 2
        assert all(f"macs {point.costs['macs']:,.0f}" in tip and str(list(point.vector)) in tip for tip in mine)
    volume = describe_front(runs / "front")["hypervolume"]["value"]
    assert f"hypervolume {volume:.4f}" in page.words and "weights kept of every point" in page.words
    assert re.search(r"Gradient of each part of the policy actor critic .*step actor critic \d", page.words)
    assert "front over macs, params" in page.words and "options of the strategy warmup=5" in page.words
    for title in (
        "Hypervolume",
        "Loss of the critic",
        "Noise of the actions",
        "Operators among the proposals",
        "Gradient magnitudes",
    ):
        assert title in page.words


def test_the_page_of_solved_budgets(runs: Path) -> None:
    """Each budget with its standard error, beside the base by the weights of the search."""
    assert report("solved", "s.html")["warnings"] == []
    page, found = read(runs / "s.html"), Front.load(runs / "solved" / "front.json")
    tips = [point["data-tip"] or "" for point in page.named("g", class_="point")]
    assert [tip.partition(":")[0] for tip in tips] == ["macs<=0.3x", "macs<=0.6x", "macs<=0.9x", "base"]
    assert found.base.accuracy is not None and f"base: {100 * found.base.accuracy:.2f} ± " in tips[-1]
    for point in found.points:
        mine = [tip for tip in tips if str(list(point.vector)) in tip]
        assert point.standard_error is not None and any(f"± {100 * point.standard_error:.2f} %" in tip for tip in mine)
    assert "Predicted and evaluated" in page.words and "--points 3 --out solved-again" in page.words
    assert "narfx front solved --pick 1 --out solved-point-1" in page.words


def test_the_page_loads_nothing_and_the_same_run_gives_the_same_bytes(runs: Path) -> None:
    report("search", "a.html")
    report("search", "b.html")
    content = (runs / "a.html").read_text()
    assert content == (runs / "b.html").read_text() and str(runs) not in content
    for _, attributes in read(runs / "a.html").tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert not re.search(r"@import|url\((?!#)", content)
    assert "default-src 'none'" in content


def test_every_figure_is_described_and_has_a_table(runs: Path) -> None:
    report("search", "a.html")
    page = read(runs / "a.html")
    figures = [tag for tag, attributes in page.tags if tag == "figure"]
    drawings = [a for a in page.named("svg") if a.get("role")]
    assert len(drawings) > 8 and all(len(a["aria-label"] or "") > 20 for a in drawings)
    assert len(list(page.named("table"))) >= len(figures)
    assert all(a.get("scope") for a in page.named("th"))


def test_names_from_files_are_text_wherever_they_stand(runs: Path) -> None:
    """A module, an operator, a data path, a strategy, a row, a folder: none of them becomes markup."""
    about = json.loads((runs / "search" / "about.json").read_text())
    network = about["networks"][0]
    for node in network["nodes"]:
        node["name"] += EVIL
    for slot in network["slots"]:
        slot["sites"] = [site + EVIL for site in slot["sites"]]
        slot["choices"] = [f"{choice}\"'&{EVIL}" for choice in slot["choices"]]
        slot["name"] += EVIL
    network["model"] = about["data"]["name"] = EVIL + "$x^2$ \x00\x1b[31m￾"
    edit(runs / "search" / "about.json", **about)
    config = json.loads((runs / "search" / "config.json").read_text())
    evil = {"data": f"{EVIL}.npz", "operators": ["base", *[f"{name}{EVIL}" for name in config["operators"][1:]]]}
    edit(runs / "search" / "config.json", **evil)
    result = json.loads((runs / "search" / "result.json").read_text())
    result.pop("digest")
    write_sealed(runs / "search" / "result.json", {**result, "verdict": EVIL, "starting_weights": EVIL})
    compared = json.loads((runs / "compare" / "comparison.json").read_text())
    compared.pop("digest")
    for row in compared["rows"]:
        row["name"] += EVIL
    write_sealed(runs / "compare" / "comparison.json", compared)
    place = runs / "<img src=x onerror=alert(1)>"
    shutil.move(runs / "search", place)
    for name in (place.name, "compare"):
        told = report(name, "a.html", overwrite=True)["warnings"]
        assert [re.split(" says | was ", text)[0] for text in told] == (
            ["config.json", "config.json", "about.json"] if name != "compare" else []
        )
        page = read(runs / "a.html")
        assert len(list(page.named("script"))) == 1 and not list(page.named("img"))
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
        assert EVIL in page.words
        assert "\x00" not in (runs / "a.html").read_text() and "\x1b" not in (runs / "a.html").read_text()


class Stop:
    """A subscriber that breaks a run off at its n-th checkpoint."""

    def __init__(self, n: int) -> None:
        self.left = n

    def __call__(self, event: Event) -> None:
        self.left -= isinstance(event, Saved)
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize(("checkpoint", "told"), [(1, "has not logged anything"), (3, "2 of 3 epochs, 3 steps")])
def test_a_run_that_is_not_finished(runs: Path, checkpoint: int, told: str) -> None:
    with pytest.raises(Exception, match="interrupted"):
        run(SearchConfig.model_validate(SEARCH), "cut", subscribers=[Stop(checkpoint)])
    result = report("cut")
    assert not result["finished"] and told in result["verdict"]
    page = read(runs / "cut" / "report.html")
    assert "No verdict." in page.words and "The front" not in page.words
    assert ("Operator probabilities" in page.words) == (checkpoint == 3)
    assert "narfx search" in page.words and "The network" in page.words
    RunFolder.open(Path("cut"))  # the run is as it was: it can be resumed


def test_a_comparison_that_is_not_finished_shows_what_is_trained(runs: Path) -> None:
    (runs / "compare" / "comparison.json").unlink()
    result = report("compare")
    assert not result["finished"] and "8 networks are trained" in result["verdict"]
    assert "Networks trained so far" in read(runs / "compare" / "report.html").words


def test_events_that_are_cut_or_damaged(runs: Path) -> None:
    path = runs / "search" / "events.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    steps = [index for index, line in enumerate(lines) if b'"step"' in line]
    lines[steps[1]] = lines[steps[1]].replace(b'"reward": 0', b'"reward": 1')
    path.write_bytes(b"".join(lines) + b'{"event": "step", "rew')
    (warning,) = report("search")["warnings"]
    assert warning == "2 lines of events.jsonl are cut off or damaged, and left out"
    assert warning in read(runs / "search" / "report.html").words
    path.write_bytes(b"\x00\xff garbage\n[]\n{}\n" * 3)
    (warning,) = report("search", overwrite=True)["warnings"]
    assert warning.startswith("9 lines")


def test_a_finished_run_without_events_says_that_it_has_no_curves(runs: Path) -> None:
    for name in ("search", "train"):
        (runs / name / "events.jsonl").unlink()
        assert report(name, f"{name}.html")["warnings"] == [
            "events.jsonl is missing or empty: the report has no curves"
        ]
        assert "the report has no curves" in read(runs / f"{name}.html").words


def test_what_the_run_did_not_begin_with_is_said(runs: Path) -> None:
    edit(runs / "search" / "config.json", lr=0.5)
    about = json.loads((runs / "search" / "about.json").read_text())
    edit(runs / "search" / "about.json", device="a faster one")
    assert about["device"] != "a faster one"
    told = report("search")["warnings"]
    assert told[0].startswith("config.json says lr 0.5, but the run began with 0.")
    assert told[1].startswith("about.json was changed after narfx wrote it") and len(told) == 2
    edit(runs / "search" / "config.json", lr=0.05, quick=0)
    assert "config.json says quick 0, but the run began with False" in report("search", overwrite=True)["warnings"]
    (runs / "search" / "origin.json").write_text("{}")
    (unknown,) = report("search", overwrite=True)["warnings"]
    assert re.search("origin.json is damaged.* not known whether config.json and about.json are as the run", unknown)


def test_a_row_that_lost_its_cost_is_left_out_of_the_figure(runs: Path) -> None:
    rows = json.loads((runs / "compare" / "comparison.json").read_text())["rows"]
    del rows[-1]["macs"]
    edit(runs / "compare" / "comparison.json", rows=rows)
    (told,) = report("compare")["warnings"]
    assert told.startswith("comparison.json was changed")


@pytest.mark.parametrize("name", ["solve.json", "about.json"])
def test_what_solve_wrote_has_a_digest(runs: Path, name: str) -> None:
    path = runs / "solved" / name
    values = json.loads(path.read_text())
    key = "metric" if name == "solve.json" else "device"
    path.write_text(json.dumps({**values, key: "another"}))
    assert "was changed after narfx wrote it" in report("solved")["warnings"][0]
    path.write_text(json.dumps({entry: value for entry, value in values.items() if entry != "digest"}))
    assert "has no digest" in report("solved", overwrite=True)["warnings"][0]


def test_files_that_are_damaged_are_named(runs: Path) -> None:
    (runs / "search" / "about.json").write_text('{"versions": {"a": "b"}, "device": 5}')
    edit(runs / "search" / "result.json", accuracy=0.99)
    (runs / "search" / "front.json").write_text("{")
    warnings = "\n".join(report("search")["warnings"])
    assert "about.json cannot be read" in warnings and "front.json is not valid JSON" in warnings
    assert "result.json was changed after narfx wrote it" in warnings
    assert (runs / "search" / "front.json").write_text('{"version": 1}')
    again = "\n".join(report("search", overwrite=True)["warnings"])
    assert re.search(r"front.json.*the report leaves the front out", again) and "…" not in warnings + again
    page = read(runs / "search" / "report.html")
    assert "What could not be read" in page.words and "An older version of narfx" in page.words


def test_a_front_that_was_changed_by_hand_is_not_drawn_as_one(narfx: RunJson, runs: Path) -> None:
    """Changed, without its digest, or called one of an older version."""
    place = runs / "search" / "front.json"
    values = json.loads(place.read_text())
    changed = {**values, "evaluated": values["evaluated"] + 1}
    unsealed = {key: value for key, value in changed.items() if key != "digest"}
    older = {key: value for key, value in changed.items() if key != "version"} | {"front": changed["points"]}
    for number, wrong in enumerate((changed, unsealed, older)):
        place.write_text(json.dumps(wrong))
        code, found, _ = narfx("report", "search", "--out", f"changed-{number}.html")
        page = read(runs / f"changed-{number}.html")
        assert code == 0 and re.search("front.json (is damaged, or )?was changed after narfx wrote it", page.words)
        assert "front.json" in found["warnings"][0]
        assert "What was evaluated" in page.words and "This is not the front of the run" in page.words
        assert "The front" not in page.words and not re.search(r"\bpoint 1\b", page.words)
    place.write_text(json.dumps(values))
    assert "This is not the front" not in read_report(runs)


def read_report(runs: Path) -> str:
    report("search", "again.html", overwrite=True)
    return read(runs / "again.html").words


def test_the_front_of_a_file(runs: Path) -> None:
    """Points of ``front.json`` with their errors; a front of one point says so."""
    costs = {"macs": 30000.0, "params": 900.0, "latency": 0.5}
    point = {"vector": (1, 0, 2, 0, 3, 0), "accuracy": 0.5, "standard_error": 0.05, "loss": 1.0, "costs": costs}
    base = {"vector": (0,) * 6, "accuracy": None, "costs": {"macs": 49568.0, "params": 5142.0, "latency": 0.9}}
    values = {"metric": "accuracy", "costs": ("macs", "latency"), "images": 36, "evaluated": 12, "base": base}
    (runs / "search" / "front.json").unlink()
    (runs / "search" / "evaluations.json").unlink()
    Front.model_validate({**values, "points": (point,)}).save(runs / "search" / "front.json")
    assert report("search")["warnings"] == []
    page = read(runs / "search" / "report.html")
    points = list(page.named("g", class_="point"))
    assert len(points) == 2  # one in each figure
    told = "point 1: 50.00 ± 5.00 %\nmacs 30,000\nparams 900\nlatency 0.5\nvector [1, 0, 2, 0, 3, 0]"
    assert {entry["data-tip"] for entry in points} == {told}
    assert "Accuracy against latency" in page.words and "The front is one point" in page.words
    # (1 - 30 / 49.568) of the MACs and 4 / 9 of the latency, times the accuracy.
    assert "hypervolume 0.0877, with accuracy 0 and 49.6 K MACs, 0.9 ms latency" in page.words
    assert (
        "1 of 12 vectors evaluated on 36 validation images" in page.words
        and "weights kept of 0 of 1 points" in page.words
    )
    assert "narfx front search --pick 1 --out search-point-1" in page.words
    cheap = {**point, "vector": (3,) * 6, "accuracy": 0.2, "costs": {**costs, "macs": 9000.0}}
    Front.model_validate({**values, "points": (cheap, point)}).save(runs / "search" / "front.json")
    report("search", overwrite=True)
    page = read(runs / "search" / "report.html")
    assert len(list(page.named("g", class_="point"))) == 4 and "The front is one point" not in page.words


def test_a_metric_that_is_constant_or_not_a_number(runs: Path) -> None:
    path = runs / "search" / "events.jsonl"
    found = []
    for line in path.read_text().splitlines():
        event = json.loads(line)
        event.pop("crc")
        if event["event"] == "step":
            event |= {"reward": 0.1, "entropy": None, "grad_norm": "high", "probabilities": [[0.5], "x"], "vectors": 3}
        found.append(json.dumps(event))
    path.write_text("\n".join(found) + "\n")
    assert report("search")["warnings"] == []
    page = read(runs / "search" / "report.html")
    assert "mean reward of a batch" in page.words and "nan" not in page.words.lower().split()
    assert "Entropy of a decision" not in page.words and "Operator probabilities" not in page.words


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (("gone",), "no_run"),
        (("search/arch.json",), "no_run"),
        ((".",), "no_run"),
        (("search", "--out", "taken.html"), "output_exists"),
        (("search", "--out", "folder"), "output_exists"),
        (("search", "--out", "/dev/null", "--overwrite"), "output_exists"),
        (("search", "--out", "none/here.html"), "missing_folder"),
        (("search", "--out", "search/result.json", "--overwrite"), "not_html"),
    ],
)
def test_what_a_user_can_get_wrong(narfx: RunJson, runs: Path, arguments: tuple[str, ...], kind: str) -> None:
    (runs / "taken.html").write_text("mine")
    (runs / "folder").mkdir()
    code, result, err = narfx("report", *arguments)
    assert (code, result["error"]["kind"]) == (2, kind) and "Traceback" not in err
    assert (runs / "taken.html").read_text() == "mine" and not list((runs / "folder").iterdir())


def test_overwrite_replaces_the_file(narfx: RunJson, runs: Path) -> None:
    (runs / "taken.html").write_text("mine")
    assert narfx("report", "search", "--out", "taken.html", "--overwrite")[0] == 0
    assert "narfx report" in (runs / "taken.html").read_text()
