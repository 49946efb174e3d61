"""Draw a proxy task: a number of identities with a number of images each, some held out; the draw is repeatable.

The NAR paper (arXiv 1905.02341) searches on 4000 identities of 40 images, 4 of each held out for validation.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from PIL import Image

from narfx.data.arrays import Source
from narfx.data.parts import ArrayPart, FilePart, IntArray
from narfx.data.sources import read_source
from narfx.data.stored import StoredPart
from narfx.errors import UsageError
from narfx.support.files import output_folder, refuse_inside, to_json, write_bytes, write_json
from narfx.support.seeds import numpy_generator
from narfx.support.text import count

__all__ = ["build_proxy"]

RECORD = "proxy.json"


@dataclass(frozen=True)
class _Drawn:
    """One identity: its name, and the ascending indices of its images in the source."""

    name: str
    train: IntArray
    val: IntArray


def build_proxy(
    source: str,
    out: Path | str,
    *,
    identities: int,
    images: int,
    held_out: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Draw a proxy task from the training part of ``source`` and write it as a data source for every command.

    A folder gets ``train/NAME``, ``val/NAME`` (files are copied unchanged, arrays become PNG) and ``proxy.json``. An
    ``.npz`` (only for a source of arrays) gets ``x_train``, ``y_train``, ``x_val``, ``y_val`` and ``class_names``; its
    record is a ``.json`` file with the same name. The record lists every image. The images drawn for one identity
    depend only on the seed and its name.

    Args:
        source: An image folder of identities, a ``.tar`` of one, or arrays.
        out: A folder, or an ``.npz`` file.
        identities: How many identities to draw, of those with enough images.
        images: Images per identity, training and validation together.
        held_out: How many of these are for validation; default: a tenth, at least one.
        seed: Seed of the draws.
        overwrite: Whether to replace an existing ``out``.

    Returns:
        ``{"identities", "train", "val", "seed", "enough", "files"}``; ``enough`` identities had ``images`` images.

    Raises:
        UsageError: Too few identities have that many images, an argument is out of range, or ``out`` may not be
            written.
    """
    out = Path(out)
    held_out = max(images // 10, 1) if held_out is None else held_out
    _check_numbers(identities, images, held_out)
    found = read_source(source, (3, 1, 1), 0)
    drawn, enough = _draw(found, source, identities, images, held_out, seed)
    record = {
        "source": Path(source).name,
        "identities": identities,
        "images": images,
        "held_out": held_out,
        "seed": seed,
    }
    write = _write_arrays if out.suffix.lower() == ".npz" else _write_folder
    files = write(found, drawn, record, out, source, overwrite)
    return {
        "identities": identities,
        "train": identities * (images - held_out),
        "val": identities * held_out,
        "seed": seed,
        "enough": enough,
        "files": files,
    }


def _check_numbers(identities: int, images: int, held_out: int) -> None:
    for option, value, least in (("--identities", identities, 2), ("--images", images, 2), ("--held-out", held_out, 1)):
        if value < least:
            raise UsageError(f"{option} is {value}: it must be at least {least}", where=option, kind="proxy_size")
    if held_out >= images:
        raise UsageError(
            f"holding out {held_out} of {count(images, 'image')} leaves none for training: lower --held-out",
            where="--held-out",
            kind="proxy_size",
        )


def _draw(
    found: Source, source: str, identities: int, images: int, held_out: int, seed: int
) -> tuple[list[_Drawn], int]:
    labels = found.train.labels
    counts = np.bincount(labels, minlength=len(found.classes))
    enough = np.flatnonzero(counts >= images)
    if len(enough) < identities:
        raise UsageError(
            f"only {len(enough)} of the {len(counts)} identities in {source} have at least "
            f"{count(images, 'image')}, but "
            f"--identities is {identities}: lower --identities or --images",
            where=source,
            kind="too_few_identities",
        )
    chosen = np.sort(numpy_generator(seed, "proxy").permutation(enough)[:identities])
    drawn = []
    for label in chosen.tolist():
        name = found.classes[label]
        members = numpy_generator(seed, "proxy images", name).permutation(np.flatnonzero(labels == label))[:images]
        drawn.append(_Drawn(name, np.sort(members[held_out:]), np.sort(members[:held_out])))
    return drawn, len(enough)


def _write_arrays(
    found: Source, drawn: list[_Drawn], record: dict[str, Any], out: Path, source: str, overwrite: bool
) -> dict[str, str]:
    if not isinstance(found.train, ArrayPart):
        raise UsageError(
            f"{source} has image files, so the proxy is a folder: name a folder with --out",
            where="--out",
            kind="proxy_form",
        )
    beside = out.with_suffix(".json")
    for path in (out, beside):
        if path.exists() and (not overwrite or path.is_dir() or path.resolve() == Path(source).resolve()):
            raise UsageError(
                f"{path} exists: choose another name, or add --overwrite (which never replaces the source or a folder)",
                where=str(path),
                kind="output_exists",
            )
    arrays: dict[str, Any] = {"class_names": np.array([one.name for one in drawn])}
    for part in ("train", "val"):
        indices = [getattr(one, part) for one in drawn]
        arrays[f"x_{part}"] = found.train.images[np.concatenate(indices)]
        arrays[f"y_{part}"] = np.repeat(np.arange(len(drawn)), [len(group) for group in indices])
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    listed = {one.name: {"train": one.train.tolist(), "val": one.val.tolist()} for one in drawn}
    write_bytes(out, buffer.getvalue())
    write_json(beside, {**record, "indices": listed})
    return {"data": str(out), "record": str(beside)}


def _write_folder(
    found: Source, drawn: list[_Drawn], record: dict[str, Any], out: Path, source: str, overwrite: bool
) -> dict[str, str]:
    name, content = _files(found, source)
    _check_names([one.name for one in drawn], source)
    if out.exists():
        refuse_inside(out, [Path(source)])
    listed: dict[str, dict[str, list[str]]] = {one.name: {} for one in drawn}
    with output_folder(out, overwrite=overwrite) as work:
        for one in drawn:
            for part, indices in (("train", one.train), ("val", one.val)):
                place = work / part / one.name
                place.mkdir(parents=True)
                for index in indices.tolist():
                    (place / name(index)).write_bytes(content(index))
                listed[one.name][part] = [name(index) for index in indices.tolist()]
        (work / RECORD).write_text(to_json({**record, "files": listed}), encoding="utf-8")
    return {"data": str(out), "record": str(out / RECORD)}


def _files(found: Source, source: str) -> tuple[Callable[[int], str], Callable[[int], bytes]]:
    """Two functions of an image's index in the source: the name of its file, and the content."""
    part = found.train
    if isinstance(part, ArrayPart):
        return (lambda index: f"{index:06d}.png"), (lambda index: _png(part, index))
    if isinstance(part, FilePart):
        names = [path.name for path in part.paths]
        read: Callable[[int], bytes] = lambda index: part.paths[index].read_bytes()  # noqa: E731
    elif isinstance(part, StoredPart):
        names, read = [PurePosixPath(name).name for name in part.names], part.content
    else:
        raise UsageError(
            f"{source} is code: draw a proxy from a folder, a .tar or arrays", where=source, kind="proxy_form"
        )
    # A class folder with subfolders may contain a name twice.
    taken = len({(int(label), name) for label, name in zip(part.labels, names, strict=True)}) < len(names)
    return (lambda index: f"{index:06d}_{names[index]}" if taken else names[index]), read


def _png(part: ArrayPart, index: int) -> bytes:
    image, buffer = part.images[index], io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[2] == 1 else image).save(buffer, "PNG")
    return buffer.getvalue()


def _check_names(names: list[str], source: str) -> None:
    """Refuse names of identities that are not plain folder names; names from a file could leave the folder."""
    for name in names:
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name or name.startswith("."):
            raise UsageError(
                f"{source} has an identity {name!a}, which cannot be the name of a folder: rename it",
                where=source,
                kind="identity_name",
            )
