"""The share of a search that its evaluations at the end take, in processor time and as it is counted in advance.

    OMP_NUM_THREADS=1 python tools/evaluation_share.py --data cifar10.npz --fraction 0.1

Each search has the default options of its kind, on a part of the training images and with fewer epochs for ``nar``.
The times are of one process with one thread, so that the turns of other processes are not counted.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from narfx.inputs.model_ref import load_model
from narfx.inputs.weights import write_weights
from narfx.runs.events import Event, Saved
from narfx.search import SearchConfig, run
from narfx.search.effort import Effort, passes_of_evaluations, passes_of_search
from narfx.search.prepared import prepare
from narfx.search.stages import stages_of


def share(config: SearchConfig, out: Path) -> tuple[float, float, Effort]:
    """Of one search: the share in time from the last checkpoint on, the share that was counted, and the images."""
    ended = [time.process_time()]

    def note(event: Event) -> None:
        if isinstance(event, Saved):
            ended.append(time.process_time())

    run(config, out, subscribers=[note])
    now = time.process_time()
    taken = (now - ended[-1]) / (now - ended[1])  # from the first checkpoint on, before any step
    prepared = prepare(config, stages_of(config), "cpu", None)
    effort = Effort.of(config, prepared.task, prepared.traced.space)
    end = passes_of_evaluations(config, prepared.task, effort)
    counted = end / (end + passes_of_search(config, prepared.task, prepared.traced.space))
    return taken, counted, effort


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", required=True, help="as for narfx search")
    parser.add_argument("--model", default="narfx:resnet_cifar?depth=8&width=8", help="the base [%(default)s]")
    parser.add_argument("--fraction", type=float, default=0.1, help="the part of the training images [%(default)s]")
    parser.add_argument("--epochs", type=int, default=6, help="of nar [%(default)s]")
    parser.add_argument("--limits", type=float, nargs="+", default=[0.1, 1.0], help="evaluation shares [0.1 1]")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "base.safetensors"
        write_weights(load_model(options.model), weights)
        common: dict[str, Any] = {"model": options.model, "data": options.data, "data_fraction": options.fraction}
        kinds: dict[str, dict[str, Any]] = {
            "nar": {"strategy": "nar", "epochs": options.epochs},
            "solve": {"weights": str(weights)},
            "quick nar": {"strategy": "nar", "quick": True},
        }
        for name, fields in kinds.items():
            for limit in options.limits:
                config = SearchConfig(**common, **fields, evaluation_share=limit)
                taken, counted, effort = share(config, Path(folder) / f"{name} {limit}")
                print(f"| {name} | {limit} | {effort} | {counted:.3f} | {taken:.3f} |", flush=True)


if __name__ == "__main__":
    main()
