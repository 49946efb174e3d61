"""Pairs of faces for verification: InsightFace's ``.bin``, or an image folder and a list like LFW's ``pairs.txt``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from narfx.data.bin_file import read_bin
from narfx.data.folders import SUFFIXES
from narfx.data.parts import FilePart, IntArray, Part
from narfx.data.stored import StoredPart
from narfx.errors import UsageError
from narfx.support.files import check_regular
from narfx.support.text import count

__all__ = ["Pairs", "read_pairs"]


@dataclass(frozen=True)
class Pairs:
    """P pairs of images in the order of their folds.

    Attributes:
        name: The name of the list.
        images: All distinct images.
        first: (P,) indices into ``images``.
        second: (P,) indices into ``images``.
        same: (P,) whether a pair shows one person.
        folds: The number of folds, if the list states it.
    """

    name: str
    images: Part
    first: IntArray
    second: IntArray
    same: NDArray[np.bool_]
    folds: int | None = None


def read_pairs(source: str, listed: str | None = None, *, enlarge: bool = True) -> Pairs:
    """Read the pairs of a ``.bin``, or of a folder of images and a list.

    A list has lines ``NAME I J`` (one person) and ``NAME I OTHER J`` (two persons), where image I of NAME is the file
    ``NAME/NAME_000I`` with any image suffix; or lines ``PATH PATH 0`` and ``PATH PATH 1``. LFW's list begins with the
    line ``FOLDS PAIRS`` and has, for each fold, PAIRS lines of one person and as many of two persons. LFW's
    development lists begin with ``PAIRS`` alone.

    Args:
        source: The ``.bin`` or the folder.
        listed: The list; default: ``pairs.txt`` in the folder.
        enlarge: As for :class:`~narfx.data.parts.FilePart`.

    Raises:
        UsageError: The file, the folder or the list is missing or malformed, or an image is missing.
    """
    path = Path(source)
    if path.suffix.lower() == ".bin":
        if listed is not None:
            raise UsageError(f"{source} has its own pairs: leave out --pairs", where="--pairs", kind="two_lists")
        return _from_bin(path, enlarge)
    if not path.is_dir():
        raise UsageError(
            f"{source} is neither a folder of images nor a .bin of pairs: check the path",
            where=source,
            kind="missing_data",
        )
    return _from_folder(path, Path(listed) if listed is not None else path / "pairs.txt", enlarge)


def _from_bin(path: Path, enlarge: bool) -> Pairs:
    images, same = read_bin(path)
    names = [f"image {index} of {path}" for index in range(len(images))]
    labels = np.zeros(len(images), dtype=np.int64)
    part = StoredPart(images.__getitem__, names, list(map(len, images)), labels, enlarge=enlarge)
    order = np.arange(len(images), dtype=np.int64)
    return Pairs(path.name, part, order[0::2], order[1::2], np.array(same))


def _from_folder(root: Path, listed: Path, enlarge: bool) -> Pairs:
    check_regular(listed, f"there is no list of pairs {listed}: name it with --pairs")
    try:
        lines = [line.strip() for line in listed.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"cannot read {listed} as text: it must be a UTF-8 file", where=str(listed), kind="unreadable"
        ) from error
    folds, each, rows = _header(lines)
    parsed = [_row(line, number, listed) for number, line in enumerate(rows, len(lines) - len(rows) + 1)]
    _check_blocks([same for _, _, same in parsed], folds, each, listed)
    files = _Files(root)
    ends = [(files.index(first), files.index(second)) for first, second, _ in parsed]
    if files.missing:
        raise UsageError(
            f"{listed} names {len(files.missing)} images that are not in {root}, for example {files.missing[0]}: check "
            "the folder and the list",
            where=str(listed),
            kind="missing_image",
        )
    first, second = (np.array(side, dtype=np.int64) for side in zip(*ends, strict=True))
    part = FilePart(files.paths, np.zeros(len(files.paths), dtype=np.int64), enlarge=enlarge)
    same = np.array([same for _, _, same in parsed])
    return Pairs(f"{root.name}, {listed.name}", part, first, second, same, folds)


def _header(lines: list[str]) -> tuple[int | None, int | None, list[str]]:
    """(folds, pairs of each kind per fold, other lines); both numbers are ``None`` if the first line is a pair."""
    numbers = lines[0].split() if lines else []
    if not numbers or len(numbers) > 2 or not all(number.isdecimal() for number in numbers):
        return None, None, lines
    return (int(numbers[0]) if len(numbers) == 2 else None), int(numbers[-1]), lines[1:]


def _row(line: str, number: int, listed: Path) -> tuple[str, str, bool]:
    """(image, image, one person); an image is a path with or without suffix."""
    words = line.split("\t") if "\t" in line else line.split()
    if len(words) == 3 and words[1].isdecimal() and words[2].isdecimal():
        return _lfw(words[0], words[1]), _lfw(words[0], words[2]), True
    if len(words) == 4 and words[1].isdecimal() and words[3].isdecimal():
        return _lfw(words[0], words[1]), _lfw(words[2], words[3]), False
    if len(words) == 3 and words[2] in ("0", "1"):
        return words[0], words[1], words[2] == "1"
    raise UsageError(
        f"line {number} of {listed} is not a pair: write NAME I J, NAME I OTHER J, or PATH PATH 0|1",
        where=f"{listed}:{number}",
        kind="bad_pairs",
    )


def _lfw(name: str, number: str) -> str:
    return f"{name}/{name}_{int(number):04d}"


def _check_blocks(same: list[bool], folds: int | None, each: int | None, listed: Path) -> None:
    """Refuse a list whose lines do not match the numbers in its first line."""
    if not same:
        raise UsageError(f"{listed} has no pairs: add lines NAME I J", where=str(listed), kind="bad_pairs")
    if each is not None and same != ([True] * each + [False] * each) * (1 if folds is None else folds):
        stated = f"{each} pairs of one person, then {each} of two"
        raise UsageError(
            f"the first line of {listed} states {stated}{'' if folds is None else f', {folds} times'}, but it has "
            f"{count(len(same), 'pair')}, {sum(same)} of one person: it is truncated or reordered; restore "
            "the original list",
            where=str(listed),
            kind="bad_pairs",
        )


class _Files:
    """The distinct images of a list, found in a folder."""

    def __init__(self, root: Path) -> None:
        self.root, self.paths, self.missing = root.resolve(), list[Path](), list[str]()
        self._known: dict[str, int] = {}

    def index(self, name: str) -> int:
        if name not in self._known:
            path = self._find(name)
            if path is None:
                self.missing.append(name)
            self._known[name] = -1 if path is None else len(self.paths)
            self.paths += [] if path is None else [path]
        return self._known[name]

    def _find(self, name: str) -> Path | None:
        path = self.root / name
        if ".." in Path(name).parts or Path(name).is_absolute():
            return None  # a list may name only images in its folder
        if path.suffix.lower() in SUFFIXES:
            return path if path.is_file() else None
        return next((found for suffix in sorted(SUFFIXES) if (found := Path(f"{path}{suffix}")).is_file()), None)
