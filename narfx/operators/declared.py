"""The candidates that a module of the model declares for its own place.

The protocol (docs/cells.md) needs no class of narfx. ``narfx_candidates()`` returns a mapping of names to functions
without arguments, each of which builds a new module; ``None`` in the place of a function means that nothing stands
there: the output is zeros, and no computation is left of it in a lowered network. The first name is what the module
itself is. ``narfx_slot``, an attribute, is a text that sites of one choice share. ``narfx_start(name, module)`` sets
the first weights of a candidate; without it tensors of equal names and shapes are copied from the module.

This is the user's code: every fault is one sentence that names the candidate and the site.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from narfx.errors import UsageError
from narfx.graph.copying import copy_module, copy_to_meta
from narfx.graph.declared import candidates_of
from narfx.graph.macs import MacCounter
from narfx.graph.nodes import tensors
from narfx.inputs.user_code import user_code
from narfx.operators.at_site import shares_memory
from narfx.space.records import DeclaredSite
from narfx.support.seeds import derive
from narfx.support.text import article, times

__all__ = ["Zeros", "declared_names", "is_nothing", "own_cost", "slot_key", "started_candidate", "try_candidate"]

_NAME = re.compile(r"[A-Za-z0-9_+\-]+")
_TAKEN = frozenset(dir(nn.ModuleDict()))
_BATCHES = (2, 1, 3)
"""Batch sizes with which a candidate is tried: a reshape by a fixed batch size fails at another."""

_examined: dict[Any, dict[str, float]] = {}


class Zeros(nn.Module):
    """A candidate that computes nothing; lowering takes it out of the network.

    Args:
        input_shape: The first input of the site, without the batch axis.
        output_shape: Its output, likewise.
    """

    narfx_leaf = True

    def __init__(self, input_shape: tuple[int, ...], output_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.output_shape, self.stride = output_shape, _stride(input_shape, output_shape)

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        """Zeros of the site's output shape (N, ...), with the type and device of its first input."""
        x = tensors((inputs, named))[0]
        if self.stride is None:
            return x.new_zeros((x.shape[0], *self.output_shape))
        return torch.zeros_like(x if self.stride == 1 else x[:, :, :: self.stride, :: self.stride])


def _stride(before: tuple[int, ...], after: tuple[int, ...]) -> int | None:
    """The stride with which an input (C, H, W) gives the output's shape, whatever the size of the image."""
    if before == after:
        return 1
    if len(before) != 3 or len(after) != 3 or before[0] != after[0]:
        return None
    found = (s for s in range(2, 9) if tuple(-(-size // s) for size in before[1:]) == after[1:])
    return next(found, None)


def declared_names(module: nn.Module, site: str) -> tuple[str, ...]:
    """The names of the candidates that the module at a site declares, its own first.

    Raises:
        UsageError: The declaration fails, or it is no mapping of names to functions or ``None``.
    """
    return tuple(_builders(module, site))


def is_nothing(module: nn.Module, site: str, name: str) -> bool:
    """Whether a candidate that the module at a site declares is no module at all; its own operator never is."""
    builders = _builders(module, site)
    return builders.get(name) is None and name != next(iter(builders))


def slot_key(module: nn.Module, site: str) -> str | None:
    """The text that the sites of one slot share, or ``None``.

    Raises:
        UsageError: ``narfx_slot`` is something else.
    """
    with user_code(f"narfx_slot of {site} fails", where=site, kind="bad_declaration"):
        key = getattr(module, "narfx_slot", None)
    if key is not None and (not isinstance(key, str) or not key.isprintable() or not key.strip()):
        raise UsageError(
            f"narfx_slot of {site} is {article(key)}: give a text that the sites of one choice share",
            where=site,
            kind="bad_declaration",
        )
    return key


def _builders(module: nn.Module, site: str) -> dict[str, Callable[[], Any] | None]:
    with user_code(f"narfx_candidates() of {site} fails", where=site, kind="bad_declaration"):
        found = candidates_of(module)
        found = dict(found) if isinstance(found, Mapping) else found
    if not isinstance(found, dict):
        raise _bad(site, f"returns {article(found)}: it must return a dictionary of names and functions")
    for name, build in found.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name) or name in _TAKEN:
            raise _bad(site, f"has the name {name!r}: use letters, digits, _, + and -, and no method of a ModuleDict")
        if build is not None and not callable(build):
            raise _bad(
                site,
                f"has {article(build)} for {name}: give a function that builds the module at each call, or None for "
                "nothing at all",
            )
    return found


def _bad(site: str, what: str) -> UsageError:
    return UsageError(f"narfx_candidates() of {site} {what}", where=site, kind="bad_declaration")


def _built(owner: nn.Module, site: DeclaredSite, name: str) -> nn.Module:
    build = _builders(owner, site.name).get(name)
    if build is None:
        return Zeros(site.input_shapes[0], site.output_shape)
    with (
        _own_randomness(site, name),
        user_code(f"candidate {name} cannot be built at {site.name}", where=site.name, kind="candidate_failed"),
    ):
        module = build()
    if not isinstance(module, nn.Module):
        raise _fault(site, f"candidate {name} builds {article(module)}", "its function must return a torch.nn.Module")
    return module


@contextmanager
def _own_randomness(site: DeclaredSite, name: str) -> Iterator[None]:
    """Random draws that depend only on candidate and site; the caller's generator is restored."""
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(derive(0, "candidate", name, site.target))
        yield


def _fault(site: DeclaredSite, what: str, cure: str) -> UsageError:
    return UsageError(f"{what} at {site.name}: {cure}", where=site.name, kind="candidate_failed")


def try_candidate(owner: nn.Module, site: DeclaredSite, name: str, *, changed: str = "") -> dict[str, float]:
    """Build a candidate, run it once without values, and return its cost: parameters, and MACs of one sample.

    Args:
        owner: The module that declares it.
        site: Where it would stand.
        name: Its name.
        changed: The node that changes the site's output in place, if one does.

    Raises:
        UsageError: It cannot be built or run, gives another shape, changes its input, or returns its input where that
            would be changed in place.
    """

    def run() -> dict[str, float]:
        module = _built(owner, site, name)
        key = (_structure(module), site.input_shapes, site.output_shape, site.images, name, bool(changed))
        if key[0] is None or key not in _examined:
            found = _examine(module, site, name, changed)
            if key[0] is None:
                return found
            if len(_examined) > 4096:
                _examined.clear()
            _examined[key] = found
        return _examined[key]

    try:
        with torch.device("meta"):
            return dict(run())
    except Exception:
        with torch.device("cpu"):
            return dict(run())


def own_cost(module: nn.Module, site: DeclaredSite) -> dict[str, float]:
    """Parameters of the module that the model has at the site, and MACs of one sample."""
    copied = copy_to_meta(module)
    copied.eval()
    try:
        return _counted(copied, site, "meta")
    except Exception:  # a module that reads values runs on the CPU only
        copied = copy_module(module).to("cpu")
        copied.eval()
        return _counted(copied, site, "cpu")


def _counted(module: nn.Module, site: DeclaredSite, device: str) -> dict[str, float]:
    inputs = _inputs(module, site, 1, device)
    with torch.no_grad(), MacCounter() as counter:
        module(*inputs)
    return {"params": sum(p.numel() for p in module.parameters()), "macs": counter.macs}


def _inputs(module: nn.Module, site: DeclaredSite, batch: int, device: str | torch.device) -> list[Tensor]:
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    return [torch.zeros(batch * site.images, *shape, dtype=dtype, device=device) for shape in site.input_shapes]


def _examine(module: nn.Module, site: DeclaredSite, name: str, changed: str) -> dict[str, float]:
    module.eval()
    device = next((p.device for p in (*module.parameters(), *module.buffers())), torch.empty(0).device)
    for batch in _BATCHES:
        inputs = _inputs(module, site, batch, device)
        what = f"candidate {name} cannot be run at {site.name}" + (f" on a batch of {batch}" if batch != 2 else "")
        with torch.no_grad(), user_code(what, where=site.name, kind="candidate_failed"):
            output = module(*inputs)
        expected = (batch * site.images, *site.output_shape)
        if not isinstance(output, Tensor) or tuple(output.shape) != expected:
            found = times(output.shape) if isinstance(output, Tensor) else article(output)
            raise _fault(
                site,
                f"candidate {name} maps {'+'.join(times(x.shape) for x in inputs)} to {found}",
                f"{times(expected)} is needed there",
            )
        if inputs and (output.dtype, output.device) != (inputs[0].dtype, inputs[0].device):
            raise _fault(
                site,
                f"candidate {name} maps {_kind(inputs[0])} to {_kind(output)}",
                "a candidate returns the type and the device of its input",
            )
        if any(x._version for x in inputs):
            raise _fault(site, f"candidate {name} changes its input", "other parts of the network may read that tensor")
        if changed and any(shares_memory(output, x) for x in inputs):
            raise _fault(
                site,
                f"candidate {name} returns its own input, which {changed} changes in place",
                "write the sum with + instead of +=, or let the candidate return a new tensor",
            )
    return _counted(module, site, "meta" if device.type == "meta" else "cpu")


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} on {tensor.device.type}"


def _structure(module: nn.Module) -> Any:
    """What decides how a module computes, apart from values; ``None`` where it holds more than plain attributes."""
    parts: list[Any] = []
    for path, part in module.named_modules():
        plain = {k: v for k, v in vars(part).items() if not k.startswith("_") and k not in ("training",)}
        if not all(isinstance(v, (int, float, str, bool, tuple, type(None))) for v in plain.values()):
            return None
        tensors_of = [(k, None if t is None else (t.shape, t.dtype)) for k, t in _own_tensors(part)]
        parts.append((path, type(part), tuple(sorted(plain.items())), tuple(tensors_of), bool(part._forward_hooks)))
    try:
        hash(whole := tuple(parts))
    except TypeError:
        return None
    return whole


def _own_tensors(part: nn.Module) -> Iterator[tuple[str, Tensor | None]]:
    yield from part._parameters.items()
    yield from part._buffers.items()


def started_candidate(owner: nn.Module, site: DeclaredSite, name: str, like: Tensor) -> nn.Module:
    """A new module of this candidate with its first weights, in the mode of the module that declares it.

    Args:
        owner: The module that the model has there, whose weights may be started from.
        site: Where the candidate stands.
        name: Its name.
        like: A parameter of the network, which gives device and type where ``owner`` has no parameters.

    Raises:
        UsageError: The candidate cannot be built or started, or is not a new module.
    """
    module = _built(owner, site, name)
    mine = next((p for p in owner.parameters() if p.is_floating_point()), like)
    held = [*module.parameters(), *module.buffers()]
    if not mine.is_meta and any(part.is_meta for part in held):
        raise _fault(site, f"candidate {name} is the same module twice", "build a new module at each call")
    if {*map(id, held)} & {*map(id, (*owner.parameters(), *owner.buffers()))}:
        raise _fault(site, f"candidate {name} shares tensors with the model", "build a module with tensors of its own")
    module.to(device=mine.device, dtype=mine.dtype)
    if not mine.is_meta:
        _start(owner, site, name, module)
    trained = [p.requires_grad for p in owner.parameters()]
    module.train(owner.training)
    return module.requires_grad_(any(trained) if trained else True)


def _start(owner: nn.Module, site: DeclaredSite, name: str, module: nn.Module) -> None:
    with (
        torch.no_grad(),
        _own_randomness(site, f"start {name}"),
        user_code(f"candidate {name} cannot start at {site.name}", where=site.name, kind="candidate_failed"),
    ):
        start = getattr(owner, "narfx_start", None)
        if callable(start):
            start(name, module)
            return
        theirs = owner.state_dict(keep_vars=True)
        for key, value in module.state_dict(keep_vars=True).items():
            other = theirs.get(key)
            if isinstance(value, Tensor) and isinstance(other, Tensor) and other.shape == value.shape:
                value.copy_(other)
