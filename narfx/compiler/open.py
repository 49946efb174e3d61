"""From what a user names (a model reference, an ``arch.json``, a file of weights) to networks ready to work on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, fx, nn

from narfx.compiler.front_end import trace
from narfx.compiler.lowering import lower
from narfx.compiler.supernet import Supernet
from narfx.compiler.traced import Traced
from narfx.errors import UsageError
from narfx.graph.trace_parity import compare_trace
from narfx.inputs.image_size import Images, choose_input
from narfx.inputs.model_ref import load_model
from narfx.inputs.outputs import load_with_outputs
from narfx.inputs.paths import find
from narfx.inputs.reference import ModelRef
from narfx.inputs.trust import out_of
from narfx.inputs.weights import Checkpoint, apply_weights, load_state, open_weights
from narfx.space.architecture import Architecture, SpaceOptions
from narfx.space.records import Vector
from narfx.support.path_fields import ModelReference, UserPath
from narfx.support.text import count

__all__ = ["Lowered", "NetworkOptions", "base_start", "open_architecture", "open_base"]


class NetworkOptions(SpaceOptions):
    """Which model, and what of it may be refined; the fields are those of an ``arch.json``."""

    model: ModelReference
    weights: UserPath | None = None
    input: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Lowered:
    """The network of an architecture, where its weights come from in words, and the trace of its base."""

    network: fx.GraphModule
    traced: Traced
    weights: str


def base_start(model: str, weights: str | None) -> str:
    """Which weights a base has, in words: those of a file, or the model's own."""
    if weights is not None:
        return f"{Path(weights).name}: the base's"
    return f"none given: the base as {ModelRef.parse(model).plain} builds it"


def open_base(
    options: NetworkOptions,
    *,
    relative_to: Path | None = None,
    seed: int = 0,
    outputs: int | None = None,
    images: Images | None = None,
) -> Traced:
    """Build the model that the options name, load its weights where they name any, and trace it.

    With ``outputs`` the model is given so many of them; a note of the trace says how. ``images`` are those that the
    network gets, which decide its input where the options do not (:mod:`narfx.inputs.image_size`).

    Raises:
        UsageError: The model, its weights or an option is wrong.
        NothingToRefineError: No site of the model has a choice.
        ParityError: The trace does not compute what the model computes.
    """
    note, loaded = "", None
    model = load_model(options.model, relative_to=relative_to, seed=seed)
    shape, origin = options.input, None
    if shape is None:
        shape, origin = choose_input(options.model, model, images, relative_to=relative_to)
    if outputs is not None:
        model, note = load_with_outputs(options.model, outputs, shape, relative_to=relative_to, seed=seed)
    if options.weights is not None:
        loaded = apply_weights(model, find(options.weights, relative_to), source=options.weights)
    fields = options.of_space()
    fields["operator_files"] = [str(find(file, relative_to)) for file in options.operator_files]
    with out_of(relative_to):
        traced = trace(model, input=shape, reference=options.model, **fields)
    further = [*([origin] if origin else []), *compare_trace(model, traced.graph_module, shape)]
    further += [note] if note else []
    further += [f"weights {options.weights}: {loaded}"] if loaded else []
    # Like the model, its files of operators stay named as they were: from the folder of what names them.
    kept = traced.options.model_copy(update={"operator_files": options.operator_files})
    return replace(traced, options=kept, notes=(*traced.notes, *further))


def open_architecture(
    architecture: Architecture,
    *,
    relative_to: Path | None = None,
    weights: str | None = None,
    seed: int = 0,
    images: Images | None = None,
) -> Lowered:
    """The lowered network of an architecture; ``images`` are as for :func:`open_base`.

    ``weights`` (else those that the architecture names) may have the keys of the base, from which the other operators
    are then started, or the keys of the lowered network.

    Raises:
        UsageError: The architecture does not fit the model, or the weights fit neither network.
    """
    options = NetworkOptions(model=architecture.model, input=architecture.input, **architecture.of_space())
    try:
        traced = open_base(options, relative_to=relative_to, seed=seed, images=images)
    except UsageError as error:
        if error.kind != "unknown_input":
            raise
        raise UsageError(
            f"the size of the images is not known, because {architecture.model} does not state it: add "
            '"input": [channels, height, width] to the arch.json',
            where="input",
            kind=error.kind,
        ) from error
    vector = architecture.check(traced.space)
    started = sum(1 for entry in traced.space.split(vector)[0] if entry)
    candidates = f"; operators at {count(started, 'slot')} warm-started, not trained" if started else ""
    changed = sum(1 for entry in vector if entry) - started
    if changed:
        candidates += f"; {count(changed, 'skip')} other than the base's, not trained"
    if weights is None and architecture.weights is None:
        network = _lowered(traced, vector)
        return Lowered(network, traced, f"{base_start(architecture.model, None)}{candidates}")
    path = Path(weights) if weights is not None else find(str(architecture.weights), relative_to)
    file = open_weights(path)
    network = _lowered(traced, vector)
    # The base's own vector has the base's keys: then the trace takes the weights, for what else is made of it.
    if any(vector) and (done := _load(network, file)) is not None:
        alike = network.state_dict().keys() == traced.graph_module.state_dict().keys()  # where only skips differ
        whose = "the lowered network's, or the base's, whose keys are the same" if alike else "the lowered network's"
        return Lowered(network, traced, f"{path.name}{done}: {whose}")
    base = traced.graph_module
    done = _load(base, file)
    if done is None:
        # The base as its author wrote it may have keys that the trace does not use.
        model = load_model(architecture.model, relative_to=relative_to, seed=seed)
        done = _load(model, file)
        if done is None:
            raise _neither(model.state_dict(), network.state_dict(), file.entries[0].state, path)
        used = model.state_dict()
        load_state(base, {key: used[key] for key in base.state_dict()}, source=str(path))
    return Lowered(_lowered(traced, vector), traced, f"{path.name}{done}: the base's{candidates}")


def _lowered(traced: Traced, vector: Vector) -> fx.GraphModule:
    """The network of one vector; no other operator of the space is built for it."""
    only = traced.space.restrict({index: [entry] for index, entry in enumerate(vector)})
    return lower(Supernet(traced, space=only), vector)


def _load(network: nn.Module, file: Checkpoint) -> str | None:
    """Load the first entry that fits; a note in brackets on what was done, ``None`` if no entry fits."""
    try:
        done = file.load(network)
    except UsageError as error:
        if error.kind == "weights_mismatch":
            return None
        raise
    return f" ({done})" if done else ""


def _neither(base: dict[str, Tensor], lowered: dict[str, Tensor], state: dict[str, Tensor], path: Path) -> UsageError:
    def faults(own: dict[str, Tensor]) -> list[str]:
        missing = [f"{key} is missing" for key in own if key not in state and not key.endswith("num_batches_tracked")]
        extra = [f"{key} is unknown" for key in state if key not in own]
        shapes = [f"{key} has another shape" for key in state if key in own and own[key].shape != state[key].shape]
        return missing + extra + shapes or ["the kind of number"]

    def told(found: list[str]) -> str:
        return f"{count(len(found), 'key')} differ{'s' if len(found) == 1 else ''}: {found[0]}"

    return UsageError(
        f"the weights in {path} fit neither the base ({told(faults(base))}) nor the lowered network "
        f"({told(faults(lowered))}): use weights that were saved from one of them",
        where=str(path),
        kind="weights_mismatch",
    )
