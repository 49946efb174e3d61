"""The bundle that ``apply`` writes, and ``check``, which proves it again from its files alone.

A bundle holds ``arch.json``, ``model.py`` (readable source; it imports only torch if the graph holds only torch
modules), ``model.safetensors``, ``model.onnx`` and ``report.json``. Source, weights and ONNX file load without narfx.
Operator files are copied to ``operators/``. If ``model.py`` cannot be written, the file of the base model is copied to
``base/``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import fx, nn

from narfx.bundle.onnx.metadata import compare_metadata, describe, versions
from narfx.bundle.onnx.write import OnnxFile, read_onnx, translate
from narfx.bundle.proof.parity import Reference
from narfx.bundle.proof.proof import Proof
from narfx.bundle.proof.stored import compare_stored, output_shapes
from narfx.bundle.source import SOURCE, WEIGHTS, load_source, plain_copy, write_source
from narfx.compiler.open import Lowered, open_architecture
from narfx.errors import ParityError, UsageError
from narfx.graph.batch import lost_axis
from narfx.graph.checks import check_finite
from narfx.graph.cost import measure, shapes_and_cost
from narfx.inputs.arguments import check_graph
from narfx.inputs.paths import named_paths, relocated
from narfx.inputs.trust import digest_of, remember
from narfx.inputs.vendor import carry_model, carry_operators
from narfx.inputs.weights import apply_weights, read_weights, write_weights
from narfx.space.architecture import Architecture
from narfx.support.collector import collector_paused
from narfx.support.files import check_regular, read_json, write_json
from narfx.support.folders import check_output, check_replaceable, output_folder, refuse_inside, replace_folder

__all__ = ["apply", "check", "export"]

ARCH, ONNX, REPORT = "arch.json", "model.onnx", "report.json"
_FILES = {"arch": ARCH, "source": SOURCE, "weights": WEIGHTS, "onnx": ONNX, "report": REPORT}


@collector_paused()
def apply(
    architecture: Architecture | Path | str,
    folder: Path | str,
    *,
    weights: str | None = None,
    relative_to: Path | None = None,
    overwrite: bool = False,
    opset: int | None = None,
    input_name: str = "input",
    output_names: Sequence[str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Lower an architecture, write its bundle and prove the ONNX file.

    Args:
        architecture: An :class:`Architecture`, or the path of an ``arch.json`` (relative paths in it start at its
            folder).
        folder: The folder to write.
        weights: A file with a state dict that has the keys of the base or of the lowered network.
        relative_to: The folder at which relative paths of an ``Architecture`` object start.
        overwrite: Whether to replace a folder that is not empty.
        opset: The ONNX opset, at least 13; default: the one that torch's exporter writes.
        input_name: The name of the ONNX file's input.
        output_names: The names of its outputs; default: see :func:`narfx.bundle.onnx.names.output_names`.
        seed: Seed of the initial weights if the model is built without weights.

    Returns:
        The report: parameters and MACs before and after, the origin of the weights, parity, and the files.

    Raises:
        UsageError: The architecture, its model, the weights or the folder is wrong; nothing was written.
        ParityError: The ONNX file does not compute what the network computes; the bundle is in ``FOLDER.failed``.
    """
    folder, given = Path(folder), list[Path]()
    if not isinstance(architecture, Architecture):
        relative_to, given = Path(architecture).parent, [Path(architecture)]
        architecture = Architecture.load(architecture)
    check_output(folder, overwrite=overwrite)
    inputs = [*named_paths(architecture, relative_to), *([Path(weights)] if weights is not None else []), *given]
    check_replaceable(folder, inputs)
    refuse_inside(_failed(folder), inputs)
    lowered = open_architecture(architecture, relative_to=relative_to, weights=weights, seed=seed)
    traced = lowered.traced
    if architecture.preprocessing is not None:
        architecture.preprocessing.check_channels(traced.input[0], str(given[0]) if given else architecture.model)
    complete = traced.architecture(
        architecture.check(traced.space),
        weights=WEIGHTS,
        # Metrics measured with other weights do not hold for these.
        metrics=architecture.metrics if weights is None else {},
        preprocessing=architecture.preprocessing,
        seed=architecture.seed,
    )
    moved = relocated(architecture, folder, start=relative_to)
    complete = complete.model_copy(update={"model": moved.model, "operator_files": moved.operator_files})
    return export(
        lowered.network,
        folder,
        architecture=complete,
        lowered=lowered,
        overwrite=overwrite,
        opset=opset,
        input_name=input_name,
        output_names=output_names,
    )


@collector_paused()
def export(
    network: fx.GraphModule,
    folder: Path | str,
    *,
    input: tuple[int, int, int] | None = None,
    architecture: Architecture | None = None,
    lowered: Lowered | None = None,
    overwrite: bool = False,
    opset: int | None = None,
    input_name: str = "input",
    output_names: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Write the bundle of a lowered network and prove its ONNX file.

    The network itself is not changed. A copy is written: on the CPU, in eval mode, and in float32 for every
    floating-point type. torch's exporter runs once. The file's outputs are compared at three batch sizes, then each of
    its nodes alone on random values. The nodes of a second file from the same export, with random BatchNorm
    statistics, are compared too, because fresh statistics would hide a wrong fusion.

    Args:
        network: A lowered network, as :func:`narfx.lower` returns it.
        folder: The folder to write.
        input: (channels, height, width) of one sample; default: the architecture's, or the traced input shape.
        architecture: Written to ``arch.json`` and into the metadata of the ONNX file.
        lowered: The record of the lowering, from which the report takes the base's cost and the origin of the weights.
        overwrite: Whether to replace a folder that is not empty.
        opset: See :func:`apply`.
        input_name: See :func:`apply`.
        output_names: See :func:`apply`.

    Returns:
        The report, as :func:`apply` returns it.

    Raises:
        UsageError: ``network`` is not a GraphModule, the input shape is not known, a weight is complex, quantised or
            not finite, a name or the opset is not possible, or the folder may not be written. Nothing was written.
        ParityError: See :func:`apply`; its ``where`` is the first node that differs.
    """
    check_graph(network)
    folder = Path(folder)
    shape = input or (architecture.input if architecture is not None else None) or network.meta.get("input_shape")
    if shape is None:
        raise UsageError(
            "the input shape is not known: give export the shape of one sample, input=(channels, height, width)",
            kind="input_shape",
        )
    check_output(folder, overwrite=overwrite)
    check_replaceable(folder)
    network = plain_copy(network)
    check_finite(network)
    cost = measure(network, shape)
    failure: ParityError | None = None
    reference = Reference(network, shape)
    proof = Proof()
    source_note: str | None = None
    with output_folder(folder, overwrite=overwrite) as work:
        try:
            write_weights(network, work / WEIGHTS)
            source_note = write_source(network, work / SOURCE, architecture, shape, reference)
            architecture = _carry(architecture, folder, work) if architecture is not None else None
            translation = translate(
                network, shape, opset=opset, input_name=input_name, output_names=output_names, reference=reference
            )
            proof.file = translation.write(work / ONNX, describe(architecture, shape))
            proof.add(reference, work / ONNX)
            proof.add_nodes(reference, work / ONNX, just_written=True)
            proof.add_random_norms(reference, work / ONNX, translation)
            if not proof.passed:
                failure = _explained(proof.error("the ONNX file", str(folder)), network, shape)
        except ParityError as error:
            failure, proof.parity = error, None
        if architecture is not None:
            architecture.model_copy(update={"metrics": {**architecture.metrics, **cost}}).save(work / ARCH)
        files = {key: name for key, name in _FILES.items() if (work / name).exists() or name == REPORT}
        report: dict[str, Any] = {
            **cost,
            "base": dict(lowered.traced.cost) if lowered is not None else None,
            **(architecture.describe() if architecture is not None else {"vector": None}),
            "weights": lowered.weights if lowered is not None else "the network's own",
            **(proof.file.to_json() if proof.file is not None else {}),
            "parity": proof.to_json(),
            "source": source_note,
            "versions": versions(),
        }
        if proof.difference is not None:
            report["difference"] = proof.difference.to_json()
        write_json(work / REPORT, {**report, "input": list(shape), "files": files})
        if failure is not None:
            kept = _set_aside(work, folder)
            said = str(failure).replace(f"{work}{os.sep}", "")  # the folder in which it was made is gone
            where = None if failure.where is None else failure.where.replace(str(work), str(_failed(folder)))
            raise ParityError(f"{said}; {kept}", where=where, kind=failure.kind)
    if "source" in files:  # whoever wrote a bundle may check it without --trust
        remember(digest_of((folder / SOURCE).read_bytes()), str(folder / SOURCE))
    return {**report, "files": {key: str(folder / name) for key, name in files.items()}}


def _failed(folder: Path) -> Path:
    """Where a bundle that fails its proof is put."""
    return folder.with_name(f"{folder.name}.failed")


def _set_aside(work: Path, folder: Path) -> str:
    """Move a bundle that failed its proof next to ``folder``, over a bundle of narfx's; returns where it is."""
    target = _failed(folder)
    try:
        check_output(target, overwrite=True)
        check_replaceable(target)
    except UsageError as error:
        return f"the bundle is not kept ({error})"
    replace_folder(work, target)
    return f"the bundle is in {target}"


def _explained(error: ParityError, network: fx.GraphModule, shape: tuple[int, int, int]) -> ParityError:
    """The error with its cause, where torch itself gives another shape for one image than for several."""
    lost = lost_axis(network, shapes_and_cost(network, shape), shape)
    return ParityError(f"{lost} ({error})", where=error.where, kind=error.kind) if lost else error


def _carry(architecture: Architecture, folder: Path, work: Path) -> Architecture:
    """Copy the user's files into the bundle: operator files and, if there is no ``model.py``, the base's file."""
    files = carry_operators(architecture.operator_files, folder, work)
    model = architecture.model if (work / SOURCE).exists() else carry_model(architecture.model, folder, work)
    return architecture.model_copy(update={"operator_files": files, "model": model})


def check(folder: Path | str, *, seed: int = 0, code: bool = True) -> dict[str, Any]:
    """Prove a bundle again from its files: costs, metadata, the ONNX checker, and parity at three batch sizes.

    Without ``code`` nothing of the bundle is run but its ONNX file: the file is compared with the weights and the
    metadata, and onnxruntime runs it. What its nodes compute with the weights is then not proven.

    Args:
        folder: The bundle.
        seed: Seed of the random images.
        code: Whether the network may be built from the bundle's Python.

    Returns:
        The architecture, opset and names of the ONNX file, the folder, and costs and parity; without ``code``
        ``"weights"``, ``"outputs"`` and ``"not_proven"`` instead of costs and parity.

    Raises:
        UsageError: A file of the bundle is missing or malformed, or its code may not run.
        ParityError: The files do not belong together, or the ONNX file computes other values; in the second case
            ``where`` is the first node that differs.
    """
    folder = Path(folder)
    architecture, shape = _open(folder)
    file = read_onnx(folder / ONNX)
    compare_metadata(file.metadata, architecture, folder / ONNX)
    _compare_report(file, folder)
    found = _prove(folder, architecture, shape, file, seed) if code else _compare(folder, shape, seed)
    return {**found, **architecture.describe(), **file.to_json(), "folder": str(folder)}


def _open(folder: Path) -> tuple[Architecture, tuple[int, int, int]]:
    """The architecture of a bundle and the input that it states, after a look for the other files."""
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}: check the path", where=str(folder), kind="missing_folder")
    for name in (ARCH, WEIGHTS, ONNX):
        if not (folder / name).is_file():
            raise UsageError(
                f"{folder} is not a bundle: it has no {name}; narfx apply writes bundles",
                where=str(folder / name),
                kind="missing_file",
            )
    for path in folder.rglob("*"):  # an ONNX file may name any of them for its weights, and a pipe would never end
        if not path.is_dir():
            check_regular(path, f"there is no file {path}: check the path")
    architecture = Architecture.load(folder / ARCH)
    if architecture.input is None:
        raise UsageError(
            f'{folder / ARCH} has no input shape: add "input": [channels, height, width]',
            where=str(folder / ARCH),
            kind="input_shape",
        )
    return architecture, architecture.input


def _prove(
    folder: Path, architecture: Architecture, shape: tuple[int, int, int], file: OnnxFile, seed: int
) -> dict[str, Any]:
    """Build the network and compare its costs and values with the files."""
    network: nn.Module
    if (folder / SOURCE).is_file():
        network = load_source(folder, architecture)
        apply_weights(network, folder / WEIGHTS)
    else:
        network = open_architecture(architecture, relative_to=folder).network
    network.eval()
    cost = measure(network, shape)
    for metric, number in cost.items():
        if architecture.metrics.get(metric, number) != number:
            raise ParityError(
                f"{folder / ARCH} says {architecture.metrics[metric]} {metric}, but the network has {number}: write "
                "the bundle again with narfx apply",
                where=str(folder / ARCH),
                kind="cost",
            )
    proof = Proof(file)
    reference = Reference(network, shape, seed=seed)
    proof.add(reference, folder / ONNX)
    proof.add_nodes(reference, folder / ONNX)
    if not proof.passed:
        raise proof.error(str(folder / ONNX), str(folder / ONNX))
    return {**cost, "parity": proof.to_json()}


def _compare(folder: Path, shape: tuple[int, int, int], seed: int) -> dict[str, Any]:
    """Compare the ONNX file with the weights, and run it."""
    stored = compare_stored(folder / ONNX, read_weights(folder / WEIGHTS)[0])
    return {
        "weights": stored.to_json(),
        "outputs": output_shapes(folder / ONNX, shape, seed=seed),
        "not_proven": ["that its nodes compute what model.py or the base model computes", "the costs in arch.json"],
    }


def _compare_report(file: OnnxFile, folder: Path) -> None:
    """Check that ``report.json``, if there is one, describes this ONNX file."""
    if not (folder / REPORT).is_file():
        return
    report = read_json(folder / REPORT)
    said = report if isinstance(report, dict) else {}
    for key, value in file.to_json().items():
        if said.get(key, value) != value:
            raise ParityError(
                f"{folder / REPORT} says {key} {said[key]}, but {folder / ONNX} has {value}: write the bundle again "
                "with narfx apply",
                where=str(folder / ONNX),
                kind="metadata",
            )
