"""``narfx analyze landscape`` and ``variance``, as a user calls them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
from command import Run, RunJson, in_process, in_process_json
from safetensors.torch import save_file
from small_networks import write_small

from narfx.analysis.plane_config import PlaneConfig
from narfx.analysis.planes import look_at_plane, resume_plane
from narfx.errors import InterruptedRunError
from narfx.inputs.model_ref import load_model
from narfx.runs.progress import Silent
from narfx.space.published import PUBLISHED

T = TypeVar("T")
SMALL = ["--data", "small.npz", "--batch-size", "20"]


@pytest.fixture(autouse=True)
def _small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_small(tmp_path)


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    return in_process(capfd)


@pytest.fixture
def run_json(capfd: pytest.CaptureFixture[str]) -> RunJson:
    return in_process_json(capfd)


def test_the_centre_is_what_evaluate_measures(run_json: RunJson) -> None:
    code, result, _ = run_json(
        "analyze", "landscape", "a=net.py", "b=net.py:Net?width=6", *SMALL, "--grid", "3", "--out", "plane"
    )
    assert code == 0 and result["axis"] == [-1.0, 0.0, 1.0]
    for entry in result["networks"]:
        loss = run_json("evaluate", entry["target"], "--data", "small.npz")[1]["loss"]
        assert entry["centre"] == pytest.approx(loss, abs=1e-6)
        assert entry["values"][1][1] == entry["centre"]
        flat = [value for row in entry["values"] for value in row]
        assert (entry["lowest"], entry["highest"]) == (min(flat), max(flat)) and len(set(flat)) == 9
    assert [entry["name"] for entry in result["networks"]] == ["a", "b"]
    written = json.loads(Path("plane/landscape.json").read_text())
    assert written["networks"] == result["networks"]
    assert Path(result["files"]["contours_png"]).read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in Path(result["files"]["surfaces_svg"]).read_text()
    # The same seed gives the same plane, another one another.
    given = ["analyze", "landscape", "a=net.py", *SMALL, "--grid", "3", "--out", "other"]
    other = run_json(*given, "--seed", "1")[1]
    assert other["networks"][0]["values"][0] != result["networks"][0]["values"][0]
    # What narfx made it replaces, where asked to.
    assert run_json(*given)[0] == 2
    code, again, _ = run_json(*given, "--overwrite")
    assert code == 0 and again["networks"][0]["values"] == result["networks"][0]["values"]


def test_a_users_weights_are_used_and_batchnorm_is_as_asked(run_json: RunJson) -> None:
    model = load_model("net.py", seed=5)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.5
    save_file(model.state_dict(), "w.safetensors")
    given = ["analyze", "landscape", "net.py", *SMALL, "--grid", "2"]
    stored = run_json(*given, "--weights", "w.safetensors", "--out", "s")[1]
    batch = run_json(*given, "--weights", "w.safetensors", "--batchnorm", "batch", "--out", "b")[1]
    loss = run_json("evaluate", "net.py", "--weights", "w.safetensors", "--data", "small.npz")[1]["loss"]
    assert stored["networks"][0]["centre"] == pytest.approx(loss, abs=1e-6)
    assert batch["networks"][0]["centre"] != pytest.approx(loss, abs=1e-3)
    assert "own batches" in batch["batchnorm_in_words"]


def test_the_variance_over_the_same_plane(run_json: RunJson) -> None:
    code, result, _ = run_json("analyze", "variance", "net.py", *SMALL, "--grid", "3", "--out", "v")
    (entry,) = result["networks"]
    assert code == 0 and result["measure"] == "variance"
    assert entry["values"][1][1] == entry["centre"] > 0 and entry["not_finite"] == 0
    # 60 images give three minibatches of 20; with 30 images there are a whole one and a half, which is left out.
    code, _, error = run_json("analyze", "variance", "net.py", *SMALL, "--images", "30", "--out", "w")
    assert code == 2 and "a variance needs two minibatches" in error and not Path("w").exists()


class _Stops(Silent):
    """Interrupts the run as soon as it has passed on some rows."""

    def __init__(self, rows: int) -> None:
        self._left = rows

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        for item in items:
            if not self._left:
                raise KeyboardInterrupt
            self._left -= 1
            yield item


def test_an_interrupted_run_ends_in_the_same_bytes() -> None:
    """The rows are kept in the same way, whatever is measured."""
    config = PlaneConfig(
        measure="variance", targets=("net.py", "net.py:Net?width=6"), names=("a", "b"), data="small.npz", batch_size=20,
        grid=4,
    )  # fmt: skip
    look_at_plane(config, "whole")
    with pytest.raises(InterruptedRunError) as stopped:
        look_at_plane(config, "parts", reporter=_Stops(6))  # in the second network
    assert stopped.value.exit_code == 75
    assert not Path("parts/contours.png").exists()
    result = resume_plane("parts", measure="variance")
    for name in Path("whole").iterdir():
        assert (Path("parts") / name.name).read_bytes() == name.read_bytes(), name
    assert resume_plane("parts", measure="variance") == result


def test_a_run_of_a_genotype_file_ends_in_the_same_bytes() -> None:
    """A run keeps what the file says, not where it is."""
    PUBLISHED["darts_v2"].save("cell.json")
    config = PlaneConfig(
        measure="loss", targets=("narfx:darts?genotype=cell.json&cells=1&channels=2&in_channels=1&num_classes=4",),
        names=("a",), data="small.npz", batch_size=20, grid=2,
    )  # fmt: skip
    look_at_plane(config, "whole")
    with pytest.raises(InterruptedRunError):
        look_at_plane(config, "parts", reporter=_Stops(1))
    resume_plane("parts", measure="loss")
    assert Path("parts/landscape.json").read_bytes() == Path("whole/landscape.json").read_bytes()


def test_points_that_are_not_finite_are_counted(run_json: RunJson) -> None:
    def weights(value: float) -> None:
        """Equal logits with the weights themselves, and logits that overflow far away."""
        model = load_model("net.py", seed=0)
        with torch.no_grad():
            model.get_parameter("head.weight").fill_(value)
        save_file(model.state_dict(), "w.safetensors")

    given = ["analyze", "landscape", "net.py", "--weights", "w.safetensors", *SMALL, "--grid", "3", "--reach", "1000"]
    weights(1e36)
    code, result, _ = run_json(*given, "--out", "p")
    (entry,) = result["networks"]
    assert code == 0 and entry["not_finite"] == 8 and entry["values"][1][1] == entry["centre"]
    assert entry["values"][0] == [None] * 3 and entry["highest"] == entry["centre"]
    weights(3e38)
    code, result, _ = run_json(*given, "--out", "q")
    assert code == 2 and "with its own weights" in result["error"]["message"] and not Path("q").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("net.py", "--grid", "1"), "--grid must be at least 2, not 1"),
        (("net.py", "--grid", "100000"), "a grid of 100000 x 100000 points with 1 network and 60 images needs about"),
        (("net.py", "--grid", "400", "--memory", "0.01"), "more than the 0.01 GB of --memory"),
        (("net.py", "--reach", "-1"), "--reach must be above 0"),
        (("net.py", "--batchnorm", "none"), "--batchnorm must be 'stored' or 'batch'"),
        (("net.py", "--part", "other"), "has no part 'other'"),
        (("net.py", "--weights", "none.pt"), "none.pt"),
        (("net.py", "net.py", "--weights", "none.pt"), "2 networks and 1 --weights"),
        (("a=net.py", "a=net.py"), "two networks are called a"),
        ((), "a network is missing"),
        (("nothing",), "there is no folder nothing"),
    ],
)
def test_bad_input_is_one_sentence_and_writes_nothing(run: Run, arguments: tuple[str, ...], said: str) -> None:
    code, out, error = run("analyze", "landscape", *arguments, "--data", "small.npz", "--out", "none")
    assert code == 2 and said in " ".join(error.split()) and out == "" and "Traceback" not in error
    assert not Path("none").exists()


def test_a_genotype_that_is_not_sound_is_one_sentence(run: Run) -> None:
    lists: dict[str, Any] = {"normal": [["skip_connect", 0], ["skip_connect", 1]], "normal_concat": [2],
             "reduce": [["skip_connect", 0], ["skip_connect", 1]], "reduce_concat": [2]}  # fmt: skip
    changes: list[tuple[dict[str, Any], str]] = [
        ({"normal": [["warp", 0], ["skip_connect", 1]]}, "unknown operator 'warp'"),
        ({"normal": [["skip_connect", 0], ["skip_connect", 3]]}, "starts at an earlier node"),
        ({"reduce": [["skip_connect", 0]]}, "reduce has 1 edge:"),
        ({"reduce_concat": []}, "the output of the cell would be nothing"),
    ]
    for change, said in changes:
        Path("cell.json").write_text(json.dumps({**lists, **change}))
        code, out, error = run(
            "analyze", "landscape", "narfx:darts?genotype=cell.json", "--data", "small.npz", "--out", "none"
        )
        assert code == 2 and said in " ".join(error.split()) and out == "" and "Traceback" not in error


def test_what_a_run_read_must_be_the_same_and_the_verb_too(run: Run) -> None:
    config = PlaneConfig(measure="loss", targets=("net.py",), names=("a",), data="small.npz", grid=3)
    with pytest.raises(InterruptedRunError):
        look_at_plane(config, "p", reporter=_Stops(1))
    code, _, error = run("analyze", "variance", "--resume", "--out", "p")
    assert code == 2 and "is one of narfx analyze landscape" in error
    code, _, error = run("analyze", "landscape", "net.py", "--resume", "--out", "p")
    assert code == 2 and "--resume takes everything from the run" in error
    Path("net.py").write_text(Path("net.py").read_text() + "\nX = 1\n")
    code, _, error = run("analyze", "landscape", "--resume", "--trust", "--out", "p")
    assert code == 2 and "has changed since it began" in error


def test_an_architecture_with_its_weights_in_a_run_that_resumes(run_json: RunJson) -> None:
    model = "narfx:resnet_cifar?depth=8&width=4&in_channels=1&num_classes=4"
    Path("found").mkdir()
    Path("found/arch.json").write_text(json.dumps({"model": model, "input": [1, 8, 8], "vector": [1, 0, 2, 0, 3, 0]}))
    trained = run_json("train", "found/arch.json", "--data", "small.npz", "--epochs", "1", "--out", "runs/t")[1]
    config = PlaneConfig(measure="loss", targets=("runs/t",), names=("t",), data="small.npz", grid=3, batch_size=20)
    with pytest.raises(InterruptedRunError):
        look_at_plane(config, "runs/p", reporter=_Stops(2))
    code, result, _ = run_json("analyze", "landscape", "--resume", "--out", "runs/p")
    (entry,) = result["networks"]
    assert code == 0 and entry["weights"].startswith("weights.safetensors") and entry["target"] == "t"
    assert entry["centre"] == pytest.approx(trained["test"]["loss"], abs=1e-5)


def test_a_dry_run_says_how_long_it_takes(run: Run) -> None:
    code, out, _ = run("analyze", "landscape", "net.py", *SMALL, "--grid", "5", "--dry-run", "--out", "p")
    assert code == 0 and "1 network, 25 points in all" in out and not Path("p").exists()


def test_the_table(run: Run) -> None:
    code, out, _ = run("analyze", "landscape", "small=net.py", *SMALL, "--grid", "3", "--out", "p", "-q")
    assert code == 0 and "loss at the centre" in out and "small " in out and "60 images (test part of small.npz)" in out
