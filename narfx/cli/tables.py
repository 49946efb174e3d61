"""How a result is printed without ``--json``: tables and sentences, one function for each verb."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from narfx.cli.columns import new_table, print_files
from narfx.support.text import count

__all__ = [
    "apply", "check", "compare", "estimate", "evaluate", "ops_list", "ops_test", "proxy", "search", "solve", "trace",
    "train",
]  # fmt: skip


def _count(value: float) -> str:
    return f"{value:,.0f}"


def _millions(value: float) -> str:
    return f"{value / 1e6:,.2f} M"


def _share(value: float, base: float) -> str:
    return f"{value / base - 1:+.1%}" if base else ""


def trace(report: Mapping[str, Any], console: Console) -> None:
    """Sites, convolutions that are no sites and why, and the range of costs."""
    table = new_table("site", "slot", "kind", "channels", "stride", "output", "params", "MACs", "operators")
    for site in report["sites"]:
        table.add_row(
            site["name"],
            str(site["slot"]),
            site["kind"],
            _channels(site),
            "x".join(map(str, site.get("stride", ()))),
            "x".join(map(str, site["output_shape"])),
            "" if site["params"] is None else _count(site["params"]),
            "" if site["macs"] is None else _millions(site["macs"]),
            _candidates(site, report["operators"]),
        )
    console.print(table)
    if report["skipped"]:
        left = new_table("left as it is", "reason", title="")
        left.columns[1].justify = "left"
        for entry in report["skipped"]:
            line = Path(entry["where"])
            left.add_row(entry["name"], entry["reason"] + (f" ({line.name})" if entry["where"] else ""))
        console.print(left)
    for note in report["notes"]:
        console.print(f"note: {note}", markup=False)
    if "skips" in report:
        skips = report["skips"]
        console.print(
            f"skips: {count(len(skips['nodes']) - 1, 'node')} on the main path, "
            f"{count(skips['count'], 'possible skip')} ({len(skips['base'])} of the base), "
            f"{len(skips['impossible'])} not possible",
            markup=False,
        )
    cost = report["cost"]
    bounds = new_table("cost", "min", "base", "max", title="")
    for metric, unit in (("params", "parameters"), ("macs", "MACs")):
        bounds.add_row(unit, *(_millions(cost[key][metric]) for key in ("min", "base", "max")))
    if "latency" in report:
        bounds.add_row("latency", *(f"{cost[key]['latency']:.4g} ms" for key in ("min", "base", "max")))
    console.print(bounds)
    if "latency" in report:
        _latency(report["latency"], console)
    shape = "x".join(map(str, report["input"]))
    entries = ", ".join(f"{i} {name}" for i, name in enumerate(report["operators"]))
    if any("choices" in site for site in report["sites"]):
        entries = "those of each slot"
    console.print(
        f"\n{count(report['slots'], 'slot')} at {report['granularity']} granularity, input {shape}, "
        f"vector entries: {entries}",
        markup=False,
    )


def _channels(site: Mapping[str, Any]) -> str:
    if "in_channels" not in site:
        return f"{'+'.join(str(shape[0]) for shape in site['input_shapes'])}→{site['output_shape'][0]}"
    return f"{site['in_channels']}→{site['out_channels']}" + (f"/{site['groups']}" if site["groups"] > 1 else "")


def _candidates(site: Mapping[str, Any], operators: Sequence[str]) -> str:
    """The entries that a vector may have here, each with its name where the legend does not have it."""
    own = site.get("choices")
    entries = ((own or operators).index(name) for name in site["candidates"])
    return " ".join(str(k) if own is None else f"{k} {own[k]}" for k in entries)


def _latency(report: Mapping[str, Any], console: Console) -> None:
    """Milliseconds of each operator at each slot; if whole networks were timed, predicted and measured latency."""
    own = [slot for slot in report["slots"] if "choices" in slot]
    table = new_table("latency, ms", *report["operators"], title="")
    for slot in report["slots"]:
        if slot not in own:
            table.add_row(slot["name"], *("" if ms is None else f"{ms:.4f}" for ms in slot["milliseconds"]))
    if table.rows or not own:
        console.print(table)
    for slot in own:
        table = new_table(f"latency of {slot['name']}", "ms", title="")
        for name, ms in zip(slot["choices"], slot["milliseconds"], strict=True):
            table.add_row(name, "" if ms is None else f"{ms:.4f}")
        console.print(table)
    console.print(
        f"\ntimed with threads {report['threads']}, batch {report['batch']}, {report['provider']}, onnxruntime "
        f"{report['onnxruntime']} on {report['cpu']}; {report['measured']} measured now, {report['reused']} known",
        markup=False,
    )
    check = report["check"]
    if check is None:
        return
    table = new_table("whole network", "predicted, ms", "measured, ms", "difference", title="")
    for index, row in enumerate(check["vectors"]):
        name = f"{' '.join(map(str, row['vector']))}" if index else "base"
        difference = _share(row["predicted"], row["measured"])
        table.add_row(name, f"{row['predicted']:.4f}", f"{row['measured']:.4f}", difference)
    console.print(table)
    ranks = [check[name] for name in ("kendall_tau", "spearman")]
    tau, rho = ("undefined" if rank is None else f"{rank:.3f}" for rank in ranks)
    console.print(
        f"\n{count(len(check['vectors']) - 1, 'random vector')}: mean absolute error "
        f"{check['mean_absolute_percentage_error']:.1f} % of what was measured, "
        f"Kendall's tau {tau}, Spearman's rho {rho}",
        markup=False,
    )


def search(result: Mapping[str, Any], console: Console) -> None:
    """The chosen vector, its base, and random vectors of equal cost."""
    base, random = result["base"], result["random"]
    timed = ("latency", "latency against base") if "latency" in base else ()
    name = result["metric"].replace("_", " ")
    judged = result["judgement"]
    alone = judged["macs_alone"]
    table = new_table("on shared weights", name, "on other images", "params", "MACs", "MACs against base", *timed)
    for name, record, held in (("base", base, None), ("kept", result, judged["accuracy"])):
        accuracy = record["accuracy"]
        table.add_row(
            name,
            "not trained" if accuracy is None else f"{accuracy:.4f}",
            _accuracy(held),
            _count(record["params"]),
            _count(record["macs"]),
            _share(record["macs"], base["macs"]),
            *((f"{record['latency']:.4g} ms", _share(record["latency"], base["latency"])) if timed else ()),
        )
    if random["vectors"]:
        held = _accuracy(judged["random"]["accuracy"])
        table.add_row(f"{random['vectors']} random, mean", f"{random['mean_accuracy']:.4f}", held)
        table.add_row(f"{random['vectors']} random, best", f"{random['best_accuracy']:.4f}")
    against = _share(alone["macs"], base["macs"])
    table.add_row("MACs alone", "", _accuracy(alone["accuracy"]), "", _count(alone["macs"]), against)
    console.print(table)
    skips = f", skips {result['skips']}" if "skips" in result else ""
    console.print(f"\nstarting weights: {result['starting_weights']}", markup=False)
    console.print(f"vector {result['vector']}{skips}\n{result['verdict']}", markup=False)
    if result["below_budget"]:
        console.print(result["below_budget"]["message"], markup=False)
    if result.get("timed_whole"):  # an older version's result has none
        console.print(result["timed_whole"]["message"], markup=False)
    if "prediction" in result:
        console.print(_predicted(result["prediction"]), markup=False)
    if "front" in result:  # an older version's result has none
        found = result["front"]
        console.print(
            f"front: {count(found['points'], 'point')} over {', '.join(found['costs'])}: narfx front {result['out']}",
            markup=False,
        )
    console.print(f"next: narfx apply {result['files']['arch']} --out DIR", markup=False)


def _accuracy(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def solve(result: Mapping[str, Any], console: Console) -> None:
    """A line for each budget: what was predicted and evaluated, and what it costs."""
    base, name = result["base"], result["metric"].replace("_", " ")
    table = new_table("budget", "MACs", "against base", "params", "predicted", name, "vector")
    for point in result["points"]:
        predicted = point["predicted_accuracy"]
        table.add_row(
            point["budget"],
            _count(point["macs"]),
            _share(point["macs"], base["macs"]),
            _count(point["params"]),
            "" if predicted is None else f"{predicted:.4f}",
            f"{point['accuracy']:.4f}",
            ",".join(map(str, point["vector"])),
        )
    console.print(table)
    for note in result["notes"]:
        console.print(f"note: {note}", markup=False)
    console.print(_predicted(result["prediction"]), markup=False)
    files = list(result["files"].values()) or list(result["points"][0]["files"].values())
    console.print("files: " + ", ".join(files), markup=False)


def _predicted(quality: Mapping[str, Any] | None) -> str:
    """How far the predictions of a search can be trusted."""
    if not quality or quality.get("kendall_tau") is None:
        return "prediction: not tested"
    return (
        f"prediction: Kendall's tau {quality['kendall_tau']:.2f} on {quality['vectors']} random vectors within the "
        f"search's budget, mean error {quality['mean_error']:.3g} of {quality['mean_measured']:.3g} ({quality['by']})"
    )


def apply(report: Mapping[str, Any], console: Console) -> None:
    """Costs before and after, weights, parity, files."""
    base = report["base"]
    table = new_table("", "base", "refined", "change")
    for metric, unit in (("params", "parameters"), ("macs", "MACs")):
        table.add_row(unit, _count(base[metric]), _count(report[metric]), _share(report[metric], base[metric]))
    console.print(table)
    console.print(f"\nweights: {report['weights']}", markup=False)
    if report["source"]:
        console.print(report["source"], markup=False)
    _parity(report["parity"], console)
    print_files(report, console)


def check(report: Mapping[str, Any], console: Console) -> None:
    """Costs and parity of a bundle."""
    console.print(
        f"{report['folder']}: {_count(report['params'])} parameters, {_count(report['macs'])} MACs", markup=False
    )
    _parity(report["parity"], console)


def check_without_code(report: Mapping[str, Any], console: Console) -> None:
    """What holds of a bundle without its code, and what is not proven."""
    weights, outputs = report["weights"], report["outputs"]
    shapes = "; ".join(f"{name} {'x'.join(map(str, sizes)) or 'one value'}" for name, sizes in outputs.items())
    console.print(f"{report['folder']}: no Python of it was run", markup=False)
    console.print(
        f"proven: all {weights['equal'] + weights['fused']} tensors of model.safetensors stand in model.onnx "
        f"({weights['equal']} as they are, {weights['fused']} in layers fused with their norms); its metadata are "
        f"those of arch.json; onnxruntime runs it (outputs of one image: {shapes})",
        markup=False,
    )
    constants = sum(weights["constants"].values())
    console.print(
        f"not proven: {'; '.join(report['not_proven'])}"
        + (f"; {constants:,} values that are no weights" if constants else ""),
        markup=False,
    )


def _parity(parity: Mapping[str, Any], console: Console) -> None:
    console.print(
        f"parity {'passed' if parity['passed'] else 'FAILED'}: the largest difference is "
        f"{parity['max_rel_error']:.2e} of the largest output (tolerance {parity['tolerance']:g}), "
        f"{count(parity['samples'], 'image')} in batches of {', '.join(map(str, parity['batch_sizes']))}",
        markup=False,
    )


def train(result: Mapping[str, Any], console: Console) -> None:
    """Accuracy by part."""
    table = new_table("part", result["metric"].replace("_", " "), "loss", "images")
    for part in ("val", "test"):
        if part in result:
            found = result[part]
            table.add_row(part, f"{found['accuracy']:.4f}", f"{found['loss']:.4f}", _count(found["images"]))
    console.print(table)
    console.print(f"\nstarting weights: {result['starting_weights']}", markup=False)
    console.print(f"weights: {result['files']['weights']}", markup=False)


def estimate(result: Mapping[str, Any], console: Console) -> None:
    """What a run would take (``--dry-run``)."""
    for note in result["notes"]:
        console.print(note, markup=False)
    console.print(f"{result['message']}; nothing was written (--dry-run)", markup=False)


def compare(result: Mapping[str, Any], console: Console) -> None:
    """Base, refined and random vectors; several architectures each have the numbers of their base in their row."""
    several = len(result["architectures"]) > 1
    rows = {row["name"]: row for row in result["rows"]}
    known = {entry["network"]: entry for entry in result["architectures"]}
    bases = {entry["base"]: entry["base"] for entry in known.values()}
    scores: list[tuple[str, Callable[[Mapping[str, Any]], Mapping[str, Any]]]]
    scores = [(f"{result['part']} {result['metric'].replace('_', ' ')}", lambda record: record)]
    if "verification" in result["rows"][0]:
        scores.append(("verification", lambda record: record["verification"]))
    beside = ("base", "random, mean", "random, best") if several else ()
    measured = [column for title, _ in scores for column in (title, "± s.e.", *beside)]
    table = new_table(
        "network", *(("differs in",) if several else ()), *measured, "params", "MACs", "MACs against base"
    )
    for name, row in rows.items():
        entry = known.get(name)
        if several and entry is None and name not in bases:
            continue  # a random vector: those are in comparison.json only
        base = rows[entry["base"] if entry else bases.get(name, next(iter(bases)))]
        cells = []
        for _, of in scores:
            error = of(row)["standard_error"]
            cells += [f"{of(row)['mean']:.4f}", f"{error:.4f}" if error is not None else ""]
            if several:
                found = of(entry)["random"] if entry else {"mean": None, "best": None}
                others = (of(base)["mean"] if entry else None, found["mean"], found["best"])
                cells += ["" if value is None else f"{value:.4f}" for value in others]
        kind = [entry["kind"] if entry else ""] if several else []
        costs = (_count(row["params"]), _count(row["macs"]), _share(row["macs"], base["macs"]))
        table.add_row(name, *kind, *cells, *costs)
    console.print(table)
    console.print(f"\nstarting weights: {result['rows'][0]['starting_weights']}", markup=False)
    console.print(f"{count(result['seeds'], 'seed')}; {result['verdict']}", markup=False)


def ops_list(report: Mapping[str, Any], console: Console) -> None:
    """Operators and their costs at one site."""
    table = new_table("operator", "params", "MACs", "MACs against base", "from")
    base = report["operators"][0]
    for entry in report["operators"]:
        cost = ("", "", entry["refused"]) if entry["refused"] else (
            _count(entry["params"]), _millions(entry["macs"]), _share(entry["macs"], base["macs"])
        )  # fmt: skip
        table.add_row(entry["name"], *cost, entry["from"])
    console.print(table)
    console.print(f"\nat the site {report['site']}", markup=False)


def ops_test(report: Mapping[str, Any], console: Console) -> None:
    """Where each operator is legal, and which tests failed."""
    table = new_table("operator", "legal", "refused", "checks", "failed")
    for entry in report["operators"]:
        own = [record for record in report["checks"] if record["operator"] == entry["name"]]
        failed = sum(1 for record in own if not record["passed"])
        table.add_row(entry["name"], str(entry["legal"]), str(entry["refused"]), str(len(own)), str(failed))
    console.print(table)
    refused = [entry for entry in report["geometries"] if entry["reason"]]
    if refused:
        left = new_table("refused at", "operator", "reason", title="")
        left.columns[2].justify = "left"
        for entry in refused:
            left.add_row(entry["site"], entry["operator"], entry["reason"])
        console.print(left)
    failures = [record for record in report["checks"] if not record["passed"]]
    if failures:
        shown = new_table("failed at", "operator", "check", "what is wrong", title="")
        shown.columns[3].justify = "left"
        for record in failures:
            shown.add_row(record["site"] or "every geometry", record["operator"], record["check"], record["message"])
        console.print(shown)
    for note in report["notes"]:
        console.print(f"note: {note}", markup=False)
    console.print(f"\n{'passed' if report['passed'] else 'FAILED'}", markup=False)


def evaluate(result: Mapping[str, Any], console: Console) -> None:
    """Accuracy on classes, or verification on pairs."""
    table = new_table("", "value")
    if result["task"] == "classification":
        table.add_row("accuracy", f"{result['accuracy']:.4f}")
        table.add_row("loss", f"{result['loss']:.4f}")
        table.add_row("images", f"{_count(result['images'])} ({result['part']})")
    else:
        folds = len(result["folds"])
        table.add_row(
            f"accuracy, {count(folds, 'fold')}", f"{result['accuracy']:.4f} ± {result['standard_error']:.4f} s.e."
        )
        for far, tar in result["tar_at_far"].items():
            table.add_row(f"TAR at FAR {far}", "too few pairs" if tar is None else f"{tar:.4f}")
        table.add_row("pairs", f"{_count(result['pairs'])}, {_count(result['same'])} of one person")
    console.print(table)
    console.print(f"\n{result['target']} on {result['data']}; weights: {result['weights']}", markup=False)


def proxy(result: Mapping[str, Any], console: Console) -> None:
    """What was drawn, and the files that hold it."""
    console.print(
        f"{result['identities']} identities of {result['enough']} with enough images: {_count(result['train'])} images "
        f"to train on, {_count(result['val'])} held out, seed {result['seed']}",
        markup=False,
    )
    console.print(f"data: {result['files']['data']}, listed in {result['files']['record']}", markup=False)
