"""Face networks on LFW: base, refined by NAR with and without pre-training, and random vectors of equal MACs.

usage: lfw_run.py --faces lfw_train112.tar --pairs lfw_small.bin [--out runs/lfw] [--seeds 2] [--randoms 2]
Each step is one command of narfx, in a process of its own and printed as it would be typed. Finished steps are not
run again, so the same command continues a stopped run, and more seeds can be added later.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import shlex
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from narfx.compiler.open import open_architecture
from narfx.space.architecture import Architecture
from narfx.space.sampling import sample_equal
from narfx.support.seeds import numpy_generator

MODEL = "narfx:lresnet_ir?units=2-2-2-2&width=16&embedding=128&size=32"
# As many controller steps and as many epochs of shared weights in both.
SEARCHES = {
    "nar": ["--pretrain-epochs", "0", "--steps", "20"],
    "nar-pretrain": ["--pretrain-epochs", "4", "--steps", "30"],
}


class Runner:
    """The commands of one output folder; keeps what each printed and how long it took."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.out: Path = options.out
        self.task = ["--task", "faces", "--data", str(options.faces), "--batch-size", "64"]

    def narfx(self, label: str, *arguments: str, done: Path) -> None:
        """Run one command unless ``done`` is there; a failure ends the script with its exit code."""
        if done.exists():
            return
        command = ["narfx", *arguments, "--json"]
        sys.stderr.write(f"{time.strftime('%X')} $ {shlex.join(command)}\n")
        start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
        with (self.out / f"{label}.json").open("w") as printed, (self.out / f"{label}.log").open("w") as log:
            code = subprocess.run([sys.executable, "-m", *command], stdout=printed, stderr=log, check=False).returncode
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = {
            "command": shlex.join(command),
            "code": code,
            "wall": round(time.monotonic() - start, 1),
            "cpu": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 1),
        }
        with (self.out / "commands.jsonl").open("a") as log:
            log.write(json.dumps(seconds) + "\n")
        if code:
            sys.exit(code)

    def train(self, name: str, target: str, seed: int) -> None:
        """Train one network from scratch and verify it; the recipe is the same for all."""
        place = self.out / f"{name}-{seed}"
        recipe = ["--init", "scratch"]
        for option in ("epochs", "t0", "lr"):
            recipe += [f"--{option}", str(getattr(self.options, option))]
        self.narfx(
            f"{name}-{seed}.train", "train", target, *self.task, *recipe, "--seed", str(seed), "--out", str(place),
            done=place / "metrics.json",
        )  # fmt: skip
        verdict = self.out / f"{name}-{seed}.verify.json"
        self.narfx(
            f"{name}-{seed}.evaluate", "evaluate", target, "--weights", str(place / "weights.safetensors"),
            "--data", str(self.options.pairs), "--out", str(verdict), done=verdict,
        )  # fmt: skip

    def search(self, name: str) -> Path:
        """Search from the base's weights, analyse the run, and write its architecture without them."""
        place = self.out / f"search-{name}"
        weights = self.out / "base-0" / "weights.safetensors"
        self.narfx(
            f"{name}.search", "search", MODEL, *self.task, "--weights", str(weights), "--granularity", "block",
            "--budget", self.options.budget, "--epochs", "12", "--t0", "12", "--proposals", "5",
            "--reward-images", "256", "--seed", "0", *SEARCHES[name], "--out", str(place), done=place / "arch.json",
        )  # fmt: skip
        for what in ("gradients", "rewards"):
            self.narfx(f"{name}.{what}", "analyze", what, str(place), done=place / "analysis" / f"{what}.json")
        architecture = Architecture.load(place / "arch.json")
        path = self.out / f"{name}.arch.json"
        architecture.model_copy(update={"weights": None, "metrics": {}}).save(path)
        return path

    def random(self, name: str, path: Path) -> dict[str, Path]:
        """Vectors drawn uniformly from those with the MACs of the refined network ``name``, or up to 2 % fewer."""
        architecture = Architecture.load(path)
        space = open_architecture(architecture.as_base(), seed=0).traced.space
        vector = architecture.check(space)
        drawn = sample_equal(space, vector, self.options.randoms, numpy_generator(0, "lfw", name))
        paths = {f"random-{name}-{n}": self.out / f"random-{name}-{n}.arch.json" for n in range(1, len(drawn) + 1)}
        for place, other in zip(paths.values(), drawn, strict=True):
            architecture.model_copy(update={"vector": other}).save(place)
        return paths


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def table(out: Path) -> str:
    """Every network that was verified, in Markdown; ``base`` is what differences are taken to, fold by fold."""
    lines = [
        "| network | vector | parameters | MACs | accuracy, by seed (± s.e. over folds) | mean over seeds | "
        "difference to base (± s.e. over folds) | TAR at FAR 0.1, 0.01 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    names = dict.fromkeys(path.name.rsplit("-", 1)[0] for path in sorted(out.glob("*-*.verify.json")))
    base = {seed: result["folds"] for seed, result in results(out, "base").items()}
    for name in names:
        found = results(out, name)
        trained = read(out / f"{name}-{min(found)}.train.json")
        by_seed = ", ".join(f"{r['accuracy']:.4f} ± {r['standard_error']:.4f}" for r in found.values())
        accuracies = [result["accuracy"] for result in found.values()]
        mean = f"{statistics.fmean(accuracies):.4f}"
        if len(accuracies) > 1:
            mean += f" ± {statistics.stdev(accuracies) / math.sqrt(len(accuracies)):.4f}"
        both = [seed for seed in found if seed in base]
        pairs = [[a - b for a, b in zip(found[seed]["folds"], base[seed], strict=True)] for seed in both]
        folds = [statistics.fmean(column) for column in zip(*pairs, strict=True)]
        difference = f"{statistics.fmean(folds):+.4f} ± {statistics.stdev(folds) / math.sqrt(len(folds)):.4f}"
        tar = ", ".join(f"{statistics.fmean(r['tar_at_far'][f] for r in found.values()):.3f}" for f in ("0.1", "0.01"))
        vector = "zeros" if name == "base" else f"`{trained['vector']}`"
        lines.append(
            f"| {name} | {vector} | {trained['params']:,} | {trained['macs']:,} | {by_seed} | {mean} | "
            f"{'' if name == 'base' else difference} | {tar} |"
        )
    return "\n".join(lines)


def results(out: Path, name: str) -> dict[int, Any]:
    """The verification of a network, by the seed it was trained with."""
    paths = {seed: out / f"{name}-{seed}.verify.json" for seed in range(100)}
    return {seed: read(path) for seed, path in paths.items() if path.exists()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faces", type=Path, required=True, help="what is trained on")
    parser.add_argument("--pairs", type=Path, required=True, help="what is verified on: a .bin")
    parser.add_argument("--out", type=Path, default=Path("runs/lfw"))
    parser.add_argument("--budget", default="macs<=0.7x")
    parser.add_argument("--epochs", type=int, default=15, help="of each training from scratch")
    parser.add_argument("--t0", type=int, default=5)
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--randoms", type=int, default=2, help="of the MACs of each refined network")
    parser.add_argument("--table", action="store_true", help="only print the table of what is there")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if not options.table:
        runner = Runner(options)
        runner.train("base", MODEL, 0)
        refined = {name: runner.search(name) for name in SEARCHES}
        networks = dict(refined)
        for name, path in refined.items():
            networks |= runner.random(name, path)
        for seed in range(options.seeds):
            runner.train("base", MODEL, seed)
            for name, path in networks.items():
                runner.train(name, str(path), seed)
    sys.stdout.write(table(options.out) + "\n")


if __name__ == "__main__":
    main()
