"""Build, check, cost and initialise an operator at a site.

An operator that is not built in is the user's code. At every site where it is legal, its module is built and run once
before anything relies on it. Every fault becomes one sentence that names the operator and the site.
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
from narfx.graph.cost import measure
from narfx.inputs.user_code import user_code
from narfx.operators.geometry import conv_cost
from narfx.operators.record import Operator
from narfx.operators.registry import OWN, get_operator
from narfx.space.records import Site
from narfx.support.seeds import derive

__all__ = ["build_operator", "operator_cost", "refusal", "shares_memory", "start_operator", "started_operator"]

T = TypeVar("T")
_BATCHES = (2, 1, 3)
"""Batch sizes with which a user's module is tried: a reshape by a fixed batch size fails at another."""

_MOST = 2**53  # float64 is exact for integers up to here


def refusal(site: Site, name: str) -> str | None:
    """The reason why the operator (or ``base``) is not legal at the site, or ``None`` if it is.

    Raises:
        UsageError: The user's operator fails, or it declares itself legal but returns another shape.
    """
    if name == "base":
        return None
    operator = get_operator(name)
    reason: str | None = None
    if operator.refuse is not None:
        with user_code(f"refuse(site) of operator {name} fails at {site.name}", where=name, kind="operator_failed"):
            reason = operator.refuse(site)
    if operator.name in OWN:
        return reason
    if reason is None:
        _examine(operator, site)
    elif not isinstance(reason, str) or not reason:
        raise UsageError(
            f"refuse(site) of operator {name} returns {reason!r} at {site.name}: it must return a reason (a non-empty "
            "text) or None",
            where=name,
            kind="operator_refuse",
        )
    return reason


def operator_cost(site: Site, name: str) -> dict[str, float]:
    """Parameters, and MACs of one sample, of this operator (or ``base``) at the site: ``{"params", "macs"}``.

    Raises:
        UsageError: The ``cost`` of the user's operator fails or returns something else.
    """
    if name == "base":
        own = conv_cost(site, site.kernel[0], site.in_channels, site.out_channels, site.groups, site.bias)
        params = own["params"] if site.own_params is None else site.own_params
        return {"params": params, "macs": own["macs"] + site.more_macs}
    operator = get_operator(name)
    if operator.cost is None:
        return _for_sample(site, dict(_measured(operator, site)))
    with user_code(f"cost(site) of operator {name} fails at {site.name}", where=name, kind="operator_failed"):
        cost = operator.cost(site)
    if operator.name not in OWN and not _is_cost(cost):
        raise UsageError(
            f"cost(site) of operator {name} returns {_shown(cost)} at {site.name}: it must return a dictionary of "
            "params and macs, two numbers from 0 to 2**53",
            where=name,
            kind="operator_cost",
        )
    return dict(cost) if operator.name in OWN else _for_sample(site, cost)


def _for_sample(site: Site, cost: Mapping[str, float]) -> dict[str, float]:
    """From the cost of a user's operator on one map to that of one sample, of which several maps may be made."""
    return {**cost, "macs": cost["macs"] * site.images}


def build_operator(name: str, site: Site) -> nn.Module:
    """A new module of this operator for the site, on the default device; the caller's random generator is not used.

    Raises:
        UsageError: The user's operator fails or does not return a module.
    """
    return _built(get_operator(name), site)


def started_operator(name: str, site: Site, conv: nn.Conv2d) -> nn.Module:
    """A module of this operator, on the device and in the dtype of the base convolution, started from its weights.

    Raises:
        UsageError: The user's operator fails, or does not return a new module.
    """
    operator = get_operator(name)
    if operator.name not in OWN:
        module = _built(operator, site)
        if not conv.weight.is_meta and any(part.is_meta for part in (*module.parameters(), *module.buffers())):
            # Only a module that was built earlier, to learn shapes, has no values.
            raise UsageError(
                f"operator {name} returns the same module twice at {site.name}: build(site) must make a new module at "
                "each call",
                where=name,
                kind="operator_shared",
            )
        module.to(device=conv.weight.device, dtype=conv.weight.dtype)
    else:
        # Built-in operators overwrite every value, so one template for each geometry, without values, is enough.
        template = _template(operator, replace(site, target="", occurrence=0, where=""))
        own = {
            id(p): nn.Parameter(torch.empty(p.shape, device=conv.weight.device, dtype=conv.weight.dtype))
            for p in template.parameters()
        }
        module = copy_module(template, {**own})
    if not conv.weight.is_meta:
        # The user's code gets a copy, so it cannot change the base convolution.
        start_operator(name, site, module, conv if operator.name in OWN else copy_module(conv))
    return module


@lru_cache(maxsize=1024)
def _template(operator: Operator, geometry: Site) -> nn.Module:
    with torch.device("meta"):
        return _built(operator, geometry)


def start_operator(name: str, site: Site, module: nn.Module, conv: nn.Conv2d) -> None:
    """Set the weights of a module of this operator from the base convolution, if the operator has a ``start``.

    Raises:
        UsageError: The ``start`` of the user's operator fails.
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
            f"operator {operator.name} builds a {type(module).__name__} at {site.name}: build(site) must return a "
            "torch.nn.Module",
            where=operator.name,
            kind="operator_result",
        )
    return module


@contextmanager
def _own_randomness(operator: Operator, site: Site) -> Iterator[None]:
    """Random draws that depend only on operator and site; the caller's generator is restored."""
    with torch.random.fork_rng(devices=()):
        if operator.name not in OWN:  # built-in operators overwrite every value
            torch.default_generator.manual_seed(derive(0, "operator", operator.name, site.target))
        yield


@lru_cache(maxsize=4096)
def _examine(operator: Operator, site: Site) -> None:
    """Run the module once, see :func:`refusal`."""
    _without_values(operator, site, lambda module: _run(operator, site, module))


@lru_cache(maxsize=4096)
def _measured(operator: Operator, site: Site) -> tuple[tuple[str, float], ...]:
    # In a container, a forward that fx cannot trace becomes a leaf instead of an error.
    cost = _without_values(operator, site, lambda module: measure(nn.Sequential(module), site.input_shape))
    return tuple(cost.items())


def _without_values(operator: Operator, site: Site, use: Callable[[nn.Module], T]) -> T:
    """Call ``use`` with a new module on the meta device, where nothing is computed, or on the CPU if that fails."""
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
    on_batch = "" if batch == _BATCHES[0] else f" on a batch of {batch}"
    with (
        torch.no_grad(),
        user_code(f"operator {name} cannot be run at {site.name}{on_batch}", where=name, kind="operator_failed"),
    ):
        output = module.eval()(x)
    expected = (batch, *site.output_shape)
    if not isinstance(output, Tensor) or tuple(output.shape) != expected:
        found = _shape(output.shape[1:]) if isinstance(output, Tensor) else f"a {type(output).__name__}"
        if isinstance(output, Tensor) and tuple(output.shape[1:]) == site.output_shape:
            raise UsageError(
                f"operator {name} returns a batch of {len(output)} for a batch of {batch} at {site.name}: it must "
                "keep the batch size",
                where=name,
                kind="operator_shape",
            )
        raise UsageError(
            f"operator {name} maps {_shape(site.input_shape)} to {found} at {site.name}{on_batch}, where "
            f"{_shape(site.output_shape)} is needed: fix it, or let its refuse(site) return a reason there",
            where=name,
            kind="operator_shape",
        )
    if x._version or shares_memory(output, x):
        fault = "changes its input" if x._version else "returns its own input"
        raise UsageError(
            f"operator {name} {fault} at {site.name}; other branches of the network may read that tensor, or an "
            "in-place activation after the operator may change it: return a new tensor (nn.AvgPool2d(1) is an "
            "identity that does)",
            where=name,
            kind="operator_in_place",
        )


def shares_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors share one storage; also on the meta device, where a storage has no address."""
    return bool(a.untyped_storage()._cdata == b.untyped_storage()._cdata)


def _is_cost(cost: object) -> bool:
    return isinstance(cost, Mapping) and all(_is_amount(cost.get(metric)) for metric in ("params", "macs"))


def _is_amount(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 <= value <= _MOST


def _shown(value: object) -> str:
    try:
        return f"{value!r:.80}"
    except Exception:  # Python prints no integer of more than 4300 digits
        return f"a {type(value).__name__} that cannot be printed"


def _shape(shape: tuple[int, ...] | torch.Size) -> str:
    return "x".join(map(str, shape)) or "a number"
