"""Train architectures, their bases and random vectors of equal cost by one recipe, and compare them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from narfx.compiler.outline import network_record
from narfx.data.digests import data_digest
from narfx.inputs.paths import find, split_name
from narfx.inputs.weights import write_weights
from narfx.runs.events import Trained
from narfx.runs.finished import finished_result, tell_trained
from narfx.runs.folder import RunFolder
from narfx.runs.interruption import interruptible
from narfx.runs.origin import check_reads, resumed_config
from narfx.runs.progress import Reporter, Silent
from narfx.runs.tensorboard import FOLDER, check_tensorboard, follow, write_tensorboard
from narfx.search.supernet_file import SUPERNET
from narfx.support.collectives import broadcast
from narfx.support.ranks import Ranks
from narfx.support.seals import digest, file_digest, read_sealed, write_sealed
from narfx.support.text import count
from narfx.tasks.task import Task
from narfx.training.about import about
from narfx.training.estimate import Estimate, duration, training_seconds
from narfx.training.fit import fit
from narfx.training.initialise import random_start, reinitialise
from narfx.training.method import method_facts
from narfx.training.same_inputs import check_same_inputs
from narfx.verbs.compare_rows import beside, spread_of, verdict
from narfx.verbs.comparison import CompareConfig, Comparison, prepare
from narfx.verbs.contenders import Contender, Entrant, labels
from narfx.verbs.face_pairs import judge_pairs
from narfx.verbs.front_points import named_targets
from narfx.verbs.start import check_out, create_run, reads_of

__all__ = ["CompareConfig", "compare", "estimate_compare", "resume_compare"]

_RESULT = "comparison.json"


def compare(
    config: CompareConfig,
    out: Path | str,
    *,
    device: str = "auto",
    overwrite: bool = False,
    reporter: Reporter | None = None,
    relative_to: Path | None = None,
    tensorboard: bool = False,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Train each architecture, its base and random vectors of equal cost, all over the same seeds.

    The random vectors are uniform over those whose MACs, and what else the search's budget bounded, are at most 2 %
    below the architecture's; with a skip domain operators and skips are drawn together. A base that several
    architectures share is trained once. Writes ``comparison.json``; an interrupted comparison resumes at the network
    and the epoch where it stopped. With ``tensorboard`` the run gets scalars as well, a folder for each network
    (:mod:`narfx.runs.tensorboard`). Several ``ranks`` share each batch of each training; rank 0 alone writes, and has a
    result.

    Returns:
        ``{"rows": [{"name", "vector", "params", "macs", "starting_weights", "accuracies", "mean", "standard_error"}],
        "part", "metric", "architectures": [{"name", "kind", "network", "base", "random", ...}], "verdict"}``; see
        :func:`~narfx.verbs.compare_rows.beside`. The accuracy is on the test
        part where the data have one, else on the validation part. With pairs to verify on, rows also have
        ``"verification"`` with the accuracies of the verification.

    Raises:
        UsageError: A target, the data or an option is wrong; ``out`` is not touched.
        RunError: The loss became NaN or the machine ran out of memory or disk; the last checkpoint is kept.
        InterruptedRunError: Ctrl-C.
    """
    ranks = ranks or Ranks()
    check_tensorboard(tensorboard)
    config = _with_names(config, relative_to)
    check_out(config, Path(out), relative_to, overwrite=overwrite)
    comparison = prepare(config, device=device, relative_to=relative_to, ranks=ranks)
    reads = _reads(comparison, relative_to)
    check_same_inputs(ranks, config, reads)
    records = [network_record(each.traced, each.label, each.vector, model=each.model) for each in comparison.contenders]
    known = about(records, next(iter(comparison.tasks.values())), comparison.device)
    folder = create_run(
        config, Path(out), comparison.targets, relative_to, overwrite=overwrite, reads=reads, about=known, ranks=ranks
    )
    return _run(comparison, folder, reporter or Silent(), tensorboard=tensorboard)


def estimate_compare(
    config: CompareConfig, *, device: str = "auto", relative_to: Path | None = None, ranks: Ranks | None = None
) -> dict[str, Any]:
    """Check a comparison and measure how long it will take, each network at the speed of its base; nothing is written.

    It is measured on one process, and is for these ``ranks``.

    Returns:
        ``{"dry_run": True, "estimate": {"seconds", "networks", "seeds", "trainings", "epochs", "training_steps"},
        "message", "notes"}``; errors as for ``compare``.
    """
    comparison = prepare(_with_names(config, relative_to), device=device, relative_to=relative_to, ranks=ranks)
    networks = list({entrant.key: entrant for entrant in _entrants(comparison)}.values())
    bases: dict[str, float] = {}
    for contender, size in zip(comparison.contenders, comparison.sizes, strict=True):
        if contender.base_of not in bases:
            task = comparison.tasks[contender.traced.input]
            task.check(size)
            base = Entrant("base", contender, contender.traced.space.base).network().to(comparison.device)
            bases[contender.base_of] = training_seconds(base, task, config, comparison.method, ranks)
    seconds = config.seeds * sum(bases[entrant.contender.base_of] for entrant in networks)
    steps = config.epochs * sum(comparison.tasks[each.contender.traced.input].steps_per_epoch for each in networks)
    text = (
        f"compare: {count(len(networks), 'network')}, {count(config.seeds, 'seed')}, so "
        f"{count(config.seeds * len(networks), 'training')} of {count(config.epochs, 'epoch')}; about "
        f"{duration(seconds)} at the speed of the base just measured"
    )
    numbers = {
        "networks": len(networks),
        "seeds": config.seeds,
        "trainings": config.seeds * len(networks),
        "epochs": config.epochs,
        "training_steps": config.seeds * steps,
    }
    return Estimate(text, seconds, numbers, comparison.notes).shared(ranks or Ranks()).to_json()


def resume_compare(
    out: Path | str,
    *,
    device: str = "auto",
    previous: bool = False,
    reporter: Reporter | None = None,
    tensorboard: bool = False,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Resume the comparison in ``out``; arguments and errors as for ``compare``.

    With ``previous`` the network that was being trained goes on from the checkpoint before its last. What the run
    began with and reads must not have changed. The result of a finished comparison is read from its file.
    """
    ranks = ranks or Ranks()
    check_tensorboard(tensorboard)
    folder, reporter = RunFolder.open(Path(out), previous=previous, ranks=ranks), reporter or Silent()
    folder.check_seen()
    config = resumed_config(folder.path, CompareConfig)
    shown = reporter if ranks.first else Silent()
    if (found := finished_result(folder, _RESULT, shown, extends=False)) is not None:
        if tensorboard and ranks.first:
            write_tensorboard(folder.path)
        return {**found, "files": {"comparison": str(folder.path / _RESULT)}}
    comparison = prepare(config, device=device, relative_to=folder.path, ranks=ranks)
    reads = _reads(comparison, folder.path)
    check_reads(folder.path, reads)
    check_same_inputs(ranks, config, reads)
    return _run(comparison, folder, reporter, tensorboard=tensorboard)


def _reads(comparison: Comparison, start: Path | None) -> dict[str, str]:
    traced = [contender.traced.graph_module for contender in comparison.contenders]
    found = reads_of(comparison.config, start, comparison.targets, traced, comparison.tasks.values())
    if comparison.config.init == "prepared":
        found["the prepared operators"] = file_digest(find(str(comparison.config.prepared), start) / SUPERNET)
    if comparison.verified is not None:
        pairs, _ = comparison.verified
        order = [part.tobytes() for part in (pairs.first, pairs.second, pairs.same)]
        found["the pairs of --verify"] = digest([data_digest((), [pairs.images]), *order])
    return found


def _with_names(config: CompareConfig, start: Path | None) -> CompareConfig:
    """The configuration with names and paths apart; a single architecture without a name is ``refined``.

    The points of a front have their numbers for names.
    """
    split = [split_name(text, start) for text in (config.target, *config.further)]
    targets, paths = named_targets(split, start, config.points), [path for _, path in split]
    if not config.names and (len(targets) > 1 or targets[0][0] is not None):
        names = labels([path for _, path, _ in targets], [name for name, _, _ in targets])
        config = config.model_copy(update={"names": names})
    if config.init == "prepared" and config.prepared is None:
        config = config.model_copy(update={"prepared": str(find(paths[0], start).parent)})
    return config.model_copy(update={"target": paths[0], "further": tuple(paths[1:])})


def _run(comparison: Comparison, folder: RunFolder, reporter: Reporter, *, tensorboard: bool) -> dict[str, Any]:
    """Train what is not trained yet, and write the table."""
    tasks = list(comparison.tasks.values())
    part = "test" if all(task.data.test is not None for task in tasks) else "val"
    rows: dict[str, dict[str, Any]] = {}
    places: dict[tuple[Any, ...], str] = {}
    tensorboard = tensorboard and folder.ranks.first
    reporter = reporter if folder.ranks.first else Silent()
    if tensorboard:
        follow(folder)
    with folder, interruptible(folder, resumable=True):
        folder.check_seen()
        for note in comparison.notes:
            reporter.say(note)
        for entrant in _entrants(comparison):
            place = f"runs/{places.setdefault(entrant.key, entrant.folder)}"
            rows[entrant.name] = _row(comparison, entrant, place, part, folder, reporter, tensorboard=tensorboard)
        if not folder.ranks.first:
            return {}
        found = [_entry(comparison, contender, rows, part) for contender in comparison.contenders]
        result = {
            "part": part,
            "metric": tasks[0].metric,
            "seeds": comparison.config.seeds,
            "rows": list(rows.values()),
            "architectures": found,
            "verdict": "\n".join(entry["verdict"] for entry in found),
            **method_facts(comparison.config),
        }
        write_sealed(folder.path / _RESULT, result)
    return {**result, "files": {"comparison": str(folder.out / _RESULT)}}


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
    randoms = [rows[name] for name in _randoms(comparison, contender)]
    return {
        "name": contender.label,
        "kind": contender.kind,
        "model": contender.model,
        "input": list(contender.traced.input),
        "equal": list(contender.equal),
        **beside(own, base, randoms),
        "verdict": verdict(contender.label, own, randoms, contender.equal, part),
    }


def _row(
    comparison: Comparison, entrant: Entrant, place: str, part: str, folder: RunFolder, reporter: Reporter, *,
    tensorboard: bool,
) -> dict[str, Any]:  # fmt: skip
    """One network over all seeds."""
    space, config = entrant.contender.traced.space, comparison.config
    trained = [
        _metrics(comparison, entrant, _part(folder, f"{place}-{seed}", tensorboard=tensorboard), seed, folder, reporter)
        for seed in range(config.seed, config.seed + config.seeds)
    ]
    row = {
        "name": entrant.name,
        **space.describe(entrant.vector),
        **{metric: int(value) for metric, value in space.cost(entrant.vector).items()},
        "starting_weights": _starting_weights(comparison, entrant),
        **spread_of([metrics[part]["accuracy"] for metrics in trained]),
    }
    if comparison.verified is not None:
        row["verification"] = spread_of([metrics["verification"]["accuracy"] for metrics in trained])
    return row


def _part(folder: RunFolder, place: str, *, tensorboard: bool) -> RunFolder:
    """The run of one network with one seed, whose scalars lie beside those of the others."""
    part = folder.part(place)
    if tensorboard:
        follow(part, f"{FOLDER}/{Path(place).name}", of=folder)
    return part


def _starting_weights(comparison: Comparison, entrant: Entrant) -> str:
    config = comparison.config
    if config.init != "scratch":
        return entrant.contender.weights
    return random_start(config.seed, config.seeds)


def _metrics(
    comparison: Comparison, entrant: Entrant, place: RunFolder, seed: int, folder: RunFolder, reporter: Reporter
) -> dict[str, Any]:
    """Train one network with one seed, in a run directory of its own; a finished one is only read."""
    done = folder.ranks.first and (place.path / "metrics.json").is_file()
    if broadcast(folder.ranks, done):
        cure = f"delete the folder {place.path}, and this network is trained again"
        known = read_sealed(place.path / "metrics.json", cure) if folder.ranks.first else {}
        if folder.ranks.first and place.path.name == f"{entrant.folder}-{seed}":  # else another trained it
            _tell(folder, place, entrant, seed, known)
        return dict(broadcast(folder.ranks, known))
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
        folder=place,
        reporter=reporter,
        label=label,
        trained=config.init != "scratch",
        objective=comparison.teachers[comparison.contenders.index(contender)],
        method=comparison.method,
        ranks=folder.ranks,
    )
    if comparison.verified is not None:
        verified = {}
        if folder.ranks.first:
            verified = _verification(comparison, contender, network, task, label, reporter)
        metrics["verification"] = broadcast(folder.ranks, verified)
    if not folder.ranks.first:
        return metrics
    write_weights(network, place.path / "weights.safetensors")
    write_sealed(place.path / "metrics.json", metrics)
    _tell(folder, place, entrant, seed, metrics)
    return metrics


def _tell(folder: RunFolder, place: RunFolder, entrant: Entrant, seed: int, metrics: Mapping[str, Any]) -> None:
    """Write the event of a finished training, unless it is there."""
    values = {**entrant.contender.traced.space.describe(entrant.vector), **metrics}
    tell_trained(folder, place, Trained(name=entrant.name, seed=seed, more=values))


def _verification(
    comparison: Comparison, contender: Contender, network: nn.Module, task: Task, label: str, reporter: Reporter
) -> dict[str, Any]:
    assert comparison.verified is not None
    verified = judge_pairs(
        partial(task.precision.exact.apply, network),
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
