"""Load weights from a file into a model, without running code from the file.

The file is a safetensors file, or one that ``torch.load(weights_only=True)`` accepts. The state dict may be under a
name in the file, and its keys may have a prefix; see :mod:`narfx.inputs.checkpoint`. It is used only if it then fits
the model exactly, and a note says what was done.
"""

from __future__ import annotations

import json
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, fx, nn

from narfx.errors import UsageError
from narfx.graph.checks import check_values
from narfx.graph.unused import unused_keys
from narfx.inputs.checkpoint import Entry, Reading, find_entries, readings
from narfx.support.files import check_regular, write_bytes
from narfx.support.seals import damaged, digest

__all__ = [
    "Checkpoint",
    "apply_weights",
    "load_state",
    "open_weights",
    "read_weights",
    "tensor_digest",
    "write_state",
    "write_weights",
]

_DIGEST = "narfx.digest"
_NOTES = "__metadata__"  # the entry of a safetensors header that is no tensor


@dataclass(frozen=True)
class Checkpoint:
    """The state dicts in a weights file, the likeliest first; there is at least one."""

    path: Path
    entries: tuple[Entry, ...]

    def load(self, model: nn.Module, *, source: str | None = None) -> str | None:
        """Load the first state dict that fits ``model``, completely or not at all; see :func:`apply_weights`."""
        return _load(model, self.entries, source or str(self.path))


def apply_weights(model: nn.Module, path: Path | str, *, source: str | None = None) -> str | None:
    """Load the state dict in ``path`` into ``model``, completely or not at all.

    ``source`` names the file in messages, where that is not its path.

    Returns:
        A note on what was done (``"taken from 'state_dict', prefix 'module.' removed"``), ``None`` if nothing was. The
        note also names other entries of the file that fit the model.

    Raises:
        UsageError: The file is missing, cannot be read without running code, does not have the model's keys and
            shapes, or contains NaN or Inf.
    """
    return open_weights(path).load(model, source=source)


def open_weights(path: Path | str) -> Checkpoint:
    """The state dicts in a file, on the CPU.

    Raises:
        UsageError: The file is missing, cannot be read, or contains no state dict.
    """
    path = Path(path)
    check_regular(path, f"there is no weights file {path}: check the path")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    entries = find_entries(content)
    if not entries:
        raise _not_a_state_dict(path, _why_none(content))
    return Checkpoint(path, tuple(entries))


def read_weights(path: Path | str) -> tuple[dict[str, Tensor], str | None]:
    """The likeliest state dict in a file, and its name in the file, if any; errors as for :func:`open_weights`."""
    entry = open_weights(path).entries[0]
    return entry.state, entry.name or None


def load_state(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> str | None:
    """Load ``state`` into ``model`` after checking keys, shapes, types and values.

    Three kinds of keys may be missing: ``num_batches_tracked``, which old checkpoints lack, another name of a
    parameter that is present (tied weights), and keys that a traced graph does not use. ``source`` names the weights
    in messages.

    Returns:
        A note on what was done to the keys, ``None`` if nothing was.

    Raises:
        UsageError: Keys or shapes differ, integers and floats are mixed up, a value is NaN or Inf, or the model is on
            the meta device.
    """
    return _load(model, (Entry("", dict(state)),), source)


def _load(model: nn.Module, entries: Sequence[Entry], source: str) -> str | None:
    check_values(model)  # torch would load nothing into a model on the meta device, and only warn
    own = model.state_dict(keep_vars=True)
    unused = frozenset(unused_keys(model)) if isinstance(model, fx.GraphModule) else frozenset()
    fitting = [(entry, reading) for entry in entries if (reading := _fitting(entry, own, unused)) is not None]
    if not fitting:
        raise _mismatch(entries, own, unused, source)
    (entry, reading), *rest = fitting
    used = set(map(id, entry.state.values()))  # the same tensors are found again in the mapping around them
    others = [other.name for other, _ in rest if not used & set(map(id, other.state.values()))]
    _check_numbers(reading.state, own, source)
    model.load_state_dict(reading.state, strict=False)
    notes = [f"taken from {entry.name!r}"] if entry.name else []
    notes += [f"not from {name!r}, which fits as well" for name in others]
    return ", ".join([*notes, *reading.notes]) or None


def _fitting(entry: Entry, own: Mapping[str, Tensor], unused: frozenset[str]) -> Reading | None:
    return next((found for found in readings(entry.state, own) if not _faults(found.state, own, unused)), None)


def _faults(state: Mapping[str, Tensor], own: Mapping[str, Tensor], unused: frozenset[str]) -> dict[str, list[str]]:
    """The keys at which a state dict differs from a model's, by the kind of fault."""
    given = {id(own[key]) for key in state if key in own}
    spare = {key for key, tensor in own.items() if id(tensor) in given or key.endswith("num_batches_tracked")} | unused
    shapes = [
        f"{key} ({_shape(state[key])} in the file, {_shape(own[key])} in the model)"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults = {
        "missing": [key for key in own if key not in state and key not in spare],
        "not in the model": [key for key in state if key not in own],
        "of another shape": shapes,
    }
    return {what: keys for what, keys in faults.items() if keys}


def _mismatch(entries: Sequence[Entry], own: Mapping[str, Tensor], unused: frozenset[str], source: str) -> UsageError:
    """The error for weights that fit in no reading; it describes the reading with the fewest faults."""
    found = [
        (entry, reading, _faults(reading.state, own, unused))
        for entry in entries
        for reading in readings(entry.state, own)
    ]
    entry, reading, faults = min(found, key=lambda each: sum(map(len, each[2].values())))
    listed = ", ".join(f"{len(keys)} {what} ({_few(keys)})" for what, keys in faults.items())
    done = ", ".join([*([f"taken from {entry.name!r}"] if entry.name else []), *reading.notes])
    return UsageError(
        f"the weights in {source} do not fit this model, by their keys{f' ({done})' if done else ''}: {listed}; use "
        "weights that were saved from this model",
        where=source,
        kind="weights_mismatch",
    )


def _check_numbers(state: Mapping[str, Tensor], own: Mapping[str, Tensor], source: str) -> None:
    kinds = [key for key in state if state[key].is_floating_point() != own[key].is_floating_point()]
    if kinds:
        raise UsageError(
            f"the weights in {source} have integers where the model has floats, or the reverse, at {_few(kinds)}: save "
            "the state dict of the float model",
            where=source,
            kind="weights_mismatch",
        )
    infinite = [key for key, tensor in state.items() if not bool(torch.isfinite(tensor).all())]
    if infinite:
        raise UsageError(
            f"the weights in {source} contain NaN or Inf at {_few(infinite)}: use an earlier checkpoint",
            where=source,
            kind="weights_not_finite",
        )


def _why_none(content: object) -> str:
    if not isinstance(content, Mapping):
        return f"it holds a {type(content).__name__}"
    odd = [str(key)[:60] for key, value in content.items() if not isinstance(value, Tensor)]
    return f"there is no tensor under {_few(odd)}" if odd else "it is empty" if not content else "its keys are no text"


def write_weights(network: nn.Module, path: Path) -> None:
    """Write a network's state dict as safetensors, as :func:`write_state` does."""
    write_state(network.state_dict(), path)


def write_state(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a state dict as safetensors with its digest, atomically; tied weights stand under each of their keys."""
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in state.items()}
    held = Counter(tensor.untyped_storage().data_ptr() for tensor in state.values())
    state = {key: t.clone() if held[t.untyped_storage().data_ptr()] > 1 else t for key, t in state.items()}
    write_bytes(path, *_safetensors(state, {_DIGEST: tensor_digest(state)}))


def _safetensors(state: Mapping[str, Tensor], notes: dict[str, str]) -> list[bytes | memoryview]:
    """The bytes of ``safetensors.torch.save`` in pieces: the header, then the memory of each tensor, which it copies.

    The library itself chooses the order and the names of the types, in the header of tensors without values.
    """
    listed = json.loads(save({key: tensor.new_empty(0) for key, tensor in state.items()}, metadata=notes)[8:])
    order = [key for key in listed if key != _NOTES]
    ends = list(accumulate((state[key].nbytes for key in order), initial=0))
    for key, offsets in zip(order, pairwise(ends), strict=True):
        listed[key] |= {"shape": list(state[key].shape), "data_offsets": offsets}
    header = json.dumps(listed, separators=(",", ":"), ensure_ascii=False).encode()
    header += b" " * (-len(header) % 8)
    return [len(header).to_bytes(8, "little"), header, *(memoryview(_bytes(state[key])) for key in order)]


def _read_safetensors(path: Path) -> object:
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (it is no mapping)
            notes = file.metadata() or {}
    except Exception as error:
        raise UsageError(
            f"{path} is not a readable safetensors file: {_one_line(error)}", where=str(path), kind="weights_unreadable"
        ) from error
    known = next((value for key, value in notes.items() if _is_digest(key)), None)
    if known is not None and known != tensor_digest(state):
        raise damaged(path, "restore it from a copy, or write it again")
    return state


def _is_digest(key: str) -> bool:
    """Whether a key is that of the digest, also where up to three of its characters were damaged."""
    return len(key) == len(_DIGEST) and sum(a != b for a, b in zip(key, _DIGEST, strict=True)) <= 3


def tensor_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of keys, types, shapes and values of tensors on the CPU."""
    return digest(
        part
        for key, tensor in sorted(state.items())
        for part in (f"{key} {tensor.dtype} {tuple(tensor.shape)}", memoryview(_bytes(tensor)))
    )


def _bytes(tensor: Tensor) -> Any:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()


def _read_torch(path: Path) -> object:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # about old storage classes and TorchScript, which the user cannot change here
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise UsageError(
            f"{path} does not load with weights_only=True ({type(error).__name__}), and narfx runs no pickled code: "
            "save model.state_dict() alone, with safetensors or torch.save",
            where=str(path),
            kind="weights_unreadable",
        ) from error


def _not_a_state_dict(path: Path, why: str) -> UsageError:
    return UsageError(
        f"{path} is not a state dict, {why}: save model.state_dict()", where=str(path), kind="weights_unreadable"
    )


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "scalar"


def _few(names: list[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
