"""Build a base network with another number of outputs, for data with other classes or another embedding length."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from narfx.errors import UsageError
from narfx.inputs.model_ref import load_model
from narfx.inputs.reference import ModelRef
from narfx.inputs.trust import UNTRUSTED
from narfx.support.text import count

__all__ = ["load_with_outputs"]

Shape = tuple[int, int, int]

_ARGUMENTS = ("num_classes", "embedding", "classes", "n_classes", "num_outputs")


def load_with_outputs(
    reference: str, outputs: int, input: Shape, *, relative_to: Path | None = None, seed: int = 0
) -> tuple[nn.Module, str]:
    """The model that ``reference`` names, with ``outputs`` outputs.

    A model that already has that many is returned as it is. Otherwise it is built again with ``num_classes`` or
    another usual argument. If its factory takes none of these, its last linear layer is replaced by a new one.

    Args:
        reference: See :func:`narfx.inputs.model_ref.load_model`.
        outputs: The length of one sample's output.
        input: One sample's shape (C, H, W).
        relative_to: The folder at which paths in the reference start.
        seed: Seed of the initial weights.

    Returns:
        The model, and a note on what was changed (empty if nothing was).

    Raises:
        UsageError: The reference is wrong, or the model cannot have that many outputs.
    """
    model = load_model(reference, relative_to=relative_to, seed=seed)
    if _outputs(model, input) == outputs:
        return model, ""
    ref = ModelRef.parse(reference)
    for name in _ARGUMENTS:
        changed = replace(ref, arguments={**ref.arguments, name: outputs})
        try:
            built = load_model(changed, relative_to=relative_to, seed=seed)
        except UsageError as error:
            if error.kind == UNTRUSTED:
                raise
            continue
        if _outputs(built, input) == outputs:
            return built, f"{reference}: built with {name}={outputs}"
    return model, f"{reference}: {_replace_last_linear(model, reference, outputs, input, seed)}"


def _outputs(model: nn.Module, input: Shape) -> int | None:
    """The length of one sample's output; ``None`` if the output is not a tensor (N, outputs)."""
    modes = {part: part.training for part in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            output = model(torch.zeros(1, *input))
    except Exception:  # the user's code: its errors are reported when it is traced
        return None
    finally:
        for part, mode in modes.items():
            part.training = mode
    return int(output.shape[1]) if isinstance(output, Tensor) and output.ndim == 2 else None


def _replace_last_linear(model: nn.Module, reference: str, outputs: int, input: Shape, seed: int) -> str:
    called: list[str] = []
    hooks = [
        part.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and name
    ]
    _outputs(model, input)
    for hook in hooks:
        hook.remove()
    if called:
        name = called[-1]
        old = model.get_submodule(name)
        assert isinstance(old, nn.Linear)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            fresh = nn.Linear(old.in_features, outputs, bias=old.bias is not None, dtype=old.weight.dtype)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, fresh)
        if _outputs(model, input) == outputs:
            return f"its last linear layer, {name}, replaced by a new one with {count(outputs, 'output')}"
    raise UsageError(
        f"{reference} cannot have {count(outputs, 'output')}: its factory has none of the arguments "
        f"{', '.join(_ARGUMENTS)}, "
        + (f"and its last linear layer, {called[-1]}, is not its output" if called else "and it has no linear layer")
        + "; add such an argument to the factory",
        where=reference,
        kind="outputs",
    )
