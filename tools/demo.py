"""The main job from end to end on scikit-learn's digits: train, search, retrain, lower, export, prove, compare.

usage: demo.py [--out demo] [--seed 0]
Each step is one command of narfx, printed as it would be typed; the steps share one process only to save its start.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from narfx.cli.app import app
from narfx.cli.console import run_app
from narfx.latency.timing import measure_latency

MODEL = "narfx:resnet_digits"
BASE_RECIPE = ["--epochs", "15", "--t0", "5", "--lr", "0.1"]
# A pass over the digits has ten steps only, so that the operators need more of them than on a larger set.
SEARCH = {"solve": ["--pretrain-epochs", "8", "--epochs", "10"]}
REWARDS = ["--epochs", "20", "--pretrain-epochs", "5", "--steps", "20", "--reward-images", "143", "--t0", "20"]
TUNE_RECIPE = ["--epochs", "15", "--t0", "5", "--lr", "0.05"]


def narfx(*arguments: str) -> None:
    """Run one command; a failure ends the demo with its exit code."""
    sys.stderr.write(f"\n$ narfx {' '.join(arguments)}\n")
    code = run_app(app, list(arguments))
    if code:
        sys.exit(code)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def bundle(out: Path, row: dict[str, Any], seed: int) -> dict[str, Any]:
    """Apply one vector of the comparison with the weights that its first seed trained; returns the report."""
    name = row["name"].replace(" ", "-")
    architecture = read(out / "search" / "arch.json") | {"vector": row["vector"], "weights": None}
    for key in ("metrics", "digest"):
        architecture.pop(key, None)
    (out / "vectors").mkdir(exist_ok=True)
    path = out / "vectors" / f"{name}.json"
    path.write_text(json.dumps({key: value for key, value in architecture.items() if value is not None}))
    weights = out / "compare" / "runs" / f"{name}-{seed}" / "weights.safetensors"
    narfx("apply", str(path), "--weights", str(weights), "--out", str(out / "bundles" / name), "--quiet")
    report: dict[str, Any] = read(out / "bundles" / name / "report.json")
    return report


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strategy", default="solve")
    options = parser.parse_args()
    out, seed = options.out, str(options.seed)
    started = time.monotonic()
    shutil.rmtree(out, ignore_errors=True)
    weights = str(out / "base" / "weights.safetensors")

    narfx("trace", MODEL)
    narfx(
        "train",
        MODEL,
        "--data",
        "digits",
        "--init",
        "scratch",
        *BASE_RECIPE,
        "--seed",
        seed,
        "--out",
        str(out / "base"),
    )
    narfx(
        "search", MODEL, "--weights", weights, "--data", "digits", "--strategy", options.strategy,
        "--budget", "macs<=0.35x", *SEARCH.get(options.strategy, REWARDS), "--seed", seed, "--out", str(out / "search"),
    )  # fmt: skip
    arch = str(out / "search" / "arch.json")
    narfx(
        "compare", arch, "--weights", weights, "--init", "inherit", "--data", "digits", *TUNE_RECIPE, "--seeds", "2",
        "--seed", seed, "--out", str(out / "compare"),
    )  # fmt: skip
    comparison = read(out / "compare" / "comparison.json")
    reports = {row["name"]: bundle(out, row, options.seed) for row in comparison["rows"]}
    narfx("check", str(out / "bundles" / "refined"))

    files = {name: out / "bundles" / name.replace(" ", "-") / "model.onnx" for name in reports}
    latency = measure_latency(files, (1, 8, 8), rounds=500)
    table = Table(box=None, pad_edge=False, title_justify="left")
    columns = ("digits", "test accuracy", "± s.e.", "parameters", "MACs", "latency", "parity")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right")
    for row in comparison["rows"]:
        name, parity = row["name"], reports[row["name"]]["parity"]
        table.add_row(
            name,
            f"{row['mean']:.4f}",
            f"{row['standard_error']:.4f}",
            f"{row['params']:,}",
            f"{row['macs']:,}",
            f"{latency[name].milliseconds / latency['base'].milliseconds:.2f}x",
            f"{parity['max_rel_error']:.1e} {'ok' if parity['passed'] else 'FAILED'}",
        )
    console = Console(highlight=False)
    console.print()
    console.print(table)
    used = latency["base"]
    console.print(
        f"\n{comparison['verdict']}\n"
        "digits are easy, and one test image is 0.0028: vectors of equal cost differ by little here\n"
        f"latency against the base's: {used.provider} of onnxruntime, batch {used.batch}, "
        f"{used.threads} thread; parity: the largest difference from PyTorch over the largest output\n"
        f"the refined network: {out / 'bundles' / 'refined'} (model.py, model.safetensors, model.onnx)\n"
        f"{time.monotonic() - started:.0f} s in all",
        markup=False,
    )


if __name__ == "__main__":
    main()
