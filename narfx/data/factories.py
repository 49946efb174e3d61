"""Sources from the user's own code: ``package.module:factory`` or ``file.py:factory``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from narfx.data.arrays import Source, from_arrays, number_classes
from narfx.data.parts import ArrayPart, ItemPart, Part, image_of
from narfx.errors import UsageError
from narfx.inputs.data_ref import DataRef
from narfx.inputs.trust import check_entry, digest_of, is_named
from narfx.inputs.user_code import attribute, execute_file, import_module, importable, user_code
from narfx.support.text import count

__all__ = ["read_factory"]

_TWICE = 16


def read_factory(ref: DataRef, limit: int) -> Source:
    """Call the factory that a source of kind ``file`` or ``module`` names and read its result.

    The result is a mapping with the keys of an ``.npz`` source, or a pair (train, test or ``None``) of map-style data
    sets that yield (image, label). Data sets are read once completely, because only their items have the labels.

    Args:
        ref: The reference to the factory, a callable without arguments.
        limit: Images are kept if they need at most this many bytes; otherwise they are read again when needed.

    Raises:
        UsageError: The code cannot be imported, fails, or returns something else.
    """
    source, place, name, is_file = str(ref), ref.place, ref.name, ref.kind == "file"
    if is_file and not Path(place).is_file():
        raise UsageError(f"there is no file {place}: check the path", where=source, kind="missing_data")
    named = is_named(place, stated=ref.stated)
    with importable(Path(place).resolve().parent if is_file else Path.cwd(), siblings=is_file, named=named):
        with user_code(f"cannot import {place}", where=source, kind="import_failed"):
            module = execute_file(Path(place), named=named) if is_file else import_module(place, named=named)
        factory = attribute(module, name, place)
        code = digest_of(Path(place).read_bytes()) if is_file else place
        check_entry(factory, code, name, {}, label=source, named=named)
        if not callable(factory):
            raise UsageError(
                f"{name} in {place} cannot be called: name a function without arguments",
                where=source,
                kind="factory_not_callable",
            )
        with user_code(f"{name} in {place} failed", where=source, kind="factory_failed"):
            result = factory()
        if isinstance(result, Mapping):
            return from_arrays(result, source)
        if not isinstance(result, (tuple, list)) or len(result) != 2:
            raise UsageError(
                f"{name} returns {_kind(result)}: it must return a mapping of arrays x_train, y_train, x_test, y_test, "
                "or a pair of data sets (train, test)",
                where=source,
                kind="factory_result",
            )
        return _from_data_sets(result[0], result[1], source, limit)


def _kind(value: Any) -> str:
    return count(len(value), "thing") if isinstance(value, (tuple, list)) else f"a {type(value).__name__}"


def _from_data_sets(train: Any, test: Any, source: str, limit: int) -> Source:
    sets = {name: part for name, part in (("train", train), ("test", test)) if part is not None}
    for name, part in sets.items():
        if not (hasattr(part, "__getitem__") and hasattr(part, "__len__")) or isinstance(part, (str, dict)):
            raise UsageError(
                f"the {name} part is {_kind(part)}: it must be a data set with a length and items (image, label)",
                where=source,
                kind="factory_result",
            )
        if len(part) == 0:
            raise UsageError(f"the {name} part has no images: return at least one", where=source, kind="empty_data")
    if "train" not in sets:
        raise UsageError("the train part is None: return a data set", where=source, kind="factory_result")
    parts = {name: _read_items(part, name, source, limit // len(sets)) for name, part in sets.items()}
    names = _class_names(train)
    classes = number_classes(parts["train"].labels, names, source)
    return Source(classes, parts["train"], test=parts.get("test"), named=names is not None)


def _class_names(data_set: Any) -> tuple[str, ...] | None:
    """The class names in the attribute ``classes``, torchvision's convention."""
    names = getattr(data_set, "classes", None)
    if isinstance(names, (list, tuple)) and names and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


def _read_items(data_set: Any, name: str, source: str, limit: int) -> Part:
    def item(index: int) -> tuple[torch.Tensor, int]:
        def read() -> tuple[torch.Tensor, int]:
            image, label = data_set[index]
            return image_of(image), _label(label)

        with user_code(f"item {index} of the {name} part cannot be read", where=source, kind="bad_item"):
            return read()

    labels, deepest, sizes, kept, held = [], 1, set(), list[torch.Tensor](), 0
    for index in range(len(data_set)):
        image, label = item(index)
        labels.append(label)
        channels = int(image.shape[1])
        if channels != deepest and 1 not in (channels, deepest):
            raise UsageError(
                f"item {index} of the {name} part has {channels} channels, and others have {deepest}: give all images "
                "the same number of channels",
                where=source,
                kind="channels",
            )
        deepest = max(deepest, channels)
        sizes.add((int(image.shape[2]), int(image.shape[3])))
        held += image.numel()
        if held <= limit:
            kept.append(image)
    targets, seen = np.array(labels, dtype=np.int64), tuple(sorted(sizes))
    # A data set with random transforms has other images in each process, which is no change of the data.
    steady = all(
        torch.equal(item(index)[0], item(index)[0]) for index in range(0, len(labels), max(len(labels) // _TWICE, 1))
    )
    if held > limit:
        return ItemPart(lambda index: item(index)[0], targets, deepest, seen, steady)
    if len(sizes) > 1:
        return ItemPart(kept.__getitem__, targets, deepest, seen, steady)
    stacked = torch.cat([image.expand(-1, deepest, -1, -1) for image in kept])
    return ArrayPart(stacked.permute(0, 2, 3, 1).numpy(), targets, steady=steady)


def _label(value: Any) -> int:
    if isinstance(value, (torch.Tensor, np.ndarray)):
        value = value.item()
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise ValueError(f"its label is {value!r}: labels must be integers 0, 1, 2, ...")
    if not 0 <= value <= np.iinfo(np.int32).max:
        raise ValueError(f"its label is {value}: labels must be 0, 1, 2, ...")
    return int(value)
