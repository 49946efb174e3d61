"""Find state dicts in a weights file, and the ways to read their keys.

Training scripts save a state dict under some name (``state_dict``, ``model``, ``params_ema``, ...), some levels deep,
and wrappers add a prefix to every key (``module.`` of DataParallel, ``_orig_mod.`` of torch.compile, ``model.`` of
Lightning). All readings are listed here; :mod:`narfx.inputs.weights` uses the first that fits the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Entry", "Reading", "find_entries", "readings"]

_KNOWN = ("state_dict", "model_state_dict", "model", "module", "net", "network", "generator", "params", "weights")
_AVERAGED = re.compile(r"(^|_)ema(_|$)|average|shadow|swa", re.IGNORECASE)
_NO_WEIGHTS = re.compile(r"optim|momentum|exp_avg|grad|sched|scaler", re.IGNORECASE)
_DEPTH = 4
# torch inserts these into a key where a part is wrapped; authors do not use such names.
_WRAPPERS = frozenset({"_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module"})
# Buffers that tools add: torch's AveragedModel, and the profilers thop and torchprofile.
_COUNTERS = frozenset({"n_averaged", "total_ops", "total_params"})


@dataclass(frozen=True)
class Entry:
    """A mapping of tensors in a file; ``name`` is its path in the file, empty for the file itself."""

    name: str
    state: dict[str, Tensor]


@dataclass(frozen=True)
class Reading:
    """A state dict after its keys were changed; ``notes`` say how."""

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()


def find_entries(content: object) -> list[Entry]:
    """All state dicts in what a file holds, the likeliest first.

    That is the file itself, then the usual names, then others; averaged weights (EMA, SWA) come after plain ones, and
    a mapping of mappings that is read as one tree of parts comes last. What an optimizer keeps is left out.
    """
    found = []
    for order, (path, mapping) in enumerate(_mappings(content, ())):
        state = _flat(mapping)
        if state:
            tree = any(isinstance(value, Mapping) for value in mapping.values())
            known = min((_KNOWN.index(part) for part in path if part in _KNOWN), default=len(_KNOWN))
            averaged = any(map(_AVERAGED.search, path))
            found.append(((tree, averaged, known if path else -1, order), Entry(".".join(path), state)))
    return [entry for _, entry in sorted(found, key=lambda pair: pair[0])]


def readings(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> Iterator[Reading]:
    """The ways to read a state dict for a model with the keys ``own``: as it is, then with less and less of each key.

    Counters of tools are left out, then the names of torch's wrappers, then each prefix that all keys share.
    """
    counters = sorted({key.rpartition(".")[2] for key in state if key not in own} & _COUNTERS)
    notes: tuple[str, ...] = tuple(f"{name!r} left out" for name in counters)
    plain = {key: value for key, value in state.items() if key in own or key.rpartition(".")[2] not in _COUNTERS}
    yield from _without_prefixes(plain, notes)
    inner = {_unwrapped(key): value for key, value in plain.items()}
    if inner.keys() != plain.keys() and len(inner) == len(plain):
        removed = sorted({part for key in plain for part in key.split(".")} & _WRAPPERS)
        yield from _without_prefixes(inner, (*notes, *(f"{name!r} taken out of the keys" for name in removed)))


def _without_prefixes(state: Mapping[str, Tensor], notes: tuple[str, ...]) -> Iterator[Reading]:
    for prefix in _prefixes(state):
        cut = {key.removeprefix(prefix): value for key, value in state.items()}
        yield Reading(cut, (*([f"prefix {prefix!r} removed"] if prefix else []), *notes))


def _prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """The dotted prefixes that all keys share, the empty one first."""
    parts = [key.split(".")[:-1] for key in state]
    if not parts:
        return [""]
    low, high = min(parts), max(parts)
    common = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), min(len(low), len(high)))
    return ["".join(f"{part}." for part in low[:length]) for length in range(common + 1)]


def _unwrapped(key: str) -> str:
    return ".".join(part for part in key.split(".") if part not in _WRAPPERS)


def _mappings(content: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Mapping[str, object]]]:
    if not isinstance(content, Mapping) or len(path) > _DEPTH:
        return
    yield path, content
    for name, value in content.items():
        if isinstance(name, str) and isinstance(value, Mapping) and not _NO_WEIGHTS.search(name):
            yield from _mappings(value, (*path, name))


def _flat(mapping: Mapping[str, object], depth: int = 0) -> dict[str, Tensor] | None:
    """The tensors of a tree by their dotted names; ``None`` where something else stands in it, or nothing."""
    flat: dict[str, Tensor] = {}
    for name, value in mapping.items():
        if not isinstance(name, str) or (isinstance(value, Mapping) and _NO_WEIGHTS.search(name)):
            return None
        inner = _flat(value, depth + 1) if isinstance(value, Mapping) and depth < 2 * _DEPTH else None
        if inner is None and not isinstance(value, Tensor):
            return None
        flat |= {f"{name}.{key}": tensor for key, tensor in inner.items()} if inner else {name: value}  # type: ignore[dict-item]
    return flat or None
