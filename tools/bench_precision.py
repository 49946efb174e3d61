"""What bfloat16 saves, and what ``torch.compile`` of the candidates would: ratios measured in one process.

Each number is the median, over rounds, of the processor time of one call over that of its baseline in the same round.
The calls are narfx's own: a step of shared weights (one random vector after another), the rewards of five vectors on
one minibatch, a training step of the base, its forward pass, and each operator alone at two sites.

    OMP_NUM_THREADS=1 python tools/bench_precision.py
    OMP_NUM_THREADS=1 python tools/bench_precision.py --compile        # needs a C++ compiler

Compiled are the operators at the sites, each alone, and not the supernet, which torch would compile anew for every
vector. Their first calls, in which torch compiles them, are timed apart.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator

import torch
from bench import environment
from bench_ratios import Ratio, measure, ratio_of
from torch import Tensor, nn
from torch.nn import functional

from narfx.compiler.front_end import trace
from narfx.compiler.lowering import lower
from narfx.compiler.prefixes import Prefixes
from narfx.compiler.supernet import Supernet
from narfx.graph.batchnorm import batch_statistics
from narfx.inputs.model_ref import load_model
from narfx.operators.dispatch import Dispatch
from narfx.space.records import Site, Vector
from narfx.space.sampling import FeasibleSampler
from narfx.support.devices import bf16_instructions
from narfx.support.seeds import numpy_generator
from narfx.tasks.precision import Precision
from narfx.training.fit import train_step
from narfx.training.method import sgd
from narfx.training.recipe import Recipe

MODELS = ("narfx:resnet20", "narfx:resnet18_cifar")
INPUT = (3, 32, 32)
FORMATS = {"fp32": Precision("fp32"), "bf16": Precision("bf16")}
VECTORS = 8  # of the shared weights' steps, one after another
PROPOSALS, REWARD_IMAGES = 5, 256
Call = Callable[[], object]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS, help="bases, as for narfx trace")
    parser.add_argument("--batch", type=int, default=128, help="images of a step")
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each measurement")
    parser.add_argument("--compile", action="store_true", help="measure compiled candidates instead")
    given = parser.parse_args()
    print({**environment(), "bf16 instructions": bf16_instructions()}, file=sys.stderr)
    print("| network | what | ratio | quartiles | ms |\n| --- | --- | ---: | ---: | ---: |")
    measured = compiled if given.compile else formats
    for model in given.models:
        net = Supernet(trace(load_model(model, seed=0), input=INPUT))
        for ratio in measured(net, given.batch, given.rounds):
            low, high = ratio.quartiles
            print(
                f"| {model.partition(':')[2]} | {ratio.name} | {ratio.median:.2f} | {low:.2f} to {high:.2f} | "
                f"{ratio.measured_ms:.3g} / {ratio.baseline_ms:.3g} |",
                flush=True,
            )


def formats(net: Supernet, batch: int, rounds: int) -> Iterator[Ratio]:
    """The times in bfloat16 over those in float32."""
    for name, make in {"shared-weight step": steps, "rewards": rewards, "training step": training, "forward": forward,
                       **operator_calls(net)}.items():  # fmt: skip
        fp32, bf16 = measure({key: make(copy.deepcopy(net), precision, batch) for key, precision in FORMATS.items()},
                             rounds)  # fmt: skip
        yield ratio_of(f"{name}: bf16 / fp32", fp32, bf16)


def compiled(net: Supernet, batch: int, rounds: int) -> Iterator[Ratio]:
    """The times with compiled candidates over those without, in both formats; what compiling takes is told apart."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise SystemExit("torch.compile needs a C++ compiler here, and there is none")
    torch._dynamo.config.recompile_limit = 10_000  # one piece of code has many modules and shapes
    for key, precision in FORMATS.items():
        for name, make in {"shared-weight step": steps, "forward of its vectors": forwards}.items():
            torch._dynamo.reset()
            eager, other = copy.deepcopy(net), copy.deepcopy(net)
            candidates = compile_candidates(other)
            calls = {"eager": make(eager, precision, batch), "compiled": make(other, precision, batch)}
            start = sum(os.times()[:4])  # with the processes that compile C++
            for _ in range(VECTORS):
                calls["compiled"]()
            first = sum(os.times()[:4]) - start
            one, two = measure(calls, rounds)
            spent = first - VECTORS * sum(two) / len(two)
            print(f"{key}, {name}: {spent:.0f} s to compile {candidates} candidates (those that {VECTORS} vectors "
                  "use)", file=sys.stderr)  # fmt: skip
            yield ratio_of(f"{key}, {name}: compiled / eager candidates", one, two)


def compile_candidates(net: Supernet) -> int:
    """Compile every operator at every site in place; returns how many."""
    made = 0
    for node in net.modules():
        if isinstance(node, Dispatch):
            for module in node.candidates.values():
                module.compile(dynamic=False)
                made += 1
    return made


def images(batch: int) -> Tensor:
    """Random images, stored as training stores them."""
    x = torch.randn(batch, *INPUT, generator=torch.Generator().manual_seed(0))
    return x.contiguous(memory_format=torch.channels_last)


def stepping(module: nn.Module, precision: Precision, batch: int) -> Call:
    """A training step as a run makes it."""
    precision.arrange(module)
    module.train()
    optimizer, x, labels = sgd(module, Recipe(lr=1e-4)), images(batch), torch.arange(batch) % 10

    def loss(network: nn.Module, x: Tensor, y: Tensor, /) -> Tensor:
        return functional.cross_entropy(precision.train(network, x), y)

    return lambda: train_step(module, optimizer, loss, x, labels, 5.0)


def drawn(net: Supernet, number: int) -> list[Vector]:
    """Uniform random vectors."""
    sampler, rng = FeasibleSampler(net.space), numpy_generator(0, "precision")
    return [sampler.draw(rng) for _ in range(number)]


def steps(net: Supernet, precision: Precision, batch: int) -> Call:
    """Steps of shared weights, each for another vector."""
    vectors, step = itertools.cycle(drawn(net, VECTORS)), stepping(net, precision, batch)

    def call() -> None:
        net.set_vector(next(vectors))
        step()

    return call


def training(net: Supernet, precision: Precision, batch: int) -> Call:
    """Steps of the base alone."""
    return stepping(lower(net, net.space.base), precision, batch)


def rewards(net: Supernet, precision: Precision, batch: int) -> Call:
    """Forward passes of five vectors on one minibatch, with its statistics and their common beginnings."""
    precision.arrange(net)
    prefixes, vectors, x = Prefixes(net), drawn(net, PROPOSALS), images(REWARD_IMAGES)

    @torch.inference_mode()
    def call() -> None:
        with batch_statistics(net):
            for _ in prefixes.over(vectors, len(x)):
                precision.apply(prefixes, x)

    return call


def forward(net: Supernet, precision: Precision, batch: int) -> Call:
    """Forward passes of the base in eval mode."""
    network, x = lower(net, net.space.base).eval(), images(batch)
    precision.arrange(network)
    return torch.inference_mode()(lambda: precision.apply(network, x))


def forwards(net: Supernet, precision: Precision, batch: int) -> Call:
    """Forward passes of the supernet, each of another vector, in eval mode."""
    precision.arrange(net.eval())
    vectors, x = itertools.cycle(drawn(net, VECTORS)), images(batch)

    @torch.inference_mode()
    def call() -> None:
        net.set_vector(next(vectors))
        precision.apply(net, x)

    return call


def operator_calls(net: Supernet) -> dict[str, Callable[[Supernet, Precision, int], Call]]:
    """Forward and backward of each operator alone, at the first site and at the one with the most channels."""
    sites = [slot.sites[0] for slot in net.space.slots]
    wide = max(range(len(sites)), key=lambda index: sites[index].output_shape[0])
    return {
        f"{name} at {sites[index].name}": operator_call(index, name)
        for index in dict.fromkeys((0, wide))
        for name in (net.space.slots[index].choices[k] for k in net.space.slots[index].legal)
    }


def operator_call(slot: int, name: str) -> Callable[[Supernet, Precision, int], Call]:
    def make(net: Supernet, precision: Precision, batch: int) -> Call:
        precision.arrange(net)
        (node, *_), site = tuple(net.dispatches([slot])), net.space.slots[slot].sites[0]
        assert isinstance(site, Site)
        x = torch.randn(batch, *site.input_shape, generator=torch.Generator().manual_seed(0))
        dtype = torch.bfloat16 if precision.name == "bf16" else torch.float32  # what the layer before gives
        x = x.to(dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
        gradient = torch.ones(batch, *site.output_shape).to(dtype).contiguous(memory_format=torch.channels_last)

        def call() -> None:
            node.zero_grad(set_to_none=True)
            x.grad = None
            with precision.autocast():
                output = node.compute(name, x)
            output.backward(gradient)

        return call

    return make


if __name__ == "__main__":
    main()
