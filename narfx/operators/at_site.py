"""What is done with an operator at a site.

Operators that are not narfx's own are the user's code: at every site where one may stand, the module that it builds
is run once before anything relies on it, and whatever it does wrong is one sentence that names operator and site.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor, nn

from narfx.errors import UsageError
from narfx.graph.copying import copy_module
from narfx.inputs.user_code import user_code
from narfx.operators.geometry import conv_cost
from narfx.operators.record import Operator
from narfx.operators.registry import OWN, get_operator
from narfx.space.records import Site
from narfx.support.seeds import derive

__all__ = ["build_operator", "operator_cost", "refusal", "shares_memory", "start_operator", "started_operator"]

T = TypeVar("T")
_BATCHES = (2, 1, 3)
"""What a user's module is tried with: one that reshapes by a fixed batch fails at another."""

_MOST = 2**53  # up to here a sum of whole numbers is exact


def refusal(site: Site, name: str) -> str | None:
    """Why the operator (or ``base``) may not stand at the site, or ``None``.

    Raises:
        UsageError: The operator is the user's and fails, or says that it may stand there and gives another shape.
    """
    if name == "base":
        return None
    operator = get_operator(name)
    reason: str | None = None
    if operator.refuse is not None:
        with user_code(f"operator {name} cannot judge {site.name}", where=name, kind="operator_failed"):
            reason = operator.refuse(site)
    if operator.name in OWN:
        return reason
    if reason is None:
        _examine(operator, site)
    elif not isinstance(reason, str) or not reason:
        raise UsageError(
            f"refuse(site) of operator {name} gives a reason in words, or None, not {reason!r} as at {site.name}",
            where=name,
            kind="operator_refuse",
        )
    return reason


def operator_cost(site: Site, name: str) -> dict[str, float]:
    """Parameters and MACs of one sample with this operator (or ``base``) at the site.

    Raises:
        UsageError: The operator is the user's, and its cost fails or is none.
    """
    if name == "base":
        own = conv_cost(site, site.kernel[0], site.in_channels, site.out_channels, site.groups, site.bias)
        return own if site.own_params is None else {**own, "params": site.own_params}
    operator = get_operator(name)
    if operator.cost is None:
        return _for_sample(site, dict(_measured(operator, site)))
    with user_code(f"operator {name} has no cost at {site.name}", where=name, kind="operator_failed"):
        cost = operator.cost(site)
    if operator.name not in OWN and not _is_cost(cost):
        raise UsageError(
            f"cost(site) of operator {name} gives a dictionary of params and macs, two numbers from 0 to 2**53, "
            f"not {_shown(cost)} as at {site.name}",
            where=name,
            kind="operator_cost",
        )
    return dict(cost) if operator.name in OWN else _for_sample(site, cost)


def _for_sample(site: Site, cost: Mapping[str, float]) -> dict[str, float]:
    """From the cost of a user's operator on one map to that of one sample, of which several maps may be made."""
    return {**cost, "macs": cost["macs"] * site.images}


def build_operator(name: str, site: Site) -> nn.Module:
    """A new module of this operator for the site, on the default device; the caller's random numbers stay as they are.

    Raises:
        UsageError: The operator is the user's, and fails or gives no module.
    """
    return _built(get_operator(name), site)


def started_operator(name: str, site: Site, conv: nn.Conv2d) -> nn.Module:
    """A module of this operator with the device and type of the base convolution, started from its weights.

    Raises:
        UsageError: The operator is the user's, and fails or gives no module.
    """
    operator = get_operator(name)
    if operator.name not in OWN:
        module = _built(operator, site)
        if not conv.weight.is_meta and any(part.is_meta for part in (*module.parameters(), *module.buffers())):
            # Only what was built for an earlier look at shapes has no values.
            raise UsageError(
                f"operator {name} gives a module at {site.name} that it has given before: build(site) must make a new "
                "module at each call",
                where=name,
                kind="operator_shared",
            )
        module.to(device=conv.weight.device, dtype=conv.weight.dtype)
    else:
        # narfx's own overwrite every value, so one module for each geometry is enough, and it needs no values.
        template = _template(operator, replace(site, target="", occurrence=0, where=""))
        own = {
            id(p): nn.Parameter(torch.empty(p.shape, device=conv.weight.device, dtype=conv.weight.dtype))
            for p in template.parameters()
        }
        module = copy_module(template, {**own})
    if not conv.weight.is_meta:
        # The user's code gets a copy: whatever it does to the convolution, the base stays the base.
        start_operator(name, site, module, conv if operator.name in OWN else copy_module(conv))
    return module


@lru_cache(maxsize=1024)
def _template(operator: Operator, geometry: Site) -> nn.Module:
    with torch.device("meta"):
        return _built(operator, geometry)


def start_operator(name: str, site: Site, module: nn.Module, conv: nn.Conv2d) -> None:
    """Set the weights of a module of this operator from the base convolution, where the operator knows how.

    Raises:
        UsageError: The operator is the user's and fails.
    """
    operator = get_operator(name)
    if operator.start is None:
        return
    with (
        torch.no_grad(),
        nullcontext() if operator.name in OWN else _own_randomness(operator, site),
        user_code(f"operator {name} cannot start from the weights of {site.name}", where=name, kind="operator_failed"),
    ):
        operator.start(module, conv)


def _built(operator: Operator, site: Site) -> nn.Module:
    with (
        _own_randomness(operator, site),
        user_code(
            f"operator {operator.name} cannot be built at {site.name}", where=operator.name, kind="operator_failed"
        ),
    ):
        module = operator.build(site)
    if not isinstance(module, nn.Module):
        raise UsageError(
            f"operator {operator.name} builds a {type(module).__name__} at {site.name}, not a torch.nn.Module",
            where=operator.name,
            kind="operator_result",
        )
    return module


@contextmanager
def _own_randomness(operator: Operator, site: Site) -> Iterator[None]:
    """Random draws that follow from operator and site alone, and spare the caller's generator."""
    with torch.random.fork_rng(devices=()):
        if operator.name not in OWN:  # narfx's own overwrite every value that they draw
            torch.default_generator.manual_seed(derive(0, "operator", operator.name, site.target))
        yield


@lru_cache(maxsize=4096)
def _examine(operator: Operator, site: Site) -> None:
    """Run the module once; see ``refusal``."""
    _without_values(operator, site, lambda module: _run(operator, site, module))


@lru_cache(maxsize=4096)
def _measured(operator: Operator, site: Site) -> tuple[tuple[str, float], ...]:
    from narfx.graph.cost import measure  # it traces, and so stands above the passes, which build operators

    # In a container, so that a forward that fx cannot trace becomes a leaf instead of an error.
    cost = _without_values(operator, site, lambda module: measure(nn.Sequential(module), site.input_shape))
    return tuple(cost.items())


def _without_values(operator: Operator, site: Site, use: Callable[[nn.Module], T]) -> T:
    """Use a new module on the meta device, where nothing is computed, or where that fails on the CPU."""
    try:
        with torch.device("meta"):
            return use(_built(operator, site))
    except Exception:
        with torch.device("cpu"):
            return use(_built(operator, site))


def _run(operator: Operator, site: Site, module: nn.Module) -> None:
    for batch in _BATCHES:
        _run_batch(operator, site, module, batch)


def _run_batch(operator: Operator, site: Site, module: nn.Module, batch: int) -> None:
    name = operator.name
    x = torch.zeros(batch, *site.input_shape)
    told = "" if batch == _BATCHES[0] else f" on a batch of {batch}"
    with (
        torch.no_grad(),
        user_code(f"operator {name} cannot be run at {site.name}{told}", where=name, kind="operator_failed"),
    ):
        output = module.eval()(x)
    expected = (batch, *site.output_shape)
    if not isinstance(output, Tensor) or tuple(output.shape) != expected:
        found = _shape(output.shape[1:]) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        if isinstance(output, Tensor) and tuple(output.shape[1:]) == site.output_shape:
            raise UsageError(
                f"operator {name} makes a batch of {len(output)} of a batch of {batch} at {site.name}: "
                "it must take any batch",
                where=name,
                kind="operator_shape",
            )
        raise UsageError(
            f"operator {name} maps {_shape(site.input_shape)} to {found} at {site.name}{told}, where "
            f"{_shape(site.output_shape)} is needed: mend it, or let its refuse(site) say why it may not stand there",
            where=name,
            kind="operator_shape",
        )
    if x._version or shares_memory(output, x):
        fault = "changes its input" if x._version else "returns its own input"
        raise UsageError(
            f"operator {name} {fault} at {site.name}, which other branches of the network may read, as an in-place "
            "activation behind it would: return a new tensor (nn.AvgPool2d(1) is an identity that does)",
            where=name,
            kind="operator_in_place",
        )


def shares_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors lie in one storage, also on the meta device, where no storage has an address."""
    return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)


def _is_cost(cost: object) -> bool:
    return isinstance(cost, Mapping) and all(_is_amount(cost.get(metric)) for metric in ("params", "macs"))


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _MOST


def _shown(value: object) -> str:
    try:
        return f"{value!r:.80}"
    except Exception:  # Python writes no number of more than 4300 digits
        return f"a {type(value).__name__} that cannot be written"


def _shape(shape: tuple[int, ...] | torch.Size) -> str:
    return "x".join(map(str, shape)) or "a number"
