"""``narfx front``, and ``narfx compare`` of a front: as a user calls them, with what can be wrong."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from command import Run, RunJson, in_process, in_process_json
from sample_faces import NET, write_bin, write_folder

sys.path.insert(0, str(Path(__file__).parents[1] / "search"))
from trained_base import solving, train_base

from narfx.errors import UsageError
from narfx.search import run
from narfx.space.architecture import Architecture
from narfx.space.front_file import Front, FrontPoint
from narfx.space.hypervolume import hypervolume
from narfx.verbs.compare import CompareConfig, compare
from narfx.verbs.front import describe_front
from narfx.verbs.front_points import chosen_points, named_targets


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished search by scores with a front over MACs, beside the folder of its base."""
    folder = tmp_path_factory.mktemp("fronts")
    config = solving(train_base(folder / "base"), pretrain_epochs=1, epochs=2, front=("macs",), data_fraction=0.5)
    run(config, folder / "run")
    return folder / "run"


@pytest.fixture
def narfx(capfd: pytest.CaptureFixture[str]) -> Run:
    return in_process(capfd)


@pytest.fixture
def narfx_json(capfd: pytest.CaptureFixture[str]) -> RunJson:
    return in_process_json(capfd)


def test_the_table_has_the_base_and_every_point(searched: Path, narfx: Run) -> None:
    front = Front.load(searched / "front.json")
    assert len(front.points) > 2
    before = sorted(path.name for path in searched.iterdir())
    code, shown, _ = narfx("front", str(searched))
    lines = shown.splitlines()
    assert code == 0 and lines[1].startswith("base") and f"{front.base.accuracy:.4f}" in lines[1]
    for number, (line, point) in enumerate(zip(lines[2:], front.points, strict=False), 1):
        assert (
            line.split()[0] == str(number) and f"{point.accuracy:.4f}" in line and f"{point.costs['macs']:,.0f}" in line
        )
        assert f"{point.costs['macs'] / front.base.costs['macs']:.3f}x" in line
        assert line.rstrip().endswith(",".join(map(str, point.vector)))
    assert f"{len(front.points)} points of {front.evaluated} vectors evaluated" in shown
    assert sorted(path.name for path in searched.iterdir()) == before  # nothing is written into the run


def test_json_holds_the_numbers_and_the_hypervolume_of_a_stated_point(searched: Path, narfx_json: RunJson) -> None:
    front = Front.load(searched / "front.json")
    code, found, _ = narfx_json("front", str(searched / "front.json"))
    records, base = [point.record() for point in front.points], front.base.costs
    assert code == 0 and found["hypervolume"]["reference"] == {"accuracy": 0.0, "macs": base["macs"]}
    assert found["hypervolume"]["value"] == pytest.approx(hypervolume(records, {"accuracy": 0.0, "macs": base["macs"]}))
    assert [point["point"] for point in found["points"]] == list(range(1, len(front.points) + 1))
    assert found["files"] == {} and found["picked"] is None and found["base"]["weights"] == "own"
    code, other, _ = narfx_json("front", str(searched), "--reference", "accuracy=0.1,macs=0.9x")
    assert code == 0 and other["hypervolume"]["reference"]["macs"] == int(0.9 * base["macs"])
    assert 0 < other["hypervolume"]["value"] < found["hypervolume"]["value"]
    code, none, _ = narfx_json("front", str(searched), "--reference", "macs=1")
    assert code == 0 and none["hypervolume"]["value"] == 0
    assert "the hypervolume is 0" in none["notes"][-1] and "at least the MACs that it has" in none["notes"][-1]
    assert not any("hypervolume" in note for note in found["notes"])


@pytest.mark.parametrize("pick", ["1", "macs<=0.6x,params<=1x", "knee"])
def test_a_point_is_an_architecture_with_its_weights(
    searched: Path, tmp_path: Path, narfx: Run, narfx_json: RunJson, pick: str
) -> None:
    out = tmp_path / "picked"
    code, found, err = narfx_json("front", str(searched), "--pick", pick, "--out", str(out))
    assert code == 0, err
    assert pick != "knee" or found["picked"]["point"] == found["knee"]
    picked, front = found["picked"], Front.load(searched / "front.json")
    if "macs" in pick:
        fitting = [p for p in front.points if p.costs["macs"] <= 0.6 * front.base.costs["macs"]]
        assert picked["accuracy"] == max(p.accuracy for p in fitting if p.accuracy is not None)
    assert {path.name for path in out.iterdir()} == {
        "arch.json", "weights.safetensors", "front.png", "front.svg", "points.json",
    }  # fmt: skip
    assert (out / "front.png").read_bytes()[:4] == b"\x89PNG" and b"<svg" in (out / "front.svg").read_bytes()
    written = Architecture.load(out / "arch.json")
    assert list(written.vector) == picked["vector"] and written.metrics["front"]["point"] == picked["point"]
    assert json.loads((out / "points.json").read_text())["picked"] == picked
    if pick == "knee":  # each is a file of the same kind
        code, report, _ = narfx_json("apply", str(out / "arch.json"), "--out", str(tmp_path / "bundle"))
        assert code == 0 and report["macs"] == picked["macs"] and "lowered network's" in report["weights"]
    code, test, _ = narfx_json("evaluate", str(out / "arch.json"), "--data", "digits", "--part", "test")
    assert code == 0 and test["accuracy"] > 0.1
    code, _, err = narfx("front", str(searched), "--pick", pick, "--out", str(out))
    assert code == 2 and "--overwrite" in err
    assert narfx("front", str(searched), "--pick", pick, "--out", str(out), "--overwrite")[0] == 0


def test_a_point_can_be_trained(searched: Path, tmp_path: Path, narfx_json: RunJson) -> None:
    describe_front(searched, tmp_path / "picked", picked="1")
    code, found, _ = narfx_json(
        "train", str(tmp_path / "picked" / "arch.json"), "--data", "digits", "--data-fraction", "0.25", "--epochs", "1",
        "--lr", "1e-9", "--lr-min", "0", "--augment", "none", "--batch-size", "64", "--out", str(tmp_path / "trained"),
    )  # fmt: skip
    assert code == 0 and "lowered network's" in found["starting_weights"]
    point = Front.load(searched / "front.json").points[0]
    assert found["test"]["accuracy"] == pytest.approx(point.accuracy, abs=0.25)


def test_the_front_of_other_budgets_is_one_too(searched: Path, tmp_path: Path, narfx_json: RunJson) -> None:
    out = tmp_path / "solved"
    code, solved, _ = narfx_json(
        "solve", str(searched), "--budget", "macs<=0.3x..0.9x", "--points", "3", "--out", str(out)
    )
    assert code == 0 and solved["files"]["front"] == str(out / "front.json")
    code, found, _ = narfx_json("front", str(out), "--pick", "macs<=0.95x", "--out", str(tmp_path / "picked"))
    assert code == 0 and found["base"]["weights"] == "shared" and found["base"]["accuracy"] is not None
    twin = next(p for p in solved["points"] if p["vector"] == found["picked"]["vector"])
    assert found["picked"]["accuracy"] == twin["accuracy"]
    code, report, _ = narfx_json("apply", found["files"]["arch"], "--out", str(tmp_path / "bundle"))
    assert code == 0 and report["macs"] == found["picked"]["macs"]
    (out / Path(twin["files"]["weights"]).relative_to(out)).write_bytes(b"other")
    code, failed, _ = narfx_json(
        "front", str(out), "--pick", str(found["picked"]["point"]), "--out", str(tmp_path / "x")
    )
    assert code == 2 and failed["error"]["kind"] == "damaged_file" and not (tmp_path / "x").exists()


def test_points_are_trained_beside_random_vectors_of_equal_cost(searched: Path, tmp_path: Path) -> None:
    config = CompareConfig(
        target=str(searched / "front.json"), points=2, data="digits", data_fraction=0.25, batch_size=64,
        augment="none", init="prepared", epochs=1, lr=1e-12, lr_min=0.0, seeds=1, randoms=1,
    )  # fmt: skip
    result = compare(config, tmp_path / "compared")
    front = Front.load(searched / "front.json")
    chosen = chosen_points(front, 2)
    rows = {row["name"]: row for row in result["rows"]}
    assert [entry["name"] for entry in result["architectures"]] == [f"point {n}" for n in chosen] and len(chosen) == 2
    for number in chosen:
        own, random = rows[f"point {number}"], rows.get(f"point {number} random 1")
        assert own["vector"] == list(front.points[number - 1].vector)
        if random is not None:
            assert 0.98 * own["macs"] <= random["macs"] <= own["macs"] and random["vector"] != own["vector"]
    assert f"point {chosen[-1]}" in result["verdict"]
    run_config = json.loads((tmp_path / "compared" / "config.json").read_text())
    assert run_config["names"] == [f"point {n}" for n in chosen] and run_config["target"] == "target.json"


def test_points_are_named_after_their_front_where_there_are_several(searched: Path, tmp_path: Path) -> None:
    path = str(searched / "front.json")
    (number,) = chosen_points(Front.load(searched / "front.json"), 1)
    for texts, names in (
        ([(None, path), ("mine", path)], [f"point {number}", f"mine point {number}"]),
        ([(None, path), (None, path)], [f"run point {number}"] * 2),  # which compare refuses: two of one name
    ):
        assert [name for name, _, _ in named_targets([*texts], None, 1)] == names
    front = Front.load(searched / "front.json")
    base = [n for n, p in enumerate(front.points, 1) if not any(p.vector)]
    assert not set(base) & set(chosen_points(front, 99)) and len(chosen_points(front, 99)) == len(front.points) - len(
        base
    )
    copy = one_point(searched, tmp_path, front.base)
    with pytest.raises(UsageError, match="no point but the base") as caught:
        named_targets([(None, str(copy / "front.json"))], None, 3)
    assert caught.value.kind == "no_points"
    with pytest.raises(UsageError, match=r"takes an arch\.json"):
        named_targets([(None, "narfx:resnet20")], None, 3)


def one_point(searched: Path, tmp_path: Path, point: FrontPoint) -> Path:
    copy = tmp_path / "one"
    shutil.copytree(searched, copy)
    front = Front.load(searched / "front.json")
    front.model_copy(update={"points": (point,)}).save(copy / "front.json")
    return copy


def test_a_front_of_one_point_and_a_constant_metric_are_said(searched: Path, tmp_path: Path, narfx: Run) -> None:
    front = Front.load(searched / "front.json")
    copy = one_point(searched, tmp_path, front.points[0])
    code, shown, _ = narfx("front", str(copy), "--pick", "knee", "--out", str(tmp_path / "knee"))
    assert code == 0 and "note: the front has one point" in shown and "picked: point 1" in shown
    level = [
        point.model_copy(update={"costs": {**point.costs, "params": 7.0}}).model_copy(update={"weights": None})
        for point in front.points
    ]
    front.model_copy(update={"points": tuple(level), "costs": ("macs", "params")}).save(copy / "front.json")
    code, shown, _ = narfx("front", str(copy), "--pick", "2", "--out", str(tmp_path / "bare"))
    assert code == 0 and "note: all points have the same parameters" in shown
    assert "the weights of point 2 were not kept" in shown and not (tmp_path / "bare" / "weights.safetensors").exists()
    assert Architecture.load(tmp_path / "bare" / "arch.json").weights is None


def test_a_bound_that_no_point_meets_names_the_nearest_and_exits_with_4(
    searched: Path, tmp_path: Path, narfx_json: RunJson
) -> None:
    arguments = ("front", str(searched), "--pick", "macs<=0.01x", "--out", str(tmp_path / "out"))
    code, answer, err = narfx_json(*arguments)
    error = answer["error"]
    assert code == error["code"] == 4 and error["kind"] == "no_point"
    assert "the nearest is point 1 (MACs" in error["message"] and not (tmp_path / "out").exists()
    assert "Traceback" not in err


def without_result(run: Path) -> None:
    (run / "result.json").unlink()


def without_front(run: Path) -> None:
    (run / "front.json").unlink()


def edited(run: Path) -> None:
    path = run / "front.json"
    values = json.loads(path.read_text())
    values["points"][0]["accuracy"] = 1.0
    path.write_text(json.dumps(values))


def older(run: Path) -> None:
    (run / "front.json").write_text('{"metric": "accuracy", "front": [{"vector": [0], "accuracy": 0.5, "macs": 3}]}')


def no_json(run: Path) -> None:
    (run / "front.json").write_text("{")


def other_architecture(run: Path) -> None:
    arch = json.loads((run / "arch.json").read_text())
    (run / "arch.json").write_text(json.dumps({**arch, "vector": [0], "digest": None} | {"digest": "x"}))


@pytest.mark.parametrize(
    ("change", "kind", "said"),
    [
        (without_result, "no_front", "holds no finished search"),
        (without_front, "no_front", "has no front.json"),
        (edited, "damaged_file", "was changed after narfx wrote it"),
        (older, "old_front", "an older one wrote it"),
        (no_json, "malformed_json", "is not valid JSON"),
        (other_architecture, "damaged_file", "its vectors do not fit"),
    ],
)
def test_what_holds_no_front_is_said(
    searched: Path, tmp_path: Path, narfx_json: RunJson, change: Any, kind: str, said: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(searched, copy)
    change(copy)
    for arguments in (("front", str(copy)), ("compare", str(copy / "front.json"), "--data", "digits", "--out", "c")):
        if arguments[0] == "compare" and change is without_front:
            continue
        code, found, _ = narfx_json(*arguments)
        assert (code, found["error"]["kind"]) == (2, kind) and said in found["error"]["message"]


@pytest.mark.parametrize(
    ("option", "value", "kind"),
    [
        ("--pick", "99", "no_such_point"), ("--pick", "best", "pick_syntax"), ("--pick", "speed<=1", "unknown_metric"),
        ("--reference", "params=1x", "reference_syntax"), ("--reference", "macs", "reference_syntax"),
    ],
)  # fmt: skip
def test_wrong_options_are_refused(
    searched: Path, tmp_path: Path, narfx_json: RunJson, option: str, value: str, kind: str
) -> None:
    code, found, _ = narfx_json("front", str(searched), option, value, "--out", str(tmp_path / "out"))
    assert (code, found["error"]["kind"]) == (2, kind) and not (tmp_path / "out").exists()


def test_neither_the_run_nor_its_inputs_are_replaced(searched: Path) -> None:
    for out in (searched, searched.parent / "base"):
        with pytest.raises(UsageError, match="would be replaced"):
            describe_front(searched, out, picked="1", overwrite=True)
    assert (searched / "front.json").is_file()


def test_an_old_run_writes_its_front_again_when_it_is_resumed(searched: Path, tmp_path: Path, narfx: Run) -> None:
    shutil.copytree(searched.parent, tmp_path / "all")
    copy = tmp_path / "all" / "run"
    older(copy)
    (copy / "result.json").unlink()
    code, _, err = narfx("search", "--resume", "--out", str(copy))
    assert code == 0, err
    assert (copy / "front.json").read_bytes() == (searched / "front.json").read_bytes()


def test_a_front_of_faces_is_searched_picked_and_compared(tmp_path: Path, narfx: Run, narfx_json: RunJson) -> None:
    """By ``ddas``, from a trained base; accuracy is the identification of held-out images."""
    write_folder(tmp_path / "faces", 12, 8)
    write_bin(tmp_path / "pairs.bin", 20)
    (tmp_path / "net.py").write_text(NET)
    data = ["--task", "faces", "--data", str(tmp_path / "faces"), "--val-fraction", "0.3", "--batch-size", "16"]
    net = [f"{tmp_path / 'net.py'}:Net", "--input", "3,16,16"]
    short = ["--epochs", "3", "--t0", "3"]
    assert narfx("train", *net, *data, *short, "--lr", "0.03", "--out", str(tmp_path / "base"))[0] == 0
    searched, weights = tmp_path / "run", str(tmp_path / "base" / "weights.safetensors")
    code, found, err = narfx_json(
        "search", *net, *data, *short, "--weights", weights, "--strategy", "ddas", "--front", "macs", "--steps", "4",
        "--strategy-option", "warmup=4", "--out", str(searched),
    )  # fmt: skip
    assert code == 0, err
    assert "(in 2 of them operators learn from the base" in err and found["front"]["costs"] == ["macs"]
    front = Front.load(searched / "front.json")
    assert front.metric == "identification_accuracy" and front.base_by == "own"
    assert found["front"]["with_weights"] == len(front.points)
    code, shown, _ = narfx("front", str(searched))
    assert code == 0 and "identification accuracy" in shown.splitlines()[0]
    code, _, err = narfx_json("front", str(searched), "--pick", "1", "--out", str(tmp_path / "picked"))
    assert code == 0, err
    picked = str(tmp_path / "picked" / "arch.json")
    code, verified, err = narfx_json("evaluate", picked, "--data", str(tmp_path / "pairs.bin"))
    assert code == 0 and 0 <= verified["accuracy"] <= 1, err
    code, compared, err = narfx_json(
        "compare", str(searched / "front.json"), *data, "--points", "1", "--epochs", "1", "--t0", "1", "--seeds", "1",
        "--randoms", "1", "--verify", str(tmp_path / "pairs.bin"), "--out", str(tmp_path / "compared"),
    )  # fmt: skip
    assert code == 0, err
    named = [row["name"] for row in compared["rows"]]
    assert named[0] == "base" and named[1].startswith("point ") and "random 1" in named[2]
    assert all(0 <= row["verification"]["mean"] <= 1 for row in compared["rows"])
