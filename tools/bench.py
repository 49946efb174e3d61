"""What dispatching costs: ratios measured in one process, not absolute times.

Each number is the median, over many rounds, of the time that one thing takes over the time that another takes in the
same round; the two take turns at going first, so that a drift of the machine falls on both. The quartiles show how
much rounds vary. One row measures the plain network against a copy of itself: the error of the method.

    OMP_NUM_THREADS=1 python tools/bench.py
    python tools/bench.py --check        # exit code 1 where a promise is broken

Times in milliseconds are printed for information only: they are those of this machine at that moment.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from bench_latency import QUICK_TIMED, TIMED, latency_rows
from bench_memory import KEPT, QUICK_KEPT, memory_seconds
from bench_mixture import MIXED, QUICK_MIXED, Place, mixture_calls
from bench_operators import OPERATORS, SITES, operator_ratios
from bench_prefixes import DECIDED, LOTS, drawn, prefix_calls
from bench_ratios import Ratio, compare, measure, ratio_of, seconds_of
from bench_step import QUICK_STEPPED, STEPPED, step_calls
from bench_verbs import APPLIED, QUICK_APPLIED, Shape, apply_calls, help_seconds
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, fx, nn

import narfx
from narfx.compiler.front_end import Traced, trace
from narfx.compiler.lowering import lower
from narfx.compiler.supernet import Supernet
from narfx.inputs.model_ref import load_model
from narfx.runs.progress import ConsoleProgress
from narfx.space.sampling import FeasibleSampler
from narfx.support.freed_memory import keep_freed_memory
from narfx.support.seeds import numpy_generator
from narfx.training.method import sgd
from narfx.training.recipe import Recipe

MODEL, QUICK_MODEL, INPUT = "torchvision:resnet18", "narfx:resnet8", (3, 32, 32)
SHARED = "narfx:resnet20"


def forward_ratios(plain: nn.Module, net: Supernet, rounds: int) -> Iterator[Ratio]:
    """A forward pass with every site dispatched, in eval mode without gradients, over the plain network's."""
    for batch in (1, 16):
        x = torch.randn(batch, *INPUT, generator=torch.Generator().manual_seed(0))
        shape = "x".join(map(str, x.shape))
        call = partial(_forward, x=x)
        yield compare(f"forward, {shape}: supernet / plain", plain, net, call, rounds, 1.03)
        yield compare(f"forward, {shape}: plain / its copy", plain, plain, call, rounds)


def _forward(module: nn.Module, x: Tensor) -> Callable[[], Tensor]:
    module.eval()

    @torch.inference_mode()
    def call() -> Tensor:
        output: Tensor = module(x)
        return output

    return call


def step_ratios(plain: nn.Module, net: Supernet, rounds: int, batch: int = 16) -> Iterator[Ratio]:
    """A training step by SGD with Nesterov momentum and weight decay, the supernet at the base vector."""
    x = torch.randn(batch, *INPUT, generator=torch.Generator().manual_seed(1))
    call = partial(_step, x=x.contiguous(memory_format=torch.channels_last), y=torch.arange(batch) % 10)
    yield compare(f"training step, batch {batch}: supernet / plain", plain, net, call, rounds, 1.03)
    yield compare(f"training step, batch {batch}: plain / its copy", plain, plain, call, rounds)


def _step(module: nn.Module, x: Tensor, y: Tensor) -> Callable[[], None]:
    """As :func:`narfx.training.fit.train_step`, on one batch."""
    module.train().to(memory_format=torch.channels_last)
    optimizer = sgd(module, Recipe(lr=1e-4))
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss: Tensor = nn.functional.cross_entropy(module(x), y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in parameters if p.grad is not None], 5.0)
        optimizer.step()

    return step


def search_step_ratios(models: Mapping[str, Shape], rounds: int) -> Iterator[Ratio]:
    """A step of a search on the shared weights, batch 64, over the same step of a loop written by hand."""
    for model, shape in models.items():
        hand, own = step_calls(model, shape)
        by_hand, taken = measure({"hand": hand, "own": own}, rounds)
        yield ratio_of(f"search step / by hand, {model}", by_hand, taken, 1.05)


def latency_ratios(model: str, shape: Shape) -> Iterator[Ratio]:
    """Networks timed whole over their base: where MACs mislead, a budget on latency does not."""
    for name, bound, share, quartiles, times in latency_rows(model, shape):
        yield Ratio(name, share, quartiles, *times, bound)


def compiler_ratios(model: nn.Module, traced: Traced, net: Supernet, rounds: int) -> list[Ratio]:
    """What the compiler takes over ``torch.fx.symbolic_trace`` of the same model, whole and by its parts."""
    vector = FeasibleSampler(traced.space).draw(numpy_generator(0, "bench"))

    def whole() -> object:
        found = trace(model, input=INPUT)
        return lower(Supernet(found), vector)

    calls: dict[str, Callable[[], object]] = {
        "symbolic_trace": lambda: fx.symbolic_trace(model),
        "trace, space, supernet, lowering": whole,
        "trace and space": lambda: trace(model, input=INPUT),
        "supernet": lambda: Supernet(traced),
        "lowering": lambda: lower(net, vector),
        "copy of the weights (deepcopy)": lambda: copy.deepcopy(model),
    }
    baseline, *others = measure(calls, rounds)
    names = [f"{name} / symbolic_trace" for name in list(calls)[1:]]
    return [ratio_of(name, baseline, taken) for name, taken in zip(names, others, strict=True)]


def set_vector_ratio(plain: nn.Module, net: Supernet, rounds: int) -> Ratio:
    """Setting a vector, another one each time, over one forward pass of one small image."""
    sampler, rng = FeasibleSampler(net.space), numpy_generator(0, "bench")
    vectors = [sampler.draw(rng) for _ in range(64)]
    count = itertools.count()
    calls: dict[str, Callable[[], object]] = {
        "forward": _forward(plain, torch.zeros(1, *INPUT)),
        "set_vector": lambda: net.set_vector(vectors[next(count) % len(vectors)]),
    }
    forward, setting = measure(calls, rounds)
    net.set_vector(net.space.base)
    return ratio_of("set_vector / forward of one image", forward, setting)


def mixture_ratios(places: Mapping[str, Place], rounds: int) -> Iterator[Ratio]:
    """Forward and backward of a mixture at each place, batch 16, over its candidates alone.

    The candidates run one after another, as in the mixture. A second row has the sum of each one repeated by itself,
    which finds its tensors in the cache.
    """
    for name, place in places.items():
        alone, mixed = mixture_calls(place)
        in_turn, taken = measure({"in turn": partial(_one_by_one, alone), "mixture": mixed}, rounds)
        yield ratio_of(f"mixture / its candidates in turn, {name}", in_turn, taken, 1.10)
        *each, taken = measure({**{str(index): call for index, call in enumerate(alone)}, "mixture": mixed}, rounds)
        yield ratio_of(f"mixture / its candidates, each repeated, {name}", np.sum(each, axis=0).tolist(), taken)


def _one_by_one(calls: Sequence[Callable[[], object]]) -> None:
    for call in calls:
        call()


def prefix_ratios(net: Supernet, lots: Sequence[int], rounds: int) -> Iterator[Ratio]:
    """The rewards of distinct vectors with common beginnings computed once, over one forward pass each, batch 64.

    Nine tenths of the gain that the MACs of distinct values allow is promised.
    """
    net = copy.deepcopy(net).to(memory_format=torch.channels_last)
    x = torch.randn(64, *INPUT, generator=torch.Generator().manual_seed(0))
    for name, decided in DECIDED.items():
        for lot in lots:
            vectors = drawn(net.space, lot, decided)
            alone, shared, macs = prefix_calls(net, vectors, x.contiguous(memory_format=torch.channels_last))
            one, other = measure({"alone": alone, "shared": shared}, rounds)
            yield ratio_of(
                f"rewards of {lot}, {name}: shared / alone (MACs {1 / macs:.3f})", one, other, 1 / (0.9 * macs)
            )


def verb_ratios(models: dict[str, Shape], rounds: int) -> Iterator[Ratio]:
    """``narfx --help`` over ``import torch``, and ``apply`` over one export of the same network to a file."""
    yield ratio_of("narfx --help / import torch", *help_seconds(rounds))
    for model, export, apply in apply_calls(models):
        export(), apply()  # the first call of each imports its modules
        pairs = [(seconds_of(export, 1), seconds_of(apply, 1)) for _ in range(rounds)]
        baseline, taken = zip(*pairs, strict=True)
        yield ratio_of(f"apply / torch.onnx.export, {model}", baseline, taken)


def environment() -> dict[str, Any]:
    """The environment that a ratio may depend on: versions and machine."""
    import onnxruntime

    return {
        "threads": torch.get_num_threads(),
        "clock": "processor time" if torch.get_num_threads() == 1 else "wall time",
        "cpus": os.cpu_count(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "onnxruntime": onnxruntime.__version__,
        "narfx": narfx.__version__,
    }


def run(rounds: int, quick: bool) -> dict[str, Any]:
    """All measurements; ``quick`` takes a small network, one site and three operators."""
    news = ConsoleProgress()
    model = QUICK_MODEL if quick else MODEL
    plain = load_model(model).eval()
    traced = trace(plain, input=INPUT)
    net = Supernet(traced)
    news.say("forward")
    ratios = list(forward_ratios(plain, net, rounds))
    news.say("compiler")
    some = min(max(rounds // 4, 3), rounds)  # a round takes half a second
    few = min(max(rounds // 10, 3), rounds)  # and here a second
    ratios += [*compiler_ratios(plain, traced, net, few), set_vector_ratio(plain, net, rounds)]
    news.say("training step")
    ratios += step_ratios(plain, net, some)
    news.say("search step")
    ratios += search_step_ratios(QUICK_STEPPED if quick else STEPPED, max(rounds // 4, 3))
    news.say("latency")
    ratios += latency_ratios(*(QUICK_TIMED if quick else TIMED))
    news.say("mixtures")
    ratios += mixture_ratios(QUICK_MIXED if quick else MIXED, some)
    news.say("common beginnings")
    shared = net if quick else Supernet(trace(load_model(SHARED), input=INPUT))
    ratios += prefix_ratios(shared, LOTS[:1] if quick else LOTS, min(few, 3))
    news.say("verbs")
    ratios += verb_ratios(QUICK_APPLIED if quick else APPLIED, min(few, 3))
    news.say("memory of freed tensors")
    kept = memory_seconds(QUICK_KEPT if quick else KEPT, 1 if quick else 5)
    ratios += [ratio_of(f"freed memory kept / given back, {name}", one, other) for name, one, other in kept]
    sites = list(SITES)[-1:] if quick else list(SITES)
    rows = []
    for site in sites:
        news.say(f"onnxruntime: {site}")
        rows += operator_ratios(site, OPERATORS[:3] if quick else OPERATORS, rounds)
    return {
        "environment": environment() | {"model": model},
        "rounds": rounds,
        "ratios": [ratio.to_json() for ratio in ratios],
        "operators": rows,
    }


def show(result: dict[str, Any]) -> None:
    """The tables, in Markdown."""
    console = Console(width=200, highlight=False)
    console.print(", ".join(f"{key} {value}" for key, value in result["environment"].items()))
    table = Table(box=box.MARKDOWN)
    for name in ("what", "ratio", "quartiles", "promised", "kept", "for information, ms"):
        table.add_column(name, justify="left" if name == "what" else "right")
    for row in result["ratios"]:
        promise = "" if row["bound"] is None else f"≤ {row['bound']:.2f}"
        kept = {None: "", True: "yes", False: "NO"}[row["kept"]]
        table.add_row(row["name"], *_numbers(row), promise, kept, _times(row))
    console.print(table)
    console.print(
        "\nonnxruntime, batch 1, the operator followed by BatchNorm and ReLU, relative to the base convolution\n"
    )
    table = Table(box=box.MARKDOWN)
    for name in ("site", "operator", "latency ratio", "quartiles", "MACs ratio", "for information, ms"):
        table.add_column(name, justify="left" if name in ("site", "operator") else "right")
    for row in result["operators"]:
        table.add_row(row["site"], row["operator"], *_numbers(row), f"{row['macs_ratio']:.2f}", _times(row))
    console.print(table)


def _numbers(row: dict[str, Any]) -> tuple[str, str]:
    digits = 4 if row["ratio"] < 0.1 else 3 if row["ratio"] < 10 else 1
    low, high = row["quartiles"]
    return f"{row['ratio']:.{digits}f}", f"{low:.{digits}f} to {high:.{digits}f}"


def _times(row: dict[str, Any]) -> str:
    return f"{row['measured_ms']:.3g} / {row['baseline_ms']:.3g}"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Ratios of what dispatching costs, measured in one process.")
    parser.add_argument("--rounds", type=int, help="rounds of each measurement (200; 5 with --quick)")
    parser.add_argument("--quick", action="store_true", help="few rounds of a small network: does it run?")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--check", action="store_true", help="exit code 1 where a promise is broken")
    options = parser.parse_args(arguments)
    keep_freed_memory()  # as a command of narfx does
    rounds = options.rounds or (5 if options.quick else 200)
    if rounds < 1:
        parser.error(f"--rounds is {rounds}: it is at least 1")
    if options.check and options.quick:
        parser.error("--check is about ResNet-18 and many rounds: leave --quick out")
    result = run(rounds, options.quick)
    if options.json:
        print(json.dumps(result, indent=2, allow_nan=False))
    else:
        show(result)
    return int(options.check and any(row["kept"] is False for row in result["ratios"]))


if __name__ == "__main__":
    sys.exit(main())
