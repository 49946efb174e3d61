"""Several networks on one command line: ``NAME=TARGET``, or a target alone, which gets a name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from narfx.errors import UsageError
from narfx.inputs.reference import ModelRef, is_collection, is_file_name

__all__ = ["name_networks", "shown"]

_NAMED = re.compile(r"([\w.+-]+)=(.+)")
_LONGEST, _LONGEST_PATH = 40, 1000


def name_networks(texts: Sequence[str]) -> dict[str, str]:
    """The targets by name.

    A file whose own name has a ``=`` needs a folder before it (``./a=b.json``). A target alone is called as its file or
    folder (an ``arch.json`` as its folder), or as its reference without characters that a file name should not have; a
    number keeps two apart.

    Raises:
        UsageError: Two networks are given the same name.
    """
    found: dict[str, str] = {}
    for text in texts:
        split = _NAMED.fullmatch(text)
        if split is not None and split[1] in found:
            raise UsageError(f"two networks are called {split[1]}: give each its own name", kind="network_name")
        if split is not None:
            found[split[1]] = split[2]
            continue
        name = _name(text)
        while name in found:
            stem, _, number = name.rpartition("_")
            name = f"{stem}_{int(number) + 1}" if stem and number.isdigit() else f"{name}_2"
        found[name] = text
    return found


def _name(target: str) -> str:
    path = Path(target)
    is_file = is_file_name(target, ".json", ".onnx") or (len(target) < _LONGEST_PATH and path.is_dir())
    if is_file and not is_collection(target):
        name = path.resolve().parent.name if path.name == "arch.json" else path.resolve().stem
    elif ":" in target:
        name = ModelRef.parse(target).plain.partition(":")[2]
    else:
        name = path.stem
    return re.sub(r"[^\w.+-]+", "-", name).strip("-")[:_LONGEST] or "network"


def shown(target: str, start: Path | None) -> str:
    """A target for people: a file or folder by its name, a reference without folders and with its genotype written out.

    It is the same wherever a run is, or is moved to; ``start`` is where its paths start.
    """
    if ":" not in target and ".py" not in target:
        return Path(target).name
    return ModelRef.parse(target).with_files_read(start).plain
