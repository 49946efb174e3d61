"""Lists of pairs, the images that they name, and everything that can be wrong with them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from sample_faces import encode, people, write_bin, write_folder

from narfx.data.pairs import Pairs, read_pairs
from narfx.errors import UsageError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_folder(tmp_path / "faces", identities=4, each=3)
    return tmp_path / "faces"


def listed(root: Path, *lines: str) -> Pairs:
    (root / "pairs.txt").write_text("\n".join(lines) + "\n")
    return read_pairs(str(root))


def refused(root: Path, *lines: str) -> UsageError:
    with pytest.raises(UsageError) as caught:
        listed(root, *lines)
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    return caught.value


SAME, OTHER = "person_00\t1\t2", "person_00\t1\tperson_01\t3"


def test_lfws_list_of_folds(root: Path) -> None:
    pairs = listed(root, "2\t1", SAME, OTHER, "person_02\t1\t3", "person_02\t2\tperson_03\t2")
    assert pairs.folds == 2 and pairs.same.tolist() == [True, False, True, False]
    assert pairs.first.tolist() == [0, 0, 3, 5] and pairs.second.tolist() == [1, 2, 4, 6]
    # Image 0 is person_00_0001, read once though two pairs name it.
    images, _ = people(4, 3)
    found = pairs.images.read(np.arange(7), (3, 16, 16)).permute(0, 2, 3, 1).numpy()
    assert np.array_equal(found, images[[0, 1, 5, 6, 8, 7, 10]])


def test_lists_without_folds(root: Path) -> None:
    assert listed(root, "1", SAME, OTHER).folds is None
    plain = listed(root, OTHER.replace("\t", " "), SAME.replace("\t", "  "), "")
    assert plain.folds is None and plain.same.tolist() == [False, True]
    one, two = "person_00/person_00_0001.png", "person_01/person_01_0001"
    paths = listed(root, f"{one} person_00/person_00_0002 1", f"{two} {one} 0")
    assert paths.same.tolist() == [True, False]
    assert paths.first.tolist() == [0, 2] and paths.second.tolist() == [1, 0]


def test_a_list_elsewhere(root: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text(f"{SAME}\n{OTHER}\n")
    assert len(read_pairs(str(root), str(tmp_path / "mine.txt")).same) == 2


@pytest.mark.parametrize(
    ("lines", "kind", "told"),
    [
        ([SAME, "person_00\t1\t9", "person_09\t1\tperson_00\t1"], "missing_image", "2 images"),
        (["2\t1", SAME, OTHER, SAME], "bad_pairs", "it is truncated"),
        (["2\t1", OTHER, SAME, SAME, OTHER], "bad_pairs", "reordered"),
        (["5", SAME, OTHER], "bad_pairs", "it is truncated"),
        ([SAME, "person_00"], "bad_pairs", "line 2"),
        ([SAME, "person_00 1 2 3 4"], "bad_pairs", "line 2"),
        (["a.png b.png 2"], "bad_pairs", "line 1"),
        (["10\t300"], "bad_pairs", "has no pairs"),
        ([""], "bad_pairs", "has no pairs"),
        (["../secret ../secret 1"], "missing_image", "../secret"),
        (["/etc/passwd /etc/passwd 1"], "missing_image", "/etc/passwd"),
    ],
)
def test_what_a_list_can_get_wrong(root: Path, lines: list[str], kind: str, told: str) -> None:
    (root.parent / "secret.png").write_bytes(encode(people(1, 1)[0][0]))
    error = refused(root, *lines)
    assert error.kind == kind and told in str(error)


def test_files_that_are_not_there_or_not_what_they_seem(root: Path, tmp_path: Path) -> None:
    for source, pairs, kind in (
        (root, None, "missing_file"),
        (root, tmp_path / "gone.txt", "missing_file"),
        (root, root, "unreadable_file"),
        (tmp_path / "gone", None, "missing_data"),
        (tmp_path / "gone.bin", None, "missing_data"),
        (tmp_path / "faces.bin", tmp_path / "pairs.txt", "two_lists"),
    ):
        with pytest.raises(UsageError) as caught:
            read_pairs(str(source), None if pairs is None else str(pairs))
        assert caught.value.kind == kind
    (root / "pairs.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="as text"):
        read_pairs(str(root))


def test_images_that_cannot_be_decoded(root: Path, tmp_path: Path) -> None:
    (root / "person_00" / "person_00_0001.png").write_bytes(b"no image")
    error = refused(root, SAME, OTHER)
    assert error.kind == "undecodable_image" and "person_00_0001.png" in str(error)
    write_bin(tmp_path / "pairs.bin", 20)
    images, flags = pickle.loads((tmp_path / "pairs.bin").read_bytes())
    images[1] = images[1][:60]  # its header stands, its pixels do not
    (tmp_path / "pairs.bin").write_bytes(pickle.dumps((images, flags)))
    with pytest.raises(UsageError, match=r"image 1 of .*pairs\.bin cannot be decoded") as caught:
        read_pairs(str(tmp_path / "pairs.bin")).images.read(np.arange(4), (3, 16, 16))
    assert caught.value.kind == "undecodable_image"


def test_an_image_that_would_start_a_program(root: Path, tmp_path: Path) -> None:
    """Pillow hands EPS to Ghostscript; in a file of data it is no image."""
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    (tmp_path / "pairs.bin").write_bytes(pickle.dumps(([eps] * 4, [True, False])))
    with pytest.raises(UsageError) as caught:
        read_pairs(str(tmp_path / "pairs.bin"))
    assert caught.value.kind == "undecodable_image"
    (root / "person_00" / "person_00_0001.png").write_bytes(eps)
    assert refused(root, SAME, OTHER).kind == "undecodable_image"
