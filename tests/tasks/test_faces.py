"""The task of faces: its data, its head, and the commands that train, search and compare on it."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from sample_faces import NET, people, write_folder
from torch import nn

from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.errors import InterruptedRunError, UsageError
from narfx.inputs.weights import read_weights
from narfx.runs.events import read_events
from narfx.runs.progress import Silent
from narfx.search import SearchConfig, resume, run
from narfx.tasks import FaceOptions, Faces, ImageData, load_data
from narfx.verbs.compare import CompareConfig, compare
from narfx.verbs.train import TrainConfig, resume_train, train

T = TypeVar("T")
HALF = ((0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Eight people, twelve images of each."""
    path = tmp_path_factory.mktemp("faces") / "faces.npz"
    images, identity = people(8, 12)
    np.savez(path, images=images, identity=identity)
    return str(path)


@pytest.fixture
def net(tmp_path: Path) -> str:
    (tmp_path / "net.py").write_text(NET)
    return f"{tmp_path / 'net.py'}:Net"


@pytest.fixture
def data(source: str) -> ImageData:
    return load_data(source, (3, 16, 16), val_fraction=0.25, normalise=HALF)


def refused(kind: str, call: Callable[[], Any]) -> str:
    with pytest.raises(UsageError) as caught:
        call()
    assert caught.value.kind == kind and caught.value.exit_code == 2, caught.value
    return str(caught.value)


def test_identities_of_any_numbers_and_names(tmp_path: Path) -> None:
    images, identity = people(3, 4)
    names = np.array(["zoe", "ann", "bob"])[identity]
    layouts = (images, images.transpose(0, 3, 1, 2))
    for number, (array, who) in enumerate([(layouts[0], identity * 1000 - 5), (layouts[1], names)]):
        np.savez(tmp_path / f"{number}.npz", images=array, identity=who)
    numbers, named = (load_data(str(tmp_path / f"{n}.npz"), (3, 16, 16), val_fraction=0.25) for n in (0, 1))
    assert numbers.classes == ("-5", "995", "1995")
    assert named.classes == ("ann", "bob", "zoe")
    everything = torch.cat([part.images(torch.arange(len(part))) for part in (named.train, named.val)])
    labels = torch.cat([named.train.labels, named.val.labels])
    wanted = {images[i].tobytes(): sorted(set(names)).index(names[i]) for i in range(12)}
    found = [image.permute(1, 2, 0).numpy().tobytes() for image in everything]
    assert dict(zip(found, labels.tolist(), strict=True)) == wanted


@pytest.mark.parametrize(
    ("arrays", "kind"),
    [
        ({"images": np.zeros((4, 8, 8), np.uint8)}, "missing_key"),
        ({"images": np.zeros((4, 8, 8), np.uint8), "identity": np.zeros(3, int)}, "label_shape"),
        ({"images": np.zeros((4, 8, 8), np.uint8), "identity": np.zeros(4)}, "label_dtype"),
        ({"images": np.zeros((4, 8, 8), np.uint8), "identity": np.zeros((4, 1), int)}, "label_dtype"),
        ({"images": np.zeros((4, 8, 8)), "identity": np.zeros(4, int)}, "image_dtype"),
        ({"images": np.zeros((0, 8, 8), np.uint8), "identity": np.zeros(0, int)}, "empty_data"),
        ({"images": np.array([None] * 4), "identity": np.zeros(4, int)}, "pickled_array"),
    ],
)
def test_arrays_that_are_no_faces(tmp_path: Path, arrays: dict[str, Any], kind: str) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
    refused(kind, lambda: load_data(str(tmp_path / "x.npz"), (1, 8, 8)))


def test_a_tar_reads_as_its_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "faces", 3, 5)
    with tarfile.open(tmp_path / "faces.tar", "w") as archive:
        archive.add(tmp_path / "faces", "some/faces")
    folder, tar = (load_data(str(tmp_path / name), (3, 12, 12)) for name in ("faces", "faces.tar"))
    assert folder.classes == tar.classes == ("person_00", "person_01", "person_02")
    for ours, theirs in ((folder.train, tar.train), (folder.val, tar.val)):
        every = torch.arange(len(ours))
        assert torch.equal(ours.images(every), theirs.images(every)) and torch.equal(ours.labels, theirs.labels)


def test_tars_that_are_not_read(tmp_path: Path) -> None:
    write_folder(tmp_path / "faces", 2, 2)
    for name, mode in (("packed.tar", "w:gz"), ("flat.tar", "w"), ("up.tar", "w")):
        with tarfile.open(tmp_path / name, mode) as archive:  # type: ignore[call-overload]
            for image in sorted((tmp_path / "faces").rglob("*.png")):
                place = {"flat.tar": image.name, "up.tar": f"a/../{image.name}"}.get(name, f"x/{image.name}")
                archive.add(image, place)
    (tmp_path / "cut.tar").write_bytes((tmp_path / "flat.tar").read_bytes()[:700])
    for name, kind in (("packed", "bad_tar"), ("flat", "empty_data"), ("up", "empty_data"), ("cut", "bad_tar")):
        refused(kind, lambda name=name: load_data(str(tmp_path / f"{name}.tar"), (3, 8, 8)))  # type: ignore[misc]


def test_grey_faces_for_a_network_in_colour(tmp_path: Path, net: str) -> None:
    images, identity = people(3, 4)
    np.savez(tmp_path / "grey.npz", images=images[..., 0], identity=identity)
    options = configured(net, str(tmp_path / "grey.npz"), epochs=1, batch_size=6)
    out = tmp_path / "run"
    told = refused("grey_images", lambda: train(TrainConfig.model_validate(options), out))
    assert "grey=repeat" in told and not out.exists()
    train(TrainConfig.model_validate({**options, "task_options": {"grey": "repeat"}}), out)
    assert (out / "weights.safetensors").is_file()


def test_batches_are_normalised_and_mirrored_as_arcfaces(data: ImageData) -> None:
    task = Faces(data, batch_size=24)
    (x, _), *_ = task.train_batches(0)
    originals = data.train.images(torch.arange(len(data.train))).float().sub(127.5).div(127.5)
    both = torch.cat([originals, originals.flip(3)])
    assert all((both - image).abs().amax((1, 2, 3)).min() < 1e-5 for image in x)
    assert task.augment == "flip" and task.metric == "identification_accuracy"


def test_images_are_named_after_the_nearest_centre(data: ImageData) -> None:
    task = Faces(data, batch_size=24)
    task.check(3 * 16 * 16)
    network = nn.Flatten()
    task.start(0)
    chance = task.evaluate(network)["accuracy"]
    task.start(0, network)  # centres of the images themselves
    found = task.evaluate(network)
    assert found["images"] == 24 and found["accuracy"] > 0.9 > 0.5 > chance
    assert task.reward(network, next(task.reward_batches(0, 1))) == pytest.approx(found["accuracy"])
    centres = task.head.cosines(torch.stack([data.train.images(torch.arange(9)).float().sub(127.5).flatten(1).mean(0)]))
    assert int(centres.argmax()) == int(data.train.labels[0])


def test_the_head_starts_alike_for_one_seed(data: ImageData) -> None:
    task, other = Faces(data), Faces(data, FaceOptions(scale=8, margin=0.1))
    for one in (task, other):
        one.check(4)
        one.start(3)
    assert torch.equal(task.head.weight, other.head.weight) and other.head.scale == 8
    task.start(4)
    assert not torch.equal(task.head.weight, other.head.weight)


def test_what_no_head_can_be_made_for(tmp_path: Path, data: ImageData) -> None:
    refused("embedding_size", lambda: Faces(data).check(1))
    np.savez(tmp_path / "one.npz", images=people(1, 4)[0], identity=np.zeros(4, int))
    refused("single_identity", lambda: Faces(load_data(str(tmp_path / "one.npz"), (3, 16, 16))).check(4))


@pytest.mark.parametrize(
    ("task", "options"),
    [
        ("faces", {"margin": -1}),
        ("faces", {"scale": 0}),
        ("faces", {"scale": "inf"}),
        ("faces", {"grey": "green"}),
        ("faces", {"size": 3}),
        ("classification", {"margin": 0.5}),
    ],
)
def test_options_of_the_task(net: str, tmp_path: Path, source: str, task: str, options: dict[str, Any]) -> None:
    config = TrainConfig.model_validate(
        {"target": net, "data": source, "input": (3, 16, 16), "task": task, "task_options": options}
    )
    refused("task_options", lambda: train(config, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def configured(net: str, source: str, **changes: Any) -> dict[str, Any]:
    return {
        "target": net, "data": source, "task": "faces", "input": (3, 16, 16), "epochs": 4, "t0": 4,
        "batch_size": 24, "val_fraction": 0.25, **changes,
    }  # fmt: skip


class Stops(Silent):
    """Interrupts at the n-th phase."""

    def __init__(self, phases: int) -> None:
        self.left = phases

    def track(self, items: Iterable[T], total: int, label: str) -> Iterator[T]:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        yield from items


def timeless(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in event.items() if k != "seconds"} for event in read_events(folder)]


def test_training_learns_and_resumes_with_its_head(net: str, source: str, tmp_path: Path) -> None:
    config = TrainConfig.model_validate(configured(net, source, epochs=8, t0=8))
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    found = train(config, whole, device="cpu")
    assert found["metric"] == "identification_accuracy" and found["val"]["accuracy"] > 0.7
    with pytest.raises(InterruptedRunError):
        train(config, cut, device="cpu", reporter=Stops(3))
    assert resume_train(cut, device="cpu")["val"] == found["val"]
    weights, _ = read_weights(cut / "weights.safetensors")
    whole_weights, _ = read_weights(whole / "weights.safetensors")
    assert weights.keys() == whole_weights.keys() and all(torch.equal(weights[k], whole_weights[k]) for k in weights)
    assert not any("head" in key or tensor.shape == (8, 16) for key, tensor in weights.items())
    assert timeless(cut) == timeless(whole)
    checkpoint = torch.load(cut / "checkpoint.pt", weights_only=True)
    assert checkpoint["state"]["head"]["weight"].shape == (8, 16)


def test_search_train_apply_compare(net: str, source: str, tmp_path: Path) -> None:
    """From trained weights to a refined network, all on faces; the search also resumes to the same end."""
    train(TrainConfig.model_validate(configured(net, source, epochs=8, t0=8)), tmp_path / "base", device="cpu")
    config = SearchConfig.model_validate(
        {
            "model": net, "weights": str(tmp_path / "base" / "weights.safetensors"), "input": (3, 16, 16),
            "data": source, "task": "faces", "val_fraction": 0.25, "batch_size": 24, "epochs": 3, "pretrain_epochs": 1,
            "strategy": "nar", "steps": 2, "proposals": 2, "finalists": 2, "budget": "none",
        }
    )  # fmt: skip
    found = run(config, tmp_path / "search", device="cpu")
    # The centres were made for the weights: the base is known before its first step.
    assert found["metric"] == "identification_accuracy" and found["base"]["accuracy"] > 0.7
    assert json.loads((tmp_path / "search" / "front.json").read_text())["metric"] == "identification_accuracy"
    steps = [event for event in read_events(tmp_path / "search") if event["event"] == "step"]
    assert steps and all(event["metric"] == "identification_accuracy" for event in steps)
    with pytest.raises(InterruptedRunError):
        run(config, tmp_path / "cut", device="cpu", reporter=Stops(4))
    again = resume(tmp_path / "cut", device="cpu")
    assert all(again[key] == found[key] for key in ("vector", "accuracy", "base", "random"))
    assert (tmp_path / "cut" / "arch.json").read_text() == (tmp_path / "search" / "arch.json").read_text()
    arch = json.loads((tmp_path / "search" / "arch.json").read_text())
    assert arch["preprocessing"] == {"mean": [0.5] * 3, "std": [0.5] * 3}
    compared = compare(
        CompareConfig.model_validate(
            {
                "target": str(tmp_path / "search" / "arch.json"), "data": source, "task": "faces", "epochs": 2, "t0": 2,
                "batch_size": 24, "val_fraction": 0.25, "seeds": 1, "randoms": 1,
            }
        ),
        tmp_path / "compare",
        device="cpu",
    )  # fmt: skip
    assert compared["metric"] == "identification_accuracy" and compared["rows"][0]["name"] == "base"


def test_the_command_line(net: str, source: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["train", net, "--data", source, "--task", "faces", "--input", "3,16,16", "--epochs", "1"]
    options = ["--task-option", "scale=16", "--task-option", "margin=0.2", "--batch-size", "24", "--quiet"]
    assert run_app(app, [*arguments, *options, "--out", str(tmp_path / "run")]) == 0
    assert "identification accuracy" in capfd.readouterr().out
    assert json.loads((tmp_path / "run" / "config.json").read_text())["task_options"] == {"scale": 16, "margin": 0.2}
    assert run_app(app, [*arguments, "--task", "voices", "--out", str(tmp_path / "x"), "--json"]) == 2
    assert json.loads(capfd.readouterr().out)["error"]["kind"] == "bad_config"
