"""How the compiler's time grows with the graph: trace, space, supernet and lowering against ``symbolic_trace``.

Residual networks of four channels and growing depth, so that the work on the graph is measured and not that on
weights; each ratio is of one process, in processor time, the median of a few rounds. The exponent is the slope of the
logarithm of time over that of nodes: 1 is linear.

    OMP_NUM_THREADS=1 python tools/scaling.py
    python tools/scaling.py --check        # exit code 1 where a promise is broken
"""

from __future__ import annotations

import argparse
import gc
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, fx, nn

import narfx

BLOCKS, QUICK = (16, 64, 256, 1424), (2, 4)
RATIO, EXPONENT = 10.0, 1.15


class Net(nn.Module):
    """Residual blocks of two convolutions: seven nodes each."""

    def __init__(self, blocks: int, channels: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(*(layer for _ in range(2) for layer in _layers(channels))) for _ in range(blocks)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, 3, H, W) to (N, channels, H, W)."""
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return x


def _layers(channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.ReLU()]


def measure(blocks: int, granularity: str, rounds: int) -> dict[str, Any]:
    """Seconds of each step and their sum over ``symbolic_trace``, medians over rounds."""
    model = Net(blocks).eval()
    taken: dict[str, list[float]] = {}

    def clocked(name: str, call: Callable[[], Any]) -> Any:
        gc.collect()
        start = time.process_time()
        result = call()
        taken.setdefault(name, []).append(time.process_time() - start)
        return result

    nodes = 0
    for _ in range(rounds):
        nodes = len(clocked("symbolic_trace", partial(fx.symbolic_trace, model)).graph.nodes)
        traced = clocked("trace", partial(narfx.trace, model, input=(3, 8, 8), granularity=granularity))
        net = clocked("supernet", partial(narfx.Supernet, traced))
        vector = [slot.legal[index % len(slot.legal)] for index, slot in enumerate(traced.space.slots)]
        clocked("lower", partial(narfx.lower, net, vector))
    seconds = {name: statistics.median(values) for name, values in taken.items()}
    total = sum(seconds.values()) - seconds["symbolic_trace"]
    return {
        "nodes": nodes,
        "granularity": granularity,
        "seconds": seconds,
        "total": total,
        "ratio": total / seconds["symbolic_trace"],
    }


def run(blocks: Sequence[int], rounds: int) -> dict[str, Any]:
    """All sizes at both granularities, and the exponent of each step's growth over the larger half of the sizes."""
    measure(blocks[0], "conv", 1)  # warms up
    rows = [measure(size, granularity, rounds) for granularity in ("conv", "block") for size in blocks]
    exponents = {}
    for granularity in ("conv", "block"):
        of = [row for row in rows if row["granularity"] == granularity]
        first, last = of[len(of) // 2 - 1], of[-1]
        grown = math.log(last["nodes"] / first["nodes"])
        exponents[granularity] = math.log(last["total"] / first["total"]) / grown
    return {
        "torch": torch.__version__,
        "rounds": rounds,
        "rows": rows,
        "exponents": exponents,
        "kept": all(row["ratio"] <= RATIO for row in rows) and max(exponents.values()) <= EXPONENT,
    }


def show(result: dict[str, Any], console: Console) -> None:
    """A table for people."""
    table = Table("nodes", "slots", "trace", "supernet", "lower", "all over symbolic_trace", box=box.SIMPLE)
    for row in result["rows"]:
        base = row["seconds"]["symbolic_trace"]
        steps = [f"{row['seconds'][name] / base:.1f}" for name in ("trace", "supernet", "lower")]
        table.add_row(f"{row['nodes']:,}", row["granularity"], *steps, f"{row['ratio']:.1f}")
    console.print(table)
    for granularity, exponent in result["exponents"].items():
        console.print(f"time grows with the number of nodes to the power of {exponent:.2f} ({granularity})")


def main(arguments: Sequence[str] | None = None) -> int:
    """The tool."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each size (3)")
    parser.add_argument("--quick", action="store_true", help="small networks once: does it run?")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    parser.add_argument("--check", action="store_true", help="exit code 1 where a promise is broken")
    given = parser.parse_args(arguments)
    result = run(QUICK, 1) if given.quick else run(BLOCKS, given.rounds)
    if given.json:
        print(json.dumps(result, indent=2))
    else:
        show(result, Console())
    return 1 if given.check and not result["kept"] else 0


if __name__ == "__main__":
    sys.exit(main())
