"""Which published networks the compiler takes, and at what cost: one row a model, and a page made of the rows.

    OMP_NUM_THREADS=1 python tools/coverage.py --out coverage.jsonl --page docs/coverage.md
    python tools/coverage.py --out coverage.jsonl --models timm:resnet18 --no-onnx "its export takes an hour"

Each model runs in a process of its own with bounded time and memory, so a crash gives a row and the survey continues.
Rows are appended to the file as they come; models that have a row there are not run again, so the same command
continues a stopped survey. No weights are downloaded.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import re
import resource
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from coverage_page import write_page
from coverage_survey import Row, examine
from torch import nn

import narfx
from narfx.support.text import first_line

GROUPS = ("torchvision", "segmentation", "detection", "timm")
MOST_PARAMETERS = 100_000_000
PRELOAD = ["torch", "torchvision", "timm", "narfx", "narfx.bundle.onnx.write", "onnx", "onnxruntime"]


def torchvision_models(group: str) -> dict[str, int]:
    """The models of a group of torchvision, with the number of parameters that their published weights have."""
    from torchvision import models

    module = models if group == "torchvision" else getattr(models, group)
    sizes = {}
    for name in models.list_models(module=module):
        weights = next(iter(models.get_model_weights(name)), None)
        sizes[f"torchvision:{name}"] = weights.meta["num_params"] if weights is not None else 0
    return sizes


def timm_models() -> dict[str, int]:
    """The smallest convolutional network of each family of timm, with its number of parameters.

    A family is a module of ``timm.models`` and a name up to its first digit. A network counts as convolutional if at
    least half of its parameters outside the classifier belong to convolutions, and a convolution that is no patch
    stem (its kernel is larger than its stride) is among them. Built on the meta device: no memory, no weights.
    """
    import timm

    smallest: dict[tuple[str, str], tuple[int, str]] = {}
    for name in timm.list_models(exclude_filters="test_*"):  # timm's own fixtures
        size = convolutional_size(name)
        if size is not None and size <= MOST_PARAMETERS:
            family = (timm.model_entrypoint(name).__module__, re.split(r"\d", name, maxsplit=1)[0])
            smallest[family] = min(smallest.get(family, (size, f"timm:{name}")), (size, f"timm:{name}"))
    return {name: size for size, name in smallest.values()}


def convolutional_size(name: str) -> int | None:
    """The number of parameters of a timm model, ``None`` where it is not convolutional."""
    import timm

    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        try:
            model = timm.create_model(name)
        except Exception:  # its constructor looks at values
            with torch.device("cpu"):
                model = timm.create_model(name)
    total = parameters([model])
    head: Any = model.get_classifier() if hasattr(model, "get_classifier") else None  # type: ignore[operator, unused-ignore]
    heads = [part for part in (head if isinstance(head, (tuple, list)) else [head]) if isinstance(part, nn.Module)]
    body = total - parameters(heads)
    convolutions = [part for part in model.modules() if isinstance(part, nn.modules.conv._ConvNd)]
    wide = any(max(part.kernel_size) > max(part.stride) for part in convolutions)
    inside = parameters(part for part in convolutions if part not in heads)
    return total if wide and 2 * inside >= body else None


def parameters(parts: Iterable[nn.Module]) -> int:
    """How many parameters modules have together, shared ones once."""
    return sum({id(p): p.numel() for part in parts for p in part.parameters()}.values())


def worker(model: str, group: str, onnx: bool, memory: float, send: Connection) -> None:
    """The process of one model: it sends the findings of each step, and at the end the error, if any."""
    limit = int(memory * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    try:
        for part in examine(model, group, onnx=onnx):
            send.send(part)
    except BaseException as error:
        code = getattr(error, "kind", None) or type(error).__name__
        if isinstance(error, MemoryError) or "allocate memory" in str(error):
            code = "memory"
        send.send({"failure": {"code": code, "reason": first_line(error), "where": where(error)}})


def where(error: BaseException) -> str:
    """File and line of what was raised, and of the last line of narfx on the way there."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if f"{Path(narfx.__file__).parent}" in frame.filename]
    shown = dict.fromkeys(f"{'/'.join(Path(f.filename).parts[-2:])}:{f.lineno}" for f in (*own[-1:], *frames[-1:]))
    return ", ".join(shown)


def survey(model: str, group: str, onnx: bool, limit: float, memory: float) -> Row:
    """One model's row; if its process runs too long or dies, the row has the results up to then."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=worker, args=(model, group, onnx, memory, send))
    process.start()
    send.close()
    row: Row = {"model": model, "group": group, "onnx_asked": onnx, "stage": "start"}
    start = time.monotonic()
    try:
        while receive.poll(max(limit - (time.monotonic() - start), 0)):
            row |= receive.recv()
        row["failure"] = {"code": "timeout", "reason": f"it took more than {limit:g} seconds"}
        process.kill()
    except EOFError:
        process.join()
        if row.get("stage") != "done" and "failure" not in row:
            row["failure"] = {"code": "crash", "reason": f"its process ended with code {process.exitcode}"}
    process.join()
    return row | {"wall_seconds": round(time.monotonic() - start, 1)}


def read_rows(path: Path) -> list[Row]:
    """The rows of a file; a last line that was cut off by a kill is dropped."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows


def append(path: Path, row: Row) -> None:
    """Append one row to the file."""
    text = path.read_text() if path.exists() else ""
    with path.open("a") as stream:
        stream.write(("" if not text or text.endswith("\n") else "\n") + json.dumps(row, allow_nan=False) + "\n")


def chosen(groups: Sequence[str], out: Path) -> list[tuple[str, str]]:
    """The models of groups, smallest first, with their groups; kept in the file, because timm's takes minutes."""
    kept = {row["selection"]: row["models"] for row in read_rows(out) if "selection" in row}
    sizes: list[tuple[int, str, str]] = []
    for group in groups:
        if group not in kept:
            kept[group] = timm_models() if group == "timm" else torchvision_models(group)
            append(out, {"selection": group, "models": kept[group]})
        sizes += [(size, model, group) for model, size in kept[group].items()]
    return [(model, group) for _, model, group in sorted(sizes)]


def group_of(model: str) -> str:
    """The group of a model that was asked for by name."""
    zoo = model.partition(":")[0]
    if zoo == "torchvision":
        return next((group for group in ("segmentation", "detection") if model in torchvision_models(group)), zoo)
    return "timm" if zoo == "timm" else "other"


def environment() -> dict[str, str]:
    """The versions that a row may depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": sys.version.split()[0]}
    for package in ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnxruntime"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Which published networks the compiler takes, and at what cost.")
    parser.add_argument("--out", type=Path, required=True, help="a file of rows in JSON; models that it holds are done")
    parser.add_argument("--group", action="append", choices=GROUPS, help="a collection, may be repeated (all)")
    parser.add_argument("--models", nargs="+", default=[], metavar="ZOO:NAME", help="these models only")
    parser.add_argument("--limit", type=int, help="stop after so many models")
    parser.add_argument(
        "--no-onnx",
        nargs="?",
        const="asked for without it, because it takes most of the time",
        metavar="WHY",
        help="leave out the ONNX export, which takes most of the time; the page says why",
    )
    parser.add_argument("--again", action="store_true", help="run models that have failed once more")
    parser.add_argument("--seconds", type=float, default=900, help="the most that one model may take")
    parser.add_argument("--memory", type=float, default=12, help="the most that one model may take, in GiB")
    parser.add_argument("--page", type=Path, help="write this page from the rows, in Markdown")
    options = parser.parse_args(arguments)
    for path in (options.out, options.page):
        if path is not None and not path.absolute().parent.is_dir():
            parser.error(f"there is no folder {path.absolute().parent} for {path.name}")
    rows: dict[str, Row] = {row["model"]: row for row in read_rows(options.out) if "model" in row}
    onnx = options.no_onnx is None
    left_out = {} if onnx else {"onnx_left_out": options.no_onnx}
    done = {
        name for name, row in rows.items()
        if row["onnx_asked"] >= onnx and not (options.again and row["stage"] != "done")
    }  # fmt: skip
    named = [(model, group_of(model)) for model in options.models]
    models = named or chosen(options.group or GROUPS, options.out)
    count = 0
    for model, group in models if options.limit != 0 else ():
        if model in done:
            continue
        row = survey(model, group, onnx, options.seconds, options.memory) | left_out | {"environment": environment()}
        append(options.out, row)
        failure: dict[str, Any] = row.get("failure") or {"code": "ok", "reason": ""}
        print(f"{model}: {failure['code']} {failure['reason']}"[:160], file=sys.stderr, flush=True)
        count += 1
        if count == options.limit:
            break
    if options.page:
        write_page(options.page, read_rows(options.out))
    return 0


if __name__ == "__main__":
    sys.exit(main())
