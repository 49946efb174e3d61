"""The page of ``tools/coverage.py``: what the rows say, counted, and every row."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from narfx.support.files import write_text

Row = dict[str, Any]
GROUPS = {
    "torchvision": "torchvision, classifiers",
    "segmentation": "torchvision, segmentation",
    "detection": "torchvision, detection",
    "timm": "timm",
    "other": "others, asked for by name",
}
BOUND = 10

HOW = """\
## What a row is

Each model is built without weights and goes through the compiler in a process of its own (one thread, bounded time and
memory; a process that dies is a row with a failure). Segmentation models are traced whole. Of detection models the
backbone is traced, refined and put back, and the whole model runs once with it. From timm comes the smallest
convolutional network of each family of at most 100 M parameters. A family is a module of `timm.models` and a name up to
its first digit; timm's fixtures (`test_*`) are left out. A network counts as convolutional if at least half of its
parameters outside the classifier belong to convolutions, one of which is wider than its stride (so that it is no patch
stem). Many hybrids of convolution and attention meet this rule; ViT and Swin do not.

- **Fresh networks hide errors.** Every parameter whose entries are all equal (zero biases, layer scales, skip gains) is
  drawn anew. BatchNorm gets random affines (`randomise_norms` of `narfx.bundle.proof.parity`), and as statistics those
  of 16 random images (`recalibrate` of `narfx.graph.batchnorm`), the variance times 2, 1.5, 1.25, 1.1 or 1: the largest
  factor with which two images still differ in a hundredth of the output. Deep random networks are chaotic otherwise
  (float32 itself is then further than 1e-5 from float64), or their output does not depend on the image at all and any
  parity holds.
- **px**: the side of the images, the smallest of 64, 128, 224, 256, 320 and its own default that the model accepts.
- **trace**: `whole`, or how many submodules stay opaque (they are named below). **exact**: the traced graph computes
  the eager model's output bit for bit (`torch.equal`, eval mode, four random images).
- **sites, slots**: what may be refined with the default operators; `nothing` where narfx refuses with
  `nothing_to_refine` (only depthwise, 1x1 and first convolutions, or none). Such a network is traced and compared too.
- **base**: the supernet at the all-zero vector equals the eager model bit for bit. **keys**: the all-zero network,
  lowered, has the model's state-dict keys.
- **lowered**: one uniformly drawn legal vector, lowered, computes bit for bit what the supernet set to it computes.
- **ONNX**: that network (its BatchNorm randomised again) in onnxruntime at batches of 1, 2 and 5: the largest
  difference over the largest value of the output, at most 1e-5. Where there is nothing to refine, the traced network.
  `not tried`: the export was left out; why, stands below.
- **graph**: processor time of trace, space, supernet and lowering over that of `torch.fx.symbolic_trace`, of the same
  model on the meta device, where tensors have shapes and no values: the work on the graph. Same process, medians of up
  to five rounds (one where a round takes more than a second); nothing where `symbolic_trace` fails or a layer looks at
  values. **weights**: the same with the weights, of which trace, supernet and lowered network each hold a copy, and
  from which the other operators are started; `symbolic_trace` copies nothing."""


def write_page(path: Path, rows: Iterable[Row]) -> None:
    """Write the page of the latest row of each model, whole or not at all."""
    latest = {row["model"]: row for row in rows if "model" in row}
    groups = {
        title: sorted((row for row in latest.values() if row["group"] == group), key=lambda row: str(row["model"]))
        for group, title in GROUPS.items()
    }
    groups = {title: members for title, members in groups.items() if members}
    write_text(path, "\n".join(_page(groups)) + "\n")


def _page(groups: dict[str, list[Row]]) -> Iterator[str]:
    everything = [row for members in groups.values() for row in members]
    yield "# Coverage\n"
    yield "Which published networks the compiler takes, and at what cost. `make coverage` writes this page.\n"
    versions = sorted({", ".join(f"{k} {v}" for k, v in row["environment"].items()) for row in everything})
    yield ".\n".join(versions) + ".\n"
    yield from _table(["", *groups], _summary(list(groups.values())))
    yield "\n" + HOW + "\n"
    yield "## What failed\n"
    failed = [[_name(row), *failure] for row in everything for failure in failures(row)]
    yield from _table(["model", "at", "code", "reason"], failed) if failed else ["Nothing."]
    untried = _untried(everything)
    if untried:
        yield "\n## What was not exported to ONNX\n"
        yield "Of these networks nothing is known about their export; the summary counts them as not tried.\n"
        yield from _table(["why", "models"], untried)
    opaque = [[_name(row), ", ".join(f"`{name}`" for name in row["opaque"])] for row in everything if row.get("opaque")]
    if opaque:
        yield "\n## What stays opaque\n"
        yield from _table(["model", "submodules (the first of each class)"], opaque)
    head = [
        "model",
        "M params",
        "px",
        "trace",
        "exact",
        "sites, slots",
        "base",
        "keys",
        "lowered",
        "ONNX",
        "graph",
        "weights",
    ]
    for title, members in groups.items():
        yield f"\n## {title[0].upper()}{title[1:]}\n"
        yield from _table(head, map(_cells, members))


def failures(row: Row) -> list[tuple[str, str, str]]:
    """Where, reason code and sentence of each promise that a row breaks."""
    found = []
    if "failure" in row:
        found.append((row["stage"], row["failure"]["code"], row["failure"]["reason"]))
    for key, stage, sentence in (
        ("exact", "trace", "the trace computes something else than the model"),
        ("base_equal", "supernet", "the supernet at the base vector computes something else than the model"),
        ("lowered_equal", "lower", "the lowered network computes something else than the supernet"),
        ("detects", "detect", "the detection model with the refined backbone gives no detections"),
    ):
        if row.get(key) is False:
            found.append((stage, "differs", sentence))
    if row.get("keys"):
        keys = row["keys"]
        shown = ", ".join(keys[:2]) + (", ..." if len(keys) > 2 else "")
        found.append(("lower", "keys", f"{len(keys)} state-dict keys are only in one of base and network: {shown}"))
    if row.get("onnx") is False:
        problem = row["onnx_problem"]
        found.append(("onnx", problem["code"], f"{problem['reason']}; {_base_export(row)}"))
    return found


def _tried(row: Row) -> bool:
    """Whether the export was begun; a process that died or ran out of time in it has tried."""
    return "onnx" in row or str(row["stage"]).startswith("onnx")


def _untried(rows: Iterable[Row]) -> list[list[str]]:
    """Each reason why an export was not begun, with its models; what failed before is no choice of the survey's."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row.get("traced") and not _tried(row) and "failure" not in row:
            why = row.get("onnx_left_out", "left out when the survey was run (--no-onnx), no reason given")
            reasons.setdefault(why, []).append(_name(row))
    return [[why, f"{len(models)}: {', '.join(models)}"] for why, models in sorted(reasons.items())]


def _base_export(row: Row) -> str:
    if "base_onnx" not in row:
        return "of the base nothing is known"
    rounding = row.get("rounding")
    aside = f"; float32 itself is {rounding:.1e} from float64 here" if rounding is not None else ""
    if row["base_onnx"]:
        return f"the base exports (error {row['base_error']:.1e}){aside}"
    if "base_problem" in row:
        return f"the base does not export either ({row['base_problem']}){aside}"
    error = row["base_error"]
    return f"the base exports, with an error of {'infinity' if error is None else f'{error:.1e}'}{aside}"


def _summary(groups: Sequence[Sequence[Row]]) -> Iterator[list[str]]:
    """The claims, each counted over the rows that it is about."""

    def line(name: str, holds: Callable[[Row], Any], about: Callable[[Row], Any] = lambda row: True) -> list[str]:
        cells = []
        for rows in groups:
            of = [row for row in rows if about(row)]
            cells.append(f"{sum(bool(holds(row)) for row in of)} of {len(of)}" if of else "")
        return [name, *cells]

    def refinable(row: Row) -> bool:
        return bool(row.get("sites"))

    yield line("traced", lambda row: row.get("traced"))
    yield line("traced without an opaque part", lambda row: not row["opaque"], lambda row: row.get("traced"))
    yield line("trace exact", lambda row: row.get("exact"), lambda row: row.get("traced"))
    yield line("something to refine", refinable, lambda row: row.get("traced"))
    yield line("... supernet at zero bit-identical to the base", lambda row: row.get("base_equal"), refinable)
    yield line("... random sub-network lowered, bit-identical", lambda row: row.get("lowered_equal"), refinable)
    yield line("state-dict keys equal", lambda row: row.get("keys") == [], lambda row: row.get("traced"))
    yield line("ONNX tried", _tried, lambda row: row.get("traced"))
    yield line("... parity 1e-5 of those tried", lambda row: row.get("onnx"), _tried)
    yield line(
        "... of those whose base exports",
        lambda row: row.get("onnx"),
        lambda row: row.get("onnx") or row.get("base_onnx"),
    )
    yield line("whole model runs with the refined backbone", lambda row: row["detects"], lambda row: "detects" in row)
    for key, what in (("graph_ratio", "graph work"), ("ratio", "with the weights")):
        known, within = partial(_ratio, key, None), partial(_ratio, key, BOUND)
        yield line(f"{what}: at most {BOUND} times symbolic_trace", within, known)
        ratios = [[row[key] for row in rows if row.get(key)] for rows in groups]
        yield [
            "... median, worst",
            *(f"{statistics.median(found):.1f}, {max(found):.1f}" if found else "" for found in ratios),
        ]


def _ratio(key: str, bound: float | None, row: Row) -> bool:
    """Whether a row has this ratio, and within the bound where there is one."""
    return bool(row.get(key)) and (bound is None or row[key] <= bound)


def _cells(row: Row) -> list[str]:
    yes = {True: "yes", False: "**no**", None: ""}
    trace = {True: "whole", None: "**no**"}[row.get("traced")]
    sites = "nothing" if "nothing" in row else f"{row['sites']}, {row['slots']}" if "sites" in row else ""
    error, keys = row.get("onnx_error"), row.get("keys")
    untried = "not tried" if row.get("traced") else ""
    onnx = f"{error:.1e}" if row.get("onnx") else "**no**" if _tried(row) else untried
    return [
        _name(row),
        f"{row['params'] / 1e6:.1f}" if "params" in row else "",
        str(row.get("side", "")),
        f"{len(row['opaque'])} opaque" if row.get("opaque") else trace,
        yes[row.get("exact")],
        sites,
        yes[row.get("base_equal")],
        yes[None if keys is None else not keys],
        yes[row.get("lowered_equal")],
        onnx,
        *("" if row.get(key) is None else f"{row[key]:.1f}" for key in ("graph_ratio", "ratio")),
    ]


def _name(row: Row) -> str:
    return str(row["model"]).removeprefix("torchvision:").removeprefix("timm:")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in row) + " |"
