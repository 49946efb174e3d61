"""The proxy task: what it draws, that it draws the same again, and what it refuses."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sample_faces import people, write_folder

from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.data.proxy import build_proxy
from narfx.errors import UsageError
from narfx.tasks import load_data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six people with eight images each, and two with three."""
    write_folder(tmp_path / "faces", 8, 8)
    for name in ("person_02", "person_05"):
        for path in sorted((tmp_path / "faces" / name).iterdir())[3:]:
            path.unlink()
    return tmp_path / "faces"


def contents(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_a_folder_again_and_again(folder: Path, tmp_path: Path) -> None:
    found = build_proxy(str(folder), tmp_path / "one", identities=4, images=5, held_out=2, seed=7)
    assert {key: found[key] for key in ("identities", "train", "val", "seed", "enough")} == {
        "identities": 4, "train": 12, "val": 8, "seed": 7, "enough": 6,
    }  # fmt: skip
    build_proxy(str(folder), tmp_path / "two", identities=4, images=5, held_out=2, seed=7)
    build_proxy(str(folder), tmp_path / "other", identities=4, images=5, held_out=2, seed=8)
    one, two, other = (contents(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two != other
    record = json.loads(one["proxy.json"])
    assert (record["source"], record["seed"], record["images"], record["held_out"]) == ("faces", 7, 5, 2)
    listed = {
        f"{part}/{name}/{file}" for name, parts in record["files"].items() for part in parts for file in parts[part]
    }
    assert listed == one.keys() - {"proxy.json"}
    originals = contents(folder)
    assert all(one[place] == originals[place.split("/", 1)[1]] for place in listed)
    train, val = ({place.split("/", 1)[1] for place in listed if place.startswith(part)} for part in ("train", "val"))
    assert len(train) == 12 and len(val) == 8 and not train & val
    data = load_data(str(tmp_path / "one"), (3, 16, 16))
    assert (len(data.train), len(data.val), data.val_from_train) == (12, 8, False)
    assert np.bincount(data.val.labels).tolist() == [2] * 4


def test_a_tar_gives_what_its_folder_gives(folder: Path, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "faces.tar", "w") as archive:
        archive.add(folder, "faces")
    for source, out in ((folder, "a"), (tmp_path / "faces.tar", "b")):
        build_proxy(str(source), tmp_path / out, identities=3, images=4, seed=1)
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert a.keys() == b.keys() and all(a[name] == b[name] for name in a if name != "proxy.json")


def test_arrays(tmp_path: Path) -> None:
    images, identity = people(5, 6)
    np.savez(tmp_path / "faces.npz", images=images, identity=identity)
    for out in ("one", "two"):
        build_proxy(str(tmp_path / "faces.npz"), tmp_path / f"{out}.npz", identities=3, images=5, held_out=1, seed=2)
    assert (tmp_path / "one.npz").read_bytes() == (tmp_path / "two.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.npz") as archive:
        assert {info.date_time for info in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    record = json.loads((tmp_path / "one.json").read_text())
    with np.load(tmp_path / "one.npz") as drawn:
        assert drawn["class_names"].tolist() == list(record["indices"])
        for part, count in (("train", 4), ("val", 1)):
            wanted = np.concatenate([record["indices"][name][part] for name in record["indices"]])
            assert np.array_equal(drawn[f"x_{part}"], images[wanted])
            assert np.array_equal(drawn[f"y_{part}"], np.repeat(np.arange(3), count))
    build_proxy(str(tmp_path / "faces.npz"), tmp_path / "png", identities=3, images=5, held_out=1, seed=2)
    data, same = (load_data(str(tmp_path / name), (3, 16, 16)) for name in ("png", "one.npz"))
    assert data.classes == same.classes
    every = np.arange(len(data.train))
    assert np.array_equal(data.train.images(_tensor(every)), same.train.images(_tensor(every)))


def _tensor(indices: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(indices)


def test_an_identity_with_too_few_images_is_passed_over_or_refused(folder: Path, tmp_path: Path) -> None:
    build_proxy(str(folder), tmp_path / "out", identities=6, images=4)
    names = {path.name for path in (tmp_path / "out" / "train").iterdir()}
    assert names == {f"person_{n:02d}" for n in (0, 1, 3, 4, 6, 7)}
    with pytest.raises(
        UsageError, match=r"only 6 of the 8 identities in .* at least 4 images, but --identities is 7"
    ) as caught:
        build_proxy(str(folder), tmp_path / "more", identities=7, images=4)
    assert caught.value.kind == "too_few_identities" and not (tmp_path / "more").exists()


def test_the_draws_of_one_person_are_its_own(folder: Path, tmp_path: Path) -> None:
    build_proxy(str(folder), tmp_path / "all", identities=6, images=4, seed=3)
    build_proxy(str(folder), tmp_path / "some", identities=3, images=4, seed=3)
    everyone, some = (json.loads((tmp_path / name / "proxy.json").read_text())["files"] for name in ("all", "some"))
    assert some.items() <= everyone.items()


@pytest.mark.parametrize(
    ("numbers", "kind"),
    [
        ({"identities": 1, "images": 4}, "proxy_size"),
        ({"identities": 2, "images": 1}, "proxy_size"),
        ({"identities": 2, "images": 4, "held_out": 0}, "proxy_size"),
        ({"identities": 2, "images": 4, "held_out": 4}, "proxy_size"),
        ({"identities": 2, "images": 9}, "too_few_identities"),
    ],
)
def test_numbers_that_make_no_task(folder: Path, tmp_path: Path, numbers: dict[str, Any], kind: str) -> None:
    with pytest.raises(UsageError) as caught:
        build_proxy(str(folder), tmp_path / "out", **numbers)
    assert caught.value.kind == kind and not (tmp_path / "out").exists()


def test_nothing_is_overwritten(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("kept")
    (tmp_path / "out.npz").write_text("kept")
    np.savez(tmp_path / "faces.npz", images=people(3, 4)[0], identity=people(3, 4)[1])
    for source, out, overwrite, kind in (
        (folder, "out", False, "output_exists"),
        ("faces.npz", "out.npz", False, "output_exists"),
        (folder, "faces", True, "input_in_output"),
        ("faces.npz", "faces.npz", True, "output_exists"),
        (folder, "new.npz", False, "proxy_form"),
    ):
        with pytest.raises(UsageError) as caught:
            build_proxy(str(tmp_path / source), tmp_path / out, identities=2, images=3, overwrite=overwrite)
        assert caught.value.kind == kind
    assert (tmp_path / "out" / "mine").read_text() == "kept" == (tmp_path / "out.npz").read_text()
    build_proxy(str(tmp_path / "faces.npz"), tmp_path / "out.npz", identities=2, images=3, overwrite=True)
    with pytest.raises(UsageError, match="narfx did not make the folder"):
        build_proxy(str(folder), tmp_path / "out", identities=2, images=3, overwrite=True)
    assert (tmp_path / "out" / "mine").read_text() == "kept"
    for seed in (0, 1):
        build_proxy(str(folder), tmp_path / "new", identities=2, images=3, overwrite=True, seed=seed)
    assert json.loads((tmp_path / "new" / "proxy.json").read_text())["seed"] == 1


@pytest.mark.parametrize("name", ["../escaped", "..", "a/b", "", ".hidden"])
def test_names_that_would_lead_elsewhere(tmp_path: Path, name: str) -> None:
    images, identity = people(2, 3)
    np.savez(tmp_path / "faces.npz", images=images, identity=np.array([name, "ann"])[identity])
    with pytest.raises(UsageError) as caught:
        build_proxy(str(tmp_path / "faces.npz"), tmp_path / "deep" / "out", identities=2, images=3)
    assert caught.value.kind == "identity_name"
    assert {path.name for path in tmp_path.iterdir()} == {"faces.npz"}


def test_code_is_no_source(tmp_path: Path) -> None:
    item = "(__import__('PIL.Image').Image.new('L', (4, 4)), i % 2)"
    (tmp_path / "mine.py").write_text(f"def sets():\n    return [{item} for i in range(8)], None\n")
    with pytest.raises(UsageError) as caught:
        build_proxy(f"{tmp_path / 'mine.py'}:sets", tmp_path / "out", identities=2, images=3)
    assert caught.value.kind == "proxy_form"


def test_the_command_line(folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ["proxy", str(folder), "--out", str(tmp_path / "out"), "--identities", "3", "--images", "4"]
    assert run_app(app, [*arguments, "--held-out", "1", "--seed", "5"]) == 0
    assert "3 identities of 6 with enough images: 9 images to train on, 3 held out, seed 5" in capfd.readouterr().out
    assert run_app(app, [*arguments, "--json"]) == 2
    assert json.loads(capfd.readouterr().out)["error"]["kind"] == "output_exists"
