"""``narfx evaluate``: every kind of target, classes and pairs, and each bad input in one sentence."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from sample_faces import NET, encode, people, write_bin, write_folder
from torch import nn

from narfx.bundle import bundle
from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.errors import UsageError
from narfx.inputs.model_ref import load_model
from narfx.inputs.weights import write_weights
from narfx.space.architecture import Architecture, Preprocessing
from narfx.verbs.evaluate import EvaluateConfig, evaluate
from narfx.verbs.target import open_onnx
from narfx.verbs.train import TrainConfig, train

Evaluate = Callable[..., dict[str, Any]]
PIXELS = ["--input", "3,16,16"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with ``net.py`` and ``pairs.bin``, in which commands run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NET)
    write_bin(tmp_path / "pairs.bin", 40)
    return tmp_path


@pytest.fixture
def command(place: Path, capfd: pytest.CaptureFixture[str]) -> Evaluate:
    """Run ``narfx evaluate --json``; the result, or the error, which leaves nothing behind."""

    def run(*arguments: str) -> dict[str, Any]:
        before = {path.name for path in place.iterdir()}
        code = run_app(app, ["evaluate", *arguments, "--json", "--quiet"])
        out, err = capfd.readouterr()
        result: dict[str, Any] = json.loads(out)
        if code:
            assert code == 2 and "Traceback" not in err and {path.name for path in place.iterdir()} == before
            return dict(result["error"])
        return result

    return run


def test_verification_of_a_model(command: Evaluate, place: Path) -> None:
    found = command("net.py:Pixels", *PIXELS, "--data", "pairs.bin", "--out", "result.json")
    assert found["task"] == "verification" and (found["pairs"], found["same"]) == (40, 20)
    assert len(found["folds"]) == len(found["thresholds"]) == 10
    assert found["accuracy"] > 0.8 and 0 < found["standard_error"] < 0.2
    assert found["tar_at_far"].keys() == {"0.1", "0.01", "0.001"} and found["tar_at_far"]["0.01"] is None
    saved = json.loads((place / "result.json").read_text())
    assert saved["accuracy"] == found["accuracy"] and saved["roc"][-1]["far"] == saved["roc"][-1]["tar"] == 1.0


def test_a_table_for_people(place: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run_app(app, ["evaluate", "net.py:Pixels", *PIXELS, "--data", "pairs.bin"]) == 0
    out = capfd.readouterr().out
    assert "accuracy, 10 folds" in out and "TAR at FAR 0.01" in out and "too few pairs" in out


def test_folder_and_list_are_as_the_bin(command: Evaluate, place: Path) -> None:
    images, flags = pickle.loads((place / "pairs.bin").read_bytes())
    lines = ["10\t2"]
    for index, same in enumerate(flags):
        (place / "faces" / f"n{index}").mkdir(parents=True)
        for number in (1, 2):
            (place / "faces" / f"n{index}" / f"n{index}_{number:04d}.png").write_bytes(images[2 * index + number - 1])
        if not same:  # the second image under a name of its own
            (place / "faces" / f"m{index}").mkdir()
            (place / "faces" / f"m{index}" / f"m{index}_0001.png").write_bytes(images[2 * index + 1])
        lines.append(f"n{index}\t1\t2" if same else f"n{index}\t1\tm{index}\t1")
    (place / "faces" / "pairs.txt").write_text("\n".join(lines))
    by_bin = command("net.py:Pixels", *PIXELS, "--data", "pairs.bin")
    by_list = command("net.py:Pixels", *PIXELS, "--data", "faces", "--task", "faces")
    named = command("net.py:Pixels", *PIXELS, "--data", "faces", "--pairs", "faces/pairs.txt", "--folds", "10")
    for key in ("accuracy", "standard_error", "folds", "thresholds", "tar_at_far"):
        assert by_bin[key] == by_list[key] == named[key]
    assert (
        command("net.py:Pixels", *PIXELS, "--data", "faces", "--task", "faces", "--folds", "11")["kind"]
        == "too_few_folds"
    )


def randomised(place: Path) -> Path:
    """The weights of Net with BatchNorm statistics as after a training."""
    model = load_model("net.py:Net")
    generator = torch.Generator().manual_seed(0)
    norm = model.get_submodule("norm")
    assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
    norm.running_mean.normal_(0, 0.1, generator=generator)
    norm.running_var.uniform_(0.5, 2, generator=generator)
    write_weights(model, place / "w.safetensors")
    return place / "w.safetensors"


def test_every_target_tells_the_same(command: Evaluate, place: Path) -> None:
    weights = randomised(place)
    known = Preprocessing(mean=(0.4,) * 3, std=(0.3,) * 3)
    arch = Architecture(model="net.py:Net", vector=(0, 0), input=(3, 16, 16), preprocessing=known, weights=weights.name)
    arch.save(place / "arch.json")
    bundle.apply(place / "arch.json", place / "bundle")
    targets = ["arch.json", "bundle", "bundle/model.onnx"]
    results = [command(target, "--data", "pairs.bin") for target in targets]
    assert [result["input"] for result in results] == [[3, 16, 16]] * 3
    for result in results[1:]:
        assert result["accuracy"] == results[0]["accuracy"]
        assert result["thresholds"] == pytest.approx(results[0]["thresholds"], abs=1e-5)
    # A reference knows no preprocessing, so ArcFace's own is used.
    plain = command("net.py:Net", *PIXELS, "--weights", "w.safetensors", "--data", "pairs.bin")
    assert plain["weights"] == "w.safetensors"
    assert plain["thresholds"] != pytest.approx(results[0]["thresholds"], abs=1e-5)
    (place / "bundle" / "model.py").unlink()  # what torch alone cannot rebuild is lowered again
    assert command("bundle", "--data", "pairs.bin")["accuracy"] == results[0]["accuracy"]


def test_onnx_files_of_others(place: Path, command: Evaluate) -> None:
    """A fixed batch is filled up; a file without a shape takes that of the images; other inputs are refused."""
    shapes: list[tuple[str, list[str | int | None]]] = [
        ("fixed", [3, 3, 16, 16]),
        ("free", ["n", 3, "h", "w"]),
        ("flat", [3, 768]),
    ]
    for name, shape in shapes:
        kind = onnx.TensorProto.FLOAT
        node = onnx.helper.make_node("Flatten", ["x"], ["y"])
        ends = [
            onnx.helper.make_tensor_value_info("x", kind, shape),
            onnx.helper.make_tensor_value_info("y", kind, None),
        ]
        graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
        model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
        onnx.save(model, place / f"{name}.onnx")
    wanted = command("net.py:Pixels", *PIXELS, "--data", "pairs.bin")
    assert command("fixed.onnx", "--data", "pairs.bin")["folds"] == wanted["folds"]
    assert command("free.onnx", *PIXELS, "--data", "pairs.bin")["folds"] == wanted["folds"]
    assert open_onnx(place / "fixed.onnx")(torch.ones(4, 3, 16, 16)).shape == (4, 768)
    write_folder(place / "folder", 3, 4)
    classes = command("net.py:Pixels", *PIXELS, "--data", "folder")
    assert command("fixed.onnx", "--data", "folder")["loss"] == pytest.approx(classes["loss"], rel=1e-6)
    assert command("free.onnx", "--data", "pairs.bin")["folds"] == wanted["folds"]
    assert command("fixed.onnx", "--input", "3,8,8", "--data", "pairs.bin")["kind"] == "input_shape"
    assert command("flat.onnx", "--data", "pairs.bin")["kind"] == "bad_onnx"
    assert command("fixed.onnx", "--weights", "w.pt", "--data", "pairs.bin")["kind"] == "two_weights"
    (place / "broken.onnx").write_bytes((place / "fixed.onnx").read_bytes()[:40])
    assert command("broken.onnx", "--data", "pairs.bin")["kind"] == "bad_onnx"
    assert command("gone.onnx", "--data", "pairs.bin")["kind"] == "missing_file"


def test_classes(command: Evaluate, place: Path) -> None:
    images, labels = people(4, 10)
    test = np.arange(40) % 5 == 0
    np.savez(place / "set.npz", x_train=images[~test], y_train=labels[~test], x_test=images[test], y_test=labels[test])
    config = TrainConfig(
        target="arch.json", data="set.npz", epochs=3, t0=3, batch_size=16, val_fraction=0.2, augment="none"
    )  # fmt: skip
    Architecture(model="net.py:Net?dimension=4", vector=(1, 0), input=(3, 16, 16)).save(place / "arch.json")
    trained = train(config, place / "run", device="cpu")
    found = command("run/arch.json", "--data", "set.npz")
    assert (found["task"], found["part"], found["images"]) == ("classification", "test", 8)
    assert found["accuracy"] == trained["test"]["accuracy"]
    assert found["loss"] == pytest.approx(trained["test"]["loss"], rel=1e-5)
    assert command("run", "--data", "set.npz", "--part", "train")["images"] == 32
    # All images of a folder without parts are judged; without a known preprocessing by the data's own mean.
    write_folder(place / "folder", 3, 4)
    assert command("net.py:Net", *PIXELS, "--data", "folder")["images"] == 12
    assert command("run", "--data", "set.npz", "--part", "val")["kind"] == "no_such_part"
    assert command("net.py:Net?dimension=2", *PIXELS, "--data", "set.npz")["kind"] == "too_few_outputs"
    assert command("net.py:Nan", *PIXELS, "--data", "set.npz")["kind"] == "outputs_not_finite"


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["net.py:Zeros", "--data", "pairs.bin"], "embeddings_zero"),
        (["net.py:Nan", "--data", "pairs.bin"], "embeddings_not_finite"),
        (["net.py:Pixels", "--data", "pairs.bin", "--folds", "41"], "too_few_pairs"),
        (["net.py:Pixels", "--data", "pairs.bin", "--folds", "1"], "too_few_folds"),
        (["net.py:Pixels", "--data", "pairs.bin", "--folds", "0"], "too_few_folds"),
        (["net.py:Net?channels=4", "--data", "pairs.bin"], "input_shape"),
        (["net.py:Pixels", "--data", "pairs.bin", "--out", "gone/result.json"], "not_writable"),
        (["net.py:Pixels", "--data", "pairs.bin", "--pairs", "pairs.txt"], "two_lists"),
        (["net.py:Pixels", "--data", "gone.bin"], "missing_data"),
        (["net.py:Pixels", "--data", "gone", "--task", "faces"], "missing_data"),
        (["net.py:Pixels", "--data", "digits", "--folds", "5"], "option_of_another_task"),
        (["net.py:Pixels", "--data", "digits", "--task-option", "grey=repeat"], "option_of_another_task"),
        (["net.py:Pixels", "--data", "pairs.bin", "--part", "val"], "option_of_another_task"),
        (["net.py:Pixels", "--data", "pairs.bin", "--task", "voices"], "unknown_task"),
        (["net.py:Pixels", "--data", "pairs.bin", "--task-option", "gray=1"], "task_options"),
        (["net.py:Pixels", "--data", "pairs.bin", "--batch-size", "-1"], "batch_size"),
        (["net.py:Pixels", "--data", "pairs.bin", "--out", "net.py"], "output_exists"),
        (["net.py:Pixels", "--data", "hostile.bin"], "hostile_pickle"),
        (["net.py:Pixels", "--data", "cut.bin"], "bad_bin"),
        (["net.py:Pixels", "--data", "undecodable.bin"], "undecodable_image"),
        (["net.py:Pixels", "--data", "grey.bin"], "grey_images"),
        (["gone.py", "--data", "pairs.bin"], "missing_file"),
        (["gone.json", "--data", "pairs.bin"], "missing_file"),
        (["folder", "--data", "pairs.bin"], "missing_file"),
    ],
)
def test_what_a_user_can_get_wrong(command: Evaluate, place: Path, arguments: list[str], kind: str) -> None:
    (place / "folder").mkdir()
    whole = (place / "pairs.bin").read_bytes()
    images, flags = pickle.loads(whole)
    (place / "hostile.bin").write_bytes(b"(S'touch ran'\nios\nsystem\n.")
    (place / "cut.bin").write_bytes(whole[: len(whole) // 2])
    (place / "undecodable.bin").write_bytes(pickle.dumps(([*images[:-1], images[-1][:50]], flags)))
    grey = [encode(image[..., 0]) for image in people(1, 4)[0]]
    (place / "grey.bin").write_bytes(pickle.dumps((grey * 10, [True, False] * 10)))
    assert command(*arguments, *([] if arguments[0] == "folder" else PIXELS))["kind"] == kind
    assert not (place / "ran").exists()


def test_grey_pairs_where_they_may_be_repeated(command: Evaluate, place: Path) -> None:
    grey = [encode(image[..., 0]) for image in people(20, 2)[0]]
    (place / "grey.bin").write_bytes(pickle.dumps((grey, [True, True] * 10)))
    assert (
        command("net.py:Pixels", *PIXELS, "--data", "grey.bin", "--task-option", "grey=repeat")["kind"]
        == "one_kind_of_pairs"
    )
    (place / "grey.bin").write_bytes(pickle.dumps((grey, [True, False] * 10)))
    repeated = command("net.py:Pixels", *PIXELS, "--data", "grey.bin", "--task-option", "grey=repeat")
    # Three equal channels change no cosine.
    assert repeated["thresholds"] == pytest.approx(
        command("net.py:Pixels", "--input", "1,16,16", "--data", "grey.bin")["thresholds"]
    )


def test_an_output_is_replaced_only_on_request(place: Path) -> None:
    (place / "result.json").write_text("kept")
    config = EvaluateConfig(target="net.py:Pixels", data="pairs.bin", input=(3, 16, 16))
    with pytest.raises(UsageError, match="--overwrite"):
        evaluate(config, place / "result.json")
    assert (place / "result.json").read_text() == "kept"
    evaluate(config, place / "result.json", overwrite=True)
    assert json.loads((place / "result.json").read_text())["task"] == "verification"
