"""Load weights from a file into a model, without running code from the file.

The file is a safetensors file, or one that ``torch.load(weights_only=True)`` accepts. Two habits of checkpoints are
undone: a state dict under ``state_dict``, ``model_state_dict`` or ``model``, and keys with the prefix of a wrapper
(``module.`` of DataParallel, ``_orig_mod.`` of torch.compile).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, fx, nn

from narfx.errors import UsageError
from narfx.graph.checks import check_values
from narfx.graph.unused import unused_keys
from narfx.support.files import write_bytes

__all__ = ["apply_weights", "load_state", "read_weights", "write_weights"]

_ENTRIES = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")


def apply_weights(model: nn.Module, path: Path | str) -> str | None:
    """Load the state dict in ``path`` into ``model``, completely or not at all.

    Returns:
        A note on what was undone (``"taken from 'state_dict', prefix 'module.' removed"``), ``None`` if nothing was.

    Raises:
        UsageError: The file is missing, cannot be read without running code, does not have the model's keys and
            shapes, or contains NaN or Inf.
    """
    state, entry = read_weights(path)
    prefix = load_state(model, state, source=str(path))
    notes = [f"taken from {entry!r}"] if entry else []
    notes += [f"prefix {prefix!r} removed"] if prefix else []
    return ", ".join(notes) or None


def read_weights(path: Path | str) -> tuple[dict[str, Tensor], str | None]:
    """Read the tensors in a file.

    Returns:
        The tensors by name, on the CPU, and the entry of the file that contained them, if any.

    Raises:
        UsageError: The file is missing, cannot be read, or is not a state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise UsageError(f"there is no weights file {path}: check the path", where=str(path), kind="missing_file")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    entries = content if isinstance(content, Mapping) else {}
    entry = next((name for name in _ENTRIES if isinstance(entries.get(name), Mapping)), None)
    content = content if entry is None else entries[entry]
    if not isinstance(content, Mapping):
        raise _not_a_state_dict(path, f"it holds a {type(content).__name__}")
    odd = [str(key) for key, value in content.items() if not isinstance(key, str) or not isinstance(value, Tensor)]
    if odd or not content:
        raise _not_a_state_dict(path, f"there is no tensor under {_few(odd)}" if odd else "it is empty")
    return dict(content), entry


def load_state(model: nn.Module, state: Mapping[str, Tensor], *, source: str) -> str | None:
    """Load ``state`` into ``model`` after checking keys, shapes, types and values.

    Three kinds of keys may be missing: ``num_batches_tracked``, which old checkpoints lack, another name of a
    parameter that is present (tied weights), and keys that a traced graph does not use. ``source`` names the weights
    in messages.

    Returns:
        The wrapper prefix that was removed from every key, ``None`` if there was none.

    Raises:
        UsageError: Keys or shapes differ, integers and floats are mixed up, a value is NaN or Inf, or the model is on
            the meta device.
    """
    check_values(model)  # torch would load nothing into a model on the meta device, and only warn
    own = model.state_dict(keep_vars=True)
    prefix = _wrapper(state, own)
    state = {key.removeprefix(prefix): value for key, value in state.items()} if prefix else state
    given = {id(own[key]) for key in state if key in own}
    spare = {key for key, tensor in own.items() if id(tensor) in given or key.endswith("num_batches_tracked")}
    if isinstance(model, fx.GraphModule):
        spare |= unused_keys(model)
    missing = [key for key in own if key not in state and key not in spare]
    unexpected = [key for key in state if key not in own]
    shapes = [
        f"{key} ({_shape(state[key])} in the file, {_shape(own[key])} in the model)"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    faults = [("missing", missing), ("not in the model", unexpected), ("of another shape", shapes)]
    found = [f"{len(keys)} {what} ({_few(keys)})" for what, keys in faults if keys]
    if found:
        raise UsageError(
            f"the weights in {source} do not fit this model, by their keys: {', '.join(found)}; use weights that were "
            "saved from this model",
            where=source,
            kind="weights_mismatch",
        )
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
    model.load_state_dict(dict(state), strict=False)
    return prefix


def _wrapper(state: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str | None:
    """The wrapper prefix that all keys have, if no key is a key of the model itself."""
    if any(key in own for key in state):
        return None
    return next((prefix for prefix in _PREFIXES if all(key.startswith(prefix) for key in state)), None)


def write_weights(network: nn.Module, path: Path) -> None:
    """Write a state dict as safetensors, atomically; tied weights are written under each of their keys."""
    from safetensors.torch import save

    state = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in network.state_dict().items()}
    write_bytes(path, save(state))


def _read_safetensors(path: Path) -> object:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except Exception as error:
        raise UsageError(
            f"{path} is not a readable safetensors file: {_one_line(error)}", where=str(path), kind="weights_unreadable"
        ) from error


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
