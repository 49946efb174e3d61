"""The checks of ``narfx ops test``: what narfx relies on, for each operator at each geometry of a table."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from narfx.bundle.codegen import CodegenError, generate
from narfx.bundle.onnx.write import compare_onnx, export_onnx
from narfx.bundle.proof.parity import NORM_IMAGES, input_batches, randomise_norms
from narfx.errors import NarfxError
from narfx.graph.cost import measure
from narfx.inputs.user_code import user_code
from narfx.operators.at_site import operator_cost, refusal, shares_memory, started_operator
from narfx.operators.files import load_operators
from narfx.operators.registry import get_operator, operator_names
from narfx.space.records import Site
from narfx.support.seeds import derive
from narfx.verbs.sample_sites import SAMPLES, sample_site

__all__ = ["CHECKS", "try_file", "try_operators"]


@dataclass(frozen=True)
class _Case:
    """One operator at one site, with the base convolution of the site and a batch of two random maps."""

    name: str
    site: Site
    conv: nn.Conv2d
    x: Tensor

    def made(self, dtype: torch.dtype = torch.float32) -> nn.Module:
        """A module as the supernet makes it, in eval mode."""
        conv = copy.deepcopy(self.conv).to(dtype)
        return started_operator(self.name, self.site, conv).eval().requires_grad_(True)

    def moved(self) -> nn.Module:
        """A module with changed weights, as after a training step."""
        module = self.made()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return module


def _build(case: _Case) -> str | None:
    one, two = case.made(), case.made()
    held = {id(tensor) for tensor in (*one.parameters(), *one.buffers())}
    if any(id(tensor) in held for tensor in (*two.parameters(), *two.buffers())):
        return "two calls of build(site) return modules that share a parameter: make new parameters in each call"
    return None


def _start(case: _Case) -> str | None:
    for dtype in (torch.float32, torch.float64):
        module = case.made(dtype)
        for name, tensor in (*module.named_parameters(), *module.named_buffers()):
            if tensor.device != case.x.device:
                return f"start(module, conv) leaves {name} on {tensor.device}, not on {case.x.device}"
            if tensor.is_floating_point() and tensor.dtype != dtype:
                return f"start(module, conv) leaves {name} as {tensor.dtype}, not {dtype}"
            if not bool(tensor.isfinite().all()):
                return f"start(module, conv) leaves values in {name} that are not finite"
    return None


def _output(case: _Case) -> str | None:
    for training in (False, True):
        module = case.made().train(training)
        for dtype in (torch.float32, torch.float64):
            y = module.to(dtype)(case.x.to(dtype))
            mode, expected = "training" if training else "eval", (len(case.x), *case.site.output_shape)
            if tuple(y.shape) != expected:
                return f"the output is {tuple(y.shape)} in {mode} mode, not {expected}"
            if y.dtype != dtype or y.device != case.x.device:
                return f"the output is {y.dtype} on {y.device}, for an input of {dtype} on {case.x.device}"
            if not bool(y.isfinite().all()):
                return f"the output is not finite in {mode} mode"
    return None


def _input(case: _Case) -> str | None:
    for training in (False, True):
        x = case.x.clone()
        y = case.made().train(training)(x)
        if not torch.equal(x, case.x):
            return (
                "the operator changes its input in place, which other branches of the network read: compute on a copy"
            )
        if shares_memory(y, x):
            return "the output shares memory with the input: return a new tensor"
    return None


def _gradient(case: _Case) -> str | None:
    module, x = case.moved().train(), case.x.clone().requires_grad_(True)
    y = module(x)
    if not y.requires_grad:
        return "no gradient reaches anything: the output is computed without gradients, as under torch.no_grad"
    (y * torch.randn_like(y)).sum().backward()
    for name, tensor in (("the input", x), *module.named_parameters()):
        if tensor.grad is None or not bool(tensor.grad.any()):
            return f"no gradient reaches {name}"
        if not bool(tensor.grad.isfinite().all()):
            return f"the gradient of {name} is not finite"
    return None


def _cost(case: _Case) -> str | None:
    declared = operator_cost(case.site, case.name)
    counted = measure(nn.Sequential(case.made().cpu()), case.site.input_shape)
    for metric, number in counted.items():
        if declared[metric] != number:
            return f"cost(site) says {declared[metric]:,.0f} {metric}, the module has {number:,}"
    return None


def _repeat(case: _Case) -> str | None:
    module = case.made()
    y = module(case.x)
    if not torch.equal(y, module(case.x)):
        return "two calls in eval mode give different outputs"
    if not torch.equal(y, case.made()(case.x)):
        return (
            "a second module built from the same seed gives another output: draw random values with torch's generator"
        )
    return None


def _copy(case: _Case) -> str | None:
    module = case.moved()
    twin = copy.deepcopy(module)
    y = module(case.x)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    return (
        None if torch.equal(twin(case.x), y) else "a deepcopy gives another output, or shares weights with the original"
    )


def _state(case: _Case) -> str | None:
    module, other = case.moved(), case.made()
    other.load_state_dict(module.state_dict())
    return (
        None if torch.equal(other(case.x), module(case.x)) else "a module with the same state dict gives another output"
    )


def _onnx(case: _Case) -> str | None:
    (images,) = input_batches(case.site.input_shape, (NORM_IMAGES,))
    network = randomise_norms(_alone(case.moved().cpu()), images)
    with torch.no_grad():
        for x in input_batches(case.site.input_shape):
            y, expected = network(x), (len(x), *case.site.output_shape)
            if tuple(y.shape) != expected:
                return f"the output is {tuple(y.shape)} for a batch of {len(x)}, not {expected}"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "operator.onnx"
        export_onnx(network, case.site.input_shape, path)
        parity = compare_onnx(network, path, case.site.input_shape)
    if not parity.passed:
        return (
            f"the ONNX file differs by {parity.max_rel_error:.2e} of the largest output "
            f"(tolerance {parity.tolerance:g})"
        )
    return None


CHECKS: dict[str, Callable[[_Case], str | None]] = {
    "build": _build,
    "start": _start,
    "output": _output,
    "input": _input,
    "gradient": _gradient,
    "cost": _cost,
    "repeat": _repeat,
    "copy": _copy,
    "state": _state,
    "onnx": _onnx,
}
"""The checks by name. ``onnx`` takes a second; it runs last, at two geometries at most."""


def _alone(module: nn.Module) -> fx.GraphModule:
    """A network that only calls this module, as a lowered network does."""
    graph = fx.Graph()
    graph.output(graph.call_module("operator", (graph.placeholder("input"),)))
    return fx.GraphModule({"operator": module}, graph).eval()


def try_operators(names: Iterable[str], *, seed: int = 0, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Test operators at every sample geometry.

    Returns:
        ``{"passed", "operators", "geometries", "checks", "notes"}``: one record for each operator (how often it was
        legal and refused), for each operator and geometry (legal, or the reason), and for each check.

    Raises:
        UsageError: There is no operator of that name.
    """
    names = [get_operator(name).name for name in names]
    operators, geometries, checks, notes = [], [], [], list[str]()
    with torch.random.fork_rng(devices=()):
        torch.default_generator.manual_seed(derive(seed, "samples"))
        samples = [sample_site(*sample) for sample in SAMPLES]
        for name in names:
            cases, own = [], list[dict[str, Any]]()
            for conv, site in samples:
                case = _Case(name, site, conv.to(device), torch.randn(2, *site.input_shape).to(device))
                reason, failed = _judge(case)
                geometries.append(
                    {"operator": name, "site": site.name, "legal": not (reason or failed), "reason": reason}
                )
                if failed:
                    own.append(_record(name, site.name, "site", failed))
                elif reason is None:
                    cases.append(case)
            own += _checks(name, cases)
            if cases:
                notes += _source_note(cases[0])
            checks += own
            passed = all(record["passed"] for record in own)
            refused = sum(1 for entry in geometries if entry["operator"] == name and entry["reason"])
            operators.append({"name": name, "passed": passed, "legal": len(cases), "refused": refused})
    passed = all(record["passed"] for record in checks)
    return {"passed": passed, "operators": operators, "geometries": geometries, "checks": checks, "notes": notes}


def try_file(file: str | None, *, seed: int = 0, device: torch.device | str = "cpu") -> dict[str, Any]:
    """The report of :func:`try_operators` on the operators of a file, or on narfx's own; ``"file"`` says which.

    Raises:
        UsageError: There is no such file, or it registers no operator.
    """
    names = operator_names()[1:] if file is None else load_operators(file)  # base is the model's own convolution
    return {"file": file, **try_operators(names, seed=seed, device=device)}


def _judge(case: _Case) -> tuple[str | None, str | None]:
    """Why the operator refuses the site, and the error if asking fails."""
    try:
        return refusal(case.site, case.name), None
    except NarfxError as error:
        return None, str(error)


def _checks(name: str, cases: list[_Case]) -> list[dict[str, Any]]:
    if not cases:
        problem = f"it is legal at none of the {len(SAMPLES)} geometries, so nothing was tested"
        return [_record(name, None, "legal", problem)]
    records = []
    for case in cases:
        records.append(_tried(case, "build"))
        if records[-1]["passed"]:  # else every check would fail in the same way
            records += [_tried(case, check) for check in CHECKS if check not in ("build", "onnx")]
    if all(record["passed"] for record in records):
        strided = [case for case in cases[1:] if max(case.site.stride) > 1]
        records += [_tried(case, "onnx") for case in (cases[0], *strided[:1])]
    return records


def _tried(case: _Case, check: str) -> dict[str, Any]:
    problem: str | None
    try:
        with user_code("it fails", where=case.name, kind="operator_failed"):
            problem = CHECKS[check](case)
    except NarfxError as error:
        problem = str(error)
    return _record(case.name, case.site.name, check, problem)


def _record(name: str, site: str | None, check: str, problem: str | None) -> dict[str, Any]:
    return {"operator": name, "site": site, "check": check, "passed": problem is None, "message": problem}


def _source_note(case: _Case) -> list[str]:
    """A note if a bundle with this operator can hold no readable source."""
    try:
        generate(_alone(case.made().cpu()), case.name, case.site.input_shape)
    except CodegenError as error:
        return [f"{case.name}: a bundle with it has no model.py ({error}); build it from torch.nn modules to get one"]
    except NarfxError:
        return []  # a check reports it
    return []
