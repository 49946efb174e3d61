"""Folders of images, a folder a class."""

from __future__ import annotations

import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_data import folder_of, refused

from narfx.data.image_data import open_data
from narfx.errors import UsageError
from narfx.tasks import batches, load_data


def test_folder_with_all_parts(tmp_path: Path) -> None:
    root = folder_of(tmp_path, {f"{part}/{name}": 4 for part in ("train", "val", "test") for name in ("dog", "cat")})
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "cat" / "._0.png").write_text("what another system left")
    (tmp_path / "train" / "cat" / "deeper").mkdir()
    Image.new("L", (3, 3)).save(tmp_path / "train" / "cat" / "deeper" / "x.JPG", format="jpeg")
    data = load_data(str(root), (3, 8, 8))
    assert data.classes == ("cat", "dog")
    assert data.train.labels.tolist() == [0] * 5 + [1] * 4
    assert (len(data.val), len(data.test or ())) == (8, 8)
    assert not data.val_from_train


def test_folder_of_classes_alone_and_a_class_called_train(tmp_path: Path) -> None:
    data = load_data(str(folder_of(tmp_path, {"car": 4, "train": 4, "van": 4}, colour=False)), (3, 5, 5))
    assert data.classes == ("car", "train", "van")
    assert data.test is None
    assert (len(data.train), len(data.val)) == (9, 3)
    assert any("grey images repeated" in note for note in data.notes)


def test_images_of_every_common_kind(tmp_path: Path) -> None:
    home = tmp_path / "a"
    home.mkdir()
    red = Image.new("RGB", (8, 8), (200, 40, 40))
    red.save(home / "0.png")
    red.convert("RGBA").save(home / "1.png")
    red.quantize(4).save(home / "2.png", transparency=b"\x80\xff\xff\xff")
    red.save(home / "3.webp", lossless=True)
    red.save(home / "4.bmp")
    red.convert("CMYK").save(home / "5.tif")
    sixteen = np.full((8, 8), 120 * 257, dtype=np.uint16)
    Image.fromarray(sixteen).save(home / "6.png")
    Image.new("L", (8, 8), 120).save(home / "7.pgm")
    data = load_data(str(tmp_path), (3, 8, 8), val_fraction=0.01)
    held = load_data(str(tmp_path), (3, 8, 8), val_fraction=0.01, seed=1)
    images = [part.images(torch.arange(len(part))) for d in (data, held) for part in (d.train, d.val)]
    seen = {tuple(pixel) for pixel in torch.cat(images)[:, :, 4, 4].tolist()}
    assert seen == {(200, 40, 40), (120, 120, 120)}


def test_folder_refusals(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere").kind == "missing_data"
    (tmp_path / "empty").mkdir()
    assert refused(tmp_path / "empty").kind == "empty_data"
    (tmp_path / "bare" / "train").mkdir(parents=True)
    assert refused(tmp_path / "bare").kind == "empty_data"
    Image.new("L", (3, 3)).save(tmp_path / "empty" / "loose.png")
    assert "images but no class folders" in str(refused(tmp_path / "empty"))
    folder_of(tmp_path / "hollow", {"cat": 3, "dog": 0})
    error = refused(tmp_path / "hollow")
    assert error.kind == "class_without_images" and "dog" in str(error)
    error = refused(folder_of(tmp_path / "differ", {"train/cat": 3, "train/dog": 3, "test/cat": 3, "test/eel": 3}))
    assert error.kind == "classes_differ"
    assert "eel only in test" in str(error) and "dog only in train" in str(error)
    assert refused(folder_of(tmp_path / "headless", {"val/cat": 3, "test/cat": 3})).kind == "no_train_part"
    assert refused(folder_of(tmp_path / "colour", {"cat": 3}), (2, 4, 4)).kind == "channels"


@pytest.mark.parametrize("memory", [2**30, 1])
def test_an_undecodable_image_is_named(tmp_path: Path, memory: int) -> None:
    folder_of(tmp_path, {"cat": 12}, size=(40, 40))
    whole = (tmp_path / "cat" / "3.png").read_bytes()
    (tmp_path / "cat" / "3.png").write_bytes(whole[: len(whole) // 2])  # the header is good, the pixels end early
    with pytest.raises(UsageError) as caught:
        data = load_data(str(tmp_path), (3, 8, 8), memory=memory)
        list(batches(data.train, 4, data=data))
        list(batches(data.val, 4, data=data))
    assert caught.value.kind == "undecodable_image"
    assert str(Path("cat", "3.png")) in str(caught.value)
    (tmp_path / "cat" / "0.png").write_text("text")
    assert refused(tmp_path, (3, 8, 8), memory=memory).kind == "undecodable_image"


def test_pixels_of_32_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    for i in range(2):
        Image.fromarray(np.ones((4, 4), dtype=np.float32)).save(tmp_path / "cat" / f"{i}.tif")
    assert "32 bits" in str(refused(tmp_path, (3, 4, 4)))


def test_real_faces_in_a_folder(data_folder: Path, tmp_path: Path) -> None:
    wanted = ("Hugo_Chavez", "Tony_Blair")
    with tarfile.open(data_folder / "lfw_train112.tar") as tar:
        members = [member for member in tar.getmembers() if Path(member.name).parent.name in wanted]
        tar.extractall(tmp_path, members, filter="data")
    data = load_data(str(tmp_path / "lfw_train112"), (3, 56, 56), val_fraction=0.2)
    assert data.classes == wanted
    assert len(data.train) + len(data.val) == len(members)
    assert all(0.1 < mean < 0.9 and 0.1 < std < 0.5 for mean, std in zip(data.mean, data.std, strict=True))


@pytest.mark.parametrize("packed", [False, True])
def test_an_image_that_no_header_showed_is_refused_when_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: bool
) -> None:
    monkeypatch.setattr("narfx.data.parts.probes", lambda count, most=0: range(1))  # as among a million files
    monkeypatch.setattr("narfx.data.stored.probes", lambda count, most=0: range(1))
    root = tmp_path / "images"
    for name, side in (("a/0", 16), ("a/1", 16), ("b/2", 16), ("b/3", 15)):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, side)).save(root / f"{name}.png")
    source = str(root)
    if packed:
        source = str(tmp_path / "images.tar")
        with tarfile.open(source, "w") as archive:
            archive.add(root, ".")
    opened = open_data(source)
    assert opened.images.sizes == ((16, 16),)
    with pytest.raises(UsageError, match=r"3\.png is 15x16, smaller than the 16x16 of .* --input 3,16,16") as caught:
        load_data(opened, (3, 16, 16))
    assert (caught.value.kind, caught.value.exit_code) == ("small_images", 2)
    asked = load_data(open_data(source, shape=(3, 16, 16)), (3, 16, 16))
    assert len(asked.train) + len(asked.val) == 4
