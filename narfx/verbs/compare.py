"""Train architectures, their bases and random vectors of equal cost by one recipe, and compare them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from narfx.inputs.paths import find, split_name
from narfx.inputs.weights import write_weights
from narfx.runs.events import Trained
from narfx.runs.folder import RunFolder, interruptible
from narfx.runs.progress import Reporter, Silent
from narfx.support.files import read_json, write_json
from narfx.support.schema import validated
from narfx.tasks.task import Task
from narfx.training.fit import fit
from narfx.training.initialise import reinitialise
from narfx.verbs.compare_rows import beside, spread_of, verdict
from narfx.verbs.comparison import CompareConfig, Comparison, prepare
from narfx.verbs.contenders import Contender, Entrant, labels
from narfx.verbs.face_pairs import judge_pairs
from narfx.verbs.start import create_run

__all__ = ["CompareConfig", "compare", "resume_compare"]


def compare(
    config: CompareConfig,
    out: Path | str,
    *,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter | None = None,
    relative_to: Path | None = None,
) -> dict[str, Any]:
    """Train each architecture, its base and random vectors of equal MACs, all over the same seeds.

    The random vectors are uniform over those whose MACs are at most 2 % below the architecture's; with a skip domain
    operators and skips are drawn together. A base that several architectures share is trained once. Writes
    ``comparison.json``; an interrupted comparison resumes at the network and the epoch where it stopped.

    Returns:
        ``{"rows": [{"name", "vector", "params", "macs", "accuracies", "mean", "standard_error"}], "part", "metric",
        "architectures": [{"name", "kind", "network", "base", "random", ...}], "verdict"}``; the accuracy is on the test
        part where the data have one, else on the validation part. With pairs to verify on, rows also have
        ``"verification"`` with the accuracies of the verification.

    Raises:
        UsageError: A target, the data or an option is wrong; ``out`` is not touched.
        RunError: The loss became NaN or the machine ran out of memory or disk; the last checkpoint is kept.
        InterruptedRunError: Ctrl-C.
    """
    config = _with_names(config, relative_to)
    if config.init == "prepared" and config.prepared is None:
        config = config.model_copy(update={"prepared": str(find(config.target, None).parent)})
    comparison = prepare(config, device=device, relative_to=relative_to)
    folder = create_run(config, Path(out), comparison.targets, relative_to, overwrite=overwrite)
    return _run(comparison, folder, reporter or Silent())


def resume_compare(out: Path | str, *, device: str = "auto", reporter: Reporter | None = None) -> dict[str, Any]:
    """Resume the comparison in ``out``; arguments and errors as for ``compare``."""
    folder = RunFolder.open(Path(out))
    config = validated(CompareConfig, folder.config(), str(folder.path / "config.json"))
    return _run(prepare(config, device=device, relative_to=folder.path), folder, reporter or Silent())


def _with_names(config: CompareConfig, start: Path | None) -> CompareConfig:
    """The configuration with names and paths apart; a single architecture without a name is ``refined``."""
    split = [split_name(text, start) for text in (config.target, *config.further)]
    names, paths = [name for name, _ in split], [path for _, path in split]
    if not config.names and (len(paths) > 1 or names[0] is not None):
        config = config.model_copy(update={"names": labels([find(path, start) for path in paths], names)})
    return config.model_copy(update={"target": paths[0], "further": tuple(paths[1:])})


def _run(comparison: Comparison, folder: RunFolder, reporter: Reporter) -> dict[str, Any]:
    """Train what is not trained yet, and write the table."""
    tasks = list(comparison.tasks.values())
    part = "test" if all(task.data.test is not None for task in tasks) else "val"
    rows: dict[str, dict[str, Any]] = {}
    places: dict[tuple[Any, ...], str] = {}
    with folder, interruptible(folder, resumable=True):
        for note in comparison.notes:
            reporter.say(note)
        for entrant in _entrants(comparison):
            place = folder.path / "runs" / places.setdefault(entrant.key, entrant.folder)
            rows[entrant.name] = _row(comparison, entrant, place, part, folder, reporter)
        found = [_entry(comparison, contender, rows, part) for contender in comparison.contenders]
        result = {
            "part": part,
            "metric": tasks[0].metric,
            "seeds": comparison.config.seeds,
            "rows": list(rows.values()),
            "architectures": found,
            "verdict": "\n".join(entry["verdict"] for entry in found),
        }
        write_json(folder.path / "comparison.json", result)
    return {**result, "files": {"comparison": str(folder.path / "comparison.json")}}


def _entrants(comparison: Comparison) -> list[Entrant]:
    """Bases, each once, then the architectures, then their random vectors, one architecture after another."""
    contenders = comparison.contenders
    first = {contender.base_of: contender for contender in reversed(contenders)}
    return [
        *(
            Entrant(_base(comparison, contender), contender, contender.traced.space.base)
            for contender in contenders
            if first[contender.base_of] is contender
        ),
        *(Entrant(contender.label, contender, contender.vector) for contender in contenders),
        *(
            Entrant(name, contender, vector)
            for contender in contenders
            for name, vector in zip(_randoms(comparison, contender), contender.randoms, strict=True)
        ),
    ]


def _base(comparison: Comparison, contender: Contender) -> str:
    """The name of the base's row; where there are several bases it names the first architecture of this one."""
    bases = {other.base_of for other in comparison.contenders}
    first = next(other for other in comparison.contenders if other.base_of == contender.base_of)
    return "base" if len(bases) == 1 else f"base of {first.label}"


def _randoms(comparison: Comparison, contender: Contender) -> list[str]:
    """The names of the rows of a contender's random vectors."""
    head = f"{contender.label} " if comparison.config.names else ""
    return [f"{head}random {index + 1}" for index in range(len(contender.randoms))]


def _entry(comparison: Comparison, contender: Contender, rows: dict[str, dict[str, Any]], part: str) -> dict[str, Any]:
    """One architecture beside its base and its random vectors, with the verdict."""
    own, base = rows[contender.label], rows[_base(comparison, contender)]
    entry = {
        "name": contender.label,
        "kind": contender.kind,
        "model": contender.model,
        "input": list(contender.traced.input),
        **beside(own, base, [rows[name] for name in _randoms(comparison, contender)]),
    }
    return {**entry, "verdict": verdict(contender.label, own["mean"], entry["random"], part)}


def _row(
    comparison: Comparison, entrant: Entrant, place: Path, part: str, folder: RunFolder, reporter: Reporter
) -> dict[str, Any]:
    """One network over all seeds."""
    space, config = entrant.contender.traced.space, comparison.config
    trained = [
        _metrics(comparison, entrant, place.with_name(f"{place.name}-{seed}"), seed, folder, reporter)
        for seed in range(config.seed, config.seed + config.seeds)
    ]
    row = {
        "name": entrant.name,
        **space.describe(entrant.vector),
        **{metric: int(value) for metric, value in space.cost(entrant.vector).items()},
        **spread_of([metrics[part]["accuracy"] for metrics in trained]),
    }
    if comparison.verified is not None:
        row["verification"] = spread_of([metrics["verification"]["accuracy"] for metrics in trained])
    return row


def _metrics(
    comparison: Comparison, entrant: Entrant, place: Path, seed: int, folder: RunFolder, reporter: Reporter
) -> dict[str, Any]:
    """Train one network with one seed, in a run directory of its own; a finished one is only read."""
    if (place / "metrics.json").is_file():
        found: dict[str, Any] = read_json(place / "metrics.json")
        return found
    place.mkdir(parents=True, exist_ok=True)
    contender, config = entrant.contender, comparison.config
    task = comparison.tasks[contender.traced.input]
    task.check(comparison.sizes[comparison.contenders.index(contender)])  # networks of one task may differ in outputs
    network = entrant.network()
    if config.init == "scratch":
        reinitialise(network, seed)
    network.to(comparison.device)
    label = f"{entrant.name}, seed {seed}"
    metrics = fit(
        network,
        task,
        config,
        seed=seed,
        folder=RunFolder(place),
        reporter=reporter,
        label=label,
        trained=config.init != "scratch",
        objective=comparison.teachers[comparison.contenders.index(contender)],
    )
    if comparison.verified is not None:
        metrics["verification"] = _verification(comparison, contender, network, task, label, reporter)
    write_weights(network, place / "weights.safetensors")
    write_json(place / "metrics.json", metrics)
    (place / "checkpoint.pt").unlink(missing_ok=True)
    values = {**contender.traced.space.describe(entrant.vector), **metrics}
    folder.write(Trained(name=entrant.name, seed=seed, more=values))
    return metrics


def _verification(
    comparison: Comparison, contender: Contender, network: nn.Module, task: Task, label: str, reporter: Reporter
) -> dict[str, Any]:
    assert comparison.verified is not None
    verified = judge_pairs(
        partial(task.precision.apply, network),
        *comparison.verified,
        contender.traced.input,
        mean=task.data.mean,
        std=task.data.std,
        batch_size=comparison.config.batch_size,
        device=comparison.device,
        reporter=reporter,
    )
    reporter.say(f"{label}: verification {verified.accuracy:.4f} ± {verified.standard_error:.4f}")
    return verified.to_json()
