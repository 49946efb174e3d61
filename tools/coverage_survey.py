"""One model through the compiler: ``tools/coverage.py`` runs this in a process of its own, which reports each step.

Fresh networks hide errors: a BatchNorm whose statistics are 0 and 1, a layer scale of 1e-6 or a skip gain of 0 make a
wrong trace or a wrong fusion compute the right thing. So :func:`wake` draws such parameters anew, and narfx's own
``randomise_norms`` gives BatchNorm random affines and statistics under which the output depends on the image.
"""

from __future__ import annotations

import contextlib
import gc
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, fx, nn

import narfx
from narfx.bundle.onnx.write import compare_onnx, export_onnx, tensors
from narfx.bundle.proof.parity import NORM_IMAGES, TOLERANCE, randomise_norms, signal
from narfx.compiler.supernet import Supernet
from narfx.errors import NarfxError, NothingToRefineError
from narfx.graph.copying import copy_module, copy_to_meta
from narfx.graph.tracing import trace_graph
from narfx.inputs.model_ref import default_input, load_model
from narfx.space.sampling import FeasibleSampler
from narfx.support.seeds import derive, numpy_generator, torch_generator
from narfx.support.text import first_line

Row = dict[str, Any]
Shape = tuple[int, int, int]
M = TypeVar("M", bound=nn.Module)
SIDES = (64, 128, 224, 256, 320)
BATCH = 4
ROUNDS, COST_SECONDS = 5, 1.0  # a round more is begun only within this time
DETECTION_SIDE = 128


def examine(model: str, group: str, *, onnx: bool) -> Iterator[Row]:
    """What is found, key by key; ``stage`` names the step under way, so that a process that dies has said where."""
    yield {"stage": "build"}
    whole = load_model(model, seed=derive(0, "coverage", model))
    wake(whole)
    subject = cast(nn.Module, whole.eval().backbone) if group == "detection" else whole.eval()
    yield {"params": sum(p.numel() for p in subject.parameters())}
    shape = smallest_input(subject, model)
    norm_images = images(model, shape, NORM_IMAGES)
    subject = randomise_norms(subject, norm_images)
    x = norm_images[:BATCH]
    base = outputs(subject, x)
    yield {"side": shape[-1], "signal": signal(base)}

    yield {"stage": "trace"}
    found, opaque, graph_module = traced_or_graph(subject, shape)
    yield {"traced": True, "opaque": opaque, "nodes": len(graph_module.graph.nodes)}
    yield {"exact": equal(base, outputs(graph_module, x))}
    if isinstance(found, NothingToRefineError):
        yield {"sites": 0, "slots": 0, "nothing": str(found), "keys": keys_differ(subject, graph_module)}
        lowered = graph_module
    else:
        yield {"sites": sum(len(slot.sites) for slot in found.space.slots), "slots": len(found.space.slots)}
        yield {"stage": "supernet"}
        net = Supernet(found).eval()
        yield {"base_equal": equal(base, outputs(net, x))}
        yield {"stage": "lower"}
        yield {"keys": keys_differ(subject, narfx.lower(net, found.space.base))}
        vector = FeasibleSampler(found.space).draw(numpy_generator(0, "coverage", model))
        yield {"changed": sum(entry != 0 for entry in vector)}
        lowered = narfx.lower(net, vector)
        net.set_vector(vector)
        yield {"lowered": True, "lowered_equal": equal(outputs(net, x), outputs(lowered, x))}
        del net
    yield {"stage": "cost"}
    yield cost(subject, shape, None if isinstance(found, NothingToRefineError) else vector)
    del found
    if group == "detection":
        yield {"stage": "detect"}
        yield {"detects": detects(whole, lowered)}
    if onnx:
        yield {"stage": "onnx"}
        yield from parity(subject, lowered, shape, norm_images)
    yield {"stage": "done"}


def wake(network: nn.Module) -> None:
    """Draw every parameter whose entries are all equal anew, in place: zero biases, layer scales, skip gains."""
    generator = torch_generator(0, "coverage", "wake")
    with torch.no_grad():
        for parameter in network.parameters():
            if not (parameter.is_floating_point() and parameter.numel()):
                continue
            value = float(parameter.view(-1)[0])
            if bool((parameter == value).all()):
                low, high = (-0.2, 0.2) if value == 0 else (0.1, 0.5) if abs(value) < 0.1 else (0.5, 1.5)
                parameter.uniform_(low, high, generator=generator).mul_(value if abs(value) >= 0.1 else 1)


@torch.no_grad()
def smallest_input(network: nn.Module, model: str) -> Shape:
    """The first of :data:`SIDES` that the network accepts, else its own input."""
    own = default_input(model)
    channels = own[0] if own else 3
    sides = [side for side in SIDES if own is None or side < own[-1]] + ([own[-1]] if own else [])
    for side in sides[:-1]:
        with contextlib.suppress(Exception), torch.no_grad():
            network(torch.zeros(2, channels, side, side))
            return channels, side, side
    return channels, sides[-1], sides[-1]


def images(model: str, shape: Shape, batch: int) -> Tensor:
    """Random images, the same ones at every run."""
    return torch.randn(batch, *shape, generator=torch_generator(0, "coverage", model, "images"))


@torch.no_grad()
def outputs(network: nn.Module, x: Tensor) -> list[Tensor]:
    """The tensors that the network gives, in one order."""
    return tensors(network(x))


def equal(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """Whether tensors are bit-identical; NaN equals nothing."""
    return len(ours) == len(theirs) and all(map(torch.equal, ours, theirs))


def traced_or_graph(
    subject: nn.Module, shape: Shape
) -> tuple[narfx.Traced | NothingToRefineError, list[str], fx.GraphModule]:
    """What ``narfx.trace`` gives; where there is nothing to refine, the bare trace of the network."""
    try:
        traced = narfx.trace(subject, input=shape)
    except NothingToRefineError as error:
        trace = trace_graph(subject)
        return error, [skipped.name for skipped in trace.opaque], trace.graph_module
    opaque = [skipped.name for skipped in traced.skipped if skipped.code == "untraceable"]
    return traced, opaque, traced.graph_module


def keys_differ(base: nn.Module, network: nn.Module) -> list[str]:
    """The state-dict keys that only one of two networks has, in order; none is what is promised."""
    return sorted(set(base.state_dict()) ^ set(network.state_dict()))


def cost(subject: nn.Module, shape: Shape, vector: Any) -> Row:
    """The time of the passes: with the weights, and on the meta device, where only the graph work remains."""
    found = times(subject, shape, vector)
    try:
        graph = times(copy_to_meta(subject), shape, vector)
    except Exception as error:  # a leaf that looks at values
        graph = {"no_ratio": f"not on the meta device: {type(error).__name__}"}
    return {**found, "graph_ratio": graph.get("ratio"), "graph_seconds": graph.get("seconds")}


def times(subject: nn.Module, shape: Shape, vector: Any) -> Row:
    """Processor seconds of the passes and of ``symbolic_trace``, medians of rounds in one process, and their ratio."""

    def trace() -> Any:
        with contextlib.suppress(NothingToRefineError):
            return narfx.trace(subject, input=shape)

    taken: dict[str, list[float]] = {"symbolic_trace": [], "trace": [], "supernet": [], "lower": []}
    start = time.process_time()
    while len(taken["trace"]) < ROUNDS and time.process_time() - start < COST_SECONDS:
        model = copy_module(subject)  # a model that caches what it computes keeps the proxies of a trace
        try:
            timed(taken["symbolic_trace"], partial(fx.symbolic_trace, model))
        except Exception as error:
            return {"ratio": None, "no_ratio": f"symbolic_trace raises {type(error).__name__}"}
        del model
        found = timed(taken["trace"], trace)
        if vector is not None:
            net = timed(taken["supernet"], partial(Supernet, found))
            timed(taken["lower"], partial(narfx.lower, net, vector))
            del net
        del found
    seconds = {name: statistics.median(values) for name, values in taken.items() if values}
    rest = sum(value for name, value in seconds.items() if name != "symbolic_trace")
    return {"ratio": rest / seconds["symbolic_trace"], "seconds": {k: round(v, 4) for k, v in seconds.items()}}


def timed(into: list[float], call: Callable[[], Any]) -> Any:
    """The result of a call; its CPU seconds are appended."""
    gc.collect()
    start = time.process_time()
    result = call()
    into.append(time.process_time() - start)
    return result


@torch.no_grad()
def detects(whole: nn.Module, backbone: nn.Module) -> bool:
    """Put the refined backbone back into a detection model and run the whole once, on small images."""
    whole.backbone = backbone
    transform: Any = whole.transform
    transform.min_size, transform.max_size = (DETECTION_SIDE,), DETECTION_SIDE
    found: Any = whole(list(images("detection", (3, DETECTION_SIDE, DETECTION_SIDE), 2)))
    return len(found) == 2 and all("boxes" in one for one in found)


def parity(subject: nn.Module, lowered: fx.GraphModule, shape: Shape, x: Tensor) -> Iterator[Row]:
    """The lowered network in onnxruntime; where that fails, whether the base itself does better."""
    ready = randomise_norms(lowered, x)
    yield {"onnx_signal": signal(outputs(ready, x[:BATCH]))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lowered.onnx"
        start = time.process_time()
        try:
            export_onnx(ready, shape, path)
            error = compare_onnx(ready, path, shape, batch_sizes=(1, 2, 5)).max_rel_error
            problem = None if error <= TOLERANCE else {"code": "parity", "reason": f"the relative error is {error:.1e}"}
            yield {"onnx_error": error if error < float("inf") else None}
        except NarfxError as refusal:
            problem = {"code": refusal.kind, "reason": str(refusal)}
        yield {"onnx": problem is None, "onnx_seconds": round(time.process_time() - start, 1)}
        if problem is not None:
            yield {"onnx_problem": problem, "stage": "onnx of the base"}
            yield {"rounding": rounding(ready, x[:BATCH]), **base_parity(subject, shape, Path(folder) / "base.onnx")}


def rounding(network: nn.Module, x: Tensor) -> float | None:
    """How far float32 itself is from float64 in this network: a parity error of that size is no error."""
    single = outputs(network, x)
    try:
        double = outputs(network.double(), x.double())
    except Exception:
        return None
    value = max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(single, double, strict=True))
    return value if value < float("inf") else None


def base_parity(subject: nn.Module, shape: Shape, path: Path) -> Row:
    """Whether torch exports the user's own model as it is, and how far onnxruntime is from it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                subject, (torch.zeros(2, *shape),), str(path), dynamo=True, dynamic_shapes=({0: "batch"},),
                external_data=False, verbose=False,
            )  # fmt: skip
        error = compare_onnx(subject, path, shape, batch_sizes=(1, 2, 5)).max_rel_error
    except Exception as failure:
        return {"base_onnx": False, "base_problem": first_line(failure)}
    return {"base_onnx": error <= TOLERANCE, "base_error": error if error < float("inf") else None}
